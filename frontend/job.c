/* The job around the graph: --set, dimensions and <train>. */
#include "frontend/expand.h"

#include "base/strbuf.h"

#include <stdlib.h>
#include <string.h>

/* ---- --set */

static XmlElem *find_child(const XmlElem *parent, ElementId id, const char *name)
{
    for (XmlElem *e = parent->first; e; e = e->next)
    {
        const XmlAttr *attr = xml_attr(e, "name");
        if (e->id == id && (!name || (attr && strcmp(attr->value, name) == 0)))
            return e;
    }
    return NULL;
}

static void set_attr(Arena *arena, XmlElem *e, const char *name, const XmlAttr *value)
{
    for (uint32_t i = 0; i < e->n_attrs; i++)
        if (strcmp(e->attrs[i].name, name) == 0)
        {
            const XmlAttr *first = e->attrs[i].replaced;
            XmlAttr *before = ARENA_NEW(arena, XmlAttr);
            *before = e->attrs[i];
            e->attrs[i] = *value;
            e->attrs[i].replaced = first ? first : before;
            return;
        }
    XmlAttr *attrs = ARENA_ARRAY(arena, XmlAttr, e->n_attrs + 1);
    if (e->n_attrs)
        memcpy(attrs, e->attrs, sizeof *attrs * e->n_attrs);
    attrs[e->n_attrs++] = *value;
    e->attrs = attrs;
}

/* Elements whose attributes --set takes as "element.attribute". */
static bool is_settable(ElementId id)
{
    return id == EL_train || id == EL_data || id == EL_cluster || id == EL_freeze || id == EL_cache;
}

/* All paths that --set takes for this model. */
static void collect_paths(Arena *arena, const XmlElem *root, const char *const **out_paths, uint32_t *out_n)
{
    VEC(const char *) paths = {0};
    uint32_t n_attrs;
    const AttrInfo *attrs = element_attrs(&n_attrs);
    for (const XmlElem *e = root->first; e; e = e->next)
    {
        const XmlAttr *name = xml_attr(e, "name");
        if (e->id == EL_dim && name)
            vec_push(arena, &paths, name->value);
        for (uint32_t i = 0; i < n_attrs && is_settable(e->id); i++)
            if (element_has(e->id, &attrs[i]))
                vec_push(arena, &paths, arena_printf(arena, "%s.%s", e->name, attrs[i].name));
        for (const XmlElem *field = e->id == EL_data ? e->first : NULL; field; field = field->next)
            for (uint32_t i = 0; i < n_attrs; i++)
                if (element_has(EL_field, &attrs[i]) && xml_attr(field, "name"))
                    vec_push(arena, &paths,
                             arena_printf(arena, "data.%s.%s", xml_attr(field, "name")->value, attrs[i].name));
    }
    *out_paths = paths.data;
    *out_n = paths.len;
}

/* The element and the attribute that a path means; NULL when it means none. */
static XmlElem *find_target(Arena *arena, XmlElem *root, const char *path, const char **out_attr)
{
    const char *dot = strchr(path, '.');
    if (!dot)
    {
        *out_attr = "value";
        return find_child(root, EL_dim, path);
    }
    const char *head = arena_strndup(arena, path, (size_t)(dot - path));
    const char *last = strrchr(path, '.') + 1;
    const ElementId id = element_by_name(head);
    XmlElem *e = is_settable(id) ? find_child(root, id, NULL) : NULL;
    if (e && last != dot + 1)
        e = id != EL_data ? NULL : find_child(e, EL_field, arena_strndup(arena, dot + 1, (size_t)(last - dot - 2)));
    *out_attr = last;
    return e && element_attr(e->id, last) ? e : NULL;
}

void job_override(Arena *arena, Diag *diag, XmlElem *root, const FrontendOptions *options)
{
    if (!options->n_overrides)
        return;
    StrBuf buf = strbuf_make(arena);
    for (uint32_t i = 0; i < options->n_overrides; i++)
        strbuf_addf(&buf, "%s\n", options->overrides[i]);
    const Source *source = source_from_text(arena, diag, "--set", strbuf_text(&buf), buf.len);
    uint32_t at = 0;
    for (uint32_t i = 0; source && i < options->n_overrides; i++)
    {
        const char *text = options->overrides[i];
        uint32_t n = (uint32_t)strlen(text), n_path = (uint32_t)strcspn(text, "=");
        const char *path = arena_strndup(arena, text, n_path), *name;
        XmlElem *e = text[n_path] ? find_target(arena, root, path, &name) : NULL;
        if (e)
        {
            XmlAttr value = {.name = name,
                             .value = text + n_path + 1,
                             .source = source,
                             .name_at = at,
                             .value_at = at + n_path + 1,
                             .value_bytes = n - n_path - 1};
            set_attr(arena, e, name, &value);
        }
        else if (!text[n_path])
            diag_error(diag, source_span(source, at, n), "expected PATH=VALUE");
        else
        {
            const char *const *paths;
            uint32_t n_paths;
            collect_paths(arena, root, &paths, &n_paths);
            diag_error(diag, source_span(source, at, n_path), "the model has no '%s' to set", path);
            diag_suggest(diag, str_nearest(path, paths, n_paths));
        }
        at += n + 1;
    }
}

/* ---- dimensions */

void job_dims(Expander *x, const XmlElem *root)
{
    for (const XmlElem *e = root->first; e; e = e->next)
        if (e->id == EL_dim)
            expand_dim(x, e);
}

/* ---- training */

