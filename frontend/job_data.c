/* <data>: its fields, their files, and whether they fit the inputs. */
#include "frontend/expand.h"

#include "base/strbuf.h"

#include <float.h>
#include <string.h>

enum
{
    MAX_FIELDS = 256
};

/* ---- which attributes go with which format */

enum
{
    OF_IDX = 1 << DATA_IDX,
    OF_SYNTHETIC = 1 << DATA_SYNTHETIC,
    OF_CIFAR = 1 << DATA_CIFAR,
    OF_IMAGES = 1 << DATA_IMAGES,
    OF_IMAGE = OF_CIFAR | OF_IMAGES,
    OF_TEXT = 1 << DATA_TEXT,
    OF_LABEL = 1 << DATA_LABEL,
    OF_NUMBER = 1 << DATA_NUMBER,
    OF_PACKED = 1 << DATA_PACKED,
    OF_SQUAD = 1 << DATA_SQUAD,
    OF_TOKENS = OF_TEXT | OF_PACKED | OF_SQUAD,
    OF_TABLE = OF_TEXT | OF_PACKED | OF_LABEL | OF_NUMBER,
    OF_FILE = OF_IDX | OF_IMAGE | OF_TABLE | OF_SQUAD,
    HAS_PARTS = OF_IMAGE | OF_TOKENS
};

static const char *const format_names[DATA_FORMAT_COUNT] = {
    [DATA_IDX] = "idx",       [DATA_SYNTHETIC] = "synthetic", [DATA_CIFAR] = "cifar",
    [DATA_IMAGES] = "images", [DATA_TEXT] = "text",           [DATA_LABEL] = "label",
    [DATA_NUMBER] = "number", [DATA_PACKED] = "packed",       [DATA_SQUAD] = "squad"};

static const struct
{
    const char *attr;
    uint32_t needed_by, allowed_for;
} field_rules[] = {{"train", OF_FILE, OF_FILE},
                   {"test", 0, OF_FILE},
                   {"classes", 0, OF_IDX | OF_SYNTHETIC | OF_IMAGE | OF_TOKENS | OF_LABEL},
                   {"low", 0, OF_IDX | OF_SYNTHETIC},
                   {"high", 0, OF_IDX | OF_SYNTHETIC},
                   {"table", 0, OF_IMAGES | OF_TABLE},
                   {"columns", OF_TABLE, OF_IMAGES | OF_TABLE},
                   {"tokenizer", OF_TOKENS, OF_TOKENS},
                   {"part", HAS_PARTS, HAS_PARTS},
                   {"resize", 0, OF_IMAGE},
                   {"crop", 0, OF_IMAGE},
                   {"pad", 0, OF_IMAGE},
                   {"flip", 0, OF_IMAGE},
                   {"mean", 0, OF_IMAGE},
                   {"std", 0, OF_IMAGE},
                   {"stride", 0, OF_SQUAD}};

static const struct
{
    const char *part;
    uint32_t allowed_for;
} part_rules[] = {{"ids", OF_TOKENS},       {"mask", OF_TOKENS}, {"types", OF_TEXT | OF_SQUAD}, {"targets", OF_PACKED},
                  {"documents", OF_PACKED}, {"image", OF_IMAGE}, {"label", OF_IMAGE},           {"coarse", OF_CIFAR},
                  {"first", OF_SQUAD},      {"last", OF_SQUAD}};

/* What the file says for a format that --set has replaced is of no use, and no fault. */
static void check_rules(Expander *x, const XmlElem *e, DataFormat format)
{
    const XmlAttr *named = xml_attr(e, "format");
    for (size_t i = 0; i < sizeof field_rules / sizeof field_rules[0]; i++)
    {
        const XmlAttr *attr = xml_attr(e, field_rules[i].attr);
        if (!attr && (field_rules[i].needed_by & 1u << format))
            expand_error(x, xml_elem_span(e), NULL, "attribute '%s' is missing on <field> (format %s)",
                         field_rules[i].attr, format_names[format]);
        if (attr && !(field_rules[i].allowed_for & 1u << format) && !(named->replaced && attr->source != named->source))
            expand_error(x, xml_attr_name_span(attr), NULL, "attribute '%s' does not go with format %s",
                         field_rules[i].attr, format_names[format]);
    }
}

static void check_part(Expander *x, const XmlElem *e, const DataField *field)
{
    for (size_t i = 0; field->part && i < sizeof part_rules / sizeof part_rules[0]; i++)
        if (strcmp(part_rules[i].part, field->part) == 0 && !(part_rules[i].allowed_for & 1u << field->format) &&
            (HAS_PARTS & 1u << field->format))
            expand_error(x, attr_or_elem_span(e, "part"), NULL, "format %s has no part '%s'",
                         format_names[field->format], field->part);
    if (field->format == DATA_IMAGES && xml_attr(e, "columns") && field->part && strcmp(field->part, "label") == 0)
        expand_error(x, attr_or_elem_span(e, "columns"), NULL,
                     "part label is of a folder; the labels of a table are a field of format label");
}

