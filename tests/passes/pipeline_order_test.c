/* Lists in any order: which of them wait for each other for ever, how long the others take, also on shared cores. */
#include "harness/test.h"
#include "passes/pipeline.h"
#include "pipeline_slow.h"

static void test_deadlocks(void **state)
{
    (void)state;
    static const struct
    {
        const char *texts[3];
        uint32_t n_micro, buffers;
        const char *why;
    } cases[] = {
        {{"F0 B0 F1 B1", "F0 B0 F1 B1"}, 2, 1, NULL},
        {{"F0 B0 F1 B1", "F0 F1 B0 B1"},
         2,
         0,
         "stage 0 at B0 waits for B0 of stage 1, and stage 1 at F1 waits for F1 of stage 0"},
        {{"F0 F1 B0 B1", "F0 B0 F1 B1", "F0 F1 B0 B1"},
         2,
         0,
         "stage 1 at B0 waits for B0 of stage 2, and stage 2 at F1 waits for F1 of stage 1"},
        /* Stage 1 gives its B's back one by one, stage 0 wants to send every F first. */
        {{"F0 F1 F2 F3 F4 B0 B1 B2 B3 B4", "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4"}, 5, 0, NULL},
        {{"F0 F1 F2 F3 F4 B0 B1 B2 B3 B4", "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4"}, 5, 2, NULL},
        {{"F0 F1 F2 F3 F4 B0 B1 B2 B3 B4", "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4"},
         5,
         1,
         "stage 0 cannot send F3 before stage 1 takes one more F (buffers: 1), and stage 1 cannot send B1 before stage "
         "0 "
         "takes one more B (buffers: 1)"},
    };
    Arena *arena = arena_create();
    for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++)
    {
        uint32_t n_stages = cases[i].texts[2] ? 3 : 2;
        PipelineStage *stages =
            pipeline_equal_stages(arena, n_stages, (PipelineStage){.forward_s = 1, .backward_s = 2});
        PipelineList *lists = pipeline_parse_lists(arena, cases[i].texts, n_stages, cases[i].n_micro);
        PipelineTimes times = pipeline_simulate(arena, lists, stages, n_stages, cases[i].buffers);
        assert_int_equal(times.deadlock, cases[i].why != NULL);
        if (cases[i].why)
            assert_string_equal(times.why, cases[i].why);
        const char *why = pipeline_difference(arena, lists, stages, n_stages, cases[i].buffers, &times);
        if (why)
            fail_msg("case %u: %s", i, why);
    }
    arena_destroy(arena);
}

/* Lists that no parser lets through. */
static void test_broken_lists(void **state)
{
    (void)state;
    static const struct
    {
        PipelineInstr first[4], second[4];
        const char *why;
    } cases[] = {
        {{{'F', 0}, {'B', 0}}, {{'B', 0}, {'F', 0}}, "stage 1 at B0 waits for its own F0"},
        {{{'F', 0}, {'W', 0}, {'B', 0}}, {{'F', 0}, {'B', 0}}, "stage 0 at W0 waits for its own B0"},
        {{{'F', 0}, {'B', 0}},
         {{'F', 0}, {'B', 0}, {'F', 1}, {'B', 1}},
         "stage 1 at F1 waits for F1 of stage 0, which has come to the end of its list"},
        {{{'F', 0}, {'F', 1}, {'B', 0}}, {{'B', 0}}, "stage 1 at B0 waits for its own F0"},
        {{{'F', 1}, {'F', 0}, {'B', 1}, {'B', 0}}, {{'F', 0}, {'B', 0}, {'F', 1}, {'B', 1}}, NULL}, /* any order */
    };
    Arena *arena = arena_create();
    PipelineStage *stages =
        pipeline_equal_stages(arena, 2, (PipelineStage){.forward_s = 1, .backward_s = 2, .weight_s = 1});
    for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++)
    {
        PipelineList lists[2];
        for (uint32_t s = 0; s < 2; s++)
        {
            const PipelineInstr *instrs = s ? cases[i].second : cases[i].first;
            lists[s] = (PipelineList){0, ARENA_ARRAY(arena, PipelineInstr, 4)};
            for (; lists[s].n < 4 && instrs[lists[s].n].part; lists[s].n++)
                lists[s].instrs[lists[s].n] = instrs[lists[s].n];
        }
        PipelineTimes times = pipeline_simulate(arena, lists, stages, 2, 0);
        const char *why = pipeline_difference(arena, lists, stages, 2, 0, &times);
        assert_null(why);
        assert_int_equal(times.deadlock, cases[i].why != NULL);
        if (cases[i].why)
            assert_string_equal(times.why, cases[i].why);
    }
    arena_destroy(arena);
}