const XmlElem *job_sole_child(Expander *x, const XmlElem *root, ElementId id)
{
    const XmlElem *found = NULL;
    for (const XmlElem *e = root->first; e; e = e->next)
    {
        if (e->id == id && found)
        {
            expand_error(x, xml_elem_span(e), NULL, "<%s> is there twice", e->name);
            diag_note(x->diag, xml_elem_span(found), "it is here too");
        }
        else if (e->id == id)
            found = e;
    }
    return found;
}

const XmlElem *job_only_child(Expander *x, const XmlElem *root, ElementId id)
{
    const XmlElem *found = job_sole_child(x, root, id);
    if (!found)
        expand_error(x, xml_elem_span(root), NULL, "the model has no <%s>", element_info(id)->name);
    return found;
}

static void optimizer_attrs(Expander *x)
{
    const TrainSpec *t = &x->job->train;
    IrAttrs *attrs = &ir_func(x->m, x->b.func)->attrs;
    Arena *arena = x->arena;
    ir_attrs_put(arena, attrs, ir_attr_str(IR_ATTR_optimizer, t->optimizer));
    if (strcmp(t->optimizer, "sgd") == 0)
        ir_attrs_put(arena, attrs, ir_attr_float(IR_ATTR_momentum, t->momentum));
    else
    {
        ir_attrs_put(arena, attrs, ir_attr_float(IR_ATTR_beta1, t->beta1));
        ir_attrs_put(arena, attrs, ir_attr_float(IR_ATTR_beta2, t->beta2));
        ir_attrs_put(arena, attrs, ir_attr_float(IR_ATTR_eps, t->eps));
    }
    ir_attrs_put(arena, attrs, ir_attr_float(IR_ATTR_weight_decay, t->weight_decay));
    if (t->clip_norm > 0)
        ir_attrs_put(arena, attrs, ir_attr_float(IR_ATTR_clip_norm, t->clip_norm));
    if (strcmp(t->precision, "f32") != 0)
        ir_attrs_put(arena, attrs, ir_attr_str(IR_ATTR_precision, t->precision));
}

static TrainSchedule schedule_of(const char *text)
{
    return strcmp(text, "linear") == 0   ? SCHEDULE_LINEAR
           : strcmp(text, "cosine") == 0 ? SCHEDULE_COSINE
                                         : SCHEDULE_CONSTANT;
}

/* The rows of a micro-batch. */
static void split_batch(Expander *x, int64_t wanted)
{
    TrainSpec *t = &x->job->train;
    t->micro_batches = wanted ? wanted : x->job->cluster.micro_batches ? x->job->cluster.micro_batches : 1;
    if (t->micro_batches > t->batch)
    {
        expand_error(x, t->span, NULL, "a batch of %lld samples cannot be %lld micro-batches", (long long)t->batch,
                     (long long)t->micro_batches);
        t->micro_batches = 1;
    }
    t->rows = (t->batch + t->micro_batches - 1) / t->micro_batches;
}

void job_train(Expander *x, const XmlElem *root, int64_t micro_batches)
{
    const XmlElem *e = job_only_child(x, root, EL_train);
    TrainSpec *t = &x->job->train;
    const int64_t many = 1000000000, largest_batch = 1 << 20;
    int64_t batch = 1;
    bool ok = e != NULL;
    if (e)
    {
        const char *schedule = "constant";
        t->span = xml_elem_span(e);
        ok = attr_int(x, e, "batch", 1, largest_batch, &batch);
        batch = ok ? batch : 1;
        ok = attr_int(x, e, "epochs", 0, many, &t->epochs) && ok;
        ok = attr_int(x, e, "max_steps", 0, many, &t->max_steps) && ok;
        ok = attr_text(x, e, "optimizer", &t->optimizer) && ok;
        ok = attr_float(x, e, "lr", 0, 1e6, &t->lr) && ok;
        ok = attr_float(x, e, "min_lr", 0, 1e6, &t->min_lr) && ok;
        ok = attr_text(x, e, "schedule", &schedule) && ok;
        ok = attr_int(x, e, "warmup_steps", 0, many, &t->warmup_steps) && ok;
        ok = attr_float(x, e, "momentum", 0, 0.999999, &t->momentum) && ok;
        ok = attr_float(x, e, "beta1", 0, 0.999999, &t->beta1) && ok;
        ok = attr_float(x, e, "beta2", 0, 0.999999, &t->beta2) && ok;
        ok = attr_float(x, e, "eps", 1e-30, 1, &t->eps) && ok;
        ok = attr_float(x, e, "weight_decay", 0, 1e3, &t->weight_decay) && ok;
        ok = attr_float(x, e, "clip_norm", 0, 1e30, &t->clip_norm) && ok;
        ok = attr_text(x, e, "precision", &t->precision) && ok;
        ok = attr_int(x, e, "seed", 0, INT64_MAX, &t->seed) && ok;
        ok = attr_int(x, e, "eval_every", 0, many, &t->eval_every) && ok;
        ok = attr_int(x, e, "checkpoint_every", 0, many, &t->checkpoint_every) && ok;
        ok = attr_int(x, e, "log_every", 1, many, &t->log_every) && ok;
        t->schedule = ok ? schedule_of(schedule) : SCHEDULE_CONSTANT;
    }
    t->batch = batch;
    split_batch(x, micro_batches);
    Symbol *s = frame_find_here(x->root, "b", false);
    if (s)
        expand_error(x, s->span, NULL, "the name 'b' is taken: it is the batch");
    else
    {
        s = frame_add(x, "b", SYM_NUMBER, (Span){0});
        s->number = t->rows;
        s->is_dim = true;
    }
    if (ok)
        optimizer_attrs(x);
}

void expand_train(Expander *x, const XmlElem *e)
{
    (void)x, (void)e; /* job_train has read it */
}
