#include "passes/plasticity.h"

#include <math.h>

/* As torch.nn.functional.normalize has it. */
static double length_of(const float *row, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)row[i] * row[i];
    return fmax(sqrt(sum), 1e-12);
}

double plasticity_distance(const float *gram, const float *reference, uint32_t n, uint32_t stride)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
    {
        const float *a = gram + (uint64_t)i * stride, *b = reference + (uint64_t)i * stride;
        const double length_a = length_of(a, n), length_b = length_of(b, n);
        for (uint32_t k = 0; k < n; k++)
        {
            const double difference = a[k] / length_a - b[k] / length_b;
            sum += difference * difference;
        }
    }
    return sum / ((double)n * n);
}

void plasticity_add(Plasticity *p, uint32_t window, double tolerance, double reading)
{
    const double before = p->smoothed;
    p->recent[p->n_readings++ % window] = reading;
    const uint32_t n = p->n_readings < window ? p->n_readings : window;
    p->smoothed = 0;
    for (uint32_t i = 0; i < n; i++)
        p->smoothed += p->recent[i] / n;
    if (p->n_readings < 2)
        return;
    const double slope = fabs(p->smoothed - before);
    p->steepest = fmax(p->steepest, slope);
    p->calm = slope < tolerance * p->steepest ? p->calm + 1 : 0;
}
