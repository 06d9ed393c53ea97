/* Result types of reductions, contractions and composites. */
#include "ir/infer_rules.h"

#include <string.h>

/* ---- reductions and contractions */

bool infer_reduce(Infer *x)
{
    const IrType *a = x->in[0];
    const IrAttr *axes = ir_attrs_find(x->attrs, IR_ATTR_axes);
    if (!axes || axes->n > a->rank)
        return infer_fail(x, "attribute 'axes' does not fit %s", infer_text(x, a));
    if (a->dtype == DT_BOOL || a->dtype == DT_U8)
        return infer_fail(x, "operand 1 is %s, expected numbers that can be computed with (cast it)", infer_text(x, a));
    IrType out = {.dtype = a->dtype};
    uint32_t at = 0;
    for (int i = 0; i < a->rank; i++)
    {
        if (at < axes->n && axes->ints[at] == i)
            at++;
        else
            out.dims[out.rank++] = a->dims[i];
    }
    if (at != axes->n)
        return infer_fail(x, "'axes' is not ascending within 0..%d", a->rank - 1);
    return infer_give(x, out);
}

/* "ab,bc->ac": the three letter lists; false when the text is not of that form. */
static bool split_einsum(const char *expr, const char **a, int *na, const char **b, int *nb, const char **c, int *nc)
{
    const char *comma = expr ? strchr(expr, ',') : NULL;
    const char *arrow = comma ? strstr(comma, "->") : NULL;
    if (!arrow || comma - expr > IR_MAX_RANK || arrow - comma - 1 > IR_MAX_RANK || strlen(arrow + 2) > IR_MAX_RANK)
        return false;
    *a = expr;
    *na = (int)(comma - expr);
    *b = comma + 1;
    *nb = (int)(arrow - comma - 1);
    *c = arrow + 2;
    *nc = (int)strlen(arrow + 2);
    for (const char *p = expr; *p; p++)
        if (!(*p >= 'a' && *p <= 'z') && p != comma && p != arrow && p != arrow + 1)
            return false;
    return true;
}

/* Of a contraction: that of its operands, or f32 (as it is summed up) when that is what is wanted of bf16 operands. */
static uint8_t product_dtype(const Infer *x)
{
    const uint8_t dtype = x->in[0]->dtype;
    return dtype == DT_BF16 && x->given && x->given->dtype == DT_F32 ? DT_F32 : dtype;
}

bool infer_einsum(Infer *x)
{
    const char *expr = ir_attrs_str(x->attrs, IR_ATTR_expr);
    const char *letters[3];
    int n[3];
    if (!split_einsum(expr, &letters[0], &n[0], &letters[1], &n[1], &letters[2], &n[2]))
        return infer_fail(x, "'%s' is not of the form \"ab,bc->ac\"", expr ? expr : "");
    int64_t extent[26] = {0};
    for (int k = 0; k < 2; k++)
    {
        if (n[k] != x->in[k]->rank)
            return infer_fail(x, "operand %d is %s, but '%.*s' has %d axes", k + 1, infer_text(x, x->in[k]), n[k],
                              letters[k], n[k]);
        unsigned seen = 0;
        for (int i = 0; i < n[k]; i++)
        {
            int letter = letters[k][i] - 'a';
            if (seen & 1u << letter)
                return infer_fail(x, "axis '%c' is twice in operand %d", letters[k][i], k + 1);
            seen |= 1u << letter;
            int64_t dim = x->in[k]->dims[i];
            if (extent[letter] && extent[letter] != dim)
                return infer_fail(x, "axis '%c' is %lld in operand 1 and %lld in operand 2", letters[k][i],
                                  (long long)extent[letter], (long long)dim);
            extent[letter] = dim;
        }
    }
    if (x->in[0]->dtype != x->in[1]->dtype)
        return infer_fail(x, "operands %s and %s differ in type", infer_text(x, x->in[0]), infer_text(x, x->in[1]));
    IrType out = {.dtype = product_dtype(x)};
    unsigned seen = 0;
    for (int i = 0; i < n[2]; i++)
    {
        int letter = letters[2][i] - 'a';
        if (!extent[letter] || seen & 1u << letter)
            return infer_fail(x, "axis '%c' of the result is %s", letters[2][i],
                              extent[letter] ? "there twice" : "in no operand");
        seen |= 1u << letter;
        out.dims[out.rank++] = extent[letter];
    }
    return infer_give(x, out);
}

static bool want_act(Infer *x, IrAttrKey key)
{
    static const char *const acts[] = {
#define ACTIVATION(name, ...) #name,
#include "ir/activations.def"
#undef ACTIVATION
    };
    const char *act = ir_attrs_str(x->attrs, key);
    for (size_t i = 0; act && i < sizeof acts / sizeof *acts; i++)
        if (strcmp(act, acts[i]) == 0)
            return true;
    return act ? infer_fail(x, "there is no activation '%s'", act) : true;
}

