/* Goes through the job from decision to decision. */
#include "passes/forecast.h"

#include "base/bug.h"
#include "passes/partition.h"
#include "passes/planner_paper.h"

#include <math.h>
#include <string.h>

typedef struct
{
    Arena *arena;
    const ForecastJob *job;
    uint32_t n_ranks;
    uint32_t n_first;     /* K of the paper's rule at the start */
    uint32_t cached_unit; /* whose outputs are in the cache; 0: there is none */
    ForecastLayout best;  /* while layouts are compared: what takes the least to the end */
    ForecastLayout now;
    Plan start;      /* no stages: not chosen yet */
    const char *why; /* the last thing that was impossible */
} Sim;

static uint32_t last_unit(const ForecastJob *job, uint32_t frozen)
{
    return frozen ? (uint32_t)job->layers[frozen] - 1 : 0;
}

static double steps_s(const ForecastLayout *layout, uint64_t n_samples)
{
    return (double)((n_samples + layout->batch - 1) / layout->batch) * layout->step_s;
}

/* Evaluations behind the samples first..end - 1. */
static uint64_t n_evals(const ForecastJob *job, uint64_t first, uint64_t end)
{
    const uint64_t every = job->eval_every * job->epoch_samples;
    const uint64_t n = every ? end / every - first / every : 0;
    return n + (end == job->n_samples && (!every || end % every));
}

static double tests_s(const ForecastJob *job, const ForecastLayout *layout)
{
    const uint64_t n_chunks = job->n_tests ? (job->n_tests + layout->test_rows - 1) / layout->test_rows : 0;
    const uint64_t n_each = (n_chunks + layout->plan.n_replicas - 1) / layout->plan.n_replicas;
    return n_each ? (double)n_each * layout->test_s + layout->test_start_s : 0;
}

/* The whole job, in one layout. */
static double static_s(const ForecastJob *job, const ForecastLayout *layout)
{
    const uint64_t n_periods = job->n_samples / job->period_samples;
    return (double)n_periods * steps_s(layout, job->period_samples) +
           steps_s(layout, job->n_samples % job->period_samples) +
           (double)n_evals(job, 0, job->n_samples) * tests_s(job, layout);
}

/* Units that were frozen before and have their outputs kept are not run again. */
static double fill_s(const Sim *sim, const ForecastLayout *layout, uint32_t last, uint64_t n_samples)
{
    if (!layout->cached || sim->cached_unit == last)
        return 0;
    const uint32_t n_replicas = layout->plan.n_replicas;
    const uint32_t rows = (layout->batch + layout->plan.n_micro - 1) / layout->plan.n_micro;
    return (double)n_samples / n_replicas * forecast_forward_s(sim->job, sim->cached_unit + 1, last, rows);
}

static int64_t cache_bytes(const ForecastJob *job, uint32_t last)
{
    return (int64_t)(forecast_row_bytes(job, last) * (double)job->epoch_samples / job->cluster.n_nodes);
}

/* ---- choosing */

static const Plan *plan_now(const Sim *sim)
{
    return sim->now.step_s > 0 ? &sim->now.plan : NULL;
}

static void consider(Sim *sim, uint32_t last, bool cached, uint64_t n_left)
{
    const ForecastAsked asked = {.last = last,
                                 .cached = cached,
                                 .filled = sim->cached_unit,
                                 .n_left = n_left,
                                 .now = plan_now(sim),
                                 .start = sim->start.n_stages ? &sim->start : NULL};
    ForecastLayout layout;
    if (!forecast_by_time(sim->arena, sim->job, &asked, &layout, &sim->why))
        return;
    if (sim->best.step_s == 0 || layout.end_s < sim->best.end_s)
        sim->best = layout;
}

static bool choose_by_time(Sim *sim, uint32_t last, uint64_t n_left)
{
    const ForecastJob *job = sim->job;
    sim->best = (ForecastLayout){0};
    consider(sim, last, false, n_left);
    if (job->may_cache && last && cache_bytes(job, last) <= job->cluster.host_bytes)
        consider(sim, last, true, n_left);
    return sim->best.step_s > 0;
}

static bool choose(Sim *sim, uint32_t frozen, uint64_t n_left)
{
    const ForecastJob *job = sim->job;
    const uint32_t last = last_unit(job, frozen);
    if (!job->paper)
        return choose_by_time(sim, last, n_left);
    const bool cached = job->may_cache && !job->no_repipe && paper_caches(job->n_layers, frozen) &&
                        cache_bytes(job, last) <= job->cluster.host_bytes;
    forecast_by_paper(sim->arena, job, last, cached, sim->n_first, &sim->best);
    return true;
}

/* ---- the job */

