/* Takes composites apart into primitives, and einsum into matmul (passes/einsum.c). Attention stays: it is a template.
 *
 * On exit no op with the trait COMPOSITE is left. New ops keep span, unit and phase of the op they come from. */
#include "base/bug.h"
#include "passes/composites.h"
#include "passes/einsum.h"
#include "passes/manager.h"

/* Returns the value of the op's first result, of its type. */
typedef IrValue DecomposeRule(IrBuilder *b, const IrOpData *op);

static IrValue in_f32(IrBuilder *b, IrValue v)
{
    return ir_build_cast(b, v, DT_F32);
}

static IrValue decompose_softmax(IrBuilder *b, const IrOpData *op)
{
    return composite_softmax(b, op->operands[0]);
}

static IrValue decompose_layer_norm(IrBuilder *b, const IrOpData *op)
{
    CompositeNorm norm = composite_norm(b, op->operands[0], ir_attrs_float(&op->attrs, IR_ATTR_eps, 0), true);
    IrType type = *ir_value_type(b->m, norm.normalised);
    IrValue gamma = composite_rows(b, in_f32(b, op->operands[1]), &type);
    IrValue beta = composite_rows(b, in_f32(b, op->operands[2]), &type);
    return ir_build2(b, IR_add, ir_build2(b, IR_mul, norm.normalised, gamma), beta);
}

static IrValue decompose_rms_norm(IrBuilder *b, const IrOpData *op)
{
    CompositeNorm norm = composite_norm(b, op->operands[0], ir_attrs_float(&op->attrs, IR_ATTR_eps, 0), false);
    IrType type = *ir_value_type(b->m, norm.normalised);
    return ir_build2(b, IR_mul, norm.normalised, composite_rows(b, in_f32(b, op->operands[1]), &type));
}

static IrValue decompose_dropout(IrBuilder *b, const IrOpData *op)
{
    IrType type = *ir_value_type(b->m, op->operands[0]);
    IrValue factor =
        composite_dropout_factor(b, &type, op->operands[1], op->operands[2], ir_attrs_float(&op->attrs, IR_ATTR_p, 0),
                                 ir_attrs_int(&op->attrs, IR_ATTR_stream, 0));
    return ir_build2(b, IR_mul, in_f32(b, op->operands[0]), factor);
}

static IrValue decompose_cross_entropy(IrBuilder *b, const IrOpData *op)
{
    return composite_cross_entropy(b, op->operands[0], op->operands[1]);
}

static IrValue decompose_einsum(IrBuilder *b, const IrOpData *op)
{
    return einsum_lower(b, op->operands[0], op->operands[1], ir_attrs_str(&op->attrs, IR_ATTR_expr),
                        (DType)ir_value_type(b->m, op->results[0])->dtype);
}

static DecomposeRule *const rules[IR_CODE_COUNT] = {
    [IR_softmax] = decompose_softmax,   [IR_layer_norm] = decompose_layer_norm,
    [IR_rms_norm] = decompose_rms_norm, [IR_dropout] = decompose_dropout,
    [IR_einsum] = decompose_einsum,     [IR_cross_entropy] = decompose_cross_entropy,
};

bool pass_decompose(PassContext *ctx)
{
    IrModule *m = ctx->m;
    IR_FOR_FUNCS(m, func)
    {
        uint32_t n_old = m->values.len;
        IrValue *map = ARENA_ARRAY(ctx->scratch, IrValue, n_old);
        for (IrOp op = ir_func(m, func)->first, next; op; op = next)
        {
            const IrOpData data = *ir_op(m, op);
            next = data.next;
            if (!ir_code_has(data.code, IR_TRAIT_COMPOSITE))
                continue;
            ENSURE(rules[data.code]);
            IrBuilder b = ir_builder_before(m, op);
            IrValue value = rules[data.code](&b, &data);
            map[data.results[0]] = ir_build_cast(&b, value, (DType)ir_value_type(m, data.results[0])->dtype);
            ir_op_remove(m, op);
        }
        ir_func_replace_values(m, func, map, n_old);
    }
    return true;
}
