/* <metric>: the outputs that its kind (ir/metrics.def) is made of. */
#include "frontend/expand.h"

#include "base/bug.h"
#include "ir/expr.h"

#include <string.h>

enum
{
    MAX_METRICS = 16,
    MAX_SUMS = 6,
    MAX_CLASSES = 1 << 20,
    MAX_BEST = 1024, /* SQUAD_MAX_BEST */
    MAX_ANSWER = 1 << 20
};

static const char *const sums_of[IR_METRIC_COUNT][MAX_SUMS] = {
#define NOSUMS                                                                                                         \
    {                                                                                                                  \
        NULL                                                                                                           \
    }
#define SUMS(...)                                                                                                      \
    {                                                                                                                  \
        __VA_ARGS__                                                                                                    \
    }
#define METRIC(kind, takes, sums, finish, results, text) sums,
#include "ir/metrics.def"
#undef METRIC
#undef SUMS
#undef NOSUMS
};

static bool same_shape(const IrType *a, const IrType *b)
{
    return a->rank == b->rank && memcmp(a->dims, b->dims, (size_t)a->rank * sizeof *a->dims) == 0;
}

/* ---- values */

/* The attributes that the kind does not know, or lacks. */
static bool check_attributes(Expander *x, const XmlElem *e, IrMetricKind kind)
{
    enum
    {
        VALUE = 1 << IR_TAKES_VALUE,
        CLASSES = 1 << IR_TAKES_CLASSES,
        SPAN = 1 << IR_TAKES_SPAN,
        TARGET = 1 << IR_TAKES_RIGHT | CLASSES | 1 << IR_TAKES_PAIR | 1 << IR_TAKES_ROWS,
        WEIGHT = VALUE | 1 << IR_TAKES_RIGHT | CLASSES | 1 << IR_TAKES_PAIR
    };
    static const struct
    {
        const char *attr;
        uint32_t needed_by, allowed_for;
    } rules[] = {{"target", TARGET, TARGET}, {"last", SPAN, SPAN}, {"weight", 0, WEIGHT},
                 {"classes", 0, CLASSES},    {"n_best", 0, SPAN},  {"max_answer", 0, SPAN}};
    const uint32_t takes = 1u << ir_metric_takes(kind);
    bool ok = true;
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
    {
        const XmlAttr *attr = xml_attr(e, rules[i].attr);
        if (!attr && rules[i].needed_by & takes)
            expand_error(x, xml_elem_span(e), NULL, "attribute '%s' is missing on <metric> (kind %s)", rules[i].attr,
                         ir_metric_name(kind));
        else if (attr && !(rules[i].allowed_for & takes))
            expand_error(x, xml_attr_name_span(attr), NULL, "attribute '%s' does not go with kind %s", rules[i].attr,
                         ir_metric_name(kind));
        else
            continue;
        ok = false;
    }
    return ok;
}

/* The value of an attribute, of the shape of another value; 0 after an error. */
static IrValue read_like(Expander *x, const XmlElem *e, const char *attr, IrValue like)
{
    IrValue value = outputs_operand(x, e, attr);
    if (!value || same_shape(ir_value_type(x->m, value), ir_value_type(x->m, like)))
        return value;
    expand_error(x, attr_or_elem_span(e, attr), NULL, "the %s is %s, the value is %s", attr,
                 expand_shape_text(x->arena, ir_value_type(x->m, value)),
                 expand_shape_text(x->arena, ir_value_type(x->m, like)));
    return 0;
}

/* Classes i32 from what value= and target= name: scores of them become the first of the best. *out_n_classes: 0 when
 * the values do not tell. False after an error. */
static bool read_classes(Expander *x, const XmlElem *e, IrValue *out_value, IrValue *out_target, int64_t *out_n_classes)
{
    IrValue value = outputs_operand(x, e, "value");
    const IrType type = value ? *ir_value_type(x->m, value) : (IrType){0};
    *out_n_classes = type.dtype == DT_BOOL ? 2 : 0;
    if (value && dtype_is_float((DType)type.dtype))
    {
        *out_n_classes = type.dims[type.rank - 1];
        if (type.rank >= 2)
            value = expand_argmax(x, e, value, type.rank - 1);
        else
        {
            expand_error(x, attr_or_elem_span(e, "value"), NULL,
                         "the value is one f32 a sample: expected classes, whole numbers, or scores of them [b ... c]");
            value = 0;
        }
    }
    IrValue target = value ? read_like(x, e, "target", value) : 0;
    if (!target)
        return false;
    if (dtype_is_float((DType)ir_value_type(x->m, target)->dtype))
    {
        expand_error(x, attr_or_elem_span(e, "target"), NULL, "the target is f32: expected classes, whole numbers");
        return false;
    }
    *out_value = ir_build_cast(&x->b, value, DT_I32);
    *out_target = ir_build_cast(&x->b, target, DT_I32);
    return true;
}

