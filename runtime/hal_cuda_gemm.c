/* Contractions of the cuda device by cuBLASLt.
 *
 * Its matrices are column-major: a stored (R, C) matrix of ours is a (C, R) one of its, so C = op(A) op(B) is asked for
 * as C' = op(B') op(A') with m and n exchanged, and a bias along our columns is one along its rows.
 *
 * Its epilogue is act(A B + C + bias), with relu and the tanh form of gelu. What is asked beyond that is split: the
 * product with its bias, then a generated kernel for activation and residual, in the order that runtime/gemm.h says. */
#include "runtime/hal_cuda_gemm.h"

#include "base/bug.h"
#include "base/strbuf.h"
#include "ir/expr.h"

#include <stdlib.h>
#include <string.h>

enum
{
    WORKSPACE_ALIGNMENT = 256
};

/* By GemmAct: what the epilogue has. */
static const struct
{
    bool in_epilogue;
    uint32_t epilogue;
} ACTS[GEMM_ACT_COUNT] = {[GEMM_ACT_none] = {true, BLASLT_EPILOGUE_NONE},
                          [GEMM_ACT_relu] = {true, BLASLT_EPILOGUE_RELU},
                          [GEMM_ACT_gelu_tanh] = {true, BLASLT_EPILOGUE_GELU}};

const char *cuda_gemm_describe(Arena *arena, const GemmDesc *d)
{
    StrBuf text = strbuf_make(arena);
    strbuf_addf(&text, "contraction %lld x %lldx%lldx%lld", (long long)d->batch, (long long)d->m, (long long)d->n,
                (long long)d->k);
    strbuf_addf(&text, "%s%s%s%s%s", d->trans_a ? ", A transposed" : "", d->trans_b ? ", B transposed" : "",
                d->bias ? ", bias" : "", d->residual ? ", residual" : "", d->accumulate ? ", accumulated" : "");
    if (d->act != GEMM_ACT_none)
        strbuf_addf(&text, ", %s", gemm_act_name(d->act));
    return strbuf_text(&text);
}

Status cuda_gemm_fail(const CudaDevice *device, CuResult result, const GemmDesc *desc, const char *doing)
{
    Arena *arena = arena_create();
    const Status status =
        status_fail(result == BLASLT_NOT_SUPPORTED ? STATUS_UNSUPPORTED : STATUS_DEVICE, "cuBLASLt, %s the %s: %s",
                    doing, cuda_gemm_describe(arena, desc), device->blaslt.error_text(result));
    arena_destroy(arena);
    return status;
}

/* ---- split */

static bool is_split(const GemmDesc *d)
{
    return !ACTS[d->act].in_epilogue || (d->act != GEMM_ACT_none && (d->residual || d->accumulate));
}

static bool is_dense(const GemmDesc *d)
{
    const bool one = d->batch == 1, residual = !d->residual || (d->ldr == d->n && (one || d->stride_r == d->m * d->n));
    return d->ldc == d->n && (one || d->stride_c == d->m * d->n) && residual;
}

/* func kernel @finish: act(product) [+ residual], flat. */
static const IrModule *finish_module(Arena *arena, const GemmDesc *desc)
{
    static const char *const forms[GEMM_ACT_COUNT][4] = {
        [GEMM_ACT_none] = {"x"},
#define ACTIVATION(name, ...) [GEMM_ACT_##name] = {__VA_ARGS__},
#include "ir/activations.def"
#undef ACTIVATION
    };
    IrModule *m = ir_module_create(arena, "epilogue");
    IrBuilder b = ir_builder(m, ir_func_add(m, IR_FUNC_KERNEL, "finish"));
    const int64_t n = desc->batch * desc->m * desc->n;
    const DType dtype = desc->dtype_c == GEMM_BF16 ? DT_BF16 : DT_F32;
    const IrType type = ir_type(dtype, 1, &n);
    const IrValue product = ir_build_op(&b, IR_arg, &type, NULL, 0, NULL, 0);
    const bool adds = desc->residual || desc->accumulate;
    const IrValue residual = adds ? ir_build_op(&b, IR_arg, &type, NULL, 0, NULL, 0) : 0;
    IrExprVar x = {"x", ir_build_cast(&b, product, DT_F32)};
    IrValue value = ir_build_expr(&b, forms[desc->act][0], &x, 1);
    if (adds)
        value = ir_build2(&b, IR_add, value, ir_build_cast(&b, residual, DT_F32));
    value = ir_build_cast(&b, value, dtype);
    ir_build_op(&b, IR_output, NULL, &value, 1, NULL, 0);
    return m;
}

static size_t align_up(size_t size_bytes)
{
    return (size_bytes + WORKSPACE_ALIGNMENT - 1) / WORKSPACE_ALIGNMENT * WORKSPACE_ALIGNMENT;
}

