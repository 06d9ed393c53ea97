/* IDX files: good ones of every type, plain and gzip, and every way of lying in a header. */
#include "data_test.h"

#include "runtime/idx.h"

#include <stdlib.h>
#include <zlib.h>

static size_t gzip(const void *bytes, size_t n_bytes, uint8_t *out, size_t cap)
{
    z_stream zlib = {0};
    assert_int_equal(deflateInit2(&zlib, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    zlib.next_in = (Bytef *)(uintptr_t)bytes;
    zlib.avail_in = (uInt)n_bytes;
    zlib.next_out = out;
    zlib.avail_out = (uInt)cap;
    assert_int_equal(deflate(&zlib, Z_FINISH), Z_STREAM_END);
    size_t n = zlib.total_out;
    deflateEnd(&zlib);
    return n;
}

static const uint8_t small[] = {0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 10, 11, 12, 13, 14, 15};

static Status open_bytes(const void *bytes, size_t n_bytes, IdxArray *array)
{
    return idx_open_memory("mem.idx", bytes, n_bytes, array);
}

static void expect_small(const IdxArray *array)
{
    assert_int_equal(array->elem, ELEM_U8);
    assert_int_equal(array->rank, 2);
    assert_int_equal(array->dims[0], 2);
    assert_int_equal(array->dims[1], 3);
    assert_int_equal(array->size_bytes, 6);
    assert_memory_equal(array->data, small + 12, 6);
}

static void test_plain_and_gzip(void **state)
{
    const char *folder = *state;
    IdxArray array;
    EXPECT_OK(open_bytes(small, sizeof small, &array));
    expect_small(&array);
    idx_close(&array);

    uint8_t packed[200];
    size_t n = gzip(small, sizeof small, packed, sizeof packed);
    EXPECT_OK(open_bytes(packed, n, &array));
    expect_small(&array);
    idx_close(&array);

    /* two members, cut inside the header; the name says nothing about the content */
    n = gzip(small, 5, packed, sizeof packed);
    n += gzip(small + 5, sizeof small - 5, packed + n, sizeof packed - n);
    const char *path = path_in(folder, "images.idx");
    write_bytes(path, packed, n);
    EXPECT_OK(idx_open(path, &array));
    expect_small(&array);
    idx_close(&array);

    path = path_in(folder, "images.gz");
    write_bytes(path, small, sizeof small);
    EXPECT_OK(idx_open(path, &array));
    expect_small(&array);
    idx_close(&array);
}

static void test_types_are_swapped(void **state)
{
    (void)state;
    IdxArray array;
    const uint8_t i16[] = {0, 0, 0x0b, 1, 0, 0, 0, 2, 0xff, 0xfe, 0x01, 0x02};
    EXPECT_OK(open_bytes(i16, sizeof i16, &array));
    assert_true(elem_get_f64(array.elem, array.data, 0) == -2);
    assert_true(elem_get_f64(array.elem, array.data, 1) == 258);
    idx_close(&array);
    const uint8_t f32[] = {0, 0, 0x0d, 1, 0, 0, 0, 1, 0x3f, 0xc0, 0, 0};
    EXPECT_OK(open_bytes(f32, sizeof f32, &array));
    assert_true(elem_get_f64(array.elem, array.data, 0) == 1.5);
    idx_close(&array);
    uint8_t f64[] = {0, 0, 0x0e, 1, 0, 0, 0, 1, 0xc0, 0x04, 0, 0, 0, 0, 0, 0};
    uint8_t packed[200];
    size_t n = gzip(f64, sizeof f64, packed, sizeof packed);
    EXPECT_OK(open_bytes(packed, n, &array));
    assert_true(elem_get_f64(array.elem, array.data, 0) == -2.5);
    idx_close(&array);
}

static void test_truncated_anywhere(void **state)
{
    (void)state;
    IdxArray array;
    for (size_t n = 0; n < sizeof small; n++)
    {
        uint8_t *exact = malloc(n ? n : 1); /* so that ASan sees a read past the end */
        memcpy(exact, small, n);
        EXPECT_FAIL(open_bytes(exact, n, &array), STATUS_BAD_INPUT, n < 4 ? "not an IDX file" : "truncated");
        free(exact);
    }
    uint8_t packed[200];
    size_t n_packed = gzip(small, sizeof small, packed, sizeof packed);
    for (size_t n = 2; n < n_packed; n++)
    {
        uint8_t *exact = malloc(n);
        memcpy(exact, packed, n);
        EXPECT_FAIL(open_bytes(exact, n, &array), STATUS_BAD_INPUT, "mem.idx: ");
        free(exact);
    }
    n_packed = gzip(small, sizeof small - 1, packed, sizeof packed);
    EXPECT_FAIL(open_bytes(packed, n_packed, &array), STATUS_BAD_INPUT,
                "truncated: the header promises 6 bytes of data from (inflated) byte 12 on, 5 are there");
}

static void test_trailing_bytes(void **state)
{
    (void)state;
    IdxArray array;
    uint8_t longer[sizeof small + 2] = {0};
    memcpy(longer, small, sizeof small);
    EXPECT_FAIL(open_bytes(longer, sizeof longer, &array), STATUS_BAD_INPUT,
                "mem.idx: 2 bytes after the end of the data, at byte 18");
    uint8_t packed[300];
    size_t n = gzip(longer, sizeof small + 1, packed, sizeof packed);
    EXPECT_FAIL(open_bytes(packed, n, &array), STATUS_BAD_INPUT,
                "bytes after the end of the data, at (inflated) byte 18");
    n = gzip(small, sizeof small, packed, sizeof packed);
    memcpy(packed + n, "garbage", 7); /* behind the gzip stream */
    EXPECT_FAIL(open_bytes(packed, n + 7, &array), STATUS_BAD_INPUT, "damaged gzip data");
    /* data so short that it arrives together with the header */
    const uint8_t tiny[] = {0, 0, 8, 1, 0, 0, 0, 1, 7, 8, 9};
    n = gzip(tiny, sizeof tiny, packed, sizeof packed);
    EXPECT_FAIL(open_bytes(packed, n, &array), STATUS_BAD_INPUT, "bytes after the end");
    n = gzip(tiny, sizeof tiny - 2, packed, sizeof packed);
    EXPECT_OK(open_bytes(packed, n, &array));
    assert_int_equal(array.data[0], 7);
    idx_close(&array);
}

static void test_bad_headers(void **state)
{
    (void)state;
    static const struct
    {
        uint8_t bytes[20];
        size_t n_bytes;
        const char *says;
    } cases[] = {
        {{1, 0, 8, 1, 0, 0, 0, 1, 5}, 9, "byte 0 and 1 are 01 00"},
        {{0, 0, 7, 1, 0, 0, 0, 1, 5}, 9, "unknown element type 0x07 at byte 2"},
        {{0, 0, 0, 1, 0, 0, 0, 1, 5}, 9, "unknown element type 0x00 at byte 2"},
        {{0, 0, 8, 0, 5}, 5, "0 dimensions at byte 3"},
        {{0, 0, 8, 9, 5}, 5, "9 dimensions at byte 3"},
        {{0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 0}, 12, "dimension 2 (at byte 8) is 0"},
        {{0, 0, 8, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}, 16, "more than 2^63 bytes"},
        {{0, 0, 8, 2, 255, 255, 255, 255, 0, 0, 255, 255}, 12, "truncated at byte 12"},
        {{0, 0, 14, 2, 127, 255, 255, 255, 127, 255, 255, 255}, 12, "more than 2^63 bytes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
    {
        IdxArray array;
        EXPECT_FAIL(open_bytes(cases[i].bytes, cases[i].n_bytes, &array), STATUS_BAD_INPUT, cases[i].says);
    }
}

/* A header that promises terabytes allocates nothing. */
static void test_gzip_bomb(void **state)
{
    (void)state;
    const uint8_t huge[] = {0, 0, 8, 2, 0, 255, 255, 255, 0, 255, 255, 255, 1};
    uint8_t packed[200];
    size_t n = gzip(huge, sizeof huge, packed, sizeof packed);
    IdxArray array;
    EXPECT_FAIL(open_bytes(packed, n, &array), STATUS_BAD_INPUT, "gzip bytes cannot hold them");
}

static void test_damaged_gzip(void **state)
{
    (void)state;
    uint8_t packed[200];
    size_t n = gzip(small, sizeof small, packed, sizeof packed);
    packed[n - 6] ^= 1; /* in the CRC */
    IdxArray array;
    EXPECT_FAIL(open_bytes(packed, n, &array), STATUS_BAD_INPUT, "damaged gzip data");
}

static void test_files_that_cannot_be_read(void **state)
{
    const char *folder = *state;
    IdxArray array;
    EXPECT_FAIL(idx_open(path_in(folder, "none"), &array), STATUS_BAD_INPUT, "No such file");
    EXPECT_FAIL(idx_open(folder, &array), STATUS_BAD_INPUT, "not a regular file");
    write_bytes(path_in(folder, "empty"), "", 0);
    EXPECT_FAIL(idx_open(path_in(folder, "empty"), &array), STATUS_BAD_INPUT, "not an IDX file: 0 bytes");
}

static void test_fashion_mnist(void **state)
{
    (void)state;
    const char *images = "/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz";
    FILE *there = fopen(images, "rb");
    if (!there)
        TEST_SKIP("package dataset-fashion-mnist is not installed");
    fclose(there);
    IdxArray array;
    EXPECT_OK(idx_open(images, &array));
    assert_int_equal(array.rank, 3);
    assert_int_equal(array.dims[0], 60000);
    assert_int_equal(array.dims[1], 28);
    assert_int_equal(array.dims[2], 28);
    double sum = 0;
    for (uint64_t i = 0; i < array.size_bytes; i++)
        sum += array.data[i];
    assert_true(sum / (double)array.size_bytes / 255 > 0.2860 && sum / (double)array.size_bytes / 255 < 0.2861);
    idx_close(&array);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_and_gzip),     cmocka_unit_test(test_types_are_swapped),
        cmocka_unit_test(test_truncated_anywhere), cmocka_unit_test(test_trailing_bytes),
        cmocka_unit_test(test_bad_headers),        cmocka_unit_test(test_gzip_bomb),
        cmocka_unit_test(test_damaged_gzip),       cmocka_unit_test(test_files_that_cannot_be_read),
        cmocka_unit_test(test_fashion_mnist),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
