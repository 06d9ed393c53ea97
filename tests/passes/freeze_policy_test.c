/* Freeze policies against the tables of PipeTransformer's schedule and against cases worked out by hand. */
#include "harness/test.h"
#include "passes/freeze_policy.h"

#include <math.h>
#include <string.h>

/* Frozen layers in epochs 0..9: ceil(L (1 - (1 - alpha)^T)), as the authors' code gives them. */
static const struct
{
    uint32_t n_layers;
    double alpha;
    uint32_t frozen[10];
} schedules[] = {
    {12, 0.07, {0, 1, 2, 3, 4, 4, 5, 5, 6, 6}},
    {12, 1.0 / 5, {0, 3, 5, 6, 8, 9, 9, 10, 10, 11}},
    {12, 1.0 / 4, {0, 3, 6, 7, 9, 10, 10, 11, 11, 12}},
    {12, 1.0 / 3, {0, 4, 7, 9, 10, 11, 11, 12, 12, 12}},
    {12, 2.0 / 5, {0, 5, 8, 10, 11, 12, 12, 12, 12, 12}},
    {12, 1.0 / 2, {0, 6, 9, 11, 12, 12, 12, 12, 12, 12}},
    {24, 1.0 / 3, {0, 8, 14, 17, 20, 21, 22, 23, 24, 24}},
    {24, 1.0 / 2, {0, 12, 18, 21, 23, 24, 24, 24, 24, 24}},
};

static void schedule_is_the_papers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof schedules / sizeof *schedules; i++)
    {
        const FreezeSettings settings = {.policy = FREEZE_schedule, .alpha = schedules[i].alpha};
        FreezeInput input = {.n_layers = schedules[i].n_layers, .loss = NAN, .loss_before = NAN};
        for (uint32_t epoch = 0; epoch < 10; epoch++)
        {
            assert_int_equal(input.frozen, schedules[i].frozen[epoch]);
            input.decision = epoch + 1;
            FreezeDecision decision = freeze_decide(&settings, &input);
            input.frozen = decision.frozen;
            input.bound = decision.bound;
        }
    }
}

static FreezeDecision decide(const FreezeSettings *settings, uint32_t decision, uint32_t frozen, const double *norms,
                             const double *before)
{
    const FreezeInput input = {.decision = decision,
                               .n_layers = 6,
                               .frozen = frozen,
                               .norms = norms,
                               .norms_before = before,
                               .loss = 2,
                               .loss_before = 1};
    return freeze_decide(settings, &input);
}

static void gradnorm_goes_to_the_smallest_gradient(void **state)
{
    (void)state;
    FreezeSettings settings = {.policy = FREEZE_gradnorm, .alpha = 0.5};
    static const double norms[] = {5, 1, 4, 3, 0.5, 6}, frozen_small[] = {0, 0, 4, 3, 5, 6},
                        first[] = {1, 2, 3, 4, 5, 6};
    FreezeDecision d = decide(&settings, 1, 0, norms, NULL);
    assert_int_equal(d.smallest, 4);
    assert_int_equal(d.frozen, 3); /* at most half */
    d = decide(&settings, 2, 3, norms, NULL);
    assert_int_equal(d.smallest, 4);
    assert_int_equal(d.frozen, 5);
    d = decide(&settings, 1, 2, frozen_small, NULL); /* those of frozen layers are nothing */
    assert_int_equal(d.smallest, 3);
    assert_int_equal(d.frozen, 4);
    d = decide(&settings, 1, 0, first, NULL);
    assert_int_equal(d.frozen, 1);
    settings.exclusive = true;
    assert_int_equal(decide(&settings, 1, 0, first, NULL).frozen, 0);
    assert_int_equal(decide(&settings, 1, 2, frozen_small, NULL).frozen, 3);
    settings.alpha = 0.01; /* the bound is rounded up: something can always be frozen */
    settings.exclusive = false;
    assert_int_equal(decide(&settings, 1, 0, norms, NULL).frozen, 1);
}

static void autofreeze_stops_at_a_change(void **state)
{
    (void)state;
    const FreezeSettings settings = {.policy = FREEZE_autofreeze, .percentile = 50};
    static const double before[] = {1, 1, 1, 1, 1, 1}, now[] = {1.1, 0.9, 1.3, 1, 2, 1.4}, none[] = {0, 1, 1, 1, 1, 1};
    assert_int_equal(decide(&settings, 1, 0, now, NULL).frozen, 0);
    assert_int_equal(decide(&settings, 2, 0, now, before).frozen, 2); /* changes .1 .1 .3 0 1 .4: median .2 */
    assert_int_equal(decide(&settings, 2, 2, now, before).frozen, 4); /* .3 0 1 .4: median .35 */
    assert_int_equal(decide(&settings, 2, 0, now, none).frozen, 0);
}

static void explicit_and_limits(void **state)
{
    (void)state;
    static const int64_t counts[] = {0, 2, 5};
    static const double norms[] = {1, 2, 3, 4, 5, 6};
    FreezeSettings settings = {.policy = FREEZE_explicit, .counts = counts, .n_counts = 3};
    assert_int_equal(decide(&settings, 1, 0, NULL, NULL).frozen, 0);
    assert_int_equal(decide(&settings, 2, 0, NULL, NULL).frozen, 2);
    assert_int_equal(decide(&settings, 9, 2, NULL, NULL).frozen, 5);
    assert_int_equal(decide(&settings, 2, 4, NULL, NULL).frozen, 4); /* never fewer */
    settings.keep = 3;
    assert_int_equal(decide(&settings, 9, 2, NULL, NULL).frozen, 3);
    settings = (FreezeSettings){.policy = FREEZE_gradnorm, .alpha = 0.5, .warmup = 2};
    assert_int_equal(decide(&settings, 2, 0, norms, NULL).frozen, 0);
    assert_int_equal(decide(&settings, 3, 0, norms, NULL).frozen, 1);
    settings.guard = true; /* the loss has risen from 1 to 2 */
    assert_int_equal(decide(&settings, 3, 0, norms, NULL).frozen, 0);
    assert_string_equal(decide(&settings, 3, 6, norms, NULL).why, "all layers are frozen");
    settings.policy = FREEZE_none;
    settings.guard = false;
    assert_int_equal(decide(&settings, 3, 2, norms, NULL).frozen, 2);
}

static void policies_have_names(void **state)
{
    (void)state;
    FreezePolicy policy;
    for (int i = 0; i < FREEZE_POLICY_COUNT; i++)
        assert_true(freeze_policy_by_name(freeze_policy_name((FreezePolicy)i), &policy) && (int)policy == i);
    assert_false(freeze_policy_by_name("gradnorms", &policy));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schedule_is_the_papers),       cmocka_unit_test(gradnorm_goes_to_the_smallest_gradient),
        cmocka_unit_test(autofreeze_stops_at_a_change), cmocka_unit_test(explicit_and_limits),
        cmocka_unit_test(policies_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
