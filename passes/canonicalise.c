/* Canonical forms: constants folded (in f64), algebraic identities, views merged, operands of commuting ops ordered.
 *
 * One walk in program order; operands are replaced first, so a simplification is seen by what follows. A rule
 * returns the value that stands for the op's result, or 0. Only identities that are exact in floating point are used
 * (x + 0, x * 1, but not x * 0), except that constants are folded in f64. */
#include "passes/manager.h"

#include "ir/builder.h"
#include "ir/scalar_eval.h"

#include <math.h>
#include <string.h>

/* ---- constants */

static bool is_const(const IrModule *m, IrValue value, double *out_number)
{
    const IrOpData *def = ir_op(m, ir_value(m, value)->def);
    if (def->code != IR_const)
        return false;
    *out_number = ir_attrs_float(&def->attrs, IR_ATTR_value, 0);
    return true;
}

static bool is_number(const IrModule *m, IrValue value, double number)
{
    double found;
    return is_const(m, value, &found) && found == number;
}

static double round_to(DType dtype, double x)
{
    switch (dtype)
    {
    case DT_BOOL:
        return x != 0;
    case DT_I32:
    case DT_U8:
        return trunc(x);
    default:
        return x;
    }
}

static IrValue fold_elementwise(IrBuilder *b, const IrOpData *op)
{
    double x[3] = {0};
    for (uint32_t i = 0; i < op->n_operands; i++)
        if (!is_const(b->m, op->operands[i], &x[i]))
            return 0;
    double y;
    const IrType type = *ir_value_type(b->m, op->results[0]);
    if (!ir_scalar_eval(op->code, x[0], x[1], x[2], &y))
        return 0;
    y = round_to((DType)type.dtype, y);
    return isfinite(y) ? ir_build_const(b, type, y) : 0;
}

/* ---- rules */

typedef IrValue Rule(IrBuilder *b, const IrOpData *op);

static IrValue rule_add(IrBuilder *b, const IrOpData *op)
{
    return is_number(b->m, op->operands[1], 0) ? op->operands[0] : 0;
}

static IrValue rule_mul(IrBuilder *b, const IrOpData *op)
{
    if (is_number(b->m, op->operands[1], 1))
        return op->operands[0];
    return is_number(b->m, op->operands[1], -1) ? ir_build1(b, IR_neg, op->operands[0]) : 0;
}

static IrValue rule_div(IrBuilder *b, const IrOpData *op)
{
    return is_number(b->m, op->operands[1], 1) ? op->operands[0] : 0;
}

static const IrOpData *def_of(const IrModule *m, IrValue value)
{
    return ir_op(m, ir_value(m, value)->def);
}

static IrValue rule_neg(IrBuilder *b, const IrOpData *op)
{
    const IrOpData *inner = def_of(b->m, op->operands[0]);
    return inner->code == IR_neg ? inner->operands[0] : 0;
}

static IrValue rule_select(IrBuilder *b, const IrOpData *op)
{
    double condition;
    if (op->operands[1] == op->operands[2])
        return op->operands[1];
    if (!is_const(b->m, op->operands[0], &condition))
        return 0;
    return condition != 0 ? op->operands[1] : op->operands[2];
}

static IrValue rule_cast(IrBuilder *b, const IrOpData *op)
{
    double number;
    const IrType type = *ir_value_type(b->m, op->results[0]);
    if (ir_value_type(b->m, op->operands[0])->dtype == type.dtype)
        return op->operands[0];
    if (is_const(b->m, op->operands[0], &number) && type.dtype != DT_U8)
        return ir_build_const(b, type, round_to((DType)type.dtype, number));
    const IrOpData *inner = def_of(b->m, op->operands[0]); /* bf16 to f32 and back */
    const bool exact = inner->code == IR_cast && type.dtype == DT_BF16 &&
                       ir_value_type(b->m, op->operands[0])->dtype == DT_F32 &&
                       ir_value_type(b->m, inner->operands[0])->dtype == DT_BF16;
    return exact ? inner->operands[0] : 0;
}

/* A view of a constant is the constant in another shape. */
static IrValue view_of_const(IrBuilder *b, const IrOpData *op)
{
    double number;
    return is_const(b->m, op->operands[0], &number) ? ir_build_const(b, *ir_value_type(b->m, op->results[0]), number)
                                                    : 0;
}

static IrValue rule_reshape(IrBuilder *b, const IrOpData *op)
{
    const IrType type = *ir_value_type(b->m, op->results[0]);
    if (ir_type_equal(ir_value_type(b->m, op->operands[0]), &type))
        return op->operands[0];
    const IrOpData *inner = def_of(b->m, op->operands[0]);
    if (inner->code == IR_reshape)
        return ir_build_reshape(b, inner->operands[0], type);
    return view_of_const(b, op);
}

/* A transpose that only moves axes of extent 1 is a reshape. */
static bool keeps_order(const IrType *type, const int64_t *perm)
{
    int64_t last = -1;
    for (int i = 0; i < type->rank; i++)
    {
        if (type->dims[perm[i]] == 1)
            continue;
        if (perm[i] < last)
            return false;
        last = perm[i];
    }
    return true;
}