static bool count_classes(Expander *x, const XmlElem *e, IrMetricKind kind, int64_t *n_classes)
{
    const int64_t known = *n_classes;
    if (!known && !xml_attr(e, "classes"))
    {
        expand_error(x, xml_elem_span(e), NULL,
                     "attribute 'classes' is missing on <metric>: the value is whole numbers");
        return false;
    }
    if (!attr_int(x, e, "classes", 2, MAX_CLASSES, n_classes))
        return false;
    if (known && *n_classes != known)
        expand_error(x, attr_or_elem_span(e, "classes"), NULL, "%lld classes: the value is of %lld",
                     (long long)*n_classes, (long long)known);
    else if (kind == IR_METRIC_f1 && *n_classes != 2)
        expand_error(x, attr_or_elem_span(e, "value"), NULL,
                     "f1 is of two classes, here are %lld: f1_macro is of any number", (long long)*n_classes);
    else
        return true;
    return false;
}

/* ---- sums */

/* f32 [... c]: 1 at the class, else 0. */
static IrValue one_hot(Expander *x, IrValue classes, int64_t n_classes)
{
    IrType type = *ir_value_type(x->m, classes);
    int64_t dims[IR_MAX_RANK] = {0, 1, 2, 3, 4, 5, 6, 7};
    type.dims[type.rank++] = n_classes;
    const IrAttr last = ir_attr_int(IR_ATTR_axis, type.rank - 1);
    IrValue spread = ir_build_broadcast(&x->b, classes, type, dims);
    IrValue index = ir_build_op(&x->b, IR_iota, &type, NULL, 0, &last, 1);
    return ir_build_cast(&x->b, ir_build2(&x->b, IR_eq, spread, index), DT_F32);
}

/* All sums of a kind over p, t and w [...] or, of classes, [... c], as one value [n] or [n c]. */
static IrValue join_sums(Expander *x, IrMetricKind kind, IrValue p, IrValue t, IrValue w)
{
    const IrExprVar vars[] = {{"p", p}, {"t", t}, {"w", w}};
    const int64_t axes[IR_MAX_RANK] = {0, 1, 2, 3, 4, 5, 6, 7};
    IrValue sums[MAX_SUMS];
    uint32_t n = 0;
    for (; n < MAX_SUMS && sums_of[kind][n]; n++)
    {
        IrValue each = ir_build_expr(&x->b, sums_of[kind][n], vars, 3);
        const uint32_t rank = ir_value_type(x->m, each)->rank,
                       n_axes = ir_metric_takes(kind) == IR_TAKES_CLASSES ? rank - 1 : rank;
        IrType flat = {.dtype = DT_F32, .rank = 1, .dims = {1}};
        sums[n] = ir_build_reduce(&x->b, IR_reduce_sum, each, axes, n_axes);
        if (n_axes == rank)
            sums[n] = ir_build_reshape(&x->b, sums[n], flat);
    }
    const IrAttr axis = ir_attr_int(IR_ATTR_axis, 0);
    return ir_build_op(&x->b, IR_concat, NULL, sums, n, &axis, 1);
}

static bool make_classes(Expander *x, const XmlElem *e, const JobMetric *metric)
{
    IrValue value, target;
    int64_t n_classes;
    if (!read_classes(x, e, &value, &target, &n_classes) || !count_classes(x, e, metric->kind, &n_classes))
        return false;
    IrType type = *ir_value_type(x->m, value);
    IrValue weight = outputs_weight(x, e, value);
    if (type.rank == IR_MAX_RANK)
        expand_error(x, attr_or_elem_span(e, "value"), NULL, "classes of at most %d axes are supported",
                     IR_MAX_RANK - 1);
    if (!weight || type.rank == IR_MAX_RANK)
        return false;
    type = ir_type_with_dtype(type, DT_F32);
    type.dims[type.rank++] = 1;
    IrValue sums = join_sums(x, metric->kind, one_hot(x, value, n_classes), one_hot(x, target, n_classes),
                             ir_build_reshape(&x->b, weight, type));
    outputs_set(x, e, arena_printf(x->arena, "%s.sum", metric->name), sums);
    return true;
}

