/* Pipeline schedules against closed forms, against a slow simulator that only knows the rules, and against every order.
 * What checks is checked, too: it is shown something wrong. */
#include "harness/test.h"
#include "passes/pipeline.h"

#include <math.h>
#include <string.h>
#include <time.h>

/* A fixed sequence from 1 to 2^32 - 1 (xorshift), so that a failure can be repeated. */
static uint32_t next_random(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

static double random_s(uint32_t *seed, double most)
{
    return most * (double)(next_random(seed) % 1000) / 1000;
}

static PipelineStage *equal_stages(Arena *arena, uint32_t n_stages, PipelineStage one)
{
    PipelineStage *stages = ARENA_ARRAY(arena, PipelineStage, n_stages);
    for (uint32_t s = 0; s < n_stages; s++)
        stages[s] = one;
    return stages;
}

/* Any times at all: some stages frozen (no backward), some with nothing but W, links from none to slow. */
static PipelineStage *random_stages(Arena *arena, uint32_t n_stages, uint32_t *seed)
{
    PipelineStage *stages = ARENA_ARRAY(arena, PipelineStage, n_stages);
    double link_s = (double[]){0, 0.1, 1, 10}[next_random(seed) % 4];
    bool alike = next_random(seed) % 2; /* stages of one make, as a good cut leaves them */
    for (uint32_t s = 0; s < n_stages; s++)
    {
        PipelineStage *stage = &stages[s];
        stage->forward_s = alike ? 0.9 + random_s(seed, 0.2) : random_s(seed, 2);
        stage->backward_s = alike ? 1.8 + random_s(seed, 0.4) : random_s(seed, 4);
        stage->weight_s = stage->backward_s * (alike ? 0.5 : (double[]){0, 1, 0.3, 0.5, 0.7}[next_random(seed) % 5]);
        stage->send_forward_s = random_s(seed, link_s);
        stage->send_backward_s = random_s(seed, link_s);
        stage->update_s = random_s(seed, 1);
        stage->kept_bytes = next_random(seed) % 1000;
        stage->fixed_bytes = next_random(seed) % 1000;
    }
    return stages;
}

/* ---- a slow simulator */

typedef struct
{
    bool deadlock;
    double **start_s, **sent_s; /* per stage, per instruction; sent_s: when it is over, its send included */
} Slow;

static double seconds_of(const PipelineList *list, const PipelineStage *stage, char part)
{
    bool splits = false;
    for (uint32_t i = 0; i < list->n; i++)
        splits |= list->instrs[i].part == 'W';
    if (part == 'F')
        return stage->forward_s;
    return part == 'W' ? stage->weight_s : stage->backward_s - (splits ? stage->weight_s : 0);
}

/* The time of an instruction's end by its name; negative while there is none. */
static double time_of(const PipelineList *list, const double *times_s, char part, uint32_t m)
{
    for (uint32_t i = 0; i < list->n; i++)
        if (list->instrs[i].part == part && list->instrs[i].micro_batch == m)
            return times_s[i];
    return -1;
}

/* The start of the stage's n-th instruction of a part; negative while there is none. */
static double take_of(const PipelineList *list, const double *start_s, char part, uint32_t n)
{
    for (uint32_t i = 0; i < list->n; i++)
        if (list->instrs[i].part == part && n-- == 0)
            return start_s[i];
    return -1;
}

/* Gives one instruction its times if all that it needs has them. */
static bool slow_try(Slow *slow, const PipelineList *lists, const PipelineStage *stages, uint32_t n_stages,
                     uint32_t buffers, uint32_t s, uint32_t i)
{
    PipelineInstr instr = lists[s].instrs[i];
    double own_s = i ? slow->sent_s[s][i - 1] : 0, need_s = 0;
    if (slow->start_s[s][i] < 0)
    {
        if (instr.part == 'F' && s > 0)
            need_s = time_of(&lists[s - 1], slow->sent_s[s - 1], 'F', instr.micro_batch);
        else if (instr.part == 'B' && s + 1 < n_stages)
            need_s = time_of(&lists[s + 1], slow->sent_s[s + 1], 'B', instr.micro_batch);
        else if (instr.part != 'F')
            need_s = time_of(&lists[s], slow->sent_s[s], instr.part == 'B' ? 'F' : 'B', instr.micro_batch);
        if (own_s < 0 || need_s < 0)
            return false;
        if (instr.part == 'F' && s > 0)
            need_s += stages[s - 1].send_forward_s;
        if (instr.part == 'B' && s + 1 < n_stages)
            need_s += stages[s].send_backward_s;
        slow->start_s[s][i] = fmax(own_s, need_s);
        return true;
    }
    if (slow->sent_s[s][i] >= 0)
        return false;
    double over_s = slow->start_s[s][i] + seconds_of(&lists[s], &stages[s], instr.part);
    bool sends = (instr.part == 'F' && s + 1 < n_stages) || (instr.part == 'B' && s > 0);
    uint32_t n_before = 0, to = instr.part == 'F' ? s + 1 : s - 1;
    for (uint32_t k = 0; k < i; k++)
        n_before += lists[s].instrs[k].part == instr.part;
    if (sends && buffers && n_before >= buffers)
    {
        double take_s = take_of(&lists[to], slow->start_s[to], instr.part, n_before - buffers);
        if (take_s < 0)
            return false;
        over_s = fmax(over_s, take_s);
    }
    slow->sent_s[s][i] = over_s;
    return true;
}

static Slow slow_simulate(Arena *arena, const PipelineList *lists, const PipelineStage *stages, uint32_t n_stages,
                          uint32_t buffers)
{
    Slow slow = {.start_s = ARENA_ARRAY(arena, double *, n_stages), .sent_s = ARENA_ARRAY(arena, double *, n_stages)};
    for (uint32_t s = 0; s < n_stages; s++)
    {
        slow.start_s[s] = ARENA_ARRAY(arena, double, lists[s].n);
        slow.sent_s[s] = ARENA_ARRAY(arena, double, lists[s].n);
        for (uint32_t i = 0; i < lists[s].n; i++)
            slow.start_s[s][i] = slow.sent_s[s][i] = -1;
    }
    for (bool changed = true; changed;)
    {
        changed = false;
        for (uint32_t s = 0; s < n_stages; s++)
            for (uint32_t i = 0; i < lists[s].n; i++)
                changed |= slow_try(&slow, lists, stages, n_stages, buffers, s, i);
    }
    for (uint32_t s = 0; s < n_stages; s++)
        slow.deadlock |= lists[s].n && slow.sent_s[s][lists[s].n - 1] < 0;
    return slow;
}

/* NULL, or in what the two differ. */
static const char *compare(Arena *arena, const PipelineList *lists, const PipelineStage *stages, uint32_t n_stages,
                           uint32_t buffers, const PipelineTimes *times)
{
    Slow slow = slow_simulate(arena, lists, stages, n_stages, buffers);
    double step_s = 0;
    if (slow.deadlock || times->deadlock)
        return slow.deadlock == times->deadlock ? NULL : "deadlock";
    for (uint32_t s = 0; s < n_stages; s++)
    {
        double over_s = 0;
        for (uint32_t i = 0; i < lists[s].n; i++)
        {
            double end_s = slow.start_s[s][i] + seconds_of(&lists[s], &stages[s], lists[s].instrs[i].part);
            if (fabs(times->spans[s][i].start_s - slow.start_s[s][i]) > 1e-9 ||
                fabs(times->spans[s][i].end_s - end_s) > 1e-9)
                return arena_printf(arena, "stage %u, instruction %u: %g to %g, not %g to %g", s, i,
                                    times->spans[s][i].start_s, times->spans[s][i].end_s, slow.start_s[s][i], end_s);
            over_s = slow.sent_s[s][i];
        }
        step_s = fmax(step_s, over_s + stages[s].update_s);
    }
    if (fabs(step_s - times->step_s) > 1e-9)
        return arena_printf(arena, "step %g, not %g", times->step_s, step_s);
    if (buffers && times->max_in_flight > buffers)
        return "more messages than buffers";
    return NULL;
}

static PipelineList *parse_lists(Arena *arena, const char *const *texts, uint32_t n_stages, uint32_t n_micro)
{
    PipelineList *lists = ARENA_ARRAY(arena, PipelineList, n_stages);
    const char *why;
    for (uint32_t s = 0; s < n_stages; s++)
        if (!pipeline_list_parse(arena, texts[s], n_micro, &lists[s], &why))
            fail_msg("%s: %s", texts[s], why);
    return lists;
}

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
            PipelineStage *stages = equal_stages(arena, n_stages, one);
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
                PipelineStage *stages = equal_stages(arena, n_stages, one);
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
        uint32_t n_stages = 1 + next_random(&random) % 6, n_micro = 1 + next_random(&random) % 12;
        PipelineStage *stages = random_stages(arena, n_stages, &random);
        PipelineTimes all[PIPELINE_COUNT][4]; /* by buffers */
        for (int kind = 0; kind < PIPELINE_COUNT; kind++)
        {
            PipelineList *lists = pipeline_build(arena, (PipelineKind)kind, n_micro, stages, n_stages);
            for (uint32_t buffers = 0; buffers <= 3; buffers++)
            {
                PipelineTimes times = pipeline_simulate(arena, lists, stages, n_stages, buffers);
                const char *why = compare(arena, lists, stages, n_stages, buffers, &times);
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
        uint32_t n_stages = 9 + next_random(&random) % 12, n_micro = 9 + next_random(&random) % 40;
        PipelineStage *stages = random_stages(arena, n_stages, &random);
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
        PipelineStage *stages = random_stages(arena, n_stages, &random);
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
    PipelineStage *stages = equal_stages(arena, 3, (PipelineStage){.forward_s = 1, .backward_s = 2, .weight_s = 1});
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
    PipelineStage *stages = equal_stages(arena, 4, (PipelineStage){.forward_s = 1, .backward_s = 2, .weight_s = 1});
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
    PipelineStage *stages = equal_stages(arena, 3, (PipelineStage){.forward_s = 1, .backward_s = 2, .weight_s = 1});
    PipelineList *lists = pipeline_build(arena, PIPELINE_zb_h1, 4, stages, 3);
    PipelineTimes times = pipeline_simulate(arena, lists, stages, 3, 1);
    assert_null(compare(arena, lists, stages, 3, 1, &times));
    times.spans[1][2].start_s += 0.5;
    assert_non_null(compare(arena, lists, stages, 3, 1, &times));
    times.spans[1][2].start_s -= 0.5;
    times.step_s += 1;
    assert_non_null(compare(arena, lists, stages, 3, 1, &times));
    times.step_s -= 1;
    times.deadlock = true;
    assert_non_null(compare(arena, lists, stages, 3, 1, &times));
    arena_destroy(arena);
}

/* ---- stages that wait for each other */

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
        PipelineStage *stages = equal_stages(arena, n_stages, (PipelineStage){.forward_s = 1, .backward_s = 2});
        PipelineList *lists = parse_lists(arena, cases[i].texts, n_stages, cases[i].n_micro);
        PipelineTimes times = pipeline_simulate(arena, lists, stages, n_stages, cases[i].buffers);
        assert_int_equal(times.deadlock, cases[i].why != NULL);
        if (cases[i].why)
            assert_string_equal(times.why, cases[i].why);
        const char *why = compare(arena, lists, stages, n_stages, cases[i].buffers, &times);
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
    PipelineStage *stages = equal_stages(arena, 2, (PipelineStage){.forward_s = 1, .backward_s = 2, .weight_s = 1});
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
        const char *why = compare(arena, lists, stages, 2, 0, &times);
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
        PipelineStage *stages = equal_stages(arena, n_stages, (PipelineStage){.forward_s = 1, .backward_s = 2});
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
        uint32_t random = seed * 2654435761u, n_stages = 2 + seed % 3, n_micro = 1 + next_random(&random) % 4;
        PipelineStage *stages = random_stages(arena, n_stages, &random);
        PipelineList *lists = pipeline_build(arena, (PipelineKind)(seed % PIPELINE_COUNT), n_micro, stages, n_stages);
        for (uint32_t swaps = next_random(&random) % 4; swaps > 0; swaps--)
        {
            PipelineList *list = &lists[next_random(&random) % n_stages];
            uint32_t i = next_random(&random) % (list->n - 1);
            PipelineInstr first = list->instrs[i];
            list->instrs[i] = list->instrs[i + 1];
            list->instrs[i + 1] = first;
        }
        for (uint32_t buffers = 0; buffers <= 2; buffers++)
        {
            PipelineTimes times = pipeline_simulate(arena, lists, stages, n_stages, buffers);
            const char *why = compare(arena, lists, stages, n_stages, buffers, &times);
            if (why)
                fail_msg("seed %u, %u buffers: %s; %s", seed, buffers, why, times.why ? times.why : "runs");
            n_deadlocks += times.deadlock;
        }
        arena_destroy(arena);
    }
    printf("%u deadlocks in %u runs\n", n_deadlocks, 3 * n_cases);
    assert_true(n_deadlocks > n_cases / 2 && n_deadlocks < 5 * n_cases / 2);
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
        PipelineStage *stages = random_stages(arena, N_STAGES, &random);
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
        cmocka_unit_test(test_deadlocks),
        cmocka_unit_test(test_broken_lists),
        cmocka_unit_test(test_shared_cores),
        cmocka_unit_test(test_random_orders),
        cmocka_unit_test(test_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
