/* kernel_bench FILE.ir [VALUES...]: compiles the kernels of an instantiated IR file and prints, for each, the time of
 * a call on one thread and the bandwidth of its operands and results (bench only; not a test). */
#include "base/diag.h"
#include "base/strbuf.h"
#include "codegen/codegen.h"
#include "codegen/compile.h"
#include "codegen/kernel_abi.h"
#include "ir/text.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void fill(void *to, const IrType *type)
{
    uint32_t state = 12345;
    for (int64_t i = 0; i < ir_type_n_elems(type); i++)
    {
        state = state * 1664525u + 1013904223u;
        if (type->dtype == DT_F32)
            ((float *)to)[i] = (float)(state >> 8) * 0x1p-23f - 1.0f;
        else if (type->dtype == DT_I32)
            ((int32_t *)to)[i] = (int32_t)(state >> 30);
        else
            memset((char *)to + i * dtype_size_bytes((DType)type->dtype), (int)(state >> 31),
                   (size_t)dtype_size_bytes((DType)type->dtype));
    }
}

int main(int argc, char **argv)
{
    Arena *arena = arena_create();
    FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    if (!file)
        return fprintf(stderr, "usage: kernel_bench FILE.ir [N=7 R=2 ...]\n"), 2;
    StrBuf text = strbuf_make(arena);
    for (int c; (c = fgetc(file)) != EOF;)
        if (c == '$')
        {
            int letter = fgetc(file);
            for (int i = 2; i < argc; i++)
                if (argv[i][0] == letter)
                    strbuf_add(&text, argv[i] + 2);
        }
        else
            strbuf_addf(&text, "%c", c);
    fclose(file);
    const char *source = strbuf_text(&text);
    while (strncmp(source, "//", 2) == 0)
        source = strchr(source, '\n') + 1;
    Diag *diag = diag_create(arena);
    IrModule *m =
        ir_parse_module(arena, diag, diag_add_file(diag, argv[1], source, strlen(source)), source, strlen(source));
    if (!m)
        return diag_print(diag, stderr, false), 1;
    StrBuf c_text = strbuf_make(arena);
    CodegenObject object;
    codegen_emit_c(&c_text, m);
    if (codegen_compile(arena, strbuf_text(&c_text), &object) != STATUS_OK)
        return fprintf(stderr, "%s\n", status_detail()), 1;
    printf("%s: %.3f s, %zu bytes of text\n", object.so_path, object.compile_s, c_text.len);
    const PtcKernelTable *table = dlsym(dlopen(object.so_path, RTLD_NOW), PTC_KERNEL_SYMBOL);
    uint32_t k = 0;
    IR_FOR_FUNCS(m, func)
    {
        const PtcKernel *kernel = &table->kernels[k++];
        void *bufs[64];
        uint32_t n = 0;
        double n_bytes = 0;
        for (int outputs = 0; outputs < 2; outputs++)
            IR_FOR_OPS(m, func, op)
            {
                const IrOpData *data = ir_op(m, op);
                if (data->code != (outputs ? IR_output : IR_arg))
                    continue;
                const IrType *type = ir_value_type(m, outputs ? data->operands[0] : data->results[0]);
                bufs[n] = aligned_alloc(64, (size_t)(ir_type_size_bytes(type) + 63) / 64 * 64);
                fill(bufs[n++], type);
                n_bytes += (double)ir_type_size_bytes(type);
            }
        uint32_t stream = 0;
        bufs[n] = &stream;
        void *workspace = aligned_alloc(64, (size_t)kernel->workspace_bytes + 64);
        void *scratch = aligned_alloc(64, (size_t)kernel->scratch_bytes + 64);
        double best = 1e9;
        for (int rep = 0; rep < 20; rep++)
        {
            double start = now_s();
            for (uint32_t p = 0; p < kernel->n_phases; p++)
                for (int64_t t = 0; t < kernel->phase[p].n_tasks; t++)
                    kernel->phase[p].run(bufs, workspace, scratch, t);
            double took = now_s() - start;
            best = took < best ? took : best;
        }
        printf("%-24s %9.3f ms  %7.2f GB/s  tasks %lld\n", kernel->name, best * 1e3, n_bytes / best * 1e-9,
               (long long)kernel->phase[0].n_tasks);
    }
    arena_destroy(arena);
    return 0;
}