/* With a core for every stage it is the other simulator; with one for all, and no links, all work one after another. */
static void test_shared_cores(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 30; seed++)
    {
        Arena *arena = arena_create();
        const uint32_t n_stages = 1 + seed % 4, n_micro = 1 + seed % 7;
        PipelineStage *stages =
            pipeline_equal_stages(arena, n_stages, (PipelineStage){.forward_s = 1, .backward_s = 2});
        double work_s = 0;
        for (uint32_t s = 0; s < n_stages; s++)
        {
            stages[s].forward_s += 0.1 * (seed * (s + 3) % 7);
            stages[s].weight_s = 0.2 * (seed % 5);
            stages[s].update_s = 0.3 * (s + 1);
            work_s += n_micro * (stages[s].forward_s + stages[s].backward_s) + stages[s].update_s;
        }
        for (int kind = 0; kind < PIPELINE_COUNT; kind++)
        {
            PipelineList *lists = pipeline_build(arena, (PipelineKind)kind, n_micro, stages, n_stages);
            assert_float_equal(pipeline_shared_s(arena, lists, stages, n_stages, 1), work_s, 1e-9);
            assert_float_equal(pipeline_shared_s(arena, lists, stages, n_stages, 0.5), 2 * work_s, 1e-9);
            for (uint32_t s = 0; s + 1 < n_stages; s++)
                stages[s].send_forward_s = stages[s].send_backward_s = 0.05 * (seed % 3);
            assert_float_equal(pipeline_shared_s(arena, lists, stages, n_stages, n_stages),
                               pipeline_simulate(arena, lists, stages, n_stages, 0).step_s, 1e-9);
            for (uint32_t s = 0; s + 1 < n_stages; s++)
                stages[s].send_forward_s = stages[s].send_backward_s = 0;
        }
        arena_destroy(arena);
    }
}

/* Lists shuffled at random, as the slow simulator judges them. */
static void test_random_orders(void **state)
{
    (void)state;
    uint32_t n_deadlocks = 0, n_cases = test_is_thin() ? 400 : 2000;
    for (uint32_t seed = 1; seed <= n_cases; seed++)
    {
        Arena *arena = arena_create();
        uint32_t random = seed * 2654435761u, n_stages = 2 + seed % 3, n_micro = 1 + pipeline_next_random(&random) % 4;
        PipelineStage *stages = pipeline_random_stages(arena, n_stages, &random);
        PipelineList *lists = pipeline_build(arena, (PipelineKind)(seed % PIPELINE_COUNT), n_micro, stages, n_stages);
        for (uint32_t swaps = pipeline_next_random(&random) % 4; swaps > 0; swaps--)
        {
            PipelineList *list = &lists[pipeline_next_random(&random) % n_stages];
            uint32_t i = pipeline_next_random(&random) % (list->n - 1);
            PipelineInstr first = list->instrs[i];
            list->instrs[i] = list->instrs[i + 1];
            list->instrs[i + 1] = first;
        }
        for (uint32_t buffers = 0; buffers <= 2; buffers++)
        {
            PipelineTimes times = pipeline_simulate(arena, lists, stages, n_stages, buffers);
            const char *why = pipeline_difference(arena, lists, stages, n_stages, buffers, &times);
            if (why)
                fail_msg("seed %u, %u buffers: %s; %s", seed, buffers, why, times.why ? times.why : "runs");
            n_deadlocks += times.deadlock;
        }
        arena_destroy(arena);
    }
    printf("%u deadlocks in %u runs\n", n_deadlocks, 3 * n_cases);
    assert_true(n_deadlocks > n_cases / 2 && n_deadlocks < 5 * n_cases / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_deadlocks),
        cmocka_unit_test(test_broken_lists),
        cmocka_unit_test(test_shared_cores),
        cmocka_unit_test(test_random_orders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
