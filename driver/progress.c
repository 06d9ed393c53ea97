#include "driver/progress.h"

#include "driver/driver.h"

#include <math.h>
#include <unistd.h>

static const double terminal_interval_s = 0.2, plain_interval_s = 5;

Progress progress_make(const char *const *results, uint32_t n_results)
{
    return (Progress){.results = results,
                      .n_results = n_results,
                      .terminal = driver_stdout_is_terminal(),
                      .started_s = driver_now_s(),
                      .last_s = driver_now_s(),
                      .first_step = UINT64_MAX};
}

void progress_finish(Progress *p)
{
    if (p->line_open)
        putchar('\n');
    p->line_open = false;
    fflush(stdout);
}

static void print_time_left(double seconds)
{
    unsigned long left = (unsigned long)(seconds + 0.5);
    if (left >= 3600)
        printf("  %lu:%02lu:%02lu left", left / 3600, left / 60 % 60, left % 60);
    else
        printf("  %lu:%02lu left", left / 60, left % 60);
}

static void on_step(void *context, const TrainerStep *s)
{
    Progress *p = context;
    double now_s = driver_now_s();
    if (p->first_step == UINT64_MAX)
        p->first_step = s->step - 1;
    p->n_samples += s->n_samples;
    for (uint32_t i = 0; i < p->n_results; i++)
        p->sum[i] += s->results[i];
    p->n_steps++;
    p->data_s += s->data_s;
    p->step_s += s->step_s;
    if (s->step != s->total_steps && now_s - p->last_s < (p->terminal ? terminal_interval_s : plain_interval_s))
        return;
    printf("%sepoch %llu  step %llu/%llu", p->terminal ? "\r" : "", (unsigned long long)s->epoch + 1,
           (unsigned long long)s->step, (unsigned long long)s->total_steps);
    for (uint32_t i = 0; i < p->n_results; i++)
        if (!isnan(p->sum[i]))
            printf("  %s %.4f", p->results[i], p->sum[i] / p->n_steps);
    printf("  %.0f samples/s", (double)p->n_samples / (now_s - p->last_s));
    double per_step_s = (now_s - p->started_s) / (double)(s->step - p->first_step);
    print_time_left(per_step_s * (double)(s->total_steps - s->step));
    printf(p->terminal ? "\033[K" : "\n");
    p->line_open = p->terminal;
    fflush(stdout);
    p->last_s = now_s;
    p->n_samples = 0;
    p->n_steps = 0;
    for (uint32_t i = 0; i < p->n_results; i++)
        p->sum[i] = 0;
}

static void on_eval(void *context, uint64_t step, const TrainerEval *eval)
{
    Progress *p = context;
    progress_finish(p);
    printf("step %llu", (unsigned long long)step);
    for (uint32_t i = 0; i < p->n_results; i++)
        printf("  test %s %.4f", p->results[i], eval->results[i]);
    printf("  (%llu samples, %.1f s)\n", (unsigned long long)eval->n_samples, eval->seconds);
    fflush(stdout);
    p->started_s += eval->seconds; /* not training time */
    p->last_s = driver_now_s();
    p->n_samples = 0;
}

static void on_note(void *context, const char *text)
{
    progress_finish(context);
    printf("%s\n", text);
    fflush(stdout);
}

TrainerObserver progress_observer(Progress *p)
{
    return (TrainerObserver){.context = p, .step = on_step, .eval = on_eval, .note = on_note};
}
