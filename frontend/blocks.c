/* Blocks: <define> registers one; <use> binds its parameters and inputs in a frame of its own and expands its body
 * there. A block that is being expanded cannot be used, so there is no recursion. */
#include "frontend/expand.h"

#include "base/strbuf.h"
#include "frontend/arith.h"

#include <ctype.h>
#include <string.h>

enum
{
    MAX_BLOCKS = 10000,
    MAX_PARAMS_OF_BLOCK = 64
};

/* "layers.0." within "attn." and so on; the name may be absent. */
static const char *inner_prefix(Expander *x, const char *name)
{
    return name ? arena_printf(x->arena, "%s%s.", x->frame->prefix, name) : x->frame->prefix;
}

static Define *find_define(Expander *x, const char *name)
{
    for (uint32_t i = 0; i < x->defines.len; i++)
        if (strcmp(x->defines.data[i].name, name) == 0)
            return &x->defines.data[i];
    return NULL;
}

/* Registered before the graph is expanded. */
void expand_define(Expander *x, const XmlElem *e)
{
    const char *name = xml_attr(e, "name")->value;
    const Define *old = find_define(x, name);
    if (old && old->e != e)
    {
        expand_error(x, xml_attr_value_span(xml_attr(e, "name")), NULL, "block '%s' is defined twice", name);
        diag_note(x->diag, xml_elem_span(old->e), "it is defined here too");
    }
    if (x->defines.len == MAX_BLOCKS && !old)
    {
        expand_error(x, xml_elem_span(e), NULL, "the model has more than %d blocks", MAX_BLOCKS);
        x->gave_up = true;
    }
    else if (!old)
        vec_push(x->arena, &x->defines, (Define){.e = e, .name = name});
}

typedef struct
{
    const char *name;
    const char *absent; /* NULL: required */
    uint32_t at;        /* offsets in params= */
    uint32_t absent_at;
} BlockParam;

static bool is_own_attr(const char *name)
{
    return element_attr(EL_use, name) != NULL;
}

/* params="heads dropout=0 hidden={4 * d}": tokens end at a blank outside braces. */
static bool parse_params(Expander *x, const XmlAttr *attr, BlockParam *out, uint32_t *out_n)
{
    *out_n = 0;
    const char *text = attr ? attr->value : "";
    for (const char *p = text + strspn(text, " "); *p; p += strspn(p, " "))
    {
        const char *start = p;
        for (int depth = 0; *p && (*p != ' ' || depth); p++)
            depth += *p == '{' ? 1 : *p == '}' && depth ? -1 : 0;
        const char *equals = memchr(start, '=', (size_t)(p - start));
        size_t n = (size_t)((equals ? equals : p) - start);
        BlockParam param = {.name = arena_strndup(x->arena, start, n), .at = (uint32_t)(start - text)};
        if (equals)
        {
            param.absent = arena_strndup(x->arena, equals + 1, (size_t)(p - equals - 1));
            param.absent_at = (uint32_t)(equals + 1 - text);
        }
        Span span = xml_attr_span_at(attr, param.at, (uint32_t)n);
        if (!text_is_name(param.name) || is_own_attr(param.name) || *out_n == MAX_PARAMS_OF_BLOCK)
        {
            expand_error(x, span, NULL,
                         *out_n == MAX_PARAMS_OF_BLOCK ? "'%s' is a parameter too many"
                         : is_own_attr(param.name)     ? "'%s' cannot be a parameter: <use> has such an attribute"
                                                       : "'%s' is not a name of letters, digits and '_'",
                         param.name);
            return false;
        }
        out[(*out_n)++] = param;
    }
    return true;
}

/* The attributes of <use>, read in the caller's frame. texts[i] is NULL where the default applies. */
static bool given_params(Expander *x, const XmlElem *use, const Define *block, const BlockParam *params, uint32_t n,
                         const char **texts)
{
    bool ok = true;
    for (uint32_t k = 0; k < use->n_attrs; k++)
    {
        const XmlAttr *attr = &use->attrs[k];
        uint32_t i = 0;
        while (i < n && strcmp(params[i].name, attr->name) != 0)
            i++;
        if (i < n)
            ok = substitute(x, attr, attr->value, 0, &texts[i]) && ok;
        else if (!is_own_attr(attr->name))
        {
            const char *names[MAX_PARAMS_OF_BLOCK];
            for (uint32_t j = 0; j < n; j++)
                names[j] = params[j].name;
            expand_error(x, xml_attr_name_span(attr), str_nearest(attr->name, names, n),
                         "block '%s' has no parameter '%s'", block->name, attr->name);
            diag_note(x->diag, xml_elem_span(block->e), "it is defined here");
            ok = false;
        }
    }
    for (uint32_t i = 0; i < n; i++)
        if (!texts[i] && !params[i].absent)
        {
            expand_error(x, xml_elem_span(use), NULL, "parameter '%s' of block '%s' is missing", params[i].name,
                         block->name);
            diag_note(x->diag, xml_elem_span(block->e), "it is defined here");
            ok = false;
        }
    return ok;
}

