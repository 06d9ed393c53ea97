#include "passes/movable.h"

static bool is_movable(const IrModule *m, const IrOpData *op, const bool *movable)
{
    if (op->code == IR_const || op->code == IR_iota)
        return true;
    if (op->code == IR_get)
        return ir_global(m, ir_global_find(m, ir_attrs_str(&op->attrs, IR_ATTR_global)))->kind == IR_GLOBAL_INPUT;
    if (!ir_code_has(op->code, IR_TRAIT_EWISE | IR_TRAIT_VIEW))
        return false;
    for (uint32_t i = 0; i < op->n_operands; i++)
        if (!movable[op->operands[i]])
            return false;
    return true;
}

void movable_values(const IrModule *m, IrFunc func, bool *out_movable)
{
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData *data = ir_op(m, op);
        const bool movable = data->n_results > 0 && is_movable(m, data, out_movable);
        for (uint32_t i = 0; i < data->n_results; i++)
            out_movable[data->results[i]] = movable;
    }
}
