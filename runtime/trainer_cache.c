/* The outputs of the frozen layers, kept by sample and length: what stands in the cache is read, what does not is made
 * by @prefix, or by @advance from what was kept of an earlier border, and put there. Where the device has memory of its
 * own, a thread reads while the step before runs, and starts to copy what is whole. */
#include "base/bug.h"
#include "runtime/trainer_parts.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum
{
    MAX_BORDER = 64
};

/* One side of a border: values "STEM_0", "STEM_1", ... of a micro-batch. A sample's row holds all of them in turn. */
typedef struct
{
    const char *stem;
    uint32_t n_values;
    float *row; /* of one sample */
} Border;

/* The values of a border for one micro-batch, on the host. */
typedef struct
{
    const Border *border;
    uint64_t elems[MAX_BORDER]; /* of one sample, in the variant of the batch */
    float *values[MAX_BORDER];
} BorderRows;

/* A batch's micro-batch, as the step functions read it. */
typedef struct
{
    BorderRows rows;
    const char *names[MAX_BORDER];       /* of the inputs */
    ExecutorUpload *uploads[MAX_BORDER]; /* NULL: of no use to this rank's program, or read when it is wanted */
    bool *is_missing;                    /* by row */
    bool any_missing, started;
} MicroRows;

/* Reads the rows of a batch that is coming. */
typedef struct
{
    const Trainer *trainer;
    float *row;
    pthread_t thread;
    pthread_mutex_t mutex; /* of all below */
    pthread_cond_t changed;
    const TrainerFeed *feeds[FEATURE_SPLITS]; /* in the order in which they were started; the first is being read */
    uint32_t n_feeds;
    bool quit;
    Status status; /* the first failure */
    char detail[256];
} Reader;

/* What @prefix or @advance reads of a batch. */
typedef struct
{
    const char *func;
    uint32_t *inputs; /* of t->inputs */
    uint32_t n;
} Maker;

struct TrainerCache
{
    const FeatureStores *stores, *stores_before;
    Border frozen, earlier;
    BorderRows before;                 /* of the earlier border */
    MicroRows *micros[FEATURE_SPLITS]; /* of a batch of training, of one of evaluation */
    Maker prefix, advance;
    void **hosts;   /* by t->inputs: a micro-batch, where a maker reads it */
    Reader *reader; /* NULL: rows are read when they are wanted */
};

/* ---- set up */

bool trainer_is_border(const char *global)
{
    return strncmp(global, "batch.frozen_", 13) == 0 || strncmp(global, "batch.before_", 13) == 0;
}

bool trainer_function_reads(const Trainer *t, const char *func, const char *global)
{
    const IrFunc f = ir_func_find(t->m, func);
    if (!f)
        return false;
    IR_FOR_OPS(t->m, f, op)
    {
        const IrOpData *data = ir_op(t->m, op);
        if (data->code == IR_get && strcmp(ir_attrs_str(&data->attrs, IR_ATTR_global), global) == 0)
            return true;
    }
    return false;
}

static const IrType *border_type(const Trainer *t, const Border *border, uint32_t i)
{
    char name[64];
    snprintf(name, sizeof name, "%s_%u", border->stem, i);
    const IrGlobal g = ir_global_find(t->m, name);
    return g ? &ir_global(t->m, g)->type : NULL;
}

/* With room for the longest variant. */
static Border make_border(Trainer *t, const char *stem)
{
    Border border = {.stem = stem};
    uint64_t row_elems = 0;
    for (const IrType *type; border.n_values < MAX_BORDER && (type = border_type(t, &border, border.n_values));
         border.n_values++)
        row_elems += (uint64_t)(ir_type_n_elems(type) / type->dims[0]);
    border.row = ARENA_ARRAY(t->arena, float, row_elems + 1);
    return border;
}

static BorderRows make_rows(Trainer *t, const Border *border)
{
    BorderRows rows = {.border = border};
    for (uint32_t i = 0; i < border->n_values; i++)
        rows.values[i] = ARENA_ARRAY(t->arena, float, (size_t)ir_type_n_elems(border_type(t, border, i)));
    return rows;
}

