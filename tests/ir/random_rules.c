/* Random structural ops: shapes are drawn, then operands wanted of those shapes. An op without a rule here is drawn
 * from its examples, and nothing is known about its result, which is then not used. */
#include "random_rules.h"

#include "base/bug.h"

#include <math.h>

enum
{
    MAX_ELEMS = 600,   /* of a result */
    MAX_ERROR = 10000, /* of operands */
    SMALL = 8          /* extents of new axes */
};

static IrType type_of(const Random *r, IrValue value)
{
    return *ir_value_type(r->m, value);
}

static double magnitude(RandomValue v)
{
    return fmax(fabs(v.lo), fabs(v.hi));
}

static IrValue build(Random *r, IrCode code, const IrType *given, const IrValue *operands, uint32_t n_operands,
                     const IrAttr *attrs, uint32_t n_attrs)
{
    const char *why;
    IrOp op = ir_try_op(&r->b, code, given, operands, n_operands, attrs, n_attrs, &why);
    if (!op)
        BUG("%s: %s", ir_op_info(code)->name, why);
    return ir_op_result(r->m, op, 0);
}

/* A result that only moves elements of `from`. */
static void moved(Random *r, IrValue value, RandomValue from)
{
    random_add(r, value, from.lo, from.hi, from.error);
}

/* ---- data movement */

/* Splits the number of elements into random factors. */
static void draw_reshape(Random *r)
{
    RandomValue a = random_pick(r, 0, MAX_ELEMS);
    IrType type = type_of(r, a.value);
    int64_t rest = ir_type_n_elems(&type);
    type.rank = 0;
    while (rest > 1 && type.rank < 4)
    {
        int64_t factor = 2 + random_below(r, 7);
        if (type.rank == 3 || rest % factor)
            factor = type.rank == 3 || random_below(r, 2) ? rest : 1;
        type.dims[type.rank++] = factor;
        rest /= factor;
    }
    if (rest > 1)
        type.dims[type.rank - 1] *= rest;
    moved(r, ir_build_reshape(&r->b, a.value, type), a);
}

static void draw_transpose(Random *r)
{
    RandomValue a = random_pick(r, 2, MAX_ELEMS);
    int rank = type_of(r, a.value).rank;
    int64_t perm[IR_MAX_RANK];
    for (int i = 0; i < rank; i++)
    {
        uint32_t j = random_below(r, (uint32_t)i + 1);
        perm[i] = perm[j];
        perm[j] = i;
    }
    moved(r, ir_build_transpose(&r->b, a.value, perm), a);
}

/* New axes at random places. */
static void draw_broadcast(Random *r)
{
    RandomValue a = random_pick(r, 0, MAX_ELEMS / SMALL);
    IrType from = type_of(r, a.value), to = {.dtype = from.dtype};
    int64_t dims[IR_MAX_RANK];
    uint32_t at = random_below(r, from.rank + 1u);
    for (uint32_t i = 0; i <= from.rank && to.rank < IR_MAX_RANK; i++)
    {
        if (i == at && from.rank < IR_MAX_RANK)
            to.dims[to.rank++] = 1 + random_below(r, SMALL);
        if (i == from.rank)
            break;
        dims[i] = to.rank;
        to.dims[to.rank++] = from.dims[i];
    }
    moved(r, ir_build_broadcast(&r->b, a.value, to, dims), a);
}

static void draw_slice(Random *r)
{
    RandomValue a = random_pick(r, 1, MAX_ELEMS);
    IrType type = type_of(r, a.value);
    int64_t starts[IR_MAX_RANK];
    for (int i = 0; i < type.rank; i++)
    {
        starts[i] = random_below(r, (uint32_t)type.dims[i]);
        type.dims[i] = 1 + random_below(r, (uint32_t)(type.dims[i] - starts[i]));
    }
    IrAttr attr = ir_attr_ints(IR_ATTR_starts, starts, type.rank);
    moved(r, build(r, IR_slice, &type, &a.value, 1, &attr, 1), a);
}

static void draw_pad(Random *r)
{
    RandomValue a = random_pick(r, 1, MAX_ELEMS / 9);
    int rank = type_of(r, a.value).rank;
    int64_t lo[IR_MAX_RANK], hi[IR_MAX_RANK];
    for (int i = 0; i < rank; i++)
    {
        lo[i] = i < 2 ? random_below(r, 3) : 0;
        hi[i] = i < 2 ? random_below(r, 3) : 0;
    }
    double value = random_below(r, 2);
    IrAttr attrs[] = {ir_attr_ints(IR_ATTR_lo, lo, (uint32_t)rank), ir_attr_ints(IR_ATTR_hi, hi, (uint32_t)rank),
                      ir_attr_float(IR_ATTR_value, value)};
    random_add(r, build(r, IR_pad, NULL, &a.value, 1, attrs, 3), fmin(a.lo, value), fmax(a.hi, value), a.error);
}

