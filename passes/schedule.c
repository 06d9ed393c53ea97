/* Unrolls a step over its micro-batches: the fused ops of @train are the template of one, and the attribute `order`
 * ("F0 F1 B0 B1", passes/pipeline.h) says when this rank does which part of which.
 *
 * On entry: FUSED; without `order` and with one micro-batch nothing changes. Parts are F (phase FORWARD), B and W
 * (phase BACKWARD; when the order has W, B is what the sends to other stages need), and what is done once, in phase
 * OPTIMIZER. On exit: one straight list; every batch input has one global per micro-batch ("batch.images.0", ...);
 * `accumulate` is gone: gradients are added one after another, in the epilogue of the matmul or in the scatter_add that
 * makes them where there is one, or (attribute deterministic) pairwise, as an all_reduce adds them over replicas; a sum
 * of gradients over replicas starts behind the op that completes its bucket. A `wait` stands before the first op that
 * reads what a bucket brings, or at the end. */
#include "base/bug.h"
#include "ir/builder.h"
#include "passes/manager.h"
#include "passes/pipeline.h"

#include <string.h>

typedef enum
{
    PART_FORWARD,
    PART_BACKWARD,
    PART_WEIGHTS,
    PART_ONCE,
    N_PARTS
} Part;

typedef VEC(IrOp) OpList;

/* A sum over micro-batches under way. */
typedef struct
{
    IrOp op;              /* the accumulate */
    VEC(IrValue) partial; /* one after another: the sum so far; pairwise: sums of 2^level, lower levels last */
    VEC(uint32_t) level;
    IrValue folded; /* the value of this micro-batch has the sum in it already */
} Sum;

/* What the replicas do together. */
typedef struct
{
    IrOp op;            /* the all_reduce, reduce or bcast */
    uint32_t n_missing; /* sums over micro-batches, if it is of those */
    bool waited;
} Bucket;

typedef struct
{
    IrModule *m;
    Arena *scratch;
    IrFunc func;
    IrUses uses;
    uint32_t n_micro, n_old;
    bool pairwise;
    Part *part; /* by old op */
    OpList ops[N_PARTS];
    IrValue *once;   /* by old value: gets that are no batch inputs, results of PART_ONCE */
    IrValue **micro; /* by micro-batch, by old value */
    VEC(Sum) sums;
    VEC(Bucket) buckets;
    uint32_t *sum_of;    /* by old value: 1 + index of the sum that accumulates it */
    uint32_t *bucket_of; /* by old value (that a bucket brings): 1 + index */
} Scheduler;

static IrOp def_of(const Scheduler *s, IrValue value)
{
    return ir_value(s->m, value)->def;
}

/* ---- the template */

static bool is_batch_get(const Scheduler *s, IrOp op)
{
    const IrOpData *data = ir_op(s->m, op);
    return data->code == IR_get && strncmp(ir_attrs_str(&data->attrs, IR_ATTR_global), "batch.", 6) == 0;
}

/* B is what sends in the backward pass need; a stage that sends nothing back does all of it in B. */
static void split_backward(Scheduler *s)
{
    bool *needed = ARENA_ARRAY(s->scratch, bool, s->n_old);
    bool any = false;
    for (IrOp op = ir_func(s->m, s->func)->last; op; op = ir_op(s->m, op)->prev)
    {
        const IrOpData *data = ir_op(s->m, op);
        if (data->phase != IR_PHASE_BACKWARD)
            continue;
        bool keep = data->code == IR_send || data->code == IR_recv;
        any = any || data->code == IR_send;
        for (uint32_t i = 0; i < data->n_results; i++)
            keep = keep || needed[data->results[i]];
        for (uint32_t i = 0; keep && i < data->n_operands; i++)
            needed[data->operands[i]] = true;
        s->part[op] = keep ? PART_BACKWARD : PART_WEIGHTS;
    }
    IR_FOR_OPS(s->m, s->func, op)
    if (!any && s->part[op] == PART_WEIGHTS)
        s->part[op] = PART_BACKWARD;
}

