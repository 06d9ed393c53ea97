/* Matmul epilogues: `add(matmul, broadcast bias)` becomes the attribute bias, `add(matmul, x)` becomes residual and
 * a following activation (when nothing else reads what is before it) becomes act, each looked for through reshapes.
 *
 * Entry: LOWERED. A value moves into the epilogue only when the add is its one reader. The matmul moves to the place
 * of the op it takes in, since the other operand may be made later than the matmul. Both are of one unit: what a matmul
 * computes must not depend on where the pipeline is cut.
 *
 * A matmul with a bf16 result takes in what is kept as bf16 (pass precision): bias and residual are bf16 then, as
 * libraries want them. What is read as f32 by a fused kernel is better added there. */
#include "passes/epilogue.h"

#include "base/bug.h"
#include "passes/activation.h"

const IrOpData *epilogue_def(const Epilogue *e, IrValue value)
{
    return ir_op(e->m, ir_value(e->m, value)->def);
}

IrValue epilogue_current(const Epilogue *e, IrValue value)
{
    while (value < e->n_values && e->map[value])
        value = e->map[value];
    return value;
}

static bool single_use(const Epilogue *e, IrValue value)
{
    return value >= e->n_values || ir_uses_count(&e->uses, value) == 1;
}

static bool is_cast(const Epilogue *e, const IrOpData *op, DType from, DType to)
{
    return op->code == IR_cast && ir_value_type(e->m, op->results[0])->dtype == to &&
           ir_value_type(e->m, op->operands[0])->dtype == from;
}

bool epilogue_is_widening(const Epilogue *e, const IrOpData *op)
{
    return is_cast(e, op, DT_BF16, DT_F32);
}

bool epilogue_is_narrowing(const Epilogue *e, const IrOpData *op)
{
    return is_cast(e, op, DT_F32, DT_BF16);
}

/* What this pass made has one reader by construction, but the value it stands for may have had several: the check comes
 * first. */
