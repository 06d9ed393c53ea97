/* A recursive-descent evaluator; every overflow and inexact division is told. */
#include "frontend/arith.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum
{
    MAX_DEPTH = 100
};

typedef struct
{
    Arena *arena;
    const char *text;
    const char *at;
    ArithLookup *lookup;
    void *context;
    int depth;
    const char *why; /* set once, at the first fault */
    const char *why_at;
    uint32_t why_n;
} Eval;

static ArithValue eval_or(Eval *x);

static ArithValue number(int64_t n)
{
    return (ArithValue){.kind = ARITH_WHOLE, .number = n};
}

static double as_real(ArithValue value)
{
    return value.kind == ARITH_REAL ? value.real : (double)value.number;
}

__attribute__((format(printf, 4, 5))) static ArithValue fail(Eval *x, const char *at, uint32_t n, const char *format,
                                                             ...)
{
    if (!x->why)
    {
        va_list args;
        va_start(args, format);
        x->why = arena_vprintf(x->arena, format, args);
        va_end(args);
        x->why_at = at;
        x->why_n = n;
    }
    return number(1);
}

static void skip_space(Eval *x)
{
    while (isspace((unsigned char)*x->at))
        x->at++;
}

/* Takes the token when the text goes on with it; "<" does not take the start of "<=". */
static bool take(Eval *x, const char *token)
{
    skip_space(x);
    size_t n = strlen(token);
    if (strncmp(x->at, token, n) != 0 || (n == 1 && strchr("<>!=", *token) && x->at[1] == '='))
        return false;
    x->at += n;
    return true;
}

ArithValue arith_from_text(const char *text)
{
    const ArithValue as_text = {.kind = ARITH_TEXT, .text = text};
    char *end;
    errno = 0;
    if (!*text || strspn(text, "0123456789+-.eE") != strlen(text) || *text == '+')
        return as_text;
    long long n = strtoll(text, &end, 10);
    if (end != text && *end == 0)
        return errno == 0 ? number(n) : as_text;
    double real = strtod(text, &end);
    return end != text && *end == 0 && isfinite(real) ? (ArithValue){.kind = ARITH_REAL, .real = real, .text = text}
                                                      : as_text;
}

const char *arith_real_text(Arena *arena, double real)
{
    const char *text = NULL;
    for (int digits = 15; digits <= 17; digits++)
    {
        text = arena_printf(arena, "%.*g", digits, real);
        if (strtod(text, NULL) == real)
            break;
    }
    return strpbrk(text, ".e") ? text : arena_printf(arena, "%s.0", text);
}

const char *arith_text(Arena *arena, ArithValue value)
{
    if (value.text)
        return value.text;
    return value.kind == ARITH_REAL ? arith_real_text(arena, value.real)
                                    : arena_printf(arena, "%lld", (long long)value.number);
}

static ArithValue eval_call(Eval *x, const char *at, bool is_max)
{
    ArithValue a = eval_or(x);
    if (!take(x, ","))
        return fail(x, x->at, 1, "expected ','");
    ArithValue b = eval_or(x);
    if (!take(x, ")"))
        return fail(x, x->at, 1, "expected ')'");
    if (a.kind == ARITH_TEXT || b.kind == ARITH_TEXT)
        return fail(x, at, 3, "expected numbers");
    const bool more = a.kind == b.kind && a.kind == ARITH_WHOLE ? a.number > b.number : as_real(a) > as_real(b);
    return more == is_max ? a : b;
}

static ArithValue eval_number(Eval *x, const char *at)
{
    char *end;
    errno = 0;
    ArithValue value = number(strtoll(at, &end, 10));
    if (*end == '.' || *end == 'e' || *end == 'E')
    {
        errno = 0;
        value = (ArithValue){.kind = ARITH_REAL, .real = strtod(at, &end)};
        errno = isfinite(value.real) ? 0 : ERANGE;
        value.text = arena_strndup(x->arena, at, (size_t)(end - at));
    }
    x->at = end;
    if (errno)
        return fail(x, at, (uint32_t)(end - at), "the number is too large");
    if (*end == '.' || isalpha((unsigned char)*end))
        return fail(x, at, 1 + (uint32_t)strspn(at + 1, "0123456789.eE"), "expected a number");
    return value;
}

