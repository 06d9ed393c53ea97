/* Learning-rate schedules by schedules.def. */
#include "runtime/lr_schedule.h"

#include <math.h>
#include <string.h>

static double factor_at(LrKind kind, double t, double end)
{
    switch (kind)
    {
#define LR_SCHEDULE(name, code, factor, text)                                                                          \
    case LR_##code:                                                                                                    \
        return factor;
#include "runtime/schedules.def"
#undef LR_SCHEDULE
    case LR_SCHEDULE_COUNT:
        break;
    }
    return 1.0;
}

double lr_at(const LrSchedule *schedule, uint64_t step)
{
    uint64_t warmup = schedule->warmup_steps;
    if (step < warmup)
        return schedule->base_lr * ((double)(step + 1) / (double)warmup);
    double t = 0.0;
    if (schedule->total_steps > warmup)
        t = fmin(1.0, (double)(step - warmup) / (double)(schedule->total_steps - warmup));
    return schedule->base_lr * factor_at(schedule->kind, t, schedule->end_factor);
}

static const char *const names[] = {
#define LR_SCHEDULE(name, code, factor, text) #name,
#include "runtime/schedules.def"
#undef LR_SCHEDULE
};

const char *lr_schedule_name(LrKind kind)
{
    return names[kind];
}

bool lr_schedule_by_name(const char *name, LrKind *out_kind)
{
    for (int i = 0; i < LR_SCHEDULE_COUNT; i++)
        if (strcmp(names[i], name) == 0)
        {
            *out_kind = (LrKind)i;
            return true;
        }
    return false;
}
