/* The table of templates: what shapes each takes, how its work is cut in tasks, and its C wrapper. */
#include "codegen/nest_print.h"
#include "codegen/scalar.h"
#include "codegen/template_use.h"

enum
{
    GATHER_ELEMS = 32768, /* of a task */
    SCATTER_COLUMNS = 64,
    CUDA_WARPS = 8,      /* of a block that gathers or scatters */
    SCATTER_CHUNK = 128, /* PTC_SCATTER_CHUNK of text/gather_cuda.h */
    SCATTER_BATCH = 4,   /* PTC_SCATTER_BATCH there */
    SCATTER_STEPS = 8,   /* vectors that a lane adds up at most */
    SCATTER_FEW_ROWS = 1024
};

int64_t template_tasks(int64_t n, int64_t per_task)
{
    return (n + per_task - 1) / per_task;
}

/* Args are a0.., results z0... */
void template_print_buffer(StrBuf *out, const TemplateUse *use, uint32_t number)
{
    if (number < use->op->n_operands)
        strbuf_addf(out, "a%u", number);
    else
        strbuf_addf(out, "z%u", number - use->op->n_operands);
}

/* Elements of a row that one CUDA access may take. */
static int64_t cuda_vector(int64_t width, DType dtype)
{
    int64_t v = 16 / dtype_size_bytes(dtype);
    while (width % v)
        v /= 2;
    return v;
}

/* ---- gather */

static int64_t gather_width(const TemplateUse *use)
{
    return ir_type_n_elems(use->types[0]) / use->types[0]->dims[0];
}

static int64_t gather_rows_per_task(const TemplateUse *use)
{
    return gather_width(use) >= GATHER_ELEMS ? 1 : GATHER_ELEMS / gather_width(use);
}

static CodegenKernelInfo gather_info(const TemplateUse *use)
{
    return (CodegenKernelInfo){.n_phases = 1,
                               .n_tasks = {template_tasks(ir_type_n_elems(use->types[1]), gather_rows_per_task(use))}};
}

static void gather_print_c(StrBuf *out, const TemplateUse *use)
{
    int64_t n = ir_type_n_elems(use->types[1]), per_task = gather_rows_per_task(use);
    strbuf_addf(out,
                "const int64_t lo = task * %lld, hi = lo + %lld < %lld ? lo + %lld : %lld;\n"
                "ptc_gather(bufs[0], bufs[1], bufs[2], %lld, %lld, lo, hi);\n",
                (long long)per_task, (long long)per_task, (long long)n, (long long)per_task, (long long)n,
                (long long)use->types[0]->dims[0],
                (long long)(gather_width(use) * dtype_size_bytes((DType)use->types[0]->dtype)));
}

static const char *gather_check(const TemplateUse *use)
{
    return ir_type_n_elems(use->types[0]) == 0 || ir_type_n_elems(use->types[1]) == 0 ? "an empty gather" : NULL;
}

static void gather_plan_cuda(const TemplateUse *use, CodegenCudaKernel *out)
{
    int64_t blocks = template_tasks(ir_type_n_elems(use->types[1]), CUDA_WARPS);
    out->n_launches = 1;
    out->launch[0].grid = blocks < 65535 ? (uint32_t)blocks : 65535;
    out->launch[0].block = CUDA_WARPS * 32;
}

static void gather_print_cuda(StrBuf *out, const TemplateUse *use, uint32_t launch)
{
    (void)launch;
    int64_t n = ir_type_n_elems(use->types[1]), width = gather_width(use);
    strbuf_addf(out, "ptc_gather<%lld>(a0, a1, z0, %lld, %lld, %lld);\n",
                (long long)cuda_vector(width, (DType)use->types[0]->dtype), (long long)use->types[0]->dims[0],
                (long long)width, (long long)n);
}

/* ---- scatter_add */

static const char *scatter_check(const TemplateUse *use)
{
    return use->types[1]->dtype != DT_F32 ? "scatter_add of a dtype that is not f32" : NULL;
}

static const IrType *scatter_type(const TemplateUse *use)
{
    return use->types[use->op->n_operands];
}

static int64_t scatter_width(const TemplateUse *use)
{
    return ir_type_n_elems(scatter_type(use)) / scatter_type(use)->dims[0];
}

static CodegenKernelInfo scatter_info(const TemplateUse *use)
{
    return (CodegenKernelInfo){.n_phases = 1, .n_tasks = {template_tasks(scatter_width(use), SCATTER_COLUMNS)}};
}

