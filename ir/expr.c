/* The expression language: a recursive-descent parser that builds ops as it goes.
 *
 * A number has no shape of its own: it stays a Term without a value until it meets a tensor, whose type its
 * const then takes. Two numbers are computed at once, in f64. */
#include "ir/expr.h"

#include "base/bug.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum
{
    MAX_DEPTH = 200,
    MAX_ARGS = 3,
    MAX_NAME = 64
};

typedef struct
{
    IrValue value; /* 0: the number below */
    double number;
} Term;

typedef struct
{
    IrBuilder *b;
    const char *text;
    const char *at;
    const IrExprVar *vars;
    uint32_t n_vars;
    int depth;
    const char *why; /* set once, at the first fault */
    uint32_t why_at;
} Parser;

static Term parse_or(Parser *p);

static Term fail_at(Parser *p, const char *where, const char *why)
{
    if (!p->why)
    {
        p->why = why;
        p->why_at = (uint32_t)(where - p->text);
    }
    return (Term){0};
}

static void skip_space(Parser *p)
{
    while (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r')
        p->at++;
}

/* Takes the token when the text goes on with it. "<" does not take the start of "<=". */
static bool take(Parser *p, const char *token)
{
    skip_space(p);
    size_t n = strlen(token);
    if (strncmp(p->at, token, n) != 0)
        return false;
    if (n == 1 && strchr("<>!", token[0]) && p->at[1] == '=')
        return false;
    p->at += n;
    return true;
}

static IrValue value_of(Parser *p, Term term, const IrType *like)
{
    if (term.value)
        return term.value;
    return ir_build_const(p->b, like ? *like : ir_type_scalar(DT_F32), term.number);
}

static double apply_number(IrCode code, const double *x)
{
    switch (code)
    {
    case IR_add:
        return x[0] + x[1];
    case IR_sub:
        return x[0] - x[1];
    case IR_mul:
        return x[0] * x[1];
    case IR_div:
        return x[0] / x[1];
    case IR_pow:
        return pow(x[0], x[1]);
    case IR_neg:
        return -x[0];
    case IR_sqrt:
        return sqrt(x[0]);
    case IR_exp:
        return exp(x[0]);
    case IR_log:
        return log(x[0]);
    default:
        return NAN;
    }
}

static bool is_arithmetic(IrCode code)
{
    return !isnan(apply_number(code, (const double[]){1, 1}));
}

/* One elementwise op on terms: numbers among themselves are folded, otherwise all take the common shape. */
static Term apply(Parser *p, const char *where, IrCode code, const Term *terms, uint32_t n)
{
    if (p->why)
        return (Term){0};
    const IrModule *m = p->b->m;
    IrType shape = {0};
    const IrType *data = NULL; /* what numbers take their dtype from: the last tensor that is not a condition */
    bool any = false;
    for (uint32_t i = 0; i < n; i++)
    {
        if (!terms[i].value)
            continue;
        const IrType *type = ir_value_type(m, terms[i].value);
        if (any && !ir_type_stretch(&shape, type, &shape))
            return fail_at(p, where,
                           arena_printf(m->arena, "%s: shapes %s and %s do not fit", ir_op_info(code)->name,
                                        ir_type_text(m->arena, &shape), ir_type_text(m->arena, type)));
        if (!any)
            shape = *type;
        any = true;
        if (!(code == IR_select && i == 0))
            data = type;
    }
    if (!any && is_arithmetic(code))
    {
        double numbers[MAX_ARGS];
        for (uint32_t i = 0; i < n; i++)
            numbers[i] = terms[i].number;
        return (Term){.number = apply_number(code, numbers)};
    }
    IrType number_type = ir_type_with_dtype(shape, data ? (DType)data->dtype : DT_F32);
    IrValue operands[MAX_ARGS];
    for (uint32_t i = 0; i < n; i++)
    {
        operands[i] = value_of(p, terms[i], &number_type);
        operands[i] = ir_build_stretch(p->b, operands[i], &shape);
        ENSURE(operands[i]);
    }
    const char *why;
    IrOp op = ir_try_op(p->b, code, NULL, operands, n, NULL, 0, &why);
    if (!op)
        return fail_at(p, where, arena_printf(m->arena, "%s: %s", ir_op_info(code)->name, why));
    return (Term){.value = ir_op_result(m, op, 0)};
}

static bool call_code(const char *name, IrCode *out_code)
{
    *out_code = ir_code_by_name(name);
    return *out_code != IR_INVALID && *out_code != IR_cast && ir_code_has(*out_code, IR_TRAIT_EWISE);
}

static Term parse_call(Parser *p, const char *where, const char *name)
{
    Term args[MAX_ARGS] = {{0}};
    uint32_t n = 0;
    do
    {
        Term arg = parse_or(p);
        if (p->why)
            return (Term){0};
        if (n == MAX_ARGS)
            return fail_at(p, where, "too many arguments");
        args[n++] = arg;
    } while (take(p, ","));
    if (!take(p, ")"))
        return fail_at(p, p->at, "expected ')' or ','");
    IrCode code;
    DType dtype;
    if (dtype_by_name(name, &dtype))
    {
        if (n != 1)
            return fail_at(p, where, "a cast takes one argument");
        return (Term){.value = ir_build_cast(p->b, value_of(p, args[0], NULL), dtype)};
    }
    if (!call_code(name, &code))
        return fail_at(p, where, arena_printf(p->b->m->arena, "unknown function '%s'", name));
    if (n != ir_op_info(code)->min_operands)
        return fail_at(p, where,
                       arena_printf(p->b->m->arena, "%s takes %u argument%s, not %u", name,
                                    ir_op_info(code)->min_operands, ir_op_info(code)->min_operands == 1 ? "" : "s", n));
    return apply(p, where, code, args, n);
}

static Term parse_name(Parser *p)
{
    const char *where = p->at;
    char name[MAX_NAME];
    size_t n = 0;
    while (isalnum((unsigned char)*p->at) || *p->at == '_' || *p->at == '.')
    {
        if (n + 1 == sizeof name)
            return fail_at(p, where, "the name is too long");
        name[n++] = *p->at++;
    }
    name[n] = 0;
    if (take(p, "("))
        return parse_call(p, where, name);
    for (uint32_t i = 0; i < p->n_vars; i++)
        if (strcmp(p->vars[i].name, name) == 0)
            return (Term){.value = p->vars[i].value};
    return fail_at(p, where, arena_printf(p->b->m->arena, "unknown name '%s'", name));
}

static Term parse_primary(Parser *p)
{
    skip_space(p);
    if (isdigit((unsigned char)*p->at) || (*p->at == '.' && isdigit((unsigned char)p->at[1])))
    {
        if (p->at[0] == '0' && (p->at[1] == 'x' || p->at[1] == 'X'))
            return fail_at(p, p->at, "numbers are decimal");
        char *end;
        double number = strtod(p->at, &end);
        if (!isfinite(number))
            return fail_at(p, p->at, "the number is too large");
        p->at = end;
        return (Term){.number = number};
    }
    if (isalpha((unsigned char)*p->at) || *p->at == '_')
        return parse_name(p);
    if (!take(p, "("))
        return fail_at(p, p->at, *p->at ? "expected a number, a name or '('" : "the expression ends too early");
    Term inner = parse_or(p);
    if (!p->why && !take(p, ")"))
        return fail_at(p, p->at, "expected ')'");
    return inner;
}

static Term parse_unary(Parser *p);

static Term parse_power(Parser *p)
{
    Term base = parse_primary(p);
    const char *where = p->at;
    if (p->why || !take(p, "^"))
        return base;
    Term exponent = parse_unary(p);
    if (base.value && !exponent.value && exponent.number == 2) /* defined for negative numbers, and cheap */
        return apply(p, where, IR_mul, (const Term[]){base, base}, 2);
    return apply(p, where, IR_pow, (const Term[]){base, exponent}, 2);
}

static Term parse_unary(Parser *p)
{
    if (++p->depth > MAX_DEPTH)
        return fail_at(p, p->at, "the expression is nested too deeply");
    skip_space(p);
    const char *where = p->at;
    Term term;
    if (take(p, "-"))
    {
        term = parse_unary(p);
        term = apply(p, where, IR_neg, &term, 1);
    }
    else if (take(p, "!"))
    {
        term = parse_unary(p);
        term = apply(p, where, IR_not, &term, 1);
    }
    else
        term = parse_power(p);
    p->depth--;
    return term;
}

/* One level of left-associative operators; the next level binds tighter. */
typedef struct
{
    const char *token;
    IrCode code;
} Operator;

static const Operator levels[][6] = {
    {{"||", IR_or}},
    {{"&&", IR_and}},
    {{"==", IR_eq}, {"!=", IR_ne}, {"<=", IR_le}, {">=", IR_ge}, {"<", IR_lt}, {">", IR_gt}},
    {{"+", IR_add}, {"-", IR_sub}},
    {{"*", IR_mul}, {"/", IR_div}},
};

static Term parse_level(Parser *p, size_t level)
{
    if (level == sizeof levels / sizeof levels[0])
        return parse_unary(p);
    Term left = parse_level(p, level + 1);
    while (!p->why)
    {
        skip_space(p);
        const char *where = p->at;
        const Operator *op = levels[level], *end = op + sizeof levels[level] / sizeof *op;
        while (op < end && op->token && !take(p, op->token))
            op++;
        if (op == end || !op->token)
            break;
        Term right = parse_level(p, level + 1);
        left = apply(p, where, op->code, (const Term[]){left, right}, 2);
    }
    return left;
}

static Term parse_or(Parser *p)
{
    if (++p->depth > MAX_DEPTH)
        return fail_at(p, p->at, "the expression is nested too deeply");
    Term term = parse_level(p, 0);
    p->depth--;
    return term;
}

IrValue ir_try_expr(IrBuilder *b, const char *text, const IrExprVar *vars, uint32_t n_vars, const char **out_why,
                    uint32_t *out_at)
{
    Parser p = {.b = b, .text = text, .at = text, .vars = vars, .n_vars = n_vars};
    Term term = parse_or(&p);
    skip_space(&p);
    if (!p.why && *p.at)
        fail_at(&p, p.at, "expected an operator or the end");
    *out_why = p.why;
    *out_at = p.why_at;
    return p.why ? 0 : value_of(&p, term, NULL);
}

IrValue ir_build_expr(IrBuilder *b, const char *text, const IrExprVar *vars, uint32_t n_vars)
{
    const char *why;
    uint32_t at;
    IrValue value = ir_try_expr(b, text, vars, n_vars, &why, &at);
    if (!value)
        BUG("expression '%s' at %u: %s", text, at, why);
    return value;
}
