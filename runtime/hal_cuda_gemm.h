/* What the files of cuda's contractions share. */
#ifndef PTC_RUNTIME_HAL_CUDA_GEMM_H
#define PTC_RUNTIME_HAL_CUDA_GEMM_H

#include "runtime/hal_cuda.h"

enum
{
    CUDA_GEMM_WORKSPACE_BYTES = 32 << 20, /* at most, for an algorithm */
    CUDA_GEMM_ALIGNMENT = 64,             /* of operands: passes/plan_memory.c */
    CUDA_GEMM_AUX_ELEMS = 8               /* rows of aux are whole multiples, says cublasLt.h */
};

struct HalGemm
{
    HalGemm *next;
    GemmDesc desc;
    BlasLtMatmul matmul;
    BlasLtLayout a, b, c, d; /* its: a is our B */
    uint32_t epilogue;
    BlasLtAlgo algo;
    size_t algo_bytes;
    bool split;                /* a kernel of ours does what the epilogue does not */
    HalExecutable *executable; /* of it */
    const HalKernel *finish;   /* (product, residual or aux if any) -> C; or B -> sums */
    size_t product_bytes; /* of a product that is not in C: it lies in the workspace, before the algorithm's part */
};

/* "contraction 2 x 64x10x784, B transposed, bias, gelu_erf" */
const char *cuda_gemm_describe(Arena *arena, const GemmDesc *desc);
/* "cuBLASLt, DOING the CONTRACTION: what it says" */
Status cuda_gemm_fail(const CudaDevice *device, CuResult result, const GemmDesc *desc, const char *doing);

#define LT_TRY(call, doing)                                                                                            \
    do                                                                                                                 \
    {                                                                                                                  \
        CuResult lt_result_ = device->blaslt.call;                                                                     \
        if (lt_result_ != 0)                                                                                           \
            return cuda_gemm_fail(device, lt_result_, &gemm->desc, doing);                                             \
    } while (0)

/* hal_cuda_finish.c: the kernel that does what a split contraction leaves. */
Status cuda_gemm_prepare_finish(CudaDevice *device, HalGemm *gemm);

/* The product alone, without the split part: with an algorithm that may be another than the gemm's. */
CuResult cuda_gemm_product(const CudaDevice *device, const HalGemm *gemm, const GemmArgs *args, void *product,
                           const BlasLtAlgo *algo, void *workspace, size_t workspace_bytes);

/* Makes matmul and a to d from desc and split. After a failure, too: forget. */
Status cuda_gemm_describe_product(const CudaDevice *device, HalGemm *gemm);
void cuda_gemm_forget_product(const CudaDevice *device, HalGemm *gemm);

/* hal_cuda_tune.c: sets algo and algo_bytes. Of the algorithms that cuBLASLt proposes, the fastest here; they are
 * measured once per contraction, GPU and version of the library, and the choice is kept beside the cached kernels.
 * On a device with same_bits nothing is measured: the first that does not split k, of those for the product by itself
 * with rows without gaps, which the library takes with the epilogue, too. So neither time, leading dimensions, strides,
 * residual nor accumulation have a say. UNSUPPORTED: there is none, or (same_bits) not for these rows. */
Status cuda_gemm_choose(CudaDevice *device, HalGemm *gemm);

#endif