static const char *input_name(Trainer *t, uint32_t i, int32_t micro)
{
    return micro < 0 ? arena_printf(t->arena, "batch.frozen_%u", i)
                     : arena_printf(t->arena, "batch.frozen_%u.%d", i, micro);
}

static uint32_t n_micro_of(const Trainer *t, FeatureSplit split)
{
    return split == FEATURE_TRAIN ? t->options.rank.n_micro : 1;
}

/* Where rows are read early each micro-batch has memory of its own; else all have `shared`. */
static Status make_micros(Trainer *t, FeatureSplit split, const BorderRows *shared)
{
    TrainerCache *c = t->cache;
    const uint32_t n_micro = n_micro_of(t, split);
    c->micros[split] = ARENA_ARRAY(t->arena, MicroRows, n_micro);
    for (uint32_t micro = 0; micro < n_micro; micro++)
    {
        MicroRows *m = &c->micros[split][micro];
        *m = (MicroRows){.rows = *shared, .is_missing = ARENA_ARRAY(t->arena, bool, t->options.rows)};
        for (uint32_t i = 0; i < c->frozen.n_values; i++)
        {
            m->names[i] = input_name(t, i, n_micro > 1 ? (int32_t)micro : -1);
            if (!executor_uploads_early(t->executor) || !executor_has_global(t->executor, m->names[i]))
                continue;
            TRY(executor_upload_create(t->executor, m->names[i], &m->uploads[i]));
            m->rows.values[i] = executor_upload_host(m->uploads[i]);
        }
    }
    return STATUS_OK;
}

static Maker make_maker(Trainer *t, void **hosts, const char *func)
{
    Maker maker = {.func = func, .inputs = ARENA_ARRAY(t->arena, uint32_t, t->inputs.len + 1)};
    for (uint32_t i = 0; i < t->inputs.len; i++)
    {
        const BatchInput *input = &t->inputs.data[i];
        if (!trainer_function_reads(t, func, input->global))
            continue;
        maker.inputs[maker.n++] = i;
        if (!hosts[i])
            hosts[i] = arena_alloc(t->arena, (size_t)ir_type_size_bytes(input->type));
    }
    return maker;
}

uint64_t trainer_border_elems(const IrModule *m)
{
    uint64_t n = 0;
    char name[64];
    for (uint32_t i = 0; i < MAX_BORDER; i++)
    {
        snprintf(name, sizeof name, "batch.frozen_%u", i);
        const IrGlobal g = ir_global_find(m, name);
        if (g)
            n += (uint64_t)(ir_type_n_elems(&ir_global(m, g)->type) / ir_global(m, g)->type.dims[0]);
    }
    return n;
}

/* ---- rows */

static void set_length(const Trainer *t, BorderRows *rows, uint32_t variant)
{
    for (uint32_t i = 0; i < rows->border->n_values; i++)
    {
        char name[64];
        snprintf(name, sizeof name, "%s_%u", rows->border->stem, i);
        rows->elems[i] = executor_variant_elems(t->executor, variant, name) / t->options.rows;
    }
}

static void clear_row(const BorderRows *rows, uint32_t k)
{
    for (uint32_t i = 0; i < rows->border->n_values; i++)
        memset(rows->values[i] + k * rows->elems[i], 0, rows->elems[i] * sizeof(float));
}

/* row: with several values, where they are read in turn. */
static bool get_row(FeatureCache *store, FeatureSplit split, uint64_t sample, const BorderRows *rows, uint32_t k,
                    float *row)
{
    const uint32_t n = rows->border->n_values;
    const float *from = row;
    if (n == 1)
        return feature_cache_get(store, split, sample, rows->values[0] + k * rows->elems[0]);
    if (!feature_cache_get(store, split, sample, row))
        return false;
    for (uint32_t i = 0; i < n; from += rows->elems[i++])
        memcpy(rows->values[i] + k * rows->elems[i], from, rows->elems[i] * sizeof *from);
    return true;
}

static bool put_row(FeatureCache *store, FeatureSplit split, uint64_t sample, const BorderRows *rows, uint32_t k)
{
    float *to = rows->border->row;
    for (uint32_t i = 0; i < rows->border->n_values; to += rows->elems[i++])
        memcpy(to, rows->values[i] + k * rows->elems[i], rows->elems[i] * sizeof *to);
    return feature_cache_put(store, split, sample, rows->border->row);
}

