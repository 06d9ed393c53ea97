/* GRAD_FN rules: the gradients that a one-line expression cannot say. All in primitive ops; composites have closed
 * forms that share their statistics with the forward pass (passes/composites.h). */
#include "passes/autodiff_rules.h"

#include "base/bug.h"
#include "ir/expr.h"
#include "passes/composites.h"

#include <string.h>

static IrType operand_type(const GradOp *x, uint32_t i)
{
    return *ir_value_type(x->b->m, x->op.operands[i]);
}

static const int64_t *ints(const GradOp *x, IrAttrKey key)
{
    return ir_attrs_find(&x->op.attrs, key)->ints;
}

static IrValue op2(GradOp *x, IrCode code, IrValue a, IrValue b)
{
    return ir_build2(x->b, code, a, b);
}

/* ---- data movement */

void grad_cast(GradOp *x)
{
    x->grads[0] = ir_build_cast(x->b, x->g, (DType)operand_type(x, 0).dtype);
}

void grad_reshape(GradOp *x)
{
    x->grads[0] = ir_build_reshape(x->b, x->g, operand_type(x, 0));
}

void grad_transpose(GradOp *x)
{
    int64_t inverse[IR_MAX_RANK];
    for (int i = 0; i < operand_type(x, 0).rank; i++)
        inverse[ints(x, IR_ATTR_perm)[i]] = i;
    x->grads[0] = ir_build_transpose(x->b, x->g, inverse);
}

void grad_broadcast(GradOp *x)
{
    int64_t repeated[IR_MAX_RANK];
    uint32_t n_repeated = 0;
    IrType from = operand_type(x, 0), to = *ir_value_type(x->b->m, x->y);
    int next = 0;
    for (int i = 0; i < to.rank; i++)
    {
        if (next < from.rank && ints(x, IR_ATTR_dims)[next] == i)
            next++;
        else
            repeated[n_repeated++] = i;
    }
    x->grads[0] = ir_build_reduce(x->b, IR_reduce_sum, x->g, repeated, n_repeated);
}

static IrValue slice(GradOp *x, IrValue from, IrType type, const int64_t *starts)
{
    IrAttr attr = ir_attr_ints(IR_ATTR_starts, starts, type.rank);
    return ir_build_op(x->b, IR_slice, &type, &from, 1, &attr, 1);
}

void grad_slice(GradOp *x)
{
    IrType from = operand_type(x, 0), to = *ir_value_type(x->b->m, x->y);
    const int64_t *lo = ints(x, IR_ATTR_starts);
    int64_t hi[IR_MAX_RANK];
    for (int i = 0; i < from.rank; i++)
        hi[i] = from.dims[i] - lo[i] - to.dims[i];
    IrAttr attrs[] = {ir_attr_ints(IR_ATTR_lo, lo, from.rank), ir_attr_ints(IR_ATTR_hi, hi, from.rank),
                      ir_attr_float(IR_ATTR_value, 0)};
    x->grads[0] = ir_build_op(x->b, IR_pad, NULL, &x->g, 1, attrs, 3);
}

void grad_pad(GradOp *x)
{
    x->grads[0] = slice(x, x->g, operand_type(x, 0), ints(x, IR_ATTR_lo));
}

void grad_concat(GradOp *x)
{
    int64_t axis = ir_attrs_int(&x->op.attrs, IR_ATTR_axis, 0), starts[IR_MAX_RANK] = {0};
    for (uint32_t i = 0; i < x->op.n_operands; i++)
    {
        IrType type = operand_type(x, i);
        if (x->needs[i])
            x->grads[i] = slice(x, x->g, type, starts);
        starts[axis] += type.dims[axis];
    }
}

void grad_gather(GradOp *x)
{
    IrAttr rows = ir_attr_int(IR_ATTR_rows, operand_type(x, 0).dims[0]);
    IrValue operands[] = {x->op.operands[1], x->g};
    if (x->needs[0])
        x->grads[0] = ir_build_op(x->b, IR_scatter_add, NULL, operands, 2, &rows, 1);
}

void grad_scatter_add(GradOp *x)
{
    if (x->needs[1])
        x->grads[1] = op2(x, IR_gather, x->g, x->op.operands[0]);
    if (x->op.n_operands > 2 && x->needs[2])
        x->grads[2] = x->g;
}

/* ---- reductions */

/* A reduced value over the reduced axes again. */
static IrValue unreduce(GradOp *x, IrValue reduced)
{
    const IrAttr *axes = ir_attrs_find(&x->op.attrs, IR_ATTR_axes);
    IrType type = ir_type_with_dtype(operand_type(x, 0), (DType)ir_value_type(x->b->m, reduced)->dtype);
    int64_t kept[IR_MAX_RANK];
    uint32_t n_kept = 0, next = 0;
    for (int i = 0; i < type.rank; i++)
    {
        if (next < axes->n && axes->ints[next] == i)
            next++;
        else
            kept[n_kept++] = i;
    }
    return ir_build_broadcast(x->b, reduced, type, kept);
}

void grad_reduce_sum(GradOp *x)
{
    x->grads[0] = unreduce(x, x->g);
}

