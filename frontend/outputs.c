/* <output>; <loss>, and what it shares with <metric>: weighted sums over the batch, with the batch mask always
 * multiplied in, so that a padded last batch counts only its samples. */
#include "frontend/expand.h"

#include <string.h>

void outputs_prepare(Expander *x)
{
    const int64_t batch = x->job->train.rows;
    ir_global_add(x->m, IR_GLOBAL_INPUT, "batch.mask", ir_type(DT_F32, 1, &batch), NULL, 0, (Span){0});
    x->mask = (Symbol){.name = "mask", .kind = SYM_INPUT, .global = "batch.mask"};
    x->key = (Symbol){.name = "key", .kind = SYM_INPUT, .global = "rng.key"};
    x->sample = (Symbol){.name = "sample", .kind = SYM_INPUT, .global = "batch.sample"};
}

void outputs_set(Expander *x, const XmlElem *e, const char *name, IrValue value)
{
    if (ir_global_find(x->m, name))
        expand_error(x, xml_elem_span(e), NULL, "the name '%s' is not free for an output", name);
    else
    {
        ir_global_add(x->m, IR_GLOBAL_OUTPUT, name, *ir_value_type(x->m, value), NULL, 0, xml_elem_span(e));
        ir_build_set(&x->b, name, value);
    }
}

static IrValue sum_all(Expander *x, IrValue value)
{
    const int64_t axes[IR_MAX_RANK] = {0, 1, 2, 3, 4, 5, 6, 7};
    return ir_build_reduce(&x->b, IR_reduce_sum, value, axes, ir_value_type(x->m, value)->rank);
}

IrValue outputs_operand(Expander *x, const XmlElem *e, const char *attr)
{
    IrValue value;
    if (!expand_operand(x, e, attr, &value))
        return 0;
    const IrType *type = ir_value_type(x->m, value);
    if (type->rank >= 1 && type->dims[0] == x->job->train.rows)
        return value;
    expand_error(x, attr_or_elem_span(e, attr), NULL,
                 "the value is %s: expected one number a sample or a token, [b ...] with b = %lld",
                 expand_shape_text(x->arena, type), (long long)x->job->train.rows);
    return 0;
}

IrValue outputs_weight(Expander *x, const XmlElem *e, IrValue value)
{
    const IrType type = ir_type_with_dtype(*ir_value_type(x->m, value), DT_F32);
    const int64_t first = 0;
    IrValue mask = ir_build_broadcast(&x->b, symbol_value(x, &x->mask), type, &first);
    IrValue weight;
    if (!xml_attr(e, "weight"))
        return mask;
    if (!expand_operand(x, e, "weight", &weight))
        return 0;
    weight = ir_build_cast(&x->b, weight, DT_F32);
    IrValue stretched = ir_build_stretch(&x->b, weight, &type);
    if (stretched)
        return ir_build2(&x->b, IR_mul, mask, stretched);
    expand_error(x, attr_or_elem_span(e, "weight"), NULL, "the weight is %s, the value is %s",
                 expand_shape_text(x->arena, ir_value_type(x->m, weight)), expand_shape_text(x->arena, &type));
    return 0;
}

bool outputs_mean(Expander *x, const XmlElem *e, const char *name, IrValue value, IrValue *out_sum, IrValue *out_weight)
{
    IrValue weight = value ? outputs_weight(x, e, value) : 0;
    if (!weight)
        return false;
    value = ir_build_cast(&x->b, value, DT_F32);
    *out_sum = sum_all(x, ir_build2(&x->b, IR_mul, value, weight));
    *out_weight = sum_all(x, weight);
    outputs_set(x, e, arena_printf(x->arena, "%s.sum", name), *out_sum);
    outputs_set(x, e, arena_printf(x->arena, "%s.weight", name), *out_weight);
    return true;
}

void expand_loss(Expander *x, const XmlElem *e)
{
    IrValue sum, weight;
    if (x->loss)
    {
        expand_error(x, xml_elem_span(e), NULL, "<loss> is there twice");
        diag_note(x->diag, xml_elem_span(x->loss), "it is here too");
        return;
    }
    x->loss = e;
    if (!outputs_mean(x, e, "loss", outputs_operand(x, e, "value"), &sum, &weight))
        return;
    IrValue tiny = ir_build_const(&x->b, ir_type_scalar(DT_F32), 1e-20);
    outputs_set(x, e, "loss", ir_build2(&x->b, IR_div, sum, ir_build2(&x->b, IR_max, weight, tiny)));
}

void expand_output(Expander *x, const XmlElem *e)
{
    const char *name;
    IrValue value;
    if (!attr_name(x, e, "name", &name) || !(value = outputs_operand(x, e, "value")))
        return;
    for (uint32_t i = 0; i < x->outputs.len; i++)
        if (strcmp(x->outputs.data[i], name) == 0)
        {
            expand_error(x, attr_or_elem_span(e, "name"), NULL, "the output '%s' is there already", name);
            return;
        }
    vec_push(x->arena, &x->outputs, name);
    if (!x->with_outputs)
        return;
    if (ir_value_type(x->m, value)->dtype != DT_F32)
        value = ir_build_cast(&x->b, value, DT_I32);
    outputs_set(x, e, arena_printf(x->arena, FRONTEND_OUTPUT_START "%s" FRONTEND_OUTPUT_END, name), value);
}
