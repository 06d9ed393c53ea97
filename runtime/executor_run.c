/* Runs the instructions of a step function: kernels, contractions, copies, checks, communication. On devices that
 * record, what lies between two of them that need the host is a graph. */
#include "runtime/executor_program.h"

#include <math.h>
#include <string.h>

static Status check_finite(Executor *x, const Instr *instr)
{
    if (x->links)
        TRY(executor_sync(x));
    TRY(hal_copy(x->device, HAL_COPY_FROM_DEVICE, x->check, instr->src, instr->size_bytes));
    for (size_t i = 0; i < instr->size_bytes / sizeof *x->check; i++)
        if (!isfinite(x->check[i]))
            return status_fail(STATUS_NON_FINITE, "%s is %f", instr->checked, (double)x->check[i]);
    return STATUS_OK;
}

const Program *executor_find_program(const Executor *x, const char *func)
{
    for (uint32_t i = 0; i < x->now->programs.len; i++)
        if (strcmp(x->now->programs.data[i].name, func) == 0)
            return &x->now->programs.data[i];
    BUG("no step function @%s", func);
}

Status executor_run_instr(Executor *x, const Instr *instr)
{
    switch (instr->kind)
    {
    case DO_LAUNCH:
        return hal_launch(x->device, instr->kernel, instr->bufs, instr->n_bufs);
    case DO_BATCH:
        return hal_batch_launch(x->device, instr->batch);
    case DO_GEMM:
        return hal_gemm_run(x->device, instr->gemm, &instr->args);
    case DO_CHECK_FINITE:
        return check_finite(x, instr);
    case DO_COPY:
        return hal_copy(x->device, HAL_COPY_ON_DEVICE, instr->dst, instr->src, instr->size_bytes);
    case DO_SEND:
    case DO_RECV:
    case DO_ALL_REDUCE:
    case DO_REDUCE:
    case DO_BCAST:
    case DO_WAIT:
        return executor_communicate(x, instr);
    }
    BUG("instruction kind %d", (int)instr->kind);
}

/* Adds the op and its place in the model to what a device has said. What it finds out later is told by a sync, which
 * does not know the op. */
Status executor_run_placed(Executor *x, const Instr *instr)
{
    const Status status = executor_run_instr(x, instr);
    if (status != STATUS_DEVICE && status != STATUS_OUT_OF_MEMORY)
        return status;
    const Span span = ir_op(x->m, instr->op)->span;
    const char *name = instr->place ? instr->place : x->profile.data[instr->profile_row].name;
    if (instr->place && strstr(status_detail(), instr->place))
        return status;
    if (!span.file)
        return status_fail(status, "%s (%s)", status_detail(), name);
    return status_fail(status, "%s (%s, %s:%u:%u)", status_detail(), name, x->m->files.data[span.file - 1], span.line,
                       span.col);
}

static Status run_named(Executor *x, const Instr *instr)
{
    if (instr->range)
        hal_range_begin(x->device, instr->range);
    const Status status = executor_run_placed(x, instr);
    if (instr->range)
        hal_range_end(x->device);
    return status;
}

/* ---- profiles and traces */

static void record_event(Executor *x, const Instr *instr, double start_s, double end_s)
{
    static const char *const parts[] = {"forward", "backward", "optimizer"};
    const IrOpData *data = ir_op(x->m, instr->op);
    if (x->n_events == x->max_events)
        return;
    const char *place = "";
    if (data->span.file)
        place =
            arena_printf(x->arena, "%s:%u:%u", x->m->files.data[data->span.file - 1], data->span.line, data->span.col);
    x->events[x->n_events++] =
        (ExecutorEvent){.name = instr->place ? instr->place : x->profile.data[instr->profile_row].name,
                        .place = place,
                        .part = parts[data->phase],
                        .unit = data->unit,
                        .micro_batch = (int32_t)ir_attrs_int(&data->attrs, IR_ATTR_micro, -1),
                        .waits = instr->place != NULL,
                        .start_s = start_s,
                        .end_s = end_s};
}

static double bytes_of_op(const Executor *x, const Instr *instr)
{
    double of_launches = 0;
    for (uint32_t i = 0; i < instr->n_launches; i++)
        of_launches += bytes_of_op(x, &instr->launches[i]);
    if (instr->n_launches)
        return of_launches;
    const IrOpData *data = ir_op(x->m, instr->op);
    double bytes = 0;
    for (uint32_t i = 0; i < data->n_operands; i++)
        bytes += (double)ir_type_size_bytes(ir_value_type(x->m, data->operands[i]));
    for (uint32_t i = 0; i < data->n_results; i++)
        bytes += (double)ir_type_size_bytes(ir_value_type(x->m, data->results[i]));
    return instr->kind == DO_COPY ? 2 * bytes : bytes;
}

