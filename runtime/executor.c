/* Turns a planned step function into a list of instructions with fixed addresses, and runs it. */
#include "runtime/executor.h"

#include "base/bug.h"
#include "base/strbuf.h"
#include "ir/interp.h"
#include "runtime/fault.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum
{
    ALIGNMENT = 64
};

typedef enum
{
    DO_LAUNCH,
    DO_GEMM,
    DO_CHECK_FINITE,
    DO_COPY,
    DO_SEND,
    DO_RECV,
    DO_ALL_REDUCE,
    DO_WAIT
} InstrKind;

typedef struct
{
    InstrKind kind;
    const HalKernel *kernel; /* DO_LAUNCH */
    void **bufs;
    uint32_t n_bufs;
    const HalGemm *gemm; /* DO_GEMM */
    GemmArgs args;
    void *dst;       /* DO_COPY, DO_RECV */
    const void *src; /* DO_COPY, DO_CHECK_FINITE, DO_SEND */
    size_t size_bytes;
    uint32_t peer, tag;      /* DO_SEND, DO_RECV */
    uint32_t bucket;         /* DO_ALL_REDUCE, DO_WAIT */
    const CommSlice *slices; /* DO_ALL_REDUCE */
    uint32_t n_slices;
    const char *place;   /* communication: the op, for messages */
    const char *checked; /* DO_CHECK_FINITE: the name of the value */
    uint32_t profile_row;
    IrOp op;
} Instr;

typedef struct
{
    const char *name;
    VEC(Instr) instrs;
    double matmul_flops;
} Program;

struct Executor
{
    Arena *arena;
    HalDevice *device;
    InterpEnv *env; /* the reference interpreter instead of a device; then all below but m is unused */
    const IrModule *m;
    HalExecutable *executable;
    const ExecutorComm *comm; /* NULL: none */
    HalBuffer *memory;        /* globals, then the arena */
    int64_t *global_offset;   /* by IrGlobal; -1: not of this rank */
    char *arena_base;
    VEC(Program) programs;
    VEC(ExecutorProfileRow) profile;
    bool profiling;
    ExecutorMemory sizes;
    float *check; /* host copy of what check_finite looks at */
    size_t check_bytes;
    uint64_t step;
    double wait_s;
    ExecutorEvent *events; /* NULL: not tracing */
    uint32_t n_events, max_events;
};

static char *global_address(const Executor *x, IrGlobal global)
{
    ENSURE(x->global_offset[global] >= 0);
    return (char *)hal_buffer_address(x->memory) + x->global_offset[global];
}

static int64_t align_up(int64_t size)
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

/* A global set to the old value of another that is set too: copies in any order could come too late. */
static bool needs_staging(const IrModule *m, IrFunc func, const IrOpData *set)
{
    IrValue value = set->operands[0];
    while (ir_value_code(m, value) == IR_reshape)
        value = ir_op(m, ir_value(m, value)->def)->operands[0];
    const IrOpData *def = ir_op(m, ir_value(m, value)->def);
    return def->code == IR_get && sets_global(m, func, ir_attrs_str(&def->attrs, IR_ATTR_global));
}

static int64_t planned_bytes(const IrModule *m, IrFunc func)
{
    return ir_attrs_int(&ir_func(m, func)->attrs, IR_ATTR_arena_bytes, 0);
}

static int64_t staging_bytes(const IrModule *m, IrFunc func)
{
    int64_t size_bytes = 0;
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData *data = ir_op(m, op);
        if (data->code == IR_set && needs_staging(m, func, data))
            size_bytes += align_up(ir_type_size_bytes(ir_value_type(m, data->operands[0])));
    }
    return size_bytes;
}

/* ---- building */

typedef struct
{
    Executor *x;
    IrFunc func;
    Program *program;
    char **address;    /* by value */
    VEC(Instr) copies; /* sets that are not in place: after all that reads old values */
    VEC(Instr) saves;  /* before those: old values of globals that the copies overwrite */
    char *staging;     /* where they go: behind the function's arena */
} Build;

static uint32_t profile_row(Executor *x, const char *name)
{
    for (uint32_t i = 0; i < x->profile.len; i++)
        if (strcmp(x->profile.data[i].name, name) == 0)
            return i;
    vec_push(x->arena, &x->profile, (ExecutorProfileRow){.name = arena_strdup(x->arena, name)});
    return x->profile.len - 1;
}

