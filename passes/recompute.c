/* Recompute what is cheap: elementwise forward values that only fusable backward ops read are computed again there
 * instead of being kept in memory from the forward pass on (a normalised activation from its input and row
 * statistics, a dropout mask from its random stream).
 *
 * Entry: LOWERED. A value is computed again when every tensor that this takes is needed in the backward pass
 * anyway, or when it takes only one full-sized tensor in exchange; never through reductions, contractions or costly
 * ops.
 *
 * Every unit decides by itself: what it reads of another one is taken to be in memory, since it may be received, or
 * come from the cache. So kernels are the same wherever a pipeline is cut. */
#include "passes/manager.h"

#include "ir/builder.h"
#include "passes/cache_prefix.h"
#include "passes/movable.h"

enum
{
    MAX_DEPTH = 24
};

typedef struct
{
    IrModule *m;
    Arena *scratch;
    IrUses uses;
    bool *saved;    /* by value: a backward op of its unit reads it from memory whatever we do */
    bool *movable;  /* by value: it is made of inputs, where it is needed */
    IrValue *again; /* by value: its copy in the backward phase */
    uint32_t n_values;
} Recompute;

static bool is_cheap(const IrModule *m, IrOp op)
{
    const IrOpData *data = ir_op(m, op);
    uint32_t traits = ir_op_info(data->code)->traits;
    if (traits & (IR_TRAIT_COSTLY | IR_TRAIT_EFFECT))
        return false;
    return (traits & (IR_TRAIT_EWISE | IR_TRAIT_VIEW | IR_TRAIT_RANDOM)) || data->code == IR_const ||
           data->code == IR_iota;
}

/* Fusable with what feeds it. */
static bool reads_registers(const IrModule *m, IrOp op)
{
    return ir_code_has(ir_op(m, op)->code, IR_TRAIT_EWISE | IR_TRAIT_REDUCE | IR_TRAIT_VIEW);
}

static bool crosses(const Recompute *r, IrValue value, uint32_t unit)
{
    return !r->movable[value] && ir_op(r->m, ir_value(r->m, value)->def)->unit != unit;
}

/* For an op of this unit. */
static bool in_memory_anyway(const Recompute *r, IrValue value, uint32_t unit)
{
    return r->saved[value] || ir_value_code(r->m, value) == IR_get || crosses(r, value, unit);
}

/* passes/movable.h, but what comes from the cache stands for a value that was made here. */
static void find_movable(Recompute *r, IrFunc func)
{
    const IrModule *m = r->m;
    movable_values(m, func, r->movable);
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData *data = ir_op(m, op);
        bool of_border = data->code == IR_get && cache_prefix_is_border(ir_attrs_str(&data->attrs, IR_ATTR_global));
        for (uint32_t i = 0; i < data->n_operands; i++)
            of_border = of_border || !r->movable[data->operands[i]];
        for (uint32_t i = 0; i < data->n_results && of_border; i++)
            r->movable[data->results[i]] = false;
    }
}

/* Adds the full-sized tensors that computing value again would have to keep. */
static int extra_tensors(const Recompute *r, IrValue value, uint32_t unit, int64_t n_elems, int depth)
{
    IrOp def = ir_value(r->m, value)->def;
    if (depth > 0 && in_memory_anyway(r, value, unit))
        return 0;
    if (!is_cheap(r->m, def))
        return ir_type_n_elems(ir_value_type(r->m, value)) * 8 > n_elems ? 1 : 0;
    if (depth == MAX_DEPTH)
        return 2;
    int n = 0;
    for (uint32_t i = 0; i < ir_op(r->m, def)->n_operands && n < 2; i++)
        n += extra_tensors(r, ir_op(r->m, def)->operands[i], ir_op(r->m, def)->unit, n_elems, depth + 1);
    return n;
}

