/* <param>: a weight, its name here and in pretrained weights, and how it lies there. */
#include "base/strbuf.h"
#include "frontend/expand.h"
#include "frontend/pattern.h"
#include "ir/init.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum
{
    MAX_PARAMS = 20000
};

static bool is_param_name(const char *text)
{
    bool start = true;
    for (const char *p = text; *p; p++)
    {
        if (!isalnum((unsigned char)*p) && *p != '_' && (*p != '.' || start))
            return false;
        start = *p == '.';
    }
    return !start;
}

/* The param `tie` again, under another name or in another round. */
static IrValue tied_param(Expander *x, const XmlElem *e, const char *tie)
{
    Span span = attr_or_elem_span(e, "tie");
    IrGlobal global = ir_global_find(x->m, tie);
    if (!global || ir_global(x->m, global)->kind != IR_GLOBAL_PARAM)
    {
        VEC(const char *) names = {0};
        for (IrGlobal g = 1; g < x->m->globals.len; g++)
            if (ir_global(x->m, g)->kind == IR_GLOBAL_PARAM)
                vec_push(x->arena, &names, ir_global(x->m, g)->name);
        expand_error(x, span, str_nearest(tie, names.data, names.len), "there is no param '%s' before this one", tie);
        return 0;
    }
    const IrType have = ir_global(x->m, global)->type;
    IrType want;
    if (xml_attr(e, "shape"))
    {
        if (!attr_shape(x, e, "shape", DT_F32, NULL, &want))
            return 0;
        if (!ir_type_same_shape(&want, &have))
        {
            expand_error(x, attr_or_elem_span(e, "shape"), NULL, "param '%s' is %s, not %s", tie,
                         expand_shape_text(x->arena, &have), expand_shape_text(x->arena, &want));
            return 0;
        }
    }
    return ir_build_get(&x->b, tie);
}

/* ---- how a param lies in pretrained weights */

typedef struct
{
    int64_t dims[IR_MAX_RANK], perm[IR_MAX_RANK], shape[IR_MAX_RANK];
    uint32_t n_dims, n_shape;
} HfLayout;

/* The extent that hf_sizes gives to an axis; 0: none. */
static int64_t stated_extent(const char *sizes, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = sizes ? sizes : ""; *at; at += strspn(at, " "))
    {
        if (strncmp(at, name, n) == 0 && at[n] == '=')
            return strtoll(at + n + 1, NULL, 10);
        at += strcspn(at, " ");
    }
    return 0;
}

/* Extents of the axes of the param's side: stated, or what is left of the shape. */
static bool layout_extents(const PatternSide *side, const IrType *type, const char *sizes, int64_t *extents)
{
    for (uint32_t g = 0; g < side->n_groups; g++)
    {
        int64_t left = type->dims[g];
        int open = -1;
        for (uint32_t i = 0; i < side->n_axes; i++)
        {
            if (side->axes[i].group != g)
                continue;
            extents[i] = stated_extent(sizes, side->axes[i].name);
            if (extents[i] > 0 && left % extents[i] == 0)
                left /= extents[i];
            else if (extents[i] == 0 && open < 0)
                open = (int)i;
            else
                return false;
        }
        if (open >= 0)
            extents[open] = left;
        else if (left != 1)
            return false;
    }
    return true;
}

/* hf_layout="there -> here". False after an error; n_dims 0 when there is none. */
static bool read_hf_layout(Expander *x, const XmlElem *e, const IrType *type, HfLayout *out)
{
    const char *text, *sizes;
    PatternSide sides[2];
    int64_t extents[PATTERN_MAX_AXES];
    *out = (HfLayout){0};
    if (!attr_text(x, e, "hf_layout", &text) || !attr_text(x, e, "hf_sizes", &sizes))
        return false;
    if (!text)
        return true;
    if (!pattern_parse(x, xml_attr(e, "hf_layout"), text, 1, true, sides))
        return false;
    bool fits = sides[0].ellipsis < 0 && sides[1].ellipsis < 0 && sides[0].n_axes == sides[1].n_axes &&
                sides[0].n_axes <= IR_MAX_RANK && sides[0].n_groups <= IR_MAX_RANK && sides[1].n_groups == type->rank;
    fits = fits && layout_extents(&sides[1], type, sizes, extents);
    for (uint32_t i = 0; fits && i < sides[1].n_axes; i++)
    {
        int there = pattern_find(&sides[0], sides[1].axes[i].name);
        fits = there >= 0;
        out->perm[i] = there;
        if (fits)
            out->dims[there] = extents[i];
    }
    if (!fits)
    {
        expand_error(x, attr_or_elem_span(e, "hf_layout"), NULL,
                     "the layout does not give a param %s: expected 'axes there -> axes here', with the same axes, and "
                     "hf_sizes for those that the shape does not tell",
                     expand_shape_text(x->arena, type));
        return false;
    }
    out->n_dims = sides[0].n_axes;
    out->n_shape = sides[0].n_groups;
    for (uint32_t g = 0; g < out->n_shape; g++)
        out->shape[g] = 1;
    for (uint32_t i = 0; i < out->n_dims; i++)
        out->shape[sides[0].axes[i].group] *= out->dims[i];
    return true;
}

