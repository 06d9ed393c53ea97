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
#include "runtime/hal_cuda.h"

#include <string.h>

/* What all texts are compiled with. */
typedef struct
{
    CudaDriver driver;
    CudaNvrtc nvrtc;
    int arch;
    const char *dir, *version;
    const char *options[2];
} Compiler;

enum
{
    N_OPTIONS = sizeof((Compiler *)0)->options / sizeof(char *)
};

/* NVRTC must know the device. */
static Status check_arch(Arena *arena, const Compiler *compiler)
{
    int n = 0, newest = 0;
    compiler->nvrtc.n_archs(&n);
    int *archs = ARENA_ARRAY(arena, int, (uint32_t)n + 1);
    compiler->nvrtc.archs(archs);
    for (int i = 0; i < n; i++)
    {
        if (archs[i] == compiler->arch)
            return STATUS_OK;
        newest = archs[i] > newest ? archs[i] : newest;
    }
    return status_fail(STATUS_DEVICE, "NVRTC %s does not know this device, sm_%d (it knows up to sm_%d): %s is needed",
                       compiler->version, compiler->arch, newest,
                       compiler->arch > newest ? "a newer CUDA toolkit" : "an older CUDA toolkit");
}

static Status find_compiler(Arena *arena, int device_index, Compiler *out)
{
    CuDevice device;
    TRY(cuda_driver_open(&out->driver));
    TRY(cuda_find_device(&out->driver, device_index, &device, &out->arch));
    TRY(cuda_nvrtc_open(&out->driver, &out->nvrtc));
    out->version = arena_printf(arena, "%d.%d", out->nvrtc.version / 1000, out->nvrtc.version % 1000 / 10);
    out->options[0] = arena_printf(arena, "--gpu-architecture=sm_%d", out->arch);
    out->options[1] = "--fmad=false"; /* what is rounded does not depend on what is beside it (codegen/codegen.h) */
    TRY(check_arch(arena, out));
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

/* A text that is refused is kept, with NVRTC's messages beside it. */
static Status refused(Arena *arena, const CudaNvrtc *nvrtc, NvrtcProgram program, CuResult result, const char *text,
                      const CacheEntry *entry)
{
    const char *source = arena_printf(arena, "%s.cu", entry->stem),
               *log_path = arena_printf(arena, "%s.log", entry->stem);
    size_t size = 0;
    nvrtc->log_size(program, &size);
    char *log = arena_alloc(arena, size + 1);
    log[0] = 0;
    nvrtc->log(program, log);
    TRY(cache_write(source, text, strlen(text)));
    TRY(cache_write(log_path, log, strlen(log)));
    return status_fail(STATUS_COMPILER, "NVRTC refused the generated kernels (%s): %s; its messages are in %s", source,
                       nvrtc->error_text(result), log_path);
}

static Status compile_program(Arena *arena, const Compiler *compiler, NvrtcProgram program, const char *table,
                              const char *text, const CacheEntry *entry)
{
    const CudaNvrtc *nvrtc = &compiler->nvrtc;
    size_t size = 0;
    CuResult result = nvrtc->compile(program, N_OPTIONS, compiler->options);
    if (result == 0)
        result = nvrtc->cubin_size(program, &size);
    if (result != 0)
        return refused(arena, nvrtc, program, result, text, entry);
    char *cubin = arena_alloc(arena, size);
    result = nvrtc->cubin(program, cubin);
    if (result != 0)
        return refused(arena, nvrtc, program, result, text, entry);
    StrBuf file = strbuf_make(arena);
    strbuf_addf(&file, "%scubin %zu\n", table, size);
    strbuf_add_bytes(&file, cubin, size);
    TRY(cache_write(entry->new_path, file.data, file.len));
    return cache_entry_publish(arena, entry);
}

static Status build_one(Arena *arena, const Compiler *compiler, const IrModule *m, uint32_t number, HalKernelFile *out)
{
    StrBuf buf = strbuf_make(arena);
    CodegenCudaTable kernels;
    codegen_emit_cuda(&buf, m, &kernels);
    const char *text = strbuf_text(&buf), *table = table_text(arena, &kernels, compiler->arch);
    const char *texts[] = {table, text, compiler->version, compiler->options[0], compiler->options[1]};
    const CacheEntry entry =
        cache_entry(arena, compiler->dir, cache_key(arena, texts, sizeof texts / sizeof *texts), "kernels", number);
    *out = (HalKernelFile){.path = entry.path, .cached = cache_entry_valid(arena, &entry)};
    if (out->cached)
        return STATUS_OK;
    NvrtcProgram program = NULL;
    const CuResult result = compiler->nvrtc.program_create(&program, text, "kernels.cu", 0, NULL, NULL);
    if (result != 0)
        return status_fail(STATUS_COMPILER, "NVRTC does not start: %s", compiler->nvrtc.error_text(result));
    Status status = compile_program(arena, compiler, program, table, text, &entry);
    compiler->nvrtc.program_destroy(&program);
    return status;
}

Status cuda_kernels_build(Arena *arena, int device_index, const IrModule *const *modules, uint32_t n,
                          uint32_t n_parallel, HalKernelFile *out_files)
{
    (void)n_parallel;
    Compiler compiler = {0};
    Arena *scratch = arena_create();
    Status status = find_compiler(scratch, device_index, &compiler);
    for (uint32_t i = 0; i < n && status == STATUS_OK; i++)
    {
        status = build_one(scratch, &compiler, modules[i], i, &out_files[i]);
        if (status == STATUS_OK)
            out_files[i].path = arena_strdup(arena, out_files[i].path);
    }
    cuda_nvrtc_close(&compiler.nvrtc);
    cuda_driver_close(&compiler.driver);
    arena_destroy(scratch);
    return status;
}