/* Results planned at offset -1 are in the global that the first set of them names. */
static void bind_results_in_globals(Build *b)
{
    const IrModule *m = b->x->m;
    IR_FOR_OPS(m, b->func, op)
    {
        const IrOpData *data = ir_op(m, op);
        if (data->code != IR_set)
            continue;
        IrValue value = data->operands[0];
        while (ir_value_code(m, value) == IR_reshape)
            value = ir_op(m, ir_value(m, value)->def)->operands[0];
        const IrOpData *def = ir_op(m, ir_value(m, value)->def);
        const IrAttr *offsets = ir_attrs_find(&def->attrs, IR_ATTR_offsets);
        if (offsets && offsets->ints[ir_value(m, value)->result] == -1 && !b->address[value])
            b->address[value] = global_address(b->x, ir_global_find(m, ir_attrs_str(&data->attrs, IR_ATTR_global)));
    }
}

static void place_results(Build *b, const IrOpData *data)
{
    const IrAttr *offsets = ir_attrs_find(&data->attrs, IR_ATTR_offsets);
    ENSURE(offsets && offsets->n == data->n_results);
    for (uint32_t i = 0; i < data->n_results; i++)
        if (offsets->ints[i] >= 0)
            b->address[data->results[i]] = b->x->arena_base + offsets->ints[i];
        else
            ENSURE(b->address[data->results[i]]);
}

static Status build_call(Build *b, IrOp op)
{
    Executor *x = b->x;
    const IrOpData *data = ir_op(x->m, op);
    const char *name = ir_attrs_str(&data->attrs, IR_ATTR_fn);
    place_results(b, data);
    const IrAttr *stream = ir_attrs_find(&data->attrs, IR_ATTR_stream);
    Instr instr = {.kind = DO_LAUNCH, .op = op, .n_bufs = data->n_operands + data->n_results + (stream ? 1 : 0)};
    instr.bufs = ARENA_ARRAY(x->arena, void *, instr.n_bufs);
    if (stream)
    {
        uint32_t *number = ARENA_NEW(x->arena, uint32_t);
        *number = (uint32_t)stream->i;
        instr.bufs[instr.n_bufs - 1] = number;
    }
    for (uint32_t i = 0; i < data->n_operands; i++)
        instr.bufs[i] = b->address[data->operands[i]];
    for (uint32_t i = 0; i < data->n_results; i++)
        instr.bufs[data->n_operands + i] = b->address[data->results[i]];
    instr.profile_row = profile_row(x, name);
    TRY(hal_executable_kernel(x->executable, name, &instr.kernel));
    vec_push(x->arena, &b->program->instrs, instr);
    return STATUS_OK;
}

static GemmDesc gemm_desc_of(const IrModule *m, const IrOpData *data)
{
    const IrType *a = ir_value_type(m, data->operands[0]), *c = ir_value_type(m, data->results[0]);
    bool ta = ir_attrs_bool(&data->attrs, IR_ATTR_ta), tb = ir_attrs_bool(&data->attrs, IR_ATTR_tb);
    int rank = c->rank;
    int64_t rows = c->dims[rank - 2], cols = c->dims[rank - 1], inner = a->dims[ta ? rank - 2 : rank - 1];
    GemmDesc desc = gemm_desc_make(rows, cols, inner, ta, tb);
    for (int i = 0; i < rank - 2; i++)
        desc.batch *= c->dims[i];
    desc.stride_a = rows * inner;
    desc.stride_b = inner * cols;
    desc.stride_c = desc.stride_r = rows * cols;
    desc.ldr = cols;
    desc.dtype_ab = a->dtype == DT_BF16 ? GEMM_BF16 : GEMM_F32;
    desc.dtype_c = c->dtype == DT_BF16 ? GEMM_BF16 : GEMM_F32;
    desc.bias = ir_attrs_bool(&data->attrs, IR_ATTR_bias);
    desc.residual = ir_attrs_bool(&data->attrs, IR_ATTR_residual);
    const char *act = ir_attrs_str(&data->attrs, IR_ATTR_act);
    desc.act = act ? gemm_act_from_name(act) : GEMM_ACT_none;
    ENSURE(desc.act != GEMM_ACT_COUNT);
    return desc;
}

