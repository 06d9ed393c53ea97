/* Data sets: fields that fit together, batches with padding and mask, synthetic values, range checks. */
#include "data_test.h"

#include "runtime/dataset.h"
#include "runtime/sampler.h"

#include <stdlib.h>

static const uint8_t images[] = {0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 10, 11, 20, 21, 30, 31};
static const uint8_t labels[] = {0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 12};

static Dataset *open_small(const char *folder)
{
    const char *image_path = path_in(folder, "images"), *label_path = path_in(folder, "labels");
    write_bytes(image_path, images, sizeof images);
    write_bytes(label_path, labels, sizeof labels);
    const DatasetSource sources[] = {{.field = "image", .format = "idx", .path = image_path},
                                     {.field = "label", .format = "idx", .path = label_path}};
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(sources, 2, &dataset));
    return dataset;
}

static void test_fields(void **state)
{
    Dataset *dataset = open_small(*state);
    assert_int_equal(dataset_n_samples(dataset), 3);
    assert_int_equal(dataset_n_fields(dataset), 2);
    uint32_t label;
    assert_true(dataset_field_find(dataset, "label", &label));
    assert_false(dataset_field_find(dataset, "mask", &label));
    assert_int_equal(label, 1);
    assert_int_equal(dataset_field(dataset, 1)->rank, 0);
    assert_int_equal(dataset_field(dataset, 0)->sample_bytes, 2);
    uint8_t pair[2];
    EXPECT_OK(dataset_read(dataset, 0, 2, &(DatasetPass){0}, pair));
    assert_int_equal(pair[1], 31);

    const int64_t right[] = {1, 2}, wrong[] = {2, 1};
    EXPECT_OK(dataset_check_slot(dataset, 0, ELEM_U8, 2, right));
    EXPECT_OK(dataset_check_slot(dataset, 1, ELEM_I32, 0, NULL));
    EXPECT_FAIL(dataset_check_slot(dataset, 0, ELEM_U8, 2, wrong), STATUS_BAD_INPUT,
                "each sample of 'image' is u8[1x2]; the model wants u8[2x1]");
    EXPECT_FAIL(dataset_check_slot(dataset, 0, ELEM_BF16, 2, right), STATUS_BAD_INPUT, "the model wants bf16[1x2]");
    dataset_close(dataset);
}

static void test_only_the_first(void **state)
{
    dataset_close(open_small(*state)); /* writes the files */
    const DatasetSource two = {.field = "label", .format = "idx", .path = path_in(*state, "labels"), .n_samples = 2};
    DatasetSource many = two;
    many.n_samples = 100;
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(&two, 1, &dataset));
    assert_int_equal(dataset_n_samples(dataset), 2);
    EXPECT_OK(dataset_check_range(dataset, 0, 1, 2)); /* the third label, 12, is not looked at */
    dataset_close(dataset);
    EXPECT_OK(dataset_open(&many, 1, &dataset));
    assert_int_equal(dataset_n_samples(dataset), 3);
    dataset_close(dataset);
}

static void test_rows(void **state)
{
    Dataset *dataset = open_small(*state);
    uint8_t image[3][2];
    int32_t label[3];
    memset(image, 0xee, sizeof image);
    memset(label, 0xee, sizeof label);
    const BatchSlot images_slot = {.field = 0, .elem = ELEM_U8, .data = image},
                    labels_slot = {.field = 1, .elem = ELEM_I32, .data = label};
    const uint64_t indices[] = {1, 2, 0};
    const DatasetPass pass = {0};
    assert_int_equal(dataset_row_bytes(dataset, &images_slot), 2);
    assert_int_equal(dataset_row_bytes(dataset, &labels_slot), 4);
    EXPECT_OK(dataset_fill_rows(dataset, &pass, &images_slot, indices, 1, 2));
    EXPECT_OK(dataset_fill_rows(dataset, &pass, &labels_slot, indices, 1, 2));
    const uint8_t expected[3][2] = {{0xee, 0xee}, {30, 31}, {10, 11}};
    assert_memory_equal(image, expected, sizeof image);
    assert_int_equal(label[0], (int32_t)0xeeeeeeee);
    assert_int_equal(label[1], 12);
    assert_int_equal(label[2], 1);
    dataset_close(dataset);
}

static void test_range(void **state)
{
    Dataset *dataset = open_small(*state);
    EXPECT_OK(dataset_check_range(dataset, 1, 0, 12));
    EXPECT_FAIL(dataset_check_range(dataset, 1, 0, 9), STATUS_BAD_INPUT, "labels: sample 2: label 12 is not in 0..9");
    EXPECT_FAIL(dataset_check_range(dataset, 1, 2, 12), STATUS_BAD_INPUT, "sample 0: label 1 is not in 2..12");
    dataset_close(dataset);
}

static void test_sources_that_do_not_fit(void **state)
{
    const char *folder = *state;
    dataset_close(open_small(folder));
    const char *image_path = path_in(folder, "images"), *label_path = path_in(folder, "labels");
    const uint8_t two[] = {0, 0, 8, 1, 0, 0, 0, 2, 1, 2};
    write_bytes(label_path, two, sizeof two);
    Dataset *dataset = NULL;
    DatasetSource sources[] = {{.field = "image", .format = "idx", .path = image_path},
                               {.field = "label", .format = "idx", .path = label_path}};
    EXPECT_FAIL(dataset_open(sources, 2, &dataset), STATUS_BAD_INPUT, "has 2 samples, but 'image'");
    EXPECT_FAIL(dataset_open(sources, 0, &dataset), STATUS_BAD_INPUT, "at least one field");
    sources[1].field = "image";
    EXPECT_FAIL(dataset_open(sources, 2, &dataset), STATUS_BAD_INPUT, "'image' is given twice");
    sources[1] = (DatasetSource){.field = "label", .format = "idz", .path = label_path};
    EXPECT_FAIL(dataset_open(sources, 2, &dataset), STATUS_BAD_INPUT, "unknown format 'idz'; did you mean 'idx'?");
    sources[1] = (DatasetSource){.field = "label", .format = "idx"};
    EXPECT_FAIL(dataset_open(sources, 2, &dataset), STATUS_BAD_INPUT, "needs a path");
    sources[1].path = path_in(folder, "none");
    EXPECT_FAIL(dataset_open(sources, 2, &dataset), STATUS_BAD_INPUT, "No such file");
}

