/* Enumerates layouts, cuts and simulates each, and ranks them. */
#include "passes/planner.h"

#include "base/bug.h"
#include "passes/partition.h"

#include <stdlib.h>
#include <string.h>

enum
{
    MESSAGES_IN_FLIGHT = 8, /* of a channel: runtime/comm.h */
    MAX_MICRO = 64
};

typedef struct
{
    Arena *arena;
    const PlanRequest *request;
    const UnitCost *costs;
    uint32_t n_units, cost_rows;
    CostMachine machine; /* of the layout that is tried */
    double best_end_s;   /* of the candidates that are possible; 0: none is yet */
    VEC(PlanCandidate) candidates;
    const char *why; /* the last thing that was impossible */
} Planner;

static uint32_t rows_of(const PlanRequest *request, uint32_t n_micro)
{
    return (request->batch + n_micro - 1) / n_micro;
}

void planner_hold(PlanRequest *request, const Plan *start, bool no_repipe, bool no_replicate)
{
    if (!no_repipe && !no_replicate)
        return;
    request->n_replicas = start->n_replicas;
    request->may_idle = true;
    if (!no_repipe)
        return;
    request->n_stages = start->n_stages;
    request->n_micro = start->n_micro;
    request->schedule = (int)start->schedule;
    request->cuts = start->first_unit + 1;
    request->n_cuts = start->n_stages - 1;
}

/* ---- one layout */

/* Times of a micro-batch of scale * cost_rows samples; of an update. */
static UnitCost unit_at(const UnitCost *costs, const UnitCost *starts, uint32_t u, double scale)
{
    UnitCost unit = costs[u];
    unit.forward_s *= scale;
    unit.backward_s *= scale;
    unit.weight_s *= scale;
    if (!starts)
        return unit;
    unit.forward_s += starts[u].forward_s;
    unit.backward_s += starts[u].backward_s;
    unit.weight_s += starts[u].weight_s;
    unit.update_s += starts[u].update_s;
    return unit;
}

PipelineStage *planner_stages(Arena *arena, const Plan *plan, const UnitCost *costs, const UnitCost *starts,
                              uint32_t n_units, uint32_t cost_rows, uint32_t rows, const CostMachine *machine)
{
    PipelineStage *stages = ARENA_ARRAY(arena, PipelineStage, plan->n_stages);
    const double scale = (double)rows / cost_rows;
    const uint32_t n_replicas = plan->n_replicas;
    for (uint32_t s = 0; s < plan->n_stages; s++)
    {
        PipelineStage *stage = &stages[s];
        const uint32_t first = (uint32_t)plan->first_unit[s];
        const uint32_t end = s + 1 < plan->n_stages ? (uint32_t)plan->first_unit[s + 1] : n_units + 1;
        int64_t reduced = 0, largest = 0;
        for (uint32_t u = first; u < end; u++)
        {
            const UnitCost unit = unit_at(costs, starts, u, scale);
            stage->forward_s += unit.forward_s;
            stage->backward_s += unit.backward_s;
            stage->weight_s += unit.weight_s;
            stage->update_s += unit.update_s / n_replicas; /* of the params that it owns */
            stage->kept_bytes += (int64_t)((double)unit.kept_bytes * scale);
            stage->fixed_bytes += unit.param_bytes + unit.copy_bytes + unit.state_bytes / n_replicas + unit.grad_bytes;
            reduced += unit.grad_bytes;
            if (unit.largest_bytes > largest)
                largest = unit.largest_bytes;
        }
        if (s == 0)
            stage->weight_s = 0; /* it has no gradient to send: its whole backward pass is B */
        stage->fixed_bytes += (int64_t)(2 * (double)largest * scale);
        stage->update_s += costs[0].update_s + (starts ? starts[0].update_s : 0);
        if (n_replicas > 1)
        {
            /* gradients to their owners and new params back: what an all-reduce is made of */
            stage->update_s += (double)reduced / machine->sum_bytes_per_s;
            /* its part of the others' gradients, and their new params */
            stage->fixed_bytes += 2 * reduced * (n_replicas - 1) / n_replicas;
        }
        if (s + 1 < plan->n_stages)
            stage->send_forward_s = stage->send_backward_s =
                machine->link_s + (double)costs[end - 1].border_bytes * scale / machine->link_bytes_per_s;
    }
    return stages;
}