static Status build_matmul(Build *b, IrOp op)
{
    Executor *x = b->x;
    const IrOpData *data = ir_op(x->m, op);
    place_results(b, data);
    GemmDesc desc = gemm_desc_of(x->m, data);
    Instr instr = {.kind = DO_GEMM, .op = op};
    uint32_t at = 2;
    instr.args.a = b->address[data->operands[0]];
    instr.args.b = b->address[data->operands[1]];
    if (desc.bias)
        instr.args.bias = (const float *)(const void *)b->address[data->operands[at++]];
    if (desc.residual)
        instr.args.residual = b->address[data->operands[at++]];
    instr.args.c = b->address[data->results[0]];
    instr.profile_row = profile_row(
        x, arena_printf(x->arena, "matmul %lldx%lldx%lld%s%s", (long long)(desc.batch * desc.m), (long long)desc.n,
                        (long long)desc.k, desc.trans_a ? " ta" : "", desc.trans_b ? " tb" : ""));
    TRY(hal_gemm_create(x->device, &desc, &instr.gemm));
    b->program->matmul_flops += gemm_flops(&desc);
    vec_push(x->arena, &b->program->instrs, instr);
    return STATUS_OK;
}

static void build_set(Build *b, IrOp op)
{
    Executor *x = b->x;
    const IrOpData *data = ir_op(x->m, op);
    IrGlobal global = ir_global_find(x->m, ir_attrs_str(&data->attrs, IR_ATTR_global));
    Instr instr = {.kind = DO_COPY,
                   .op = op,
                   .dst = global_address(x, global),
                   .src = b->address[data->operands[0]],
                   .size_bytes = (size_t)ir_type_size_bytes(&ir_global(x->m, global)->type)};
    if (instr.src == instr.dst)
        return;
    instr.profile_row = profile_row(x, "copy");
    if (needs_staging(x->m, b->func, data))
    {
        Instr save = instr;
        instr.src = save.dst = b->staging;
        b->staging += align_up((int64_t)instr.size_bytes);
        vec_push(x->arena, &b->saves, save);
    }
    vec_push(x->arena, &b->copies, instr);
}

/* What users call a value: the output that it is set to. */
static const char *name_of(const Build *b, IrValue value)
{
    const IrModule *m = b->x->m;
    IR_FOR_OPS(m, b->func, op)
    if (ir_op(m, op)->code == IR_set && ir_op(m, op)->operands[0] == value)
        return ir_attrs_str(&ir_op(m, op)->attrs, IR_ATTR_global);
    return "a checked value";
}

static void build_check_finite(Build *b, IrOp op)
{
    Executor *x = b->x;
    IrValue value = ir_op(x->m, op)->operands[0];
    ENSURE(ir_value_type(x->m, value)->dtype == DT_F32);
    Instr instr = {.kind = DO_CHECK_FINITE,
                   .op = op,
                   .checked = name_of(b, value),
                   .src = b->address[value],
                   .size_bytes = (size_t)ir_type_size_bytes(ir_value_type(x->m, value))};
    instr.profile_row = profile_row(x, "check_finite");
    if (instr.size_bytes > x->check_bytes)
    {
        x->check = arena_alloc(x->arena, instr.size_bytes);
        x->check_bytes = instr.size_bytes;
    }
    vec_push(x->arena, &b->program->instrs, instr);
}

/* ---- communication */

/* "recv tag 3 (unit 4, model.xml:12:3)" */
static const char *place_of(Executor *x, const IrOpData *data)
{
    StrBuf text = strbuf_make(x->arena);
    const IrAttr *tag = ir_attrs_find(&data->attrs, IR_ATTR_tag), *bucket = ir_attrs_find(&data->attrs, IR_ATTR_bucket);
    strbuf_add(&text, ir_op_info(data->code)->name);
    if (tag || bucket)
        strbuf_addf(&text, " %s %lld", tag ? "tag" : "bucket", (long long)(tag ? tag : bucket)->i);
    if (data->unit)
        strbuf_addf(&text, " (unit %u", data->unit);
    if (data->unit && data->span.file)
        strbuf_addf(&text, ", %s:%u:%u", x->m->files.data[data->span.file - 1], data->span.line, data->span.col);
    if (data->unit)
        strbuf_add(&text, ")");
    return strbuf_text(&text);
}