/* ---- fields */

static const char *field_path(Expander *x, const XmlElem *e, const char *name, const char *dir, Span *out_span)
{
    const char *text;
    const XmlAttr *attr = xml_attr(e, name);
    *out_span = attr_or_elem_span(e, name);
    if (!attr || !attr_text(x, e, name, &text))
        return NULL;
    if (!*text)
    {
        expand_error(x, *out_span, NULL, "attribute '%s' is empty", name);
        return NULL;
    }
    return source_join(x->arena, dir, text);
}

/* "question sentence": names between spaces, at most n_max. */
static void read_columns(Expander *x, const XmlElem *e, uint32_t n_max, DataField *field)
{
    const char *text;
    uint32_t n = 0;
    field->columns_span = attr_or_elem_span(e, "columns");
    if (!attr_text(x, e, "columns", &text) || !text)
        return;
    for (text += strspn(text, " "); *text; n++)
    {
        size_t n_bytes = strcspn(text, " ");
        if (n < n_max)
            field->columns[n] = arena_strndup(x->arena, text, n_bytes);
        text += n_bytes + strspn(text + n_bytes, " ");
    }
    if (n == 0 || n > n_max)
        expand_error(x, field->columns_span, NULL, "%u columns: format %s takes one%s", n, format_names[field->format],
                     n_max > 1 ? ", or two for a pair of texts" : "");
}

static void read_field(Expander *x, const XmlElem *e, DataField *field, const char *dir)
{
    const char *format;
    field->span = xml_elem_span(e);
    if (!attr_name(x, e, "name", &field->name) || !attr_text(x, e, "format", &format) ||
        !attr_int(x, e, "classes", 1, INT32_MAX, &field->n_classes) ||
        !attr_float(x, e, "low", -FLT_MAX, FLT_MAX, &field->low) ||
        !attr_float(x, e, "high", -FLT_MAX, FLT_MAX, &field->high) || !attr_text(x, e, "table", &field->table) ||
        !attr_text(x, e, "part", &field->part) || !attr_int(x, e, "stride", 0, INT32_MAX, &field->stride))
        return;
    while (field->format < DATA_FORMAT_COUNT - 1 && strcmp(format_names[field->format], format) != 0)
        field->format++;
    check_rules(x, e, field->format);
    field->train_path = field_path(x, e, "train", dir, &field->train_span);
    field->test_path = field_path(x, e, "test", dir, &field->test_span);
    field->tokenizer = field_path(x, e, "tokenizer", dir, &field->tokenizer_span);
    check_part(x, e, field);
    if (OF_IMAGE & 1u << field->format)
        job_image(x, e, field);
    if (xml_attr(e, "columns") && ((OF_TABLE | OF_IMAGES) & 1u << field->format))
        read_columns(x, e, field->format == DATA_TEXT ? 2 : 1, field);
    if (field->format == DATA_SYNTHETIC && field->low > field->high)
        expand_error(x, attr_or_elem_span(e, "low"), NULL, "low is %g, more than high, %g", field->low, field->high);
}

void job_data(Expander *x, const XmlElem *root, int64_t length)
{
    const XmlElem *e = job_only_child(x, root, EL_data);
    DataSpec *data = &x->job->data;
    if (!e)
        return;
    uint32_t n = 0;
    for (const XmlElem *field = e->first; field; field = field->next)
        n++;
    if (n > MAX_FIELDS)
    {
        expand_error(x, xml_elem_span(e), NULL, "more than %d fields", MAX_FIELDS);
        return;
    }
    data->fields = ARENA_ARRAY(x->arena, DataField, n + 1);
    data->span = xml_elem_span(e);
    attr_bool(x, e, "shuffle", &data->shuffle);
    attr_int(x, e, "train_limit", 0, INT64_MAX, &data->train_limit);
    attr_int(x, e, "test_limit", 0, INT64_MAX, &data->test_limit);
    attr_int(x, e, "group_by_length", 0, 1000000, &data->group_by_length);
    job_buckets(x, e, length);
    for (const XmlElem *field = e->first; field; field = field->next)
    {
        read_field(x, field, &data->fields[data->n_fields], root->source->dir);
        for (uint32_t i = 0; i < data->n_fields; i++)
            if (data->fields[i].name && strcmp(data->fields[i].name, xml_attr(field, "name")->value) == 0)
                expand_error(x, xml_attr_value_span(xml_attr(field, "name")), NULL, "the field '%s' is there twice",
                             data->fields[i].name);
        data->n_fields++;
        if (data->fields[data->n_fields - 1].format == DATA_SYNTHETIC && data->train_limit == 0)
            expand_error(x, xml_elem_span(e), NULL, "synthetic data needs train_limit: how many samples there are");
    }
}

