/* Attributes as the expander sees them: {expressions} replaced, kinds and ranges checked, shapes resolved. */
#include "frontend/expand.h"

#include "frontend/arith.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum
{
    MAX_TEXT = 1 << 16 /* bytes of an attribute after substitution: nested parameters cannot explode */
};

static bool has_braces(const char *text)
{
    return strpbrk(text, "{}") != NULL;
}

Span attr_place(const XmlAttr *attr, uint32_t offset, uint32_t n)
{
    return has_braces(attr->value) ? xml_attr_value_span(attr) : xml_attr_span_at(attr, offset, n);
}

Span attr_or_elem_span(const XmlElem *e, const char *name)
{
    const XmlAttr *attr = xml_attr(e, name);
    return attr ? xml_attr_value_span(attr) : xml_elem_span(e);
}

static bool lookup(void *context, const char *name, ArithValue *out_value, const char **out_why)
{
    Expander *x = context;
    const Symbol *s = frame_find(x, name, false);
    if (!s)
    {
        *out_why = arena_printf(x->arena, "unknown dimension or parameter '%s'", name);
        return false;
    }
    const ArithKind kind = s->kind == SYM_NUMBER ? ARITH_WHOLE : s->kind == SYM_REAL ? ARITH_REAL : ARITH_TEXT;
    *out_value = (ArithValue){.kind = kind, .number = s->number, .real = s->real, .text = s->text};
    return true;
}

/* Evaluates; a failure is told at offset `base` of the attribute's value. */
static bool evaluate(Expander *x, const XmlAttr *attr, const char *text, uint32_t base, ArithValue *out_value)
{
    const char *why;
    uint32_t at, n;
    if (arith_eval(x->arena, text, lookup, x, out_value, &why, &at, &n))
        return true;
    const char *word = arena_strndup(x->arena, text + at, n < strlen(text + at) ? n : strlen(text + at));
    const char *near = strncmp(why, "unknown", 7) == 0 ? frame_nearest(x, word, false) : NULL;
    expand_error(x, xml_attr_span_at(attr, base + at, n), near, "%s", why);
    return false;
}

bool substitute(Expander *x, const XmlAttr *attr, const char *text, uint32_t base, const char **out_text)
{
    *out_text = text;
    if (!has_braces(text))
        return true;
    StrBuf buf = strbuf_make(x->arena);
    for (const char *p = text; *p;)
    {
        uint32_t at = base + (uint32_t)(p - text);
        if (*p == '}')
        {
            expand_error(x, xml_attr_span_at(attr, at, 1), NULL, "'}' without '{'");
            return false;
        }
        if (*p != '{')
        {
            size_t n = strcspn(p, "{}");
            strbuf_add_bytes(&buf, p, n);
            p += n;
            continue;
        }
        const char *close = strchr(p, '}');
        if (!close)
        {
            expand_error(x, xml_attr_span_at(attr, at, 1), NULL, "'{' without '}'");
            return false;
        }
        ArithValue value;
        if (!evaluate(x, attr, arena_strndup(x->arena, p + 1, (size_t)(close - p - 1)), at + 1, &value))
            return false;
        strbuf_add(&buf, arith_text(x->arena, value));
        if (buf.len > MAX_TEXT)
        {
            expand_error(x, xml_attr_value_span(attr), NULL, "the text has more than %d bytes", MAX_TEXT);
            return false;
        }
        p = close + 1;
    }
    *out_text = strbuf_text(&buf);
    return true;
}

bool attr_text(Expander *x, const XmlElem *e, const char *name, const char **out_text)
{
    const AttrInfo *info = element_attr(e->id, name);
    const XmlAttr *attr = xml_attr(e, name);
    if (!attr)
    {
        *out_text = info->absent;
        return true;
    }
    if (!substitute(x, attr, attr->value, 0, out_text))
        return false;
    const char *fault = attr_kind_fault(x->arena, info, *out_text);
    if (fault)
        expand_error(x, xml_attr_value_span(attr), NULL, "attribute '%s' is '%.60s': %s", name, *out_text, fault);
    return !fault;
}

bool attr_int(Expander *x, const XmlElem *e, const char *name, int64_t low, int64_t high, int64_t *out_value)
{
    const char *text;
    if (!attr_text(x, e, name, &text))
        return false;
    if (!text)
        return true;
    *out_value = strtoll(text, NULL, 10);
    if (*out_value >= low && *out_value <= high)
        return true;
    Span span = attr_or_elem_span(e, name);
    if (*out_value < low)
        expand_error(x, span, NULL, "attribute '%s' is %lld, expected at least %lld", name, (long long)*out_value,
                     (long long)low);
    else
        expand_error(x, span, NULL, "attribute '%s' is %lld, expected at most %lld", name, (long long)*out_value,
                     (long long)high);
    return false;
}

