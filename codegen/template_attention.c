/* The templates attention and attention_grad: operands q, k, v [, bias] [, key, sample] [, out, lse, dout]. */
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
} AttentionUse;

static AttentionUse attention_use(const TemplateUse *use)
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

static void attention_print_c(StrBuf *out, const TemplateUse *use)
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
        n_floats = 4 * tile * (a->d + 1) + 2 * tile * (tile + 1) + 2 * tile;
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
    plan.smem_bytes = (16 * plan.warps + 4 * plan.tile) * row_bytes(a);
    return plan;
}

static MmaPlan grad_q_plan(const TemplateUse *use, const AttentionUse *a)
{
    MmaPlan plan = {.warps = even_warps(a->t, a->d <= 64 ? 8 : 4), .tile = a->s > 32 && a->d <= 64 ? 64 : 32};
    plan.tail = tail_of(use, a->s, plan.tile);
    plan.smem_bytes = (32 * plan.warps + 4 * plan.tile) * row_bytes(a);
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

/* 128 registers are enough for narrow heads: a multiprocessor's 65536 are then those of two blocks. */
static void mma_launch(const AttentionUse *a, const MmaPlan *plan, int64_t n_blocks, CodegenCudaLaunch *out)
{
    *out = (CodegenCudaLaunch){.grid = (uint32_t)n_blocks,
                               .block = (uint32_t)(32 * plan->warps),
                               .smem_bytes = (uint32_t)plan->smem_bytes,
                               .n_resident = a->d <= 64 && plan->warps == 8 ? 2 : 0};
}

static void attention_plan_cuda(const TemplateUse *use, CodegenCudaKernel *out)
{
    AttentionUse a = attention_use(use);
    out->n_launches = 1;
    if (uses_mma(use, &a))
    {
        MmaPlan plan = forward_plan(use, &a);
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
    strbuf_add(out, "dims, a0, a1, a2");
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
        strbuf_addf(out, "a%u, a%u, z0, z1, z2, 0);\n", a->rest + 1, a->rest + 2);
    else
        strbuf_addf(out, "(const float *)workspace + %lld, a%u, z0, z1, z2, (const float *)workspace);\n",
                    (long long)(a->b * a->h * a->t), a->rest + 2);
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
    strbuf_addf(out, ", a%u, a%u, a%u, z0, z1, z2);\n", a.rest, a.rest + 1, a.rest + 2);
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