/* cuts: the first unit of every stage but the first. */
static bool cut_at(Planner *p, Plan *plan, const int64_t *cuts)
{
    int64_t *first_unit = ARENA_ARRAY(p->arena, int64_t, plan->n_stages);
    plan->first_unit = first_unit;
    first_unit[0] = 1;
    if (plan->n_stages > 1 && cuts[0] <= p->request->n_together + 1)
    {
        p->why = arena_printf(p->arena, "units 1 to %u are to stay together, but a stage begins at %lld",
                              p->request->n_together + 1, (long long)cuts[0]);
        return false;
    }
    memcpy(first_unit + 1, cuts, sizeof *first_unit * (plan->n_stages - 1));
    return plan_check(p->arena, plan, p->n_units, &p->why);
}

static bool cut_well(Planner *p, Plan *plan, uint32_t rows)
{
    const uint32_t n = p->n_units, n_stages = plan->n_stages;
    int64_t *first_unit = ARENA_ARRAY(p->arena, int64_t, n_stages);
    plan->first_unit = first_unit;
    double *cost_s = ARENA_ARRAY(p->arena, double, n), *link_s = ARENA_ARRAY(p->arena, double, n);
    int64_t *bytes = ARENA_ARRAY(p->arena, int64_t, n);
    uint32_t *first = ARENA_ARRAY(p->arena, uint32_t, n_stages + 1);
    const double scale = (double)rows / p->cost_rows;
    const uint32_t kept = n_stages < plan->n_micro ? n_stages : plan->n_micro; /* of the first stage, in 1f1b */
    for (uint32_t i = 0; i < n; i++)
    {
        const UnitCost unit = unit_at(p->costs, p->request->starts, i + 1, scale);
        /* a replica's micro-batches, and its part of one update for all of them */
        cost_s[i] = unit.forward_s + unit.backward_s + unit.update_s / plan->n_micro;
        link_s[i] = p->machine.link_s + (double)unit.border_bytes * scale / p->machine.link_bytes_per_s;
        bytes[i] = unit.param_bytes + unit.copy_bytes + unit.state_bytes / plan->n_replicas + unit.grad_bytes +
                   (int64_t)((double)unit.kept_bytes * scale * kept);
    }
    bool *may_cut = ARENA_ARRAY(p->arena, bool, n);
    for (uint32_t i = 0; i < n; i++)
        may_cut[i] = i + 1 > p->request->n_together;
    if (!pipeline_cut(p->arena, cost_s, bytes, link_s, may_cut, n, n_stages, p->request->cap_bytes, first))
    {
        p->why = p->request->n_together + n_stages > n && !p->request->cap_bytes
                     ? arena_printf(p->arena, "%u stages are too many for the %u units that are not frozen", n_stages,
                                    n - p->request->n_together)
                     : arena_printf(p->arena, "no cut of %u units into %u stages fits into %.1f MiB a rank", n,
                                    n_stages, (double)p->request->cap_bytes / (1 << 20));
        return false;
    }
    for (uint32_t s = 0; s < n_stages; s++)
        first_unit[s] = (int64_t)first[s] + 1;
    return plan_check(p->arena, plan, n, &p->why);
}

