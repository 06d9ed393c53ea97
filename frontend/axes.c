/* The elements that are written with axis patterns: einsum, rearrange, reduce. */
#include "frontend/pattern.h"

#include "frontend/arith.h"

#include <string.h>

/* An axis has one extent: what the operand says, what the body's dimensions say, and what sizes= says must agree. */
static bool check_extent(Expander *x, const XmlAttr *attr, const PatternAxis *axis, int64_t extent)
{
    int64_t want;
    if (!frame_dim(x, axis->name, &want) || want == extent)
        return true;
    expand_error(x, attr_place(attr, axis->at, (uint32_t)strlen(axis->name)), NULL,
                 "axis '%s' is %lld here, but dimension '%s' is %lld", axis->name, (long long)extent, axis->name,
                 (long long)want);
    return false;
}

static Span axis_span(const XmlAttr *attr, const PatternAxis *axis)
{
    uint32_t n = axis->name[0] == '.' ? 3 : (uint32_t)strlen(axis->name);
    return attr_place(attr, axis->at, n);
}

/* As the user wrote it. */
static const char *axis_text(const PatternAxis *axis)
{
    return axis->name[0] == '.' ? "..." : axis->name;
}

static bool check_result_dots(Expander *x, const XmlAttr *attr, PatternSide *result, bool operand_has, uint32_t spread)
{
    if (result->ellipsis < 0)
        return true;
    if (!operand_has)
    {
        expand_error(x, attr_place(attr, result->at, result->n_bytes), NULL, "'...' is not in the operand");
        return false;
    }
    pattern_spread(x, result, spread);
    return true;
}

/* ---- einsum */

static IrValue make_einsum(Expander *x, const XmlElem *e, const IrValue *operands)
{
    const XmlAttr *attr = xml_attr(e, "expr");
    const char *text;
    PatternSide sides[3];
    const PatternAxis *letters[26];
    int64_t extents[26];
    uint32_t n_letters = 0, spread = 0;
    char expr[3 * PATTERN_MAX_AXES + 4];
    uint32_t n = 0;
    if (!attr_text(x, e, "expr", &text) || !pattern_parse(x, attr, text, 2, false, sides))
        return 0;
    bool dots = sides[0].ellipsis >= 0;
    if (sides[1].ellipsis >= 0)
    {
        expand_error(x, attr_place(attr, sides[1].at, sides[1].n_bytes), NULL,
                     "'...' can only be in the first operand");
        return 0;
    }
    for (int side = 0; side < 3; side++)
    {
        uint32_t unused;
        if (side < 2 &&
            !pattern_fit(x, attr, text, &sides[side], ir_value_type(x->m, operands[side]), side ? &unused : &spread))
            return 0;
        if (side == 2 && !check_result_dots(x, attr, &sides[2], dots, spread))
            return 0;
        for (uint32_t i = 0; i < sides[side].n_axes; i++)
        {
            const PatternAxis *axis = &sides[side].axes[i];
            uint32_t k = 0;
            while (k < n_letters && strcmp(letters[k]->name, axis->name) != 0)
                k++;
            if (side == 2 && k == n_letters)
            {
                expand_error(x, axis_span(attr, axis), NULL, "axis '%s' of the result is in no operand",
                             axis_text(axis));
                return 0;
            }
            int64_t extent = side < 2 ? ir_value_type(x->m, operands[side])->dims[axis->group] : extents[k];
            if (k == n_letters)
            {
                if (!check_extent(x, attr, axis, extent))
                    return 0;
                letters[n_letters] = axis;
                extents[n_letters++] = extent;
            }
            if (extents[k] != extent)
            {
                expand_error(x, axis_span(attr, axis), NULL,
                             "axis '%s' is %lld in the first operand and %lld in the second", axis->name,
                             (long long)extents[k], (long long)extent);
                return 0;
            }
            expr[n++] = (char)('a' + k);
        }
        if (sides[side].n_groups != sides[side].n_axes)
        {
            expand_error(x, attr_place(attr, sides[side].at, sides[side].n_bytes), NULL,
                         "an axis of 1 has no meaning in <einsum>: use <rearrange>");
            return 0;
        }
        if (side == 0)
            expr[n++] = ',';
        if (side == 1)
        {
            expr[n++] = '-';
            expr[n++] = '>';
        }
    }
    expr[n] = 0;
    IrAttr op_attr = ir_attr_str(IR_ATTR_expr, expr);
    return expand_op(x, e, IR_einsum, NULL, operands, 2, &op_attr, 1);
}

