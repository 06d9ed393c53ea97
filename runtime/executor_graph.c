/* The parts of a step function that a device replays as graphs. */
#include "runtime/executor_program.h"

static bool needs_host(const Instr *instr)
{
    return instr->kind != DO_LAUNCH && instr->kind != DO_BATCH && instr->kind != DO_GEMM && instr->kind != DO_COPY;
}

/* A single instruction is no less work as a graph. */
void executor_find_segments(const Executor *x, Program *program)
{
    const uint32_t n = program->instrs.len;
    for (uint32_t begin = 0, end; begin < n && hal_device_records(x->device); begin = end + 1)
    {
        end = begin;
        while (end < n && !needs_host(&program->instrs.data[end]))
            end++;
        if (end - begin > 1)
            vec_push(x->arena, &program->segments, (Segment){.begin = begin, .end = end});
    }
    for (uint32_t i = 0; i < program->segments.len && hal_device_names_ranges(x->device); i++)
    {
        Segment *segment = &program->segments.data[i];
        segment->range = arena_printf(x->arena, "%s, ops %u to %u", program->name, segment->begin + 1, segment->end);
    }
}

Segment *executor_find_segment(const Program *program, uint32_t begin)
{
    for (uint32_t i = 0; i < program->segments.len; i++)
        if (program->segments.data[i].begin == begin)
            return &program->segments.data[i];
    return NULL;
}

static Status record(Executor *x, const Program *program, Segment *segment)
{
    Status status = hal_record_begin(x->device);
    for (uint32_t i = segment->begin; i < segment->end && status == STATUS_OK; i++)
        status = executor_run_placed(x, &program->instrs.data[i]);
    if (status == STATUS_OK)
        status = hal_record_end(x->device, &segment->graph);
    if (status != STATUS_OK)
        hal_record_drop(x->device);
    return status;
}

Status executor_run_segment(Executor *x, const Program *program, Segment *segment)
{
    const char *doing = "recording";
    Status status = STATUS_OK;
    if (segment->graph && hal_graph_is_stale(x->device, segment->graph))
    {
        hal_graph_destroy(x->device, segment->graph);
        segment->graph = NULL;
    }
    if (!segment->graph)
        status = record(x, program, segment);
    if (status == STATUS_OK)
    {
        doing = "running";
        if (segment->range)
            hal_range_begin(x->device, segment->range);
        status = hal_graph_run(x->device, segment->graph);
        if (segment->range)
            hal_range_end(x->device);
    }
    if (status == STATUS_OK)
        return status;
    return status_fail(status, "%s @%s (ops %u to %u of %u) as a graph: %s", doing, program->name, segment->begin + 1,
                       segment->end, program->instrs.len, status_detail());
}

void executor_destroy_graphs(const Executor *x, const Program *program)
{
    for (uint32_t i = 0; i < program->segments.len; i++)
        hal_graph_destroy(x->device, program->segments.data[i].graph);
}
