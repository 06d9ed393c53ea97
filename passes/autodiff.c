/* Reverse-mode differentiation of the output "loss" of @train, driven by demand: a value gets a gradient only when it
 * depends on a trainable param and the loss depends on it. What leads to frozen params only costs nothing.
 *
 * On entry: @train sets "loss" (a float scalar). On exit: ops of phase BACKWARD at its end, each with span and unit of
 * the forward op it comes from, and a `set` of output "grad:NAME" for every trainable param NAME with a gradient. */
#include "base/bug.h"
#include "ir/expr.h"
#include "passes/autodiff_rules.h"
#include "passes/composites.h"
#include "passes/manager.h"

#include <string.h>

/* The GRAD column as data. */
typedef struct
{
    const char *exprs[3]; /* per operand; NULL or "": none */
    GradRule *rule;
} GradRow;

#define GRAD(...)                                                                                                      \
    {                                                                                                                  \
        .exprs = { __VA_ARGS__ }                                                                                       \
    }
#define GRAD_FN(name)                                                                                                  \
    {                                                                                                                  \
        .rule = grad_##name                                                                                            \
    }
#define NOGRAD                                                                                                         \
    {                                                                                                                  \
        .rule = NULL                                                                                                   \
    }
#define OP(name, in, out, required, optional, shape, traits, grad, ...) grad,
static const GradRow grad_rows[] = {
    {.rule = NULL},
#include "ir/ops.def"
};
#undef OP

typedef struct
{
    PassContext *ctx;
    IrModule *m;
    IrFunc train;
    IrOp loss_set;
    bool *needs;    /* by value: depends on a trainable param through differentiable ops */
    IrValue *grads; /* by value: gradient accumulated so far, 0 none */
} Autodiff;

static IrOp find_set(const IrModule *m, IrFunc func, const char *global)
{
    IR_FOR_OPS(m, func, op)
    if (ir_op(m, op)->code == IR_set && strcmp(ir_attrs_str(&ir_op(m, op)->attrs, IR_ATTR_global), global) == 0)
        return op;
    return 0;
}

static const IrGlobalData *got_global(const IrModule *m, const IrOpData *get)
{
    return ir_global(m, ir_global_find(m, ir_attrs_str(&get->attrs, IR_ATTR_global)));
}

/* Whether a gradient can flow from the op's first result to operand i. */
static bool flows(const IrModule *m, const IrOpData *op, uint32_t i)
{
    const GradRow *row = &grad_rows[op->code];
    if (!dtype_is_float((DType)ir_value_type(m, op->operands[i])->dtype))
        return false;
    return row->rule || (row->exprs[i] && row->exprs[i][0]);
}

static bool op_needs(const Autodiff *a, const IrOpData *op)
{
    if (op->code == IR_get)
    {
        const IrGlobalData *global = got_global(a->m, op);
        return global->kind == IR_GLOBAL_PARAM && ir_attrs_bool(&global->attrs, IR_ATTR_trainable) &&
               dtype_is_float((DType)global->type.dtype);
    }
    for (uint32_t i = 0; i < op->n_operands; i++)
        if (a->needs[op->operands[i]] && flows(a->m, op, i))
            return true;
    return false;
}

static void find_needs(Autodiff *a)
{
    a->needs = ARENA_ARRAY(a->ctx->scratch, bool, a->m->values.len);
    IR_FOR_OPS(a->m, a->train, op)
    {
        const IrOpData *data = ir_op(a->m, op);
        bool needs = op_needs(a, data);
        for (uint32_t i = 0; i < data->n_results; i++)
            a->needs[data->results[i]] = needs && dtype_is_float((DType)ir_value_type(a->m, data->results[i])->dtype);
    }
}

/* attention_grad has no gradient for the bias and none that comes through the logsumexp: an attention that needs one of
 * them becomes primitives first. */
static void take_attentions_apart(Autodiff *a)
{
    IrModule *m = a->m;
    IrUses uses = ir_uses_build(a->ctx->scratch, m, a->train);
    uint32_t n_old = m->values.len;
    IrValue *map = ARENA_ARRAY(a->ctx->scratch, IrValue, n_old);
    for (IrOp op = ir_func(m, a->train)->first, next; op; op = next)
    {
        const IrOpData data = *ir_op(m, op);
        next = data.next;
        if (data.code != IR_attention)
            continue;
        bool bias_needs = ir_attrs_bool(&data.attrs, IR_ATTR_bias) && a->needs[data.operands[3]];
        bool lse_used = a->needs[data.results[1]] && ir_uses_count(&uses, data.results[1]) > 0;
        if (!bias_needs && !lse_used)
            continue;
        IrBuilder b = ir_builder_before(m, op);
        IrValue values[2];
        composite_attention(&b, op, values);
        map[data.results[0]] = values[0];
        map[data.results[1]] = values[1];
        ir_op_remove(m, op);
    }
    ir_func_replace_values(m, a->train, map, n_old);
}

static void accumulate(Autodiff *a, IrBuilder *b, IrValue value, IrValue grad)
{
    ENSURE(ir_type_equal(ir_value_type(a->m, value), ir_value_type(a->m, grad)));
    a->grads[value] = a->grads[value] ? ir_build2(b, IR_add, a->grads[value], grad) : grad;
}

