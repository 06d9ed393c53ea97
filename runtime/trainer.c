/* The training loop of one rank. */
#include "base/bug.h"
#include "runtime/fault.h"
#include "runtime/trainer_parts.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

/* What ranks tell each other of a step, besides the sums of metrics. */
enum
{
    SHARED_LOSS,
    SHARED_GRAD_NORM,
    SHARED_STOP,
    SHARED_BUSY,
    SHARED_REFUSED,
    N_SHARED
};

double trainer_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void trainer_note(Trainer *t, const char *format, ...)
{
    if (!t->options.observer.note)
        return;
    va_list args;
    va_start(args, format);
    char text[1024];
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    t->options.observer.note(t->options.observer.context, text);
}

uint32_t trainer_first_idle(const Trainer *t)
{
    return t->options.rank.n_stages * t->options.rank.n_replicas;
}

bool trainer_is_idle(const Trainer *t)
{
    return t->rank >= trainer_first_idle(t);
}

Status trainer_agree(const Trainer *t, Status status)
{
    double worst = (double)status;
    if (!t->options.rank.world)
        return status;
    TRY(comm_all_reduce_f64(t->options.rank.world, &worst, 1, COMM_MAX));
    if (status == STATUS_OK && worst > 0)
        return status_fail((Status)worst, "another rank failed: %s", status_text((Status)worst));
    return status;
}

/* ---- creation */

static Status make_out_dir(const char *dir)
{
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return status_fail(STATUS_IO, "cannot make folder '%s': %s", dir, strerror(errno));
    return STATUS_OK;
}

static Status open_log(Trainer *t)
{
    if (!t->options.out_dir || !t->train || t->rank != 0)
        return STATUS_OK;
    TRY(make_out_dir(t->options.out_dir));
    const char *path = arena_printf(t->arena, "%s/metrics.jsonl", t->options.out_dir);
    const uint32_t n_redone = t->options.from ? 0 : t->options.n_redone;
    TRY(t->step || t->options.from ? metrics_log_resume(path, t->step, t->options.redone, n_redone, &t->log)
                                   : metrics_log_create(path, &t->log));
    const TrainerRank *rank = &t->options.rank;
    const Metric plan[] = {METRIC_U64("stages", rank->n_stages), METRIC_U64("replicas", rank->n_replicas),
                           METRIC_U64("micro_batches", rank->n_all_micro),
                           METRIC_U64("idle", rank->world ? comm_size(rank->world) - trainer_first_idle(t) : 0)};
    return rank->world ? metrics_log_event(t->log, t->step, "plan", plan, 4) : STATUS_OK;
}

static Status set_up(Trainer *t)
{
    TRY(trainer_find_inputs(t));
    TRY(trainer_find_lengths(t));
    t->metrics = metric_set_create(t->arena, t->options.metrics, t->options.n_metrics, t->m,
                                   t->test ? dataset_squad(t->test) : NULL);
    t->n_results = metric_n_results(t->options.metrics, t->options.n_metrics);
    t->result_names = metric_result_names(t->arena, t->options.metrics, t->options.n_metrics);
    t->samples = ARENA_ARRAY(t->arena, uint64_t, t->options.rows);
    t->shared = ARENA_ARRAY(t->arena, double, N_SHARED + metric_set_n_sums(t->metrics));
    if (t->train)
    {
        t->total_steps = t->options.epochs * sampler_batches_per_epoch(&t->order.sampler, t->options.batch);
        if (t->options.max_steps && t->options.max_steps < t->total_steps)
            t->total_steps = t->options.max_steps;
        t->options.lr.total_steps = t->total_steps;
    }
    if (t->options.from)
    {
        t->step = t->options.from->step;
        t->position = t->options.from->position;
        return open_log(t);
    }
    TRY(trainer_initialise(t));
    if (t->options.weights)
        TRY(trainer_load_weights(t));
    if (t->options.resume && t->options.out_dir)
        TRY(trainer_resume(t));
    else if (t->train && t->options.out_dir)
        TRY(trainer_refuse_used_folder(t));
    return open_log(t);
}

static void fill_in_defaults(TrainerOptions *options)
{
    TrainerRank *rank = &options->rank;
    rank->n_stages = rank->n_stages ? rank->n_stages : 1;
    rank->n_replicas = rank->n_replicas ? rank->n_replicas : 1;
    rank->n_micro = rank->n_micro ? rank->n_micro : 1;
    options->rows = options->rows ? options->rows : options->batch;
}