static void test_synthetic(void **state)
{
    (void)state;
    DatasetSource sources[] = {
        {.field = "x",
         .format = "synthetic",
         .elem = ELEM_F32,
         .rank = 2,
         .dims = {3, 5},
         .n_samples = 1000,
         .seed = 7,
         .low = -1,
         .high = 1},
        {.field = "y", .format = "synthetic", .elem = ELEM_I32, .n_samples = 1000, .seed = 7, .low = 0, .high = 9},
    };
    Dataset *dataset = NULL, *same = NULL, *other = NULL;
    EXPECT_OK(dataset_open(sources, 2, &dataset));
    EXPECT_OK(dataset_open(sources, 2, &same));
    sources[0].seed = 8;
    EXPECT_OK(dataset_open(sources, 2, &other));
    EXPECT_OK(dataset_check_range(dataset, 0, -1, 1));
    EXPECT_OK(dataset_check_range(dataset, 1, 0, 9));
    uint64_t digests[3];
    EXPECT_OK(dataset_digest(dataset, 0, &digests[0]));
    EXPECT_OK(dataset_digest(same, 0, &digests[1]));
    EXPECT_OK(dataset_digest(other, 0, &digests[2]));
    assert_true(digests[0] == digests[1] && digests[0] != digests[2]);

    uint32_t count[10] = {0};
    double sum = 0;
    for (uint64_t i = 1000; i-- > 0;) /* in another order than the check above */
    {
        float a[15], b[15], c[15];
        EXPECT_OK(dataset_read(dataset, 0, i, &(DatasetPass){0}, a));
        EXPECT_OK(dataset_read(same, 0, i, &(DatasetPass){0}, b));
        EXPECT_OK(dataset_read(other, 0, i, &(DatasetPass){0}, c));
        assert_memory_equal(a, b, sizeof a);
        assert_memory_not_equal(a, c, sizeof a);
        for (int k = 0; k < 15; k++)
            sum += a[k];
        int32_t label;
        EXPECT_OK(dataset_read(dataset, 1, i, &(DatasetPass){0}, &label));
        count[label]++;
    }
    assert_true(sum / 15000 > -0.03 && sum / 15000 < 0.03);
    for (int k = 0; k < 10; k++)
        assert_in_range(count[k], 50, 150);
    dataset_close(dataset);
    dataset_close(same);
    dataset_close(other);
}

static void test_synthetic_refusals(void **state)
{
    (void)state;
    Dataset *dataset = NULL;
    DatasetSource source = {
        .field = "y", .format = "synthetic", .elem = ELEM_U8, .n_samples = 1, .low = 0, .high = 256};
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "0..256 is not a range of u8");
    source.high = 0.5;
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "not a range");
    source.high = 1;
    source.n_samples = 0;
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "has no samples");
    source.elem = ELEM_BF16;
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "bf16 are not supported");
    source = (DatasetSource){
        .field = "x", .format = "synthetic", .elem = ELEM_F32, .rank = 1, .dims = {-1}, .n_samples = 1, .high = 1};
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "impossible sample shape");
}

/* The real data: every sample of an epoch once, labels evenly spread. */
static void test_fashion_mnist_epoch(void **state)
{
    (void)state;
    const DatasetSource sources[] = {
        {.field = "image", .format = "idx", .path = "/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz"},
        {.field = "label", .format = "idx", .path = "/usr/share/datasets/fashion-mnist/t10k-labels-idx1-ubyte.gz"}};
    FILE *there = fopen(sources[0].path, "rb");
    if (!there)
        TEST_SKIP("package dataset-fashion-mnist is not installed");
    fclose(there);
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(sources, 2, &dataset));
    EXPECT_OK(dataset_check_range(dataset, 1, 0, 9));
    Sampler sampler = sampler_make(dataset_n_samples(dataset), test_seed(), true);
    SamplerPosition position = {0};
    enum
    {
        BATCH = 64
    };
    float *image = malloc(sizeof(float) * BATCH * 784);
    int32_t label[BATCH];
    uint64_t indices[BATCH];
    uint32_t count[10] = {0};
    uint32_t n_seen = 0;
    const DatasetPass pass = {0};
    const BatchSlot slots[] = {{.field = 0, .elem = ELEM_F32, .data = image},
                               {.field = 1, .elem = ELEM_I32, .data = label}};
    while (position.epoch == 0)
    {
        uint32_t n = sampler_next(&sampler, &position, BATCH, indices);
        for (int i = 0; i < 2; i++)
            EXPECT_OK(dataset_fill_rows(dataset, &pass, &slots[i], indices, 0, n));
        n_seen += n;
        for (uint32_t i = 0; i < n; i++)
            count[label[i]]++;
    }
    assert_int_equal(n_seen, 10000);
    for (int i = 0; i < 10; i++)
        assert_int_equal(count[i], 1000);
    free(image);
    dataset_close(dataset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_only_the_first),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_range),
        cmocka_unit_test(test_sources_that_do_not_fit),
        cmocka_unit_test(test_synthetic),
        cmocka_unit_test(test_synthetic_refusals),
        cmocka_unit_test(test_fashion_mnist_epoch),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
