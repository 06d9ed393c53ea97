/* What the formats whose samples are images share. */
#ifndef PTC_RUNTIME_DATASET_IMAGES_H
#define PTC_RUNTIME_DATASET_IMAGES_H

#include "runtime/dataset_formats.h"
#include "runtime/image.h"

/* The source's transform, with the size that its dims say. */
Status dataset_image_transform(const DatasetSource *source, ImageTransform *out_transform);
ImageDraw dataset_image_draw(const DatasetPass *pass, uint64_t sample);

#endif
