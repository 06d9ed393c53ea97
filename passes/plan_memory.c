/* Gives every buffer of a step function its place: results of calls and matmuls get byte offsets in one arena,
 * chosen by liveness; a result that is set to a global is written there directly where that is safe (offset -1).
 *
 * Entry: FUSED. Exit: PLANNED. Reshapes share their operand's place, a sum over micro-batches that of the sum before
 * it, a sum over replicas that of what this one adds to it, a bcast's results that of its operands. Operands and
 * results of all_reduce and reduce lie at the arena's end, from `sums_at` on, since other ranks reach for them there
 * until the wait. Placement is greedy, largest buffer first, at the lowest offset that no buffer alive at the same time
 * uses (Pisarchyk and Lee, 2020: "greedy by size"). */
#include "passes/manager.h"

#include "base/bug.h"

#include <stdlib.h>

enum
{
    ALIGNMENT = 64
};

typedef struct
{
    IrValue value;
    int64_t size_bytes;
    int64_t offset;
    uint32_t first, last; /* program positions at which it is alive */
} Buffer;

typedef struct
{
    IrModule *m;
    Arena *scratch;
    IrFunc func;
    IrValue *root;      /* by value: the value whose memory it is in, looking through reshapes */
    uint32_t *position; /* by op */
    uint32_t *last_use; /* by root value */
    uint32_t *n_sums;   /* by root value: how often sums over the replicas read it */
    int64_t *offset;    /* by root value */
    bool *shared;       /* by root value: later sums take its place */
    bool *reduced;      /* by root value: a sum over the replicas reads or writes it */
} Planner;

static bool is_sum(IrCode code)
{
    return code == IR_all_reduce || code == IR_reduce;
}

static void trace_lifetimes(Planner *p)
{
    uint32_t position = 0;
    IR_FOR_OPS(p->m, p->func, op)
    {
        const IrOpData *data = ir_op(p->m, op);
        p->position[op] = ++position;
        for (uint32_t i = 0; i < data->n_results; i++)
            p->root[data->results[i]] =
                data->code == IR_reshape || data->code == IR_bcast ? p->root[data->operands[i]] : data->results[i];
        for (uint32_t i = 0; i < data->n_operands; i++)
        {
            p->last_use[p->root[data->operands[i]]] = position;
            p->n_sums[p->root[data->operands[i]]] += is_sum(data->code);
        }
    }
}

/* ---- sums over micro-batches, each in the place of the one before */

/* A kernel that does one op on its n args and nothing else (pass schedule). */
static bool is_only(const IrModule *m, IrFunc kernel, IrCode code, uint32_t n_args)
{
    uint32_t n = 0;
    IR_FOR_OPS(m, kernel, op)
    {
        const IrCode wanted = n < n_args ? IR_arg : n == n_args ? code : IR_output;
        if (n++ == n_args + 2 || ir_op(m, op)->code != wanted)
            return false;
    }
    return n == n_args + 2;
}

/* The operand that the op may write its result over: the residual of a contraction or of a scatter_add, what an
 * addition adds to. -1: none. */
static int sum_operand(const Planner *p, const IrOpData *op)
{
    if (op->code == IR_matmul && ir_attrs_bool(&op->attrs, IR_ATTR_residual))
        return (int)op->n_operands - 1;
    if (op->code != IR_call || op->n_results != 1)
        return -1;
    IrFunc kernel = ir_func_find(p->m, ir_attrs_str(&op->attrs, IR_ATTR_fn));
    if (op->n_operands == 2 && is_only(p->m, kernel, IR_add, 2))
        return 0;
    return op->n_operands == 3 && is_only(p->m, kernel, IR_scatter_add, 3) ? 2 : -1;
}

/* Gives a result the place of an operand, if that is read here for the last time: not by another sum over the
 * replicas, which goes on until its wait. */
static void share(Planner *p, IrOp op, uint32_t which_operand, uint32_t which_result, IrValue *place)
{
    const IrModule *m = p->m;
    const IrOpData *data = ir_op(m, op);
    IrValue result = data->results[which_result], sum = p->root[data->operands[which_operand]];
    bool read_twice = false;
    for (uint32_t i = 0; i < data->n_operands; i++)
        read_twice = read_twice || (i != which_operand && p->root[data->operands[i]] == sum);
    if (read_twice || p->n_sums[sum] > is_sum(data->code) || p->last_use[sum] != p->position[op] ||
        !plan_memory_has_buffers(ir_value_code(m, sum)) ||
        !ir_type_same_shape(ir_value_type(m, data->operands[which_operand]), ir_value_type(m, result)))
        return;
    p->last_use[sum] = p->last_use[result] ? p->last_use[result] : p->position[op];
    p->n_sums[sum] = p->n_sums[result];
    p->root[result] = place[result] = sum;
    p->shared[sum] = true;
}

