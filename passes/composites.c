/* Composites as primitives: see the header. The order of operations is part of the contract: CSE compares it. */
#include "passes/composites.h"

#include "ir/expr.h"

#include <math.h>

/* Below every real score and far from overflow when scores are subtracted from each other. */
#define MASKED_SCORE (-1e30)

static IrValue scalar_like(IrBuilder *b, IrValue like, double value)
{
    return ir_build_const(b, *ir_value_type(b->m, like), value);
}

static int64_t last_extent(const IrBuilder *b, IrValue x)
{
    const IrType *type = ir_value_type(b->m, x);
    return type->dims[type->rank - 1];
}

static IrValue spread_like(IrBuilder *b, IrValue reduced, IrValue like)
{
    IrType type = *ir_value_type(b->m, like);
    return ir_build_spread_last(b, reduced, &type);
}

IrValue composite_mean_last(IrBuilder *b, IrValue x)
{
    double n = (double)last_extent(b, x);
    IrValue sum = ir_build_reduce_last(b, IR_reduce_sum, x);
    return ir_build2(b, IR_mul, sum, scalar_like(b, sum, 1 / n));
}

/* exp(x - max), and the maximum. */
static IrValue shifted_exp(IrBuilder *b, IrValue x, IrValue *out_top)
{
    *out_top = ir_build_reduce_last(b, IR_reduce_max, x);
    return ir_build1(b, IR_exp, ir_build2(b, IR_sub, x, spread_like(b, *out_top, x)));
}

IrValue composite_logsumexp_last(IrBuilder *b, IrValue x)
{
    IrValue top;
    IrValue sum = ir_build_reduce_last(b, IR_reduce_sum, shifted_exp(b, ir_build_cast(b, x, DT_F32), &top));
    return ir_build2(b, IR_add, top, ir_build1(b, IR_log, sum));
}

IrValue composite_softmax(IrBuilder *b, IrValue x)
{
    IrValue top;
    IrValue e = shifted_exp(b, ir_build_cast(b, x, DT_F32), &top);
    IrValue sum = ir_build_reduce_last(b, IR_reduce_sum, e);
    IrValue inverse = ir_build2(b, IR_div, scalar_like(b, sum, 1), sum); /* one division a row */
    return ir_build2(b, IR_mul, e, spread_like(b, inverse, e));
}

CompositeNorm composite_norm(IrBuilder *b, IrValue x, double eps, bool centred)
{
    x = ir_build_cast(b, x, DT_F32);
    if (centred)
        x = ir_build2(b, IR_sub, x, spread_like(b, composite_mean_last(b, x), x));
    IrValue variance = composite_mean_last(b, ir_build2(b, IR_mul, x, x));
    IrValue rstd = ir_build1(b, IR_rsqrt, ir_build2(b, IR_add, variance, scalar_like(b, variance, eps)));
    return (CompositeNorm){.rstd = rstd, .normalised = ir_build2(b, IR_mul, x, spread_like(b, rstd, x))};
}

IrValue composite_dropout_factor(IrBuilder *b, const IrType *shape, IrValue key, IrValue sample, double p,
                                 int64_t stream)
{
    IrType type = ir_type_with_dtype(*shape, DT_F32);
    IrAttr attr = ir_attr_int(IR_ATTR_stream, stream);
    IrValue random = ir_build_op(b, IR_random, &type, (const IrValue[]){key, sample}, 2, &attr, 1);
    IrValue kept = ir_build2(b, IR_ge, random, ir_build_const(b, type, p));
    return ir_build3(b, IR_select, kept, ir_build_const(b, type, 1 / (1 - p)), ir_build_const(b, type, 0));
}

IrValue composite_is_label(IrBuilder *b, IrValue labels, const IrType *logits)
{
    IrType type = ir_type_with_dtype(*logits, DT_I32);
    IrAttr axis = ir_attr_int(IR_ATTR_axis, type.rank - 1);
    IrValue classes = ir_build_op(b, IR_iota, &type, NULL, 0, &axis, 1);
    return ir_build2(b, IR_eq, classes, ir_build_spread_last(b, labels, &type));
}

IrValue composite_cross_entropy(IrBuilder *b, IrValue logits, IrValue labels)
{
    logits = ir_build_cast(b, logits, DT_F32);
    IrType type = *ir_value_type(b->m, logits);
    IrValue picked = ir_build3(b, IR_select, composite_is_label(b, labels, &type), logits, ir_build_const(b, type, 0));
    return ir_build2(b, IR_sub, composite_logsumexp_last(b, logits), ir_build_reduce_last(b, IR_reduce_sum, picked));
}

IrValue composite_rows(IrBuilder *b, IrValue vector, const IrType *like)
{
    int64_t axis = like->rank - 1;
    IrType type = ir_type_with_dtype(*like, (DType)ir_value_type(b->m, vector)->dtype);
    return ir_build_broadcast(b, vector, type, &axis);
}

static const int64_t all_axes[IR_MAX_RANK] = {0, 1, 2, 3, 4, 5, 6, 7};

IrValue composite_sum_rows(IrBuilder *b, IrValue x)
{
    return ir_build_reduce(b, IR_reduce_sum, x, all_axes, ir_value_type(b->m, x)->rank - 1u);
}

IrValue composite_sum_all(IrBuilder *b, IrValue x)
{
    return ir_build_reduce(b, IR_reduce_sum, x, all_axes, ir_value_type(b->m, x)->rank);
}

/* ---- attention */

static IrValue einsum(IrBuilder *b, const char *expr, IrValue x, IrValue y)
{
    IrAttr attr = ir_attr_str(IR_ATTR_expr, expr);
    return ir_build_op(b, IR_einsum, NULL, (const IrValue[]){x, y}, 2, &attr, 1);
}

