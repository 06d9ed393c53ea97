/* Executables of the cuda device: files of hal_cuda_build.c, loaded and launched. */
#include "base/bug.h"
#include "codegen/cache.h"
#include "runtime/hal_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum
{
    MAX_LAUNCHES = 3,
    FREE_SMEM_BYTES = 48 * 1024, /* of a block; more is asked for */
    MAX_NAME = 256
};

typedef struct
{
    CuFunction function;
    uint32_t grid, block, smem_bytes, part;
} Launch;

struct HalKernel
{
    const CudaDevice *device;
    char *name;
    uint32_t n_buffers;
    void **parameters; /* addresses of n_buffers operands and results, of the workspace and of the stream number */
    uint32_t n_launches;
    Launch launches[MAX_LAUNCHES];
    uint32_t family;
    long long n_elems;
};

typedef struct
{
    HalExecutable base;
    CudaDevice *device;
    CuModule *modules; /* of a part of the kernels each */
    uint32_t n_modules;
    HalKernel *kernels;
    uint32_t n_kernels;
} CudaExecutable;

void cuda_executable_unload(HalExecutable *base)
{
    CudaExecutable *executable = (CudaExecutable *)base;
    CudaDevice *device = executable->device;
    if (executable->n_modules > 0 && cuda_enter(device) == STATUS_OK)
    {
        device->driver.stream_synchronize(device->stream);
        for (uint32_t i = 0; i < executable->n_modules; i++)
            device->driver.module_unload(executable->modules[i]);
    }
    free(executable->modules);
    for (uint32_t i = 0; i < executable->n_kernels; i++)
    {
        free(executable->kernels[i].name);
        free(executable->kernels[i].parameters);
    }
    free(executable->kernels);
    free(executable);
}

/* ---- the table in the file; functions are found once the module is there */

typedef struct
{
    const char *path, *start, *at; /* the file, what is left of its text */
} Reader;

/* The next line, without its end; false: there is none, or it is too long. */
static bool next_line(Reader *r, char line[MAX_NAME * 2])
{
    const size_t n = strcspn(r->at, "\n");
    if (!r->at[n] || n >= MAX_NAME * 2)
        return false;
    memcpy(line, r->at, n);
    line[n] = 0;
    r->at += n + 1;
    return true;
}

static Status malformed(const Reader *r)
{
    return status_fail(STATUS_DEVICE, "%s is no file of kernels", r->path);
}

static Status read_kernel(Reader *r, HalKernel *kernel, size_t *workspace_bytes, char symbols[MAX_LAUNCHES][MAX_NAME])
{
    char line[MAX_NAME * 2], name[MAX_NAME];
    long long workspace;
    if (!next_line(r, line) ||
        sscanf(line, "kernel %255s buffers %u workspace %lld launches %u family %u elements %lld", name,
               &kernel->n_buffers, &workspace, &kernel->n_launches, &kernel->family, &kernel->n_elems) != 6)
        return malformed(r);
    if (workspace < 0 || kernel->n_buffers > UINT16_MAX || kernel->n_launches < 1 || kernel->n_launches > MAX_LAUNCHES)
        return malformed(r);
    kernel->name = strdup(name);
    kernel->parameters = calloc(kernel->n_buffers + 2, sizeof *kernel->parameters);
    if (!kernel->name || !kernel->parameters)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for a kernel's record");
    *workspace_bytes = (size_t)workspace > *workspace_bytes ? (size_t)workspace : *workspace_bytes;
    for (uint32_t i = 0; i < kernel->n_launches; i++)
    {
        Launch *launch = &kernel->launches[i];
        if (!next_line(r, line) || sscanf(line, "launch %255s grid %u block %u smem %u part %u", symbols[i],
                                          &launch->grid, &launch->block, &launch->smem_bytes, &launch->part) != 5)
            return malformed(r);
    }
    return STATUS_OK;
}

static Status find_function(const CudaExecutable *executable, const char *path, const char *name, const char *symbol,
                            Launch *launch)
{
    const CudaDriver *driver = &executable->device->driver;
    if (launch->part >= executable->n_modules)
        return status_fail(STATUS_DEVICE, "%s has no part %u", path, launch->part);
    CUDA_TRY(driver, module_function(&launch->function, executable->modules[launch->part], symbol),
             "looking for kernel '%s' (%s) in %s", name, symbol, path);
    if (launch->smem_bytes > FREE_SMEM_BYTES)
        CUDA_TRY(driver, function_set(launch->function, CUDA_FUNCTION_MAX_SMEM, (int)launch->smem_bytes),
                 "asking for %u bytes of shared memory for kernel '%s' (%s)", launch->smem_bytes, name, symbol);
    return STATUS_OK;
}

