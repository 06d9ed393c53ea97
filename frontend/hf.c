/* config.json into dims, <hf> against config.json. jansson allocates the tree of config.json; hf_close frees it. */
#include "frontend/hf.h"

#include "base/strbuf.h"
#include "frontend/arith.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const int64_t MAX_CONFIG_BYTES = 16 << 20;

/* ---- reading */

static void open_config(Expander *x, const char *path)
{
    struct stat info;
    json_error_t error;
    FILE *file = NULL;
    if (stat(path, &info) != 0 || !(file = fopen(path, "rb")))
        expand_error(x, x->weights_span, NULL, "cannot read '%s': %s", path, strerror(errno));
    else if (!S_ISREG(info.st_mode) || info.st_size > MAX_CONFIG_BYTES)
        expand_error(x, x->weights_span, NULL, "'%s' is no file of at most %lld bytes", path,
                     (long long)MAX_CONFIG_BYTES);
    else if (!(x->config = json_loadf(file, JSON_REJECT_DUPLICATES, &error)))
        expand_error(x, x->weights_span, NULL, "%s:%d:%d: %s", path, error.line, error.column, error.text);
    else if (!json_is_object(x->config))
    {
        expand_error(x, x->weights_span, NULL, "'%s' is no JSON object", path);
        json_decref(x->config);
        x->config = NULL;
    }
    if (file)
        fclose(file);
    x->job->hf.config = path;
}

void hf_open(Expander *x, const XmlElem *root, const FrontendOptions *options)
{
    TrainSpec *train = &x->job->train;
    const char *init = NULL, *text = NULL;
    struct stat info;
    for (const XmlElem *e = root->first; e; e = e->next)
        if (e->id == EL_train && attr_text(x, e, "weights", &text) && attr_text(x, e, "init", &init) && text &&
            !options->weights)
        {
            x->weights_span = attr_or_elem_span(e, "weights");
            train->weights = source_join(x->arena, root->source->dir, text);
            if (stat(train->weights, &info) == 0)
                continue;
            if (options->may_lack_weights || options->synthetic)
                train->weights = NULL;
            else
                expand_error(x, x->weights_span, NULL, "cannot open '%s': %s", train->weights, strerror(errno));
        }
    if (options->weights)
        train->weights = options->weights;
    if (options->init)
        init = options->init;
    train->weights_partial = init && strcmp(init, "partial") == 0;
    const char *path = train->weights ? arena_printf(x->arena, "%s/config.json", train->weights) : NULL;
    if (options->config)
        open_config(x, options->config);
    else if (path && stat(path, &info) == 0)
        open_config(x, path);
}

void hf_close(Expander *x)
{
    json_decref(x->config);
}

/* ---- keys */

enum
{
    MAX_KEYS = 4
};

/* "rope_parameters.rope_theta rope_theta?": names for one thing, the first of them is the current one; with `?` at the
 * end the config may lack it. */
typedef struct
{
    const char *names[MAX_KEYS];
    uint32_t n;
    bool optional;
} Key;

static bool read_key(Expander *x, Span span, const char *text, Key *out_key)
{
    size_t length = strlen(text);
    *out_key = (Key){.optional = length > 0 && text[length - 1] == '?'};
    length -= out_key->optional;
    for (const char *at = text, *end = text + length; at < end; at += strspn(at, " "))
    {
        const size_t n = strcspn(at, " ?");
        if (n == 0 || out_key->n == MAX_KEYS)
            break;
        out_key->names[out_key->n++] = arena_strndup(x->arena, at, n);
        at += n;
        if (at >= end)
            return true;
    }
    expand_error(x, span, NULL,
                 "'%s': expected names of config.json, at most %d, and '?' at the end if it may lack them", text,
                 MAX_KEYS);
    return false;
}

static json_t *find_name(json_t *object, const char *name)
{
    char part[128];
    for (; object; name += strcspn(name, ".") + 1)
    {
        const size_t n = strcspn(name, ".");
        snprintf(part, sizeof part, "%.*s", (int)n, name);
        object = json_object_get(object, part);
        if (!name[n])
            return object;
    }
    return NULL;
}

