/* The order of batches: every sample once an epoch, like lengths together within a group, any position gone on from. */
#include "data_test.h"

#include "runtime/batch_order.h"

#include <stdlib.h>
#include <string.h>

enum
{
    BATCH = 4,
    GROUP = 5,
    MAX_SAMPLES = 200
};

static uint32_t lengths[MAX_SAMPLES];

static int set_lengths(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < MAX_SAMPLES; i++)
        lengths[i] = i * 37 % 23;
    return 0;
}

static BatchOrder order_of(Arena *arena, uint64_t n, uint64_t seed, uint32_t group)
{
    return batch_order_make(arena, sampler_make(n, seed, true), BATCH, group, lengths);
}

static int by_number(const void *x, const void *y)
{
    const uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return (a > b) - (a < b);
}

/* The samples of a group are those of the sampler at its positions, and its batches are its sorted lengths, cut. */
static void expect_group(BatchOrder *order, const uint64_t *samples, uint64_t epoch, uint64_t first, uint32_t n_batches)
{
    uint32_t sorted[BATCH * GROUP], smallest[GROUP], wanted[GROUP];
    uint64_t seen[MAX_SAMPLES] = {0};
    for (uint32_t i = 0; i < n_batches * BATCH; i++)
    {
        seen[samples[first + i]]++;
        sorted[i] = lengths[samples[first + i]];
    }
    for (uint32_t i = 0; i < n_batches * BATCH; i++)
        assert_int_equal(seen[sampler_at(&order->sampler, epoch, first + i)], 1);
    for (uint32_t b = 0; b < n_batches; b++)
    {
        uint32_t in_batch[BATCH];
        memcpy(in_batch, sorted + (size_t)b * BATCH, sizeof in_batch);
        qsort(in_batch, BATCH, sizeof *in_batch, by_number);
        smallest[b] = in_batch[0];
    }
    qsort(sorted, (size_t)n_batches * BATCH, sizeof *sorted, by_number);
    qsort(smallest, n_batches, sizeof *smallest, by_number);
    for (uint32_t b = 0; b < n_batches; b++)
        wanted[b] = sorted[b * BATCH];
    assert_memory_equal(smallest, wanted, n_batches * sizeof *wanted);
}

static void test_groups(void **state)
{
    (void)state;
    const uint64_t sizes[] = {1, 3, 4, 5, 19, 20, 21, 24, 57, 60, 199, 200};
    Arena *arena = arena_create();
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
    {
        const uint64_t n = sizes[k];
        BatchOrder order = order_of(arena, n, test_seed() + k, GROUP);
        SamplerPosition position = {0};
        for (uint64_t epoch = 0; epoch < 3; epoch++)
        {
            uint64_t samples[MAX_SAMPLES], at = 0;
            while (position.epoch == epoch)
            {
                assert_int_equal(position.consumed, at);
                const uint32_t got = batch_order_next(&order, &position, samples + at);
                assert_int_equal(got, n - at < BATCH ? n - at : BATCH);
                at += got;
            }
            assert_int_equal(at, n);
            for (uint64_t first = 0; first < n; first += BATCH * GROUP)
                expect_group(&order, samples, epoch, first,
                             n - first < BATCH * GROUP ? (uint32_t)((n - first) / BATCH) : GROUP);
            for (uint64_t i = n - n % BATCH; i < n; i++) /* the short batch at the end stays */
                assert_int_equal(samples[i], sampler_at(&order.sampler, epoch, i));
        }
    }
    arena_destroy(arena);
}

/* From any position, in an order that knows nothing of what came before. */
static void test_goes_on_anywhere(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    BatchOrder order = order_of(arena, 57, 7, GROUP);
    SamplerPosition position = {0};
    for (uint32_t step = 0; step < 40; step++)
    {
        BatchOrder fresh = order_of(arena, 57, 7, GROUP);
        SamplerPosition from = sampler_position_at_step(&order.sampler, BATCH, step);
        uint64_t a[BATCH] = {0}, b[BATCH] = {0};
        const uint32_t n = batch_order_next(&order, &position, a);
        assert_int_equal(batch_order_next(&fresh, &from, b), n);
        assert_memory_equal(a, b, sizeof a);
        assert_int_equal(from.epoch, position.epoch);
        assert_int_equal(from.consumed, position.consumed);
    }
    arena_destroy(arena);
}

static void test_without_groups(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    BatchOrder order = batch_order_make(arena, sampler_make(57, 7, true), BATCH, 0, NULL);
    SamplerPosition a = {0}, b = {0};
    for (uint32_t step = 0; step < 40; step++)
    {
        uint64_t x[BATCH] = {0}, y[BATCH] = {0};
        assert_int_equal(batch_order_next(&order, &a, x), sampler_next(&order.sampler, &b, BATCH, y));
        assert_memory_equal(x, y, sizeof x);
    }
    arena_destroy(arena);
}

/* Batches of a group do not come from short to long. */
static void test_batches_are_shuffled(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    uint32_t n_falls = 0;
    BatchOrder order = order_of(arena, 200, 3, GROUP);
    SamplerPosition position = {0};
    for (uint32_t step = 0, before = 0; step < 50; step++)
    {
        uint64_t samples[BATCH];
        batch_order_next(&order, &position, samples);
        n_falls += step % GROUP && lengths[samples[0]] < before;
        before = lengths[samples[0]];
    }
    assert_in_range(n_falls, 8, 32); /* of 40; 20 are expected */
    arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_goes_on_anywhere),
        cmocka_unit_test(test_without_groups),
        cmocka_unit_test(test_batches_are_shuffled),
    };
    return cmocka_run_group_tests(tests, set_lengths, NULL);
}
