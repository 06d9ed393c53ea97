/* CUDA C text: one extern "C" kernel per stage. What a thread of the main stage has is decided in codegen/cuda_shape.c;
 * partial sums of columns lie in the workspace, a row of them for each part of the rows, and are added in order by the
 * threads of a block that share a few columns. */
#include "base/bug.h"
#include "codegen/codegen.h"
#include "codegen/nest_cuda.h"
#include "codegen/scalar.h"
#include "codegen/template.h"

#include <string.h>

typedef struct
{
    StrBuf *out;
    Arena *arena;
    const Nest *nest;
    CodegenCudaKernel *kernel;
    uint32_t number;
    bool is_update; /* a step function calls it in its last phase */
    CudaShape shape;
    int64_t *partials;  /* by reduction: offset in the workspace */
    const char *family; /* the text that kernels of a family have in common; NULL: none */
} Printer;

enum
{
    FINAL_BLOCK = 256,
    MAX_SHARERS = 32,  /* of a column; its neighbours are a sector of memory then */
    SHARER_PARTS = 4,  /* that a sharer should have at least */
    SHARER_LOADS = 64, /* of a sharer, under way at a time */
    MAX_SMEM_BYTES = 40960,
    MAX_WIDTH = 65536 /* more than positions go beyond the domain */
};

static const char *identity(Printer *p, const NestReduce *r)
{
    return arena_printf(p->arena, "ptc_%s_identity_%c()", nest_cuda_reduce_names[r->code], nest_cuda_family(r));
}

static void open_kernel(Printer *p, int64_t grid, uint32_t block, int64_t domain)
{
    CodegenCudaKernel *kernel = p->kernel;
    const char *symbol = arena_printf(p->arena, "k%u_%u", p->number, kernel->n_launches);
    kernel->launch[kernel->n_launches++] =
        (CodegenCudaLaunch){.symbol = symbol, .grid = (uint32_t)grid, .block = block};
    strbuf_addf(p->out, "extern \"C\" __global__ void __launch_bounds__(%u) %s(", block, symbol);
    nest_print_parameters(p->out, p->nest);
    strbuf_addf(p->out, ")\n{\ntypedef %s ptc_index;\n", domain < INT32_MAX - MAX_WIDTH ? "int" : "int64_t");
}

/* Where `stream` is not 0, the launch is that of so many calls, whose table takes the workspace's place. */
static void print_call(Printer *p, const NestPrinter *np)
{
    const Nest *nest = p->nest;
    const uint32_t n = nest->n_args + nest->n_outputs;
    strbuf_addf(p->out,
                "ptc_index n = %lld;\nuint32_t block = blockIdx.x;\nif (stream)\n{\n"
                "const PtcCall<%u> *const call = ptc_call_of((const PtcCall<%u> *)workspace, stream, &block);\n"
                "n = (ptc_index)call->n;\n",
                (long long)np->inner, n, n);
    for (uint32_t i = 0; i < n; i++)
        strbuf_addf(p->out, "ptc_call_take(%c%u, call->at[%u]);\n", i < nest->n_args ? 'a' : 'z',
                    i < nest->n_args ? i : i - nest->n_args, i);
    strbuf_add(p->out, "}\n");
}

/* Kernels whose texts differ in the number of elements alone are a family. */
static void name_family(Printer *p, const NestPrinter *np)
{
    StrBuf text = strbuf_make(p->arena);
    nest_print_parameters(&text, p->nest);
    strbuf_addf(&text, "\n%u %lld\n", p->shape.block, (long long)p->shape.width);
    strbuf_add(&text, strbuf_text(&np->task));
    strbuf_add(&text, strbuf_text(&np->body));
    p->family = strbuf_text(&text);
    p->kernel->n_elems = np->inner;
}

