/* CUDA C text: one extern "C" kernel per stage. Elementwise kernels stride over the grid; a row has a block, whose
 * threads stride over its elements and reduce by shuffles; column partials are per block of rows, and a thread per
 * column adds them in order. */
#include "base/bug.h"
#include "codegen/codegen.h"
#include "codegen/nest_print.h"
#include "codegen/scalar.h"
#include "codegen/template.h"

typedef struct
{
    StrBuf *out;
    Arena *arena;
    const Nest *nest;
    CodegenCudaKernel *kernel;
    uint32_t number;
} Printer;

enum
{
    MAX_BLOCK = 256,
    FLAT_BLOCK = 256,
    FLAT_MAX_GRID = 4096,
    MAX_SMEM_BYTES = 40960,
    CHUNK_ROWS_BLOCKS = 1 /* rows of a block without column sums */
};

static const char *const reduce_names[IR_CODE_COUNT] = {
    [IR_reduce_sum] = "sum", [IR_reduce_max] = "max", [IR_reduce_min] = "min"};

static char family(const NestReduce *r)
{
    return dtype_is_float(r->dtype) ? 'f' : 'i';
}

static uint32_t block_for(int64_t inner)
{
    return inner >= MAX_BLOCK ? MAX_BLOCK : (uint32_t)((inner + 31) / 32 * 32);
}

static void open_kernel(Printer *p, int64_t grid, uint32_t block, int64_t domain)
{
    CodegenCudaKernel *kernel = p->kernel;
    const char *symbol = arena_printf(p->arena, "k%u_%u", p->number, kernel->n_launches);
    kernel->launch[kernel->n_launches++] = (CodegenCudaLaunch){symbol, (uint32_t)grid, block, 0};
    strbuf_addf(p->out, "extern \"C\" __global__ void __launch_bounds__(%u) %s(", block, symbol);
    nest_print_parameters(p->out, p->nest);
    strbuf_addf(p->out, ")\n{\ntypedef %s ptc_index;\n",
                domain < INT32_MAX - FLAT_MAX_GRID * FLAT_BLOCK ? "int" : "int64_t");
}

static void print_flat(Printer *p, NestPrinter *np)
{
    const Nest *nest = p->nest;
    bool whole = nest->has_final[NEST_WHOLE];
    int64_t grid = (np->inner + FLAT_BLOCK - 1) / FLAT_BLOCK;
    if (whole)
        grid = (np->inner + NEST_CHUNK - 1) / NEST_CHUNK;
    else if (grid > FLAT_MAX_GRID)
        grid = FLAT_MAX_GRID;
    open_kernel(p, grid, FLAT_BLOCK, np->inner);
    nest_print_body(np);
    strbuf_add(p->out, strbuf_text(&np->task));
    for (uint32_t k = 0; k < nest->reduces.len; k++)
    {
        const NestReduce *r = &nest->reduces.data[k];
        strbuf_addf(p->out, "%s v%u = ptc_%s_identity_%c();\n", nest_register_type(r->dtype), k, reduce_names[r->code],
                    family(r));
    }
    if (whole)
        strbuf_addf(p->out,
                    "const ptc_index lo = (ptc_index)blockIdx.x * %d, hi = lo + %d < %lld ? lo + %d : %lld;\n"
                    "for (ptc_index f = lo + threadIdx.x; f < hi; f += blockDim.x)\n{\n",
                    NEST_CHUNK, NEST_CHUNK, (long long)np->inner, NEST_CHUNK, (long long)np->inner);
    else
        strbuf_addf(p->out,
                    "for (ptc_index f = (ptc_index)blockIdx.x * blockDim.x + threadIdx.x; f < %lld; f += "
                    "(ptc_index)gridDim.x * blockDim.x)\n{\n",
                    (long long)np->inner);
    strbuf_add(p->out, strbuf_text(&np->body));
    strbuf_add(p->out, "}\n");
    for (uint32_t k = 0; k < nest->reduces.len; k++)
    {
        const NestReduce *r = &nest->reduces.data[k];
        const char *t = nest_register_type(r->dtype);
        strbuf_addf(p->out,
                    "const %s total%u = ptc_block_%s_%c(v%u);\nif (threadIdx.x == 0)\n    ((%s *)(workspace + "
                    "%lld))[blockIdx.x] = total%u;\n",
                    t, k, reduce_names[r->code], family(r), k, t, (long long)r->workspace_offset, k);
    }
    strbuf_add(p->out, "}\n\n");
}

