/* The ranks of a job: who this process is, what it talks through, and the plan that all of them follow. */
#ifndef PTC_DRIVER_RANKS_H
#define PTC_DRIVER_RANKS_H

#include "passes/planner.h"
#include "runtime/executor.h"
#include "runtime/trainer.h"

typedef struct Session Session;

typedef struct
{
    uint32_t size, rank;     /* of the job; of this process, or of the one whose program is shown */
    uint32_t stage, replica; /* as plan_place says; those of an idle rank are K and R */
    bool planned;            /* the plan is more than one rank doing one micro-batch */
    Plan start;              /* as it was chosen with nothing frozen */
    Plan now;                /* at a decision: the plan that holds */
    uint64_t steps_left;     /* at a decision; 0: nothing is in place yet */
    const char *stays;       /* why another plan than `now` is not to be had; NULL: it may be */
    PlanChoice choice;
    PlanRequest request;
    const UnitCost *costs; /* [1..n_units], of micro-batches of cost_rows samples */
    uint32_t cost_rows;
    CostMachine machine;
    double remake_s;                        /* what a program takes whose kernels are there: passes, executor */
    double moved_bytes_per_s;               /* of the last transition that moved much; 0: there was none yet */
    const char *costs_from;                 /* how: "measured", "modelled", ... */
    ExecutorComm comm;                      /* world NULL: no other rank lives */
    char device_way[DEVICE_COMM_WAY_BYTES]; /* of comm.device */
} Ranks;

/* Finds out about the ranks and meets the others: all must run the same version on the same model. Before a model is
 * loaded s->ranks is that of one rank. */
Status ranks_join(Session *s);
/* Reads what is asked of the plan, and finds what units cost (s->ranks.request, costs, ...). Collective. */
Status ranks_cost(Session *s);
/* Chooses the plan with nothing frozen (the same on every rank), loads the model again with its micro-batches and
 * writes this rank's part into the module's attributes. A run that is gone on from with frozen layers is planned again.
 */
Status ranks_plan(Session *s);
/* The plan for what is left to do since units are frozen (elastic_frozen_unit), as far as --no-repipe and
 * --no-replicate leave it open; like ranks_plan. After ranks_hold, that with the shortest time to the end.
 * Collective. */
Status ranks_replan(Session *s);
/* A decision is made: so many steps are left, and the plan as it is holds until the next one. */
void ranks_hold(Session *s, uint64_t steps_left);
/* After ranks_replan: the next one is to give the plan that holds, for this reason. False when it just has. */
bool ranks_stay(Session *s, const char *why);
/* Writes this rank's part of the plan into the attributes of another module of the same job. */
void ranks_apply_plan(Session *s, IrModule *m);
/* Ranks that the plan leaves without a stage; ", 1 rank idle", or "" when there is none. */
uint32_t ranks_n_idle(const Session *s);
const char *ranks_idle_text(const Session *s);
/* Threads of this rank: those asked for, else its share of the cores that the ranks of its host may use. */
int ranks_threads(const Session *s);
/* What the trainer wants to know. */
TrainerRank ranks_for_trainer(const Session *s);
/* Ends the communication. failed: something went wrong here; what this rank did last goes into the run folder for
 * `ptc diagnose`. */
void ranks_leave(Session *s, bool failed);

#endif
