/* Result types: one function per SHAPE rule of ops.def. Each checks its operands and attributes and writes the
 * result types, or says in a sentence what does not fit. Nothing here aborts: types and attributes may come from text.
 */
#include "base/bug.h"
#include "ir/builder.h"

#include <string.h>

typedef struct
{
    Arena *arena;
    const IrModule *m;
    IrCode code;
    uint32_t n;              /* operands */
    const IrType *const *in; /* their types */
    const IrAttrs *attrs;
    const IrType *given; /* NULL when the caller gave none */
    IrType *out;
    uint32_t n_out;
    const char *why;
} Infer;

__attribute__((format(printf, 2, 3))) static bool fail(Infer *x, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    x->why = arena_vprintf(x->arena, format, args);
    va_end(args);
    return false;
}

static const char *text(const Infer *x, const IrType *type)
{
    return ir_type_text(x->arena, type);
}

static bool give(Infer *x, IrType type)
{
    x->out[x->n_out++] = type;
    return true;
}

static bool need_given(Infer *x)
{
    return x->given ? true : fail(x, "needs a result type");
}

static bool want_shape(Infer *x, uint32_t i, const IrType *like)
{
    if (ir_type_same_shape(x->in[i], like))
        return true;
    return fail(x, "operand %u is %s, expected the shape of %s", i + 1, text(x, x->in[i]), text(x, like));
}

static bool want_type(Infer *x, uint32_t i, IrType type)
{
    if (ir_type_equal(x->in[i], &type))
        return true;
    return fail(x, "operand %u is %s, expected %s", i + 1, text(x, x->in[i]), text(x, &type));
}

static bool want_float(Infer *x, uint32_t i)
{
    if (dtype_is_float((DType)x->in[i]->dtype))
        return true;
    return fail(x, "operand %u is %s, expected a float type", i + 1, text(x, x->in[i]));
}

/* A list attribute of exactly n entries, each in lo..hi. */
static const int64_t *ints_attr(Infer *x, IrAttrKey key, uint32_t n, int64_t lo, int64_t hi)
{
    const IrAttr *attr = ir_attrs_find(x->attrs, key);
    if (!attr || attr->n != n)
    {
        fail(x, "attribute '%s' has %u entries, expected %u", ir_attr_name(key), attr ? attr->n : 0, n);
        return NULL;
    }
    for (uint32_t i = 0; i < n; i++)
    {
        if (attr->ints[i] < lo || attr->ints[i] > hi)
        {
            fail(x, "attribute '%s' has %lld, expected %lld to %lld", ir_attr_name(key), (long long)attr->ints[i],
                 (long long)lo, (long long)hi);
            return NULL;
        }
    }
    static const int64_t none[1];
    return n ? attr->ints : none;
}

static bool axis_attr(Infer *x, int rank, int *out_axis)
{
    int64_t axis = ir_attrs_int(x->attrs, IR_ATTR_axis, -1);
    if (axis < 0 || axis >= rank)
        return fail(x, "axis %lld is outside 0..%d", (long long)axis, rank - 1);
    *out_axis = (int)axis;
    return true;
}

/* ---- leaves and effects */

static bool infer_given(Infer *x)
{
    return need_given(x) && give(x, *x->given);
}

static bool infer_given_global(Infer *x)
{
    const char *name = ir_attrs_str(x->attrs, IR_ATTR_global);
    IrGlobal global = name ? ir_global_find(x->m, name) : 0;
    if (!global)
        return fail(x, "no global \"%s\"", name ? name : "");
    const IrType *type = &ir_global(x->m, global)->type;
    if (x->given && !ir_type_equal(x->given, type))
        return fail(x, "global \"%s\" is %s, not %s", name, text(x, type), text(x, x->given));
    return give(x, *type);
}

