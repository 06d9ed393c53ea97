/* Kernels for the cuda device: CUDA text by NVRTC to a file of the kernel cache, "KEY.kernels". It is a table in text
 *
 *     ptc kernels abi 3 sm 90 kernels N parts N
 *     kernel NAME buffers N workspace BYTES launches N family N elements N
 *     launch SYMBOL grid N block N smem BYTES part N
 *
 * and then, for each part of the kernels, "\ncubin BYTES\n" and a cubin: NVRTC takes most of the time that it takes to
 * compile a model, so threads compile parts side by side. The key is the text, what is in the table but for parts,
 * options and NVRTC's version. */
#include "codegen/cache.h"
#include "codegen/codegen.h"
#include "runtime/cuda_compile.h"
#include "runtime/hal_cuda.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* Where kernels go, and what makes them. */
typedef struct
{
    CudaDriver driver;
    CudaCompiler compiler;
    const char *dir;
} Build;

static Status begin(Arena *arena, int device_index, Build *out)
{
    CuDevice device;
    int arch;
    TRY(cuda_driver_open(&out->driver));
    TRY(cuda_find_device(&out->driver, device_index, &device, &arch));
    TRY(cuda_compiler_open(arena, &out->driver, arch, CUDA_CUBIN, &out->compiler));
    return cache_dir(arena, &out->dir);
}

enum
{
    MAX_PARTS = 8,
    PART_KERNELS = 4 /* of a part, at least: each reads the text that all begin with */
};

static uint32_t part_of(uint32_t kernel, uint32_t n_parts)
{
    return kernel % n_parts;
}

static const char *table_text(Arena *arena, const CodegenCudaTable *table, int arch, uint32_t n_parts)
{
    StrBuf text = strbuf_make(arena);
    strbuf_addf(&text, "ptc kernels abi %d sm %d kernels %u parts %u\n", CUDA_KERNEL_ABI_VERSION, arch,
                table->n_kernels, n_parts);
    for (uint32_t k = 0; k < table->n_kernels; k++)
    {
        const CodegenCudaKernel *kernel = &table->kernels[k];
        strbuf_addf(&text, "kernel %s buffers %u workspace %lld launches %u family %u elements %lld\n", kernel->name,
                    kernel->n_args + kernel->n_outputs, (long long)kernel->workspace_bytes, kernel->n_launches,
                    kernel->family, (long long)kernel->n_elems);
        for (uint32_t l = 0; l < kernel->n_launches; l++)
            strbuf_addf(&text, "launch %s grid %u block %u smem %u part %u\n", kernel->launch[l].symbol,
                        kernel->launch[l].grid, kernel->launch[l].block, kernel->launch[l].smem_bytes,
                        part_of(k, n_parts));
    }
    return strbuf_text(&text);
}

/* What one thread compiles. */
typedef struct
{
    const CudaCompiler *compiler;
    const CodegenCudaTable *table;
    const char *text; /* of all kernels */
    const char *stem;
    uint32_t number, n_parts;
    pthread_t thread;
    Arena *arena;
    const char *cubin;
    size_t size;
    Status status;
    char detail[1024];
} Part;

static void *compile_part(void *argument)
{
    Part *part = argument;
    const CodegenCudaTable *table = part->table;
    const size_t end = strlen(part->text);
    StrBuf text = strbuf_make(part->arena);
    strbuf_add_bytes(&text, part->text, table->n_kernels ? table->kernels[0].text_at : end);
    for (uint32_t k = 0; k < table->n_kernels; k++)
    {
        const size_t from = table->kernels[k].text_at,
                     to = k + 1 < table->n_kernels ? table->kernels[k + 1].text_at : end;
        if (part_of(k, part->n_parts) == part->number)
            strbuf_add_bytes(&text, part->text + from, to - from);
    }
    const char *stem = arena_printf(part->arena, "%s-%u", part->stem, part->number);
    part->status = cuda_compile(part->arena, part->compiler, strbuf_text(&text), stem, &part->cubin, &part->size);
    if (part->status != STATUS_OK)
        snprintf(part->detail, sizeof part->detail, "%s", status_detail());
    return NULL;
}

