/* The planner of PipeTransformer (He et al., ICML 2021), as its authors' code has it: for comparison.
 *
 * The elements are units: the embedding (while nothing is frozen), the two halves of every active layer, the norm and
 * the head. They are cut by their numbers of params, from the left: a stage takes units while its sum is below the mean
 * of what is left for the stages to come plus the variance of their sizes over the number of these stages. K halves
 * while the largest stage of K / 2 has no more params than the largest one had at the start. Frozen units do not count:
 * they run on the first device, before the pipeline. */
#ifndef PTC_PASSES_PLANNER_PAPER_H
#define PTC_PASSES_PLANNER_PAPER_H

#include "passes/cost.h"

/* A transition of theirs, in seconds: 11 to 15 between the epochs of their logs. */
#define PAPER_SWITCH_S 13.0

/* Cuts the units frozen + 1 .. n_units into n_stages. out_first gets n_stages + 1 units: stage s has out_first[s] ..
 * out_first[s + 1] - 1, which may be none. Returns the params of the largest stage. Reads n_params of costs[1..n_units]
 * only. */
double paper_cut(const UnitCost *costs, uint32_t n_units, uint32_t frozen, uint32_t n_stages, int64_t *out_first);

/* Moves borders of such a cut until every stage has a unit. There are at least as many units as stages. */
void paper_fill(uint32_t n_stages, int64_t *first);

/* K when the units 1..frozen are frozen and it was n_first, a power of two, at the start. */
uint32_t paper_stages(Arena *scratch, const UnitCost *costs, uint32_t n_units, uint32_t frozen, uint32_t n_first);

/* Micro-batches of one pipeline's batch. */
uint32_t paper_micro(uint32_t n_stages);

/* Whether outputs of frozen layers are cached. */
bool paper_caches(uint32_t n_layers, uint32_t n_frozen);

#endif