static Status build_comm(Build *b, IrOp op)
{
    Executor *x = b->x;
    const IrOpData *data = ir_op(x->m, op);
    if (!x->comm)
        return status_fail(STATUS_UNSUPPORTED, "the program is one of several ranks: '%s' has nobody to talk to",
                           ir_op_info(data->code)->name);
    if (data->n_results)
        place_results(b, data);
    Instr instr = {.op = op,
                   .peer = (uint32_t)ir_attrs_int(&data->attrs, IR_ATTR_peer, 0),
                   .tag = (uint32_t)ir_attrs_int(&data->attrs, IR_ATTR_tag, 0),
                   .bucket = (uint32_t)ir_attrs_int(&data->attrs, IR_ATTR_bucket, 0),
                   .place = place_of(x, data),
                   .profile_row = profile_row(x, ir_op_info(data->code)->name)};
    switch (data->code)
    {
    case IR_send:
        instr.kind = DO_SEND;
        instr.src = b->address[data->operands[0]];
        instr.size_bytes = (size_t)ir_type_size_bytes(ir_value_type(x->m, data->operands[0]));
        break;
    case IR_recv:
        instr.kind = DO_RECV;
        instr.dst = b->address[data->results[0]];
        instr.size_bytes = (size_t)ir_type_size_bytes(ir_value_type(x->m, data->results[0]));
        break;
    case IR_all_reduce:
    {
        CommSlice *slices = ARENA_ARRAY(x->arena, CommSlice, data->n_operands);
        instr.kind = DO_ALL_REDUCE;
        for (uint32_t i = 0; i < data->n_operands; i++)
            slices[i] = (CommSlice){.src = (const float *)(const void *)b->address[data->operands[i]],
                                    .dst = (float *)(void *)b->address[data->results[i]],
                                    .n_elems = (size_t)ir_type_n_elems(ir_value_type(x->m, data->operands[i]))};
        instr.slices = slices;
        instr.n_slices = data->n_operands;
        break;
    }
    default:
        instr.kind = DO_WAIT;
    }
    vec_push(x->arena, &b->program->instrs, instr);
    return STATUS_OK;
}

static Status build_op(Build *b, IrOp op)
{
    const IrModule *m = b->x->m;
    const IrOpData *data = ir_op(m, op);
    switch (data->code)
    {
    case IR_get:
        b->address[data->results[0]] =
            global_address(b->x, ir_global_find(m, ir_attrs_str(&data->attrs, IR_ATTR_global)));
        return STATUS_OK;
    case IR_reshape:
        b->address[data->results[0]] = b->address[data->operands[0]];
        return STATUS_OK;
    case IR_call:
        return build_call(b, op);
    case IR_matmul:
        return build_matmul(b, op);
    case IR_set:
        build_set(b, op);
        return STATUS_OK;
    case IR_check_finite:
        build_check_finite(b, op);
        return STATUS_OK;
    case IR_send:
    case IR_recv:
    case IR_all_reduce:
    case IR_wait:
        return build_comm(b, op);
    default:
        BUG("op %s in a planned function", ir_op_info(data->code)->name);
    }
}

static Status build_program(Executor *x, IrFunc func)
{
    Program program = {.name = ir_func(x->m, func)->name};
    Build b = {.x = x,
               .func = func,
               .program = &program,
               .address = ARENA_ARRAY(x->arena, char *, x->m->values.len),
               .staging = x->arena_base + planned_bytes(x->m, func)};
    bind_results_in_globals(&b);
    IR_FOR_OPS(x->m, func, op)
    TRY(build_op(&b, op));
    for (uint32_t i = 0; i < b.saves.len; i++)
        vec_push(x->arena, &program.instrs, b.saves.data[i]);
    for (uint32_t i = 0; i < b.copies.len; i++)
        vec_push(x->arena, &program.instrs, b.copies.data[i]);
    vec_push(x->arena, &x->programs, program);
    return STATUS_OK;
}

