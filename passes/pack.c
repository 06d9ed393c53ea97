/* Multiplies by the weights of q, k and v at once where attention reads what one value times each of them makes: one
 * large product keeps a device busier than three, also backward, and adds up the gradient of what it reads by itself.
 *
 * In bf16 only, where weights are copied in any case (pass precision): the copies lie side by side. On entry: before
 * autodiff. The params stay as they are. */
#include "base/bug.h"
#include "ir/builder.h"
#include "passes/manager.h"

#include <string.h>

/* x times a matrix [, plus a bias along the last axis]. */
typedef struct
{
    IrOp einsum;
    IrValue bias; /* 0: none */
} Projection;

typedef struct
{
    IrModule *m;
    IrUses uses;
} Pack;

static const IrOpData *def_of(const Pack *p, IrValue value)
{
    return ir_op(p->m, ir_value(p->m, value)->def);
}

static bool read_once(const Pack *p, IrValue value)
{
    return ir_uses_count(&p->uses, value) == 1;
}

/* The vector that value repeats along all axes but the last; 0: it does not. */
static IrValue vector_behind(const Pack *p, IrValue value)
{
    const IrOpData *def = def_of(p, value);
    const IrAttr *dims = def->code == IR_broadcast ? ir_attrs_find(&def->attrs, IR_ATTR_dims) : NULL;
    return dims && dims->n == 1 && dims->ints[0] == ir_value_type(p->m, value)->rank - 1 ? def->operands[0] : 0;
}

/* The axis of the matrix that the last axis of the einsum's result comes from. */
static int64_t out_axis(const IrOpData *einsum)
{
    const char *expr = ir_attrs_str(&einsum->attrs, IR_ATTR_expr);
    return strchr(expr, ',')[1] == expr[strlen(expr) - 1] ? 0 : 1;
}

/* Its result is x's shape but for the last axis, which is one of the matrix. */
static bool is_projection(const Pack *p, const IrOpData *op)
{
    const char *expr = ir_attrs_str(&op->attrs, IR_ATTR_expr), *comma = strchr(expr, ',');
    const size_t n = (size_t)(comma - expr);
    if (op->code != IR_einsum || ir_value_type(p->m, op->operands[1])->rank != 2 || strlen(expr) != 2 * n + 5)
        return false;
    const char *result = comma + 5, depth = expr[n - 1], out = result[n - 1];
    return strncmp(expr, result, n - 1) == 0 && out != depth && strchr(comma, depth) &&
           strchr(comma, depth) < comma + 3 && strchr(comma, out) < comma + 3;
}

static bool find_projection(const Pack *p, IrValue value, uint32_t unit, Projection *out)
{
    const IrOpData *def = def_of(p, value);
    if (def->code != IR_reshape || !read_once(p, value) || !read_once(p, def->operands[0]))
        return false;
    const IrType *heads = ir_value_type(p->m, value), *flat = ir_value_type(p->m, def->operands[0]);
    if (flat->rank != 3 || flat->dims[2] != heads->dims[2] * heads->dims[3])
        return false;
    *out = (Projection){.einsum = ir_value(p->m, def->operands[0])->def};
    def = ir_op(p->m, out->einsum);
    for (uint32_t side = 0; def->code == IR_add && side < 2 && !out->bias; side++)
    {
        out->bias = vector_behind(p, def->operands[1 - side]);
        if (out->bias && read_once(p, def->operands[side]))
            out->einsum = ir_value(p->m, def->operands[side])->def;
    }
    def = ir_op(p->m, out->einsum);
    return def->code == IR_einsum && def->unit == unit && is_projection(p, def);
}

static bool go_together(const Pack *p, const Projection *x, const Projection *y)
{
    const IrOpData *a = ir_op(p->m, x->einsum), *b = ir_op(p->m, y->einsum);
    return a->operands[0] == b->operands[0] && (x->bias != 0) == (y->bias != 0) &&
           ir_attrs_equal(&a->attrs, &b->attrs) &&
           ir_type_equal(ir_value_type(p->m, a->operands[1]), ir_value_type(p->m, b->operands[1]));
}

