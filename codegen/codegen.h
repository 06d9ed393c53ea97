/* KERNEL functions to text: C for the host compiler, CUDA C for NVRTC. Both printers read the same loop nest
 * (codegen/nest.h); attention, gather and scatter_add are templates (codegen/template.h).
 *
 * What a kernel may hold (codegen_kernel_supported):
 *   loop kernels   arg, output, const, iota, random, EWISE and VIEW ops, reductions:
 *     - elementwise and data movement, any composition; full outputs have the same number of elements;
 *     - row reductions: over the trailing axes; all of one kernel cover the same (rows x inner); results may be used
 *       by any later elementwise op or reduction of the kernel;
 *     - column reductions: over one run of leading or middle axes, and whole sums to a scalar; what depends on
 *       their results is only elementwise in the result's shape (a second phase), never the full domain again.
 *   templates      one gather, scatter_add, attention or attention_grad: args, the op, outputs of its results in order.
 *
 * Rounding: a result never depends on what else is in the kernel. Sums run in an order that is a function of the
 * operand's shape and the axes alone; no contraction of a * b + c; a value of dtype bf16 is rounded at its op.
 *
 * Aliasing: args and results must not overlap, except as codegen_kernel_may_alias allows. */
#ifndef PTC_CODEGEN_CODEGEN_H
#define PTC_CODEGEN_CODEGEN_H

#include "base/strbuf.h"
#include "ir/module.h"

/* True when func (of kind KERNEL) can be generated; otherwise *out_why (may be NULL) says why not, in scratch.
 * Cheap: no text is made. */
bool codegen_kernel_supported(Arena *scratch, const IrModule *m, IrFunc func, const char **out_why);

/* True when output number `output` may be written over the memory of arg number `arg` (same dtype, every task
 * reads an element of the arg only to make the same element of the output). Only for supported kernels. */
bool codegen_kernel_may_alias(Arena *scratch, const IrModule *m, IrFunc func, uint32_t arg, uint32_t output);

/* What one call needs on the CPU besides its operands and results (see codegen/kernel_abi.h). */
typedef struct
{
    uint32_t n_phases;
    int64_t n_tasks[3];
    int64_t workspace_bytes;
    int64_t scratch_bytes;
} CodegenKernelInfo;
CodegenKernelInfo codegen_kernel_info(Arena *scratch, const IrModule *m, IrFunc func);

/* One C translation unit: every KERNEL function of m in order, then the PtcKernelTable in the same order, with the
 * functions' names. An unsupported kernel is a BUG. */
void codegen_emit_c(StrBuf *buf, const IrModule *m);

/* How the CUDA kernels are launched: a kernel is 1..3 launches in order, all with the arguments
 * (operand pointers..., result pointers..., workspace pointer, u32 the call's random stream). */
typedef struct
{
    const char *symbol; /* extern "C" name */
    uint32_t grid, block;
    uint32_t smem_bytes; /* dynamic shared memory */
    uint32_t n_resident; /* blocks that a multiprocessor is to hold: bounds a thread's registers; 0: as it comes */
} CodegenCudaLaunch;
typedef struct
{
    const char *name; /* the KERNEL function */
    uint32_t n_args, n_outputs;
    uint32_t n_launches;
    CodegenCudaLaunch launch[3];
    int64_t workspace_bytes;
    int least_arch; /* 80: for sm_80 and later; 0: for all */
    IrOp op;        /* that it is made of, where there is a least_arch */
    /* Updates of params: one launch of any kernel of a family can be that of many calls of its kernels. Then the stream
     * is the number of calls, and the workspace a table of them (PtcCall in codegen/text/calls_cuda.h), with blocks as
     * many as all have together; operand and result pointers are not read. 0: no family. */
    uint32_t family;
    int64_t n_elems; /* of a call, where there is a family */
    size_t text_at;  /* where its text begins in the buffer, up to the next one's; all need what is before the first */
} CodegenCudaKernel;
typedef struct
{
    uint32_t n_kernels;
    CodegenCudaKernel *kernels;
} CodegenCudaTable;
/* The table and its strings are in the buffer's arena. */
void codegen_emit_cuda(StrBuf *buf, const IrModule *m, CodegenCudaTable *out_table);

#endif
