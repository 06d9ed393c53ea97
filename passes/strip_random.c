#include "passes/strip_random.h"

/* Removes attention's p and stream and the operands key and sample that follow from them. */
static void remove_attention_dropout(IrModule *m, IrOp op)
{
    IrOpData *data = ir_op(m, op);
    if (ir_attrs_float(&data->attrs, IR_ATTR_p, 0) > 0)
        data->n_operands -= 2;
    ir_attrs_remove(&data->attrs, IR_ATTR_p);
    ir_attrs_remove(&data->attrs, IR_ATTR_stream);
}

void strip_random(Arena *scratch, IrModule *m, IrFunc func, uint32_t last_unit)
{
    IrValue *map = ARENA_ARRAY(scratch, IrValue, m->values.len);
    for (IrOp op = ir_func(m, func)->first, next; op; op = next)
    {
        const IrOpData *data = ir_op(m, op);
        next = data->next;
        if (data->unit > last_unit)
            continue;
        if (data->code == IR_attention)
            remove_attention_dropout(m, op);
        else if (data->code == IR_dropout)
        {
            map[data->results[0]] = data->operands[0];
            ir_op_remove(m, op);
        }
    }
    ir_func_replace_values(m, func, map, m->values.len);
}