/* The first part that fails says why. */
static Status compile(Arena *arena, Part *parts, uint32_t n_parts, StrBuf *file)
{
    uint32_t n_threads = 0;
    for (uint32_t i = 0; i < n_parts; i++)
        parts[i].arena = i ? arena_create() : arena;
    for (uint32_t i = 1; i < n_parts && pthread_create(&parts[i].thread, NULL, compile_part, &parts[i]) == 0; i++)
        n_threads = i;
    for (uint32_t i = 0; i < n_parts; i++)
    {
        if (i == 0 || i > n_threads)
            compile_part(&parts[i]);
    }
    for (uint32_t i = 1; i <= n_threads; i++)
        pthread_join(parts[i].thread, NULL);
    Status status = STATUS_OK;
    for (uint32_t i = 0; i < n_parts; i++)
    {
        if (parts[i].status != STATUS_OK && status == STATUS_OK)
            status = status_fail(parts[i].status, "%s", parts[i].detail);
        else if (status == STATUS_OK)
        {
            strbuf_addf(file, "\ncubin %zu\n", parts[i].size);
            strbuf_add_bytes(file, parts[i].cubin, parts[i].size);
        }
        if (i)
            arena_destroy(parts[i].arena);
    }
    return status;
}

static Status build_one(Arena *arena, const Build *b, const IrModule *m, uint32_t number, uint32_t n_parallel,
                        HalKernelFile *out)
{
    const CudaCompiler *compiler = &b->compiler;
    StrBuf buf = strbuf_make(arena);
    CodegenCudaTable kernels;
    codegen_emit_cuda(&buf, m, &kernels);
    TRY(cuda_check_kernels(m, &kernels, compiler->arch));
    const char *text = strbuf_text(&buf);
    const char *texts[] = {table_text(arena, &kernels, compiler->arch, 1), text, compiler->version,
                           compiler->options[0], compiler->options[1]};
    const CacheEntry entry =
        cache_entry(arena, b->dir, cache_key(arena, texts, sizeof texts / sizeof *texts), "kernels", number);
    *out = (HalKernelFile){.path = entry.path, .cached = cache_entry_valid(arena, &entry)};
    if (out->cached)
        return STATUS_OK;
    uint32_t n_parts = kernels.n_kernels / PART_KERNELS < n_parallel ? kernels.n_kernels / PART_KERNELS : n_parallel;
    n_parts = n_parts < 1 ? 1 : n_parts > MAX_PARTS ? MAX_PARTS : n_parts;
    Part *parts = ARENA_ARRAY(arena, Part, n_parts);
    for (uint32_t i = 0; i < n_parts; i++)
        parts[i] = (Part){
            .compiler = compiler, .table = &kernels, .text = text, .stem = entry.stem, .number = i, .n_parts = n_parts};
    StrBuf file = strbuf_make(arena);
    strbuf_add(&file, table_text(arena, &kernels, compiler->arch, n_parts));
    TRY(compile(arena, parts, n_parts, &file));
    TRY(cache_write(entry.new_path, file.data, file.len));
    return cache_entry_publish(arena, &entry);
}

Status cuda_kernels_build(Arena *arena, int device_index, const IrModule *const *modules, uint32_t n,
                          uint32_t n_parallel, HalKernelFile *out_files)
{
    Build build = {0};
    Arena *scratch = arena_create();
    Status status = begin(scratch, device_index, &build);
    for (uint32_t i = 0; i < n && status == STATUS_OK; i++)
    {
        status = build_one(scratch, &build, modules[i], i, n_parallel, &out_files[i]);
        if (status == STATUS_OK)
            out_files[i].path = arena_strdup(arena, out_files[i].path);
    }
    cuda_compiler_close(&build.compiler);
    cuda_driver_close(&build.driver);
    arena_destroy(scratch);
    return status;
}
