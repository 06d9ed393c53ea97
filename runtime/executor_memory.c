/* The memory of an executor: the places of globals, and what lies where the communicator lets others reach it. Params
 * and states have memory of their own, so that the next executor can have them where they are. */
#include "runtime/executor_program.h"

#include <string.h>

enum
{
    ALIGNMENT = 64
};

int64_t executor_align(int64_t size)
{
    return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* ---- sets that read another global's old value */

static bool sets_global(const IrModule *m, IrFunc func, const char *name)
{
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData *data = ir_op(m, op);
        if (data->code == IR_set && strcmp(ir_attrs_str(&data->attrs, IR_ATTR_global), name) == 0)
            return true;
    }
    return false;
}

bool executor_needs_staging(const IrModule *m, IrFunc func, const IrOpData *set)
{
    IrValue value = set->operands[0];
    while (ir_value_code(m, value) == IR_reshape)
        value = ir_op(m, ir_value(m, value)->def)->operands[0];
    const IrOpData *def = ir_op(m, ir_value(m, value)->def);
    return def->code == IR_get && sets_global(m, func, ir_attrs_str(&def->attrs, IR_ATTR_global));
}

int64_t executor_sums_at(const IrModule *m, IrFunc func)
{
    const IrAttrs *attrs = &ir_func(m, func)->attrs;
    return ir_attrs_int(attrs, IR_ATTR_sums_at, ir_attrs_int(attrs, IR_ATTR_arena_bytes, 0));
}

static int64_t sums_bytes(const IrModule *m, IrFunc func)
{
    return ir_attrs_int(&ir_func(m, func)->attrs, IR_ATTR_arena_bytes, 0) - executor_sums_at(m, func);
}

static int64_t staging_bytes(const IrModule *m, IrFunc func)
{
    int64_t size_bytes = 0;
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData *data = ir_op(m, op);
        if (data->code == IR_set && executor_needs_staging(m, func, data))
            size_bytes += executor_align(ir_type_size_bytes(ir_value_type(m, data->operands[0])));
    }
    return size_bytes;
}

/* ---- globals */

static int64_t *size_of_kind(ExecutorMemory *sizes, IrGlobalKind kind)
{
    switch (kind)
    {
    case IR_GLOBAL_PARAM:
    case IR_GLOBAL_COPY:
        return &sizes->param_bytes;
    case IR_GLOBAL_STATE:
        return &sizes->state_bytes;
    case IR_GLOBAL_INPUT:
        return &sizes->input_bytes;
    case IR_GLOBAL_OUTPUT:
        return &sizes->output_bytes;
    }
    BUG("global kind %d", (int)kind);
}

/* By global: the step functions of this rank touch it; the rest lives on other ranks, or within another. */
static const bool *used_globals(Arena *arena, const IrModule *m)
{
    bool *used = ARENA_ARRAY(arena, bool, m->globals.len);
    IR_FOR_FUNCS(m, f)
    IR_FOR_OPS(m, f, op)
    {
        const IrOpData *data = ir_op(m, op);
        if (data->code == IR_get || data->code == IR_set)
        {
            IrWindow window = {.whole = ir_global_find(m, ir_attrs_str(&data->attrs, IR_ATTR_global))};
            ir_global_window(m, window.whole, &window);
            used[window.whole] = true;
        }
    }
    return used;
}

/* A bcast of this rank's own: others read the params there. */
static bool gives(const IrModule *m, IrFunc func, const IrOpData *op)
{
    const IrAttrs *plan = &ir_func(m, func)->attrs;
    return op->code == IR_bcast && ir_attrs_int(&op->attrs, IR_ATTR_root, 0) == ir_attrs_int(plan, IR_ATTR_replica, 0);
}

/* By global: a param that this rank updates for others. */
static const bool *given_globals(Arena *arena, const IrModule *m)
{
    bool *given = ARENA_ARRAY(arena, bool, m->globals.len);
    IR_FOR_FUNCS(m, f)
    IR_FOR_OPS(m, f, op)
    {
        const IrOpData *data = ir_op(m, op);
        if (data->code == IR_set && gives(m, f, ir_op(m, ir_value(m, data->operands[0])->def)))
            given[ir_global_find(m, ir_attrs_str(&data->attrs, IR_ATTR_global))] = true;
    }
    return given;
}

/* A message has its buffer on either side, and both are mapped here. A rank has its own numbers of sums, and reaches
 * for its part of everybody else's; and for the params that others update. */