static void measure_traffic(const Planner *p, PlanCandidate *c, uint32_t rows)
{
    const Plan *plan = &c->plan;
    const double scale = (double)rows / p->cost_rows;
    for (uint32_t s = 1; s < plan->n_stages; s++)
        c->sent_bytes += 2 * plan->n_micro * (int64_t)((double)p->costs[plan->first_unit[s] - 1].border_bytes * scale);
    for (uint32_t u = 1; u <= p->n_units && plan->n_replicas > 1; u++)
        c->reduced_bytes += 2 * p->costs[u].grad_bytes;
}

/* What a step takes at least: rows are read, and cores that ranks share are busy. */
static double least_step_s(const Planner *p, const PlanCandidate *c)
{
    const Plan *plan = &c->plan;
    const double read_s = (double)p->request->batch / plan->n_replicas * p->request->read_row_s;
    double busy_s = 0;
    for (uint32_t s = 0; s < plan->n_stages; s++)
        busy_s += plan->n_micro * (c->stages[s].forward_s + c->stages[s].backward_s) +
                  plan->n_replicas * c->stages[s].update_s;
    const double shared_s = p->machine.n_cores > 0 ? busy_s / p->machine.n_cores : 0;
    return read_s > shared_s ? read_s : shared_s;
}

static double end_s(const Planner *p, const Plan *plan, double step_s)
{
    return p->request->horizon ? horizon_end_s(p->request->horizon, plan, step_s) : step_s;
}

/* Without waiting for another stage it would still end later than the best one. */
static bool is_hopeless(const Planner *p, const PlanCandidate *c, double least_s)
{
    const double n_micro = plan_first_micro(&c->plan, 1);
    if (!p->request->best_only || p->best_end_s <= 0)
        return false;
    for (uint32_t s = 0; s < c->plan.n_stages; s++)
    {
        const PipelineStage *stage = &c->stages[s];
        const double busy_s = n_micro * (stage->forward_s + stage->backward_s) + stage->update_s;
        least_s = busy_s > least_s ? busy_s : least_s;
    }
    return end_s(p, &c->plan, least_s) > p->best_end_s * (1 + 1e-9);
}

static void add_candidate(Planner *p, const Plan *plan)
{
    PlanCandidate c = {.plan = *plan};
    const PlanRequest *request = p->request;
    const uint32_t n_stages = plan->n_stages, rows = rows_of(request, plan->n_micro);
    PipelineStage *stages =
        planner_stages(p->arena, &c.plan, p->costs, request->starts, p->n_units, p->cost_rows, rows, &p->machine);
    c.stages = c.plan.costs = stages;
    const double least_s = least_step_s(p, &c);
    if (is_hopeless(p, &c, least_s))
        return;
    const uint32_t n_here = plan_first_micro(&c.plan, 1);
    PipelineList *lists = pipeline_build(p->arena, plan->schedule, n_here, stages, n_stages);
    PipelineTimes times = pipeline_simulate(p->arena, lists, stages, n_stages, MESSAGES_IN_FLIGHT);
    ENSURE(!times.deadlock);
    const double n_cores = p->machine.n_cores / plan->n_replicas;
    c.step_s = n_cores > 0 && n_cores < n_stages ? pipeline_shared_s(p->arena, lists, stages, n_stages, n_cores)
                                                 : times.step_s;
    c.step_s = c.step_s > least_s ? c.step_s : least_s;
    c.bubble = times.bubble;
    c.stage_bytes = times.peak_bytes;
    measure_traffic(p, &c, rows);
    c.end_s = end_s(p, &c.plan, c.step_s);
    if (plan->n_replicas > 1)
        c.reduce_s = (double)c.reduced_bytes / 2 / n_stages / p->machine.sum_bytes_per_s;
    for (uint32_t s = 0; s < n_stages; s++)
        if (request->cap_bytes && c.stage_bytes[s] > request->cap_bytes && !c.lost)
            c.lost = p->why =
                arena_printf(p->arena, "stage %u needs %.1f MiB of %.1f MiB", s, (double)c.stage_bytes[s] / (1 << 20),
                             (double)request->cap_bytes / (1 << 20));
    if (!c.lost && (p->best_end_s <= 0 || c.end_s < p->best_end_s))
        p->best_end_s = c.end_s;
    vec_push(p->arena, &p->candidates, c);
}