static bool infer_set(Infer *x)
{
    const char *name = ir_attrs_str(x->attrs, IR_ATTR_global);
    IrGlobal global = name ? ir_global_find(x->m, name) : 0;
    if (!global)
        return fail(x, "no global \"%s\"", name ? name : "");
    if (ir_global(x->m, global)->kind == IR_GLOBAL_INPUT)
        return fail(x, "global \"%s\" is an input", name);
    return want_type(x, 0, ir_global(x->m, global)->type);
}

static bool infer_none(Infer *x)
{
    (void)x;
    return true;
}

/* One result of the type of each operand. */
static bool infer_each(Infer *x)
{
    for (uint32_t i = 0; i < x->n; i++)
        if (!want_type(x, i, ir_type_with_dtype(*x->in[i], DT_F32)) || !give(x, *x->in[i]))
            return false;
    return true;
}

static bool infer_call(Infer *x)
{
    const char *name = ir_attrs_str(x->attrs, IR_ATTR_fn);
    IrFunc fn = name ? ir_func_find(x->m, name) : 0;
    if (!fn || ir_func(x->m, fn)->kind != IR_FUNC_KERNEL)
        return fail(x, "no kernel @%s", name ? name : "");
    uint32_t n_args = 0;
    IR_FOR_OPS(x->m, fn, op)
    {
        const IrOpData *data = ir_op(x->m, op);
        if (data->code == IR_arg && n_args < x->n && !want_type(x, n_args, *ir_value_type(x->m, data->results[0])))
            return false;
        if (data->code == IR_arg)
            n_args++;
        else if (data->code == IR_output)
        {
            if (x->n_out == IR_MAX_RESULTS)
                return fail(x, "kernel @%s has more than %d outputs", name, IR_MAX_RESULTS);
            give(x, *ir_value_type(x->m, data->operands[0]));
        }
    }
    return n_args == x->n ? true : fail(x, "kernel @%s has %u args, the call has %u", name, n_args, x->n);
}

static bool infer_given_iota(Infer *x)
{
    int axis;
    if (!need_given(x) || !axis_attr(x, x->given->rank, &axis))
        return false;
    if (x->given->dtype != DT_I32 && x->given->dtype != DT_F32)
        return fail(x, "the result is %s, expected i32 or f32", text(x, x->given));
    return give(x, *x->given);
}

static bool want_random_operands(Infer *x, uint32_t at, int64_t n_rows)
{
    return want_type(x, at, ir_type(DT_I32, 1, (const int64_t[]){2})) &&
           want_type(x, at + 1, ir_type(DT_I32, 1, &n_rows));
}

static bool infer_given_random(Infer *x)
{
    if (!need_given(x))
        return false;
    if (x->given->dtype != DT_F32 || x->given->rank < 1)
        return fail(x, "the result is %s, expected f32 with a batch axis", text(x, x->given));
    return want_random_operands(x, 0, x->given->dims[0]) && give(x, *x->given);
}

/* ---- elementwise */

static bool all_equal(Infer *x)
{
    for (uint32_t i = 1; i < x->n; i++)
        if (!want_type(x, i, *x->in[0]))
            return false;
    return true;
}

static bool infer_same(Infer *x)
{
    if (x->in[0]->dtype == DT_BOOL || x->in[0]->dtype == DT_U8)
        return fail(x, "operand 1 is %s, expected numbers that can be computed with (cast it)", text(x, x->in[0]));
    return all_equal(x) && give(x, *x->in[0]);
}

static bool infer_logic(Infer *x)
{
    return want_type(x, 0, ir_type_with_dtype(*x->in[0], DT_BOOL)) && all_equal(x) && give(x, *x->in[0]);
}

static bool infer_compare(Infer *x)
{
    return all_equal(x) && give(x, ir_type_with_dtype(*x->in[0], DT_BOOL));
}

static bool infer_select(Infer *x)
{
    return want_type(x, 0, ir_type_with_dtype(*x->in[1], DT_BOOL)) && want_type(x, 2, *x->in[1]) && give(x, *x->in[1]);
}