static int64_t comm_bytes(const IrModule *m, IrFunc func)
{
    const int64_t n_replicas = ir_attrs_int(&ir_func(m, func)->attrs, IR_ATTR_replicas, 1);
    const int64_t sums = sums_bytes(m, func);
    int64_t total = sums + sums * (n_replicas - 1) / n_replicas;
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData *data = ir_op(m, op);
        const bool again = ir_attrs_int(&data->attrs, IR_ATTR_micro, 0) > 0; /* in the buffer of the first one */
        if (data->code == IR_send && !again)
            total += executor_align(ir_type_size_bytes(ir_value_type(m, data->operands[0])));
        if (data->code == IR_recv && !again)
            total += executor_align(ir_type_size_bytes(ir_value_type(m, data->results[0])));
        for (uint32_t i = 0; i < data->n_results && data->code == IR_bcast && !gives(m, func, data); i++)
            total += executor_align(ir_type_size_bytes(ir_value_type(m, data->results[i])));
    }
    return total;
}

/* The global of the same name, which most often has the same number. */
static IrGlobal same_global(const IrModule *last, const IrModule *m, IrGlobal g)
{
    const char *name = ir_global(m, g)->name;
    if (g < last->globals.len && strcmp(ir_global(last, g)->name, name) == 0)
        return g;
    const IrGlobal found = ir_global_find(last, name);
    ENSURE(found);
    return found;
}

/* Notes the globals that any variant uses, by their number in the last one, and their sizes. */
static int64_t *sizes_of_globals(Arena *arena, const ExecutorVariant *variants, uint32_t n)
{
    const IrModule *last = variants[n - 1].m;
    int64_t *size_bytes = ARENA_ARRAY(arena, int64_t, last->globals.len);
    for (uint32_t v = 0; v < n; v++)
    {
        const IrModule *m = variants[v].m;
        const bool *used = used_globals(arena, m);
        for (IrGlobal g = 1; g < m->globals.len; g++)
        {
            const IrGlobal in_last = same_global(last, m, g);
            const int64_t size = executor_align(ir_type_size_bytes(&ir_global(m, g)->type));
            if (used[g] && size > size_bytes[in_last])
                size_bytes[in_last] = size;
        }
    }
    return size_bytes;
}

ExecutorTensorInfo *executor_needs(Arena *arena, const ExecutorModule *modules, uint32_t n_modules, uint32_t *out_n)
{
    const IrModule *last = modules[n_modules - 1].m;
    ExecutorVariant *variants = ARENA_ARRAY(arena, ExecutorVariant, n_modules);
    for (uint32_t v = 0; v < n_modules; v++)
        variants[v].m = modules[v].m;
    const int64_t *size_bytes = sizes_of_globals(arena, variants, n_modules);
    ExecutorTensorInfo *needs = ARENA_ARRAY(arena, ExecutorTensorInfo, last->globals.len);
    *out_n = 0;
    for (IrGlobal g = 1; g < last->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(last, g);
        if (size_bytes[g] && executor_is_tensor(global))
            needs[(*out_n)++] = (ExecutorTensorInfo){global->name, (size_t)ir_type_size_bytes(&global->type)};
    }
    return needs;
}

/* Of the globals of the last variant, and of all variants together. */
typedef struct
{
    const int64_t *size_bytes; /* by global; 0: of no use here */
    const bool *given;         /* by global: a param that this rank updates for others */
    int64_t together_bytes;    /* inputs and outputs */
    int64_t sums_bytes;        /* the longest of the variants */
} Layout;

static Layout lay_out(Arena *arena, const ExecutorVariant *variants, uint32_t n, ExecutorMemory *sizes)
{
    const IrModule *last = variants[n - 1].m;
    Layout l = {.size_bytes = sizes_of_globals(arena, variants, n), .given = given_globals(arena, last)};
    for (uint32_t v = 0; v < n; v++)
    {
        const IrModule *m = variants[v].m;
        const bool *here = given_globals(arena, m);
        for (IrGlobal g = 1; g < m->globals.len; g++)
            ENSURE(here[g] == l.given[same_global(last, m, g)]); /* a state has one owner */
        IR_FOR_FUNCS(m, f)
        {
            const int64_t bytes = executor_sums_at(m, f) + staging_bytes(m, f);
            sizes->arena_bytes = bytes > sizes->arena_bytes ? bytes : sizes->arena_bytes;
            l.sums_bytes = sums_bytes(m, f) > l.sums_bytes ? sums_bytes(m, f) : l.sums_bytes;
        }
    }
    for (IrGlobal g = 1; g < last->globals.len; g++)
    {
        *size_of_kind(sizes, ir_global(last, g)->kind) += l.size_bytes[g];
        l.together_bytes += executor_is_tensor(ir_global(last, g)) ? 0 : l.size_bytes[g];
    }
    IR_FOR_FUNCS(last, f)
    sizes->comm_bytes += comm_bytes(last, f);
    return l;
}