/* The samples of a micro-batch. */
typedef struct
{
    const uint64_t *samples;
    uint32_t n, first; /* the first one's number in the whole batch */
} Part;

static Part part_of(const Trainer *t, const TrainerFeed *feed, uint32_t micro)
{
    const uint32_t rows = t->options.rows, first = (feed->first_micro + micro) * rows;
    if (first >= feed->n_samples)
        return (Part){.samples = feed->indices, .first = first};
    const uint32_t left = feed->n_samples - first;
    return (Part){.samples = feed->indices + first, .n = left < rows ? left : rows, .first = first};
}

static FeatureSplit split_of(const Trainer *t, const TrainerFeed *feed)
{
    return feed == &t->train_feed ? FEATURE_TRAIN : FEATURE_TEST;
}

/* What the store has; the rest is zeros. */
static void read_rows(const Trainer *t, const TrainerFeed *feed, uint32_t micro, float *row)
{
    const TrainerCache *c = t->cache;
    const FeatureSplit split = split_of(t, feed);
    const Part part = part_of(t, feed, micro);
    FeatureCache *store = feature_stores_of(c->stores, feed->variant);
    MicroRows *m = &c->micros[split][micro];
    m->any_missing = m->started = false;
    set_length(t, &m->rows, feed->variant);
    for (uint32_t k = 0; k < t->options.rows; k++)
    {
        m->is_missing[k] = k < part.n && !get_row(store, split, part.samples[k], &m->rows, k, row);
        m->any_missing = m->any_missing || m->is_missing[k];
        if (m->is_missing[k] || k >= part.n)
            clear_row(&m->rows, k);
    }
}

static Status start_uploads(const Trainer *t, MicroRows *m, uint32_t variant)
{
    for (uint32_t i = 0; i < t->cache->frozen.n_values; i++)
        if (m->uploads[i])
            TRY(executor_upload_start(m->uploads[i], variant));
    m->started = true;
    return STATUS_OK;
}

/* ---- ahead */

static Status read_feed(const Trainer *t, const TrainerFeed *feed, float *row)
{
    for (uint32_t micro = 0; micro < n_micro_of(t, split_of(t, feed)); micro++)
    {
        MicroRows *m = &t->cache->micros[split_of(t, feed)][micro];
        read_rows(t, feed, micro, row);
        if (!m->any_missing)
            TRY(start_uploads(t, m, feed->variant));
    }
    return STATUS_OK;
}

static void *reader_main(void *argument)
{
    Reader *r = argument;
    pthread_mutex_lock(&r->mutex);
    for (;;)
    {
        while (!r->quit && r->n_feeds == 0)
            pthread_cond_wait(&r->changed, &r->mutex);
        if (r->quit)
            break;
        const TrainerFeed *feed = r->feeds[0];
        pthread_mutex_unlock(&r->mutex);
        const Status status = read_feed(r->trainer, feed, r->row);
        pthread_mutex_lock(&r->mutex);
        if (status != STATUS_OK && r->status == STATUS_OK)
        {
            r->status = status;
            snprintf(r->detail, sizeof r->detail, "%s", status_detail());
        }
        r->feeds[0] = r->feeds[1];
        r->n_feeds--;
        pthread_cond_broadcast(&r->changed);
    }
    pthread_mutex_unlock(&r->mutex);
    return NULL;
}

static Status reader_start(Trainer *t)
{
    TrainerCache *c = t->cache;
    Reader *r = ARENA_NEW(t->arena, Reader);
    *r = (Reader){.trainer = t};
    uint64_t row_elems = 0;
    for (uint32_t i = 0; i < c->frozen.n_values; i++)
    {
        const IrType *type = border_type(t, &c->frozen, i);
        row_elems += (uint64_t)(ir_type_n_elems(type) / type->dims[0]);
    }
    r->row = ARENA_ARRAY(t->arena, float, row_elems + 1);
    pthread_mutex_init(&r->mutex, NULL);
    pthread_cond_init(&r->changed, NULL);
    if (pthread_create(&r->thread, NULL, reader_main, r) != 0)
        return status_fail(STATUS_OUT_OF_MEMORY, "cannot start a thread that reads the cache");
    c->reader = r;
    return STATUS_OK;
}

