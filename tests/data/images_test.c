/* Data formats cifar and images: what is in a batch, which classes there are, and who is told when a file is broken. */
#include "data_test.h"

#include "runtime/loader.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <png.h>

enum
{
    SIDE = 8,
    PIXELS = SIDE * SIDE * 3
};

/* A picture whose every byte is `value`. */
static void write_picture(const char *folder, const char *name, uint8_t value)
{
    uint8_t pixels[PIXELS];
    memset(pixels, value, sizeof pixels);
    png_image image = {.version = PNG_IMAGE_VERSION, .width = SIDE, .height = SIDE, .format = PNG_FORMAT_RGB};
    assert_true(png_image_write_to_file(&image, path_in(folder, name), 0, pixels, 0, NULL));
}

static void make_folder(const char *folder, const char *name)
{
    assert_int_equal(mkdir(path_in(folder, name), 0777), 0);
}

static DatasetSource image_of(const char *path)
{
    return (DatasetSource){.field = "x",
                           .format = "images",
                           .part = "image",
                           .path = path,
                           .elem = ELEM_U8,
                           .rank = 3,
                           .dims = {SIDE, SIDE, 3}};
}

static DatasetSource label_of(const char *path)
{
    return (DatasetSource){.field = "y", .format = "images", .part = "label", .path = path, .elem = ELEM_I32};
}

static void expect_sample(const Dataset *dataset, uint64_t sample, uint8_t value, int32_t label)
{
    const DatasetPass pass = {0};
    uint8_t pixels[PIXELS], want[PIXELS];
    int32_t have;
    memset(want, value, sizeof want);
    EXPECT_OK(dataset_read(dataset, 0, sample, &pass, pixels));
    assert_memory_equal(pixels, want, sizeof want);
    EXPECT_OK(dataset_read(dataset, 1, sample, &pass, &have));
    assert_int_equal(have, label);
}

static void test_folder(void **state)
{
    const char *folder = *state;
    make_folder(folder, "train");
    make_folder(folder, "train/cat");
    make_folder(folder, "train/ant");
    make_folder(folder, "train/ant/more");
    make_folder(folder, "train/.hidden");
    write_picture(folder, "train/cat/b.PNG", 4);
    write_picture(folder, "train/cat/a.png", 3);
    write_picture(folder, "train/ant/z.png", 2);
    write_picture(folder, "train/ant/more/a.png", 1);
    write_bytes(path_in(folder, "train/ant/notes.txt"), "hello", 5);
    write_bytes(path_in(folder, "train/readme"), "hello", 5);
    const char *path = path_in(folder, "train");
    const DatasetSource sources[] = {image_of(path), label_of(path)};
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(sources, 2, &dataset));
    assert_int_equal(dataset_n_samples(dataset), 4);
    assert_true(dataset_is_costly(dataset));
    for (int i = 0; i < 4; i++)
        expect_sample(dataset, (uint64_t)i, (uint8_t)(i + 1), i / 2);
    const DatasetLabels *labels = dataset_labels(dataset, 1);
    assert_int_equal(labels->n_labels, 2);
    assert_string_equal(labels->names[0], "ant");
    assert_string_equal(labels->names[1], "cat");
    EXPECT_OK(dataset_verify(dataset));
    uint64_t digest, again;
    EXPECT_OK(dataset_digest(dataset, 0, &digest));
    EXPECT_OK(dataset_digest(dataset, 0, &again));
    assert_true(digest == again);
    const struct timespec times[] = {{.tv_sec = 1}, {.tv_sec = 1}};
    assert_int_equal(utimensat(AT_FDCWD, path_in(folder, "train/cat/a.png"), times, 0), 0); /* written to */
    EXPECT_OK(dataset_digest(dataset, 0, &again));
    assert_true(digest != again);

    /* a split without the first class keeps the numbers of the others */
    make_folder(folder, "test");
    make_folder(folder, "test/cat");
    write_picture(folder, "test/cat/1.png", 9);
    DatasetSource test[] = {image_of(path_in(folder, "test")), label_of(path_in(folder, "test"))};
    test[1].labels = labels;
    Dataset *other = NULL;
    EXPECT_OK(dataset_open(test, 2, &other));
    expect_sample(other, 0, 9, 1);
    dataset_close(other);
    make_folder(folder, "test/dog");
    EXPECT_FAIL(dataset_open(test, 2, &other), STATUS_BAD_INPUT, "test/dog: there is no .jpg, .jpeg or .png file");
    write_picture(folder, "test/dog/1.png", 9);
    EXPECT_FAIL(dataset_open(test, 2, &other), STATUS_BAD_INPUT,
                "test/dog: this class of 'y' is none of the training split's 2");
    dataset_close(dataset);
}

