/* PNG files, by libpng. Its errors end in a longjmp, so all that lives across one is in one struct. */
#include "runtime/image_parts.h"

#include <setjmp.h>
#include <string.h>

#include <png.h>

enum
{
    MAX_CHUNK_BYTES = 8 * 1024 * 1024 /* of what is no pixels: text, profiles */
};

typedef struct
{
    png_structp png;
    png_infop info;
    const uint8_t *bytes;
    size_t n_left;
    Status status;
    Image image;
} Decoder;

static void on_error(png_structp png, png_const_charp text)
{
    Decoder *d = png_get_error_ptr(png);
    if (d->status == STATUS_OK)
        d->status = status_fail(STATUS_BAD_INPUT, "the PNG is corrupt: %s", text);
    longjmp(png_jmpbuf(png), 1);
}

static void on_warning(png_structp png, png_const_charp text)
{
    (void)png, (void)text; /* about what is not used: profiles, text */
}

static void read_bytes(png_structp png, png_bytep to, size_t n)
{
    Decoder *d = png_get_io_ptr(png);
    if (n > d->n_left)
    {
        d->status = status_fail(STATUS_BAD_INPUT, "the PNG is truncated");
        png_error(png, "truncated");
    }
    memcpy(to, d->bytes, n);
    d->bytes += n;
    d->n_left -= n;
}

/* Grey or three colours, 8 bits each. */
static void set_conversions(const Decoder *d)
{
    png_set_palette_to_rgb(d->png);
    png_set_expand_gray_1_2_4_to_8(d->png);
    png_set_scale_16(d->png);
    png_set_strip_alpha(d->png);
}

static Status read_pixels(Decoder *d)
{
    const uint32_t width = png_get_image_width(d->png, d->info), height = png_get_image_height(d->png, d->info);
    set_conversions(d);
    const int n_passes = png_set_interlace_handling(d->png);
    png_read_update_info(d->png, d->info);
    TRY(image_create(width, height, png_get_channels(d->png, d->info), &d->image));
    const size_t row_bytes = (size_t)width * d->image.channels;
    for (int pass = 0; pass < n_passes; pass++)
        for (uint32_t y = 0; y < height; y++)
            png_read_row(d->png, d->image.pixels + y * row_bytes, NULL);
    png_read_end(d->png, NULL);
    return STATUS_OK;
}

static Status decode(Decoder *d, ImageSize *out_size, bool all)
{
    if (setjmp(png_jmpbuf(d->png)))
        return d->status;
    png_set_read_fn(d->png, d, read_bytes);
    png_set_user_limits(d->png, 0x7fffffff, 0x7fffffff); /* ours have a message of their own */
    png_set_chunk_malloc_max(d->png, MAX_CHUNK_BYTES);
    png_set_keep_unknown_chunks(d->png, PNG_HANDLE_CHUNK_NEVER, NULL, 0);
    png_read_info(d->png, d->info);
    *out_size = (ImageSize){png_get_image_width(d->png, d->info), png_get_image_height(d->png, d->info)};
    TRY(image_check_size(out_size->width, out_size->height));
    return all ? read_pixels(d) : STATUS_OK;
}

Status image_png(const uint8_t *bytes, size_t n_bytes, uint32_t shrink, ImageSize *out_size, Image *out_image)
{
    (void)shrink; /* PNG has no such thing */
    Decoder d = {.bytes = bytes, .n_left = n_bytes};
    d.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &d, on_error, on_warning);
    d.info = d.png ? png_create_info_struct(d.png) : NULL;
    Status status =
        d.info ? decode(&d, out_size, out_image != NULL) : status_fail(STATUS_OUT_OF_MEMORY, "no memory to read a PNG");
    png_destroy_read_struct(&d.png, &d.info, NULL);
    if (status != STATUS_OK)
        image_free(&d.image);
    else if (out_image)
        *out_image = d.image;
    return status;
}
