/* The table of templates: what shapes each takes, how its work is cut in tasks, and its C wrapper. */
#include "codegen/template.h"

#include "base/bug.h"
#include "codegen/nest_print.h"
#include "codegen/scalar.h"

typedef struct
{
    const IrModule *m;
    const IrOpData *op;
    const IrType *types[16]; /* operands, then results */
    uint32_t number;
} Use;

typedef struct
{
    const char *helpers, *cuda_helpers;
    const char *(*check)(const Use *use); /* NULL: fine; otherwise why not */
    CodegenKernelInfo (*info)(const Use *use);
    void (*print_c)(StrBuf *out, const Use *use); /* body of k<number>_0 */
    /* Body of a CUDA launch; fills grid, block, smem_bytes. */
    void (*print_cuda)(StrBuf *out, const Use *use, uint32_t launch, CodegenCudaLaunch *out_launch);
    uint32_t n_cuda_launches;
    int64_t (*cuda_workspace_bytes)(const Use *use); /* NULL: none */
} Template;

enum
{
    GATHER_ELEMS = 32768, /* of a task */
    SCATTER_COLUMNS = 64,
    CUDA_WARPS = 8,      /* of a block that gathers or scatters */
    SCATTER_CHUNK = 128, /* PTC_SCATTER_CHUNK of text/gather_cuda.h */
    SCATTER_STEPS = 8,   /* vectors that a lane adds up at most */
    SCATTER_FEW_ROWS = 1024
};

