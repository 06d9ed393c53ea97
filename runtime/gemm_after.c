/* What a contraction on the CPU does besides its product (aux, dact and sums of gemm.h). The library has no epilogue
 * for these: an activation goes over the product once that is there, in pieces; rows are added up by blocks of
 * columns, in groups. Both are functions of the shape, whatever the number of threads. */
#include "runtime/gemm_kernel.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum
{
    PIECE_ELEMS = 16384,
    BLOCK_COLS = 256,
    GROUP_ROWS = 64
};

struct GemmAfter
{
    GemmDesc desc;
    Pool *pool;
    GemmActKernel *whole, *rest; /* of a piece, of the last one if that is smaller; NULL: no activation */
};

typedef struct
{
    const GemmAfter *after;
    const GemmArgs *args;
    _Atomic int status;
} Run;

static int64_t n_elems_of(const GemmDesc *d)
{
    return d->m * d->n;
}

static Status create(GemmAfter *after, GemmEngine *engine)
{
    const GemmDesc *d = &after->desc;
    const bool gradient = d->dact != GEMM_ACT_none;
    const GemmAct act = gradient ? d->dact : d->act;
    const int64_t n = n_elems_of(d);
    if (!d->aux && !gradient)
        return STATUS_OK;
    if (n >= PIECE_ELEMS)
        TRY(gemm_act_kernel_create(engine, act, gradient, d->dtype_c, PIECE_ELEMS, &after->whole));
    if (n % PIECE_ELEMS)
        TRY(gemm_act_kernel_create(engine, act, gradient, d->dtype_c, n % PIECE_ELEMS, &after->rest));
    return STATUS_OK;
}

Status gemm_after_create(Pool *pool, GemmEngine *engine, const GemmDesc *desc, GemmAfter **out_after)
{
    *out_after = NULL;
    if (!desc->aux && !desc->sums && desc->dact == GEMM_ACT_none)
        return STATUS_OK;
    GemmAfter *after = calloc(1, sizeof *after);
    if (!after)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for a contraction");
    after->desc = *desc;
    after->pool = pool;
    const Status status = create(after, engine);
    if (status != STATUS_OK)
        gemm_after_destroy(after);
    else
        *out_after = after;
    return status;
}

void gemm_after_destroy(GemmAfter *after)
{
    if (!after)
        return;
    gemm_act_kernel_destroy(after->whole);
    gemm_act_kernel_destroy(after->rest);
    free(after);
}

static void act_on_piece(void *context, int64_t piece, int worker)
{
    Run *run = context;
    const GemmAfter *after = run->after;
    const int64_t at = piece * PIECE_ELEMS;
    const size_t offset = (size_t)at * (after->desc.dtype_c == GEMM_BF16 ? 2 : sizeof(float));
    GemmActKernel *kernel = at + PIECE_ELEMS <= n_elems_of(&after->desc) ? after->whole : after->rest;
    const Status status =
        gemm_act_kernel_run(kernel, worker, (const char *)run->args->aux + offset, (char *)run->args->c + offset);
    if (status != STATUS_OK)
        atomic_store_explicit(&run->status, (int)status, memory_order_relaxed);
}

static void add_row(const GemmDesc *d, const void *b, int64_t at, int64_t n, float *sums)
{
    if (d->dtype_ab == GEMM_F32)
    {
        const float *x = (const float *)b + at;
        for (int64_t j = 0; j < n; j++)
            sums[j] += x[j];
        return;
    }
    const uint16_t *x = (const uint16_t *)b + at;
    for (int64_t j = 0; j < n; j++)
    {
        const uint32_t bits = (uint32_t)x[j] << 16;
        float value;
        memcpy(&value, &bits, sizeof value);
        sums[j] += value;
    }
}

/* Rows are added by groups, and then the groups: fewer numbers follow each other, and less is rounded away. */
static void sum_block(void *context, int64_t block, int worker)
{
    const Run *run = context;
    const GemmDesc *d = &run->after->desc;
    const int64_t first = block * BLOCK_COLS, n = d->n - first < BLOCK_COLS ? d->n - first : BLOCK_COLS;
    float sums[BLOCK_COLS] = {0};
    (void)worker;
    for (int64_t row = 0; row < d->k; row += GROUP_ROWS)
    {
        float group[BLOCK_COLS] = {0};
        for (int64_t i = row; i < row + GROUP_ROWS && i < d->k; i++)
            add_row(d, run->args->b, i * d->n + first, n, group);
        for (int64_t j = 0; j < n; j++)
            sums[j] += group[j];
    }
    memcpy(run->args->sums + first, sums, (size_t)n * sizeof *sums);
}

Status gemm_after_run(const GemmAfter *after, const GemmArgs *args)
{
    const GemmDesc *d = &after->desc;
    Run run = {.after = after, .args = args, .status = STATUS_OK};
    if (after->whole || after->rest)
        pool_run(after->pool, (n_elems_of(d) + PIECE_ELEMS - 1) / PIECE_ELEMS, act_on_piece, &run);
    if (d->sums)
        pool_run(after->pool, (d->n + BLOCK_COLS - 1) / BLOCK_COLS, sum_block, &run);
    return (Status)atomic_load_explicit(&run.status, memory_order_relaxed);
}
