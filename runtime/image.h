/* Images: JPEG and PNG files become pixels, and pixels what a model takes.
 *
 * Pixels are u8 [height, width, channels] with one channel (grey) or three (red, green, blue). All of the following are
 * thread-safe. Failures are BAD_INPUT with a sentence about the file that does not name it. */
#ifndef PTC_RUNTIME_IMAGE_H
#define PTC_RUNTIME_IMAGE_H

#include "base/status.h"
#include "runtime/elem.h"

enum
{
    IMAGE_MAX_SIDE = 65500,
    IMAGE_MAX_PIXELS = 100 * 1000 * 1000, /* larger ones are refused before memory is taken for them */
    IMAGE_MAX_SHRINK = 8
};

typedef struct
{
    uint32_t width, height;
} ImageSize;

typedef struct
{
    uint8_t *pixels;
    uint32_t width, height, channels;
    uint32_t shrink; /* of the file's size */
} Image;

/* ---- files */

/* From the header, by which the kind of the file is told too. */
Status image_read_size(const void *bytes, size_t n_bytes, ImageSize *out_size);
/* channels 1 or 3: grey becomes three equal ones, colours become luma as ITU-R 601 has it. 16 bits become 8, alpha is
 * dropped, CMYK becomes RGB without a colour profile; EXIF orientation and gamma are not applied. shrink 1, 2, 4, 8: a
 * JPEG is decoded at 1/shrink of its size, rounded up; a PNG never is. The caller frees *out_image. What is truncated
 * or corrupt is refused, also behind the last pixel. */
Status image_decode(const void *bytes, size_t n_bytes, uint32_t channels, uint32_t shrink, Image *out_image);
void image_free(Image *image);

/* ---- geometry */

/* One axis of what is done: `extent` source pixels from `start` on are scaled to `size`, and of these (first, or
 * mirrored) `n_out` from `offset` on are taken; what lies outside of them is 0. */
typedef struct
{
    double start, extent;
    uint32_t size;
    int32_t offset;
    uint32_t n_out;
    bool mirrored; /* what is taken, at last */
} ImageAxis;

/* Writes y.n_out x x.n_out pixels. Bilinear, with a filter as wide as the scale when it gets smaller: what Pillow's
 * BILINEAR does, to the bit. */
Status image_resample(const Image *image, const ImageAxis *x, const ImageAxis *y, uint8_t *out_pixels);

typedef enum
{
    IMAGE_CROP_CENTER,  /* the middle */
    IMAGE_CROP_RANDOM,  /* anywhere, in training */
    IMAGE_CROP_RESIZED, /* a part of 8 to 100 % of the area and of a shape from 3:4 to 4:3, scaled, in training */
    IMAGE_CROP_NONE     /* all of it, whatever becomes of its shape */
} ImageCrop;

typedef struct
{
    uint32_t width, height, channels; /* of the result */
    Elem elem;                        /* f32 or u8 */
    ImageCrop crop;
    uint32_t resize;       /* pixels of the shorter side before the crop; 0: as it is. Not before IMAGE_CROP_RESIZED */
    uint32_t pad;          /* pixels of 0 around it before a random crop */
    bool flip;             /* mirror half of the images, in training */
    float mean[3], std[3]; /* f32: (pixel / 255 - mean) / std */
} ImageTransform;

/* Of which augmentation is a function. */
typedef struct
{
    uint64_t seed, epoch, sample;
    bool augment;
} ImageDraw;

/* BAD_INPUT: the image is smaller than the crop. */
Status image_plan(const ImageTransform *transform, ImageSize size, const ImageDraw *draw, ImageAxis *out_x,
                  ImageAxis *out_y);
/* The largest shrink that leaves at least two pixels for every one of the result. */
uint32_t image_plan_shrink(const ImageAxis *x, const ImageAxis *y);

/* From pixels to the result [height, width, channels]. */
Status image_transform(const ImageTransform *transform, const Image *image, const ImageDraw *draw, void *dst);
/* The same from a file. */
Status image_load(const ImageTransform *transform, const void *bytes, size_t n_bytes, const ImageDraw *draw, void *dst);

#endif
