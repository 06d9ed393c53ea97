/* The outputs of the frozen layers, kept by sample and length: what stands in the cache is read, what does not is made
 * (trainer_cache_make.c) and put there. Where the device has memory of its own, a thread reads while the step before
 * runs, and starts to copy what is whole. */
#include "base/bug.h"
#include "runtime/trainer_cache_parts.h"

#include <stdio.h>
#include <string.h>

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

/* With room for the longest variant. */
static Border make_border(Trainer *t, const char *stem)
{
    Border border = {0};
    for (uint32_t i = 0; i < MAX_BORDER; i++)
    {
        const char *name = arena_printf(t->arena, "%s_%u", stem, i);
        const IrGlobal g = ir_global_find(t->m, name);
        if (!g)
            break;
        const IrType *type = &ir_global(t->m, g)->type;
        border.names[border.n_values++] = name;
        border.row_elems += (uint64_t)(ir_type_n_elems(type) / type->dims[0]);
    }
    border.row = ARENA_ARRAY(t->arena, float, border.row_elems + 1);
    return border;
}

static float *make_values(Trainer *t, const char *name)
{
    const IrGlobal g = ir_global_find(t->m, name);
    return ARENA_ARRAY(t->arena, float, (size_t)ir_type_n_elems(&ir_global(t->m, g)->type));
}

static BorderRows make_rows(Trainer *t, const Border *border)
{
    BorderRows rows = {.border = border};
    for (uint32_t i = 0; i < border->n_values; i++)
        rows.values[i] = make_values(t, border->names[i]);
    return rows;
}

uint32_t cache_n_micro(const Trainer *t, FeatureSplit split)
{
    return split == FEATURE_TRAIN ? t->options.rank.n_micro : 1;
}