/* aux, dact and sums are parts of a training step, each for one place in it. */
static bool want_step_parts(Infer *x, int rank)
{
    const bool bias = ir_attrs_bool(x->attrs, IR_ATTR_bias), act = ir_attrs_str(x->attrs, IR_ATTR_act),
               aux = ir_attrs_bool(x->attrs, IR_ATTR_aux), dact = ir_attrs_str(x->attrs, IR_ATTR_dact),
               sums = ir_attrs_bool(x->attrs, IR_ATTR_sums), residual = ir_attrs_bool(x->attrs, IR_ATTR_residual);
    if ((aux || dact || sums) && rank != 2)
        return infer_fail(x, "aux, dact and sums are for matrices");
    if (aux && (!act || residual))
        return infer_fail(x, "aux goes with act, and with no residual");
    if (dact && (bias || act || sums || residual))
        return infer_fail(x, "dact goes with no bias, act, sums or residual");
    if (sums && (bias || act || ir_attrs_bool(x->attrs, IR_ATTR_tb)))
        return infer_fail(x, "sums goes with no bias, act or tb");
    return true;
}

static bool want_operand(Infer *x, uint32_t *at, const char *what, IrType type)
{
    if (*at >= x->n)
        return infer_fail(x, "the %s operand is missing", what);
    return infer_want_type(x, (*at)++, type);
}

bool infer_matmul(Infer *x)
{
    const IrType *a = x->in[0], *b = x->in[1];
    if (a->rank < 2 || a->rank != b->rank || a->dtype != b->dtype ||
        memcmp(a->dims, b->dims, sizeof a->dims[0] * (size_t)(a->rank - 2)) != 0)
        return infer_fail(x, "cannot multiply %s by %s", infer_text(x, a), infer_text(x, b));
    int r = a->rank;
    bool ta = ir_attrs_bool(x->attrs, IR_ATTR_ta), tb = ir_attrs_bool(x->attrs, IR_ATTR_tb);
    int64_t rows = a->dims[ta ? r - 1 : r - 2], ka = a->dims[ta ? r - 2 : r - 1];
    int64_t kb = b->dims[tb ? r - 1 : r - 2], cols = b->dims[tb ? r - 2 : r - 1];
    if (ka != kb)
        return infer_fail(x, "cannot multiply %s by %s: %lld against %lld", infer_text(x, a), infer_text(x, b),
                          (long long)ka, (long long)kb);
    if (!want_act(x, IR_ATTR_act) || !want_act(x, IR_ATTR_dact) || !want_step_parts(x, r))
        return false;
    const bool sums = ir_attrs_bool(x->attrs, IR_ATTR_sums);
    IrType out = *a;
    out.dtype = sums ? DT_F32 : product_dtype(x);
    out.dims[r - 2] = rows;
    out.dims[r - 1] = cols;
    uint32_t at = 2;
    if (ir_attrs_bool(x->attrs, IR_ATTR_bias) && !want_operand(x, &at, "bias", ir_type((DType)out.dtype, 1, &cols)))
        return false;
    if (ir_attrs_str(x->attrs, IR_ATTR_dact) && !want_operand(x, &at, "dact", out))
        return false;
    if (ir_attrs_bool(x->attrs, IR_ATTR_residual) && !want_operand(x, &at, "residual", out))
        return false;
    if (at != x->n)
        return infer_fail(x, "has %u operands, its attributes say %u", x->n, at);
    infer_give(x, out);
    if (ir_attrs_bool(x->attrs, IR_ATTR_aux))
        infer_give(x, out);
    return !sums || infer_give(x, ir_type(DT_F32, 1, &cols));
}

/* ---- composites */

bool infer_softmax(Infer *x)
{
    if (x->in[0]->rank < 1)
        return infer_fail(x, "operand 1 is %s, expected at least one axis", infer_text(x, x->in[0]));
    return infer_give(x, *x->in[0]);
}

bool infer_norm(Infer *x)
{
    const IrType *a = x->in[0];
    if (a->rank < 1)
        return infer_fail(x, "operand 1 is %s, expected at least one axis", infer_text(x, a));
    for (uint32_t i = 1; i < x->n; i++)
        if (!infer_want_type(x, i, ir_type((DType)a->dtype, 1, &a->dims[a->rank - 1])))
            return false;
    return infer_give(x, *a);
}

static bool want_probability(Infer *x)
{
    double p = ir_attrs_float(x->attrs, IR_ATTR_p, 0);
    return p >= 0 && p < 1 ? true : infer_fail(x, "p is %g, expected 0 <= p < 1", p);
}

