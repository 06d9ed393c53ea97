/* Generated C kernels, compiled and loaded, run with hostile surroundings. */
#ifndef PTC_TESTS_CODEGEN_KERNEL_RUN_H
#define PTC_TESTS_CODEGEN_KERNEL_RUN_H

#include "kernel_case.h"

#include "codegen/kernel_abi.h"

typedef struct
{
    const char *path;
    void *handle;
    const PtcKernelTable *table; /* NULL: not compiled, the status detail says why */
} KernelObject;

/* With the sanitizers when the test has them. */
KernelObject kernel_object_make(Arena *arena, const IrModule *m);
void kernel_object_close(KernelObject *object);

/* Runs all tasks in a shuffled order on copies of the data, which then hold the outputs; workspace and scratch are
 * filled with NaN bytes beforehand, every buffer has guard bytes behind. NULL, or what was overwritten. */
const char *kernel_data_run(Arena *arena, const PtcKernel *kernel, KernelData *data);

#endif