static ArithValue eval_primary(Eval *x)
{
    skip_space(x);
    const char *at = x->at;
    if (isdigit((unsigned char)*at))
        return eval_number(x, at);
    if (*at == '\'')
    {
        const char *close = strchr(at + 1, '\'');
        if (!close)
            return fail(x, at, 1, "the text has no closing quote");
        x->at = close + 1;
        return (ArithValue){.kind = ARITH_TEXT, .text = arena_strndup(x->arena, at + 1, (size_t)(close - at - 1))};
    }
    if (isalpha((unsigned char)*at) || *at == '_')
    {
        while (isalnum((unsigned char)*x->at) || *x->at == '_')
            x->at++;
        const char *name = arena_strndup(x->arena, at, (size_t)(x->at - at));
        bool is_max = strcmp(name, "max") == 0;
        if ((is_max || strcmp(name, "min") == 0) && take(x, "("))
            return eval_call(x, at, is_max);
        ArithValue value = {0};
        const char *why = NULL;
        if (!x->lookup(x->context, name, &value, &why))
            return fail(x, at, (uint32_t)strlen(name), "%s", why);
        return value.kind == ARITH_TEXT ? arith_from_text(value.text) : value;
    }
    if (take(x, "("))
    {
        ArithValue value = eval_or(x);
        if (!take(x, ")"))
            return fail(x, x->at, 1, "expected ')'");
        return value;
    }
    return fail(x, at, 1, *at ? "expected a number or a name" : "the expression ends too early");
}

/* A condition: a number that is not 0, or the text 'true'. */
static bool truth(Eval *x, const char *at, ArithValue value)
{
    if (value.kind != ARITH_TEXT)
        return as_real(value) != 0;
    bool holds = strcmp(value.text, "true") == 0;
    if (!holds && strcmp(value.text, "false") != 0)
        fail(x, at, 1, "'%s' is neither true nor false", value.text);
    return holds;
}

static ArithValue eval_unary(Eval *x)
{
    if (++x->depth > MAX_DEPTH)
        return fail(x, x->at, 1, "the expression is nested too deeply");
    ArithValue out;
    skip_space(x);
    const char *at = x->at;
    if (take(x, "-") || take(x, "!"))
    {
        ArithValue a = eval_unary(x);
        if (*at == '!')
            out = number(!truth(x, at, a));
        else if (a.kind == ARITH_TEXT)
            out = fail(x, at, 1, "expected a number");
        else if (a.kind == ARITH_REAL)
            out = (ArithValue){.kind = ARITH_REAL, .real = -a.real};
        else if (a.number == INT64_MIN)
            out = fail(x, at, 1, "the number is too large");
        else
            out = number(-a.number);
    }
    else
        out = eval_primary(x);
    x->depth--;
    return out;
}

static ArithValue combine_reals(Eval *x, const char *at, char op, double a, double b)
{
    if (op == '%')
        return fail(x, at, 1, "expected whole numbers");
    if (op == '/' && b == 0)
        return fail(x, at, 1, "division by zero");
    const double out = op == '+' ? a + b : op == '-' ? a - b : op == '*' ? a * b : a / b;
    if (!isfinite(out))
        return fail(x, at, 1, "the number is too large");
    return (ArithValue){.kind = ARITH_REAL, .real = out};
}

