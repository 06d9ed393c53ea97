/* Layouts of a described cluster and their times. */
#include "passes/forecast.h"

#include "base/bug.h"
#include "passes/planner.h"
#include "passes/planner_paper.h"

#include <string.h>

enum
{
    BUFFERS_OF_PAPER = 0 /* no bound */
};

static uint32_t n_ranks(const ForecastJob *job)
{
    return job->cluster.n_nodes * job->cluster.n_devices;
}

static CostMachine machine_of(const ForecastJob *job, uint32_t n_stages, uint32_t n_replicas)
{
    return job->machine ? *job->machine : cluster_machine(&job->cluster, n_stages, n_replicas);
}

/* What is left to do when the units 1..last are frozen. */
static UnitCost *left_of(Arena *arena, const ForecastJob *job, const UnitCost *costs, uint32_t last, bool cached)
{
    UnitCost *left = ARENA_ARRAY(arena, UnitCost, job->n_units + 1);
    cost_freeze(costs, job->n_units, last, cached, left);
    return left;
}

double forecast_forward_s(const ForecastJob *job, uint32_t first, uint32_t last, uint32_t rows)
{
    double seconds = 0;
    for (uint32_t u = first; u <= last; u++)
        seconds += job->costs[u].forward_s / job->cost_rows + job->starts[u].forward_s / rows;
    return seconds;
}

double forecast_row_bytes(const ForecastJob *job, uint32_t last)
{
    return last ? (double)job->costs[last].border_bytes / job->cost_rows * job->cached_share : 0;
}

static int64_t largest_of(const int64_t *bytes, uint32_t n)
{
    int64_t largest = 0;
    for (uint32_t i = 0; i < n; i++)
        largest = bytes[i] > largest ? bytes[i] : largest;
    return largest;
}

static Plan keep_plan(Arena *arena, const Plan *plan)
{
    Plan kept = *plan;
    kept.first_unit = arena_memdup(arena, plan->first_unit, sizeof *plan->first_unit * plan->n_stages);
    kept.costs = NULL;
    return kept;
}

static double slowest_forward_s(const PipelineStage *stages, uint32_t n_stages)
{
    double slowest_s = 0;
    for (uint32_t s = 0; s < n_stages; s++)
        slowest_s = stages[s].forward_s > slowest_s ? stages[s].forward_s : slowest_s;
    return slowest_s;
}

static ForecastLayout layout_of(Arena *arena, const ForecastJob *job, const ForecastAsked *asked,
                                const PlanCandidate *c)
{
    ForecastLayout layout = {.plan = keep_plan(arena, &c->plan),
                             .batch = job->batch,
                             .step_s = c->step_s,
                             .end_s = c->end_s,
                             .peak_bytes = largest_of(c->stage_bytes, c->plan.n_stages),
                             .cached = asked->cached,
                             .test_rows = (job->batch + c->plan.n_micro - 1) / c->plan.n_micro};
    const double n_cores = job->machine ? job->machine->n_cores : 0;
    const double slowest_s = slowest_forward_s(c->stages, c->plan.n_stages);
    double all_s = 0;
    for (uint32_t s = 0; s < c->plan.n_stages; s++)
        all_s += c->stages[s].forward_s;
    const double shared_s = n_cores > 0 ? all_s * c->plan.n_replicas / n_cores : 0;
    layout.test_s = slowest_s > shared_s ? slowest_s : shared_s;
    layout.test_start_s = all_s > layout.test_s ? all_s - layout.test_s : 0;
    return layout;
}

