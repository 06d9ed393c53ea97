/* Inputs, dimensions and the core elements without axis patterns. */
#include "frontend/expand.h"

#include "base/strbuf.h"
#include "frontend/hf.h"
#include "ir/expr.h"

#include <ctype.h>
#include <string.h>

enum
{
    MAX_INPUTS = 256
};

/* ---- declarations */

void expand_dim(Expander *x, const XmlElem *e)
{
    const char *name, *text;
    if (!attr_name(x, e, "name", &name) || !attr_text(x, e, "value", &text))
        return;
    if (x->frame != x->root && xml_attr(e, "hf"))
        expand_error(x, xml_attr_name_span(xml_attr(e, "hf")), NULL, "only a dimension of the model has hf=");
    else if (x->frame != x->root || hf_dim(x, e, name, xml_attr(e, "value")->replaced != NULL, &text))
        frame_add_text(x, name, text, attr_or_elem_span(e, "name"));
}

void expand_input(Expander *x, const XmlElem *e)
{
    const char *name, *dtype_text;
    DType dtype;
    IrType type;
    if (!attr_name(x, e, "name", &name))
        return;
    if (x->n_inputs++ == MAX_INPUTS)
    {
        expand_error(x, xml_elem_span(e), NULL, "more than %d inputs", MAX_INPUTS);
        x->gave_up = true;
        return;
    }
    bool ok = attr_text(x, e, "dtype", &dtype_text) && dtype_by_name(dtype_text, &dtype) &&
              attr_shape(x, e, "shape", dtype, NULL, &type);
    Symbol *s = frame_add(x, name, ok ? SYM_INPUT : SYM_VALUE, attr_or_elem_span(e, "name"));
    if (!s || !ok)
        return; /* the value is poison */
    s->global = arena_printf(x->arena, "batch.%s", name);
    int64_t batch = x->job->train.rows;
    if (type.rank < 1 || type.dims[0] != batch)
        expand_error(x, attr_or_elem_span(e, "shape"), NULL, "the first axis of an input is the batch, 'b'");
    if (ir_global_find(x->m, s->global))
        expand_error(x, attr_or_elem_span(e, "name"), NULL, "the name '%s' is not free for an input", name);
    else
        ir_global_add(x->m, IR_GLOBAL_INPUT, s->global, type, NULL, 0, xml_elem_span(e));
}

/* ---- map */

/* Every name of the expression that is not a function's. False after an error or with poison. */
static bool collect_vars(Expander *x, const XmlAttr *attr, const char *text, IrExprVar *vars, uint32_t max,
                         uint32_t *out_n)
{
    bool ok = true;
    *out_n = 0;
    for (const char *p = text; *p;)
    {
        if (isdigit((unsigned char)*p) || *p == '.')
        { /* a number, with the 'e' of its exponent */
            p += strspn(p, "0123456789.");
            if ((*p == 'e' || *p == 'E') && (isdigit((unsigned char)p[1]) || ((p[1] == '-' || p[1] == '+') && p[2])))
                p += 2;
            continue;
        }
        if (!isalpha((unsigned char)*p) && *p != '_')
        {
            p++;
            continue;
        }
        const char *start = p;
        while (isalnum((unsigned char)*p) || *p == '_')
            p++;
        if (p[strspn(p, " ")] == '(')
            continue;
        const char *name = arena_strndup(x->arena, start, (size_t)(p - start));
        uint32_t i = 0;
        while (i < *out_n && strcmp(vars[i].name, name) != 0)
            i++;
        if (i < *out_n)
            continue;
        Span span = attr_place(attr, (uint32_t)(start - text), (uint32_t)(p - start));
        if (*out_n == max)
        {
            expand_error(x, span, NULL, "more than %u values in one expression", max);
            return false;
        }
        if (!frame_find(x, name, true) && frame_find(x, name, false))
        {
            expand_error(x, span, NULL, "'%s' is a number: write {%s}", name, name);
            ok = false;
            continue;
        }
        vars[*out_n].name = name;
        ok = expand_value(x, span, name, &vars[*out_n].value) && ok;
        (*out_n)++;
    }
    return ok;
}

enum
{
    MAX_VARS = 64
};

void expand_map(Expander *x, const XmlElem *e)
{
    const XmlAttr *attr = xml_attr(e, "expr");
    const char *text, *why = NULL;
    IrExprVar vars[MAX_VARS];
    uint32_t n, at = 0;
    IrValue value = 0;
    if (xml_attr(e, "in"))
        expand_error(x, xml_attr_name_span(xml_attr(e, "in")), NULL, "<map> names its values in expr=");
    else if (attr_text(x, e, "expr", &text) && collect_vars(x, attr, text, vars, MAX_VARS, &n))
    {
        value = ir_try_expr(&x->b, text, vars, n, &why, &at);
        if (!value)
            expand_error(x, attr_place(attr, at, 1), NULL, "%s", why);
    }
    expand_result(x, e, value);
}

/* ---- movement */