/* Where the sum so far is read for the last time, the new one takes its place. */
static void share_sums(Planner *p)
{
    const IrModule *m = p->m;
    IrValue *place = ARENA_ARRAY(p->scratch, IrValue, m->values.len); /* by root: the root whose place it takes */
    IR_FOR_OPS(m, p->func, op)
    {
        const IrOpData *data = ir_op(m, op);
        for (uint32_t i = 0; i < data->n_results; i++)
            if (place[p->root[data->results[i]]])
                p->root[data->results[i]] = place[p->root[data->results[i]]];
        const int which = sum_operand(p, data);
        if (which >= 0)
            share(p, op, (uint32_t)which, 0, place);
        for (uint32_t i = 0; i < data->n_operands && is_sum(data->code); i++)
            share(p, op, i, i, place);
    }
}

/* Other ranks read operands and write results of a sum until its wait. */
static void keep_reduced(Planner *p)
{
    const IrModule *m = p->m;
    uint32_t *wait_at = ARENA_ARRAY(p->scratch, uint32_t, m->values.len); /* by value waited for */
    for (IrOp op = ir_func(m, p->func)->last; op; op = ir_op(m, op)->prev)
    {
        const IrOpData *data = ir_op(m, op);
        for (uint32_t i = 0; i < data->n_operands && data->code == IR_wait; i++)
            wait_at[data->operands[i]] = p->position[op];
        for (uint32_t i = 0; i < data->n_operands && is_sum(data->code); i++)
        {
            IrValue operand = p->root[data->operands[i]], result = data->results[i];
            p->reduced[operand] = p->reduced[p->root[result]] = true;
            if (p->last_use[operand] < wait_at[result])
                p->last_use[operand] = wait_at[result];
        }
    }
}

/* ---- writing to a global in place */

/* Element i of arg is read only for element i of the kernel's results. */
static bool reads_pointwise(const IrModule *m, IrFunc kernel, uint32_t arg_index, Arena *scratch)
{
    bool *touched = ARENA_ARRAY(scratch, bool, m->values.len);
    uint32_t n_args = 0;
    IR_FOR_OPS(m, kernel, op)
    {
        const IrOpData *data = ir_op(m, op);
        bool reads = false;
        for (uint32_t i = 0; i < data->n_operands; i++)
            reads = reads || touched[data->operands[i]];
        if (ir_code_has(data->code, IR_TRAIT_REDUCE | IR_TRAIT_TEMPLATE))
            return false;
        if (reads && !ir_code_has(data->code, IR_TRAIT_EWISE) && data->code != IR_output && data->code != IR_reshape)
            return false;
        if (data->code == IR_arg)
            touched[data->results[0]] = n_args++ == arg_index;
        else if (data->n_results)
            touched[data->results[0]] = reads;
    }
    return true;
}

/* May the op that makes `value` write it over the global's old contents? */
static bool may_overwrite(const Planner *p, IrValue value, const char *global)
{
    const IrModule *m = p->m;
    IrOp writer = ir_value(m, value)->def;
    IrWindow window = {.whole = ir_global_find(m, global)};
    bool kept = ir_global(m, window.whole)->kind != IR_GLOBAL_OUTPUT;
    if (ir_global_window(m, window.whole, &window))
        global = ir_global(m, window.whole)->name; /* that is what is read */
    IR_FOR_OPS(m, p->func, op)
    {
        const IrOpData *data = ir_op(m, op);
        if (kept && data->code == IR_check_finite && p->position[op] > p->position[writer])
            return false; /* a refused step changes nothing */
        for (uint32_t i = 0; i < data->n_operands; i++)
        {
            const IrOpData *def = ir_op(m, ir_value(m, p->root[data->operands[i]])->def);
            if (def->code != IR_get || ir_attrs_str(&def->attrs, IR_ATTR_global) != global || data->code == IR_reshape)
                continue;
            if (p->position[op] > p->position[writer] || data->code == IR_set) /* copies are made at the end */
                return false;
            if (op == writer &&
                (data->code != IR_call ||
                 !reads_pointwise(m, ir_func_find(m, ir_attrs_str(&data->attrs, IR_ATTR_fn)), i, p->scratch)))
                return false;
        }
    }
    return true;
}

/* Global names as one pointer each, so that they compare fast. */
static void intern_global_names(Planner *p)
{
    IR_FOR_OPS(p->m, p->func, op)
    {
        IrOpData *data = ir_op(p->m, op);
        for (uint32_t i = 0; i < data->attrs.len; i++)
            if (data->attrs.data[i].key == IR_ATTR_global)
                data->attrs.data[i].s = ir_global(p->m, ir_global_find(p->m, data->attrs.data[i].s))->name;
    }
}

static void place_in_globals(Planner *p)
{
    bool *tried = ARENA_ARRAY(p->scratch, bool, p->m->values.len);
    IR_FOR_OPS(p->m, p->func, op)
    {
        const IrOpData *data = ir_op(p->m, op);
        if (data->code != IR_set)
            continue;
        IrValue root = p->root[data->operands[0]];
        IrCode code = ir_value_code(p->m, root);
        if (tried[root] || !plan_memory_has_buffers(code))
            continue;
        tried[root] = true;
        if ((code == IR_call || code == IR_matmul) && !p->shared[root] && !p->reduced[root] &&
            may_overwrite(p, root, ir_attrs_str(&data->attrs, IR_ATTR_global)))
            p->offset[root] = -1;
        else
            p->last_use[root] = UINT32_MAX; /* copied at the end */
    }
}

