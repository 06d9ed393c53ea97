/* ptc run, check, eval: from a model file to a trained model, as far as each of them goes. */
#include "base/bug.h"
#include "driver/emit.h"
#include "driver/hf_config.h"
#include "driver/progress.h"
#include "driver/report.h"
#include "driver/run_log.h"
#include "driver/session.h"

#include <math.h>
#include <string.h>

static const double mib = 1024.0 * 1024.0;

/* ---- signals */

static volatile sig_atomic_t stop_flag;

static void on_signal(int signal_number)
{
    stop_flag = 1;
    signal(signal_number, SIG_DFL); /* a second one ends the process at once */
}

static void catch_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGUSR1};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
    {
        struct sigaction action = {.sa_handler = on_signal};
        sigaction(numbers[i], &action, NULL);
    }
}

/* ---- what is printed */

static void print_model(const Session *s)
{
    if (s->ranks.rank != 0)
        return;
    printf("%s: %.2f M parameters", s->job->module->name, (double)s->n_params / 1e6);
    if (s->n_frozen)
        printf(" (%.2f M frozen)", (double)s->n_frozen / 1e6);
    printf(", %u units", s->job->n_units);
    if (s->train)
        printf(", %llu training samples", (unsigned long long)dataset_n_samples(s->train));
    if (s->test)
        printf(", %llu test samples", (unsigned long long)dataset_n_samples(s->test));
    printf("\n");
    if (s->job->hf.dims)
        printf("from '%s', instead of the model's: %s\n", s->job->hf.config, s->job->hf.dims);
}

static void print_compiled(const Session *s)
{
    if (s->ranks.rank != 0)
        return;
    printf("compiled in %.2f s (XML %.2f, passes %.2f, kernels %.2f%s)", s->load_s + s->passes_s + s->kernels_s,
           s->load_s, s->passes_s, s->kernels_s, s->kernels_cached ? " from the cache" : "");
    if (s->variants.n_shorter)
        printf(" for %u lengths", s->variants.n_shorter + 1);
    printf(", %.1f MiB planned\n", (double)session_predicted_bytes(s) / mib);
    if (s->ranks.device_way[0])
        printf("%s\n", s->ranks.device_way);
    fflush(stdout);
}

/* ---- run */

typedef struct
{
    Progress progress;
    TrainerObserver shown; /* of progress, on rank 0 */
    const Session *session;
    SessionMemory memory; /* as of the last pause, or the end */
    /* of this layout: since the last transition */
    uint64_t n_steps;
    double step_s, bubble; /* sums over them */
    int64_t real_bytes;    /* peak of the first ones: before checkpoints are written */
} RunWatch;

enum
{
    N_MEMORY_STEPS = 3,
    MAX_PRINTED_RANKS = 16
};

static void watch_step(void *context, const TrainerStep *step)
{
    RunWatch *watch = context;
    watch->step_s += step->step_s;
    watch->bubble += step->bubble;
    if (watch->n_steps++ < N_MEMORY_STEPS)
        watch->real_bytes = session_real_bytes(watch->session);
    if (watch->shown.step)
        watch->shown.step(watch->shown.context, step);
    prebuild_prepare(watch->session->prebuild);
}

static void watch_eval(void *context, uint64_t step, const TrainerEval *eval)
{
    RunWatch *watch = context;
    watch->shown.eval(watch->shown.context, step, eval);
}

static void watch_note(void *context, const char *text)
{
    RunWatch *watch = context;
    watch->shown.note(watch->shown.context, text);
}

/* How the ranks have done since the last transition, against the plan. */
static void print_plan(const Session *s, const RunWatch *watch)
{
    if (!s->ranks.planned || !watch->n_steps)
        return;
    const PlanCandidate *c = s->ranks.choice.chosen;
    printf("%u stages x %u replicas%s, %u micro-batches, %s: step %.1f ms (predicted %.1f), bubble %.1f %% (predicted "
           "%.1f)\n",
           c->plan.n_stages, c->plan.n_replicas, ranks_idle_text(s), c->plan.n_micro, pipeline_name(c->plan.schedule),
           1e3 * watch->step_s / (double)watch->n_steps, 1e3 * c->step_s, 100 * watch->bubble / (double)watch->n_steps,
           100 * c->bubble);
}

