/* The cpu device: host memory, kernels from shared objects run by the pool, contractions by the library.
 * Everything is done when a call returns, so sync has nothing to wait for. */
#include "base/bug.h"
#include "codegen/kernel_abi.h"
#include "codegen/kernel_set.h"
#include "runtime/hal_ops.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum
{
    WORKSPACE_ALIGN = 64
};

typedef struct
{
    HalDevice base;
    Pool *pool;
    GemmLib *gemms;
    /* One workspace serves the kernels of all executables: launches run one after another. It only grows. */
    char *workspace;
    char *scratch; /* per worker */
    size_t workspace_bytes;
    size_t scratch_bytes; /* of one worker */
} CpuDevice;

typedef struct CpuExecutable CpuExecutable;

struct HalKernel
{
    const char *name;
    const PtcKernel *kernel;
    CpuExecutable *executable;
};

struct CpuExecutable
{
    HalExecutable base;
    CpuDevice *device;
    Arena *arena; /* of names, and */
    void **libraries;
    uint32_t n_libraries;
    HalKernel *kernels;
    uint32_t n_kernels;
};

static void cpu_destroy(HalDevice *base)
{
    CpuDevice *device = (CpuDevice *)base;
    gemm_lib_destroy(device->gemms);
    pool_destroy(device->pool);
    free(device->workspace);
    free(device->scratch);
    free(device);
}

static Status cpu_create(const HalOptions *options, HalDevice **out_device)
{
    CpuDevice *device = calloc(1, sizeof *device);
    if (!device)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for a device");
    Status status = pool_create(options->n_threads, options->pin, &device->pool);
    if (status == STATUS_OK)
        status = gemm_lib_create(device->pool, &device->gemms);
    if (status != STATUS_OK)
        cpu_destroy(&device->base);
    else
        *out_device = &device->base;
    return status;
}

static void cpu_memory_info(const HalDevice *base, HalMemoryInfo *info)
{
    const CpuDevice *device = (const CpuDevice *)base;
    hal_host_memory(&info->total_bytes, &info->free_bytes);
    const size_t kernel_bytes = device->workspace_bytes + device->scratch_bytes * (size_t)pool_n_threads(device->pool);
    info->workspace_bytes = (int64_t)(kernel_bytes + gemm_lib_bytes(device->gemms));
}

static Status cpu_memory_alloc(HalDevice *base, size_t size_bytes, void **out_address)
{
    (void)base;
    return hal_host_alloc(size_bytes, out_address);
}

static void cpu_memory_free(HalDevice *base, void *address, size_t size_bytes)
{
    (void)base;
    hal_host_free(address, size_bytes);
}

static Status cpu_copy(HalDevice *base, HalCopyKind kind, void *dst, const void *src, size_t size_bytes)
{
    (void)base;
    (void)kind;
    memcpy(dst, src, size_bytes);
    return STATUS_OK;
}

static void cpu_executable_unload(HalExecutable *base)
{
    CpuExecutable *executable = (CpuExecutable *)base;
    for (uint32_t i = 0; i < executable->n_libraries; i++)
        dlclose(executable->libraries[i]);
    arena_destroy(executable->arena);
    free(executable);
}

static Status table_find(void *library, const char *path, const PtcKernelTable **out_table)
{
    const PtcKernelTable *table = dlsym(library, PTC_KERNEL_SYMBOL);
    if (!table)
        return status_fail(STATUS_DEVICE, "%s has no %s", path, PTC_KERNEL_SYMBOL);
    if (table->abi_version != PTC_KERNEL_ABI_VERSION)
        return status_fail(STATUS_DEVICE, "%s has kernel ABI %u, this program %u", path, table->abi_version,
                           PTC_KERNEL_ABI_VERSION);
    for (uint32_t i = 0; i < table->n_kernels; i++)
    {
        const PtcKernel *kernel = &table->kernels[i];
        if (kernel->n_phases < 1 || kernel->n_phases > PTC_KERNEL_MAX_PHASES || kernel->workspace_bytes < 0 ||
            kernel->scratch_bytes < 0)
            return status_fail(STATUS_DEVICE, "%s: kernel %u is malformed", path, i);
    }
    *out_table = table;
    return STATUS_OK;
}

static size_t align_up(size_t bytes)
{
    return (bytes + WORKSPACE_ALIGN - 1) / WORKSPACE_ALIGN * WORKSPACE_ALIGN;
}

/* What is in the memory is of no worth between launches. */
static Status grow(char **memory, size_t *size_bytes, size_t wanted_bytes, size_t n_copies)
{
    if (wanted_bytes <= *size_bytes)
        return STATUS_OK;
    char *larger = aligned_alloc(WORKSPACE_ALIGN, wanted_bytes * n_copies);
    if (!larger)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for %zu bytes of kernel workspace",
                           wanted_bytes * n_copies);
    free(*memory);
    *memory = larger;
    *size_bytes = wanted_bytes;
    return STATUS_OK;
}

