/* Contractions of the cuda device by cuBLASLt.
 *
 * Its matrices are column-major: a stored (R, C) matrix of ours is a (C, R) one of its, so C = op(A) op(B) is asked for
 * as C' = op(B') op(A') with m and n exchanged, and a bias along our columns is one along its rows.
 *
 * Its epilogue is act(A B + C + bias), with relu and the tanh form of gelu. Of gelu it also has what a training step
 * takes (cublasLt.h, "Postprocessing options for the epilogue"):
 *
 *   GELU_AUX   the second result is gelu's operand, of D's type, rows of whole multiples of 8 elements
 *   DGELU      the product times gelu's derivative at such a matrix
 *   BGRADA     sums of its A, not transposed, over k, of D's type: of our B (K, N), the gradient of an output, beside
 *              the f32 gradient of the weights
 *
 * Not asked for are DGELU_BGRAD and sums of our A: the first would round the gradients of biases to bf16 where D is
 * bf16, and BGRADA gives them in f32 from the product that follows; the second is for weights (out, in), which we have
 * none of. RELU_AUX keeps a mask of bits with rows of 128 of them: relu's gradient is read off its result instead.
 * Results are the same in every run, as those of all its routines with a workspace of the caller's (cuBLAS, "Results
 * reproducibility").
 *
 * What is asked beyond that, and what the library refuses for a shape, is split: the product with its bias, then a
 * generated kernel for activation and residual, in the order that runtime/gemm.h says. */
#include "runtime/hal_cuda_gemm.h"

#include "base/bug.h"
#include "base/strbuf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
        strbuf_addf(&text, ", %s%s", gemm_act_name(d->act), d->aux ? " of what is kept" : "");
    if (d->dact != GEMM_ACT_none)
        strbuf_addf(&text, ", through the gradient of %s", gemm_act_name(d->dact));
    if (d->sums)
        strbuf_addf(&text, ", with sums of B");
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

/* aux, dact or sums */
static bool has_step_part(const GemmDesc *d)
{
    return d->aux || d->sums || d->dact != GEMM_ACT_none;
}

static bool must_split(const GemmDesc *d)
{
    const bool gelu = (d->aux ? d->act : d->dact) == GEMM_ACT_gelu_tanh;
    if (d->aux || d->dact != GEMM_ACT_none)
        return !gelu || d->n % CUDA_GEMM_AUX_ELEMS != 0;
    return !ACTS[d->act].in_epilogue || (d->act != GEMM_ACT_none && (d->residual || d->accumulate));
}

static bool is_dense(const GemmDesc *d)
{
    const bool one = d->batch == 1, residual = !d->residual || (d->ldr == d->n && (one || d->stride_r == d->m * d->n));
    return d->ldc == d->n && (one || d->stride_c == d->m * d->n) && residual;
}