Status trainer_create(Executor *executor, const IrModule *m, const Dataset *train, const Dataset *test,
                      const TrainerOptions *options, Trainer **out_trainer)
{
    Arena *arena = arena_create();
    Trainer *t = ARENA_NEW(arena, Trainer);
    *t = (Trainer){.arena = arena, .executor = executor, .m = m, .train = train, .test = test, .options = *options};
    fill_in_defaults(&t->options);
    t->rank = t->options.rank.world ? comm_rank(t->options.rank.world) : 0;
    Status status = trainer_agree(t, set_up(t));
    if (status != STATUS_OK)
        trainer_destroy(t);
    else
        *out_trainer = t;
    return status;
}

void trainer_destroy(Trainer *t)
{
    if (!t)
        return;
    trainer_cache_close(t);
    loader_destroy(t->loader);
    metrics_log_close(t->log);
    arena_destroy(t->arena);
}

uint64_t trainer_steps_done(const Trainer *t)
{
    return t->step;
}

bool trainer_paused(const Trainer *t)
{
    return t->paused;
}

void trainer_set_extra(Trainer *t, const char *json)
{
    t->options.extra = json;
}

TrainerPosition trainer_position(const Trainer *t)
{
    return (TrainerPosition){.step = t->step, .position = t->position};
}

MetricsLog *trainer_log(Trainer *t)
{
    return t->log;
}

uint64_t trainer_total_steps(const Trainer *t)
{
    return t->total_steps;
}

/* ---- training */

static Status log_step(Trainer *t, const TrainerStep *s)
{
    uint64_t every = t->options.log_every ? t->options.log_every : 1;
    if (t->options.observer.step)
        t->options.observer.step(t->options.observer.context, s);
    if (!t->log || s->step % every != 0)
        return STATUS_OK;
    Metric rows[METRIC_MAX_RESULTS + 8];
    uint32_t n = 0;
    rows[n++] = METRIC_U64("epoch", s->epoch);
    for (uint32_t i = 0; i < t->n_results; i++)
        if (!isnan(s->results[i]))
            rows[n++] = METRIC_F64(t->result_names[i], s->results[i]);
    rows[n++] = METRIC_F64("lr", s->lr);
    if (!isnan(s->grad_norm))
        rows[n++] = METRIC_F64("grad_norm", s->grad_norm);
    rows[n++] = METRIC_F64("samples_per_s", s->n_samples / s->step_s);
    rows[n++] = METRIC_F64("data_ms", s->data_s * 1e3);
    if (t->options.rank.world)
        rows[n++] = METRIC_F64("bubble", s->bubble);
    return metrics_log_row(t->log, "train", s->step, rows, n);
}

static bool is_signalled(const Trainer *t)
{
    return t->options.stop_flag && *t->options.stop_flag;
}

/* What the first replica knows of the step (the last stage its loss and norm), for all ranks; and whether one of them
 * is to stop. */
static Status read_outputs(Trainer *t, TrainerStep *s)
{
    const TrainerRank *rank = &t->options.rank;
    const uint32_t n_shared = N_SHARED + metric_set_n_sums(t->metrics);
    double *shared = t->shared;
    memset(shared, 0, n_shared * sizeof *shared);
    const bool has_norm = ir_global_find(t->m, "grad_norm") != 0;
    if (rank->replica == 0 && rank->stage + 1 == rank->n_stages)
    {
        TRY(executor_read_scalar(t->executor, "loss", &shared[SHARED_LOSS]));
        if (has_norm)
            TRY(executor_read_scalar(t->executor, "grad_norm", &shared[SHARED_GRAD_NORM]));
    }
    if (rank->replica == 0)
        TRY(metric_set_add_sums(t->metrics, t->executor, shared + N_SHARED));
    shared[SHARED_STOP] = is_signalled(t);
    const ExecutorTimes times = executor_times(t->executor);
    double longest_s = times.pipe_s;
    shared[SHARED_BUSY] = times.pipe_s - times.pipe_wait_s;
    shared[SHARED_REFUSED] = trainer_cache_was_refused(t);
    if (rank->world)
    {
        TRY(comm_all_reduce_f64(rank->world, shared, n_shared, COMM_SUM));
        TRY(comm_all_reduce_f64(rank->world, &longest_s, 1, COMM_MAX));
    }
    s->bubble = longest_s > 0 ? 1 - shared[SHARED_BUSY] / (trainer_first_idle(t) * longest_s) : 0;
    TRY(metric_set_finish(t->metrics, shared + N_SHARED, NULL, s->n_samples, NULL, s->results));
    s->results[0] = shared[SHARED_LOSS];
    s->grad_norm = has_norm ? shared[SHARED_GRAD_NORM] : NAN;
    t->stopped = t->stopped || shared[SHARED_STOP] > 0;
    if (shared[SHARED_REFUSED] > 0)
        trainer_cache_stop_plan(t);
    return STATUS_OK;
}

static void start_batch(Trainer *t, SamplerPosition position)
{
    t->next.started = true;
    t->next.end = position;
    t->next.n_samples = batch_order_next(&t->order, &t->next.end, t->train_feed.indices);
    trainer_feed_start(t, &t->train_feed, t->next.n_samples, position.epoch);
}

