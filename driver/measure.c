/* Costs of units. */
#include "driver/measure.h"

#include "base/bug.h"

#include <string.h>

/* The program of one rank and one micro-batch, through the whole pipeline. */
static Status compile_reference(Session *s, uint32_t n_micro, Arena **out_arena, IrModule **out_module)
{
    TRY(session_load_job(s, n_micro));
    IrModule *m = s->job->module;
    IrAttrs *attrs = &ir_func(m, ir_func_find(m, "train"))->attrs;
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

Status measure_costs(Session *s, uint32_t n_micro)
{
    Arena *arena;
    IrModule *m;
    TRY(compile_reference(s, n_micro, &arena, &m));
    UnitCost *costs = ARENA_ARRAY(s->arena, UnitCost, s->job->n_units + 1);
    s->ranks.machine = cost_machine_default(s->options->n_threads);
    cost_units(arena, m, NULL, &s->ranks.machine, s->job->n_units, costs);
    s->ranks.costs = costs;
    s->ranks.cost_rows = (uint32_t)s->job->train.rows;
    s->ranks.costs_from = "modelled";
    arena_destroy(arena);
    return STATUS_OK;
}
