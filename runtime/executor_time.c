/* Times the ops of a step function in their places: the function runs from its start to its end, so that an op finds in
 * the caches of the processor what it finds there in a step. Layers that are alike have the mean of their times. */
#include "runtime/executor_program.h"

#include <stdlib.h>
#include <string.h>

enum
{
    N_ROUNDS = 5,
    MIN_ROUNDS = 2
};
static const double LONG_S = 1; /* of which no more rounds than these are needed */

typedef struct
{
    const Instr *instr;
    double seconds[N_ROUNDS], median_s;
} Timed;

/* The instructions of one unit, in the order of the program. */
typedef struct
{
    uint32_t unit;
    VEC(Timed *) instrs;
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
        if (!same_instr(x, a->instrs.data[i]->instr, b->instrs.data[i]->instr))
            return false;
    return true;
}

static int by_value(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return a < b ? -1 : a > b;
}

/* Medians over the rounds; the first round only warms up. */
static Status time_all(Executor *x, Timed *timed, uint32_t n)
{
    int n_rounds = 0;
    double all_s = 0;
    for (int round = -1; round < N_ROUNDS && (round < MIN_ROUNDS || all_s < LONG_S); round++)
    {
        for (uint32_t i = 0; i < n; i++)
        {
            double seconds;
            TRY(hal_mark(x->device, 0));
            TRY(executor_run_instr(x, timed[i].instr));
            TRY(hal_mark(x->device, 1));
            TRY(hal_mark_seconds(x->device, 0, 1, &seconds));
            if (round >= 0)
                timed[i].seconds[round] = seconds;
            all_s += seconds;
        }
        n_rounds = round + 1;
    }
    for (uint32_t i = 0; i < n; i++)
    {
        qsort(timed[i].seconds, (size_t)n_rounds, sizeof timed[i].seconds[0], by_value);
        timed[i].median_s = timed[i].seconds[n_rounds / 2];
    }
    return STATUS_OK;
}

/* The mean of units u.. that are alike; none of those before u is. */
static void tell_alike(const Executor *x, const UnitInstrs *units, uint32_t n_units, uint32_t u, double *out_seconds)
{
    uint32_t n_alike = 0;
    for (uint32_t v = u; v < n_units; v++)
        n_alike += same_unit(x, &units[u], &units[v]);
    for (uint32_t i = 0; i < units[u].instrs.len; i++)
    {
        double sum_s = 0;
        for (uint32_t v = u; v < n_units; v++)
            sum_s += same_unit(x, &units[u], &units[v]) ? units[v].instrs.data[i]->median_s : 0;
        for (uint32_t v = u; v < n_units; v++)
            if (same_unit(x, &units[u], &units[v]))
                out_seconds[units[v].instrs.data[i]->instr->op] = sum_s / n_alike;
    }
}

Status executor_time_ops(Executor *x, const char *func, double *out_seconds)
{
    const Program *program = executor_find_program(x, func);
    Arena *scratch = arena_create();
    Timed *timed = ARENA_ARRAY(scratch, Timed, program->instrs.len + 1);
    uint32_t n = 0;
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
        timed[n].instr = instr;
        vec_push(scratch, &units.data[u].instrs, &timed[n++]);
    }
    const Status status = time_all(x, timed, n);
    for (uint32_t u = 0; u < units.len && status == STATUS_OK; u++)
    {
        uint32_t twin = 0;
        while (twin < u && !same_unit(x, &units.data[twin], &units.data[u]))
            twin++;
        if (twin == u)
            tell_alike(x, units.data, units.len, u, out_seconds);
    }
    arena_destroy(scratch);
    return status;
}