static void print_flat(Printer *p, NestPrinter *np)
{
    const Nest *nest = p->nest;
    const CudaShape *shape = &p->shape;
    const char *block = shape->calls ? "block" : "blockIdx.x";
    open_kernel(p, shape->grid, shape->block, np->inner);
    nest_cuda_body(np);
    if (shape->calls)
    {
        print_call(p, np);
        name_family(p, np);
    }
    strbuf_addf(p->out, "const int lane = threadIdx.x;\nconst bool first = lane == 0 && %s == 0;\n(void)first;\n",
                block);
    strbuf_add(p->out, strbuf_text(&np->task));
    if (shape->kind == SHAPE_FLAT)
    {
        strbuf_addf(p->out, "const ptc_index origin = (ptc_index)%s * %lld;\n", block, (long long)shape->width);
        strbuf_add(p->out, strbuf_text(&np->body));
        strbuf_add(p->out, "}\n\n");
        return;
    }
    for (uint32_t k = 0; k < nest->reduces.len; k++)
        strbuf_addf(p->out, "%s v%u = %s;\n", nest_register_type(nest->reduces.data[k].dtype), k,
                    identity(p, &nest->reduces.data[k]));
    strbuf_addf(p->out,
                "const ptc_index lo = (ptc_index)blockIdx.x * %lld, hi = lo + %lld < %lld ? lo + %lld : %lld;\n"
                "for (ptc_index origin = lo; origin < hi; origin += %lld)\n{\n",
                (long long)shape->chunk, (long long)shape->chunk, (long long)np->inner, (long long)shape->chunk,
                (long long)np->inner, (long long)shape->width);
    strbuf_add(p->out, strbuf_text(&np->body));
    strbuf_add(p->out, "}\n");
    for (uint32_t k = 0; k < nest->reduces.len; k++)
    {
        const NestReduce *r = &nest->reduces.data[k];
        const char *t = nest_register_type(r->dtype);
        strbuf_addf(p->out,
                    "const %s total%u = ptc_block_%s_%c(v%u);\nif (threadIdx.x == 0)\n    ((%s *)(workspace + "
                    "%lld))[blockIdx.x] = total%u;\n",
                    t, k, nest_cuda_reduce_names[r->code], nest_cuda_family(r), k, t, (long long)p->partials[k], k);
    }
    strbuf_add(p->out, "}\n\n");
}

/* Slots of long rows: in shared memory when they fit, else in the workspace, a part for each block. */
static void print_long_slots(Printer *p, const NestPrinter *np)
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
        p->kernel->workspace_bytes += row_bytes * n_slots * p->shape.grid;
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

/* Where a block's part of the column sums lies: for long rows they are there from the start. */
static void print_column_parts(Printer *p, const NestPrinter *np, bool end)
{
    for (uint32_t k = 0; k < p->nest->reduces.len; k++)
    {
        const NestReduce *r = &p->nest->reduces.data[k];
        const char *t = nest_register_type(r->dtype);
        if (r->kind != REDUCE_COLUMN)
            continue;
        strbuf_addf(p->out, "%s *const %s%u = (%s *)(workspace + %lld) + part * (int64_t)%lld;\n", t, end ? "to" : "c",
                    k, t, (long long)p->partials[k], (long long)np->inner);
        if (!end)
            strbuf_addf(p->out, "for (ptc_index origin = 0; origin < %lld; origin += %lld)\n{\n", (long long)np->inner,
                        (long long)p->shape.width);
        nest_cuda_open_steps(p->out, np);
        if (end)
            strbuf_addf(p->out, "ptc_store_vector<%u>(to%u + iv, c%u + s * %u);\n", p->shape.vector, k, k,
                        p->shape.vector);
        else
            strbuf_addf(p->out, "PTC_UNROLL\nfor (int v = 0; v < %u; v++)\n    c%u[iv + v] = %s;\n", p->shape.vector, k,
                        identity(p, r));
        nest_cuda_close_steps(p->out, np);
        if (!end)
            strbuf_add(p->out, "}\n");
    }
}

/* The block's rows: lo..hi-1 of a group, with column sums; or one at a time. */
static void print_row_loop(Printer *p, const NestPrinter *np)
{
    const CudaShape *shape = &p->shape;
    const long long group_rows = (long long)(np->rows / p->nest->groups);
    if (shape->kind == SHAPE_ROWS)
    {
        strbuf_addf(p->out, "const ptc_index o = (ptc_index)blockIdx.x * %u + threadIdx.x / %u;\n", shape->rows,
                    shape->lanes);
        if (np->rows % shape->rows)
            strbuf_addf(p->out, "if (o >= %lld)\n    return;\n", (long long)np->rows);
        strbuf_add(p->out, "{\n");
        return;
    }
    if (!p->nest->has_final[NEST_COLUMNS])
    {
        strbuf_addf(p->out,
                    "for (ptc_index o = blockIdx.x; o < %lld; o += gridDim.x)\n{\nconst int turn = o / gridDim.x & 1;\n"
                    "(void)turn;\n",
                    (long long)np->rows);
        return;
    }
    strbuf_addf(p->out,
                "const ptc_index group = part / %lld, end = (group + 1) * %lld;\n"
                "const ptc_index lo = group * %lld + part %% %lld * %lld, hi = lo + %lld < end ? lo + %lld : end;\n",
                (long long)shape->chunks, group_rows, group_rows, (long long)shape->chunks, (long long)shape->chunk,
                (long long)shape->chunk, (long long)shape->chunk);
    if (np->ahead.len)
        strbuf_addf(p->out, "{\nconst ptc_index o = lo;\n%s}\n", strbuf_text(&np->ahead));
    if (shape->unroll > 1)
        strbuf_addf(p->out, "_Pragma(\"unroll %u\")\n", shape->unroll);
    strbuf_add(p->out, "for (ptc_index o = lo; o < hi; o++)\n{\nconst int turn = (o - lo) & 1;\n(void)turn;\n");
}

