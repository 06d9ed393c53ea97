/* Tokens of the IR's text form (docs/ir.md). Private to ir/: parse.c is the only user. */
#ifndef PTC_IR_LEX_H
#define PTC_IR_LEX_H

#include "base/diag.h"

#include <stddef.h>

typedef enum
{
    TOK_END,     /* of the text */
    TOK_NEWLINE, /* blank lines and // comments are skipped */
    TOK_NAME,    /* letters, digits, _ and . */
    TOK_TYPE,    /* a name with [...] right behind it: f32[3x4]; str is all of it */
    TOK_INT,     /* i */
    TOK_FLOAT,   /* f; also inf, -inf, nan */
    TOK_STR,     /* "..."; str is the text without quotes and escapes */
    TOK_VALUE,   /* %3; i */
    TOK_FUNC,    /* @name or @"name"; str is the name */
    TOK_PUNCT,   /* one of { } [ ] ( ) , = : ; c is which */
    TOK_BAD      /* already reported */
} TokenKind;

typedef struct
{
    TokenKind kind;
    char c;
    int64_t i;
    double f;
    const char *str;
    Span span;
} Token;

typedef struct
{
    Arena *arena; /* strings of tokens */
    Diag *diag;
    const char *at, *end, *line_start;
    uint32_t file, line;
} Lexer;

Lexer lexer_make(Arena *arena, Diag *diag, uint32_t file, const char *text, size_t n_bytes);
/* The next token; TOK_BAD (with a diagnostic) for what is none. */
Token lexer_next(Lexer *lexer);
/* Moves to the end of the line, so that the next token is TOK_NEWLINE or TOK_END. */
void lexer_skip_line(Lexer *lexer);

#endif
