/* The last step of every kind of metric: from the sums or rows of all samples to its results. */
#ifndef PTC_RUNTIME_METRIC_FINISH_H
#define PTC_RUNTIME_METRIC_FINISH_H

#include "runtime/squad.h"

#include <stdint.h>

typedef struct
{
    const double *numbers; /* n_numbers sums; or those of sample i at numbers + i * stride */
    uint32_t n_numbers;
    uint64_t n_samples;
    uint32_t stride;
    const SquadSet *squad;
    const char *predictions; /* NULL: they are not written */
} MetricNumbers;

typedef Status MetricFinish(const MetricNumbers *in, double *out_results);

/* weight 0 is a mean of 0 */
MetricFinish metric_finish_mean, metric_finish_perplexity;
/* numbers: of each class the weight where it is found and true, found, true. As scikit-learn has them: F1 of a class
 * that is neither found nor true is 0 and does not count in the macro mean; Matthews' is 0 when either is constant. */
MetricFinish metric_finish_f1, metric_finish_f1_macro, metric_finish_matthews;
/* numbers: sums of w, w p, w t, w p p, w t t, w p t. NAN when one of them is constant, as far as sums of f32 tell. */
MetricFinish metric_finish_pearson;
/* rows: p, t. Equal values have the mean of their ranks. NAN when one of them is constant. */
MetricFinish metric_finish_spearman;
/* rows: the best span of each window (runtime/squad.h). */
MetricFinish metric_finish_span;

#endif
