/* Pipeline schedules against closed forms, against a slow simulator that only knows the rules, and against every order.
 * What checks is checked, too: it is shown something wrong. */
#include "harness/test.h"
#include "passes/pipeline.h"
#include "pipeline_slow.h"

#include <math.h>
#include <string.h>
#include <time.h>

/* ---- schedules */

static PipelineTimes simulate_kind(Arena *arena, PipelineKind kind, uint32_t n_micro, const PipelineStage *stages,
                                   uint32_t n_stages)
{
    PipelineList *lists = pipeline_build(arena, kind, n_micro, stages, n_stages);
    PipelineTimes times = pipeline_simulate(arena, lists, stages, n_stages, 0);
    if (times.deadlock)
        fail_msg("%s, %u stages, %u micro-batches: %s", pipeline_name(kind), n_stages, n_micro, times.why);
    return times;
}

static uint32_t kept_of_1f1b(uint32_t n_micro, uint32_t n_stages, uint32_t stage)
{
    return n_micro < n_stages - stage ? n_micro : n_stages - stage;
}

/* Equal stages without links: the bubbles that the papers give. */
static void test_closed_forms(void **state)
{
    (void)state;
    PipelineStage one = {.forward_s = 1, .backward_s = 2, .weight_s = 1, .kept_bytes = 10, .fixed_bytes = 7};
    for (uint32_t n_stages = 1; n_stages <= 9; n_stages++)
        for (uint32_t n_micro = 1; n_micro <= 20; n_micro++)
        {
            Arena *arena = arena_create();
            PipelineStage *stages = pipeline_equal_stages(arena, n_stages, one);
            double k = n_stages, m = n_micro;
            for (int kind = 0; kind < PIPELINE_COUNT; kind++)
            {
                PipelineTimes times = simulate_kind(arena, (PipelineKind)kind, n_micro, stages, n_stages);
                bool zb = kind == PIPELINE_zb_h1;
                double idle_s = zb ? k - 1 + fmax(0, k - m) : 3 * (k - 1);
                assert_float_equal(times.step_s, 3 * m + idle_s, 1e-9);
                assert_float_equal(times.bubble, idle_s / (3 * m + idle_s), 1e-9);
                for (uint32_t s = 0; s < n_stages; s++)
                {
                    uint32_t kept = kind == PIPELINE_gpipe ? n_micro : kept_of_1f1b(n_micro, n_stages, s);
                    if (!zb || s == 0)
                        assert_int_equal(times.max_kept[s], kept);
                    else
                        assert_in_range(times.max_kept[s], kept, kept_of_1f1b(n_micro, n_stages, 0));
                    assert_int_equal(times.peak_bytes[s], 7 + 10 * times.max_kept[s]);
                    assert_float_equal(times.busy_s[s], 3 * m, 1e-9);
                }
                assert_int_equal(times.max_in_flight, n_stages > 1);
            }
            arena_destroy(arena);
        }
}

/* The same of zb-h1 for any F, B, W, with any buffers. Of the three terms (K - 1) F is the last stage's wait for its
 * first F, (K - 1) B what the first stage waits for its first B when it may do no more than K F before, the third the
 * paper's. */