void expand_einsum(Expander *x, const XmlElem *e)
{
    IrValue operands[2];
    uint32_t n;
    bool ok = expand_operands(x, e, 2, 2, operands, &n);
    expand_result(x, e, ok ? make_einsum(x, e, operands) : 0);
}

/* ---- rearrange */

typedef struct
{
    PatternSide left, right;
    int64_t left_extent[PATTERN_MAX_AXES];
    int64_t right_extent[PATTERN_MAX_AXES];
    bool known[PATTERN_MAX_AXES]; /* left_extent[i] is */
} Rearrange;

/* sizes="p=4 q=4": the extent of name, or 0. False after an error. */
static bool find_size(Expander *x, const XmlElem *e, const char *name, int64_t *out_extent)
{
    const char *text;
    *out_extent = 0;
    const XmlAttr *attr = xml_attr(e, "sizes");
    if (!attr)
        return true;
    if (!attr_text(x, e, "sizes", &text))
        return false;
    for (const char *p = text + strspn(text, " "); *p; p += strcspn(p, " "), p += strspn(p, " "))
    {
        size_t n = strcspn(p, " ");
        const char *token = arena_strndup(x->arena, p, n);
        const char *equals = strchr(token, '=');
        ArithValue value = equals ? arith_from_text(equals + 1) : (ArithValue){.kind = ARITH_TEXT};
        if (value.kind != ARITH_WHOLE || value.number < 1 || equals == token)
        {
            expand_error(x, attr_place(attr, (uint32_t)(p - text), (uint32_t)n), NULL,
                         "'%s' is not of the form axis=extent", token);
            return false;
        }
        if (strlen(name) == (size_t)(equals - token) && strncmp(name, token, (size_t)(equals - token)) == 0)
            *out_extent = value.number;
    }
    return true;
}

static bool known_extent(Expander *x, const XmlElem *e, const XmlAttr *attr, const PatternAxis *axis,
                         int64_t *out_extent)
{
    int64_t dim;
    if (!find_size(x, e, axis->name, out_extent))
        return false;
    if (!frame_dim(x, axis->name, &dim))
        return true;
    if (*out_extent && *out_extent != dim)
        return check_extent(x, attr, axis, *out_extent);
    *out_extent = dim;
    return true;
}

/* Extents of the left side's axes: at most one of a group may be unknown; the operand's extent gives it. */
static bool solve_left(Expander *x, const XmlElem *e, const XmlAttr *attr, Rearrange *r, const IrType *type)
{
    const PatternSide *left = &r->left;
    for (uint32_t g = 0; g < left->n_groups; g++)
    {
        int64_t product = 1;
        int unknown = -1, last = -1;
        for (uint32_t i = 0; i < left->n_axes; i++)
        {
            const PatternAxis *axis = &left->axes[i];
            int64_t extent = 0;
            if (axis->group != g)
                continue;
            if (axis->name[0] != '.' && !known_extent(x, e, attr, axis, &extent))
                return false;
            last = (int)i;
            if (extent == 0 && unknown >= 0)
            {
                expand_error(x, axis_span(attr, axis), NULL,
                             "the extent of '%s' is not known: give it in sizes=\"%s=...\"", axis->name, axis->name);
                return false;
            }
            if (extent == 0)
                unknown = (int)i;
            else if (extent > IR_MAX_ELEMS / product)
                product = IR_MAX_ELEMS;
            else
                product *= extent;
            r->left_extent[i] = extent;
        }
        if (unknown >= 0 && type->dims[g] % product == 0)
            r->left_extent[unknown] = type->dims[g] / product;
        else if (unknown >= 0 || product != type->dims[g])
        {
            Span span = last >= 0 ? axis_span(attr, &left->axes[unknown >= 0 ? unknown : last])
                                  : attr_place(attr, left->at, left->n_bytes);
            expand_error(x, span, NULL,
                         unknown >= 0 ? "axis %u of the operand is %lld, which does not divide by %lld"
                                      : "axis %u of the operand is %lld, the pattern says %lld",
                         g, (long long)type->dims[g], (long long)product);
            return false;
        }
    }
    return true;
}

