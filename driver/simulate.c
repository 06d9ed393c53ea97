/* Reads the model and the cluster, or measures, asks passes/forecast.h, and prints what it says. */
#include "driver/simulate.h"

#include "driver/measure.h"
#include "driver/session.h"
#include "passes/forecast.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double gib = 1073741824.0;

/* ---- what is asked */

/* Ranks of this machine, with measured costs. */
static bool is_here(const Session *s)
{
    return s->options->n_ranks > 0 || s->ranks.size > 1;
}

static Status read_cluster(Session *s, Cluster *out_cluster)
{
    ClusterSpec *c = &s->job->cluster;
    if (s->options->cluster)
    {
        Diag *diag = diag_create(s->arena); /* its files are not the model's */
        Status status = frontend_load_cluster(s->arena, diag, s->options->cluster, c);
        driver_print_diag(diag);
        if (status != STATUS_OK)
            status_clear();
        TRY(status);
    }
    if (is_here(s) && c->nodes && c->nodes * c->devices != s->ranks.size)
        return status_fail(STATUS_BAD_INPUT, "the cluster has %lld devices, but there are %u ranks (-n)",
                           (long long)(c->nodes * c->devices), s->ranks.size);
    if (is_here(s))
    {
        c->nodes = 1;
        c->devices = s->ranks.size;
    }
    if (!c->nodes)
        return status_fail(STATUS_USAGE,
                           "--simulate wants a described cluster: --cluster=FILE (see examples/clusters), "
                           "or <cluster nodes= devices= ...> in the model; or ranks of this machine: -n N");
    if (c->nodes * c->devices > 65536)
        return status_fail(STATUS_BAD_INPUT, "%lld devices are more than can be simulated (65536)",
                           (long long)(c->nodes * c->devices));
    *out_cluster = (Cluster){.n_nodes = (uint32_t)c->nodes,
                             .n_devices = (uint32_t)c->devices,
                             .flops_per_s = c->tflops * 1e12,
                             .bytes_per_s = c->memory_gb_s * 1e9,
                             .op_s = c->op_us * 1e-6,
                             .link_bytes_per_s = c->link_gb_s * 1e9,
                             .link_s = 10e-6,
                             .host_bytes_per_s = c->host_link_gb_s * 1e9,
                             .node_bytes_per_s = c->node_link_gb_s * 1e9,
                             .node_s = 20e-6,
                             .device_bytes = (int64_t)(c->memory_gib * gib),
                             .host_bytes = (int64_t)(c->host_gib * gib),
                             .switch_s = c->switch_s};
    return STATUS_OK;
}

/* As many as the model says, else as its files have. */
static Status count_samples(Session *s, uint64_t *out_n_train, uint64_t *out_n_tests)
{
    const DataSpec *data = &s->job->data;
    *out_n_train = (uint64_t)data->train_limit;
    *out_n_tests = (uint64_t)data->test_limit;
    if (s->options->n_synthetic || (*out_n_train && *out_n_tests))
        return STATUS_OK;
    TRY(session_open_data(s));
    *out_n_train = s->train ? dataset_n_samples(s->train) : 0;
    *out_n_tests = s->test ? dataset_n_samples(s->test) : 0;
    return STATUS_OK;
}