static FreezeDecision decide(Sim *sim, uint32_t decision, uint32_t frozen, double bound)
{
    const ForecastJob *job = sim->job;
    double *norms = ARENA_ARRAY(sim->arena, double, job->n_layers + 1);
    for (uint32_t i = 0; i < job->n_layers; i++)
        norms[i] = job->n_layers - i; /* the last layer has the smallest: only the bound holds */
    const FreezeInput input = {.decision = decision,
                               .n_layers = job->n_layers,
                               .frozen = frozen,
                               .bound = bound,
                               .norms = norms,
                               .loss = NAN,
                               .loss_before = NAN};
    return freeze_decide(&job->freeze, &input);
}

static bool go(Sim *sim, Forecast *out)
{
    const ForecastJob *job = sim->job;
    const uint32_t n = (uint32_t)((job->n_samples + job->period_samples - 1) / job->period_samples);
    FreezeDecision decision = {0};
    out->periods = ARENA_ARRAY(sim->arena, ForecastPeriod, n);
    for (uint32_t i = 0; i < n; i++)
    {
        ForecastPeriod *p = &out->periods[i];
        const uint32_t before = decision.frozen;
        if (i && i % job->periods_per_decision == 0)
            decision = decide(sim, i / job->periods_per_decision, decision.frozen, decision.bound);
        const uint64_t first = i * job->period_samples, left = job->n_samples - first;
        const uint32_t last = last_unit(job, decision.frozen);
        *p = (ForecastPeriod){.first_sample = first,
                              .n_samples = left < job->period_samples ? left : job->period_samples,
                              .frozen = decision.frozen};
        if (i == 0 || decision.frozen > before)
        {
            if (!choose(sim, decision.frozen, left))
                return false;
            if (i && job->paper)
                p->transition_s = job->no_repipe ? 0 : PAPER_SWITCH_S;
            else if (i)
            {
                const Horizon h = {.now = plan_now(sim),
                                   .sizes = horizon_sizes(sim->arena, job->costs, job->n_units, last),
                                   .n_units = job->n_units};
                p->moved_bytes = horizon_moved_bytes(&h, &sim->best.plan);
                p->transition_s = job->cluster.switch_s + (double)p->moved_bytes / job->cluster.link_bytes_per_s;
            }
            sim->now = sim->best;
            sim->start = i ? sim->start : sim->best.plan;
            p->fill_s = fill_s(sim, &sim->now, last, job->epoch_samples);
            p->test_s = fill_s(sim, &sim->now, last, job->n_tests);
            sim->cached_unit = sim->now.cached ? last : 0;
        }
        p->layout = sim->now;
        p->cache_bytes = sim->now.cached ? cache_bytes(job, last) : 0;
        p->run_s = steps_s(&sim->now, p->n_samples);
        p->test_s += (double)n_evals(job, first, first + p->n_samples) * tests_s(job, &sim->now);
        out->total_s += p->run_s + p->fill_s + p->test_s + p->transition_s;
    }
    out->n_periods = n;
    return true;
}

static bool compare_static(Sim *sim, Forecast *out)
{
    const ForecastJob *job = sim->job;
    ForecastJob open = *job;
    open.n_stages = open.n_micro = 0;
    open.schedule = -1;
    sim->job = &open;
    const bool found = choose_by_time(sim, 0, job->n_samples);
    sim->job = job;
    if (!found)
        return false;
    out->static_best = sim->best;
    out->static_best_s = static_s(job, &out->static_best);
    open.n_micro = job->paper ? job->n_micro : 0;
    forecast_by_paper(sim->arena, &open, 0, false, sim->n_first, &out->static_paper);
    out->static_paper_s = static_s(job, &out->static_paper);
    return true;
}

static bool can(Sim *sim)
{
    const ForecastJob *job = sim->job;
    const FreezePolicy policy = job->freeze.policy;
    sim->n_ranks = job->cluster.n_nodes * job->cluster.n_devices;
    sim->n_first = job->paper && job->n_stages ? job->n_stages : 8;
    while (!(job->paper && job->n_stages) && (job->cluster.n_devices % sim->n_first || sim->n_first > job->n_units))
        sim->n_first /= 2;
    if (policy != FREEZE_none && policy != FREEZE_schedule && policy != FREEZE_explicit && policy != FREEZE_gradnorm)
        sim->why = arena_printf(sim->arena,
                                "what policy %s decides only a run knows: schedule, explicit and gradnorm "
                                "(its bound) can be simulated",
                                freeze_policy_name(policy));
    else if ((sim->n_first & (sim->n_first - 1)) || sim->n_ranks % sim->n_first || sim->n_first > job->n_units)
        sim->why = arena_printf(sim->arena,
                                "the paper's rule halves a power of two of stages that divides the %u ranks "
                                "and is no more than the %u units, not %u",
                                sim->n_ranks, job->n_units, sim->n_first);
    return !sim->why;
}

bool forecast_job(Arena *arena, const ForecastJob *job, Forecast *out_forecast, const char **out_why)
{
    Sim sim = {.arena = arena, .job = job};
    *out_forecast = (Forecast){0};
    const bool ok = can(&sim) && compare_static(&sim, out_forecast) && go(&sim, out_forecast);
    *out_why = sim.why;
    return ok;
}
