/* What becomes of an elastic job on a described cluster, or on ranks whose costs were measured: layers freeze by the
 * policy, and each time the job is planned again. Nothing runs: gradients are not known, so gradnorm freezes as many
 * layers as its bound allows.
 *
 * By time, the planner of a run chooses (passes/planner.h), with its horizon; the cache of frozen outputs is used from
 * where that is shorter. By the paper's rule (passes/planner_paper.h), a
 * pipeline's batch stays as it is, so that the whole batch grows with R; frozen layers run on the whole of it on the
 * first device, before the pipeline; cached outputs are read before that, too. Loading and decoding of samples are not
 * counted. */
#ifndef PTC_PASSES_FORECAST_H
#define PTC_PASSES_FORECAST_H

#include "passes/cluster.h"
#include "passes/freeze_policy.h"
#include "passes/horizon.h"

typedef struct
{
    /* [n_units + 1], of a micro-batch of cost_rows samples on a device of the cluster: times are split in what grows
     * with the rows and (forward_s, backward_s, weight_s of `starts`) what does not */
    const UnitCost *costs, *starts;
    uint32_t n_units, cost_rows;
    const int64_t *layers; /* [n_layers + 1]: the first unit of each, and of what is behind the last */
    uint32_t n_layers;

    uint64_t n_samples, epoch_samples; /* all that is trained on, and how many different ones */
    uint64_t period_samples;           /* what one row of the forecast is about: an epoch, or so many steps */
    uint32_t periods_per_decision;
    uint64_t n_tests;           /* samples of an evaluation */
    uint32_t eval_every;        /* epochs; 0: at the end only */
    uint32_t batch;             /* samples a step */
    uint32_t n_stages, n_micro; /* as asked for; 0: the planner's. By the paper's rule, those at the start, and
                                 * of one pipeline */
    int schedule;               /* PipelineKind; -1: the planner's */
    FreezeSettings freeze;
    bool paper;
    bool no_repipe, no_replicate; /* the plan of the start stays; its R does */
    bool may_cache;
    double cached_share; /* bytes of a cached number, of those of an f32 */
    Cluster cluster;
    const CostMachine *machine; /* of one of its devices, measured; NULL: as the cluster describes them */
} ForecastJob;

/* K x R with its times. */
typedef struct
{
    Plan plan;      /* M is of all replicas together */
    uint32_t batch; /* samples a step */
    double step_s;
    double end_s;       /* by time: to the end of the job, from where it was chosen */
    int64_t peak_bytes; /* of the rank that needs most */
    bool cached;
    uint32_t test_rows;          /* samples that go through a pipeline together in an evaluation */
    double test_s, test_start_s; /* each of them, behind the one before; the first one besides */
} ForecastLayout;

typedef struct
{
    uint64_t first_sample, n_samples;
    uint32_t frozen; /* layers */
    ForecastLayout layout;
    double run_s;        /* its steps */
    double fill_s;       /* newly frozen layers, once for each sample */
    double test_s;       /* its evaluations */
    double transition_s; /* before it */
    int64_t moved_bytes; /* params and states that the rank lacks that lacks most */
    int64_t cache_bytes; /* of a node */
} ForecastPeriod;

typedef struct
{
    ForecastPeriod *periods;
    uint32_t n_periods;
    double total_s;
    ForecastLayout static_best, static_paper; /* nothing frozen: the shortest step, and the paper's layout */
    double static_best_s, static_paper_s;     /* the same samples */
} Forecast;

/* False, with a sentence in *out_why, when a policy needs what only a run knows, or no layout is possible. */
bool forecast_job(Arena *arena, const ForecastJob *job, Forecast *out_forecast, const char **out_why);

/* ---- for forecast.c (forecast_layout.c) */

typedef struct
{
    uint32_t last;     /* the units 1..last are frozen */
    bool cached;       /* and their outputs kept */
    uint32_t filled;   /* the last unit whose outputs are kept already */
    uint64_t n_left;   /* samples to the end */
    const Plan *now;   /* the plan that holds; NULL: none */
    const Plan *start; /* that of the start; NULL: this is it */
} ForecastAsked;

/* The layout with the shortest time to the end. False, with a sentence in *out_why, when none is possible. */
bool forecast_by_time(Arena *arena, const ForecastJob *job, const ForecastAsked *asked, ForecastLayout *out_layout,
                      const char **out_why);
/* By the paper's rule; n_first: K at the start. */
void forecast_by_paper(Arena *arena, const ForecastJob *job, uint32_t last, bool cached, uint32_t n_first,
                       ForecastLayout *out_layout);
/* Forward passes of the units first..last for one sample. */
double forecast_forward_s(const ForecastJob *job, uint32_t first, uint32_t last, uint32_t rows);
/* A sample's cached outputs behind unit `last`. */
double forecast_row_bytes(const ForecastJob *job, uint32_t last);

#endif
