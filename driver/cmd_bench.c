/* ptc bench: times whole training steps, data and all, after a warm-up. */
#include "driver/session.h"

#include <stdlib.h>

static const double mib = 1024.0 * 1024.0;

typedef struct
{
    double *step_ms, *bubble;
    double data_s, step_s; /* totals: waiting for data, all */
    uint32_t n, n_warmup, seen;
    double loss;
} BenchTimes;

static void time_step(void *context, const TrainerStep *step)
{
    BenchTimes *times = context;
    times->loss = step->results[0];
    if (times->seen++ < times->n_warmup)
        return;
    times->data_s += step->data_s;
    times->step_s += step->step_s;
    times->bubble[times->n] = step->bubble;
    times->step_ms[times->n++] = step->step_s * 1e3;
}

static int by_value(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return a < b ? -1 : a > b;
}

static double median(double *values, uint32_t n)
{
    qsort(values, n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* Of the rank that needs most. */
typedef struct
{
    double planned_mib, real_mib;
} Peaks;

static Status largest_peaks(Session *s, Peaks *out_peaks)
{
    double numbers[2] = {(double)session_predicted_bytes(s) / mib, (double)session_real_bytes(s) / mib};
    if (s->ranks.comm.world)
        TRY(comm_all_reduce_f64(s->ranks.comm.world, numbers, 2, COMM_MAX));
    *out_peaks = (Peaks){numbers[0], numbers[1]};
    return STATUS_OK;
}

static void print(const Session *s, BenchTimes *times, const Peaks *peaks)
{
    const bool json = s->options->json;
    double step_ms = median(times->step_ms, times->n), bubble = median(times->bubble, times->n);
    executor_select(s->executor, s->variants.n_shorter); /* the longest */
    double gflops = executor_matmul_flops(s->executor, "train") / 1e9;
    double compile_ms = 1e3 * (s->load_s + s->passes_s + s->kernels_s);
    const char *format = json ? "{\"median_ms\": %.3f, \"min_ms\": %.3f, \"max_ms\": %.3f, \"steps\": %u, "
                                "\"data_share\": %.4f, \"loss\": %.9g, \"compile_ms\": %.1f, \"compile_cached\": %s, "
                                "\"matmul_gflop\": %.3f, \"peak_predicted_mib\": %.1f, \"peak_real_mib\": %.1f"
                              : "step %.2f ms (median; %.2f to %.2f, %u steps), %.4f of it waiting for data, loss "
                                "%.6g\ncompile %.0f ms, from the "
                                "cache: %s; contractions %.2f GFLOP; memory %.1f MiB planned, %.1f MiB real\n";
    printf(format, step_ms, times->step_ms[0], times->step_ms[times->n - 1], times->n, times->data_s / times->step_s,
           times->loss, compile_ms, s->kernels_cached ? "true" : "false", gflops, peaks->planned_mib, peaks->real_mib);
    if (s->ranks.planned)
    {
        const PlanCandidate *c = s->ranks.choice.chosen;
        printf(json ? ", \"stages\": %u, \"replicas\": %u, \"micro_batches\": %u, \"schedule\": \"%s\", "
                      "\"predicted_ms\": %.3f, \"predicted_bubble\": %.4f, \"bubble\": %.4f"
                    : "%u stages x %u replicas, %u micro-batches, %s: predicted step %.2f ms, bubble %.4f; measured "
                      "bubble %.4f\n",
               c->plan.n_stages, c->plan.n_replicas, c->plan.n_micro, pipeline_name(c->plan.schedule), 1e3 * c->step_s,
               c->bubble, bubble);
    }
    if (json)
        printf("}\n");
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
    BenchTimes times = {.step_ms = ARENA_ARRAY(s->arena, double, options.n_steps),
                        .bubble = ARENA_ARRAY(s->arena, double, options.n_steps),
                        .n_warmup = options.n_warmup};
    TrainerObserver observer = {.context = &times, .step = time_step};
    Trainer *trainer;
    TRY(session_trainer(s, &observer, false, NULL, NULL, &trainer));
    session_reset_peak(s);
    if (options.profile)
        executor_profile_start(s->executor);
    TrainerEval none;
    Status status = session_tell_sample(s, trainer_run(trainer, &none));
    double total_steps = (double)trainer_steps_done(trainer);
    trainer_destroy(trainer);
    TRY(status);
    if (times.n < options.n_steps && s->ranks.rank == 0)
        return status_fail(STATUS_BAD_INPUT, "the job has only %.0f steps: --set train.epochs= for more", total_steps);
    Peaks peaks;
    TRY(largest_peaks(s, &peaks));
    if (s->ranks.rank == 0)
        print(s, &times, &peaks);
    if (options.profile && s->ranks.rank == 0)
        session_print_profile(s);
    return session_write_trace(s);
}

Status cmd_bench(Arena *arena, const Options *options)
{
    Session session;
    Status status = session_load(arena, options, &session);
    if (status == STATUS_OK)
        status = bench(&session);
    return session_close(&session, status);
}