/* Extents of the right side; an axis that is not on the left is repeated. Every left axis but those of 1 stays. */
static bool solve_right(Expander *x, const XmlElem *e, const XmlAttr *attr, Rearrange *r)
{
    for (uint32_t i = 0; i < r->right.n_axes; i++)
    {
        const PatternAxis *axis = &r->right.axes[i];
        int at = pattern_find(&r->left, axis->name);
        r->right_extent[i] = at >= 0 ? r->left_extent[at] : 0;
        if (at < 0 && !known_extent(x, e, attr, axis, &r->right_extent[i]))
            return false;
        if (!r->right_extent[i])
        {
            expand_error(x, axis_span(attr, axis), NULL,
                         "axis '%s' is not on the left, and its extent is not known: give it in sizes=\"%s=...\"",
                         axis->name, axis->name);
            return false;
        }
    }
    for (uint32_t i = 0; i < r->left.n_axes; i++)
        if (pattern_find(&r->right, r->left.axes[i].name) < 0 && r->left_extent[i] != 1)
        {
            expand_error(x, axis_span(attr, &r->left.axes[i]), NULL,
                         "axis '%s' is %lld and not on the right: reduce it with <reduce>", axis_text(&r->left.axes[i]),
                         (long long)r->left_extent[i]);
            return false;
        }
    return true;
}

static IrValue reshape_to(Expander *x, const XmlElem *e, IrValue value, IrType type)
{
    if (ir_type_equal(ir_value_type(x->m, value), &type))
        return value;
    return expand_op(x, e, IR_reshape, &type, &value, 1, NULL, 0);
}

/* Split, permute, repeat, merge: at most one op each, none where nothing changes. */
static IrValue build_rearrange(Expander *x, const XmlElem *e, const XmlAttr *attr, const Rearrange *r, IrValue value)
{
    const PatternSide *left = &r->left, *right = &r->right;
    IrType split = {.dtype = ir_value_type(x->m, value)->dtype};
    IrType full = split, merged = split;
    int position[PATTERN_MAX_AXES]; /* of a left axis among those that stay */
    int64_t perm[IR_MAX_RANK], dims[IR_MAX_RANK];
    int n_stay = 0;
    bool moves = false;
    if (left->n_axes > IR_MAX_RANK || right->n_axes > IR_MAX_RANK || right->n_groups > IR_MAX_RANK)
    {
        expand_error(x, xml_attr_value_span(attr), NULL, "more than %d axes", IR_MAX_RANK);
        return 0;
    }
    for (uint32_t i = 0; i < left->n_axes; i++)
    {
        position[i] = split.rank;
        if (pattern_find(right, left->axes[i].name) >= 0)
            split.dims[split.rank++] = r->left_extent[i];
    }
    for (uint32_t g = 0; g < right->n_groups; g++)
        merged.dims[merged.rank++] = 1;
    int64_t n_elems = 1;
    for (uint32_t i = 0; i < right->n_axes; i++)
    {
        int at = pattern_find(left, right->axes[i].name);
        if (r->right_extent[i] > IR_MAX_ELEMS / n_elems)
        {
            expand_error(x, axis_span(attr, &right->axes[i]), NULL, "the result has more than %lld elements",
                         (long long)IR_MAX_ELEMS);
            return 0;
        }
        n_elems *= r->right_extent[i];
        merged.dims[right->axes[i].group] *= r->right_extent[i];
        if (at >= 0)
        {
            moves = moves || position[at] != n_stay;
            perm[n_stay] = position[at];
            dims[n_stay++] = full.rank;
        }
        full.dims[full.rank++] = r->right_extent[i];
    }
    value = reshape_to(x, e, value, split);
    if (value && moves)
    {
        IrAttr op_attr = ir_attr_ints(IR_ATTR_perm, perm, (uint32_t)n_stay);
        value = expand_op(x, e, IR_transpose, NULL, &value, 1, &op_attr, 1);
    }
    if (value && n_stay != full.rank)
    {
        IrAttr op_attr = ir_attr_ints(IR_ATTR_dims, dims, (uint32_t)n_stay);
        value = expand_op(x, e, IR_broadcast, &full, &value, 1, &op_attr, 1);
    }
    return value ? reshape_to(x, e, value, merged) : 0;
}