static void print_rows(Printer *p, NestPrinter *np)
{
    const Nest *nest = p->nest;
    const CudaShape *shape = &p->shape;
    const bool columns = nest->has_final[NEST_COLUMNS], kept = shape->kind != SHAPE_LONG_ROWS;
    open_kernel(p, shape->grid, shape->block, np->rows * np->inner);
    strbuf_addf(p->out, shape->rows > 1 ? "const int lane = threadIdx.x %% %u;\n" : "const int lane = threadIdx.x;\n",
                shape->lanes);
    if (shape->splits > 1)
        strbuf_addf(p->out,
                    "const ptc_index part = blockIdx.x / %lld, origin = blockIdx.x %% %lld * %lld;\n"
                    "const bool first = lane == 0 && origin == 0;\n",
                    (long long)shape->splits, (long long)shape->splits, (long long)shape->width);
    else
        strbuf_addf(p->out, "%sconst bool first = lane == 0;\n", columns ? "const ptc_index part = blockIdx.x;\n" : "");
    strbuf_add(p->out, "(void)first;\n");
    if (shape->leaves)
        strbuf_addf(p->out, "if (%slane * %u >= %lld)\n    return;\n", shape->splits > 1 ? "origin + " : "",
                    shape->vector, (long long)np->inner);
    for (uint32_t k = 0; k < nest->reduces.len; k++)
        if (nest->reduces.data[k].kind == REDUCE_WHOLE_LATER)
            strbuf_addf(p->out, "%s *const w%u = (%s *)(workspace + %lld);\n",
                        nest_register_type(nest->reduces.data[k].dtype), k,
                        nest_register_type(nest->reduces.data[k].dtype), (long long)p->partials[k]);
    if (!kept)
        print_long_slots(p, np);
    if (!kept)
        print_column_parts(p, np, false);
    nest_cuda_variables(p->out, np);
    nest_cuda_body(np);
    strbuf_add(p->out, strbuf_text(&np->task));
    print_row_loop(p, np);
    strbuf_add(p->out, strbuf_text(&np->body));
    strbuf_add(p->out, "}\n");
    if (kept)
        print_column_parts(p, np, true);
    strbuf_add(p->out, "}\n\n");
}

/* Threads that share a column of CHUNKS parts; a power of two. */
static int sharers_of(int64_t chunks)
{
    int sharers = 1;
    while (sharers < MAX_SHARERS && chunks > (int64_t)sharers * SHARER_PARTS)
        sharers *= 2;
    return sharers;
}

