/* Kernels for the cuda device: CUDA text by NVRTC to a file of the kernel cache, "KEY.kernels". It is a table in text
 *
 *     ptc kernels abi 1 sm 90 kernels N
 *     kernel NAME buffers N workspace BYTES launches N
 *     launch SYMBOL grid N block N smem BYTES
 *     cubin BYTES
 *
 * and then the cubin. The key is table, text, options and NVRTC's version. */
#include "codegen/cache.h"
#include "codegen/codegen.h"
#include "runtime/cuda_compile.h"
#include "runtime/hal_cuda.h"

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

static const char *table_text(Arena *arena, const CodegenCudaTable *table, int arch)
{
    StrBuf text = strbuf_make(arena);
    strbuf_addf(&text, "ptc kernels abi %d sm %d kernels %u\n", CUDA_KERNEL_ABI_VERSION, arch, table->n_kernels);
    for (uint32_t k = 0; k < table->n_kernels; k++)
    {
        const CodegenCudaKernel *kernel = &table->kernels[k];
        strbuf_addf(&text, "kernel %s buffers %u workspace %lld launches %u\n", kernel->name,
                    kernel->n_args + kernel->n_outputs, (long long)kernel->workspace_bytes, kernel->n_launches);
        for (uint32_t l = 0; l < kernel->n_launches; l++)
            strbuf_addf(&text, "launch %s grid %u block %u smem %u\n", kernel->launch[l].symbol, kernel->launch[l].grid,
                        kernel->launch[l].block, kernel->launch[l].smem_bytes);
    }
    return strbuf_text(&text);
}

static Status compile(Arena *arena, const CudaCompiler *compiler, const char *table, const char *text,
                      const CacheEntry *entry)
{
    const char *cubin;
    size_t size;
    TRY(cuda_compile(arena, compiler, text, entry->stem, &cubin, &size));
    StrBuf file = strbuf_make(arena);
    strbuf_addf(&file, "%scubin %zu\n", table, size);
    strbuf_add_bytes(&file, cubin, size);
    TRY(cache_write(entry->new_path, file.data, file.len));
    return cache_entry_publish(arena, entry);
}

static Status build_one(Arena *arena, const Build *b, const IrModule *m, uint32_t number, HalKernelFile *out)
{
    const CudaCompiler *compiler = &b->compiler;
    StrBuf buf = strbuf_make(arena);
    CodegenCudaTable kernels;
    codegen_emit_cuda(&buf, m, &kernels);
    const char *text = strbuf_text(&buf), *table = table_text(arena, &kernels, compiler->arch);
    const char *texts[] = {table, text, compiler->version, compiler->options[0], compiler->options[1]};
    const CacheEntry entry =
        cache_entry(arena, b->dir, cache_key(arena, texts, sizeof texts / sizeof *texts), "kernels", number);
    *out = (HalKernelFile){.path = entry.path, .cached = cache_entry_valid(arena, &entry)};
    return out->cached ? STATUS_OK : compile(arena, compiler, table, text, &entry);
}

Status cuda_kernels_build(Arena *arena, int device_index, const IrModule *const *modules, uint32_t n,
                          uint32_t n_parallel, HalKernelFile *out_files)
{
    (void)n_parallel;
    Build build = {0};
    Arena *scratch = arena_create();
    Status status = begin(scratch, device_index, &build);
    for (uint32_t i = 0; i < n && status == STATUS_OK; i++)
    {
        status = build_one(scratch, &build, modules[i], i, &out_files[i]);
        if (status == STATUS_OK)
            out_files[i].path = arena_strdup(arena, out_files[i].path);
    }
    cuda_compiler_close(&build.compiler);
    cuda_driver_close(&build.driver);
    arena_destroy(scratch);
    return status;
}
