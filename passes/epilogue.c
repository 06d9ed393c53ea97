/* Matmul epilogues: `add(matmul, broadcast bias)` becomes the attribute bias, `add(matmul, x)` becomes residual and
 * a following activation (when nothing else reads what is before it) becomes act, each looked for through reshapes.
 *
 * Entry: LOWERED. A value moves into the epilogue only when the add is its one reader. The matmul moves to the place
 * of the op it takes in, since the other operand may be made later than the matmul. Both are of one unit: what a matmul
 * computes must not depend on where the pipeline is cut. */
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

/* The matmul behind value, through reshapes, when nobody else reads any of them; 0 when there is none. What this pass
 * made has one reader by construction, but the value it stands for may have had several: the check comes first. */
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
        if (def->code != IR_reshape)
            return 0;
        value = def->operands[0];
    }
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
    if (key == IR_ATTR_residual)
        operand = ir_build_reshape(&b, operand, type);
    IrValue operands[4];
    for (uint32_t i = 0; i < old.n_operands; i++)
        operands[i] = current(e, old.operands[i]);
    operands[old.n_operands] = operand;
    IrAttr attrs[8];
    for (uint32_t i = 0; i < old.attrs.len; i++)
        attrs[i] = old.attrs.data[i];
    attrs[old.attrs.len] = ir_attr_bool(key, true);
    IrValue sum = ir_build_op(&b, IR_matmul, NULL, operands, old.n_operands + 1, attrs, old.attrs.len + 1);
    e->map[result] = ir_build_reshape(&b, sum, *ir_value_type(m, result));
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
        if (type->dtype != DT_F32 || type->rank != 2)
            continue;
        IrValue bias = bias_behind(e, other, type->dims[1]);
        if (bias && !ir_attrs_bool(&ir_op(m, matmul)->attrs, IR_ATTR_bias) &&
            ir_value_type(m, add->results[0])->dims[ir_value_type(m, add->results[0])->rank - 1] == type->dims[1])
        {
            take_in(e, op, matmul, IR_ATTR_bias, bias);
            return true;
        }
        if (def_of(e, other)->code == IR_broadcast || def_of(e, other)->code == IR_const)
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
    while (def_of(e, value)->code == IR_reshape)
    {
        IrValue from = def_of(e, value)->operands[0];
        if (!single_use(e, from))
            return false;
        value = current(e, from);
    }
    IrOp matmul = ir_value(m, value)->def;
    if (def_of(e, value)->code != IR_matmul || !is_plain(e, matmul) || ir_op(m, matmul)->unit != ir_op(m, op)->unit ||
        ir_value_type(m, value)->dtype != DT_F32)
        return false;
    ir_attrs_put(m->arena, &ir_op(m, matmul)->attrs, ir_attr_str(IR_ATTR_act, act));
    e->map[result] = current(e, x); /* which is after the activation now; the graph is dead */
    return true;
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
            else if (ir_code_has(ir_op(m, op)->code, IR_TRAIT_EWISE))
                try_activation(&e, forms, op);
        }
        ir_func_replace_values(m, func, e.map, e.n_values);
    }
    return true;
}
