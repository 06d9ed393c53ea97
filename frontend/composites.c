/* The composites: ops with closed-form gradients that the fuser knows. */
#include "frontend/expand.h"

#include <math.h>

void expand_softmax(Expander *x, const XmlElem *e)
{
    IrValue value;
    uint32_t n;
    bool ok = expand_operands(x, e, 1, 1, &value, &n);
    expand_result(x, e, ok ? expand_op(x, e, IR_softmax, NULL, &value, 1, NULL, 0) : 0);
}

static void expand_norm(Expander *x, const XmlElem *e, IrCode code, uint32_t n_operands)
{
    IrValue operands[3], value = 0;
    uint32_t n;
    double eps;
    if (expand_operands(x, e, n_operands, n_operands, operands, &n) && attr_float(x, e, "eps", 0, 1, &eps))
    {
        IrAttr attr = ir_attr_float(IR_ATTR_eps, eps);
        value = expand_op(x, e, code, NULL, operands, n, &attr, 1);
    }
    expand_result(x, e, value);
}

void expand_layer_norm(Expander *x, const XmlElem *e)
{
    expand_norm(x, e, IR_layer_norm, 3);
}

void expand_rms_norm(Expander *x, const XmlElem *e)
{
    expand_norm(x, e, IR_rms_norm, 2);
}

void expand_random_operands(Expander *x, IrValue *out_key, IrValue *out_sample, int64_t *out_stream)
{
    if (!ir_global_find(x->m, "rng.key"))
    {
        const int64_t two = 2, batch = x->job->train.rows;
        ir_global_add(x->m, IR_GLOBAL_INPUT, "rng.key", ir_type(DT_I32, 1, &two), NULL, 0, (Span){0});
        ir_global_add(x->m, IR_GLOBAL_INPUT, "batch.sample", ir_type(DT_I32, 1, &batch), NULL, 0, (Span){0});
    }
    *out_key = symbol_value(x, &x->key);
    *out_sample = symbol_value(x, &x->sample);
    *out_stream = ++x->n_streams;
}

static bool want_batch_axis(Expander *x, const XmlElem *e, IrValue value)
{
    const IrType *type = ir_value_type(x->m, value);
    if (type->rank >= 1 && type->dims[0] == x->job->train.rows)
        return true;
    expand_error(x, xml_elem_span(e), NULL, "the first axis of %s is not the batch: dropout needs it",
                 expand_shape_text(x->arena, type));
    return false;
}

void expand_dropout(Expander *x, const XmlElem *e)
{
    IrValue operands[3], value = 0;
    uint32_t n;
    double p;
    if (expand_operands(x, e, 1, 1, operands, &n) && attr_float(x, e, "p", 0, 0.999, &p))
    {
        value = operands[0];
        if (p > 0 && want_batch_axis(x, e, value))
        {
            int64_t stream;
            expand_random_operands(x, &operands[1], &operands[2], &stream);
            const IrAttr attrs[] = {ir_attr_float(IR_ATTR_p, p), ir_attr_int(IR_ATTR_stream, stream)};
            value = expand_op(x, e, IR_dropout, NULL, operands, 3, attrs, 2);
        }
    }
    expand_result(x, e, value);
}

void expand_cross_entropy(Expander *x, const XmlElem *e)
{
    IrValue operands[2];
    uint32_t n;
    bool ok = expand_operands(x, e, 2, 2, operands, &n);
    expand_result(x, e, ok ? expand_op(x, e, IR_cross_entropy, NULL, operands, 2, NULL, 0) : 0);
}

static IrValue make_attention(Expander *x, const XmlElem *e, IrValue *operands, uint32_t n)
{
    const IrType *q = ir_value_type(x->m, operands[0]);
    bool causal, has_bias = n == 4;
    int64_t window;
    double p, scale = q->rank == 4 ? 1 / sqrt((double)q->dims[3]) : 1;
    if (!attr_float(x, e, "scale", -1e6, 1e6, &scale) || !attr_bool(x, e, "causal", &causal) ||
        !attr_int(x, e, "window", 0, INT32_MAX, &window) || !attr_float(x, e, "dropout", 0, 0.999, &p))
        return 0;
    IrAttr attrs[6];
    uint32_t n_attrs = 0;
    attrs[n_attrs++] = ir_attr_float(IR_ATTR_scale, scale);
    attrs[n_attrs++] = ir_attr_bool(IR_ATTR_causal, causal);
    attrs[n_attrs++] = ir_attr_bool(IR_ATTR_bias, has_bias);
    if (window)
        attrs[n_attrs++] = ir_attr_int(IR_ATTR_window, window);
    if (p > 0)
    {
        int64_t stream;
        if (!want_batch_axis(x, e, operands[0]))
            return 0;
        expand_random_operands(x, &operands[n], &operands[n + 1], &stream);
        n += 2;
        attrs[n_attrs++] = ir_attr_float(IR_ATTR_p, p);
        attrs[n_attrs++] = ir_attr_int(IR_ATTR_stream, stream);
    }
    return expand_op(x, e, IR_attention, NULL, operands, n, attrs, n_attrs);
}

void expand_attention(Expander *x, const XmlElem *e)
{
    IrValue operands[6];
    uint32_t n;
    bool ok = expand_operands(x, e, 3, 4, operands, &n);
    expand_result(x, e, ok ? make_attention(x, e, operands, n) : 0);
}
