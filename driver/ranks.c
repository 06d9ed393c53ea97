/* Meeting the other ranks, and agreeing on a plan. */
#include "driver/ranks.h"

#include "base/bug.h"
#include "driver/launch.h"
#include "driver/measure.h"
#include "driver/session.h"
#include "ir/text.h"
#include "passes/planner_paper.h"
#include "runtime/fault.h"
#include "runtime/pool.h"

#include <string.h>
#include <xxhash.h>

/* ---- meeting */

typedef struct
{
    char version[40];
    char model[40];
} Identity;

/* The module's text without the paths of its files: those may differ from host to host. */
static const char *model_digest(const Session *s)
{
    StrBuf text = strbuf_make(s->arena);
    ir_print_module(&text, s->job->module);
    XXH3_state_t *state = XXH3_createState();
    XXH3_64bits_reset(state);
    for (const char *line = strbuf_text(&text), *end; *line; line = end)
    {
        const char *newline = strchr(line, '\n');
        end = newline ? newline + 1 : line + strlen(line);
        if (strncmp(line, "file ", 5) != 0)
            XXH3_64bits_update(state, line, (size_t)(end - line));
    }
    uint64_t hash = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return arena_printf(s->arena, "%016llx", (unsigned long long)hash);
}

/* What all ranks must agree on besides: how long they train, in which steps, on which data, and laid out how. */
static const char *settings_digest(Session *s)
{
    const TrainSpec *t = &s->job->train;
    const DataSpec *d = &s->job->data;
    const ClusterSpec *c = &s->job->cluster;
    const Options *o = s->options;
    StrBuf text = strbuf_make(s->arena);
    strbuf_addf(&text, "epochs %lld steps %lld %llu batch %lld seed %lld", (long long)t->epochs,
                (long long)t->max_steps, (unsigned long long)o->stop_after, (long long)t->batch, (long long)t->seed);
    strbuf_addf(&text, " lr %a %a %d %lld every %lld %lld", t->lr, t->min_lr, (int)t->schedule,
                (long long)t->warmup_steps, (long long)t->eval_every, (long long)t->checkpoint_every);
    strbuf_addf(&text, " data %lld %lld %d %lld", (long long)d->train_limit, (long long)d->test_limit, d->shuffle,
                (long long)d->group_by_length);
    for (uint32_t i = 0; i < d->n_buckets; i++)
        strbuf_addf(&text, " %lld", (long long)d->buckets[i]);
    strbuf_addf(&text, " flags %u %u %u %s %d %s", o->n_stages, o->n_replicas, o->n_micro,
                o->schedule ? o->schedule : "", o->deterministic, o->costs ? o->costs : "");
    strbuf_addf(&text, " %d %d %d %d", o->no_freeze, o->no_repipe, o->no_replicate, o->no_cache);
    strbuf_addf(&text, " %d %d %d %s", o->resume, o->weights != NULL, o->out_dir != NULL, o->device);
    strbuf_addf(&text, " cluster %lld %lld %lld %s %d %d %a", (long long)c->stages, (long long)c->replicas,
                (long long)c->micro_batches, c->schedule, c->paper, c->deterministic, c->memory_gib);
    for (uint32_t i = 0; i < c->n_cuts; i++)
        strbuf_addf(&text, " %lld", (long long)c->cuts[i]);
    return arena_printf(s->arena, "%016llx", (unsigned long long)XXH3_64bits(strbuf_text(&text), text.len));
}

static Status compare_identities(Session *s)
{
    Comm *world = s->ranks.comm.world;
    Identity mine = {0};
    Identity *all = ARENA_ARRAY(s->arena, Identity, comm_size(world));
    snprintf(mine.version, sizeof mine.version, "%s%s", PTC_VERSION, fault_version(comm_rank(world)));
    snprintf(mine.model, sizeof mine.model, "%s-%s", model_digest(s), settings_digest(s));
    TRY(comm_all_gather(world, &mine, sizeof mine, all));
    for (uint32_t r = 1; r < comm_size(world); r++)
    {
        if (strcmp(all[r].version, all[0].version) != 0)
            return status_fail(STATUS_BAD_INPUT, "rank %u (host %s) is ptc %s, rank 0 (host %s) is ptc %s", r,
                               comm_host(world, r), all[r].version, comm_host(world, 0), all[0].version);
        if (strcmp(all[r].model, all[0].model) != 0)
            return status_fail(STATUS_BAD_INPUT,
                               "rank %u (host %s) has another model or other settings than rank 0 (host %s): all ranks "
                               "want the same file and the same flags",
                               r, comm_host(world, r), comm_host(world, 0));
    }
    return STATUS_OK;
}