bool infer_dropout(Infer *x)
{
    const IrType *a = x->in[0];
    if (a->rank < 1)
        return infer_fail(x, "operand 1 is %s, expected a batch axis", infer_text(x, a));
    return want_probability(x) && infer_want_random_operands(x, 1, a->dims[0]) && infer_give(x, *a);
}

bool infer_cross_entropy(Infer *x)
{
    IrType want = *x->in[0];
    if (want.rank < 1)
        return infer_fail(x, "operand 1 is %s, expected at least one axis", infer_text(x, &want));
    want.rank--;
    IrType out = want;
    want.dtype = DT_I32;
    return infer_want_float(x, 0) && infer_want_type(x, 1, want) && infer_give(x, out);
}

/* q, k and v as operands of their own, or packed; *out_q is q's type, and k's when packed. */
static bool want_queries(Infer *x, IrType *out_q)
{
    const IrType *q = x->in[0];
    *out_q = *q;
    if (ir_attrs_bool(x->attrs, IR_ATTR_packed))
    {
        if (q->rank != 4 || q->dims[2] % 3 != 0)
            return infer_fail(x, "operand 1 is %s, expected [B,T,3H,D]", infer_text(x, q));
        out_q->dims[2] /= 3;
        return true;
    }
    const IrType *k = x->n > 1 ? x->in[1] : q;
    if (x->n < 3)
        return infer_fail(x, "has %u operands, expected 3 or more", x->n);
    if (q->rank != 4 || k->rank != 4 || q->dims[0] != k->dims[0] || q->dims[3] != k->dims[3] ||
        q->dims[2] % k->dims[2] != 0 || q->dtype != k->dtype)
        return infer_fail(x, "queries %s and keys %s do not fit (expected [B,T,H,D] and [B,S,G,D], H a multiple of G)",
                          infer_text(x, q), infer_text(x, k));
    return infer_want_type(x, 2, *k);
}

/* Operands q, k, v (or packed: one) [, bias] [, key, sample]; *out_at is the index of what follows. */
static bool want_attention(Infer *x, IrType *out_q, uint32_t *out_at)
{
    if (!want_queries(x, out_q) || !want_probability(x))
        return false;
    if (ir_attrs_int(x->attrs, IR_ATTR_window, 0) < 0)
        return infer_fail(x, "window is negative");
    const bool packed = ir_attrs_bool(x->attrs, IR_ATTR_packed);
    const IrType *q = out_q, *k = packed ? out_q : x->in[1];
    uint32_t at = packed ? 1 : 3;
    if (ir_attrs_bool(x->attrs, IR_ATTR_bias))
    {
        if (at >= x->n)
            return infer_fail(x, "the bias operand is missing");
        const IrType *bias = x->in[at++];
        const int64_t full[4] = {q->dims[0], q->dims[2], q->dims[1], k->dims[1]};
        bool fits = bias->dtype == DT_F32 && bias->rank == 4 && bias->dims[3] == full[3];
        for (int i = 0; fits && i < 3; i++)
            fits = bias->dims[i] == 1 || bias->dims[i] == full[i];
        if (!fits)
            return infer_fail(x, "bias %s does not fit scores f32[%lldx%lldx%lldx%lld]", infer_text(x, bias),
                              (long long)full[0], (long long)full[1], (long long)full[2], (long long)full[3]);
    }
    if (ir_attrs_float(x->attrs, IR_ATTR_p, 0) > 0)
    {
        if (at + 2 > x->n)
            return infer_fail(x, "dropout needs the operands key and sample");
        if (!infer_want_random_operands(x, at, q->dims[0]))
            return false;
        at += 2;
    }
    *out_at = at;
    return true;
}

static IrType lse_type(const IrType *q)
{
    return ir_type(DT_F32, 3, (const int64_t[]){q->dims[0], q->dims[2], q->dims[1]});
}

bool infer_attention(Infer *x)
{
    uint32_t at;
    IrType q;
    if (!want_attention(x, &q, &at))
        return false;
    if (at != x->n)
        return infer_fail(x, "has %u operands, its attributes say %u", x->n, at);
    return infer_give(x, q) && infer_give(x, lse_type(&q));
}

bool infer_attention_grad(Infer *x)
{
    uint32_t at;
    IrType q;
    if (!want_attention(x, &q, &at))
        return false;
    if (at + 3 != x->n)
        return infer_fail(x, "has %u operands, its attributes say %u", x->n, at + 3);
    if (!infer_want_type(x, at, q) || !infer_want_type(x, at + 1, lse_type(&q)) || !infer_want_type(x, at + 2, q) ||
        !infer_give(x, *x->in[0]))
        return false;
    return ir_attrs_bool(x->attrs, IR_ATTR_packed) || (infer_give(x, *x->in[1]) && infer_give(x, *x->in[2]));
}
