/* Text to IR (grammar: docs/ir.md): recursive descent, one line at a time; after an error it goes on at the next line.
 * On exit every op has a known code, counts, attribute keys and kinds of its row of ops.def, operands defined before it
 * in its function, and sane types; whether they fit together is the verifier's question. */
#include "base/strbuf.h"
#include "ir/lex.h"
#include "ir/text.h"

#include <string.h>

enum
{
    MAX_TEXT_BYTES = 1 << 28,
    MAX_GLOBALS = 1 << 16, /* and functions, files */
    MAX_VALUES = 1 << 22   /* in all; the same for ops */
};

typedef struct
{
    IrValue value; /* 0: the op that defines it was wrong, no further complaints */
    IrFunc func;   /* in which the number was given; 0: never */
} Numbered;

typedef struct
{
    Arena *arena;
    Diag *diag;
    Lexer lexer;
    Token token; /* the current one */
    bool in_error;
    IrModule *m;
    IrFunc func;
    uint32_t n_bytes;
    VEC(Numbered) numbered; /* by number */
    /* parts of the line being read */
    VEC(IrAttr) attrs;
    VEC(uint32_t) results; /* numbers */
    VEC(Span) result_spans;
    VEC(IrValue) operands;
    VEC(IrType) types;
    VEC(int64_t) ints;
} Parser;

/* ---- tokens and errors */

static void advance(Parser *p)
{
    p->token = lexer_next(&p->lexer);
    if (p->token.kind == TOK_BAD)
        p->in_error = true;
}

/* Reports the first error of a line only: those after it follow from it. Returns false. */
__attribute__((format(printf, 3, 4))) static bool fail(Parser *p, Span span, const char *format, ...)
{
    if (p->in_error)
        return false;
    p->in_error = true;
    va_list args;
    va_start(args, format);
    diag_error(p->diag, span, "%s", arena_vprintf(p->arena, format, args));
    va_end(args);
    return false;
}

static bool is_punct(const Parser *p, char c)
{
    return p->token.kind == TOK_PUNCT && p->token.c == c;
}

static bool is_name(const Parser *p, const char *name)
{
    return p->token.kind == TOK_NAME && strcmp(p->token.str, name) == 0;
}

static bool accept_punct(Parser *p, char c)
{
    if (!is_punct(p, c))
        return false;
    advance(p);
    return true;
}

static bool expect_punct(Parser *p, char c)
{
    return accept_punct(p, c) || fail(p, p->token.span, "expected '%c'", c);
}

static bool at_line_end(const Parser *p)
{
    return p->token.kind == TOK_NEWLINE || p->token.kind == TOK_END;
}

static bool expect_line_end(Parser *p)
{
    return at_line_end(p) || fail(p, p->token.span, "expected the end of the line");
}

/* The token of this kind, and moves on. */
static bool expect(Parser *p, TokenKind kind, const char *what, Token *out_token)
{
    *out_token = p->token;
    if (p->token.kind != kind)
        return fail(p, p->token.span, "expected %s", what);
    advance(p);
    return true;
}

/* To the first token of the next line that has any. */
static void next_line(Parser *p)
{
    if (!at_line_end(p))
    {
        lexer_skip_line(&p->lexer);
        advance(p);
    }
    p->in_error = false;
    while (p->token.kind == TOK_NEWLINE)
        advance(p);
}

/* The word as a row of a name table, or an error with a suggestion. */
static bool pick(Parser *p, const Token *word, const char *what, const char *const *names, uint32_t n,
                 uint32_t *out_index)
{
    for (uint32_t i = 0; i < n; i++)
    {
        if (strcmp(word->str, names[i]) == 0)
        {
            *out_index = i;
            return true;
        }
    }
    if (!p->in_error)
    {
        fail(p, word->span, "unknown %s '%s'", what, word->str);
        diag_suggest(p->diag, str_nearest(word->str, names, n));
    }
    return false;
}

/* ---- types */

static const char *const dtype_names[] = {
#define DTYPE(name, ...) #name,
#include "ir/dtypes.def"
#undef DTYPE
};

