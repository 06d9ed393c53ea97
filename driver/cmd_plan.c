/* ptc plan: how a job would be laid out on ranks: stages, memory, traffic, the predicted step, and what lost against
 * it. Nothing of the model runs (with --costs=measured its ops are timed). Memory is that of the real programs: every
 * stage is compiled as it would be for a run. */
#include "driver/session.h"
#include "driver/simulate.h"

#include "base/bug.h"
#include "passes/partition.h"
#include "runtime/elem.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const double mib = 1024.0 * 1024.0;

typedef struct
{
    uint32_t first, last; /* units */
    UnitCost cost;        /* summed up */
    ExecutorMemory memory;
    const char *order;
} StagePlan;

/* The first param of a unit names it best. */
static const char *unit_name(const Session *s, uint32_t unit)
{
    const IrModule *m = s->job->module;
    for (IrGlobal g = 1; g < m->globals.len; g++)
        if (ir_global(m, g)->kind == IR_GLOBAL_PARAM &&
            ir_attrs_int(&ir_global(m, g)->attrs, IR_ATTR_unit, 0) == (int64_t)unit)
        {
            const char *name = ir_global(m, g)->name, *dot = strrchr(name, '.');
            return dot ? arena_strndup(s->arena, name, (size_t)(dot - name)) : name;
        }
    return "no params";
}

/* Compiles the program of one stage of the first replica, for its memory and its order. */
static Status compile_stage(Session *s, const Plan *plan, uint32_t stage, StagePlan *out)
{
    if (plan->n_micro == 1 && plan->n_stages == 1)
        TRY(session_load_job(s, 1));
    else
    {
        TRY(session_load_job(s, plan->n_micro));
        plan_apply(s->arena, s->job->module, plan, 0, stage);
    }
    IrModule *program = s->job->module;
    const char *order = ir_attrs_str(&ir_func(program, ir_func_find(program, "train"))->attrs, IR_ATTR_order);
    out->order = order ? order : "F0 B0";
    TRY(session_compile_longest(s));
    out->memory = executor_memory_planned(s->m);
    return STATUS_OK;
}

static void sum_costs(const Session *s, const Plan *plan, uint32_t stage, StagePlan *out)
{
    const double scale = (double)((s->ranks.request.batch + plan->n_micro - 1) / plan->n_micro) / s->ranks.cost_rows;
    out->first = (uint32_t)plan->first_unit[stage];
    out->last = stage + 1 < plan->n_stages ? (uint32_t)plan->first_unit[stage + 1] - 1 : s->job->n_units;
    for (uint32_t u = out->first; u <= out->last; u++)
    {
        const UnitCost *unit = &s->ranks.costs[u];
        out->cost.forward_flops += unit->forward_flops * scale;
        out->cost.backward_flops += unit->backward_flops * scale;
        out->cost.n_params += unit->n_params;
    }
}

static int64_t total_bytes(const ExecutorMemory *m)
{
    return m->param_bytes + m->state_bytes + m->input_bytes + m->output_bytes + m->arena_bytes + m->comm_bytes;
}

/* ---- text */

static void print_stages(const Session *s, const PlanCandidate *c, const StagePlan *stages)
{
    printf(
        "\nstage  units    from .. to                          params M  GFLOP  forward ms  backward ms  update ms\n");
    for (uint32_t i = 0; i < c->plan.n_stages; i++)
    {
        const char *names =
            arena_printf(s->arena, "%s .. %s", unit_name(s, stages[i].first), unit_name(s, stages[i].last));
        printf("%5u  %3u-%-3u  %-34s  %8.2f  %5.1f  %10.2f  %11.2f  %9.2f\n", i, stages[i].first, stages[i].last, names,
               (double)stages[i].cost.n_params / 1e6,
               (stages[i].cost.forward_flops + stages[i].cost.backward_flops) / 1e9, 1e3 * c->stages[i].forward_s,
               1e3 * c->stages[i].backward_s, 1e3 * c->stages[i].update_s);
    }
    printf("(GFLOP of contractions and times are of one micro-batch; the update is once a step)\n");
    printf("\nmemory MiB   params  optimizer  activations+gradients  inputs  messages    total\n");
    for (uint32_t i = 0; i < c->plan.n_stages; i++)
    {
        const ExecutorMemory *m = &stages[i].memory;
        printf("  stage %-4u %7.1f  %9.1f  %21.1f  %6.1f  %8.1f  %7.1f\n", i, (double)m->param_bytes / mib,
               (double)m->state_bytes / mib, (double)m->arena_bytes / mib,
               (double)(m->input_bytes + m->output_bytes) / mib, (double)m->comm_bytes / mib,
               (double)total_bytes(m) / mib);
    }
    printf("\norder\n");
    for (uint32_t i = 0; i < c->plan.n_stages; i++)
        printf("  stage %-4u %s\n", i, stages[i].order);
}

static void print_alternatives(const PlanChoice *choice)
{
    printf("\n stages  replicas  micro-batches  schedule   step ms  bubble  largest MiB  \n");
    for (uint32_t i = 0; i < choice->n_candidates; i++)
    {
        const PlanCandidate *c = &choice->candidates[i];
        int64_t largest = 0;
        for (uint32_t k = 0; k < c->plan.n_stages; k++)
            largest = c->stage_bytes[k] > largest ? c->stage_bytes[k] : largest;
        printf("%7u  %8u  %13u  %-8s  %8.1f  %4.1f %%  %11.1f  %s\n", c->plan.n_stages, c->plan.n_replicas,
               c->plan.n_micro, pipeline_name(c->plan.schedule), 1e3 * c->step_s, 100 * c->bubble,
               (double)largest / mib, c->lost ? c->lost : "chosen");
    }
}