static int64_t *size_of_kind(ExecutorMemory *sizes, IrGlobalKind kind)
{
    switch (kind)
    {
    case IR_GLOBAL_PARAM:
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

/* What the step functions of this rank touch: the rest lives on other ranks. */
static const bool *used_globals(Executor *x)
{
    bool *used = ARENA_ARRAY(x->arena, bool, x->m->globals.len);
    IR_FOR_FUNCS(x->m, f)
    IR_FOR_OPS(x->m, f, op)
    {
        const IrOpData *data = ir_op(x->m, op);
        if (data->code == IR_get || data->code == IR_set)
            used[ir_global_find(x->m, ir_attrs_str(&data->attrs, IR_ATTR_global))] = true;
    }
    return used;
}

static Status allocate(Executor *x)
{
    int64_t total = 0;
    x->global_offset = ARENA_ARRAY(x->arena, int64_t, x->m->globals.len);
    const bool *used = used_globals(x);
    for (IrGlobal g = 1; g < x->m->globals.len; g++)
    {
        x->global_offset[g] = -1;
        if (!used[g])
            continue;
        int64_t size = align_up(ir_type_size_bytes(&ir_global(x->m, g)->type));
        x->global_offset[g] = total;
        *size_of_kind(&x->sizes, ir_global(x->m, g)->kind) += size;
        total += size;
    }
    IR_FOR_FUNCS(x->m, f)
    {
        int64_t bytes = planned_bytes(x->m, f) + staging_bytes(x->m, f);
        if (bytes > x->sizes.arena_bytes)
            x->sizes.arena_bytes = bytes;
    }
    TRY(hal_buffer_create(x->device, (size_t)(total + x->sizes.arena_bytes), &x->memory));
    x->arena_base = (char *)hal_buffer_address(x->memory) + total;
    return STATUS_OK;
}

static Status build(Executor *x, const char *so_path)
{
    if (so_path)
        TRY(hal_executable_load(x->device, so_path, &x->executable));
    TRY(allocate(x));
    IR_FOR_FUNCS(x->m, f)
    if (ir_func(x->m, f)->kind == IR_FUNC_STEP)
        TRY(build_program(x, f));
    x->sizes.workspace_bytes = hal_memory_info(x->device).workspace_bytes;
    return STATUS_OK;
}

Status executor_create(HalDevice *device, const IrModule *m, const char *so_path, const ExecutorComm *comm,
                       Executor **out_executor)
{
    Arena *arena = arena_create();
    Executor *x = ARENA_NEW(arena, Executor);
    *x = (Executor){.arena = arena, .device = device, .m = m, .comm = comm};
    Status status = build(x, so_path);
    if (status != STATUS_OK)
        executor_destroy(x);
    else
        *out_executor = x;
    return status;
}

Status executor_create_interp(const IrModule *m, Executor **out_executor)
{
    Arena *arena = arena_create();
    Executor *x = ARENA_NEW(arena, Executor);
    *x = (Executor){.arena = arena, .m = m, .env = ir_interp_env_create()};
    ir_interp_bind_rest(x->env, m);
    *out_executor = x;
    return STATUS_OK;
}

void executor_destroy(Executor *x)
{
    if (!x)
        return;
    if (x->env)
        ir_interp_env_destroy(x->env);
    if (x->memory)
        hal_buffer_destroy(x->memory);
    if (x->executable)
        hal_executable_unload(x->executable);
    arena_destroy(x->arena);
}

/* ---- running */

static Status check_finite(Executor *x, const Instr *instr)
{
    TRY(hal_copy(x->device, HAL_COPY_FROM_DEVICE, x->check, instr->src, instr->size_bytes));
    for (size_t i = 0; i < instr->size_bytes / sizeof *x->check; i++)
        if (!isfinite(x->check[i]))
            return status_fail(STATUS_NON_FINITE, "%s is %f", instr->checked, (double)x->check[i]);
    return STATUS_OK;
}

static double now_s(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static const Program *find_program(const Executor *x, const char *func)
{
    for (uint32_t i = 0; i < x->programs.len; i++)
        if (strcmp(x->programs.data[i].name, func) == 0)
            return &x->programs.data[i];
    BUG("no step function @%s", func);
}

/* A fault on purpose (runtime/fault.h): a rank that keeps what is not the sum. */
static void undo_sum(const Executor *x, uint32_t bucket)
{
    const Program *train = find_program(x, "train");
    for (uint32_t i = 0; i < train->instrs.len; i++)
    {
        const Instr *instr = &train->instrs.data[i];
        for (uint32_t k = 0; instr->kind == DO_ALL_REDUCE && instr->bucket == bucket && k < instr->n_slices; k++)
            for (size_t e = 0; e < instr->slices[k].n_elems; e++)
                instr->slices[k].dst[e] *= 0.5F;
    }
}

static Status communicate(Executor *x, const Instr *instr)
{
    const int64_t micro = ir_attrs_int(&ir_op(x->m, instr->op)->attrs, IR_ATTR_micro, -1);
    double start_s = now_s(CLOCK_MONOTONIC);
    Status status = STATUS_OK;
    comm_set_place(x->comm->world, instr->place, (int64_t)x->step, (int32_t)micro);
    switch (instr->kind)
    {
    case DO_SEND:
        status = comm_send(x->comm->pipe, instr->peer, instr->tag, instr->src, instr->size_bytes);
        break;
    case DO_RECV:
        status = comm_recv(x->comm->pipe, instr->peer, instr->tag, instr->dst, instr->size_bytes);
        break;
    case DO_ALL_REDUCE:
        return comm_all_reduce_start(x->comm->data, instr->bucket, instr->slices, instr->n_slices);
    default:
        status = comm_all_reduce_wait(x->comm->data, instr->bucket);
        if (status == STATUS_OK && fault_skips_bucket(comm_rank(x->comm->world), x->step, instr->bucket))
            undo_sum(x, instr->bucket);
    }
    x->wait_s += now_s(CLOCK_MONOTONIC) - start_s;
    return status;
}

static Status run_instr(Executor *x, const Instr *instr)
{
    switch (instr->kind)
    {
    case DO_LAUNCH:
        return hal_launch(x->device, instr->kernel, instr->bufs, instr->n_bufs);
    case DO_GEMM:
        return hal_gemm_run(x->device, instr->gemm, &instr->args);
    case DO_CHECK_FINITE:
        return check_finite(x, instr);
    case DO_COPY:
        return hal_copy(x->device, HAL_COPY_ON_DEVICE, instr->dst, instr->src, instr->size_bytes);
    case DO_SEND:
    case DO_RECV:
    case DO_ALL_REDUCE:
    case DO_WAIT:
        return communicate(x, instr);
    }
    BUG("instruction kind %d", (int)instr->kind);
}

static void record_event(Executor *x, const Instr *instr, double start_s, double end_s)
{
    static const char *const parts[] = {"forward", "backward", "optimizer"};
    const IrOpData *data = ir_op(x->m, instr->op);
    if (x->n_events == x->max_events)
        return;
    const char *place = "";
    if (data->span.file)
        place =
            arena_printf(x->arena, "%s:%u:%u", x->m->files.data[data->span.file - 1], data->span.line, data->span.col);
    x->events[x->n_events++] =
        (ExecutorEvent){.name = instr->place ? instr->place : x->profile.data[instr->profile_row].name,
                        .place = place,
                        .part = parts[data->phase],
                        .unit = data->unit,
                        .micro_batch = (int32_t)ir_attrs_int(&data->attrs, IR_ATTR_micro, -1),
                        .waits = instr->place != NULL,
                        .start_s = start_s,
                        .end_s = end_s};
}

/* One op by itself, with its times: for profiles and traces. */
static Status run_timed(Executor *x, const Instr *instr)
{
    double start_s = now_s(CLOCK_REALTIME);
    TRY(run_instr(x, instr));
    TRY(hal_sync(x->device));
    double end_s = now_s(CLOCK_REALTIME);
    if (x->events)
        record_event(x, instr, start_s, end_s);
    x->profile.data[instr->profile_row].seconds += end_s - start_s;
    x->profile.data[instr->profile_row].n_runs++;
    return STATUS_OK;
}

Status executor_run(Executor *x, const char *func)
{
    if (x->env)
        return ir_interp_run(x->env, x->m, ir_func_find(x->m, func));
    const Program *program = find_program(x, func);
    for (uint32_t i = 0; i < program->instrs.len; i++)
    {
        const Instr *instr = &program->instrs.data[i];
        if (x->profiling || x->events)
            TRY(run_timed(x, instr));
        else
            TRY(run_instr(x, instr));
        if (x->comm)
            TRY(comm_poll(x->comm->world));
    }
    return hal_sync(x->device);
}

/* ---- globals and reports */

static IrGlobal must_find(const Executor *x, const char *name)
{
    IrGlobal global = ir_global_find(x->m, name);
    if (!global)
        BUG("no global '%s'", name);
    return global;
}

/* Between storage of a dtype and the interpreter's doubles. */
static void convert(DType dtype, int64_t n, const void *storage, double *numbers)
{
    for (int64_t i = 0; i < n; i++)
    {
        switch (dtype)
        {
        case DT_F32:
            numbers[i] = (double)((const float *)storage)[i];
            break;
        case DT_I32:
            numbers[i] = ((const int32_t *)storage)[i];
            break;
        case DT_U8:
        case DT_BOOL:
            numbers[i] = ((const uint8_t *)storage)[i];
            break;
        default:
            BUG("a global of dtype %s", dtype_name(dtype));
        }
    }
}

static void convert_back(DType dtype, int64_t n, const double *numbers, void *storage)
{
    for (int64_t i = 0; i < n; i++)
    {
        switch (dtype)
        {
        case DT_F32:
            ((float *)storage)[i] = (float)numbers[i];
            break;
        case DT_I32:
            ((int32_t *)storage)[i] = (int32_t)numbers[i];
            break;
        case DT_U8:
        case DT_BOOL:
            ((uint8_t *)storage)[i] = (uint8_t)numbers[i];
            break;
        default:
            BUG("a global of dtype %s", dtype_name(dtype));
        }
    }
}

bool executor_has_global(const Executor *x, const char *name)
{
    IrGlobal global = ir_global_find(x->m, name);
    return global && (x->env || x->global_offset[global] >= 0);
}

Status executor_write_global(Executor *x, const char *name, const void *data)
{
    IrGlobal global = must_find(x, name);
    const IrType *type = &ir_global(x->m, global)->type;
    if (x->env)
    {
        convert((DType)type->dtype, ir_type_n_elems(type), data, ir_interp_find(x->env, name));
        return STATUS_OK;
    }
    return hal_copy(x->device, HAL_COPY_TO_DEVICE, global_address(x, global), data, (size_t)ir_type_size_bytes(type));
}

Status executor_read_global(Executor *x, const char *name, void *data)
{
    IrGlobal global = must_find(x, name);
    const IrType *type = &ir_global(x->m, global)->type;
    if (x->env)
    {
        convert_back((DType)type->dtype, ir_type_n_elems(type), ir_interp_find(x->env, name), data);
        return STATUS_OK;
    }
    return hal_copy(x->device, HAL_COPY_FROM_DEVICE, data, global_address(x, global), (size_t)ir_type_size_bytes(type));
}

Status executor_read_scalar(Executor *x, const char *name, double *out_value)
{
    float value = 0;
    const IrType *type = &ir_global(x->m, must_find(x, name))->type;
    ENSURE(type->dtype == DT_F32 && type->rank == 0);
    if (x->env)
    {
        *out_value = *ir_interp_find(x->env, name); /* unrounded */
        return STATUS_OK;
    }
    TRY(executor_read_global(x, name, &value));
    *out_value = (double)value;
    return STATUS_OK;
}

ExecutorMemory executor_memory(const Executor *x)
{
    return x->sizes;
}

double executor_matmul_flops(const Executor *x, const char *func)
{
    return find_program(x, func)->matmul_flops;
}

void executor_profile_start(Executor *x)
{
    x->profiling = true;
    for (uint32_t i = 0; i < x->profile.len; i++)
    {
        x->profile.data[i].seconds = 0;
        x->profile.data[i].n_runs = 0;
    }
}

void executor_set_step(Executor *x, uint64_t step)
{
    x->step = step;
}

double executor_wait_s(const Executor *x)
{
    return x->wait_s;
}

void executor_trace_start(Executor *x, uint32_t max_events)
{
    x->events = ARENA_ARRAY(x->arena, ExecutorEvent, max_events);
    x->max_events = max_events;
    x->n_events = 0;
}

const ExecutorEvent *executor_trace_events(const Executor *x, uint32_t *out_n_events)
{
    *out_n_events = x->n_events;
    return x->events;
}

static int by_seconds(const void *x, const void *y)
{
    const ExecutorProfileRow *a = x, *b = y;
    return a->seconds > b->seconds ? -1 : a->seconds < b->seconds;
}

const ExecutorProfileRow *executor_profile_rows(Executor *x, uint32_t *out_n_rows)
{
    ExecutorProfileRow *rows = arena_memdup(x->arena, x->profile.data, x->profile.len * sizeof *rows);
    qsort(rows, x->profile.len, sizeof *rows, by_seconds);
    *out_n_rows = x->profile.len;
    return rows;
}