static int64_t tasks_of(int64_t n, int64_t per_task)
{
    return (n + per_task - 1) / per_task;
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

static int64_t gather_width(const Use *use)
{
    return ir_type_n_elems(use->types[0]) / use->types[0]->dims[0];
}

static int64_t gather_rows_per_task(const Use *use)
{
    return gather_width(use) >= GATHER_ELEMS ? 1 : GATHER_ELEMS / gather_width(use);
}

static CodegenKernelInfo gather_info(const Use *use)
{
    return (CodegenKernelInfo){.n_phases = 1,
                               .n_tasks = {tasks_of(ir_type_n_elems(use->types[1]), gather_rows_per_task(use))}};
}

static void gather_print_c(StrBuf *out, const Use *use)
{
    int64_t n = ir_type_n_elems(use->types[1]), per_task = gather_rows_per_task(use);
    strbuf_addf(out,
                "const int64_t lo = task * %lld, hi = lo + %lld < %lld ? lo + %lld : %lld;\n"
                "ptc_gather(bufs[0], bufs[1], bufs[2], %lld, %lld, lo, hi);\n",
                (long long)per_task, (long long)per_task, (long long)n, (long long)per_task, (long long)n,
                (long long)use->types[0]->dims[0],
                (long long)(gather_width(use) * dtype_size_bytes((DType)use->types[0]->dtype)));
}

static const char *gather_check(const Use *use)
{
    return ir_type_n_elems(use->types[0]) == 0 || ir_type_n_elems(use->types[1]) == 0 ? "an empty gather" : NULL;
}

static void gather_print_cuda(StrBuf *out, const Use *use, uint32_t launch, CodegenCudaLaunch *out_launch)
{
    (void)launch;
    int64_t n = ir_type_n_elems(use->types[1]), width = gather_width(use), blocks = tasks_of(n, CUDA_WARPS);
    out_launch->grid = blocks < 65535 ? (uint32_t)blocks : 65535;
    out_launch->block = CUDA_WARPS * 32;
    strbuf_addf(out, "ptc_gather<%lld>(a0, a1, z0, %lld, %lld, %lld);\n",
                (long long)cuda_vector(width, (DType)use->types[0]->dtype), (long long)use->types[0]->dims[0],
                (long long)width, (long long)n);
}

/* ---- scatter_add */

static const char *scatter_check(const Use *use)
{
    return use->types[1]->dtype != DT_F32 ? "scatter_add of a dtype that is not f32" : NULL;
}

static const IrType *scatter_type(const Use *use)
{
    return use->types[use->op->n_operands];
}

static int64_t scatter_width(const Use *use)
{
    return ir_type_n_elems(scatter_type(use)) / scatter_type(use)->dims[0];
}

static CodegenKernelInfo scatter_info(const Use *use)
{
    return (CodegenKernelInfo){.n_phases = 1, .n_tasks = {tasks_of(scatter_width(use), SCATTER_COLUMNS)}};
}

static void scatter_print_c(StrBuf *out, const Use *use)
{
    long long width = (long long)scatter_width(use);
    strbuf_addf(out,
                "const int64_t lo = task * %d, hi = lo + %d < %lld ? lo + %d : %lld;\n"
                "ptc_scatter_add(bufs[0], bufs[1], %s, %lld, %lld, %lld, lo, hi);\n",
                SCATTER_COLUMNS, SCATTER_COLUMNS, width, SCATTER_COLUMNS, width,
                use->op->n_operands > 2 ? "bufs[2], bufs[3]" : "0, bufs[2]", (long long)scatter_type(use)->dims[0],
                width, (long long)ir_type_n_elems(use->types[0]));
}

static int64_t scatter_leads_bytes(const Use *use)
{
    return tasks_of(ir_type_n_elems(use->types[0]), SCATTER_CHUNK) * SCATTER_CHUNK * 4;
}

static int64_t scatter_cuda_workspace(const Use *use)
{
    return scatter_leads_bytes(use) + ir_type_n_elems(use->types[0]) * scatter_width(use) * 4;
}

static void scatter_print_cuda(StrBuf *out, const Use *use, uint32_t launch, CodegenCudaLaunch *out_launch)
{
    const int64_t rows = scatter_type(use)->dims[0], width = scatter_width(use), n = ir_type_n_elems(use->types[0]);
    const int64_t v = cuda_vector(width, DT_F32);
    int64_t steps = rows < SCATTER_FEW_ROWS ? 1 : tasks_of(width, 32 * v);
    if (steps > SCATTER_STEPS)
        steps = SCATTER_STEPS;
    out_launch->block = CUDA_WARPS * 32;
    out_launch->grid = (uint32_t)(launch == 0 ? tasks_of(n, SCATTER_CHUNK)
                                              : tasks_of(rows * tasks_of(width, 32 * v * steps), CUDA_WARPS));
    strbuf_addf(out, "int32_t *const lead = (int32_t *)workspace;\nfloat *const sums = (float *)(workspace + %lld);\n",
                (long long)scatter_leads_bytes(use));
    if (launch == 0)
        strbuf_addf(out, "ptc_scatter_lead<%lld>(a0, a1, lead, sums, ", (long long)v);
    else
        strbuf_addf(out, "ptc_scatter_rows<%lld, %lld>(lead, a1, sums, %s, z0, ", (long long)v, (long long)steps,
                    use->op->n_operands > 2 ? "a2" : "0");
    strbuf_addf(out, "%lld, %lld, %lld);\n", (long long)rows, (long long)width, (long long)n);
}

/* ---- attention: operands q, k, v [, bias] [, key, sample] [, out, lse, dout] */

enum
{
    ATTENTION_QB = 64, /* PTC_QB and PTC_KB of text/attention_c.h */
    ATTENTION_KB = 128
};

typedef struct
{
    int64_t b, t, h, d, s, g;
    uint32_t bias, key, rest; /* operand numbers; 0: none */
} AttentionUse;

static AttentionUse attention_use(const Use *use)
{
    const IrType *q = use->types[0], *k = use->types[1];
    AttentionUse a = {q->dims[0], q->dims[1], q->dims[2], q->dims[3], k->dims[1], k->dims[2], 0, 0, 3};
    if (ir_attrs_bool(&use->op->attrs, IR_ATTR_bias))
        a.bias = a.rest++;
    if (ir_attrs_float(&use->op->attrs, IR_ATTR_p, 0) > 0)
    {
        a.key = a.rest;
        a.rest += 2;
    }
    return a;
}

static const char *attention_check(const Use *use)
{
    return use->types[0]->dtype != DT_F32 && use->types[0]->dtype != DT_BF16
               ? "attention of a dtype that is not f32 or bf16"
               : NULL;
}

static int64_t pad16(int64_t n)
{
    return (n + 15) / 16 * 16;
}

static CodegenKernelInfo attention_info(const Use *use)
{
    AttentionUse a = attention_use(use);
    int64_t n_floats = (a.d + ATTENTION_KB) * ATTENTION_QB + (ATTENTION_QB + ATTENTION_KB) * pad16(a.d);
    return (CodegenKernelInfo){
        .n_phases = 1, .n_tasks = {a.b * a.h * tasks_of(a.t, ATTENTION_QB)}, .scratch_bytes = n_floats * 4};
}

static CodegenKernelInfo attention_grad_info(const Use *use)
{
    AttentionUse a = attention_use(use);
    int64_t n_floats =
        2 * (a.d + ATTENTION_KB) * ATTENTION_QB + (3 * ATTENTION_QB + 2 * ATTENTION_KB + 2 * a.s) * pad16(a.d);
    return (CodegenKernelInfo){.n_phases = 1, .n_tasks = {a.b * a.g}, .scratch_bytes = n_floats * 4};
}

/* Stride of a bias axis: 0 where it is broadcast. */
static void bias_strides(const Use *use, const AttentionUse *a, int64_t *out_strides)
{
    int64_t stride = a->bias ? use->types[a->bias]->dims[3] : 0;
    for (int axis = 2; axis >= 0; axis--)
    {
        int64_t extent = a->bias ? use->types[a->bias]->dims[axis] : 1;
        out_strides[axis] = extent == 1 ? 0 : stride;
        stride *= extent;
    }
}

static void attention_print_dims(StrBuf *out, const Use *use, const AttentionUse *a, bool cuda)
{
    const IrAttrs *attrs = &use->op->attrs;
    int64_t strides[3];
    bias_strides(use, a, strides);
    strbuf_addf(out, "const PtcAttention dims = {%lld, %lld, %lld, %lld, %lld, %lld, (float)", (long long)a->b,
                (long long)a->t, (long long)a->h, (long long)a->d, (long long)a->s, (long long)a->g);
    strbuf_add_f64(out, ir_attrs_float(attrs, IR_ATTR_scale, 1));
    strbuf_addf(out, ", %d, %lld, %lld, %lld, %lld, (float)", ir_attrs_bool(attrs, IR_ATTR_causal),
                (long long)ir_attrs_int(attrs, IR_ATTR_window, 0), (long long)strides[0], (long long)strides[1],
                (long long)strides[2]);
    strbuf_add_f64(out, ir_attrs_float(attrs, IR_ATTR_p, 0));
    if (a->key && cuda)
        strbuf_addf(out, ", stream + %uu", (uint32_t)ir_attrs_int(attrs, IR_ATTR_stream, 0));
    else if (a->key)
        strbuf_addf(out, ", *(const uint32_t *)bufs[%u] + %uu", use->op->n_operands + use->op->n_results,
                    (uint32_t)ir_attrs_int(attrs, IR_ATTR_stream, 0));
    else
        strbuf_add(out, ", 0");
    if (!cuda)
        strbuf_addf(out, ", %d", use->types[0]->dtype == DT_BF16);
    strbuf_add(out, "};\n");
}

static void print_operand(StrBuf *out, uint32_t number)
{
    if (number)
        strbuf_addf(out, "bufs[%u], ", number);
    else
        strbuf_add(out, "0, ");
}

static void attention_print_c(StrBuf *out, const Use *use)
{
    AttentionUse a = attention_use(use);
    bool grad = use->op->code == IR_attention_grad;
    attention_print_dims(out, use, &a, false);
    strbuf_addf(out, "ptc_attention%s(&dims, bufs[0], bufs[1], bufs[2], ", grad ? "_grad" : "");
    print_operand(out, a.bias);
    print_operand(out, a.key);
    print_operand(out, a.key ? a.key + 1 : 0);
    for (uint32_t i = a.rest; i < use->op->n_operands + use->op->n_results; i++)
        strbuf_addf(out, "bufs[%u], ", i);
    strbuf_add(out, "scratch, task);\n");
}

/* The n-th buffer: args are a0.., results z0... */
static void print_cuda_buffer(StrBuf *out, const Use *use, uint32_t number)
{
    if (number < use->op->n_operands)
        strbuf_addf(out, "a%u", number);
    else
        strbuf_addf(out, "z%u", number - use->op->n_operands);
}

/* Tiles of `tile` queries and keys, `lanes` threads a row, as large as 48 KiB of shared memory allow. */
static void attention_print_cuda(StrBuf *out, const Use *use, uint32_t launch, CodegenCudaLaunch *out_launch)
{
    enum
    {
        MAX_SMEM_FLOATS = 48 * 1024 / 4
    };
    AttentionUse a = attention_use(use);
    bool grad = use->op->code == IR_attention_grad;
    int64_t tile = 32, n_floats;
    for (;; tile /= 2)
    {
        n_floats = 4 * tile * (a.d + 1) + 2 * tile * (tile + 1) + 2 * tile;
        if (n_floats <= MAX_SMEM_FLOATS || tile == 1)
            break;
    }
    if (n_floats > MAX_SMEM_FLOATS)
        BUG("attention heads of %lld elements do not fit in shared memory", (long long)a.d);
    int64_t lanes = tile >= 8 ? 4 : 32 / tile;
    out_launch->block = (uint32_t)(tile * lanes);
    out_launch->smem_bytes = (uint32_t)(n_floats * 4);
    bool keys = grad && launch == 0;
    out_launch->grid = (uint32_t)(keys ? a.b * a.g * tasks_of(a.s, tile) : a.b * a.h * tasks_of(a.t, tile));
    attention_print_dims(out, use, &a, true);
    strbuf_addf(out, "ptc_attention%s<%lld, %lld, %lld>(dims, a0, a1, a2, ",
                !grad  ? ""
                : keys ? "_grad_kv"
                       : "_grad_q",
                (long long)a.d, (long long)tile, (long long)lanes);
    for (uint32_t i = 0; i < 3; i++)
    {
        uint32_t number = i == 0 ? a.bias : a.key ? a.key + i - 1 : 0;
        if (number)
            print_cuda_buffer(out, use, number);
        strbuf_add(out, number ? ", " : "0, ");
    }
    for (uint32_t i = a.rest; i < use->op->n_operands + use->op->n_results; i++)
    {
        print_cuda_buffer(out, use, i);
        strbuf_add(out, i + 1 == use->op->n_operands + use->op->n_results ? ");\n" : ", ");
    }
}

/* ---- the table */

static const Template templates[IR_CODE_COUNT] = {
    [IR_gather] = {codegen_text_gather_c, codegen_text_gather_cuda, gather_check, gather_info, gather_print_c,
                   gather_print_cuda, 1},
    [IR_scatter_add] = {codegen_text_gather_c, codegen_text_gather_cuda, scatter_check, scatter_info, scatter_print_c,
                        scatter_print_cuda, 2, scatter_cuda_workspace},
    [IR_attention] = {codegen_text_attention_c, codegen_text_attention_cuda, attention_check, attention_info,
                      attention_print_c, attention_print_cuda, 1},
    [IR_attention_grad] = {codegen_text_attention_c, codegen_text_attention_cuda, attention_check, attention_grad_info,
                           attention_print_c, attention_print_cuda, 2},
};

static Use use_of(const IrModule *m, IrOp op, uint32_t number)
{
    Use use = {.m = m, .op = ir_op(m, op), .number = number};
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
    const Template *t = &templates[data->code];
    if (!t->info)
    {
        *out_why = "no template for this op";
        return false;
    }
    Use use = use_of(m, op, 0);
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
    Use use = use_of(m, op, 0);
    return templates[use.op->code].info(&use);
}

static void print_helpers(StrBuf *out, const IrModule *m, bool cuda)
{
    const char *printed[8] = {NULL};
    uint32_t n_printed = 0;
    IR_FOR_FUNCS(m, func)
    {
        if (ir_func(m, func)->kind != IR_FUNC_KERNEL || !template_find(m, func))
            continue;
        const Template *t = &templates[ir_op(m, template_find(m, func))->code];
        const char *helpers = cuda ? t->cuda_helpers : t->helpers;
        bool seen = false;
        for (uint32_t i = 0; i < n_printed; i++)
            seen |= printed[i] == helpers;
        if (seen)
            continue;
        printed[n_printed++] = helpers;
        strbuf_add(out, helpers);
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
    Use use = use_of(m, op, number);
    strbuf_addf(out,
                "static void k%u_0(void *const *bufs, void *workspace, void *scratch, int64_t task)\n{\n"
                "(void)workspace, (void)scratch;\n",
                number);
    templates[use.op->code].print_c(out, &use);
    strbuf_add(out, "}\n\n");
}

void template_print_cuda(StrBuf *out, const IrModule *m, IrFunc func, uint32_t number, CodegenCudaKernel *out_kernel)
{
    IrOp op = template_find(m, func);
    Use use = use_of(m, op, number);
    const Template *t = &templates[use.op->code];
    out_kernel->n_launches = t->n_cuda_launches;
    out_kernel->workspace_bytes = t->cuda_workspace_bytes ? t->cuda_workspace_bytes(&use) : 0;
    for (uint32_t launch = 0; launch < t->n_cuda_launches; launch++)
    {
        CodegenCudaLaunch *to = &out_kernel->launch[launch];
        to->symbol = arena_printf(out->arena, "k%u_%u", number, launch);
        strbuf_addf(out, "extern \"C\" __global__ void %s(", to->symbol);
        for (uint32_t i = 0; i < use.op->n_operands + use.op->n_results; i++)
        {
            strbuf_addf(out, "%s%s *", i < use.op->n_operands ? "const " : "",
                        nest_storage_type((DType)use.types[i]->dtype));
            print_cuda_buffer(out, &use, i);
            strbuf_add(out, ", ");
        }
        strbuf_add(out, "char *workspace, uint32_t stream)\n{\n");
        t->print_cuda(out, &use, launch, to);
        strbuf_add(out, "}\n\n");
    }
}
