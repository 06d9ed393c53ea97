/* The plan of rows that are made ahead: whatever the order of batches, every row that a job reads is made once, in time
 * and by one rank; none is made that it does not read; and steps wait less for rows than they would without. */
#include "data_test.h"

#include "runtime/row_plan.h"

#include <stdlib.h>
#include <string.h>

enum
{
    BATCH = 24,
    GROUP = 4,
    N_SAMPLES = 500,
    N_VARIANTS = 3,
    MAX_RANKS = 3
};

static const uint32_t longest[N_VARIANTS] = {8, 16, 32};
static const double costs[N_VARIANTS * ROW_MAKERS] = {8, 3, 16, 6, 32, 12};

/* One job: what is told to the plan, and what is seen of it. */
typedef struct
{
    uint32_t n_ranks, rows;
    uint64_t first, border, end; /* steps: of its start, of a pause at which the border moves (0: none), of the job */
    bool plans;
    uint32_t lengths[N_SAMPLES];
    uint8_t states[N_VARIANTS][N_SAMPLES]; /* as RowState, ROW_KEPT also once made */
    double waited;                         /* sum over steps of the slowest rank's runs */
    uint32_t n_made, n_runs, n_ahead;
} Run;

static uint32_t variant_of(const void *context, const uint64_t *samples, uint32_t n)
{
    const Run *run = context;
    uint32_t variant = 0;
    for (uint32_t i = 0; i < n; i++)
        while (longest[variant] < run->lengths[samples[i]])
            variant++;
    return variant;
}

static RowState state_of(const void *context, uint32_t variant, uint64_t sample)
{
    return (RowState)((const Run *)context)->states[variant][sample];
}

static BatchOrder order_of(Arena *arena, const Run *run)
{
    return batch_order_make(arena, sampler_make(N_SAMPLES, 5, true), BATCH, GROUP, run->lengths);
}

typedef uint64_t LastUse[N_VARIANTS][N_SAMPLES]; /* the step that reads the row last, from 1; 0: none */

static void find_last_use(Arena *arena, const Run *run, uint64_t end, LastUse last)
{
    BatchOrder order = order_of(arena, run);
    SamplerPosition position = {0};
    uint64_t samples[BATCH];
    memset(last, 0, sizeof(LastUse));
    for (uint64_t step = 0; step < end; step++)
    {
        const uint32_t n = batch_order_next(&order, &position, samples), variant = variant_of(run, samples, n);
        for (uint32_t k = 0; k < n; k++)
            last[variant][samples[k]] = step + 1;
    }
}

static void make(Run *run, uint32_t variant, uint64_t sample, uint32_t counts[ROW_MAKERS])
{
    const uint8_t how = run->states[variant][sample];
    assert_true(how < ROW_MAKERS); /* not made before */
    counts[how]++;
    run->states[variant][sample] = ROW_KEPT;
    run->n_made++;
}

/* As the trainer does it: what is left of a run from the data is filled with rows that could advance. */
static double cost_of(Run *run, uint32_t variant, const uint32_t counts[ROW_MAKERS])
{
    const uint32_t rows = run->rows, starts = (counts[ROW_STARTS] + rows - 1) / rows;
    const uint32_t room = starts * rows - counts[ROW_STARTS];
    const uint32_t left = counts[ROW_ADVANCES] > room ? counts[ROW_ADVANCES] - room : 0;
    const uint32_t advances = (left + rows - 1) / rows;
    run->n_runs += starts + advances;
    return starts * costs[variant * ROW_MAKERS + ROW_STARTS] + advances * costs[variant * ROW_MAKERS + ROW_ADVANCES];
}

typedef uint32_t Counts[MAX_RANKS][N_VARIANTS][ROW_MAKERS];

/* What the ranks lack for a batch; the time of the slowest. */
static double make_lacking(Run *run, const uint64_t *samples, uint32_t n, Counts counts)
{
    const uint32_t variant = variant_of(run, samples, n), n_runs = run->n_runs;
    double slowest = 0;
    for (uint32_t k = 0; k < n; k++)
        if (run->states[variant][samples[k]] != ROW_KEPT)
            make(run, variant, samples[k], counts[k / (BATCH / run->n_ranks)][variant]);
    for (uint32_t r = 0; r < run->n_ranks; r++)
    {
        const double cost = cost_of(run, variant, counts[r][variant]);
        slowest = cost > slowest ? cost : slowest;
    }
    run->n_runs = n_runs; /* they are not over */
    return slowest;
}

/* What a rank makes ahead; the time of all its runs. */
static double make_ahead(Run *run, const PlannedRow *planned, uint32_t n, LastUse last, uint64_t step,
                         uint32_t counts[N_VARIANTS][ROW_MAKERS])
{
    double cost = 0;
    for (uint32_t i = 0; i < n; i++)
    {
        make(run, planned[i].variant, planned[i].sample, counts[planned[i].variant]);
        assert_true(last[planned[i].variant][planned[i].sample] > step + 1);
        assert_true(i == 0 || planned[i].variant >= planned[i - 1].variant);
        run->n_ahead++;
    }
    for (uint32_t variant = 0; variant < N_VARIANTS; variant++)
        cost += cost_of(run, variant, counts[variant]);
    return cost;
}