static IrValue rule_transpose(IrBuilder *b, const IrOpData *op)
{
    const IrType *type = ir_value_type(b->m, op->operands[0]);
    const int64_t *perm = ir_attrs_find(&op->attrs, IR_ATTR_perm)->ints;
    if (keeps_order(type, perm))
        return ir_build_reshape(b, op->operands[0], *ir_value_type(b->m, op->results[0]));
    const IrOpData *inner = def_of(b->m, op->operands[0]);
    if (inner->code == IR_transpose)
    {
        const int64_t *first = ir_attrs_find(&inner->attrs, IR_ATTR_perm)->ints;
        int64_t both[IR_MAX_RANK];
        for (int i = 0; i < type->rank; i++)
            both[i] = first[perm[i]];
        return ir_build_transpose(b, inner->operands[0], both);
    }
    return view_of_const(b, op);
}

static IrValue rule_broadcast(IrBuilder *b, const IrOpData *op)
{
    const IrType *from = ir_value_type(b->m, op->operands[0]);
    const IrType type = *ir_value_type(b->m, op->results[0]);
    if (ir_type_n_elems(from) == ir_type_n_elems(&type))
        return ir_build_reshape(b, op->operands[0], type);
    const IrOpData *inner = def_of(b->m, op->operands[0]);
    if (inner->code == IR_broadcast)
    {
        const int64_t *outer_dims = ir_attrs_find(&op->attrs, IR_ATTR_dims)->ints;
        const IrAttr *inner_dims = ir_attrs_find(&inner->attrs, IR_ATTR_dims);
        int64_t dims[IR_MAX_RANK];
        for (uint32_t i = 0; i < inner_dims->n; i++)
            dims[i] = outer_dims[inner_dims->ints[i]];
        return ir_build_broadcast(b, inner->operands[0], type, dims);
    }
    return view_of_const(b, op);
}

static IrValue rule_slice(IrBuilder *b, const IrOpData *op)
{
    if (ir_type_equal(ir_value_type(b->m, op->operands[0]), ir_value_type(b->m, op->results[0])))
        return op->operands[0];
    return view_of_const(b, op);
}

static IrValue rule_concat(IrBuilder *b, const IrOpData *op)
{
    (void)b;
    return op->n_operands == 1 ? op->operands[0] : 0;
}

/* Over axes of extent 1 only, or none: a reshape. */
static IrValue rule_reduce(IrBuilder *b, const IrOpData *op)
{
    const IrType *from = ir_value_type(b->m, op->operands[0]);
    const IrType type = *ir_value_type(b->m, op->results[0]);
    return ir_type_n_elems(from) == ir_type_n_elems(&type) ? ir_build_reshape(b, op->operands[0], type) : 0;
}

static Rule *const rules[IR_CODE_COUNT] = {
    [IR_add] = rule_add,
    [IR_sub] = rule_add,
    [IR_mul] = rule_mul,
    [IR_div] = rule_div,
    [IR_neg] = rule_neg,
    [IR_select] = rule_select,
    [IR_cast] = rule_cast,
    [IR_reshape] = rule_reshape,
    [IR_transpose] = rule_transpose,
    [IR_broadcast] = rule_broadcast,
    [IR_slice] = rule_slice,
    [IR_concat] = rule_concat,
    [IR_reduce_sum] = rule_reduce,
    [IR_reduce_max] = rule_reduce,
    [IR_reduce_min] = rule_reduce,
};

/* ---- the walk */

/* Of a commuting op the constant comes last, otherwise the value made first comes first. */
static void order_operands(const IrModule *m, IrOpData *op)
{
    double number;
    IrValue x = op->operands[0], y = op->operands[1];
    bool x_const = is_const(m, x, &number), y_const = is_const(m, y, &number);
    if (x_const != y_const ? x_const : x > y)
    {
        op->operands[0] = y;
        op->operands[1] = x;
    }
}

static IrValue simplify(IrModule *m, IrOp op)
{
    const IrOpData data = *ir_op(m, op); /* rules may grow the op table */
    IrBuilder b = ir_builder_before(m, op);
    IrValue simple = 0;
    if (ir_code_has(data.code, IR_TRAIT_EWISE) && data.code != IR_cast)
        simple = fold_elementwise(&b, &data);
    if (!simple && rules[data.code])
        simple = rules[data.code](&b, &data);
    return simple;
}

/* New ops a rule made may have a simpler form themselves. */
static IrValue simplify_fully(IrModule *m, IrOp op)
{
    IrValue value = simplify(m, op);
    while (value)
    {
        IrOp def = ir_value(m, value)->def;
        IrValue simpler = ir_op(m, def)->n_results == 1 ? simplify(m, def) : 0;
        if (!simpler)
            break;
        value = simpler;
    }
    return value;
}

static void canonicalise_function(PassContext *ctx, IrFunc func)
{
    IrModule *m = ctx->m;
    VEC(IrValue) map = {0}; /* grows with the values that the rules make */
    for (IrOp op = ir_func(m, func)->first, next; op; op = next)
    {
        IrOpData *data = ir_op(m, op);
        next = data->next;
        for (uint32_t i = 0; i < data->n_operands; i++)
            if (data->operands[i] < map.len && map.data[data->operands[i]])
                data->operands[i] = map.data[data->operands[i]];
        if (ir_code_has(data->code, IR_TRAIT_COMMUTES))
            order_operands(m, data);
        if (data->n_results != 1)
            continue;
        IrValue result = data->results[0];
        IrValue simple = simplify_fully(m, op);
        if (!simple || simple == result)
            continue;
        while (map.len < m->values.len)
            vec_push(ctx->scratch, &map, 0);
        map.data[result] = simple;
        ir_op_remove(m, op);
    }
}

bool pass_canonicalise(PassContext *ctx)
{
    IR_FOR_FUNCS(ctx->m, f)
    canonicalise_function(ctx, f);
    return true;
}
