/* JPEG files, by libjpeg(-turbo). Its errors end in a longjmp, so all that lives across one is in one struct. */
#include "runtime/image_parts.h"

#include <setjmp.h>
#include <stdio.h>

#include <jpeglib.h>

#include <jerror.h>

enum
{
    MAX_SCANS = 500 /* a progressive file may have very many that say nothing */
};

typedef struct
{
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf failed;
    Status status;
    Image image;
    uint8_t *row; /* CMYK; libjpeg's */
} Decoder;

/* jpeg is the first member. */
static Decoder *decoder_of(j_common_ptr jpeg)
{
    return (Decoder *)(void *)jpeg;
}

static void fail(j_common_ptr jpeg, Status status)
{
    decoder_of(jpeg)->status = status;
    longjmp(decoder_of(jpeg)->failed, 1);
}

static void on_error(j_common_ptr jpeg)
{
    char text[JMSG_LENGTH_MAX];
    jpeg->err->format_message(jpeg, text);
    fail(jpeg, status_fail(STATUS_BAD_INPUT, "the JPEG is corrupt: %s", text));
}

/* What libjpeg only warns about are holes that it fills with grey, but for the first three. */
static void on_message(j_common_ptr jpeg, int level)
{
    const int code = jpeg->err->msg_code;
    if (level >= 0 || code == JWRN_EXTRANEOUS_DATA || code == JWRN_ADOBE_XFORM || code == JWRN_TOO_MUCH_DATA ||
        code == JWRN_JFIF_MAJOR)
        return;
    if (code == JWRN_JPEG_EOF)
        fail(jpeg, status_fail(STATUS_BAD_INPUT, "the JPEG is truncated"));
    on_error(jpeg);
}

static void on_progress(j_common_ptr jpeg)
{
    if (decoder_of(jpeg)->jpeg.input_scan_number > MAX_SCANS)
        fail(jpeg, status_fail(STATUS_BAD_INPUT, "the JPEG has more than %d scans", MAX_SCANS));
}

/* Adobe's files, which are nearly all there are, hold inverted inks. */
static void inks_to_colour(const uint8_t *from, bool inverted, uint8_t *to, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++, from += 4, to += 3)
        for (int c = 0; c < 3; c++)
        {
            const uint32_t light = inverted ? from[c] : 255u - from[c], key = inverted ? from[3] : 255u - from[3],
                           product = light * key + 128;
            to[c] = (uint8_t)((product + (product >> 8)) >> 8);
        }
}

static Status choose_colours(struct jpeg_decompress_struct *jpeg)
{
    switch (jpeg->jpeg_color_space)
    {
    case JCS_GRAYSCALE:
        jpeg->out_color_space = JCS_GRAYSCALE;
        return STATUS_OK;
    case JCS_RGB:
    case JCS_YCbCr:
        jpeg->out_color_space = JCS_RGB;
        return STATUS_OK;
    case JCS_CMYK:
    case JCS_YCCK:
        jpeg->out_color_space = JCS_CMYK;
        return STATUS_OK;
    default:
        return status_fail(STATUS_BAD_INPUT, "the JPEG has %d components of an unknown kind", jpeg->num_components);
    }
}

static Status read_pixels(Decoder *d)
{
    struct jpeg_decompress_struct *jpeg = &d->jpeg;
    const bool inks = jpeg->out_color_space == JCS_CMYK;
    jpeg_start_decompress(jpeg);
    TRY(image_create(jpeg->output_width, jpeg->output_height, jpeg->out_color_space == JCS_GRAYSCALE ? 1 : 3,
                     &d->image));
    d->image.shrink = jpeg->scale_denom;
    const size_t row_bytes = (size_t)d->image.width * d->image.channels;
    if (inks)
        d->row = jpeg->mem->alloc_small((j_common_ptr)jpeg, JPOOL_IMAGE, (size_t)d->image.width * 4);
    while (jpeg->output_scanline < jpeg->output_height)
    {
        uint8_t *to = d->image.pixels + jpeg->output_scanline * row_bytes;
        uint8_t *row = inks ? d->row : to;
        jpeg_read_scanlines(jpeg, &row, 1);
        if (inks)
            inks_to_colour(row, jpeg->saw_Adobe_marker, to, d->image.width);
    }
    jpeg_finish_decompress(jpeg);
    return STATUS_OK;
}

static Status decode(Decoder *d, const uint8_t *bytes, size_t n_bytes, uint32_t shrink, ImageSize *out_size, bool all)
{
    struct jpeg_decompress_struct *jpeg = &d->jpeg;
    if (setjmp(d->failed))
        return d->status;
    jpeg_create_decompress(jpeg);
    jpeg->progress = &d->progress;
    jpeg_mem_src(jpeg, bytes, (unsigned long)n_bytes);
    jpeg_read_header(jpeg, TRUE);
    TRY(image_check_size(jpeg->image_width, jpeg->image_height));
    *out_size = (ImageSize){jpeg->image_width, jpeg->image_height};
    TRY(choose_colours(jpeg));
    jpeg->scale_num = 1;
    jpeg->scale_denom = shrink;
    return all ? read_pixels(d) : STATUS_OK;
}

Status image_jpeg(const uint8_t *bytes, size_t n_bytes, uint32_t shrink, ImageSize *out_size, Image *out_image)
{
    Decoder d = {.progress = {.progress_monitor = on_progress}};
    d.jpeg.err = jpeg_std_error(&d.errors);
    d.errors.error_exit = on_error;
    d.errors.emit_message = on_message;
    Status status = decode(&d, bytes, n_bytes, shrink, out_size, out_image != NULL);
    jpeg_destroy_decompress(&d.jpeg);
    if (status != STATUS_OK)
        image_free(&d.image);
    else if (out_image)
        *out_image = d.image;
    return status;
}
