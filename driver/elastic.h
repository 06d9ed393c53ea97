/* The elastic controller: when <freeze> says that more layers are frozen, the job is planned, compiled and laid out
 * again, and goes on where it was. Every rank keeps the same state and comes to the same decisions. */
#ifndef PTC_DRIVER_ELASTIC_H
#define PTC_DRIVER_ELASTIC_H

#include "driver/move.h"
#include "frontend/frontend.h"
#include "passes/freeze_policy.h"
#include "runtime/trainer.h"

typedef struct
{
    bool on; /* there is something to decide */
    FreezeSettings settings;
    uint64_t every_epochs, every_steps; /* between decisions; one of them is 0 */

    /* what checkpoints hold */
    uint32_t frozen;        /* layers */
    uint32_t n_decisions;   /* made */
    double bound, loss;     /* as of the last decision */
    double *norms;          /* [n_layers], of the last interval; NULL: none yet */
    uint64_t norms_step;    /* when their sums were last emptied */
    Plasticity *plasticity; /* [n_layers]; NULL: the policy needs none */
    float *reference;       /* Probe.grams of the snapshot, on rank 0; NULL: there is none yet */

    const char *why; /* of the last decision */

    /* the cache of what the frozen layers make */
    bool cached;
    uint32_t cached_unit;        /* the last unit whose outputs `cache` keeps; 0: there is none */
    uint32_t cached_from;        /* the same of cache_before */
    FeatureStores *cache;        /* of the program as it is now */
    FeatureStores *cache_before; /* of the one before */
    const char *not_cached;      /* why; NULL: it is, or nothing is frozen */
    bool is_over;                /* all steps are done: no later run wants what is on disk */
    uint64_t inputs;             /* digest of the data; 0: not made yet */
} Elastic;

/* Whether the program for what is frozen now is to start from the cache (elastic.cached). Before it is planned. */
void elastic_choose_cache(Session *s);
/* Once it is built: measures whether the cache is worth it; if not, *out_worth is false, and the program is to be built
 * again without. Collective. */
Status elastic_judge_cache(Session *s, bool *out_worth);
/* Once it has its params: opens the store, with the rows that an earlier run has left on disk if they are outputs of
 * the same layers, weights and data, and gives it to the trainer. Collective. */
Status elastic_open_cache(Session *s, Trainer *trainer);
/* The program is not to start from the cache after all. */
void elastic_drop_cache(Session *s, const char *why);
void elastic_remove_cache(Session *s);
/* Bytes of this host's memory that a store may have. */
uint64_t elastic_cache_memory(const CacheSpec *spec);
/* What is on disk stays for a later run, unless this one is over. */
void elastic_close(Session *s);
/* Reads <freeze>; in a run that is gone on from, its newest checkpoint: what is frozen stays so, whatever <freeze> says
 * now. Before the job is planned. */
Status elastic_prepare(Session *s);
/* Of a <freeze> with a policy. */
FreezeSettings elastic_settings(const FreezeSpec *spec);
/* The last frozen unit; 0: none. */
uint32_t elastic_frozen_unit(const Session *s);
/* Writes what is frozen into the attributes of @train of one of the job's modules. */
void elastic_mark(const Session *s, const Job *job);
/* Fills in when the trainer pauses, and what its checkpoints hold. */
void elastic_set_options(Session *s, TrainerOptions *options);
/* Whether a decision is to be made now: at a pause, or after a resume from a checkpoint that was written at one. */
bool elastic_is_due(const Session *s, const Trainer *trainer);
/* Steps that are left behind the next pause. */
uint64_t elastic_steps_behind(const Session *s, const Trainer *trainer);
/* Makes it: eval is the last evaluation. Says so, and sets *out_changed when more layers are frozen than before.
 * Collective. */
Status elastic_decide(Session *s, Trainer *trainer, const TrainerEval *eval, bool *out_changed);
typedef struct
{
    uint64_t step;             /* behind it */
    double regroup_s, build_s; /* planning and splitting the world; passes, kernels and executor */
    double copy_s;             /* params and states, what they were in included */
    double trial_s;            /* finding out whether the cache is worth it */
    Moved moved;
    bool ahead; /* passes and kernels were made while the job trained */
} ElasticTimes;

/* Plans and builds the job with what is frozen now, from the cache where that is worth it. The session has its data,
 * and nothing built. Collective. */
Status elastic_build(Session *s, ElasticTimes *times);
/* Plans, compiles and lays out the job again with what is frozen now: s gets another module, executor and plan, and
 * *trainer is another one at the same step. Collective. */
Status elastic_transition(Session *s, const TrainerObserver *observer, const volatile sig_atomic_t *stop_flag,
                          Trainer **trainer);

#endif
