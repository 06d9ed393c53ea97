/* The rest of a job, as a decision about its plan sees it: a plan is worth what it takes to the end, going over to it
 * included. What every plan pays alike (compiling, forming groups of ranks) is not counted. */
#ifndef PTC_PASSES_HORIZON_H
#define PTC_PASSES_HORIZON_H

#include "passes/cost.h"
#include "passes/plan.h"

typedef struct
{
    double n_steps;       /* left */
    double fill_s;        /* what one replica alone would take to fill the cache with newly frozen layers; 0: nothing */
    const Plan *now;      /* the plan that holds; NULL: none, and nothing moves */
    const int64_t *sizes; /* of horizon_sizes */
    uint32_t n_units;
    double moved_bytes_per_s; /* between two ranks */
} Horizon;

/* [n_units + 2]: bytes of the params and states of the units before each; frozen ones have no state. costs: with
 * nothing frozen. */
const int64_t *horizon_sizes(Arena *arena, const UnitCost *costs, uint32_t n_units, uint32_t last_frozen);
/* Params and states that the rank lacks which lacks most, to go from h->now to next. */
int64_t horizon_moved_bytes(const Horizon *h, const Plan *next);
/* Seconds to the end with next, whose steps take step_s, going over to it included. */
double horizon_end_s(const Horizon *h, const Plan *next, double step_s);

/* The same layout, cuts, micro-batches and schedule. */
bool plan_is_same(const Plan *a, const Plan *b);

#endif