static Status make_micros(Trainer *t, FeatureSplit split)
{
    TrainerCache *c = t->cache;
    const uint32_t n_micro = cache_n_micro(t, split);
    c->micros[split] = ARENA_ARRAY(t->arena, MicroRows, n_micro);
    for (uint32_t micro = 0; micro < n_micro; micro++)
    {
        MicroRows *m = &c->micros[split][micro];
        *m = (MicroRows){.rows.border = &c->frozen, .is_missing = ARENA_ARRAY(t->arena, bool, t->options.rows)};
        for (uint32_t i = 0; i < c->frozen.n_values; i++)
        {
            const char *name = n_micro > 1 ? arena_printf(t->arena, "batch.frozen_%u.%u", i, micro)
                                           : arena_printf(t->arena, "batch.frozen_%u", i);
            if (executor_has_global(t->executor, name))
                TRY(executor_upload_create(t->executor, name, &m->uploads[i]));
            m->rows.values[i] =
                m->uploads[i] ? executor_upload_host(m->uploads[i]) : make_values(t, c->frozen.names[i]);
        }
    }
    return STATUS_OK;
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

void cache_set_length(const Trainer *t, BorderRows *rows, uint32_t variant)
{
    for (uint32_t i = 0; i < rows->border->n_values; i++)
        rows->elems[i] = executor_variant_elems(t->executor, variant, rows->border->names[i]) / t->options.rows;
}

void cache_clear_row(const BorderRows *rows, uint32_t k)
{
    for (uint32_t i = 0; i < rows->border->n_values; i++)
        memset(rows->values[i] + k * rows->elems[i], 0, rows->elems[i] * sizeof(float));
}

bool cache_get_row(FeatureCache *store, FeatureSplit split, uint64_t sample, const BorderRows *rows, uint32_t k,
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

TrainerRows cache_samples(const Trainer *t, const TrainerFeed *feed, uint32_t micro)
{
    const uint32_t rows = t->options.rows, first = (feed->first_micro + micro) * rows;
    if (first >= feed->n_samples)
        return (TrainerRows){.indices = feed->indices, .first = first};
    const uint32_t left = feed->n_samples - first;
    return (TrainerRows){.indices = feed->indices + first, .n = left < rows ? left : rows, .first = first};
}

FeatureSplit cache_split(const Trainer *t, const TrainerFeed *feed)
{
    return feed == &t->train_feed ? FEATURE_TRAIN : FEATURE_TEST;
}

void cache_read_rows(const Trainer *t, const TrainerFeed *feed, uint32_t micro, float *row)
{
    const TrainerCache *c = t->cache;
    const FeatureSplit split = cache_split(t, feed);
    const TrainerRows samples = cache_samples(t, feed, micro);
    FeatureCache *store = feature_stores_of(c->stores, feed->variant);
    MicroRows *m = &c->micros[split][micro];
    m->any_missing = m->started = false;
    cache_set_length(t, &m->rows, feed->variant);
    for (uint32_t k = 0; k < t->options.rows; k++)
    {
        m->is_missing[k] = k < samples.n && !cache_get_row(store, split, samples.indices[k], &m->rows, k, row);
        m->any_missing = m->any_missing || m->is_missing[k];
        if (m->is_missing[k] || k >= samples.n)
            cache_clear_row(&m->rows, k);
    }
}

Status cache_start_uploads(const Trainer *t, MicroRows *m, uint32_t variant)
{
    for (uint32_t i = 0; i < t->cache->frozen.n_values; i++)
        if (m->uploads[i])
            TRY(executor_upload_start(m->uploads[i], variant));
    m->started = true;
    return STATUS_OK;
}

/* ---- a batch */

void trainer_cache_read_ahead(Trainer *t, const TrainerFeed *feed)
{
    const TrainerCache *c = t->cache;
    if (!c || t->options.rank.stage > 0)
        return;
    const FeatureSplit split = cache_split(t, feed);
    const TrainerRows samples = cache_samples(t, feed, 0);
    const uint32_t most = cache_n_micro(t, split) * t->options.rows, left = feed->n_samples - samples.first;
    if (samples.n)
    {
        const uint32_t n = left < most ? left : most;
        feature_cache_prefetch(feature_stores_of(c->stores, feed->variant), split, samples.indices, n);
        if (c->stores_before)
            feature_cache_prefetch(feature_stores_of(c->stores_before, feed->variant), split, samples.indices, n);
    }
    if (c->reader)
        cache_reader_give(c->reader, feed);
}

static Status give_to_steps(const Trainer *t, const TrainerFeed *feed)
{
    const FeatureSplit split = cache_split(t, feed);
    for (uint32_t micro = 0; micro < cache_n_micro(t, split); micro++)
    {
        MicroRows *m = &t->cache->micros[split][micro];
        if (!m->started)
            TRY(cache_start_uploads(t, m, feed->variant));
        for (uint32_t i = 0; i < t->cache->frozen.n_values; i++)
            if (m->uploads[i])
                TRY(executor_upload_finish(m->uploads[i]));
    }
    return STATUS_OK;
}

Status trainer_cache_write(Trainer *t, const TrainerFeed *feed)
{
    const TrainerCache *c = t->cache;
    t->made_s = 0;
    if (!c || t->options.rank.stage > 0)
        return STATUS_OK;
    if (c->reader)
        TRY(cache_reader_wait(c->reader, feed));
    for (uint32_t micro = 0; !c->reader && micro < cache_n_micro(t, cache_split(t, feed)); micro++)
        cache_read_rows(t, feed, micro, c->frozen.row);
    const double start_s = trainer_now_s();
    arena_reset(t->scratch);
    TRY(cache_make_rows(t, feed));
    t->made_s = trainer_now_s() - start_s;
    return give_to_steps(t, feed);
}

bool trainer_cache_was_refused(const Trainer *t)
{
    return t->cache && t->cache->was_refused;
}

void trainer_cache_stop_plan(Trainer *t)
{
    if (t->cache)
        t->cache->plan = NULL;
}

TrainerCacheWork trainer_cache_work(const Trainer *t)
{
    return t->cache ? t->cache->work : (TrainerCacheWork){0};
}

/* ---- begin and end */

Status trainer_set_cache(Trainer *t, const FeatureStores *cache, const FeatureStores *before)
{
    TrainerCache *c = t->cache = ARENA_NEW(t->arena, TrainerCache);
    *c = (TrainerCache){.stores = cache,
                        .stores_before = ir_func_find(t->m, "advance") ? before : NULL,
                        .frozen = make_border(t, "frozen"),
                        .hosts = ARENA_ARRAY(t->arena, void *, t->inputs.len + 1)};
    c->makers[ROW_STARTS] = cache_maker(t, "prefix");
    if (c->stores_before)
    {
        c->earlier = make_border(t, "batch.before");
        c->before = make_rows(t, &c->earlier);
        c->makers[ROW_ADVANCES] = cache_maker(t, "advance");
    }
    if (t->options.rank.stage == 0)
    {
        t->scratch = arena_create();
        c->made = make_rows(t, &c->frozen);
        for (FeatureSplit split = 0; split < FEATURE_SPLITS; split++)
            TRY(make_micros(t, split));
        if (executor_uploads_early(t->executor))
            TRY(cache_reader_start(t));
    }
    return t->train ? cache_plan_rows(t) : STATUS_OK;
}

void trainer_cache_close(Trainer *t)
{
    if (t->cache && t->cache->reader)
        cache_reader_stop(t->cache->reader);
    arena_destroy(t->scratch);
}
