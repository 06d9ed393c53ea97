/* Layers, and how groups of params are trained: <train layer_decay>, <group>. */
#include "frontend/expand.h"

#include <math.h>
#include <string.h>

/* `*` stands for any text. */
static bool matches(const char *pattern, const char *pattern_end, const char *name)
{
    for (; pattern < pattern_end && *pattern != '*'; pattern++, name++)
        if (*pattern != *name)
            return false;
    if (pattern == pattern_end)
        return !*name;
    do
        if (matches(pattern + 1, pattern_end, name))
            return true;
    while (*name++);
    return false;
}

static int64_t layer_of(const Expander *x, int64_t unit)
{
    if (unit >= x->layers_end)
        return x->layers.len + 1;
    int64_t layer = 0;
    while (layer < x->layers.len && x->layers.data[layer] <= unit)
        layer++;
    return layer;
}

/* The first unit of every layer is known: which layer is a param in? */
static void set_layers(Expander *x)
{
    if (!x->layers.len)
        return;
    vec_push(x->arena, &x->layers, x->layers_end);
    x->layers.len--;
    ir_attrs_put(x->arena, &ir_func(x->m, x->b.func)->attrs,
                 ir_attr_ints(IR_ATTR_layers, x->layers.data, x->layers.len + 1));
    x->job->layers = x->layers.data;
    x->job->n_layers = x->layers.len;
    for (IrGlobal g = 1; g < x->m->globals.len; g++)
    {
        IrGlobalData *global = ir_global(x->m, g);
        if (global->kind == IR_GLOBAL_PARAM)
            ir_attrs_put(x->arena, &global->attrs,
                         ir_attr_int(IR_ATTR_layer, layer_of(x, ir_attrs_int(&global->attrs, IR_ATTR_unit, 1))));
    }
}

/* As in BEiT (Bao et al., 2022): what is behind the last layer learns at the full rate, each layer at layer_decay times
 * the rate of what is behind it. */
static double layer_scale(const Expander *x, double layer_decay, const IrGlobalData *param)
{
    const int64_t layer = ir_attrs_int(&param->attrs, IR_ATTR_layer, 0);
    return pow(layer_decay, (double)(x->layers.len + 1 - layer));
}

static bool decay_layers(Expander *x, const XmlElem *train, double *out_layer_decay)
{
    if (!attr_float(x, train, "layer_decay", 0, 1, out_layer_decay))
        return false;
    if (*out_layer_decay == 1)
        return true;
    if (!x->layers.len)
    {
        expand_error(x, attr_or_elem_span(train, "layer_decay"), NULL,
                     "the model has no layers: rounds of a <repeat> with a <unit> in them");
        return false;
    }
    for (IrGlobal g = 1; g < x->m->globals.len; g++)
    {
        IrGlobalData *param = ir_global(x->m, g);
        if (param->kind == IR_GLOBAL_PARAM)
            ir_attrs_put(x->arena, &param->attrs,
                         ir_attr_float(IR_ATTR_lr_scale, layer_scale(x, *out_layer_decay, param)));
    }
    return true;
}

typedef struct
{
    bool has_lr, has_weight_decay, has_decay, has_frozen;
    double lr, weight_decay;
    bool decay, frozen;
} Group;

static bool read_group(Expander *x, const XmlElem *e, Group *out)
{
    *out = (Group){.has_lr = xml_attr(e, "lr") != NULL,
                   .has_weight_decay = xml_attr(e, "weight_decay") != NULL,
                   .has_decay = xml_attr(e, "decay") != NULL,
                   .has_frozen = xml_attr(e, "frozen") != NULL};
    bool ok = !out->has_lr || attr_float(x, e, "lr", 0, 1e6, &out->lr);
    ok = (!out->has_weight_decay || attr_float(x, e, "weight_decay", 0, 1e3, &out->weight_decay)) && ok;
    return attr_bool(x, e, "decay", &out->decay) && attr_bool(x, e, "frozen", &out->frozen) && ok;
}

static void apply_group(Expander *x, IrGlobalData *param, const Group *group, double layer_decay)
{
    if (group->has_lr)
        ir_attrs_put(x->arena, &param->attrs,
                     ir_attr_float(IR_ATTR_lr_scale, group->lr * layer_scale(x, layer_decay, param)));
    if (group->has_weight_decay)
        ir_attrs_put(x->arena, &param->attrs, ir_attr_float(IR_ATTR_weight_decay, group->weight_decay));
    if (group->has_decay)
        ir_attrs_put(x->arena, &param->attrs, ir_attr_bool(IR_ATTR_decay, group->decay));
    if (group->has_frozen)
        ir_attrs_put(x->arena, &param->attrs, ir_attr_bool(IR_ATTR_trainable, !group->frozen));
}

static void no_param_matches(Expander *x, const XmlElem *e, const char *pattern)
{
    VEC(const char *) names = {0};
    for (IrGlobal g = 1; g < x->m->globals.len; g++)
        if (ir_global(x->m, g)->kind == IR_GLOBAL_PARAM)
            vec_push(x->arena, &names, ir_global(x->m, g)->name);
    expand_error(x, attr_or_elem_span(e, "match"), str_nearest(pattern, names.data, names.len),
                 "no param's name matches '%s'", pattern);
}

static void read_and_apply(Expander *x, const XmlElem *e, double layer_decay)
{
    const char *match;
    Group group;
    if (!attr_text(x, e, "match", &match) || !read_group(x, e, &group))
        return;
    bool any = false;
    for (const char *at = match + strspn(match, " \t\n"), *end; *at; at = end + strspn(end, " \t\n"))
    {
        uint32_t n = 0;
        end = at + strcspn(at, " \t\n");
        for (IrGlobal g = 1; g < x->m->globals.len; g++)
            if (ir_global(x->m, g)->kind == IR_GLOBAL_PARAM && matches(at, end, ir_global(x->m, g)->name))
            {
                apply_group(x, ir_global(x->m, g), &group, layer_decay);
                n++;
            }
        if (n == 0)
            no_param_matches(x, e, arena_strndup(x->arena, at, (size_t)(end - at)));
        any = true;
    }
    if (!any)
        expand_error(x, attr_or_elem_span(e, "match"), NULL,
                     "match is empty: expected names of params, as in 'head.*'");
}

void job_groups(Expander *x, const XmlElem *root)
{
    if (x->gave_up)
        return;
    set_layers(x);
    for (const XmlElem *train = root->first; train; train = train->next)
    {
        if (train->id != EL_train)
            continue;
        double layer_decay;
        if (!decay_layers(x, train, &layer_decay))
            return;
        for (const XmlElem *e = train->first; e; e = e->next)
            read_and_apply(x, e, layer_decay);
    }
    uint32_t n_params = 0, n_trainable = 0;
    for (IrGlobal g = 1; g < x->m->globals.len; g++)
        if (ir_global(x->m, g)->kind == IR_GLOBAL_PARAM)
        {
            n_params++;
            n_trainable += ir_attrs_bool(&ir_global(x->m, g)->attrs, IR_ATTR_trainable);
        }
    if (n_params && !n_trainable)
        expand_error(x, x->job->train.span, NULL, "all %u params are frozen: nothing is left to train", n_params);
}

void expand_group(Expander *x, const XmlElem *e)
{
    (void)x, (void)e; /* job_groups has read it */
}