static Status prepare_finish(CudaDevice *device, HalGemm *gemm)
{
    const GemmDesc *desc = &gemm->desc;
    Arena *arena = arena_create();
    HalKernelFile file;
    const IrModule *m = finish_module(arena, desc);
    Status status = cuda_kernels_build(arena, device->index, &m, 1, 1, &file);
    if (status == STATUS_OK)
        status = hal_executable_load(&device->base, file.path, &gemm->executable);
    if (status == STATUS_OK)
        status = hal_executable_kernel(gemm->executable, "finish", &gemm->finish);
    if (desc->residual || desc->accumulate)
        gemm->product_bytes =
            align_up((size_t)(desc->batch * desc->m * desc->n) * (desc->dtype_c == GEMM_BF16 ? 2 : sizeof(float)));
    arena_destroy(arena);
    return status;
}

static Status check_supported(const GemmDesc *desc)
{
    const char *why = NULL;
    if (desc->bias && desc->dtype_bias != desc->dtype_c)
        why = "a bias that is not of the result's type";
    else if (desc->residual && desc->accumulate)
        why = "a residual and accumulation";
    else if (is_split(desc) && !is_dense(desc))
        why = "an activation in a kernel of its own, with gaps between rows";
    if (!why)
        return STATUS_OK;
    Arena *arena = arena_create();
    const Status status = status_fail(STATUS_UNSUPPORTED, "device 'cuda': the %s: no support for %s",
                                      cuda_gemm_describe(arena, desc), why);
    arena_destroy(arena);
    return status;
}

/* ---- preparing */

/* A stored matrix of ours, rows x cols. */
static Status make_layout(const CudaDevice *device, HalGemm *gemm, GemmDtype dtype, int64_t rows, int64_t cols,
                          int64_t ld, int64_t stride, BlasLtLayout *out_layout)
{
    const int32_t batch = (int32_t)gemm->desc.batch;
    LT_TRY(layout_create(out_layout, dtype == GEMM_F32 ? BLASLT_F32 : BLASLT_BF16, (uint64_t)cols, (uint64_t)rows, ld),
           "describing");
    if (batch == 1)
        return STATUS_OK;
    LT_TRY(layout_set(*out_layout, BLASLT_LAYOUT_BATCH_COUNT, &batch, sizeof batch), "describing");
    LT_TRY(layout_set(*out_layout, BLASLT_LAYOUT_BATCH_STRIDE, &stride, sizeof stride), "describing");
    return STATUS_OK;
}

static Status make_layouts(const CudaDevice *device, HalGemm *gemm)
{
    const GemmDesc *d = &gemm->desc;
    const bool dense = gemm->product_bytes > 0;
    TRY(make_layout(device, gemm, d->dtype_ab, d->trans_b ? d->n : d->k, d->trans_b ? d->k : d->n, d->ldb, d->stride_b,
                    &gemm->a));
    TRY(make_layout(device, gemm, d->dtype_ab, d->trans_a ? d->k : d->m, d->trans_a ? d->m : d->k, d->lda, d->stride_a,
                    &gemm->b));
    TRY(make_layout(device, gemm, d->dtype_c, d->m, d->n, d->residual && !dense ? d->ldr : d->ldc,
                    d->residual && !dense ? d->stride_r : d->stride_c, &gemm->c));
    return make_layout(device, gemm, d->dtype_c, d->m, d->n, d->ldc, d->stride_c, &gemm->d);
}

static Status make_matmul(const CudaDevice *device, HalGemm *gemm)
{
    const GemmDesc *d = &gemm->desc;
    const int32_t transa = d->trans_b ? BLASLT_OP_T : BLASLT_OP_N, transb = d->trans_a ? BLASLT_OP_T : BLASLT_OP_N;
    uint32_t epilogue = is_split(d) ? BLASLT_EPILOGUE_NONE : ACTS[d->act].epilogue;
    if (d->bias)
        epilogue = epilogue == BLASLT_EPILOGUE_NONE ? BLASLT_EPILOGUE_BIAS : epilogue | BLASLT_EPILOGUE_BIAS;
    gemm->epilogue = epilogue;
    LT_TRY(matmul_create(&gemm->matmul, d->tf32 && d->dtype_ab == GEMM_F32 ? BLASLT_COMPUTE_TF32 : BLASLT_COMPUTE_F32,
                         BLASLT_F32),
           "describing");
    LT_TRY(matmul_set(gemm->matmul, BLASLT_DESC_TRANSA, &transa, sizeof transa), "describing");
    LT_TRY(matmul_set(gemm->matmul, BLASLT_DESC_TRANSB, &transb, sizeof transb), "describing");
    LT_TRY(matmul_set(gemm->matmul, BLASLT_DESC_EPILOGUE, &epilogue, sizeof epilogue), "describing");
    if (!d->bias)
        return STATUS_OK;
    const int32_t type = d->dtype_bias == GEMM_BF16 ? BLASLT_BF16 : BLASLT_F32;
    const void *aligned = (const void *)(uintptr_t)CUDA_GEMM_ALIGNMENT; /* the choice may depend on that */
    LT_TRY(matmul_set(gemm->matmul, BLASLT_DESC_BIAS_TYPE, &type, sizeof type), "describing");
    LT_TRY(matmul_set(gemm->matmul, BLASLT_DESC_BIAS_POINTER, &aligned, sizeof(void *)), "describing");
    return STATUS_OK;
}

