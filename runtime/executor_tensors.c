/* Params and states: what an executor has of them, and what goes from one executor to the next. */
#include "runtime/executor_program.h"

#include <stdlib.h>
#include <string.h>

bool executor_is_tensor(const IrGlobalData *global)
{
    return global->kind == IR_GLOBAL_PARAM || global->kind == IR_GLOBAL_STATE;
}

void executor_tensors_drop(ExecutorTensorList *tensors)
{
    for (uint32_t i = 0; i < tensors->len; i++)
    {
        hal_buffer_destroy(tensors->data[i].buffer);
        free(tensors->data[i].copy);
    }
    tensors->len = 0;
}

ExecutorTensors *executor_tensors_create(void)
{
    Arena *arena = arena_create();
    ExecutorTensors *tensors = ARENA_NEW(arena, ExecutorTensors);
    tensors->arena = arena;
    return tensors;
}

void executor_tensors_destroy(ExecutorTensors *tensors)
{
    if (!tensors)
        return;
    executor_tensors_drop(&tensors->list);
    executor_shared_give(tensors->comm, &tensors->shared);
    if (tensors->comm && tensors->comm->world)
        comm_memory_forget(tensors->comm->world);
    arena_destroy(tensors->arena);
}

uint32_t executor_tensors_count(const ExecutorTensors *tensors)
{
    return tensors->list.len;
}

ExecutorTensorInfo executor_tensors_info(const ExecutorTensors *tensors, uint32_t i)
{
    const ExecutorTensor *tensor = &tensors->list.data[i];
    return (ExecutorTensorInfo){tensor->name, tensor->size_bytes};
}

static ExecutorTensor *find(const ExecutorTensors *tensors, const char *name)
{
    for (uint32_t i = 0; tensors && i < tensors->list.len; i++)
        if (strcmp(tensors->list.data[i].name, name) == 0)
            return &tensors->list.data[i];
    return NULL;
}

static ExecutorTensor *must_find(const ExecutorTensors *tensors, const char *name)
{
    ExecutorTensor *tensor = find(tensors, name);
    if (!tensor)
        BUG("no tensor '%s'", name);
    return tensor;
}

void *executor_tensors_address(const ExecutorTensors *tensors, const char *name)
{
    return must_find(tensors, name)->address;
}

char *executor_tensors_shared(const ExecutorTensors *tensors, const char *name)
{
    const ExecutorTensor *tensor = find(tensors, name);
    return tensor && !tensor->buffer ? tensor->address : NULL;
}

/* It has gone to an executor. */
static void take_out(ExecutorTensors *tensors, ExecutorTensor *tensor)
{
    *tensor = tensors->list.data[--tensors->list.len];
}

Status executor_tensors_add(ExecutorTensors *tensors, HalDevice *device, const char *name, size_t size_bytes)
{
    ENSURE(!find(tensors, name) && (!tensors->device || tensors->device == device));
    ExecutorTensor tensor = {.name = arena_strdup(tensors->arena, name), .size_bytes = size_bytes};
    TRY(hal_buffer_create(device, (size_t)executor_align((int64_t)size_bytes), &tensor.buffer));
    tensor.address = hal_buffer_address(tensor.buffer);
    tensors->device = device;
    vec_push(tensors->arena, &tensors->list, tensor);
    return STATUS_OK;
}

void executor_tensors_remove(ExecutorTensors *tensors, const char *name)
{
    ExecutorTensor *tensor = must_find(tensors, name);
    hal_buffer_destroy(tensor->buffer);
    free(tensor->copy);
    take_out(tensors, tensor);
}

Status executor_take_tensor(Executor *x, const IrGlobalData *global, ExecutorTensors *from, char *at,
                            char **out_address)
{
    ExecutorTensor *old = find(from, global->name);
    ExecutorTensor tensor = {
        .name = global->name, .size_bytes = (size_t)ir_type_size_bytes(&global->type), .address = at};
    ENSURE(!old || (from->device == x->device && old->size_bytes == tensor.size_bytes));
    if (!at && old && old->buffer)
        tensor.buffer = old->buffer;
    else if (!at)
        TRY(hal_buffer_create(x->device, (size_t)executor_align((int64_t)tensor.size_bytes), &tensor.buffer));
    tensor.address = at ? at : hal_buffer_address(tensor.buffer);
    vec_push(x->arena, &x->tensors, tensor);
    *out_address = tensor.address;
    if (!old && at && from)
        memset(at, 0, tensor.size_bytes); /* something else may have been there */
    if (!old)
        return STATUS_OK;
    if (tensor.address != old->address)
        TRY(hal_copy(x->device, HAL_COPY_ON_DEVICE, tensor.address, old->address, tensor.size_bytes));
    if (tensor.buffer != old->buffer)
        hal_buffer_destroy(old->buffer);
    take_out(from, old);
    return STATUS_OK;
}

Status executor_fill_interp(Executor *x, ExecutorTensors *from)
{
    for (IrGlobal g = 1; g < x->m->globals.len; g++)
    {
        const char *name = ir_global(x->m, g)->name;
        ExecutorTensor *old = find(from, name);
        if (!old)
            continue;
        TRY(executor_write_global(x, name, old->copy));
        free(old->copy);
        take_out(from, old);
    }
    return STATUS_OK;
}

/* The interpreter's numbers are wider than a global's dtype: a copy, rounded. */
static Status copy_interp(Executor *x, ExecutorTensors *to)
{
    for (IrGlobal g = 1; g < x->m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(x->m, g);
        if (!executor_is_tensor(global))
            continue;
        ExecutorTensor tensor = {.name = arena_strdup(to->arena, global->name),
                                 .size_bytes = (size_t)ir_type_size_bytes(&global->type)};
        tensor.copy = malloc(tensor.size_bytes ? tensor.size_bytes : 1);
        if (!tensor.copy)
            base_out_of_memory(tensor.size_bytes);
        vec_push(to->arena, &to->list, tensor);
        TRY(executor_read_global(x, global->name, tensor.copy));
    }
    return STATUS_OK;
}

Status executor_release(Executor *x, ExecutorTensors *to)
{
    Status status = STATUS_OK;
    to->device = x->device;
    if (x->env)
        status = copy_interp(x, to);
    for (uint32_t i = 0; i < x->tensors.len; i++)
    {
        ExecutorTensor tensor = x->tensors.data[i];
        tensor.name = arena_strdup(to->arena, tensor.name);
        vec_push(to->arena, &to->list, tensor);
    }
    x->tensors.len = 0;
    to->comm = x->comm;
    for (uint32_t i = 0; i < x->shared.len; i++)
        vec_push(to->arena, &to->shared, x->shared.data[i]);
    x->shared.len = 0;
    executor_destroy(x);
    return status;
}