/* Slots: in shared memory when they fit, else in the workspace, a part for each block. */
static void print_slots(Printer *p, const NestPrinter *np, int64_t grid)
{
    uint32_t n_slots = 0;
    const NestStage *stage = np->stage;
    for (NestInst i = 1; i < stage->insts.len; i++)
        n_slots += stage->insts.data[i].slot >= 0 && nest_slot_is_kept(stage, i);
    if (!n_slots)
        return;
    int64_t row_bytes = np->inner * 4;
    bool shared = row_bytes * n_slots <= MAX_SMEM_BYTES;
    if (shared)
    {
        strbuf_add(p->out, "PTC_DYNAMIC_ROWS;\n");
        p->kernel->launch[p->kernel->n_launches - 1].smem_bytes = (uint32_t)(row_bytes * n_slots);
    }
    else
    {
        strbuf_addf(p->out, "char *const rows = workspace + %lld + blockIdx.x * (int64_t)%lld;\n",
                    (long long)p->kernel->workspace_bytes, (long long)(row_bytes * n_slots));
        p->kernel->workspace_bytes += row_bytes * n_slots * grid;
    }
    uint32_t at = 0;
    for (NestInst i = 1; i < stage->insts.len; i++)
    {
        const NestInstData *data = &stage->insts.data[i];
        const char *type = nest_register_type(data->dtype);
        if (data->slot >= 0 && nest_slot_is_kept(stage, i))
            strbuf_addf(p->out, "%s *const s%d = (%s *)(rows + %lld);\n", type, data->slot, type,
                        (long long)(row_bytes * at++));
    }
}

static void print_rows(Printer *p, NestPrinter *np)
{
    const Nest *nest = p->nest;
    bool columns = nest->has_final[NEST_COLUMNS];
    int64_t chunk = columns ? nest->chunk_rows : CHUNK_ROWS_BLOCKS;
    int64_t chunks = columns ? nest_chunks_per_group(nest) : np->rows;
    int64_t group_rows = np->rows / nest->groups;
    int64_t grid = columns ? nest->groups * chunks : np->rows;
    open_kernel(p, grid, block_for(np->inner), np->rows * np->inner);
    if (columns)
        strbuf_addf(
            p->out,
            "const ptc_index group = blockIdx.x / %lld, end = (group + 1) * %lld;\n"
            "const ptc_index lo = group * %lld + blockIdx.x %% %lld * %lld, hi = lo + %lld < end ? lo + %lld : end;\n",
            (long long)chunks, (long long)group_rows, (long long)group_rows, (long long)chunks, (long long)chunk,
            (long long)chunk, (long long)chunk);
    else
        strbuf_add(p->out, "const ptc_index lo = blockIdx.x, hi = lo + 1;\n");
    print_slots(p, np, grid);
    for (uint32_t k = 0; k < nest->reduces.len; k++)
    {
        const NestReduce *r = &nest->reduces.data[k];
        const char *t = nest_register_type(r->dtype);
        if (r->kind == REDUCE_COLUMN)
            strbuf_addf(p->out,
                        "%s *const c%u = (%s *)(workspace + %lld) + blockIdx.x * (int64_t)%lld;\n"
                        "for (int i = threadIdx.x; i < %lld; i += blockDim.x)\n    c%u[i] = ptc_%s_identity_%c();\n",
                        t, k, t, (long long)r->workspace_offset, (long long)np->inner, (long long)np->inner, k,
                        reduce_names[r->code], family(r));
        else if (r->kind == REDUCE_WHOLE_LATER)
            strbuf_addf(p->out, "%s *const w%u = (%s *)(workspace + %lld);\n", t, k, t, (long long)r->workspace_offset);
    }
    nest_print_body(np);
    strbuf_add(p->out, strbuf_text(&np->task));
    strbuf_add(p->out, "for (ptc_index o = lo; o < hi; o++)\n{\n");
    strbuf_add(p->out, strbuf_text(&np->body));
    strbuf_add(p->out, "}\n}\n\n");
}

/* A thread per column. */
static void print_final_columns(Printer *p)
{
    const Nest *nest = p->nest;
    NestPrinter np = nest_printer_make(p->arena, nest, &nest->final[NEST_COLUMNS], true);
    int64_t total = np.rows * np.inner, chunks = nest_chunks_per_group(nest);
    open_kernel(p, (total + FLAT_BLOCK - 1) / FLAT_BLOCK, FLAT_BLOCK, nest->main.rows * nest->main.inner);
    strbuf_addf(p->out,
                "const ptc_index column = (ptc_index)blockIdx.x * blockDim.x + threadIdx.x;\nif (column >= %lld)\n    "
                "return;\nconst ptc_index o = column / %lld, i0 = column %% %lld;\n(void)o, (void)i0;\n",
                (long long)total, (long long)np.inner, (long long)np.inner);
    for (uint32_t k = 0; k < nest->reduces.len; k++)
    {
        const NestReduce *r = &nest->reduces.data[k];
        const char *t = nest_register_type(r->dtype);
        if (r->kind != REDUCE_COLUMN)
            continue;
        strbuf_addf(p->out,
                    "const %s *const c%u = (const %s *)(workspace + %lld) + o * %lld + i0;\n%s q%u = c%u[0];\n"
                    "for (ptc_index c = 1; c < %lld; c++)\n    q%u = ptc_%s2_%c(q%u, c%u[c * %lld]);\n",
                    t, k, t, (long long)r->workspace_offset, (long long)(chunks * np.inner), t, k, k, (long long)chunks,
                    k, reduce_names[r->code], family(r), k, k, (long long)np.inner);
        if (r->dtype == DT_BF16)
            strbuf_addf(p->out, "q%u = ptc_bf16_round(q%u);\n", k, k);
    }
    nest_print_body(&np);
    strbuf_add(p->out, strbuf_text(&np.task));
    strbuf_add(p->out, strbuf_text(&np.body));
    strbuf_add(p->out, "}\n\n");
}

