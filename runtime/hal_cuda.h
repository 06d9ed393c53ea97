/* What the files of the cuda back end share. One stream does all work of a device, in call order, but
 * for uploads. */
#ifndef PTC_RUNTIME_HAL_CUDA_H
#define PTC_RUNTIME_HAL_CUDA_H

#include "runtime/cuda_load.h"
#include "runtime/hal_ops.h"

/* Host memory that the device reads and writes by itself; the event says that it has done so. */
typedef struct
{
    void *memory;
    CuEvent done;
} CudaStaging;

/* Host memory of hal_pinned_create. */
typedef struct CudaPinned
{
    struct CudaPinned *next;
    char *memory;
    size_t size_bytes;
} CudaPinned;

enum
{
    CUDA_N_STAGING = 2,
    CUDA_STAGING_BYTES = 4 << 20
};

typedef struct
{
    HalDevice base;
    CudaDriver driver;
    CudaBlasLt blaslt;
    CudaNvtx nvtx;
    int index, arch;
    bool same_bits; /* of its options */
    char product[64];
    CuDevice device;
    CuContext context; /* the primary one of the device */
    CuStream stream;
    CuStream upload_stream; /* copies that go beside the work; NULL: there was none yet */
    CudaStaging staging[CUDA_N_STAGING];
    CudaPinned *pinned;
    /* Serves all kernels and contractions: they run one after another. It only grows. */
    CuDevicePtr workspace;
    size_t workspace_bytes;
    size_t tables_bytes; /* of all batches */
    BlasLtHandle handle;
    HalGemm *gemms; /* all that were prepared */
    CuEvent *marks; /* by number */
    uint32_t n_marks;
} CudaDevice;

/* Driver calls of this thread are about this device from now on. */
Status cuda_enter(const CudaDevice *device);
/* At least size_bytes of workspace. What is in it is of no worth between calls. */
Status cuda_workspace_reserve(CudaDevice *device, size_t size_bytes);

/* hal_cuda_build.c: KERNEL functions to a file of the cache: a table of launches (text), then the cubin. */
Status cuda_kernels_build(Arena *arena, int device_index, const IrModule *const *modules, uint32_t n,
                          uint32_t n_parallel, HalKernelFile *out_files);

/* hal_cuda_kernels.c: loads such a file. */
Status cuda_executable_load(HalDevice *device, const char *path, HalExecutable **out_executable);
void cuda_executable_unload(HalExecutable *executable);
Status cuda_executable_kernel(HalExecutable *executable, const char *name, const HalKernel **out_kernel);
Status cuda_launch(HalDevice *device, const HalKernel *kernel, void *const *bufs, size_t n_bufs);
uint32_t cuda_kernel_family(const HalKernel *kernel);
Status cuda_batch_create(HalDevice *device, const HalCall *calls, uint32_t n, HalBatch **out_batch);
Status cuda_batch_launch(HalDevice *device, const HalBatch *batch);
void cuda_batch_destroy(HalDevice *device, HalBatch *batch);

/* hal_cuda_gemm.c */
Status cuda_gemm_create(HalDevice *device, const GemmDesc *desc, const HalGemm **out_gemm);
Status cuda_gemm_run(HalDevice *device, const HalGemm *gemm, const GemmArgs *args);
void cuda_gemms_drop(HalDevice *device);

/* hal_cuda_time.c */
Status cuda_mark(HalDevice *device, uint32_t number);
Status cuda_mark_seconds(HalDevice *device, uint32_t from, uint32_t to, double *out_seconds);
void cuda_marks_destroy(CudaDevice *device);
bool cuda_names_ranges(const HalDevice *device);
void cuda_range_begin(HalDevice *device, const char *name);
void cuda_range_end(HalDevice *device);

/* hal_cuda_upload.c */
Status cuda_upload_create(HalUpload *upload);
Status cuda_upload_start(HalUpload *upload, size_t size_bytes);
Status cuda_upload_finish(HalUpload *upload);
void cuda_upload_destroy(HalUpload *upload);

/* hal_cuda_graph.c */
Status cuda_record_begin(HalDevice *device);
Status cuda_record_end(HalDevice *device, HalGraph **out_graph);
void cuda_record_drop(HalDevice *device);
Status cuda_graph_run(HalDevice *device, const HalGraph *graph);
bool cuda_graph_is_stale(const HalDevice *device, const HalGraph *graph);
void cuda_graph_destroy(HalDevice *device, HalGraph *graph);

/* The version of the files above; the first line of each names it. */
#define CUDA_KERNEL_ABI_VERSION 3

#endif
