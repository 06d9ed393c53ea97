/* The device layer's front: finds the back end by name and passes calls on. Buffers and their accounting
 * are the same for all back ends and live here. */
#include "runtime/hal.h"

#include "base/bug.h"
#include "runtime/hal_ops.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct
{
    const char *name;
    const HalOps *ops;
    bool computes, uses_host_memory;
} Backend;

enum
{
    MAX_INDEX = 1023
};

enum
{
    MEMORY_OWN,
    MEMORY_HOST
};

static const Backend BACKENDS[] = {
#define BACKEND(name, computes, memory, summary) {#name, &hal_##name##_ops, computes, MEMORY_##memory},
#include "runtime/backends.def"
#undef BACKEND
};

static const char BACKEND_NAMES[] =
#define BACKEND(name, computes, memory, summary) " " #name
#include "runtime/backends.def"
#undef BACKEND
    ;

struct HalBuffer
{
    HalDevice *device;
    void *address;
    size_t size_bytes;
};

/* "cpu", "cuda", "cuda:1"; the index stays when the text has none. */
static Status find_backend(const char *text, const Backend **out_backend, int *index)
{
    const size_t n = strcspn(text, ":");
    for (size_t i = 0; i < sizeof BACKENDS / sizeof *BACKENDS; i++)
    {
        const Backend *backend = &BACKENDS[i];
        if (strlen(backend->name) != n || strncmp(backend->name, text, n) != 0)
            continue;
        *out_backend = backend;
        if (!text[n])
            return STATUS_OK;
        char *end;
        const long number = strtol(text + n + 1, &end, 10);
        if (backend->uses_host_memory)
            return status_fail(STATUS_USAGE, "'%s': there is only one device '%s'", text, backend->name);
        if (text[n + 1] < '0' || text[n + 1] > '9' || *end || number > MAX_INDEX)
            return status_fail(STATUS_USAGE, "'%s': a number from 0 on is wanted behind '%s:'", text, backend->name);
        *index = (int)number;
        return STATUS_OK;
    }
    return status_fail(STATUS_BAD_INPUT, "unknown device '%s'; known:%s", text, BACKEND_NAMES);
}

Status hal_device_create(const char *name, const HalOptions *options, HalDevice **out_device)
{
    HalOptions own = options ? *options : (HalOptions){0};
    const Backend *backend = NULL;
    HalDevice *device = NULL;
    TRY(find_backend(name, &backend, &own.device_index));
    own.nth_process = strchr(name, ':') ? 0 : own.nth_process;
    TRY(backend->ops->create(&own, &device));
    device->ops = backend->ops;
    device->name = backend->name;
    device->computes = backend->computes;
    device->uses_host_memory = backend->uses_host_memory;
    device->records = backend->ops->record_begin && !own.no_graphs;
    *out_device = device;
    return STATUS_OK;
}

void hal_device_destroy(HalDevice *device)
{
    if (!device)
        return;
    free(device->marks_s);
    device->ops->destroy(device);
}

const char *hal_device_name(const HalDevice *device)
{
    return device->name;
}

bool hal_device_computes(const HalDevice *device)
{
    return device->computes;
}

bool hal_device_uses_host_memory(const HalDevice *device)
{
    return device->uses_host_memory;
}

bool hal_device_records(const HalDevice *device)
{
    return device->records;
}

HalMemoryInfo hal_memory_info(const HalDevice *device)
{
    HalMemoryInfo info = {.buffer_bytes = device->buffer_bytes, .peak_buffer_bytes = device->peak_buffer_bytes};
    device->ops->memory_info(device, &info);
    return info;
}

void hal_memory_reset_peak(HalDevice *device)
{
    device->peak_buffer_bytes = device->buffer_bytes;
}

