/* The rest of a job, as a decision about its plan sees it: a plan is worth what it takes to the end, going over to it
 * included. What every plan pays alike (compiling, forming groups of ranks) is not counted. */
#ifndef PTC_PASSES_HORIZON_H
#define PTC_PASSES_HORIZON_H

#include "passes/cost.h"
#include "passes/plan.h"

/* [n_units + 2]: bytes of the units before each. */
typedef struct
{
    const int64_t *params, *states;
} HorizonSizes;

typedef struct
{
    double n_steps;  /* left */
    double fill_s;   /* what one replica alone would take to fill the cache with newly frozen layers; 0: nothing */
    const Plan *now; /* the plan that holds; NULL: none, and nothing moves */
    HorizonSizes sizes;
    uint32_t n_units;
    double moved_bytes_per_s; /* between two ranks */
} Horizon;

/* Frozen units have no state. costs: with nothing frozen. */
HorizonSizes horizon_sizes(Arena *arena, const UnitCost *costs, uint32_t n_units, uint32_t last_frozen);
/* Params and states that the rank lacks which lacks most, to go from h->now to next. Of the states of a stage each
 * replica has its share; shares of the same stage among as many replicas stay, others are as good as drawn anew. */
int64_t horizon_moved_bytes(const Horizon *h, const Plan *next);
/* Seconds to the end with next, whose steps take step_s, going over to it included. */
double horizon_end_s(const Horizon *h, const Plan *next, double step_s);

/* The same layout, cuts, micro-batches and schedule. */
bool plan_is_same(const Plan *a, const Plan *b);

#endif