/* The cubins behind the table: read before the kernels, which want their functions. */
static Status load_modules(CudaExecutable *executable, const Reader *r, size_t size, uint32_t n_parts)
{
    static const char word[] = "\ncubin ";
    const char *end = r->start + size, *line = strstr(r->at, word);
    const CudaDriver *driver = &executable->device->driver;
    executable->modules = calloc(n_parts ? n_parts : 1, sizeof *executable->modules);
    if (!executable->modules)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for %u modules", n_parts);
    for (uint32_t i = 0; i < n_parts; i++)
    {
        unsigned long long n;
        char newline;
        if (!line || (size_t)(end - line) < sizeof word || strncmp(line, word, strlen(word)) != 0 ||
            sscanf(line + strlen(word), "%llu%c", &n, &newline) != 2 || newline != '\n')
            return malformed(r);
        const char *cubin = strchr(line + 1, '\n') + 1;
        if (n > (size_t)(end - cubin))
            return malformed(r);
        CUDA_TRY(driver, module_load(&executable->modules[i], cubin), "loading the kernels in %s", r->path);
        executable->n_modules++;
        line = cubin + n;
    }
    return line == end ? STATUS_OK : malformed(r);
}

static Status load_kernels(CudaExecutable *executable, Reader *r, uint32_t n_kernels)
{
    CudaDevice *device = executable->device;
    size_t workspace_bytes = 0;
    char symbols[MAX_LAUNCHES][MAX_NAME];
    executable->kernels = calloc(n_kernels ? n_kernels : 1, sizeof *executable->kernels);
    if (!executable->kernels)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for %u kernels", n_kernels);
    for (uint32_t i = 0; i < n_kernels; i++)
    {
        HalKernel *kernel = &executable->kernels[executable->n_kernels++];
        kernel->device = device;
        TRY(read_kernel(r, kernel, &workspace_bytes, symbols));
        for (uint32_t l = 0; l < kernel->n_launches; l++)
            TRY(find_function(executable, r->path, kernel->name, symbols[l], &kernel->launches[l]));
    }
    return cuda_workspace_reserve(device, workspace_bytes);
}

static Status load(CudaExecutable *executable, Arena *arena, const char *path)
{
    CudaDevice *device = executable->device;
    size_t size;
    char line[MAX_NAME * 2];
    int abi, arch;
    unsigned n_kernels = 0, n_parts = 0;
    Reader r = {.path = path, .start = cache_read(arena, path, &size)};
    r.at = r.start;
    if (!r.at)
        return status_fail(STATUS_DEVICE, "cannot read the kernels in %s", path);
    const int n_read = next_line(&r, line) ? sscanf(line, "ptc kernels abi %d sm %d kernels %u parts %u", &abi, &arch,
                                                    &n_kernels, &n_parts)
                                           : 0;
    if (n_read < 3 || (abi == CUDA_KERNEL_ABI_VERSION && n_parts < 1))
        return malformed(&r);
    if (abi != CUDA_KERNEL_ABI_VERSION)
        return status_fail(STATUS_DEVICE, "%s has kernel ABI %d, this program %d", path, abi, CUDA_KERNEL_ABI_VERSION);
    if (arch != device->arch)
        return status_fail(STATUS_DEVICE, "%s has kernels for sm_%d, cuda:%d is sm_%d", path, arch, device->index,
                           device->arch);
    TRY(cuda_enter(device));
    TRY(load_modules(executable, &r, size, n_parts));
    return load_kernels(executable, &r, n_kernels);
}

Status cuda_executable_load(HalDevice *base, const char *path, HalExecutable **out_executable)
{
    CudaExecutable *executable = calloc(1, sizeof *executable);
    if (!executable)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for an executable");
    executable->device = (CudaDevice *)base;
    Arena *arena = arena_create();
    Status status = load(executable, arena, path);
    arena_destroy(arena);
    if (status != STATUS_OK)
        cuda_executable_unload(&executable->base);
    else
        *out_executable = &executable->base;
    return status;
}

Status cuda_executable_kernel(HalExecutable *base, const char *name, const HalKernel **out_kernel)
{
    const CudaExecutable *executable = (const CudaExecutable *)base;
    for (uint32_t i = 0; i < executable->n_kernels; i++)
        if (strcmp(executable->kernels[i].name, name) == 0)
        {
            *out_kernel = &executable->kernels[i];
            return STATUS_OK;
        }
    return status_fail(STATUS_DEVICE, "no kernel '%s' in the executable", name);
}

/* ---- launching */