/* reduce_max and reduce_min: elements that tie share the gradient. */
void grad_reduce_max(GradOp *x)
{
    IrType type = operand_type(x, 0);
    IrValue zero = ir_build_const(x->b, type, 0), one = ir_build_const(x->b, type, 1);
    IrValue winner = op2(x, IR_eq, x->op.operands[0], unreduce(x, x->y));
    const IrAttr *axes = ir_attrs_find(&x->op.attrs, IR_ATTR_axes);
    IrValue n_winners =
        ir_build_reduce(x->b, IR_reduce_sum, ir_build3(x->b, IR_select, winner, one, zero), axes->ints, axes->n);
    x->grads[0] = ir_build3(x->b, IR_select, winner, unreduce(x, op2(x, IR_div, x->g, n_winners)), zero);
}

/* ---- contractions */

static bool has_letter(const char *letters, int n, char letter)
{
    return memchr(letters, letter, (size_t)n) != NULL;
}

/* Gradient of an operand with letters `to`: einsum of the result's gradient g and the other operand, then repeated
 * along the letters that only this operand has. g_first keeps the operands in the order that saves transposes. */
static IrValue einsum_side(GradOp *x, uint32_t side, const char *to, int n_to, const char *other, int n_other,
                           const char *result)
{
    IrModule *m = x->b->m;
    IrType type = operand_type(x, side);
    char letters[IR_MAX_RANK + 1];
    int64_t axes[IR_MAX_RANK];
    int n = 0;
    for (int i = 0; i < n_to; i++)
    {
        if (!has_letter(other, n_other, to[i]) && !strchr(result, to[i]))
            continue;
        axes[n] = i;
        letters[n++] = to[i];
    }
    letters[n] = 0;
    IrValue operand = x->op.operands[1 - side];
    const char *expr = side == 0 ? arena_printf(m->arena, "%s,%.*s->%s", result, n_other, other, letters)
                                 : arena_printf(m->arena, "%.*s,%s->%s", n_other, other, result, letters);
    IrAttr attr = ir_attr_str(IR_ATTR_expr, expr);
    IrValue operands[2] = {side == 0 ? x->g : operand, side == 0 ? operand : x->g};
    IrValue sum = ir_build_op(x->b, IR_einsum, NULL, operands, 2, &attr, 1);
    return ir_build_broadcast(x->b, sum, type, axes);
}

void grad_einsum(GradOp *x)
{
    const char *expr = ir_attrs_str(&x->op.attrs, IR_ATTR_expr);
    const char *comma = strchr(expr, ','), *arrow = strstr(expr, "->");
    const char *a = expr, *b = comma + 1, *result = arrow + 2;
    int n_a = (int)(comma - a), n_b = (int)(arrow - b);
    if (x->needs[0])
        x->grads[0] = einsum_side(x, 0, a, n_a, b, n_b, result);
    if (x->needs[1])
        x->grads[1] = einsum_side(x, 1, b, n_b, a, n_a, result);
}

static IrValue matmul(GradOp *x, IrValue a, bool ta, IrValue b, bool tb)
{
    IrAttr attrs[] = {ir_attr_bool(IR_ATTR_ta, ta), ir_attr_bool(IR_ATTR_tb, tb)};
    return ir_build_op(x->b, IR_matmul, NULL, (const IrValue[]){a, b}, 2, attrs, 2);
}

/* Gradient at the activation's operand a b + bias, which is computed again. */
static IrValue through_act(GradOp *x, const char *act, uint32_t n_operands)
{
    static const struct
    {
        const char *act, *u, *gradient;
    } rows[] = {
#define ACTIVATION(name, u, gradient, ...) {#name, u, gradient},
#include "ir/activations.def"
#undef ACTIVATION
    };
    IrAttrs attrs = ir_attrs_copy(x->b->m->arena, x->op.attrs.data, x->op.attrs.len);
    ir_attrs_remove(&attrs, IR_ATTR_act);
    ir_attrs_remove(&attrs, IR_ATTR_residual);
    IrExprVar vars[3] = {{"g", x->g}};
    vars[1] = (IrExprVar){"x", ir_build_op(x->b, IR_matmul, NULL, x->op.operands, n_operands, attrs.data, attrs.len)};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(rows[i].act, act) == 0)
        {
            vars[2] = (IrExprVar){"u", ir_build_expr(x->b, rows[i].u, vars, 2)};
            return ir_build_expr(x->b, rows[i].gradient, vars, 3);
        }
    BUG("matmul has no activation '%s'", act);
}

void grad_matmul(GradOp *x)
{
    const IrAttrs *attrs = &x->op.attrs;
    bool ta = ir_attrs_bool(attrs, IR_ATTR_ta), tb = ir_attrs_bool(attrs, IR_ATTR_tb);
    bool bias = ir_attrs_bool(attrs, IR_ATTR_bias), residual = ir_attrs_bool(attrs, IR_ATTR_residual);
    const char *act = ir_attrs_str(attrs, IR_ATTR_act);
    IrValue a = x->op.operands[0], b = x->op.operands[1], g = x->g;
    if (residual)
        x->grads[2 + bias] = g;
    if (act && strcmp(act, "none") != 0)
        g = through_act(x, act, 2 + bias);
    if (bias && x->needs[2])
        x->grads[2] = composite_sum_rows(x->b, g);
    if (x->needs[0])
        x->grads[0] = ta ? matmul(x, b, tb, g, true) : matmul(x, g, false, b, !tb);
    if (x->needs[1])
        x->grads[1] = tb ? matmul(x, g, true, a, ta) : matmul(x, a, !ta, g, false);
}