Status ranks_join(Session *s)
{
    const Options *o = s->options;
    LaunchEnvironment env;
    TRY(launch_environment(&env));
    s->ranks.size = o->n_ranks ? o->n_ranks : 1;
    if (!env.is_rank || o->emit)
    {
        if (o->shown_rank >= s->ranks.size)
            return status_fail(STATUS_USAGE, "--rank %u, but there are %u ranks (-n)", o->shown_rank, s->ranks.size);
        s->ranks.rank = o->shown_rank;
        return STATUS_OK;
    }
    CommOptions options = {.timeout_s = o->comm_timeout_s, .dump_dir = o->out_dir};
    TRY(comm_create("mpi", &options, &s->ranks.comm.world));
    s->ranks.size = comm_size(s->ranks.comm.world);
    s->ranks.rank = comm_rank(s->ranks.comm.world);
    return compare_identities(s);
}

/* ---- the plan */

static Status read_request(Session *s, PlanRequest *out_request)
{
    const Options *o = s->options;
    const ClusterSpec *c = &s->job->cluster;
    *out_request = (PlanRequest){.n_ranks = s->ranks.size,
                                 .n_stages = o->n_stages ? o->n_stages : (uint32_t)c->stages,
                                 .n_replicas = o->n_replicas ? o->n_replicas : (uint32_t)c->replicas,
                                 .n_micro = o->n_micro ? o->n_micro : (uint32_t)c->micro_batches,
                                 .schedule = -1,
                                 .cap_bytes = (int64_t)(c->memory_gib * 1073741824.0),
                                 .deterministic = o->deterministic || c->deterministic,
                                 .batch = (uint32_t)s->job->train.batch};
    if (!o->n_stages || o->n_stages == c->n_cuts + 1)
    {
        out_request->cuts = c->cuts;
        out_request->n_cuts = c->n_cuts;
    }
    const char *name = o->schedule ? o->schedule : c->schedule;
    PipelineKind kind;
    if (strcmp(name, "auto") == 0)
        return STATUS_OK;
    if (!pipeline_by_name(name, &kind))
        return status_fail(STATUS_USAGE, "--schedule wants gpipe, 1f1b or zb-h1, not '%s'", name);
    out_request->schedule = (int)kind;
    return STATUS_OK;
}

/* Micro-batches for which units are costed: those wanted, or such that a pipeline could use. */
static uint32_t reference_micro(const PlanRequest *request)
{
    uint32_t n = request->n_micro ? request->n_micro : request->n_ranks > 1 ? 2 * request->n_ranks : 1;
    return n <= request->batch ? n : request->batch;
}

static bool is_trivial(const PlanRequest *request)
{
    return request->n_ranks == 1 && request->n_micro <= 1 && request->n_stages <= 1 && request->n_replicas <= 1 &&
           request->n_cuts == 0;
}

static Status refuse(const Session *s, const char *why)
{
    return status_fail(STATUS_BAD_INPUT, "no plan for %u ranks: %s", s->ranks.size, why);
}

void ranks_apply_plan(Session *s, IrModule *m)
{
    if (s->ranks.planned)
        plan_apply(s->arena, m, &s->ranks.choice.chosen->plan, s->ranks.replica, s->ranks.stage);
}

/* Of what is left to do. */
static const UnitCost *costs_now(Session *s, uint32_t frozen)
{
    UnitCost *costs = ARENA_ARRAY(s->arena, UnitCost, s->job->n_units + 1);
    cost_freeze(s->ranks.costs, s->job->n_units, frozen, s->elastic.cached, costs);
    return costs;
}

/* What the authors' rule makes of a request (planner="paper"): nothing is left open. n_held: R, 0: what is free is
 * used. */
