/* What the units of a model cost: time, memory and traffic of one micro-batch, read off its planned program.
 *
 * The module is that of one rank and one micro-batch (attribute order "F0 B0"), after the whole pipeline. Times are
 * either measured (seconds of every op, runtime/executor.h) or modelled: contractions at the machine's arithmetic rate,
 * everything else at its memory bandwidth, and a fixed cost for starting an op. */
#ifndef PTC_PASSES_COST_H
#define PTC_PASSES_COST_H

#include "ir/module.h"

/* One rank, and the way to the next one. */
typedef struct
{
    double flops_per_s;              /* f32 contractions */
    double bf16_flops_per_s;         /* those of bf16 operands */
    double bytes_per_s;              /* memory, read and written */
    double op_s;                     /* to start an op */
    double link_bytes_per_s, link_s; /* point to point: rate and latency */
    double sum_bytes_per_s;          /* all-reduce: bytes of the tensor over the time it takes */
    double n_cores;                  /* for all ranks together, where they have to share them; 0: each has its own */
} CostMachine;

/* The model's constants for n_threads cores of the kind of processor that this was written on (docs/performance.md). */
CostMachine cost_machine_default(int n_threads);

/* Of one micro-batch, except where it says otherwise. */
typedef struct
{
    double forward_s;
    double backward_s;                    /* all of it */
    double weight_s;                      /* of it, what no other unit waits for */
    double update_s;                      /* once a step */
    double forward_flops, backward_flops; /* of contractions */
    uint64_t n_params;                    /* numbers */
    int64_t param_bytes, state_bytes, grad_bytes;
    int64_t copy_bytes;    /* of params, in bf16 */
    int64_t kept_bytes;    /* made by a forward pass and read by this unit's backward pass */
    int64_t border_bytes;  /* sent when the pipeline is cut behind this unit; the same goes back */
    int64_t largest_bytes; /* of one result: what temporaries take at least */
} UnitCost;

/* Units 1..n_units into out_costs[1..n_units]; out_costs[0] is what belongs to no unit (scalars of the optimizer).
 * op_seconds: by op, NULL: modelled. */
void cost_units(Arena *scratch, const IrModule *m, const double *op_seconds, const CostMachine *machine,
                uint32_t n_units, UnitCost *out_costs);

/* What is left of them when the units 1..last are frozen: forward passes, or, cached, not even these. out_costs may be
 * costs; both have n_units + 1 entries. */
void cost_freeze(const UnitCost *costs, uint32_t n_units, uint32_t last, bool cached, UnitCost *out_costs);

#endif
