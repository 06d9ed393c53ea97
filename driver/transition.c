/* From one plan to the next while the job goes on. */
#include "driver/elastic.h"

#include "driver/session.h"

#include <math.h>

enum
{
    MUCH_MOVED_BYTES = 1 << 20 /* what takes long enough to tell a rate */
};

typedef struct
{
    ElasticTimes times;
    double whole_s;
} Transition;

/* ---- what is told */

static const char *plan_text(const Session *s)
{
    if (!s->ranks.planned)
        return "";
    const Plan *plan = &s->ranks.choice.chosen->plan;
    const char *why = s->ranks.choice.why;
    return arena_printf(s->arena, "; %u stage%s x %u replica%s%s, %u micro-batches, %s%s%s%s", plan->n_stages,
                        plan->n_stages == 1 ? "" : "s", plan->n_replicas, plan->n_replicas == 1 ? "" : "s",
                        ranks_idle_text(s), plan->n_micro, pipeline_name(plan->schedule), *why ? " (" : "", why,
                        *why ? ")" : "");
}

static Status tell(Session *s, const Transition *t, Trainer *trainer, const TrainerObserver *observer)
{
    const Moved *moved = &t->times.moved;
    if (s->ranks.rank != 0)
        return STATUS_OK;
    const Elastic *e = &s->elastic;
    if (observer && observer->note)
        observer->note(observer->context,
                       arena_printf(s->arena,
                                    "step %llu: %u of %u layers frozen (%s)%s; %s%s; %.2f s: compile %.2f s%s, regroup "
                                    "%.2f s, trial %.2f s, copy %.2f s (%s)",
                                    (unsigned long long)trainer_steps_done(trainer), e->frozen, s->job->n_layers,
                                    e->why, plan_text(s), e->cached ? "cached" : "not cached: ",
                                    e->cached ? "" : e->not_cached, t->whole_s, t->times.build_s,
                                    t->times.ahead      ? " (made ahead)"
                                    : s->kernels_cached ? " (kernels cached)"
                                                        : "",
                                    t->times.regroup_s, t->times.trial_s, t->times.copy_s, moved_text(s, moved)));
    MetricsLog *log = trainer_log(trainer);
    if (!log)
        return STATUS_OK;
    const Plan *plan = s->ranks.planned ? &s->ranks.choice.chosen->plan : NULL;
    const Metric rows[] = {METRIC_U64("frozen", e->frozen),
                           METRIC_U64("layers", s->job->n_layers),
                           METRIC_U64("stages", plan ? plan->n_stages : 1),
                           METRIC_U64("replicas", plan ? plan->n_replicas : 1),
                           METRIC_U64("idle", ranks_n_idle(s)),
                           METRIC_U64("micro_batches", plan ? plan->n_micro : 1),
                           METRIC_TEXT("schedule", plan ? pipeline_name(plan->schedule) : ""),
                           METRIC_F64("predicted_step_s", plan ? s->ranks.choice.chosen->step_s : NAN),
                           METRIC_F64("predicted_end_s", plan ? s->ranks.choice.chosen->end_s : NAN),
                           METRIC_TEXT("plan_why", plan ? s->ranks.choice.why : ""),
                           METRIC_U64("cached", e->cached),
                           METRIC_F64("transition_s", t->whole_s),
                           METRIC_F64("compile_s", t->times.build_s),
                           METRIC_U64("ahead", t->times.ahead),
                           METRIC_F64("regroup_s", t->times.regroup_s),
                           METRIC_F64("trial_s", t->times.trial_s),
                           METRIC_F64("copy_s", t->times.copy_s),
                           METRIC_TEXT("moved_by", moved->bytes > 0 ? moved->way : ""),
                           METRIC_F64("moved_bytes", moved->bytes),
                           METRIC_F64("moving_peak_bytes", moved->peak_bytes),
                           METRIC_U64("planned_bytes", (uint64_t)session_predicted_bytes(s))};
    return metrics_log_event(log, trainer_steps_done(trainer), "transition", rows, sizeof rows / sizeof *rows);
}

