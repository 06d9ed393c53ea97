/* safetensors: what we write we read; files of others; and every way of lying in a header. */
#include "data_test.h"

#include "runtime/durable_file.h"
#include "runtime/safetensors.h"

#include <stdlib.h>

/* A file in memory: length, header, n_data bytes 0, 1, 2, ... Exactly as long as said, so that ASan sees any read past
 * it. The caller frees it. */
static uint8_t *make_file(const char *header, size_t n_data, size_t *out_n_bytes)
{
    size_t len = strlen(header);
    uint8_t *bytes = malloc(8 + len + n_data);
    assert_non_null(bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)((uint64_t)len >> 8 * i);
    memcpy(bytes + 8, header, len);
    for (size_t i = 0; i < n_data; i++)
        bytes[8 + len + i] = (uint8_t)i;
    *out_n_bytes = 8 + len + n_data;
    return bytes;
}

static void test_round_trip(void **state)
{
    const char *path = path_in(*state, "model.safetensors");
    const float w[6] = {1, -2, 3.5f, 0, 1e-30f, 1e30f};
    const uint8_t flags[3] = {1, 0, 255};
    const int64_t step = -5;
    const double pi = 3.141592653589793;
    const NamedTensor tensors[] = {
        {.name = "flags", .elem = ELEM_U8, .rank = 1, .dims = {3}, .data = flags},
        {.name = "encoder.layer.0.weight", .elem = ELEM_F32, .rank = 2, .dims = {2, 3}, .data = w},
        {.name = "step", .elem = ELEM_I64, .data = &step},
        {.name = "empty", .elem = ELEM_BF16, .rank = 2, .dims = {0, 7}, .data = NULL},
        {.name = "pi \"quoted\" \xc3\xa9", .elem = ELEM_F64, .rank = 1, .dims = {1}, .data = &pi},
    };
    const SafetensorsMeta meta[] = {{"format", "pt"}, {"note", "a \"b\"\n"}};
    char digest[FILE_DIGEST_CHARS];
    EXPECT_OK(safetensors_write(path, tensors, 5, meta, 2, digest));
    size_t n_bytes;
    char *bytes = read_bytes(path, &n_bytes);
    char again[FILE_DIGEST_CHARS];
    file_digest_text(bytes, n_bytes, again);
    assert_string_equal(digest, again);
    assert_int_equal((8 + (size_t)(uint8_t)bytes[0] + 256 * (size_t)(uint8_t)bytes[1]) % 8, 0);
    free(bytes);

    Safetensors *file = NULL;
    EXPECT_OK(safetensors_open(path, &file));
    assert_string_equal(safetensors_path(file), path);
    assert_int_equal(safetensors_count(file), 5);
    assert_string_equal(safetensors_metadata(file, "note"), "a \"b\"\n");
    assert_null(safetensors_metadata(file, "none"));
    assert_null(safetensors_find(file, "encoder"));
    for (int i = 0; i < 5; i++)
    {
        const NamedTensor *found = safetensors_find(file, tensors[i].name);
        assert_non_null(found);
        assert_int_equal(found->elem, tensors[i].elem);
        assert_int_equal(found->rank, tensors[i].rank);
        assert_memory_equal(found->dims, tensors[i].dims, sizeof found->dims);
        uint64_t size_bytes = safetensors_tensor_size_bytes(found);
        if (size_bytes)
            assert_memory_equal(found->data, tensors[i].data, size_bytes);
        assert_int_equal((uintptr_t)found->data % elem_size_bytes(found->elem), 0);
    }

    float read[6];
    NamedTensor expected = tensors[1];
    EXPECT_OK(safetensors_read(file, &expected, read));
    assert_memory_equal(read, w, sizeof w);
    expected.dims[1] = 4;
    EXPECT_FAIL(safetensors_read(file, &expected, read), STATUS_BAD_INPUT,
                "tensor 'encoder.layer.0.weight' is f32[2x3]; the model wants f32[2x4]");
    expected.name = "decoder";
    EXPECT_FAIL(safetensors_read(file, &expected, read), STATUS_BAD_INPUT, "no tensor 'decoder'");
    safetensors_close(file);
}

static void test_no_tensors(void **state)
{
    const char *path = path_in(*state, "none.safetensors");
    EXPECT_OK(safetensors_write(path, NULL, 0, NULL, 0, NULL));
    Safetensors *file = NULL;
    EXPECT_OK(safetensors_open(path, &file));
    assert_int_equal(safetensors_count(file), 0);
    assert_null(safetensors_find(file, ""));
    safetensors_close(file);
}

/* As the reference implementation writes it; offsets out of the header's order, unaligned f32. */
static void test_file_of_others(void **state)
{
    (void)state;
    size_t n_bytes;
    uint8_t *bytes = make_file("{\"__metadata__\":{\"format\":\"pt\"},"
                               "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[3,7]},"
                               "\"a\":{\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[0,3]}}     ",
                               7, &n_bytes);
    Safetensors *file = NULL;
    EXPECT_OK(safetensors_open_memory("mem", bytes, n_bytes, &file));
    assert_string_equal(safetensors_tensor(file, 0)->name, "a");
    assert_string_equal(safetensors_tensor(file, 1)->name, "b");
    assert_int_equal(*(const uint8_t *)safetensors_find(file, "b")->data, 3);
    safetensors_close(file);
    free(bytes);
}

#define T(fields) "{\"t\":{" fields "}}"