static bool infer_given_cast(Infer *x)
{
    return need_given(x) && want_shape(x, 0, x->given) && give(x, *x->given);
}

/* ---- data movement */

static bool want_given_dtype(Infer *x)
{
    if (!need_given(x))
        return false;
    if (x->given->dtype != x->in[0]->dtype)
        return fail(x, "the result is %s of an operand %s", text(x, x->given), text(x, x->in[0]));
    return true;
}

static bool infer_given_reshape(Infer *x)
{
    if (!want_given_dtype(x))
        return false;
    if (ir_type_n_elems(x->given) != ir_type_n_elems(x->in[0]))
        return fail(x, "%s has not as many elements as %s", text(x, x->in[0]), text(x, x->given));
    return give(x, *x->given);
}

static bool infer_transpose(Infer *x)
{
    const IrType *a = x->in[0];
    const int64_t *perm = ints_attr(x, IR_ATTR_perm, a->rank, 0, a->rank - 1);
    if (!perm)
        return false;
    IrType out = *a;
    unsigned seen = 0;
    for (int i = 0; i < a->rank; i++)
    {
        out.dims[i] = a->dims[perm[i]];
        seen |= 1u << perm[i];
    }
    if (seen != (1u << a->rank) - 1)
        return fail(x, "'perm' is not a permutation");
    return give(x, out);
}

static bool infer_given_broadcast(Infer *x)
{
    const IrType *a = x->in[0];
    if (!want_given_dtype(x))
        return false;
    const int64_t *dims = ints_attr(x, IR_ATTR_dims, a->rank, 0, x->given->rank - 1);
    if (!dims)
        return false;
    for (int i = 0; i < a->rank; i++)
    {
        if (i > 0 && dims[i] <= dims[i - 1])
            return fail(x, "'dims' is not ascending");
        if (a->dims[i] != x->given->dims[dims[i]])
            return fail(x, "axis %d of %s does not fit axis %lld of %s", i, text(x, a), (long long)dims[i],
                        text(x, x->given));
    }
    return give(x, *x->given);
}

static bool infer_given_slice(Infer *x)
{
    const IrType *a = x->in[0];
    if (!want_given_dtype(x))
        return false;
    if (x->given->rank != a->rank)
        return fail(x, "a slice of %s cannot be %s", text(x, a), text(x, x->given));
    const int64_t *starts = ints_attr(x, IR_ATTR_starts, a->rank, 0, INT64_MAX);
    if (!starts)
        return false;
    for (int i = 0; i < a->rank; i++)
        if (starts[i] > a->dims[i] || x->given->dims[i] > a->dims[i] - starts[i])
            return fail(x, "axis %d: elements %lld to %lld of an extent of %lld", i, (long long)starts[i],
                        (long long)(starts[i] + x->given->dims[i] - 1), (long long)a->dims[i]);
    return give(x, *x->given);
}

enum
{
    MAX_PAD = 1 << 30
};

static bool infer_pad(Infer *x)
{
    IrType out = *x->in[0];
    const int64_t *lo = ints_attr(x, IR_ATTR_lo, out.rank, 0, MAX_PAD);
    const int64_t *hi = lo ? ints_attr(x, IR_ATTR_hi, out.rank, 0, MAX_PAD) : NULL;
    if (!hi)
        return false;
    for (int i = 0; i < out.rank; i++)
        out.dims[i] += lo[i] + hi[i];
    return give(x, out);
}

