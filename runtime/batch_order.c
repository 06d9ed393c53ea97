/* Batches of samples of like length. */
#include "runtime/batch_order.h"

#include "base/bug.h"

#include <stdlib.h>
#include <string.h>

static const uint64_t SEED_OF_GROUPS = 0x9E3779B97F4A7C15; /* so that batches and samples are not permuted alike */

BatchOrder batch_order_make(Arena *arena, Sampler sampler, uint32_t batch, uint32_t group, const uint32_t *lengths)
{
    ENSURE(batch >= 1 && (group < 2 || lengths));
    return (BatchOrder){.sampler = sampler,
                        .batch = batch,
                        .group = group,
                        .lengths = lengths,
                        .first = UINT64_MAX,
                        .samples = group < 2 ? NULL : ARENA_ARRAY(arena, uint64_t, (uint64_t)group * batch)};
}

typedef struct
{
    uint32_t length, place;
    uint64_t sample;
} Sorted;

static int by_length(const void *x, const void *y)
{
    const Sorted *a = x, *b = y;
    if (a->length != b->length)
        return a->length < b->length ? -1 : 1;
    return a->place < b->place ? -1 : 1; /* qsort is not stable */
}

/* The group whose first sample is at position `first`: n_batches whole batches. */
static void sort_group(BatchOrder *order, uint64_t epoch, uint64_t first, uint32_t n_batches)
{
    const uint32_t batch = order->batch, n = n_batches * batch;
    Sorted *sorted = malloc(n * sizeof *sorted);
    if (!sorted)
        base_out_of_memory(n * sizeof *sorted);
    for (uint32_t i = 0; i < n; i++)
    {
        const uint64_t sample = sampler_at(&order->sampler, epoch, first + i);
        sorted[i] = (Sorted){.length = order->lengths[sample], .place = i, .sample = sample};
    }
    qsort(sorted, n, sizeof *sorted, by_length);
    const Sampler batches = sampler_make(n_batches, order->sampler.seed ^ SEED_OF_GROUPS, order->sampler.shuffle);
    const uint64_t number = first / ((uint64_t)order->group * batch);
    for (uint32_t b = 0; b < n_batches; b++)
    {
        const uint64_t from = sampler_at(&batches, epoch << 32 ^ number, b) * batch;
        for (uint32_t i = 0; i < batch; i++)
            order->samples[(uint64_t)b * batch + i] = sorted[from + i].sample;
    }
    free(sorted);
    order->epoch = epoch;
    order->first = first;
}

uint32_t batch_order_next(BatchOrder *order, SamplerPosition *position, uint64_t *out_samples)
{
    const uint64_t at = position->consumed, n_samples = order->sampler.n_samples;
    const uint64_t group_samples = (uint64_t)order->group * order->batch;
    if (order->group < 2 || n_samples - at < order->batch)
        return sampler_next(&order->sampler, position, order->batch, out_samples);
    ENSURE(at % order->batch == 0);
    const uint64_t first = at - at % group_samples, left = (n_samples - first) / order->batch;
    if (order->first != first || order->epoch != position->epoch)
        sort_group(order, position->epoch, first, left < order->group ? (uint32_t)left : order->group);
    memcpy(out_samples, order->samples + (at - first), order->batch * sizeof *out_samples);
    position->consumed += order->batch;
    if (position->consumed == n_samples)
        *position = (SamplerPosition){.epoch = position->epoch + 1};
    return order->batch;
}