static void draw_concat(Random *r)
{
    RandomValue all = random_pick(r, 1, MAX_ELEMS / 3);
    IrType type = type_of(r, all.value);
    uint32_t axis = random_below(r, type.rank), n = 1 + random_below(r, 3);
    IrValue operands[3] = {all.value};
    for (uint32_t i = 1; i < n; i++)
    {
        IrType part = type;
        part.dims[axis] = 1 + random_below(r, (uint32_t)type.dims[axis]);
        bool is_float = part.dtype == DT_F32;
        RandomValue v = random_want(r, &part, is_float ? -16 : -1e6, is_float ? 16 : 1e6, is_float ? MAX_ERROR : 0);
        operands[i] = v.value;
        all.lo = fmin(all.lo, v.lo);
        all.hi = fmax(all.hi, v.hi);
        all.error = fmax(all.error, v.error);
    }
    IrAttr attr = ir_attr_int(IR_ATTR_axis, axis);
    moved(r, build(r, IR_concat, NULL, operands, n, &attr, 1), all);
}

/* ---- reductions and contractions */

static void draw_reduce(Random *r, IrCode code)
{
    RandomValue a = random_pick(r, 1, MAX_ELEMS);
    IrType type = type_of(r, a.value);
    if (type.dtype == DT_BOOL)
        return;
    int64_t axes[IR_MAX_RANK], n_reduced = 1;
    uint32_t n = 0;
    for (int i = 0; i < type.rank; i++)
    {
        if (random_below(r, 2))
        {
            n_reduced *= type.dims[i];
            axes[n++] = i;
        }
    }
    IrValue out = ir_build_reduce(&r->b, code, a.value, axes, n);
    if (code != IR_reduce_sum)
        moved(r, out, a);
    else
    {
        double count = (double)n_reduced, error = count * (a.error + 4 * magnitude(a));
        random_add(r, out, count * fmin(a.lo, 0), count * fmax(a.hi, 0), type.dtype == DT_F32 ? error : 0);
    }
}

/* Operands of a contraction in -4..4; what a sum of n_terms products of them is. */
static RandomValue want_factor(Random *r, const IrType *type)
{
    return random_want(r, type, -4, 4, MAX_ERROR);
}

static RandomValue contracted(IrValue value, RandomValue a, RandomValue b, int64_t n_terms)
{
    double size = magnitude(a) * magnitude(b) * (double)n_terms;
    double error = (double)n_terms * (magnitude(a) * b.error + magnitude(b) * a.error) + 4 * size;
    return (RandomValue){.value = value, .lo = -size, .hi = size, .error = error};
}

static void draw_matmul(Random *r)
{
    int64_t rows = 1 + random_below(r, SMALL), terms = 1 + random_below(r, 17), cols = 1 + random_below(r, SMALL);
    uint32_t n_batch = random_below(r, 3), n = 2;
    bool ta = random_below(r, 2), tb = random_below(r, 2), bias = random_below(r, 3) == 0,
         residual = random_below(r, 3) == 0;
    IrType a = {.dtype = DT_F32}, b, out;
    for (; a.rank < n_batch; a.rank++)
        a.dims[a.rank] = 1 + random_below(r, 3);
    b = out = a;
    a.dims[a.rank++] = ta ? terms : rows;
    a.dims[a.rank++] = ta ? rows : terms;
    b.dims[b.rank++] = tb ? cols : terms;
    b.dims[b.rank++] = tb ? terms : cols;
    out.dims[out.rank++] = rows;
    out.dims[out.rank++] = cols;
    RandomValue va = want_factor(r, &a), vb = want_factor(r, &b);
    RandomValue result = contracted(0, va, vb, terms);
    IrValue operands[4] = {va.value, vb.value};
    IrType bias_type = ir_type(DT_F32, 1, &cols);
    for (int i = 0; i < 2; i++)
    {
        if (!(i ? residual : bias))
            continue;
        RandomValue v = want_factor(r, i ? &out : &bias_type);
        operands[n++] = v.value;
        result.lo += v.lo;
        result.hi += v.hi;
        result.error += v.error + magnitude(result);
    }
    IrAttr attrs[] = {ir_attr_bool(IR_ATTR_ta, ta), ir_attr_bool(IR_ATTR_tb, tb), ir_attr_bool(IR_ATTR_bias, bias),
                      ir_attr_bool(IR_ATTR_residual, residual)};
    result.value = build(r, IR_matmul, NULL, operands, n, attrs, 4);
    moved(r, result.value, result);
}

