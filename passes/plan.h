/* Plan: how a step is laid out on ranks. K stages, R replicas of the pipeline, M micro-batches, one list of
 * instructions for every (replica, stage). A plan becomes attributes of @train (plan_apply); the passes partition,
 * replicate and schedule carry it out.
 *
 * Rank of (replica r, stage s) is r * K + s. Ranks from R * K on are idle: they are said to have stage K of replica R,
 * which are no stage and no replica, and their program does nothing. The batch of B samples is cut into M micro-batches
 * of ceil(B / M) rows, the last one padded; replica r has the micro-batches plan_first_micro(r) .. plan_first_micro(r +
 * 1) - 1, at least one. The batch and the size of a micro-batch never depend on K or R. */
#ifndef PTC_PASSES_PLAN_H
#define PTC_PASSES_PLAN_H

#include "ir/module.h"
#include "passes/pipeline.h"

typedef struct
{
    uint32_t n_stages;   /* K */
    uint32_t n_replicas; /* R */
    uint32_t n_micro;    /* M, of the whole batch */
    PipelineKind schedule;
    bool deterministic;         /* gradients are added pairwise: the same bits for any R */
    const int64_t *first_unit;  /* K: the first unit of each stage; first_unit[0] is 1 */
    const PipelineStage *costs; /* K: times for zb-h1; NULL: equal ones */
} Plan;

/* The number of micro-batches before those of replica r; from R on, M. Without `deterministic` they are spread as
 * evenly as they can be, the first replicas having one more; with it every replica but the last has the same power of
 * two, so that its sum is a node of the pairwise tree over all. */
uint32_t plan_first_micro(const Plan *plan, uint32_t replica);

/* False, with a sentence in the arena, when the plan cannot be: M < R, no unit for a stage, or (deterministic) the
 * micro-batches of a replica are no power of two. */
bool plan_check(Arena *arena, const Plan *plan, uint32_t n_units, const char **out_why);

/* Where a rank of the world is. */
void plan_place(const Plan *plan, uint32_t rank, uint32_t *out_replica, uint32_t *out_stage);

/* Writes the part of one rank (a place of plan_place) into the attributes of @train of a frontend module. */
void plan_apply(Arena *scratch, IrModule *m, const Plan *plan, uint32_t replica, uint32_t stage);

#endif
