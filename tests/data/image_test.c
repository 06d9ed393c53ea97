/* Images against what Pillow made of the same files (tests/fixtures/image_pillow.py), to the bit; augmentation; and
 * what becomes of broken files. */
#include "data_test.h"

#include "runtime/image.h"
#include "runtime/safetensors.h"

#include <math.h>
#include <stdlib.h>

#include <zlib.h>

static Safetensors *expected;

static const char *fixture(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/tests/fixtures/images/%s", getenv("PTC_SOURCE_DIR"), name);
    return path;
}

static int open_expected(void **state)
{
    EXPECT_OK(safetensors_open(fixture("expected.safetensors"), &expected));
    return scratch_create(state);
}

static int close_expected(void **state)
{
    safetensors_close(expected);
    return scratch_remove(state);
}

static char *read_fixture(const char *name, size_t *out_n_bytes)
{
    char *bytes = read_bytes(fixture(name), out_n_bytes);
    assert_non_null(bytes);
    return bytes;
}

static Image decode_fixture(const char *name, uint32_t channels, uint32_t shrink)
{
    size_t n_bytes;
    char *bytes = read_fixture(name, &n_bytes);
    Image image = {0};
    EXPECT_OK(image_decode(bytes, n_bytes, channels, shrink, &image));
    free(bytes);
    return image;
}

static void expect_pixels(const char *name, const uint8_t *have, uint32_t width, uint32_t height, uint32_t channels)
{
    const NamedTensor *want = safetensors_find(expected, name);
    assert_non_null(want);
    assert_int_equal(want->dims[0], height);
    assert_int_equal(want->dims[1], width);
    assert_int_equal(want->dims[2], channels);
    for (size_t i = 0; i < (size_t)width * height * channels; i++)
        if (have[i] != ((const uint8_t *)want->data)[i])
            fail_msg("%s: element %zu is %d, not %d", name, i, have[i], ((const uint8_t *)want->data)[i]);
}

static void test_files(void **state)
{
    (void)state;
    static const char *const names[] = {"colours.png", "grey.png",  "palette.png",     "alpha.png", "bits.png",
                                        "deep.png",    "photo.jpg", "progressive.jpg", "grey.jpg",  "inks.jpg"};
    char name[64];
    uint32_t n_compared = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        for (uint32_t channels = 1; channels <= 3; channels += 2)
        {
            snprintf(name, sizeof name, "%s %s", names[i], channels == 3 ? "colours" : "grey");
            Image image = decode_fixture(names[i], channels, 1);
            if (safetensors_find(expected, name) && ++n_compared)
                expect_pixels(name, image.pixels, image.width, image.height, channels);
            image_free(&image);
        }
    assert_int_equal(n_compared, 13);
}

static ImageAxis whole(uint32_t extent, uint32_t size)
{
    return (ImageAxis){.extent = extent, .size = size, .n_out = size};
}

static void test_resizing(void **state)
{
    (void)state;
    static const uint32_t sizes[][2] = {{16, 12}, {61, 20}, {100, 90}, {7, 43}, {1, 1}, {61, 43}};
    char name[64];
    for (uint32_t channels = 1; channels <= 3; channels += 2)
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        {
            const char *file = channels == 3 ? "colours.png" : "grey.png";
            Image image = decode_fixture(file, channels, 1);
            const ImageAxis x = whole(image.width, sizes[i][0]), y = whole(image.height, sizes[i][1]);
            uint8_t *out = malloc((size_t)x.n_out * y.n_out * channels);
            EXPECT_OK(image_resample(&image, &x, &y, out));
            snprintf(name, sizeof name, "%s to %ux%u", file, x.n_out, y.n_out);
            expect_pixels(name, out, x.n_out, y.n_out, channels);
            free(out);
            image_free(&image);
        }
}

