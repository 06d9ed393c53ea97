/* Matmul epilogues: `add(matmul, broadcast bias)` becomes the attribute bias, `add(matmul, x)` becomes residual and
 * a following activation (when nothing else reads what is before it) becomes act, each looked for through reshapes.
 *
 * Entry: LOWERED. A value moves into the epilogue only when the add is its one reader. The matmul moves to the place
 * of the op it takes in, since the other operand may be made later than the matmul. Both are of one unit: what a matmul
 * computes must not depend on where the pipeline is cut.
 *
 * A matmul with a bf16 result takes in what is kept as bf16 (pass precision): bias and residual are bf16 then, as
 * libraries want them. What is read as f32 by a fused kernel is better added there. */
#include "passes/manager.h"

#include "base/bug.h"
#include "ir/builder.h"
#include "passes/activation.h"

typedef struct
{
    IrModule *m;
    IrFunc func;
    IrUses uses;
    IrValue *map; /* by old value: replaced by */
    uint32_t n_values;
} Epilogue;

static const IrOpData *def_of(const Epilogue *e, IrValue value)
{
    return ir_op(e->m, ir_value(e->m, value)->def);
}

static IrValue current(const Epilogue *e, IrValue value)
{
    while (value < e->n_values && e->map[value])
        value = e->map[value];
    return value;
}

static bool single_use(const Epilogue *e, IrValue value)
{
    return value >= e->n_values || ir_uses_count(&e->uses, value) == 1;
}

/* bf16 to f32. */
static bool is_widening(const Epilogue *e, const IrOpData *op)
{
    return op->code == IR_cast && ir_value_type(e->m, op->results[0])->dtype == DT_F32 &&
           ir_value_type(e->m, op->operands[0])->dtype == DT_BF16;
}

/* The matmul behind value, through reshapes and the cast of a bf16 result to f32, when nobody else reads any of them; 0
 * when there is none. What this pass made has one reader by construction, but the value it stands for may have had
 * several: the check comes first. */
static IrOp matmul_behind(const Epilogue *e, IrValue value)
{
    for (;;)
    {
        if (!single_use(e, value))
            return 0;
        value = current(e, value);
        const IrOpData *def = def_of(e, value);
        if (def->code == IR_matmul)
            return ir_value(e->m, value)->def;
        if (def->code != IR_reshape && !is_widening(e, def))
            return 0;
        value = def->operands[0];
    }
}

/* What a matmul with a bf16 result takes in is rounded to bf16: only what is rounded anyway, or goes into a sum that
 * is. */
static bool is_kept_as_bf16(const Epilogue *e, IrValue value)
{
    while (value < e->n_values && ir_uses_count(&e->uses, value) == 1)
    {
        const IrOpData *user = ir_op(e->m, e->uses.users[e->uses.first[value]]);
        if (user->code == IR_cast)
            return ir_value_type(e->m, user->results[0])->dtype == DT_BF16;
        if (user->code != IR_add && user->code != IR_reshape)
            return false;
        value = user->results[0];
    }
    return false;
}

/* The bf16 that value, f32, was read as; 0 when it is none. */
static IrValue narrow_behind(const Epilogue *e, IrValue value)
{
    value = current(e, value);
    while (def_of(e, value)->code == IR_reshape)
        value = current(e, def_of(e, value)->operands[0]);
    return is_widening(e, def_of(e, value)) ? current(e, def_of(e, value)->operands[0]) : 0;
}

/* A [N] vector that value repeats along its leading axes; 0 when it is no such thing. */
static IrValue bias_behind(const Epilogue *e, IrValue value, int64_t n)
{
    value = current(e, value);
    while (def_of(e, value)->code == IR_reshape)
        value = current(e, def_of(e, value)->operands[0]);
    const IrOpData *def = def_of(e, value);
    if (def->code != IR_broadcast)
        return 0;
    const IrAttr *dims = ir_attrs_find(&def->attrs, IR_ATTR_dims);
    const IrType *from = ir_value_type(e->m, def->operands[0]), *to = ir_value_type(e->m, value);
    bool last = from->rank == 1 && from->dims[0] == n && dims->ints[0] == to->rank - 1 && from->dtype == DT_F32;
    return last ? current(e, def->operands[0]) : 0;
}

/* Puts a new matmul with one more operand in the place of op and maps op's result to it. */
static void take_in(Epilogue *e, IrOp op, IrOp matmul, IrAttrKey key, IrValue operand)
{
    IrModule *m = e->m;
    const IrOpData old = *ir_op(m, matmul);
    IrValue result = ir_op(m, op)->results[0];
    IrType type = *ir_value_type(m, old.results[0]);
    IrBuilder b = ir_builder_before(m, op);
    b.span = old.span;
    operand =
        key == IR_ATTR_residual ? ir_build_reshape(&b, operand, type) : ir_build_cast(&b, operand, (DType)type.dtype);
    IrValue operands[4];
    for (uint32_t i = 0; i < old.n_operands; i++)
        operands[i] = current(e, old.operands[i]);
    operands[old.n_operands] = operand;
    IrAttr attrs[8];
    for (uint32_t i = 0; i < old.attrs.len; i++)
        attrs[i] = old.attrs.data[i];
    attrs[old.attrs.len] = ir_attr_bool(key, true);
    IrValue sum = ir_build_op(&b, IR_matmul, &type, operands, old.n_operands + 1, attrs, old.attrs.len + 1);
    const IrType shape = ir_type_with_dtype(*ir_value_type(m, result), (DType)type.dtype);
    e->map[result] = ir_build_cast(&b, ir_build_reshape(&b, sum, shape), (DType)ir_value_type(m, result)->dtype);
    ir_op_remove(m, op);
}

