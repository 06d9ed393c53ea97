#include "driver/emit.h"

#include "base/strbuf.h"
#include "codegen/codegen.h"
#include "ir/dot.h"
#include "ir/text.h"
#include "runtime/cuda_compile.h"

#include <string.h>

enum
{
    OF_CUDA = 1,
    TEXT = 0,
    BINARY = 1
};

static Status emit_ir(StrBuf *out, const IrModule *m, const Options *options)
{
    (void)options;
    ir_print_module(out, m);
    return STATUS_OK;
}

static Status emit_c(StrBuf *out, const IrModule *m, const Options *options)
{
    (void)options;
    codegen_emit_c(out, m);
    return STATUS_OK;
}

/* One text for all architectures. */
static Status emit_cuda(StrBuf *out, const IrModule *m, const Options *options)
{
    (void)options;
    CodegenCudaTable table;
    codegen_emit_cuda(out, m, &table);
    return STATUS_OK;
}

static Status emit_compiled(StrBuf *out, const IrModule *m, const Options *options, CudaForm form)
{
    const char *data;
    size_t size;
    TRY(cuda_emit(out->arena, m, form, options->arch, &data, &size));
    strbuf_add_bytes(out, data, size);
    return STATUS_OK;
}

static Status emit_ptx(StrBuf *out, const IrModule *m, const Options *options)
{
    return emit_compiled(out, m, options, CUDA_PTX);
}

static Status emit_cubin(StrBuf *out, const IrModule *m, const Options *options)
{
    return emit_compiled(out, m, options, CUDA_CUBIN);
}

static Status emit_dot(StrBuf *out, const IrModule *m, const Options *options)
{
    (void)options;
    ir_print_dot(out, m);
    return STATUS_OK;
}

static const struct
{
    const char *name;
    Status (*print)(StrBuf *out, const IrModule *m, const Options *options);
    bool of_cuda, is_binary;
} kinds[] = {
#define EMIT(name, function, of_cuda, form) {#name, function, of_cuda, form},
#include "driver/emits.def"
#undef EMIT
};

enum
{
    N_KINDS = sizeof kinds / sizeof *kinds
};

static size_t find_kind(const char *name)
{
    size_t i = 0;
    while (i < N_KINDS && strcmp(kinds[i].name, name) != 0)
        i++;
    return i;
}

Status emit_check(const Options *options)
{
    const size_t kind = find_kind(options->emit);
    if (kind == N_KINDS)
        return status_fail(STATUS_USAGE, "--emit wants ir, c, cuda, ptx, cubin or dot, not '%s'", options->emit);
    if (options->arch && !kinds[kind].of_cuda)
        return status_fail(STATUS_USAGE, "--arch goes with --emit=cuda, ptx or cubin, not %s", kinds[kind].name);
    if (kinds[kind].is_binary && !options->output && driver_stdout_is_terminal())
        return status_fail(STATUS_USAGE, "a %s is no text for a terminal: -o FILE is wanted", kinds[kind].name);
    return STATUS_OK;
}

Status emit_module(Arena *arena, const IrModule *m, const Options *options)
{
    StrBuf text = strbuf_make(arena);
    FILE *out;
    TRY(kinds[find_kind(options->emit)].print(&text, m, options));
    TRY(driver_open_output(options, &out));
    fwrite(strbuf_text(&text), 1, text.len, out);
    return driver_close_output(options, out);
}