static void reader_stop(Reader *r)
{
    pthread_mutex_lock(&r->mutex);
    r->quit = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
    pthread_join(r->thread, NULL);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->mutex);
}

static void reader_give(Reader *r, const TrainerFeed *feed)
{
    pthread_mutex_lock(&r->mutex);
    ENSURE(r->n_feeds < FEATURE_SPLITS);
    r->feeds[r->n_feeds++] = feed;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
}

static Status reader_wait(Reader *r, const TrainerFeed *feed)
{
    pthread_mutex_lock(&r->mutex);
    while ((r->n_feeds > 0 && r->feeds[0] == feed) || (r->n_feeds > 1 && r->feeds[1] == feed))
        pthread_cond_wait(&r->changed, &r->mutex);
    const Status status = r->status;
    pthread_mutex_unlock(&r->mutex);
    return status == STATUS_OK ? status : status_fail(status, "%s", r->detail);
}

/* ---- what is missing */

/* True when the earlier border has all that is missing; then its values are in the executor. */
static Status read_earlier(Trainer *t, const TrainerFeed *feed, const Part *part, const MicroRows *m, bool *out_found)
{
    TrainerCache *c = t->cache;
    const BorderRows *rows = &c->before;
    *out_found = c->stores_before != NULL;
    if (!c->stores_before)
        return STATUS_OK;
    FeatureCache *store = feature_stores_of(c->stores_before, feed->variant);
    set_length(t, &c->before, feed->variant);
    for (uint32_t k = 0; k < t->options.rows; k++)
    {
        clear_row(rows, k);
        if (!m->is_missing[k])
            continue;
        *out_found = get_row(store, split_of(t, feed), part->samples[k], rows, k, c->earlier.row);
        if (!*out_found)
            return STATUS_OK;
    }
    for (uint32_t i = 0; i < c->earlier.n_values; i++)
        TRY(executor_write_global(t->executor, arena_printf(t->scratch, "%s_%u", c->earlier.stem, i), rows->values[i]));
    return STATUS_OK;
}

/* The samples as the data has them: without what is random, which a cache could not keep. */
static Status read_inputs(Trainer *t, const Maker *maker, const TrainerFeed *feed, const Part *part)
{
    TrainerCache *c = t->cache;
    const DatasetPass pass = {.seed = t->options.seed};
    for (uint32_t i = 0; i < maker->n; i++)
    {
        const BatchInput *input = &t->inputs.data[maker->inputs[i]];
        void *host = c->hosts[maker->inputs[i]];
        const TrainerRows rows = {.indices = part->samples,
                                  .n = part->n,
                                  .first = part->first,
                                  .length = trainer_length_of(t, feed->variant)};
        TRY(trainer_fill_input(t, feed->batch.dataset, &pass, input, &rows, host));
        TRY(executor_write_global(t->executor, input->global, host));
    }
    return STATUS_OK;
}

static Status make_missing(Trainer *t, const TrainerFeed *feed, const Part *part, MicroRows *m)
{
    TrainerCache *c = t->cache;
    const FeatureSplit split = split_of(t, feed);
    FeatureCache *store = feature_stores_of(c->stores, feed->variant);
    float *outputs[MAX_BORDER];
    bool earlier;
    TRY(read_earlier(t, feed, part, m, &earlier));
    const Maker *maker = earlier ? &c->advance : &c->prefix; /* masks are made of the batch again by either */
    TRY(read_inputs(t, maker, feed, part));
    TRY(executor_run(t->executor, maker->func));
    for (uint32_t i = 0; i < c->frozen.n_values; i++)
    {
        outputs[i] = ARENA_ARRAY(t->scratch, float, t->options.rows * m->rows.elems[i]);
        TRY(executor_read_global(t->executor, arena_printf(t->scratch, "%s_%u", c->frozen.stem, i), outputs[i]));
    }
    for (uint32_t k = 0; k < part->n; k++)
    {
        if (!m->is_missing[k])
            continue;
        for (uint32_t i = 0; i < c->frozen.n_values; i++)
            memcpy(m->rows.values[i] + k * m->rows.elems[i], outputs[i] + k * m->rows.elems[i],
                   m->rows.elems[i] * sizeof(float));
        if (put_row(store, split, part->samples[k], &m->rows, k) && earlier)
            feature_cache_forget(feature_stores_of(c->stores_before, feed->variant), split, part->samples[k]);
    }
    return STATUS_OK;
}