ExecutorMemory executor_memory_planned(const IrModule *m)
{
    ExecutorMemory sizes = {0};
    Arena *arena = arena_create();
    const ExecutorVariant only = {.m = m};
    lay_out(arena, &only, 1, &sizes);
    arena_destroy(arena);
    return sizes;
}

/* ---- taking it */

static double mib(int64_t size_bytes)
{
    return (double)size_bytes / (1 << 20);
}

/* Nothing has run yet: what was planned, and what would need less. */
static Status does_not_fit(const Executor *x)
{
    const ExecutorMemory *s = &x->sizes;
    return status_fail(STATUS_OUT_OF_MEMORY,
                       "the model does not fit into the memory of device '%s': %s. Planned in MiB: params %.1f, "
                       "optimizer %.1f, inputs and "
                       "outputs %.1f, activations and gradients %.1f. A smaller batch or more micro-batches "
                       "(--micro-batches) need less for "
                       "activations, frozen layers less for the optimizer",
                       hal_device_name(x->device), status_detail(), mib(s->param_bytes), mib(s->state_bytes),
                       mib(s->input_bytes + s->output_bytes), mib(s->arena_bytes));
}

/* Params that others read here, and sums, lie in memory of the communicator; what lies there already stays. By global,
 * the sums in place of global 0; `at` is NULL for what has memory of its own. */
static Status place_shared(Executor *x, const Layout *l, ExecutorTensors *from, ExecutorShare **out_shares)
{
    const IrModule *last = x->variants[x->n_variants - 1].m;
    ExecutorShare *shares = *out_shares = ARENA_ARRAY(x->arena, ExecutorShare, last->globals.len);
    if (!x->comm || !hal_device_uses_host_memory(x->device))
        return STATUS_OK;
    shares[0].size_bytes = (size_t)l->sums_bytes;
    for (IrGlobal g = 1; g < last->globals.len; g++)
    {
        if (!l->size_bytes[g] || !executor_is_tensor(ir_global(last, g)))
            continue;
        shares[g].at = executor_tensors_shared(from, ir_global(last, g)->name);
        shares[g].size_bytes = l->given[g] || shares[g].at ? (size_t)l->size_bytes[g] : 0;
    }
    return executor_share(x, from, shares, last->globals.len);
}

static Status place_globals(Executor *x, const Layout *l, const ExecutorShare *shares, ExecutorTensors *from)
{
    const IrModule *last = x->variants[x->n_variants - 1].m;
    char **addresses = ARENA_ARRAY(x->arena, char *, last->globals.len);
    char *together = hal_buffer_address(x->memory);
    for (IrGlobal g = 1; g < last->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(last, g);
        if (l->size_bytes[g] == 0)
            continue;
        if (executor_is_tensor(global))
            TRY(executor_take_tensor(x, global, from, shares[g].at, &addresses[g]));
        else
        {
            addresses[g] = together;
            together += l->size_bytes[g];
        }
    }
    for (IrGlobal g = 1; g < last->globals.len; g++)
    {
        IrWindow window;
        if (ir_global_window(last, g, &window) && addresses[window.whole])
            addresses[g] = addresses[window.whole] + window.start * dtype_size_bytes(DT_BF16);
    }
    for (uint32_t v = 0; v < x->n_variants; v++)
    {
        const IrModule *m = x->variants[v].m;
        x->variants[v].global_address = ARENA_ARRAY(x->arena, char *, m->globals.len);
        for (IrGlobal g = 1; g < m->globals.len; g++)
            x->variants[v].global_address[g] = addresses[same_global(last, m, g)];
    }
    return STATUS_OK;
}

static Status take_memory(Executor *x, ExecutorTensors *from)
{
    const Layout l = lay_out(x->arena, x->variants, x->n_variants, &x->sizes);
    ExecutorShare *shares;
    TRY(place_shared(x, &l, from, &shares));
    const int64_t own_bytes = l.together_bytes + x->sizes.arena_bytes;
    TRY(hal_buffer_create(x->device, (size_t)(own_bytes + (shares[0].at ? 0 : l.sums_bytes)), &x->memory));
    char *own = hal_buffer_address(x->memory);
    x->arena_base = own + l.together_bytes;
    x->sums_base = shares[0].at ? shares[0].at : own + own_bytes;
    return place_globals(x, &l, shares, from);
}

Status executor_take_memory(Executor *x, ExecutorTensors *from)
{
    const Status status = take_memory(x, from);
    return status == STATUS_OUT_OF_MEMORY ? does_not_fit(x) : status;
}