static void sort_parts(Scheduler *s, bool split)
{
    static const Part of_phase[] = {PART_FORWARD, PART_BACKWARD, PART_ONCE};
    IR_FOR_OPS(s->m, s->func, op)
    s->part[op] = of_phase[ir_op(s->m, op)->phase];
    if (split)
        split_backward(s);
    IR_FOR_OPS(s->m, s->func, op)
    {
        const IrOpData *data = ir_op(s->m, op);
        if (data->code == IR_accumulate)
        {
            vec_push(s->scratch, &s->sums, (Sum){.op = op});
            s->sum_of[data->operands[0]] = s->sums.len;
        }
        const bool is_bucket = data->code == IR_all_reduce || data->code == IR_reduce || data->code == IR_bcast;
        const bool of_sums = is_bucket && ir_value_code(s->m, data->operands[0]) == IR_accumulate;
        if (is_bucket)
            vec_push(s->scratch, &s->buckets, (Bucket){.op = op, .n_missing = of_sums ? data->n_operands : 0});
        for (uint32_t i = 0; i < data->n_results && is_bucket; i++)
            s->bucket_of[data->results[i]] = s->buckets.len;
        if (data->code != IR_get && data->code != IR_accumulate && !of_sums)
            vec_push(s->scratch, &s->ops[s->part[op]], op);
    }
}

/* ---- making the list */

static IrBuilder at_end(const Scheduler *s, IrOp like)
{
    IrBuilder b = ir_builder_before(s->m, like);
    b.before = 0;
    return b;
}

/* A batch input of one micro-batch. */
static IrValue get_micro_input(Scheduler *s, IrOp get, uint32_t micro)
{
    IrModule *m = s->m;
    IrBuilder b = at_end(s, get);
    const char *name = ir_attrs_str(&ir_op(m, get)->attrs, IR_ATTR_global);
    if (s->n_micro > 1)
    {
        const IrGlobalData whole = *ir_global(m, ir_global_find(m, name));
        name = arena_printf(s->scratch, "%s.%u", name, micro);
        if (!ir_global_find(m, name))
            ir_global_add(m, IR_GLOBAL_INPUT, name, whole.type, NULL, 0, whole.span);
    }
    return ir_build_get(&b, name);
}

/* The value in the new list, for an op of this micro-batch. */
static IrValue new_value(Scheduler *s, IrValue value, uint32_t micro)
{
    IrOp def = def_of(s, value);
    if (is_batch_get(s, def))
    {
        if (!s->micro[micro][value])
            s->micro[micro][value] = get_micro_input(s, def, micro);
        return s->micro[micro][value];
    }
    if (ir_op(s->m, def)->code == IR_get && !s->once[value])
    {
        IrBuilder b = at_end(s, def);
        s->once[value] = ir_op_result(s->m, ir_build_clone(&b, def, NULL), 0);
    }
    IrValue made = s->once[value] ? s->once[value] : s->micro[micro][value];
    ENSURE(made);
    return made;
}

/* A kernel that adds two tensors. */
static const char *add_kernel(Scheduler *s, IrType type)
{
    IrModule *m = s->m;
    StrBuf name = strbuf_make(s->scratch);
    strbuf_add(&name, "add");
    for (int i = 0; i < type.rank; i++)
        strbuf_addf(&name, "%s%lld", i ? "x" : "_", (long long)type.dims[i]);
    if (!ir_func_find(m, strbuf_text(&name)))
    {
        IrFunc kernel = ir_func_add(m, IR_FUNC_KERNEL, strbuf_text(&name));
        IrValue args[2];
        for (int i = 0; i < 2; i++)
            args[i] = ir_op_result(m, ir_op_insert(m, kernel, 0, IR_arg, NULL, 0, &type, 1, NULL, 0), 0);
        IrBuilder b = ir_builder(m, kernel);
        IrValue sum = ir_build2(&b, IR_add, args[0], args[1]);
        ir_op_insert(m, kernel, 0, IR_output, &sum, 1, NULL, 0, NULL, 0);
    }
    return arena_strdup(m->arena, strbuf_text(&name));
}