static void test_zb_h1_closed_form(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 3 * 4 * 5; i++)
        for (uint32_t n_stages = 1; n_stages <= 7; n_stages++)
            for (uint32_t n_micro = 1; n_micro <= 15; n_micro += 1 + n_micro / 8)
            {
                Arena *arena = arena_create();
                double f = 1 + i % 3, b = 1 + i / 3 % 4, w = i / 12, k = n_stages, m = n_micro;
                PipelineStage one = {.forward_s = f, .backward_s = b + w, .weight_s = w};
                PipelineStage *stages = pipeline_equal_stages(arena, n_stages, one);
                PipelineList *lists = pipeline_build(arena, PIPELINE_zb_h1, n_micro, stages, n_stages);
                double step_s = m * (f + b + w) + (k - 1) * fmax(fmax(f, b), f + b - w);
                if (m <
                    k) /* not enough F to fill the first stage's wait, or not enough W to fill that for the last B */
                    step_s = fmax(step_s, fmax((k - 1 + m) * (f + b) + w, k * f + (k - 1) * b + m * (b + w)));
                for (uint32_t buffers = 0; buffers <= 8; buffers += buffers < 2 ? 1 : 6)
                {
                    PipelineTimes times = pipeline_simulate(arena, lists, stages, n_stages, buffers);
                    if (times.deadlock || fabs(times.step_s - step_s) > 1e-9)
                        fail_msg("F %g, B %g, W %g, %u stages, %u micro-batches, %u buffers: %g, not %g", f, b, w,
                                 n_stages, n_micro, buffers, times.step_s, step_s);
                }
                arena_destroy(arena);
            }
}

/* Every order of every schedule runs as the slow simulator says; what zb-h1 promises. */
static void test_random_times(void **state)
{
    (void)state;
    uint32_t n_faster = 0, n_cases = test_is_thin() ? 100 : 400;
    double gain = 0;
    for (uint32_t seed = 1; seed <= n_cases; seed++)
    {
        Arena *arena = arena_create();
        uint32_t random = seed * 2654435761u;
        uint32_t n_stages = 1 + pipeline_next_random(&random) % 6, n_micro = 1 + pipeline_next_random(&random) % 12;
        PipelineStage *stages = pipeline_random_stages(arena, n_stages, &random);
        PipelineTimes all[PIPELINE_COUNT][4]; /* by buffers */
        for (int kind = 0; kind < PIPELINE_COUNT; kind++)
        {
            PipelineList *lists = pipeline_build(arena, (PipelineKind)kind, n_micro, stages, n_stages);
            for (uint32_t buffers = 0; buffers <= 3; buffers++)
            {
                PipelineTimes times = pipeline_simulate(arena, lists, stages, n_stages, buffers);
                const char *why = pipeline_difference(arena, lists, stages, n_stages, buffers, &times);
                if (why || times.deadlock)
                    fail_msg("seed %u, %s, %u buffers: %s", seed, pipeline_name((PipelineKind)kind), buffers,
                             why ? why : times.why);
                all[kind][buffers] = times;
            }
            const char *why;
            PipelineList again;
            for (uint32_t s = 0; s < n_stages; s++)
                if (!pipeline_list_parse(arena, pipeline_list_text(arena, &lists[s]), n_micro, &again, &why))
                    fail_msg("seed %u, %s: %s", seed, pipeline_name((PipelineKind)kind), why);
                else
                    assert_int_equal(lists[s].n, n_micro * (kind == PIPELINE_zb_h1 ? 3 : 2));
        }
        double before_s = 0, now_s = 0;
        for (uint32_t buffers = 3; buffers-- > 0;)
        {
            before_s = all[PIPELINE_one_f_one_b][buffers].step_s;
            now_s = all[PIPELINE_zb_h1][buffers].step_s;
            if (now_s > before_s * (1 + 1e-12))
                fail_msg("seed %u, %u buffers: zb-h1 takes %g, 1f1b %g", seed, buffers, now_s, before_s);
        }
        n_faster += now_s < before_s * (1 - 1e-9);
        gain += 1 - now_s / before_s;
        for (uint32_t s = 0; s < n_stages; s++)
            assert_true(all[PIPELINE_zb_h1][0].max_kept[s] <= all[PIPELINE_one_f_one_b][0].max_kept[0]);
        arena_destroy(arena);
    }
    printf("zb-h1 is faster than 1f1b in %u of %u cases, by %.1f %% on average\n", n_faster, n_cases,
           100 * gain / n_cases);
    assert_true(n_faster > n_cases / 2);
}

/* What zb-h1 promises where more than 8 messages could be in flight: up to 8 stages, 8 buffers are as good as no bound.
 */
