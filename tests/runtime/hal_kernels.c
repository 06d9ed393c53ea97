/* A hand-written stand-in for generated kernels: built as a shared object and loaded by hal_test.c. */
#include "codegen/kernel_abi.h"

enum
{
    N = 1000,
    CHUNK = 100
};

/* out = x + y */
static void add_run(void *const *bufs, void *workspace, void *scratch, int64_t task)
{
    const float *x = bufs[0];
    const float *y = bufs[1];
    float *out = bufs[2];
    (void)workspace;
    (void)scratch;
    for (int64_t i = task * CHUNK; i < (task + 1) * CHUNK; i++)
        out[i] = x[i] + y[i];
}

/* out[0] = sum(x): chunks into the workspace by way of the scratch, then the chunks in order. */
static void sum_chunk(void *const *bufs, void *workspace, void *scratch, int64_t task)
{
    const float *x = bufs[0];
    float *copy = scratch;
    float sum = 0;
    for (int i = 0; i < CHUNK; i++)
        copy[i] = x[task * CHUNK + i];
    for (int i = 0; i < CHUNK; i++)
        sum += copy[i];
    ((float *)workspace)[task] = sum;
}

static void sum_total(void *const *bufs, void *workspace, void *scratch, int64_t task)
{
    float *out = bufs[1];
    (void)scratch;
    (void)task;
    out[0] = 0;
    for (int i = 0; i < N / CHUNK; i++)
        out[0] += ((float *)workspace)[i];
}

static const PtcKernel kernels[] = {
    {"add", 1, {{add_run, N / CHUNK}}, 0, 0},
    {"sum", 2, {{sum_chunk, N / CHUNK}, {sum_total, 1}}, N / CHUNK * sizeof(float), CHUNK * sizeof(float)},
};

#ifndef ABI_VERSION
#define ABI_VERSION PTC_KERNEL_ABI_VERSION
#endif
extern const PtcKernelTable ptc_kernel_table;
const PtcKernelTable ptc_kernel_table = {ABI_VERSION, sizeof kernels / sizeof *kernels, kernels};