static Status check_supported(const GemmDesc *desc)
{
    const char *why = NULL;
    if (desc->bias && desc->dtype_bias != desc->dtype_c)
        why = "a bias that is not of the result's type";
    else if (desc->residual && desc->accumulate)
        why = "a residual and accumulation";
    else if (has_step_part(desc) && (desc->batch != 1 || !is_dense(desc) || (desc->sums && desc->ldb != desc->n)))
        why = "parts of a training step with batches, or with gaps between rows";
    else if (must_split(desc) && !is_dense(desc))
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

static uint32_t epilogue_of(const HalGemm *gemm)
{
    const GemmDesc *d = &gemm->desc;
    if (d->sums)
        return gemm->split ? BLASLT_EPILOGUE_NONE : BLASLT_EPILOGUE_BGRADA;
    if (d->dact != GEMM_ACT_none)
        return gemm->split ? BLASLT_EPILOGUE_NONE : BLASLT_EPILOGUE_DGELU;
    uint32_t epilogue = gemm->split ? BLASLT_EPILOGUE_NONE : ACTS[d->act].epilogue;
    if (d->aux && !gemm->split)
        epilogue |= BLASLT_EPILOGUE_AUX;
    if (d->bias)
        epilogue = epilogue == BLASLT_EPILOGUE_NONE ? BLASLT_EPILOGUE_BIAS : epilogue | BLASLT_EPILOGUE_BIAS;
    return epilogue;
}

static int32_t type_of(GemmDtype dtype)
{
    return dtype == GEMM_BF16 ? BLASLT_BF16 : BLASLT_F32;
}

static Status make_vectors(const CudaDevice *device, HalGemm *gemm)
{
    const GemmDesc *d = &gemm->desc;
    const void *aligned = (const void *)(uintptr_t)CUDA_GEMM_ALIGNMENT; /* the choice may depend on that */
    const int32_t bias_type = type_of(d->sums ? d->dtype_c : d->dtype_bias), aux_type = type_of(d->dtype_c);
    if (d->bias || gemm->epilogue == BLASLT_EPILOGUE_BGRADA)
    {
        LT_TRY(matmul_set(gemm->matmul, BLASLT_DESC_BIAS_TYPE, &bias_type, sizeof bias_type), "describing");
        LT_TRY(matmul_set(gemm->matmul, BLASLT_DESC_BIAS_POINTER, &aligned, sizeof(void *)), "describing");
    }
    if (!(gemm->epilogue & BLASLT_EPILOGUE_AUX))
        return STATUS_OK;
    LT_TRY(matmul_set(gemm->matmul, BLASLT_DESC_AUX_TYPE, &aux_type, sizeof aux_type), "describing");
    LT_TRY(matmul_set(gemm->matmul, BLASLT_DESC_AUX_LD, &d->n, sizeof d->n), "describing");
    LT_TRY(matmul_set(gemm->matmul, BLASLT_DESC_AUX_POINTER, &aligned, sizeof(void *)), "describing");
    return STATUS_OK;
}

static Status make_matmul(const CudaDevice *device, HalGemm *gemm)
{
    const GemmDesc *d = &gemm->desc;
    const int32_t transa = d->trans_b ? BLASLT_OP_T : BLASLT_OP_N, transb = d->trans_a ? BLASLT_OP_T : BLASLT_OP_N;
    gemm->epilogue = epilogue_of(gemm);
    LT_TRY(matmul_create(&gemm->matmul, d->tf32 && d->dtype_ab == GEMM_F32 ? BLASLT_COMPUTE_TF32 : BLASLT_COMPUTE_F32,
                         BLASLT_F32),
           "describing");
    LT_TRY(matmul_set(gemm->matmul, BLASLT_DESC_TRANSA, &transa, sizeof transa), "describing");
    LT_TRY(matmul_set(gemm->matmul, BLASLT_DESC_TRANSB, &transb, sizeof transb), "describing");
    LT_TRY(matmul_set(gemm->matmul, BLASLT_DESC_EPILOGUE, &gemm->epilogue, sizeof gemm->epilogue), "describing");
    return make_vectors(device, gemm);
}

void cuda_gemm_forget_product(const CudaDevice *device, HalGemm *gemm)
{
    BlasLtLayout *const layouts[] = {&gemm->a, &gemm->b, &gemm->c, &gemm->d};
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
    {
        if (*layouts[i])
            device->blaslt.layout_destroy(*layouts[i]);
        *layouts[i] = NULL;
    }
    if (gemm->matmul)
        device->blaslt.matmul_destroy(gemm->matmul);
    gemm->matmul = NULL;
}

Status cuda_gemm_describe_product(const CudaDevice *device, HalGemm *gemm)
{
    TRY(make_matmul(device, gemm));
    return make_layouts(device, gemm);
}

static Status prepare_product(CudaDevice *device, HalGemm *gemm)
{
    TRY(cuda_gemm_describe_product(device, gemm));
    return cuda_gemm_choose(device, gemm);
}

/* What the library refuses it says in its own way, so any refusal of an epilogue is followed by the same without it. */
static Status prepare_whole(CudaDevice *device, HalGemm *gemm)
{
    const Status status = prepare_product(device, gemm);
    if (status == STATUS_OK || !has_step_part(&gemm->desc))
        return status;
    fprintf(stderr, "ptc: warning: %s; a kernel does what the epilogue was to do\n", status_detail());
    cuda_gemm_forget_product(device, gemm);
    gemm->split = true;
    return STATUS_OK;
}

static Status prepare(CudaDevice *device, HalGemm *gemm)
{
    TRY(check_supported(&gemm->desc));
    TRY(cuda_enter(device));
    gemm->split = must_split(&gemm->desc);
    if (!gemm->split)
        TRY(prepare_whole(device, gemm));
    if (gemm->split)
    {
        TRY(cuda_gemm_prepare_finish(device, gemm));
        TRY(prepare_product(device, gemm));
    }
    return cuda_workspace_reserve(device, gemm->product_bytes + gemm->algo_bytes);
}

static void destroy(CudaDevice *device, HalGemm *gemm)
{
    cuda_gemm_forget_product(device, gemm);
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
           x->residual == y->residual && x->accumulate == y->accumulate && x->act == y->act && x->aux == y->aux &&
           x->dact == y->dact && x->sums == y->sums && x->m == y->m && x->n == y->n && x->k == y->k &&
           x->batch == y->batch && x->lda == y->lda && x->ldb == y->ldb && x->ldc == y->ldc && x->ldr == y->ldr &&
           x->stride_a == y->stride_a && x->stride_b == y->stride_b && x->stride_c == y->stride_c &&
           x->stride_r == y->stride_r;
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
    const bool adds = (desc->residual || desc->accumulate) && !gemm->product_bytes;
    const void *added = adds && desc->residual ? args->residual : product;
    CuResult result = 0;
    if (desc->bias)
        result = device->blaslt.matmul_set(gemm->matmul, BLASLT_DESC_BIAS_POINTER, &args->bias, sizeof(void *));
    else if (gemm->epilogue == BLASLT_EPILOGUE_BGRADA)
        result = device->blaslt.matmul_set(gemm->matmul, BLASLT_DESC_BIAS_POINTER, &args->sums, sizeof(void *));
    if (result == 0 && gemm->epilogue & BLASLT_EPILOGUE_AUX)
        result = device->blaslt.matmul_set(gemm->matmul, BLASLT_DESC_AUX_POINTER, &args->aux, sizeof(void *));
    if (result != 0)
        return result;
    return device->blaslt.matmul(device->handle, gemm->matmul, &one, args->b, gemm->a, args->a, gemm->b,
                                 adds ? &one : &zero, added, adds ? gemm->c : gemm->d, product, gemm->d, algo,
                                 workspace_bytes ? workspace : NULL, workspace_bytes, device->stream);
}

static Status run_finish(HalDevice *base, const HalGemm *gemm, const GemmArgs *args, void *product)
{
    const GemmDesc *desc = &gemm->desc;
    const void *second = desc->dact != GEMM_ACT_none ? args->aux : desc->residual ? args->residual : args->c;
    void *const sums[] = {(void *)(uintptr_t)args->b, args->sums}, *const two[] = {product, args->c},
                *const three[] = {product, (void *)(uintptr_t)second, args->c};
    if (desc->sums)
        return cuda_launch(base, gemm->finish, sums, 2);
    return gemm->product_bytes || desc->dact != GEMM_ACT_none ? cuda_launch(base, gemm->finish, three, 3)
                                                              : cuda_launch(base, gemm->finish, two, 2);
}

Status cuda_gemm_run(HalDevice *base, const HalGemm *gemm, const GemmArgs *args)
{
    const CudaDevice *device = (const CudaDevice *)base;
    char *workspace = (char *)(uintptr_t)device->workspace; /* an address of the device */
    void *product = gemm->product_bytes ? workspace : gemm->split && gemm->desc.aux ? args->aux : args->c;
    TRY(cuda_enter(device));
    const CuResult result =
        cuda_gemm_product(device, gemm, args, product, &gemm->algo, workspace + gemm->product_bytes, gemm->algo_bytes);
    if (result != 0)
        return cuda_gemm_fail(device, result, &gemm->desc, "running");
    return gemm->split ? run_finish(base, gemm, args, product) : STATUS_OK;
}
