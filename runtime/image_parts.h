/* What the files of image.h share: the decoders. */
#ifndef PTC_RUNTIME_IMAGE_PARTS_H
#define PTC_RUNTIME_IMAGE_PARTS_H

#include "runtime/image.h"

/* Each reads its kind of file. With out_image NULL only the size is read. */
typedef Status ImageDecoder(const uint8_t *bytes, size_t n_bytes, uint32_t shrink, ImageSize *out_size,
                            Image *out_image);
ImageDecoder image_jpeg;
ImageDecoder image_png;

/* Refuses what is too large; takes memory for an image whose channels are those of the file, 1 or 3. */
Status image_check_size(uint64_t width, uint64_t height);
Status image_create(uint32_t width, uint32_t height, uint32_t channels, Image *out_image);

#endif