static void run_job(Arena *arena, Run *run)
{
    static LastUse last[2];
    BatchOrder order = order_of(arena, run);
    RowShare shares[MAX_RANKS];
    RowPlan *plans[MAX_RANKS];
    SamplerPosition position = {0};
    uint64_t samples[BATCH];
    for (uint32_t r = 0; r < run->n_ranks; r++)
        shares[r] = (RowShare){.first = r * BATCH / run->n_ranks, .n = BATCH / run->n_ranks};
    for (uint32_t r = 0; r < run->n_ranks; r++)
        plans[r] = row_plan_create(arena, &(RowPlanSpec){order_of(arena, run), run->rows, N_VARIANTS, shares,
                                                         run->n_ranks, r, costs, variant_of, state_of, run});
    find_last_use(arena, run, run->border, last[0]);
    find_last_use(arena, run, run->end, last[1]);
    for (uint64_t step = 0; step < run->end; step++)
    {
        const SamplerPosition at = position;
        const uint32_t n = batch_order_next(&order, &position, samples);
        const uint64_t end = step < run->border ? run->border : run->end;
        Counts counts = {0};
        if (step < run->first)
            continue;
        const double slowest_alone = make_lacking(run, samples, n, counts);
        double slowest = 0;
        for (uint32_t r = 0; r < run->n_ranks; r++)
        {
            uint32_t n_planned = 0;
            const PlannedRow *planned = run->plans ? row_plan_next(plans[r], step, at, end, &n_planned) : NULL;
            const double cost = make_ahead(run, planned, n_planned, last[step >= run->border], step, counts[r]);
            slowest = cost > slowest ? cost : slowest;
        }
        /* a run of rows that advance, which would have filled up another one, may come to it */
        assert_true(slowest <= slowest_alone + costs[variant_of(run, samples, n) * ROW_MAKERS + ROW_ADVANCES]);
        run->waited += slowest;
    }
}

/* Lengths, and what is there at the start: one row in `kept`, one in `earlier` of the others from the earlier border.
 */
static Run job(uint64_t seed, uint32_t n_ranks, uint32_t kept, uint32_t earlier)
{
    uint64_t counter = 0;
    Run run = {.n_ranks = n_ranks, .rows = BATCH / n_ranks / 2, .end = 100, .plans = true};
    for (uint32_t s = 0; s < N_SAMPLES; s++)
        run.lengths[s] = 1 + random_next(seed, &counter) % longest[random_next(seed, &counter) % N_VARIANTS];
    for (uint32_t i = 0; i < N_VARIANTS * N_SAMPLES; i++)
        run.states[i / N_SAMPLES][i % N_SAMPLES] = kept && random_next(seed, &counter) % kept == 0 ? ROW_KEPT
                                                   : earlier && random_next(seed, &counter) % earlier == 0
                                                       ? ROW_ADVANCES
                                                       : ROW_STARTS;
    return run;
}

/* The same job with and without the plan: the same rows, in less time. */
static void compare(Run run, double most_share)
{
    Arena *arena = arena_create();
    Run alone = run;
    alone.plans = false;
    run_job(arena, &run);
    run_job(arena, &alone);
    assert_int_equal(run.n_made, alone.n_made);
    assert_memory_equal(run.states, alone.states, sizeof run.states);
    assert_true(run.n_ahead > 0);
    if (run.waited > most_share * alone.waited)
        fail_msg("%u ranks wait %g, without the plan %g; %u runs, %u", run.n_ranks, run.waited, alone.waited,
                 run.n_runs, alone.n_runs);
    arena_destroy(arena);
}

static void rows_are_made_once(void **state)
{
    (void)state;
    const uint64_t seed = test_seed();
    for (uint32_t n_ranks = 1; n_ranks <= MAX_RANKS; n_ranks++)
    {
        compare(job(seed, n_ranks, 0, 0), 0.9);
        compare(job(seed + 1, n_ranks, 2, 0), 0.8);
        compare(job(seed + 2, n_ranks, 3, 2), 0.9);
    }
}

/* Nothing is made for steps behind a pause at which the border moves, nor behind the end: run_job looks. */
static void nothing_for_later_steps(void **state)
{
    (void)state;
    Run run = job(test_seed(), 2, 2, 3);
    run.first = 13;
    run.border = 21;
    run.end = 47;
    compare(run, 1);
}

static void nothing_to_do(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    Run run = job(test_seed(), 2, 1, 0);
    run_job(arena, &run);
    assert_int_equal(run.n_made + run.n_runs + run.n_ahead, 0);
    arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_made_once),
        cmocka_unit_test(nothing_for_later_steps),
        cmocka_unit_test(nothing_to_do),
    };
    return cmocka_run_group_tests_name("row_plan", tests, NULL, NULL);
}