static ArithValue combine(Eval *x, const char *at, char op, ArithValue a, ArithValue b)
{
    int64_t out = 0;
    bool overflow = false;
    if (x->why)
        return number(1);
    if (a.kind == ARITH_TEXT || b.kind == ARITH_TEXT)
        return fail(x, at, 1, "'%s' is not a number", a.kind == ARITH_TEXT ? a.text : b.text);
    if (a.kind == ARITH_REAL || b.kind == ARITH_REAL)
        return combine_reals(x, at, op, as_real(a), as_real(b));
    if (op == '+')
        overflow = __builtin_add_overflow(a.number, b.number, &out);
    else if (op == '-')
        overflow = __builtin_sub_overflow(a.number, b.number, &out);
    else if (op == '*')
        overflow = __builtin_mul_overflow(a.number, b.number, &out);
    else if (b.number == 0)
        return fail(x, at, 1, "division by zero");
    else if (b.number == -1)
        overflow = op == '/' && __builtin_sub_overflow((int64_t)0, a.number, &out);
    else if (op == '%')
        out = a.number % b.number;
    else if (a.number % b.number)
        return fail(x, at, 1, "%lld / %lld is not a whole number", (long long)a.number, (long long)b.number);
    else
        out = a.number / b.number;
    return overflow ? fail(x, at, 1, "the number is too large") : number(out);
}

static ArithValue eval_product(Eval *x)
{
    ArithValue a = eval_unary(x);
    for (;;)
    {
        skip_space(x);
        const char *at = x->at;
        if (!take(x, "*") && !take(x, "/") && !take(x, "%"))
            return a;
        a = combine(x, at, *at, a, eval_unary(x));
    }
}

static ArithValue eval_sum(Eval *x)
{
    ArithValue a = eval_product(x);
    for (;;)
    {
        skip_space(x);
        const char *at = x->at;
        if (!take(x, "+") && !take(x, "-"))
            return a;
        a = combine(x, at, *at, a, eval_product(x));
    }
}

static ArithValue eval_compare(Eval *x)
{
    static const char *const ops[] = {"==", "!=", "<=", ">=", "<", ">"};
    ArithValue a = eval_sum(x);
    skip_space(x);
    const char *at = x->at;
    size_t op = 0;
    while (op < 6 && !take(x, ops[op]))
        op++;
    if (op == 6)
        return a;
    ArithValue b = eval_sum(x);
    if (x->why)
        return number(1);
    const bool texts = a.kind == ARITH_TEXT || b.kind == ARITH_TEXT;
    const bool reals = a.kind == ARITH_REAL || b.kind == ARITH_REAL;
    if (texts && op >= 2)
        return fail(x, at, (uint32_t)strlen(ops[op]), "'%s' is not a number", a.kind == ARITH_TEXT ? a.text : b.text);
    int order;
    if (texts)
        order = strcmp(arith_text(x->arena, a), arith_text(x->arena, b));
    else if (reals)
        order = (as_real(a) > as_real(b)) - (as_real(a) < as_real(b));
    else
        order = (a.number > b.number) - (a.number < b.number);
    return number(op == 0   ? order == 0
                  : op == 1 ? order != 0
                  : op == 2 ? order <= 0
                  : op == 3 ? order >= 0
                  : op == 4 ? order < 0
                            : order > 0);
}

static ArithValue eval_and(Eval *x)
{
    ArithValue a = eval_compare(x);
    skip_space(x);
    for (const char *at = x->at; take(x, "&&"); skip_space(x), at = x->at)
    {
        bool left = truth(x, at, a), right = truth(x, at, eval_compare(x));
        a = number(left && right);
    }
    return a;
}

static ArithValue eval_or(Eval *x)
{
    if (++x->depth > MAX_DEPTH)
        return fail(x, x->at, 1, "the expression is nested too deeply");
    ArithValue a = eval_and(x);
    skip_space(x);
    for (const char *at = x->at; take(x, "||"); skip_space(x), at = x->at)
    {
        bool left = truth(x, at, a), right = truth(x, at, eval_and(x));
        a = number(left || right);
    }
    x->depth--;
    return a;
}

bool arith_eval(Arena *arena, const char *text, ArithLookup *lookup, void *context, ArithValue *out_value,
                const char **out_why, uint32_t *out_at, uint32_t *out_n)
{
    Eval x = {.arena = arena, .text = text, .at = text, .lookup = lookup, .context = context};
    *out_value = eval_or(&x);
    skip_space(&x);
    if (!x.why && *x.at)
        fail(&x, x.at, 1, "unexpected '%c'", *x.at);
    if (!x.why)
        return true;
    *out_why = x.why;
    *out_at = (uint32_t)(x.why_at - text);
    *out_n = x.why_n;
    return false;
}