static IrValue iota(IrBuilder *b, IrType type, int64_t axis)
{
    IrAttr attr = ir_attr_int(IR_ATTR_axis, axis);
    return ir_build_op(b, IR_iota, &type, NULL, 0, &attr, 1);
}

/* bool [B,H,T,S]: the key may be seen; 0 when every key may. */
static IrValue visible_keys(IrBuilder *b, const IrAttrs *attrs, IrType scores)
{
    bool causal = ir_attrs_bool(attrs, IR_ATTR_causal);
    int64_t window = ir_attrs_int(attrs, IR_ATTR_window, 0);
    if (!causal && window == 0)
        return 0;
    IrType type = ir_type_with_dtype(scores, DT_I32);
    IrExprVar vars[] = {{"t", iota(b, type, 2)},
                        {"s", iota(b, type, 3)},
                        {"shift", ir_build_const(b, ir_type_scalar(DT_I32), (double)(scores.dims[3] - scores.dims[2]))},
                        {"window", ir_build_const(b, ir_type_scalar(DT_I32), (double)window)}};
    const char *rule = !causal      ? "abs(t + shift - s) <= window"
                       : window > 0 ? "s <= t + shift && abs(t + shift - s) <= window"
                                    : "s <= t + shift";
    return ir_build_expr(b, rule, vars, sizeof vars / sizeof vars[0]);
}

/* q, k or v of what attention has packed. */
static IrValue third_of(IrBuilder *b, IrValue packed, int64_t i)
{
    IrType type = *ir_value_type(b->m, packed);
    type.dims[2] /= 3;
    const int64_t starts[] = {0, 0, i * type.dims[2], 0};
    const IrAttr attr = ir_attr_ints(IR_ATTR_starts, starts, 4);
    return ir_build_op(b, IR_slice, &type, &packed, 1, &attr, 1);
}

void composite_attention(IrBuilder *b, IrOp attention, IrValue out_values[2])
{
    const IrOpData op = *ir_op(b->m, attention);
    const IrAttrs *attrs = &op.attrs;
    const bool packed = ir_attrs_bool(attrs, IR_ATTR_packed);
    IrValue three[3];
    for (int64_t i = 0; i < 3; i++)
        three[i] = ir_build_cast(b, packed ? third_of(b, op.operands[0], i) : op.operands[i], DT_F32);
    IrValue q = three[0], k = three[1], v = three[2];
    IrType q_type = *ir_value_type(b->m, q), k_type = *ir_value_type(b->m, k);
    int64_t n_batch = q_type.dims[0], n_queries = q_type.dims[1], n_heads = q_type.dims[2], width = q_type.dims[3];
    int64_t n_keys = k_type.dims[1], n_groups = k_type.dims[2], n_shared = n_heads / n_groups;
    uint32_t next = packed ? 1 : 3;

    /* Query head h = g n_shared + r uses key head g. */
    IrType grouped = ir_type(DT_F32, 5, (const int64_t[]){n_batch, n_queries, n_groups, n_shared, width});
    IrType scores_type = ir_type(DT_F32, 4, (const int64_t[]){n_batch, n_heads, n_queries, n_keys});
    IrType split = ir_type(DT_F32, 5, (const int64_t[]){n_batch, n_groups, n_shared, n_queries, n_keys});
    IrValue scores = ir_build_reshape(b, einsum(b, "btgrd,bsgd->bgrts", ir_build_reshape(b, q, grouped), k),
                                      scores_type); /* (B, H, T, S) */
    scores = ir_build2(b, IR_mul, scores, ir_build_const(b, scores_type, ir_attrs_float(attrs, IR_ATTR_scale, 1)));
    if (ir_attrs_bool(attrs, IR_ATTR_bias))
        scores = ir_build2(b, IR_add, scores, ir_build_stretch(b, op.operands[next++], &scores_type));
    IrValue visible = visible_keys(b, attrs, scores_type);
    if (visible)
        scores = ir_build3(b, IR_select, visible, scores, ir_build_const(b, scores_type, MASKED_SCORE));
    IrValue weights = ir_build1(b, IR_softmax, scores);
    if (visible) /* a query without any key: zeros instead of the uniform weights of equal scores */
        weights = ir_build3(b, IR_select, visible, weights, ir_build_const(b, scores_type, 0));
    double p = ir_attrs_float(attrs, IR_ATTR_p, 0);
    if (p > 0) /* element (h T + t) S + s of row b: the numbering of the attention op itself */
    {
        IrAttr drop[] = {ir_attr_float(IR_ATTR_p, p),
                         ir_attr_int(IR_ATTR_stream, ir_attrs_int(attrs, IR_ATTR_stream, 0))};
        IrValue operands[] = {weights, op.operands[next], op.operands[next + 1]};
        weights = ir_build_op(b, IR_dropout, NULL, operands, 3, drop, 2);
    }
    IrValue out = einsum(b, "bgrts,bsgd->btgrd", ir_build_reshape(b, weights, split), v);
    out_values[0] =
        ir_build_cast(b, ir_build_reshape(b, out, q_type), (DType)ir_value_type(b->m, op.results[0])->dtype);

    IrValue lse = composite_logsumexp_last(b, scores);
    IrType lse_type = *ir_value_type(b->m, lse);
    IrValue any = ir_build2(b, IR_gt, lse, ir_build_const(b, lse_type, MASKED_SCORE / 2));
    out_values[1] = ir_build3(b, IR_select, any, lse, ir_build_const(b, lse_type, -INFINITY));
}