static void test_table(void **state)
{
    const char *folder = *state;
    char absolute[1024];
    write_picture(folder, "one.png", 1);
    make_folder(folder, "in");
    write_picture(folder, "in/two.png", 2);
    const int n =
        snprintf(absolute, sizeof absolute, "file,kind\nin/two.png,b\n%s,a\none.png,a\n", path_in(folder, "one.png"));
    write_bytes(path_in(folder, "table.csv"), absolute, (size_t)n);
    DatasetSource sources[] = {image_of(path_in(folder, "table.csv")), label_of(path_in(folder, "table.csv"))};
    sources[0].columns[0] = "file";
    sources[1].format = "label";
    sources[1].part = NULL;
    sources[1].columns[0] = "kind";
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(sources, 2, &dataset));
    assert_int_equal(dataset_n_samples(dataset), 3);
    expect_sample(dataset, 0, 2, 1);
    expect_sample(dataset, 1, 1, 0);
    expect_sample(dataset, 2, 1, 0);
    dataset_close(dataset);
}

static void test_refusals(void **state)
{
    const char *folder = *state;
    Dataset *dataset = NULL;
    make_folder(folder, "empty");
    DatasetSource source = image_of(path_in(folder, "empty"));
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "empty: there is no folder of a class in it");
    source.part = "ids";
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "has the part image");
    source = image_of(path_in(folder, "none"));
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "none' is no folder");
    make_folder(folder, "good");
    make_folder(folder, "good/a");
    write_picture(folder, "good/a/1.png", 1);
    source = image_of(path_in(folder, "good"));
    source.dims[2] = 4;
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "height x width x 1 or 3");
    /* folders that are a ring */
    assert_int_equal(symlink(".", path_in(folder, "good/a/ring")), 0);
    source = image_of(path_in(folder, "good"));
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "folders in one another");
}

/* Of several broken files the first in the batch is told, however many threads there are. */
static void test_broken_files(void **state)
{
    enum
    {
        N = 60
    };
    const char *folder = *state;
    char name[64];
    make_folder(folder, "pictures");
    make_folder(folder, "pictures/a");
    for (int i = 0; i < N; i++)
    {
        snprintf(name, sizeof name, "pictures/a/%02d.png", i);
        write_picture(folder, name, (uint8_t)i);
    }
    write_bytes(path_in(folder, "pictures/a/20.png"), "", 0);
    write_bytes(path_in(folder, "pictures/a/41.png"), "hello", 5);
    const DatasetSource source = image_of(path_in(folder, "pictures"));
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(&source, 1, &dataset));
    EXPECT_FAIL(dataset_verify(dataset), STATUS_BAD_INPUT, "pictures/a/20.png (sample 20): the file is empty");

    uint8_t *pixels = malloc((size_t)2 * N * PIXELS);
    uint64_t indices[N];
    for (uint32_t i = 0; i < N; i++)
        indices[i] = N - 1 - i; /* the last sample first */
    LoaderSlot slots[2];
    for (int i = 0; i < 2; i++)
        slots[i] = (LoaderSlot){
            .slot = {.elem = ELEM_U8, .data = pixels + (size_t)i * N * PIXELS}, .indices = indices, .n = N, .rows = N};
    for (uint32_t n_threads = 1; n_threads <= 8; n_threads *= 2)
    {
        Loader *loader = NULL;
        LoaderBatch batch = {.dataset = dataset, .slots = &slots[0], .n_slots = 1}, again = batch;
        again.slots = &slots[1];
        EXPECT_OK(loader_create(n_threads, true, &loader));
        loader_start(loader, &batch);
        loader_start(loader, &again);
        EXPECT_FAIL(loader_wait(loader, &batch), STATUS_BAD_INPUT, "pictures/a/41.png (sample 41): this is neither");
        EXPECT_FAIL(loader_wait(loader, &again), STATUS_BAD_INPUT, "pictures/a/41.png (sample 41): this is neither");
        loader_start(loader, &batch);
        loader_destroy(loader); /* with a failure that nobody has heard of, perhaps */
    }
    free(pixels);
    dataset_close(dataset);
}

/* ---- cifar */

/* Records whose pixel (c, y, x) is a function of the record and of c, y, x. */
static uint8_t cifar_pixel(uint32_t record, uint32_t c, uint32_t y, uint32_t x)
{
    return (uint8_t)(record * 31 + c * 50 + y * 3 + x);
}

