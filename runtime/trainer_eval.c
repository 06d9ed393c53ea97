/* Evaluation: one pass over the test split. */
#include "base/bug.h"
#include "runtime/trainer_parts.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum
{
    CHUNK_TAG = (1 << 19) + 3 /* in the world, where programs send nothing */
};

static uint32_t chunk_size(const Trainer *t, uint64_t chunk)
{
    const uint64_t n_samples = dataset_n_samples(t->test), rows = t->options.rows, first = chunk * rows;
    return (uint32_t)(first >= n_samples ? 0 : n_samples - first < rows ? n_samples - first : rows);
}

/* Starts the batch of the chunk-th so many samples; false when there are no more. */
static bool start_chunk(Trainer *t, uint64_t chunk)
{
    const uint32_t n = chunk_size(t, chunk);
    for (uint32_t k = 0; k < n; k++)
    {
        const uint64_t at = chunk * t->options.rows + k;
        t->test_feed.indices[k] = t->test_order ? t->test_order[at] : at;
    }
    if (n > 0)
        trainer_feed_start(t, &t->test_feed, n, 0);
    return n > 0;
}

/* An idle rank is told of every chunk of rank 0, so that it never waits for longer than that. */
static Status tell_idle(const Trainer *t)
{
    Comm *world = t->options.rank.world;
    const char byte = 0;
    for (uint32_t r = trainer_first_idle(t); world && t->rank == 0 && r < comm_size(world); r++)
        TRY(comm_send(world, r, CHUNK_TAG, &byte, sizeof byte));
    return STATUS_OK;
}

static Status watch_chunks(const Trainer *t)
{
    Comm *world = t->options.rank.world;
    char byte;
    comm_set_place(world, "idle, evaluation", (int64_t)t->step, -1);
    for (uint64_t chunk = 0; chunk_size(t, chunk) > 0; chunk += t->options.rank.n_replicas)
        TRY(comm_recv(world, 0, CHUNK_TAG, &byte, sizeof byte));
    return STATUS_OK;
}

/* Of what this rank has: the sums of metrics, and the rows of every sample at its place. */
static Status run_chunks(Trainer *t, double *sums, double *rows)
{
    const TrainerRank *rank = &t->options.rank;
    bool there = start_chunk(t, rank->replica);
    for (uint64_t chunk = rank->replica; there; chunk += rank->n_replicas)
    {
        const uint32_t n = chunk_size(t, chunk);
        TRY(trainer_feed_finish(t, &t->test_feed));
        memcpy(t->samples, t->test_feed.indices, n * sizeof *t->samples);
        there = start_chunk(t, chunk + rank->n_replicas);
        TRY(executor_run(t->executor, "eval"));
        TRY(metric_set_add_sums(t->metrics, t->executor, sums));
        TRY(metric_set_keep_rows(t->metrics, t->executor, t->samples, n, rows));
        TRY(tell_idle(t));
    }
    return STATUS_OK;
}

/* The numbers of all ranks, which are 0 where a rank has none: by as many at a time as a message may hold. */
static Status add_ranks(const Trainer *t, double *numbers, uint64_t n)
{
    const uint64_t max = 1 << 16;
    for (uint64_t at = 0; at < n && t->options.rank.world; at += max)
        TRY(comm_all_reduce_f64(t->options.rank.world, numbers + at, (uint32_t)(n - at < max ? n - at : max),
                                COMM_SUM));
    return STATUS_OK;
}

static Status evaluate(Trainer *t, double *numbers, TrainerEval *out_eval)
{
    const uint64_t n_samples = dataset_n_samples(t->test);
    const uint32_t n_sums = metric_set_n_sums(t->metrics);
    double *rows = numbers + n_sums;
    TRY(trainer_is_idle(t) ? watch_chunks(t) : run_chunks(t, numbers, rows));
    TRY(add_ranks(t, numbers, n_sums + n_samples * metric_set_row_size(t->metrics)));
    out_eval->n_samples = n_samples;
    return metric_set_finish(t->metrics, numbers, rows, n_samples, t->rank == 0 ? t->options.predictions : NULL,
                             out_eval->results);
}

Status trainer_evaluate(Trainer *t, TrainerEval *out_eval)
{
    ENSURE(t->test);
    const double start_s = trainer_now_s();
    const uint64_t n_samples = dataset_n_samples(t->test);
    *out_eval = (TrainerEval){0};
    double *numbers =
        calloc(metric_set_n_sums(t->metrics) + n_samples * metric_set_row_size(t->metrics), sizeof *numbers);
    if (!numbers)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for the metrics of %" PRIu64 " samples", n_samples);
    Status status = evaluate(t, numbers, out_eval);
    free(numbers);
    out_eval->seconds = trainer_now_s() - start_s;
    return status;
}

Status trainer_visit_tests(Trainer *t, Status (*visit)(void *context, uint64_t first, uint32_t n), void *context)
{
    ENSURE(t->test && !t->options.rank.world);
    bool there = start_chunk(t, 0);
    for (uint64_t chunk = 0; there; chunk++)
    {
        TRY(trainer_feed_finish(t, &t->test_feed));
        there = start_chunk(t, chunk + 1);
        TRY(executor_run(t->executor, "eval"));
        TRY(visit(context, chunk * t->options.rows, chunk_size(t, chunk)));
    }
    return STATUS_OK;
}

Status trainer_evaluate_and_log(Trainer *t, TrainerEval *out_eval)
{
    executor_trace_stop(t->executor);
    TRY(trainer_evaluate(t, out_eval));
    Metric rows[METRIC_MAX_RESULTS + 1];
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_results; i++)
        rows[n++] = METRIC_F64(t->result_names[i], out_eval->results[i]);
    rows[n++] = METRIC_F64("seconds", out_eval->seconds);
    if (t->log)
        TRY(metrics_log_row(t->log, "eval", t->step, rows, n));
    if (t->options.observer.eval)
        t->options.observer.eval(t->options.observer.context, t->step, out_eval);
    return STATUS_OK;
}
