/* metrics.jsonl: one JSON object a line, {"split": "train"|"eval"|"event", "step": n, ...}.
 *
 * The first row is {"split":"event","step":0,"event":"start","schema":1}. `step` is the number of optimizer steps done
 * when the row was made. Every row is one write to the file, so a kill loses at most the row being written. Numbers
 * read back as the same f64; what is not finite is written as null. */
#ifndef PTC_RUNTIME_METRICS_LOG_H
#define PTC_RUNTIME_METRICS_LOG_H

#include "base/status.h"

#include <stdint.h>

enum
{
    METRICS_SCHEMA_VERSION = 1
};

typedef struct MetricsLog MetricsLog;

typedef enum
{
    METRIC_KIND_F64,
    METRIC_KIND_U64,
    METRIC_KIND_TEXT,
    METRIC_KIND_F64S
} MetricKind;

typedef struct
{
    const char *key;
    MetricKind kind;
    double f64;
    uint64_t u64;
    const char *text;   /* UTF-8 */
    const double *f64s; /* n of them: a list */
    uint32_t n;
} Metric;

#define METRIC_F64(name, value) ((Metric){.key = (name), .kind = METRIC_KIND_F64, .f64 = (value)})
#define METRIC_U64(name, value) ((Metric){.key = (name), .kind = METRIC_KIND_U64, .u64 = (value)})
#define METRIC_F64S(name, values, count)                                                                               \
    ((Metric){.key = (name), .kind = METRIC_KIND_F64S, .f64s = (values), .n = (count)})
#define METRIC_TEXT(name, value) ((Metric){.key = (name), .kind = METRIC_KIND_TEXT, .text = (value)})

/* A new file (one that is there is replaced) with its first row. */
Status metrics_log_create(const char *path, MetricsLog **out_log);
/* Goes on after a resume from `step`: rows of later steps and a torn last line are taken out (the file is replaced in
 * one rename), so that the file describes one run. So are the n_redone events of these names that stand behind the
 * event "checkpoint" of that step: they come again. A missing file is created. */
Status metrics_log_resume(const char *path, uint64_t step, const char *const *redone, uint32_t n_redone,
                          MetricsLog **out_log);
/* NULL is allowed. */
void metrics_log_close(MetricsLog *log);

/* {"split": split, "step": step, metrics...}, in this order. */
Status metrics_log_row(MetricsLog *log, const char *split, uint64_t step, const Metric *metrics, uint32_t n_metrics);
/* {"split": "event", "step": step, "event": event, metrics...} */
Status metrics_log_event(MetricsLog *log, uint64_t step, const char *event, const Metric *metrics, uint32_t n_metrics);

#endif
