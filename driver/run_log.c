#include "driver/run_log.h"

#include "base/bug.h"
#include "base/strbuf.h"

#include <jansson.h>
#include <math.h>
#include <time.h>

enum
{
    MAX_FIELDS = 24
};

/* ---- the start */

/* JSON is UTF-8; an argument need not be. */
static const char *as_utf8(Arena *arena, const char *text)
{
    json_t *json = json_string(text);
    if (json)
    {
        json_decref(json);
        return text;
    }
    char *copy = arena_strdup(arena, text);
    for (char *at = copy; *at; at++)
        if ((unsigned char)*at >= 0x80)
            *at = '?';
    return copy;
}

static const char *command_text(const Session *s)
{
    StrBuf text = strbuf_make(s->arena);
    strbuf_add(&text, "ptc");
    for (uint32_t i = 0; i < s->options->n_arguments; i++)
        strbuf_addf(&text, " %s", s->options->arguments[i]);
    if (s->ranks.size > 1)
        strbuf_addf(&text, " (on %u ranks)", s->ranks.size);
    return as_utf8(s->arena, strbuf_text(&text));
}

static const char *now_text(Arena *arena)
{
    char text[32];
    const time_t now = time(NULL);
    struct tm utc;
    strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", gmtime_r(&now, &utc));
    return arena_strdup(arena, text);
}

Status run_log_start(const Session *s, Trainer *trainer)
{
    static const char *const schedules[] = {
        [SCHEDULE_CONSTANT] = "constant", [SCHEDULE_LINEAR] = "linear", [SCHEDULE_COSINE] = "cosine"};
    MetricsLog *log = trainer_log(trainer);
    if (!log)
        return STATUS_OK;
    const TrainSpec *train = &s->job->train;
    Metric row[MAX_FIELDS];
    uint32_t n = 0;
    row[n++] = METRIC_TEXT("model", as_utf8(s->arena, s->job->module->name));
    row[n++] = METRIC_TEXT("command", command_text(s));
    row[n++] = METRIC_TEXT("started", now_text(s->arena));
    row[n++] = METRIC_TEXT("device", s->options->device);
    row[n++] = METRIC_U64("ranks", s->ranks.size);
    row[n++] = METRIC_U64("threads", (uint64_t)ranks_threads(s));
    row[n++] = METRIC_U64("params", s->n_params);
    row[n++] = METRIC_U64("units", s->job->n_units);
    row[n++] = METRIC_U64("layers", s->job->n_layers);
    row[n++] = METRIC_U64("train_samples", dataset_n_samples(s->train));
    if (s->test)
        row[n++] = METRIC_U64("test_samples", dataset_n_samples(s->test));
    row[n++] = METRIC_U64("total_steps", trainer_total_steps(trainer));
    row[n++] = METRIC_U64("epochs", (uint64_t)train->epochs);
    row[n++] = METRIC_U64("batch", (uint64_t)train->batch);
    row[n++] = METRIC_TEXT("optimizer", train->optimizer);
    row[n++] = METRIC_F64("base_lr", train->lr);
    row[n++] = METRIC_TEXT("lr_schedule", schedules[train->schedule]);
    row[n++] = METRIC_U64("seed", (uint64_t)train->seed);
    if (s->elastic.on)
        row[n++] = METRIC_TEXT("policy", freeze_policy_name(s->elastic.settings.policy));
    ENSURE(n <= MAX_FIELDS);
    return metrics_log_event(log, trainer_steps_done(trainer), "run", row, n);
}

/* ---- the plan */

typedef struct
{
    const char *key;
    size_t offset;
} StageField;

static const StageField stage_fields[] = {{"forward_s", offsetof(PipelineStage, forward_s)},
                                          {"backward_s", offsetof(PipelineStage, backward_s)},
                                          {"weight_s", offsetof(PipelineStage, weight_s)},
                                          {"send_forward_s", offsetof(PipelineStage, send_forward_s)},
                                          {"send_backward_s", offsetof(PipelineStage, send_backward_s)},
                                          {"update_s", offsetof(PipelineStage, update_s)}};

static uint32_t add_plan(const Session *s, Metric *row)
{
    const PlanCandidate *c = s->ranks.choice.chosen;
    const uint32_t n_stages = c->plan.n_stages;
    uint32_t n = 0;
    row[n++] = METRIC_TEXT("schedule", pipeline_name(c->plan.schedule));
    row[n++] = METRIC_U64("micro_batches_of_replica", plan_first_micro(&c->plan, 1));
    row[n++] = METRIC_F64("predicted_step_s", c->step_s);
    row[n++] = METRIC_F64("predicted_bubble", c->bubble);
    double *first = ARENA_ARRAY(s->arena, double, n_stages);
    for (uint32_t k = 0; k < n_stages; k++)
        first[k] = (double)c->plan.first_unit[k];
    row[n++] = METRIC_F64S("first_unit", first, n_stages);
    for (size_t i = 0; i < sizeof stage_fields / sizeof *stage_fields; i++)
    {
        double *values = ARENA_ARRAY(s->arena, double, n_stages);
        for (uint32_t k = 0; k < n_stages; k++)
            values[k] = *(const double *)((const char *)&c->stages[k] + stage_fields[i].offset);
        row[n++] = METRIC_F64S(stage_fields[i].key, values, n_stages);
    }
    return n;
}

