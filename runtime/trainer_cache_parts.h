/* What the files of the trainer's cache share: trainer_cache.c (rows and batches, begin and end), trainer_cache_make.c
 * (what is missing), trainer_cache_reader.c (the thread). */
#ifndef PTC_RUNTIME_TRAINER_CACHE_PARTS_H
#define PTC_RUNTIME_TRAINER_CACHE_PARTS_H

#include "runtime/row_plan.h"
#include "runtime/trainer_parts.h"

enum
{
    MAX_BORDER = 64
};

/* One side of a border: values "STEM_0", "STEM_1", ... of a micro-batch. A sample's row holds all of them in turn. */
typedef struct
{
    uint32_t n_values;
    const char *names[MAX_BORDER];
    uint64_t row_elems; /* in the longest variant */
    float *row;
} Border;

/* The values of a border for one micro-batch, on the host. */
typedef struct
{
    const Border *border;
    uint64_t elems[MAX_BORDER]; /* of one sample, in the variant that was set last */
    float *values[MAX_BORDER];
} BorderRows;

/* A batch's micro-batch, as the step functions read it. */
typedef struct
{
    BorderRows rows;
    ExecutorUpload *uploads[MAX_BORDER]; /* NULL: of no use to this rank's program */
    bool *is_missing;                    /* by row */
    bool any_missing, started;
} MicroRows;

/* What @prefix or @advance reads of a batch. */
typedef struct
{
    const char *func;
    uint32_t *inputs; /* of t->inputs */
    uint32_t n;
} Maker;

typedef struct CacheReader CacheReader;

struct TrainerCache
{
    const FeatureStores *stores, *stores_before;
    Border frozen, earlier;
    BorderRows made, before;           /* of a run of frozen layers: what it makes, what @advance reads */
    MicroRows *micros[FEATURE_SPLITS]; /* of a batch of training, of one of evaluation */
    Maker makers[ROW_MAKERS];
    void **hosts;        /* by t->inputs: a micro-batch, where a maker reads it */
    CacheReader *reader; /* NULL: rows are read when they are wanted */
    RowPlan *plan;       /* NULL: no rows are made ahead */
    bool was_refused;    /* a row found no room */
    TrainerCacheWork work;
};

/* ---- trainer_cache.c */

uint32_t cache_n_micro(const Trainer *t, FeatureSplit split);
FeatureSplit cache_split(const Trainer *t, const TrainerFeed *feed);
/* The samples of a micro-batch. */
TrainerRows cache_samples(const Trainer *t, const TrainerFeed *feed, uint32_t micro);
void cache_set_length(const Trainer *t, BorderRows *rows, uint32_t variant);
void cache_clear_row(const BorderRows *rows, uint32_t k);
/* row: with several values, where they are read in turn. */
bool cache_get_row(FeatureCache *store, FeatureSplit split, uint64_t sample, const BorderRows *rows, uint32_t k,
                   float *row);
/* Reads what the store has of a micro-batch; the rest is zeros. */
void cache_read_rows(const Trainer *t, const TrainerFeed *feed, uint32_t micro, float *row);
/* A micro-batch that is whole is on its way to the device. */
Status cache_start_uploads(const Trainer *t, MicroRows *m, uint32_t variant);

/* ---- trainer_cache_make.c */

Maker cache_maker(Trainer *t, const char *func);
/* The plan of the rows that this rank makes ahead. Collective. */
Status cache_plan_rows(Trainer *t);
/* Makes what is missing in a batch that has been read, and what the plan says. The feed's variant is selected. */
Status cache_make_rows(Trainer *t, const TrainerFeed *feed);

/* ---- trainer_cache_reader.c */

Status cache_reader_start(Trainer *t);
void cache_reader_stop(CacheReader *r);
void cache_reader_give(CacheReader *r, const TrainerFeed *feed);
Status cache_reader_wait(CacheReader *r, const TrainerFeed *feed);

#endif
