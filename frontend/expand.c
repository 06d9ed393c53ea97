/* Control flow of the expansion: bodies, repeats, conditions, units; operands and results. Blocks: blocks.c.
 *
 * It ends for any input: blocks do not recur, and every element and every round counts against a limit. */
#include "frontend/expand.h"

#include "base/bug.h"
#include "base/strbuf.h"

#include <string.h>

enum
{
    MAX_TRAIL = 8,
    MAX_NESTING = 1000 /* of elements through blocks: bounds the C stack */
};

/* ---- errors */

static uint64_t place_hash(Span span, const char *text)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (const char *p = text; *p; p++)
        hash = (hash ^ (unsigned char)*p) * 1099511628211u;
    const uint32_t place[] = {span.file, span.line, span.col};
    for (int i = 0; i < 3; i++)
        hash = (hash ^ place[i]) * 1099511628211u;
    return hash;
}

static void tell_trail(Expander *x)
{
    int n = 0;
    for (const Frame *frame = x->frame; frame && frame->caller; frame = frame->caller)
    {
        if (n++ == MAX_TRAIL)
        {
            diag_note(x->diag, (Span){0}, "and so on");
            break;
        }
        if (frame->block)
            diag_note(x->diag, frame->site, "in block '%s' used here", frame->block);
        else
            diag_note(x->diag, frame->site, "in round %lld of this repeat", (long long)frame->round);
    }
}

void expand_error(Expander *x, Span span, const char *suggestion, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const char *text = arena_vprintf(x->arena, format, args);
    va_end(args);
    uint64_t hash = place_hash(span, text);
    for (uint32_t i = 0; i < x->told.len; i++)
        if (x->told.data[i] == hash)
            return;
    if (x->told.len <= DIAG_LIMIT)
        vec_push(x->arena, &x->told, hash);
    diag_error(x->diag, span, "%s", text);
    diag_suggest(x->diag, suggestion);
    tell_trail(x);
    x->gave_up = x->gave_up || diag_is_full(x->diag);
}

/* False when the expansion has become too large. */
static bool count_step(Expander *x, const XmlElem *e)
{
    if (x->gave_up)
        return false;
    if (++x->n_steps <= x->max_steps && x->m->ops.len <= x->max_ops)
        return true;
    expand_error(x, xml_elem_span(e), NULL, "the model expands to more than %llu operations",
                 (unsigned long long)x->max_ops);
    x->gave_up = true;
    return false;
}

const char *expand_shape_text(Arena *arena, const IrType *type)
{
    StrBuf buf = strbuf_make(arena);
    strbuf_add(&buf, "[");
    for (int i = 0; i < type->rank; i++)
        strbuf_addf(&buf, "%s%lld", i ? " " : "", (long long)type->dims[i]);
    strbuf_add(&buf, "]");
    return strbuf_text(&buf);
}

/* ---- operands and results */

bool expand_value(Expander *x, Span span, const char *name, IrValue *out_value)
{
    if (strcmp(name, "_") == 0)
    {
        if (!x->has_prev)
        {
            expand_error(x, span, NULL, "there is no value before this element: name one");
            return false;
        }
        *out_value = x->prev;
        return x->prev != 0;
    }
    Symbol *s = frame_find(x, name, true);
    if (!s)
    {
        if (frame_find(x, name, false))
            expand_error(x, span, NULL, "'%s' is a number, not a value", name);
        else
            expand_error(x, span, frame_nearest(x, name, true), "unknown value '%s'", name);
        return false;
    }
    *out_value = symbol_value(x, s);
    return *out_value != 0;
}

bool expand_operand(Expander *x, const XmlElem *e, const char *name, IrValue *out_value)
{
    const char *text;
    if (!attr_text(x, e, name, &text))
        return false;
    return expand_value(x, attr_or_elem_span(e, name), text ? text : "_", out_value);
}