static void test_hostile_headers(void **state)
{
    (void)state;
    static const struct
    {
        const char *header;
        size_t n_data;
        const char *says;
    } cases[] = {
        {"", 0, "does not start with '{'"},
        {" {}", 0, "does not start with '{'"},
        {"[]", 0, "does not start with '{'"},
        {"{", 0, "bad header at byte"},
        {"{}x", 0, "bad header at byte"},
        {"{\"t\":NaN}", 0, "bad header at byte"},
        {"{\"\xff\":1}", 0, "bad header at byte"},
        {"{}", 1, "1 bytes after the last tensor, which ends at data byte 0"},
        {"{\"t\":1}", 0, "tensor 't': not an object"},
        {T("\"dtype\":\"F32\",\"shape\":[1]"), 4, "tensor 't': not an object of"},
        {T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1"), 4, "tensor 't': not an object of"},
        {T("\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]"), 4, "unknown dtype 'F33'"},
        {T("\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]"), 4, "unknown dtype ''"},
        {T("\"dtype\":\"F32\",\"shape\":4,\"data_offsets\":[0,4]"), 4, "'shape' is not an array"},
        {T("\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]"), 4, "dimension 1 is not a number from 0 on"},
        {T("\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]"), 4, "dimension 1 is not a number"},
        {T("\"dtype\":\"F32\",\"shape\":[1e999],\"data_offsets\":[0,4]"), 4, "bad header"},
        {T("\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,4]"), 4, "bad header"},
        {T("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]"), 1, "9 dimensions"},
        {T("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]"), 0, "more than 2^63 bytes"},
        {T("\"dtype\":\"F64\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]"), 0, "more than 2^63 bytes"},
        {T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]"), 4, "not an array of two integers"},
        {T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]"), 4, "not an array of two integers"},
        {T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4.0]"), 4, "not an array of two integers"},
        {T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]"), 4, "impossible data_offsets [-4, 0]"},
        {T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]"), 4, "impossible data_offsets [4, 0]"},
        {T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]"), 8,
         "f32[1] takes 4 bytes, but data_offsets span 8"},
        {T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]"), 3, "truncated: tensor 't' ends at data byte 4"},
        {T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]"), 5, "1 bytes after the last tensor"},
        {T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]"), 8, "leaving a hole after byte 0"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}",
         6, "tensor 'b' begins at data byte 2, overlapping the tensor before it, which ends at byte 4"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
         4, "overlapping"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[5,7]}}",
         7, "leaving a hole after byte 4"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
         4, "duplicate"},
        {"{\"\":{\"dtype\":\"U8\",\"shape\":[4],\"dtype\":\"I8\",\"data_offsets\":[0,4]}}", 4, "duplicate"},
        {"{\"__metadata__\":[]}", 0, "__metadata__ is not an object"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__: the value of 'a' is not a string"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
    {
        size_t n_bytes;
        uint8_t *bytes = make_file(cases[i].header, cases[i].n_data, &n_bytes);
        Safetensors *file = NULL;
        Status status = safetensors_open_memory("mem", bytes, n_bytes, &file);
        if (status == STATUS_OK)
            fail_msg("accepted: %s", cases[i].header);
        EXPECT_FAIL(status, STATUS_BAD_INPUT, cases[i].says);
        assert_ptr_equal(strstr(status_detail(), "mem: "), status_detail());
        free(bytes);
    }
}

static void test_header_length(void **state)
{
    (void)state;
    Safetensors *file = NULL;
    for (size_t n = 0; n < 8; n++)
        EXPECT_FAIL(safetensors_open_memory("mem", "\2\0\0\0\0\0\0\0", n, &file), STATUS_BAD_INPUT,
                    "not a safetensors file");
    EXPECT_FAIL(safetensors_open_memory("mem", "\3\0\0\0\0\0\0\0{}", 10, &file), STATUS_BAD_INPUT,
                "truncated: a header of 3 bytes in a file of 10");
    EXPECT_FAIL(safetensors_open_memory("mem", "\1\xe1\xf5\5\0\0\0\0{}", 10, &file), STATUS_BAD_INPUT,
                "a header of 100000001 bytes; at most 100000000");
    EXPECT_FAIL(safetensors_open_memory("mem", "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10, &file), STATUS_BAD_INPUT,
                "a header of 18446744073709551615 bytes");
    EXPECT_OK(safetensors_open_memory("mem", "\2\0\0\0\0\0\0\0{}", 10, &file));
    safetensors_close(file);
}

/* A failing write leaves the old file and nothing else. */
static void test_failed_write(void **state)
{
    const char *folder = *state;
    const uint8_t one = 1;
    const NamedTensor tensor = {.name = "t", .elem = ELEM_U8, .data = &one};
    EXPECT_FAIL(safetensors_write(path_in(folder, "no/such/folder"), &tensor, 1, NULL, 0, NULL), STATUS_IO,
                "cannot create");
    DurableFile *file = NULL;
    const char *path = path_in(folder, "kept");
    write_bytes(path, "old", 3);
    EXPECT_OK(durable_file_create(path, &file));
    EXPECT_OK(durable_file_write(file, "new", 3));
    durable_file_abandon(file);
    char *text = read_bytes(path, NULL);
    assert_string_equal(text, "old");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_no_tensors),
        cmocka_unit_test(test_file_of_others), cmocka_unit_test(test_hostile_headers),
        cmocka_unit_test(test_header_length),  cmocka_unit_test(test_failed_write),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
