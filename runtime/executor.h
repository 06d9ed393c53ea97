/* Executor: runs the step functions of one planned module, or of variants of it, on one device.
 *
 * Creation resolves everything: one device allocation holds the arena (offsets from pass plan_memory), inputs and
 * outputs, each param and state has one of its own, every call becomes a kernel launch with fixed addresses, every
 * matmul a prepared contraction. Running a step then allocates nothing. The module and the device must outlive the
 * executor. */
#ifndef PTC_RUNTIME_EXECUTOR_H
#define PTC_RUNTIME_EXECUTOR_H

#include "ir/module.h"
#include "runtime/comm.h"
#include "runtime/device_comm.h"
#include "runtime/hal.h"

typedef struct Executor Executor;

/* The groups that a rank's program talks in; lent. */
typedef struct
{
    Comm *world;
    Comm *pipe;         /* the ranks of this pipeline: rank = stage; `peer` of send and recv */
    Comm *data;         /* the ranks with the same stage: all_reduce */
    DeviceComm *device; /* NULL: the bytes go through memory of the host */
} ExecutorComm;

typedef struct
{
    const IrModule *m;        /* lent; with the property PLANNED */
    const char *kernels_path; /* of hal_kernels_build; NULL when it has none */
    const char *label;        /* what profiles call it when there are several; NULL: nothing */
} ExecutorModule;

/* Params and states that outlive their executor, where they lie. The next one on the same device takes over in place,
 * by name, what it needs. */
typedef struct ExecutorTensors ExecutorTensors;
ExecutorTensors *executor_tensors_create(void);
void executor_tensors_destroy(ExecutorTensors *tensors); /* before the device; NULL is allowed */

typedef struct
{
    const char *name;
    size_t size_bytes;
} ExecutorTensorInfo;
uint32_t executor_tensors_count(const ExecutorTensors *tensors);
ExecutorTensorInfo executor_tensors_info(const ExecutorTensors *tensors, uint32_t i);
/* Where it lies on the device that it is of. The name must be one that is there (BUG), as below. */
void *executor_tensors_address(const ExecutorTensors *tensors, const char *name);
/* One more, of zeros, of a device. */
Status executor_tensors_add(ExecutorTensors *tensors, HalDevice *device, const char *name, size_t size_bytes);
void executor_tensors_remove(ExecutorTensors *tensors, const char *name);

/* Several modules are variants of one: the same globals by name, of which inputs and rows of metrics may have other
 * extents, the largest ones in the last module. Each global, and the arena, is one piece of memory for all of them. The
 * last is selected. comm: NULL for programs that talk to nobody (then a send, recv or all_reduce in them is
 * STATUS_UNSUPPORTED). Memory is taken for the
 * globals that the step functions use, not for those of other ranks; OUT_OF_MEMORY tells what was planned. Params and
 * states are zero, or what they were in `from` (NULL: nothing), which they leave. */
Status executor_create(HalDevice *device, const ExecutorModule *modules, uint32_t n_modules, const ExecutorComm *comm,
                       ExecutorTensors *from, Executor **out_executor);
/* The params and states that it will have, in the arena; no device is wanted for that. */
ExecutorTensorInfo *executor_needs(Arena *arena, const ExecutorModule *modules, uint32_t n_modules, uint32_t *out_n);
/* The contractions that it will prepare, as often as they come, in the arena; no device is wanted for that. */
const GemmDesc *executor_contractions(Arena *arena, const IrModule *m, uint32_t *out_n);
/* The reference interpreter in place of a device: modules in any stage of lowering, numbers kept in f64. */
Status executor_create_interp(const ExecutorModule *modules, uint32_t n_modules, ExecutorTensors *from,
                              Executor **out_executor);
void executor_destroy(Executor *executor); /* NULL is allowed */
/* Its params and states go to `to`, and it ends, in case of failure, too. comm must stay as long as they. */
Status executor_release(Executor *executor, ExecutorTensors *to);

/* The variant that is run, written to and asked about from now on. */
void executor_select(Executor *executor, uint32_t variant);
/* Runs a step function to its end. NON_FINITE when a check_finite failed: nothing after it has run. */
Status executor_run(Executor *executor, const char *func);

