/* Executor: runs the step functions of one planned module on one device.
 *
 * Creation resolves everything: one device allocation holds the globals and the arena (offsets from pass plan_memory),
 * every call becomes a kernel launch with fixed addresses, every matmul a prepared contraction. Running a step then
 * allocates nothing. The module and the device must outlive the executor. */
#ifndef PTC_RUNTIME_EXECUTOR_H
#define PTC_RUNTIME_EXECUTOR_H

#include "ir/module.h"
#include "runtime/hal.h"

typedef struct Executor Executor;

/* so_path: the compiled kernels of m (codegen/compile.h); NULL when m has none. m has the property PLANNED. */
Status executor_create(HalDevice *device, const IrModule *m, const char *so_path, Executor **out_executor);
/* The reference interpreter in place of a device: m in any stage of lowering, numbers kept in f64. */
Status executor_create_interp(const IrModule *m, Executor **out_executor);
void executor_destroy(Executor *executor); /* NULL is allowed */

/* Runs a step function to its end. NON_FINITE when a check_finite failed: nothing after it has run. */
Status executor_run(Executor *executor, const char *func);

/* Whole globals, to and from the host. The name must exist (BUG). */
Status executor_write_global(Executor *executor, const char *name, const void *data);
Status executor_read_global(Executor *executor, const char *name, void *data);
/* For outputs f32[]: the number. */
Status executor_read_scalar(Executor *executor, const char *name, double *out_value);

/* Bytes on the device, as planned. */
typedef struct
{
    int64_t param_bytes, state_bytes, input_bytes, output_bytes;
    int64_t arena_bytes;     /* activations and gradients: the largest step function's */
    int64_t workspace_bytes; /* of kernels and the contraction library */
} ExecutorMemory;
ExecutorMemory executor_memory(const Executor *executor);

/* Contractions and the whole of a function, in floating-point operations per run of the function. */
double executor_matmul_flops(const Executor *executor, const char *func);

/* Seconds that each launched op took over the runs since executor_profile_start, summed by kernel name or "matmul
 * MxNxK"; for `--profile`. Costs a synchronisation per op while it is on. */
typedef struct
{
    const char *name;
    uint64_t n_runs;
    double seconds;
} ExecutorProfileRow;
void executor_profile_start(Executor *executor);
/* Rows sorted by seconds, most first; owned by the executor. */
const ExecutorProfileRow *executor_profile_rows(Executor *executor, uint32_t *out_n_rows);

#endif
