/* Freezes the units 1..`frozen` (attribute of @train), a prefix of the model: their params are no longer trainable, and
 * their forward pass is that of evaluation. Demand-driven differentiation does the rest: nothing there is
 * differentiated, saved, reduced or updated, and the unit behind keeps the gradients of its weights only.
 *
 * A param belongs to the first unit that uses it: a tied one is frozen with that, wherever else it is used. */
#include "passes/manager.h"
#include "passes/strip_random.h"

bool pass_freeze(PassContext *ctx)
{
    IrModule *m = ctx->m;
    IrFunc train = ir_func_find(m, "train");
    const int64_t last = train ? ir_attrs_int(&ir_func(m, train)->attrs, IR_ATTR_frozen, 0) : 0;
    if (last <= 0)
        return true;
    for (IrGlobal g = 1; g < m->globals.len; g++)
    {
        IrGlobalData *global = ir_global(m, g);
        if (global->kind == IR_GLOBAL_PARAM && ir_attrs_int(&global->attrs, IR_ATTR_unit, 1) <= last)
            ir_attrs_put(m->arena, &global->attrs, ir_attr_bool(IR_ATTR_trainable, false));
    }
    strip_random(ctx->scratch, m, train, (uint32_t)last);
    return true;
}