static IrValue side_by_side(IrBuilder *b, const IrValue parts[3], int64_t axis)
{
    const IrAttr attr = ir_attr_int(IR_ATTR_axis, axis);
    return ir_build_op(b, IR_concat, NULL, parts, 3, &attr, 1);
}

static IrValue build_packed(const Pack *p, IrOp attention, const Projection three[3])
{
    IrModule *m = p->m;
    const IrOpData first = *ir_op(m, three[0].einsum);
    IrBuilder b = ir_builder_before(m, attention);
    IrValue weights[3], biases[3];
    for (int i = 0; i < 3; i++)
    {
        weights[i] = ir_op(m, three[i].einsum)->operands[1];
        biases[i] = three[i].bias;
    }
    b.span = first.span;
    const IrValue operands[] = {first.operands[0], side_by_side(&b, weights, out_axis(&first))};
    IrValue value = ir_build_op(&b, IR_einsum, NULL, operands, 2, first.attrs.data, first.attrs.len);
    if (biases[0])
        value =
            ir_build2(&b, IR_add, value, ir_build_stretch(&b, side_by_side(&b, biases, 0), ir_value_type(m, value)));
    IrType type = *ir_value_type(m, ir_op(m, attention)->operands[0]);
    type.dims[2] *= 3;
    return ir_build_reshape(&b, value, type);
}

static void pack(const Pack *p, IrOp op, IrValue *map)
{
    IrModule *m = p->m;
    const IrOpData data = *ir_op(m, op);
    const IrType *q = ir_value_type(m, data.operands[0]);
    Projection three[3];
    for (int i = 0; i < 3; i++)
        if (!ir_type_equal(ir_value_type(m, data.operands[i]), q) ||
            !find_projection(p, data.operands[i], data.unit, &three[i]) || !go_together(p, &three[0], &three[i]))
            return;
    IrValue operands[4] = {build_packed(p, op, three)};
    IrAttr attrs[8];
    ENSURE(data.n_operands <= 6 && data.attrs.len < 8);
    for (uint32_t i = 3; i < data.n_operands; i++)
        operands[i - 2] = data.operands[i];
    for (uint32_t i = 0; i < data.attrs.len; i++)
        attrs[i] = data.attrs.data[i];
    attrs[data.attrs.len] = ir_attr_bool(IR_ATTR_packed, true);
    IrBuilder b = ir_builder_before(m, op);
    map[data.results[0]] =
        ir_build_op(&b, IR_attention, NULL, operands, data.n_operands - 2, attrs, data.attrs.len + 1);
    map[data.results[1]] = ir_op_result(m, ir_value(m, map[data.results[0]])->def, 1);
    ir_op_remove(m, op);
}

bool pass_pack(PassContext *ctx)
{
    IrModule *m = ctx->m;
    const IrFunc train = ir_func_find(m, "train");
    const char *precision = train ? ir_attrs_str(&ir_func(m, train)->attrs, IR_ATTR_precision) : NULL;
    if (!precision || strcmp(precision, "bf16") != 0)
        return true;
    const uint32_t n_old = m->values.len;
    const Pack p = {.m = m, .uses = ir_uses_build(ctx->scratch, m, train)};
    IrValue *map = ARENA_ARRAY(ctx->scratch, IrValue, n_old);
    for (IrOp op = ir_func(m, train)->first, next; op; op = next)
    {
        next = ir_op(m, op)->next;
        if (ir_op(m, op)->code == IR_attention && !ir_attrs_bool(&ir_op(m, op)->attrs, IR_ATTR_packed))
            pack(&p, op, map);
    }
    ir_func_replace_values(m, train, map, n_old);
    return true;
}
