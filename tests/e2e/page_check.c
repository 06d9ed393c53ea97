/* Checks what tests/e2e/report.sh has made.
 *
 *   page_check xml FILE          it is well-formed
 *   page_check png FILE COLOUR   a picture of a page: its first pixel is COLOUR (rrggbb), and much is drawn on that
 *
 * Exit code: 0 it is so, 1 it is not, 2 it cannot be read. */
#include <libxml/parser.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check_xml(const char *path)
{
    xmlDoc *document = xmlReadFile(path, NULL, XML_PARSE_NONET);
    const int verdict = document ? 0 : 1; /* the parser says where */
    xmlFreeDoc(document);
    xmlCleanupParser();
    return verdict;
}

static int check_pixels(const unsigned char *pixels, size_t n, unsigned long colour)
{
    unsigned char used[4096] = {0}; /* colours of 4 bits a channel */
    size_t n_drawn = 0, n_colours = 0;
    const unsigned long first = (unsigned long)pixels[0] << 16 | (unsigned long)pixels[1] << 8 | pixels[2];
    for (size_t i = 0; i < n; i++)
    {
        const unsigned char *p = pixels + 3 * i;
        const size_t kind = (size_t)(p[0] >> 4) << 8 | (size_t)(p[1] >> 4) << 4 | p[2] >> 4;
        n_drawn += memcmp(p, pixels, 3) != 0;
        n_colours += !used[kind];
        used[kind] = 1;
    }
    printf("first pixel %06lx, %zu of %zu pixels drawn, %zu colours\n", first, n_drawn, n, n_colours);
    return first == colour && n_drawn * 20 > n && n_colours > 20 ? 0 : 1;
}

static int check_png(const char *path, unsigned long colour)
{
    png_image image = {.version = PNG_IMAGE_VERSION};
    if (!png_image_begin_read_from_file(&image, path))
    {
        fprintf(stderr, "%s: %s\n", path, image.message);
        return 2;
    }
    image.format = PNG_FORMAT_RGB;
    unsigned char *pixels = malloc(PNG_IMAGE_SIZE(image));
    int verdict = 2;
    if (pixels && png_image_finish_read(&image, NULL, pixels, 0, NULL))
        verdict = check_pixels(pixels, (size_t)image.width * image.height, colour);
    free(pixels);
    png_image_free(&image);
    return verdict;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "xml") == 0)
        return check_xml(argv[2]);
    if (argc == 4 && strcmp(argv[1], "png") == 0)
        return check_png(argv[2], strtoul(argv[3], NULL, 16));
    fprintf(stderr, "see the comment at the top of page_check.c\n");
    return 2;
}