static Status prepare(CudaDevice *device, HalGemm *gemm)
{
    TRY(check_supported(&gemm->desc));
    TRY(cuda_enter(device));
    if (is_split(&gemm->desc))
        TRY(prepare_finish(device, gemm));
    TRY(make_matmul(device, gemm));
    TRY(make_layouts(device, gemm));
    TRY(cuda_gemm_choose(device, gemm));
    return cuda_workspace_reserve(device, gemm->product_bytes + gemm->algo_bytes);
}

static void destroy(CudaDevice *device, HalGemm *gemm)
{
    const BlasLtLayout layouts[] = {gemm->a, gemm->b, gemm->c, gemm->d};
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        if (layouts[i])
            device->blaslt.layout_destroy(layouts[i]);
    if (gemm->matmul)
        device->blaslt.matmul_destroy(gemm->matmul);
    hal_executable_unload(gemm->executable);
    free(gemm);
}

void cuda_gemms_drop(HalDevice *base)
{
    CudaDevice *device = (CudaDevice *)base;
    while (device->gemms)
    {
        HalGemm *gemm = device->gemms;
        device->gemms = gemm->next;
        destroy(device, gemm);
    }
}

static bool same_desc(const GemmDesc *x, const GemmDesc *y)
{
    return x->dtype_ab == y->dtype_ab && x->dtype_c == y->dtype_c && x->dtype_bias == y->dtype_bias &&
           x->tf32 == y->tf32 && x->trans_a == y->trans_a && x->trans_b == y->trans_b && x->bias == y->bias &&
           x->residual == y->residual && x->accumulate == y->accumulate && x->act == y->act && x->m == y->m &&
           x->n == y->n && x->k == y->k && x->batch == y->batch && x->lda == y->lda && x->ldb == y->ldb &&
           x->ldc == y->ldc && x->ldr == y->ldr && x->stride_a == y->stride_a && x->stride_b == y->stride_b &&
           x->stride_c == y->stride_c && x->stride_r == y->stride_r;
}

Status cuda_gemm_create(HalDevice *base, const GemmDesc *desc, const HalGemm **out_gemm)
{
    CudaDevice *device = (CudaDevice *)base;
    for (HalGemm *g = device->gemms; g; g = g->next)
        if (same_desc(&g->desc, desc))
        {
            *out_gemm = g;
            return STATUS_OK;
        }
    HalGemm *gemm = calloc(1, sizeof *gemm);
    if (!gemm)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for a contraction");
    gemm->desc = *desc;
    Status status = prepare(device, gemm);
    if (status != STATUS_OK)
    {
        destroy(device, gemm);
        return status;
    }
    gemm->next = device->gemms;
    device->gemms = gemm;
    *out_gemm = gemm;
    return STATUS_OK;
}

/* ---- running */

CuResult cuda_gemm_product(const CudaDevice *device, const HalGemm *gemm, const GemmArgs *args, void *product,
                           const BlasLtAlgo *algo, void *workspace, size_t workspace_bytes)
{
    const GemmDesc *desc = &gemm->desc;
    const float one = 1, zero = 0;
    const bool adds = (desc->residual || desc->accumulate) && !gemm->finish;
    const void *added = adds && desc->residual ? args->residual : product;
    CuResult result = 0;
    if (desc->bias)
        result = device->blaslt.matmul_set(gemm->matmul, BLASLT_DESC_BIAS_POINTER, &args->bias, sizeof(void *));
    if (result != 0)
        return result;
    return device->blaslt.matmul(device->handle, gemm->matmul, &one, args->b, gemm->a, args->a, gemm->b,
                                 adds ? &one : &zero, added, adds ? gemm->c : gemm->d, product, gemm->d, algo,
                                 workspace_bytes ? workspace : NULL, workspace_bytes, device->stream);
}

Status cuda_gemm_run(HalDevice *base, const HalGemm *gemm, const GemmArgs *args)
{
    const CudaDevice *device = (const CudaDevice *)base;
    char *workspace = (char *)(uintptr_t)device->workspace; /* an address of the device */
    void *product = gemm->product_bytes ? workspace : args->c;
    TRY(cuda_enter(device));
    const CuResult result =
        cuda_gemm_product(device, gemm, args, product, &gemm->algo, workspace + gemm->product_bytes, gemm->algo_bytes);
    if (result != 0)
        return cuda_gemm_fail(device, result, &gemm->desc, "running");
    if (!gemm->finish)
        return STATUS_OK;
    const void *residual = gemm->desc.residual ? args->residual : args->c;
    void *const two[] = {product, args->c}, *const three[] = {product, (void *)(uintptr_t)residual, args->c};
    return gemm->product_bytes ? cuda_launch(base, gemm->finish, three, 3) : cuda_launch(base, gemm->finish, two, 2);
}
