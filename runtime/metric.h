/* Metrics: from what step functions set (ir/metrics.def) to the numbers that are reported.
 *
 * Sums are added over batches and ranks by the caller; rows, numbers of each sample, are kept in the order of samples.
 * All are doubles in arrays of the caller's, so that ranks add them up in one go: what a rank does not have is 0 there.
 * The first metric is always the loss. */
#ifndef PTC_RUNTIME_METRIC_H
#define PTC_RUNTIME_METRIC_H

#include "ir/metric.h"
#include "runtime/executor.h"

enum
{
    METRIC_MAX_RESULTS = 1 + 16 * IR_METRIC_MAX_RESULTS
};

typedef struct
{
    const char *name;
    IrMetricKind kind;
} MetricSpec;

typedef struct MetricSet MetricSet;

/* m: the module that sets the outputs, after all passes. */
MetricSet *metric_set_create(Arena *arena, const MetricSpec *specs, uint32_t n_specs, const IrModule *m);

/* What is reported, in this order: "loss", "accuracy", "answer.f1". At most METRIC_MAX_RESULTS. */
uint32_t metric_n_results(const MetricSpec *specs, uint32_t n_specs);
/* NULL-safe for no specs. The array and the names are the arena's. */
const char *const *metric_result_names(Arena *arena, const MetricSpec *specs, uint32_t n_specs);

/* How many doubles the sums are, and the rows of one sample. */
uint32_t metric_set_n_sums(const MetricSet *set);
uint32_t metric_set_row_size(const MetricSet *set);

/* Adds the sums of the last run, as far as this rank has them. */
Status metric_set_add_sums(const MetricSet *set, Executor *executor, double *sums);
/* Keeps the rows of the last run's first n samples, as far as this rank has them: rows are n x row_size. */
Status metric_set_keep_rows(const MetricSet *set, Executor *executor, uint32_t n, double *rows);
/* The results. rows: n_samples x row_size; NULL after a training step: results that need them are NAN. So are
 * correlations with what is constant. */
Status metric_set_finish(const MetricSet *set, const double *sums, const double *rows, uint64_t n_samples,
                         double *out_results);

#endif
