/* Result types of ops that move data. */
#include "ir/infer_rules.h"

#include <string.h>

static bool want_given_dtype(Infer *x)
{
    if (!infer_need_given(x))
        return false;
    if (x->given->dtype != x->in[0]->dtype)
        return infer_fail(x, "the result is %s of an operand %s", infer_text(x, x->given), infer_text(x, x->in[0]));
    return true;
}

bool infer_given_reshape(Infer *x)
{
    if (!want_given_dtype(x))
        return false;
    if (ir_type_n_elems(x->given) != ir_type_n_elems(x->in[0]))
        return infer_fail(x, "%s has not as many elements as %s", infer_text(x, x->in[0]), infer_text(x, x->given));
    return infer_give(x, *x->given);
}

bool infer_transpose(Infer *x)
{
    const IrType *a = x->in[0];
    const int64_t *perm = infer_ints_attr(x, IR_ATTR_perm, a->rank, 0, a->rank - 1);
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
        return infer_fail(x, "'perm' is not a permutation");
    return infer_give(x, out);
}

bool infer_given_broadcast(Infer *x)
{
    const IrType *a = x->in[0];
    if (!want_given_dtype(x))
        return false;
    const int64_t *dims = infer_ints_attr(x, IR_ATTR_dims, a->rank, 0, x->given->rank - 1);
    if (!dims)
        return false;
    for (int i = 0; i < a->rank; i++)
    {
        if (i > 0 && dims[i] <= dims[i - 1])
            return infer_fail(x, "'dims' is not ascending");
        if (a->dims[i] != x->given->dims[dims[i]])
            return infer_fail(x, "axis %d of %s does not fit axis %lld of %s", i, infer_text(x, a), (long long)dims[i],
                              infer_text(x, x->given));
    }
    return infer_give(x, *x->given);
}

bool infer_given_slice(Infer *x)
{
    const IrType *a = x->in[0];
    if (!want_given_dtype(x))
        return false;
    if (x->given->rank != a->rank)
        return infer_fail(x, "a slice of %s cannot be %s", infer_text(x, a), infer_text(x, x->given));
    const int64_t *starts = infer_ints_attr(x, IR_ATTR_starts, a->rank, 0, INT64_MAX);
    if (!starts)
        return false;
    for (int i = 0; i < a->rank; i++)
        if (starts[i] > a->dims[i] || x->given->dims[i] > a->dims[i] - starts[i])
            return infer_fail(x, "axis %d: elements %lld to %lld of an extent of %lld", i, (long long)starts[i],
                              (long long)(starts[i] + x->given->dims[i] - 1), (long long)a->dims[i]);
    return infer_give(x, *x->given);
}

enum
{
    MAX_PAD = 1 << 30
};

bool infer_pad(Infer *x)
{
    IrType out = *x->in[0];
    const int64_t *lo = infer_ints_attr(x, IR_ATTR_lo, out.rank, 0, MAX_PAD);
    const int64_t *hi = lo ? infer_ints_attr(x, IR_ATTR_hi, out.rank, 0, MAX_PAD) : NULL;
    if (!hi)
        return false;
    for (int i = 0; i < out.rank; i++)
        out.dims[i] += lo[i] + hi[i];
    return infer_give(x, out);
}

bool infer_concat(Infer *x)
{
    IrType out = *x->in[0];
    int axis = 0; /* gcc cannot see that axis_attr sets it */
    if (!infer_axis_attr(x, out.rank, &axis))
        return false;
    for (uint32_t i = 1; i < x->n; i++)
    {
        IrType want = out;
        want.dims[axis] = x->in[i]->rank == out.rank ? x->in[i]->dims[axis] : 0;
        if (x->in[i]->dtype != out.dtype || !ir_type_same_shape(x->in[i], &want))
            return infer_fail(x, "operand %u is %s, which does not join %s along axis %d", i + 1,
                              infer_text(x, x->in[i]), infer_text(x, x->in[0]), axis);
        out.dims[axis] += x->in[i]->dims[axis];
    }
    return infer_give(x, out);
}

bool infer_gather(Infer *x)
{
    const IrType *table = x->in[0], *index = x->in[1];
    if (table->rank < 1 || table->rank - 1 + index->rank > IR_MAX_RANK)
        return infer_fail(x, "cannot take rows of %s by %s", infer_text(x, table), infer_text(x, index));
    if (index->dtype != DT_I32)
        return infer_fail(x, "operand 2 is %s, expected i32", infer_text(x, index));
    IrType out = *index;
    out.dtype = table->dtype;
    for (int i = 1; i < table->rank; i++)
        out.dims[out.rank++] = table->dims[i];
    return infer_give(x, out);
}

bool infer_scatter_add(Infer *x)
{
    const IrType *index = x->in[0], *update = x->in[1];
    int64_t rows = ir_attrs_int(x->attrs, IR_ATTR_rows, 0);
    if (index->dtype != DT_I32 || rows < 1)
        return infer_fail(x, "expected an i32 index and rows >= 1");
    if (update->rank < index->rank || update->rank - index->rank + 1 > IR_MAX_RANK || !dtype_is_float(update->dtype) ||
        memcmp(update->dims, index->dims, sizeof index->dims[0] * index->rank) != 0)
        return infer_fail(x, "update %s does not fit index %s", infer_text(x, update), infer_text(x, index));
    IrType out = {.dtype = update->dtype, .rank = 1, .dims = {rows}};
    for (int i = index->rank; i < update->rank; i++)
        out.dims[out.rank++] = update->dims[i];
    const uint32_t n = ir_attrs_bool(x->attrs, IR_ATTR_residual) ? 3 : 2;
    if (x->n != n)
        return infer_fail(x, "has %u operands, its attributes say %u", x->n, n);
    if (n == 3 && !infer_want_type(x, 2, out))
        return false;
    return infer_give(x, out);
}
