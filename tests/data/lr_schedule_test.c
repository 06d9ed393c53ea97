/* Learning-rate schedules against their closed formulas. */
#include "data_test.h"

#include "runtime/lr_schedule.h"

#include <math.h>

static void expect_near(double got, double expected)
{
    if (!(fabs(got - expected) <= 1e-15 * fabs(expected) + 1e-18))
        fail_msg("%.17g instead of %.17g", got, expected);
}

static void test_warmup_is_a_line(void **state)
{
    (void)state;
    for (int kind = 0; kind < LR_SCHEDULE_COUNT; kind++)
    {
        LrSchedule s = {
            .kind = (LrKind)kind, .base_lr = 3e-4, .warmup_steps = 10, .total_steps = 100, .end_factor = 0.1};
        for (uint64_t step = 0; step < 10; step++)
            expect_near(lr_at(&s, step), 3e-4 * (double)(step + 1) / 10);
        assert_true(lr_at(&s, 9) == 3e-4);
        assert_true(lr_at(&s, 10) == 3e-4);
    }
}

static void test_constant(void **state)
{
    (void)state;
    LrSchedule s = {.kind = LR_CONSTANT, .base_lr = 0.5, .total_steps = 7, .end_factor = 0.1};
    for (uint64_t step = 0; step < 20; step++)
        assert_true(lr_at(&s, step) == 0.5);
}

static void test_linear(void **state)
{
    (void)state;
    LrSchedule s = {.kind = LR_LINEAR, .base_lr = 1, .warmup_steps = 4, .total_steps = 24, .end_factor = 0.2};
    for (uint64_t step = 4; step < 24; step++)
        expect_near(lr_at(&s, step), 1 - 0.8 * ((double)step - 4) / 20);
    expect_near(lr_at(&s, 24), 0.2);
    expect_near(lr_at(&s, 1000), 0.2);
}

static void test_cosine(void **state)
{
    (void)state;
    LrSchedule s = {.kind = LR_COSINE, .base_lr = 2, .warmup_steps = 3, .total_steps = 13, .end_factor = 0};
    for (uint64_t step = 3; step <= 13; step++)
        expect_near(lr_at(&s, step), 1 + cos(acos(-1) * ((double)step - 3) / 10));
    expect_near(lr_at(&s, 8), 1);
    s.end_factor = 0.5;
    expect_near(lr_at(&s, 8), 1.5);
    expect_near(lr_at(&s, 13), 1);
}

static void test_warmup_longer_than_run(void **state)
{
    (void)state;
    LrSchedule s = {.kind = LR_COSINE, .base_lr = 1, .warmup_steps = 10, .total_steps = 5, .end_factor = 0};
    expect_near(lr_at(&s, 4), 0.5);
    expect_near(lr_at(&s, 10), 1);
    expect_near(lr_at(&s, 1000), 1);
}

static void test_names(void **state)
{
    (void)state;
    for (int i = 0; i < LR_SCHEDULE_COUNT; i++)
    {
        LrKind kind;
        assert_true(lr_schedule_by_name(lr_schedule_name((LrKind)i), &kind));
        assert_int_equal(kind, i);
    }
    LrKind kind;
    assert_false(lr_schedule_by_name("exponential", &kind));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_warmup_is_a_line),
        cmocka_unit_test(test_constant),
        cmocka_unit_test(test_linear),
        cmocka_unit_test(test_cosine),
        cmocka_unit_test(test_warmup_longer_than_run),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
