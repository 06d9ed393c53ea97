/* The order of samples: a bijection for every n, seekable, different in every epoch, and shuffled to look at. */
#include "data_test.h"

#include "runtime/sampler.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

static void expect_bijection(uint64_t n, uint64_t seed, uint64_t epoch)
{
    Sampler sampler = sampler_make(n, seed, true);
    uint8_t *seen = calloc(n, 1);
    assert_non_null(seen);
    for (uint64_t i = 0; i < n; i++)
    {
        uint64_t sample = sampler_at(&sampler, epoch, i);
        if (sample >= n || seen[sample]++)
            fail_msg("n %" PRIu64 " seed %" PRIu64 " epoch %" PRIu64 ": position %" PRIu64 " gives %" PRIu64
                     " again or outside",
                     n, seed, epoch, i, sample);
    }
    free(seen);
}

static void test_bijection(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    for (uint64_t n = 1; n <= 300; n++)
        for (uint64_t epoch = 0; epoch < 3; epoch++)
            expect_bijection(n, seed, epoch);
    const uint64_t big[] = {1023, 1024, 1025, 10000, 60000, 65536, 65537, 131071};
    for (size_t i = 0; i < sizeof big / sizeof big[0]; i++)
        expect_bijection(big[i], seed + i, UINT64_C(1) << 40);
}

static void test_huge_n_ends(void **state)
{
    (void)state;
    Sampler sampler = sampler_make((UINT64_C(1) << 61) + 1, test_seed(), true);
    for (uint64_t i = 0; i < 1000; i++)
        assert_true(sampler_at(&sampler, 0, sampler.n_samples - 1 - i) < sampler.n_samples);
}

static void test_pinned(void **state)
{
    (void)state;
    /* The order is part of a run's identity: a change here breaks the resume of old checkpoints. */
    static const uint64_t expected[10] = {6, 7, 4, 5, 2, 9, 0, 8, 1, 3};
    Sampler sampler = sampler_make(10, 42, true);
    for (uint64_t i = 0; i < 10; i++)
        assert_int_equal(sampler_at(&sampler, 0, i), expected[i]);
}

/* Of a random permutation: mean displacement n/3, one fixed point, n/2 rises, no correlation of neighbours. Bounds are
 * six standard deviations wide. */
static void test_looks_shuffled(void **state)
{
    (void)state;
    enum
    {
        N = 60000,
        N_EPOCHS = 4
    };
    Sampler sampler = sampler_make(N, test_seed(), true);
    for (uint64_t epoch = 0; epoch < N_EPOCHS; epoch++)
    {
        double displacement = 0, product = 0;
        uint32_t n_fixed = 0, n_rises = 0, n_same_as_before = 0;
        uint64_t last = 0;
        for (uint64_t i = 0; i < N; i++)
        {
            uint64_t sample = sampler_at(&sampler, epoch, i);
            displacement += fabs((double)sample - (double)i) / N;
            n_fixed += sample == i;
            n_rises += i > 0 && sample > last;
            product += i > 0 ? ((double)sample / N - 0.5) * ((double)last / N - 0.5) : 0;
            n_same_as_before += epoch > 0 && sample == sampler_at(&sampler, epoch - 1, i);
            last = sample;
        }
        assert_true(fabs(displacement / N - 1.0 / 3) < 6 * sqrt(1.0 / 18 / N));
        assert_true(n_fixed <= 12); /* Poisson(1) */
        assert_true(n_same_as_before <= 12);
        assert_true(fabs(n_rises - N / 2.0) < 6 * sqrt(N / 12.0));
        assert_true(fabs(product / N) < 6 * (1.0 / 12) / sqrt(N));
    }
}

/* Small data sets too: each sample comes first about equally often over epochs. */
static void test_small_n_is_fair(void **state)
{
    (void)state;
    enum
    {
        N = 5,
        N_EPOCHS = 10000
    };
    Sampler sampler = sampler_make(N, test_seed(), true);
    uint32_t count[N][N] = {{0}};
    for (uint64_t epoch = 0; epoch < N_EPOCHS; epoch++)
        for (uint64_t i = 0; i < N; i++)
            count[i][sampler_at(&sampler, epoch, i)]++;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            assert_true(fabs(count[i][j] - N_EPOCHS / (double)N) < 6 * sqrt(N_EPOCHS * 0.2 * 0.8));
}

static void test_next_is_seekable(void **state)
{
    (void)state;
    enum
    {
        N = 23,
        BATCH = 5
    };
    Sampler sampler = sampler_make(N, test_seed(), true);
    SamplerPosition position = {0};
    uint64_t samples[BATCH], again[BATCH];
    for (uint64_t step = 0; step < 20; step++)
    {
        SamplerPosition seeked = sampler_position_at_step(&sampler, BATCH, step);
        assert_int_equal(seeked.epoch, position.epoch);
        assert_int_equal(seeked.consumed, position.consumed);
        uint32_t n = sampler_next(&sampler, &position, BATCH, samples);
        assert_int_equal(n, step % 5 == 4 ? 3 : 5);
        assert_int_equal(sampler_next(&sampler, &seeked, BATCH, again), n);
        assert_memory_equal(samples, again, n * sizeof samples[0]);
    }
    assert_int_equal(position.epoch, 4);
    assert_int_equal(sampler_batches_per_epoch(&sampler, BATCH), 5);
}

static void test_evaluation_order(void **state)
{
    (void)state;
    Sampler sampler = sampler_make(100, 1, false);
    for (uint64_t i = 0; i < 100; i++)
        assert_int_equal(sampler_at(&sampler, 7, i), i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bijection),        cmocka_unit_test(test_huge_n_ends),
        cmocka_unit_test(test_pinned),           cmocka_unit_test(test_looks_shuffled),
        cmocka_unit_test(test_small_n_is_fair),  cmocka_unit_test(test_next_is_seekable),
        cmocka_unit_test(test_evaluation_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