static IrValue compute_again(Recompute *r, IrBuilder *b, IrValue value, uint32_t unit)
{
    IrOp def = ir_value(r->m, value)->def;
    if (crosses(r, value, unit))
        return value;
    if (r->again[value])
        return r->again[value];
    if (in_memory_anyway(r, value, unit) || !is_cheap(r->m, def))
        return value;
    uint32_t n = ir_op(r->m, def)->n_operands;
    IrValue *operands = ARENA_ARRAY(r->scratch, IrValue, n);
    for (uint32_t i = 0; i < n; i++)
        operands[i] = compute_again(r, b, ir_op(r->m, def)->operands[i], ir_op(r->m, def)->unit);
    b->unit = ir_op(r->m, def)->unit;
    IrOp clone = ir_build_clone(b, def, operands);
    return r->again[value] = ir_op_result(r->m, clone, 0);
}

/* What backward ops that cannot be fused read is kept; a view of it is kept with it. */
static void mark_saved(Recompute *r, IrValue value)
{
    r->saved[value] = true;
    const IrOpData *def = ir_op(r->m, ir_value(r->m, value)->def);
    if (def->code == IR_reshape && !r->saved[def->operands[0]] && !crosses(r, def->operands[0], def->unit))
        mark_saved(r, def->operands[0]);
}

/* The first backward op; 0: none. */
static IrOp find_saved(Recompute *r, IrFunc func)
{
    const IrModule *m = r->m;
    IrOp first_backward = 0;
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData *data = ir_op(m, op);
        if (data->phase != IR_PHASE_BACKWARD)
            continue;
        if (!first_backward)
            first_backward = op;
        for (uint32_t i = 0; i < data->n_operands && !reads_registers(m, op); i++)
            if (!crosses(r, data->operands[i], data->unit))
                mark_saved(r, data->operands[i]);
    }
    /* what the kept results of forward reductions and contractions cost is paid already */
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData *data = ir_op(m, op);
        if (data->phase != IR_PHASE_BACKWARD || !reads_registers(m, op))
            continue;
        for (uint32_t i = 0; i < data->n_operands; i++)
        {
            const IrOp def = ir_value(m, data->operands[i])->def;
            if (ir_op(m, def)->phase == IR_PHASE_FORWARD && !crosses(r, data->operands[i], data->unit) &&
                !is_cheap(m, def))
                r->saved[data->operands[i]] = true;
        }
    }
    return first_backward;
}

static void recompute_function(PassContext *ctx, IrFunc func)
{
    IrModule *m = ctx->m;
    Recompute r = {.m = m,
                   .scratch = ctx->scratch,
                   .uses = ir_uses_build(ctx->scratch, m, func),
                   .saved = ARENA_ARRAY(ctx->scratch, bool, m->values.len),
                   .movable = ARENA_ARRAY(ctx->scratch, bool, m->values.len),
                   .again = ARENA_ARRAY(ctx->scratch, IrValue, m->values.len),
                   .n_values = m->values.len};
    find_movable(&r, func);
    const IrOp first_backward = find_saved(&r, func);
    for (IrOp op = first_backward; op; op = ir_op(m, op)->next)
    {
        const uint32_t unit = ir_op(m, op)->unit;
        if (ir_op(m, op)->phase != IR_PHASE_BACKWARD || !reads_registers(m, op))
            continue;
        for (uint32_t i = 0; i < ir_op(m, op)->n_operands; i++)
        {
            IrValue value = ir_op(m, op)->operands[i];
            if (value >= r.n_values)
                continue;
            IrOp def = ir_value(m, value)->def;
            if (ir_op(m, def)->phase != IR_PHASE_FORWARD || r.saved[value] || crosses(&r, value, unit) ||
                !is_cheap(m, def) || extra_tensors(&r, value, unit, ir_type_n_elems(ir_value_type(m, value)), 0) > 1)
                continue;
            IrBuilder b = ir_builder_before(m, first_backward);
            b.phase = IR_PHASE_BACKWARD;
            IrValue again = compute_again(&r, &b, value, unit);
            ir_op(m, op)->operands[i] = again;
        }
    }
}

bool pass_recompute(PassContext *ctx)
{
    IR_FOR_FUNCS(ctx->m, f)
    if (ir_func(ctx->m, f)->kind == IR_FUNC_STEP)
        recompute_function(ctx, f);
    return true;
}
