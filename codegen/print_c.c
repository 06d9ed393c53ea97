/* C text: one function per stage of a loop kernel, wrappers around the templates, and the kernel table. */
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
    uint32_t number; /* of the kernel */
} Printer;

static int64_t slot_bytes(int64_t n)
{
    return (n * 4 + 63) / 64 * 64;
}

static const char *const reduce_names[IR_CODE_COUNT] = {
    [IR_reduce_sum] = "sum", [IR_reduce_max] = "max", [IR_reduce_min] = "min"};

static char family(const NestReduce *r)
{
    return dtype_is_float(r->dtype) ? 'f' : 'i';
}

static void print_head(Printer *p, uint32_t stage)
{
    strbuf_addf(p->out, "static void k%u_%u(void *const *bufs, void *workspace, void *scratch, int64_t task)\n{\n",
                p->number, stage);
    nest_print_pointers(p->out, p->nest);
    strbuf_add(p->out, "(void)workspace, (void)scratch, (void)task;\n");
}

/* Rows of scratch; their element type is that of the value. */
static void print_slots(Printer *p, const NestStage *stage, int64_t row_elems)
{
    for (NestInst i = 1; i < stage->insts.len; i++)
    {
        const NestInstData *data = &stage->insts.data[i];
        const char *type = nest_register_type(data->dtype);
        if (data->slot >= 0)
            strbuf_addf(p->out, "%s *const s%d = (%s *)((char *)scratch + %lld);\n", type, data->slot, type,
                        (long long)(data->slot * slot_bytes(row_elems)));
    }
}

/* Elements lo..hi-1 of a flat stage. */
static void print_flat(Printer *p, NestPrinter *np)
{
    const NestStage *stage = np->stage;
    const char *type = np->inner < INT32_MAX - 2 * NEST_CHUNK ? "int32_t" : "int64_t";
    bool whole = false;
    for (uint32_t k = 0; k < p->nest->reduces.len; k++)
        whole |= p->nest->reduces.data[k].kind == REDUCE_WHOLE;
    strbuf_addf(p->out, "const %s lo = (%s)(task * %d), hi = lo + %d < %lld ? lo + %d : %lld;\n", type, type,
                NEST_CHUNK, NEST_CHUNK, (long long)np->inner, NEST_CHUNK, (long long)np->inner);
    print_slots(p, stage, NEST_CHUNK);
    nest_print_body(np);
    strbuf_add(p->out, strbuf_text(&np->task));
    /* The whole chunk is one block: slots hold a chunk. */
    strbuf_addf(p->out, "const %s block = lo;\n(void)block;\n", type);
    if (np->body.len)
    {
        strbuf_addf(p->out, "PTC_SIMD\nfor (%s f = lo; f < hi; f++)\n{\n", type);
        strbuf_add(p->out, strbuf_text(&np->body));
        strbuf_add(p->out, "}\n");
    }
    for (uint32_t k = 0; k < p->nest->reduces.len && whole; k++)
    {
        const NestReduce *r = &p->nest->reduces.data[k];
        const NestInstData *source = &stage->insts.data[r->source];
        const char *t = nest_register_type(r->dtype);
        strbuf_addf(p->out, "((%s *)((char *)workspace + %lld))[task] = ptc_%s_%c(", t, (long long)r->workspace_offset,
                    reduce_names[r->code], family(r));
        if (nest_reduce_is_direct(stage, r))
            strbuf_addf(p->out, "a%u + lo", source->arg);
        else
            strbuf_addf(p->out, "s%d", source->slot);
        strbuf_add(p->out, ", hi - lo);\n");
    }
}

/* Rows lo..hi-1, with partials of column reductions. */
static void print_rows(Printer *p, NestPrinter *np)
{
    const Nest *nest = p->nest;
    int64_t chunk = np->stage->flat ? nest_chunk_rows(np->inner) : nest->chunk_rows;
    if (nest->groups > 1)
        strbuf_addf(p->out,
                    "const int64_t group = task / %lld, end = (group + 1) * %lld;\n"
                    "const int64_t lo = group * %lld + task %% %lld * %lld;\n",
                    (long long)nest_chunks_per_group(nest), (long long)(np->rows / nest->groups),
                    (long long)(np->rows / nest->groups), (long long)nest_chunks_per_group(nest), (long long)chunk);
    else
        strbuf_addf(p->out, "const int64_t end = %lld, lo = task * %lld;\n", (long long)np->rows, (long long)chunk);
    strbuf_addf(p->out, "const int64_t hi = lo + %lld < end ? lo + %lld : end;\n", (long long)chunk, (long long)chunk);
    print_slots(p, np->stage, np->inner);
    for (uint32_t k = 0; k < nest->reduces.len; k++)
    {
        const NestReduce *r = &nest->reduces.data[k];
        const char *t = nest_register_type(r->dtype);
        if (r->kind == REDUCE_COLUMN)
            strbuf_addf(
                p->out,
                "%s *const c%u = (%s *)((char *)workspace + %lld) + task * %lld;\nptc_%s_start_%c(c%u, %lld);\n", t, k,
                t, (long long)r->workspace_offset, (long long)np->inner, reduce_names[r->code], family(r), k,
                (long long)np->inner);
        else if (r->kind == REDUCE_WHOLE_LATER)
            strbuf_addf(p->out, "%s *const w%u = (%s *)((char *)workspace + %lld);\n", t, k, t,
                        (long long)r->workspace_offset);
    }
    nest_print_body(np);
    strbuf_add(p->out, strbuf_text(&np->task));
    strbuf_add(p->out, "for (int64_t o = lo; o < hi; o++)\n{\n");
    strbuf_add(p->out, strbuf_text(&np->body));
    strbuf_add(p->out, "}\n");
}

