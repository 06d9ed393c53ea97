/* ptc bench: times whole training steps, data and all, after a warm-up. */
#include "driver/session.h"

#include <stdlib.h>

static const double mib = 1024.0 * 1024.0;

typedef struct
{
    double *step_ms;
    uint32_t n, n_warmup, seen;
    double loss;
} BenchTimes;

static void time_step(void *context, const TrainerStep *step)
{
    BenchTimes *times = context;
    times->loss = step->loss;
    if (times->seen++ >= times->n_warmup)
        times->step_ms[times->n++] = step->step_s * 1e3;
}

static int by_value(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return a < b ? -1 : a > b;
}

static Status bench(Session *s)
{
    Options options = *s->options;
    options.stop_after = options.n_steps + options.n_warmup;
    s->options = &options;
    if (options.n_steps == 0)
        return status_fail(STATUS_USAGE, "--steps wants at least 1");
    TRY(session_open_data(s));
    dataset_close(s->test);
    s->test = NULL;
    if (!s->train)
        return status_fail(STATUS_BAD_INPUT, "'%s' has no training data", options.operand);
    TRY(session_compile(s));
    TRY(session_build(s));
    BenchTimes times = {.step_ms = ARENA_ARRAY(s->arena, double, options.n_steps), .n_warmup = options.n_warmup};
    TrainerObserver observer = {.context = &times, .step = time_step};
    Trainer *trainer;
    TRY(session_trainer(s, &observer, false, NULL, &trainer));
    session_reset_peak();
    if (options.profile)
        executor_profile_start(s->executor);
    TrainerEval none;
    Status status = trainer_run(trainer, &none);
    double total_steps = (double)trainer_steps_done(trainer);
    trainer_destroy(trainer);
    TRY(status);
    if (times.n < options.n_steps)
        return status_fail(STATUS_BAD_INPUT, "the job has only %.0f steps: --set train.epochs= for more", total_steps);
    qsort(times.step_ms, times.n, sizeof *times.step_ms, by_value);
    double median =
        times.n % 2 ? times.step_ms[times.n / 2] : (times.step_ms[times.n / 2 - 1] + times.step_ms[times.n / 2]) / 2;
    double gflops = executor_matmul_flops(s->executor, "train") / 1e9;
    double compile_ms = 1e3 * (s->load_s + s->passes_s + s->kernels_s);
    const char *format = options.json
                             ? "{\"median_ms\": %.3f, \"min_ms\": %.3f, \"max_ms\": %.3f, \"steps\": %u, "
                               "\"loss\": %.9g, \"compile_ms\": %.1f, \"compile_cached\": %s, "
                               "\"matmul_gflop\": %.3f, \"peak_predicted_mib\": %.1f, \"peak_real_mib\": %.1f}\n"
                             : "step %.2f ms (median; %.2f to %.2f, %u steps), loss %.6g\ncompile %.0f ms, from the "
                               "cache: %s; contractions %.2f GFLOP; memory %.1f MiB planned, %.1f MiB real\n";
    printf(format, median, times.step_ms[0], times.step_ms[times.n - 1], times.n, times.loss, compile_ms,
           s->kernels_cached ? "true" : "false", gflops, (double)session_predicted_bytes(s) / mib,
           (double)session_real_bytes(s) / mib);
    if (options.profile)
        session_print_profile(s);
    return STATUS_OK;
}

Status cmd_bench(Arena *arena, const Options *options)
{
    Session session;
    Status status = session_load(arena, options, &session);
    if (status == STATUS_OK)
        status = bench(&session);
    return session_close(&session, status);
}
