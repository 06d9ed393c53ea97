/* runtime/cuda_abi.h against the toolkit's headers, where they are. The checks are the compiler's. */
#include "harness/test.h"

#include "runtime/cuda_load.h"

#ifdef PTC_HAVE_CUDA_HEADERS
#include <cublasLt.h>
#include <cuda.h>
#if __has_include(<nccl.h>)
#include <nccl.h>
#endif
#include <nvrtc.h>

#define SAME(ours, theirs) _Static_assert((long)(ours) == (long)(theirs), #ours " is " #theirs)
SAME(CUDA_OUT_OF_MEMORY, CUDA_ERROR_OUT_OF_MEMORY);
SAME(CUDA_NOT_READY, CUDA_ERROR_NOT_READY);
SAME(CUDA_FUNCTION_MAX_SMEM, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
SAME(CUDA_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
SAME(CUDA_CAPABILITY_MINOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
SAME(CUDA_STREAM_NON_BLOCKING, CU_STREAM_NON_BLOCKING);
SAME(CUDA_EVENT_NO_TIMING, CU_EVENT_DISABLE_TIMING);
SAME(CUDA_CAPTURE_RELAXED, CU_STREAM_CAPTURE_MODE_RELAXED);
SAME(CUDA_CAPTURE_UNSUPPORTED, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
SAME(BLASLT_NOT_SUPPORTED, CUBLAS_STATUS_NOT_SUPPORTED);
SAME(BLASLT_COMPUTE_F32, CUBLAS_COMPUTE_32F);
SAME(BLASLT_COMPUTE_TF32, CUBLAS_COMPUTE_32F_FAST_TF32);
SAME(BLASLT_F32, CUDA_R_32F);
SAME(BLASLT_BF16, CUDA_R_16BF);
SAME(BLASLT_OP_N, CUBLAS_OP_N);
SAME(BLASLT_OP_T, CUBLAS_OP_T);
SAME(BLASLT_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(BLASLT_DESC_TRANSB, CUBLASLT_MATMUL_DESC_TRANSB);
SAME(BLASLT_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_EPILOGUE);
SAME(BLASLT_DESC_BIAS_POINTER, CUBLASLT_MATMUL_DESC_BIAS_POINTER);
SAME(BLASLT_DESC_AUX_POINTER, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER);
SAME(BLASLT_DESC_AUX_LD, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD);
SAME(BLASLT_DESC_AUX_TYPE, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE);
SAME(BLASLT_DESC_BIAS_TYPE, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE);
SAME(BLASLT_LAYOUT_BATCH_COUNT, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT);
SAME(BLASLT_LAYOUT_BATCH_STRIDE, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET);
SAME(BLASLT_PREF_MAX_WORKSPACE, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(BLASLT_PREF_REDUCTIONS, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
SAME(BLASLT_REDUCE_NONE, CUBLASLT_REDUCTION_SCHEME_NONE);
SAME(BLASLT_REDUCE_F32, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
SAME(BLASLT_PREF_ALIGNMENT_A, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(BLASLT_PREF_ALIGNMENT_A + 3, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
SAME(BLASLT_EPILOGUE_NONE, CUBLASLT_EPILOGUE_DEFAULT);
SAME(BLASLT_EPILOGUE_RELU, CUBLASLT_EPILOGUE_RELU);
SAME(BLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_BIAS);
SAME(BLASLT_EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU);
SAME(BLASLT_EPILOGUE_GELU | BLASLT_EPILOGUE_AUX, CUBLASLT_EPILOGUE_GELU_AUX);
SAME(BLASLT_EPILOGUE_GELU | BLASLT_EPILOGUE_AUX | BLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_GELU_AUX_BIAS);
SAME(BLASLT_EPILOGUE_DGELU, CUBLASLT_EPILOGUE_DGELU);
SAME(BLASLT_EPILOGUE_BGRADA, CUBLASLT_EPILOGUE_BGRADA);
SAME(sizeof(BlasLtAlgo), sizeof(cublasLtMatmulAlgo_t));
SAME(sizeof(BlasLtHeuristic), sizeof(cublasLtMatmulHeuristicResult_t));
SAME(offsetof(BlasLtHeuristic, workspace_bytes), offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
SAME(offsetof(BlasLtHeuristic, state), offsetof(cublasLtMatmulHeuristicResult_t, state));
SAME(sizeof(CuDevicePtr), sizeof(CUdeviceptr));
SAME(sizeof(CuDevice), sizeof(CUdevice));
SAME(sizeof(CuResult), sizeof(CUresult));
SAME(sizeof(CuResult), sizeof(nvrtcResult));
SAME(sizeof(CuResult), sizeof(cublasStatus_t));
#define CUDA_ERROR(code, status, advice) SAME_ERROR_##code;
#define SAME_ERROR_2                     SAME(2, CUDA_ERROR_OUT_OF_MEMORY)
#define SAME_ERROR_46                    SAME(46, CUDA_ERROR_DEVICE_UNAVAILABLE)
#define SAME_ERROR_100                   SAME(100, CUDA_ERROR_NO_DEVICE)
#define SAME_ERROR_214                   SAME(214, CUDA_ERROR_ECC_UNCORRECTABLE)
#define SAME_ERROR_700                   SAME(700, CUDA_ERROR_ILLEGAL_ADDRESS)
#define SAME_ERROR_702                   SAME(702, CUDA_ERROR_LAUNCH_TIMEOUT)
#define SAME_ERROR_719                   SAME(719, CUDA_ERROR_LAUNCH_FAILED)
#define SAME_ERROR_803                   SAME(803, CUDA_ERROR_SYSTEM_DRIVER_MISMATCH)
#define SAME_ERROR_900                   SAME(900, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
#define SAME_ERROR_901                   SAME(901, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
#include "runtime/cuda_errors.def"
#undef CUDA_ERROR
#ifdef NCCL_VERSION_CODE
SAME(NCCL_VERSION_2_18, NCCL_VERSION(2, 18, 0));
SAME(NCCL_SYSTEM_ERROR, ncclSystemError);
SAME(NCCL_REMOTE_ERROR, ncclRemoteError);
SAME(NCCL_IN_PROGRESS, ncclInProgress);
SAME(NCCL_NO_COLOR, NCCL_SPLIT_NOCOLOR);
SAME(NCCL_BYTES, ncclInt8);
SAME(NCCL_F32, ncclFloat32);
SAME(NCCL_NOT_SET, NCCL_CONFIG_UNDEF_INT);
SAME(sizeof(NcclId), sizeof(ncclUniqueId));
SAME(sizeof(CuResult), sizeof(ncclResult_t));
SAME(sizeof(int), sizeof(ncclDataType_t));
SAME(offsetof(NcclConfig, magic), offsetof(ncclConfig_t, magic));
SAME(offsetof(NcclConfig, version), offsetof(ncclConfig_t, version));
SAME(offsetof(NcclConfig, blocking), offsetof(ncclConfig_t, blocking));
SAME(offsetof(NcclConfig, cga_cluster_size), offsetof(ncclConfig_t, cgaClusterSize));
SAME(offsetof(NcclConfig, min_ctas), offsetof(ncclConfig_t, minCTAs));
SAME(offsetof(NcclConfig, max_ctas), offsetof(ncclConfig_t, maxCTAs));
SAME(offsetof(NcclConfig, net_name), offsetof(ncclConfig_t, netName));
SAME(offsetof(NcclConfig, split_share), offsetof(ncclConfig_t, splitShare));
#endif

static void numbers_are_the_toolkits(void **state)
{
    (void)state;
    printf("CUDA %d.%d\n", CUDA_VERSION / 1000, CUDA_VERSION % 1000 / 10);
    assert_true(CUDA_VERSION >= 12000);
#ifdef NCCL_VERSION_CODE
    const ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    assert_int_equal(config.magic, NCCL_CONFIG_MAGIC);
#else
    TEST_SKIP("no nccl.h beside the toolkit's headers: NCCL's numbers are not compared with it");
#endif
}
#else
static void numbers_are_the_toolkits(void **state)
{
    (void)state;
    TEST_SKIP("no CUDA toolkit: the numbers of runtime/cuda_abi.h are not compared with its headers");
}
#endif

/* The toolkit's own libraries have every symbol of our tables. */
#ifdef PTC_NVRTC_DIR
#include <dlfcn.h>

static void libraries_have_the_symbols(void **state)
{
    (void)state;
#define ENTRY(returns, name, symbol, parameters) symbol,
    static const char *const nvrtc[] = {
#include "runtime/cuda_nvrtc.def"
    };
    static const char *const blaslt[] = {
#include "runtime/cuda_blaslt.def"
    };
    static const char *const nvtx[] = {
#include "runtime/cuda_nvtx.def"
    };
    static const char *const nccl[] = {
#include "runtime/cuda_nccl.def"
    };
#undef ENTRY
    void *library = dlopen(PTC_NVRTC_DIR "/libnvrtc.so", RTLD_NOW | RTLD_LOCAL);
    assert_non_null(library);
    for (size_t i = 0; i < sizeof nvrtc / sizeof *nvrtc; i++)
        if (!dlsym(library, nvrtc[i]))
            fail_msg("NVRTC has no %s", nvrtc[i]);
    library = dlopen(PTC_NVRTC_DIR "/libnvtx3interop.so.1", RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; library && i < sizeof nvtx / sizeof *nvtx; i++)
        if (!dlsym(library, nvtx[i]))
            fail_msg("NVTX has no %s", nvtx[i]);
    library = dlopen(PTC_NVRTC_DIR "/libnccl.so.2", RTLD_LAZY | RTLD_LOCAL);
    for (size_t i = 0; library && i < sizeof nccl / sizeof *nccl; i++)
        if (!dlsym(library, nccl[i]))
            fail_msg("NCCL has no %s", nccl[i]);
    library = dlopen(PTC_NVRTC_DIR "/libcublasLt.so", RTLD_LAZY | RTLD_LOCAL);
    if (!library)
        TEST_SKIP("no cuBLASLt beside NVRTC: its symbols are not looked for");
    for (size_t i = 0; i < sizeof blaslt / sizeof *blaslt; i++)
        if (!dlsym(library, blaslt[i]))
            fail_msg("cuBLASLt has no %s", blaslt[i]);
}
#else
static void libraries_have_the_symbols(void **state)
{
    (void)state;
    TEST_SKIP("no CUDA toolkit: the symbols of our tables are not looked for in its libraries");
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(numbers_are_the_toolkits),
                                       cmocka_unit_test(libraries_have_the_symbols)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
