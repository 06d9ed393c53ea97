/* Image files: which decoder a file needs, limits, and the number of channels. */
#include "runtime/image_parts.h"

#include "base/bug.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const struct
{
    const char *signature;
    size_t n_bytes;
    ImageDecoder *decode;
} kinds[] = {{"\xff\xd8\xff", 3, image_jpeg}, {"\x89PNG\r\n\x1a\n", 8, image_png}};

static Status find_decoder(const void *bytes, size_t n_bytes, ImageDecoder **out_decode)
{
    if (n_bytes == 0)
        return status_fail(STATUS_BAD_INPUT, "the file is empty");
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (n_bytes >= kinds[i].n_bytes && memcmp(bytes, kinds[i].signature, kinds[i].n_bytes) == 0)
        {
            *out_decode = kinds[i].decode;
            return STATUS_OK;
        }
    return status_fail(STATUS_BAD_INPUT, "this is neither a JPEG nor a PNG");
}

Status image_check_size(uint64_t width, uint64_t height)
{
    if (width == 0 || height == 0)
        return status_fail(STATUS_BAD_INPUT, "the image has no pixels");
    if (width > IMAGE_MAX_SIDE || height > IMAGE_MAX_SIDE || width * height > IMAGE_MAX_PIXELS)
        return status_fail(STATUS_BAD_INPUT,
                           "the image is %" PRIu64 " x %" PRIu64
                           " pixels; at most %d on a side and %d million in all are read",
                           width, height, IMAGE_MAX_SIDE, IMAGE_MAX_PIXELS / 1000000);
    return STATUS_OK;
}

Status image_create(uint32_t width, uint32_t height, uint32_t channels, Image *out_image)
{
    uint8_t *pixels = malloc((size_t)width * height * channels);
    if (!pixels)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for an image of %u x %u pixels", width, height);
    *out_image = (Image){.pixels = pixels, .width = width, .height = height, .channels = channels, .shrink = 1};
    return STATUS_OK;
}

void image_free(Image *image)
{
    free(image->pixels);
    image->pixels = NULL;
}

Status image_read_size(const void *bytes, size_t n_bytes, ImageSize *out_size)
{
    ImageDecoder *decode;
    TRY(find_decoder(bytes, n_bytes, &decode));
    return decode(bytes, n_bytes, 1, out_size, NULL);
}

/* Luma by integers: 0.299 r + 0.587 g + 0.114 b. */
static void to_grey(const uint8_t *from, uint8_t *to, size_t n)
{
    for (size_t i = 0; i < n; i++, from += 3)
        to[i] = (uint8_t)((from[0] * 19595u + from[1] * 38470u + from[2] * 7471u + 0x8000u) >> 16);
}

static void to_colour(const uint8_t *from, uint8_t *to, size_t n)
{
    for (size_t i = 0; i < n; i++, to += 3)
        to[0] = to[1] = to[2] = from[i];
}

Status image_decode(const void *bytes, size_t n_bytes, uint32_t channels, uint32_t shrink, Image *out_image)
{
    ENSURE(channels == 1 || channels == 3);
    ImageDecoder *decode;
    ImageSize size;
    Image image, converted;
    TRY(find_decoder(bytes, n_bytes, &decode));
    TRY(decode(bytes, n_bytes, shrink, &size, &image));
    if (image.channels == channels)
    {
        *out_image = image;
        return STATUS_OK;
    }
    Status status = image_create(image.width, image.height, channels, &converted);
    if (status == STATUS_OK)
    {
        (channels == 1 ? to_grey : to_colour)(image.pixels, converted.pixels, (size_t)image.width * image.height);
        converted.shrink = image.shrink;
        *out_image = converted;
    }
    image_free(&image);
    return status;
}