void expand_rearrange(Expander *x, const XmlElem *e)
{
    IrValue value;
    uint32_t n, spread;
    const char *text;
    PatternSide sides[2];
    const XmlAttr *attr = xml_attr(e, "pattern");
    Rearrange r = {0};
    bool ok = expand_operands(x, e, 1, 1, &value, &n) && attr_text(x, e, "pattern", &text) &&
              pattern_parse(x, attr, text, 1, true, sides);
    if (ok)
    {
        const IrType type = *ir_value_type(x->m, value);
        bool dots = sides[0].ellipsis >= 0;
        ok = pattern_fit(x, attr, text, &sides[0], &type, &spread) &&
             check_result_dots(x, attr, &sides[1], dots, spread);
        r.left = sides[0];
        r.right = sides[1];
        ok = ok && solve_left(x, e, attr, &r, &type) && solve_right(x, e, attr, &r);
    }
    expand_result(x, e, ok ? build_rearrange(x, e, attr, &r, value) : 0);
}

/* ---- reduce */

/* The smallest index where the value equals the maximum. */
IrValue expand_argmax(Expander *x, const XmlElem *e, IrValue value, int64_t axis)
{
    const IrType type = *ir_value_type(x->m, value);
    IrAttr axes = ir_attr_ints(IR_ATTR_axes, &axis, 1), along = ir_attr_int(IR_ATTR_axis, axis);
    IrType index_type = ir_type_with_dtype(type, DT_I32);
    int64_t dims[IR_MAX_RANK], n = 0;
    for (int64_t i = 0; i < type.rank; i++)
        if (i != axis)
            dims[n++] = i;
    IrValue largest = expand_op(x, e, IR_reduce_max, NULL, &value, 1, &axes, 1);
    if (!largest)
        return 0;
    IrAttr dims_attr = ir_attr_ints(IR_ATTR_dims, dims, (uint32_t)n);
    IrValue spread = expand_op(x, e, IR_broadcast, &type, &largest, 1, &dims_attr, 1);
    IrValue index = expand_op(x, e, IR_iota, &index_type, NULL, 0, &along, 1);
    IrAttr last = ir_attr_float(IR_ATTR_value, (double)(type.dims[axis] - 1));
    IrValue none = expand_op(x, e, IR_const, &index_type, NULL, 0, &last, 1);
    IrValue is_largest = expand_op(x, e, IR_eq, NULL, (const IrValue[]){value, spread}, 2, NULL, 0);
    IrValue candidates = expand_op(x, e, IR_select, NULL, (const IrValue[]){is_largest, index, none}, 3, NULL, 0);
    return expand_op(x, e, IR_reduce_min, NULL, &candidates, 1, &axes, 1);
}