/* Whether a step function reads or writes the global on this rank. */
bool executor_has_global(const Executor *executor, const char *name);
/* How many numbers it has, in the selected variant and in any. */
uint64_t executor_n_elems(const Executor *executor, const char *name);
uint64_t executor_variant_elems(const Executor *executor, uint32_t variant, const char *name);
/* Whole globals, to and from the host. The name must be one that executor_has_global (BUG). Copies of params that are
 * written are made again before a step function runs (@refresh). */
Status executor_write_global(Executor *executor, const char *name, const void *data);
Status executor_read_global(Executor *executor, const char *name, void *data);
/* The next contents of an input, for steps that are run again and again: the caller fills `host` while a step runs.
 * start may be called by another thread, and where executor_uploads_early the copy to the device goes on from then;
 * elsewhere it does nothing. variant: the contents are for that one. finish: the selected variant has them; then host
 * may be filled again. Owned by the executor. */
typedef struct ExecutorUpload ExecutorUpload;
Status executor_upload_create(Executor *executor, const char *name, ExecutorUpload **out_upload);
void *executor_upload_host(const ExecutorUpload *upload);
bool executor_uploads_early(const Executor *executor);
Status executor_upload_start(ExecutorUpload *upload, uint32_t variant);
Status executor_upload_finish(ExecutorUpload *upload);
/* For outputs f32[]: the number. */
Status executor_read_scalar(Executor *executor, const char *name, double *out_value);

/* Bytes on the device, as planned. */
typedef struct
{
    int64_t param_bytes; /* with their copies in bf16 */
    int64_t state_bytes, input_bytes, output_bytes;
    int64_t arena_bytes;     /* activations and gradients: the largest step function's */
    int64_t workspace_bytes; /* of kernels and the contraction library */
    int64_t comm_bytes;      /* buffers of messages and sums that this rank shares with others of its host */
} ExecutorMemory;
ExecutorMemory executor_memory(const Executor *executor);
/* The same of a planned module, without an executor; workspaces are not known then (0). */
ExecutorMemory executor_memory_planned(const IrModule *m);

/* Contractions and the whole of a function, in floating-point operations per run of the function. */
double executor_matmul_flops(const Executor *executor, const char *func);

/* Seconds that each launched op took over the runs since executor_profile_start, summed by kernel name or "matmul
 * MxNxK"; for `--profile`. While it is on, times are the device's own, and nothing is replayed as a graph. Bytes are
 * those of operands and results, each counted once a run: what has to be moved, whatever is. */
typedef struct
{
    const char *name;
    uint64_t n_runs;
    double seconds, bytes;
} ExecutorProfileRow;
void executor_profile_start(Executor *executor);
/* Rows sorted by seconds, most first; owned by the executor. */
const ExecutorProfileRow *executor_profile_rows(Executor *executor, uint32_t *out_n_rows);

/* Seconds of every op of a step function (by op, copies at their set; others stay 0): the median of several runs in
 * place, of one unit among those that are alike. The globals are scribbled over. */
Status executor_time_ops(Executor *executor, const char *func, double *out_seconds);

/* For messages of the communicator: the step that runs next. */
void executor_set_step(Executor *executor, uint64_t step);
/* Of the last run: seconds until its last forward or backward op had ended, and how many of them it waited for other
 * ranks; then seconds that the rest of it waited. */
typedef struct
{
    double pipe_s, pipe_wait_s, update_wait_s;
} ExecutorTimes;
ExecutorTimes executor_times(const Executor *executor);

/* One op of a traced run. */
typedef struct
{
    const char *name;  /* kernel, "matmul MxNxK", or op with its peer */
    const char *place; /* the layer in the XML: "model.xml:12:3" */
    const char *part;  /* "forward", "backward", "optimizer" */
    uint32_t unit;
    int32_t micro_batch;   /* -1: none */
    bool waits;            /* communication */
    double start_s, end_s; /* CLOCK_REALTIME */
} ExecutorEvent;
/* Records every op of the runs from now on, up to max_events, until it is stopped; the events stay. */
void executor_trace_start(Executor *executor, uint32_t max_events);
void executor_trace_stop(Executor *executor);
const ExecutorEvent *executor_trace_events(const Executor *executor, uint32_t *out_n_events);

#endif
