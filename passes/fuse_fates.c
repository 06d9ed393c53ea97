/* What becomes of each op in pass fuse, and what reductions must look like for it. */
#include "passes/fuse.h"

#include "ir/builder.h"

enum
{
    MAX_SCALAR_COST = 8 /* ops of a scalar expression that is cheaper to repeat than to store */
};

bool fuse_is_column_reduction(const IrModule *m, const IrOpData *op)
{
    if (!ir_code_has(op->code, IR_TRAIT_REDUCE))
        return false;
    const IrAttr *axes = ir_attrs_find(&op->attrs, IR_ATTR_axes);
    return axes->n == ir_value_type(m, op->operands[0])->rank || axes->ints[axes->n - 1] == axes->n - 1;
}

/* ---- fates */

/* Cost of a scalar computed from loaded scalars by elementwise ops alone; more than the limit otherwise. */
static uint32_t scalar_cost(const FusePlan *plan, const uint32_t *costs, const IrOpData *op)
{
    const IrModule *m = plan->m;
    if (ir_type_n_elems(ir_value_type(m, op->results[0])) != 1)
        return MAX_SCALAR_COST + 1;
    uint32_t cost = 1;
    for (uint32_t i = 0; i < op->n_operands; i++)
    {
        IrOp def = ir_value(m, op->operands[i])->def;
        FuseFate fate = plan->fate[def];
        if (fate == FUSE_CLONED && ir_op(m, def)->n_operands)
            cost += costs[def] ? costs[def] : 1;
        else if (fate == FUSE_GROUPED || fate == FUSE_ROOT)
            cost += 2; /* one more argument */
    }
    return cost;
}

/* bf16 to f32: part of the load, so every kernel does it for itself. */
static bool is_widening(const IrModule *m, const IrOpData *op)
{
    return op->code == IR_cast && ir_value_type(m, op->results[0])->dtype == DT_F32 &&
           ir_value_type(m, op->operands[0])->dtype == DT_BF16;
}

bool fuse_keeps_elements(const IrModule *m, const IrOpData *op)
{
    return op->code == IR_reshape || is_widening(m, op);
}

static FuseFate fate_of(const FusePlan *plan, uint32_t *costs, IrOp op)
{
    const IrOpData *data = ir_op(plan->m, op);
    uint32_t traits = ir_op_info(data->code)->traits;
    if (data->code == IR_const || data->code == IR_iota || data->code == IR_random || (traits & IR_TRAIT_VIEW) ||
        is_widening(plan->m, data))
        return FUSE_CLONED;
    if (traits & IR_TRAIT_EWISE)
    {
        costs[op] = scalar_cost(plan, costs, data);
        return costs[op] <= MAX_SCALAR_COST ? FUSE_CLONED : FUSE_GROUPED;
    }
    if (traits & IR_TRAIT_REDUCE)
        return FUSE_GROUPED;
    return traits & IR_TRAIT_TEMPLATE ? FUSE_ROOT : FUSE_STAYS;
}

/* Something that is not a fused kernel reads memory: what it reads must be there. */
static void materialise(FusePlan *plan, IrValue value)
{
    IrOp def = ir_value(plan->m, value)->def;
    while (ir_op(plan->m, def)->code == IR_reshape)
        def = ir_value(plan->m, ir_op(plan->m, def)->operands[0])->def;
    if (plan->fate[def] != FUSE_CLONED)
        return;
    plan->fate[def] = ir_code_has(ir_op(plan->m, def)->code, IR_TRAIT_EWISE) ? FUSE_GROUPED : FUSE_ROOT;
}

void fuse_decide_fates(FusePlan *plan)
{
    const IrModule *m = plan->m;
    uint32_t *costs = ARENA_ARRAY(plan->scratch, uint32_t, m->ops.len);
    IR_FOR_OPS(m, plan->func, op)
    plan->fate[op] = fate_of(plan, costs, op);
    IR_FOR_OPS(m, plan->func, op)
    {
        const IrOpData *data = ir_op(m, op);
        bool reads_memory = plan->fate[op] == FUSE_STAYS || ir_code_has(data->code, IR_TRAIT_TEMPLATE);
        for (uint32_t i = 0; reads_memory && i < data->n_operands; i++)
            materialise(plan, data->operands[i]);
    }
}

/* ---- reductions over axes in the middle: move those axes to the end */

void fuse_normalise_reductions(IrModule *m, IrFunc func)
{
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData data = *ir_op(m, op);
        if (!ir_code_has(data.code, IR_TRAIT_REDUCE) || fuse_is_column_reduction(m, &data))
            continue;
        const IrAttr *axes = ir_attrs_find(&data.attrs, IR_ATTR_axes);
        int rank = ir_value_type(m, data.operands[0])->rank;
        int n_kept = rank - (int)axes->n;
        if (axes->ints[0] == n_kept) /* trailing already */
            continue;
        int64_t perm[IR_MAX_RANK], trailing[IR_MAX_RANK];
        int kept = 0, reduced = 0;
        for (int i = 0; i < rank; i++)
        {
            if (reduced < (int)axes->n && axes->ints[reduced] == i)
            {
                perm[n_kept + reduced] = i;
                trailing[reduced] = n_kept + reduced;
                reduced++;
            }
            else
                perm[kept++] = i;
        }
        IrBuilder b = ir_builder_before(m, op);
        IrValue moved = ir_build_transpose(&b, data.operands[0], perm);
        ir_op(m, op)->operands[0] = moved;
        ir_attrs_put(m->arena, &ir_op(m, op)->attrs, ir_attr_ints(IR_ATTR_axes, trailing, axes->n));
    }
}
