#include "runtime/cuda_compile.h"

#include "base/strbuf.h"
#include "codegen/cache.h"
#include "codegen/codegen.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum
{
    MAX_ARCH = 999
};

static Status check_arch(Arena *arena, const CudaCompiler *compiler)
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
    return status_fail(STATUS_DEVICE, "NVRTC %s does not know sm_%d (it knows up to sm_%d): %s is needed",
                       compiler->version, compiler->arch, newest,
                       compiler->arch > newest ? "a newer CUDA toolkit" : "an older CUDA toolkit");
}

Status cuda_compiler_open(Arena *arena, const CudaDriver *driver, int arch, CudaForm form, CudaCompiler *out)
{
    *out = (CudaCompiler){.arch = arch, .form = form};
    TRY(cuda_nvrtc_open(driver, &out->nvrtc));
    out->version = arena_printf(arena, "%d.%d", out->nvrtc.version / 1000, out->nvrtc.version % 1000 / 10);
    out->options[0] = arena_printf(arena, "--gpu-architecture=%s_%d", form == CUDA_PTX ? "compute" : "sm", arch);
    out->options[1] = "--fmad=false"; /* what is rounded does not depend on what is beside it (codegen/codegen.h) */
    return check_arch(arena, out);
}

void cuda_compiler_close(CudaCompiler *compiler)
{
    cuda_nvrtc_close(&compiler->nvrtc);
}

/* A text that is refused is kept, with NVRTC's messages beside it. */
static Status refused(Arena *arena, const CudaNvrtc *nvrtc, NvrtcProgram program, CuResult result, const char *text,
                      const char *stem)
{
    const char *source = arena_printf(arena, "%s.cu", stem), *log_path = arena_printf(arena, "%s.log", stem);
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

static CuResult take_result(Arena *arena, const CudaCompiler *compiler, NvrtcProgram program, const char **out_data,
                            size_t *out_size)
{
    const CudaNvrtc *nvrtc = &compiler->nvrtc;
    const bool is_ptx = compiler->form == CUDA_PTX;
    size_t size = 0;
    CuResult result = is_ptx ? nvrtc->ptx_size(program, &size) : nvrtc->cubin_size(program, &size);
    if (result != 0)
        return result;
    char *data = arena_alloc(arena, size + 1);
    *out_data = data;
    *out_size = size - (is_ptx && size > 0); /* that of PTX counts its NUL */
    return is_ptx ? nvrtc->ptx(program, data) : nvrtc->cubin(program, data);
}

Status cuda_compile(Arena *arena, const CudaCompiler *compiler, const char *text, const char *stem,
                    const char **out_data, size_t *out_size)
{
    const CudaNvrtc *nvrtc = &compiler->nvrtc;
    NvrtcProgram program = NULL;
    CuResult result = nvrtc->program_create(&program, text, "kernels.cu", 0, NULL, NULL);
    if (result != 0)
        return status_fail(STATUS_COMPILER, "NVRTC does not start: %s", nvrtc->error_text(result));
    result = nvrtc->compile(program, CUDA_N_OPTIONS, compiler->options);
    if (result == 0)
        result = take_result(arena, compiler, program, out_data, out_size);
    const Status status = result == 0 ? STATUS_OK : refused(arena, nvrtc, program, result, text, stem);
    compiler->nvrtc.program_destroy(&program);
    return status;
}

Status cuda_check_kernels(const IrModule *m, const CodegenCudaTable *table, int arch)
{
    for (uint32_t k = 0; k < table->n_kernels; k++)
    {
        const CodegenCudaKernel *kernel = &table->kernels[k];
        if (kernel->least_arch <= arch)
            continue;
        const IrOpData *op = ir_op(m, kernel->op);
        char place[256] = "";
        if (op->span.file)
            snprintf(place, sizeof place, "%s:%u:%u: ", m->files.data[op->span.file - 1], op->span.line, op->span.col);
        return status_fail(
            STATUS_UNSUPPORTED,
            "%s%s of %s needs a GPU of sm_%d or later, and this one is sm_%d: precision=\"f32\" goes there", place,
            ir_op_info(op->code)->name, dtype_name(ir_value_type(m, op->operands[0])->dtype), kernel->least_arch, arch);
    }
    return STATUS_OK;
}

/* ---- --emit */

static Status arch_of_gpu(int *out_arch)
{
    CudaDriver driver;
    CuDevice device;
    Status status = cuda_driver_open(&driver);
    if (status == STATUS_OK)
        status = cuda_find_device(&driver, 0, &device, out_arch);
    cuda_driver_close(&driver);
    return status == STATUS_OK ? STATUS_OK
                               : status_fail(STATUS_USAGE, "--arch=sm_NN is wanted: there is no GPU here to ask");
}

static Status read_arch(const char *text, int *out_arch)
{
    char rest;
    if (!text)
        return arch_of_gpu(out_arch);
    if (sscanf(text, "sm_%d%c", out_arch, &rest) != 1 || *out_arch < 1 || *out_arch > MAX_ARCH)
        return status_fail(STATUS_USAGE, "--arch wants sm_NN (sm_90), not '%s'", text);
    return STATUS_OK;
}

Status cuda_emit(Arena *arena, const IrModule *m, CudaForm form, const char *arch, const char **out_data,
                 size_t *out_size)
{
    StrBuf text = strbuf_make(arena);
    CodegenCudaTable table;
    CudaCompiler compiler = {0};
    const char *dir;
    int number;
    TRY(read_arch(arch, &number));
    codegen_emit_cuda(&text, m, &table);
    TRY(cuda_check_kernels(m, &table, number));
    const char *source = strbuf_text(&text);
    TRY(cache_dir(arena, &dir));
    const CacheEntry entry = cache_entry(arena, dir, cache_key(arena, &source, 1), "emitted", 0);
    Status status = cuda_compiler_open(arena, NULL, number, form, &compiler);
    if (status == STATUS_OK)
        status = cuda_compile(arena, &compiler, source, entry.stem, out_data, out_size);
    cuda_compiler_close(&compiler);
    return status;
}