/* Of each rank: what was planned, and what it has really had. */
static void print_memory(const SessionMemory *memory)
{
    const uint32_t n = memory->n_ranks < MAX_PRINTED_RANKS ? memory->n_ranks : MAX_PRINTED_RANKS;
    if (memory->n_ranks == 1 || isnan(memory->real[0]))
        return;
    printf("memory of ranks, MiB planned (real):");
    for (uint32_t r = 0; r < n; r++)
        printf("%s %.1f (%.1f)", r ? "," : "", memory->planned[r] / mib, memory->real[r] / mib);
    printf("%s\n", n < memory->n_ranks ? ", ..." : "");
}

static Status begin_layout(Session *s, RunWatch *watch, Trainer *trainer)
{
    session_reset_peak(s);
    watch->n_steps = 0;
    watch->step_s = watch->bubble = 0;
    watch->real_bytes = 0;
    TRY(session_gather_memory(s, 0, &watch->memory));
    return run_log_layout(s, trainer, &watch->memory);
}

/* To the end, with a decision at every pause about what is frozen from there on. */
static Status run_elastic(Session *s, RunWatch *watch, const TrainerObserver *observer, Trainer **trainer,
                          TrainerEval *eval)
{
    TRY(run_log_start(s, *trainer));
    TRY(begin_layout(s, watch, *trainer));
    for (;;)
    {
        bool changed = false;
        if (elastic_is_due(s, *trainer))
            TRY(elastic_decide(s, *trainer, eval, &changed));
        if (changed)
        {
            TRY(elastic_transition(s, observer, &stop_flag, trainer));
            TRY(begin_layout(s, watch, *trainer));
        }
        prebuild_destroy(s->prebuild);
        s->prebuild = prebuild_start(s, *trainer);
        const Status status = trainer_run(*trainer, eval);
        prebuild_wait(s->prebuild);
        TRY(status);
        TRY(session_gather_memory(s, watch->real_bytes, &watch->memory));
        TRY(run_log_resources(s, *trainer, &watch->memory));
        if (!trainer_paused(*trainer))
            return STATUS_OK;
    }
}

static Status write_report(const Session *s)
{
    if (!s->options->report || s->ranks.rank != 0)
        return STATUS_OK;
    Options to_file = *s->options;
    to_file.output = s->options->report;
    TRY(report_write(s->arena, &to_file, s->options->out_dir));
    printf("report: %s\n", s->options->report);
    return STATUS_OK;
}

static Status train(Session *s)
{
    RunWatch watch = {.progress = progress_make(s->results, s->n_results), .session = s};
    TrainerObserver observer = {.context = &watch, .step = watch_step};
    if (s->ranks.rank == 0)
    {
        watch.shown = progress_observer(&watch.progress);
        observer.eval = watch_eval;
        observer.note = watch_note;
    }
    Trainer *trainer;
    TRY(session_trainer(s, &observer, true, &stop_flag, NULL, &trainer));
    Status status = hf_config_keep(s);
    if (status != STATUS_OK)
    {
        trainer_destroy(trainer);
        return status;
    }
    if (s->options->profile)
        executor_profile_start(s->executor);
    TrainerEval eval = {0};
    status = run_elastic(s, &watch, &observer, &trainer, &eval);
    s->elastic.is_over = status == STATUS_OK && trainer_steps_done(trainer) >= trainer_total_steps(trainer);
    progress_finish(&watch.progress);
    status = session_tell_sample(s, status);
    if (status == STATUS_OK && s->ranks.rank == 0)
    {
        double waited = watch.progress.step_s > 0 ? watch.progress.data_s / watch.progress.step_s : 0;
        printf("done: %llu steps in %.1f s, %.1f %% of it waiting for data; memory %.1f MiB planned",
               (unsigned long long)trainer_steps_done(trainer), watch.progress.step_s, 100 * waited,
               (double)session_predicted_bytes(s) / mib);
        if (watch.real_bytes > 0)
            printf(", %.1f MiB real", (double)watch.real_bytes / mib);
        printf("\n");
        print_memory(&watch.memory);
        print_plan(s, &watch);
        for (uint32_t i = 1; i < s->n_results && eval.n_samples; i++)
            printf("test %s %.4f\n", s->results[i], eval.results[i]);
    }
    if (s->options->profile)
        session_print_profile(s);
    if (status == STATUS_OK)
        status = session_write_trace(s);
    if (status == STATUS_OK)
        status = run_log_end(trainer, watch.progress.step_s, watch.progress.data_s);
    trainer_destroy(trainer);
    return status == STATUS_OK ? write_report(s) : status;
}

