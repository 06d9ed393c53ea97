/* The planner: from what units cost to the plan with the shortest predicted step, and why the others lost; while a job
 * runs, to the plan with the shortest time to its end.
 *
 * For every (K, R) with K R = ranks (or as many of them as K leaves, where the request says so), every number of
 * micro-batches M and every schedule that the request leaves open: the exact cut (pipeline_cut) on the units' times
 * under the memory cap, then the simulator (pipeline_simulate). The plan
 * that holds is tried with its own cuts, too. */
#ifndef PTC_PASSES_PLANNER_H
#define PTC_PASSES_PLANNER_H

#include "passes/cluster.h"
#include "passes/horizon.h"

/* 0, NULL and -1 leave it to the planner. */
typedef struct
{
    uint32_t n_ranks;
    uint32_t n_stages, n_replicas, n_micro;
    int schedule;        /* PipelineKind or -1 */
    const int64_t *cuts; /* the first unit of every stage but the first */
    uint32_t n_cuts;
    uint32_t n_together; /* units 1..n are not cut apart, and not from the next one */
    int64_t cap_bytes;   /* of a rank */
    bool deterministic;
    bool may_idle;          /* K R may be less than the ranks; it may, too, where neither K nor R is given */
    uint32_t batch;         /* samples a step */
    const Horizon *horizon; /* NULL: the shortest step is wanted */
    const UnitCost *starts; /* like costs: what a micro-batch takes besides, whatever its rows; NULL: nothing */
    const Cluster *cluster; /* ranks are its devices; NULL: all are tied together as the machine says */
    double read_row_s;      /* rows are read while the step before runs: a step takes no less than its own take */
    bool best_only;         /* candidates that cannot be the best are left out */
} PlanRequest;

/* What --no-repipe (the plan of the start stays) or else --no-replicate (its R does) leave open of a request. */
void planner_hold(PlanRequest *request, const Plan *start, bool no_repipe, bool no_replicate);

/* One layout with its prediction. */
typedef struct
{
    Plan plan;
    const PipelineStage *stages; /* K */
    double step_s, bubble;
    double end_s;          /* to the end of the job (horizon_end_s); without a horizon: step_s */
    double reduce_s;       /* of step_s: what replicas exchange */
    int64_t sent_bytes;    /* point to point in a step, all ranks together */
    int64_t reduced_bytes; /* exchanged by one replica in a step: gradients, new params */
    int64_t *stage_bytes;  /* predicted peak, per stage */
    const char *lost;      /* why it was not chosen; NULL: it was */
} PlanCandidate;

typedef struct
{
    const PlanCandidate *chosen;
    PlanCandidate *candidates; /* the chosen one among them, best first */
    uint32_t n_candidates;
    const char *why; /* the plan that holds is kept, or left; "": none holds */
} PlanChoice;

/* costs[1..n_units] are of micro-batches of cost_rows samples; times and activations are taken to be proportional to
 * the rows. False, with a sentence in *out_why, when nothing that the request allows is possible. */
bool planner_choose(Arena *arena, const PlanRequest *request, const UnitCost *costs, uint32_t n_units,
                    uint32_t cost_rows, const CostMachine *machine, PlanChoice *out_choice, const char **out_why);

/* The stages of a plan as the simulator takes them, for micro-batches of `rows` samples; starts may be NULL. */
PipelineStage *planner_stages(Arena *arena, const Plan *plan, const UnitCost *costs, const UnitCost *starts,
                              uint32_t n_units, uint32_t cost_rows, uint32_t rows, const CostMachine *machine);

#endif
