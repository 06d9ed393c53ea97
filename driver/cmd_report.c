/* ptc report: a page about a run, made from its metrics.jsonl: also of one that goes on, or was killed. */
#include "driver/driver.h"
#include "driver/report.h"

Status cmd_report(Arena *arena, const Options *options)
{
    return report_write(arena, options, options->operand);
}