static void test_many_stages(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 200; seed++)
    {
        Arena *arena = arena_create();
        uint32_t random = seed * 2654435761u;
        uint32_t n_stages = 9 + pipeline_next_random(&random) % 12, n_micro = 9 + pipeline_next_random(&random) % 40;
        PipelineStage *stages = pipeline_random_stages(arena, n_stages, &random);
        PipelineList *before = pipeline_build(arena, PIPELINE_one_f_one_b, n_micro, stages, n_stages);
        PipelineList *now = pipeline_build(arena, PIPELINE_zb_h1, n_micro, stages, n_stages);
        for (uint32_t buffers = 0; buffers <= 8; buffers += buffers < 2 ? 1 : 6)
        {
            PipelineTimes a = pipeline_simulate(arena, before, stages, n_stages, buffers);
            PipelineTimes b = pipeline_simulate(arena, now, stages, n_stages, buffers);
            if (b.deadlock || b.step_s > a.step_s * (1 + 1e-12))
                fail_msg("seed %u, %u buffers: zb-h1 takes %g, 1f1b %g", seed, buffers, b.step_s, a.step_s);
            for (uint32_t s = 0; s < n_stages; s++)
                assert_true(b.max_kept[s] <= a.max_kept[0]);
        }
        arena_destroy(arena);
    }
}

typedef struct
{
    const PipelineStage *stages;
    PipelineList *lists; /* being tried */
    uint32_t n_stages, n_micro;
    double best_s, most_s[3]; /* most_s: with 1 and 2 buffers, what 1f1b takes */
    Arena *scratch;
} Search;

/* Whether the lists are shorter than the best ones, and what zb-h1 promises. */
static bool is_better(const Search *search, double *out_step_s)
{
    for (uint32_t buffers = 0; buffers <= 2; buffers++)
    {
        PipelineTimes times =
            pipeline_simulate(search->scratch, search->lists, search->stages, search->n_stages, buffers);
        if (times.deadlock || times.step_s > (buffers ? search->most_s[buffers] : search->best_s) * (1 + 1e-12))
            return false;
        if (buffers == 0)
            *out_step_s = times.step_s;
    }
    return true;
}

/* Every order from stage s on that keeps no more than 1f1b does on the first stage. */
static void try_orders(Search *search, uint32_t s, uint32_t n_f, uint32_t n_b, uint32_t n_w)
{
    if (s == search->n_stages)
    {
        double step_s;
        if (is_better(search, &step_s))
            search->best_s = fmin(search->best_s, step_s);
        arena_reset(search->scratch);
        return;
    }
    if (n_w == search->n_micro)
    {
        try_orders(search, s + 1, 0, 0, 0);
        return;
    }
    PipelineInstr *next = &search->lists[s].instrs[n_f + n_b + n_w];
    if (n_f < search->n_micro && n_f - n_w < kept_of_1f1b(search->n_micro, search->n_stages, 0))
    {
        *next = (PipelineInstr){'F', n_f};
        try_orders(search, s, n_f + 1, n_b, n_w);
    }
    if (n_b < n_f)
    {
        *next = (PipelineInstr){'B', n_b};
        try_orders(search, s, n_f, n_b + 1, n_w);
    }
    if (n_w < n_b)
    {
        *next = (PipelineInstr){'W', n_w};
        try_orders(search, s, n_f, n_b, n_w + 1);
    }
}

/* Rules are no search, but mostly the best order there is, and nearly always close to it. Far from it are a few
 * pipelines whose links take longer than their stages. */