/* The places of an answer's ends. */
static bool is_place(const DataField *field)
{
    return field->part && (strcmp(field->part, "first") == 0 || strcmp(field->part, "last") == 0);
}

/* A column of a table, a class or a part of a window fills one kind of input only. */
static void check_sample_type(Expander *x, const DataField *field)
{
    const IrType *have = &field->sample_type;
    if ((OF_IMAGE & 1u << field->format) && field->part && strcmp(field->part, "image") == 0)
    {
        job_image_check(x, field);
        return;
    }
    const bool mask = field->part && strcmp(field->part, "mask") == 0;
    const DType dtype = field->format == DATA_NUMBER || (mask && have->dtype == DT_F32) ? DT_F32 : DT_I32;
    const int rank = (OF_TOKENS & 1u << field->format) && !is_place(field) ? 1 : 0;
    if (!((OF_TABLE | OF_IMAGE | OF_SQUAD) & 1u << field->format) || (have->dtype == dtype && have->rank == rank))
        return;
    expand_error(x, field->span, NULL,
                 "a field of format %s fills an %s <input> of shape '%s'; each sample of '%s' is %s",
                 format_names[field->format], mask ? "f32 or i32" : dtype_name(dtype), rank ? "b t" : "b", field->name,
                 ir_type_text(x->arena, have));
}

static bool has_texts(const DataSpec *data)
{
    bool found = false;
    for (uint32_t i = 0; i < data->n_fields; i++)
        found = found || ((OF_TEXT | OF_SQUAD) & 1u << data->fields[i].format);
    return found;
}

/* What the answers are that a metric of kind span judges. */
static void check_spans(Expander *x)
{
    const DataSpec *data = &x->job->data;
    for (uint32_t i = 0; i < x->metrics.len; i++)
    {
        const JobMetric *metric = &x->metrics.data[i];
        int64_t length = 0;
        for (uint32_t k = 0; k < data->n_fields; k++)
            if (data->fields[k].format == DATA_SQUAD && data->fields[k].sample_type.rank == 1)
                length = data->fields[k].sample_type.dims[0];
        if (metric->kind != IR_METRIC_span)
            continue;
        if (length == 0)
            expand_error(x, metric->span, NULL, "a metric of kind span needs a field of format squad with token ids");
        else if (length != metric->n_tokens)
            expand_error(x, metric->span, NULL, "the scores are of %lld tokens, the windows of the questions have %lld",
                         (long long)metric->n_tokens, (long long)length);
    }
}

/* Fields and inputs are the same set; and the test split is there for all fields or for none. */
void job_check(Expander *x, const XmlElem *root)
{
    DataSpec *data = &x->job->data;
    uint32_t n_tests = 0;
    if (data->group_by_length && !has_texts(data))
        expand_error(x, data->span, NULL, "group_by_length, but no field has texts");
    for (uint32_t i = 0; i < data->n_fields; i++)
    {
        DataField *field = &data->fields[i];
        if (!field->name)
            continue;
        IrGlobal global = ir_global_find(x->m, arena_printf(x->arena, "batch.%s", field->name));
        if (!global)
        {
            if (!frame_find_here(x->root, field->name, true)) /* else the input was wrong, which is told already */
                expand_error(x, field->span, NULL, "there is no <input name=\"%s\"> for this field", field->name);
            continue;
        }
        const IrType *type = &ir_global(x->m, global)->type;
        field->sample_type = (IrType){.dtype = type->dtype};
        for (int k = 1; k < type->rank; k++)
            field->sample_type.dims[field->sample_type.rank++] = type->dims[k];
        check_sample_type(x, field);
        n_tests += field->test_path != NULL;
        if (n_tests && !field->test_path && field->format != DATA_SYNTHETIC)
            expand_error(x, field->span, NULL, "attribute 'test' is missing on <field>: another field has it");
    }
    for (const XmlElem *e = root->first; e; e = e->next)
    {
        const XmlAttr *name = e->id == EL_input ? xml_attr(e, "name") : NULL;
        bool found = !name;
        for (uint32_t i = 0; i < data->n_fields; i++)
            found = found || (data->fields[i].name && strcmp(data->fields[i].name, name->value) == 0);
        if (!found && data->span.file)
            expand_error(x, xml_attr_value_span(name), NULL, "there is no <field name=\"%s\"> in <data>", name->value);
    }
    check_spans(x);
}

void expand_data(Expander *x, const XmlElem *e)
{
    (void)x, (void)e; /* job_data has read it */
}

void expand_field(Expander *x, const XmlElem *e)
{
    (void)x, (void)e; /* job_data has read it */
}
