/* Whether a job goes over to another plan, worked out by hand: four units on two ranks, two micro-batches. */
#include "harness/test.h"
#include "passes/planner.h"

#include <string.h>

enum
{
    N_UNITS = 4
};

static const int64_t even[] = {1, 3}, uneven[] = {1, 2}, whole[] = {1};

/* A unit takes 10 ms forward and 20 ms backward for 10 samples, and has 4000 bytes of params and as many of state;
 * 16000 bytes move in a second. Unit 1 is frozen. */
static Horizon make_horizon(Arena *arena, UnitCost *costs, const Plan *now, double n_steps)
{
    memset(costs, 0, sizeof *costs * (N_UNITS + 1));
    for (int u = 1; u <= N_UNITS; u++)
        costs[u] = (UnitCost){.forward_s = 0.01, .backward_s = 0.02, .param_bytes = 4000, .state_bytes = 4000};
    return (Horizon){.n_steps = n_steps,
                     .now = now,
                     .sizes = horizon_sizes(arena, costs, N_UNITS, 1),
                     .n_units = N_UNITS,
                     .moved_bytes_per_s = 16000};
}

static Plan plan_of(uint32_t n_stages, uint32_t n_replicas, const int64_t *first_unit)
{
    return (Plan){.n_stages = n_stages,
                  .n_replicas = n_replicas,
                  .n_micro = 2,
                  .schedule = PIPELINE_one_f_one_b,
                  .first_unit = first_unit};
}

static void what_moves(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    UnitCost costs[N_UNITS + 1];
    const Plan pipe = plan_of(2, 1, even), other = plan_of(2, 1, uneven), copies = plan_of(1, 2, whole);
    const Plan one = plan_of(1, 1, whole); /* the other rank is idle */
    const struct
    {
        const Plan *from, *to;
        int64_t bytes;
    } moves[] = {
        {&pipe, &pipe, 0},
        {&pipe, &copies, 12000}, /* rank 0 lacks params 3 and 4, and of its half of 12000 of state has that of 4000 */
        {&pipe, &other, 8000},   /* unit 2 */
        {&copies, &copies, 0},
        {&copies, &pipe, 4000}, /* rank 1 lacks half of the states of units 3 and 4 */
        {&one, &copies, 22000}, /* all params and half of the states, to the rank that was idle */
        {&copies, &one, 6000},
        {&one, &pipe, 16000},
    };
    for (size_t i = 0; i < sizeof moves / sizeof *moves; i++)
    {
        const Horizon h = make_horizon(arena, costs, moves[i].from, 10);
        assert_int_equal(horizon_moved_bytes(&h, moves[i].to), moves[i].bytes);
        assert_float_equal(horizon_end_s(&h, moves[i].to, 0.5), 5 + (double)moves[i].bytes / 16000, 1e-9);
    }
    Horizon h = make_horizon(arena, costs, NULL, 10);
    assert_int_equal(horizon_moved_bytes(&h, &copies), 0);
    h.fill_s = 3;
    assert_float_equal(horizon_end_s(&h, &copies, 0.5), 5 + 3.0 / 2, 1e-9);
    arena_destroy(arena);
}

/* What is chosen with so many steps left, from the plan `now`. */
static PlanChoice choose(Arena *arena, const Plan *now, double n_steps, uint32_t n_together)
{
    UnitCost *costs = ARENA_ARRAY(arena, UnitCost, N_UNITS + 1);
    const Horizon h = make_horizon(arena, costs, now, n_steps);
    const CostMachine machine = {.link_bytes_per_s = 1e15, .sum_bytes_per_s = 1e15};
    const PlanRequest request = {.n_ranks = 2,
                                 .n_micro = 2,
                                 .schedule = PIPELINE_one_f_one_b,
                                 .n_together = n_together,
                                 .batch = 10,
                                 .horizon = &h};
    PlanChoice choice;
    const char *why;
    assert_true(planner_choose(arena, &request, costs, N_UNITS, 10, &machine, &choice, &why));
    return choice;
}

/* Two copies take 60 ms a step, a pipeline 90, and going over takes 0.75 s: worth it from 26 steps on. */
static void worth_it_or_not(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    const Plan pipe = plan_of(2, 1, even), other = plan_of(2, 1, uneven), copies = plan_of(1, 2, whole);
    PlanChoice choice = choose(arena, &pipe, 26, 0);
    assert_int_equal(choice.chosen->plan.n_stages, 1);
    assert_string_equal(choice.why, "saves 0.03 of 2.34 s to the end, 0.75 s for going over counted");
    choice = choose(arena, &pipe, 24, 0);
    assert_true(plan_is_same(&choice.chosen->plan, &pipe));
    assert_string_equal(choice.why, "kept, 1 x 2 would save 0.72 of 2.16 s, and going over takes 0.75 s");
    choice = choose(arena, &other, 1, 0); /* with its own cuts, which are not the best */
    assert_true(plan_is_same(&choice.chosen->plan, &other));
    choice = choose(arena, &copies, 1000, 0);
    assert_true(plan_is_same(&choice.chosen->plan, &copies));
    assert_string_equal(choice.why, "kept, no other plan is faster");
    choice = choose(arena, &pipe, 1, 2); /* a cut that may not be any more */
    assert_string_equal(choice.why, "the plan before is not possible any more");
    choice = choose(arena, NULL, 1, 0);
    assert_string_equal(choice.why, "");
    arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_moves),
        cmocka_unit_test(worth_it_or_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