Status cuda_launch(HalDevice *base, const HalKernel *kernel, void *const *bufs, size_t n_bufs)
{
    const CudaDevice *device = (const CudaDevice *)base;
    ENSURE(kernel->device == device);
    ENSURE(n_bufs == kernel->n_buffers || n_bufs == kernel->n_buffers + 1);
    /* The last one, if any, is the call's random stream, a number on the host. */
    uint32_t stream = n_bufs > kernel->n_buffers ? *(const uint32_t *)bufs[kernel->n_buffers] : 0;
    CuDevicePtr workspace = device->workspace;
    for (uint32_t i = 0; i < kernel->n_buffers; i++)
        kernel->parameters[i] = (void *)(uintptr_t)&bufs[i];
    kernel->parameters[kernel->n_buffers] = &workspace;
    kernel->parameters[kernel->n_buffers + 1] = &stream;
    TRY(cuda_enter(device));
    for (uint32_t i = 0; i < kernel->n_launches; i++)
    {
        const Launch *launch = &kernel->launches[i];
        CUDA_TRY(&device->driver,
                 launch(launch->function, launch->grid, 1, 1, launch->block, 1, 1, launch->smem_bytes, device->stream,
                        kernel->parameters, NULL),
                 "launching kernel '%s' (launch %u of %u, %u blocks of %u threads)", kernel->name, i + 1,
                 kernel->n_launches, launch->grid, launch->block);
    }
    return STATUS_OK;
}

/* ---- many calls by one launch */

struct HalBatch
{
    const HalKernel *kernel; /* one of the family */
    uint32_t n_calls, grid;
    size_t size_bytes;
    void *table; /* on the device */
};

/* PtcCall in codegen/text/calls_cuda.h; as many pointers follow as the kernel has buffers. */
typedef struct
{
    int64_t n_elems;
    uint32_t first_block, unused;
} Call;

uint32_t cuda_kernel_family(const HalKernel *kernel)
{
    return kernel->family;
}

static Status fill_table(CudaDevice *device, const HalCall *calls, HalBatch *batch)
{
    const size_t pointers_bytes = batch->kernel->n_buffers * sizeof(void *), row_bytes = sizeof(Call) + pointers_bytes;
    char *rows = malloc(batch->size_bytes);
    if (!rows)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for a table of %u calls", batch->n_calls);
    for (uint32_t i = 0; i < batch->n_calls; i++)
    {
        const HalKernel *kernel = calls[i].kernel;
        const Call call = {.n_elems = kernel->n_elems, .first_block = batch->grid};
        ENSURE(kernel->family == batch->kernel->family && kernel->n_buffers == batch->kernel->n_buffers);
        memcpy(rows + i * row_bytes, &call, sizeof call);
        memcpy(rows + i * row_bytes + sizeof call, calls[i].bufs, pointers_bytes);
        batch->grid += kernel->launches[0].grid;
    }
    const Status status =
        device->base.ops->copy(&device->base, HAL_COPY_TO_DEVICE, batch->table, rows, batch->size_bytes);
    free(rows);
    return status;
}

Status cuda_batch_create(HalDevice *base, const HalCall *calls, uint32_t n, HalBatch **out_batch)
{
    CudaDevice *device = (CudaDevice *)base;
    const HalKernel *kernel = calls[0].kernel;
    ENSURE(kernel->family && kernel->n_launches == 1 && kernel->device == device);
    HalBatch *batch = malloc(sizeof *batch);
    if (!batch)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for %u calls", n);
    *batch = (HalBatch){
        .kernel = kernel, .n_calls = n, .size_bytes = n * (sizeof(Call) + kernel->n_buffers * sizeof(void *))};
    Status status = base->ops->memory_alloc(base, batch->size_bytes, &batch->table);
    if (status == STATUS_OK)
        device->tables_bytes += batch->size_bytes;
    if (status == STATUS_OK)
        status = fill_table(device, calls, batch);
    if (status == STATUS_OK)
        *out_batch = batch;
    else
        cuda_batch_destroy(base, batch);
    return status;
}

void cuda_batch_destroy(HalDevice *base, HalBatch *batch)
{
    if (batch->table)
    {
        base->ops->memory_free(base, batch->table, batch->size_bytes);
        ((CudaDevice *)base)->tables_bytes -= batch->size_bytes;
    }
    free(batch);
}

Status cuda_batch_launch(HalDevice *base, const HalBatch *batch)
{
    const CudaDevice *device = (const CudaDevice *)base;
    const HalKernel *kernel = batch->kernel;
    const Launch *launch = &kernel->launches[0];
    uint32_t n_calls = batch->n_calls;
    void *unread = NULL, *table = batch->table;
    for (uint32_t i = 0; i < kernel->n_buffers; i++)
        kernel->parameters[i] = &unread;
    kernel->parameters[kernel->n_buffers] = &table;
    kernel->parameters[kernel->n_buffers + 1] = &n_calls;
    TRY(cuda_enter(device));
    CUDA_TRY(&device->driver,
             launch(launch->function, batch->grid, 1, 1, launch->block, 1, 1, launch->smem_bytes, device->stream,
                    kernel->parameters, NULL),
             "launching kernel '%s' for %u calls (%u blocks of %u threads)", kernel->name, n_calls, batch->grid,
             launch->block);
    return STATUS_OK;
}
