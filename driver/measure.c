/* Costs of units: every op of one micro-batch is timed, or modelled, and summed up by unit. Measured numbers are kept
 * in a file beside the cached kernels that they belong to. */
#include "driver/measure.h"

#include "runtime/durable_file.h"
#include "runtime/pool.h"

#include <string.h>

/* The program of one rank and one micro-batch, through the whole pipeline. */
static Status compile_reference(Session *s, uint32_t n_micro, Arena **out_arena, IrModule **out_module)
{
    TRY(session_load_job(s, n_micro));
    IrModule *m = s->job->module;
    IrAttrs *attrs = &ir_func(m, ir_func_find(m, "train"))->attrs;
    ir_attrs_remove(attrs, IR_ATTR_frozen); /* what that saves is known without measuring: cost_freeze */
    ir_attrs_remove(attrs, IR_ATTR_cached);
    if (n_micro > 1)
    {
        ir_attrs_put(m->arena, attrs, ir_attr_int(IR_ATTR_micro_batches, n_micro));
        ir_attrs_put(m->arena, attrs, ir_attr_str(IR_ATTR_order, "F0 B0"));
    }
    *out_arena = arena_create();
    *out_module = ir_module_clone(*out_arena, m);
    PassOptions options = {.verify_each = s->options->pass_options.verify_each};
    Status status = pass_manager_run(out_arena, out_module, s->diag, pass_pipeline_default, &options);
    if (status != STATUS_OK)
        arena_destroy(*out_arena);
    return status;
}

/* ---- measuring */

enum
{
    N_RANK_NUMBERS = 4,
    N_UNIT_NUMBERS = 4
};

/* Of the time that measuring took, what it waited for a core: more of it and other processes were in the way. */
static const double CALM_SHARE = 0.05;

/* The numbers that are measured, as one list: that share, rates of link and sums, making a program, then times per
 * unit.
 */
static void pack(double waited_share, const Ranks *ranks, const UnitCost *costs, uint32_t n_units, double *out_numbers)
{
    *out_numbers++ = waited_share;
    *out_numbers++ = ranks->machine.link_bytes_per_s;
    *out_numbers++ = ranks->machine.sum_bytes_per_s;
    *out_numbers++ = ranks->remake_s;
    for (uint32_t u = 0; u <= n_units; u++)
    {
        *out_numbers++ = costs[u].forward_s;
        *out_numbers++ = costs[u].backward_s;
        *out_numbers++ = costs[u].weight_s;
        *out_numbers++ = costs[u].update_s;
    }
}

static void unpack(const double *numbers, Ranks *ranks, UnitCost *costs, uint32_t n_units)
{
    numbers++; /* the share */
    ranks->machine.link_bytes_per_s = *numbers++;
    ranks->machine.sum_bytes_per_s = *numbers++;
    ranks->remake_s = *numbers++;
    for (uint32_t u = 0; u <= n_units; u++)
    {
        costs[u].forward_s = *numbers++;
        costs[u].backward_s = *numbers++;
        costs[u].weight_s = *numbers++;
        costs[u].update_s = *numbers++;
    }
}

/* Seconds that this thread could have run and had no core; 0 where the system does not count them. */
static double core_wait_s(void)
{
    FILE *file = fopen("/proc/thread-self/schedstat", "r");
    double ran_ns, waited_ns = 0;
    if (file && fscanf(file, "%lf %lf", &ran_ns, &waited_ns) != 2)
        waited_ns = 0;
    if (file)
        fclose(file);
    return waited_ns * 1e-9;
}

/* Ranks of this host that have a core for each of their threads at the same time. */
static uint32_t n_at_once(const Session *s)
{
    const int threads = ranks_threads(s);
    return threads < pool_n_cores() ? (uint32_t)(pool_n_cores() / (threads > 0 ? threads : pool_n_cores())) : 1;
}

/* All of them have, so that whoever waits for a core waits for others. */
static bool has_cores(const Session *s)
{
    const Comm *world = s->ranks.comm.world;
    return (world ? comm_local_size(world) : 1) <= n_at_once(s);
}

static Status time_ops(Session *s, const IrModule *m, const char *kernels_path, double *out_seconds)
{
    const HalOptions options = session_hal_options(s);
    HalDevice *device;
    Executor *executor = NULL;
    TRY(hal_device_create(s->options->device, &options, &device));
    const ExecutorModule module = {.m = m, .kernels_path = kernels_path};
    const double start_s = driver_now_s();
    Status status = executor_create(device, &module, 1, NULL, NULL, &executor);
    s->ranks.remake_s += driver_now_s() - start_s;
    if (status == STATUS_OK)
        status = executor_time_ops(executor, "train", out_seconds);
    executor_destroy(executor);
    hal_device_destroy(device);
    return status;
}

/* All ranks at the same time, as they will compute; where cores are lacking, as many as have one, in turns: what
 * sharing them costs depends on the plan. */
static Status time_in_turns(Session *s, const IrModule *m, const char *kernels_path, double *out_seconds,
                            double *out_waited_share)
{
    Comm *world = s->ranks.comm.world;
    const uint32_t n_here = world ? comm_local_size(world) : 1,
                   turn = (world ? comm_local_rank(world) : 0) / n_at_once(s);
    double n_turns = (n_here + n_at_once(s) - 1) / n_at_once(s);
    if (world)
        TRY(comm_all_reduce_f64(world, &n_turns, 1, COMM_MAX));
    for (uint32_t i = 0; i < (uint32_t)n_turns; i++)
    {
        if (world)
            TRY(comm_barrier(world));
        if (i != turn)
            continue;
        const double start_s = driver_now_s(), waited_s = core_wait_s();
        TRY(time_ops(s, m, kernels_path, out_seconds));
        *out_waited_share = (core_wait_s() - waited_s) / (driver_now_s() - start_s);
    }
    return STATUS_OK;
}

