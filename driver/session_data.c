/* The data of a session: from the fields of its model to data sets, and whose fault a failure is. */
#include "driver/session.h"

#include "base/bug.h"

#include <string.h>

/* The classes of a label are the training split's. */
static const DatasetLabels *training_labels(const Session *s, const DataField *field)
{
    uint32_t found;
    return s->train && dataset_field_find(s->train, field->name, &found) ? dataset_labels(s->train, found) : NULL;
}

static ImageTransform transform_of(const DataImage *image)
{
    static const char *const crops[] = {[IMAGE_CROP_CENTER] = "center",
                                        [IMAGE_CROP_RANDOM] = "random",
                                        [IMAGE_CROP_RESIZED] = "resized",
                                        [IMAGE_CROP_NONE] = "none"};
    ImageTransform t = {.resize = (uint32_t)image->resize, .pad = (uint32_t)image->pad, .flip = image->flip};
    while (image->crop && strcmp(crops[t.crop], image->crop) != 0)
        t.crop++;
    for (int c = 0; c < 3; c++)
    {
        t.mean[c] = (float)image->mean[c];
        t.std[c] = (float)image->std[c];
    }
    return t;
}

static DatasetSource source_of(const Session *s, const DataField *field, bool test)
{
    static const char *const formats[DATA_FORMAT_COUNT] = {
        [DATA_IDX] = "idx",       [DATA_SYNTHETIC] = "synthetic", [DATA_CIFAR] = "cifar",
        [DATA_IMAGES] = "images", [DATA_TEXT] = "text",           [DATA_LABEL] = "label",
        [DATA_NUMBER] = "number", [DATA_PACKED] = "packed",       [DATA_SQUAD] = "squad"};
    const DataSpec *data = &s->job->data;
    int64_t limit = test ? data->test_limit : data->train_limit;
    DatasetSource source = {.field = field->name,
                            .format = formats[field->format],
                            .path = test ? field->test_path : field->train_path,
                            .rank = field->sample_type.rank,
                            .n_samples = (uint64_t)limit,
                            .seed = (uint64_t)s->job->train.seed + (test ? 1 : 0),
                            .low = field->low,
                            .high = field->high,
                            .image = transform_of(&field->image),
                            .table = field->table,
                            .columns = {field->columns[0], field->columns[1]},
                            .tokenizer = field->tokenizer,
                            .part = field->part,
                            .stride = (uint32_t)field->stride,
                            .n_classes = field->n_classes,
                            .labels = test ? training_labels(s, field) : NULL};
    if (!elem_by_name(dtype_name((DType)field->sample_type.dtype), &source.elem))
        BUG("no storage for %s", dtype_name((DType)field->sample_type.dtype));
    memcpy(source.dims, field->sample_type.dims, sizeof source.dims);
    return source;
}

/* Does the last failure's message hold "WHAT'name'"? */
static bool names(const Session *s, const char *what, const char *name)
{
    return name && strstr(status_detail(), arena_printf(s->arena, "%s'%s'", what, name));
}

/* The field that a failure is about: the one whose path the message names, and of those the one whose column or name it
 * names; else the one whose tokenizer it names. False when there is none; then it is the whole <data>. */
static bool blame(const Session *s, bool test, Span *out_span)
{
    const DataSpec *data = &s->job->data;
    int best = 0;
    *out_span = data->span;
    for (uint32_t i = 0; i < data->n_fields; i++)
    {
        const DataField *field = &data->fields[i];
        const char *path = test ? field->test_path : field->train_path;
        int weight = 0;
        if (path && strstr(status_detail(), path))
            weight = names(s, "column ", field->columns[0]) || names(s, "column ", field->columns[1]) ? 4
                     : names(s, "", field->name)                                                      ? 3
                                                                                                      : 2;
        else if (field->tokenizer && strstr(status_detail(), field->tokenizer))
            weight = 1;
        if (weight <= best)
            continue;
        best = weight;
        *out_span = weight == 4   ? field->columns_span
                    : weight == 1 ? field->tokenizer_span
                    : test        ? field->test_span
                                  : field->train_span;
    }
    return best > 0;
}