static IrValue add(Scheduler *s, IrOp like, IrValue a, IrValue b, uint32_t micro)
{
    IrModule *m = s->m;
    const IrType type = *ir_value_type(m, a);
    const IrValue operands[] = {a, b};
    const IrAttr attrs[] = {ir_attr_str(IR_ATTR_fn, add_kernel(s, type)), ir_attr_int(IR_ATTR_micro, micro)};
    IrOp call = ir_op_insert(m, s->func, 0, IR_call, operands, 2, &type, 1, attrs, 2);
    IrOpData *data = ir_op(m, call);
    data->span = ir_op(m, like)->span;
    data->unit = ir_op(m, like)->unit;
    data->phase = IR_PHASE_BACKWARD;
    return data->results[0];
}

static void start_bucket(Scheduler *s, const Bucket *bucket)
{
    IrModule *m = s->m;
    const IrOpData sum = *ir_op(m, bucket->op);
    IrValue operands[IR_MAX_RESULTS];
    for (uint32_t i = 0; i < sum.n_operands; i++)
        operands[i] = s->once[sum.operands[i]];
    IrBuilder b = at_end(s, bucket->op);
    IrOp clone = ir_build_clone(&b, bucket->op, operands);
    for (uint32_t i = 0; i < sum.n_results; i++)
        s->once[sum.results[i]] = ir_op_result(m, clone, i);
}

/* The last micro-batch is in the sum. */
static void finish_sum(Scheduler *s, const Sum *sum, IrValue total)
{
    IrValue result = ir_op_result(s->m, sum->op, 0);
    s->once[result] = total;
    for (uint32_t i = 0; i < s->buckets.len; i++)
    {
        Bucket *bucket = &s->buckets.data[i];
        const IrOpData *op = ir_op(s->m, bucket->op);
        for (uint32_t k = 0; k < op->n_operands; k++)
            if (op->operands[k] == result && --bucket->n_missing == 0)
            {
                start_bucket(s, bucket);
                break;
            }
    }
}

/* ((0 + 1) + (2 + 3)) + 4: a binary counter of sums. */
static void add_pairwise(Scheduler *s, Sum *sum, IrValue value, uint32_t micro)
{
    uint32_t level = 0;
    while (sum->partial.len && sum->level.data[sum->level.len - 1] == level)
    {
        value = add(s, sum->op, sum->partial.data[--sum->partial.len], value, micro);
        sum->level.len--;
        level++;
    }
    if (micro + 1 == s->n_micro)
        while (sum->partial.len)
            value = add(s, sum->op, sum->partial.data[--sum->partial.len], value, micro);
    vec_push(s->scratch, &sum->partial, value);
    vec_push(s->scratch, &sum->level, level);
}

static void add_to_sum(Scheduler *s, Sum *sum, IrValue value, uint32_t micro)
{
    if (s->pairwise)
        add_pairwise(s, sum, value, micro);
    else if (!sum->partial.len)
        vec_push(s->scratch, &sum->partial, value);
    else
        sum->partial.data[0] = sum->folded == value ? value : add(s, sum->op, sum->partial.data[0], value, micro);
    if (micro + 1 == s->n_micro)
        finish_sum(s, sum, sum->partial.data[0]);
}

/* The scatter_add that a kernel consists of; 0 when it does not. */
static IrOp scatter_of(const IrModule *m, IrFunc kernel)
{
    IrOp found = 0;
    IR_FOR_OPS(m, kernel, op)
    {
        const IrOpData *data = ir_op(m, op);
        if (data->code == IR_scatter_add && data->n_operands == 2)
            found = op;
        else if (data->code != IR_arg && data->code != IR_output)
            return 0;
    }
    return found;
}

