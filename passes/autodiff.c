/* Reverse-mode differentiation of the output "loss" of @train, driven by demand: a value gets a gradient only when it
 * depends on a trainable param and the loss depends on it. What leads to frozen params only costs nothing.
 *
 * On entry: @train sets "loss" (a float scalar). On exit: ops of phase BACKWARD at its end, each with span and unit of
 * the forward op it comes from, and a `set` of output "grad:NAME" for every trainable param NAME with a gradient.
 *
 * A param that several units use has a `get` and a gradient in each of them; they are added in the order of units, in
 * phase OPTIMIZER, so that the sum is the same wherever the pipeline is cut.
 *
 * With several micro-batches (pass micro_batch) it is "loss.sum" of one that is differentiated: its weight is not known
 * before the last one. Gradients are accumulated and then divided by the weight of all. */
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
    IrValue root;   /* what is differentiated */
    IrValue weight; /* of all micro-batches; 0: there is one, root is its mean */
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
        const uint32_t bias = ir_attrs_bool(&data.attrs, IR_ATTR_packed) ? 1 : 3;
        bool bias_needs = ir_attrs_bool(&data.attrs, IR_ATTR_bias) && a->needs[data.operands[bias]];
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
    const bool is_step_part = ir_attrs_bool(&op->attrs, IR_ATTR_aux) || ir_attrs_bool(&op->attrs, IR_ATTR_sums) ||
                              ir_attrs_find(&op->attrs, IR_ATTR_dact);
    if (op->code != IR_call && op->code != IR_attention_grad && !is_step_part)
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
    IrBuilder b = ir_builder_before(m, a->loss_set);
    b.before = 0;
    b.phase = IR_PHASE_BACKWARD;
    if (a->needs[a->root])
        a->grads[a->root] = ir_build_const(&b, *ir_value_type(m, a->root), 1);
    for (uint32_t i = forward.len; i-- > 0;)
    {
        const IrOpData op = *ir_op(m, forward.data[i]);
        if (op.n_results > 0 && op.code != IR_get && a->grads[op.results[0]])
            differentiate_op(a, &op);
    }
    return true;
}

/* ---- params that several units use */

/* Every get of a param that ops of several units read becomes one get per unit, before its first reader. */
static void split_gets_by_unit(Autodiff *a)
{
    IrModule *m = a->m;
    IrUses uses = ir_uses_build(a->ctx->scratch, m, a->train);
    for (IrOp op = ir_func(m, a->train)->first, next; op; op = next)
    {
        const IrOpData get = *ir_op(m, op);
        next = get.next;
        if (get.code != IR_get || got_global(m, &get)->kind != IR_GLOBAL_PARAM || get.results[0] >= uses.n_values)
            continue; /* the last: one of the copies */
        IrValue value = get.results[0];
        uint32_t first_unit = 0;
        VEC(IrOp) copies = {0};
        for (uint32_t i = uses.first[value]; i < uses.first[value + 1]; i++)
        {
            IrOp user = uses.users[i];
            const uint32_t unit = ir_op(m, user)->unit;
            if (!first_unit)
                first_unit = ir_op(m, op)->unit = unit;
            if (unit == first_unit)
                continue;
            uint32_t k = 0;
            while (k < copies.len && ir_op(m, copies.data[k])->unit != unit)
                k++;
            if (k == copies.len)
            {
                IrBuilder b = ir_builder_before(m, user);
                IrOp copy = ir_build_clone(&b, op, NULL);
                ir_op(m, copy)->unit = unit;
                vec_push(a->ctx->scratch, &copies, copy);
            }
            for (uint32_t j = 0; j < ir_op(m, user)->n_operands; j++)
                if (ir_op(m, user)->operands[j] == value)
                    ir_op(m, user)->operands[j] = ir_op_result(m, copies.data[k], 0);
        }
    }
}

/* The gradients of one param: one per unit that uses it, ascending. */
typedef struct
{
    IrOp get;
    IrValue grad;
} Contribution;

static int by_unit(const IrModule *m, const Contribution *x, const Contribution *y)
{
    return ir_op(m, x->get)->unit < ir_op(m, y->get)->unit ? -1 : 1;
}