static void write_cifar(const char *path, uint32_t first, uint32_t n, uint32_t n_labels)
{
    const size_t record_bytes = n_labels + 3072;
    uint8_t *bytes = malloc(n * record_bytes), *at = bytes;
    for (uint32_t i = first; i < first + n; i++)
    {
        if (n_labels == 2)
            *at++ = (uint8_t)(i % 20);
        *at++ = (uint8_t)(i % 10 + (n_labels == 2 ? 90 : 0));
        for (uint32_t c = 0; c < 3; c++)
            for (uint32_t y = 0; y < 32; y++)
                for (uint32_t x = 0; x < 32; x++)
                    *at++ = cifar_pixel(i, c, y, x);
    }
    write_bytes(path, bytes, n * record_bytes);
    free(bytes);
}

static DatasetSource cifar_image(const char *path)
{
    return (DatasetSource){.field = "x",
                           .format = "cifar",
                           .part = "image",
                           .path = path,
                           .elem = ELEM_U8,
                           .rank = 3,
                           .dims = {32, 32, 3}};
}

static DatasetSource cifar_label(const char *path, const char *part, int64_t n_classes)
{
    return (DatasetSource){
        .field = part, .format = "cifar", .part = part, .path = path, .elem = ELEM_I32, .n_classes = n_classes};
}

static void test_cifar10(void **state)
{
    const char *folder = *state;
    write_cifar(path_in(folder, "data_batch_1.bin"), 0, 3, 1);
    write_cifar(path_in(folder, "data_batch_2.bin"), 3, 1, 1);
    write_cifar(path_in(folder, "data_batch_3.bin"), 4, 4, 1);
    write_cifar(path_in(folder, "test_batch.bin"), 9, 1, 1);
    const char *path = path_in(folder, "data_batch_*.bin");
    const DatasetSource sources[] = {cifar_image(path), cifar_label(path, "label", 10)};
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(sources, 2, &dataset));
    assert_int_equal(dataset_n_samples(dataset), 8);
    assert_false(dataset_is_costly(dataset));
    static uint8_t pixels[32][32][3];
    for (uint32_t i = 8; i-- > 0;)
    {
        int32_t label;
        const DatasetPass pass = {0};
        EXPECT_OK(dataset_read(dataset, 0, i, &pass, pixels));
        EXPECT_OK(dataset_read(dataset, 1, i, &pass, &label));
        assert_int_equal(label, i);
        for (uint32_t k = 0; k < 3072; k++)
            assert_int_equal(pixels[k / 96][k / 3 % 32][k % 3], cifar_pixel(i, k % 3, k / 96, k / 3 % 32));
    }
    dataset_close(dataset);

    /* a file that is there is itself, star or not */
    write_cifar(path_in(folder, "data_batch_*.bin"), 0, 2, 1);
    EXPECT_OK(dataset_open(sources, 2, &dataset));
    assert_int_equal(dataset_n_samples(dataset), 2);
    dataset_close(dataset);
}

static void test_cifar100(void **state)
{
    const char *path = path_in(*state, "train.bin");
    write_cifar(path, 0, 25, 2);
    const DatasetSource sources[] = {cifar_image(path), cifar_label(path, "label", 100),
                                     cifar_label(path, "coarse", 20)};
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(sources, 3, &dataset));
    int32_t label;
    const DatasetPass pass = {0};
    EXPECT_OK(dataset_read(dataset, 1, 24, &pass, &label));
    assert_int_equal(label, 94);
    EXPECT_OK(dataset_read(dataset, 2, 24, &pass, &label));
    assert_int_equal(label, 4);
    dataset_close(dataset);
}

/* 3073 records of 3074 bytes are as long as 3074 of 3073: the labels tell. */
static void test_cifar_same_length(void **state)
{
    const char *path = path_in(*state, "train.bin");
    write_cifar(path, 0, 3073, 2);
    const DatasetSource source = cifar_label(path, "label", 100);
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(&source, 1, &dataset));
    assert_int_equal(dataset_n_samples(dataset), 3073);
    dataset_close(dataset);
}

static void test_cifar_refusals(void **state)
{
    const char *folder = *state, *path = path_in(folder, "a.bin");
    Dataset *dataset = NULL;
    DatasetSource source = cifar_image(path);
    write_bytes(path, "", 0);
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "a.bin: the file is empty");
    write_cifar(path, 0, 1, 1);
    write_cifar(path_in(folder, "b.bin"), 0, 1, 2);
    source.path = path_in(folder, "*.bin");
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT,
                "b.bin: this file is of CIFAR-100, the one before");
    source.path = path;
    source.dims[0] = 33;
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "32 x 32 pixels, smaller than the 32 x 33");
    source.part = "ids";
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "parts image, label and coarse");
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, scratch_create, scratch_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_folder),  CASE(test_table),    CASE(test_refusals),          CASE(test_broken_files),
        CASE(test_cifar10), CASE(test_cifar100), CASE(test_cifar_same_length), CASE(test_cifar_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