/* ---- the file beside the cached kernels */

static const char *costs_path(Session *s, const char *kernels_path)
{
    const int stem = (int)(strrchr(kernels_path, '.') - kernels_path);
    return arena_printf(s->arena, "%.*s-%u-ranks-%d-threads%s.costs", stem, kernels_path, s->ranks.size,
                        ranks_threads(s), has_cores(s) ? "" : "-in-turns");
}

/* False when there is no such file, or it is no list of n numbers. */
static bool read_costs(const char *path, double *numbers, uint32_t n)
{
    FILE *file = fopen(path, "r");
    bool ok = file != NULL;
    for (uint32_t i = 0; ok && i < n; i++)
        ok = fscanf(file, "%lf", &numbers[i]) == 1 && numbers[i] >= 0;
    if (file)
        fclose(file);
    return ok;
}

static Status write_costs(Session *s, const char *path, const double *numbers, uint32_t n)
{
    StrBuf text = strbuf_make(s->arena);
    for (uint32_t i = 0; i < n; i++)
        strbuf_addf(&text, "%.17g\n", numbers[i]);
    return durable_file_put(path, strbuf_text(&text), text.len, NULL);
}

/* Rank 0 says whether it has the numbers, from a time when the machine was calm; else all measure and take the mean. */
static Status measure(Session *s, const IrModule *m, UnitCost *costs)
{
    Comm *world = s->ranks.comm.world;
    const uint32_t n_units = s->job->n_units, n = N_RANK_NUMBERS + N_UNIT_NUMBERS * (n_units + 1);
    double *numbers = ARENA_ARRAY(s->arena, double, n + 1);
    HalKernelFile kernels;
    TRY(hal_kernels_build(s->arena, s->options->device, &m, 1, 1, &kernels));
    const char *path = costs_path(s, kernels.path);
    numbers[n] = s->ranks.rank == 0 && read_costs(path, numbers, n) && numbers[0] < CALM_SHARE;
    if (world)
        TRY(comm_broadcast(world, 0, numbers, sizeof *numbers * (n + 1)));
    s->ranks.costs_from = "measured earlier";
    if (numbers[n] == 0)
    {
        double *seconds = ARENA_ARRAY(s->arena, double, m->ops.len), waited_share = 0;
        TRY(time_in_turns(s, m, kernels.path, seconds, &waited_share));
        cost_units(s->arena, m, seconds, &s->ranks.machine, n_units, costs);
        if (world)
            TRY(measure_link(s, &s->ranks.machine));
        pack(waited_share, &s->ranks, costs, n_units, numbers);
        if (world)
            TRY(comm_all_reduce_f64(world, numbers, n, COMM_SUM));
        for (uint32_t i = 0; world && i < n; i++)
            numbers[i] /= comm_size(world);
        if (s->ranks.rank == 0)
            TRY(write_costs(s, path, numbers, n));
        s->ranks.costs_from = numbers[0] < CALM_SHARE ? "measured" : "measured while other processes ran";
    }
    unpack(numbers, &s->ranks, costs, n_units);
    if (!has_cores(s))
        s->ranks.machine.n_cores = (double)n_at_once(s) * s->ranks.size / comm_local_size(world);
    return STATUS_OK;
}

Status measure_costs(Session *s, uint32_t n_micro)
{
    const char *how = s->options->costs ? s->options->costs : s->ranks.comm.world ? "measured" : "model";
    if (strcmp(how, "measured") != 0 && strcmp(how, "model") != 0)
        return status_fail(STATUS_USAGE, "--costs wants measured or model, not '%s'", how);
    Arena *arena;
    IrModule *m;
    const double start_s = driver_now_s();
    TRY(compile_reference(s, n_micro, &arena, &m));
    s->ranks.remake_s = driver_now_s() - start_s;
    UnitCost *costs = ARENA_ARRAY(s->arena, UnitCost, s->job->n_units + 1);
    s->ranks.costs = costs;
    s->ranks.cost_rows = (uint32_t)s->job->train.rows;
    s->ranks.machine = cost_machine_default(ranks_threads(s));
    s->ranks.costs_from = "modelled";
    cost_units(arena, m, NULL, &s->ranks.machine, s->job->n_units, costs);
    Status status = strcmp(how, "measured") == 0 ? measure(s, m, costs) : STATUS_OK;
    arena_destroy(arena);
    return status;
}

Status measure_described(Session *s, uint32_t n_micro, const CostMachine *machine, UnitCost **out_costs,
                         UnitCost **out_starts)
{
    Arena *arena;
    IrModule *m;
    TRY(compile_reference(s, n_micro, &arena, &m));
    const uint32_t n_units = s->job->n_units;
    CostMachine at_once = *machine;
    UnitCost *costs = ARENA_ARRAY(s->arena, UnitCost, n_units + 1);
    UnitCost *starts = ARENA_ARRAY(s->arena, UnitCost, n_units + 1);
    at_once.op_s = 0;
    cost_units(arena, m, NULL, machine, n_units, starts);
    cost_units(arena, m, NULL, &at_once, n_units, costs);
    for (uint32_t u = 0; u <= n_units; u++)
        starts[u] = (UnitCost){.forward_s = starts[u].forward_s - costs[u].forward_s,
                               .backward_s = starts[u].backward_s - costs[u].backward_s,
                               .weight_s = starts[u].weight_s - costs[u].weight_s,
                               .update_s = starts[u].update_s - costs[u].update_s};
    arena_destroy(arena);
    *out_costs = costs;
    *out_starts = starts;
    return STATUS_OK;
}