/* ---- ops drawn from their examples */

/* Bounds of result 0, from those of the operands, which are in -4..4 (positive ones 0.5..4). */
static RandomValue drawn(const Random *r, const Example *e, const RandomValue *in, IrValue out)
{
    RandomValue v = {.value = out, .lo = -INFINITY, .hi = INFINITY, .error = INFINITY};
    double a = magnitude(in[0]);
    IrType type = type_of(r, out);
    int64_t n_in = e->n_operands ? ir_type_n_elems(&e->operands[0]) : 0;
    if (e->code == IR_const || e->code == IR_iota)
        return (RandomValue){.value = out, .lo = -16, .hi = 16};
    if (e->code == IR_random)
        return (RandomValue){.value = out, .lo = 0, .hi = 1};
    if (e->code == IR_gather)
        return (RandomValue){.value = out, .lo = in[0].lo, .hi = in[0].hi, .error = in[0].error};
    if (e->code == IR_scatter_add)
        return (RandomValue){.value = out,
                             .lo = -magnitude(in[1]) * (double)n_in,
                             .hi = magnitude(in[1]) * (double)n_in,
                             .error = (double)n_in * (in[1].error + 4 * magnitude(in[1]))};
    if (e->code == IR_einsum)
        return contracted(out, in[0], in[1], n_in * ir_type_n_elems(&e->operands[1]) / ir_type_n_elems(&type));
    if (e->code == IR_softmax)
        return (RandomValue){.value = out, .lo = 0, .hi = 1, .error = 2 * in[0].error + 8 * a + 8};
    if (e->code == IR_layer_norm || e->code == IR_rms_norm)
    {
        double eps = ir_attrs_float(&e->attrs, IR_ATTR_eps, 1);
        double size = sqrt((double)type.dims[type.rank - 1]) * 4 + 4;
        return (RandomValue){.value = out,
                             .lo = -size,
                             .hi = size,
                             .error = 4 / sqrt(eps) * (in[0].error + 2 * a) + in[1].error * size + in[2].error + size};
    }
    if (e->code == IR_dropout)
        return (RandomValue){.value = out, .lo = -2 * a, .hi = 2 * a, .error = 2 * in[0].error + 4 * a};
    if (e->code == IR_cross_entropy)
        return (RandomValue){.value = out, .lo = -12, .hi = 12, .error = 2 * in[0].error + 64};
    if (e->code == IR_attention)
    {
        /* a score is 0.5 q.k + bias over 4 terms */
        double score_error = 8 * (in[0].error + in[1].error) + 128 + (e->n_operands == 4 ? in[3].error : 0);
        double v_size = 2 * magnitude(in[2]);
        return (RandomValue){
            .value = out, .lo = -v_size, .hi = v_size, .error = 2 * in[2].error + v_size * (2 * score_error + 8)};
    }
    return v;
}

static void draw_example(Random *r, IrCode code)
{
    uint32_t n_variants = 0, pick = 0;
    for (uint32_t i = 0; i < r->n_examples; i++)
        if (r->examples[i].code == code && random_below(r, ++n_variants) == 0)
            pick = i;
    const Example *e = &r->examples[pick];
    RandomValue in[EXAMPLE_MAX_OPERANDS] = {0};
    IrValue operands[EXAMPLE_MAX_OPERANDS];
    for (uint32_t i = 0; i < e->n_operands; i++)
    {
        bool is_float = dtype_is_float((DType)e->operands[i].dtype);
        in[i] = random_want(r, &e->operands[i],
                            !is_float        ? -1e6
                            : e->positive[i] ? 0.5
                                             : -4,
                            is_float ? 4 : 1e6, is_float ? MAX_ERROR : 0);
        operands[i] = in[i].value;
    }
    IrValue result =
        build(r, code, e->has_given ? &e->given : NULL, operands, e->n_operands, e->attrs.data, e->attrs.len);
    moved(r, result, drawn(r, e, in, result));
}

void random_structural_op(Random *r, IrCode code)
{
    static const struct
    {
        IrCode code;
        void (*draw)(Random *r);
    } rules[] = {{IR_reshape, draw_reshape},
                 {IR_transpose, draw_transpose},
                 {IR_broadcast, draw_broadcast},
                 {IR_slice, draw_slice},
                 {IR_pad, draw_pad},
                 {IR_concat, draw_concat},
                 {IR_matmul, draw_matmul}};
    if (ir_code_has(code, IR_TRAIT_REDUCE))
    {
        draw_reduce(r, code);
        return;
    }
    for (uint32_t i = 0; i < sizeof rules / sizeof *rules; i++)
    {
        if (rules[i].code == code)
        {
            rules[i].draw(r);
            return;
        }
    }
    draw_example(r, code);
}
