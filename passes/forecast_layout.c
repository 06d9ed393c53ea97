/* Layouts of a described cluster and their times. */
#include "passes/forecast.h"

#include "base/bug.h"
#include "passes/planner.h"
#include "passes/planner_paper.h"

#include <string.h>

enum
{
    MAX_MICRO_EACH = 64,    /* of a replica */
    MESSAGES_IN_FLIGHT = 8, /* of a channel: runtime/comm.h */
    BUFFERS_OF_PAPER = 0    /* no bound */
};

static uint32_t n_ranks(const ForecastJob *job)
{
    return job->cluster.n_nodes * job->cluster.n_devices;
}

/* What is left to do for micro-batches of `rows`, as the planner takes it: in proportion to cost_rows. */
static UnitCost *costs_at(Arena *arena, const ForecastJob *job, uint32_t rows, uint32_t last, bool cached)
{
    UnitCost *costs = ARENA_ARRAY(arena, UnitCost, job->n_units + 1);
    const double starts = (double)job->cost_rows / rows;
    for (uint32_t u = 0; u <= job->n_units; u++)
    {
        costs[u] = job->costs[u];
        costs[u].forward_s += job->starts[u].forward_s * starts;
        costs[u].backward_s += job->starts[u].backward_s * starts;
        costs[u].weight_s += job->starts[u].weight_s * starts;
        costs[u].update_s += job->starts[u].update_s;
    }
    cost_freeze(costs, job->n_units, last, cached, costs);
    return costs;
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

/* With so many micro-batches for each replica; better than *best or not at all. */
static void try_micro(Arena *arena, Arena *scratch, const ForecastJob *job, uint32_t last, bool cached,
                      const PlanRequest *request, ForecastLayout *best, const char **out_why)
{
    const uint32_t rows = (job->batch + request->n_micro - 1) / request->n_micro;
    const CostMachine machine = cluster_machine(&job->cluster, request->n_stages, request->n_replicas);
    const UnitCost *costs = costs_at(scratch, job, rows, last, cached);
    PlanChoice choice;
    const char *why;
    if (!planner_choose(scratch, request, costs, job->n_units, job->cost_rows, &machine, &choice, &why))
    {
        *out_why = arena_strdup(arena, why);
        return;
    }
    const PlanCandidate *c = choice.chosen;
    const double read_s = cached ? (double)job->batch / request->n_replicas * forecast_row_bytes(job, last) /
                                       job->cluster.host_bytes_per_s
                                 : 0;
    const double step_s = c->step_s > read_s ? c->step_s : read_s; /* rows are read ahead */
    const double end_s = horizon_end_s(request->horizon, &c->plan, step_s);
    if (best->step_s > 0 && best->end_s <= end_s)
        return;
    *best = (ForecastLayout){.plan = keep_plan(arena, &c->plan),
                             .batch = job->batch,
                             .step_s = step_s,
                             .end_s = end_s,
                             .peak_bytes = largest_of(c->stage_bytes, c->plan.n_stages),
                             .cached = cached};
}

static PlanRequest request_for(const ForecastJob *job, const ForecastAsked *asked)
{
    const Plan *held = asked->held;
    PlanRequest request = {.n_ranks = n_ranks(job),
                           .n_stages = asked->n_stages,
                           .n_replicas = held ? held->n_replicas : n_ranks(job) / asked->n_stages,
                           .n_micro = job->n_micro,
                           .schedule = job->schedule,
                           .n_together = asked->cached ? asked->last : 0,
                           .cap_bytes = job->cluster.device_bytes,
                           .may_idle = held != NULL,
                           .batch = job->batch};
    if (!held || !job->no_repipe)
        return request;
    request.n_micro = held->n_micro;
    request.schedule = (int)held->schedule;
    request.cuts = held->first_unit + 1;
    request.n_cuts = held->n_stages - 1;
    return request;
}

bool forecast_by_time(Arena *arena, const ForecastJob *job, const ForecastAsked *asked, ForecastLayout *out_layout,
                      const char **out_why)
{
    PlanRequest request = request_for(job, asked);
    const uint32_t n_replicas = request.n_replicas, n_micro = request.n_micro;
    const bool fills = asked->cached && asked->filled != asked->last;
    Horizon horizon = {.n_steps = (double)((asked->n_left + job->batch - 1) / job->batch),
                       .now = asked->now,
                       .sizes = horizon_sizes(arena, job->costs, job->n_units, asked->last),
                       .n_units = job->n_units,
                       .moved_bytes_per_s = job->cluster.link_bytes_per_s};
    Arena *scratch = arena_create();
    *out_layout = (ForecastLayout){0};
    request.horizon = &horizon;
    if (n_replicas > job->batch)
        *out_why = arena_printf(arena, "%u replicas are more than the %u samples of a batch", n_replicas, job->batch);
    for (uint32_t each = 1; each <= MAX_MICRO_EACH && each * n_replicas <= job->batch; each *= 2)
    {
        request.n_micro = n_micro ? n_micro : each * n_replicas;
        const uint32_t rows = (job->batch + request.n_micro - 1) / request.n_micro;
        if (fills)
            horizon.fill_s = (double)job->epoch_samples * forecast_forward_s(job, asked->filled + 1, asked->last, rows);
        if (n_micro ? each == 1 && n_micro >= n_replicas : each <= 4 * asked->n_stages || asked->n_stages == 1)
            try_micro(arena, scratch, job, asked->last, asked->cached, &request, out_layout, out_why);
        arena_reset(scratch);
    }
    arena_destroy(scratch);
    return out_layout->step_s > 0;
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
    const CostMachine machine = cluster_machine(&job->cluster, k, r);
    const UnitCost *costs = costs_at(arena, job, rows, last, false);
    PipelineStage *stages = planner_stages(arena, &plan, costs, job->n_units, job->cost_rows, rows, &machine);
    for (uint32_t u = 1; u <= cut_behind; u++)
        stages[0].fixed_bytes += costs[u].param_bytes;
    PipelineList *lists = pipeline_build(arena, PIPELINE_gpipe, n_micro, stages, k);
    const PipelineTimes times = pipeline_simulate(arena, lists, stages, k, BUFFERS_OF_PAPER);
    ENSURE(!times.deadlock);
    const double before_s = cached ? batch_each * forecast_row_bytes(job, last) / job->cluster.host_bytes_per_s
                                   : batch_each * forecast_forward_s(job, 1, cut_behind, batch_each);
    *out_layout = (ForecastLayout){.plan = plan,
                                   .batch = batch_each * r,
                                   .step_s = before_s + times.step_s,
                                   .peak_bytes = largest_of(times.peak_bytes, k),
                                   .cached = cached};
}