static bool can_add_to_sum(const IrModule *m, const IrOpData *op)
{
    if (op->code == IR_call)
        return scatter_of(m, ir_func_find(m, ir_attrs_str(&op->attrs, IR_ATTR_fn))) != 0;
    return op->code == IR_matmul && !ir_attrs_bool(&op->attrs, IR_ATTR_residual) &&
           !ir_attrs_find(&op->attrs, IR_ATTR_act);
}

/* The sum that an op's result goes into and nowhere else, through reshapes; NULL when there is none to fold. */
static Sum *foldable_sum(Scheduler *s, const IrOpData *op)
{
    if (s->pairwise || !can_add_to_sum(s->m, op))
        return NULL;
    IrValue value = op->results[0];
    for (;;)
    {
        if (ir_uses_count(&s->uses, value) != 1)
            return NULL;
        IrOp user = s->uses.users[s->uses.first[value]];
        if (ir_op(s->m, user)->code == IR_accumulate)
        {
            Sum *sum = &s->sums.data[s->sum_of[value] - 1];
            return sum->partial.len ? sum : NULL;
        }
        if (ir_op(s->m, user)->code != IR_reshape)
            return NULL;
        value = ir_op(s->m, user)->results[0];
    }
}

/* A scatter_add kernel that adds to one more arg. */
static const char *scatter_kernel(Scheduler *s, const char *plain)
{
    IrModule *m = s->m;
    const char *name = arena_printf(m->arena, "%s_to_sum", plain);
    if (ir_func_find(m, name))
        return name;
    const IrOpData scatter = *ir_op(m, scatter_of(m, ir_func_find(m, plain)));
    const IrType types[] = {*ir_value_type(m, scatter.operands[0]), *ir_value_type(m, scatter.operands[1]),
                            *ir_value_type(m, scatter.results[0])};
    IrFunc kernel = ir_func_add(m, IR_FUNC_KERNEL, name);
    IrValue args[3];
    for (int i = 0; i < 3; i++)
        args[i] = ir_op_result(m, ir_op_insert(m, kernel, 0, IR_arg, NULL, 0, &types[i], 1, NULL, 0), 0);
    const IrAttr attrs[] = {*ir_attrs_find(&scatter.attrs, IR_ATTR_rows), ir_attr_bool(IR_ATTR_residual, true)};
    IrBuilder b = ir_builder(m, kernel);
    IrValue sum = ir_build_op(&b, IR_scatter_add, NULL, args, 3, attrs, 2);
    ir_op_insert(m, kernel, 0, IR_output, &sum, 1, NULL, 0, NULL, 0);
    return name;
}

/* The call of a scatter_add with the sum so far. */
static IrOp clone_scatter(Scheduler *s, IrBuilder *b, IrOp op, const IrValue *operands, const Sum *sum)
{
    IrModule *m = s->m;
    const IrOpData old = *ir_op(m, op);
    const IrType type = *ir_value_type(m, old.results[0]);
    const IrValue with_sum[] = {operands[0], operands[1], ir_build_reshape(b, sum->partial.data[0], type)};
    IrAttr fn = ir_attr_str(IR_ATTR_fn, scatter_kernel(s, ir_attrs_str(&old.attrs, IR_ATTR_fn)));
    IrOp call = ir_op_insert(m, s->func, 0, IR_call, with_sum, 3, &type, 1, &fn, 1);
    IrOpData *data = ir_op(m, call);
    data->span = old.span;
    data->unit = old.unit;
    data->phase = old.phase;
    return call;
}

/* The matmul with the sum so far as its residual. */
static IrOp clone_folded(Scheduler *s, IrBuilder *b, IrOp op, const IrValue *operands, const Sum *sum)
{
    IrModule *m = s->m;
    const IrOpData old = *ir_op(m, op);
    if (old.code == IR_call)
        return clone_scatter(s, b, op, operands, sum);
    IrValue with_sum[5];
    memcpy(with_sum, operands, old.n_operands * sizeof *operands);
    const IrType type = *ir_value_type(m, old.results[0]);
    with_sum[old.n_operands] = ir_build_reshape(b, sum->partial.data[0], type);
    IrAttr attrs[8];
    for (uint32_t i = 0; i < old.attrs.len; i++)
        attrs[i] = old.attrs.data[i];
    attrs[old.attrs.len] = ir_attr_bool(IR_ATTR_residual, true);
    IrValue result = ir_build_op(b, IR_matmul, &type, with_sum, old.n_operands + 1, attrs, old.attrs.len + 1);
    return def_of(s, result);
}

