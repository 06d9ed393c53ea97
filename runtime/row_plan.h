/* Row plan: which rows of a feature cache are made before their batch comes, and by which rank of the host.
 *
 * A run of frozen layers takes the same time whether all rows of its micro-batch are wanted or one. The order of
 * batches is known, so is what is kept; hence every rank finds by itself what each of them will lack. A rank makes what
 * it lacks for the batch at hand; into the room that is left in these runs, and into the time in which it would wait
 * for another rank's runs, go rows that later batches lack, the soonest first, whichever rank they are for. Every
 * lacking row is given out once, and none for a step that is not to come.
 *
 * A function of the spec and of the calls: ranks that ask for the same steps need not talk to each other. */
#ifndef PTC_RUNTIME_ROW_PLAN_H
#define PTC_RUNTIME_ROW_PLAN_H

#include "runtime/batch_order.h"

#include <stdbool.h>

/* How a row that is not kept is made. */
typedef enum
{
    ROW_STARTS,   /* from the data */
    ROW_ADVANCES, /* from what is kept of an earlier border */
    ROW_MAKERS,
    ROW_KEPT = ROW_MAKERS /* it is there */
} RowState;

/* Of a batch, the samples that a rank reads. */
typedef struct
{
    uint32_t first, n;
} RowShare;

typedef struct
{
    BatchOrder order; /* the plan's own */
    uint32_t rows;    /* that a run makes */
    uint32_t n_variants;
    const RowShare *shares; /* by rank of the host */
    uint32_t n_ranks, rank;
    const double *costs; /* [n_variants][ROW_MAKERS], > 0: of a run, in any unit */
    uint32_t (*variant_of)(const void *context, const uint64_t *samples, uint32_t n); /* of a batch */
    RowState (*state_of)(const void *context, uint32_t variant, uint64_t sample);     /* before the first call */
    const void *context;
} RowPlanSpec;

typedef struct
{
    uint64_t sample;
    uint32_t variant;
} PlannedRow;

typedef struct RowPlan RowPlan;

/* The arrays of the spec must outlive it; state_of is not called later. */
RowPlan *row_plan_create(Arena *arena, const RowPlanSpec *spec);
/* The rows that this rank makes now besides those which it lacks for the batch of `step` (steps before it), at
 * `position`; those of one variant lie together. Steps come one after another, without gaps. end: rows of the batches
 * of this step and later ones may not be wanted. The result is good until the next call. */
const PlannedRow *row_plan_next(RowPlan *plan, uint64_t step, SamplerPosition position, uint64_t end, uint32_t *out_n);

#endif