/* One axis of an input pattern against an extent: a known number must be equal, a new name becomes one. */
static bool bind_axis(Expander *x, const XmlAttr *in, const char *token, uint32_t at, const char *value_name,
                      const IrType *type, int axis)
{
    Span span = xml_attr_span_at(in, at, (uint32_t)strlen(token));
    int64_t extent = type->dims[axis], want;
    if (strcmp(token, "_") == 0)
        return true;
    if (isdigit((unsigned char)*token))
    {
        ArithValue number = arith_from_text(token);
        want = number.kind == ARITH_WHOLE ? number.number : -1;
    }
    else if (!text_is_name(token))
    {
        expand_error(x, span, NULL, "'%s' is not an axis", token);
        return false;
    }
    else
    {
        const Symbol *known = frame_find_here(x->frame, token, false);
        if (!known)
        {
            Symbol *s = frame_add(x, token, SYM_NUMBER, span);
            s->number = extent;
            s->is_dim = true;
            return true;
        }
        want = known->kind == SYM_NUMBER ? known->number : -1;
    }
    if (want == extent)
        return true;
    expand_error(x, span, NULL, "axis '%s' of '%s' is %lld here, expected %lld", token, value_name, (long long)extent,
                 (long long)want);
    return false;
}

/* in="x[b t d] mask[b t]" against the operands. */
static bool bind_inputs(Expander *x, const XmlElem *define, const IrValue *values, uint32_t n_values)
{
    const XmlAttr *in = xml_attr(define, "in");
    const char *text = in ? in->value : "";
    uint32_t n = 0;
    bool ok = true;
    for (const char *p = text + strspn(text, " "); *p && ok; p += strspn(p, " "))
    {
        const char *start = p;
        p += strcspn(p, " [");
        const char *name = arena_strndup(x->arena, start, (size_t)(p - start));
        Span span = xml_attr_span_at(in, (uint32_t)(start - text), (uint32_t)(p - start));
        if (!text_is_name(name) || n == n_values)
        {
            expand_error(x, span, NULL, "'%s' is not a name of letters, digits and '_'", name);
            return false;
        }
        Symbol *s = frame_add(x, name, SYM_VALUE, span);
        if (!s)
            return false;
        s->value = values[n++];
        const char *open = p + strspn(p, " ");
        if (*open != '[')
            continue;
        const char *close = strchr(open, ']');
        if (!close)
        {
            expand_error(x, xml_attr_span_at(in, (uint32_t)(open - text), 1), NULL, "'[' without ']'");
            return false;
        }
        p = close + 1;
        if (!s->value)
            continue; /* poison: anything fits */
        const IrType type = *ir_value_type(x->m, s->value);
        int n_axes = 0;
        bool rest = false;
        for (const char *q = open + 1 + strspn(open + 1, " "); q < close; q += strcspn(q, " ]"), q += strspn(q, " "))
        {
            rest = rest || strncmp(q, "...", 3) == 0;
            n_axes++;
        }
        n_axes -= rest;
        if (rest ? n_axes > type.rank : n_axes != type.rank)
        {
            expand_error(x, xml_attr_span_at(in, (uint32_t)(start - text), (uint32_t)(p - start)), NULL,
                         "'%s' is %s here, which has %d axes", name, expand_shape_text(x->arena, &type), type.rank);
            return false;
        }
        int axis = 0;
        for (const char *q = open + 1 + strspn(open + 1, " "); q < close && ok; q += strspn(q, " "))
        {
            size_t length = strcspn(q, " ]");
            const char *token = arena_strndup(x->arena, q, length);
            if (strcmp(token, "...") == 0)
                axis += type.rank - n_axes;
            else if (axis < type.rank)
            {
                ok = bind_axis(x, in, token, (uint32_t)(q - text), name, &type, axis);
                axis++;
            }
            q += length;
        }
    }
    return ok;
}

