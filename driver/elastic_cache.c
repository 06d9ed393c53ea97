/* When the outputs of frozen layers are kept. */
#include "base/bug.h"
#include "driver/elastic.h"
#include "driver/session.h"
#include "passes/cache_prefix.h"
#include "runtime/pool.h"

#include <stdlib.h>
#include <string.h>

enum
{
    N_TRIALS = 3
};
#define LONG_TRIAL_S 0.05 /* such a run is told apart from reading though it was the first */

/* No core does more a second: 64 operations a cycle of two vector units, 1024 of a matrix unit, at 5 GHz. */
static const double MOST_F32_FLOPS = 0.32e12, MOST_BF16_FLOPS = 5.12e12;

/* ---- whether */

static bool is_random(const DataSpec *data)
{
    for (uint32_t i = 0; i < data->n_fields; i++)
    {
        const DataImage *image = &data->fields[i].image;
        const char *crop = image->crop;
        if (image->flip || (crop && (strcmp(crop, "random") == 0 || strcmp(crop, "resized") == 0)))
            return true;
    }
    return false;
}

/* Why the outputs cannot be kept; NULL: they can. */
static const char *obstacle(Session *s)
{
    const Job *job = s->job;
    FrozenBorder border;
    const char *why;
    if (s->options->no_cache)
        return "--no-cache";
    if (job->cache.use == CACHE_OFF)
        return "<cache use=\"off\">";
    if (is_random(&job->data))
        return "the images are augmented at random, which would be the same ever after";
    if (strcmp(s->options->device, "interp") == 0)
        return "the reference interpreter computes";
    if (!frozen_border(s->arena, job->module, ir_func_find(job->module, "train"), elastic_frozen_unit(s), &border,
                       &why))
        return why;
    return NULL;
}

void elastic_choose_cache(Session *s)
{
    Elastic *e = &s->elastic;
    const char *why = obstacle(s);
    if (why)
    {
        elastic_drop_cache(s, why);
        return;
    }
    feature_stores_remove(e->cache_before);
    e->cache_before = e->cache; /* its rows move up */
    e->cached_from = e->cached_unit;
    e->cache = NULL;
    e->cached = true;
    e->not_cached = NULL;
}

void elastic_drop_cache(Session *s, const char *why)
{
    Elastic *e = &s->elastic;
    elastic_remove_cache(s);
    e->cached = false;
    e->cached_from = e->cached_unit = 0;
    e->not_cached = why;
}

/* ---- whether it is worth it */

/* Does this rank's program read the outputs of the frozen layers? */
static bool reads_border(const Session *s)
{
    for (IrGlobal g = 1; g < s->m->globals.len; g++)
    {
        const char *name = ir_global(s->m, g)->name;
        if (strncmp(name, "batch.frozen_", 13) == 0 && executor_has_global(s->executor, name))
            return true;
    }
    return false;
}

/* Seconds a sample, read from a store. */
static Status time_reading(Session *s, uint64_t elems, double *out_read_s)
{
    const uint64_t rows = (uint64_t)s->job->train.rows, n_samples = dataset_n_samples(s->train);
    const uint64_t n = rows < n_samples ? rows : n_samples;
    FeatureCacheOptions trial = {.key = "trial", .row_elems = elems, .n_samples = {n}, .memory_bytes = 1u << 30};
    FeatureCache *cache;
    TRY(feature_cache_create(&trial, &cache));
    float *row = calloc(elems, sizeof *row);
    if (!row)
        base_out_of_memory(elems * sizeof *row);
    for (uint64_t k = 0; k < n; k++)
        feature_cache_put(cache, FEATURE_TRAIN, k, row);
    const double start_s = driver_now_s();
    for (uint64_t k = 0; k < n; k++)
        feature_cache_get(cache, FEATURE_TRAIN, k, row);
    *out_read_s = (driver_now_s() - start_s) / (double)n;
    feature_cache_remove(cache);
    free(row);
    return STATUS_OK;
}

/* Seconds a sample, made by the selected @prefix. */
static Status time_making(Session *s, double *out_make_s)
{
    double start_s = driver_now_s();
    TRY(executor_run(s->executor, "prefix"));
    double run_s = driver_now_s() - start_s;
    if (run_s < LONG_TRIAL_S)
    {
        start_s = driver_now_s();
        for (int trial = 0; trial < N_TRIALS; trial++)
            TRY(executor_run(s->executor, "prefix"));
        run_s = (driver_now_s() - start_s) / N_TRIALS;
    }
    *out_make_s = run_s / (double)s->job->train.rows;
    return STATUS_OK;
}

/* What the contractions of the selected @prefix take of it at least. */
static double least_make_s(const Session *s)
{
    if (strcmp(s->options->device, "cpu") != 0)
        return 0;
    const double most = strcmp(s->job->train.precision, "bf16") == 0 ? MOST_BF16_FLOPS : MOST_F32_FLOPS;
    const int threads = ranks_threads(s) ? ranks_threads(s) : pool_n_cores();
    return executor_matmul_flops(s->executor, "prefix") / (most * threads) / (double)s->job->train.rows;
}

/* Running layers is timed only where arithmetic does not tell that reading is faster: where it does, a run takes long,
 * and would tell the same; where it does not, a run is short. */
static Status time_both(Session *s, uint64_t elems, double *out_make_s, double *out_read_s)
{
    TRY(time_reading(s, elems, out_read_s));
    *out_make_s = least_make_s(s);
    return *out_make_s > *out_read_s ? STATUS_OK : time_making(s, out_make_s);
}

/* At the shortest length, where running is cheapest for what it makes. */
static Status time_shortest(Session *s, double *out_make_s, double *out_read_s)
{
    const uint32_t longest = s->variants.n_shorter;
    executor_select(s->executor, 0);
    Status status = time_both(s, trainer_border_elems(variants_module(s, 0)), out_make_s, out_read_s);
    executor_select(s->executor, longest);
    return status;
}

Status elastic_judge_cache(Session *s, bool *out_worth)
{
    Elastic *e = &s->elastic;
    Comm *world = s->ranks.comm.world;
    double times[2] = {0}, misplaced;
    *out_worth = true;
    if (!e->cached)
        return STATUS_OK;
    misplaced = s->ranks.stage > 0 && reads_border(s); /* only the first stage can make what is missing */
    if (world)
        TRY(comm_all_reduce_f64(world, &misplaced, 1, COMM_MAX));
    if (misplaced == 0 && s->ranks.stage == 0 && s->job->cache.use == CACHE_AUTO)
        TRY(time_shortest(s, &times[0], &times[1]));
    if (world)
        TRY(comm_all_reduce_f64(world, times, 2, COMM_SUM));
    *out_worth = misplaced == 0 && (s->job->cache.use == CACHE_ON || times[1] < times[0]);
    if (!*out_worth)
        elastic_drop_cache(s, misplaced != 0 ? "stages behind the first read the outputs"
                                             : arena_printf(s->arena, "reading takes %.0f us a sample, running %.0f",
                                                            1e6 * times[1], 1e6 * times[0]));
    return STATUS_OK;
}
