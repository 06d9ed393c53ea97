/* Contractions against a naive f64 loop: random shapes, all flags, strides, batches, dtypes; the same bits
 * for 1, 2 and 3 threads; nothing written outside C; no thread but the pool's. */
#include "runtime/gemm.h"

#include "harness/gemm_act.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum
{
    N_POOLS = 3,
    MAX_REFERENCE_MACS = 1000000,
    MARGIN = 64 /* elements of C's buffer after its end that must stay as they were */
};

static Pool *pools[N_POOLS];
static GemmLib *libs[N_POOLS];
static uint64_t rng_state;

static uint64_t rng_next(void)
{
    rng_state += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */
    uint64_t z = rng_state;
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static int64_t rng_below(int64_t n)
{
    return (int64_t)(rng_next() % (uint64_t)n);
}

static float rng_f32(void)
{
    return (float)(rng_next() >> 40) * 0x1p-23f - 1;
}

static size_t elem_bytes(GemmDtype dtype)
{
    return dtype == GEMM_F32 ? 4 : 2;
}

static double get(const void *base, int64_t i, GemmDtype dtype)
{
    float value;
    if (dtype == GEMM_F32)
        return ((const float *)base)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)base)[i] << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void set(void *base, int64_t i, GemmDtype dtype, float value)
{
    if (dtype == GEMM_F32)
    {
        ((float *)base)[i] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    ((uint16_t *)base)[i] = (uint16_t)(bits >> 16);
}

static void *random_array(int64_t n, GemmDtype dtype)
{
    void *data = malloc((size_t)n * elem_bytes(dtype));
    assert_non_null(data);
    for (int64_t i = 0; i < n; i++)
        set(data, i, dtype, rng_f32());
    return data;
}

/* One element of the result, and the sum of the magnitudes that went into it. */
static double reference(const GemmDesc *d, const GemmArgs *args, const void *c_before, int64_t item, int64_t i,
                        int64_t j, double *out_magnitude)
{
    double sum = 0;
    double magnitude = 0;
    for (int64_t p = 0; p < d->k; p++)
    {
        double a = get(args->a, item * d->stride_a + (d->trans_a ? p * d->lda + i : i * d->lda + p), d->dtype_ab);
        double b = get(args->b, item * d->stride_b + (d->trans_b ? j * d->ldb + p : p * d->ldb + j), d->dtype_ab);
        sum += a * b;
        magnitude += fabs(a * b);
    }
    if (d->bias)
        sum += get(args->bias, j, d->dtype_bias);
    double result = gemm_act_f64(d->act, sum);
    if (d->residual)
        result += get(args->residual, item * d->stride_r + i * d->ldr + j, d->dtype_c);
    if (d->accumulate)
        result += get(c_before, item * d->stride_c + i * d->ldc + j, d->dtype_c);
    *out_magnitude = magnitude + 2;
    return result;
}

/* All elements of a small result; of a large one a random sample. */
static void check_against_reference(const GemmDesc *d, const GemmArgs *args, const void *c_before)
{
    double eps = d->dtype_c == GEMM_BF16 ? 0x1p-8 : 1e-6;
    int64_t n_elems = d->batch * d->m * d->n;
    int64_t step = 1 + n_elems * d->k / MAX_REFERENCE_MACS;
    for (int64_t e = 0; e < n_elems; e += 1 + rng_below(2 * step - 1))
    {
        int64_t j = e % d->n;
        int64_t i = e / d->n % d->m;
        int64_t item = e / d->n / d->m;
        double magnitude;
        double expected = reference(d, args, c_before, item, i, j, &magnitude);
        double actual = get(args->c, item * d->stride_c + i * d->ldc + j, d->dtype_c);
        if (!(fabs(actual - expected) <= eps * magnitude))
            fail_msg("[%lld][%lld,%lld] is %.9g, expected %.9g", (long long)item, (long long)i, (long long)j, actual,
                     expected);
    }
}

/* What lies between the rows of C and after its end is not C's. */
static void check_untouched(const GemmDesc *d, const void *c, const void *c_before, int64_t n_elems)
{
    char *owned = calloc((size_t)n_elems, 1);
    assert_non_null(owned);
    for (int64_t item = 0; item < d->batch; item++)
        for (int64_t i = 0; i < d->m; i++)
            memset(owned + item * d->stride_c + i * d->ldc, 1, (size_t)d->n);
    for (int64_t i = 0; i < n_elems; i++)
        if (!owned[i] && get(c, i, d->dtype_c) != get(c_before, i, d->dtype_c))
            fail_msg("element %lld outside C was written", (long long)i);
    free(owned);
}

/* residual_is_c: the residual buffer is C itself. */
static void check_desc(const GemmDesc *d, bool residual_is_c)
{
    int64_t a_elems = (d->batch - 1) * d->stride_a + (d->trans_a ? d->k : d->m) * d->lda;
    int64_t b_elems = (d->batch - 1) * d->stride_b + (d->trans_b ? d->n : d->k) * d->ldb;
    int64_t c_elems = (d->batch - 1) * d->stride_c + d->m * d->ldc + MARGIN;
    void *a = random_array(a_elems, d->dtype_ab);
    void *b = random_array(b_elems, d->dtype_ab);
    void *bias = random_array(d->n, d->dtype_bias);
    void *before = random_array(c_elems, d->dtype_c);
    void *residual = random_array((d->batch - 1) * d->stride_r + d->m * d->ldr, d->dtype_c);
    size_t c_bytes = (size_t)c_elems * elem_bytes(d->dtype_c);
    void *first = NULL;
    for (int p = 0; p < N_POOLS; p++)
    {
        const Gemm *gemm = NULL;
        assert_int_equal(gemm_create(libs[p], d, &gemm), STATUS_OK);
        void *c = malloc(c_bytes);
        assert_non_null(c);
        memcpy(c, before, c_bytes);
        GemmArgs args = {.a = a,
                         .b = b,
                         .c = c,
                         .bias = d->bias ? bias : NULL,
                         .residual = d->residual ? (residual_is_c ? c : residual) : NULL};
        assert_int_equal(gemm_run(gemm, &args), STATUS_OK);
        if (p > 0)
        {
            assert_memory_equal(c, first, c_bytes);
            free(c);
            continue;
        }
        first = c;
        if (residual_is_c && d->residual)
            args.residual = before;
        check_untouched(d, c, before, c_elems);
        check_against_reference(d, &args, before);
    }
    free(a);
    free(b);
    free(bias);
    free(before);
    free(residual);
    free(first);
}

static int64_t padded(int64_t n)
{
    return rng_below(2) ? n : n + 1 + rng_below(9);
}

static void random_layout(GemmDesc *d)
{
    d->lda = padded(d->lda);
    d->ldb = padded(d->ldb);
    d->ldc = padded(d->ldc);
    d->ldr = padded(d->n);
    d->stride_a = rng_below(4) == 0 ? 0 : (d->trans_a ? d->k : d->m) * d->lda + rng_below(5);
    d->stride_b = rng_below(4) == 0 ? 0 : (d->trans_b ? d->n : d->k) * d->ldb + rng_below(5);
    d->stride_c = d->m * d->ldc + rng_below(5);
    d->stride_r = d->m * d->ldr + rng_below(5);
}

static void random_descs(void **state)
{
    (void)state;
    for (int round = 0; round < 300; round++)
    {
        static const int64_t limits[] = {2, 20, 70, 200};
        int64_t limit = limits[rng_below(4)];
        int64_t m = 1 + rng_below(limit);
        int64_t n = 1 + rng_below(limit);
        GemmDesc d = gemm_desc_make(m, n, 1 + rng_below(limit), rng_below(2), rng_below(2));
        d.batch = rng_below(3) == 0 ? 1 + rng_below(7) : 1;
        random_layout(&d);
        d.bias = rng_below(2);
        d.act = (GemmAct)rng_below(GEMM_ACT_COUNT);
        int64_t addend = rng_below(4);
        d.accumulate = addend == 1;
        d.residual = addend >= 2;
        bool residual_is_c = addend == 3;
        if (residual_is_c)
        {
            d.ldr = d.ldc;
            d.stride_r = d.stride_c;
        }
        check_desc(&d, residual_is_c);
    }
}

/* Every flag combination on a shape with several tiles in both directions and ragged edges. */
static void all_flags_on_ragged_tiles(void **state)
{
    (void)state;
    for (int flags = 0; flags < 32; flags++)
    {
        GemmDesc d = gemm_desc_make(203, 901, 65, flags & 1, flags & 2);
        d.bias = flags & 4;
        d.residual = flags & 8;
        d.accumulate = (flags & 16) && !d.residual;
        d.act = (GemmAct)(flags % GEMM_ACT_COUNT);
        check_desc(&d, false);
    }
}

static void odd_and_model_shapes(void **state)
{
    (void)state;
    static const struct
    {
        int64_t m, n, k, batch;
    } shapes[] = {{1, 1, 1, 1},       {1, 10, 192, 1},   {64, 10, 192, 1},  {5, 7, 1, 1},     {1, 768, 768, 1},
                  {50, 50, 64, 40},   {50, 64, 50, 40},  {1024, 1, 3, 1},   {3, 2049, 17, 1}, {192, 192, 320, 1},
                  {400, 576, 192, 1}, {1, 1, 100000, 1}, {256, 768, 768, 1}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int trans = 0; trans < 4; trans++)
        {
            GemmDesc d = gemm_desc_make(shapes[s].m, shapes[s].n, shapes[s].k, trans & 1, trans & 2);
            d.batch = shapes[s].batch;
            check_desc(&d, false);
        }
}

static void bf16_inputs(void **state)
{
    (void)state;
    for (int round = 0; round < 60; round++)
    {
        GemmDesc d =
            gemm_desc_make(1 + rng_below(90), 1 + rng_below(90), 1 + rng_below(90), rng_below(2), rng_below(2));
        d.dtype_ab = GEMM_BF16;
        d.dtype_c = rng_below(2) ? GEMM_BF16 : GEMM_F32;
        d.dtype_bias = rng_below(2) ? GEMM_BF16 : GEMM_F32;
        random_layout(&d);
        d.bias = rng_below(2);
        d.residual = rng_below(2);
        d.act = (GemmAct)rng_below(GEMM_ACT_COUNT);
        const Gemm *gemm = NULL;
        if (round == 0 && gemm_create(libs[0], &d, &gemm) == STATUS_UNSUPPORTED)
        {
            print_message("no bf16 kernels on this processor: refused, not tested\n");
            return;
        }
        check_desc(&d, false);
    }
}

/* What a row of C is does not depend on its place: the cache of frozen layers makes rows in other company than a run
 * without it does. The shapes of an encoder's layers, a text a few rows. */
static void rows_in_any_place(void **state)
{
    (void)state;
    enum
    {
        TEXTS = 7,
        K = 384
    };
    for (int round = 0; round < 12; round++)
    {
        const int64_t length = 9 + round, m = TEXTS * length, n = round % 3 ? 384 : 1536,
                      moved = length * (round % 5 + 1);
        const GemmDtype dtype = round % 2 ? GEMM_BF16 : GEMM_F32;
        GemmDesc d = gemm_desc_make(m, n, K, false, round % 4 < 2);
        d.dtype_ab = d.dtype_c = dtype;
        d.bias = true;
        d.act = round % 3 ? GEMM_ACT_none : GEMM_ACT_gelu_erf;
        const Gemm *gemm = NULL;
        if (gemm_create(libs[1], &d, &gemm) == STATUS_UNSUPPORTED)
            continue;
        const size_t a_row = K * elem_bytes(dtype), c_row = (size_t)n * elem_bytes(dtype);
        char *a = random_array(2 * m * K, dtype), *b = random_array(n * K, dtype), *bias = random_array(n, GEMM_F32);
        char *c = calloc(2 * (size_t)m, c_row);
        assert_non_null(c);
        /* the last rows of the first batch are the first ones of the second */
        memcpy(a + (size_t)m * a_row, a + (size_t)moved * a_row, (size_t)(m - moved) * a_row);
        for (int64_t batch = 0; batch < 2; batch++)
        {
            const GemmArgs args = {
                .a = a + (size_t)(batch * m) * a_row, .b = b, .c = c + (size_t)(batch * m) * c_row, .bias = bias};
            assert_int_equal(gemm_run(gemm, &args), STATUS_OK);
        }
        assert_memory_equal(c + (size_t)m * c_row, c + (size_t)moved * c_row, (size_t)(m - moved) * c_row);
        free(a);
        free(b);
        free(bias);
        free(c);
    }
}

static void equal_descs_share(void **state)
{
    (void)state;
    GemmDesc d = gemm_desc_make(64, 48, 32, false, true);
    GemmDesc other = d;
    other.bias = true;
    const Gemm *first = NULL;
    const Gemm *second = NULL;
    const Gemm *third = NULL;
    assert_int_equal(gemm_create(libs[1], &d, &first), STATUS_OK);
    assert_int_equal(gemm_create(libs[1], &d, &second), STATUS_OK);
    assert_int_equal(gemm_create(libs[1], &other, &third), STATUS_OK);
    assert_ptr_equal(first, second);
    assert_ptr_not_equal(first, third);
    assert_int_equal(gemm_desc(third)->bias, true);
}

static void small_items_are_handed_out_in_groups(void **state)
{
    (void)state;
    GemmDesc d = gemm_desc_make(50, 50, 64, false, true);
    d.batch = 512;
    const Gemm *gemm = NULL;
    assert_int_equal(gemm_create(libs[1], &d, &gemm), STATUS_OK);
    assert_true(gemm_n_tasks(gemm) >= 8 && gemm_n_tasks(gemm) < 512);
    assert_true(fabs(gemm_flops(&d) - 2.0 * 512 * 50 * 50 * 64) < 1);
}

static void activation_names(void **state)
{
    (void)state;
    for (int act = 0; act < GEMM_ACT_COUNT; act++)
        assert_int_equal(gemm_act_from_name(gemm_act_name((GemmAct)act)), act);
    assert_int_equal(gemm_act_from_name("no such"), GEMM_ACT_COUNT);
}

/* The library starts no threads of its own: 1 + (2 - 1) + (3 - 1) of ours, after all the runs above. */
static void no_foreign_threads(void **state)
{
    (void)state;
#if defined(__SANITIZE_THREAD__)
    TEST_SKIP("ThreadSanitizer has a thread of its own");
#endif
    int n = 0;
    DIR *dir = opendir("/proc/self/task");
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        n += entry->d_name[0] != '.';
    closedir(dir);
    assert_int_equal(n, 4);
}

static int setup(void **state)
{
    (void)state;
    const char *seed = getenv("PTC_TEST_SEED");
    rng_state = seed ? strtoull(seed, NULL, 0) : 20240611;
    print_message("seed: PTC_TEST_SEED=%llu\n", (unsigned long long)rng_state);
    for (int p = 0; p < N_POOLS; p++)
        if (pool_create(p + 1, false, &pools[p]) != STATUS_OK || gemm_lib_create(pools[p], &libs[p]) != STATUS_OK)
            return 1;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int p = 0; p < N_POOLS; p++)
    {
        gemm_lib_destroy(libs[p]);
        pool_destroy(pools[p]);
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_descs),
        cmocka_unit_test(all_flags_on_ragged_tiles),
        cmocka_unit_test(odd_and_model_shapes),
        cmocka_unit_test(bf16_inputs),
        cmocka_unit_test(rows_in_any_place),
        cmocka_unit_test(equal_descs_share),
        cmocka_unit_test(small_items_are_handed_out_in_groups),
        cmocka_unit_test(activation_names),
        cmocka_unit_test(no_foreign_threads),
    };
    return cmocka_run_group_tests_name("gemm", tests, setup, teardown);
}