/* Marks before and behind each op, which a device reaches when it reaches the op. */
static Status run_marked(Executor *x, const Program *program, uint32_t i)
{
    TRY(hal_mark(x->device, 2 * i));
    TRY(run_named(x, &program->instrs.data[i]));
    return hal_mark(x->device, 2 * i + 1);
}

/* start_s: when the first mark was taken. */
static Status read_marks(Executor *x, const Program *program, double start_s)
{
    for (uint32_t i = 0; i < program->instrs.len; i++)
    {
        const Instr *instr = &program->instrs.data[i];
        double before_s, own_s;
        TRY(hal_mark_seconds(x->device, 0, 2 * i, &before_s));
        TRY(hal_mark_seconds(x->device, 2 * i, 2 * i + 1, &own_s));
        if (x->tracing)
            record_event(x, instr, start_s + before_s, start_s + before_s + own_s);
        ExecutorProfileRow *row = &x->profile.data[instr->profile_row];
        row->seconds += own_s;
        row->bytes += bytes_of_op(x, instr);
        row->n_runs++;
    }
    return STATUS_OK;
}

/* What the device has waited for other ranks. */
static Status read_waits(Executor *x)
{
    if (x->updating)
        TRY(hal_mark_seconds(x->device, EXECUTOR_MARK_START, EXECUTOR_MARK_UPDATE, &x->times.pipe_s));
    for (uint32_t i = 0; i < x->n_waits; i++)
    {
        const uint32_t mark = EXECUTOR_MARK_WAITS + 2 * i;
        double seconds;
        TRY(hal_mark_seconds(x->device, mark, mark + 1, &seconds));
        *(x->updating && i >= x->n_pipe_waits ? &x->times.update_wait_s : &x->times.pipe_wait_s) += seconds;
    }
    return STATUS_OK;
}

/* ---- a whole function */

static Status begin_update(Executor *x, double start_s)
{
    x->times.pipe_s = executor_now_s(CLOCK_MONOTONIC) - start_s;
    x->updating = true;
    x->n_pipe_waits = x->n_waits;
    return x->marks_waits ? hal_mark(x->device, EXECUTOR_MARK_UPDATE) : STATUS_OK;
}

static Status run_program(Executor *x, const Program *program, bool timed)
{
    const double start_s = executor_now_s(CLOCK_MONOTONIC), start_clock_s = executor_now_s(CLOCK_REALTIME);
    x->n_waits = 0;
    x->marks_waits = x->links && !timed;
    if (x->links)
        TRY(device_links_begin(x->links, program->link, (int64_t)x->step));
    if (x->marks_waits)
        TRY(hal_mark(x->device, EXECUTOR_MARK_START));
    for (uint32_t i = 0, n; i < program->instrs.len; i += n)
    {
        const Instr *instr = &program->instrs.data[i];
        Segment *segment = timed ? NULL : executor_find_segment(program, i);
        n = segment ? segment->end - segment->begin : 1;
        if (!x->updating && i >= program->first_update)
            TRY(begin_update(x, start_s));
        if (segment)
            TRY(executor_run_segment(x, program, segment));
        else if (timed)
            TRY(run_marked(x, program, i));
        else
            TRY(run_named(x, instr));
        if (x->comm)
            TRY(comm_poll(x->comm->world));
    }
    TRY(executor_sync(x));
    if (x->marks_waits)
        TRY(read_waits(x));
    return timed ? read_marks(x, program, start_clock_s) : STATUS_OK;
}

static Status run_function(Executor *x, const char *func)
{
    if (x->env)
        return ir_interp_run(x->env, x->m, ir_func_find(x->m, func));
    const Program *program = executor_find_program(x, func);
    const bool named = hal_device_names_ranges(x->device);
    x->times = (ExecutorTimes){0};
    x->updating = false;
    if (named)
        hal_range_begin(x->device, func);
    const Status status = run_program(x, program, x->profiling || x->tracing);
    if (named)
        hal_range_end(x->device);
    return status;
}

Status executor_run(Executor *x, const char *func)
{
    if (x->stale && ir_func_find(x->m, IR_REFRESH))
        TRY(run_function(x, IR_REFRESH));
    x->stale = false;
    return run_function(x, func);
}
