/* Turns the planned step functions of a module into lists of instructions with fixed addresses. */
#include "base/strbuf.h"
#include "runtime/executor_program.h"

#include <string.h>

/* Notes where the part begins that is done once a step. */
static void find_update(const Executor *x, Program *program)
{
    program->first_update = 0;
    for (uint32_t i = 0; i < program->instrs.len; i++)
        if (program->instrs.data[i].kind != DO_COPY &&
            ir_op(x->m, program->instrs.data[i].op)->phase != IR_PHASE_OPTIMIZER)
            program->first_update = i + 1;
}

/* "k3 (model.xml:12:3)" */
static void name_ranges(const Executor *x, Program *program)
{
    if (!hal_device_names_ranges(x->device))
        return;
    for (uint32_t i = 0; i < program->instrs.len; i++)
    {
        Instr *instr = &program->instrs.data[i];
        const Span span = ir_op(x->m, instr->op)->span;
        const char *name = instr->place ? instr->place : x->profile.data[instr->profile_row].name;
        instr->range = !span.file ? name
                                  : arena_printf(x->arena, "%s (%s:%u:%u)", name, x->m->files.data[span.file - 1],
                                                 span.line, span.col);
    }
}

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

uint32_t executor_profile_row(Executor *x, const char *name)
{
    for (uint32_t i = 0; i < x->profile.len; i++)
        if (strcmp(x->profile.data[i].name, name) == 0)
            return i;
    vec_push(x->arena, &x->profile, (ExecutorProfileRow){.name = arena_strdup(x->arena, name)});
    return x->profile.len - 1;
}

/* The op behind reshapes and bcasts, which leave a value where it is. */
static IrValue behind_views(const IrModule *m, IrValue value)
{
    for (;;)
    {
        const IrOpData *def = ir_op(m, ir_value(m, value)->def);
        if (def->code != IR_reshape && def->code != IR_bcast)
            return value;
        value = def->operands[ir_value(m, value)->result];
    }
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
        const IrValue value = behind_views(m, data->operands[0]);
        const IrOpData *def = ir_op(m, ir_value(m, value)->def);
        const IrAttr *offsets = ir_attrs_find(&def->attrs, IR_ATTR_offsets);
        if (offsets && offsets->ints[ir_value(m, value)->result] == -1 && !b->address[value])
            b->address[value] =
                executor_global_address(b->x, ir_global_find(m, ir_attrs_str(&data->attrs, IR_ATTR_global)));
    }
}

static void place_results(Build *b, const IrOpData *data)
{
    const int64_t sums = executor_sums_at(b->x->m, b->func);
    const IrAttr *offsets = ir_attrs_find(&data->attrs, IR_ATTR_offsets);
    ENSURE(offsets && offsets->n == data->n_results);
    for (uint32_t i = 0; i < data->n_results; i++)
        if (offsets->ints[i] >= sums)
            b->address[data->results[i]] = b->x->sums_base + (offsets->ints[i] - sums);
        else if (offsets->ints[i] >= 0)
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
    const char *label = x->now->label;
    instr.profile_row = executor_profile_row(x, label ? arena_printf(x->arena, "%s %s", name, label) : name);
    TRY(hal_executable_kernel(x->now->executable, name, &instr.kernel));
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
    desc.dtype_bias = desc.dtype_c;
    desc.bias = ir_attrs_bool(&data->attrs, IR_ATTR_bias);
    const char *precision = ir_attrs_str(&ir_func(m, data->func)->attrs, IR_ATTR_precision);
    desc.tf32 = precision && strcmp(precision, "tf32") == 0;
    desc.residual = ir_attrs_bool(&data->attrs, IR_ATTR_residual);
    const char *act = ir_attrs_str(&data->attrs, IR_ATTR_act);
    desc.act = act ? gemm_act_from_name(act) : GEMM_ACT_none;
    const char *dact = ir_attrs_str(&data->attrs, IR_ATTR_dact);
    desc.dact = dact ? gemm_act_from_name(dact) : GEMM_ACT_none;
    desc.aux = ir_attrs_bool(&data->attrs, IR_ATTR_aux);
    desc.sums = ir_attrs_bool(&data->attrs, IR_ATTR_sums);
    ENSURE(desc.act != GEMM_ACT_COUNT && desc.dact != GEMM_ACT_COUNT);
    return desc;
}

