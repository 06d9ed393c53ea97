/* The cuda device: memory, copies through pinned staging, waiting. Kernels are in hal_cuda_kernels.c, contractions in
 * hal_cuda_gemm.c, graphs of both in hal_cuda_graph.c, times in
 * hal_cuda_time.c. Calls return before the device has done their work; failures of
 * it are told by whoever waits. */
#include "runtime/hal_cuda.h"
#include "base/bug.h"

#include <stdlib.h>
#include <string.h>

static double mib(size_t size_bytes)
{
    return (double)size_bytes / (1 << 20);
}

Status cuda_enter(const CudaDevice *device)
{
    CUDA_TRY(&device->driver, context_set(device->context), "entering cuda:%d", device->index);
    return STATUS_OK;
}

/* ---- life */

/* Also of a device that was made in part. */
static void cuda_destroy(HalDevice *base)
{
    CudaDevice *device = (CudaDevice *)base;
    const CudaDriver *driver = &device->driver;
    if (device->context)
    {
        driver->context_set(device->context);
        if (device->stream)
            driver->stream_synchronize(device->stream);
        cuda_gemms_drop(&device->base);
        cuda_marks_destroy(device);
        if (device->handle)
            device->blaslt.destroy(device->handle);
        if (device->workspace)
            driver->memory_free(device->workspace);
        for (size_t i = 0; i < CUDA_N_STAGING; i++)
        {
            if (device->staging[i].done)
                driver->event_destroy(device->staging[i].done);
            if (device->staging[i].memory)
                driver->pinned_free(device->staging[i].memory);
        }
        if (device->stream)
            driver->stream_destroy(device->stream);
        if (device->upload_stream)
            driver->stream_destroy(device->upload_stream);
        driver->context_release(device->device);
    }
    cuda_nvtx_close(&device->nvtx);
    cuda_blaslt_close(&device->blaslt);
    cuda_driver_close(&device->driver);
    free(device);
}

static Status open_device(CudaDevice *device, const HalOptions *options)
{
    if (options->has_peers) /* a stream that waits for a rank must not hold up another one in the same of 8 queues */
        setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
    TRY(cuda_driver_open(&device->driver));
    const CudaDriver *driver = &device->driver;
    int n_devices = 0, index = options->device_index;
    CUDA_TRY(driver, device_count(&n_devices), "counting CUDA devices");
    index += n_devices ? options->nth_process % n_devices : 0;
    device->index = index;
    device->same_bits = options->same_bits;
    TRY(cuda_find_device(driver, index, &device->device, &device->arch));
    CUDA_TRY(driver, device_name(device->product, sizeof device->product, device->device), "asking cuda:%d", index);
    TRY(cuda_blaslt_open(driver, &device->blaslt));
    cuda_nvtx_open(&device->nvtx);
    CUDA_TRY(driver, context_retain(&device->context, device->device), "starting cuda:%d", index);
    TRY(cuda_enter(device));
    CUDA_TRY(driver, stream_create(&device->stream, CUDA_STREAM_NON_BLOCKING), "making a stream on cuda:%d", index);
    for (size_t i = 0; i < CUDA_N_STAGING; i++)
    {
        CudaStaging *staging = &device->staging[i];
        CUDA_TRY(driver, pinned_alloc(&staging->memory, CUDA_STAGING_BYTES, 0), "taking %.1f MiB of pinned host memory",
                 mib(CUDA_STAGING_BYTES));
        CUDA_TRY(driver, event_create(&staging->done, CUDA_EVENT_NO_TIMING), "making an event on cuda:%d", index);
    }
    const CuResult result = device->blaslt.create(&device->handle);
    if (result != 0)
        return status_fail(STATUS_DEVICE, "cuBLASLt does not start on cuda:%d: %s", index,
                           device->blaslt.error_text(result));
    return STATUS_OK;
}

static Status cuda_create(const HalOptions *options, HalDevice **out_device)
{
    CudaDevice *device = calloc(1, sizeof *device);
    if (!device)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for a device");
    Status status = open_device(device, options);
    if (status != STATUS_OK)
        cuda_destroy(&device->base);
    else
        *out_device = &device->base;
    return status;
}

/* ---- memory */

static void cuda_memory_info(const HalDevice *base, HalMemoryInfo *info)
{
    const CudaDevice *device = (const CudaDevice *)base;
    size_t free_bytes = 0, total_bytes = 0;
    if (cuda_enter(device) == STATUS_OK)
        device->driver.memory_info(&free_bytes, &total_bytes);
    info->total_bytes = (int64_t)total_bytes;
    info->free_bytes = (int64_t)free_bytes;
    info->workspace_bytes = (int64_t)(device->workspace_bytes + device->tables_bytes);
}

