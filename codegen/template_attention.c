/* The templates attention and attention_grad: operands q, k, v (packed: one) [, bias] [, key, sample] [, out, lse,
 * dout]. */
#include "base/bug.h"
#include "codegen/scalar.h"
#include "codegen/template_use.h"

enum
{
    ATTENTION_QB = 64, /* PTC_QB and PTC_KB of text/attention_c.h */
    ATTENTION_KB = 128
};

typedef struct
{
    int64_t b, t, h, d, s, g;
    uint32_t bias, key, rest; /* operand numbers; 0: none */
    bool packed;
} AttentionUse;

static AttentionUse attention_use(const TemplateUse *use)
{
    const bool packed = ir_attrs_bool(&use->op->attrs, IR_ATTR_packed);
    const IrType *q = use->types[0], *k = packed ? q : use->types[1];
    const int64_t n_in_row = packed ? 3 : 1;
    AttentionUse a = {.b = q->dims[0],
                      .t = q->dims[1],
                      .h = q->dims[2] / n_in_row,
                      .d = q->dims[3],
                      .s = k->dims[1],
                      .g = k->dims[2] / n_in_row,
                      .rest = packed ? 1 : 3,
                      .packed = packed};
    if (ir_attrs_bool(&use->op->attrs, IR_ATTR_bias))
        a.bias = a.rest++;
    if (ir_attrs_float(&use->op->attrs, IR_ATTR_p, 0) > 0)
    {
        a.key = a.rest;
        a.rest += 2;
    }
    return a;
}

static const char *attention_check(const TemplateUse *use)
{
    return use->types[0]->dtype != DT_F32 && use->types[0]->dtype != DT_BF16
               ? "attention of a dtype that is not f32 or bf16"
               : NULL;
}

static int64_t pad16(int64_t n)
{
    return (n + 15) / 16 * 16;
}

static CodegenKernelInfo attention_info(const TemplateUse *use)
{
    AttentionUse a = attention_use(use);
    int64_t n_floats = (a.d + ATTENTION_KB) * ATTENTION_QB + (ATTENTION_QB + ATTENTION_KB) * pad16(a.d);
    return (CodegenKernelInfo){
        .n_phases = 1, .n_tasks = {a.b * a.h * template_tasks(a.t, ATTENTION_QB)}, .scratch_bytes = n_floats * 4};
}

static CodegenKernelInfo attention_grad_info(const TemplateUse *use)
{
    AttentionUse a = attention_use(use);
    int64_t n_floats =
        2 * (a.d + ATTENTION_KB) * ATTENTION_QB + (3 * ATTENTION_QB + 2 * ATTENTION_KB + 2 * a.s) * pad16(a.d);
    return (CodegenKernelInfo){.n_phases = 1, .n_tasks = {a.b * a.g}, .scratch_bytes = n_floats * 4};
}

/* Stride of a bias axis: 0 where it is broadcast. */
static void bias_strides(const TemplateUse *use, const AttentionUse *a, int64_t *out_strides)
{
    int64_t stride = a->bias ? use->types[a->bias]->dims[3] : 0;
    for (int axis = 2; axis >= 0; axis--)
    {
        int64_t extent = a->bias ? use->types[a->bias]->dims[axis] : 1;
        out_strides[axis] = extent == 1 ? 0 : stride;
        stride *= extent;
    }
}