/* Whether trainer_run returns for a pause once it is there. */
static bool is_pause(const Trainer *t, uint64_t step, SamplerPosition position)
{
    const TrainerOptions *o = &t->options;
    return (o->pause_steps && step % o->pause_steps == 0) ||
           (o->pause_epochs && position.consumed == 0 && position.epoch % o->pause_epochs == 0);
}

uint64_t trainer_horizon(const Trainer *t)
{
    const TrainerOptions *o = &t->options;
    uint64_t pause = UINT64_MAX;
    if (!o->border_stays && o->pause_steps)
        pause = (t->step / o->pause_steps + 1) * o->pause_steps;
    else if (!o->border_stays && o->pause_epochs)
        pause = (t->position.epoch / o->pause_epochs + 1) * o->pause_epochs *
                sampler_batches_per_epoch(&t->order.sampler, o->batch);
    return pause < t->end ? pause : t->end;
}

/* No batch is made for behind the step under way: it is the last one, or a pause follows. */
static bool ends_here(const Trainer *t, uint64_t end)
{
    return t->step + 1 == end || is_pause(t, t->step + 1, t->next.end);
}

/* While it computes, the batch of the next step is made, if there is one. */
static Status train_step(Trainer *t, uint64_t end)
{
    double start_s = trainer_now_s();
    TrainerStep s = {.total_steps = t->total_steps, .epoch = t->position.epoch, .grad_norm = NAN};
    if (!t->next.started)
        start_batch(t, t->position);
    const SamplerPosition position = t->next.end;
    s.n_samples = t->next.n_samples;
    s.lr = lr_at(&t->options.lr, t->step);
    TRY(fault_at_step(t->rank, t->step + 1));
    t->next.started = false;
    TRY(trainer_feed_finish(t, &t->train_feed));
    TRY(trainer_write_scalars(t, s.lr));
    s.data_s = trainer_now_s() - start_s - t->made_s;
    if (!ends_here(t, end))
        start_batch(t, position);
    executor_set_step(t->executor, t->step + 1);
    if (trainer_is_idle(t))
        comm_set_place(t->options.rank.world, "idle", (int64_t)t->step + 1, -1);
    if (t->options.trace_steps && t->n_steps_here == TRAINER_TRACE_AFTER)
        executor_trace_start(t->executor, TRAINER_TRACE_EVENTS);
    if (t->options.trace_steps && t->n_steps_here == TRAINER_TRACE_AFTER + t->options.trace_steps)
        executor_trace_stop(t->executor);
    t->n_steps_here++;
    Status status = executor_run(t->executor, "train");
    if (status == STATUS_NON_FINITE)
    {
        if (t->log)
            metrics_log_event(t->log, t->step + 1, "non_finite", NULL, 0);
        return status_fail(status, "step %llu: %s; nothing was updated", (unsigned long long)t->step + 1,
                           status_detail());
    }
    TRY(status);
    TRY(read_outputs(t, &s));
    t->position = position;
    s.step = ++t->step;
    s.step_s = trainer_now_s() - start_s;
    return log_step(t, &s);
}

Status trainer_run(Trainer *t, TrainerEval *out_eval)
{
    ENSURE(t->train);
    *out_eval = (TrainerEval){0};
    uint64_t end = t->total_steps;
    if (t->options.stop_after && t->options.stop_after < end)
        end = t->options.stop_after;
    uint64_t checkpoint_step = t->step, eval_step = UINT64_MAX; /* of the last one made */
    t->end = end;
    t->paused = false;
    t->stopped = !t->options.rank.world && is_signalled(t);
    while (t->step < end && !t->stopped && !t->paused)
    {
        TRY(train_step(t, end));
        bool epoch_done = t->position.consumed == 0;
        if (t->test && epoch_done && t->options.eval_every && t->position.epoch % t->options.eval_every == 0)
        {
            TRY(trainer_evaluate_and_log(t, out_eval));
            eval_step = t->step;
        }
        if (t->options.checkpoint_every && t->step % t->options.checkpoint_every == 0)
        {
            TRY(trainer_write_checkpoint(t));
            checkpoint_step = t->step;
        }
        t->paused = t->step < end && is_pause(t, t->step, t->position);
    }
    if (t->paused && !t->stopped)
        return STATUS_OK;
    if (checkpoint_step != t->step)
        TRY(trainer_write_checkpoint(t));
    if (t->stopped)
        return status_fail(STATUS_INTERRUPTED, "stopped by a signal at step %llu%s", (unsigned long long)t->step,
                           t->options.out_dir ? "; the checkpoint is written" : "");
    if (t->test && eval_step != t->step)
        TRY(trainer_evaluate_and_log(t, out_eval));
    return STATUS_OK;
}
