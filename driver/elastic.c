/* What is frozen, when, and why. */
#include "driver/elastic.h"

#include "base/bug.h"
#include "driver/elastic_outputs.h"
#include "driver/session.h"
#include "runtime/checkpoint.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the state in checkpoints */

static const char *state_text(const Session *s)
{
    const Elastic *e = &s->elastic;
    StrBuf text = strbuf_make(s->arena);
    strbuf_addf(&text, "{\"elastic\": {\"frozen\": %u, \"decisions\": %u, \"norms_step\": %llu, \"bound\": %.17g",
                e->frozen, e->n_decisions, (unsigned long long)e->norms_step, e->bound);
    if (!isnan(e->loss))
        strbuf_addf(&text, ", \"loss\": %.17g", e->loss);
    for (uint32_t i = 0; e->norms && i < s->job->n_layers; i++)
        strbuf_addf(&text, "%s%.17g", i ? ", " : ", \"norms\": [", e->norms[i]);
    strbuf_add(&text, e->norms ? "]" : "");
    elastic_add_outputs(s, &text);
    strbuf_add(&text, "}}");
    return strbuf_text(&text);
}

static Status bad_state(const Checkpoint *checkpoint)
{
    return status_fail(STATUS_BAD_INPUT, "checkpoint '%s': what it says about frozen layers is not of this job",
                       checkpoint_folder(checkpoint));
}

/* Decisions that a run without any (--no-freeze, another <freeze>) has missed are not made up for. */
static void skip_missed(Elastic *e, const CheckpointState *at, bool has_state)
{
    const bool is_within = at->consumed > 0 || at->epoch == 0;
    if (!e->on)
        return;
    const uint64_t due = e->every_steps ? at->step / e->every_steps : at->epoch / e->every_epochs;
    const uint64_t due_before = e->every_steps ? (at->step ? at->step - 1 : 0) / e->every_steps
                                               : (is_within ? at->epoch : at->epoch - 1) / e->every_epochs;
    if (has_state && e->n_decisions >= due_before)
        return;
    e->n_decisions = (uint32_t)due;
    e->norms_step = at->step;
}

static Status read_state(Session *s, const Checkpoint *checkpoint)
{
    Elastic *e = &s->elastic;
    json_error_t error;
    json_t *root = json_loads(checkpoint_state(checkpoint)->metrics_json, 0, &error);
    const json_t *state = json_object_get(root, "elastic"), *norms = json_object_get(state, "norms");
    const json_t *loss = json_object_get(state, "loss");
    const json_int_t frozen = json_integer_value(json_object_get(state, "frozen"));
    if (frozen > s->job->n_layers)
    {
        json_decref(root);
        return status_fail(
            STATUS_BAD_INPUT,
            "checkpoint '%s' is of another model or job: it has %lld frozen layers, this model %u layers",
            checkpoint_folder(checkpoint), (long long)frozen, s->job->n_layers);
    }
    bool ok = root && frozen >= 0;
    if (ok && state)
    {
        e->frozen = (uint32_t)frozen;
        e->n_decisions = (uint32_t)json_integer_value(json_object_get(state, "decisions"));
        e->norms_step = (uint64_t)json_integer_value(json_object_get(state, "norms_step"));
        e->bound = json_number_value(json_object_get(state, "bound"));
        e->loss = loss ? json_number_value(loss) : NAN;
        ok = !norms || json_array_size(norms) == s->job->n_layers;
    }
    const bool looks = e->on && freeze_policy_needs(e->settings.policy) == FREEZE_NEEDS_OUTPUTS;
    ok = ok && (!looks || elastic_read_outputs(s, state));
    if (ok && norms)
    {
        e->norms = ARENA_ARRAY(s->arena, double, s->job->n_layers);
        for (uint32_t i = 0; i < s->job->n_layers; i++)
            e->norms[i] = json_number_value(json_array_get(norms, i));
    }
    skip_missed(e, checkpoint_state(checkpoint), state != NULL);
    json_decref(root);
    return ok ? STATUS_OK : bad_state(checkpoint);
}

/* ---- settings */

FreezeSettings elastic_settings(const FreezeSpec *spec)
{
    FreezeSettings settings = {.alpha = spec->alpha,
                               .exclusive = !spec->inclusive,
                               .warmup = (uint32_t)spec->warmup,
                               .keep = (uint32_t)spec->keep,
                               .percentile = spec->percentile,
                               .window = (uint32_t)spec->window,
                               .tolerance = spec->tolerance,
                               .patience = (uint32_t)spec->patience,
                               .renew = (uint32_t)spec->renew,
                               .guard = spec->guard,
                               .counts = spec->counts,
                               .n_counts = spec->n_counts};
    freeze_policy_by_name(spec->policy, &settings.policy);
    return settings;
}