Status hal_buffer_create(HalDevice *device, size_t size_bytes, HalBuffer **out_buffer)
{
    HalBuffer *buffer = calloc(1, sizeof *buffer);
    if (!buffer)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for a buffer's record");
    *buffer = (HalBuffer){.device = device, .size_bytes = size_bytes};
    Status status = device->ops->memory_alloc(device, size_bytes ? size_bytes : 1, &buffer->address);
    if (status != STATUS_OK)
    {
        free(buffer);
        return status;
    }
    device->buffer_bytes += (int64_t)size_bytes;
    if (device->buffer_bytes > device->peak_buffer_bytes)
        device->peak_buffer_bytes = device->buffer_bytes;
    *out_buffer = buffer;
    return STATUS_OK;
}

void hal_buffer_destroy(HalBuffer *buffer)
{
    if (!buffer)
        return;
    HalDevice *device = buffer->device;
    device->buffer_bytes -= (int64_t)buffer->size_bytes;
    device->ops->memory_free(device, buffer->address, buffer->size_bytes ? buffer->size_bytes : 1);
    free(buffer);
}

void *hal_buffer_address(const HalBuffer *buffer)
{
    return buffer->address;
}

Status hal_copy(HalDevice *device, HalCopyKind kind, void *dst, const void *src, size_t size_bytes)
{
    return size_bytes ? device->ops->copy(device, kind, dst, src, size_bytes) : STATUS_OK;
}

Status hal_pinned_create(HalDevice *device, size_t size_bytes, void **out_address)
{
    const size_t whole = (size_bytes + 63) / 64 * 64 + (size_bytes == 0) * 64;
    if (device->ops->pinned_alloc)
        return device->ops->pinned_alloc(device, whole, out_address);
    *out_address = aligned_alloc(64, whole);
    return *out_address ? STATUS_OK : status_fail(STATUS_OUT_OF_MEMORY, "no memory for %zu bytes", size_bytes);
}

void hal_pinned_destroy(HalDevice *device, void *address)
{
    if (address && device->ops->pinned_free)
        device->ops->pinned_free(device, address);
    else
        free(address);
}

Status hal_upload_create(HalDevice *device, void *dst, size_t most_bytes, HalUpload **out_upload)
{
    ENSURE(device->ops->upload_create);
    HalUpload *upload = calloc(1, sizeof *upload);
    if (!upload)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for an upload's record");
    *upload = (HalUpload){.device = device, .dst = dst, .most_bytes = most_bytes};
    Status status = hal_buffer_create(device, most_bytes, &upload->ahead);
    if (status == STATUS_OK)
        status = device->ops->upload_create(upload);
    if (status != STATUS_OK)
        hal_upload_destroy(upload);
    else
        *out_upload = upload;
    return status;
}

void *hal_upload_host(const HalUpload *upload)
{
    return upload->host;
}

Status hal_upload_start(HalUpload *upload, size_t size_bytes)
{
    ENSURE(size_bytes <= upload->most_bytes);
    return upload->device->ops->upload_start(upload, size_bytes);
}

Status hal_upload_finish(HalUpload *upload)
{
    return upload->device->ops->upload_finish(upload);
}

void hal_upload_destroy(HalUpload *upload)
{
    if (!upload)
        return;
    upload->device->ops->upload_destroy(upload);
    hal_buffer_destroy(upload->ahead);
    free(upload);
}

Status hal_kernels_build(Arena *arena, const char *name, const IrModule *const *modules, uint32_t n,
                         uint32_t n_parallel, HalKernelFile *out_files)
{
    const Backend *backend = NULL;
    int index = 0;
    TRY(find_backend(name, &backend, &index));
    return backend->ops->kernels_build(arena, index, modules, n, n_parallel, out_files);
}

Status hal_executable_load(HalDevice *device, const char *path, HalExecutable **out_executable)
{
    HalExecutable *executable = NULL;
    TRY(device->ops->executable_load(device, path, &executable));
    executable->device = device;
    *out_executable = executable;
    return STATUS_OK;
}

