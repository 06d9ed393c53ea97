/* The properties of passes.def as predicates over a module. */
#include "passes/manager.h"

#include <string.h>

static bool sets_global_of(const IrModule *m, IrGlobalKind kind, const char *prefix)
{
    IrFunc train = ir_func_find(m, "train");
    if (!train)
        return false;
    IR_FOR_OPS(m, train, op)
    {
        const IrOpData *data = ir_op(m, op);
        if (data->code != IR_set)
            continue;
        const char *name = ir_attrs_str(&data->attrs, IR_ATTR_global);
        if (strncmp(name, prefix, strlen(prefix)) == 0 && ir_global(m, ir_global_find(m, name))->kind == kind)
            return true;
    }
    return false;
}

static bool has_grads(const IrModule *m)
{
    return sets_global_of(m, IR_GLOBAL_OUTPUT, "grad:");
}

static bool has_updates(const IrModule *m)
{
    return sets_global_of(m, IR_GLOBAL_PARAM, "");
}

static bool is_lowered(const IrModule *m)
{
    IR_FOR_FUNCS(m, f)
    IR_FOR_OPS(m, f, op)
    if (ir_code_has(ir_op(m, op)->code, IR_TRAIT_COMPOSITE))
        return false;
    return true;
}

static bool is_fused(const IrModule *m)
{
    IR_FOR_FUNCS(m, f)
    {
        if (ir_func(m, f)->kind != IR_FUNC_STEP)
            continue;
        IR_FOR_OPS(m, f, op)
        {
            IrCode code = ir_op(m, op)->code;
            if (code != IR_get && code != IR_set && code != IR_reshape && code != IR_call && code != IR_matmul &&
                code != IR_check_finite && code != IR_accumulate && code != IR_send && code != IR_recv &&
                code != IR_all_reduce && code != IR_reduce && code != IR_bcast && code != IR_wait)
                return false;
        }
    }
    return true;
}

static bool is_planned(const IrModule *m)
{
    IR_FOR_FUNCS(m, f)
    {
        if (ir_func(m, f)->kind != IR_FUNC_STEP)
            continue;
        if (!ir_attrs_find(&ir_func(m, f)->attrs, IR_ATTR_arena_bytes))
            return false;
        IR_FOR_OPS(m, f, op)
        {
            const IrOpData *data = ir_op(m, op);
            if (plan_memory_has_buffers(data->code) && !ir_attrs_find(&data->attrs, IR_ATTR_offsets))
                return false;
        }
    }
    return true;
}

const char *pass_property_missing(const IrModule *m, uint32_t properties)
{
    static const struct
    {
        PassProperty bit;
        const char *name;
        bool (*holds)(const IrModule *m);
    } checks[] = {
        {PASS_PROPERTY_GRADS, "GRADS", has_grads},      {PASS_PROPERTY_UPDATES, "UPDATES", has_updates},
        {PASS_PROPERTY_LOWERED, "LOWERED", is_lowered}, {PASS_PROPERTY_FUSED, "FUSED", is_fused},
        {PASS_PROPERTY_PLANNED, "PLANNED", is_planned},
    };
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++)
        if ((properties & checks[i].bit) && !checks[i].holds(m))
            return checks[i].name;
    return NULL;
}
