/* The lexer of the IR's text form. Never aborts; every complaint has a place. */
#include "ir/lex.h"

#include "base/strbuf.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

Lexer lexer_make(Arena *arena, Diag *diag, uint32_t file, const char *text, size_t n_bytes)
{
    return (Lexer){
        .arena = arena, .diag = diag, .at = text, .end = text + n_bytes, .line_start = text, .file = file, .line = 1};
}

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static char peek(const Lexer *lexer, size_t i)
{
    return i < (size_t)(lexer->end - lexer->at) ? lexer->at[i] : 0;
}

static Span span_from(const Lexer *lexer, const char *start)
{
    return (Span){.file = lexer->file,
                  .line = lexer->line,
                  .col = (uint32_t)(start - lexer->line_start) + 1,
                  .n_cols = (uint32_t)(lexer->at - start)};
}

static Token bad(Lexer *lexer, const char *start, const char *why)
{
    Token token = {.kind = TOK_BAD, .span = span_from(lexer, start)};
    diag_error(lexer->diag, token.span, "%s", why);
    return token;
}

static int hex_digit(char c)
{
    return is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* After a backslash at `at`: the byte that is meant, 0 when the escape is unknown. */
static char unescape(Lexer *lexer)
{
    char c = peek(lexer, 1);
    if (c == '\n')
        return 0;
    lexer->at += 2;
    if (c == 'x' && hex_digit(peek(lexer, 0)) >= 0 && hex_digit(peek(lexer, 1)) >= 0)
    {
        lexer->at += 2;
        return (char)(hex_digit(lexer->at[-2]) * 16 + hex_digit(lexer->at[-1]));
    }
    return c == 'n' ? '\n' : c == 't' ? '\t' : c == '"' || c == '\\' ? c : 0;
}

/* `at` is behind the opening quote; start is where the token began. */
static Token lex_string(Lexer *lexer, const char *start, TokenKind kind)
{
    StrBuf buf = strbuf_make(lexer->arena);
    while (lexer->at < lexer->end && *lexer->at != '"')
    {
        char c = *lexer->at;
        if (c == '\\' && lexer->at + 1 < lexer->end)
        {
            const char *escape = lexer->at;
            c = unescape(lexer);
            if (!c)
                return bad(lexer, escape, "unknown escape; known are \\\" \\\\ \\n \\t and \\xNN from \\x01 on");
        }
        else if ((unsigned char)c < 0x20)
            break;
        else
            lexer->at++;
        strbuf_add_bytes(&buf, &c, 1);
    }
    if (peek(lexer, 0) != '"')
        return bad(lexer, start, "the string does not end on its line");
    lexer->at++;
    return (Token){.kind = kind, .str = strbuf_text(&buf), .span = span_from(lexer, start)};
}

static Token lex_number(Lexer *lexer, const char *start)
{
    bool is_int = true;
    while (is_name_char(peek(lexer, 0)) ||
           ((peek(lexer, 0) == '-' || peek(lexer, 0) == '+') && (lexer->at == start || strchr("eE", lexer->at[-1]))))
    {
        is_int = is_int && (is_digit(*lexer->at) || lexer->at == start);
        lexer->at++;
    }
    const char *text = arena_strndup(lexer->arena, start, (size_t)(lexer->at - start));
    Token token = {.kind = is_int ? TOK_INT : TOK_FLOAT, .span = span_from(lexer, start)};
    if (strcmp(text, "-inf") == 0)
        token.f = -INFINITY;
    else if (!is_digit(text[*text == '-']) || strpbrk(text, "xXnpP")) /* no hexadecimal floats, no -nan */
        return bad(lexer, start, "bad number");
    else
    {
        char *stop;
        errno = 0;
        if (is_int)
            token.i = strtoll(text, &stop, 10);
        else
            token.f = strtod(text, &stop);
        if (*stop)
            return bad(lexer, start, "bad number");
        if (errno == ERANGE && (is_int || isinf(token.f)))
            return bad(lexer, start, "the number is out of range");
    }
    return token;
}

static Token lex_name(Lexer *lexer, const char *start)
{
    while (is_name_char(peek(lexer, 0)))
        lexer->at++;
    Token token = {.kind = TOK_NAME};
    if (peek(lexer, 0) == '[')
    {
        token.kind = TOK_TYPE;
        while (lexer->at < lexer->end && *lexer->at != ']' && *lexer->at != '\n')
            lexer->at++;
        if (peek(lexer, 0) != ']')
            return bad(lexer, start, "']' is missing");
        lexer->at++;
    }
    token.str = arena_strndup(lexer->arena, start, (size_t)(lexer->at - start));
    token.span = span_from(lexer, start);
    if (strcmp(token.str, "inf") == 0 || strcmp(token.str, "nan") == 0)
    {
        token.kind = TOK_FLOAT;
        token.f = token.str[0] == 'i' ? INFINITY : NAN;
    }
    return token;
}

static Token lex_value(Lexer *lexer, const char *start)
{
    lexer->at++;
    int64_t number = 0;
    while (is_digit(peek(lexer, 0)))
    {
        if (number <= UINT32_MAX)
            number = number * 10 + (*lexer->at - '0');
        lexer->at++;
    }
    if (lexer->at - start < 2)
        return bad(lexer, start, "'%' needs a number");
    return (Token){.kind = TOK_VALUE, .i = number, .span = span_from(lexer, start)};
}

static Token lex_func(Lexer *lexer, const char *start)
{
    lexer->at++;
    if (peek(lexer, 0) == '"')
    {
        lexer->at++;
        return lex_string(lexer, start, TOK_FUNC);
    }
    while (is_name_char(peek(lexer, 0)) || peek(lexer, 0) == '-')
        lexer->at++;
    if (lexer->at - start < 2)
        return bad(lexer, start, "'@' needs a name");
    return (Token){.kind = TOK_FUNC,
                   .str = arena_strndup(lexer->arena, start + 1, (size_t)(lexer->at - start) - 1),
                   .span = span_from(lexer, start)};
}

Token lexer_next(Lexer *lexer)
{
    while (peek(lexer, 0) == ' ' || peek(lexer, 0) == '\t' || peek(lexer, 0) == '\r')
        lexer->at++;
    if (peek(lexer, 0) == '/' && peek(lexer, 1) == '/')
        lexer_skip_line(lexer);
    const char *start = lexer->at;
    if (lexer->at == lexer->end)
        return (Token){.kind = TOK_END, .span = span_from(lexer, start)};
    char c = *start;
    if (c == '\n')
    {
        Token token = {.kind = TOK_NEWLINE, .span = span_from(lexer, start)};
        lexer->line_start = ++lexer->at;
        lexer->line++;
        return token;
    }
    if (is_digit(c) || c == '-')
        return lex_number(lexer, start);
    if (is_name_char(c))
        return lex_name(lexer, start);
    if (c == '%')
        return lex_value(lexer, start);
    if (c == '@')
        return lex_func(lexer, start);
    lexer->at++;
    if (c == '"')
        return lex_string(lexer, start, TOK_STR);
    if (c && strchr("{}[](),=:", c))
        return (Token){.kind = TOK_PUNCT, .c = c, .span = span_from(lexer, start)};
    return bad(lexer, start, "unexpected character");
}

void lexer_skip_line(Lexer *lexer)
{
    while (lexer->at < lexer->end && *lexer->at != '\n')
        lexer->at++;
}