/* What is known of it. */
static uint32_t add_memory(const SessionMemory *memory, Metric *row)
{
    uint32_t n = 0;
    row[n++] = METRIC_U64("planned_bytes", (uint64_t)memory->planned[0]);
    if (!isnan(memory->real[0]))
        row[n++] = METRIC_U64("real_bytes", (uint64_t)memory->real[0]);
    if (memory->n_ranks == 1)
        return n;
    row[n++] = METRIC_F64S("planned_bytes_of_ranks", memory->planned, memory->n_ranks);
    if (!isnan(memory->real[0]))
        row[n++] = METRIC_F64S("real_bytes_of_ranks", memory->real, memory->n_ranks);
    return n;
}

Status run_log_layout(const Session *s, Trainer *trainer, const SessionMemory *memory)
{
    MetricsLog *log = trainer_log(trainer);
    if (!log)
        return STATUS_OK;
    const Plan *plan = s->ranks.planned ? &s->ranks.choice.chosen->plan : NULL;
    Metric row[MAX_FIELDS];
    uint32_t n = 0;
    row[n++] = METRIC_U64("stages", plan ? plan->n_stages : 1);
    row[n++] = METRIC_U64("replicas", plan ? plan->n_replicas : 1);
    row[n++] = METRIC_U64("idle", ranks_n_idle(s));
    row[n++] = METRIC_U64("micro_batches", plan ? plan->n_micro : 1);
    row[n++] = METRIC_U64("frozen", s->elastic.frozen);
    row[n++] = METRIC_U64("cached", s->elastic.cached);
    n += add_memory(memory, row + n);
    if (plan)
        n += add_plan(s, row + n);
    ENSURE(n <= MAX_FIELDS);
    return metrics_log_event(log, trainer_steps_done(trainer), "layout", row, n);
}

/* ---- resources */

typedef struct
{
    double memory_rows, disk_rows, memory_bytes, disk_bytes; /* of the stores, one for each host */
    double hits, disk_hits, misses, refused, corrupt, wait_s;
    double made, runs; /* of frozen layers */
} CacheSums;

enum
{
    N_CACHE_SUMS = sizeof(CacheSums) / sizeof(double)
};

static Status sum_cache(const Session *s, const Trainer *trainer, CacheSums *out)
{
    Comm *world = s->ranks.comm.world;
    const FeatureCacheCounters c = feature_stores_counters(s->elastic.cache);
    const TrainerCacheWork work = trainer_cache_work(trainer);
    *out = (CacheSums){.hits = (double)(c.memory_hits + c.window_hits + c.disk_hits),
                       .disk_hits = (double)(c.window_hits + c.disk_hits),
                       .misses = (double)c.misses,
                       .refused = (double)c.refused,
                       .corrupt = (double)c.corrupt,
                       .wait_s = c.wait_s,
                       .made = (double)work.rows,
                       .runs = (double)work.runs};
    if (!world || comm_local_rank(world) == 0)
    {
        out->memory_rows = (double)c.memory_rows;
        out->disk_rows = (double)c.disk_rows;
        out->memory_bytes = (double)c.memory_bytes;
        out->disk_bytes = (double)c.disk_bytes;
    }
    return world ? comm_all_reduce_f64(world, &out->memory_rows, N_CACHE_SUMS, COMM_SUM) : STATUS_OK;
}

Status run_log_resources(const Session *s, Trainer *trainer, const SessionMemory *memory)
{
    const bool cached = s->elastic.cached && s->elastic.cache;
    CacheSums sums;
    if (cached)
        TRY(sum_cache(s, trainer, &sums));
    MetricsLog *log = trainer_log(trainer);
    if (!log)
        return STATUS_OK;
    Metric row[MAX_FIELDS];
    uint32_t n = add_memory(memory, row);
    if (cached)
    {
        row[n++] = METRIC_F64("cache_memory_rows", sums.memory_rows);
        row[n++] = METRIC_F64("cache_disk_rows", sums.disk_rows);
        row[n++] = METRIC_F64("cache_memory_bytes", sums.memory_bytes);
        row[n++] = METRIC_F64("cache_disk_bytes", sums.disk_bytes);
        row[n++] = METRIC_F64("cache_hits", sums.hits);
        row[n++] = METRIC_F64("cache_disk_hits", sums.disk_hits);
        row[n++] = METRIC_F64("cache_misses", sums.misses);
        row[n++] = METRIC_F64("cache_refused", sums.refused);
        row[n++] = METRIC_F64("cache_corrupt", sums.corrupt);
        row[n++] = METRIC_F64("cache_wait_s", sums.wait_s);
        row[n++] = METRIC_F64("cache_made", sums.made);
        row[n++] = METRIC_F64("cache_runs", sums.runs);
    }
    return metrics_log_event(log, trainer_steps_done(trainer), "resources", row, n);
}

Status run_log_end(Trainer *trainer, double train_s, double data_s)
{
    MetricsLog *log = trainer_log(trainer);
    const Metric row[] = {METRIC_F64("train_s", train_s), METRIC_F64("data_s", data_s)};
    return log ? metrics_log_event(log, trainer_steps_done(trainer), "end", row, 2) : STATUS_OK;
}