/* ---- a batch */

void trainer_cache_read_ahead(Trainer *t, const TrainerFeed *feed)
{
    const TrainerCache *c = t->cache;
    if (!c || t->options.rank.stage > 0)
        return;
    const FeatureSplit split = split_of(t, feed);
    const Part part = part_of(t, feed, 0);
    const uint32_t most = n_micro_of(t, split) * t->options.rows, left = feed->n_samples - part.first;
    if (part.n)
    {
        const uint32_t n = left < most ? left : most;
        feature_cache_prefetch(feature_stores_of(c->stores, feed->variant), split, part.samples, n);
        if (c->stores_before)
            feature_cache_prefetch(feature_stores_of(c->stores_before, feed->variant), split, part.samples, n);
    }
    if (c->reader)
        reader_give(c->reader, feed);
}

static Status write_micro(Trainer *t, const TrainerFeed *feed, uint32_t micro)
{
    const TrainerCache *c = t->cache;
    MicroRows *m = &c->micros[split_of(t, feed)][micro];
    const Part part = part_of(t, feed, micro);
    if (!c->reader)
        read_rows(t, feed, micro, c->frozen.row);
    if (m->any_missing)
    {
        const double start_s = trainer_now_s();
        TRY(make_missing(t, feed, &part, m));
        t->made_s += trainer_now_s() - start_s;
    }
    if (!m->started)
        TRY(start_uploads(t, m, feed->variant));
    for (uint32_t i = 0; i < c->frozen.n_values; i++)
    {
        if (m->uploads[i])
            TRY(executor_upload_finish(m->uploads[i]));
        else if (executor_has_global(t->executor, m->names[i]))
            TRY(executor_write_global(t->executor, m->names[i], m->rows.values[i]));
    }
    return STATUS_OK;
}

Status trainer_cache_write(Trainer *t, const TrainerFeed *feed)
{
    const TrainerCache *c = t->cache;
    if (!c || t->options.rank.stage > 0)
        return STATUS_OK;
    Status status = c->reader ? reader_wait(c->reader, feed) : STATUS_OK;
    t->made_s = 0;
    t->scratch = arena_create();
    for (uint32_t micro = 0; status == STATUS_OK && micro < n_micro_of(t, split_of(t, feed)); micro++)
        status = write_micro(t, feed, micro);
    arena_destroy(t->scratch);
    t->scratch = NULL;
    return status;
}

/* ---- begin and end */

Status trainer_set_cache(Trainer *t, const FeatureStores *cache, const FeatureStores *before)
{
    TrainerCache *c = t->cache = ARENA_NEW(t->arena, TrainerCache);
    *c = (TrainerCache){.stores = cache,
                        .stores_before = ir_func_find(t->m, "advance") ? before : NULL,
                        .frozen = make_border(t, "frozen"),
                        .hosts = ARENA_ARRAY(t->arena, void *, t->inputs.len + 1)};
    c->prefix = make_maker(t, c->hosts, "prefix");
    if (c->stores_before)
    {
        c->earlier = make_border(t, "batch.before");
        c->before = make_rows(t, &c->earlier);
        c->advance = make_maker(t, c->hosts, "advance");
    }
    if (t->options.rank.stage > 0)
        return STATUS_OK;
    const BorderRows shared = make_rows(t, &c->frozen);
    for (FeatureSplit split = 0; split < FEATURE_SPLITS; split++)
        TRY(make_micros(t, split, &shared));
    return executor_uploads_early(t->executor) ? reader_start(t) : STATUS_OK;
}

void trainer_cache_close(Trainer *t)
{
    if (t->cache && t->cache->reader)
        reader_stop(t->cache->reader);
}