IrOp epilogue_matmul_of(const Epilogue *e, IrValue value)
{
    for (;;)
    {
        value = epilogue_current(e, value);
        const IrOpData *def = epilogue_def(e, value);
        if (def->code == IR_matmul)
            return ir_value(e->m, value)->result == 0 ? ir_value(e->m, value)->def : 0;
        if ((def->code != IR_reshape && !epilogue_is_widening(e, def)) || !single_use(e, def->operands[0]))
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
    value = epilogue_current(e, value);
    while (epilogue_def(e, value)->code == IR_reshape)
        value = epilogue_current(e, epilogue_def(e, value)->operands[0]);
    return epilogue_is_widening(e, epilogue_def(e, value)) ? epilogue_current(e, epilogue_def(e, value)->operands[0])
                                                           : 0;
}

IrValue epilogue_bias_of(const Epilogue *e, IrValue value, int64_t n)
{
    value = epilogue_current(e, value);
    while (epilogue_def(e, value)->code == IR_reshape)
        value = epilogue_current(e, epilogue_def(e, value)->operands[0]);
    const IrOpData *def = epilogue_def(e, value);
    if (def->code != IR_broadcast)
        return 0;
    const IrAttr *dims = ir_attrs_find(&def->attrs, IR_ATTR_dims);
    const IrType *from = ir_value_type(e->m, def->operands[0]), *to = ir_value_type(e->m, value);
    bool last = from->rank == 1 && from->dims[0] == n && dims->ints[0] == to->rank - 1 && from->dtype == DT_F32;
    return last ? epilogue_current(e, def->operands[0]) : 0;
}

bool epilogue_is_plain(const Epilogue *e, IrOp matmul)
{
    const IrAttrs *attrs = &ir_op(e->m, matmul)->attrs;
    return !ir_attrs_bool(attrs, IR_ATTR_residual) && !ir_attrs_find(attrs, IR_ATTR_act) &&
           !ir_attrs_find(attrs, IR_ATTR_dact);
}

IrOp epilogue_build(Epilogue *e, IrOp before, IrOp matmul, const IrAttr *more, uint32_t n_more, IrValue operand)
{
    IrModule *m = e->m;
    const IrOpData old = *ir_op(m, matmul);
    const IrType type = *ir_value_type(m, old.results[0]);
    IrBuilder b = ir_builder_before(m, before);
    b.span = old.span;
    IrValue operands[5];
    for (uint32_t i = 0; i < old.n_operands; i++)
        operands[i] = epilogue_current(e, old.operands[i]);
    operands[old.n_operands] = operand;
    IrAttr attrs[8];
    for (uint32_t i = 0; i < old.attrs.len; i++)
        attrs[i] = old.attrs.data[i];
    for (uint32_t i = 0; i < n_more; i++)
        attrs[old.attrs.len + i] = more[i];
    const IrValue first =
        ir_build_op(&b, IR_matmul, &type, operands, old.n_operands + (operand != 0), attrs, old.attrs.len + n_more);
    return ir_value(m, first)->def;
}

void epilogue_map(Epilogue *e, IrBuilder *b, IrValue value, IrValue result)
{
    const IrType type = *ir_value_type(e->m, value);
    const DType dtype = (DType)ir_value_type(e->m, result)->dtype;
    const IrValue shaped = ir_build_reshape(b, result, ir_type_with_dtype(type, dtype));
    e->map[value] = ir_build_cast(b, shaped, (DType)type.dtype);
}

/* Puts a new matmul with one more operand in the place of op and maps op's result to it. */
static void take_in(Epilogue *e, IrOp op, IrOp matmul, IrAttrKey key, IrValue operand)
{
    IrModule *m = e->m;
    const IrType type = *ir_value_type(m, ir_op(m, matmul)->results[0]);
    IrBuilder b = ir_builder_before(m, op);
    b.span = ir_op(m, matmul)->span;
    operand =
        key == IR_ATTR_residual ? ir_build_reshape(&b, operand, type) : ir_build_cast(&b, operand, (DType)type.dtype);
    const IrAttr attr = ir_attr_bool(key, true);
    const IrOp sum = epilogue_build(e, op, matmul, &attr, 1, operand);
    epilogue_map(e, &b, ir_op(m, op)->results[0], ir_op_result(m, sum, 0));
    ir_op_remove(m, op);
}

static bool try_add(Epilogue *e, IrOp op)
{
    IrModule *m = e->m;
    for (int side = 0; side < 2; side++)
    {
        const IrOpData *add = ir_op(m, op);
        IrOp matmul = single_use(e, add->operands[side]) ? epilogue_matmul_of(e, add->operands[side]) : 0;
        if (!matmul || !epilogue_is_plain(e, matmul) || ir_op(m, matmul)->phase != add->phase ||
            ir_op(m, matmul)->unit != add->unit)
            continue;
        const IrType *type = ir_value_type(m, ir_op(m, matmul)->results[0]);
        IrValue other = epilogue_current(e, add->operands[1 - side]);
        const IrValue sum = add->results[0];
        if (type->rank != 2)
            continue;
        IrValue bias = epilogue_bias_of(e, other, type->dims[1]);
        const bool narrow = type->dtype == DT_BF16;
        if (bias && !ir_attrs_bool(&ir_op(m, matmul)->attrs, IR_ATTR_bias) && (!narrow || is_kept_as_bf16(e, sum)) &&
            ir_value_type(m, sum)->dims[ir_value_type(m, sum)->rank - 1] == type->dims[1])
        {
            take_in(e, op, matmul, IR_ATTR_bias, bias);
            return true;
        }
        if (epilogue_def(e, other)->code == IR_broadcast || epilogue_def(e, other)->code == IR_const)
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

/* An activation moves in when its graph is all that reads the matmul: in evaluation. In training the backward pass
 * reads what is before it, too, and parts of the graph. */
static bool try_activation(Epilogue *e, const ActivationForms *forms, IrOp op)
{
    IrModule *m = e->m;
    IrValue result = ir_op(m, op)->results[0], x;
    uint32_t n_reads;
    const char *act = activation_match(forms, m, &e->uses, result, &x, &n_reads);
    if (!act || ir_uses_count(&e->uses, x) != n_reads)
    {
        act = act ? act : activation_match(forms, m, NULL, result, &x, &n_reads);
        return act && epilogue_try_training(e, result, x, act);
    }
    const IrOp matmul = epilogue_matmul_of(e, x);
    if (!matmul || !epilogue_is_plain(e, matmul) || ir_op(m, matmul)->unit != ir_op(m, op)->unit ||
        (ir_value_type(m, ir_op(m, matmul)->results[0])->dtype == DT_BF16 && !is_kept_as_bf16(e, result)))
        return false;
    ir_attrs_put(m->arena, &ir_op(m, matmul)->attrs, ir_attr_str(IR_ATTR_act, act));
    e->map[result] = epilogue_current(e, x); /* which is after the activation now; the graph is dead */
    return true;
}

/* What the epilogue rounds is not rounded again. */
static void fold_cast(Epilogue *e, IrOp op)
{
    const IrValue operand = epilogue_current(e, ir_op(e->m, op)->operands[0]), result = ir_op(e->m, op)->results[0];
    if (ir_value_type(e->m, result)->dtype == DT_BF16 && epilogue_is_widening(e, epilogue_def(e, operand)))
        e->map[result] = epilogue_current(e, epilogue_def(e, operand)->operands[0]);
}

static void take_in_all(Epilogue *e, const ActivationForms *forms)
{
    IrModule *m = e->m;
    for (IrOp op = ir_func(m, e->func)->first, next; op; op = next)
    {
        const IrCode code = ir_op(m, op)->code;
        next = ir_op(m, op)->next;
        if (code == IR_cast)
            fold_cast(e, op);
        else if (code == IR_add)
            try_add(e, op);
        else if (ir_code_has(code, IR_TRAIT_EWISE))
            try_activation(e, forms, op);
    }
    epilogue_take_sums(e);
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
                      .scratch = ctx->scratch,
                      .uses = ir_uses_build(ctx->scratch, m, func),
                      .map = ARENA_ARRAY(ctx->scratch, IrValue, m->values.len),
                      .n_values = m->values.len};
        take_in_all(&e, forms);
        ir_func_replace_values(m, func, e.map, e.n_values);
    }
    return true;
}