bool attr_float(Expander *x, const XmlElem *e, const char *name, double low, double high, double *out_value)
{
    const char *text;
    if (!attr_text(x, e, name, &text))
        return false;
    if (!text)
        return true;
    *out_value = strtod(text, NULL);
    if (*out_value >= low && *out_value <= high)
        return true;
    expand_error(x, attr_or_elem_span(e, name), NULL, "attribute '%s' is %g, expected %g to %g", name, *out_value, low,
                 high);
    return false;
}

bool attr_bool(Expander *x, const XmlElem *e, const char *name, bool *out_value)
{
    const char *text;
    if (!attr_text(x, e, name, &text))
        return false;
    if (text)
        *out_value = strcmp(text, "true") == 0;
    return true;
}

bool attr_name(Expander *x, const XmlElem *e, const char *name, const char **out_name)
{
    return attr_text(x, e, name, out_name);
}

bool attr_test(Expander *x, const XmlElem *e, const char *name, bool *out_holds)
{
    const XmlAttr *attr = xml_attr(e, name);
    const char *text;
    ArithValue value;
    if (!substitute(x, attr, attr->value, 0, &text))
        return false;
    bool plain = text == attr->value;
    const char *why;
    uint32_t at, n;
    if (plain)
    {
        if (!evaluate(x, attr, text, 0, &value))
            return false;
    }
    else if (!arith_eval(x->arena, text, lookup, x, &value, &why, &at, &n))
    {
        expand_error(x, xml_attr_value_span(attr), NULL, "%s", why);
        return false;
    }
    const bool is_text = value.kind == ARITH_TEXT;
    if (is_text && strcmp(value.text, "true") != 0 && strcmp(value.text, "false") != 0)
    {
        expand_error(x, xml_attr_value_span(attr), NULL, "'%.60s' is neither true nor false", value.text);
        return false;
    }
    *out_holds = is_text                     ? strcmp(value.text, "true") == 0
                 : value.kind == ARITH_WHOLE ? value.number != 0
                                             : value.real != 0;
    return true;
}

bool attr_shape(Expander *x, const XmlElem *e, const char *name, DType dtype, const IrType *like, IrType *out_type)
{
    const XmlAttr *attr = xml_attr(e, name);
    const char *text;
    if (!attr || !attr_text(x, e, name, &text))
        return false;
    IrType type = {.dtype = (uint8_t)dtype};
    int64_t n_elems = 1;
    for (const char *p = text; *p;)
    {
        if (isspace((unsigned char)*p))
        {
            p++;
            continue;
        }
        uint32_t n = (uint32_t)strcspn(p, " \t\r\n");
        Span span = attr_place(attr, (uint32_t)(p - text), n);
        const char *token = arena_strndup(x->arena, p, n);
        ArithValue value = arith_from_text(token);
        p += n;
        if (type.rank == IR_MAX_RANK)
        {
            expand_error(x, span, NULL, "more than %d axes", IR_MAX_RANK);
            return false;
        }
        if (like && strcmp(token, "_") == 0)
            value = (ArithValue){.number = type.rank < like->rank ? like->dims[type.rank] : 1};
        const Symbol *s = value.kind == ARITH_TEXT ? frame_find(x, token, false) : NULL;
        if (s && s->kind == SYM_NUMBER)
            value = (ArithValue){.number = s->number};
        if (value.kind == ARITH_REAL || (s && s->kind != SYM_NUMBER))
        {
            expand_error(x, span, NULL, "an extent of %s: expected a whole number", s ? s->text : token);
            return false;
        }
        if (value.kind == ARITH_TEXT)
        {
            expand_error(x, span, frame_nearest(x, token, false), "unknown dimension '%s'", token);
            return false;
        }
        if (value.number < 1)
        {
            expand_error(x, span, NULL, "an extent of %lld: expected at least 1", (long long)value.number);
            return false;
        }
        if (value.number > IR_MAX_ELEMS / n_elems)
        {
            expand_error(x, span, NULL, "the shape has more than %lld elements", (long long)IR_MAX_ELEMS);
            return false;
        }
        n_elems *= value.number;
        type.dims[type.rank++] = value.number;
    }
    *out_type = type;
    return true;
}