enum
{
    FINAL_COLUMNS = 512 /* of a task of stage 1 */
};

static int64_t final_segments(const Nest *nest)
{
    return (nest->main.inner + FINAL_COLUMNS - 1) / FINAL_COLUMNS;
}

/* A final stage: totals, then what depends on them. */
static void print_final(Printer *p, int which, uint32_t phase)
{
    const Nest *nest = p->nest;
    NestPrinter np = nest_printer_make(p->arena, nest, &nest->final[which], false);
    print_head(p, phase);
    if (which == NEST_COLUMNS)
    {
        strbuf_addf(p->out,
                    "const int64_t o = task / %lld;\nconst int32_t lo = (int32_t)(task %% %lld * %d), hi = lo + %d < "
                    "%lld ? lo + "
                    "%d : %lld;\n(void)o;\n",
                    (long long)final_segments(nest), (long long)final_segments(nest), FINAL_COLUMNS, FINAL_COLUMNS,
                    (long long)np.inner, FINAL_COLUMNS, (long long)np.inner);
    }
    for (uint32_t k = 0; k < nest->reduces.len; k++)
    {
        const NestReduce *r = &nest->reduces.data[k];
        const char *t = nest_register_type(r->dtype), *name = reduce_names[r->code];
        if (r->kind == REDUCE_ROW || (r->kind == REDUCE_COLUMN) != (which == NEST_COLUMNS))
            continue;
        const char *from =
            arena_printf(p->arena, "(const %s *)((const char *)workspace + %lld)", t, (long long)r->workspace_offset);
        if (r->kind == REDUCE_COLUMN)
        {
            int64_t chunks = nest_chunks_per_group(nest);
            strbuf_addf(p->out,
                        "%s *const q%u = (%s *)scratch + %lld;\nptc_%s_columns_%c(q%u + lo, %s + o * %lld + lo, "
                        "%lld, %lld, hi - lo);\n",
                        t, k, t, (long long)(k * (slot_bytes(np.inner) / 4)), name, family(r), k, from,
                        (long long)(chunks * np.inner), (long long)chunks, (long long)np.inner);
            if (r->dtype == DT_BF16)
                strbuf_addf(p->out, "for (int32_t i = lo; i < hi; i++)\n    q%u[i] = ptc_bf16_round(q%u[i]);\n", k, k);
            continue;
        }
        if (r->kind == REDUCE_WHOLE)
            strbuf_addf(p->out, "%s q%u[1] = {ptc_%s_%c(%s, %lld)};\n", t, k, name, family(r), from,
                        (long long)((nest->main.inner + NEST_CHUNK - 1) / NEST_CHUNK));
        else
            strbuf_addf(p->out, "%s q%u[1] = {ptc_%s_chunks_%c(%s, %lld)};\n", t, k, name, family(r), from,
                        (long long)r->n_later);
        if (r->dtype == DT_BF16)
            strbuf_addf(p->out, "q%u[0] = ptc_bf16_round(q%u[0]);\n", k, k);
    }
    nest_print_body(&np);
    strbuf_add(p->out, strbuf_text(&np.task));
    if (np.flat)
        strbuf_add(p->out, "const int32_t f = 0;\n(void)f;\n");
    strbuf_add(p->out, strbuf_text(&np.body));
    strbuf_add(p->out, "}\n\n");
}

/* What the runtime must provide for a loop kernel. */
static CodegenKernelInfo nest_info(Arena *arena, const Nest *nest)
{
    CodegenKernelInfo info = {.n_phases = 1, .workspace_bytes = nest->workspace_bytes};
    NestPrinter np = nest_printer_make(arena, nest, &nest->main, false);
    if (np.flat)
        info.n_tasks[0] = (np.inner + NEST_CHUNK - 1) / NEST_CHUNK;
    else if (nest->main.flat)
        info.n_tasks[0] = (np.rows + nest_chunk_rows(np.inner) - 1) / nest_chunk_rows(np.inner);
    else
        info.n_tasks[0] = nest->groups * nest_chunks_per_group(nest);
    info.scratch_bytes = nest->main.n_slots * slot_bytes(np.flat ? NEST_CHUNK : np.inner);
    if (nest->has_final[NEST_COLUMNS])
    {
        info.n_tasks[info.n_phases++] = nest->groups * final_segments(nest);
        int64_t totals = nest->reduces.len * slot_bytes(nest->main.inner);
        if (totals > info.scratch_bytes)
            info.scratch_bytes = totals;
    }
    if (nest->has_final[NEST_WHOLE])
        info.n_tasks[info.n_phases++] = 1;
    return info;
}

