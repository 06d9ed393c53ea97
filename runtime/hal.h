/* The device layer: memory, copies, executables, launches, contractions. One row of backends.def and one
 * HalOps table per back end; nothing above this header knows which device runs.
 *
 * Work is ordered: launches, contractions and copies of one device run as if one after another in call
 * order. A back end may return before the work is done; hal_sync waits for it, and copies from the device
 * wait by themselves. Addresses are device addresses: plain pointers on cpu, not to be dereferenced by the
 * caller in general, but arithmetic on them is allowed (base + offset planned by plan_memory).
 * One thread drives a device. */
#ifndef PTC_RUNTIME_HAL_H
#define PTC_RUNTIME_HAL_H

#include "base/status.h"
#include "ir/module.h"
#include "runtime/gemm.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct HalDevice HalDevice;
typedef struct HalBuffer HalBuffer;
typedef struct HalExecutable HalExecutable;
typedef struct HalKernel HalKernel;
typedef struct HalGemm HalGemm;
typedef struct HalGraph HalGraph;
typedef struct HalBatch HalBatch;

typedef struct
{
    int n_threads;    /* cpu: workers, 0 = one per usable core */
    bool pin;         /* cpu: pin workers to cores (this process has them to itself) */
    int device_index; /* of a back end with several devices; "cuda:1" means the same */
    int nth_process;  /* of this host: where the name has no index, processes take the devices in turn */
    bool no_graphs;   /* hal_device_records is false */
    bool has_peers;   /* other ranks: the device is to keep many streams apart */
    bool same_bits;   /* a contraction's sums are a function of its numbers, sizes and types alone */
} HalOptions;

typedef enum
{
    HAL_COPY_TO_DEVICE,
    HAL_COPY_FROM_DEVICE,
    HAL_COPY_ON_DEVICE
} HalCopyKind;

typedef struct
{
    int64_t total_bytes;  /* of the device; for cpu the host's memory */
    int64_t free_bytes;   /* an estimate, moves with other processes */
    int64_t buffer_bytes; /* held by this device's HalBuffers now */
    int64_t peak_buffer_bytes;
    int64_t workspace_bytes; /* held by executables and contractions */
} HalMemoryInfo;

/* name: a row of backends.def, else STATUS_BAD_INPUT with the known names in the detail; "cuda:1": the second one, and
 * what is no index is STATUS_USAGE. STATUS_DEVICE: the driver or a library is missing or too old, or there is no such
 * device. options NULL: the defaults (all zero). Destroy buffers and executables before the device. */
Status hal_device_create(const char *name, const HalOptions *options, HalDevice **out_device);
void hal_device_destroy(HalDevice *device);
const char *hal_device_name(const HalDevice *device);
/* The columns of backends.def. */
bool hal_device_computes(const HalDevice *device);
bool hal_device_uses_host_memory(const HalDevice *device);
HalMemoryInfo hal_memory_info(const HalDevice *device);
void hal_memory_reset_peak(HalDevice *device); /* to what is held now */

/* Memory aligned to 64 bytes, zeroed. size_bytes 0 is allowed. STATUS_OUT_OF_MEMORY when it does not fit. */
Status hal_buffer_create(HalDevice *device, size_t size_bytes, HalBuffer **out_buffer);
void hal_buffer_destroy(HalBuffer *buffer);
void *hal_buffer_address(const HalBuffer *buffer);

/* dst and src do not overlap. TO_DEVICE: src may be reused on return. FROM_DEVICE: dst is filled on return. */
Status hal_copy(HalDevice *device, HalCopyKind kind, void *dst, const void *src, size_t size_bytes);

/* Host memory that copies FROM_DEVICE go to straight; of a device whose memory is the host's, like any other. Aligned
 * to 64 bytes; to be freed before the device. */
Status hal_pinned_create(HalDevice *device, size_t size_bytes, void **out_address);
void hal_pinned_destroy(HalDevice *device, void *address); /* NULL is allowed */

/* What goes to the same place on a device with memory of its own again and again. The caller fills `host`; start copies
 * the first size_bytes of it, beside the work of the device, and may be called by another thread. Work behind finish,
 * which belongs to the device's thread, sees it; then host may be filled again. Destroy it before its device. */