/* K as asked for, by itself or by R; 0: it is left open. */
static Status read_stages(const Session *s, uint32_t n_ranks, uint32_t *out_n)
{
    const Options *o = s->options;
    const ClusterSpec *c = &s->job->cluster;
    const uint32_t n_replicas = o->n_replicas ? o->n_replicas : (uint32_t)c->replicas;
    *out_n = o->n_stages ? o->n_stages : (uint32_t)c->stages;
    if ((o->costs && !is_here(s)) || o->trace)
        return status_fail(STATUS_USAGE,
                           "--simulate has no --trace, and models what a described cluster costs: no --costs");
    if (is_here(s) && c->paper)
        return status_fail(STATUS_UNSUPPORTED,
                           "planner=\"paper\" is simulated on a described cluster, with the batches "
                           "and transitions of its authors: no -n");
    if (c->n_cuts || c->deterministic || o->deterministic)
        return status_fail(STATUS_UNSUPPORTED, "explicit cuts and deterministic sums are not simulated");
    if (!n_replicas)
        return STATUS_OK;
    if (n_ranks % n_replicas || (*out_n && *out_n * n_replicas != n_ranks))
        return status_fail(STATUS_BAD_INPUT, "%s stages x %u replicas are not %u ranks",
                           *out_n ? arena_printf(s->arena, "%u", *out_n) : "any", n_replicas, n_ranks);
    *out_n = n_ranks / n_replicas;
    return STATUS_OK;
}

static Status read_job(Session *s, ForecastJob *out)
{
    const Options *o = s->options;
    const Job *job = s->job;
    const FreezeSpec *freeze = &job->freeze;
    const CacheSpec *cache = &job->cache;
    uint64_t epoch, n_tests;
    TRY(count_samples(s, &epoch, &n_tests));
    const uint64_t batch = (uint64_t)job->train.batch, all = epoch * (uint64_t)job->train.epochs;
    const uint64_t limit = (uint64_t)job->train.max_steps * batch;
    const bool by_steps = freeze->policy && freeze->every_steps;
    if (!all)
        return status_fail(STATUS_BAD_INPUT, "there is nothing to simulate: no epochs, or no samples");
    *out = (ForecastJob){.n_units = job->n_units,
                         .layers = job->layers,
                         .n_layers = job->n_layers,
                         .n_samples = limit && limit < all ? limit : all,
                         .epoch_samples = epoch,
                         .period_samples = by_steps ? (uint64_t)freeze->every_steps * batch : epoch,
                         .periods_per_decision = by_steps ? 1 : (uint32_t)freeze->every,
                         .n_tests = n_tests,
                         .eval_every = (uint32_t)job->train.eval_every,
                         .batch = (uint32_t)batch,
                         .n_micro = o->n_micro ? o->n_micro : (uint32_t)job->cluster.micro_batches,
                         .schedule = -1,
                         .paper = job->cluster.paper,
                         .no_repipe = o->no_repipe,
                         .no_replicate = o->no_replicate,
                         .may_cache = cache->use != CACHE_OFF && !o->no_cache,
                         .cached_share = cache->bf16 ? 0.5 : 1};
    if (freeze->policy && !o->no_freeze)
        out->freeze = elastic_settings(freeze);
    const char *name = o->schedule ? o->schedule : job->cluster.schedule;
    PipelineKind kind;
    if (strcmp(name, "auto") != 0)
    {
        if (!pipeline_by_name(name, &kind))
            return status_fail(STATUS_USAGE, "--schedule wants gpipe, 1f1b or zb-h1, not '%s'", name);
        out->schedule = (int)kind;
    }
    return STATUS_OK;
}

/* ---- text */

static const char *time_text(Arena *arena, double seconds)
{
    const long whole = lround(seconds);
    if (seconds < 99.95)
        return arena_printf(arena, "%.1f s", seconds);
    if (whole < 3600)
        return arena_printf(arena, "%ldm%02lds", whole / 60, whole % 60);
    return arena_printf(arena, "%ldh%02ldm", whole / 3600, whole / 60 % 60);
}

static double rate_of(const ForecastPeriod *p)
{
    return (double)p->n_samples / (p->run_s + p->fill_s); /* of training */
}

static void print_layout(const char *what, Arena *arena, const ForecastLayout *l, double all_s, double total_s)
{
    printf("%-28s %8s  speedup %5.2f   (K = %u, R = %u, M = %u, %s, %.0f samples/s, %.2f GiB)\n", what,
           time_text(arena, all_s), all_s / total_s, l->plan.n_stages, l->plan.n_replicas, l->plan.n_micro,
           pipeline_name(l->plan.schedule), l->batch / l->step_s, (double)l->peak_bytes / gib);
}