static Status allocate(CudaDevice *device, size_t size_bytes, const char *what, CuDevicePtr *out_address)
{
    size_t free_bytes = 0, total_bytes = 0;
    TRY(cuda_enter(device));
    const CuResult result = device->driver.memory_alloc(out_address, size_bytes);
    if (result == 0)
        return STATUS_OK;
    device->driver.memory_info(&free_bytes, &total_bytes);
    return cuda_fail(&device->driver, result, "taking %.1f MiB for %s, with %.1f MiB of %.1f MiB free on cuda:%d (%s)",
                     mib(size_bytes), what, mib(free_bytes), mib(total_bytes), device->index, device->product);
}

static Status cuda_memory_alloc(HalDevice *base, size_t size_bytes, void **out_address)
{
    CudaDevice *device = (CudaDevice *)base;
    CuDevicePtr address = 0;
    TRY(allocate(device, size_bytes, "a buffer", &address));
    const CuResult result = device->driver.set_bytes(address, 0, size_bytes, device->stream);
    if (result != 0)
    {
        device->driver.memory_free(address);
        return cuda_fail(&device->driver, result, "zeroing %.1f MiB", mib(size_bytes));
    }
    *out_address = (void *)(uintptr_t)address;
    return STATUS_OK;
}

/* Waits for what may still use it. */
static void cuda_memory_free(HalDevice *base, void *address, size_t size_bytes)
{
    CudaDevice *device = (CudaDevice *)base;
    (void)size_bytes;
    device->driver.context_set(device->context);
    device->driver.stream_synchronize(device->stream);
    device->driver.memory_free((CuDevicePtr)(uintptr_t)address);
}

Status cuda_workspace_reserve(CudaDevice *device, size_t size_bytes)
{
    if (size_bytes <= device->workspace_bytes)
        return STATUS_OK;
    TRY(cuda_enter(device));
    if (device->workspace)
    {
        CUDA_TRY(&device->driver, stream_synchronize(device->stream), "waiting for the workspace");
        CUDA_TRY(&device->driver, memory_free(device->workspace), "freeing the workspace");
    }
    device->workspace = 0;
    device->workspace_bytes = 0;
    TRY(allocate(device, size_bytes, "the workspace of kernels and contractions", &device->workspace));
    device->workspace_bytes = size_bytes;
    return STATUS_OK;
}

static Status cuda_pinned_alloc(HalDevice *base, size_t size_bytes, void **out_address)
{
    CudaDevice *device = (CudaDevice *)base;
    TRY(cuda_enter(device));
    CUDA_TRY(&device->driver, pinned_alloc(out_address, size_bytes, 0), "taking %.1f MiB of pinned host memory",
             mib(size_bytes));
    CudaPinned *pinned = malloc(sizeof *pinned);
    if (!pinned)
        base_out_of_memory(sizeof *pinned);
    *pinned = (CudaPinned){.next = device->pinned, .memory = *out_address, .size_bytes = size_bytes};
    device->pinned = pinned;
    return STATUS_OK;
}

static void cuda_pinned_free(HalDevice *base, void *address)
{
    CudaDevice *device = (CudaDevice *)base;
    CudaPinned **link = &device->pinned;
    while ((*link)->memory != address)
        link = &(*link)->next;
    CudaPinned *pinned = *link;
    *link = pinned->next;
    free(pinned);
    device->driver.context_set(device->context);
    device->driver.pinned_free(address);
}

/* ---- copies */

static bool is_pinned(const CudaDevice *device, const char *at, size_t size_bytes)
{
    for (const CudaPinned *pinned = device->pinned; pinned; pinned = pinned->next)
        if (at >= pinned->memory && at + size_bytes <= pinned->memory + pinned->size_bytes)
            return true;
    return false;
}

static size_t piece_at(size_t at, size_t size_bytes)
{
    return size_bytes - at < CUDA_STAGING_BYTES ? size_bytes - at : CUDA_STAGING_BYTES;
}

static Status copy_to_device(CudaDevice *device, CuDevicePtr to, const char *from, size_t size_bytes)
{
    const CudaDriver *driver = &device->driver;
    for (size_t at = 0, i = 0; at < size_bytes; at += CUDA_STAGING_BYTES, i++)
    {
        const CudaStaging *staging = &device->staging[i % CUDA_N_STAGING];
        const size_t n = piece_at(at, size_bytes);
        CUDA_TRY(driver, event_synchronize(staging->done), "waiting for a copy to the device");
        memcpy(staging->memory, from + at, n);
        CUDA_TRY(driver, copy_to_device(to + at, staging->memory, n, device->stream), "copying %zu bytes to the device",
                 n);
        CUDA_TRY(driver, event_record(staging->done, device->stream), "copying %zu bytes to the device", n);
    }
    return STATUS_OK;
}