/* Adds a candidate, and another with the cuts of the plan that holds, if it has these stages; or says in p->why what
 * makes it impossible. */
static void try_layout(Planner *p, uint32_t n_stages, uint32_t n_replicas, uint32_t n_micro, PipelineKind schedule)
{
    const PlanRequest *request = p->request;
    const Plan *now = request->horizon ? request->horizon->now : NULL;
    Plan plan = {.n_stages = n_stages,
                 .n_replicas = n_replicas,
                 .n_micro = n_micro,
                 .schedule = schedule,
                 .deterministic = request->deterministic};
    Plan same = plan;
    if (n_stages > p->n_units)
    {
        p->why = arena_printf(p->arena, "%u stages are too many: the model has %u units", n_stages, p->n_units);
        return;
    }
    if (!(request->n_cuts ? cut_at(p, &plan, request->cuts) : cut_well(p, &plan, rows_of(request, n_micro))))
        return;
    add_candidate(p, &plan);
    if (!request->n_cuts && now && now->n_stages == n_stages && cut_at(p, &same, now->first_unit + 1) &&
        !plan_is_same(&plan, &same))
        add_candidate(p, &same);
}

/* ---- all of them */

static void try_micro(Planner *p, uint32_t n_stages, uint32_t n_replicas, uint32_t n_micro)
{
    if (n_micro < n_replicas || n_micro > p->request->batch)
    {
        p->why = arena_printf(p->arena, "%u micro-batches: more than %u samples in a batch, or less than %u replicas",
                              n_micro, p->request->batch, n_replicas);
        return;
    }
    for (int kind = 0; kind < PIPELINE_COUNT; kind++)
    {
        bool wanted = p->request->schedule < 0 || p->request->schedule == kind;
        bool pointless = n_stages == 1 && p->request->schedule < 0 && kind != PIPELINE_one_f_one_b;
        if (wanted && !pointless)
            try_layout(p, n_stages, n_replicas, n_micro, (PipelineKind)kind);
    }
}

static int by_end(const void *x, const void *y)
{
    const PlanCandidate *a = x, *b = y;
    if ((a->lost != NULL) != (b->lost != NULL))
        return a->lost ? 1 : -1;
    if (a->end_s != b->end_s)
        return a->end_s < b->end_s ? -1 : 1;
    if (a->plan.n_stages != b->plan.n_stages)
        return a->plan.n_stages < b->plan.n_stages ? -1 : 1;
    if (a->plan.n_micro != b->plan.n_micro)
        return a->plan.n_micro < b->plan.n_micro ? -1 : 1;
    return a->plan.schedule < b->plan.schedule ? -1 : a->plan.schedule > b->plan.schedule;
}

/* Filling the cache and moving. */
static double going_s(const Horizon *h, const PlanCandidate *c)
{
    return c->end_s - h->n_steps * c->step_s;
}

/* Of the sorted candidates, of which those that are possible have not lost yet. */
static const char *reason(const Planner *p)
{
    const Horizon *h = p->request->horizon;
    const PlanCandidate *chosen = &p->candidates.data[0], *kept = NULL, *fastest = chosen;
    if (!h || !h->now)
        return "";
    for (uint32_t i = 0; i < p->candidates.len; i++)
    {
        const PlanCandidate *c = &p->candidates.data[i];
        if (!kept && !c->lost && plan_is_same(&c->plan, h->now))
            kept = c;
        if (!c->lost && c->step_s < fastest->step_s)
            fastest = c;
    }
    if (!kept)
        return "the plan before is not possible any more";
    if (chosen != kept)
        return arena_printf(p->arena, "saves %.3g of %.3g s to the end, %.3g s for going over counted",
                            kept->end_s - chosen->end_s, kept->end_s, going_s(h, chosen) - going_s(h, kept));
    if (fastest == kept)
        return "kept, no other plan is faster";
    return arena_printf(p->arena, "kept, %u x %u would save %.3g of %.3g s, and going over takes %.3g s",
                        fastest->plan.n_stages, fastest->plan.n_replicas, h->n_steps * (kept->step_s - fastest->step_s),
                        kept->end_s, going_s(h, fastest) - going_s(h, kept));
}

