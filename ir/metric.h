/* The kinds of metrics (metrics.def): what the outputs of a module that are about one hold. */
#ifndef PTC_IR_METRIC_H
#define PTC_IR_METRIC_H

#include <stdbool.h>
#include <stdint.h>

typedef enum
{
#define METRIC(kind, ...) IR_METRIC_##kind,
#include "ir/metrics.def"
#undef METRIC
    IR_METRIC_COUNT
} IrMetricKind;

/* What it is made of (metrics.def). */
typedef enum
{
    IR_TAKES_VALUE,
    IR_TAKES_RIGHT,
    IR_TAKES_CLASSES,
    IR_TAKES_PAIR,
    IR_TAKES_ROWS,
    IR_TAKES_SPAN
} IrMetricTakes;

enum
{
    IR_METRIC_MAX_RESULTS = 2 /* of one metric */
};

/* False when there is no kind of that name. */
bool ir_metric_by_name(const char *name, IrMetricKind *out_kind);
const char *ir_metric_name(IrMetricKind kind);
IrMetricTakes ir_metric_takes(IrMetricKind kind);
/* What stands behind the metric's name in the name of result i ("" or ".f1"); NULL: it has no such result. */
const char *ir_metric_result(IrMetricKind kind, uint32_t i);
/* Whether it is made of an output NAME.rows, numbers of each sample, instead of sums. */
bool ir_metric_has_rows(IrMetricKind kind);
/* Whether an output of this name is one. */
bool ir_metric_is_rows(const char *name);

#endif
