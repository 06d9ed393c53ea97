/* Adds the gradients, the loss and the metrics over the replicas of the pipeline: every `accumulate` is followed by an
 * `all_reduce`, in buckets of the size that one message should have.
 *
 * On entry: @train has the attributes `micro_batches` and `replicas`; one replica has nothing to add. Only what is
 * accumulated is reduced, so a frozen param is in no bucket. On exit, with several micro-batches: phases stand one
 * after another (forward, backward, optimizer), so that cse never makes an earlier one read a later one; the sums are
 * at the head of the last. Pass schedule starts each as soon as its last operand is there, and waits where one is read.
 *
 * Buckets are filled in the order in which the backward pass makes the gradients. */
#include "ir/builder.h"
#include "passes/manager.h"

#include <stdlib.h>

enum
{
    BUCKET_BYTES = 4 << 20
};

typedef struct
{
    IrOp op;
    uint32_t made_at; /* program position of what is accumulated */
    int64_t size_bytes;
} Sum;

static int by_time(const void *x, const void *y)
{
    const Sum *a = x, *b = y;
    if (a->made_at != b->made_at)
        return a->made_at < b->made_at ? -1 : 1;
    return a->op < b->op ? -1 : a->op > b->op;
}

/* Stable: the order within a phase stays. */
static void sort_phases(PassContext *ctx, IrFunc func)
{
    IrModule *m = ctx->m;
    VEC(IrOp) ops = {0};
    IR_FOR_OPS(m, func, op)
    vec_push(ctx->scratch, &ops, op);
    for (int phase = IR_PHASE_FORWARD; phase <= IR_PHASE_OPTIMIZER; phase++)
        for (uint32_t i = 0; i < ops.len; i++)
            if (ir_op(m, ops.data[i])->phase == (IrPhase)phase)
                ir_op_move(m, ops.data[i], 0);
}

static void reduce_bucket(PassContext *ctx, IrFunc func, const Sum *sums, uint32_t n, uint32_t bucket, IrValue *map)
{
    IrModule *m = ctx->m;
    IrValue operands[IR_MAX_RESULTS];
    for (uint32_t i = 0; i < n; i++)
        operands[i] = ir_op_result(m, sums[i].op, 0);
    IrBuilder b = ir_builder_before(m, sums[n - 1].op);
    b.before = ir_op(m, sums[n - 1].op)->next;
    b.func = func;
    const IrAttr attr = ir_attr_int(IR_ATTR_bucket, bucket);
    ir_build_op(&b, IR_all_reduce, NULL, operands, n, &attr, 1);
    IrOp all_reduce = ir_op(m, sums[n - 1].op)->next;
    for (uint32_t i = 0; i < n; i++)
        map[operands[i]] = ir_op_result(m, all_reduce, i);
}

bool pass_replicate(PassContext *ctx)
{
    IrModule *m = ctx->m;
    IrFunc train = ir_func_find(m, "train");
    if (!train || ir_attrs_int(&ir_func(m, train)->attrs, IR_ATTR_micro_batches, 1) <= 1)
        return true;
    sort_phases(ctx, train);
    if (ir_attrs_int(&ir_func(m, train)->attrs, IR_ATTR_replicas, 1) <= 1)
        return true;
    VEC(Sum) sums = {0};
    uint32_t *position = ARENA_ARRAY(ctx->scratch, uint32_t, m->ops.len), at = 0;
    IrOp head = 0; /* the first op of the last phase that is no sum */
    IR_FOR_OPS(m, train, op)
    {
        const IrOpData *data = ir_op(m, op);
        position[op] = ++at;
        if (data->code == IR_accumulate)
            vec_push(ctx->scratch, &sums,
                     (Sum){op, position[ir_value(m, data->operands[0])->def],
                           ir_type_size_bytes(ir_value_type(m, data->operands[0]))});
        else if (!head && data->phase == IR_PHASE_OPTIMIZER)
            head = op;
    }
    if (sums.len)
        qsort(sums.data, sums.len, sizeof *sums.data, by_time);
    for (uint32_t i = 0; i < sums.len; i++)
        ir_op_move(m, sums.data[i].op, head);
    const uint32_t n_old = m->values.len;
    IrValue *map = ARENA_ARRAY(ctx->scratch, IrValue, n_old);
    for (uint32_t i = 0, bucket = 0, n; i < sums.len; i += n, bucket++)
    {
        int64_t size_bytes = 0;
        for (n = 0; i + n < sums.len && n < IR_MAX_RESULTS && (n == 0 || size_bytes < BUCKET_BYTES); n++)
            size_bytes += sums.data[i + n].size_bytes;
        reduce_bucket(ctx, train, &sums.data[i], n, bucket, map);
    }
    /* all readers of a sum but its all_reduce */
    IR_FOR_OPS(m, train, op)
    {
        IrOpData *data = ir_op(m, op);
        for (uint32_t i = 0; data->code != IR_all_reduce && i < data->n_operands; i++)
            if (data->operands[i] < n_old && map[data->operands[i]])
                data->operands[i] = map[data->operands[i]];
    }
    return true;
}
