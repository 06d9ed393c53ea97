/* @eval: a copy of the forward @train without anything random. Runs before autodiff. A module that brings its own @eval
 * keeps it. The outputs NAME.rows of metrics (ir/metrics.def) are @eval's alone. What the removed dropouts and outputs
 * alone used is left for dce. */
#include "passes/manager.h"
#include "passes/strip_random.h"

#include "ir/metric.h"

static void remove_rows(IrModule *m, IrFunc train)
{
    for (IrOp op = ir_func(m, train)->first, next; op; op = next)
    {
        const IrOpData *data = ir_op(m, op);
        next = data->next;
        if (data->code != IR_set)
            continue;
        const char *name = ir_attrs_str(&data->attrs, IR_ATTR_global);
        if (ir_metric_is_rows(name) && ir_global(m, ir_global_find(m, name))->kind == IR_GLOBAL_OUTPUT)
            ir_op_remove(m, op);
    }
}

bool pass_make_eval(PassContext *ctx)
{
    IrModule *m = ctx->m;
    IrFunc train = ir_func_find(m, "train");
    if (!train || ir_func_find(m, "eval"))
        return true;
    IrFunc eval = ir_func_clone(m, train, "eval");
    ir_func(m, eval)->attrs = (IrAttrs){0}; /* they are about the optimizer */
    strip_random(ctx->scratch, m, eval, UINT32_MAX);
    remove_rows(m, train);
    return true;
}
