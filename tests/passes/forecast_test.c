/* Forecasts of a job that can be worked out by hand: two layers of one unit each between an embedding and a head, on
 * two devices of one node. */
#include "harness/test.h"
#include "passes/forecast.h"
#include "passes/planner.h"

#include <string.h>

enum
{
    N_UNITS = 4,
    SAMPLES = 1000
};

static const int64_t layers[] = {2, 3, 4}, counts[] = {1, 2};

/* A unit takes 1 ms forward and 2 ms backward for each of 10 samples; nothing else takes time. */
static ForecastJob make_job(UnitCost *costs, UnitCost *starts)
{
    memset(costs, 0, sizeof *costs * (N_UNITS + 1));
    memset(starts, 0, sizeof *starts * (N_UNITS + 1));
    for (int u = 1; u <= N_UNITS; u++)
        costs[u] = (UnitCost){.forward_s = 0.01,
                              .backward_s = 0.02,
                              .n_params = 1000,
                              .param_bytes = 4000,
                              .state_bytes = 4000,
                              .grad_bytes = 4000,
                              .kept_bytes = 40,
                              .border_bytes = 40};
    return (ForecastJob){.costs = costs,
                         .starts = starts,
                         .n_units = N_UNITS,
                         .cost_rows = 10,
                         .layers = layers,
                         .n_layers = 2,
                         .n_samples = 4 * SAMPLES,
                         .epoch_samples = SAMPLES,
                         .period_samples = SAMPLES,
                         .periods_per_decision = 1,
                         .batch = 100,
                         .schedule = -1,
                         .freeze = {.policy = FREEZE_explicit, .counts = counts, .n_counts = 2},
                         .cached_share = 1,
                         .cluster = {.n_nodes = 1,
                                     .n_devices = 2,
                                     .link_bytes_per_s = 1e15,
                                     .host_bytes_per_s = 1e15,
                                     .node_bytes_per_s = 1e15,
                                     .host_bytes = 1 << 20,
                                     .switch_s = 1}};
}

typedef struct
{
    Arena *arena;
    UnitCost costs[N_UNITS + 1], starts[N_UNITS + 1];
    ForecastJob job;
    Forecast f;
    const char *why;
} Case;

static int set_up(void **state)
{
    Arena *arena = arena_create();
    Case *c = *state = ARENA_ARRAY(arena, Case, 1);
    c->arena = arena;
    c->job = make_job(c->costs, c->starts);
    return 0;
}

static int tear_down(void **state)
{
    arena_destroy(((Case *)*state)->arena);
    return 0;
}

/* 12 ms a sample for all, 10 when the embedding and one layer only run forward, 8 with two... on two devices. */
static void epochs_add_up(void **state)
{
    Case *c = *state;
    assert_true(forecast_job(c->arena, &c->job, &c->f, &c->why));
    assert_int_equal(c->f.n_periods, 4);
    static const uint32_t frozen[] = {0, 1, 2, 2};
    static const double run_s[] = {6, 4, 3, 3};
    double all_s = 0;
    for (uint32_t i = 0; i < 4; i++)
    {
        const ForecastPeriod *p = &c->f.periods[i];
        assert_int_equal(p->frozen, frozen[i]);
        assert_float_equal(p->run_s, run_s[i], 1e-6);
        assert_float_equal(p->transition_s, i == 1 || i == 2 ? 1 : 0, 1e-6);
        assert_false(p->layout.cached);
        all_s += p->run_s + p->fill_s + p->transition_s;
    }
    assert_float_equal(c->f.total_s, all_s, 1e-9);
    assert_float_equal(c->f.static_best_s, 24, 1e-6);
    assert_int_equal(c->f.static_best.plan.n_replicas, 2);
}