typedef struct HalUpload HalUpload;
Status hal_upload_create(HalDevice *device, void *dst, size_t most_bytes, HalUpload **out_upload);
void *hal_upload_host(const HalUpload *upload);
Status hal_upload_start(HalUpload *upload, size_t size_bytes);
Status hal_upload_finish(HalUpload *upload);
void hal_upload_destroy(HalUpload *upload); /* NULL is allowed */

typedef struct
{
    const char *path; /* in the arena */
    bool cached;      /* nothing was compiled */
} HalKernelFile;
/* Makes files of the KERNEL functions of n modules, for hal_executable_load, through the cache of kernels; up to
 * n_parallel at a time where the back end can. name: as above. Needs no device object: other threads may call it. */
Status hal_kernels_build(Arena *arena, const char *name, const IrModule *const *modules, uint32_t n,
                         uint32_t n_parallel, HalKernelFile *out_files);

/* Loads compiled kernels: a table of shared objects (codegen/kernel_set.h) on cpu, launches and a cubin on cuda.
 * Workspaces are allocated here. null accepts any path and any kernel name. */
Status hal_executable_load(HalDevice *device, const char *path, HalExecutable **out_executable);
void hal_executable_unload(HalExecutable *executable);
/* Lent by the executable. An unknown name is STATUS_DEVICE. */
Status hal_executable_kernel(HalExecutable *executable, const char *name, const HalKernel **out_kernel);

/* bufs: operand addresses then result addresses, then, for a kernel with random numbers, the address of the call's
 * stream (u32, on the host); the array may be reused on return. */
Status hal_launch(HalDevice *device, const HalKernel *kernel, void *const *bufs, size_t n_bufs);

/* Calls that are done by one launch, on devices that can: of kernels of one executable and one family (0: none), n >=
 * 1, of which none reads or writes what another one writes. The batch keeps the addresses; destroy it before the
 * executable. */
typedef struct
{
    const HalKernel *kernel;
    void *const *bufs; /* operand addresses then result addresses */
} HalCall;
uint32_t hal_kernel_family(const HalDevice *device, const HalKernel *kernel);
Status hal_batch_create(HalDevice *device, const HalCall *calls, uint32_t n, HalBatch **out_batch);
Status hal_batch_launch(HalDevice *device, const HalBatch *batch);
void hal_batch_destroy(HalDevice *device, HalBatch *batch); /* NULL is allowed */

/* A prepared contraction, shared between equal descs, owned by the device. STATUS_UNSUPPORTED: not on this device. */
Status hal_gemm_create(HalDevice *device, const GemmDesc *desc, const HalGemm **out_gemm);
Status hal_gemm_run(HalDevice *device, const HalGemm *gemm, const GemmArgs *args);
/* The device forgets all prepared contractions: nothing is left that runs them. */
void hal_gemms_drop(HalDevice *device);

/* Work that is recorded once and replayed, on devices that can. Between begin and end, launches, contractions and
 * copies on the device do not run: they become a graph, with the addresses that they were given. What changes from run
 * to run is data on the device. Other calls are not allowed there. end: *out_graph is the caller's, to be destroyed
 * before what it runs. After any failure in between: hal_record_drop, after which the device is as before. */
bool hal_device_records(const HalDevice *device);
Status hal_record_begin(HalDevice *device);
Status hal_record_end(HalDevice *device, HalGraph **out_graph);
void hal_record_drop(HalDevice *device);
Status hal_graph_run(HalDevice *device, const HalGraph *graph);
/* It refers to memory of the device that has moved since (a larger workspace): it is to be recorded again. */
bool hal_graph_is_stale(const HalDevice *device, const HalGraph *graph);
void hal_graph_destroy(HalDevice *device, HalGraph *graph); /* NULL is allowed */

/* The time line of the device, for profiles: a mark is the moment when all work before it is done. Marks are numbered
 * from 0 on, by the caller; a number that is used again is another mark. Not while work is recorded. */
Status hal_mark(HalDevice *device, uint32_t number);
/* Seconds from one mark to a later one; waits for it. */
Status hal_mark_seconds(HalDevice *device, uint32_t from, uint32_t to, double *out_seconds);

/* A name for what is called until the range ends, for profilers of the device's maker; ranges nest. Only where there is
 * one that looks (hal_device_names_ranges). */
bool hal_device_names_ranges(const HalDevice *device);
void hal_range_begin(HalDevice *device, const char *name);
void hal_range_end(HalDevice *device);

/* Waits for all work and returns the first failure since the last hal_sync. */
Status hal_sync(HalDevice *device);

#endif