static void attention_print_dims(StrBuf *out, const TemplateUse *use, const AttentionUse *a, bool cuda)
{
    const IrAttrs *attrs = &use->op->attrs;
    int64_t strides[3];
    bias_strides(use, a, strides);
    const int64_t q_row = (a->packed ? 3 : 1) * a->h * a->d, k_row = a->packed ? q_row : a->g * a->d;
    strbuf_addf(out, "const PtcAttention dims = {%lld, %lld, %lld, %lld, %lld, %lld, %lld, %lld, (float)",
                (long long)a->b, (long long)a->t, (long long)a->h, (long long)a->d, (long long)a->s, (long long)a->g,
                (long long)q_row, (long long)k_row);
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

/* Three buffers from `first` on, or the thirds of each row of one. */
static void print_three_c(StrBuf *out, const TemplateUse *use, const AttentionUse *a, uint32_t first)
{
    const int64_t third_bytes = a->h * a->d * dtype_size_bytes((DType)use->types[0]->dtype);
    for (uint32_t i = 0; i < 3; i++)
        if (a->packed)
            strbuf_addf(out, "(char *)bufs[%u] + %lld, ", first, (long long)(i * third_bytes));
        else
            strbuf_addf(out, "bufs[%u], ", first + i);
}

/* The same in CUDA, where buffers have types and names. */
static void print_three_cuda(StrBuf *out, const AttentionUse *a, char name)
{
    for (uint32_t i = 0; i < 3; i++)
        if (a->packed)
            strbuf_addf(out, ", %c0 + %lld", name, (long long)(i * a->h * a->d));
        else
            strbuf_addf(out, ", %c%u", name, i);
}

static void attention_print_c(StrBuf *out, const TemplateUse *use)
{
    AttentionUse a = attention_use(use);
    bool grad = use->op->code == IR_attention_grad;
    attention_print_dims(out, use, &a, false);
    strbuf_addf(out, "ptc_attention%s(&dims, ", grad ? "_grad" : "");
    print_three_c(out, use, &a, 0);
    print_operand(out, a.bias);
    print_operand(out, a.key);
    print_operand(out, a.key ? a.key + 1 : 0);
    for (uint32_t i = a.rest; i < use->op->n_operands + (grad ? 0 : use->op->n_results); i++)
        strbuf_addf(out, "bufs[%u], ", i);
    if (grad)
        print_three_c(out, use, &a, use->op->n_operands);
    strbuf_add(out, "scratch, task);\n");
}

/* ---- CUDA */

enum
{
    MAX_WARPS = 16,
    SCALAR_SMEM_BYTES = 48 * 1024, /* what every device lends without being asked */
    SMEM_BYTES = 99 * 1024,        /* what every device from sm_80 on lends a block */
    DELTA_THREADS = 256            /* 4 to a query */
};

/* Tiles of `tile` queries and keys, `lanes` threads a row. */
typedef struct
{
    int64_t tile, lanes;
} ScalarPlan;

static ScalarPlan scalar_plan(const AttentionUse *a, CodegenCudaLaunch *out)
{
    int64_t tile = 32, n_floats;
    for (;; tile /= 2)
    {
        n_floats = 4 * tile * (a->d + (a->d % 4 == 0 ? 4 : 1)) + 2 * tile * (tile + 1) + 2 * tile;
        if (n_floats * 4 <= SCALAR_SMEM_BYTES || tile == 1)
            break;
    }
    if (n_floats * 4 > SCALAR_SMEM_BYTES)
        BUG("attention heads of %lld elements do not fit in shared memory", (long long)a->d);
    ScalarPlan plan = {tile, tile >= 8 ? 4 : 32 / tile};
    out->block = (uint32_t)(plan.tile * plan.lanes);
    out->smem_bytes = (uint32_t)(n_floats * 4);
    return plan;
}

/* A block of warps of 16 rows each; the other side comes in tiles. */
typedef struct
{
    int64_t warps, tile, tail; /* tail: rows of the last tile, as far as they are known to be fewer */
    int64_t smem_bytes;
} MmaPlan;

enum
{
    MMA_ARCH = 80 /* codegen/text/mma_cuda.h */
};

static bool uses_mma(const TemplateUse *use, const AttentionUse *a)
{
    return use->types[0]->dtype == DT_BF16 && a->d % 16 == 0 && a->d >= 32 && a->d <= 128;
}

/* As many warps as n rows want, at most max, and all blocks alike. */
static int64_t even_warps(int64_t n, int64_t max)
{
    int64_t n_warps = template_tasks(n, 16);
    return template_tasks(n_warps, template_tasks(n_warps, max));
}

static int64_t blocks_of(const MmaPlan *plan, int64_t n)
{
    return template_tasks(n, 16 * plan->warps);
}

static int64_t row_bytes(const AttentionUse *a)
{
    return (a->d + 8) * 2;
}

static int64_t tail_of(const TemplateUse *use, int64_t n, int64_t tile)
{
    const IrAttrs *attrs = &use->op->attrs;
    bool known = !ir_attrs_bool(attrs, IR_ATTR_causal) && !ir_attrs_int(attrs, IR_ATTR_window, 0) && n % tile;
    return known ? template_tasks(n % tile, 16) * 16 : tile;
}

static MmaPlan forward_plan(const TemplateUse *use, const AttentionUse *a)
{
    MmaPlan plan = {.warps = even_warps(a->t, a->d <= 64 ? 8 : 4), .tile = a->s > 32 ? 64 : 32};
    plan.tail = tail_of(use, a->s, plan.tile);
    plan.smem_bytes = (16 * plan.warps + 4 * plan.tile) * row_bytes(a) + 2 * plan.tile * 4;
    return plan;
}

static MmaPlan grad_q_plan(const TemplateUse *use, const AttentionUse *a)
{
    MmaPlan plan = {.warps = even_warps(a->t, a->d <= 64 ? 8 : 4), .tile = a->s > 32 && a->d <= 64 ? 64 : 32};
    plan.tail = tail_of(use, a->s, plan.tile);
    plan.smem_bytes = (32 * plan.warps + 4 * plan.tile) * row_bytes(a) + 2 * plan.tile * 4;
    return plan;
}

/* One block has all the keys when their sums fit in registers and all else in shared memory. */
static MmaPlan grad_all_plan(const AttentionUse *a)
{
    MmaPlan plan = {.warps = template_tasks(a->s, 16)};
    if (plan.warps > (a->d <= 64 ? MAX_WARPS : MAX_WARPS / 2))
        return (MmaPlan){0};
    for (plan.tile = 32; plan.tile >= 16; plan.tile /= 2)
    {
        plan.smem_bytes = (32 * plan.warps + 5 * plan.tile) * row_bytes(a) + 16 * plan.warps * (plan.tile + 8) * 2 +
                          4 * plan.tile * 4;
        if (plan.smem_bytes <= SMEM_BYTES)
            return plan;
    }
    return (MmaPlan){0};
}

static MmaPlan grad_kv_plan(const AttentionUse *a)
{
    MmaPlan plan = {.warps = even_warps(a->s, a->d <= 64 ? 8 : 4), .tile = 32};
    plan.smem_bytes = (32 * plan.warps + 4 * plan.tile) * row_bytes(a) + 4 * plan.tile * 4;
    return plan;
}

/* A block of 7 or 8 warps of narrow heads has 128 registers a thread, so that two are resident; with fewer warps each
 * has more copies to ask for, and 128 are not enough. */
static void mma_launch(const AttentionUse *a, const MmaPlan *plan, int64_t n_blocks, CodegenCudaLaunch *out)
{
    *out = (CodegenCudaLaunch){.grid = (uint32_t)n_blocks,
                               .block = (uint32_t)(32 * plan->warps),
                               .smem_bytes = (uint32_t)plan->smem_bytes,
                               .n_resident = a->d <= 64 && plan->warps >= 7 && plan->warps <= 8 ? 2 : 0};
}

static void attention_plan_cuda(const TemplateUse *use, CodegenCudaKernel *out)
{
    AttentionUse a = attention_use(use);
    out->n_launches = 1;
    if (uses_mma(use, &a))
    {
        MmaPlan plan = forward_plan(use, &a);
        out->least_arch = MMA_ARCH;
        mma_launch(&a, &plan, a.b * a.h * blocks_of(&plan, a.t), &out->launch[0]);
        return;
    }
    int64_t tile = scalar_plan(&a, &out->launch[0]).tile;
    out->launch[0].grid = (uint32_t)(a.b * a.h * template_tasks(a.t, tile));
}

static void attention_grad_plan_cuda(const TemplateUse *use, CodegenCudaKernel *out)
{
    AttentionUse a = attention_use(use);
    if (!uses_mma(use, &a))
    {
        out->n_launches = 2;
        int64_t tile = scalar_plan(&a, &out->launch[0]).tile;
        scalar_plan(&a, &out->launch[1]);
        out->launch[0].grid = (uint32_t)(a.b * a.g * template_tasks(a.s, tile));
        out->launch[1].grid = (uint32_t)(a.b * a.h * template_tasks(a.t, tile));
        return;
    }
    out->least_arch = MMA_ARCH;
    MmaPlan all = grad_all_plan(&a), kv = grad_kv_plan(&a), q = grad_q_plan(use, &a);
    if (all.warps)
    {
        out->n_launches = 1;
        mma_launch(&a, &all, a.b * a.g, &out->launch[0]);
        return;
    }
    out->n_launches = 3;
    out->workspace_bytes = 2 * a.b * a.h * a.t * 4;
    out->launch[0] = (CodegenCudaLaunch){.grid = (uint32_t)template_tasks(a.b * a.h * a.t, DELTA_THREADS / 4),
                                         .block = DELTA_THREADS};
    mma_launch(&a, &kv, a.b * a.g * blocks_of(&kv, a.s), &out->launch[1]);
    mma_launch(&a, &q, a.b * a.h * blocks_of(&q, a.t), &out->launch[2]);
}

/* "a0, a1, a2, bias, key, sample": what all kernels but delta's begin with. */
static void print_first_operands(StrBuf *out, const TemplateUse *use, const AttentionUse *a)
{
    strbuf_add(out, "dims");
    print_three_cuda(out, a, 'a');
    for (uint32_t i = 0; i < 3; i++)
    {
        uint32_t number = i == 0 ? a->bias : a->key ? a->key + i - 1 : 0;
        strbuf_add(out, ", ");
        if (number)
            template_print_buffer(out, use, number);
        else
            strbuf_add(out, "0");
    }
}

static void attention_print_cuda(StrBuf *out, const TemplateUse *use, uint32_t launch)
{
    (void)launch;
    AttentionUse a = attention_use(use);
    attention_print_dims(out, use, &a, true);
    if (uses_mma(use, &a))
    {
        MmaPlan plan = forward_plan(use, &a);
        strbuf_addf(out, "ptc_attention_mma<%lld, %lld, %lld, %lld>(", (long long)a.d, (long long)plan.warps,
                    (long long)plan.tile, (long long)plan.tail);
    }
    else
    {
        ScalarPlan plan = scalar_plan(&a, &(CodegenCudaLaunch){0});
        strbuf_addf(out, "ptc_attention<%lld, %lld, %lld>(", (long long)a.d, (long long)plan.tile,
                    (long long)plan.lanes);
    }
    print_first_operands(out, use, &a);
    strbuf_add(out, ", z0, z1);\n");
}

/* Launches: delta, the gradients of keys, those of queries; or all at once. */
static void attention_grad_print_mma(StrBuf *out, const TemplateUse *use, const AttentionUse *a, uint32_t launch)
{
    const MmaPlan all = grad_all_plan(a), kv = all.warps ? all : grad_kv_plan(a), q = grad_q_plan(use, a);
    const long long d = (long long)a->d;
    if (!all.warps && launch == 0)
    {
        strbuf_addf(out, "ptc_attention_delta<%lld>(dims, a%u, a%u, a%u, (float *)workspace);\n", d, a->rest,
                    a->rest + 1, a->rest + 2);
        return;
    }
    if (!all.warps && launch == 2)
    {
        strbuf_addf(out, "ptc_attention_mma_grad_q<%lld, %lld, %lld, %lld>(", d, (long long)q.warps, (long long)q.tile,
                    (long long)q.tail);
        print_first_operands(out, use, a);
        strbuf_addf(out, ", a%u, z0, (const float *)workspace);\n", a->rest + 2);
        return;
    }
    strbuf_addf(out, "ptc_attention_mma_grad_kv<%lld, %lld, %lld, %s>(", d, (long long)kv.warps, (long long)kv.tile,
                all.warps ? "true" : "false");
    print_first_operands(out, use, a);
    strbuf_addf(out, ", a%u, ", a->rest);
    if (all.warps)
        strbuf_addf(out, "a%u, a%u", a->rest + 1, a->rest + 2);
    else
        strbuf_addf(out, "(const float *)workspace + %lld, a%u", (long long)(a->b * a->h * a->t), a->rest + 2);
    print_three_cuda(out, a, 'z');
    strbuf_add(out, all.warps ? ", 0);\n" : ", (const float *)workspace);\n");
}

static void attention_grad_print_cuda(StrBuf *out, const TemplateUse *use, uint32_t launch)
{
    AttentionUse a = attention_use(use);
    attention_print_dims(out, use, &a, true);
    if (uses_mma(use, &a))
    {
        attention_grad_print_mma(out, use, &a, launch);
        return;
    }
    ScalarPlan plan = scalar_plan(&a, &(CodegenCudaLaunch){0});
    strbuf_addf(out, "ptc_attention_grad_%s<%lld, %lld, %lld>(", launch == 0 ? "kv" : "q", (long long)a.d,
                (long long)plan.tile, (long long)plan.lanes);
    print_first_operands(out, use, &a);
    strbuf_addf(out, ", a%u, a%u, a%u", a.rest, a.rest + 1, a.rest + 2);
    print_three_cuda(out, &a, 'z');
    strbuf_add(out, ");\n");
}

#define CUDA_TEXTS                                                                                                     \
    {                                                                                                                  \
        codegen_text_attention_cuda, codegen_text_mma_cuda, codegen_text_attention_mma_cuda,                           \
            codegen_text_attention_mma_grad_cuda                                                                       \
    }
const Template template_attention = {.helpers = codegen_text_attention_c,
                                     .cuda_helpers = CUDA_TEXTS,
                                     .check = attention_check,
                                     .info = attention_info,
                                     .print_c = attention_print_c,
                                     .plan_cuda = attention_plan_cuda,
                                     .print_cuda = attention_print_cuda};
const Template template_attention_grad = {.helpers = codegen_text_attention_c,
                                          .cuda_helpers = CUDA_TEXTS,
                                          .check = attention_check,
                                          .info = attention_grad_info,
                                          .print_c = attention_print_c,
                                          .plan_cuda = attention_grad_plan_cuda,
                                          .print_cuda = attention_grad_print_cuda};
