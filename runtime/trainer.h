/* Trainer: the loop over steps and epochs of one rank: batches in, step functions run, metrics and checkpoints out.
 *
 * On several ranks each trains its part: it reads the rows of its replica's micro-batches, and only the fields that its
 * stage uses. Rank 0 logs, evaluates for all to see, and writes the checkpoints, for which the others send it the
 * params and states that they own; every rank loads its own from any checkpoint. A signal to any rank stops all at the
 * same step. A rank without a stage reads nothing and computes nothing, and takes part in what all ranks decide
 * together.
 *
 * The state of a run is (params, optimizer state, steps done, sampler position, seed); everything else is a function
 * of it, so a run resumed at any step is bit-identical to one that was never interrupted. */
#ifndef PTC_RUNTIME_TRAINER_H
#define PTC_RUNTIME_TRAINER_H

#include "base/strbuf.h"
#include "runtime/dataset.h"
#include "runtime/executor.h"
#include "runtime/feature_stores.h"
#include "runtime/lr_schedule.h"
#include "runtime/metric.h"
#include "runtime/metrics_log.h"
#include "runtime/sampler.h"

#include <signal.h>

enum
{
    TRAINER_TRACE_AFTER = 3,       /* steps, so that caches are warm */
    TRAINER_TRACE_EVENTS = 1 << 18 /* at most */
};

/* Over all samples. */
typedef struct
{
    uint64_t n_samples;
    double results[METRIC_MAX_RESULTS]; /* as metric_result_names */
    double seconds;
} TrainerEval;

typedef struct
{
    uint64_t step; /* steps done, this one included */
    uint64_t total_steps;
    uint64_t epoch; /* of this step, from 0 */
    uint32_t n_samples;
    double results[METRIC_MAX_RESULTS]; /* of this batch, as metric_result_names; NAN: only in evaluation */
    double lr;
    double grad_norm; /* NAN without clipping */
    double step_s;    /* wall time of the whole step */
    double data_s;    /* of it, waiting for data */
    double bubble;    /* idle share of the time of all ranks with a stage, until the last of them has done its last
                       backward    op */
} TrainerStep;

/* Told what happens; all entries may be NULL. */
typedef struct
{
    void *context;
    void (*step)(void *context, const TrainerStep *step);
    void (*eval)(void *context, uint64_t step, const TrainerEval *eval);
    void (*note)(void *context, const char *text);
} TrainerObserver;

/* What this rank does of a job on several ranks (passes/plan.h). All zero: the one rank of a job, one micro-batch. */
typedef struct
{
    Comm *world;                   /* NULL: one rank */
    uint32_t stage, n_stages;      /* n_stages 0: 1; stage = n_stages: the rank is idle */
    uint32_t replica, n_replicas;  /* n_replicas 0: 1; replica = n_replicas: the rank is idle */
    uint32_t first_micro, n_micro; /* this replica's micro-batches; n_micro 0: 1 */
    uint32_t n_all_micro;          /* of all replicas */
} TrainerRank;

/* The variants of the executor: a batch runs in the first that is as long as its longest sample. */
typedef struct
{
    const int64_t *lengths;    /* ascending, one for each module of the executor */
    uint32_t n_lengths;        /* 0 or 1: nothing to choose */
    const char *const *fields; /* that have such a length as their one axis; the longest counts */
    uint32_t n_fields;
    uint32_t group; /* batches within which training samples are sorted by length (batch_order.h); 0: none */
} TrainerBuckets;

/* How far a run is. */
typedef struct
{
    uint64_t step; /* done */
    SamplerPosition position;
} TrainerPosition;