Status elastic_prepare(Session *s)
{
    const FreezeSpec *spec = &s->job->freeze;
    Elastic *e = &s->elastic;
    *e = (Elastic){.loss = NAN};
    if (spec->policy)
    {
        e->settings = elastic_settings(spec);
        e->on = e->settings.policy != FREEZE_none && !s->options->no_freeze;
        e->every_steps = (uint64_t)spec->every_steps;
        e->every_epochs = e->every_steps ? 0 : (uint64_t)spec->every;
    }
    if (!s->options->out_dir || !s->options->resume)
        return STATUS_OK;
    Checkpoint *checkpoint;
    TRY(checkpoint_open(s->options->out_dir, NULL, &checkpoint)); /* what is wrong with it the trainer tells */
    if (!checkpoint)
        return STATUS_OK;
    Status status = read_state(s, checkpoint);
    checkpoint_close(checkpoint);
    return status;
}

uint32_t elastic_frozen_unit(const Session *s)
{
    return s->elastic.frozen ? (uint32_t)s->job->layers[s->elastic.frozen] - 1 : 0;
}

void elastic_mark(const Session *s, const Job *job)
{
    IrModule *m = job->module;
    IrAttrs *attrs = &ir_func(m, ir_func_find(m, "train"))->attrs;
    const Elastic *e = &s->elastic;
    if (e->frozen)
        ir_attrs_put(m->arena, attrs, ir_attr_int(IR_ATTR_frozen, job->layers[e->frozen] - 1));
    if (e->frozen && e->cached)
        ir_attrs_put(m->arena, attrs, ir_attr_bool(IR_ATTR_cached, true));
    if (e->frozen && e->cached && e->cached_from)
        ir_attrs_put(m->arena, attrs, ir_attr_int(IR_ATTR_cached_from, e->cached_from));
    if (e->on && freeze_policy_needs(e->settings.policy) == FREEZE_NEEDS_NORMS)
        ir_attrs_put(m->arena, attrs, ir_attr_bool(IR_ATTR_track, true));
}

void elastic_set_options(Session *s, TrainerOptions *options)
{
    const Elastic *e = &s->elastic;
    if (!e->on && !e->frozen)
        return;
    options->pause_epochs = e->on ? e->every_epochs : 0;
    options->pause_steps = e->on ? e->every_steps : 0;
    options->border_stays = e->frozen >= freeze_most(&e->settings, s->job->n_layers);
    options->extra = state_text(s);
    static const char *const redone[] = {"freeze", "transition"};
    options->redone = redone;
    options->n_redone = sizeof redone / sizeof *redone;
}

/* ---- decisions */

bool elastic_is_due(const Session *s, const Trainer *trainer)
{
    const Elastic *e = &s->elastic;
    const TrainerPosition at = trainer_position(trainer);
    if (!e->on || at.step >= trainer_total_steps(trainer))
        return false;
    const uint64_t n_due = e->every_steps ? at.step / e->every_steps : at.position.epoch / e->every_epochs;
    return n_due > e->n_decisions;
}

uint64_t elastic_steps_behind(const Session *s, const Trainer *trainer)
{
    const Elastic *e = &s->elastic;
    const uint64_t all = trainer_total_steps(trainer), batch = (uint64_t)s->job->train.batch;
    const uint64_t epoch = (dataset_n_samples(s->train) + batch - 1) / batch;
    const uint64_t every = e->every_steps ? e->every_steps : e->every_epochs * epoch;
    const uint64_t pause = every ? (trainer_steps_done(trainer) / every + 1) * every : all;
    return pause < all ? all - pause : 0;
}

/* Sums of squares by unit: of the gradients since the last decision, and of the weights now. Collective. */
static Status gather_squares(Session *s, double *gradients, double *weights)
{
    const IrModule *m = s->m;
    const bool tells = s->ranks.replica == 0;
    const float zero = 0;
    for (IrGlobal g = 1; g < m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(m, g);
        const int64_t unit = ir_attrs_int(&global->attrs, IR_ATTR_unit, 0);
        if (unit < 1 || unit > s->job->n_units || !executor_has_global(s->executor, global->name))
            continue;
        if (global->kind == IR_GLOBAL_STATE && strncmp(global->name, "grad_sq:", 8) == 0)
        {
            if (tells)
                TRY(executor_read_scalar(s->executor, global->name, &gradients[unit]));
            TRY(executor_write_global(s->executor, global->name, &zero));
        }
        const int64_t owner = s->ranks.planned ? ir_attrs_int(&global->attrs, IR_ATTR_stage, s->ranks.stage) : 0;
        if (global->kind != IR_GLOBAL_PARAM || !ir_attrs_bool(&global->attrs, IR_ATTR_trainable) || !tells ||
            owner != (int64_t)s->ranks.stage)
            continue;
        const size_t n = (size_t)ir_type_n_elems(&global->type);
        float *host = malloc(n * sizeof *host);
        if (!host)
            base_out_of_memory(n * sizeof *host);
        Status status = executor_read_global(s->executor, global->name, host);
        for (size_t i = 0; status == STATUS_OK && i < n; i++)
            weights[unit] += (double)host[i] * host[i];
        free(host);
        TRY(status);
    }
    if (!s->ranks.comm.world)
        return STATUS_OK;
    TRY(comm_all_reduce_f64(s->ranks.comm.world, gradients, s->job->n_units + 1, COMM_SUM));
    return comm_all_reduce_f64(s->ranks.comm.world, weights, s->job->n_units + 1, COMM_SUM);
}