static Status run(Session *s)
{
    if (s->options->emit)
    {
        TRY(emit_check(s->options));
        TRY(session_compile_longest(s));
        return emit_module(s->arena, s->m, s->options);
    }
    if (s->options->arch)
        return status_fail(STATUS_USAGE, "--arch goes with --emit=cuda, ptx or cubin: a run compiles for its own GPU");
    if (s->options->resume && !s->options->out_dir)
        return status_fail(STATUS_USAGE, "--resume wants --out, the folder with the checkpoints");
    if (s->options->report && !s->options->out_dir)
        return status_fail(STATUS_USAGE, "--report wants --out, the folder with metrics.jsonl");
    TRY(session_open_data(s));
    if (!s->train)
        return status_fail(STATUS_BAD_INPUT, "'%s' has no training data", s->options->operand);
    print_model(s);
    if (s->elastic.frozen) /* gone on from a checkpoint */
        TRY(elastic_build(s, &(ElasticTimes){0}));
    else
    {
        TRY(session_compile(s));
        TRY(session_build(s));
    }
    print_compiled(s);
    return train(s);
}

Status cmd_run(Arena *arena, const Options *options)
{
    if (!options->emit)
        catch_signals(); /* one that comes while the model is compiled stops the run at its first step */
    Session session;
    Status status = session_load(arena, options, &session);
    if (status == STATUS_OK)
        status = run(&session);
    return session_close(&session, status);
}

/* ---- check */

static Status check(Session *s)
{
    TRY(session_open_data(s));
    TRY(session_verify_data(s));
    TRY(session_compile(s));
    print_model(s);
    printf("%s: ok\n", s->options->operand);
    return STATUS_OK;
}

Status cmd_check(Arena *arena, const Options *options)
{
    Session session;
    Status status = session_load(arena, options, &session);
    if (status == STATUS_OK)
        status = check(&session);
    return session_close(&session, status);
}

/* ---- eval */

static Status evaluate(Session *s)
{
    if (!s->options->out_dir && !s->job->train.weights)
        return status_fail(STATUS_USAGE, "ptc eval wants --out (a folder with checkpoints) or --weights");
    TRY(session_open_data(s));
    if (!s->test)
        return status_fail(STATUS_BAD_INPUT, "'%s' has no test data", s->options->operand);
    TRY(session_compile(s));
    TRY(session_build(s));
    dataset_close(s->train); /* a trainer without training data neither logs nor writes */
    s->train = NULL;
    Progress progress = progress_make(s->results, s->n_results);
    TrainerObserver observer = progress_observer(&progress);
    Trainer *trainer;
    TRY(session_trainer(s, s->ranks.rank == 0 ? &observer : NULL, true, NULL, NULL, &trainer));
    TrainerEval eval;
    Status status = session_tell_sample(s, trainer_evaluate(trainer, &eval));
    if (status == STATUS_OK && s->ranks.rank == 0)
        observer.eval(observer.context, trainer_steps_done(trainer), &eval);
    if (s->options->profile)
        session_print_profile(s);
    trainer_destroy(trainer);
    return status;
}

Status cmd_eval(Arena *arena, const Options *options)
{
    Session session;
    Options here = *options;
    here.resume = options->out_dir != NULL;
    Status status = session_load(arena, &here, &session);
    if (status == STATUS_OK)
        status = evaluate(&session);
    return session_close(&session, status);
}
