/* Inputs that are filled while a step runs. On a device with memory of its own they are on their way early. */
#include "runtime/executor_program.h"

struct ExecutorUpload
{
    Executor *executor;
    const char *name;
    void *host;
    HalUpload *upload; /* NULL: the device's memory is the host's, or the interpreter computes */
};

bool executor_uploads_early(const Executor *x)
{
    return !x->env && !hal_device_uses_host_memory(x->device);
}

static size_t bytes_in(const Executor *x, uint32_t variant, const char *name)
{
    const IrModule *m = x->variants[variant].m;
    return (size_t)ir_type_size_bytes(&ir_global(m, ir_global_find(m, name))->type);
}

Status executor_upload_create(Executor *x, const char *name, ExecutorUpload **out_upload)
{
    const size_t most_bytes = bytes_in(x, x->n_variants - 1, name);
    ExecutorUpload *upload = ARENA_NEW(x->arena, ExecutorUpload);
    *upload = (ExecutorUpload){.executor = x, .name = arena_strdup(x->arena, name)};
    *out_upload = upload;
    if (!executor_uploads_early(x))
    {
        upload->host = arena_alloc(x->arena, most_bytes);
        return STATUS_OK;
    }
    vec_push(x->arena, &x->uploads, upload);
    TRY(hal_upload_create(x->device, executor_global_address(x, ir_global_find(x->m, name)), most_bytes,
                          &upload->upload));
    upload->host = hal_upload_host(upload->upload);
    x->sizes.input_bytes += (int64_t)most_bytes;
    return STATUS_OK;
}

void executor_uploads_drop(Executor *x)
{
    for (uint32_t i = 0; i < x->uploads.len; i++)
        hal_upload_destroy(x->uploads.data[i]->upload);
    x->uploads.len = 0;
}

void *executor_upload_host(const ExecutorUpload *upload)
{
    return upload->host;
}

Status executor_upload_start(ExecutorUpload *upload, uint32_t variant)
{
    return upload->upload ? hal_upload_start(upload->upload, bytes_in(upload->executor, variant, upload->name))
                          : STATUS_OK;
}

Status executor_upload_finish(ExecutorUpload *upload)
{
    return upload->upload ? hal_upload_finish(upload->upload)
                          : executor_write_global(upload->executor, upload->name, upload->host);
}
