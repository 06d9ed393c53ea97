/* Metrics: from what step functions set (ir/metrics.def) to the numbers that are reported.
 *
 * Sums are added over batches and ranks by the caller; rows, numbers of each sample, are kept in the order of samples.
 * All are doubles in arrays of the caller's, so that ranks add them up in one go: what a rank does not have is 0 there.
 * The first metric is always the loss. */
#ifndef PTC_RUNTIME_METRIC_H
#define PTC_RUNTIME_METRIC_H

#include "ir/metric.h"
#include "runtime/executor.h"
#include "runtime/squad.h"

enum
{
    METRIC_MAX_RESULTS = 1 + 16 * IR_METRIC_MAX_RESULTS
};

typedef struct
{
    const char *name;
    IrMetricKind kind;
    SquadSearch search; /* span */
} MetricSpec;

typedef struct MetricSet MetricSet;

/* m: the module that sets the outputs, after all passes. squad: the test split's questions, for metrics of kind span;
 * NULL: there are none, and no rows will be kept. */
MetricSet *metric_set_create(Arena *arena, const MetricSpec *specs, uint32_t n_specs, const IrModule *m,
                             const SquadSet *squad);

/* What is reported, in this order: "loss", "accuracy", "answer.f1". At most METRIC_MAX_RESULTS. */
uint32_t metric_n_results(const MetricSpec *specs, uint32_t n_specs);
/* NULL-safe for no specs. The array and the names are the arena's. */
const char *const *metric_result_names(Arena *arena, const MetricSpec *specs, uint32_t n_specs);

/* How many doubles the sums are, and the rows of one sample. */
uint32_t metric_set_n_sums(const MetricSet *set);
uint32_t metric_set_row_size(const MetricSet *set);

/* Adds the sums of the last run, as far as this rank has them. */
Status metric_set_add_sums(const MetricSet *set, Executor *executor, double *sums);
/* Keeps the rows of the last run's first n samples, as far as this rank has them. samples: the number of each in the
 * data set; rows: row_size numbers of every sample of it. */
Status metric_set_keep_rows(const MetricSet *set, Executor *executor, const uint64_t *samples, uint32_t n,
                            double *rows);
/* The results. rows: n_samples x row_size; NULL after a training step: results that need them are NAN. So are
 * correlations with what is constant. predictions: a file for the answers of a metric of kind span; NULL: none. */
Status metric_set_finish(const MetricSet *set, const double *sums, const double *rows, uint64_t n_samples,
                         const char *predictions, double *out_results);

#endif