static void differentiate_op(Autodiff *a, const IrOpData *op)
{
    IrValue g = a->grads[op->results[0]];
    IrBuilder b = {.m = a->m, .func = a->train, .span = op->span, .unit = op->unit, .phase = IR_PHASE_BACKWARD};
    bool *needs = ARENA_ARRAY(a->ctx->scratch, bool, op->n_operands);
    IrValue *grads = ARENA_ARRAY(a->ctx->scratch, IrValue, op->n_operands);
    for (uint32_t i = 0; i < op->n_operands; i++)
        needs[i] = a->needs[op->operands[i]] && flows(a->m, op, i);
    const GradRow *row = &grad_rows[op->code];
    if (row->rule)
        row->rule(&(GradOp){.b = &b, .op = *op, .y = op->results[0], .g = g, .needs = needs, .grads = grads});
    else
    {
        static const char *const names[] = {"a", "b", "c"};
        IrExprVar vars[5] = {{"y", op->results[0]}, {"g", g}};
        for (uint32_t i = 0; i < op->n_operands; i++)
            vars[2 + i] = (IrExprVar){names[i], op->operands[i]};
        for (uint32_t i = 0; i < op->n_operands; i++)
            if (needs[i])
                grads[i] = ir_build_expr(&b, row->exprs[i], vars, 2 + op->n_operands);
    }
    for (uint32_t i = 0; i < op->n_operands; i++)
        if (needs[i] && grads[i])
            accumulate(a, &b, op->operands[i], grads[i]);
}

/* An op that the gradient would have to pass but that has no rule: only hand-written IR gets here. */
static bool report_opaque(const Autodiff *a, const IrOpData *op)
{
    if (op->code != IR_call && op->code != IR_attention_grad)
        return false;
    for (uint32_t i = 0; i < op->n_operands; i++)
        if (a->needs[op->operands[i]])
        {
            diag_error(a->ctx->diag, op->span, "'%s' cannot be differentiated", ir_op_info(op->code)->name);
            return true;
        }
    return false;
}

static bool backward(Autodiff *a)
{
    IrModule *m = a->m;
    VEC(IrOp) forward = {0};
    IR_FOR_OPS(m, a->train, op)
    {
        if (report_opaque(a, ir_op(m, op)))
            return false;
        vec_push(a->ctx->scratch, &forward, op);
    }
    a->grads = ARENA_ARRAY(a->ctx->scratch, IrValue, m->values.len);
    IrValue loss = ir_op(m, a->loss_set)->operands[0];
    IrBuilder b = ir_builder_before(m, a->loss_set);
    b.before = 0;
    b.phase = IR_PHASE_BACKWARD;
    if (a->needs[loss])
        a->grads[loss] = ir_build_const(&b, *ir_value_type(m, loss), 1);
    for (uint32_t i = forward.len; i-- > 0;)
    {
        const IrOpData op = *ir_op(m, forward.data[i]);
        if (op.n_results > 0 && op.code != IR_get && a->grads[op.results[0]])
            differentiate_op(a, &op);
    }
    return true;
}

/* Sets "grad:NAME" in the order of the globals; false when there is none to set. */
static bool set_gradients(Autodiff *a)
{
    IrModule *m = a->m;
    bool any = false;
    uint32_t n_globals = m->globals.len;
    IrValue *sums = ARENA_ARRAY(a->ctx->scratch, IrValue, n_globals);
    IrBuilder *at = ARENA_ARRAY(a->ctx->scratch, IrBuilder, n_globals);
    IR_FOR_OPS(m, a->train, op)
    {
        const IrOpData data = *ir_op(m, op);
        if (data.code != IR_get || data.phase != IR_PHASE_FORWARD || !a->grads[data.results[0]])
            continue;
        IrGlobal global = ir_global_find(m, ir_attrs_str(&data.attrs, IR_ATTR_global));
        IrBuilder b = ir_builder_before(m, op);
        b.before = 0;
        b.phase = IR_PHASE_BACKWARD;
        IrValue grad = a->grads[data.results[0]];
        sums[global] = sums[global] ? ir_build2(&b, IR_add, sums[global], grad) : grad;
        at[global] = b;
    }
    for (IrGlobal g = 1; g < n_globals; g++)
    {
        if (!sums[g])
            continue;
        const IrGlobalData param = *ir_global(m, g);
        const char *name = arena_printf(m->arena, "grad:%s", param.name);
        ir_global_add(m, IR_GLOBAL_OUTPUT, name, param.type, NULL, 0, param.span);
        ir_build_set(&at[g], name, sums[g]);
        any = true;
    }
    return any;
}

bool pass_autodiff(PassContext *ctx)
{
    Autodiff a = {.ctx = ctx, .m = ctx->m, .train = ir_func_find(ctx->m, "train")};
    a.loss_set = a.train ? find_set(a.m, a.train, "loss") : 0;
    if (!a.loss_set)
    {
        diag_error(ctx->diag, (Span){0}, "nothing to train: the module has no @train that sets \"loss\"");
        return false;
    }
    const IrOpData loss = *ir_op(a.m, a.loss_set);
    const IrType *type = ir_value_type(a.m, loss.operands[0]);
    if (type->rank != 0 || !dtype_is_float((DType)type->dtype))
    {
        diag_error(ctx->diag, loss.span, "the loss is %s, expected a scalar f32[]", ir_type_text(ctx->scratch, type));
        return false;
    }
    for (IrGlobal g = 1; g < a.m->globals.len; g++)
        if (strncmp(ir_global(a.m, g)->name, "grad:", 5) == 0)
        {
            diag_error(ctx->diag, ir_global(a.m, g)->span, "the module has gradients already: \"%s\"",
                       ir_global(a.m, g)->name);
            return false;
        }
    find_needs(&a);
    take_attentions_apart(&a);
    find_needs(&a);
    if (!backward(&a))
        return false;
    if (!set_gradients(&a))
    {
        diag_error(ctx->diag, loss.span, "nothing to train: the loss depends on no trainable parameter");
        return false;
    }
    return true;
}