/* Opens the object, or finds it among those that are open. */
static Status open_library(CpuExecutable *executable, const CodegenKernelPlace *places, uint32_t i,
                           const PtcKernelTable **tables)
{
    for (uint32_t before = 0; before < i; before++)
        if (strcmp(places[before].so_path, places[i].so_path) == 0)
        {
            tables[i] = tables[before];
            return STATUS_OK;
        }
    void *library = dlopen(places[i].so_path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return status_fail(STATUS_DEVICE, "%s", dlerror());
    executable->libraries[executable->n_libraries++] = library;
    return table_find(library, places[i].so_path, &tables[i]);
}

static Status find_kernel(const PtcKernelTable *table, const CodegenKernelPlace *place, const PtcKernel **out_kernel)
{
    for (uint32_t i = 0; i < table->n_kernels; i++)
        if (strcmp(table->kernels[i].name, place->symbol) == 0)
        {
            *out_kernel = &table->kernels[i];
            return STATUS_OK;
        }
    return status_fail(STATUS_DEVICE, "%s has no kernel '%s'", place->so_path, place->symbol);
}

static Status executable_open(CpuExecutable *executable, const char *path)
{
    CpuDevice *device = executable->device;
    CodegenKernelPlace *places;
    uint32_t n;
    size_t workspace_bytes = 0, scratch_bytes = 0;
    TRY(codegen_kernels_read(executable->arena, path, &places, &n));
    const PtcKernelTable **tables = ARENA_ARRAY(executable->arena, const PtcKernelTable *, n);
    executable->libraries = ARENA_ARRAY(executable->arena, void *, n);
    executable->kernels = ARENA_ARRAY(executable->arena, HalKernel, n);
    executable->n_kernels = n;
    for (uint32_t i = 0; i < n; i++)
    {
        const PtcKernel *kernel = NULL;
        TRY(open_library(executable, places, i, tables));
        TRY(find_kernel(tables[i], &places[i], &kernel));
        executable->kernels[i] = (HalKernel){places[i].name, kernel, executable};
        const size_t workspace = align_up((size_t)kernel->workspace_bytes);
        const size_t scratch = align_up((size_t)kernel->scratch_bytes);
        workspace_bytes = workspace > workspace_bytes ? workspace : workspace_bytes;
        scratch_bytes = scratch > scratch_bytes ? scratch : scratch_bytes;
    }
    TRY(grow(&device->workspace, &device->workspace_bytes, workspace_bytes, 1));
    return grow(&device->scratch, &device->scratch_bytes, scratch_bytes, (size_t)pool_n_threads(device->pool));
}

static Status cpu_executable_load(HalDevice *base, const char *path, HalExecutable **out_executable)
{
    CpuExecutable *executable = calloc(1, sizeof *executable);
    if (!executable)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for an executable");
    executable->device = (CpuDevice *)base;
    executable->arena = arena_create();
    Status status = executable_open(executable, path);
    if (status != STATUS_OK)
        cpu_executable_unload(&executable->base);
    else
        *out_executable = &executable->base;
    return status;
}

static Status cpu_executable_kernel(HalExecutable *base, const char *name, const HalKernel **out_kernel)
{
    CpuExecutable *executable = (CpuExecutable *)base;
    for (uint32_t i = 0; i < executable->n_kernels; i++)
        if (strcmp(executable->kernels[i].name, name) == 0)
        {
            *out_kernel = &executable->kernels[i];
            return STATUS_OK;
        }
    return status_fail(STATUS_DEVICE, "no kernel '%s' in the executable", name);
}

typedef struct
{
    PtcTaskFn *run;
    void *const *bufs;
    const CpuDevice *device;
} Launch;

static void launch_task(void *ctx, int64_t task, int worker)
{
    const Launch *launch = ctx;
    const CpuDevice *device = launch->device;
    void *scratch = device->scratch ? device->scratch + (size_t)worker * device->scratch_bytes : NULL;
    launch->run(launch->bufs, device->workspace, scratch, task);
}

static Status cpu_launch(HalDevice *base, const HalKernel *kernel, void *const *bufs, size_t n_bufs)
{
    (void)n_bufs;
    CpuDevice *device = (CpuDevice *)base;
    ENSURE(kernel->executable->device == device);
    for (uint32_t i = 0; i < kernel->kernel->n_phases; i++)
    {
        const PtcKernelPhase *phase = &kernel->kernel->phase[i];
        Launch launch = {phase->run, bufs, device};
        pool_run(device->pool, phase->n_tasks, launch_task, &launch);
    }
    return STATUS_OK;
}

/* A HalGemm of this device is the library's Gemm. */
static Status cpu_gemm_create(HalDevice *base, const GemmDesc *desc, const HalGemm **out_gemm)
{
    const Gemm *gemm = NULL;
    TRY(gemm_create(((CpuDevice *)base)->gemms, desc, &gemm));
    *out_gemm = (const HalGemm *)gemm;
    return STATUS_OK;
}

static Status cpu_gemm_run(HalDevice *base, const HalGemm *gemm, const GemmArgs *args)
{
    (void)base;
    return gemm_run((const Gemm *)gemm, args);
}

static void cpu_gemms_drop(HalDevice *base)
{
    gemm_lib_clear(((CpuDevice *)base)->gemms);
}

static Status cpu_sync(HalDevice *base)
{
    (void)base;
    return STATUS_OK;
}

const HalOps hal_cpu_ops = {
    .create = cpu_create,
    .destroy = cpu_destroy,
    .memory_info = cpu_memory_info,
    .memory_alloc = cpu_memory_alloc,
    .memory_free = cpu_memory_free,
    .copy = cpu_copy,
    .kernels_build = hal_host_kernels_build,
    .executable_load = cpu_executable_load,
    .executable_unload = cpu_executable_unload,
    .executable_kernel = cpu_executable_kernel,
    .launch = cpu_launch,
    .gemm_create = cpu_gemm_create,
    .gemm_run = cpu_gemm_run,
    .gemms_drop = cpu_gemms_drop,
    .sync = cpu_sync,
};
