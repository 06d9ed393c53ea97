/* What a device back end implements. Included by hal.c and the back ends only. */
#ifndef PTC_RUNTIME_HAL_OPS_H
#define PTC_RUNTIME_HAL_OPS_H

#include "runtime/hal.h"

/* Each entry has the contract of its namesake in hal.h. Buffers are handled by hal.c from raw memory. */
typedef struct
{
    Status (*create)(const HalOptions *options, HalDevice **out_device);
    void (*destroy)(HalDevice *device);
    void (*memory_info)(const HalDevice *device, HalMemoryInfo *info); /* fills total, free and workspace */
    Status (*memory_alloc)(HalDevice *device, size_t size_bytes, void **out_address); /* size_bytes >= 1 */
    void (*memory_free)(HalDevice *device, void *address, size_t size_bytes);
    Status (*copy)(HalDevice *device, HalCopyKind kind, void *dst, const void *src, size_t size_bytes);
    /* NULL: any memory of the host will do. size_bytes >= 1 */
    Status (*pinned_alloc)(HalDevice *device, size_t size_bytes, void **out_address);
    void (*pinned_free)(HalDevice *device, void *address);
    Status (*kernels_build)(Arena *arena, int device_index, const IrModule *const *modules, uint32_t n,
                            uint32_t n_parallel, HalKernelFile *out_files);
    Status (*executable_load)(HalDevice *device, const char *path, HalExecutable **out_executable);
    void (*executable_unload)(HalExecutable *executable);
    Status (*executable_kernel)(HalExecutable *executable, const char *name, const HalKernel **out_kernel);
    Status (*launch)(HalDevice *device, const HalKernel *kernel, void *const *bufs, size_t n_bufs);
    /* NULL where every call is a launch. */
    uint32_t (*kernel_family)(const HalKernel *kernel);
    Status (*batch_create)(HalDevice *device, const HalCall *calls, uint32_t n, HalBatch **out_batch);
    Status (*batch_launch)(HalDevice *device, const HalBatch *batch);
    void (*batch_destroy)(HalDevice *device, HalBatch *batch);
    Status (*gemm_create)(HalDevice *device, const GemmDesc *desc, const HalGemm **out_gemm);
    Status (*gemm_run)(HalDevice *device, const HalGemm *gemm, const GemmArgs *args);
    void (*gemms_drop)(HalDevice *device);
    /* NULL where the memory is the host's. create fills in device, dst, ahead, most_bytes before. */
    Status (*upload_create)(HalUpload *upload);
    Status (*upload_start)(HalUpload *upload, size_t size_bytes);
    Status (*upload_finish)(HalUpload *upload);
    void (*upload_destroy)(HalUpload *upload);
    Status (*sync)(HalDevice *device);
    /* NULL where the host's clock says it, behind a sync. */
    Status (*mark)(HalDevice *device, uint32_t number);
    Status (*mark_seconds)(HalDevice *device, uint32_t from, uint32_t to, double *out_seconds);
    /* NULL where there is no such tool. */
    bool (*names_ranges)(const HalDevice *device);
    void (*range_begin)(HalDevice *device, const char *name);
    void (*range_end)(HalDevice *device);
    /* NULL where nothing is recorded. */
    Status (*record_begin)(HalDevice *device);
    Status (*record_end)(HalDevice *device, HalGraph **out_graph);
    void (*record_drop)(HalDevice *device);
    Status (*graph_run)(HalDevice *device, const HalGraph *graph);
    bool (*graph_is_stale)(const HalDevice *device, const HalGraph *graph);
    void (*graph_destroy)(HalDevice *device, HalGraph *graph);
} HalOps;

/* First member of each back end's own device and executable. */
struct HalDevice
{
    const HalOps *ops;
    const char *name;
    bool computes, uses_host_memory, records;
    int64_t buffer_bytes;
    int64_t peak_buffer_bytes;
    double *marks_s; /* by the host's clock */
    uint32_t n_marks;
};

struct HalUpload
{
    HalDevice *device;
    void *dst;
    size_t most_bytes;
    HalBuffer *ahead;  /* on the device: what came while dst was in use */
    void *host, *own;  /* the back end's */
    size_t size_bytes; /* of the one under way */
};

struct HalExecutable
{
    HalDevice *device;
};

#define BACKEND(name, computes, memory, summary) extern const HalOps hal_##name##_ops;
#include "runtime/backends.def"
#undef BACKEND

/* Host memory for back ends that live there: whole pages, zeroed when first touched, large pages where the
 * kernel grants them. */
Status hal_host_alloc(size_t size_bytes, void **out_address);
void hal_host_free(void *address, size_t size_bytes);
/* Kernels in C (codegen/kernel_set.h). */
Status hal_host_kernels_build(Arena *arena, int device_index, const IrModule *const *modules, uint32_t n,
                              uint32_t n_parallel, HalKernelFile *out_files);
/* Total and available memory of the host. */
void hal_host_memory(int64_t *out_total_bytes, int64_t *out_free_bytes);

#endif