static bool infer_concat(Infer *x)
{
    IrType out = *x->in[0];
    int axis = 0; /* gcc cannot see that axis_attr sets it */
    if (!axis_attr(x, out.rank, &axis))
        return false;
    for (uint32_t i = 1; i < x->n; i++)
    {
        IrType want = out;
        want.dims[axis] = x->in[i]->rank == out.rank ? x->in[i]->dims[axis] : 0;
        if (x->in[i]->dtype != out.dtype || !ir_type_same_shape(x->in[i], &want))
            return fail(x, "operand %u is %s, which does not join %s along axis %d", i + 1, text(x, x->in[i]),
                        text(x, x->in[0]), axis);
        out.dims[axis] += x->in[i]->dims[axis];
    }
    return give(x, out);
}

static bool infer_gather(Infer *x)
{
    const IrType *table = x->in[0], *index = x->in[1];
    if (table->rank < 1 || table->rank - 1 + index->rank > IR_MAX_RANK)
        return fail(x, "cannot take rows of %s by %s", text(x, table), text(x, index));
    if (index->dtype != DT_I32)
        return fail(x, "operand 2 is %s, expected i32", text(x, index));
    IrType out = *index;
    out.dtype = table->dtype;
    for (int i = 1; i < table->rank; i++)
        out.dims[out.rank++] = table->dims[i];
    return give(x, out);
}

static bool infer_scatter_add(Infer *x)
{
    const IrType *index = x->in[0], *update = x->in[1];
    int64_t rows = ir_attrs_int(x->attrs, IR_ATTR_rows, 0);
    if (index->dtype != DT_I32 || rows < 1)
        return fail(x, "expected an i32 index and rows >= 1");
    if (update->rank < index->rank || update->rank - index->rank + 1 > IR_MAX_RANK || !dtype_is_float(update->dtype) ||
        memcmp(update->dims, index->dims, sizeof index->dims[0] * index->rank) != 0)
        return fail(x, "update %s does not fit index %s", text(x, update), text(x, index));
    IrType out = {.dtype = update->dtype, .rank = 1, .dims = {rows}};
    for (int i = index->rank; i < update->rank; i++)
        out.dims[out.rank++] = update->dims[i];
    const uint32_t n = ir_attrs_bool(x->attrs, IR_ATTR_residual) ? 3 : 2;
    if (x->n != n)
        return fail(x, "has %u operands, its attributes say %u", x->n, n);
    if (n == 3 && !want_type(x, 2, out))
        return false;
    return give(x, out);
}

/* ---- reductions and contractions */