bool forecast_by_time(Arena *arena, const ForecastJob *job, const ForecastAsked *asked, ForecastLayout *out_layout,
                      const char **out_why)
{
    const uint32_t last = asked->last;
    const CostMachine machine = machine_of(job, 1, n_ranks(job));
    Arena *scratch = arena_create();
    const UnitCost *costs = left_of(scratch, job, job->costs, last, asked->cached);
    const bool fills = asked->cached && asked->filled != last;
    const double fill_s = fills ? forecast_forward_s(job, asked->filled + 1, last, job->cost_rows) : 0;
    const Horizon horizon = {.n_steps = (double)((asked->n_left + job->batch - 1) / job->batch),
                             .fill_s = (double)job->epoch_samples * fill_s,
                             .now = asked->now,
                             .sizes = horizon_sizes(scratch, job->costs, job->n_units, last),
                             .n_units = job->n_units,
                             .moved_bytes_per_s = job->cluster.link_bytes_per_s};
    PlanRequest request = {.n_ranks = n_ranks(job),
                           .n_stages = job->n_stages,
                           .n_micro = job->n_micro,
                           .schedule = job->schedule,
                           .n_together = asked->cached ? last : 0,
                           .cap_bytes = job->cluster.device_bytes,
                           .batch = job->batch,
                           .horizon = &horizon,
                           .starts = left_of(scratch, job, job->starts, last, asked->cached),
                           .cluster = job->machine ? NULL : &job->cluster,
                           .best_only = true};
    if (asked->cached)
        request.read_row_s = forecast_row_bytes(job, last) / job->cluster.host_bytes_per_s;
    if (asked->start)
        planner_hold(&request, asked->start, job->no_repipe, job->no_replicate);
    PlanChoice choice;
    const char *why;
    const bool found = planner_choose(scratch, &request, costs, job->n_units, job->cost_rows, &machine, &choice, &why);
    if (found)
        *out_layout = layout_of(arena, job, asked, choice.chosen);
    else
        *out_why = arena_strdup(arena, why);
    arena_destroy(scratch);
    return found;
}

void forecast_by_paper(Arena *arena, const ForecastJob *job, uint32_t last, bool cached, uint32_t n_first,
                       ForecastLayout *out_layout)
{
    const uint32_t n_at_first = n_ranks(job) / n_first, cut_behind = job->no_repipe ? 0 : last;
    const uint32_t k = paper_stages(arena, job->costs, job->n_units, cut_behind, n_first);
    const uint32_t r = job->no_replicate ? n_at_first : n_ranks(job) / k;
    const uint32_t batch_each = (job->batch + n_at_first - 1) / n_at_first;
    const uint32_t wanted = job->n_micro ? job->n_micro : paper_micro(k);
    const uint32_t n_micro = wanted < batch_each ? wanted : batch_each;
    const uint32_t rows = (batch_each + n_micro - 1) / n_micro;
    int64_t *first = ARENA_ARRAY(arena, int64_t, k + 1);
    paper_cut(job->costs, job->n_units, cut_behind, k, first);
    const Plan plan = {
        .n_stages = k, .n_replicas = r, .n_micro = n_micro * r, .schedule = PIPELINE_gpipe, .first_unit = first};
    const CostMachine machine = machine_of(job, k, r);
    const UnitCost *costs = left_of(arena, job, job->costs, last, false);
    const UnitCost *starts = left_of(arena, job, job->starts, last, false);
    PipelineStage *stages = planner_stages(arena, &plan, costs, starts, job->n_units, job->cost_rows, rows, &machine);
    for (uint32_t u = 1; u <= cut_behind; u++)
        stages[0].fixed_bytes += costs[u].param_bytes + costs[u].copy_bytes;
    PipelineList *lists = pipeline_build(arena, PIPELINE_gpipe, n_micro, stages, k);
    const PipelineTimes times = pipeline_simulate(arena, lists, stages, k, BUFFERS_OF_PAPER);
    ENSURE(!times.deadlock);
    const double before_s = cached ? batch_each * forecast_row_bytes(job, last) / job->cluster.host_bytes_per_s
                                   : batch_each * forecast_forward_s(job, 1, cut_behind, batch_each);
    *out_layout = (ForecastLayout){.plan = plan,
                                   .batch = batch_each * r,
                                   .step_s = before_s + times.step_s,
                                   .peak_bytes = largest_of(times.peak_bytes, k),
                                   .cached = cached,
                                   .test_rows = batch_each,
                                   .test_s = before_s + (n_micro + k - 1) * slowest_forward_s(stages, k)};
}