static IrValue build_reduce(Expander *x, const XmlElem *e, const char *op, IrValue value, const int64_t *axes,
                            uint32_t n_axes)
{
    const IrType type = *ir_value_type(x->m, value);
    if (strcmp(op, "argmax") == 0)
    {
        if (n_axes == 1)
            return expand_argmax(x, e, value, axes[0]);
        expand_error(x, xml_attr_value_span(xml_attr(e, "pattern")), NULL, "argmax is over one axis, not %u", n_axes);
        return 0;
    }
    if (n_axes == 0)
        return value;
    IrCode code = strcmp(op, "max") == 0 ? IR_reduce_max : strcmp(op, "min") == 0 ? IR_reduce_min : IR_reduce_sum;
    IrAttr attr = ir_attr_ints(IR_ATTR_axes, axes, n_axes);
    IrValue out = expand_op(x, e, code, NULL, &value, 1, &attr, 1);
    if (!out || strcmp(op, "mean") != 0)
        return out;
    double count = 1;
    for (uint32_t i = 0; i < n_axes; i++)
        count *= (double)type.dims[axes[i]];
    IrAttr factor = ir_attr_float(IR_ATTR_value, 1 / count);
    const IrType out_type = *ir_value_type(x->m, out);
    if (!dtype_is_float((DType)out_type.dtype))
    {
        expand_error(x, xml_elem_span(e), NULL, "the mean of whole numbers: cast them with f32()");
        return 0;
    }
    IrValue scale = expand_op(x, e, IR_const, &out_type, NULL, 0, &factor, 1);
    return expand_op(x, e, IR_mul, NULL, (const IrValue[]){out, scale}, 2, NULL, 0);
}

static IrValue make_reduce(Expander *x, const XmlElem *e, IrValue value)
{
    const XmlAttr *attr = xml_attr(e, "pattern");
    const char *text, *op;
    PatternSide sides[2];
    uint32_t spread, n_axes = 0, at = 0;
    int64_t axes[IR_MAX_RANK];
    const IrType type = *ir_value_type(x->m, value);
    if (!attr_text(x, e, "op", &op) || !attr_text(x, e, "pattern", &text) ||
        !pattern_parse(x, attr, text, 1, false, sides))
        return 0;
    bool dots = sides[0].ellipsis >= 0;
    if (!pattern_fit(x, attr, text, &sides[0], &type, &spread) || !check_result_dots(x, attr, &sides[1], dots, spread))
        return 0;
    for (uint32_t i = 0; i < sides[0].n_axes; i++)
    {
        const PatternAxis *axis = &sides[0].axes[i];
        if (!check_extent(x, attr, axis, type.dims[axis->group]))
            return 0;
        if (at < sides[1].n_axes && strcmp(sides[1].axes[at].name, axis->name) == 0)
            at++;
        else
            axes[n_axes++] = axis->group;
    }
    if (at < sides[1].n_axes)
    {
        const PatternAxis *axis = &sides[1].axes[at];
        expand_error(x, axis_span(attr, axis), NULL,
                     pattern_find(&sides[0], axis->name) < 0 ? "axis '%s' is not in the operand"
                                                             : "axis '%s' is out of order: <rearrange> permutes",
                     axis->name);
        return 0;
    }
    IrValue out = build_reduce(x, e, op, value, axes, n_axes);
    if (!out)
        return 0;
    /* axes of 1 on the left went away or stay, as the result says */
    IrType kept = {.dtype = ir_value_type(x->m, out)->dtype};
    for (uint32_t g = 0, i = 0; g < sides[1].n_groups && kept.rank < IR_MAX_RANK; g++)
    {
        bool named = i < sides[1].n_axes && sides[1].axes[i].group == g;
        int left = named ? pattern_find(&sides[0], sides[1].axes[i].name) : -1;
        kept.dims[kept.rank++] = left >= 0 ? type.dims[sides[0].axes[left].group] : 1;
        i += named;
    }
    return reshape_to(x, e, out, kept);
}

void expand_reduce(Expander *x, const XmlElem *e)
{
    IrValue value;
    uint32_t n;
    bool ok = expand_operands(x, e, 1, 1, &value, &n);
    expand_result(x, e, ok ? make_reduce(x, e, value) : 0);
}
