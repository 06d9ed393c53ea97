/* Resampling: two passes of weighted sums, along rows and then along columns, through 8 bits, with weights of 22 bits.
 * Only the pixels that are taken are made, from the rows that they need. */
#include "runtime/image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum
{
    WEIGHT_BITS = 22
};

/* The source pixels of one result: n from `first` on; none outside of the scaled image. */
typedef struct
{
    uint32_t first, n;
    int32_t *weights;
} Taps;

typedef struct
{
    Taps *taps; /* one for each pixel that is taken */
    int32_t *weights;
    uint32_t first, end; /* source pixels that some tap needs */
} Filter;

static void free_filter(Filter *filter)
{
    free(filter->taps);
    free(filter->weights);
}

static double triangle(double x, double support)
{
    return fmax(0, 1 - fabs(x * (1 / support)));
}

/* The triangle over pixel `at` of the scaled image, as wide as two pixels of it, but not less than two of the source.
 * Weights beyond the ends of the extent go to the pixels inside. */
static void set_taps(const ImageAxis *axis, uint32_t at, Taps *taps)
{
    const double scale = axis->extent / axis->size, support = fmax(scale, 1), base = floor(axis->start);
    const double center = axis->start - base + (at + 0.5) * scale;
    const int64_t n_source = (int64_t)(ceil(axis->start + axis->extent) - base);
    int64_t first = (int64_t)(center - support + 0.5), end = (int64_t)(center + support + 0.5);
    first = first > 0 ? first : 0;
    end = end < n_source ? end : n_source;
    double sum = 0;
    for (int64_t i = first; i < end; i++)
        sum += triangle((double)i - center + 0.5, support);
    for (int64_t i = first; i < end; i++)
    {
        const double weight = triangle((double)i - center + 0.5, support) / sum;
        taps->weights[i - first] = (int32_t)(0.5 + weight * (1 << WEIGHT_BITS));
    }
    while (end > first + 1 && taps->weights[end - first - 1] == 0)
        end--;
    taps->first = (uint32_t)(base + (double)first);
    taps->n = (uint32_t)(end - first);
}

static Status make_filter(const ImageAxis *axis, Filter *out_filter)
{
    const size_t most = 2 * (size_t)ceil(fmax(axis->extent / axis->size, 1)) + 2;
    *out_filter = (Filter){.taps = calloc(axis->n_out, sizeof *out_filter->taps),
                           .weights = calloc(axis->n_out * most, sizeof *out_filter->weights),
                           .first = UINT32_MAX};
    if (!out_filter->taps || !out_filter->weights)
    {
        free_filter(out_filter);
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory to resize an image");
    }
    for (uint32_t i = 0; i < axis->n_out; i++)
    {
        const int64_t at = (int64_t)axis->offset + i;
        Taps *taps = &out_filter->taps[axis->mirrored ? axis->n_out - 1 - i : i];
        taps->weights = out_filter->weights + i * most;
        if (at < 0 || at >= axis->size)
            continue;
        set_taps(axis, (uint32_t)at, taps);
        if (taps->first < out_filter->first)
            out_filter->first = taps->first;
        if (taps->first + taps->n > out_filter->end)
            out_filter->end = taps->first + taps->n;
    }
    return STATUS_OK;
}

/* Weights add up to one but for their rounding, so a sum may leave 8 bits by a little. */
static uint8_t to_byte(int32_t sum)
{
    const int32_t value = (sum + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS;
    return (uint8_t)(value < 255 ? value : 255);
}

static void resample_row(const uint8_t *row, uint32_t channels, const Filter *filter, uint32_t n_out, uint8_t *out)
{
    for (uint32_t i = 0; i < n_out; i++, out += channels)
    {
        const Taps *taps = &filter->taps[i];
        const uint8_t *from = row + (size_t)taps->first * channels;
        int32_t sums[3] = {0};
        if (channels == 1)
            for (uint32_t k = 0; k < taps->n; k++)
                sums[0] += from[k] * taps->weights[k];
        else
            for (uint32_t k = 0; k < taps->n; k++, from += 3)
            {
                sums[0] += from[0] * taps->weights[k];
                sums[1] += from[1] * taps->weights[k];
                sums[2] += from[2] * taps->weights[k];
            }
        for (uint32_t c = 0; c < channels; c++)
            out[c] = to_byte(sums[c]);
    }
}

/* rows: from source row `first` on. sums: row_bytes numbers. */
static void resample_column(const uint8_t *rows, size_t row_bytes, uint32_t first, const Taps *taps, int32_t *sums,
                            uint8_t *out)
{
    memset(sums, 0, row_bytes * sizeof *sums);
    for (uint32_t k = 0; k < taps->n; k++)
    {
        const uint8_t *row = rows + (taps->first - first + k) * row_bytes;
        const int32_t weight = taps->weights[k];
        for (size_t i = 0; i < row_bytes; i++)
            sums[i] += row[i] * weight;
    }
    for (size_t i = 0; i < row_bytes; i++)
        out[i] = to_byte(sums[i]);
}

static Status resample(const Image *image, const Filter *x, uint32_t n_x, const Filter *y, uint32_t n_y, uint8_t *out)
{
    const size_t row_bytes = (size_t)n_x * image->channels;
    const uint32_t first = y->first < y->end ? y->first : 0, n_rows = y->first < y->end ? y->end - first : 0;
    uint8_t *rows = malloc(row_bytes * (n_rows + 1));
    int32_t *sums = malloc(row_bytes * sizeof *sums);
    Status status = STATUS_OK;
    if (!rows || !sums)
        status = status_fail(STATUS_OUT_OF_MEMORY, "no memory to resize an image");
    for (uint32_t i = 0; status == STATUS_OK && i < n_rows; i++)
        resample_row(image->pixels + (size_t)(first + i) * image->width * image->channels, image->channels, x, n_x,
                     rows + i * row_bytes);
    for (uint32_t i = 0; status == STATUS_OK && i < n_y; i++)
        resample_column(rows, row_bytes, first, &y->taps[i], sums, out + i * row_bytes);
    free(rows);
    free(sums);
    return status;
}

Status image_resample(const Image *image, const ImageAxis *x, const ImageAxis *y, uint8_t *out_pixels)
{
    Filter across, down;
    TRY(make_filter(x, &across));
    Status status = make_filter(y, &down);
    if (status == STATUS_OK)
    {
        status = resample(image, &across, x->n_out, &down, y->n_out, out_pixels);
        free_filter(&down);
    }
    free_filter(&across);
    return status;
}