static void test_box(void **state)
{
    (void)state;
    Image image = decode_fixture("colours.png", 3, 1);
    ImageAxis x = {.start = 5, .extent = 40, .size = 24, .n_out = 24},
              y = {.start = 9, .extent = 30, .size = 24, .n_out = 24};
    uint8_t out[24 * 24 * 3];
    EXPECT_OK(image_resample(&image, &x, &y, out));
    expect_pixels("colours.png box", out, 24, 24, 3);
    x.mirrored = true;
    EXPECT_OK(image_resample(&image, &x, &y, out));
    expect_pixels("colours.png box mirrored", out, 24, 24, 3);
    image_free(&image);
}

static const ImageTransform middle = {.width = 28, .height = 28, .channels = 3, .elem = ELEM_U8, .resize = 32};
static const ImageDraw none = {0};

static void test_middle(void **state)
{
    (void)state;
    size_t n_bytes;
    char *bytes = read_fixture("colours.png", &n_bytes);
    uint8_t out[28 * 28 * 3];
    EXPECT_OK(image_load(&middle, bytes, n_bytes, &none, out));
    expect_pixels("colours.png middle", out, 28, 28, 3);

    float numbers[28 * 28 * 3];
    ImageTransform normal = middle;
    normal.elem = ELEM_F32;
    for (int c = 0; c < 3; c++)
    {
        normal.mean[c] = 0.1F * (float)(c + 1);
        normal.std[c] = 0.5F;
    }
    EXPECT_OK(image_load(&normal, bytes, n_bytes, &none, numbers));
    for (int i = 0; i < 28 * 28 * 3; i++)
        assert_true(fabs(numbers[i] - (out[i] / 255.0 - 0.1 * (i % 3 + 1)) / 0.5) < 1e-6);

    ImageTransform large = middle;
    large.resize = 0;
    large.height = 44;
    EXPECT_FAIL(image_load(&large, bytes, n_bytes, &none, out), STATUS_BAD_INPUT,
                "the image is 61 x 43 pixels, smaller than the 28 x 44 that are wanted");
    large.resize = 20;
    EXPECT_FAIL(image_load(&large, bytes, n_bytes, &none, out), STATUS_BAD_INPUT, "is 28 x 20 pixels when resized");
    free(bytes);
}

/* A JPEG that is far larger than what is wanted is decoded smaller: about the same comes out. */
static void test_shrink(void **state)
{
    (void)state;
    static const uint32_t shrinks[] = {2, 4};
    Image full = decode_fixture("photo.jpg", 3, 1);
    const ImageAxis x = whole(full.width, 6), y = whole(full.height, 8);
    uint8_t want[8 * 6 * 3], have[8 * 6 * 3];
    EXPECT_OK(image_resample(&full, &x, &y, want));
    assert_int_equal(image_plan_shrink(&x, &y), 4);
    for (size_t i = 0; i < sizeof shrinks / sizeof shrinks[0]; i++)
    {
        Image small = decode_fixture("photo.jpg", 3, shrinks[i]);
        assert_int_equal(small.shrink, shrinks[i]);
        assert_int_equal(small.width, full.width / shrinks[i]);
        const ImageAxis small_x = whole(small.width, 6), small_y = whole(small.height, 8);
        EXPECT_OK(image_resample(&small, &small_x, &small_y, have));
        double sum = 0;
        for (size_t k = 0; k < sizeof want; k++)
            sum += abs(have[k] - want[k]);
        assert_true(sum / sizeof want < 4);
        image_free(&small);
    }
    const ImageAxis near_x = whole(full.width, 24), near_y = whole(full.height, 32);
    assert_int_equal(image_plan_shrink(&near_x, &near_y), 1);
    image_free(&full);
}

/* ---- augmentation */

/* Where every pixel says where it comes from. */
static Image coordinates(uint32_t width, uint32_t height)
{
    Image image = {malloc((size_t)width * height * 3), width, height, 3, 1};
    for (uint32_t i = 0; i < width * height; i++)
    {
        image.pixels[3 * i] = (uint8_t)(i % width);
        image.pixels[3 * i + 1] = (uint8_t)(i / width);
        image.pixels[3 * i + 2] = 255;
    }
    return image;
}

