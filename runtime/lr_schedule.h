/* Learning-rate schedules: a pure function of the step, so a resumed or re-planned run has the same rates. */
#ifndef PTC_RUNTIME_LR_SCHEDULE_H
#define PTC_RUNTIME_LR_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum
{
#define LR_SCHEDULE(name, code, factor, text) LR_##code,
#include "runtime/schedules.def"
#undef LR_SCHEDULE
    LR_SCHEDULE_COUNT
} LrKind;

typedef struct
{
    LrKind kind;
    double base_lr;
    uint64_t warmup_steps; /* a line up to base_lr in front of the schedule; 0 = none */
    uint64_t total_steps;  /* with the warm-up; later steps keep the last step's rate */
    double end_factor;     /* of base_lr, reached at step total_steps */
} LrSchedule;

/* The rate of update number `step`, which counts from 0:
 *   step < warmup:  base_lr * (step + 1) / warmup
 *   else            base_lr * factor(t), t = min(1, (step - warmup) / (total - warmup)), 0 when total <= warmup */
double lr_at(const LrSchedule *schedule, uint64_t step);

const char *lr_schedule_name(LrKind kind);
/* False when there is no schedule of that name. */
bool lr_schedule_by_name(const char *name, LrKind *out_kind);

#endif
