/* What a run shows while it trains: one rewritten line on a terminal, otherwise a line every few seconds. */
#ifndef PTC_DRIVER_PROGRESS_H
#define PTC_DRIVER_PROGRESS_H

#include "runtime/trainer.h"

typedef struct
{
    const char *const *results; /* names */
    uint32_t n_results;
    bool terminal;
    double started_s, last_s;
    uint64_t first_step;            /* steps done before this run; UINT64_MAX until the first step */
    uint64_t n_samples;             /* since last_s */
    double sum[METRIC_MAX_RESULTS]; /* over the steps since last_s */
    uint32_t n_steps;
    double data_s, step_s; /* totals */
    bool line_open;
} Progress;

/* results: the names (metric_result_names), which must outlive it. */
Progress progress_make(const char *const *results, uint32_t n_results);
TrainerObserver progress_observer(Progress *progress);
/* Ends a line that is still being rewritten. */
void progress_finish(Progress *progress);

#endif