void hal_executable_unload(HalExecutable *executable)
{
    if (executable)
        executable->device->ops->executable_unload(executable);
}

Status hal_executable_kernel(HalExecutable *executable, const char *name, const HalKernel **out_kernel)
{
    return executable->device->ops->executable_kernel(executable, name, out_kernel);
}

Status hal_launch(HalDevice *device, const HalKernel *kernel, void *const *bufs, size_t n_bufs)
{
    return device->ops->launch(device, kernel, bufs, n_bufs);
}

uint32_t hal_kernel_family(const HalDevice *device, const HalKernel *kernel)
{
    return device->ops->kernel_family ? device->ops->kernel_family(kernel) : 0;
}

Status hal_batch_create(HalDevice *device, const HalCall *calls, uint32_t n, HalBatch **out_batch)
{
    return device->ops->batch_create(device, calls, n, out_batch);
}

Status hal_batch_launch(HalDevice *device, const HalBatch *batch)
{
    return device->ops->batch_launch(device, batch);
}

void hal_batch_destroy(HalDevice *device, HalBatch *batch)
{
    if (batch)
        device->ops->batch_destroy(device, batch);
}

void hal_gemms_drop(HalDevice *device)
{
    device->ops->gemms_drop(device);
}

Status hal_gemm_create(HalDevice *device, const GemmDesc *desc, const HalGemm **out_gemm)
{
    return device->ops->gemm_create(device, desc, out_gemm);
}

Status hal_gemm_run(HalDevice *device, const HalGemm *gemm, const GemmArgs *args)
{
    return device->ops->gemm_run(device, gemm, args);
}

Status hal_sync(HalDevice *device)
{
    return device->ops->sync(device);
}

/* ---- marks and ranges */

static Status mark_on_host(HalDevice *device, uint32_t number)
{
    struct timespec t;
    TRY(device->ops->sync(device));
    if (number >= device->n_marks)
    {
        const uint32_t n = 2 * number + 64;
        double *larger = realloc(device->marks_s, n * sizeof *larger);
        if (!larger)
            return status_fail(STATUS_OUT_OF_MEMORY, "no memory for %u times", n);
        device->marks_s = larger;
        device->n_marks = n;
    }
    clock_gettime(CLOCK_MONOTONIC, &t);
    device->marks_s[number] = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    return STATUS_OK;
}

Status hal_mark(HalDevice *device, uint32_t number)
{
    return device->ops->mark ? device->ops->mark(device, number) : mark_on_host(device, number);
}

Status hal_mark_seconds(HalDevice *device, uint32_t from, uint32_t to, double *out_seconds)
{
    if (device->ops->mark_seconds)
        return device->ops->mark_seconds(device, from, to, out_seconds);
    *out_seconds = device->marks_s[to] - device->marks_s[from];
    return STATUS_OK;
}

bool hal_device_names_ranges(const HalDevice *device)
{
    return device->ops->names_ranges && device->ops->names_ranges(device);
}

void hal_range_begin(HalDevice *device, const char *name)
{
    device->ops->range_begin(device, name);
}

void hal_range_end(HalDevice *device)
{
    device->ops->range_end(device);
}

/* ---- graphs */

Status hal_record_begin(HalDevice *device)
{
    return device->ops->record_begin(device);
}

Status hal_record_end(HalDevice *device, HalGraph **out_graph)
{
    return device->ops->record_end(device, out_graph);
}

void hal_record_drop(HalDevice *device)
{
    device->ops->record_drop(device);
}

Status hal_graph_run(HalDevice *device, const HalGraph *graph)
{
    return device->ops->graph_run(device, graph);
}

bool hal_graph_is_stale(const HalDevice *device, const HalGraph *graph)
{
    return device->ops->graph_is_stale(device, graph);
}

void hal_graph_destroy(HalDevice *device, HalGraph *graph)
{
    if (graph)
        device->ops->graph_destroy(device, graph);
}