static void scatter_print_c(StrBuf *out, const TemplateUse *use)
{
    long long width = (long long)scatter_width(use);
    strbuf_addf(out,
                "const int64_t lo = task * %d, hi = lo + %d < %lld ? lo + %d : %lld;\n"
                "ptc_scatter_add(bufs[0], bufs[1], %s, %lld, %lld, %lld, lo, hi);\n",
                SCATTER_COLUMNS, SCATTER_COLUMNS, width, SCATTER_COLUMNS, width,
                use->op->n_operands > 2 ? "bufs[2], bufs[3]" : "0, bufs[2]", (long long)scatter_type(use)->dims[0],
                width, (long long)ir_type_n_elems(use->types[0]));
}

/* Rounded up to what is looked at together: those behind the ids have no leaders. */
static int64_t scatter_chunks(const TemplateUse *use)
{
    return template_tasks(ir_type_n_elems(use->types[0]), SCATTER_CHUNK * SCATTER_BATCH) * SCATTER_BATCH;
}

static int64_t scatter_leads_bytes(const TemplateUse *use)
{
    return scatter_chunks(use) * SCATTER_CHUNK * 4;
}

/* Vectors of a row that a lane adds up. */
static int64_t scatter_steps(const TemplateUse *use)
{
    const int64_t steps = template_tasks(scatter_width(use), 32 * cuda_vector(scatter_width(use), DT_F32));
    return scatter_type(use)->dims[0] < SCATTER_FEW_ROWS ? 1 : steps < SCATTER_STEPS ? steps : SCATTER_STEPS;
}

static void scatter_plan_cuda(const TemplateUse *use, CodegenCudaKernel *out)
{
    const int64_t width = scatter_width(use), n = ir_type_n_elems(use->types[0]);
    const int64_t per_warp = 32 * cuda_vector(width, DT_F32) * scatter_steps(use);
    out->n_launches = 2;
    out->workspace_bytes = scatter_leads_bytes(use) + n * width * 4;
    out->launch[0].grid = (uint32_t)scatter_chunks(use);
    out->launch[1].grid =
        (uint32_t)template_tasks(scatter_type(use)->dims[0] * template_tasks(width, per_warp), CUDA_WARPS);
    out->launch[0].block = out->launch[1].block = CUDA_WARPS * 32;
}

static void scatter_print_cuda(StrBuf *out, const TemplateUse *use, uint32_t launch)
{
    const int64_t rows = scatter_type(use)->dims[0], width = scatter_width(use), n = ir_type_n_elems(use->types[0]);
    const int64_t v = cuda_vector(width, DT_F32);
    strbuf_addf(out, "int32_t *const lead = (int32_t *)workspace;\nfloat *const sums = (float *)(workspace + %lld);\n",
                (long long)scatter_leads_bytes(use));
    if (launch == 0)
        strbuf_addf(out, "ptc_scatter_lead<%lld>(a0, a1, lead, sums, ", (long long)v);
    else
        strbuf_addf(out, "ptc_scatter_rows<%lld, %lld>(lead, a1, sums, %s, z0, ", (long long)v,
                    (long long)scatter_steps(use), use->op->n_operands > 2 ? "a2" : "0");
    strbuf_addf(out, "%lld, %lld, %lld);\n", (long long)rows, (long long)width, (long long)n);
}

/* ---- the table */

static const Template gather = {.helpers = codegen_text_gather_c,
                                .cuda_helpers = {codegen_text_gather_cuda},
                                .check = gather_check,
                                .info = gather_info,
                                .print_c = gather_print_c,
                                .plan_cuda = gather_plan_cuda,
                                .print_cuda = gather_print_cuda};
static const Template scatter_add = {.helpers = codegen_text_gather_c,
                                     .cuda_helpers = {codegen_text_gather_cuda},
                                     .check = scatter_check,
                                     .info = scatter_info,
                                     .print_c = scatter_print_c,
                                     .plan_cuda = scatter_plan_cuda,
                                     .print_cuda = scatter_print_cuda};

static const Template *const templates[IR_CODE_COUNT] = {[IR_gather] = &gather,
                                                         [IR_scatter_add] = &scatter_add,
                                                         [IR_attention] = &template_attention,
                                                         [IR_attention_grad] = &template_attention_grad};

static TemplateUse use_of(const IrModule *m, IrOp op, uint32_t number)
{
    TemplateUse use = {.m = m, .op = ir_op(m, op), .number = number};
    uint32_t n = 0;
    for (uint32_t i = 0; i < use.op->n_operands; i++)
        use.types[n++] = ir_value_type(m, use.op->operands[i]);
    for (uint32_t i = 0; i < use.op->n_results; i++)
        use.types[n++] = ir_value_type(m, use.op->results[i]);
    return use;
}

