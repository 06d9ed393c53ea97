/* Lengths of samples: which variant of the program a batch runs in, and in which order batches come. Both are functions
 * of the samples' numbers, so that every rank finds the same, and a resumed run too. */
#include "base/bug.h"
#include "runtime/trainer_parts.h"

#include <stdlib.h>

static Status lengths_of(Trainer *t, const Dataset *dataset, uint32_t **out_lengths)
{
    const TrainerBuckets *buckets = &t->options.buckets;
    const uint64_t n = dataset_n_samples(dataset);
    uint32_t *lengths = ARENA_ARRAY(t->arena, uint32_t, n);
    for (uint32_t i = 0; i < buckets->n_fields; i++)
    {
        uint32_t field;
        if (!dataset_field_find(dataset, buckets->fields[i], &field))
            return status_fail(STATUS_BAD_INPUT, "the model's input '%s' is no field of the data", buckets->fields[i]);
        for (uint64_t s = 0; s < n; s++)
        {
            const uint32_t length = dataset_length(dataset, field, s);
            lengths[s] = length > lengths[s] ? length : lengths[s];
        }
    }
    *out_lengths = lengths;
    return STATUS_OK;
}

static int by_number(const void *x, const void *y)
{
    const uint64_t a = *(const uint64_t *)x, b = *(const uint64_t *)y;
    return (a > b) - (a < b);
}

/* Results of an evaluation do not depend on the order of samples, but for rounding: from short to long. */
static uint64_t *sort_by_length(Arena *arena, const uint32_t *lengths, uint64_t n)
{
    const int shift = 40; /* a dataset has fewer samples */
    uint64_t *order = ARENA_ARRAY(arena, uint64_t, n);
    ENSURE(n < UINT64_C(1) << shift);
    for (uint64_t i = 0; i < n; i++)
        order[i] = (uint64_t)lengths[i] << shift | i;
    qsort(order, n, sizeof *order, by_number);
    for (uint64_t i = 0; i < n; i++)
        order[i] &= (UINT64_C(1) << shift) - 1;
    return order;
}

Status trainer_find_lengths(Trainer *t)
{
    const TrainerBuckets *buckets = &t->options.buckets;
    const bool chosen = buckets->n_lengths > 1;
    if (t->train && (chosen || buckets->group > 1))
        TRY(lengths_of(t, t->train, &t->train_feed.lengths));
    if (t->test && chosen)
    {
        TRY(lengths_of(t, t->test, &t->test_feed.lengths));
        t->test_order = sort_by_length(t->arena, t->test_feed.lengths, dataset_n_samples(t->test));
    }
    if (t->train)
        t->order =
            batch_order_make(t->arena, sampler_make(dataset_n_samples(t->train), t->options.seed, t->options.shuffle),
                             t->options.batch, buckets->group, t->train_feed.lengths);
    return STATUS_OK;
}

uint32_t trainer_variant_of(const Trainer *t, const uint32_t *lengths, const uint64_t *indices, uint32_t n)
{
    const TrainerBuckets *buckets = &t->options.buckets;
    if (buckets->n_lengths < 2)
        return 0;
    uint32_t longest = 0, variant = 0;
    for (uint32_t i = 0; i < n; i++)
        longest = lengths[indices[i]] > longest ? lengths[indices[i]] : longest;
    while (buckets->lengths[variant] < (int64_t)longest)
        variant++;
    ENSURE(variant < buckets->n_lengths);
    return variant;
}

uint32_t trainer_length_of(const Trainer *t, uint32_t variant)
{
    return t->options.buckets.n_lengths < 2 ? 0 : (uint32_t)t->options.buckets.lengths[variant];
}