static void print_text(const Session *s, const StagePlan *stages)
{
    const PlanCandidate *c = s->ranks.choice.chosen;
    printf("%s on %u rank%s: %u stages x %u replicas%s, %u micro-batches of %lld samples, %s\n", s->job->module->name,
           s->ranks.size, s->ranks.size == 1 ? "" : "s", c->plan.n_stages, c->plan.n_replicas, ranks_idle_text(s),
           c->plan.n_micro, (long long)s->job->train.rows, pipeline_name(c->plan.schedule));
    printf("predicted step %.1f ms, bubble %.1f %%; sent %.2f MiB, exchanged by replicas %.2f MiB a step (costs %s)\n",
           1e3 * c->step_s, 100 * c->bubble, (double)c->sent_bytes / mib, (double)c->reduced_bytes / mib,
           s->ranks.costs_from);
    print_stages(s, c, stages);
    print_alternatives(&s->ranks.choice);
}

/* ---- JSON */

static json_t *candidate_json(const PlanCandidate *c)
{
    json_t *cuts = json_array();
    for (uint32_t i = 0; i < c->plan.n_stages; i++)
        json_array_append_new(cuts, json_integer(c->plan.first_unit[i]));
    return json_pack("{si si si ss so sf sf sI sI sb ss}", "stages", (int)c->plan.n_stages, "replicas",
                     (int)c->plan.n_replicas, "micro_batches", (int)c->plan.n_micro, "schedule",
                     pipeline_name(c->plan.schedule), "first_units", cuts, "step_ms", 1e3 * c->step_s, "bubble",
                     c->bubble, "sent_bytes", (json_int_t)c->sent_bytes, "reduced_bytes", (json_int_t)c->reduced_bytes,
                     "chosen", c->lost == NULL, "why", c->lost ? c->lost : "");
}

static void print_json(const Session *s, const StagePlan *stages)
{
    const PlanChoice *choice = &s->ranks.choice;
    json_t *plan = candidate_json(choice->chosen), *list = json_array(), *alternatives = json_array();
    for (uint32_t i = 0; i < choice->chosen->plan.n_stages; i++)
    {
        const StagePlan *stage = &stages[i];
        const ExecutorMemory *m = &stage->memory;
        const PipelineStage *times = &choice->chosen->stages[i];
        json_array_append_new(
            list, json_pack("{si si sI sf sf sf sf sf s{sI sI sI sI sI sI} ss}", "first_unit", (int)stage->first,
                            "last_unit", (int)stage->last, "params", (json_int_t)stage->cost.n_params, "forward_flop",
                            stage->cost.forward_flops, "backward_flop", stage->cost.backward_flops, "forward_ms",
                            1e3 * times->forward_s, "backward_ms", 1e3 * times->backward_s, "update_ms",
                            1e3 * times->update_s, "memory", "params", (json_int_t)m->param_bytes, "optimizer",
                            (json_int_t)m->state_bytes, "arena", (json_int_t)m->arena_bytes, "inputs",
                            (json_int_t)(m->input_bytes + m->output_bytes), "messages", (json_int_t)m->comm_bytes,
                            "total", (json_int_t)total_bytes(m), "order", stage->order));
    }
    for (uint32_t i = 0; i < choice->n_candidates; i++)
        json_array_append_new(alternatives, candidate_json(&choice->candidates[i]));
    json_object_set_new(plan, "model", json_string(s->job->module->name));
    json_object_set_new(plan, "ranks", json_integer(s->ranks.size));
    json_object_set_new(plan, "idle", json_integer(ranks_n_idle(s)));
    json_object_set_new(plan, "costs", json_string(s->ranks.costs_from));
    json_object_set_new(plan, "per_stage", list);
    json_object_set_new(plan, "alternatives", alternatives);
    char *text = json_dumps(plan, JSON_INDENT(2));
    printf("%s\n", text);
    free(text);
    json_decref(plan);
}

/* ---- the simulated timeline */

static Status write_trace(const Session *s)
{
    const PlanCandidate *c = s->ranks.choice.chosen;
    const uint32_t n_here = plan_first_micro(&c->plan, 1);
    PipelineList *lists = pipeline_build(s->arena, c->plan.schedule, n_here, c->stages, c->plan.n_stages);
    PipelineTimes times = pipeline_simulate(s->arena, lists, c->stages, c->plan.n_stages, COMM_MAX_IN_FLIGHT);
    StrBuf text = strbuf_make(s->arena);
    Options to_file = *s->options;
    to_file.output = s->options->trace;
    FILE *out;
    pipeline_trace(&text, lists, &times, c->plan.n_stages);
    TRY(driver_open_output(&to_file, &out));
    fputs(strbuf_text(&text), out);
    return driver_close_output(&to_file, out);
}

static Status plan(Session *s)
{
    const Plan *chosen = &s->ranks.choice.chosen->plan;
    StagePlan *stages = ARENA_ARRAY(s->arena, StagePlan, chosen->n_stages);
    for (uint32_t i = 0; i < chosen->n_stages; i++)
    {
        TRY(compile_stage(s, chosen, i, &stages[i]));
        sum_costs(s, chosen, i, &stages[i]);
    }
    if (s->options->json)
        print_json(s, stages);
    else
        print_text(s, stages);
    return s->options->trace ? write_trace(s) : STATUS_OK;
}

Status cmd_plan(Arena *arena, const Options *options)
{
    Options always = *options;
    always.plan_always = true;
    always.may_lack_weights = true;
    if (options->simulate)
        return simulate_job(arena, &always);
    if (options->cluster)
        return status_fail(STATUS_USAGE, "--cluster is for --simulate");
    Session session;
    Status status = session_load(arena, &always, &session);
    if (status == STATUS_OK)
        status = plan(&session);
    return session_close(&session, status);
}