/* A sharer loads as many parts of all sums as registers hold, then adds them in order. */
static void print_parts(Printer *p, const NestPrinter *np, int sharers)
{
    const long long total = np->rows * np->inner, chunks = p->shape.chunks, inner = np->inner;
    StrBuf loads = strbuf_make(p->arena), sums = strbuf_make(p->arena);
    long long n_sums = 0;
    for (uint32_t k = 0; k < p->nest->reduces.len; k++)
        n_sums += p->nest->reduces.data[k].kind == REDUCE_COLUMN;
    const long long most = n_sums < SHARER_LOADS ? SHARER_LOADS / n_sums : 1, all = (chunks + sharers - 1) / sharers;
    const long long together = all < most ? all : most;
    for (uint32_t k = 0; k < p->nest->reduces.len; k++)
    {
        const NestReduce *r = &p->nest->reduces.data[k];
        const char *t = nest_register_type(r->dtype);
        if (r->kind != REDUCE_COLUMN)
            continue;
        strbuf_addf(p->out, "%s q%u = %s;\nconst %s *const c%u = (const %s *)(workspace + %lld) + o * %lld + i0;\n", t,
                    k, identity(p, r), t, k, t, (long long)p->partials[k], chunks * inner);
        strbuf_addf(&loads, "%s x%u[%lld];\n", t, k, together);
        strbuf_addf(&sums, "q%u = ptc_%s2_%c(q%u, x%u[j]);\n", k, nest_cuda_reduce_names[r->code], nest_cuda_family(r),
                    k, k);
    }
    strbuf_addf(&loads, "PTC_UNROLL\nfor (int j = 0; j < %lld; j++)\n{\nconst ptc_index c = first + j * %d;\n",
                together, sharers);
    for (uint32_t k = 0; k < p->nest->reduces.len; k++)
        if (p->nest->reduces.data[k].kind == REDUCE_COLUMN)
            strbuf_addf(&loads, "x%u[j] = c < %lld ? c%u[c * %lld] : %s;\n", k, chunks, k, inner,
                        identity(p, &p->nest->reduces.data[k]));
    strbuf_addf(p->out,
                "if (column < %lld)\n{\nfor (ptc_index first = sharer; first < %lld; first += %lld)\n{\n%s}\n"
                "PTC_UNROLL\nfor (int j = 0; j < %lld; j++)\n{\n%s}\n}\n}\n",
                total, chunks, together * sharers, strbuf_text(&loads), together, strbuf_text(&sums));
}

/* Every sharer adds its parts, the first one what they have. */
static void print_column_sums(Printer *p, const NestPrinter *np, int sharers)
{
    StrBuf totals = strbuf_make(p->arena);
    print_parts(p, np, sharers);
    for (uint32_t k = 0; k < p->nest->reduces.len; k++)
    {
        const NestReduce *r = &p->nest->reduces.data[k];
        const char *t = nest_register_type(r->dtype);
        if (r->kind != REDUCE_COLUMN)
            continue;
        if (sharers > 1)
        {
            strbuf_addf(p->out, "__shared__ %s part%u[%d];\npart%u[threadIdx.x] = q%u;\n", t, k, FINAL_BLOCK, k, k);
            strbuf_addf(&totals,
                        "PTC_UNROLL\nfor (int i = 1; i < %d; i++)\n"
                        "    q%u = ptc_%s2_%c(q%u, part%u[i * %d + threadIdx.x]);\n",
                        sharers, k, nest_cuda_reduce_names[r->code], nest_cuda_family(r), k, k, FINAL_BLOCK / sharers);
        }
        if (r->dtype == DT_BF16)
            strbuf_addf(&totals, "q%u = ptc_bf16_round(q%u);\n", k, k);
    }
    if (sharers > 1)
        strbuf_add(p->out, "__syncthreads();\n");
    strbuf_addf(p->out, "if (sharer > 0 || column >= %lld)\n    return;\n", (long long)(np->rows * np->inner));
    strbuf_add(p->out, strbuf_text(&totals));
}