static bool is_plain(const Epilogue *e, IrOp matmul)
{
    const IrAttrs *attrs = &ir_op(e->m, matmul)->attrs;
    return !ir_attrs_bool(attrs, IR_ATTR_residual) && !ir_attrs_find(attrs, IR_ATTR_act);
}

static bool try_add(Epilogue *e, IrOp op)
{
    IrModule *m = e->m;
    for (int side = 0; side < 2; side++)
    {
        const IrOpData *add = ir_op(m, op);
        IrOp matmul = matmul_behind(e, add->operands[side]);
        if (!matmul || !is_plain(e, matmul) || ir_op(m, matmul)->phase != add->phase ||
            ir_op(m, matmul)->unit != add->unit)
            continue;
        const IrType *type = ir_value_type(m, ir_op(m, matmul)->results[0]);
        IrValue other = current(e, add->operands[1 - side]);
        const IrValue sum = add->results[0];
        if (type->rank != 2)
            continue;
        IrValue bias = bias_behind(e, other, type->dims[1]);
        const bool narrow = type->dtype == DT_BF16;
        if (bias && !ir_attrs_bool(&ir_op(m, matmul)->attrs, IR_ATTR_bias) && (!narrow || is_kept_as_bf16(e, sum)) &&
            ir_value_type(m, sum)->dims[ir_value_type(m, sum)->rank - 1] == type->dims[1])
        {
            take_in(e, op, matmul, IR_ATTR_bias, bias);
            return true;
        }
        if (def_of(e, other)->code == IR_broadcast || def_of(e, other)->code == IR_const)
            continue;
        if (narrow)
            other = is_kept_as_bf16(e, sum) ? narrow_behind(e, other) : 0;
        if (!other)
            continue;
        take_in(e, op, matmul, IR_ATTR_residual, other);
        return true;
    }
    return false;
}

/* An activation moves in when its graph is all that reads the matmul: in evaluation, and in training where the
 * backward pass does not need what is before it. */
static bool try_activation(Epilogue *e, const ActivationForms *forms, IrOp op)
{
    IrModule *m = e->m;
    IrValue result = ir_op(m, op)->results[0], x;
    uint32_t n_reads;
    const char *act = activation_match(forms, m, &e->uses, result, &x, &n_reads);
    if (!act || x >= e->n_values || ir_uses_count(&e->uses, x) != n_reads)
        return false;
    IrValue value = current(e, x);
    while (def_of(e, value)->code == IR_reshape || is_widening(e, def_of(e, value)))
    {
        IrValue from = def_of(e, value)->operands[0];
        if (!single_use(e, from))
            return false;
        value = current(e, from);
    }
    IrOp matmul = ir_value(m, value)->def;
    if (def_of(e, value)->code != IR_matmul || !is_plain(e, matmul) || ir_op(m, matmul)->unit != ir_op(m, op)->unit ||
        (ir_value_type(m, value)->dtype == DT_BF16 && !is_kept_as_bf16(e, result)))
        return false;
    ir_attrs_put(m->arena, &ir_op(m, matmul)->attrs, ir_attr_str(IR_ATTR_act, act));
    e->map[result] = current(e, x); /* which is after the activation now; the graph is dead */
    return true;
}

/* What the epilogue rounds is not rounded again. */
static void fold_cast(Epilogue *e, IrOp op)
{
    const IrValue operand = current(e, ir_op(e->m, op)->operands[0]), result = ir_op(e->m, op)->results[0];
    if (ir_value_type(e->m, result)->dtype == DT_BF16 && is_widening(e, def_of(e, operand)))
        e->map[result] = current(e, def_of(e, operand)->operands[0]);
}

bool pass_epilogue(PassContext *ctx)
{
    IrModule *m = ctx->m;
    const ActivationForms *forms = activation_forms(ctx->scratch);
    IR_FOR_FUNCS(m, func)
    {
        if (ir_func(m, func)->kind != IR_FUNC_STEP)
            continue;
        Epilogue e = {.m = m,
                      .func = func,
                      .uses = ir_uses_build(ctx->scratch, m, func),
                      .map = ARENA_ARRAY(ctx->scratch, IrValue, m->values.len),
                      .n_values = m->values.len};
        for (IrOp op = ir_func(m, func)->first, next; op; op = next)
        {
            next = ir_op(m, op)->next;
            if (ir_op(m, op)->code == IR_add)
                try_add(&e, op);
            else if (ir_op(m, op)->code == IR_cast)
                fold_cast(&e, op);
            else if (ir_code_has(ir_op(m, op)->code, IR_TRAIT_EWISE))
                try_activation(&e, forms, op);
        }
        ir_func_replace_values(m, func, e.map, e.n_values);
    }
    return true;
}
