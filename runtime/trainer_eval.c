/* Evaluation: one pass over the test split. */
#include "base/bug.h"
#include "runtime/trainer_parts.h"

#include <stdio.h>

Status trainer_add_outputs(Trainer *t, const char *name, double *pair)
{
    static const char *const ends[] = {"sum", "weight"};
    for (int i = 0; i < 2; i++)
    {
        char global[256];
        double value;
        snprintf(global, sizeof global, "%s.%s", name, ends[i]);
        if (!executor_has_global(t->executor, global))
            continue;
        TRY(executor_read_scalar(t->executor, global, &value));
        pair[i] += value;
    }
    return STATUS_OK;
}

double trainer_mean(double sum, double weight)
{
    return weight > 0 ? sum / weight : 0;
}

/* Starts the batch of the chunk-th so many samples; false when there are no more. */
static bool start_chunk(Trainer *t, uint64_t chunk)
{
    const uint64_t n_samples = dataset_n_samples(t->test), rows = t->options.rows, first = chunk * rows;
    if (first >= n_samples)
        return false;
    const uint32_t n = (uint32_t)(n_samples - first < rows ? n_samples - first : rows);
    for (uint32_t k = 0; k < n; k++)
        t->test_feed.indices[k] = first + k;
    trainer_feed_start(t, &t->test_feed, n, 0);
    return true;
}

Status trainer_evaluate(Trainer *t, TrainerEval *out_eval)
{
    ENSURE(t->test);
    const TrainerRank *rank = &t->options.rank;
    double start_s = trainer_now_s();
    double sums[2 * (TRAINER_MAX_METRICS + 1)] = {0};
    const uint32_t n_pairs = t->options.n_metrics + 1;
    uint64_t chunk = rank->replica;
    bool there = start_chunk(t, chunk);
    while (there)
    {
        TRY(trainer_feed_finish(t, &t->test_feed));
        chunk += rank->n_replicas;
        there = start_chunk(t, chunk);
        TRY(executor_run(t->executor, "eval"));
        TRY(trainer_add_outputs(t, "loss", sums));
        for (uint32_t i = 0; i < t->options.n_metrics; i++)
            TRY(trainer_add_outputs(t, t->options.metrics[i], sums + 2 * (i + 1)));
    }
    if (rank->world)
        TRY(comm_all_reduce_f64(rank->world, sums, 2 * n_pairs, COMM_SUM));
    *out_eval = (TrainerEval){.n_samples = dataset_n_samples(t->test), .loss = trainer_mean(sums[0], sums[1])};
    for (uint32_t i = 0; i < t->options.n_metrics; i++)
        out_eval->metric[i] = trainer_mean(sums[2 * i + 2], sums[2 * i + 3]);
    out_eval->seconds = trainer_now_s() - start_s;
    return STATUS_OK;
}

Status trainer_evaluate_and_log(Trainer *t, TrainerEval *out_eval)
{
    executor_trace_stop(t->executor);
    TRY(trainer_evaluate(t, out_eval));
    Metric rows[TRAINER_MAX_METRICS + 2] = {METRIC_F64("loss", out_eval->loss)};
    uint32_t n = 1;
    for (uint32_t i = 0; i < t->options.n_metrics; i++)
        rows[n++] = METRIC_F64(t->options.metrics[i], out_eval->metric[i]);
    rows[n++] = METRIC_F64("seconds", out_eval->seconds);
    if (t->log)
        TRY(metrics_log_row(t->log, "eval", t->step, rows, n));
    if (t->options.observer.eval)
        t->options.observer.eval(t->options.observer.context, t->step, out_eval);
    return STATUS_OK;
}