static bool make_pair(Expander *x, const XmlElem *e, const JobMetric *metric)
{
    IrValue value = outputs_operand(x, e, "value");
    IrValue target = value ? read_like(x, e, "target", value) : 0;
    IrValue weight = target ? outputs_weight(x, e, value) : 0;
    if (!weight)
        return false;
    IrValue sums =
        join_sums(x, metric->kind, ir_build_cast(&x->b, value, DT_F32), ir_build_cast(&x->b, target, DT_F32), weight);
    outputs_set(x, e, arena_printf(x->arena, "%s.sum", metric->name), sums);
    return true;
}

/* ---- rows */

/* value and the other side by side, one row of numbers a sample. */
static bool make_rows(Expander *x, const XmlElem *e, JobMetric *metric, const char *other)
{
    const int want_rank = ir_metric_takes(metric->kind) == IR_TAKES_SPAN ? 2 : 1;
    IrValue sides[] = {outputs_operand(x, e, "value"), 0};
    sides[1] = sides[0] ? read_like(x, e, other, sides[0]) : 0;
    if (!sides[1])
        return false;
    const IrType type = *ir_value_type(x->m, sides[0]);
    if (type.rank != want_rank)
    {
        expand_error(x, attr_or_elem_span(e, "value"), NULL, "the value is %s: expected %s",
                     expand_shape_text(x->arena, &type), want_rank == 2 ? "scores of tokens, [b t]" : "numbers, [b]");
        return false;
    }
    metric->n_tokens = type.rank == 2 ? type.dims[1] : 0;
    const IrType row = {.dtype = DT_F32, .rank = 2, .dims = {type.dims[0], type.rank == 2 ? type.dims[1] : 1}};
    for (int i = 0; i < 2; i++)
        sides[i] = ir_build_reshape(&x->b, ir_build_cast(&x->b, sides[i], DT_F32), row);
    const IrAttr axis = ir_attr_int(IR_ATTR_axis, 1);
    outputs_set(x, e, arena_printf(x->arena, "%s.rows", metric->name),
                ir_build_op(&x->b, IR_concat, NULL, sides, 2, &axis, 1));
    return true;
}

/* ---- the element */

static bool make_metric(Expander *x, const XmlElem *e, JobMetric *metric)
{
    IrValue value, target, sum, weight;
    int64_t n_classes;
    switch (ir_metric_takes(metric->kind))
    {
    case IR_TAKES_VALUE:
        return outputs_mean(x, e, metric->name, outputs_operand(x, e, "value"), &sum, &weight);
    case IR_TAKES_RIGHT:
        return read_classes(x, e, &value, &target, &n_classes) &&
               outputs_mean(x, e, metric->name, ir_build2(&x->b, IR_eq, value, target), &sum, &weight);
    case IR_TAKES_CLASSES:
        return make_classes(x, e, metric);
    case IR_TAKES_PAIR:
        return make_pair(x, e, metric);
    case IR_TAKES_ROWS:
        return make_rows(x, e, metric, "target");
    case IR_TAKES_SPAN:
        return make_rows(x, e, metric, "last");
    }
    return false;
}

void expand_metric(Expander *x, const XmlElem *e)
{
    JobMetric metric = {.span = xml_elem_span(e)};
    const char *kind;
    if (!attr_name(x, e, "name", &metric.name) || !attr_text(x, e, "kind", &kind) ||
        !attr_int(x, e, "n_best", 1, MAX_BEST, &metric.n_best) ||
        !attr_int(x, e, "max_answer", 1, MAX_ANSWER, &metric.max_answer))
        return;
    if (!ir_metric_by_name(kind, &metric.kind))
        BUG("elements.def has a kind of metric '%s', metrics.def has none", kind);
    if (!check_attributes(x, e, metric.kind))
        return;
    bool taken = strcmp(metric.name, "loss") == 0;
    for (uint32_t i = 0; i < x->metrics.len; i++)
        taken = taken || strcmp(x->metrics.data[i].name, metric.name) == 0;
    if (x->metrics.len == MAX_METRICS)
        expand_error(x, xml_elem_span(e), NULL, "more than %d metrics", MAX_METRICS);
    else if (taken)
        expand_error(x, attr_or_elem_span(e, "name"), NULL, "the metric '%s' is there already", metric.name);
    else if (make_metric(x, e, &metric))
        vec_push(x->arena, &x->metrics, metric);
}