static uint32_t count_inputs(const XmlElem *define)
{
    const XmlAttr *in = xml_attr(define, "in");
    uint32_t n = 0;
    bool inside = false, word = false;
    for (const char *p = in ? in->value : ""; *p; p++)
    {
        inside = *p == '[' ? true : *p == ']' ? false : inside;
        bool in_name = !inside && *p != ' ' && *p != '[' && *p != ']';
        n += in_name && !word;
        word = in_name;
    }
    return n;
}

static void expand_block(Expander *x, const XmlElem *e, Define *block)
{
    BlockParam params[MAX_PARAMS_OF_BLOCK];
    const char *texts[MAX_PARAMS_OF_BLOCK] = {0};
    uint32_t n_params, n_inputs = count_inputs(block->e), n_values = 0;
    const XmlAttr *params_attr = xml_attr(block->e, "params");
    const char *name;
    IrValue *values = ARENA_ARRAY(x->arena, IrValue, n_inputs + 1);
    if (!attr_name(x, e, "name", &name) || !parse_params(x, params_attr, params, &n_params) ||
        !given_params(x, e, block, params, n_params, texts))
        return;
    if (n_inputs && !expand_operands(x, e, n_inputs, n_inputs, values, &n_values))
        return;
    if (!n_inputs && xml_attr(e, "in"))
    {
        expand_error(x, xml_attr_name_span(xml_attr(e, "in")), NULL, "block '%s' takes no values", block->name);
        return;
    }
    Frame *outer = x->frame;
    const char *hf_prefix;
    if (!frame_hf_prefix(x, e, name, &hf_prefix))
        return;
    expand_enter(x, frame_open(x, x->root, true, inner_prefix(x, name), hf_prefix), xml_elem_span(e), block->name, 0);
    bool ok = true;
    for (uint32_t i = 0; i < n_params && ok; i++)
        if (texts[i])
            ok = frame_add_text(x, params[i].name, texts[i],
                                xml_attr_span_at(params_attr, params[i].at, (uint32_t)strlen(params[i].name)));
    ok = ok && bind_inputs(x, block->e, values, n_values);
    for (uint32_t i = 0; i < n_params && ok; i++)
    {
        const char *text;
        if (!texts[i])
            ok = substitute(x, params_attr, params[i].absent, params[i].absent_at, &text) &&
                 frame_add_text(x, params[i].name, text,
                                xml_attr_span_at(params_attr, params[i].at, (uint32_t)strlen(params[i].name)));
    }
    x->has_prev = n_values > 0;
    x->prev = n_values ? values[0] : 0;
    if (ok)
        expand_body(x, block->e->first);
    else
        x->prev = 0;
    if (ok && !x->has_prev)
    {
        expand_error(x, xml_elem_span(block->e), NULL, "block '%s' makes no value", block->name);
        x->prev = 0;
    }
    x->frame = outer;
}

void expand_use(Expander *x, const XmlElem *e)
{
    const char *name;
    const XmlAttr *attr = xml_attr(e, "block");
    x->b.span = xml_elem_span(e);
    if (!attr_name(x, e, "block", &name))
    {
        expand_result(x, e, 0);
        return;
    }
    Define *block = find_define(x, name);
    if (!block)
    {
        const char **names = ARENA_ARRAY(x->arena, const char *, x->defines.len + 1);
        for (uint32_t i = 0; i < x->defines.len; i++)
            names[i] = x->defines.data[i].name;
        expand_error(x, xml_attr_value_span(attr), str_nearest(name, names, x->defines.len), "unknown block '%s'",
                     name);
        expand_result(x, e, 0);
        return;
    }
    if (block->active)
    {
        expand_error(x, xml_attr_value_span(attr), NULL, "block '%s' uses itself", name);
        diag_note(x->diag, xml_elem_span(block->e), "it is defined here");
        expand_result(x, e, 0);
        return;
    }
    IrValue before = x->prev;
    uint32_t errors = diag_error_count(x->diag);
    block->active = true;
    expand_block(x, e, block);
    find_define(x, name)->active = false;
    IrValue value = diag_error_count(x->diag) == errors && (x->prev || !before) ? x->prev : 0;
    x->b.span = xml_elem_span(e);
    expand_result(x, e, value);
}