static void print_text(const Session *s, const ForecastJob *job, const Forecast *f)
{
    const Cluster *c = &job->cluster;
    printf("%s on %u x %u devices, simulated: %llu samples an epoch, batch %u, planner %s, costs %s\n\n",
           s->job->module->name, c->n_nodes, c->n_devices, (unsigned long long)job->epoch_samples, job->batch,
           job->paper ? "paper" : "time", s->ranks.costs_from);
    printf("epoch  frozen   K     R      M  schedule  cached  samples/s  GiB/rank   time    fill   tests  transition  "
           "moved MiB\n");
    for (uint32_t i = 0; i < f->n_periods; i++)
    {
        const ForecastPeriod *p = &f->periods[i];
        const Plan *plan = &p->layout.plan;
        printf("%5.4g  %6u  %2u  %4u  %5u  %-8s  %-6s  %9.0f  %8.2f  %7s  %6s  %6s  %10s  %9.1f\n",
               (double)p->first_sample / (double)job->epoch_samples, p->frozen, plan->n_stages, plan->n_replicas,
               plan->n_micro, pipeline_name(plan->schedule), p->layout.cached ? "yes" : "no", rate_of(p),
               (double)p->layout.peak_bytes / gib, time_text(s->arena, p->run_s), time_text(s->arena, p->fill_s),
               time_text(s->arena, p->test_s), time_text(s->arena, p->transition_s),
               (double)p->moved_bytes / 1048576.0);
    }
    printf("\n%-28s %8s\n", "all of it", time_text(s->arena, f->total_s));
    print_layout("the best static plan", s->arena, &f->static_best, f->static_best_s, f->total_s);
    print_layout("the paper's static pipeline", s->arena, &f->static_paper, f->static_paper_s, f->total_s);
}

/* ---- JSON */

static json_t *layout_json(const ForecastLayout *l)
{
    return json_pack("{si si si ss si sb sf sf sI}", "stages", (int)l->plan.n_stages, "replicas",
                     (int)l->plan.n_replicas, "micro_batches", (int)l->plan.n_micro, "schedule",
                     pipeline_name(l->plan.schedule), "batch", (int)l->batch, "cached", l->cached, "step_ms",
                     1e3 * l->step_s, "samples_per_s", l->batch / l->step_s, "peak_bytes", (json_int_t)l->peak_bytes);
}

static json_t *static_json(const ForecastLayout *l, double all_s, double total_s)
{
    json_t *object = layout_json(l);
    json_object_set_new(object, "seconds", json_real(all_s));
    json_object_set_new(object, "speedup", json_real(all_s / total_s));
    return object;
}

static void print_json(const Session *s, const ForecastJob *job, const Forecast *f)
{
    const uint32_t n_devices = job->cluster.n_nodes * job->cluster.n_devices;
    json_t *root = json_object(), *periods = json_array();
    for (uint32_t i = 0; i < f->n_periods; i++)
    {
        const ForecastPeriod *p = &f->periods[i];
        const Plan *plan = &p->layout.plan;
        json_t *row = layout_json(&p->layout);
        json_object_set_new(row, "epoch", json_real((double)p->first_sample / (double)job->epoch_samples));
        json_object_set_new(row, "frozen", json_integer(p->frozen));
        json_object_set_new(row, "idle", json_integer((int)n_devices - (int)(plan->n_stages * plan->n_replicas)));
        json_object_set_new(row, "run_s", json_real(p->run_s));
        json_object_set_new(row, "fill_s", json_real(p->fill_s));
        json_object_set_new(row, "test_s", json_real(p->test_s));
        json_object_set_new(row, "transition_s", json_real(p->transition_s));
        json_object_set_new(row, "moved_bytes", json_integer(p->moved_bytes));
        json_object_set_new(row, "cache_bytes", json_integer(p->cache_bytes));
        json_array_append_new(periods, row);
    }
    json_object_set_new(root, "model", json_string(s->job->module->name));
    json_object_set_new(root, "nodes", json_integer(job->cluster.n_nodes));
    json_object_set_new(root, "devices", json_integer(job->cluster.n_devices));
    json_object_set_new(root, "planner", json_string(job->paper ? "paper" : "time"));
    json_object_set_new(root, "costs", json_string(s->ranks.costs_from));
    json_object_set_new(root, "periods", periods);
    json_object_set_new(root, "seconds", json_real(f->total_s));
    json_object_set_new(root, "static_best", static_json(&f->static_best, f->static_best_s, f->total_s));
    json_object_set_new(root, "static_paper", static_json(&f->static_paper, f->static_paper_s, f->total_s));
    char *text = json_dumps(root, JSON_INDENT(2));
    printf("%s\n", text);
    free(text);
    json_decref(root);
}

