/* Dead code elimination: one walk from the end; an op stays when it has an effect or a live result. Kernels that
 * are no longer called go too. */
#include "passes/manager.h"

static void sweep_function(IrModule *m, IrFunc func, bool *live)
{
    for (IrOp op = ir_func(m, func)->last, prev; op; op = prev)
    {
        IrOpData *data = ir_op(m, op);
        prev = data->prev;
        bool keep = ir_code_has(data->code, IR_TRAIT_EFFECT);
        for (uint32_t i = 0; i < data->n_results; i++)
            keep = keep || live[data->results[i]];
        if (!keep)
            ir_op_remove(m, op);
        for (uint32_t i = 0; keep && i < data->n_operands; i++)
            live[data->operands[i]] = true;
    }
}

bool pass_dce(PassContext *ctx)
{
    IrModule *m = ctx->m;
    bool *live = ARENA_ARRAY(ctx->scratch, bool, m->values.len);
    bool *called = ARENA_ARRAY(ctx->scratch, bool, m->funcs.len);
    IR_FOR_FUNCS(m, f)
    {
        sweep_function(m, f, live);
        IR_FOR_OPS(m, f, op)
        if (ir_op(m, op)->code == IR_call)
            called[ir_func_find(m, ir_attrs_str(&ir_op(m, op)->attrs, IR_ATTR_fn))] = true;
    }
    IR_FOR_FUNCS(m, f)
    if (ir_func(m, f)->kind == IR_FUNC_KERNEL && !called[f])
        ir_func_remove(m, f);
    return true;
}
