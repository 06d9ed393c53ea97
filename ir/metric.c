#include "ir/metric.h"

#include <string.h>

static const struct
{
    const char *name;
    IrMetricTakes takes;
    const char *results[IR_METRIC_MAX_RESULTS];
} kinds[IR_METRIC_COUNT] = {
#define RESULTS(...)                                                                                                   \
    {                                                                                                                  \
        __VA_ARGS__                                                                                                    \
    }
#define METRIC(kind, takes, sums, finish, results, text) {#kind, IR_TAKES_##takes, results},
#include "ir/metrics.def"
#undef METRIC
#undef RESULTS
};

bool ir_metric_by_name(const char *name, IrMetricKind *out_kind)
{
    for (int i = 0; i < IR_METRIC_COUNT; i++)
        if (strcmp(kinds[i].name, name) == 0)
        {
            *out_kind = (IrMetricKind)i;
            return true;
        }
    return false;
}

const char *ir_metric_name(IrMetricKind kind)
{
    return kinds[kind].name;
}

IrMetricTakes ir_metric_takes(IrMetricKind kind)
{
    return kinds[kind].takes;
}

const char *ir_metric_result(IrMetricKind kind, uint32_t i)
{
    return i < IR_METRIC_MAX_RESULTS ? kinds[kind].results[i] : NULL;
}

bool ir_metric_has_rows(IrMetricKind kind)
{
    return kinds[kind].takes == IR_TAKES_ROWS || kinds[kind].takes == IR_TAKES_SPAN;
}

bool ir_metric_is_rows(const char *name)
{
    const char *end = strrchr(name, '.');
    return end && strcmp(end, ".rows") == 0;
}