/* While one piece is copied on the host, the next is on its way. */
static Status copy_from_device(CudaDevice *device, char *to, CuDevicePtr from, size_t size_bytes)
{
    const CudaDriver *driver = &device->driver;
    const size_t n_pieces = (size_bytes + CUDA_STAGING_BYTES - 1) / CUDA_STAGING_BYTES;
    for (size_t i = 0; i <= n_pieces; i++)
    {
        if (i < n_pieces)
        {
            const CudaStaging *staging = &device->staging[i % CUDA_N_STAGING];
            const size_t at = i * CUDA_STAGING_BYTES, n = piece_at(at, size_bytes);
            CUDA_TRY(driver, event_synchronize(staging->done), "waiting for a copy to the device");
            CUDA_TRY(driver, copy_from_device(staging->memory, from + at, n, device->stream),
                     "copying %zu bytes from the device", n);
            CUDA_TRY(driver, event_record(staging->done, device->stream), "copying %zu bytes from the device", n);
        }
        if (i > 0)
        {
            const CudaStaging *staging = &device->staging[(i - 1) % CUDA_N_STAGING];
            const size_t at = (i - 1) * CUDA_STAGING_BYTES;
            CUDA_TRY(driver, event_synchronize(staging->done), "waiting for work on the device");
            memcpy(to + at, staging->memory, piece_at(at, size_bytes));
        }
    }
    return STATUS_OK;
}

static Status cuda_copy(HalDevice *base, HalCopyKind kind, void *dst, const void *src, size_t size_bytes)
{
    CudaDevice *device = (CudaDevice *)base;
    const CuDevicePtr to = (CuDevicePtr)(uintptr_t)dst, from = (CuDevicePtr)(uintptr_t)src;
    TRY(cuda_enter(device));
    if (kind == HAL_COPY_TO_DEVICE)
        return copy_to_device(device, to, src, size_bytes);
    if (kind == HAL_COPY_FROM_DEVICE && !is_pinned(device, dst, size_bytes))
        return copy_from_device(device, dst, from, size_bytes);
    if (kind == HAL_COPY_FROM_DEVICE)
    {
        CUDA_TRY(&device->driver, copy_from_device(dst, from, size_bytes, device->stream),
                 "copying %zu bytes from the device", size_bytes);
        CUDA_TRY(&device->driver, stream_synchronize(device->stream), "waiting for work on the device");
        return STATUS_OK;
    }
    CUDA_TRY(&device->driver, copy_on_device(to, from, size_bytes, device->stream), "copying %zu bytes on the device",
             size_bytes);
    return STATUS_OK;
}

static Status cuda_sync(HalDevice *base)
{
    const CudaDevice *device = (const CudaDevice *)base;
    TRY(cuda_enter(device));
    CUDA_TRY(&device->driver, stream_synchronize(device->stream), "waiting for work on cuda:%d", device->index);
    return STATUS_OK;
}

const HalOps hal_cuda_ops = {
    .create = cuda_create,
    .destroy = cuda_destroy,
    .memory_info = cuda_memory_info,
    .memory_alloc = cuda_memory_alloc,
    .memory_free = cuda_memory_free,
    .copy = cuda_copy,
    .pinned_alloc = cuda_pinned_alloc,
    .pinned_free = cuda_pinned_free,
    .kernels_build = cuda_kernels_build,
    .executable_load = cuda_executable_load,
    .executable_unload = cuda_executable_unload,
    .executable_kernel = cuda_executable_kernel,
    .launch = cuda_launch,
    .kernel_family = cuda_kernel_family,
    .batch_create = cuda_batch_create,
    .batch_launch = cuda_batch_launch,
    .batch_destroy = cuda_batch_destroy,
    .gemm_create = cuda_gemm_create,
    .gemm_run = cuda_gemm_run,
    .gemms_drop = cuda_gemms_drop,
    .upload_create = cuda_upload_create,
    .upload_start = cuda_upload_start,
    .upload_finish = cuda_upload_finish,
    .upload_destroy = cuda_upload_destroy,
    .sync = cuda_sync,
    .mark = cuda_mark,
    .mark_seconds = cuda_mark_seconds,
    .names_ranges = cuda_names_ranges,
    .range_begin = cuda_range_begin,
    .range_end = cuda_range_end,
    .record_begin = cuda_record_begin,
    .record_end = cuda_record_end,
    .record_drop = cuda_record_drop,
    .graph_run = cuda_graph_run,
    .graph_is_stale = cuda_graph_is_stale,
    .graph_destroy = cuda_graph_destroy,
};