static Status ask_by_paper(Session *s, PlanRequest *request, uint32_t frozen, uint32_t n_held)
{
    const uint32_t n_units = s->job->n_units;
    const uint32_t n_first = request->n_stages ? request->n_stages : request->n_ranks;
    if (request->n_cuts || request->n_replicas)
        return refuse(s, "planner=\"paper\" chooses cuts and replicas by itself");
    if ((n_first & (n_first - 1)) || request->n_ranks % n_first || n_first > n_units)
        return refuse(s, arena_printf(s->arena,
                                      "planner=\"paper\" halves a power of two of stages that divides the ranks and is "
                                      "no more than the %u units, not %u",
                                      n_units, n_first));
    const uint32_t k = paper_stages(s->arena, s->ranks.costs, n_units, frozen, n_first);
    const uint32_t r = n_held ? n_held : request->n_ranks / k;
    if (k > n_units - frozen)
        return refuse(s, arena_printf(s->arena, "%u stages are too many for the %u units that are not frozen", k,
                                      n_units - frozen));
    int64_t *first = ARENA_ARRAY(s->arena, int64_t, k + 1);
    paper_cut(s->ranks.costs, n_units, frozen, k, first);
    paper_fill(k, first);
    request->n_stages = k;
    request->cuts = first + 1;
    request->n_cuts = k - 1;
    if (!request->n_micro)
        request->n_micro = paper_micro(k) * r < request->batch ? paper_micro(k) * r : request->batch;
    if (request->schedule < 0)
        request->schedule = PIPELINE_gpipe;
    return STATUS_OK;
}

/* All samples through the newly frozen layers, on one replica. */
static double fill_s(const Session *s, uint32_t frozen)
{
    double sample_s = 0;
    for (uint32_t u = s->elastic.cached_from + 1; s->elastic.cached && u <= frozen; u++)
        sample_s += s->ranks.costs[u].forward_s / s->ranks.cost_rows;
    return sample_s * (double)dataset_n_samples(s->train);
}

static Horizon horizon_of(const Session *s, uint32_t frozen)
{
    const Ranks *ranks = &s->ranks;
    const double rate = ranks->moved_bytes_per_s > 0 ? ranks->moved_bytes_per_s : ranks->machine.link_bytes_per_s;
    return (Horizon){.n_steps = (double)ranks->steps_left,
                     .fill_s = fill_s(s, frozen),
                     .now = &ranks->now,
                     .sizes = horizon_sizes(s->arena, ranks->costs, s->job->n_units, frozen),
                     .n_units = s->job->n_units,
                     .moved_bytes_per_s = rate};
}

/* Chooses a plan with the units 1..frozen frozen. judged: by what it takes to the end. */
static Status choose_plan(Session *s, PlanRequest request, uint32_t frozen, bool judged)
{
    Ranks *ranks = &s->ranks;
    const char *why;
    Horizon horizon;
    bool found;
    do
    {
        if (judged)
        {
            horizon = horizon_of(s, frozen);
            request.horizon = &horizon;
        }
        request.n_together = s->elastic.cached ? frozen : 0;
        found = planner_choose(s->arena, &request, costs_now(s, frozen), s->job->n_units, ranks->cost_rows,
                               &ranks->machine, &ranks->choice, &why);
        if (!found && s->elastic.cached)
            elastic_drop_cache(s, why);
        else if (!found)
            return refuse(s, why);
    } while (!found);
    return STATUS_OK;
}

/* Makes the chosen plan this rank's. */
static Status adopt_plan(Session *s)
{
    Ranks *ranks = &s->ranks;
    const Plan *plan = &ranks->choice.chosen->plan;
    ranks->planned = plan->n_micro > 1 || ranks->size > 1;
    plan_place(plan, ranks->rank, &ranks->replica, &ranks->stage);
    if (!ranks->planned)
        return session_load_job(s, 1);
    TRY(session_load_job(s, plan->n_micro));
    ranks_apply_plan(s, s->job->module);
    if (!ranks->comm.world)
        return STATUS_OK;
    TRY(comm_split(ranks->comm.world, ranks->replica, ranks->stage, &ranks->comm.pipe));
    return comm_split(ranks->comm.world, ranks->stage, ranks->replica, &ranks->comm.data);
}

Status ranks_cost(Session *s)
{
    PlanRequest *request = &s->ranks.request;
    TRY(read_request(s, request));
    if (request->n_micro > request->batch)
        return refuse(s, arena_printf(s->arena, "%u micro-batches, but a batch has %u samples", request->n_micro,
                                      request->batch));
    return is_trivial(request) && !s->options->plan_always ? STATUS_OK : measure_costs(s, reference_micro(request));
}

