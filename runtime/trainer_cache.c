/* The outputs of the frozen layers, kept by sample and length: what stands in the cache is read, what does not is made
 * by
 * @prefix, or by @advance from what was kept of an earlier border, and put there. */
#include "base/bug.h"
#include "runtime/trainer_parts.h"

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
    uint64_t value_elems[MAX_BORDER]; /* of one sample, in the variant of the batch */
    float *values[MAX_BORDER];        /* of a micro-batch */
    float *row;                       /* of one sample */
} Border;

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
    FeatureCache *store, *before; /* of the batch's length; before: NULL: none */
    Border frozen, earlier;
    bool *is_missing; /* by row of a micro-batch */
    Maker prefix, advance;
    void **hosts; /* by t->inputs: a micro-batch, where a maker reads it */
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

/* With room for the longest variant. */
static Border make_border(Trainer *t, const char *stem)
{
    Border border = {.stem = stem};
    uint64_t row_elems = 0;
    for (; border.n_values < MAX_BORDER; border.n_values++)
    {
        const IrGlobal g = ir_global_find(t->m, arena_printf(t->arena, "%s_%u", stem, border.n_values));
        if (!g)
            break;
        const IrType *type = &ir_global(t->m, g)->type;
        border.values[border.n_values] = ARENA_ARRAY(t->arena, float, (size_t)ir_type_n_elems(type));
        row_elems += (uint64_t)(ir_type_n_elems(type) / type->dims[0]);
    }
    border.row = ARENA_ARRAY(t->arena, float, row_elems + 1);
    return border;
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

void trainer_set_cache(Trainer *t, const FeatureStores *cache, const FeatureStores *before)
{
    TrainerCache *c = ARENA_NEW(t->arena, TrainerCache);
    *c = (TrainerCache){.stores = cache,
                        .stores_before = ir_func_find(t->m, "advance") ? before : NULL,
                        .frozen = make_border(t, "frozen"),
                        .is_missing = ARENA_ARRAY(t->arena, bool, t->options.rows),
                        .hosts = ARENA_ARRAY(t->arena, void *, t->inputs.len + 1)};
    c->prefix = make_maker(t, c->hosts, "prefix");
    if (c->stores_before)
    {
        c->earlier = make_border(t, "batch.before");
        c->advance = make_maker(t, c->hosts, "advance");
    }
    t->cache = c;
}

/* ---- rows */

static void set_length(const Trainer *t, Border *border)
{
    for (uint32_t i = 0; i < border->n_values; i++)
    {
        char name[64];
        snprintf(name, sizeof name, "%s_%u", border->stem, i);
        border->value_elems[i] = executor_n_elems(t->executor, name) / t->options.rows;
    }
}

static void scatter(const Border *border, uint32_t k)
{
    const float *from = border->row;
    for (uint32_t i = 0; i < border->n_values; from += border->value_elems[i++])
        memcpy(border->values[i] + k * border->value_elems[i], from, border->value_elems[i] * sizeof *from);
}

static void gather(const Border *border, uint32_t k)
{
    float *to = border->row;
    for (uint32_t i = 0; i < border->n_values; to += border->value_elems[i++])
        memcpy(to, border->values[i] + k * border->value_elems[i], border->value_elems[i] * sizeof *to);
}

static void clear_rows(const Trainer *t, const Border *border)
{
    for (uint32_t i = 0; i < border->n_values; i++)
        memset(border->values[i], 0, t->options.rows * border->value_elems[i] * sizeof(float));
}

/* ---- what is missing */

/* True when the earlier border has all that is missing; then its values are in the executor. */
static Status read_earlier(Trainer *t, FeatureSplit split, const uint64_t *samples, uint32_t n, bool *out_found)
{
    TrainerCache *c = t->cache;
    *out_found = c->before != NULL;
    if (!c->before)
        return STATUS_OK;
    clear_rows(t, &c->earlier);
    for (uint32_t k = 0; k < n; k++)
    {
        if (!c->is_missing[k])
            continue;
        *out_found = feature_cache_get(c->before, split, samples[k], c->earlier.row);
        if (!*out_found)
            return STATUS_OK;
        scatter(&c->earlier, k);
    }
    for (uint32_t i = 0; i < c->earlier.n_values; i++)
        TRY(executor_write_global(t->executor, arena_printf(t->scratch, "%s_%u", c->earlier.stem, i),
                                  c->earlier.values[i]));
    return STATUS_OK;
}

/* The samples as the data has them: without what is random, which a cache could not keep. */
static Status read_inputs(Trainer *t, const Maker *maker, const TrainerFeed *feed, const uint64_t *samples, uint32_t n,
                          uint32_t first)
{
    TrainerCache *c = t->cache;
    const DatasetPass pass = {.seed = t->options.seed};
    for (uint32_t i = 0; i < maker->n; i++)
    {
        const BatchInput *input = &t->inputs.data[maker->inputs[i]];
        void *host = c->hosts[maker->inputs[i]];
        const TrainerRows rows = {
            .indices = samples, .n = n, .first = first, .length = trainer_length_of(t, feed->variant)};
        TRY(trainer_fill_input(t, feed->batch.dataset, &pass, input, &rows, host));
        TRY(executor_write_global(t->executor, input->global, host));
    }
    return STATUS_OK;
}

static Status make_missing(Trainer *t, const TrainerFeed *feed, FeatureSplit split, const uint64_t *samples, uint32_t n,
                           uint32_t first)
{
    TrainerCache *c = t->cache;
    Border *border = &c->frozen;
    float *outputs[MAX_BORDER];
    bool earlier;
    TRY(read_earlier(t, split, samples, n, &earlier));
    const Maker *maker = earlier ? &c->advance : &c->prefix; /* masks are made of the batch again by either */
    TRY(read_inputs(t, maker, feed, samples, n, first));
    TRY(executor_run(t->executor, maker->func));
    for (uint32_t i = 0; i < border->n_values; i++)
    {
        outputs[i] = ARENA_ARRAY(t->scratch, float, t->options.rows * border->value_elems[i]);
        TRY(executor_read_global(t->executor, arena_printf(t->scratch, "%s_%u", border->stem, i), outputs[i]));
    }
    for (uint32_t k = 0; k < n; k++)
    {
        if (!c->is_missing[k])
            continue;
        for (uint32_t i = 0; i < border->n_values; i++)
            memcpy(border->values[i] + k * border->value_elems[i], outputs[i] + k * border->value_elems[i],
                   border->value_elems[i] * sizeof(float));
        gather(border, k);
        if (feature_cache_put(c->store, split, samples[k], border->row) && earlier)
            feature_cache_forget(c->before, split, samples[k]);
    }
    return STATUS_OK;
}

/* ---- a batch */

static FeatureSplit split_of(const Trainer *t, const TrainerFeed *feed)
{
    return feed == &t->train_feed ? FEATURE_TRAIN : FEATURE_TEST;
}

static uint32_t n_micro_of(const Trainer *t, const TrainerFeed *feed)
{
    return feed == &t->train_feed ? t->options.rank.n_micro : 1;
}

void trainer_cache_read_ahead(Trainer *t, const TrainerFeed *feed)
{
    const TrainerCache *c = t->cache;
    const uint32_t first = feed->first_micro * t->options.rows, most = n_micro_of(t, feed) * t->options.rows;
    if (!c || t->options.rank.stage > 0 || first >= feed->n_samples)
        return;
    const uint32_t n = feed->n_samples - first < most ? feed->n_samples - first : most;
    const FeatureSplit split = split_of(t, feed);
    feature_cache_prefetch(feature_stores_of(c->stores, feed->variant), split, feed->indices + first, n);
    if (c->stores_before)
        feature_cache_prefetch(feature_stores_of(c->stores_before, feed->variant), split, feed->indices + first, n);
}

static Status write_micro(Trainer *t, const TrainerFeed *feed, int32_t micro, uint32_t n, uint32_t first)
{
    TrainerCache *c = t->cache;
    const Border *border = &c->frozen;
    const FeatureSplit split = split_of(t, feed);
    const uint64_t *samples = feed->indices + (n ? first : 0);
    bool any_missing = false;
    clear_rows(t, border);
    for (uint32_t k = 0; k < n; k++)
    {
        c->is_missing[k] = !feature_cache_get(c->store, split, samples[k], border->row);
        any_missing = any_missing || c->is_missing[k];
        if (!c->is_missing[k])
            scatter(border, k);
    }
    if (any_missing)
    {
        const double start_s = trainer_now_s();
        TRY(make_missing(t, feed, split, samples, n, first));
        t->made_s += trainer_now_s() - start_s;
    }
    for (uint32_t i = 0; i < border->n_values; i++)
    {
        const char *name = micro < 0 ? arena_printf(t->scratch, "batch.frozen_%u", i)
                                     : arena_printf(t->scratch, "batch.frozen_%u.%d", i, micro);
        if (executor_has_global(t->executor, name))
            TRY(executor_write_global(t->executor, name, border->values[i]));
    }
    return STATUS_OK;
}

Status trainer_cache_write(Trainer *t, const TrainerFeed *feed)
{
    TrainerCache *c = t->cache;
    const uint32_t rows = t->options.rows, n_micro = n_micro_of(t, feed);
    if (!c || t->options.rank.stage > 0)
        return STATUS_OK;
    Status status = STATUS_OK;
    t->made_s = 0;
    c->store = feature_stores_of(c->stores, feed->variant);
    c->before = c->stores_before ? feature_stores_of(c->stores_before, feed->variant) : NULL;
    set_length(t, &c->frozen);
    set_length(t, &c->earlier);
    t->scratch = arena_create();
    for (uint32_t micro = 0; status == STATUS_OK && micro < n_micro; micro++)
    {
        const uint32_t first = (feed->first_micro + micro) * rows;
        const uint32_t n = first >= feed->n_samples         ? 0
                           : feed->n_samples - first < rows ? feed->n_samples - first
                                                            : rows;
        status = write_micro(t, feed, n_micro > 1 ? (int32_t)micro : -1, n, first);
    }
    arena_destroy(t->scratch);
    t->scratch = NULL;
    return status;
}
