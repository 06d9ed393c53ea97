/* The kernels of tests/codegen/kernels/NAME.ir, instantiated: "// SIZES: N=7; N=33 R=2" lists the values of $N, $R
 * (also $N1 = N + 1, $N2 = N + 2, $N5 = N + 5); "// TOL: 1e-4" the tolerance against the interpreter. */
#ifndef PTC_TESTS_CODEGEN_KERNEL_CASE_H
#define PTC_TESTS_CODEGEN_KERNEL_CASE_H

#include "ir/module.h"

typedef struct
{
    const char *label; /* "layer_norm R=3 N=7" */
    IrModule *m;
    double tolerance;
} KernelCase;

typedef VEC(KernelCase) KernelCases;

/* All cases of all files, verified. Faults of the files abort with a message. */
KernelCases kernel_cases_load(Arena *arena);

typedef struct
{
    uint32_t n_args, n_outputs;
    IrType types[32];   /* args, then outputs */
    double *values[32]; /* what the interpreter computes with; args are exact in their dtype */
    void *bytes[32];    /* the same in storage form; outputs hold 0x5A bytes */
} KernelData;

/* Args from the seed: floats in [-2, 2), i32 in 0..4, bool; outputs by the interpreter. Kernel X_grad shares the first
 * args of kernel X; its next args are what X gives for them. */
KernelData kernel_data_make(Arena *arena, const IrModule *m, IrFunc func, uint64_t seed);
/* NULL when the outputs in `bytes` agree with the interpreter's; otherwise what differs. */
const char *kernel_data_compare(Arena *arena, const KernelData *data, double tolerance);

#endif
