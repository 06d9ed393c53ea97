/* What a training step has in its matmuls besides bias, residual and activation. Each is taken where it saves a pass
 * over a matrix:
 *
 *   aux    the activation's operand x as a second result, and
 *   dact   g act'(x) in the product that gives g: where y = act(x) goes into matmuls alone, and g act'(x) into
 *          matmuls and sums of rows. No kernel reads or writes x, y, g or the gradient then. Of relu only the sign
 *          of x is read, which y has
 *   sums   the gradient of a bias, from the matmul that makes the gradient of the weights: of rows that no kernel
 *          of ours makes, or that lie in memory in another order. Rows that a kernel makes it adds for nothing
 *
 * Gradients of activations are recognised by what they compute, since what autodiff writes is rearranged and shared
 * with the forward pass by the time this runs: two formulas that agree at ten points are the same. */
#include "passes/epilogue.h"

#include "ir/scalar_eval.h"

#include <math.h>
#include <string.h>

enum
{
    N_POINTS = 10,
    MAX_NODES = 64
};

/* Those that cuBLASLt has with what a gradient takes (runtime/hal_cuda_gemm.c). */
static double gelu_tanh_slope(double x)
{
    const double k = sqrt(2 / M_PI), t = tanh(k * (x + 0.044715 * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * 0.044715 * x * x);
}

static bool has_gradient(const char *act)
{
    return strcmp(act, "gelu_tanh") == 0;
}

/* ---- where it saves a pass */

/* Whether all readers, through reshapes and casts, are matmuls of the unit (or sums, where those are welcome, too). */
static bool is_read_whole(const Epilogue *e, IrValue value, bool sums_too)
{
    const uint32_t n = ir_uses_count(&e->uses, value);
    for (uint32_t i = 0; i < n; i++)
    {
        const IrOpData *user = ir_op(e->m, e->uses.users[e->uses.first[value] + i]);
        if (user->unit != epilogue_def(e, value)->unit)
            return false;
        const bool moves =
            user->code == IR_reshape || epilogue_is_narrowing(e, user) || (sums_too && epilogue_is_widening(e, user));
        if (moves ? !is_read_whole(e, user->results[0], sums_too)
                  : user->code != IR_matmul && !(sums_too && user->code == IR_reduce_sum))
            return false;
    }
    return n > 0;
}

/* The matmul and the bias whose sum is x, an add that was not taken in since x is not kept as bf16. */
static IrOp biased_matmul_of(const Epilogue *e, const IrOpData *add, IrValue *out_bias)
{
    for (int side = 0; side < 2; side++)
    {
        const IrValue product = add->operands[side];
        const IrOp matmul =
            product < e->n_values && ir_uses_count(&e->uses, product) == 1 ? epilogue_matmul_of(e, product) : 0;
        if (!matmul || ir_value_type(e->m, ir_op(e->m, matmul)->results[0])->rank != 2 ||
            ir_attrs_bool(&ir_op(e->m, matmul)->attrs, IR_ATTR_bias))
            continue;
        *out_bias =
            epilogue_bias_of(e, add->operands[1 - side], ir_value_type(e->m, ir_op(e->m, matmul)->results[0])->dims[1]);
        if (*out_bias)
            return matmul;
    }
    return 0;
}

/* ---- the activation's gradient */

/* A formula in x and g: its values at N_POINTS. */
typedef struct
{
    const Epilogue *e;
    IrValue x, g;     /* g 0: not met yet */
    uint32_t n_reads; /* of g */
    uint32_t n_nodes;
    IrValue nodes[MAX_NODES];
    double at[MAX_NODES][N_POINTS];
} Formula;

static const double POINTS[N_POINTS] = {-4.1, -2.6, -1.3, -0.7, -0.2, 0.1, 0.6, 1.1, 1.9, 3.2};
static const double GRADS[N_POINTS] = {1, -0.5, 2, 0.3, -1.7, 0.9, -2.2, 1.4, 0.6, -0.8};

/* A new node with these values; -1 when there are too many. */
static int add_node(Formula *f, IrValue value, const double *numbers)
{
    if (f->n_nodes == MAX_NODES)
        return -1;
    f->nodes[f->n_nodes] = value;
    memcpy(f->at[f->n_nodes], numbers, sizeof f->at[0]);
    return (int)f->n_nodes++;
}

static int evaluate(Formula *f, IrValue value);

static int evaluate_op(Formula *f, IrValue value, const IrOpData *op)
{
    int operands[3] = {0};
    for (uint32_t i = 0; i < op->n_operands; i++)
    {
        operands[i] = evaluate(f, op->operands[i]);
        if (operands[i] < 0)
            return -1;
    }
    double numbers[N_POINTS];
    for (int p = 0; p < N_POINTS; p++)
        if (!ir_scalar_eval(op->code, f->at[operands[0]][p], f->at[operands[1]][p], f->at[operands[2]][p], &numbers[p]))
            return -1;
    return add_node(f, value, numbers);
}

/* The node of a value; -1 when it is no formula of that kind. What is neither computed nor a number is g, if it is one
 * thing. Rounding to bf16 and back does not count. */
static int evaluate(Formula *f, IrValue value)
{
    const Epilogue *e = f->e;
    f->n_reads += value == f->g;
    for (uint32_t i = 0; i < f->n_nodes; i++)
        if (f->nodes[i] == value)
            return (int)i;
    const IrOpData *op = epilogue_def(e, value);
    if (op->code == IR_const)
    {
        double numbers[N_POINTS];
        for (int p = 0; p < N_POINTS; p++)
            numbers[p] = ir_attrs_float(&op->attrs, IR_ATTR_value, 0);
        return add_node(f, value, numbers);
    }
    const bool rounds_back = epilogue_is_widening(e, op) && epilogue_is_narrowing(e, epilogue_def(e, op->operands[0]));
    if (op->code == IR_cast ? rounds_back || epilogue_is_narrowing(e, op) : ir_code_has(op->code, IR_TRAIT_EWISE))
        return evaluate_op(f, value, op);
    if (f->g)
        return -1;
    f->g = value;
    f->n_reads = 1;
    return add_node(f, value, GRADS);
}

/* Whether value is g act'(x) for some g that nothing else reads. */
static bool is_gradient(Formula *f, IrValue value)
{
    f->g = f->n_reads = f->n_nodes = 0;
    add_node(f, f->x, POINTS);
    const int root = evaluate(f, value);
    if (root < 0 || !f->g || f->n_reads != ir_uses_count(&f->e->uses, f->g))
        return false;
    for (int p = 0; p < N_POINTS; p++)
    {
        const double wanted = GRADS[p] * gelu_tanh_slope(POINTS[p]);
        if (!(fabs(f->at[root][p] - wanted) <= 1e-6 * (1 + fabs(wanted))))
            return false;
    }
    return true;
}

typedef struct
{
    IrValue result; /* g act'(x); 0: there is none */
    IrOp matmul;    /* gives g */
} Gradient;

static Gradient find_gradient(const Epilogue *e, IrOp reader, IrValue x, const IrType *type)
{
    const IrModule *m = e->m;
    const uint32_t unit = ir_op(m, reader)->unit;
    Formula *f = ARENA_NEW(e->scratch, Formula);
    f->e = e;
    f->x = x;
    for (IrOp op = ir_op(m, reader)->next; op; op = ir_op(m, op)->next)
    {
        const IrOpData *data = ir_op(m, op);
        if (data->unit != unit || data->phase != IR_PHASE_BACKWARD || !ir_code_has(data->code, IR_TRAIT_EWISE) ||
            data->code == IR_cast || data->results[0] >= e->n_values ||
            ir_value_type(m, data->results[0])->dtype != DT_F32 || !is_read_whole(e, data->results[0], true) ||
            !is_gradient(f, data->results[0]))
            continue;
        const IrOp matmul = epilogue_matmul_of(e, f->g);
        const IrOpData *product = matmul ? ir_op(m, matmul) : NULL;
        if (product && product->n_operands == 2 && epilogue_is_plain(e, matmul) && product->unit == unit &&
            product->phase == data->phase && ir_type_equal(ir_value_type(m, product->results[0]), type))
            return (Gradient){data->results[0], matmul};
    }
    return (Gradient){0};
}

/* ---- both */

/* Whether all that reads x is the op of y and x > 0. */
static bool is_sign_read(const Epilogue *e, IrValue y, IrValue x)
{
    for (uint32_t i = e->uses.first[x]; i < e->uses.first[x + 1]; i++)
    {
        const IrOpData *user = ir_op(e->m, e->uses.users[i]);
        if (user->n_results && user->results[0] == y)
            continue;
        const IrOpData *other = user->code == IR_gt ? epilogue_def(e, user->operands[1]) : NULL;
        if (!other || other->code != IR_const || ir_attrs_float(&other->attrs, IR_ATTR_value, 0) != 0)
            return false;
    }
    return true;
}

static void take_gradient(Epilogue *e, const Gradient *gradient, const char *act, IrValue aux)
{
    const IrAttr attr = ir_attr_str(IR_ATTR_dact, act);
    const IrOp new = epilogue_build(e, gradient->matmul, gradient->matmul, &attr, 1, aux);
    IrBuilder b = ir_builder_before(e->m, gradient->matmul);
    epilogue_map(e, &b, gradient->result, ir_op_result(e->m, new, 0));
}

bool epilogue_try_training(Epilogue *e, IrValue y, IrValue x, const char *act)
{
    IrModule *m = e->m;
    const bool aux = has_gradient(act);
    const IrOp def = ir_value(m, epilogue_current(e, x))->def, reader = ir_value(m, y)->def;
    IrValue bias = 0;
    IrOp matmul = epilogue_matmul_of(e, x);
    if (!matmul && ir_op(m, def)->code == IR_add)
        matmul = biased_matmul_of(e, ir_op(m, def), &bias);
    if (!matmul || !epilogue_is_plain(e, matmul) || !is_read_whole(e, y, false) ||
        (!aux && (strcmp(act, "relu") != 0 || !is_sign_read(e, y, x))))
        return false;
    const IrOpData *op = ir_op(m, matmul);
    const IrType type = *ir_value_type(m, op->results[0]);
    if (op->unit != ir_op(m, reader)->unit || op->phase != ir_op(m, reader)->phase || type.rank != 2 ||
        type.dtype != ir_value_type(m, op->operands[0])->dtype)
        return false;
    const Gradient gradient = aux ? find_gradient(e, reader, x, &type) : (Gradient){0};
    if (aux && !gradient.result)
        return false;
    const IrOp place = bias ? def : matmul;
    IrBuilder b = ir_builder_before(m, place);
    b.span = op->span;
    IrAttr attrs[3] = {ir_attr_str(IR_ATTR_act, act)};
    uint32_t n_attrs = 1;
    if (aux)
        attrs[n_attrs++] = ir_attr_bool(IR_ATTR_aux, true);
    if (bias)
        attrs[n_attrs++] = ir_attr_bool(IR_ATTR_bias, true);
    const IrValue operand = bias ? ir_build_cast(&b, bias, (DType)type.dtype) : 0;
    matmul = epilogue_build(e, place, matmul, attrs, n_attrs, operand);
    epilogue_map(e, &b, x, ir_op_result(m, matmul, aux ? 1 : 0));
    epilogue_map(e, &b, y, ir_op_result(m, matmul, 0));
    if (aux)
        take_gradient(e, &gradient, act, ir_op_result(m, matmul, 1));
    return true;
}

/* ---- sums of rows */

/* The value that has the same elements in the same order, behind reshapes and casts to f32. */
static IrValue behind(const Epilogue *e, IrValue value)
{
    for (;;)
    {
        value = epilogue_current(e, value);
        const IrOpData *def = epilogue_def(e, value);
        if (def->code != IR_reshape && !epilogue_is_widening(e, def))
            return value;
        value = def->operands[0];
    }
}

/* Whether both have the same elements in the same order; they may be transposed in the same way. */
static bool same_elements(const Epilogue *e, IrValue x, IrValue y)
{
    for (;;)
    {
        x = behind(e, x);
        y = behind(e, y);
        const IrOpData *a = epilogue_def(e, x), *b = epilogue_def(e, y);
        if (x == y)
            return true;
        if (a->code != IR_transpose || b->code != IR_transpose ||
            !ir_type_same_shape(ir_value_type(e->m, x), ir_value_type(e->m, y)))
            return false;
        const IrAttr *p = ir_attrs_find(&a->attrs, IR_ATTR_perm), *q = ir_attrs_find(&b->attrs, IR_ATTR_perm);
        if (memcmp(p->ints, q->ints, p->n * sizeof *p->ints) != 0)
            return false;
        x = a->operands[0];
        y = b->operands[0];
    }
}

/* Over all axes but the last. */
static bool sums_rows(const Epilogue *e, const IrOpData *op)
{
    if (op->code != IR_reduce_sum || op->phase != IR_PHASE_BACKWARD)
        return false;
    const IrAttr *axes = ir_attrs_find(&op->attrs, IR_ATTR_axes);
    const int rank = ir_value_type(e->m, op->operands[0])->rank;
    return rank >= 2 && (int)axes->n == rank - 1 && axes->ints[rank - 2] == rank - 2 &&
           ir_value_type(e->m, op->results[0])->dtype == DT_F32;
}

/* A kernel of the same unit that makes the rows adds them up for nothing. */
static bool is_pass_of_its_own(const Epilogue *e, const IrOpData *sum)
{
    const IrOpData *def = epilogue_def(e, behind(e, sum->operands[0]));
    return def->code == IR_transpose || def->unit != sum->unit ||
           !ir_code_has(def->code, IR_TRAIT_EWISE | IR_TRAIT_REDUCE | IR_TRAIT_VIEW | IR_TRAIT_LEAF);
}

static bool gives_sums(const Epilogue *e, const IrOpData *op, const IrOpData *sum)
{
    if (op->code != IR_matmul || op->n_operands != 2 || op->n_results != 1 || op->unit != sum->unit ||
        op->phase != sum->phase || ir_attrs_bool(&op->attrs, IR_ATTR_tb) || ir_attrs_find(&op->attrs, IR_ATTR_act))
        return false;
    const IrType *type = ir_value_type(e->m, op->results[0]), *out = ir_value_type(e->m, sum->results[0]);
    return type->rank == 2 && type->dtype == DT_F32 && type->dims[1] == out->dims[0] &&
           same_elements(e, op->operands[1], sum->operands[0]);
}

static bool is_read_before(const Epilogue *e, IrValue value, const uint32_t *position, IrOp op)
{
    for (uint32_t i = e->uses.first[value]; i < e->uses.first[value + 1]; i++)
        if (position[e->uses.users[i]] < position[op])
            return true;
    return false;
}

static void take_sums(Epilogue *e, IrOp op, const uint32_t *position)
{
    IrModule *m = e->m;
    const IrOpData sum = *ir_op(m, op);
    IrOp matmul = 0;
    IR_FOR_OPS(m, e->func, other)
    if (!matmul && gives_sums(e, ir_op(m, other), &sum) && !is_read_before(e, sum.results[0], position, other))
        matmul = other;
    if (!matmul)
        return;
    const IrAttr attr = ir_attr_bool(IR_ATTR_sums, true);
    const IrOp new = epilogue_build(e, matmul, matmul, &attr, 1, 0);
    e->map[ir_op(m, matmul)->results[0]] = ir_op_result(m, new, 0);
    e->map[sum.results[0]] = ir_op_result(m, new, 1);
    ir_op_remove(m, matmul);
}

void epilogue_take_sums(Epilogue *e)
{
    IrModule *m = e->m;
    uint32_t *position = ARENA_ARRAY(e->scratch, uint32_t, m->ops.len), n = 0;
    IR_FOR_OPS(m, e->func, op)
    position[op] = ++n;
    for (IrOp op = ir_func(m, e->func)->first; op; op = ir_op(m, op)->next)
        if (sums_rows(e, ir_op(m, op)) && is_pass_of_its_own(e, ir_op(m, op)))
            take_sums(e, op, position);
}
