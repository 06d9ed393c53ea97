/* What the cache lacks is made by @prefix, or by @advance from what was kept of an earlier border, and put there. Rows
 * of several micro-batches go together into one run, and with them rows that later batches lack (row_plan.h): an output
 * depends on its sample and length alone, not on its place nor on what else is in the run. */
#include "base/bug.h"
#include "runtime/trainer_cache_parts.h"

#include <stdio.h>
#include <string.h>

Maker cache_maker(Trainer *t, const char *func)
{
    void **hosts = t->cache->hosts;
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

/* ---- the plan */

/* What the ranks tell each other; n 0: such a rank makes no rows. */
typedef struct
{
    char host[64];
    RowShare share;
} Seat;

/* The ranks of this host that make rows, in order. Collective. */
static Status find_shares(Trainer *t, RowPlanSpec *spec)
{
    const TrainerRank *rank = &t->options.rank;
    const uint32_t n_ranks = rank->world ? comm_size(rank->world) : 1;
    Seat *seats = ARENA_ARRAY(t->arena, Seat, n_ranks), mine = {.share.first = rank->first_micro * t->options.rows};
    RowShare *shares = ARENA_ARRAY(t->arena, RowShare, n_ranks);
    mine.share.n = rank->stage == 0 ? rank->n_micro * t->options.rows : 0;
    if (rank->world)
    {
        snprintf(mine.host, sizeof mine.host, "%s", comm_host(rank->world, t->rank));
        TRY(comm_all_gather(rank->world, &mine, sizeof mine, seats));
    }
    else
        seats[0] = mine;
    spec->shares = shares;
    for (uint32_t r = 0; r < n_ranks; r++)
    {
        if (r == t->rank)
            spec->rank = spec->n_ranks;
        if (seats[r].share.n && strcmp(seats[r].host, mine.host) == 0)
            shares[spec->n_ranks++] = seats[r].share;
    }
    return STATUS_OK;
}

static uint32_t variant_of(const void *context, const uint64_t *samples, uint32_t n)
{
    const Trainer *t = context;
    return trainer_variant_of(t, t->train_feed.lengths, samples, n);
}

static RowState state_of(const void *context, uint32_t variant, uint64_t sample)
{
    const TrainerCache *c = ((const Trainer *)context)->cache;
    if (feature_cache_has(feature_stores_of(c->stores, variant), FEATURE_TRAIN, sample))
        return ROW_KEPT;
    const bool advances =
        c->stores_before && feature_cache_has(feature_stores_of(c->stores_before, variant), FEATURE_TRAIN, sample);
    return advances ? ROW_ADVANCES : ROW_STARTS;
}

/* Operations of a run, which its time is in proportion to. */
static const double *costs_of_runs(Trainer *t, uint32_t n_variants)
{
    double *costs = ARENA_ARRAY(t->arena, double, n_variants *ROW_MAKERS);
    for (uint32_t i = 0; i < n_variants * ROW_MAKERS; i++)
    {
        const char *func = t->cache->makers[i % ROW_MAKERS].func;
        executor_select(t->executor, i / ROW_MAKERS);
        costs[i] = 1 + (func ? executor_matmul_flops(t->executor, func) : 0);
    }
    return costs;
}

Status cache_plan_rows(Trainer *t)
{
    TrainerCache *c = t->cache;
    const uint32_t n_lengths = t->options.buckets.n_lengths, n_variants = n_lengths < 2 ? 1 : n_lengths;
    RowPlanSpec spec = {.rows = t->options.rows,
                        .n_variants = n_variants,
                        .variant_of = variant_of,
                        .state_of = state_of,
                        .context = t};
    TRY(find_shares(t, &spec));
    if (t->options.rank.stage == 0)
    {
        spec.order = batch_order_make(t->arena, t->order.sampler, t->order.batch, t->order.group, t->order.lengths);
        spec.costs = costs_of_runs(t, n_variants);
        c->plan = row_plan_create(t->arena, &spec);
    }
    /* all have seen the same rows before one puts more */
    return t->options.rank.world ? comm_barrier(t->options.rank.world) : STATUS_OK;
}

/* ---- a run */

typedef struct
{
    uint64_t sample;
    MicroRows *micro; /* that waits for it; NULL: none yet */
    uint32_t k;
} Wanted;

typedef VEC(Wanted) WantedRows;

/* Rows of one variant. */
typedef struct
{
    const TrainerFeed *feed; /* of their data */
    FeatureSplit split;
    uint32_t variant;
    WantedRows rows[ROW_MAKERS];
} Order;

/* The samples as the data has them: without what is random, which a cache could not keep. */
static Status read_inputs(Trainer *t, const Order *order, const Maker *maker, const Wanted *run, uint32_t n)
{
    TrainerCache *c = t->cache;
    const DatasetPass pass = {.seed = t->options.seed};
    uint64_t *samples = ARENA_ARRAY(t->scratch, uint64_t, n);
    for (uint32_t j = 0; j < n; j++)
        samples[j] = run[j].sample;
    const TrainerRows rows = {.indices = samples, .n = n, .length = trainer_length_of(t, order->variant)};
    for (uint32_t i = 0; i < maker->n; i++)
    {
        const BatchInput *input = &t->inputs.data[maker->inputs[i]];
        void *host = c->hosts[maker->inputs[i]];
        TRY(trainer_fill_input(t, order->feed->batch.dataset, &pass, input, &rows, host));
        TRY(executor_write_global(t->executor, input->global, host));
    }
    return STATUS_OK;
}

static void hand_over(const Trainer *t, const Order *order, RowState how, const Wanted *wanted, uint32_t j)
{
    TrainerCache *c = t->cache;
    FeatureCache *store = feature_stores_of(c->stores, order->variant);
    const BorderRows *made = &c->made;
    float *to = c->frozen.row;
    for (uint32_t i = 0; i < c->frozen.n_values; to += made->elems[i++])
    {
        float *from = made->values[i] + j * made->elems[i];
        feature_cache_round(store, from, made->elems[i]);
        memcpy(to, from, made->elems[i] * sizeof *to);
        if (wanted->micro)
            memcpy(wanted->micro->rows.values[i] + wanted->k * made->elems[i], from, made->elems[i] * sizeof *from);
    }
    if (!feature_cache_put(store, order->split, wanted->sample, c->frozen.row))
        c->was_refused = true;
    else if (how == ROW_ADVANCES)
        feature_cache_forget(feature_stores_of(c->stores_before, order->variant), order->split, wanted->sample);
}

static Status run_maker(Trainer *t, const Order *order, RowState how, const Wanted *run, uint32_t n)
{
    TrainerCache *c = t->cache;
    TRY(read_inputs(t, order, &c->makers[how], run, n)); /* masks are made of the batch again, by @advance too */
    TRY(executor_run(t->executor, c->makers[how].func));
    for (uint32_t i = 0; i < c->frozen.n_values; i++)
        TRY(executor_read_global(t->executor, c->frozen.names[i], c->made.values[i]));
    for (uint32_t j = 0; j < n; j++)
        hand_over(t, order, how, &run[j], j);
    c->work.runs++;
    c->work.rows += n;
    return STATUS_OK;
}

/* What cannot be read again starts from the data. */
static Status advance_rows(Trainer *t, Order *order)
{
    TrainerCache *c = t->cache;
    const WantedRows *rows = &order->rows[ROW_ADVANCES];
    FeatureCache *store = feature_stores_of(c->stores_before, order->variant);
    Wanted *run = ARENA_ARRAY(t->scratch, Wanted, t->options.rows);
    uint32_t n = 0;
    for (uint32_t at = 0; at < rows->len; at++)
    {
        const Wanted *wanted = &rows->data[at];
        if (cache_get_row(store, order->split, wanted->sample, &c->before, n, c->earlier.row))
            run[n++] = *wanted;
        else
            vec_push(t->scratch, &order->rows[ROW_STARTS], *wanted);
        if (n == 0 || (n < t->options.rows && at + 1 < rows->len))
            continue;
        for (uint32_t k = n; k < t->options.rows; k++)
            cache_clear_row(&c->before, k);
        for (uint32_t i = 0; i < c->earlier.n_values; i++)
            TRY(executor_write_global(t->executor, c->earlier.names[i], c->before.values[i]));
        TRY(run_maker(t, order, ROW_ADVANCES, run, n));
        n = 0;
    }
    return STATUS_OK;
}

static Status start_rows(Trainer *t, const Order *order)
{
    const WantedRows *rows = &order->rows[ROW_STARTS];
    for (uint32_t at = 0; at < rows->len; at += t->options.rows)
    {
        const uint32_t left = rows->len - at;
        TRY(run_maker(t, order, ROW_STARTS, rows->data + at, left < t->options.rows ? left : t->options.rows));
    }
    return STATUS_OK;
}

/* Into the room that rows which start from the data leave in their last run go rows that could advance. */
static Status make_order(Trainer *t, Order *order)
{
    TrainerCache *c = t->cache;
    WantedRows *starts = &order->rows[ROW_STARTS], *advances = &order->rows[ROW_ADVANCES];
    if (!starts->len && !advances->len)
        return STATUS_OK;
    executor_select(t->executor, order->variant);
    cache_set_length(t, &c->made, order->variant);
    for (; starts->len % t->options.rows && advances->len; advances->len--)
        vec_push(t->scratch, starts, advances->data[advances->len - 1]);
    if (advances->len)
    {
        cache_set_length(t, &c->before, order->variant);
        TRY(advance_rows(t, order));
    }
    return start_rows(t, order);
}

/* ---- a batch */

static void add_wanted(Trainer *t, Order *order, Wanted wanted)
{
    const TrainerCache *c = t->cache;
    const bool advances = c->stores_before && feature_cache_has(feature_stores_of(c->stores_before, order->variant),
                                                                order->split, wanted.sample);
    vec_push(t->scratch, &order->rows[advances ? ROW_ADVANCES : ROW_STARTS], wanted);
}

/* What is still missing: another rank may have put it since it was read. */
static void add_missing(Trainer *t, Order *order)
{
    const TrainerCache *c = t->cache;
    FeatureCache *store = feature_stores_of(c->stores, order->variant);
    for (uint32_t micro = 0; micro < cache_n_micro(t, order->split); micro++)
    {
        MicroRows *m = &c->micros[order->split][micro];
        const TrainerRows samples = cache_samples(t, order->feed, micro);
        for (uint32_t k = 0; m->any_missing && k < samples.n; k++)
        {
            const uint64_t sample = samples.indices[k];
            if (m->is_missing[k] && !(feature_cache_has(store, order->split, sample) &&
                                      cache_get_row(store, order->split, sample, &m->rows, k, c->frozen.row)))
                add_wanted(t, order, (Wanted){.sample = sample, .micro = m, .k = k});
        }
    }
}

Status cache_make_rows(Trainer *t, const TrainerFeed *feed)
{
    const TrainerCache *c = t->cache;
    const FeatureSplit split = cache_split(t, feed);
    Order order = {.feed = feed, .split = split, .variant = feed->variant};
    const PlannedRow *planned = NULL;
    uint32_t n = 0;
    if (c->plan && split == FEATURE_TRAIN)
        planned = row_plan_next(c->plan, t->step, t->position, trainer_horizon(t), &n);
    add_missing(t, &order);
    for (uint32_t i = 0; i < n; i++)
        if (planned[i].variant == feed->variant)
            add_wanted(t, &order, (Wanted){.sample = planned[i].sample});
    TRY(make_order(t, &order));
    for (uint32_t i = 0; i < n;)
    {
        order = (Order){.feed = feed, .split = split, .variant = planned[i].variant};
        for (; i < n && planned[i].variant == order.variant; i++)
            if (order.variant != feed->variant)
                add_wanted(t, &order, (Wanted){.sample = planned[i].sample});
        TRY(make_order(t, &order));
    }
    executor_select(t->executor, feed->variant);
    return STATUS_OK;
}
