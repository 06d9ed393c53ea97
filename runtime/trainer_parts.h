/* What the files of the trainer share: trainer.c (creation and the loop), trainer_batch.c, trainer_cache*.c,
 * trainer_lengths.c, trainer_state.c, trainer_eval.c. */
#ifndef PTC_RUNTIME_TRAINER_PARTS_H
#define PTC_RUNTIME_TRAINER_PARTS_H

#include "runtime/batch_order.h"
#include "runtime/loader.h"
#include "runtime/metrics_log.h"
#include "runtime/trainer.h"

typedef struct
{
    const char *global;
    const char *field; /* "images", "mask", "sample" */
    int32_t micro;     /* -1: the name has no number */
    const IrType *type;
    Elem elem;
    bool has_length; /* its second axis is as long as the variant says */
} BatchInput;

/* A batch that is made on the host, in buffers of its own, while a step function runs on the one before. */
typedef struct
{
    uint32_t first_micro;     /* of the whole batch, in which a row's number is its sample's */
    ExecutorUpload **uploads; /* one micro-batch for each of the inputs; NULL: not one of this batch */
    uint64_t *indices;        /* of the whole batch */
    uint32_t *lengths;        /* by sample; NULL: nobody asks */
    uint32_t n_samples;
    uint32_t variant; /* of the executor, that it is for */
    LoaderSlot *slots;
    LoaderBatch batch;
} TrainerFeed;

typedef struct TrainerCache TrainerCache;

struct Trainer
{
    Arena *arena;
    Executor *executor;
    const IrModule *m;
    const Dataset *train, *test;
    TrainerOptions options;
    VEC(BatchInput) inputs;
    BatchOrder order;
    Loader *loader;
    TrainerCache *cache; /* NULL: none */
    Arena *scratch;      /* of one batch, while rows are made for the cache */
    double made_s;       /* seconds in which the last batch ran frozen layers, for the cache */
    TrainerFeed train_feed, test_feed;
    const uint64_t *test_order; /* in which evaluation takes the samples; NULL: theirs */
    struct                      /* the training batch under way */
    {
        bool started;
        uint32_t n_samples;
        SamplerPosition end; /* behind it */
    } next;
    uint32_t rank; /* in the world */
    bool stopped;  /* a signal came to some rank */
    bool paused;
    uint64_t step;         /* done */
    uint64_t n_steps_here; /* begun by this process */
    uint64_t total_steps;
    uint64_t end; /* of trainer_run */
    SamplerPosition position;
    MetricsLog *log;
    MetricSet *metrics;
    const char *const *result_names;
    uint32_t n_results;
    uint64_t *samples; /* of the test batch that is evaluated */
    double *shared;    /* what all ranks are to know of a step; room for the sums of the metrics */
};

/* ---- trainer.c */

double trainer_now_s(void);
__attribute__((format(printf, 2, 3))) void trainer_note(Trainer *t, const char *format, ...);
/* This rank has no stage. */
bool trainer_is_idle(const Trainer *t);
/* The ranks of the world from this number on are idle; all of them have a stage: their number. */
uint32_t trainer_first_idle(const Trainer *t);
/* All ranks fail when one does; each with its own words, or saying that it was another. Collective. */
Status trainer_agree(const Trainer *t, Status status);
/* Batches of this step and later ones may not come, or not with what is frozen now. */
uint64_t trainer_horizon(const Trainer *t);

/* ---- trainer_batch.c */

Elem trainer_elem_of(const IrType *type);
/* Finds the batch inputs of the programs, checks them against the data, and makes the loader and its feeds. */
Status trainer_find_inputs(Trainer *t);
/* Starts this rank's part of a batch of n samples, feed->indices. */
void trainer_feed_start(Trainer *t, TrainerFeed *feed, uint32_t n, uint64_t epoch);
/* Waits for it and gives it to the step functions. */
Status trainer_feed_finish(Trainer *t, TrainerFeed *feed);
Status trainer_write_scalars(Trainer *t, double lr);

/* Rows of a micro-batch: n samples, the first of which is number `first` of the whole batch. */
typedef struct
{
    const uint64_t *indices;
    uint32_t n, first;
    uint32_t length; /* of inputs that have one; 0: the longest */
} TrainerRows;

/* Fills host with the rows of one input, zeros behind them, now. */
Status trainer_fill_input(const Trainer *t, const Dataset *dataset, const DatasetPass *pass, const BatchInput *input,
                          const TrainerRows *rows, void *host);

/* ---- trainer_cache.c */

/* "batch.frozen_0": what a cache fills, and no data. */
bool trainer_is_border(const char *global);
bool trainer_function_reads(const Trainer *t, const char *func, const char *global);
/* Before the executor ends. */
void trainer_cache_close(Trainer *t);
/* Has what is kept for a batch that is coming read ahead. */
void trainer_cache_read_ahead(Trainer *t, const TrainerFeed *feed);
/* Gives the outputs of the frozen layers for a batch to the step functions. */
Status trainer_cache_write(Trainer *t, const TrainerFeed *feed);
/* Some row has found no room. */
bool trainer_cache_was_refused(const Trainer *t);
/* No more rows are made ahead. All ranks call it at the same step, or none. */
void trainer_cache_stop_plan(Trainer *t);

/* ---- trainer_lengths.c */

/* Asks the data for the lengths of samples where something depends on them; makes the order of batches. */
Status trainer_find_lengths(Trainer *t);
/* The smallest variant of the executor that holds n samples of those lengths; the length that it is for (0: the only
 * one). */
uint32_t trainer_variant_of(const Trainer *t, const uint32_t *lengths, const uint64_t *indices, uint32_t n);
uint32_t trainer_length_of(const Trainer *t, uint32_t variant);

/* ---- trainer_state.c */

Status trainer_initialise(Trainer *t);
Status trainer_load_weights(Trainer *t);
/* From the newest good checkpoint; from the beginning when there is none. */
Status trainer_resume(Trainer *t);
/* A new run must not overwrite another one's checkpoints. */
Status trainer_refuse_used_folder(Trainer *t);
/* Collective; nothing without a folder. */
Status trainer_write_checkpoint(Trainer *t);

/* ---- trainer_eval.c */

Status trainer_evaluate_and_log(Trainer *t, TrainerEval *out_eval);

#endif