/* Passes the mark on through reshapes. */
static bool is_folded(const Scheduler *s, IrValue value)
{
    for (uint32_t i = 0; i < s->sums.len; i++)
        if (s->sums.data[i].folded == value)
            return true;
    return false;
}

static void wait_for_bucket(Scheduler *s, Bucket *bucket)
{
    IrModule *m = s->m;
    if (bucket->waited)
        return;
    const IrOpData op = *ir_op(m, bucket->op);
    IrValue results[IR_MAX_RESULTS];
    for (uint32_t k = 0; k < op.n_results; k++)
        results[k] = s->once[op.results[k]];
    IrBuilder b = at_end(s, bucket->op);
    ir_build_op(&b, IR_wait, NULL, results, op.n_results, ir_attrs_find(&op.attrs, IR_ATTR_bucket), 1);
    bucket->waited = true;
}

static void wait_for(Scheduler *s, IrOp reader)
{
    for (uint32_t i = 0; i < ir_op(s->m, reader)->n_operands; i++)
    {
        const uint32_t index = s->bucket_of[ir_op(s->m, reader)->operands[i]];
        if (index)
            wait_for_bucket(s, &s->buckets.data[index - 1]);
    }
}

static void emit_once(Scheduler *s, IrOp op)
{
    IrModule *m = s->m;
    wait_for(s, op);
    const IrOpData old = *ir_op(m, op);
    IrValue *operands = ARENA_ARRAY(s->scratch, IrValue, old.n_operands);
    for (uint32_t i = 0; i < old.n_operands; i++)
        operands[i] = new_value(s, old.operands[i], s->n_micro - 1);
    IrBuilder b = at_end(s, op);
    IrOp clone = ir_build_clone(&b, op, operands);
    for (uint32_t i = 0; i < old.n_results; i++)
        s->once[old.results[i]] = ir_op_result(m, clone, i);
}

/* A kernel that reads params only: what it makes is the same for all micro-batches. */
static bool is_of_params(const Scheduler *s, const IrOpData *op)
{
    bool found = op->code == IR_call && op->n_operands > 0;
    for (uint32_t i = 0; found && i < op->n_operands; i++)
    {
        const IrOpData *def = ir_op(s->m, def_of(s, op->operands[i]));
        found =
            def->code == IR_get &&
            ir_global(s->m, ir_global_find(s->m, ir_attrs_str(&def->attrs, IR_ATTR_global)))->kind == IR_GLOBAL_PARAM;
    }
    return found;
}

static void emit(Scheduler *s, IrOp op, uint32_t micro)
{
    IrModule *m = s->m;
    const IrOpData old = *ir_op(m, op);
    if (is_of_params(s, &old))
    {
        if (!s->once[old.results[0]])
            emit_once(s, op);
        return;
    }
    IrValue *operands = ARENA_ARRAY(s->scratch, IrValue, old.n_operands);
    for (uint32_t i = 0; i < old.n_operands; i++)
        operands[i] = new_value(s, old.operands[i], micro);
    IrBuilder b = at_end(s, op);
    Sum *sum = foldable_sum(s, &old);
    IrOp clone = sum ? clone_folded(s, &b, op, operands, sum) : ir_build_clone(&b, op, operands);
    if (sum)
        sum->folded = ir_op_result(m, clone, 0);
    if (old.code == IR_call || old.code == IR_matmul || old.code == IR_send || old.code == IR_recv)
        ir_attrs_put(m->arena, &ir_op(m, clone)->attrs, ir_attr_int(IR_ATTR_micro, micro));
    for (uint32_t i = 0; i < old.n_results; i++)
    {
        IrValue value = s->micro[micro][old.results[i]] = ir_op_result(m, clone, i);
        if (old.code == IR_reshape && is_folded(s, operands[0]))
            for (uint32_t k = 0; k < s->sums.len; k++)
                if (s->sums.data[k].folded == operands[0])
                    s->sums.data[k].folded = value;
        if (s->sum_of[old.results[i]])
            add_to_sum(s, &s->sums.data[s->sum_of[old.results[i]] - 1], value, micro);
    }
}