static void print_final_columns(Printer *p)
{
    const Nest *nest = p->nest;
    NestPrinter np = nest_printer_make(p->arena, nest, &nest->final[NEST_COLUMNS], true);
    const int sharers = sharers_of(p->shape.chunks), columns = FINAL_BLOCK / sharers;
    open_kernel(p, (np.rows * np.inner + columns - 1) / columns, FINAL_BLOCK, nest->main.rows * nest->main.inner);
    strbuf_addf(p->out,
                "const int sharer = threadIdx.x / %d;\n"
                "const ptc_index column = (ptc_index)blockIdx.x * %d + threadIdx.x %% %d;\n"
                "const ptc_index o = column / %lld, i0 = column %% %lld;\n(void)o, (void)i0;\n",
                columns, columns, columns, (long long)np.inner, (long long)np.inner);
    print_column_sums(p, &np, sharers);
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
    open_kernel(p, 1, FINAL_BLOCK, 1);
    for (uint32_t k = 0; k < nest->reduces.len; k++)
    {
        const NestReduce *r = &nest->reduces.data[k];
        const char *t = nest_register_type(r->dtype);
        if (r->kind != REDUCE_WHOLE && r->kind != REDUCE_WHOLE_LATER)
            continue;
        int64_t n = r->kind == REDUCE_WHOLE ? p->shape.chunks : r->n_later;
        strbuf_addf(p->out,
                    "%s v%u = ptc_%s_identity_%c();\nfor (int i = threadIdx.x; i < %lld; i += blockDim.x)\n"
                    "    v%u = ptc_%s2_%c(v%u, ((const %s *)(workspace + %lld))[i]);\n",
                    t, k, nest_cuda_reduce_names[r->code], nest_cuda_family(r), (long long)n, k,
                    nest_cuda_reduce_names[r->code], nest_cuda_family(r), k, t, (long long)p->partials[k]);
        const char *total =
            arena_printf(p->arena, "ptc_block_%s_%c(v%u)", nest_cuda_reduce_names[r->code], nest_cuda_family(r), k);
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

static void place_partials(Printer *p)
{
    const Nest *nest = p->nest;
    p->partials = ARENA_ARRAY(p->arena, int64_t, nest->reduces.len);
    for (uint32_t k = 0; k < nest->reduces.len; k++)
    {
        const NestReduce *r = &nest->reduces.data[k];
        int64_t n = 0;
        if (r->kind == REDUCE_COLUMN)
            n = nest->groups * p->shape.chunks * nest->main.inner;
        else if (r->kind == REDUCE_WHOLE)
            n = p->shape.chunks;
        else if (r->kind == REDUCE_WHOLE_LATER)
            n = r->n_later;
        p->partials[k] = p->kernel->workspace_bytes;
        p->kernel->workspace_bytes += (n * 4 + 63) / 64 * 64;
    }
}

static void print_loop_kernel(Printer *p)
{
    NestPrinter np = nest_printer_make(p->arena, p->nest, &p->nest->main, true);
    p->shape = cuda_shape_make(p->nest, p->is_update);
    np.shape = &p->shape;
    place_partials(p);
    if (np.flat)
        print_flat(p, &np);
    else
        print_rows(p, &np);
    if (p->nest->has_final[NEST_COLUMNS])
        print_final_columns(p);
    if (p->nest->has_final[NEST_WHOLE])
        print_final_whole(p);
}

/* By function: kernels that update params. */
static bool *find_updates(Arena *arena, const IrModule *m)
{
    bool *updates = ARENA_ARRAY(arena, bool, m->funcs.len);
    IR_FOR_FUNCS(m, func)
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData *data = ir_op(m, op);
        if (data->code == IR_call && data->phase == IR_PHASE_OPTIMIZER)
            updates[ir_func_find(m, ir_attrs_str(&data->attrs, IR_ATTR_fn))] = true;
    }
    return updates;
}

/* 1 + the number of the first kernel with the same text, 0 where there is none. */
static uint32_t family_of(const char *const *families, uint32_t number)
{
    for (uint32_t k = 0; k <= number && families[number]; k++)
        if (families[k] && strcmp(families[k], families[number]) == 0)
            return k + 1;
    return 0;
}

void codegen_emit_cuda(StrBuf *buf, const IrModule *m, CodegenCudaTable *out_table)
{
    Arena *arena = buf->arena;
    uint32_t n_kernels = 0;
    IR_FOR_FUNCS(m, func)
    n_kernels += ir_func(m, func)->kind == IR_FUNC_KERNEL;
    CodegenCudaKernel *kernels = ARENA_ARRAY(arena, CodegenCudaKernel, n_kernels);
    const bool *updates = find_updates(arena, m);
    const char **families = ARENA_ARRAY(arena, const char *, n_kernels); /* by kernel */
    strbuf_add(buf, codegen_text_prelude_cuda);
    strbuf_add(buf, codegen_text_random);
    strbuf_add(buf, codegen_text_vector_cuda);
    strbuf_add(buf, codegen_text_calls_cuda);
    scalar_print_ops(buf, m);
    template_print_cuda_helpers(buf, m);
    strbuf_add(buf, "\n");
    uint32_t number = 0;
    IR_FOR_FUNCS(m, func)
    {
        if (ir_func(m, func)->kind != IR_FUNC_KERNEL)
            continue;
        StrBuf text = strbuf_make(arena);
        CodegenCudaKernel *kernel = &kernels[number];
        kernel->text_at = buf->len;
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
            Printer p = {.out = &text,
                         .arena = arena,
                         .nest = nest_build(arena, m, func, &why),
                         .kernel = kernel,
                         .number = number,
                         .is_update = updates[func]};
            if (!p.nest)
                BUG("kernel %s: %s", kernel->name, why);
            print_loop_kernel(&p);
            families[number] = p.family;
        }
        nest_print_indented(buf, strbuf_text(&text));
        kernel->family = family_of(families, number++);
    }
    *out_table = (CodegenCudaTable){n_kernels, kernels};
}