/* NULL when the config has none of the names, or null. */
static json_t *find_key(const Expander *x, const Key *key, const char **out_name)
{
    for (uint32_t i = 0; i < key->n; i++)
    {
        json_t *value = find_name(x->config, *out_name = key->names[i]);
        if (value && !json_is_null(value))
            return value;
    }
    *out_name = key->names[0];
    return NULL;
}

static const char *json_text(Expander *x, const json_t *value)
{
    if (json_is_real(value))
        return arith_real_text(x->arena, json_real_value(value));
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    const char *copy = arena_printf(x->arena, "%.60s", text ? text : "?");
    free(text);
    return copy;
}

/* What an export writes; twice the same is a mistake. */
static void add_value(Expander *x, Span span, const Key *key, const char *json)
{
    for (uint32_t i = 0; i < x->hf_values.len; i++)
        if (strcmp(x->hf_values.data[i].names[0], key->names[0]) == 0)
        {
            expand_error(x, span, NULL, "'%s' is there already", key->names[0]);
            return;
        }
    HfValue value = {.names = ARENA_ARRAY(x->arena, const char *, key->n), .n_names = key->n, .json = json};
    memcpy(value.names, key->names, sizeof *key->names * key->n);
    vec_push(x->arena, &x->hf_values, value);
}

/* ---- dims */

typedef enum
{
    DIM_WHOLE,
    DIM_REAL,
    DIM_FLAG
} DimKind;

static const char *const dim_kinds[] = {"a whole number", "a number", "true or false"};

static DimKind kind_of(const char *text)
{
    const ArithValue value = arith_from_text(text);
    return value.kind == ARITH_WHOLE ? DIM_WHOLE : value.kind == ARITH_REAL ? DIM_REAL : DIM_FLAG;
}

/* The text of a dim of that kind; NULL when the value is of another. */
static const char *dim_from_json(Expander *x, DimKind kind, const json_t *value)
{
    if (kind == DIM_WHOLE && json_is_integer(value))
        return arena_printf(x->arena, "%lld", (long long)json_integer_value(value));
    if (kind == DIM_REAL && json_is_number(value))
        return arith_real_text(x->arena, json_number_value(value));
    if (kind == DIM_FLAG && json_is_boolean(value))
        return json_is_true(value) ? "true" : "false";
    return NULL;
}

static bool dim_from_config(Expander *x, const XmlElem *e, const Key *key, const char *name, DimKind kind,
                            const char **text)
{
    const char *used;
    const json_t *value = find_key(x, key, &used);
    if (!value && !key->optional)
        expand_error(x, attr_or_elem_span(e, "hf"), NULL, "'%s' has no '%s' (--set=%s=%s keeps the model's value)",
                     x->job->hf.config, used, name, *text);
    if (!value)
        return key->optional;
    const char *there = dim_from_json(x, kind, value);
    if (!there)
    {
        expand_error(x, attr_or_elem_span(e, "hf"), NULL, "'%s' of '%s' is %s, expected %s", used, x->job->hf.config,
                     json_text(x, value), dim_kinds[kind]);
        return false;
    }
    if (strcmp(there, *text) != 0)
    {
        const char *before = x->job->hf.dims;
        x->job->hf.dims =
            arena_printf(x->arena, "%s%s%s=%s (%s)", before ? before : "", before ? ", " : "", name, there, *text);
    }
    *text = there;
    return true;
}

/* A real number is written as one, whatever --set says: config.json tells 0 from 0.0. */
static bool keep_kind(Expander *x, const XmlElem *e, DimKind declared, const char **text)
{
    const DimKind kind = kind_of(*text);
    if (declared == DIM_REAL && kind != DIM_FLAG)
        *text = arith_real_text(x->arena, strtod(*text, NULL));
    else if (kind != declared)
    {
        expand_error(x, attr_or_elem_span(e, "value"), NULL, "a dimension of '%s': the model wants %s", *text,
                     dim_kinds[declared]);
        return false;
    }
    return true;
}

