/* Host memory and C kernels for the back ends that live on the host. */
#include "codegen/kernel_set.h"
#include "runtime/hal_ops.h"

#include <stdio.h>
#include <sys/mman.h>

enum
{
    LARGE_PAGE_BYTES = 2 << 20
};

void hal_host_memory(int64_t *out_total_bytes, int64_t *out_free_bytes)
{
    *out_total_bytes = 0;
    *out_free_bytes = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    if (!file)
        return;
    char line[256];
    while (fgets(line, sizeof line, file))
    {
        long long kib;
        if (sscanf(line, "MemTotal: %lld kB", &kib) == 1)
            *out_total_bytes = kib * 1024;
        if (sscanf(line, "MemAvailable: %lld kB", &kib) == 1)
            *out_free_bytes = kib * 1024;
    }
    fclose(file);
}

Status hal_host_alloc(size_t size_bytes, void **out_address)
{
    /* The kernel lends more than it has and kills later; ask first, so that the user gets a message. */
    int64_t total_bytes;
    int64_t free_bytes;
    hal_host_memory(&total_bytes, &free_bytes);
    if (total_bytes > 0 && size_bytes > (size_t)free_bytes)
        return status_fail(STATUS_OUT_OF_MEMORY, "%.1f MiB asked for, %.1f MiB available", (double)size_bytes / 1048576,
                           (double)free_bytes / 1048576);
    void *address = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED)
        return status_fail(STATUS_OUT_OF_MEMORY, "%.1f MiB of memory refused by the system",
                           (double)size_bytes / 1048576);
    if (size_bytes >= LARGE_PAGE_BYTES)
        madvise(address, size_bytes, MADV_HUGEPAGE); /* advice: fewer TLB misses where granted */
    *out_address = address;
    return STATUS_OK;
}

void hal_host_free(void *address, size_t size_bytes)
{
    munmap(address, size_bytes);
}

Status hal_host_kernels_build(Arena *arena, int device_index, const IrModule *const *modules, uint32_t n,
                              uint32_t n_parallel, HalKernelFile *out_files)
{
    (void)device_index;
    CodegenKernels *kernels = ARENA_ARRAY(arena, CodegenKernels, n);
    TRY(codegen_kernels_build(arena, modules, n, n_parallel, kernels));
    for (uint32_t i = 0; i < n; i++)
        out_files[i] = (HalKernelFile){kernels[i].path, kernels[i].cached};
    return STATUS_OK;
}