static void print_loop_kernel(Printer *p)
{
    NestPrinter np = nest_printer_make(p->arena, p->nest, &p->nest->main, false);
    print_head(p, 0);
    if (np.flat)
        print_flat(p, &np);
    else
        print_rows(p, &np);
    strbuf_add(p->out, "}\n\n");
    uint32_t phase = 1;
    for (int which = 0; which < NEST_FINALS; which++)
        if (p->nest->has_final[which])
            print_final(p, which, phase++);
}

bool codegen_kernel_supported(Arena *scratch, const IrModule *m, IrFunc func, const char **out_why)
{
    const char *why = NULL;
    const bool ok = template_find(m, func) ? template_supported(scratch, m, func, &why)
                                           : nest_build(scratch, m, func, &why) != NULL;
    if (!ok && out_why)
        *out_why = why;
    return ok;
}

bool codegen_kernel_may_alias(Arena *scratch, const IrModule *m, IrFunc func, uint32_t arg, uint32_t output)
{
    const char *why;
    if (template_find(m, func))
        return output == 0 && template_may_alias(m, func, arg);
    const Nest *nest = nest_build(scratch, m, func, &why);
    ENSURE(nest);
    if (nest->reduces.len || nest->arg_types[arg].dtype != nest->output_types[output].dtype ||
        ir_type_n_elems(&nest->arg_types[arg]) != nest->main.rows * nest->main.inner)
        return false;
    const Idx same = idx_digit((IdxTable *)&nest->main.idx, 1, nest->main.rows * nest->main.inner);
    for (NestInst i = 1; i < nest->main.insts.len; i++)
    {
        const NestInstData *data = &nest->main.insts.data[i];
        if (data->kind == INST_LOAD && data->arg == arg && data->index != same)
            return false;
    }
    return true;
}

CodegenKernelInfo codegen_kernel_info(Arena *scratch, const IrModule *m, IrFunc func)
{
    if (template_find(m, func))
        return template_info(m, func);
    const char *why;
    const Nest *nest = nest_build(scratch, m, func, &why);
    if (!nest)
        BUG("kernel %s: %s", ir_func(m, func)->name, why);
    return nest_info(scratch, nest);
}

void codegen_emit_c(StrBuf *buf, const IrModule *m)
{
    Arena *arena = buf->arena;
    StrBuf table = strbuf_make(arena), kernels = strbuf_make(arena);
    uint32_t n_kernels = 0;
    strbuf_add(buf, codegen_text_prelude_c);
    strbuf_add(buf, codegen_text_math_c);
    strbuf_add(buf, codegen_text_random);
    scalar_print_ops(buf, m);
    template_print_c_helpers(buf, m);
    strbuf_add(buf, "\n");
    IR_FOR_FUNCS(m, func)
    {
        if (ir_func(m, func)->kind != IR_FUNC_KERNEL)
            continue;
        const char *why;
        strbuf_addf(&kernels, "/* %s */\n", ir_func(m, func)->name);
        if (template_find(m, func))
            template_print_c(&kernels, m, func, n_kernels);
        else
        {
            Printer p = {
                .out = &kernels, .arena = arena, .nest = nest_build(arena, m, func, &why), .number = n_kernels};
            if (!p.nest)
                BUG("kernel %s: %s", ir_func(m, func)->name, why);
            print_loop_kernel(&p);
        }
        CodegenKernelInfo info = codegen_kernel_info(arena, m, func);
        strbuf_add(&table, "    {");
        strbuf_add_quoted(&table, ir_func(m, func)->name);
        strbuf_addf(&table, ", %u, {", info.n_phases);
        for (uint32_t i = 0; i < info.n_phases; i++)
            strbuf_addf(&table, "%s{k%u_%u, %lld}", i ? ", " : "", n_kernels, i, (long long)info.n_tasks[i]);
        strbuf_addf(&table, "}, %lld, %lld},\n", (long long)info.workspace_bytes, (long long)info.scratch_bytes);
        n_kernels++;
    }
    nest_print_indented(buf, strbuf_text(&kernels));
    strbuf_add(buf, "static const PtcKernel kernels[] = {\n");
    strbuf_add(buf, n_kernels ? strbuf_text(&table) : "    {0}\n");
    strbuf_addf(
        buf,
        "};\n__attribute__((visibility(\"default\"))) const PtcKernelTable ptc_kernel_table = {%u, %u, kernels};\n",
        PTC_KERNEL_ABI_VERSION, n_kernels);
}