bool expand_operands(Expander *x, const XmlElem *e, uint32_t min, uint32_t max, IrValue *out_values, uint32_t *out_n)
{
    const XmlAttr *attr = xml_attr(e, "in");
    const char *text = "";
    uint32_t n = 0, n_names = 0;
    bool ok = true;
    if (attr && !attr_text(x, e, "in", &text))
        return false;
    for (const char *p = text + strspn(text, " "); *p; p += strcspn(p, " "), p += strspn(p, " "))
        n_names++;
    if (n_names + 1 == min)
        ok = expand_value(x, attr_or_elem_span(e, "in"), "_", &out_values[n++]);
    else if (n_names < min || n_names > max)
    {
        if (min == max)
            expand_error(x, attr_or_elem_span(e, "in"), NULL, "<%s> takes %u values, given %u", e->name, min, n_names);
        else
            expand_error(x, attr_or_elem_span(e, "in"), NULL, "<%s> takes %u to %u values, given %u", e->name, min, max,
                         n_names);
        return false;
    }
    for (const char *p = text + strspn(text, " "); *p; p += strspn(p, " "))
    {
        uint32_t length = (uint32_t)strcspn(p, " ");
        const char *name = arena_strndup(x->arena, p, length);
        ok = expand_value(x, attr_place(attr, (uint32_t)(p - text), length), name, &out_values[n++]) && ok;
        p += length;
    }
    *out_n = n;
    return ok;
}

static bool fits(const IrType *want, const IrType *have)
{
    return ir_type_same_shape(want, have);
}

void expand_result(Expander *x, const XmlElem *e, IrValue value)
{
    IrType want;
    const IrType *have = value ? ir_value_type(x->m, value) : NULL;
    bool asserts = have && xml_attr(e, "shape") && e->id != EL_iota;
    if (asserts && attr_shape(x, e, "shape", (DType)have->dtype, have, &want) && !fits(&want, have))
        expand_error(x, xml_attr_value_span(xml_attr(e, "shape")), NULL, "the value of <%s> is %s, not %s", e->name,
                     expand_shape_text(x->arena, have), expand_shape_text(x->arena, &want));
    const char *name;
    x->prev = value;
    x->has_prev = true;
    if (!attr_name(x, e, "name", &name) || !name)
        return;
    Symbol *s = frame_add(x, name, SYM_VALUE, attr_or_elem_span(e, "name"));
    if (s)
        s->value = value;
}

IrValue expand_op(Expander *x, const XmlElem *e, IrCode code, const IrType *given, const IrValue *operands, uint32_t n,
                  const IrAttr *attrs, uint32_t n_attrs)
{
    const char *why;
    IrOp op = ir_try_op(&x->b, code, given, operands, n, attrs, n_attrs, &why);
    if (!op)
    {
        expand_error(x, xml_elem_span(e), NULL, "<%s>: %s", e->name, why);
        return 0;
    }
    return ir_op_result(x->m, op, 0);
}

/* ---- bodies */

typedef void Handler(Expander *x, const XmlElem *e);

static Handler *const handlers[EL_COUNT] = {
#define ELEMENT(id, ...) [EL_##id] = expand_##id,
#define ATTRIBUTE(...)
#define VALUE_ATTRIBUTE(...)
#include "frontend/elements.def"
#undef ELEMENT
#undef ATTRIBUTE
#undef VALUE_ATTRIBUTE
};

void expand_element(Expander *x, const XmlElem *e)
{
    if (!count_step(x, e))
        return;
    if (x->n_nested == MAX_NESTING)
    {
        expand_error(x, xml_elem_span(e), NULL, "elements and blocks are nested more than %d deep", MAX_NESTING);
        x->gave_up = true;
        return;
    }
    x->n_nested++;
    x->b.span = xml_elem_span(e);
    handlers[e->id](x, e);
    x->n_nested--;
}

void expand_body(Expander *x, const XmlElem *first)
{
    for (const XmlElem *e = first; e && !x->gave_up; e = e->next)
        expand_element(x, e);
}