/* ---- costs */

static Status cost_described(Session *s, ForecastJob *job)
{
    /* the rows of a micro-batch matter little: what does not grow with them is counted apart */
    const uint32_t n_ranks = job->cluster.n_nodes * job->cluster.n_devices,
                   n_micro = job->batch / 16 ? job->batch / 16 : 1;
    const CostMachine machine = cluster_machine(&job->cluster, 1, n_ranks);
    UnitCost *costs, *starts;
    TRY(measure_described(s, n_micro < 4096 ? n_micro : 4096, &machine, &costs, &starts));
    s->ranks.costs_from = "modelled";
    job->costs = costs;
    job->starts = starts;
    job->cost_rows = (uint32_t)s->job->train.rows;
    return STATUS_OK;
}

/* As a run of these ranks has them. */
static Status cost_here(Session *s, ForecastJob *job)
{
    TRY(elastic_prepare(s));
    elastic_mark(s, s->job);
    TRY(ranks_cost(s));
    job->costs = s->ranks.costs;
    job->starts = ARENA_ARRAY(s->arena, UnitCost, job->n_units + 1);
    job->cost_rows = s->ranks.cost_rows;
    job->machine = &s->ranks.machine;
    job->cluster.link_bytes_per_s = s->ranks.machine.link_bytes_per_s;
    job->cluster.switch_s = s->ranks.remake_s;
    job->cluster.host_bytes_per_s = s->ranks.machine.bytes_per_s;
    job->cluster.host_bytes =
        (int64_t)(elastic_cache_memory(&s->job->cache) + (uint64_t)(s->job->cache.disk_gib * gib));
    return STATUS_OK;
}

static Status simulate(Session *s)
{
    ForecastJob job;
    Forecast forecast;
    Cluster cluster;
    const char *why;
    TRY(session_load_job(s, 0));
    TRY(ranks_join(s));
    TRY(read_cluster(s, &cluster));
    TRY(read_job(s, &job));
    TRY(read_stages(s, cluster.n_nodes * cluster.n_devices, &job.n_stages));
    job.cluster = cluster;
    TRY(is_here(s) ? cost_here(s, &job) : cost_described(s, &job));
    if (s->ranks.rank > 0)
        return STATUS_OK;
    if (!forecast_job(s->arena, &job, &forecast, &why))
        return status_fail(STATUS_BAD_INPUT, "no forecast for %u devices: %s", cluster.n_nodes * cluster.n_devices,
                           why);
    if (s->options->json)
        print_json(s, &job, &forecast);
    else
        print_text(s, &job, &forecast);
    return STATUS_OK;
}

Status simulate_job(Arena *arena, const Options *options)
{
    Options mine = *options;
    if (mine.n_ranks == 1 && !mine.costs)
        mine.costs = "measured";
    Session session = {.arena = arena, .options = &mine, .ranks = {.size = 1}};
    return session_close(&session, simulate(&session));
}