static void test_random_crop(void **state)
{
    (void)state;
    enum
    {
        SIDE = 32,
        PAD = 4,
        N = 2000
    };
    const ImageTransform t = {.width = SIDE,
                              .height = SIDE,
                              .channels = 3,
                              .elem = ELEM_U8,
                              .crop = IMAGE_CROP_RANDOM,
                              .pad = PAD,
                              .flip = true};
    Image image = coordinates(SIDE, SIDE);
    uint8_t out[SIDE * SIDE * 3], again[sizeof out];
    uint32_t n_mirrored = 0, seen_x[2 * PAD + 1] = {0}, seen_y[2 * PAD + 1] = {0};
    for (uint32_t sample = 0; sample < N; sample++)
    {
        ImageDraw draw = {.seed = 5, .epoch = 1, .sample = sample, .augment = true};
        ImageAxis x, y;
        EXPECT_OK(image_plan(&t, (ImageSize){SIDE, SIDE}, &draw, &x, &y));
        n_mirrored += x.mirrored;
        assert_in_range(x.offset + PAD, 0, 2 * PAD);
        assert_in_range(y.offset + PAD, 0, 2 * PAD);
        seen_x[x.offset + PAD]++;
        seen_y[y.offset + PAD]++;
        if (sample % 100)
            continue;
        EXPECT_OK(image_transform(&t, &image, &draw, out));
        for (int32_t i = 0; i < SIDE * SIDE; i++)
        {
            const int32_t from_x = x.offset + (x.mirrored ? SIDE - 1 - i % SIDE : i % SIDE),
                          from_y = y.offset + i / SIDE;
            const bool inside = from_x >= 0 && from_x < SIDE && from_y >= 0 && from_y < SIDE;
            assert_int_equal(out[3 * i], inside ? from_x : 0);
            assert_int_equal(out[3 * i + 1], inside ? from_y : 0);
            assert_int_equal(out[3 * i + 2], inside ? 255 : 0);
        }
        draw.augment = false;
        EXPECT_OK(image_transform(&t, &image, &draw, again));
        assert_memory_equal(again, image.pixels, sizeof again);
    }
    assert_in_range(n_mirrored, N / 2 - 150, N / 2 + 150);
    for (int i = 0; i <= 2 * PAD; i++)
    {
        assert_in_range(seen_x[i], N / 9 - 80, N / 9 + 80);
        assert_in_range(seen_y[i], N / 9 - 80, N / 9 + 80);
    }
    image_free(&image);
}

static void test_random_part(void **state)
{
    (void)state;
    const ImageTransform t = {.width = 20, .height = 20, .channels = 3, .elem = ELEM_U8, .crop = IMAGE_CROP_RESIZED};
    static const ImageSize sizes[] = {{200, 100}, {30, 30}, {1, 1}, {5000, 3}, {3, 5000}};
    double sum = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (uint32_t sample = 0; sample < 500; sample++)
        {
            const ImageDraw draw = {.sample = sample, .augment = true};
            ImageAxis x, y;
            EXPECT_OK(image_plan(&t, sizes[i], &draw, &x, &y));
            assert_true(x.start >= 0 && x.extent >= 1 && x.start + x.extent <= sizes[i].width);
            assert_true(y.start >= 0 && y.extent >= 1 && y.start + y.extent <= sizes[i].height);
            assert_int_equal(x.size, 20);
            assert_int_equal(y.n_out, 20);
            if (i > 0)
                continue;
            assert_in_range(1000 * x.extent / y.extent, 700, 1430); /* whole pixels */
            sum += x.extent * y.extent / (sizes[i].width * sizes[i].height);
        }
    assert_true(sum / 500 > 0.2 && sum / 500 < 0.6);
}