static void test_zb_h1_is_nearly_best(void **state)
{
    (void)state;
    uint32_t n_best = 0, n_cases = test_is_thin() ? 30 : 300;
    double worst = 0, sum = 0;
    for (uint32_t seed = 1; seed <= n_cases; seed++)
    {
        Arena *arena = arena_create();
        uint32_t random = seed * 2654435761u, n_stages = seed % 8 == 1 ? 3 : 2, n_micro = n_stages == 2 ? 4 : 3;
        PipelineStage *stages = pipeline_random_stages(arena, n_stages, &random);
        PipelineList *lists = pipeline_build(arena, PIPELINE_zb_h1, n_micro, stages, n_stages);
        PipelineList *before = pipeline_build(arena, PIPELINE_one_f_one_b, n_micro, stages, n_stages);
        double step_s = pipeline_simulate(arena, lists, stages, n_stages, 0).step_s;
        Search search = {stages, lists, n_stages, n_micro, HUGE_VAL, {0}, arena_create()};
        for (uint32_t buffers = 1; buffers <= 2; buffers++)
            search.most_s[buffers] = pipeline_simulate(arena, before, stages, n_stages, buffers).step_s;
        try_orders(&search, 0, 0, 0, 0);
        n_best += step_s <= search.best_s * (1 + 1e-9);
        worst = fmax(worst, step_s / search.best_s - 1);
        sum += step_s / search.best_s - 1;
        arena_destroy(search.scratch);
        arena_destroy(arena);
    }
    printf("zb-h1 is the best of all orders in %u of %u cases, %.2f %% slower on average, %.1f %% at worst\n", n_best,
           n_cases, 100 * sum / n_cases, 100 * worst);
    assert_true(n_best >= n_cases - 17 && worst < 0.25 && sum / n_cases < 0.002); /* what the rules reach */
}

/* The same arguments give the same lists; a stage without W and one with nothing else are stages like others. */
static void test_zb_h1_lists(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    PipelineStage *stages =
        pipeline_equal_stages(arena, 3, (PipelineStage){.forward_s = 1, .backward_s = 2, .weight_s = 1});
    stages[0].weight_s = 2; /* nobody waits for the gradient of the input */
    stages[1].weight_s = 0;
    const char *const texts[] = {"F0 F1 F2 B0 W0 F3 B1 W1 B2 W2 B3 W3", "F0 F1 B0 F2 B1 W0 F3 B2 B3 W1 W2 W3",
                                 "F0 B0 F1 B1 W0 F2 B2 W1 F3 B3 W2 W3"};
    for (uint32_t again = 0; again < 3; again++)
    {
        PipelineList *lists = pipeline_build(arena, PIPELINE_zb_h1, 4, stages, 3);
        for (uint32_t s = 0; s < 3; s++)
            assert_string_equal(pipeline_list_text(arena, &lists[s]), texts[s]);
    }
    arena_destroy(arena);
}

/* Four equal stages: later ones put W off until they keep as much as the first one. */
static void test_zb_h1_equal_lists(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    PipelineStage *stages =
        pipeline_equal_stages(arena, 4, (PipelineStage){.forward_s = 1, .backward_s = 2, .weight_s = 1});
    const char *const texts[] = {"F0 F1 F2 F3 B0 W0 F4 B1 W1 F5 B2 W2 F6 B3 W3 F7 B4 W4 B5 W5 B6 W6 B7 W7",
                                 "F0 F1 F2 B0 F3 B1 W0 F4 B2 W1 F5 B3 W2 F6 B4 W3 F7 B5 W4 B6 W5 B7 W6 W7",
                                 "F0 F1 B0 F2 B1 F3 B2 W0 F4 B3 W1 F5 B4 W2 F6 B5 W3 F7 B6 W4 B7 W5 W6 W7",
                                 "F0 B0 F1 B1 F2 B2 F3 B3 W0 F4 B4 W1 F5 B5 W2 F6 B6 W3 F7 B7 W4 W5 W6 W7"};
    PipelineList *lists = pipeline_build(arena, PIPELINE_zb_h1, 8, stages, 4);
    PipelineTimes times = pipeline_simulate(arena, lists, stages, 4, 0);
    for (uint32_t s = 0; s < 4; s++)
    {
        assert_string_equal(pipeline_list_text(arena, &lists[s]), texts[s]);
        assert_int_equal(times.max_kept[s], 4);
    }
    arena_destroy(arena);
}