/* The extents of "f32[3x4]" from behind the bracket on. */
static bool parse_dims(Parser *p, const Token *token, const char *at, IrType *type)
{
    int64_t n_elems = 1;
    while (*at != ']')
    {
        int64_t dim = 0;
        const char *digits = at;
        for (; *at >= '0' && *at <= '9'; at++)
            dim = dim > IR_MAX_ELEMS ? dim : dim * 10 + (*at - '0');
        if (at == digits || (*at != 'x' && *at != ']') || (*at == 'x' && at[1] == ']'))
            return fail(p, token->span, "bad type, expected the form f32[3x4]");
        if (dim < 1 || dim > IR_MAX_ELEMS / n_elems)
            return fail(p, token->span, "the type is empty or too large");
        if (type->rank == IR_MAX_RANK)
            return fail(p, token->span, "more than %d axes", IR_MAX_RANK);
        n_elems *= dim;
        type->dims[type->rank++] = dim;
        at += *at == 'x';
    }
    return true;
}

static bool parse_type(Parser *p, IrType *out_type)
{
    Token token;
    if (!expect(p, TOK_TYPE, "a type such as f32[3x4]", &token))
        return false;
    const char *bracket = strchr(token.str, '[');
    Token name = token;
    name.str = arena_strndup(p->arena, token.str, (size_t)(bracket - token.str));
    name.span.n_cols = (uint32_t)(bracket - token.str);
    uint32_t dtype;
    if (!pick(p, &name, "element type", dtype_names, DT_COUNT, &dtype))
        return false;
    *out_type = ir_type_scalar((DType)dtype);
    return parse_dims(p, &token, bracket + 1, out_type);
}

/* ---- attributes, places */

static const char *const attr_names[] = {
#define ATTR(key, kind) #key,
#include "ir/attrs.def"
#undef ATTR
};

static bool parse_ints(Parser *p, IrAttr *attr)
{
    Token token;
    p->ints.len = 0;
    if (!expect_punct(p, '['))
        return false;
    while (!is_punct(p, ']'))
    {
        if ((p->ints.len && !expect_punct(p, ',')) || !expect(p, TOK_INT, "an integer", &token))
            return false;
        vec_push(p->arena, &p->ints, token.i);
    }
    advance(p);
    attr->n = p->ints.len;
    attr->ints = arena_memdup(p->arena, p->ints.data, sizeof *p->ints.data * p->ints.len);
    return true;
}

static bool parse_attr_value(Parser *p, IrAttr *attr)
{
    Token token;
    switch (ir_attr_kind(attr->key))
    {
    case IR_KIND_INT:
        if (!expect(p, TOK_INT, "an integer", &token))
            return false;
        attr->i = token.i;
        return true;
    case IR_KIND_FLOAT:
        if (p->token.kind == TOK_INT)
            p->token = (Token){.kind = TOK_FLOAT, .f = (double)p->token.i, .span = p->token.span};
        if (!expect(p, TOK_FLOAT, "a number", &token))
            return false;
        attr->f = token.f;
        return true;
    case IR_KIND_BOOL:
        attr->i = is_name(p, "true");
        if (!attr->i && !is_name(p, "false"))
            return fail(p, p->token.span, "expected true or false");
        advance(p);
        return true;
    case IR_KIND_STR:
        if (!expect(p, TOK_STR, "a string", &token))
            return false;
        attr->s = token.str;
        return true;
    case IR_KIND_INTS:
        return parse_ints(p, attr);
    }
    return false;
}

/* key=value, ...} into p->attrs; the brace before is read already. */
static bool parse_attrs(Parser *p)
{
    do
    {
        Token name;
        uint32_t index;
        if (!expect(p, TOK_NAME, "an attribute", &name) ||
            !pick(p, &name, "attribute", attr_names, sizeof attr_names / sizeof *attr_names, &index))
            return false;
        IrAttr attr = {.key = (IrAttrKey)(index + 1)};
        for (uint32_t i = 0; i < p->attrs.len; i++)
            if (p->attrs.data[i].key == attr.key)
                return fail(p, name.span, "attribute '%s' is there twice", name.str);
        if (!expect_punct(p, '=') || !parse_attr_value(p, &attr))
            return false;
        vec_push(p->arena, &p->attrs, attr);
    } while (accept_punct(p, ','));
    return expect_punct(p, '}');
}

static bool parse_optional_attrs(Parser *p)
{
    p->attrs.len = 0;
    return !accept_punct(p, '{') || parse_attrs(p);
}

