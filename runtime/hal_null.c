/* The null device: memory and copies are real, launches and contractions are accepted and not done. What
 * a step costs on it is the executor's own overhead; what runs on it obeys the contract of hal.h. */
#include "runtime/hal_ops.h"

#include <stdlib.h>
#include <string.h>

/* Kernels and contractions carry nothing; these are only something to point at. */
struct HalKernel
{
    char unused;
};
struct HalGemm
{
    char unused;
};
static const HalKernel THE_KERNEL;
static const HalGemm THE_GEMM;

static Status null_create(const HalOptions *options, HalDevice **out_device)
{
    (void)options;
    *out_device = calloc(1, sizeof **out_device);
    return *out_device ? STATUS_OK : status_fail(STATUS_OUT_OF_MEMORY, "no memory for a device");
}

static void null_destroy(HalDevice *device)
{
    free(device);
}

static void null_memory_info(const HalDevice *device, HalMemoryInfo *info)
{
    (void)device;
    hal_host_memory(&info->total_bytes, &info->free_bytes);
    info->workspace_bytes = 0;
}

static Status null_memory_alloc(HalDevice *device, size_t size_bytes, void **out_address)
{
    (void)device;
    return hal_host_alloc(size_bytes, out_address);
}

static void null_memory_free(HalDevice *device, void *address, size_t size_bytes)
{
    (void)device;
    hal_host_free(address, size_bytes);
}

static Status null_copy(HalDevice *device, HalCopyKind kind, void *dst, const void *src, size_t size_bytes)
{
    (void)device;
    (void)kind;
    memcpy(dst, src, size_bytes);
    return STATUS_OK;
}

static Status null_executable_load(HalDevice *device, const char *path, HalExecutable **out_executable)
{
    (void)device;
    (void)path;
    *out_executable = calloc(1, sizeof **out_executable);
    return *out_executable ? STATUS_OK : status_fail(STATUS_OUT_OF_MEMORY, "no memory for an executable");
}

static void null_executable_unload(HalExecutable *executable)
{
    free(executable);
}

static Status null_executable_kernel(HalExecutable *executable, const char *name, const HalKernel **out_kernel)
{
    (void)executable;
    (void)name;
    *out_kernel = &THE_KERNEL;
    return STATUS_OK;
}

static Status null_launch(HalDevice *device, const HalKernel *kernel, void *const *bufs, size_t n_bufs)
{
    (void)device;
    (void)kernel;
    (void)bufs;
    (void)n_bufs;
    return STATUS_OK;
}

static Status null_gemm_create(HalDevice *device, const GemmDesc *desc, const HalGemm **out_gemm)
{
    (void)device;
    (void)desc;
    *out_gemm = &THE_GEMM;
    return STATUS_OK;
}

static void null_gemms_drop(HalDevice *device)
{
    (void)device;
}

static Status null_gemm_run(HalDevice *device, const HalGemm *gemm, const GemmArgs *args)
{
    (void)device;
    (void)gemm;
    (void)args;
    return STATUS_OK;
}

static Status null_sync(HalDevice *device)
{
    (void)device;
    return STATUS_OK;
}

const HalOps hal_null_ops = {
    .create = null_create,
    .destroy = null_destroy,
    .memory_info = null_memory_info,
    .memory_alloc = null_memory_alloc,
    .memory_free = null_memory_free,
    .copy = null_copy,
    .kernels_build = hal_host_kernels_build,
    .executable_load = null_executable_load,
    .executable_unload = null_executable_unload,
    .executable_kernel = null_executable_kernel,
    .launch = null_launch,
    .gemm_create = null_gemm_create,
    .gemm_run = null_gemm_run,
    .gemms_drop = null_gemms_drop,
    .sync = null_sync,
};
