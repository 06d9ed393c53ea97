/* The executor: its life, its globals, and what it tells. Building is in executor_build.c, running in executor_run.c.
 */
#include "runtime/executor_program.h"

#include <stdlib.h>
#include <string.h>

static uint32_t count_copies(const IrModule *m)
{
    uint32_t n = 0;
    for (IrGlobal g = 1; g < m->globals.len; g++)
        n += ir_global(m, g)->kind == IR_GLOBAL_COPY;
    return n;
}

static Executor *create(HalDevice *device, const ExecutorModule *modules, uint32_t n_modules)
{
    ENSURE(n_modules >= 1);
    Arena *arena = arena_create();
    Executor *x = ARENA_NEW(arena, Executor);
    *x = (Executor){.arena = arena, .device = device, .n_variants = n_modules};
    x->variants = ARENA_ARRAY(arena, ExecutorVariant, n_modules);
    for (uint32_t i = 0; i < n_modules; i++)
        x->variants[i] = (ExecutorVariant){.m = modules[i].m, .label = n_modules > 1 ? modules[i].label : NULL};
    executor_select(x, n_modules - 1);
    for (uint32_t i = 0; i < n_modules; i++)
        x->copies_differ = x->copies_differ || count_copies(modules[i].m) != count_copies(x->m);
    x->stale = true;
    return x;
}

Status executor_create(HalDevice *device, const ExecutorModule *modules, uint32_t n_modules, const ExecutorComm *comm,
                       ExecutorTensors *from, Executor **out_executor)
{
    Executor *x = create(device, modules, n_modules);
    x->comm = comm;
    Status status = executor_build(x, modules, from);
    if (status != STATUS_OK)
        executor_destroy(x);
    else
        *out_executor = x;
    return status;
}

Status executor_create_interp(const ExecutorModule *modules, uint32_t n_modules, ExecutorTensors *from,
                              Executor **out_executor)
{
    Executor *x = create(NULL, modules, n_modules);
    x->env = ir_interp_env_create();
    ir_interp_env_round_bf16(x->env, true);
    ir_interp_bind_rest(x->env, x->m); /* the largest: the others use the fronts */
    *out_executor = x;
    return from ? executor_fill_interp(x, from) : STATUS_OK;
}

static void destroy_variant(const Executor *x, const ExecutorVariant *variant)
{
    for (uint32_t p = 0; p < variant->programs.len; p++)
    {
        executor_destroy_graphs(x, &variant->programs.data[p]);
        executor_destroy_batches(x, &variant->programs.data[p]);
    }
    if (variant->executable)
        hal_executable_unload(variant->executable);
}

void executor_destroy(Executor *x)
{
    if (!x)
        return;
    if (x->env)
        ir_interp_env_destroy(x->env);
    executor_uploads_drop(x);
    executor_mirrors_drop(x);
    if (x->comm && x->comm->device)
        device_links_destroy(x->links);
    executor_tensors_drop(&x->tensors);
    hal_buffer_destroy(x->memory);
    executor_shared_give(x->comm, &x->shared);
    for (uint32_t i = 0; i < x->n_variants; i++)
        destroy_variant(x, &x->variants[i]);
    arena_destroy(x->arena);
}

void executor_select(Executor *x, uint32_t variant)
{
    ENSURE(variant < x->n_variants);
    x->stale = x->stale || (x->copies_differ && x->now != &x->variants[variant]);
    x->now = &x->variants[variant];
    x->m = x->now->m;
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
    return global && (x->env || x->now->global_address[global]);
}

uint64_t executor_n_elems(const Executor *x, const char *name)
{
    return (uint64_t)ir_type_n_elems(&ir_global(x->m, must_find(x, name))->type);
}

uint64_t executor_variant_elems(const Executor *x, uint32_t variant, const char *name)
{
    const IrModule *m = x->variants[variant].m;
    return (uint64_t)ir_type_n_elems(&ir_global(m, ir_global_find(m, name))->type);
}

Status executor_write_global(Executor *x, const char *name, const void *data)
{
    IrGlobal global = must_find(x, name);
    const IrType *type = &ir_global(x->m, global)->type;
    x->stale = x->stale || ir_global(x->m, global)->kind == IR_GLOBAL_PARAM;
    if (x->env)
    {
        convert((DType)type->dtype, ir_type_n_elems(type), data, ir_interp_find(x->env, name));
        return STATUS_OK;
    }
    return hal_copy(x->device, HAL_COPY_TO_DEVICE, executor_global_address(x, global), data,
                    (size_t)ir_type_size_bytes(type));
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
    return hal_copy(x->device, HAL_COPY_FROM_DEVICE, data, executor_global_address(x, global),
                    (size_t)ir_type_size_bytes(type));
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
    return executor_find_program(x, func)->matmul_flops;
}

void executor_profile_start(Executor *x)
{
    x->profiling = true;
    for (uint32_t i = 0; i < x->profile.len; i++)
    {
        x->profile.data[i].seconds = x->profile.data[i].bytes = 0;
        x->profile.data[i].n_runs = 0;
    }
}

void executor_set_step(Executor *x, uint64_t step)
{
    x->step = step;
}

ExecutorTimes executor_times(const Executor *x)
{
    return x->times;
}

void executor_trace_start(Executor *x, uint32_t max_events)
{
    x->events = ARENA_ARRAY(x->arena, ExecutorEvent, max_events);
    x->max_events = max_events;
    x->n_events = 0;
    x->tracing = true;
}

void executor_trace_stop(Executor *x)
{
    x->tracing = false;
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