static void emit_list(Scheduler *s, const PipelineList *order)
{
    static const char parts[] = "FBW";
    for (uint32_t i = 0; i < order->n; i++)
    {
        const OpList *ops = &s->ops[strchr(parts, order->instrs[i].part) - parts];
        for (uint32_t k = 0; k < ops->len; k++)
            emit(s, ops->data[k], order->instrs[i].micro_batch);
    }
    for (uint32_t k = 0; k < s->ops[PART_ONCE].len; k++)
        emit_once(s, s->ops[PART_ONCE].data[k]);
    for (uint32_t i = 0; i < s->buckets.len; i++)
        wait_for_bucket(s, &s->buckets.data[i]);
}

/* F0 B0 F1 B1 ...: what one stage does alone. */
static const char *default_order(Arena *arena, int64_t n_micro)
{
    StrBuf text = strbuf_make(arena);
    for (int64_t i = 0; i < n_micro; i++)
        strbuf_addf(&text, "%sF%lld B%lld", i ? " " : "", (long long)i, (long long)i);
    return strbuf_text(&text);
}

static uint32_t count_forwards(const char *order)
{
    uint32_t n = 0;
    for (const char *c = order; *c; c++)
        n += *c == 'F';
    return n;
}

bool pass_schedule(PassContext *ctx)
{
    IrModule *m = ctx->m;
    IrFunc train = ir_func_find(m, "train");
    if (!train)
        return true;
    const IrAttrs plan = ir_func(m, train)->attrs;
    const int64_t n_all = ir_attrs_int(&plan, IR_ATTR_micro_batches, 1);
    const char *text = ir_attrs_str(&plan, IR_ATTR_order);
    if (!text && n_all <= 1)
        return true;
    if (!text)
        text = default_order(ctx->scratch, n_all);
    Scheduler s = {.m = m,
                   .scratch = ctx->scratch,
                   .func = train,
                   .uses = ir_uses_build(ctx->scratch, m, train),
                   .n_micro = count_forwards(text),
                   .n_old = m->values.len,
                   .pairwise = ir_attrs_bool(&plan, IR_ATTR_deterministic),
                   .part = ARENA_ARRAY(ctx->scratch, Part, m->ops.len),
                   .once = ARENA_ARRAY(ctx->scratch, IrValue, m->values.len),
                   .sum_of = ARENA_ARRAY(ctx->scratch, uint32_t, m->values.len),
                   .bucket_of = ARENA_ARRAY(ctx->scratch, uint32_t, m->values.len)};
    PipelineList order;
    const char *why;
    if (s.n_micro == 0 || !pipeline_list_parse(ctx->scratch, text, s.n_micro, &order, &why))
    {
        diag_error(ctx->diag, (Span){0}, "@train: order \"%s\": %s", text, s.n_micro ? why : "it does nothing");
        return false;
    }
    s.micro = ARENA_ARRAY(ctx->scratch, IrValue *, s.n_micro);
    for (uint32_t i = 0; i < s.n_micro; i++)
        s.micro[i] = ARENA_ARRAY(ctx->scratch, IrValue, s.n_old);
    sort_parts(&s, strchr(text, 'W') != NULL);
    OpList old = {0};
    IR_FOR_OPS(m, train, op)
    vec_push(ctx->scratch, &old, op);
    emit_list(&s, &order);
    for (uint32_t i = 0; i < old.len; i++)
        ir_op_remove(m, old.data[i]);
    return true;
}