/* One block. */
static void print_final_whole(Printer *p)
{
    const Nest *nest = p->nest;
    NestPrinter np = nest_printer_make(p->arena, nest, &nest->final[NEST_WHOLE], true);
    open_kernel(p, 1, FLAT_BLOCK, 1);
    for (uint32_t k = 0; k < nest->reduces.len; k++)
    {
        const NestReduce *r = &nest->reduces.data[k];
        const char *t = nest_register_type(r->dtype);
        if (r->kind != REDUCE_WHOLE && r->kind != REDUCE_WHOLE_LATER)
            continue;
        int64_t n = r->kind == REDUCE_WHOLE ? (nest->main.inner + NEST_CHUNK - 1) / NEST_CHUNK : r->n_later;
        strbuf_addf(p->out,
                    "%s v%u = ptc_%s_identity_%c();\nfor (int i = threadIdx.x; i < %lld; i += blockDim.x)\n"
                    "    v%u = ptc_%s2_%c(v%u, ((const %s *)(workspace + %lld))[i]);\n",
                    t, k, reduce_names[r->code], family(r), (long long)n, k, reduce_names[r->code], family(r), k, t,
                    (long long)r->workspace_offset);
        const char *total = arena_printf(p->arena, "ptc_block_%s_%c(v%u)", reduce_names[r->code], family(r), k);
        if (r->dtype == DT_BF16)
            total = arena_printf(p->arena, "ptc_bf16_round(%s)", total);
        strbuf_addf(p->out, "const %s q%u = %s;\n", t, k, total);
    }
    nest_print_body(&np);
    strbuf_add(p->out, "if (threadIdx.x != 0)\n    return;\nconst ptc_index f = 0;\n(void)f;\n");
    strbuf_add(p->out, strbuf_text(&np.task));
    strbuf_add(p->out, strbuf_text(&np.body));
    strbuf_add(p->out, "}\n\n");
}

static void print_loop_kernel(Printer *p)
{
    NestPrinter np = nest_printer_make(p->arena, p->nest, &p->nest->main, true);
    p->kernel->workspace_bytes = p->nest->workspace_bytes;
    if (np.flat)
        print_flat(p, &np);
    else
        print_rows(p, &np);
    if (p->nest->has_final[NEST_COLUMNS])
        print_final_columns(p);
    if (p->nest->has_final[NEST_WHOLE])
        print_final_whole(p);
}

void codegen_emit_cuda(StrBuf *buf, const IrModule *m, CodegenCudaTable *out_table)
{
    Arena *arena = buf->arena;
    uint32_t n_kernels = 0;
    IR_FOR_FUNCS(m, func)
    n_kernels += ir_func(m, func)->kind == IR_FUNC_KERNEL;
    CodegenCudaKernel *kernels = ARENA_ARRAY(arena, CodegenCudaKernel, n_kernels);
    strbuf_add(buf, codegen_text_prelude_cuda);
    strbuf_add(buf, codegen_text_random);
    scalar_print_ops(buf, m);
    template_print_cuda_helpers(buf, m);
    strbuf_add(buf, "\n");
    uint32_t number = 0;
    StrBuf text = strbuf_make(arena);
    IR_FOR_FUNCS(m, func)
    {
        if (ir_func(m, func)->kind != IR_FUNC_KERNEL)
            continue;
        CodegenCudaKernel *kernel = &kernels[number];
        kernel->name = arena_strdup(arena, ir_func(m, func)->name);
        IR_FOR_OPS(m, func, op)
        {
            kernel->n_args += ir_op(m, op)->code == IR_arg;
            kernel->n_outputs += ir_op(m, op)->code == IR_output;
        }
        strbuf_addf(&text, "// %s\n", kernel->name);
        if (template_find(m, func))
            template_print_cuda(&text, m, func, number, kernel);
        else
        {
            const char *why;
            Printer p = {&text, arena, nest_build(arena, m, func, &why), kernel, number};
            if (!p.nest)
                BUG("kernel %s: %s", kernel->name, why);
            print_loop_kernel(&p);
        }
        number++;
    }
    nest_print_indented(buf, strbuf_text(&text));
    *out_table = (CodegenCudaTable){n_kernels, kernels};
}
