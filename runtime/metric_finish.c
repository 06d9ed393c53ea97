#include "runtime/metric_finish.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

Status metric_finish_mean(const MetricNumbers *in, double *out_results)
{
    out_results[0] = in->numbers[1] > 0 ? in->numbers[0] / in->numbers[1] : 0;
    return STATUS_OK;
}

Status metric_finish_perplexity(const MetricNumbers *in, double *out_results)
{
    metric_finish_mean(in, out_results);
    out_results[0] = exp(out_results[0]);
    return STATUS_OK;
}

/* ---- classes */

typedef struct
{
    const double *both, *found, *real; /* by class */
    uint32_t n_classes;
} Counts;

static Counts counts_of(const MetricNumbers *in)
{
    const uint32_t n = in->n_numbers / 3;
    return (Counts){in->numbers, in->numbers + n, in->numbers + 2 * (size_t)n, n};
}

static double f1_of(const Counts *c, uint32_t class)
{
    const double all = c->found[class] + c->real[class];
    return all > 0 ? 2 * c->both[class] / all : 0;
}

Status metric_finish_f1(const MetricNumbers *in, double *out_results)
{
    const Counts c = counts_of(in);
    out_results[0] = f1_of(&c, 1);
    return STATUS_OK;
}

Status metric_finish_f1_macro(const MetricNumbers *in, double *out_results)
{
    const Counts c = counts_of(in);
    double sum = 0, n = 0;
    for (uint32_t i = 0; i < c.n_classes; i++)
        if (c.found[i] + c.real[i] > 0)
        {
            sum += f1_of(&c, i);
            n++;
        }
    out_results[0] = n > 0 ? sum / n : 0;
    return STATUS_OK;
}

/* Of any number of classes: Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient",
 * Computational Biology and Chemistry 28 (2004). */
Status metric_finish_matthews(const MetricNumbers *in, double *out_results)
{
    const Counts c = counts_of(in);
    double right = 0, all = 0, cross = 0, found = 0, real = 0;
    for (uint32_t i = 0; i < c.n_classes; i++)
    {
        right += c.both[i];
        all += c.real[i];
        cross += c.found[i] * c.real[i];
        found += c.found[i] * c.found[i];
        real += c.real[i] * c.real[i];
    }
    const double spread = (all * all - found) * (all * all - real);
    out_results[0] = spread > 0 ? (right * all - cross) / sqrt(spread) : 0;
    return STATUS_OK;
}

/* ---- correlations */

Status metric_finish_pearson(const MetricNumbers *in, double *out_results)
{
    /* f32 sums of squares have about this relative error, and so has what is left of them for the variance */
    static const double rounding = 1e-6;
    const double *s = in->numbers, w = s[0];
    out_results[0] = NAN;
    if (!(w > 0))
        return STATUS_OK;
    const double p = s[1] / w, t = s[2] / w, pp = s[3] / w, tt = s[4] / w;
    if (pp - p * p > rounding * pp && tt - t * t > rounding * tt)
        out_results[0] = fmax(-1, fmin(1, (s[5] / w - p * t) / sqrt((pp - p * p) * (tt - t * t))));
    return STATUS_OK;
}

typedef struct
{
    double value, rank;
    uint64_t sample;
} Ranked;

static int by_value(const void *a, const void *b)
{
    const Ranked *x = a, *y = b;
    return (x->value > y->value) - (x->value < y->value);
}

static int by_sample(const void *a, const void *b)
{
    const Ranked *x = a, *y = b;
    return (x->sample > y->sample) - (x->sample < y->sample);
}

/* Ranks of column k of the rows, around their mean; equal values share the mean of their ranks. */
static void rank_column(const MetricNumbers *in, uint32_t k, Ranked *out_ranks)
{
    const uint64_t n = in->n_samples;
    for (uint64_t i = 0; i < n; i++)
        out_ranks[i] = (Ranked){.value = in->numbers[i * in->stride + k], .sample = i};
    qsort(out_ranks, n, sizeof *out_ranks, by_value);
    for (uint64_t i = 0, end; i < n; i = end)
    {
        for (end = i + 1; end < n && out_ranks[end].value == out_ranks[i].value;)
            end++;
        for (uint64_t j = i; j < end; j++)
            out_ranks[j].rank = 0.5 * (double)(i + end - 1) - 0.5 * (double)(n - 1);
    }
    qsort(out_ranks, n, sizeof *out_ranks, by_sample);
}

Status metric_finish_spearman(const MetricNumbers *in, double *out_results)
{
    const uint64_t n = in->n_samples;
    double pp = 0, tt = 0, pt = 0;
    bool finite = true;
    for (uint64_t i = 0; i < n; i++)
        finite = finite && isfinite(in->numbers[i * in->stride]) && isfinite(in->numbers[i * in->stride + 1]);
    out_results[0] = NAN;
    if (!finite)
        return STATUS_OK;
    Ranked *p = calloc(n + 1, sizeof *p), *t = calloc(n + 1, sizeof *t);
    if (p && t)
    {
        rank_column(in, 0, p);
        rank_column(in, 1, t);
        for (uint64_t i = 0; i < n; i++)
        {
            pp += p[i].rank * p[i].rank;
            tt += t[i].rank * t[i].rank;
            pt += p[i].rank * t[i].rank;
        }
    }
    const bool ok = p && t;
    free(p);
    free(t);
    if (!ok)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for the ranks of %" PRIu64 " samples", n);
    if (pp > 0 && tt > 0)
        out_results[0] = pt / sqrt(pp * tt);
    return STATUS_OK;
}

/* ---- answers */

Status metric_finish_span(const MetricNumbers *in, double *out_results)
{
    return squad_judge(in->squad, in->numbers, in->stride, in->n_samples, in->predictions, &out_results[0],
                       &out_results[1]);
}
