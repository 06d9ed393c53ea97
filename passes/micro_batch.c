/* Makes the loss and the metrics of @train sums over the micro-batches of a step, when there are several: the outputs
 * "X.sum" and "X.weight" are set to `accumulate` of what one micro-batch gives, and "loss" is their quotient.
 *
 * What depends on an accumulate belongs to phase OPTIMIZER: it is done once a step, after the last micro-batch. */
#include "passes/manager.h"

#include "ir/builder.h"

#include <string.h>

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), n_end = strlen(end);
    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

static IrBuilder once_a_step(IrModule *m, IrOp like)
{
    IrBuilder b = ir_builder_before(m, like);
    b.before = 0;
    b.phase = IR_PHASE_OPTIMIZER;
    return b;
}

static void set_once_a_step(IrModule *m, IrOp set, IrValue value)
{
    ir_op(m, set)->operands[0] = value;
    ir_op(m, set)->phase = IR_PHASE_OPTIMIZER;
    ir_op_move(m, set, 0);
}

static IrValue accumulated(IrModule *m, IrOp set)
{
    IrBuilder b = once_a_step(m, set);
    IrValue sum = ir_build1(&b, IR_accumulate, ir_op(m, set)->operands[0]);
    set_once_a_step(m, set, sum);
    return sum;
}

bool pass_micro_batch(PassContext *ctx)
{
    IrModule *m = ctx->m;
    IrFunc train = ir_func_find(m, "train");
    if (!train || ir_attrs_int(&ir_func(m, train)->attrs, IR_ATTR_micro_batches, 1) <= 1)
        return true;
    VEC(IrOp) sets = {0};
    IR_FOR_OPS(m, train, op)
    if (ir_op(m, op)->code == IR_set)
        vec_push(ctx->scratch, &sets, op);
    IrOp loss = 0;
    IrValue sum = 0, weight = 0;
    for (uint32_t i = 0; i < sets.len; i++)
    {
        IrOp op = sets.data[i];
        const char *name = ir_attrs_str(&ir_op(m, op)->attrs, IR_ATTR_global);
        if (strcmp(name, "loss") == 0)
            loss = op;
        else if (strcmp(name, "loss.sum") == 0)
            sum = accumulated(m, op);
        else if (strcmp(name, "loss.weight") == 0)
            weight = accumulated(m, op);
        else if (ends_with(name, ".sum") || ends_with(name, ".weight"))
            accumulated(m, op);
        else
        {
            diag_error(ctx->diag, ir_op(m, op)->span, "\"%s\" is no sum: it cannot be added over micro-batches", name);
            return false;
        }
    }
    if (!loss || !sum || !weight)
    {
        diag_error(ctx->diag, (Span){0},
                   "several micro-batches want a @train that sets \"loss\", \"loss.sum\" and \"loss.weight\"");
        return false;
    }
    IrBuilder b = once_a_step(m, loss);
    IrValue tiny = ir_build_const(&b, *ir_value_type(m, weight), 1e-20);
    set_once_a_step(m, loss, ir_build2(&b, IR_div, sum, ir_build2(&b, IR_max, weight, tiny)));
    return true;
}