typedef struct
{
    TrainerRank rank;
    TrainerBuckets buckets;
    uint64_t epochs;
    uint64_t max_steps;  /* of the job; 0: epochs decide. The schedule ends there */
    uint64_t stop_after; /* stop early after so many steps in all; 0: no. Changes nothing before that */
    uint32_t batch;      /* samples of a step, over all ranks */
    uint32_t rows;       /* of a micro-batch: the first extent of the batch inputs; 0: batch */
    uint64_t seed;
    bool shuffle;
    uint32_t loader_threads;   /* that read and decode samples; 0: as many as cores */
    LrSchedule lr;             /* total_steps is filled in */
    uint64_t eval_every;       /* epochs; 0: at the end only */
    uint64_t checkpoint_every; /* steps; 0: at the end only */
    uint64_t log_every;        /* steps; 0: 1 */
    uint32_t keep_last;        /* checkpoints; 0: the default */
    const MetricSpec *metrics;
    uint32_t n_metrics;
    const char *predictions; /* a file for the answers of the last evaluation; NULL: none */
    const char *out_dir;     /* checkpoints and metrics.jsonl; NULL: neither */
    bool resume;             /* from the newest good checkpoint of out_dir, if there is one; without training data and
                                weights there must be one */
    const TrainerPosition *from; /* go on from here in this process: params and states are in the executor already */
    uint64_t pause_epochs;       /* trainer_run returns after so many epochs each; 0: it does not */
    uint64_t pause_steps;        /* the same after steps */
    bool border_stays;           /* at such a pause no more layers are frozen */
    const char *extra;           /* a JSON object that goes into checkpoints; NULL: none */
    const char *const *redone;   /* events that come again when a run is gone on from (metrics_log_resume) */
    uint32_t n_redone;
    uint32_t trace_steps;                   /* so many steps are traced, after TRAINER_TRACE_AFTER of them; 0: none */
    const char *weights;                    /* pretrained weights to start from; NULL: the initialisers */
    bool weights_partial;                   /* what they lack is left to the initialisers (pretrained_compare) */
    const char *digest;                     /* of model and job: a checkpoint with another digest is refused */
    const volatile sig_atomic_t *stop_flag; /* set by a signal: checkpoint and return INTERRUPTED; NULL: none */
    TrainerObserver observer;
} TrainerOptions;

typedef struct Trainer Trainer;

/* Checks the data against the inputs of m (the last module of the executor), fills the params. train or test may be
 * NULL when the caller never trains or never evaluates. executor, m, datasets and the strings of options must outlive
 * the trainer. */
Status trainer_create(Executor *executor, const IrModule *m, const Dataset *train, const Dataset *test,
                      const TrainerOptions *options, Trainer **out_trainer);
void trainer_destroy(Trainer *trainer); /* NULL is allowed */

/* For a program that starts from the outputs of the frozen layers (pass cache_prefix), before it runs: a store for each
 * variant of the executor, with rows of trainer_border_elems. before: of fewer layers, for @advance; NULL: none. Both
 * must outlive the trainer, which is to be destroyed after a failure, too. Collective. */
Status trainer_set_cache(Trainer *trainer, const FeatureStores *cache, const FeatureStores *before);

/* Rows of the cache that this rank has made, also those that found no room, and runs of the frozen layers for them. */
typedef struct
{
    uint64_t rows, runs;
} TrainerCacheWork;
TrainerCacheWork trainer_cache_work(const Trainer *trainer);

/* Trains to the end (or stop_after), evaluating and writing checkpoints as the options say; *out_eval is the last
 * evaluation (n_samples 0: there was none). NON_FINITE: nothing was updated or written after the bad loss,
 * and no checkpoint holds numbers that are not finite.
 * INTERRUPTED: the checkpoint is written. */
Status trainer_run(Trainer *trainer, TrainerEval *out_eval);
/* Whether it has returned for a pause: there are steps left, and calling it again goes on. */
bool trainer_paused(const Trainer *trainer);
/* What goes into the next checkpoints; must outlive them. */
void trainer_set_extra(Trainer *trainer, const char *json);
TrainerPosition trainer_position(const Trainer *trainer);
/* A whole param, on rank 0 only, from a rank that has it. Collective. */
Status trainer_fetch_param(Trainer *trainer, const char *name, void *host);
/* f32 values that the cache keeps of a sample for this program (one of the variants); 0: it needs none. */
uint64_t trainer_border_elems(const IrModule *m);
/* For events; NULL on ranks that write none, and without out_dir. */
MetricsLog *trainer_log(Trainer *trainer);
/* One pass over the test data with the params as they are. */
Status trainer_evaluate(Trainer *trainer, TrainerEval *out_eval);
/* The same pass for its outputs: after each batch, in order, visit reads the globals of @eval; its samples are n from
 * number first. One rank only. Stops at the first failure. */
Status trainer_visit_tests(Trainer *trainer, Status (*visit)(void *context, uint64_t first, uint32_t n), void *context);
uint64_t trainer_steps_done(const Trainer *trainer);
uint64_t trainer_total_steps(const Trainer *trainer);

#endif