/* axis= from 0, or from the end when negative. */
static bool read_axis(Expander *x, const XmlElem *e, int rank, int64_t *out_axis)
{
    if (!attr_int(x, e, "axis", INT64_MIN, INT64_MAX, out_axis))
        return false;
    if (*out_axis < -rank || *out_axis >= rank)
    {
        expand_error(x, attr_or_elem_span(e, "axis"), NULL, "axis %lld of a value with %d axes", (long long)*out_axis,
                     rank);
        return false;
    }
    *out_axis += *out_axis < 0 ? rank : 0;
    return true;
}

void expand_gather(Expander *x, const XmlElem *e)
{
    IrValue operands[2];
    uint32_t n;
    bool ok = expand_operands(x, e, 2, 2, operands, &n);
    expand_result(x, e, ok ? expand_op(x, e, IR_gather, NULL, operands, 2, NULL, 0) : 0);
}

void expand_concat(Expander *x, const XmlElem *e)
{
    enum
    {
        MAX_PARTS = 64
    };
    IrValue operands[MAX_PARTS + 1];
    uint32_t n;
    int64_t axis;
    IrValue value = 0;
    if (expand_operands(x, e, 2, MAX_PARTS, operands, &n) &&
        read_axis(x, e, ir_value_type(x->m, operands[0])->rank, &axis))
    {
        IrAttr attr = ir_attr_int(IR_ATTR_axis, axis);
        value = expand_op(x, e, IR_concat, NULL, operands, n, &attr, 1);
    }
    expand_result(x, e, value);
}

static IrValue make_slice(Expander *x, const XmlElem *e, IrValue value)
{
    IrType type = *ir_value_type(x->m, value);
    int64_t axis, start = 0, size, index = 0, starts[IR_MAX_RANK] = {0};
    if (!read_axis(x, e, type.rank, &axis))
        return 0;
    int64_t extent = type.dims[axis];
    bool one = xml_attr(e, "index");
    if (one && (xml_attr(e, "start") || xml_attr(e, "size")))
    {
        expand_error(x, xml_attr_name_span(xml_attr(e, "index")), NULL, "'index' goes without 'start' and 'size'");
        return 0;
    }
    if (!attr_int(x, e, "start", 0, extent - 1, &start) || !attr_int(x, e, "index", -extent, extent - 1, &index))
        return 0;
    size = extent - start;
    if (!attr_int(x, e, "size", 1, extent - start, &size))
        return 0;
    starts[axis] = one ? index + (index < 0 ? extent : 0) : start;
    type.dims[axis] = one ? 1 : size;
    IrAttr attr = ir_attr_ints(IR_ATTR_starts, starts, type.rank);
    IrValue out = expand_op(x, e, IR_slice, &type, &value, 1, &attr, 1);
    if (!out || !one)
        return out;
    IrType dropped = {.dtype = type.dtype};
    for (int i = 0; i < type.rank; i++)
        if (i != axis)
            dropped.dims[dropped.rank++] = type.dims[i];
    return expand_op(x, e, IR_reshape, &dropped, &out, 1, NULL, 0);
}

void expand_slice(Expander *x, const XmlElem *e)
{
    IrValue value;
    uint32_t n;
    bool ok = expand_operands(x, e, 1, 1, &value, &n);
    expand_result(x, e, ok ? make_slice(x, e, value) : 0);
}

void expand_pad(Expander *x, const XmlElem *e)
{
    IrValue value, out = 0;
    uint32_t n;
    int64_t axis, before, after, lo[IR_MAX_RANK] = {0}, hi[IR_MAX_RANK] = {0};
    double fill;
    const int64_t most = 1 << 30;
    if (expand_operands(x, e, 1, 1, &value, &n) && read_axis(x, e, ir_value_type(x->m, value)->rank, &axis) &&
        attr_int(x, e, "before", 0, most, &before) && attr_int(x, e, "after", 0, most, &after) &&
        attr_float(x, e, "value", -3e38, 3e38, &fill))
    {
        uint32_t rank = ir_value_type(x->m, value)->rank;
        lo[axis] = before;
        hi[axis] = after;
        const IrAttr attrs[] = {ir_attr_ints(IR_ATTR_lo, lo, rank), ir_attr_ints(IR_ATTR_hi, hi, rank),
                                ir_attr_float(IR_ATTR_value, fill)};
        out = expand_op(x, e, IR_pad, NULL, &value, 1, attrs, 3);
    }
    expand_result(x, e, out);
}

void expand_iota(Expander *x, const XmlElem *e)
{
    const char *dtype_text;
    DType dtype;
    IrType type;
    int64_t axis;
    IrValue value = 0;
    if (!xml_attr(e, "shape") || xml_attr(e, "in"))
        expand_error(x, xml_elem_span(e), NULL,
                     xml_attr(e, "in") ? "<iota> takes no values" : "attribute 'shape' is missing on <iota>");
    else if (attr_text(x, e, "dtype", &dtype_text) && dtype_by_name(dtype_text, &dtype) &&
             attr_shape(x, e, "shape", dtype, NULL, &type) && read_axis(x, e, type.rank, &axis))
    {
        IrAttr attr = ir_attr_int(IR_ATTR_axis, axis);
        value = expand_op(x, e, IR_iota, &type, NULL, 0, &attr, 1);
    }
    expand_result(x, e, value);
}
