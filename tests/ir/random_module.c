/* Draws ops from the table and keeps bounds of ranges and errors. Bounds of elementwise ops come from sampling the op
 * on a grid over its operands' ranges, with a margin: good enough for tests, no proof. */
#include "random_module.h"

#include "base/bug.h"
#include "random_rules.h"

#include <math.h>
#include <string.h>

enum
{
    MAX_ERROR = 20000,   /* x 2^-24 = 1.2e-3, below RANDOM_MODULE_TOLERANCE */
    MAX_INT = 1000000,   /* integers stay below */
    MAX_FLOAT = 10000,   /* floats too */
    GRID = 17,           /* samples per operand */
    N_SHAPES = 3,        /* shapes to begin with */
    N_LEAVES = 3,        /* of each */
    MAX_SHAPE_ELEMS = 96 /* of those */
};

static uint64_t next_random(Random *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint32_t random_below(Random *r, uint32_t n)
{
    return (uint32_t)(next_random(r) % n);
}

static const IrType *type_of(const Random *r, const RandomValue *v)
{
    return ir_value_type(r->m, v->value);
}

void random_add(Random *r, IrValue value, double lo, double hi, double error)
{
    bool is_float = ir_value_type(r->m, value)->dtype == DT_F32;
    double limit = is_float ? MAX_FLOAT : MAX_INT;
    if (lo >= -limit && hi <= limit && error <= (is_float ? MAX_ERROR : 0))
        vec_push(r->arena, &r->values, (RandomValue){.value = value, .lo = lo, .hi = hi, .error = error});
}

/* ---- leaves, and values of a wanted type */

static RandomValue leaf(Random *r, const IrType *type)
{
    bool is_bool = type->dtype == DT_BOOL;
    uint32_t kind = random_below(r, 8);
    RandomValue v;
    if (kind == 0 && type->dtype != DT_U8)
    {
        double value = is_bool ? random_below(r, 2) : (double)random_below(r, 5) - (type->dtype == DT_F32 ? 1.75 : 2);
        v = (RandomValue){.value = ir_build_const(&r->b, *type, value), .lo = value, .hi = value};
    }
    else if (kind == 1 && type->rank && (type->dtype == DT_F32 || type->dtype == DT_I32))
    {
        int64_t axis = random_below(r, type->rank);
        IrAttr attr = ir_attr_int(IR_ATTR_axis, axis);
        v = (RandomValue){.value = ir_build_op(&r->b, IR_iota, type, NULL, 0, &attr, 1),
                          .hi = (double)type->dims[axis] - 1};
    }
    else
    {
        const char *name = arena_printf(r->arena, "in%u", r->n_inputs++);
        ir_global_add(r->m, IR_GLOBAL_INPUT, name, *type, NULL, 0, (Span){0});
        v = (RandomValue){.value = ir_build_get(&r->b, name),
                          .lo = type->dtype == DT_F32 ? -2 : 0,
                          .hi = type->dtype == DT_F32 ? 2
                                : is_bool             ? 1
                                                      : 4};
    }
    vec_push(r->arena, &r->values, v);
    return v;
}

static IrValue scalar_op(Random *r, IrCode code, IrValue x, double value)
{
    return ir_build2(&r->b, code, x, ir_build_const(&r->b, *ir_value_type(r->m, x), value));
}

/* Floats into lo..hi: unchanged, or by a linear map. */
static RandomValue fit(Random *r, RandomValue v, double lo, double hi)
{
    if ((v.lo >= lo && v.hi <= hi) || type_of(r, &v)->dtype != DT_F32)
        return v;
    double margin = (hi - lo) / 16;
    double factor = v.hi > v.lo ? (hi - lo - 2 * margin) / (v.hi - v.lo) : 1;
    factor = factor > 1 ? 1 : factor;
    double offset = lo + margin - v.lo * factor;
    double size = fabs(v.lo) + fabs(v.hi) + fabs(lo) + fabs(hi);
    return (RandomValue){.value = scalar_op(r, IR_add, scalar_op(r, IR_mul, v.value, factor), offset),
                         .lo = lo + margin / 2,
                         .hi = hi - margin / 2,
                         .error = factor * v.error + 4 * size};
}

static void mark_used(Random *r, IrValue value)
{
    for (uint32_t i = 0; i < r->values.len; i++)
        if (r->values.data[i].value == value)
            r->values.data[i].used = true;
}

RandomValue random_want(Random *r, const IrType *type, double lo, double hi, double max_error)
{
    RandomValue found = {0};
    uint32_t n_found = 0;
    for (uint32_t i = 0; i < r->values.len; i++)
    {
        RandomValue v = r->values.data[i];
        const IrType *have = type_of(r, &v);
        if (have->dtype != type->dtype || ir_type_n_elems(have) != ir_type_n_elems(type) || v.error > max_error ||
            (max_error == 0 && (v.lo < lo || v.hi > hi)))
            continue;
        uint32_t weight = ir_type_same_shape(have, type) ? 4 : 1;
        n_found += weight;
        if (random_below(r, n_found) < weight)
            found = v;
    }
    if (!n_found || random_below(r, n_found + 4) < 2)
        found = leaf(r, type);
    mark_used(r, found.value);
    if (!ir_type_same_shape(type_of(r, &found), type))
        found.value = ir_build_reshape(&r->b, found.value, *type);
    return max_error == 0 ? found : fit(r, found, lo, hi);
}

static IrType random_shape(Random *r, DType dtype)
{
    static const int64_t extents[] = {1, 2, 3, 4, 5, 8, 17};
    IrType type = {.dtype = (uint8_t)dtype, .rank = (uint8_t)random_below(r, 5)};
    do
        for (int i = 0; i < type.rank; i++)
            type.dims[i] = extents[random_below(r, sizeof extents / sizeof *extents)];
    while (ir_type_n_elems(&type) > MAX_SHAPE_ELEMS);
    return type;
}

RandomValue random_pick(Random *r, int min_rank, int64_t max_elems)
{
    RandomValue found = {0};
    uint32_t n_found = 0;
    for (uint32_t i = 0; i < r->values.len; i++)
    {
        const IrType *type = type_of(r, &r->values.data[i]);
        if (type->rank >= min_rank && ir_type_n_elems(type) <= max_elems && type->dtype != DT_U8 &&
            random_below(r, ++n_found) == 0)
            found = r->values.data[i];
    }
    if (!n_found)
    {
        IrType type = random_shape(r, DT_F32);
        while (type.rank < min_rank)
            type.dims[type.rank++] = 2;
        found = leaf(r, &type);
    }
    mark_used(r, found.value);
    return found;
}

/* ---- elementwise ops */

/* What is wanted of the operands and how the result moves with them; ops that are not here get operands in -4..4 and
 * what they give is not used any further. */
typedef struct
{
    IrCode code;
    double (*f)(const double *x);
    bool jumps;          /* wants exact operands */
    double lo[3], hi[3]; /* both 0: -16..16 */
} Range;

#define F(name, expr)                                                                                                  \
    static double f_##name(const double *x)                                                                            \
    {                                                                                                                  \
        return (expr);                                                                                                 \
    }
F(neg, -x[0])
F(abs, fabs(x[0]))
F(sign, (x[0] > 0) - (x[0] < 0))
F(floor, floor(x[0]))
F(exp, exp(x[0]))
F(log, log(x[0]))
F(sqrt, sqrt(x[0]))
F(rsqrt, 1 / sqrt(x[0]))
F(tanh, tanh(x[0]))
F(sigmoid, 1 / (1 + exp(-x[0])))
F(erf, erf(x[0]))
F(sin, sin(x[0]))
F(cos, cos(x[0]))
F(add, x[0] + x[1])
F(sub, x[0] - x[1])
F(mul, x[0] * x[1])
F(div, x[0] / x[1])
F(pow, pow(x[0], x[1]))
F(max, fmax(x[0], x[1]))
F(min, fmin(x[0], x[1]))
F(bool, x[0] > x[1])
F(select, x[0] > 0.5 ? x[1] : x[2])

static const Range ranges[] = {
    {IR_neg, f_neg, false, {0}, {0}},
    {IR_abs, f_abs, false, {0}, {0}},
    {IR_sign, f_sign, true, {0}, {0}},
    {IR_floor, f_floor, true, {0}, {0}},
    {IR_exp, f_exp, false, {-16}, {3}},
    {IR_log, f_log, false, {0.25}, {16}},
    {IR_sqrt, f_sqrt, false, {0.25}, {16}},
    {IR_rsqrt, f_rsqrt, false, {0.25}, {16}},
    {IR_tanh, f_tanh, false, {0}, {0}},
    {IR_sigmoid, f_sigmoid, false, {0}, {0}},
    {IR_erf, f_erf, false, {0}, {0}},
    {IR_sin, f_sin, false, {0}, {0}},
    {IR_cos, f_cos, false, {0}, {0}},
    {IR_not, f_bool, true, {0}, {0}},
    {IR_add, f_add, false, {0}, {0}},
    {IR_sub, f_sub, false, {0}, {0}},
    {IR_mul, f_mul, false, {0}, {0}},
    {IR_div, f_div, false, {-16, 0.5}, {16, 8}},
    {IR_pow, f_pow, false, {0.25, 0.25}, {3, 2}},
    {IR_max, f_max, false, {0}, {0}},
    {IR_min, f_min, false, {0}, {0}},
    {IR_and, f_bool, true, {0}, {0}},
    {IR_or, f_bool, true, {0}, {0}},
    {IR_eq, f_bool, true, {0}, {0}},
    {IR_ne, f_bool, true, {0}, {0}},
    {IR_lt, f_bool, true, {0}, {0}},
    {IR_le, f_bool, true, {0}, {0}},
    {IR_gt, f_bool, true, {0}, {0}},
    {IR_ge, f_bool, true, {0}, {0}},
    {IR_select, f_select, false, {0, -16, -16}, {1, 16, 16}},
};

static const Range *range_of(IrCode code)
{
    for (uint32_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (ranges[i].code == code)
            return &ranges[i];
    return NULL;
}

/* Bounds of f and of its error over the box of the operands' ranges. */
static void sample(const Range *range, const RandomValue *in, uint32_t n, double *out_lo, double *out_hi,
                   double *out_error)
{
    *out_lo = INFINITY;
    *out_hi = -INFINITY;
    double slope[3] = {0};
    uint32_t n_points = 1;
    for (uint32_t i = 0; i < n; i++)
        n_points *= GRID;
    for (uint32_t point = 0; point < n_points; point++)
    {
        double x[3] = {0};
        for (uint32_t i = 0, rest = point; i < n; i++, rest /= GRID)
            x[i] = in[i].lo + (in[i].hi - in[i].lo) * (rest % GRID) / (GRID - 1);
        double y = range->f(x);
        *out_lo = fmin(*out_lo, y);
        *out_hi = fmax(*out_hi, y);
        for (uint32_t i = 0; i < n; i++)
        {
            double keep = x[i], step = 1e-6;
            x[i] += step;
            slope[i] = fmax(slope[i], fabs(range->f(x) - y) / step);
            x[i] = keep;
        }
    }
    double margin = (*out_hi - *out_lo) / 8;
    *out_lo -= margin;
    *out_hi += margin;
    *out_error = 4 * fmax(fabs(*out_lo), fabs(*out_hi));
    for (uint32_t i = 0; i < n; i++)
        if (in[i].error > 0)
            *out_error += 1.25 * slope[i] * in[i].error;
}

static void cast_op(Random *r)
{
    static const DType dtypes[] = {DT_F32, DT_I32, DT_U8, DT_BOOL};
    IrType type = *type_of(r, &(RandomValue){.value = random_pick(r, 0, MAX_SHAPE_ELEMS * 4).value});
    DType from = dtypes[random_below(r, 4)], to = dtypes[random_below(r, 4)];
    type.dtype = (uint8_t)from;
    RandomValue in = random_want(r, &type, to == DT_U8 ? 0 : -MAX_INT, to == DT_U8 ? 255 : MAX_INT, 0);
    if (from == DT_F32 && to == DT_U8 && in.lo < 0)
        return;
    IrValue out = ir_build_cast(&r->b, in.value, to);
    random_add(r, out, to == DT_BOOL ? 0 : in.lo, to == DT_BOOL ? 1 : in.hi, 0);
}

static void elementwise_op(Random *r, const Example *example)
{
    const Range *range = range_of(example->code);
    IrType shape = *ir_value_type(r->m, random_pick(r, 0, MAX_SHAPE_ELEMS * 4).value);
    bool other = random_below(r, 4) == 0; /* i32 for f32 and the other way round, where the op takes it */
    bool floats_only = ir_code_has(example->code, IR_TRAIT_FLOAT);
    RandomValue in[3] = {0};
    IrValue operands[3];
    bool exact = true;
    ENSURE(example->n_operands <= 3);
    for (uint32_t i = 0; i < example->n_operands; i++)
    {
        shape.dtype = example->operands[i].dtype;
        if (other && !floats_only && shape.dtype != DT_BOOL)
            shape.dtype = shape.dtype == DT_F32 ? DT_I32 : DT_F32;
        double lo = range ? range->lo[i] : example->positive[i] ? 0.5 : -4, hi = range ? range->hi[i] : 4;
        if (lo == 0 && hi == 0)
            hi = 16, lo = -16;
        bool discrete = shape.dtype != DT_F32 || (range && range->jumps);
        in[i] = random_want(r, &shape, discrete ? -MAX_INT : lo, discrete ? MAX_INT : hi, discrete ? 0 : MAX_ERROR);
        operands[i] = in[i].value;
        exact = exact && in[i].error == 0;
    }
    const char *why;
    IrOp op = ir_try_op(&r->b, example->code, NULL, operands, example->n_operands, NULL, 0, &why);
    if (!op)
        BUG("%s: %s", example->label, why);
    IrValue out = ir_op_result(r->m, op, 0);
    double lo = 0, hi = 1, error = INFINITY;
    if (ir_value_type(r->m, out)->dtype == DT_BOOL)
        error = 0;
    else if (range)
        sample(range, in, example->n_operands, &lo, &hi, &error);
    bool moves = example->code == IR_neg || example->code == IR_abs || example->code == IR_select ||
                 example->code == IR_max || example->code == IR_min || (range && range->jumps);
    if (range && exact && (ir_value_type(r->m, out)->dtype != DT_F32 || moves))
        error = 0;
    random_add(r, out, lo, hi, error);
}

/* ---- the program */

static void set_outputs(Random *r)
{
    uint32_t n_outputs = 0;
    for (uint32_t i = 0; i < r->values.len; i++)
    {
        const RandomValue *v = &r->values.data[i];
        bool last = i + 1 == r->values.len;
        if ((v->used && random_below(r, 8)) && !(last && n_outputs == 0))
            continue;
        const char *name = arena_printf(r->arena, "out%u", n_outputs++);
        ir_global_add(r->m, IR_GLOBAL_OUTPUT, name, *type_of(r, v), NULL, 0, (Span){0});
        ir_build_set(&r->b, name, v->value);
    }
}

IrModule *random_module(Arena *arena, uint64_t seed, uint32_t n_ops)
{
    IrModule *m = ir_module_create(arena, arena_printf(arena, "random %llu", (unsigned long long)seed));
    Random random = {.arena = arena, .m = m, .state = seed, .n_examples = example_count()};
    Random *r = &random;
    r->b = ir_builder(m, ir_func_add(m, IR_FUNC_STEP, "train"));
    Example *examples = ARENA_ARRAY(arena, Example, r->n_examples);
    for (uint32_t i = 0; i < r->n_examples; i++)
        examples[i] = example_at(arena, i);
    r->examples = examples;
    for (int i = 0; i < N_SHAPES; i++)
    {
        IrType type = random_shape(r, DT_F32);
        for (int k = 0; k < N_LEAVES; k++)
            leaf(r, &type);
    }
    for (uint32_t i = 0; i < n_ops; i++)
    {
        /* by op, not by example: ops with many variants are not drawn more often */
        IrCode code = (IrCode)(1 + random_below(r, IR_CODE_COUNT - 1));
        if (!ir_op_info(code)->example_types)
            i--;
        else if (code == IR_cast)
            cast_op(r);
        else if (!ir_code_has(code, IR_TRAIT_EWISE))
            random_structural_op(r, code);
        else
            for (uint32_t k = 0; k < r->n_examples; k++)
                if (examples[k].code == code)
                {
                    elementwise_op(r, &examples[k]);
                    break;
                }
    }
    set_outputs(r);
    return m;
}

bool random_module_make_trainable(IrModule *m)
{
    IrFunc train = ir_func_find(m, "train");
    IrOp last = ir_func(m, train)->last;
    IrBuilder b = ir_builder(m, train);
    IrValue loss = 0;
    for (IrGlobal g = 1; g < m->globals.len; g++)
        if (ir_global(m, g)->kind == IR_GLOBAL_INPUT && ir_global(m, g)->type.dtype == DT_F32)
        {
            ir_global(m, g)->kind = IR_GLOBAL_PARAM;
            ir_attrs_put(m->arena, &ir_global(m, g)->attrs, ir_attr_bool(IR_ATTR_trainable, true));
        }
    for (IrOp op = ir_func(m, train)->first; op; op = op == last ? 0 : ir_op(m, op)->next)
    {
        static const int64_t axes[] = {0, 1, 2, 3, 4, 5, 6, 7};
        IrValue value = ir_op(m, op)->code == IR_set ? ir_op(m, op)->operands[0] : 0;
        if (!value || ir_value_type(m, value)->dtype != DT_F32)
            continue;
        uint32_t rank = ir_value_type(m, value)->rank;
        IrValue sum = rank ? ir_build_reduce(&b, IR_reduce_sum, value, axes, rank) : value;
        loss = loss ? ir_build2(&b, IR_add, loss, sum) : sum;
    }
    if (!loss)
        return false;
    ir_global_add(m, IR_GLOBAL_OUTPUT, "loss", ir_type_scalar(DT_F32), NULL, 0, (Span){0});
    ir_build_set(&b, "loss", loss);
    ir_attrs_put(m->arena, &ir_func(m, train)->attrs, ir_attr_str(IR_ATTR_optimizer, "sgd"));
    ir_attrs_put(m->arena, &ir_func(m, train)->attrs, ir_attr_float(IR_ATTR_momentum, 0.9));
    ir_attrs_put(m->arena, &ir_func(m, train)->attrs, ir_attr_float(IR_ATTR_clip_norm, 1));
    return true;
}

void random_module_values(const IrModule *m, IrGlobal input, uint64_t seed, double *out_values)
{
    Example example = {.n_operands = 1, .operands = {ir_global(m, input)->type}};
    example_values(&example, 0, seed * 1000 + input, out_values);
}