void expand_enter(Expander *x, Frame *frame, Span site, const char *block, int64_t round)
{
    frame->caller = x->frame;
    frame->site = site;
    frame->block = block;
    frame->round = round;
    x->frame = frame;
}

void expand_unit(Expander *x, const XmlElem *e)
{
    if (x->in_unit)
        expand_error(x, xml_elem_span(e), NULL, "a unit inside a unit");
    bool outer = x->in_unit;
    if (!outer)
        x->b.unit = ++x->n_units;
    x->in_unit = true;
    expand_body(x, e->first);
    x->in_unit = outer;
}

void expand_if(Expander *x, const XmlElem *e)
{
    bool holds;
    if (!attr_test(x, e, "test", &holds))
        return;
    for (const XmlElem *child = e->first; child && !x->gave_up; child = child->next)
    {
        if (child->id == EL_else && !holds)
            expand_body(x, child->first);
        else if (child->id != EL_else && holds)
            expand_element(x, child);
    }
}

void expand_repeat(Expander *x, const XmlElem *e)
{
    int64_t count;
    const char *name, *index, *carry;
    bool share;
    if (!attr_int(x, e, "count", 0, INT64_MAX, &count) || !attr_name(x, e, "name", &name) ||
        !attr_name(x, e, "index", &index) || !attr_name(x, e, "carry", &carry) || !attr_bool(x, e, "share", &share))
        return;
    Frame *outer = x->frame;
    const bool outer_sharing = x->sharing;
    if (xml_attr(e, "in") || carry)
    {
        IrValue value = 0;
        expand_operand(x, e, "in", &value);
        x->prev = value;
        x->has_prev = true;
    }
    const bool may_be_layers = !x->in_layer && !x->in_unit;
    uint32_t errors = diag_error_count(x->diag);
    for (int64_t i = 0; i < count && count_step(x, e) && diag_error_count(x->diag) == errors; i++)
    {
        const int64_t owner = share ? 0 : i; /* the round that has the params */
        const char *prefix =
            name ? arena_printf(x->arena, "%s%s.%lld.", outer->prefix, name, (long long)owner) : outer->prefix;
        const char *own = name ? arena_printf(x->arena, "%s.%lld", name, (long long)owner) : NULL;
        x->sharing = outer_sharing || i > owner;
        expand_enter(x, frame_open(x, outer, false, prefix, outer->hf_prefix), xml_elem_span(e), NULL, i);
        Symbol *s = frame_add(x, index, SYM_NUMBER, attr_or_elem_span(e, "index"));
        s->number = i;
        frame_hf_prefix(x, e, own, &x->frame->hf_prefix);
        if (carry && (s = frame_add(x, carry, SYM_VALUE, attr_or_elem_span(e, "carry"))) != NULL)
            s->value = x->prev;
        const uint32_t first_unit = x->n_units + 1;
        x->in_layer = true;
        expand_body(x, e->first);
        x->in_layer = !may_be_layers;
        if (may_be_layers && x->n_units >= first_unit)
        {
            vec_push(x->arena, &x->layers, first_unit);
            x->layers_end = x->n_units + 1;
        }
        x->frame = outer;
    }
    x->sharing = outer_sharing;
    if (diag_error_count(x->diag) != errors)
        x->prev = 0;
    if (!name || !x->has_prev)
        return;
    Symbol *s = frame_add(x, name, SYM_VALUE, attr_or_elem_span(e, "name"));
    if (s)
        s->value = x->prev;
}

/* ---- what stands in a body but is handled elsewhere */

void expand_model(Expander *x, const XmlElem *e)
{
    (void)x;
    BUG("<%s> is a root", e->name);
}

void expand_library(Expander *x, const XmlElem *e)
{
    (void)x;
    BUG("<%s> is a root", e->name);
}

void expand_include(Expander *x, const XmlElem *e)
{
    (void)x;
    BUG("<%s> was replaced by its file", e->name);
}

void expand_else(Expander *x, const XmlElem *e)
{
    (void)x;
    BUG("<%s> is expanded by <if>", e->name);
}
