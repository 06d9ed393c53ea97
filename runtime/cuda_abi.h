/* The few types and numbers of CUDA's libraries that we use, so that ptc builds without the toolkit. Sources: cuda.h,
 * nvrtc.h, cublasLt.h, cublas_api.h and library_types.h of CUDA 13.0, the same in 12.x; nccl.h of 2.28, the same since
 * 2.18. tests/cuda/abi_test.c compares them with the toolkit's headers where those are. */
#ifndef PTC_RUNTIME_CUDA_ABI_H
#define PTC_RUNTIME_CUDA_ABI_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

/* cuda.h; results of all libraries are enums, 0 is success */
typedef int CuResult;
typedef int CuDevice;
typedef unsigned long long CuDevicePtr;
typedef struct CUctx_st *CuContext;
typedef struct CUstream_st *CuStream;
typedef struct CUevent_st *CuEvent;
typedef struct CUmod_st *CuModule;
typedef struct CUfunc_st *CuFunction;
typedef struct CUgraph_st *CuGraph;
typedef struct CUgraphExec_st *CuGraphExec;

enum
{
    CUDA_OUT_OF_MEMORY = 2,
    CUDA_NOT_READY = 600,
    CUDA_FUNCTION_MAX_SMEM = 8, /* dynamic, in bytes */
    CUDA_CAPABILITY_MAJOR = 75,
    CUDA_CAPABILITY_MINOR = 76,
    CUDA_STREAM_NON_BLOCKING = 1,
    CUDA_EVENT_NO_TIMING = 2,
    CUDA_CAPTURE_RELAXED = 2, /* what is called beside the stream stays allowed: kernels are loaded when first met */
    CUDA_CAPTURE_UNSUPPORTED = 900
};

/* nvrtc.h */
typedef struct _nvrtcProgram *NvrtcProgram;

/* cublasLt.h */
typedef struct cublasLtContext *BlasLtHandle;
typedef struct BlasLtMatmul *BlasLtMatmul; /* cublasLtMatmulDesc_t */
typedef struct BlasLtLayout *BlasLtLayout;
typedef struct BlasLtPreference *BlasLtPreference;

typedef struct
{
    uint64_t data[8];
} BlasLtAlgo;

typedef struct
{
    BlasLtAlgo algo;
    size_t workspace_bytes;
    int state; /* 0: it can be run */
    float waves;
    int reserved[4];
} BlasLtHeuristic;

enum
{
    BLASLT_NOT_SUPPORTED = 15, /* CUBLAS_STATUS_NOT_SUPPORTED */
    BLASLT_COMPUTE_F32 = 68,   /* no TF32 */
    BLASLT_COMPUTE_TF32 = 77,  /* f32 operands as TF32 */
    BLASLT_F32 = 0,            /* cudaDataType */
    BLASLT_BF16 = 14,
    BLASLT_OP_N = 0,
    BLASLT_OP_T = 1,
    BLASLT_DESC_TRANSA = 3, /* int32 */
    BLASLT_DESC_TRANSB = 4,
    BLASLT_DESC_EPILOGUE = 7,       /* uint32 */
    BLASLT_DESC_BIAS_POINTER = 8,   /* device pointer */
    BLASLT_DESC_AUX_POINTER = 11,   /* device pointer */
    BLASLT_DESC_AUX_LD = 12,        /* int64, elements */
    BLASLT_DESC_AUX_TYPE = 22,      /* int32 */
    BLASLT_DESC_BIAS_TYPE = 26,     /* int32 */
    BLASLT_LAYOUT_BATCH_COUNT = 5,  /* int32 */
    BLASLT_LAYOUT_BATCH_STRIDE = 6, /* int64, elements */
    BLASLT_PREF_MAX_WORKSPACE = 1,  /* uint64 */
    BLASLT_PREF_REDUCTIONS = 3,     /* uint32, a mask */
    BLASLT_PREF_ALIGNMENT_A = 5,    /* uint32, bytes; B, C and D follow */
    BLASLT_REDUCE_NONE = 0,         /* k is not split */
    BLASLT_REDUCE_F32 = 2,          /* partial sums over k; those of the others (1, 4) are of D's type */
    BLASLT_EPILOGUE_NONE = 1,
    BLASLT_EPILOGUE_RELU = 2,
    BLASLT_EPILOGUE_BIAS = 4,  /* or'ed with the others */
    BLASLT_EPILOGUE_GELU = 32, /* the tanh form */
    BLASLT_EPILOGUE_AUX = 128, /* or'ed with GELU, BIAS: gelu's operand is a second result */
    BLASLT_EPILOGUE_DGELU = 64 | BLASLT_EPILOGUE_AUX,
    BLASLT_EPILOGUE_BGRADA = 256 /* sums of A over k, where the bias is otherwise */
};

/* nccl.h */
typedef struct ncclComm *NcclComm;

typedef struct
{
    char bytes[128];
} NcclId;

/* As 2.18 has it: the later ones are longer, and take what is missing as not set. */
typedef struct
{
    size_t size_bytes;
    unsigned magic, version;
    int blocking, cga_cluster_size, min_ctas, max_ctas;
    const char *net_name;
    int split_share;
} NcclConfig;

enum
{
    NCCL_VERSION_2_18 = 21800,
    NCCL_SYSTEM_ERROR = 2,
    NCCL_REMOTE_ERROR = 6,
    NCCL_IN_PROGRESS = 7,
    NCCL_NO_COLOR = -1,
    NCCL_BYTES = 0, /* data types: int8, float32 */
    NCCL_F32 = 7
};
#define NCCL_CONFIG_MAGIC 0xcafebeefU
#define NCCL_NOT_SET      INT_MIN

#endif