static bool parse_loc(Parser *p, Span *out_span)
{
    *out_span = (Span){0};
    if (!is_name(p, "loc"))
        return true;
    advance(p);
    Token parts[3];
    for (int i = 0; i < 3; i++)
    {
        if (!expect_punct(p, i ? ':' : '(') || !expect(p, TOK_INT, "a number", &parts[i]))
            return false;
        if (parts[i].i < 0 || parts[i].i > UINT32_MAX)
            return fail(p, parts[i].span, "the number is out of range");
    }
    if (parts[0].i < 1 || parts[0].i > p->m->files.len)
        return fail(p, parts[0].span, "there is no file %lld", (long long)parts[0].i);
    *out_span =
        (Span){.file = (uint32_t)parts[0].i, .line = (uint32_t)parts[1].i, .col = (uint32_t)parts[2].i, .n_cols = 0};
    return expect_punct(p, ')');
}

/* ---- ops */

static const char *const op_names[] = {
#define OP(name, ...) #name,
#include "ir/ops.def"
#undef OP
};

/* Gives a number to a value of the current function; value 0: of an op that was wrong. */
static bool number_value(Parser *p, uint32_t number, Span span, IrValue value)
{
    while (p->numbered.len <= number)
        vec_push(p->arena, &p->numbered, (Numbered){0});
    Numbered *slot = &p->numbered.data[number];
    if (slot->func == p->func && value)
        return fail(p, span, "%%%u is defined twice", number);
    *slot = (Numbered){.value = value, .func = p->func};
    return true;
}

/* The list "%1, %2 =" before the op, into p->results; nothing when the op has no results. */
static bool parse_results(Parser *p)
{
    p->results.len = 0;
    p->result_spans.len = 0;
    if (p->token.kind != TOK_VALUE)
        return true;
    do
    {
        Token token;
        if (!expect(p, TOK_VALUE, "a value", &token))
            return false;
        /* Numbers index a table, which must not be larger than the text deserves. */
        if (token.i >= p->n_bytes || token.i >= MAX_VALUES)
            return fail(p, token.span, "the number is too large");
        vec_push(p->arena, &p->results, (uint32_t)token.i);
        vec_push(p->arena, &p->result_spans, token.span);
    } while (accept_punct(p, ','));
    if (p->results.len > IR_MAX_RESULTS)
        return fail(p, p->result_spans.data[IR_MAX_RESULTS], "more than %d results", IR_MAX_RESULTS);
    return expect_punct(p, '=');
}

static bool parse_operands(Parser *p, bool *out_poisoned)
{
    p->operands.len = 0;
    *out_poisoned = false;
    if (p->token.kind != TOK_VALUE)
        return true;
    do
    {
        Token token;
        if (!expect(p, TOK_VALUE, "a value", &token))
            return false;
        if (token.i >= p->numbered.len || p->numbered.data[token.i].func != p->func)
            return fail(p, token.span, "%%%lld is not defined before", (long long)token.i);
        if (p->operands.len == IR_MANY)
            return fail(p, token.span, "too many operands");
        vec_push(p->arena, &p->operands, p->numbered.data[token.i].value);
        *out_poisoned |= p->numbered.data[token.i].value == 0;
    } while (accept_punct(p, ','));
    return true;
}

static bool parse_result_types(Parser *p)
{
    p->types.len = 0;
    if (p->results.len == 0)
        return true;
    if (!expect_punct(p, ':'))
        return false;
    for (uint32_t i = 0; i < p->results.len; i++)
    {
        IrType type;
        if ((i && !expect_punct(p, ',')) || !parse_type(p, &type))
            return false;
        vec_push(p->arena, &p->types, type);
    }
    return true;
}

static bool has_key(const IrAttrKey *keys, IrAttrKey key)
{
    while (*keys && *keys != key)
        keys++;
    return *keys != IR_ATTR_NONE;
}