/* Of each layer: root mean square over the interval's steps of ||g||, over ||w||. */
static Status layer_norms(Session *s, uint64_t n_steps, double *out_norms)
{
    const Job *job = s->job;
    double *gradients = ARENA_ARRAY(s->arena, double, job->n_units + 1);
    double *weights = ARENA_ARRAY(s->arena, double, job->n_units + 1);
    TRY(gather_squares(s, gradients, weights));
    for (uint32_t layer = 0; layer < job->n_layers; layer++)
    {
        double g = 0, w = 0;
        for (int64_t unit = job->layers[layer]; unit < job->layers[layer + 1]; unit++)
        {
            g += gradients[unit];
            w += weights[unit];
        }
        out_norms[layer] = w > 0 && n_steps ? sqrt(g / (double)n_steps / w) : 0;
    }
    return STATUS_OK;
}

static Status log_decision(Session *s, Trainer *trainer, const FreezeInput *input, const FreezeDecision *decision)
{
    MetricsLog *log = trainer_log(trainer);
    if (!log)
        return STATUS_OK;
    const Elastic *e = &s->elastic;
    Metric rows[10];
    uint32_t n = 0;
    rows[n++] = METRIC_TEXT("policy", freeze_policy_name(e->settings.policy));
    rows[n++] = METRIC_U64("decision", input->decision);
    rows[n++] = METRIC_U64("frozen_before", input->frozen);
    rows[n++] = METRIC_U64("frozen", decision->frozen);
    rows[n++] = METRIC_U64("layers", input->n_layers);
    rows[n++] = METRIC_TEXT("why", decision->why);
    if (decision->bound > 0)
        rows[n++] = METRIC_F64("bound", decision->bound);
    if (input->norms)
        rows[n++] = METRIC_F64S("norms", input->norms, input->n_layers);
    if (input->plasticity)
        rows[n++] = METRIC_F64S("plasticity", elastic_smoothed(s), input->n_layers);
    return metrics_log_event(log, trainer_steps_done(trainer), "freeze", rows, n);
}

Status elastic_decide(Session *s, Trainer *trainer, const TrainerEval *eval, bool *out_changed)
{
    Elastic *e = &s->elastic;
    const uint64_t step = trainer_steps_done(trainer);
    TrainerEval now = *eval;
    if (e->settings.guard && s->test && !now.n_samples) /* gone on from a checkpoint that was written just before */
        TRY(trainer_evaluate(trainer, &now));
    double *norms = NULL;
    if (freeze_policy_needs(e->settings.policy) == FREEZE_NEEDS_NORMS)
    {
        norms = ARENA_ARRAY(s->arena, double, s->job->n_layers);
        TRY(layer_norms(s, step - e->norms_step, norms));
    }
    if (freeze_policy_needs(e->settings.policy) == FREEZE_NEEDS_OUTPUTS && e->frozen < s->job->n_layers)
        TRY(elastic_look_at_outputs(s, trainer));
    const FreezeInput input = {.decision = e->n_decisions + 1,
                               .n_layers = s->job->n_layers,
                               .frozen = e->frozen,
                               .bound = e->bound,
                               .norms = norms,
                               .norms_before = e->norms,
                               .plasticity = e->plasticity,
                               .loss = now.n_samples ? now.results[0] : NAN,
                               .loss_before = e->loss};
    FreezeDecision decision = freeze_decide(&e->settings, &input);
    const char *why = decision.why;
    if (s->ranks.comm.world)
    {
        TRY(comm_broadcast(s->ranks.comm.world, 0, &decision, sizeof decision));
        decision.why = why; /* an address of its own */
    }
    TRY(log_decision(s, trainer, &input, &decision));
    *out_changed = decision.frozen > e->frozen;
    e->frozen = decision.frozen;
    e->bound = decision.bound;
    e->loss = input.loss;
    e->norms = norms;
    e->norms_step = step;
    e->n_decisions = input.decision;
    e->why = decision.why;
    trainer_set_extra(trainer, state_text(s));
    return STATUS_OK;
}