/* ---- composites: computed in f32, given back in the operand's dtype */

static IrValue in_f32(GradOp *x, IrValue v)
{
    return ir_build_cast(x->b, v, DT_F32);
}

static IrValue back(GradOp *x, uint32_t i, IrValue v)
{
    return ir_build_cast(x->b, v, (DType)operand_type(x, i).dtype);
}

static IrValue spread(GradOp *x, IrValue reduced)
{
    IrType type = operand_type(x, 0);
    return ir_build_spread_last(x->b, reduced, &type);
}

void grad_softmax(GradOp *x)
{
    IrValue y = in_f32(x, x->y), g = in_f32(x, x->g);
    IrValue mean = ir_build_reduce_last(x->b, IR_reduce_sum, op2(x, IR_mul, g, y));
    x->grads[0] = back(x, 0, op2(x, IR_mul, y, op2(x, IR_sub, g, spread(x, mean))));
}

/* With n = normalised and h = g * gamma: dx = rstd (h - mean(h) - n mean(h n)); RMS norm lacks mean(h). */
static void grad_norm(GradOp *x, bool centred)
{
    IrType type = ir_type_with_dtype(operand_type(x, 0), DT_F32);
    CompositeNorm norm = composite_norm(x->b, x->op.operands[0], ir_attrs_float(&x->op.attrs, IR_ATTR_eps, 0), centred);
    IrValue g = in_f32(x, x->g);
    if (x->needs[1])
        x->grads[1] = back(x, 1, composite_sum_rows(x->b, op2(x, IR_mul, g, norm.normalised)));
    if (centred && x->needs[2])
        x->grads[2] = back(x, 2, composite_sum_rows(x->b, g));
    if (!x->needs[0])
        return;
    IrValue h = op2(x, IR_mul, g, composite_rows(x->b, in_f32(x, x->op.operands[1]), &type));
    IrValue along = composite_mean_last(x->b, op2(x, IR_mul, h, norm.normalised));
    IrValue inner = op2(x, IR_sub, h, op2(x, IR_mul, norm.normalised, spread(x, along)));
    if (centred)
        inner = op2(x, IR_sub, inner, spread(x, composite_mean_last(x->b, h)));
    x->grads[0] = back(x, 0, op2(x, IR_mul, inner, spread(x, norm.rstd)));
}

void grad_layer_norm(GradOp *x)
{
    grad_norm(x, true);
}

void grad_rms_norm(GradOp *x)
{
    grad_norm(x, false);
}

void grad_dropout(GradOp *x)
{
    IrType type = operand_type(x, 0);
    double p = ir_attrs_float(&x->op.attrs, IR_ATTR_p, 0);
    IrValue factor = composite_dropout_factor(x->b, &type, x->op.operands[1], x->op.operands[2], p,
                                              ir_attrs_int(&x->op.attrs, IR_ATTR_stream, 0));
    x->grads[0] = back(x, 0, op2(x, IR_mul, in_f32(x, x->g), factor));
}

/* softmax - onehot; a label out of range has no class, so its row is the softmax alone. */
void grad_cross_entropy(GradOp *x)
{
    IrValue logits = in_f32(x, x->op.operands[0]);
    IrType type = *ir_value_type(x->b->m, logits);
    IrValue lse = composite_logsumexp_last(x->b, logits);
    IrValue softmax = ir_build1(x->b, IR_exp, op2(x, IR_sub, logits, spread(x, lse)));
    IrValue is_label = composite_is_label(x->b, x->op.operands[1], &type);
    IrValue onehot = ir_build3(x->b, IR_select, is_label, ir_build_const(x->b, type, 1), ir_build_const(x->b, type, 0));
    x->grads[0] = back(x, 0, op2(x, IR_mul, op2(x, IR_sub, softmax, onehot), spread(x, in_f32(x, x->g))));
}

/* autodiff has taken apart the attentions whose bias needs a gradient. */
void grad_attention(GradOp *x)
{
    IrValue operands[9];
    uint32_t n = x->op.n_operands;
    memcpy(operands, x->op.operands, n * sizeof *operands);
    operands[n] = x->y;
    operands[n + 1] = x->op.results[1];
    operands[n + 2] = x->g;
    IrValue dq = ir_build_op(x->b, IR_attention_grad, NULL, operands, n + 3, x->op.attrs.data, x->op.attrs.len);
    IrOp grad = ir_value(x->b->m, dq)->def;
    for (uint32_t i = 0; i < ir_op(x->b->m, grad)->n_results; i++)
        if (x->needs[i])
            x->grads[i] = ir_op_result(x->b->m, grad, i);
}
