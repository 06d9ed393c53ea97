/* config.json: a source, and on it what the model says. jansson's trees are freed here. */
#include "driver/hf_config.h"

#include "base/bug.h"
#include "runtime/durable_file.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* ---- a key "a.b" */

static json_t *find_name(json_t *object, const char *name)
{
    while (object && *name)
    {
        const size_t n = strcspn(name, ".");
        object = json_object_getn(object, name, n);
        name += n + (name[n] == '.');
    }
    return object;
}

/* Objects on the way are made. */
static void set_name(json_t *object, const char *name, json_t *value)
{
    const char *last = strrchr(name, '.');
    while (last && name < last)
    {
        const size_t n = strcspn(name, ".");
        json_t *inner = json_object_getn(object, name, n);
        if (!json_is_object(inner))
            json_object_setn_new(object, name, n, inner = json_object());
        object = inner;
        name += n + 1;
    }
    json_object_set_new(object, name, value);
}

/* Under the name that the source has for it, else the first. */
static void set_value(json_t *config, const HfValue *value)
{
    const char *name = value->names[0];
    for (uint32_t i = value->n_names; i-- > 0;)
        if (find_name(config, value->names[i]))
            name = value->names[i];
    json_t *json = json_loads(value->json, JSON_DECODE_ANY, NULL);
    ENSURE(json);
    set_name(config, name, json);
}

/* ---- classes */

static void set_classes(json_t *config, int64_t n_classes, const DatasetLabels *labels)
{
    const bool named = labels && labels->names;
    json_t *old = json_object_get(config, "id2label");
    json_object_del(config, "num_labels");
    if (!named && json_object_size(old) == (size_t)n_classes)
        return; /* numbers here are the classes of the source */
    json_t *id2label = json_object(), *label2id = json_object();
    for (int64_t i = 0; i < n_classes; i++)
    {
        char id[24], name[32];
        snprintf(id, sizeof id, "%lld", (long long)i);
        snprintf(name, sizeof name, "LABEL_%lld", (long long)i);
        const char *label = named ? labels->names[i] : name;
        json_object_set_new(id2label, id, json_string(label));
        json_object_set_new(label2id, label, json_integer(i));
    }
    json_object_set_new(config, "id2label", id2label);
    json_object_set_new(config, "label2id", label2id);
}

/* The names come with the training split. */
static Status read_classes(Session *s, json_t *config)
{
    const HfSpec *hf = &s->job->hf;
    const DatasetLabels *labels = NULL;
    if (!hf->n_classes)
        return STATUS_OK;
    if (hf->labels)
        TRY(session_labels(s, hf->labels, &labels));
    if (labels && labels->n_labels != hf->n_classes)
        return status_fail(STATUS_BAD_INPUT, "<hf> has %lld classes, the field '%s' %u", (long long)hf->n_classes,
                           hf->labels, labels->n_labels);
    set_classes(config, hf->n_classes, labels);
    return STATUS_OK;
}

/* ---- the whole */

static Status build(Session *s, json_t *config, const char **out_text)
{
    const HfSpec *hf = &s->job->hf;
    if (hf->class_name)
        json_object_set_new(config, "architectures", json_pack("[s]", hf->class_name));
    for (uint32_t i = 0; i < hf->n_values; i++)
        set_value(config, &hf->values[i]);
    TRY(read_classes(s, config));
    json_object_del(config, "torch_dtype");
    json_object_set_new(config, "dtype", json_string("float32"));
    /* 15 digits are all that a number of a config.json has */
    char *text = json_dumps(config, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    if (!text)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for config.json");
    *out_text = arena_printf(s->arena, "%s\n", text);
    free(text);
    return STATUS_OK;
}

Status hf_config_text(Session *s, const char **out_text)
{
    const HfSpec *hf = &s->job->hf;
    json_error_t error;
    *out_text = NULL;
    if (!hf->class_name && !hf->n_values)
        return STATUS_OK;
    json_t *config = hf->config ? json_load_file(hf->config, 0, &error) : json_object();
    if (!json_is_object(config))
        return status_fail(STATUS_BAD_INPUT, "'%s' is no JSON object any more", hf->config);
    Status status = build(s, config, out_text);
    json_decref(config);
    return status;
}

Status hf_config_keep(Session *s)
{
    const char *text = NULL;
    if (!s->options->out_dir || s->ranks.rank != 0)
        return STATUS_OK;
    TRY(hf_config_text(s, &text));
    return text ? durable_file_put(arena_printf(s->arena, "%s/config.json", s->options->out_dir), text, strlen(text),
                                   NULL)
                : STATUS_OK;
}