static bool infer_reduce(Infer *x)
{
    const IrType *a = x->in[0];
    const IrAttr *axes = ir_attrs_find(x->attrs, IR_ATTR_axes);
    if (!axes || axes->n > a->rank)
        return fail(x, "attribute 'axes' does not fit %s", text(x, a));
    if (a->dtype == DT_BOOL || a->dtype == DT_U8)
        return fail(x, "operand 1 is %s, expected numbers that can be computed with (cast it)", text(x, a));
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
        return fail(x, "'axes' is not ascending within 0..%d", a->rank - 1);
    return give(x, out);
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

static bool infer_einsum(Infer *x)
{
    const char *expr = ir_attrs_str(x->attrs, IR_ATTR_expr);
    const char *letters[3];
    int n[3];
    if (!split_einsum(expr, &letters[0], &n[0], &letters[1], &n[1], &letters[2], &n[2]))
        return fail(x, "'%s' is not of the form \"ab,bc->ac\"", expr ? expr : "");
    int64_t extent[26] = {0};
    for (int k = 0; k < 2; k++)
    {
        if (n[k] != x->in[k]->rank)
            return fail(x, "operand %d is %s, but '%.*s' has %d axes", k + 1, text(x, x->in[k]), n[k], letters[k],
                        n[k]);
        unsigned seen = 0;
        for (int i = 0; i < n[k]; i++)
        {
            int letter = letters[k][i] - 'a';
            if (seen & 1u << letter)
                return fail(x, "axis '%c' is twice in operand %d", letters[k][i], k + 1);
            seen |= 1u << letter;
            int64_t dim = x->in[k]->dims[i];
            if (extent[letter] && extent[letter] != dim)
                return fail(x, "axis '%c' is %lld in operand 1 and %lld in operand 2", letters[k][i],
                            (long long)extent[letter], (long long)dim);
            extent[letter] = dim;
        }
    }
    if (x->in[0]->dtype != x->in[1]->dtype)
        return fail(x, "operands %s and %s differ in type", text(x, x->in[0]), text(x, x->in[1]));
    IrType out = {.dtype = product_dtype(x)};
    unsigned seen = 0;
    for (int i = 0; i < n[2]; i++)
    {
        int letter = letters[2][i] - 'a';
        if (!extent[letter] || seen & 1u << letter)
            return fail(x, "axis '%c' of the result is %s", letters[2][i],
                        extent[letter] ? "there twice" : "in no operand");
        seen |= 1u << letter;
        out.dims[out.rank++] = extent[letter];
    }
    return give(x, out);
}

static bool want_act(Infer *x)
{
    static const char *const acts[] = {
#define ACTIVATION(name, ...) #name,
#include "ir/activations.def"
#undef ACTIVATION
    };
    const char *act = ir_attrs_str(x->attrs, IR_ATTR_act);
    for (size_t i = 0; act && i < sizeof acts / sizeof *acts; i++)
        if (strcmp(act, acts[i]) == 0)
            return true;
    return act ? fail(x, "there is no activation '%s'", act) : true;
}

static bool infer_matmul(Infer *x)
{
    const IrType *a = x->in[0], *b = x->in[1];
    if (a->rank < 2 || a->rank != b->rank || a->dtype != b->dtype ||
        memcmp(a->dims, b->dims, sizeof a->dims[0] * (size_t)(a->rank - 2)) != 0)
        return fail(x, "cannot multiply %s by %s", text(x, a), text(x, b));
    int r = a->rank;
    bool ta = ir_attrs_bool(x->attrs, IR_ATTR_ta), tb = ir_attrs_bool(x->attrs, IR_ATTR_tb);
    int64_t rows = a->dims[ta ? r - 1 : r - 2], ka = a->dims[ta ? r - 2 : r - 1];
    int64_t kb = b->dims[tb ? r - 1 : r - 2], cols = b->dims[tb ? r - 2 : r - 1];
    if (ka != kb)
        return fail(x, "cannot multiply %s by %s: %lld against %lld", text(x, a), text(x, b), (long long)ka,
                    (long long)kb);
    if (!want_act(x))
        return false;
    IrType out = *a;
    out.dtype = product_dtype(x);
    out.dims[r - 2] = rows;
    out.dims[r - 1] = cols;
    uint32_t at = 2;
    if (ir_attrs_bool(x->attrs, IR_ATTR_bias))
    {
        if (at >= x->n)
            return fail(x, "the bias operand is missing");
        if (!want_type(x, at++, ir_type((DType)out.dtype, 1, &cols)))
            return false;
    }
    if (ir_attrs_bool(x->attrs, IR_ATTR_residual))
    {
        if (at >= x->n)
            return fail(x, "the residual operand is missing");
        if (!want_type(x, at++, out))
            return false;
    }
    if (at != x->n)
        return fail(x, "has %u operands, its attributes say %u", x->n, at);
    return give(x, out);
}

/* ---- composites */

static bool infer_softmax(Infer *x)
{
    if (x->in[0]->rank < 1)
        return fail(x, "operand 1 is %s, expected at least one axis", text(x, x->in[0]));
    return give(x, *x->in[0]);
}

static bool infer_norm(Infer *x)
{
    const IrType *a = x->in[0];
    if (a->rank < 1)
        return fail(x, "operand 1 is %s, expected at least one axis", text(x, a));
    for (uint32_t i = 1; i < x->n; i++)
        if (!want_type(x, i, ir_type((DType)a->dtype, 1, &a->dims[a->rank - 1])))
            return false;
    return give(x, *a);
}

static bool want_probability(Infer *x)
{
    double p = ir_attrs_float(x->attrs, IR_ATTR_p, 0);
    return p >= 0 && p < 1 ? true : fail(x, "p is %g, expected 0 <= p < 1", p);
}

static bool infer_dropout(Infer *x)
{
    const IrType *a = x->in[0];
    if (a->rank < 1)
        return fail(x, "operand 1 is %s, expected a batch axis", text(x, a));
    return want_probability(x) && want_random_operands(x, 1, a->dims[0]) && give(x, *a);
}

static bool infer_cross_entropy(Infer *x)
{
    IrType want = *x->in[0];
    if (want.rank < 1)
        return fail(x, "operand 1 is %s, expected at least one axis", text(x, &want));
    want.rank--;
    IrType out = want;
    want.dtype = DT_I32;
    return want_float(x, 0) && want_type(x, 1, want) && give(x, out);
}

/* q, k and v as operands of their own, or packed; *out_q is q's type, and k's when packed. */
static bool want_queries(Infer *x, IrType *out_q)
{
    const IrType *q = x->in[0];
    *out_q = *q;
    if (ir_attrs_bool(x->attrs, IR_ATTR_packed))
    {
        if (q->rank != 4 || q->dims[2] % 3 != 0)
            return fail(x, "operand 1 is %s, expected [B,T,3H,D]", text(x, q));
        out_q->dims[2] /= 3;
        return true;
    }
    const IrType *k = x->n > 1 ? x->in[1] : q;
    if (x->n < 3)
        return fail(x, "has %u operands, expected 3 or more", x->n);
    if (q->rank != 4 || k->rank != 4 || q->dims[0] != k->dims[0] || q->dims[3] != k->dims[3] ||
        q->dims[2] % k->dims[2] != 0 || q->dtype != k->dtype)
        return fail(x, "queries %s and keys %s do not fit (expected [B,T,H,D] and [B,S,G,D], H a multiple of G)",
                    text(x, q), text(x, k));
    return want_type(x, 2, *k);
}

/* Operands q, k, v (or packed: one) [, bias] [, key, sample]; *out_at is the index of what follows. */
static bool want_attention(Infer *x, IrType *out_q, uint32_t *out_at)
{
    if (!want_queries(x, out_q) || !want_probability(x))
        return false;
    if (ir_attrs_int(x->attrs, IR_ATTR_window, 0) < 0)
        return fail(x, "window is negative");
    const bool packed = ir_attrs_bool(x->attrs, IR_ATTR_packed);
    const IrType *q = out_q, *k = packed ? out_q : x->in[1];
    uint32_t at = packed ? 1 : 3;
    if (ir_attrs_bool(x->attrs, IR_ATTR_bias))
    {
        if (at >= x->n)
            return fail(x, "the bias operand is missing");
        const IrType *bias = x->in[at++];
        const int64_t full[4] = {q->dims[0], q->dims[2], q->dims[1], k->dims[1]};
        bool fits = bias->dtype == DT_F32 && bias->rank == 4 && bias->dims[3] == full[3];
        for (int i = 0; fits && i < 3; i++)
            fits = bias->dims[i] == 1 || bias->dims[i] == full[i];
        if (!fits)
            return fail(x, "bias %s does not fit scores f32[%lldx%lldx%lldx%lld]", text(x, bias), (long long)full[0],
                        (long long)full[1], (long long)full[2], (long long)full[3]);
    }
    if (ir_attrs_float(x->attrs, IR_ATTR_p, 0) > 0)
    {
        if (at + 2 > x->n)
            return fail(x, "dropout needs the operands key and sample");
        if (!want_random_operands(x, at, q->dims[0]))
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

static bool infer_attention(Infer *x)
{
    uint32_t at;
    IrType q;
    if (!want_attention(x, &q, &at))
        return false;
    if (at != x->n)
        return fail(x, "has %u operands, its attributes say %u", x->n, at);
    return give(x, q) && give(x, lse_type(&q));
}

static bool infer_attention_grad(Infer *x)
{
    uint32_t at;
    IrType q;
    if (!want_attention(x, &q, &at))
        return false;
    if (at + 3 != x->n)
        return fail(x, "has %u operands, its attributes say %u", x->n, at + 3);
    if (!want_type(x, at, q) || !want_type(x, at + 1, lse_type(&q)) || !want_type(x, at + 2, q) || !give(x, *x->in[0]))
        return false;
    return ir_attrs_bool(x->attrs, IR_ATTR_packed) || (give(x, *x->in[1]) && give(x, *x->in[2]));
}

/* ---- the table */

typedef bool InferRule(Infer *x);

#define SHAPE(rule) infer_##rule
static InferRule *const rules[] = {
    NULL,
#define OP(name, in, out, required, optional, shape, ...) shape,
#include "ir/ops.def"
#undef OP
};
#undef SHAPE

/* Extents are at least 1 and the size in bytes stays far from overflow. */
static bool sane_type(const IrType *type)
{
    int64_t n = 1;
    for (int i = 0; i < type->rank; i++)
    {
        if (type->dims[i] < 1 || type->dims[i] > IR_MAX_ELEMS / n)
            return false;
        n *= type->dims[i];
    }
    return true;
}

static bool want_attrs(Infer *x, const IrOpInfo *info)
{
    for (const IrAttrKey *key = info->required; *key; key++)
        if (!ir_attrs_find(x->attrs, *key))
            return fail(x, "attribute '%s' is missing", ir_attr_name(*key));
    for (uint32_t i = 0; i < x->attrs->len; i++)
    {
        bool known = false;
        for (const IrAttrKey *key = info->required; *key; key++)
            known = known || *key == x->attrs->data[i].key;
        for (const IrAttrKey *key = info->optional; *key; key++)
            known = known || *key == x->attrs->data[i].key;
        if (!known)
            return fail(x, "has no attribute '%s'", ir_attr_name(x->attrs->data[i].key));
    }
    return true;
}

bool ir_infer(Arena *arena, const IrModule *m, IrCode code, const IrValue *operands, uint32_t n_operands,
              const IrAttrs *attrs, const IrType *given, IrType *out_types, uint32_t *out_n_types, const char **out_why)
{
    const IrOpInfo *info = ir_op_info(code);
    const IrType *few[8];
    const IrType **in = n_operands <= 8 ? few : ARENA_ARRAY(arena, const IrType *, n_operands);
    for (uint32_t i = 0; i < n_operands; i++)
        in[i] = ir_value_type(m, operands[i]);
    Infer x = {.arena = arena,
               .m = m,
               .code = code,
               .n = n_operands,
               .in = in,
               .attrs = attrs,
               .given = given,
               .out = out_types};
    bool ok = true;
    if (n_operands < info->min_operands || n_operands > info->max_operands)
        ok = fail(&x, "has %u operands, expected %u%s", n_operands, info->min_operands,
                  info->max_operands > info->min_operands ? " or more" : "");
    ok = ok && want_attrs(&x, info);
    for (uint32_t i = 0; ok && (info->traits & IR_TRAIT_FLOAT) && i < n_operands; i++)
        if (info->traits & IR_TRAIT_EWISE)
            ok = want_float(&x, i);
    if (ok && (info->traits & IR_TRAIT_FLOAT) && n_operands)
        ok = want_float(&x, 0);
    ok = ok && rules[code](&x);
    for (uint32_t i = 0; ok && i < x.n_out; i++)
        if (!sane_type(&out_types[i]))
            ok = fail(&x, "the result %s is empty or too large", text(&x, &out_types[i]));
    *out_n_types = x.n_out;
    *out_why = ok ? NULL : x.why;
    return ok;
}