IrOp template_find(const IrModule *m, IrFunc func)
{
    IR_FOR_OPS(m, func, op)
    {
        if (ir_code_has(ir_op(m, op)->code, IR_TRAIT_TEMPLATE))
            return op;
    }
    return 0;
}

bool template_supported(Arena *scratch, const IrModule *m, IrFunc func, const char **out_why)
{
    IrOp op = template_find(m, func);
    const IrOpData *data = ir_op(m, op);
    uint32_t n_args = 0, n_outputs = 0;
    bool plain = true;
    (void)scratch;
    IR_FOR_OPS(m, func, o)
    {
        const IrOpData *other = ir_op(m, o);
        if (other->code == IR_arg)
            plain &= n_args < data->n_operands && data->operands[n_args++] == other->results[0];
        else if (other->code == IR_output)
            plain &= n_outputs < data->n_results && data->results[n_outputs++] == other->operands[0];
        else
            plain &= o == op;
    }
    if (!plain || n_args != data->n_operands || n_outputs != data->n_results)
    {
        *out_why = "a template op must be alone in its kernel, on the args in order";
        return false;
    }
    const Template *t = templates[data->code];
    if (!t)
    {
        *out_why = "no template for this op";
        return false;
    }
    TemplateUse use = use_of(m, op, 0);
    *out_why = t->check(&use);
    return *out_why == NULL;
}

bool template_may_alias(const IrModule *m, IrFunc func, uint32_t arg)
{
    return ir_op(m, template_find(m, func))->code == IR_scatter_add && arg == 2;
}

CodegenKernelInfo template_info(const IrModule *m, IrFunc func)
{
    IrOp op = template_find(m, func);
    TemplateUse use = use_of(m, op, 0);
    return templates[use.op->code]->info(&use);
}

static void print_helpers(StrBuf *out, const IrModule *m, bool cuda)
{
    const char *printed[16] = {NULL};
    uint32_t n_printed = 0;
    IR_FOR_FUNCS(m, func)
    {
        if (ir_func(m, func)->kind != IR_FUNC_KERNEL || !template_find(m, func))
            continue;
        const Template *t = templates[ir_op(m, template_find(m, func))->code];
        const char *const *helpers = cuda ? t->cuda_helpers : &t->helpers;
        for (uint32_t h = 0; h < (cuda ? TEMPLATE_MAX_HELPERS : 1) && helpers[h]; h++)
        {
            bool seen = false;
            for (uint32_t i = 0; i < n_printed; i++)
                seen |= printed[i] == helpers[h];
            if (seen)
                continue;
            printed[n_printed++] = helpers[h];
            strbuf_add(out, helpers[h]);
        }
    }
}

void template_print_c_helpers(StrBuf *out, const IrModule *m)
{
    print_helpers(out, m, false);
}

void template_print_cuda_helpers(StrBuf *out, const IrModule *m)
{
    print_helpers(out, m, true);
}

void template_print_c(StrBuf *out, const IrModule *m, IrFunc func, uint32_t number)
{
    IrOp op = template_find(m, func);
    TemplateUse use = use_of(m, op, number);
    strbuf_addf(out,
                "static void k%u_0(void *const *bufs, void *workspace, void *scratch, int64_t task)\n{\n"
                "(void)workspace, (void)scratch;\n",
                number);
    templates[use.op->code]->print_c(out, &use);
    strbuf_add(out, "}\n\n");
}

void template_print_cuda(StrBuf *out, const IrModule *m, IrFunc func, uint32_t number, CodegenCudaKernel *out_kernel)
{
    IrOp op = template_find(m, func);
    TemplateUse use = use_of(m, op, number);
    const Template *t = templates[use.op->code];
    t->plan_cuda(&use, out_kernel);
    out_kernel->op = op;
    for (uint32_t launch = 0; launch < out_kernel->n_launches; launch++)
    {
        CodegenCudaLaunch *to = &out_kernel->launch[launch];
        to->symbol = arena_printf(out->arena, "k%u_%u", number, launch);
        strbuf_addf(out, "extern \"C\" __global__ void __launch_bounds__(%u, %u) %s(", to->block,
                    to->n_resident ? to->n_resident : 1, to->symbol);
        for (uint32_t i = 0; i < use.op->n_operands + use.op->n_results; i++)
        {
            strbuf_addf(out, "%s%s *", i < use.op->n_operands ? "const " : "",
                        nest_storage_type((DType)use.types[i]->dtype));
            template_print_buffer(out, &use, i);
            strbuf_add(out, ", ");
        }
        strbuf_add(out, "char *workspace, uint32_t stream)\n{\n");
        t->print_cuda(out, &use, launch);
        strbuf_add(out, "}\n\n");
    }
}