/* Params and states go to where the compiled programs want them. *out_fits: false when the devices have no room for it;
 * then nothing has moved. */
static Status move(Session *s, ElasticTimes *times, bool *out_fits)
{
    const double start_s = driver_now_s();
    MovePlan *plan;
    const char *lack;
    Status status = move_plan(s, &plan, &lack);
    *out_fits = status == STATUS_OK && !*lack;
    if (*out_fits)
        status = move_tensors(s, plan, times->step, &times->moved);
    else if (status == STATUS_OK && !ranks_stay(s, lack))
        status = status_fail(STATUS_OUT_OF_MEMORY,
                             "the next program does not fit: %s. A smaller batch or more micro-batches "
                             "(--micro-batches) need less",
                             lack);
    move_destroy(plan);
    times->copy_s += driver_now_s() - start_s;
    return status;
}

static Status compile(Session *s, ElasticTimes *times)
{
    double start_s = driver_now_s();
    TRY(ranks_replan(s));
    times->regroup_s += driver_now_s() - start_s;
    start_s = driver_now_s();
    times->ahead = prebuild_take(s->prebuild, s);
    if (!times->ahead)
        TRY(session_compile(s));
    times->build_s += driver_now_s() - start_s;
    return STATUS_OK;
}

static Status build(Session *s, ElasticTimes *times, bool *out_good)
{
    double start_s = driver_now_s();
    TRY(session_build(s));
    times->build_s += driver_now_s() - start_s;
    start_s = driver_now_s();
    TRY(elastic_judge_cache(s, out_good));
    times->trial_s += driver_now_s() - start_s;
    return STATUS_OK;
}

Status elastic_build(Session *s, ElasticTimes *times)
{
    bool good = true;
    elastic_choose_cache(s);
    do
    {
        if (!good)
            TRY(session_unbuild(s));
        good = true;
        TRY(compile(s, times));
        if (s->tensors)
            TRY(move(s, times, &good));
        if (good)
            TRY(build(s, times, &good));
    } while (!good);
    return STATUS_OK;
}

/* What the next decision goes by, the same on every rank. */
static void note_rate(Session *s, const Moved *moved)
{
    if (moved->most_bytes >= MUCH_MOVED_BYTES && moved->most_s > 0)
        s->ranks.moved_bytes_per_s = moved->most_bytes / moved->most_s;
}

static Status go_over(Session *s, Transition *t, const TrainerObserver *observer,
                      const volatile sig_atomic_t *stop_flag, Trainer **trainer)
{
    const TrainerPosition position = trainer_position(*trainer);
    const double begin_s = driver_now_s();
    ranks_hold(s, trainer_total_steps(*trainer) - position.step);
    trainer_destroy(*trainer);
    *trainer = NULL;
    s->tensors = executor_tensors_create();
    TRY(session_unbuild(s));
    t->times.step = position.step;
    t->times.copy_s = driver_now_s() - begin_s;
    TRY(elastic_build(s, &t->times));
    executor_tensors_destroy(s->tensors);
    s->tensors = NULL;
    note_rate(s, &t->times.moved);
    if (s->options->profile)
        executor_profile_start(s->executor);
    TRY(session_trainer(s, observer, true, stop_flag, &position, trainer));
    t->whole_s = driver_now_s() - begin_s;
    return tell(s, t, *trainer, observer);
}

Status elastic_transition(Session *s, const TrainerObserver *observer, const volatile sig_atomic_t *stop_flag,
                          Trainer **trainer)
{
    Transition t = {0};
    const Status status = go_over(s, &t, observer, stop_flag, trainer);
    executor_tensors_destroy(s->tensors);
    s->tensors = NULL;
    return status;
}
