/* What happens to an image on its way into a batch: which part of it at which scale, mirrored or not, and as which
 * numbers. */
#include "runtime/image.h"

#include "base/philox.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- what is drawn */

enum
{
    BLOCK_CROP, /* x, y, mirror */
    BLOCK_PART, /* and one for each further try: area, shape, x, y */
    MAX_TRIES = 10
};

static void draw_block(const ImageDraw *draw, uint32_t block, uint32_t out[4])
{
    const uint32_t key[2] = {(uint32_t)draw->seed, (uint32_t)(draw->seed >> 32)};
    const uint32_t counter[4] = {(uint32_t)draw->sample, (uint32_t)(draw->sample >> 32), (uint32_t)draw->epoch, block};
    philox4x32(counter, key, out);
}

/* 0..most. */
static uint32_t draw_up_to(uint32_t word, uint32_t most)
{
    return (uint32_t)((uint64_t)word * ((uint64_t)most + 1) >> 32);
}

/* ---- geometry */

/* Of what the shorter side is, and the other in proportion. */
static ImageSize scaled_size(const ImageTransform *t, ImageSize size)
{
    if (t->crop == IMAGE_CROP_NONE)
        return (ImageSize){t->width, t->height};
    if (!t->resize)
        return size;
    if (size.width <= size.height)
        return (ImageSize){t->resize, (uint32_t)((double)t->resize * size.height / size.width)};
    return (ImageSize){(uint32_t)((double)t->resize * size.width / size.height), t->resize};
}

/* The part of Szegedy et al., "Going deeper with convolutions", 2015; the largest of an allowed shape when no try fits.
 */
static void plan_part(const ImageTransform *t, ImageSize size, const ImageDraw *draw, ImageAxis *x, ImageAxis *y)
{
    static const double min_area = 0.08, min_shape = 3.0 / 4, max_shape = 4.0 / 3;
    double width = size.width, height = size.height;
    uint32_t words[4];
    for (uint32_t i = 0; i < MAX_TRIES; i++)
    {
        draw_block(draw, BLOCK_PART + i, words);
        const double area = width * height * (min_area + (1 - min_area) * philox_unit_f32(words[0]));
        const double shape = min_shape * pow(max_shape / min_shape, philox_unit_f32(words[1]));
        const double w = rint(sqrt(area * shape)), h = rint(sqrt(area / shape));
        if (w < 1 || h < 1 || w > width || h > height)
            continue;
        *x = (ImageAxis){.start = draw_up_to(words[2], size.width - (uint32_t)w), .extent = w};
        *y = (ImageAxis){.start = draw_up_to(words[3], size.height - (uint32_t)h), .extent = h};
        x->size = x->n_out = t->width;
        y->size = y->n_out = t->height;
        return;
    }
    if (width / height < min_shape)
        height = fmax(1, rint(width / min_shape));
    else if (width / height > max_shape)
        width = fmax(1, rint(height * max_shape));
    *x = (ImageAxis){.start = floor((size.width - width) / 2), .extent = width, .size = t->width, .n_out = t->width};
    *y = (ImageAxis){
        .start = floor((size.height - height) / 2), .extent = height, .size = t->height, .n_out = t->height};
}

Status image_plan(const ImageTransform *t, ImageSize size, const ImageDraw *draw, ImageAxis *out_x, ImageAxis *out_y)
{
    uint32_t words[4];
    draw_block(draw, BLOCK_CROP, words);
    if (draw->augment && t->crop == IMAGE_CROP_RESIZED)
        plan_part(t, size, draw, out_x, out_y);
    else
    {
        const bool random = draw->augment && t->crop == IMAGE_CROP_RANDOM;
        const ImageSize scaled = scaled_size(t, size);
        const uint32_t pad = random ? t->pad : 0;
        if (scaled.width + 2 * pad < t->width || scaled.height + 2 * pad < t->height)
            return status_fail(STATUS_BAD_INPUT,
                               "the image is %u x %u pixels%s, smaller than the %u x %u that are wanted", scaled.width,
                               scaled.height, t->resize ? " when resized" : "", t->width, t->height);
        *out_x = (ImageAxis){.extent = size.width, .size = scaled.width, .n_out = t->width};
        *out_y = (ImageAxis){.extent = size.height, .size = scaled.height, .n_out = t->height};
        const uint32_t spare_x = scaled.width + 2 * pad - t->width, spare_y = scaled.height + 2 * pad - t->height;
        out_x->offset = random ? (int32_t)draw_up_to(words[0], spare_x) - (int32_t)pad : (int32_t)rint(spare_x / 2.0);
        out_y->offset = random ? (int32_t)draw_up_to(words[1], spare_y) - (int32_t)pad : (int32_t)rint(spare_y / 2.0);
    }
    out_x->mirrored = draw->augment && t->flip && words[2] >> 31;
    return STATUS_OK;
}

uint32_t image_plan_shrink(const ImageAxis *x, const ImageAxis *y)
{
    uint32_t shrink = 1;
    while (shrink < IMAGE_MAX_SHRINK && x->extent / (2 * shrink) >= 2.0 * x->size &&
           y->extent / (2 * shrink) >= 2.0 * y->size)
        shrink *= 2;
    return shrink;
}

/* ---- numbers */

static void normalise(const ImageTransform *t, const uint8_t *pixels, float *out)
{
    float table[3][256];
    for (uint32_t c = 0; c < t->channels; c++)
        for (int value = 0; value < 256; value++)
            table[c][value] = ((float)value / 255 - t->mean[c]) / t->std[c];
    const size_t n = (size_t)t->width * t->height;
    for (size_t i = 0; i < n; i++)
        for (uint32_t c = 0; c < t->channels; c++)
            *out++ = table[c][*pixels++];
}

/* ---- both */

static Status apply(const ImageTransform *t, const Image *image, ImageAxis x, ImageAxis y, void *dst)
{
    if (t->elem == ELEM_U8)
        return image_resample(image, &x, &y, dst);
    uint8_t *pixels = malloc((size_t)t->width * t->height * t->channels);
    if (!pixels)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for an image of %u x %u pixels", t->width, t->height);
    Status status = image_resample(image, &x, &y, pixels);
    if (status == STATUS_OK)
        normalise(t, pixels, dst);
    free(pixels);
    return status;
}

Status image_transform(const ImageTransform *transform, const Image *image, const ImageDraw *draw, void *dst)
{
    ImageAxis x, y;
    TRY(image_plan(transform, (ImageSize){image->width, image->height}, draw, &x, &y));
    return apply(transform, image, x, y, dst);
}

Status image_load(const ImageTransform *transform, const void *bytes, size_t n_bytes, const ImageDraw *draw, void *dst)
{
    ImageSize size;
    ImageAxis x, y;
    Image image;
    TRY(image_read_size(bytes, n_bytes, &size));
    TRY(image_plan(transform, size, draw, &x, &y));
    TRY(image_decode(bytes, n_bytes, transform->channels, image_plan_shrink(&x, &y), &image));
    x.start /= image.shrink;
    x.extent /= image.shrink;
    y.start /= image.shrink;
    y.extent /= image.shrink;
    Status status = apply(transform, &image, x, y, dst);
    image_free(&image);
    return status;
}
