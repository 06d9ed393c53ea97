/* The binary contract between generated C kernels and the cpu device.
 *
 * A generated shared object exports one table, `const PtcKernelTable ptc_kernel_table`. Its source is
 * self-contained: it repeats these structs as text (codegen prints them from here in meaning, not by
 * inclusion), so any change here bumps PTC_KERNEL_ABI_VERSION, which the loader compares. */
#ifndef PTC_CODEGEN_KERNEL_ABI_H
#define PTC_CODEGEN_KERNEL_ABI_H

#include <stdint.h>

#define PTC_KERNEL_ABI_VERSION 1u
#define PTC_KERNEL_MAX_PHASES  3
#define PTC_KERNEL_SYMBOL      "ptc_kernel_table"

/* Runs one task. bufs: the operand addresses, then the result addresses, in call order, then, for a kernel with
 * random numbers, the address of the call's stream (u32). workspace: shared
 * by all tasks and phases of one call (partial sums), uninitialised on entry of phase 0, kept between
 * phases. scratch: private to the worker, uninitialised. Both are aligned to 64 bytes and NULL when the
 * kernel asks for 0 bytes. Tasks of a phase may run in any order and at the same time, so they write
 * disjoint memory; what a task computes depends on its index only. Never allocates, never fails. */
typedef void PtcTaskFn(void *const *bufs, void *workspace, void *scratch, int64_t task);

typedef struct
{
    PtcTaskFn *run;
    int64_t n_tasks; /* a function of shapes only, never of the thread count */
} PtcKernelPhase;

typedef struct
{
    const char *name;
    uint32_t n_phases; /* 1..PTC_KERNEL_MAX_PHASES, run in order with a barrier between */
    PtcKernelPhase phase[PTC_KERNEL_MAX_PHASES];
    int64_t workspace_bytes; /* per call */
    int64_t scratch_bytes;   /* per worker */
} PtcKernel;

typedef struct
{
    uint32_t abi_version; /* PTC_KERNEL_ABI_VERSION */
    uint32_t n_kernels;
    const PtcKernel *kernels;
} PtcKernelTable;

#endif