/* Where stages that may keep more are no faster, they keep what 1f1b does: by the rules alone the first of these steps
 * is as long with more kept, the second is 32 long. */
static void test_zb_h1_keeps_little(void **state)
{
    (void)state;
    static const struct
    {
        PipelineStage stages[3];
        double step_s;
    } cases[] = {
        {{{.forward_s = 2, .backward_s = 3, .weight_s = 2},
          {.forward_s = 2, .backward_s = 4, .weight_s = 2},
          {.forward_s = 1, .backward_s = 3, .weight_s = 2}},
         26},
        {{{.forward_s = 3, .backward_s = 4, .weight_s = 2},
          {.forward_s = 1, .backward_s = 5, .weight_s = 2},
          {.forward_s = 2, .backward_s = 3, .weight_s = 1}},
         31},
    };
    Arena *arena = arena_create();
    for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++)
    {
        PipelineTimes times = simulate_kind(arena, PIPELINE_zb_h1, 4, cases[i].stages, 3);
        assert_float_equal(times.step_s, cases[i].step_s, 1e-9);
        for (uint32_t s = 0; s < 3; s++)
            assert_int_equal(times.max_kept[s], kept_of_1f1b(4, 3, s));
    }
    arena_destroy(arena);
}

static void test_checker(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    PipelineStage *stages =
        pipeline_equal_stages(arena, 3, (PipelineStage){.forward_s = 1, .backward_s = 2, .weight_s = 1});
    PipelineList *lists = pipeline_build(arena, PIPELINE_zb_h1, 4, stages, 3);
    PipelineTimes times = pipeline_simulate(arena, lists, stages, 3, 1);
    assert_null(pipeline_difference(arena, lists, stages, 3, 1, &times));
    times.spans[1][2].start_s += 0.5;
    assert_non_null(pipeline_difference(arena, lists, stages, 3, 1, &times));
    times.spans[1][2].start_s -= 0.5;
    times.step_s += 1;
    assert_non_null(pipeline_difference(arena, lists, stages, 3, 1, &times));
    times.step_s -= 1;
    times.deadlock = true;
    assert_non_null(pipeline_difference(arena, lists, stages, 3, 1, &times));
    arena_destroy(arena);
}

/* ---- size */

static double seconds_since(clock_t start)
{
    return (double)(clock() - start) / CLOCKS_PER_SEC;
}

/* Times are printed; the bounds only catch what is quadratic, on any machine and under sanitizers. */
static void test_size(void **state)
{
    (void)state;
    enum
    {
        N_STAGES = 1024,
        N_MICRO = 2048
    };
    uint32_t random = 5;
    for (int kind = 0; kind < PIPELINE_COUNT; kind++)
    {
        Arena *arena = arena_create();
        PipelineStage *stages = pipeline_random_stages(arena, N_STAGES, &random);
        clock_t start = clock();
        PipelineList *lists = pipeline_build(arena, (PipelineKind)kind, N_MICRO, stages, N_STAGES);
        double build_s = seconds_since(start);
        start = clock();
        PipelineTimes times = pipeline_simulate(arena, lists, stages, N_STAGES, 8);
        double simulate_s = seconds_since(start);
        assert_false(times.deadlock);
        printf("%s, %d stages, %d micro-batches: built in %.2f s, simulated in %.2f s\n",
               pipeline_name((PipelineKind)kind), N_STAGES, N_MICRO, build_s, simulate_s);
        assert_true(build_s < 60 && simulate_s < 20);
        arena_destroy(arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_closed_forms),
        cmocka_unit_test(test_zb_h1_closed_form),
        cmocka_unit_test(test_random_times),
        cmocka_unit_test(test_many_stages),
        cmocka_unit_test(test_zb_h1_lists),
        cmocka_unit_test(test_zb_h1_equal_lists),
        cmocka_unit_test(test_zb_h1_keeps_little),
        cmocka_unit_test(test_zb_h1_is_nearly_best),
        cmocka_unit_test(test_checker),
        cmocka_unit_test(test_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
