/* Times the ops of a step function in their places, one run per distinct unit: layers that are alike are timed once. */
#include "runtime/executor_program.h"

#include <stdlib.h>
#include <string.h>

enum
{
    N_ROUNDS = 5
};

/* The instructions of one unit, in the order of the program. */
typedef struct
{
    uint32_t unit;
    VEC(const Instr *) instrs;
} UnitInstrs;

static bool same_instr(const Executor *x, const Instr *a, const Instr *b)
{
    return a->kind == b->kind && a->kernel == b->kernel && a->gemm == b->gemm && a->n_bufs == b->n_bufs &&
           a->size_bytes == b->size_bytes && ir_op(x->m, a->op)->phase == ir_op(x->m, b->op)->phase;
}

static bool same_unit(const Executor *x, const UnitInstrs *a, const UnitInstrs *b)
{
    if (a->instrs.len != b->instrs.len)
        return false;
    for (uint32_t i = 0; i < a->instrs.len; i++)
        if (!same_instr(x, a->instrs.data[i], b->instrs.data[i]))
            return false;
    return true;
}

static int by_value(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return a < b ? -1 : a > b;
}

/* Medians over the rounds; the first round only warms up. */
static Status time_unit(Executor *x, const UnitInstrs *unit, Arena *scratch, double *out_seconds)
{
    const uint32_t n = unit->instrs.len;
    double *times = ARENA_ARRAY(scratch, double, n *N_ROUNDS);
    for (int round = -1; round < N_ROUNDS; round++)
        for (uint32_t i = 0; i < n; i++)
        {
            double seconds;
            TRY(hal_mark(x->device, 0));
            TRY(executor_run_instr(x, unit->instrs.data[i]));
            TRY(hal_mark(x->device, 1));
            TRY(hal_mark_seconds(x->device, 0, 1, &seconds));
            if (round >= 0)
                times[i * N_ROUNDS + (uint32_t)round] = seconds;
        }
    for (uint32_t i = 0; i < n; i++)
    {
        qsort(times + i * N_ROUNDS, N_ROUNDS, sizeof *times, by_value);
        out_seconds[unit->instrs.data[i]->op] = times[i * N_ROUNDS + N_ROUNDS / 2];
    }
    return STATUS_OK;
}

Status executor_time_ops(Executor *x, const char *func, double *out_seconds)
{
    const Program *program = executor_find_program(x, func);
    Arena *scratch = arena_create();
    VEC(UnitInstrs) units = {0};
    for (uint32_t i = 0; i < program->instrs.len; i++)
    {
        const Instr *instr = &program->instrs.data[i];
        if (instr->kind != DO_LAUNCH && instr->kind != DO_GEMM && instr->kind != DO_COPY)
            continue;
        uint32_t u = 0;
        while (u < units.len && units.data[u].unit != ir_op(x->m, instr->op)->unit)
            u++;
        if (u == units.len)
            vec_push(scratch, &units, (UnitInstrs){.unit = ir_op(x->m, instr->op)->unit});
        vec_push(scratch, &units.data[u].instrs, instr);
    }
    Status status = STATUS_OK;
    for (uint32_t u = 0; u < units.len && status == STATUS_OK; u++)
    {
        uint32_t twin = 0;
        while (twin < u && !same_unit(x, &units.data[twin], &units.data[u]))
            twin++;
        if (twin == u)
            status = time_unit(x, &units.data[u], scratch, out_seconds);
        else
            for (uint32_t i = 0; i < units.data[u].instrs.len; i++)
                out_seconds[units.data[u].instrs.data[i]->op] = out_seconds[units.data[twin].instrs.data[i]->op];
    }
    arena_destroy(scratch);
    return status;
}