/* What the op's row says about counts and attributes. */
static bool check_row(Parser *p, IrCode code, Span span)
{
    const IrOpInfo *info = ir_op_info(code);
    if (p->operands.len < info->min_operands || p->operands.len > info->max_operands)
        return fail(p, span, "'%s' has %u operands, expected %u%s", info->name, p->operands.len, info->min_operands,
                    info->max_operands > info->min_operands ? " or more" : "");
    if (info->n_results != IR_MANY && p->results.len != info->n_results)
        return fail(p, span, "'%s' has %u results, expected %u", info->name, p->results.len, info->n_results);
    for (uint32_t i = 0; i < p->attrs.len; i++)
        if (!has_key(info->required, p->attrs.data[i].key) && !has_key(info->optional, p->attrs.data[i].key))
            return fail(p, span, "'%s' has no attribute '%s'", info->name, ir_attr_name(p->attrs.data[i].key));
    for (const IrAttrKey *key = info->required; *key; key++)
    {
        bool found = false;
        for (uint32_t i = 0; i < p->attrs.len; i++)
            found |= p->attrs.data[i].key == *key;
        if (!found)
            return fail(p, span, "'%s' needs the attribute '%s'", info->name, ir_attr_name(*key));
    }
    return true;
}

typedef struct
{
    Span span;
    uint32_t unit;
    IrPhase phase;
} OpTail;

/* loc(...) uN bwd|opt */
static bool parse_tail(Parser *p, OpTail *tail)
{
    *tail = (OpTail){0};
    if (!parse_loc(p, &tail->span))
        return false;
    if (p->token.kind == TOK_NAME && p->token.str[0] == 'u' && p->token.str[1] >= '1' && p->token.str[1] <= '9')
    {
        uint64_t unit = 0;
        for (const char *c = p->token.str + 1; *c; c++)
        {
            if (*c < '0' || *c > '9' || unit > UINT32_MAX / 10 - 1)
                return fail(p, p->token.span, "bad unit");
            unit = unit * 10 + (uint64_t)(*c - '0');
        }
        tail->unit = (uint32_t)unit;
        advance(p);
    }
    if (is_name(p, "bwd") || is_name(p, "opt"))
    {
        tail->phase = is_name(p, "bwd") ? IR_PHASE_BACKWARD : IR_PHASE_OPTIMIZER;
        advance(p);
    }
    return expect_line_end(p);
}

static bool parse_op(Parser *p)
{
    Token name;
    uint32_t index;
    bool poisoned;
    OpTail tail;
    if (!parse_results(p) || !expect(p, TOK_NAME, "an op", &name) ||
        !pick(p, &name, "op", op_names, IR_CODE_COUNT - 1, &index) || !parse_operands(p, &poisoned) ||
        !parse_optional_attrs(p) || !parse_result_types(p) || !parse_tail(p, &tail))
        return false;
    IrCode code = (IrCode)(index + 1);
    if (!check_row(p, code, name.span) || poisoned)
        return false;
    if (p->m->values.len + p->results.len > MAX_VALUES || p->m->ops.len >= MAX_VALUES)
        return fail(p, name.span, "too many ops");
    IrOp op = ir_op_insert(p->m, p->func, 0, code, p->operands.data, p->operands.len, p->types.data, p->types.len,
                           p->attrs.data, p->attrs.len);
    ir_op(p->m, op)->span = tail.span;
    ir_op(p->m, op)->unit = tail.unit;
    ir_op(p->m, op)->phase = tail.phase;
    for (uint32_t i = 0; i < p->results.len; i++)
        if (!number_value(p, p->results.data[i], p->result_spans.data[i], ir_op_result(p->m, op, i)))
            return false;
    return true;
}

/* ---- top level */

static bool parse_file(Parser *p)
{
    Token number, path;
    if (!expect(p, TOK_INT, "the file's number", &number) || !expect(p, TOK_STR, "the file's path", &path) ||
        !expect_line_end(p))
        return false;
    if (number.i != (int64_t)p->m->files.len + 1)
        return fail(p, number.span, "expected number %u: files count from 1", p->m->files.len + 1);
    if (p->m->files.len == MAX_GLOBALS)
        return fail(p, number.span, "too many files");
    vec_push(p->arena, &p->m->files, path.str);
    return true;
}