/* ---- the arena */

static int by_size(const void *x, const void *y)
{
    const Buffer *a = x, *b = y;
    if (a->size_bytes != b->size_bytes)
        return a->size_bytes > b->size_bytes ? -1 : 1;
    return a->value < b->value ? -1 : a->value > b->value;
}

static int by_offset(const void *x, const void *y)
{
    const Buffer *a = *(Buffer *const *)x, *b = *(Buffer *const *)y;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

static int64_t place(Buffer *buffers, uint32_t n, Buffer **alive)
{
    int64_t arena_bytes = 0;
    for (uint32_t i = 0; i < n; i++)
    {
        Buffer *buffer = &buffers[i];
        uint32_t n_alive = 0;
        for (uint32_t k = 0; k < i; k++)
            if (buffers[k].first <= buffer->last && buffer->first <= buffers[k].last)
                alive[n_alive++] = &buffers[k];
        qsort(alive, n_alive, sizeof *alive, by_offset);
        int64_t offset = 0;
        for (uint32_t k = 0; k < n_alive && alive[k]->offset < offset + buffer->size_bytes; k++)
            if (alive[k]->offset + alive[k]->size_bytes > offset)
                offset = alive[k]->offset + alive[k]->size_bytes;
        buffer->offset = offset;
        if (offset + buffer->size_bytes > arena_bytes)
            arena_bytes = offset + buffer->size_bytes;
    }
    return arena_bytes;
}

/* Those that a sum over the replicas touches, or the others, from an offset on. Returns their end. */
static int64_t place_in_arena(Planner *p, bool reduced, int64_t base)
{
    VEC(Buffer) buffers = {0};
    IR_FOR_OPS(p->m, p->func, op)
    {
        const IrOpData *data = ir_op(p->m, op);
        for (uint32_t i = 0; i < data->n_results; i++)
        {
            IrValue value = data->results[i];
            if (!plan_memory_has_buffers(data->code) || p->root[value] != value || p->offset[value] == -1 ||
                p->reduced[value] != reduced)
                continue;
            int64_t size = ir_type_size_bytes(ir_value_type(p->m, value));
            Buffer buffer = {.value = value,
                             .size_bytes = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT,
                             .first = p->position[op],
                             .last = p->last_use[value] ? p->last_use[value] : p->position[op]};
            vec_push(p->scratch, &buffers, buffer);
        }
    }
    if (buffers.len)
        qsort(buffers.data, buffers.len, sizeof *buffers.data, by_size);
    int64_t size_bytes = place(buffers.data, buffers.len, ARENA_ARRAY(p->scratch, Buffer *, buffers.len));
    for (uint32_t i = 0; i < buffers.len; i++)
        p->offset[buffers.data[i].value] = base + buffers.data[i].offset;
    return base + size_bytes;
}

static void plan_function(PassContext *ctx, IrFunc func)
{
    IrModule *m = ctx->m;
    Planner p = {.m = m,
                 .scratch = ctx->scratch,
                 .func = func,
                 .root = ARENA_ARRAY(ctx->scratch, IrValue, m->values.len),
                 .position = ARENA_ARRAY(ctx->scratch, uint32_t, m->ops.len),
                 .last_use = ARENA_ARRAY(ctx->scratch, uint32_t, m->values.len),
                 .n_sums = ARENA_ARRAY(ctx->scratch, uint32_t, m->values.len),
                 .offset = ARENA_ARRAY(ctx->scratch, int64_t, m->values.len),
                 .shared = ARENA_ARRAY(ctx->scratch, bool, m->values.len),
                 .reduced = ARENA_ARRAY(ctx->scratch, bool, m->values.len)};
    intern_global_names(&p);
    trace_lifetimes(&p);
    share_sums(&p);
    keep_reduced(&p);
    place_in_globals(&p);
    const int64_t sums_at = place_in_arena(&p, false, 0), arena_bytes = place_in_arena(&p, true, sums_at);
    IR_FOR_OPS(m, func, op)
    {
        IrOpData *data = ir_op(m, op);
        if (!plan_memory_has_buffers(data->code))
            continue;
        int64_t offsets[IR_MAX_RESULTS];
        for (uint32_t i = 0; i < data->n_results; i++)
            offsets[i] = p.offset[p.root[data->results[i]]];
        ir_attrs_put(m->arena, &data->attrs, ir_attr_ints(IR_ATTR_offsets, offsets, data->n_results));
    }
    ir_attrs_put(m->arena, &ir_func(m, func)->attrs, ir_attr_int(IR_ATTR_arena_bytes, arena_bytes));
    if (sums_at < arena_bytes)
        ir_attrs_put(m->arena, &ir_func(m, func)->attrs, ir_attr_int(IR_ATTR_sums_at, sums_at));
}

bool pass_plan_memory(PassContext *ctx)
{
    IR_FOR_FUNCS(ctx->m, f)
    if (ir_func(ctx->m, f)->kind == IR_FUNC_STEP)
        plan_function(ctx, f);
    return true;
}
