/* --synthetic: a job without its files. Every field that was read from one is random values of the range that its
 * format promises, so that the job can be planned, timed and tried before the data is there. */
#include "frontend/expand.h"

#include <math.h>
#include <string.h>

static bool is_part(const DataField *field, const char *part)
{
    return field->part && strcmp(field->part, part) == 0;
}

/* Tokens of a window of questions; 1: no field shows one. */
static int64_t window_length(const DataSpec *data)
{
    for (uint32_t i = 0; i < data->n_fields; i++)
        if (data->fields[i].format == DATA_SQUAD && data->fields[i].sample_type.rank == 1)
            return data->fields[i].sample_type.dims[0];
    return 1;
}

/* What pixels in 0..1 become. */
static void pixel_range(DataField *field)
{
    const DataImage *image = &field->image;
    field->low = INFINITY;
    field->high = -INFINITY;
    for (int c = 0; c < 3; c++)
    {
        field->low = fmin(field->low, -image->mean[c] / image->std[c]);
        field->high = fmax(field->high, (1 - image->mean[c]) / image->std[c]);
    }
}

static void find_range(DataField *field, int64_t length)
{
    field->low = 0;
    field->high = 1; /* whatever it is, these two are of it */
    if (is_part(field, "image") && field->sample_type.dtype == DT_F32)
        pixel_range(field);
    else if (is_part(field, "mask"))
        field->low = field->sample_type.dtype == DT_F32 ? 1 - 1e-6 : 1; /* no padding */
    else if (is_part(field, "first") || is_part(field, "last"))
        field->high = (double)(length - 1);
    else if (is_part(field, "documents"))
        field->high = 0; /* they ascend: one text */
    else if (field->n_classes > 0)
        field->high = (double)(field->n_classes - 1);
    else if (field->sample_type.dtype == DT_U8)
        field->high = 255;
}

void job_synthetic(Expander *x, int64_t n_samples)
{
    DataSpec *data = &x->job->data;
    const int64_t length = window_length(data);
    for (uint32_t i = 0; i < data->n_fields; i++)
    {
        DataField *field = &data->fields[i];
        if (field->format == DATA_SYNTHETIC)
            continue;
        find_range(field, length);
        field->format = DATA_SYNTHETIC;
        field->train_path = field->test_path = field->tokenizer = field->part = NULL;
        field->image = (DataImage){0};
    }
    data->train_limit = n_samples;
    data->test_limit = 0;
    data->n_buckets = 0; /* all texts are the longest */
    data->group_by_length = 0;
}