Status ranks_plan(Session *s)
{
    Ranks *ranks = &s->ranks;
    TRY(ranks_cost(s));
    if (!ranks->costs)
        return STATUS_OK;
    PlanRequest request = ranks->request;
    if (s->job->cluster.paper)
        TRY(ask_by_paper(s, &request, 0, 0));
    TRY(choose_plan(s, request, 0, false));
    TRY(adopt_plan(s));
    ranks->start = ranks->choice.chosen->plan;
    /* the arithmetic of a step is that of its micro-batches: it is to stay the same whatever is planned later */
    if (ranks->request.deterministic)
        ranks->request.n_micro = ranks->choice.chosen->plan.n_micro;
    return STATUS_OK;
}

void ranks_hold(Session *s, uint64_t steps_left)
{
    if (!s->ranks.costs)
        return;
    s->ranks.now = s->ranks.choice.chosen->plan;
    s->ranks.steps_left = steps_left;
    s->ranks.stays = NULL;
}

bool ranks_stay(Session *s, const char *why)
{
    if (!s->ranks.costs || s->ranks.stays || plan_is_same(&s->ranks.now, &s->ranks.choice.chosen->plan))
        return false;
    s->ranks.stays = why;
    return true;
}

Status ranks_replan(Session *s)
{
    Ranks *ranks = &s->ranks;
    if (!ranks->costs)
        return session_load_job(s, 0);
    comm_destroy(ranks->comm.data);
    comm_destroy(ranks->comm.pipe);
    ranks->comm.data = ranks->comm.pipe = NULL;
    PlanRequest request = ranks->request;
    const uint32_t frozen = elastic_frozen_unit(s), n_held = s->options->no_replicate ? ranks->start.n_replicas : 0;
    const bool is_held = ranks->stays || s->options->no_repipe;
    if (s->job->cluster.paper && !is_held)
        TRY(ask_by_paper(s, &request, frozen, n_held));
    planner_hold(&request, ranks->stays ? &ranks->now : &ranks->start, is_held, s->options->no_replicate);
    TRY(choose_plan(s, request, frozen, ranks->steps_left && !is_held && !s->job->cluster.paper));
    if (ranks->stays)
        ranks->choice.why = arena_printf(s->arena, "kept: for another plan %s", ranks->stays);
    return adopt_plan(s);
}

uint32_t ranks_n_idle(const Session *s)
{
    const Plan *plan = s->ranks.planned ? &s->ranks.choice.chosen->plan : NULL;
    return plan ? s->ranks.size - plan->n_stages * plan->n_replicas : 0;
}

const char *ranks_idle_text(const Session *s)
{
    const uint32_t n = ranks_n_idle(s);
    return n ? arena_printf(s->arena, ", %u rank%s idle", n, n == 1 ? "" : "s") : "";
}

int ranks_threads(const Session *s)
{
    const Comm *world = s->ranks.comm.world;
    if (s->options->n_threads || !world)
        return s->options->n_threads;
    const int share = pool_n_cores() / (int)comm_local_size(world);
    return share > 0 ? share : 1;
}

TrainerRank ranks_for_trainer(const Session *s)
{
    const Ranks *ranks = &s->ranks;
    if (!ranks->planned)
        return (TrainerRank){0};
    const Plan *plan = &ranks->choice.chosen->plan;
    const uint32_t first = plan_first_micro(plan, ranks->replica);
    return (TrainerRank){.world = ranks->comm.world,
                         .stage = ranks->stage,
                         .n_stages = plan->n_stages,
                         .replica = ranks->replica,
                         .n_replicas = plan->n_replicas,
                         .first_micro = first,
                         .n_all_micro = plan->n_micro,
                         .n_micro = plan_first_micro(plan, ranks->replica + 1) - first};
}

void ranks_leave(Session *s, bool failed)
{
    Ranks *ranks = &s->ranks;
    if (failed && ranks->comm.world)
        comm_dump(ranks->comm.world, status_detail());
    device_comm_destroy(ranks->comm.device, failed);
    comm_destroy(ranks->comm.data);
    comm_destroy(ranks->comm.pipe);
    comm_destroy(ranks->comm.world);
    ranks->comm = (ExecutorComm){0};
}