static void rank_candidates(Planner *p, PlanChoice *out_choice)
{
    qsort(p->candidates.data, p->candidates.len, sizeof *p->candidates.data, by_end);
    PlanCandidate *best = &p->candidates.data[0];
    const char *why = reason(p);
    for (uint32_t i = 1; i < p->candidates.len; i++)
    {
        PlanCandidate *c = &p->candidates.data[i];
        if (!c->lost)
            c->lost = c->end_s > best->end_s
                          ? arena_printf(p->arena, "%.1f %% slower", 100 * (c->end_s / best->end_s - 1))
                          : "as fast, and less simple";
    }
    *out_choice =
        (PlanChoice){.chosen = best, .candidates = p->candidates.data, .n_candidates = p->candidates.len, .why = why};
}

/* All M of K x R. More than one micro-batch a replica helps a single stage only to fit into its memory. */
static void try_grid(Planner *p, uint32_t n_stages, uint32_t n_replicas)
{
    const PlanRequest *request = p->request;
    const CostMachine machine = p->machine;
    if (request->cluster)
        p->machine = cluster_machine(request->cluster, n_stages, n_replicas);
    if (request->n_micro)
        try_micro(p, n_stages, n_replicas, request->n_micro);
    else if (n_replicas > request->batch)
        p->why =
            arena_printf(p->arena, "%u replicas are more than the %u samples of a batch", n_replicas, request->batch);
    const uint32_t most = n_stages > 1 ? 4 * n_stages : request->cap_bytes ? MAX_MICRO : 1;
    for (uint32_t each = 1; !request->n_micro && each * n_replicas <= request->batch && each <= most; each *= 2)
        if (each <= MAX_MICRO)
            try_micro(p, n_stages, n_replicas, each * n_replicas);
    p->machine = machine;
}

bool planner_choose(Arena *arena, const PlanRequest *request, const UnitCost *costs, uint32_t n_units,
                    uint32_t cost_rows, const CostMachine *machine, PlanChoice *out_choice, const char **out_why)
{
    Planner p = {.arena = arena,
                 .request = request,
                 .costs = costs,
                 .n_units = n_units,
                 .cost_rows = cost_rows,
                 .machine = *machine};
    const uint32_t n_stages = request->n_cuts ? request->n_cuts + 1 : request->n_stages;
    const bool may_idle = request->may_idle || (!n_stages && !request->n_replicas);
    for (uint32_t k = 1; k <= request->n_ranks && k <= PARTITION_MAX_STAGES; k++)
    {
        const uint32_t most = request->n_ranks / k, r = may_idle && request->n_replicas ? request->n_replicas : most;
        const bool wanted =
            (!n_stages || n_stages == k) && (!request->n_replicas || request->n_replicas == r) && r <= most;
        if (wanted && (may_idle || r * k == request->n_ranks))
            try_grid(&p, k, r);
    }
    if (!p.candidates.len && !p.why)
        p.why = arena_printf(
            arena, "%s stages x %s replicas are not %u ranks", n_stages ? arena_printf(arena, "%u", n_stages) : "any",
            request->n_replicas ? arena_printf(arena, "%u", request->n_replicas) : "any", request->n_ranks);
    *out_why = p.why;
    if (!p.candidates.len)
        return false;
    rank_candidates(&p, out_choice);
    if (!out_choice->chosen->lost)
        return true;
    *out_why = out_choice->chosen->lost;
    return false;
}
