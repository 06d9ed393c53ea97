/* Makes a folder of small pictures: make_images DIR N SEED writes N of each of two classes, DIR/stripes-across and
 * DIR/stripes-down, of different sizes, half PNG and half JPEG, and DIR/table.csv, which names them. */
#include "base/philox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <jpeglib.h>
#include <png.h>

enum
{
    MAX_SIDE = 40
};

static uint32_t drawn(uint32_t seed, uint32_t picture, uint32_t what)
{
    uint32_t words[4] = {picture, what, 0, 0};
    const uint32_t key[2] = {seed, 0};
    philox4x32(words, key, words);
    return words[0];
}

/* Stripes of two colours, 4 pixels wide, with noise. */
static void paint(uint8_t *pixels, int width, int height, int down, uint32_t seed, uint32_t picture)
{
    const uint32_t colours = drawn(seed, picture, 0), start = drawn(seed, picture, 1) % 8;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < 3; c++)
            {
                const uint32_t on = ((uint32_t)(down ? x : y) + start) / 4 % 2, base = colours >> (8 * c) & 0x3f;
                *pixels++ = (uint8_t)(base + 120 * on + drawn(seed, picture, (uint32_t)(2 + y * width + x)) % 32);
            }
}

static int write_png(const char *path, const uint8_t *pixels, int width, int height)
{
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)width,
                       .height = (png_uint_32)height,
                       .format = PNG_FORMAT_RGB};
    return png_image_write_to_file(&image, path, 0, pixels, 0, NULL);
}

static int write_jpeg(const char *path, uint8_t *pixels, int width, int height)
{
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    FILE *file = fopen(path, "wb");
    if (!file)
        return 0;
    jpeg.err = jpeg_std_error(&errors); /* its failures end the program */
    jpeg_create_compress(&jpeg);
    jpeg_stdio_dest(&jpeg, file);
    jpeg.image_width = (JDIMENSION)width;
    jpeg.image_height = (JDIMENSION)height;
    jpeg.input_components = 3;
    jpeg.in_color_space = JCS_RGB;
    jpeg_set_defaults(&jpeg);
    jpeg_set_quality(&jpeg, 90, TRUE);
    jpeg_start_compress(&jpeg, TRUE);
    for (int y = 0; y < height; y++)
    {
        uint8_t *row = pixels + y * width * 3;
        jpeg_write_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_compress(&jpeg);
    jpeg_destroy_compress(&jpeg);
    return fclose(file) == 0;
}

static int make(const char *dir, const char *class_name, int down, uint32_t seed, uint32_t picture, FILE *table)
{
    static uint8_t pixels[MAX_SIDE * MAX_SIDE * 3];
    char path[4096];
    const int width = 24 + (int)(drawn(seed, picture, 1000000) % 16),
              height = 24 + (int)(drawn(seed, picture, 1000001) % 16);
    const char *end = picture % 2 ? "png" : "jpg";
    snprintf(path, sizeof path, "%s/%s/%04u.%s", dir, class_name, (unsigned)picture, end);
    paint(pixels, width, height, down, seed, picture * 2 + (uint32_t)down);
    fprintf(table, "%s/%04u.%s,%s\n", class_name, (unsigned)picture, end, class_name);
    return (picture % 2 ? write_png(path, pixels, width, height) : write_jpeg(path, pixels, width, height));
}

int main(int argc, char **argv)
{
    static const char *const classes[] = {"stripes-across", "stripes-down"};
    char path[4096];
    if (argc != 4)
        return 2;
    snprintf(path, sizeof path, "%s/table.csv", argv[1]);
    if (mkdir(argv[1], 0777) != 0)
        return 1;
    FILE *table = fopen(path, "w");
    if (!table)
        return 1;
    fprintf(table, "path,label\n");
    for (int down = 0; down < 2; down++)
    {
        snprintf(path, sizeof path, "%s/%s", argv[1], classes[down]);
        if (mkdir(path, 0777) != 0)
            return 1;
        for (int i = 0; i < atoi(argv[2]); i++)
            if (!make(argv[1], classes[down], down, (uint32_t)atoi(argv[3]), (uint32_t)i, table))
                return 1;
    }
    return fclose(table) != 0;
}