static IrValue new_param(Expander *x, const XmlElem *e, const char *name)
{
    IrType type;
    const char *init, *hf, *why;
    bool trainable;
    if (!xml_attr(e, "shape") || !xml_attr(e, "init"))
    {
        expand_error(x, xml_elem_span(e), NULL, "attribute '%s' is missing on <param>",
                     xml_attr(e, "shape") ? "init" : "shape");
        return 0;
    }
    if (!attr_shape(x, e, "shape", DT_F32, NULL, &type) || !attr_text(x, e, "init", &init) ||
        !attr_bool(x, e, "trainable", &trainable) || !attr_text(x, e, "hf", &hf))
        return 0;
    bool decay = type.rank >= 2;
    if (!attr_bool(x, e, "decay", &decay))
        return 0;
    if (!ir_init_check(x->arena, init, &why))
    {
        expand_error(x, attr_or_elem_span(e, "init"), NULL, "%s", why);
        return 0;
    }
    IrGlobal old = ir_global_find(x->m, name);
    if (old)
    {
        expand_error(x, attr_or_elem_span(e, "name"), NULL,
                     "there is a param '%s' already: name the block or the repeat", name);
        diag_note(x->diag, ir_global(x->m, old)->span, "it is defined here");
        return 0;
    }
    if (x->n_params++ == MAX_PARAMS)
    {
        expand_error(x, xml_elem_span(e), NULL, "the model has more than %d params", MAX_PARAMS);
        x->gave_up = true;
        return 0;
    }
    HfLayout layout;
    if (!read_hf_layout(x, e, &type, &layout))
        return 0;
    IrAttr attrs[8];
    uint32_t n = 0;
    attrs[n++] = ir_attr_str(IR_ATTR_init, init);
    attrs[n++] = ir_attr_bool(IR_ATTR_decay, decay);
    attrs[n++] = ir_attr_bool(IR_ATTR_trainable, trainable);
    attrs[n++] = ir_attr_int(IR_ATTR_unit, x->b.unit);
    hf = arena_printf(x->arena, "%s%s", x->frame->hf_prefix, hf ? hf : name + strlen(x->frame->prefix));
    if (strcmp(hf, name) != 0)
        attrs[n++] = ir_attr_str(IR_ATTR_hf, hf);
    if (layout.n_dims)
    {
        attrs[n++] = ir_attr_ints(IR_ATTR_hf_dims, layout.dims, layout.n_dims);
        attrs[n++] = ir_attr_ints(IR_ATTR_hf_perm, layout.perm, layout.n_dims);
        attrs[n++] = ir_attr_ints(IR_ATTR_hf_shape, layout.shape, layout.n_shape);
    }
    ir_global_add(x->m, IR_GLOBAL_PARAM, name, type, attrs, n, xml_elem_span(e));
    return ir_build_get(&x->b, name);
}

void expand_param(Expander *x, const XmlElem *e)
{
    const char *name, *tie;
    if (!attr_text(x, e, "name", &name) || !attr_text(x, e, "tie", &tie))
        return;
    if (!is_param_name(name))
    {
        expand_error(x, attr_or_elem_span(e, "name"), NULL, "'%.60s' is not a name of letters, digits, '_' and '.'",
                     name);
        return;
    }
    const char *full = arena_printf(x->arena, "%s%s", x->frame->prefix, name);
    if (!tie && x->sharing && ir_global_find(x->m, full))
        tie = full;
    IrValue value = tie ? tied_param(x, e, tie) : new_param(x, e, full);
    Symbol *s = frame_add(x, name, SYM_VALUE, attr_or_elem_span(e, "name"));
    if (s)
        s->value = value;
}