bool hf_dim(Expander *x, const XmlElem *e, const char *name, bool given, const char **text)
{
    const XmlAttr *value = xml_attr(e, "value");
    const char *hf, *declared = *text;
    Key key;
    if (!attr_text(x, e, "hf", &hf) || (given && !substitute(x, value->replaced, value->replaced->value, 0, &declared)))
        return false;
    const DimKind kind = kind_of(declared);
    if (!keep_kind(x, e, kind, text) || !hf)
        return !hf;
    if (!read_key(x, attr_or_elem_span(e, "hf"), hf, &key))
        return false;
    if (x->config && !given && !dim_from_config(x, e, &key, name, kind, text))
        return false;
    add_value(x, attr_or_elem_span(e, "hf"), &key, *text);
    return true;
}

/* ---- <hf> */

/* The first of "gelu|gelu_python" as JSON; true in *out_is when the value is one of them. */
static const char *constant_json(Expander *x, const char *text, const json_t *value, bool *out_is)
{
    const char *first = NULL;
    *out_is = false;
    for (const char *at = text;; at++)
    {
        const size_t n = strcspn(at, "|");
        const char *word = arena_strndup(x->arena, at, n);
        json_t *constant = json_loads(word, JSON_DECODE_ANY, NULL);
        if (!constant)
            constant = json_string(word);
        const bool numbers = json_is_number(value) && json_is_number(constant);
        *out_is = *out_is || (numbers ? json_number_value(value) == json_number_value(constant)
                                      : value && json_equal(value, constant));
        if (!first)
            first = json_text(x, constant);
        json_decref(constant);
        at += n;
        if (!*at)
            return first;
    }
}

static void read_constant(Expander *x, const XmlElem *e, const char *name, const char *text, Span span)
{
    Key key;
    const char *used;
    bool same;
    if (!read_key(x, span, name, &key))
        return;
    const json_t *value = find_key(x, &key, &used);
    const char *json = constant_json(x, text, value, &same);
    if (value && !same)
        expand_error(x, span, NULL, "'%s' says that '%s' is %s: this model is another (%s)", x->job->hf.config, used,
                     json_text(x, value), json);
    else if (!key.optional) /* what a config may lack is only looked at */
        add_value(x, xml_elem_span(e), &key, json);
}

void expand_hf(Expander *x, const XmlElem *e)
{
    HfSpec *hf = &x->job->hf;
    const char *class_name, *model;
    for (const Frame *frame = x->frame; frame; frame = frame->up)
        if (frame->is_block || frame->caller)
        {
            expand_error(x, xml_elem_span(e), NULL, "<hf> is about the whole model: it cannot stand in a block");
            return;
        }
    hf->span = xml_elem_span(e);
    if (!attr_text(x, e, "class", &class_name) || !attr_text(x, e, "model", &model) ||
        !attr_int(x, e, "classes", 1, INT32_MAX, &hf->n_classes))
        return;
    if (xml_attr(e, "labels") && attr_name(x, e, "labels", &hf->labels))
        x->labels_span = attr_or_elem_span(e, "labels");
    if (class_name && hf->class_name)
        expand_error(x, attr_or_elem_span(e, "class"), NULL, "the class is '%s' already", hf->class_name);
    hf->class_name = class_name ? class_name : hf->class_name;
    hf->model_type = model ? model : hf->model_type;
    if (model)
        read_constant(x, e, "model_type", model, attr_or_elem_span(e, "model"));
    for (const XmlElem *child = e->first; child; child = child->next)
    {
        const char *name, *value;
        if (attr_text(x, child, "name", &name) && attr_text(x, child, "value", &value))
            read_constant(x, child, name, value, attr_or_elem_span(child, "value"));
    }
}

void expand_config(Expander *x, const XmlElem *e)
{
    (void)x, (void)e; /* expand_hf has read it */
}

void hf_check(Expander *x)
{
    HfSpec *hf = &x->job->hf;
    const DataSpec *data = &x->job->data;
    bool has_field = !hf->labels;
    for (uint32_t i = 0; i < data->n_fields; i++)
        has_field = has_field || (data->fields[i].name && strcmp(data->fields[i].name, hf->labels) == 0);
    if (!has_field)
        expand_error(x, x->labels_span, NULL, "there is no <field name=\"%s\"> in <data>", hf->labels);
    if (hf->span.file && (!hf->model_type || !hf->class_name))
        expand_error(x, hf->span, NULL, "attribute '%s' is missing on <hf>", hf->model_type ? "class" : "model");
    hf->values = x->hf_values.data;
    hf->n_values = x->hf_values.len;
}