static bool parse_global(Parser *p)
{
    static const char *const kinds[] = {"param", "state", "input", "output", "copy"}; /* as in IrGlobalKind */
    Token word, name;
    uint32_t kind;
    IrType type;
    Span span;
    if (!expect(p, TOK_NAME, "param, state, input, output or copy", &word) ||
        !pick(p, &word, "kind of global", kinds, 5, &kind) || !expect(p, TOK_STR, "the global's name", &name) ||
        !expect_punct(p, ':') || !parse_type(p, &type) || !parse_optional_attrs(p) || !parse_loc(p, &span) ||
        !expect_line_end(p))
        return false;
    if (p->m->globals.len > MAX_GLOBALS)
        return fail(p, name.span, "too many globals");
    if (ir_global_find(p->m, name.str))
        return fail(p, name.span, "global \"%s\" exists", name.str);
    ir_global_add(p->m, (IrGlobalKind)kind, name.str, type, p->attrs.data, p->attrs.len, span);
    return true;
}

/* "func step @name {attrs} {" and its body. */
static void parse_func(Parser *p)
{
    static const char *const kinds[] = {"step", "kernel"}; /* as in IrFuncKind */
    Token word, name = {0};
    uint32_t kind = IR_FUNC_STEP;
    p->attrs.len = 0;
    bool ok = expect(p, TOK_NAME, "step or kernel", &word) && pick(p, &word, "kind of function", kinds, 2, &kind) &&
              expect(p, TOK_FUNC, "the function's name", &name) && expect_punct(p, '{');
    if (ok && !at_line_end(p)) /* it was not the body's brace but the attributes' */
        ok = parse_attrs(p) && expect_punct(p, '{') && expect_line_end(p);
    if (ok && ir_func_find(p->m, name.str))
        ok = fail(p, name.span, "function @%s exists", name.str);
    if (ok && p->m->funcs.len > MAX_GLOBALS)
        ok = fail(p, name.span, "too many functions");
    /* A body behind a wrong head is read all the same, for its errors. */
    const char *func_name = ok ? name.str : arena_printf(p->arena, "wrong head %u", p->m->funcs.len);
    p->func = ir_func_find(p->m, func_name);
    if (!p->func)
        p->func = ir_func_add(p->m, (IrFuncKind)kind, func_name);
    ir_func(p->m, p->func)->attrs = ir_attrs_copy(p->arena, p->attrs.data, p->attrs.len);
    for (next_line(p); !is_punct(p, '}'); next_line(p))
    {
        if (p->token.kind == TOK_END || diag_is_full(p->diag))
        {
            fail(p, p->token.span, "'}' is missing");
            return;
        }
        if (!parse_op(p))
            for (uint32_t i = 0; i < p->results.len; i++)
                number_value(p, p->results.data[i], p->result_spans.data[i], 0);
    }
    advance(p);
    expect_line_end(p);
}

static void parse_item(Parser *p)
{
    static const char *const items[] = {"file", "global", "func"};
    Token word;
    uint32_t item;
    if (!expect(p, TOK_NAME, "file, global or func", &word) || !pick(p, &word, "item", items, 3, &item))
        return;
    if (item == 0)
        parse_file(p);
    else if (item == 1)
        parse_global(p);
    else
        parse_func(p);
}

IrModule *ir_parse_module(Arena *arena, Diag *diag, uint32_t file, const char *text, size_t n_bytes)
{
    uint32_t n_errors = diag_error_count(diag);
    Span start = {.file = file, .line = 1, .col = 1};
    if (n_bytes > MAX_TEXT_BYTES)
    {
        diag_error(diag, start, "more than %d bytes of IR text", MAX_TEXT_BYTES);
        return NULL;
    }
    Parser parser = {.arena = arena,
                     .diag = diag,
                     .lexer = lexer_make(arena, diag, file, text, n_bytes),
                     .n_bytes = (uint32_t)n_bytes};
    Parser *p = &parser;
    do
        advance(p);
    while (p->token.kind == TOK_NEWLINE);
    Token word, name = {.str = ""};
    if (is_name(p, "module"))
    {
        if (expect(p, TOK_NAME, "module", &word) && expect(p, TOK_STR, "the module's name", &name))
            expect_line_end(p);
    }
    else
        fail(p, p->token.span, "expected: module \"name\"");
    p->m = ir_module_create(arena, name.str ? name.str : "");
    for (next_line(p); p->token.kind != TOK_END && !diag_is_full(diag); next_line(p))
        parse_item(p);
    return diag_error_count(diag) == n_errors && !diag_is_full(diag) ? p->m : NULL;
}