/* A function of seed, epoch and sample, of each of them. */
static void test_draws(void **state)
{
    (void)state;
    const ImageTransform t = {
        .width = 20, .height = 20, .channels = 3, .elem = ELEM_U8, .crop = IMAGE_CROP_RESIZED, .flip = true};
    const ImageDraw draws[] = {{1, 1, 1, true}, {2, 1, 1, true}, {1, 2, 1, true}, {1, 1, 2, true}, {1, 1, 1, true}};
    uint8_t out[5][20 * 20 * 3];
    Image image = coordinates(100, 80);
    for (int i = 0; i < 5; i++)
        EXPECT_OK(image_transform(&t, &image, &draws[i], out[i]));
    for (int i = 1; i < 4; i++)
        assert_memory_not_equal(out[0], out[i], sizeof out[0]);
    assert_memory_equal(out[0], out[4], sizeof out[0]);
    image_free(&image);
}

/* ---- broken files */

static void expect_broken(const void *bytes, size_t n_bytes, const char *part)
{
    Image image = {0};
    EXPECT_FAIL(image_decode(bytes, n_bytes, 3, 1, &image), STATUS_BAD_INPUT, part);
    assert_null(image.pixels);
}

/* Every file cut anywhere is refused, and the size is known or refused too. */
static void test_truncated(void **state)
{
    (void)state;
    static const char *const names[] = {"colours.png", "palette.png", "photo.jpg", "progressive.jpg", "inks.jpg"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    {
        size_t n_bytes;
        char *bytes = read_fixture(names[i], &n_bytes);
        for (size_t n = 0; n + 2 < n_bytes; n += n < 64 ? 1 : 37)
        {
            char *cut = malloc(n ? n : 1); /* so that AddressSanitizer sees the end */
            ImageSize size;
            memcpy(cut, bytes, n);
            expect_broken(cut, n, "");
            if (image_read_size(cut, n, &size) == STATUS_OK)
                assert_in_range(size.width, 24, 61);
            free(cut);
        }
        expect_broken(bytes, n_bytes / 2, "is truncated");
        free(bytes);
    }
}

static void test_corrupt(void **state)
{
    (void)state;
    size_t n_bytes;
    char *bytes = read_fixture("colours.png", &n_bytes);
    bytes[n_bytes / 2] ^= 0x40;
    expect_broken(bytes, n_bytes, "the PNG is corrupt: ");
    free(bytes);
    bytes = read_fixture("photo.jpg", &n_bytes);
    memset(bytes + n_bytes / 2, 0xff, 8);
    memset(bytes + n_bytes / 2 + 8, 0xd9, 8);
    expect_broken(bytes, n_bytes, "");
    free(bytes);
    expect_broken("", 0, "the file is empty");
    expect_broken("GIF89a, or so", 13, "neither a JPEG nor a PNG");
    expect_broken("\xff\xd8\xff", 3, "");
}

/* The size is looked at before memory is taken. */
static void test_too_large(void **state)
{
    (void)state;
    size_t n_bytes;
    char *bytes = read_fixture("colours.png", &n_bytes);
    static const unsigned char huge[] = {0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0}; /* 100,000 x 100,000 */
    memcpy(bytes + 16, huge, sizeof huge);
    uint32_t crc = (uint32_t)crc32(crc32(0, NULL, 0), (const unsigned char *)bytes + 12, 17);
    for (int i = 0; i < 4; i++)
        bytes[29 + i] = (char)(crc >> (24 - 8 * i));
    expect_broken(bytes, n_bytes,
                  "the image is 100000 x 100000 pixels; at most 65500 on a side and 100 million in all");
    ImageSize size;
    EXPECT_FAIL(image_read_size(bytes, n_bytes, &size), STATUS_BAD_INPUT, "100000 x 100000");
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files),       cmocka_unit_test(test_resizing),    cmocka_unit_test(test_box),
        cmocka_unit_test(test_middle),      cmocka_unit_test(test_shrink),      cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_random_crop), cmocka_unit_test(test_random_part), cmocka_unit_test(test_draws),
        cmocka_unit_test(test_corrupt),     cmocka_unit_test(test_too_large),
    };
    return cmocka_run_group_tests(tests, open_expected, close_expected);
}