/* Cached, the frozen units run once for each sample; where there is no room they are not cached. */
static void cache_is_filled_once(void **state)
{
    Case *c = *state;
    c->job.may_cache = true;
    assert_true(forecast_job(c->arena, &c->job, &c->f, &c->why));
    static const double run_s[] = {6, 3, 1.5, 1.5}, fill_s[] = {0, 1, 0.5, 0};
    for (uint32_t i = 0; i < 4; i++)
    {
        assert_int_equal(c->f.periods[i].layout.cached, i > 0);
        assert_float_equal(c->f.periods[i].run_s, run_s[i], 1e-6);
        assert_float_equal(c->f.periods[i].fill_s, fill_s[i], 1e-6);
    }
    assert_int_equal(c->f.periods[1].cache_bytes, 4 * SAMPLES);
    c->job.cluster.host_bytes = 4 * SAMPLES - 1;
    assert_true(forecast_job(c->arena, &c->job, &c->f, &c->why));
    assert_false(c->f.periods[3].layout.cached);
    c->job.cluster.host_bytes = 1 << 20;
    c->job.cluster.host_bytes_per_s = 400; /* 4 bytes a sample: reading takes longer than the frozen units */
    assert_true(forecast_job(c->arena, &c->job, &c->f, &c->why));
    assert_false(c->f.periods[1].layout.cached);
}

/* K = 2 at the start, a stage of one unit and one of three (a stage stays below the mean); one device has no more than
 * these when two are frozen. A pipeline keeps its batch. */
static void paper_doubles_the_batch(void **state)
{
    Case *c = *state;
    c->job.paper = true;
    assert_true(forecast_job(c->arena, &c->job, &c->f, &c->why));
    static const uint32_t stages[] = {2, 1, 1, 1};
    for (uint32_t i = 0; i < 4; i++)
    {
        const ForecastLayout *l = &c->f.periods[i].layout;
        assert_int_equal(l->plan.n_stages, stages[i]);
        assert_int_equal(l->plan.schedule, PIPELINE_gpipe);
        assert_int_equal(l->batch, 100 * l->plan.n_replicas);
    }
    /* 16 micro-batches of 7 samples: the second stage has 9 ms for each, and waits for the first one, 3 ms */
    assert_float_equal(c->f.static_paper.step_s, 7 * (16 * 0.009 + 0.003), 1e-9);
    /* the frozen units run before */
    assert_float_equal(c->f.periods[1].layout.step_s, 100 * (0.002 + 0.006), 1e-9);
    assert_float_equal(c->f.periods[1].transition_s, 13, 1e-9);
}

/* A stage has room for two units with their gradients and states: of five devices one is idle. */
static void stages_need_not_divide(void **state)
{
    Case *c = *state;
    c->job.cluster.n_devices = 5;
    c->job.cluster.device_bytes = 30000;
    assert_true(forecast_job(c->arena, &c->job, &c->f, &c->why));
    assert_int_equal(c->f.periods[0].layout.plan.n_stages, 2);
    assert_int_equal(c->f.periods[0].layout.plan.n_replicas, 2);
}

/* Two devices that compute with one core, and tests behind every second epoch and at the end: 4 ms a sample. */
static void cores_are_shared(void **state)
{
    Case *c = *state;
    CostMachine machine = {.link_bytes_per_s = 1e15, .sum_bytes_per_s = 1e15};
    c->job.machine = &machine;
    c->job.n_samples = 3 * SAMPLES;
    c->job.n_tests = 100;
    c->job.eval_every = 2;
    assert_true(forecast_job(c->arena, &c->job, &c->f, &c->why));
    assert_float_equal(c->f.periods[0].run_s, 6, 1e-6);
    static const double test_s[] = {0, 0.2, 0.2};
    for (uint32_t i = 0; i < 3; i++)
        assert_float_equal(c->f.periods[i].test_s, test_s[i], 1e-9);
    machine.n_cores = 1;
    assert_true(forecast_job(c->arena, &c->job, &c->f, &c->why));
    assert_float_equal(c->f.periods[0].run_s, 12, 1e-6);
    assert_float_equal(c->f.periods[1].test_s, 0.4, 1e-9);
    assert_float_equal(c->f.static_best_s, 3 * 12 + 2 * 0.4, 1e-6);
}

static void what_cannot_be(void **state)
{
    Case *c = *state;
    c->job.freeze.policy = FREEZE_autofreeze;
    assert_false(forecast_job(c->arena, &c->job, &c->f, &c->why));
    assert_non_null(strstr(c->why, "autofreeze"));
    c->job.freeze.policy = FREEZE_none;
    c->job.cluster.device_bytes = 1000;
    assert_false(forecast_job(c->arena, &c->job, &c->f, &c->why));
    assert_non_null(strstr(c->why, "MiB"));
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(epochs_add_up),          CASE(cache_is_filled_once), CASE(paper_doubles_the_batch),
        CASE(stages_need_not_divide), CASE(cores_are_shared),     CASE(what_cannot_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