static void sort_by_unit(const IrModule *m, Contribution *list, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t k = i; k > 0 && by_unit(m, &list[k], &list[k - 1]) < 0; k--)
        {
            Contribution swap = list[k];
            list[k] = list[k - 1];
            list[k - 1] = swap;
        }
}

static IrBuilder builder_like(IrModule *m, IrOp get, IrPhase phase)
{
    IrBuilder b = ir_builder_before(m, get);
    b.before = 0;
    b.phase = phase;
    return b;
}

/* The whole gradient of one param from its contributions. */
static IrValue add_up(const Autodiff *a, const Contribution *list, uint32_t n)
{
    IrModule *m = a->m;
    IrValue total = 0;
    for (uint32_t i = 0; i < n; i++)
    {
        IrBuilder b = builder_like(a->m, list[i].get, IR_PHASE_OPTIMIZER);
        IrValue grad = a->weight ? ir_build1(&b, IR_accumulate, list[i].grad) : list[i].grad;
        IrBuilder at_first = builder_like(a->m, list[0].get, IR_PHASE_OPTIMIZER);
        total = total ? ir_build2(&at_first, IR_add, total, grad) : grad;
    }
    if (!a->weight)
        return total;
    IrBuilder b = builder_like(a->m, list[0].get, IR_PHASE_OPTIMIZER);
    IrBuilder scalar = b;
    scalar.unit = 0; /* every stage has it */
    IrValue tiny = ir_build_const(&scalar, *ir_value_type(m, a->weight), 1e-20);
    IrValue one = ir_build_const(&scalar, *ir_value_type(m, a->weight), 1);
    IrValue scale = ir_build2(&scalar, IR_div, one, ir_build2(&scalar, IR_max, a->weight, tiny));
    scale = ir_build_cast(&scalar, scale, (DType)ir_value_type(m, total)->dtype);
    return ir_build2(&b, IR_mul, total, ir_build_stretch(&b, scale, ir_value_type(m, total)));
}

/* Sets "grad:NAME" in the order of the globals; false when there is none to set. */
static bool set_gradients(Autodiff *a)
{
    IrModule *m = a->m;
    typedef VEC(Contribution) Contributions;
    bool any = false;
    uint32_t n_globals = m->globals.len;
    Contributions *lists = ARENA_ARRAY(a->ctx->scratch, Contributions, n_globals);
    IR_FOR_OPS(m, a->train, op)
    {
        const IrOpData data = *ir_op(m, op);
        if (data.code != IR_get || data.phase != IR_PHASE_FORWARD || !a->grads[data.results[0]])
            continue;
        IrGlobal global = ir_global_find(m, ir_attrs_str(&data.attrs, IR_ATTR_global));
        vec_push(a->ctx->scratch, &lists[global], (Contribution){op, a->grads[data.results[0]]});
    }
    for (IrGlobal g = 1; g < n_globals; g++)
    {
        if (!lists[g].len)
            continue;
        sort_by_unit(m, lists[g].data, lists[g].len);
        const IrGlobalData param = *ir_global(m, g);
        const char *name = arena_printf(m->arena, "grad:%s", param.name);
        IrValue grad = add_up(a, lists[g].data, lists[g].len);
        ir_global_add(m, IR_GLOBAL_OUTPUT, name, param.type, NULL, 0, param.span);
        IrBuilder b = builder_like(a->m, lists[g].data[0].get, a->weight ? IR_PHASE_OPTIMIZER : IR_PHASE_BACKWARD);
        ir_build_set(&b, name, grad);
        any = true;
    }
    return any;
}

/* One micro-batch of several: the root is what "loss.sum" accumulates. */
static void find_root(Autodiff *a)
{
    const IrModule *m = a->m;
    a->root = ir_op(m, a->loss_set)->operands[0];
    IrOp sum = find_set(m, a->train, "loss.sum"), weight = find_set(m, a->train, "loss.weight");
    if (!sum || !weight || ir_value_code(m, ir_op(m, sum)->operands[0]) != IR_accumulate)
        return;
    a->root = ir_op(m, ir_value(m, ir_op(m, sum)->operands[0])->def)->operands[0];
    a->weight = ir_op(m, weight)->operands[0];
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
    split_gets_by_unit(&a);
    find_root(&a);
    find_needs(&a);
    take_attentions_apart(&a);
    find_root(&a);
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
