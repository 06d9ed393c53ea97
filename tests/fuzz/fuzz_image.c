/* Any bytes as a JPEG or PNG file, behind ten bytes that say what is done to it: refused, or all numbers of the result
 * are written, and they are the same again. */
#include "runtime/image.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

enum
{
    SETTINGS_BYTES = 10,
    MAX_PIXELS = 1 << 18 /* larger ones only take longer */
};

static ImageTransform transform_of(const uint8_t *s)
{
    ImageTransform t = {.width = 1 + s[0] % 64,
                        .height = 1 + s[1] % 64,
                        .channels = s[2] & 1 ? 3 : 1,
                        .elem = s[2] & 2 ? ELEM_F32 : ELEM_U8,
                        .crop = (ImageCrop)(s[2] >> 2 & 3),
                        .flip = s[2] >> 4 & 1,
                        .resize = s[3],
                        .pad = s[4] % 16};
    for (int c = 0; c < 3; c++)
    {
        t.mean[c] = (float)s[5] / 255;
        t.std[c] = 0.25F;
    }
    return t;
}

static void load(const ImageTransform *t, const uint8_t *file, size_t n_bytes, const ImageDraw *draw)
{
    const size_t size = (size_t)t->width * t->height * t->channels * elem_size_bytes(t->elem);
    uint8_t *first = malloc(size), *second = malloc(size);
    memset(first, 0xee, size);
    memset(second, 0x11, size);
    if (image_load(t, file, n_bytes, draw, first) == STATUS_OK &&
        (image_load(t, file, n_bytes, draw, second) != STATUS_OK || memcmp(first, second, size) != 0))
        abort();
    free(first);
    free(second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    ImageSize size;
    if (size_bytes < SETTINGS_BYTES)
        return 0;
    const uint8_t *file = data + SETTINGS_BYTES;
    const size_t n_bytes = size_bytes - SETTINGS_BYTES;
    if (image_read_size(file, n_bytes, &size) != STATUS_OK)
        return 0;
    if (size.width == 0 || size.height == 0 || (uint64_t)size.width * size.height > IMAGE_MAX_PIXELS)
        abort();
    if ((uint64_t)size.width * size.height > MAX_PIXELS)
        return 0;
    const ImageTransform t = transform_of(data);
    const ImageDraw draw = {.seed = data[6], .epoch = data[7], .sample = data[8], .augment = data[9] & 1};
    load(&t, file, n_bytes, &draw);
    return 0;
}

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
size_t LLVMFuzzerMutate(uint8_t *data, size_t size_bytes, size_t max_bytes);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size_bytes, size_t max_bytes, unsigned int seed);

/* Three of four mutants of a PNG get right check sums, so that they are read to their end. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size_bytes, size_t max_bytes, unsigned int seed)
{
    enum
    {
        SIGNATURE_BYTES = 8,
        CHUNK_BYTES = 12 /* length, kind, sum */
    };
    size_bytes = LLVMFuzzerMutate(data, size_bytes, max_bytes);
    size_t at = SETTINGS_BYTES + SIGNATURE_BYTES;
    while (seed % 4 && at + CHUNK_BYTES <= size_bytes && data[SETTINGS_BYTES] == 0x89)
    {
        const size_t length =
            (size_t)data[at] << 24 | (size_t)data[at + 1] << 16 | (size_t)data[at + 2] << 8 | data[at + 3];
        if (length > size_bytes - at - CHUNK_BYTES)
            break;
        const uint32_t sum = (uint32_t)crc32(crc32(0, NULL, 0), data + at + 4, (uInt)length + 4);
        for (int i = 0; i < 4; i++)
            data[at + 8 + length + i] = (uint8_t)(sum >> (24 - 8 * i));
        at += CHUNK_BYTES + length;
    }
    return size_bytes;
}
#endif