static void tell_data(Session *s, bool test)
{
    Span span;
    blame(s, test, &span);
    diag_error(s->diag, span, "%s", status_detail());
}

static Status open_split(Session *s, bool test, Dataset **out_dataset)
{
    const DataSpec *data = &s->job->data;
    DatasetSource *sources = ARENA_ARRAY(s->arena, DatasetSource, data->n_fields);
    for (uint32_t i = 0; i < data->n_fields; i++)
    {
        const DataField *field = &data->fields[i];
        bool there = field->format == DATA_SYNTHETIC ? (test ? data->test_limit : data->train_limit) > 0
                                                     : (test ? field->test_path : field->train_path) != NULL;
        if (!there)
            return STATUS_OK;
        sources[i] = source_of(s, field, test);
    }
    if (data->n_fields == 0)
        return STATUS_OK;
    Status status = dataset_open(sources, data->n_fields, out_dataset);
    for (uint32_t i = 0; status == STATUS_OK && i < data->n_fields; i++)
    {
        uint32_t field;
        const DataField *spec = &data->fields[i];
        const bool any_value = spec->format == DATA_IDX || spec->format == DATA_SYNTHETIC; /* others keep to it */
        if (spec->n_classes > 0 && any_value && dataset_field_find(*out_dataset, spec->name, &field))
            status = dataset_check_range(*out_dataset, field, 0, (double)spec->n_classes - 1);
        const IrType *type = &spec->sample_type;
        Elem elem = ELEM_F32;
        if (status == STATUS_OK && elem_by_name(dtype_name((DType)type->dtype), &elem) &&
            dataset_field_find(*out_dataset, spec->name, &field))
            status = dataset_check_slot(*out_dataset, field, elem, type->rank, type->dims);
    }
    if (status == STATUS_BAD_INPUT)
        tell_data(s, test);
    return status;
}

Status session_open_data(Session *s)
{
    Status status = open_split(s, false, &s->train);
    Status second = open_split(s, true, &s->test);
    if (diag_error_count(s->diag) > 0)
        session_print_diag(s, &status);
    return status != STATUS_OK ? status : second;
}

Status session_labels(Session *s, const char *field, const DatasetLabels **out_labels)
{
    const DataSpec *data = &s->job->data;
    uint32_t found = 0;
    *out_labels = NULL;
    for (uint32_t i = 0; i < data->n_fields; i++)
    {
        const DataField *candidate = &data->fields[i];
        const bool classes = candidate->format == DATA_LABEL ||
                             (candidate->format == DATA_IMAGES && strcmp(candidate->part, "label") == 0);
        if (strcmp(candidate->name, field) != 0 || !classes)
            continue;
        if (!s->train && !s->labels)
        {
            const DatasetSource source = source_of(s, candidate, false);
            TRY(dataset_open(&source, 1, &s->labels));
        }
        const Dataset *dataset = s->train ? s->train : s->labels;
        *out_labels = dataset_field_find(dataset, field, &found) ? dataset_labels(dataset, found) : NULL;
    }
    return STATUS_OK;
}

Status session_verify_data(Session *s)
{
    Status status = STATUS_OK;
    for (int test = 0; test < 2 && status == STATUS_OK; test++)
    {
        const Dataset *dataset = test ? s->test : s->train;
        status = dataset ? dataset_verify(dataset) : STATUS_OK;
        if (status == STATUS_BAD_INPUT)
            tell_data(s, test);
    }
    if (diag_error_count(s->diag) > 0)
        session_print_diag(s, &status);
    return status;
}

Status session_tell_sample(Session *s, Status status)
{
    Span span;
    if (status != STATUS_BAD_INPUT || s->ranks.comm.world || !(blame(s, false, &span) || blame(s, true, &span)))
        return status;
    diag_error(s->diag, span, "%s", status_detail());
    session_print_diag(s, &status);
    return status;
}
