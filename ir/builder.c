/* Builds ops with inferred and checked types. */
#include "ir/builder.h"

#include "base/bug.h"

IrBuilder ir_builder(IrModule *m, IrFunc func)
{
    return (IrBuilder){.m = m, .func = func};
}

IrBuilder ir_builder_before(IrModule *m, IrOp op)
{
    const IrOpData *data = ir_op(m, op);
    return (IrBuilder){
        .m = m, .func = data->func, .before = op, .span = data->span, .unit = data->unit, .phase = data->phase};
}

IrOp ir_try_op(IrBuilder *b, IrCode code, const IrType *given, const IrValue *operands, uint32_t n_operands,
               const IrAttr *attrs, uint32_t n_attrs, const char **out_why)
{
    IrAttrs list = ir_attrs_copy(b->m->arena, attrs, n_attrs);
    IrType types[IR_MAX_RESULTS];
    uint32_t n_types = 0;
    if (!ir_infer(b->m->arena, b->m, code, operands, n_operands, &list, given, types, &n_types, out_why))
        return 0;
    IrOp op = ir_op_insert(b->m, b->func, b->before, code, operands, n_operands, types, n_types, attrs, n_attrs);
    IrOpData *data = ir_op(b->m, op);
    data->span = b->span;
    data->unit = b->unit;
    data->phase = b->phase;
    return op;
}

IrValue ir_build_op(IrBuilder *b, IrCode code, const IrType *given, const IrValue *operands, uint32_t n_operands,
                    const IrAttr *attrs, uint32_t n_attrs)
{
    const char *why;
    IrOp op = ir_try_op(b, code, given, operands, n_operands, attrs, n_attrs, &why);
    if (!op)
        BUG("%s: %s", ir_op_info(code)->name, why);
    return ir_op(b->m, op)->n_results ? ir_op_result(b->m, op, 0) : 0;
}

IrValue ir_build1(IrBuilder *b, IrCode code, IrValue a)
{
    return ir_build_op(b, code, NULL, &a, 1, NULL, 0);
}

IrValue ir_build2(IrBuilder *b, IrCode code, IrValue x, IrValue y)
{
    return ir_build_op(b, code, NULL, (const IrValue[]){x, y}, 2, NULL, 0);
}

IrValue ir_build3(IrBuilder *b, IrCode code, IrValue x, IrValue y, IrValue z)
{
    return ir_build_op(b, code, NULL, (const IrValue[]){x, y, z}, 3, NULL, 0);
}

IrValue ir_build_const(IrBuilder *b, IrType type, double value)
{
    IrAttr attr = ir_attr_float(IR_ATTR_value, value);
    return ir_build_op(b, IR_const, &type, NULL, 0, &attr, 1);
}

IrValue ir_build_cast(IrBuilder *b, IrValue a, DType dtype)
{
    IrType type = ir_type_with_dtype(*ir_value_type(b->m, a), dtype);
    return ir_value_type(b->m, a)->dtype == dtype ? a : ir_build_op(b, IR_cast, &type, &a, 1, NULL, 0);
}

IrValue ir_build_get(IrBuilder *b, const char *global)
{
    IrAttr attr = ir_attr_str(IR_ATTR_global, global);
    return ir_build_op(b, IR_get, NULL, NULL, 0, &attr, 1);
}

void ir_build_set(IrBuilder *b, const char *global, IrValue value)
{
    IrAttr attr = ir_attr_str(IR_ATTR_global, global);
    ir_build_op(b, IR_set, NULL, &value, 1, &attr, 1);
}

IrValue ir_build_reshape(IrBuilder *b, IrValue a, IrType type)
{
    if (ir_type_equal(ir_value_type(b->m, a), &type))
        return a;
    return ir_build_op(b, IR_reshape, &type, &a, 1, NULL, 0);
}

IrValue ir_build_transpose(IrBuilder *b, IrValue a, const int64_t *perm)
{
    int rank = ir_value_type(b->m, a)->rank;
    bool moves = false;
    for (int i = 0; i < rank; i++)
        moves = moves || perm[i] != i;
    IrAttr attr = ir_attr_ints(IR_ATTR_perm, perm, (uint32_t)rank);
    return moves ? ir_build_op(b, IR_transpose, NULL, &a, 1, &attr, 1) : a;
}

IrValue ir_build_broadcast(IrBuilder *b, IrValue a, IrType type, const int64_t *dims)
{
    if (ir_type_equal(ir_value_type(b->m, a), &type))
        return a;
    IrAttr attr = ir_attr_ints(IR_ATTR_dims, dims, ir_value_type(b->m, a)->rank);
    return ir_build_op(b, IR_broadcast, &type, &a, 1, &attr, 1);
}

IrValue ir_build_reduce(IrBuilder *b, IrCode code, IrValue a, const int64_t *axes, uint32_t n_axes)
{
    IrAttr attr = ir_attr_ints(IR_ATTR_axes, axes, n_axes);
    return n_axes ? ir_build_op(b, code, NULL, &a, 1, &attr, 1) : a;
}

IrValue ir_build_reduce_last(IrBuilder *b, IrCode code, IrValue a)
{
    int64_t axis = ir_value_type(b->m, a)->rank - 1;
    return ir_build_reduce(b, code, a, &axis, 1);
}

static const int64_t first_axes[IR_MAX_RANK] = {0, 1, 2, 3, 4, 5, 6, 7};

IrValue ir_build_spread_last(IrBuilder *b, IrValue a, const IrType *like)
{
    return ir_build_broadcast(b, a, ir_type_with_dtype(*like, (DType)ir_value_type(b->m, a)->dtype), first_axes);
}

IrValue ir_build_stretch(IrBuilder *b, IrValue a, const IrType *to)
{
    IrType from = *ir_value_type(b->m, a);
    IrType squeezed = {.dtype = from.dtype}; /* without the axes of 1 that are to be stretched */
    int64_t dims[IR_MAX_RANK];
    if (from.rank > to->rank)
        return 0;
    for (int i = 0; i < from.rank; i++)
    {
        int at = to->rank - from.rank + i;
        if (from.dims[i] == to->dims[at])
        {
            dims[squeezed.rank] = at;
            squeezed.dims[squeezed.rank++] = from.dims[i];
        }
        else if (from.dims[i] != 1)
            return 0;
    }
    IrType type = ir_type_with_dtype(*to, (DType)from.dtype);
    return ir_build_broadcast(b, ir_build_reshape(b, a, squeezed), type, dims);
}

IrOp ir_build_clone(IrBuilder *b, IrOp op, const IrValue *operands)
{
    const IrOpData old = *ir_op(b->m, op);
    IrType types[IR_MAX_RESULTS];
    for (uint32_t i = 0; i < old.n_results; i++)
        types[i] = *ir_value_type(b->m, old.results[i]);
    IrOp copy = ir_op_insert(b->m, b->func, b->before, old.code, operands, old.n_operands, types, old.n_results,
                             old.attrs.data, old.attrs.len);
    IrOpData *data = ir_op(b->m, copy);
    data->span = old.span;
    data->unit = old.unit;
    data->phase = b->phase;
    return copy;
}