const GemmDesc *executor_contractions(Arena *arena, const IrModule *m, uint32_t *out_n)
{
    VEC(GemmDesc) descs = {0};
    IR_FOR_FUNCS(m, f)
    IR_FOR_OPS(m, f, op)
    {
        if (ir_op(m, op)->code == IR_matmul)
            vec_push(arena, &descs, gemm_desc_of(m, ir_op(m, op)));
    }
    *out_n = descs.len;
    return descs.data;
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
        instr.args.bias = b->address[data->operands[at++]];
    if (desc.dact != GEMM_ACT_none)
        instr.args.aux = b->address[data->operands[at++]];
    if (desc.residual)
        instr.args.residual = b->address[data->operands[at++]];
    instr.args.c = b->address[data->results[0]];
    if (desc.aux)
        instr.args.aux = b->address[data->results[1]];
    if (desc.sums)
        instr.args.sums = (float *)(void *)b->address[data->results[1]];
    instr.profile_row = executor_profile_row(
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
                   .dst = executor_global_address(x, global),
                   .src = b->address[data->operands[0]],
                   .size_bytes = (size_t)ir_type_size_bytes(&ir_global(x->m, global)->type)};
    if (instr.src == instr.dst)
        return;
    ENSURE(!ir_attrs_find(&ir_global(x->m, global)->attrs, IR_ATTR_within)); /* its rows are not one run */
    instr.profile_row = executor_profile_row(x, "copy");
    if (executor_needs_staging(x->m, b->func, data))
    {
        Instr save = instr;
        instr.src = save.dst = b->staging;
        b->staging += executor_align((int64_t)instr.size_bytes);
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
    instr.profile_row = executor_profile_row(x, "check_finite");
    if (instr.size_bytes > x->check_bytes)
    {
        x->check = arena_alloc(x->arena, instr.size_bytes);
        x->check_bytes = instr.size_bytes;
    }
    vec_push(x->arena, &b->program->instrs, instr);
}

/* Results of a bcast are where they were; others have places of their own. */
static Status build_comm(Build *b, IrOp op)
{
    const IrOpData *data = ir_op(b->x->m, op);
    if (data->code == IR_bcast)
        for (uint32_t i = 0; i < data->n_results; i++)
            b->address[data->results[i]] = b->address[data->operands[i]];
    else if (data->n_results)
        place_results(b, data);
    return executor_build_comm(b->x, b->program, op, b->address);
}

static Status build_op(Build *b, IrOp op)
{
    const IrModule *m = b->x->m;
    const IrOpData *data = ir_op(m, op);
    switch (data->code)
    {
    case IR_get:
        b->address[data->results[0]] =
            executor_global_address(b->x, ir_global_find(m, ir_attrs_str(&data->attrs, IR_ATTR_global)));
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
    case IR_reduce:
    case IR_bcast:
    case IR_wait:
        return build_comm(b, op);
    default:
        BUG("op %s in a planned function", ir_op_info(data->code)->name);
    }
}

static Status build_program(Executor *x, IrFunc func)
{
    Program program = {.name = ir_func(x->m, func)->name};
    if (x->links)
        program.link = device_links_program(x->links, program.name, (uint32_t)(x->now - x->variants));
    Build b = {.x = x,
               .func = func,
               .program = &program,
               .address = ARENA_ARRAY(x->arena, char *, x->m->values.len),
               .staging = x->arena_base + executor_sums_at(x->m, func)};
    bind_results_in_globals(&b);
    IR_FOR_OPS(x->m, func, op)
    TRY(build_op(&b, op));
    for (uint32_t i = 0; i < b.saves.len; i++)
        vec_push(x->arena, &program.instrs, b.saves.data[i]);
    for (uint32_t i = 0; i < b.copies.len; i++)
        vec_push(x->arena, &program.instrs, b.copies.data[i]);
    TRY(executor_join_launches(x, &program));
    find_update(x, &program);
    executor_find_segments(x, &program);
    name_ranges(x, &program);
    vec_push(x->arena, &x->now->programs, program);
    return STATUS_OK;
}

static Status build_variant(Executor *x, const char *kernels_path)
{
    if (kernels_path)
        TRY(hal_executable_load(x->device, kernels_path, &x->now->executable));
    IR_FOR_FUNCS(x->m, f)
    if (ir_func(x->m, f)->kind == IR_FUNC_STEP)
        TRY(build_program(x, f));
    return STATUS_OK;
}

Status executor_build(Executor *x, const ExecutorModule *modules, ExecutorTensors *from)
{
    TRY(executor_take_memory(x, from));
    if (x->comm && x->comm->device)
        x->links = device_links_create(x->comm->device, x->comm->pipe, x->comm->data);
    for (uint32_t i = 0; i < x->n_variants; i++)
    {
        executor_select(x, i); /* the last one stays */
        TRY(build_variant(x, modules[i].kernels_path));
    }
    if (x->links)
    {
        TRY(device_links_connect(x->links));
        x->sizes.comm_bytes = (int64_t)device_links_bytes(x->links);
    }
    x->sizes.workspace_bytes = hal_memory_info(x->device).workspace_bytes;
    return STATUS_OK;
}
