/* Columns of tables as fields: labels and their classes, numbers, one table for several fields, limits. */
#include "data_test.h"

#include "runtime/dataset_formats.h"

#include <stdlib.h>

static const char *write_table(const char *folder, const char *name, const char *text)
{
    const char *path = path_in(folder, name);
    write_bytes(path, text, strlen(text));
    return path;
}

static DatasetSource label_of(const char *path)
{
    return (DatasetSource){.field = "label", .format = "label", .path = path, .columns = {"y"}};
}

static void expect_labels(const Dataset *dataset, const int32_t *want)
{
    for (uint64_t i = 0; i < dataset_n_samples(dataset); i++)
    {
        int32_t have;
        EXPECT_OK(dataset_read(dataset, 0, i, &(DatasetPass){0}, &have));
        assert_int_equal(have, want[i]);
    }
}

/* Opens, compares with want, closes; the number of classes. */
static uint32_t classes_of(const DatasetSource *source, const int32_t *want)
{
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(source, 1, &dataset));
    expect_labels(dataset, want);
    uint32_t n = dataset_labels(dataset, 0)->n_labels;
    dataset_close(dataset);
    return n;
}

static void test_names(void **state)
{
    DatasetSource source = label_of(write_table(*state, "train.csv", "x,y\n1,pear\n2,apple\n3,pear\n4,Fig\n5,app\n"));
    Dataset *train = NULL, *test = NULL;
    EXPECT_OK(dataset_open(&source, 1, &train));
    expect_labels(train, (const int32_t[]){3, 2, 3, 0, 1});
    const DatasetLabels *labels = dataset_labels(train, 0);
    const char *const names[] = {"Fig", "app", "apple", "pear"};
    assert_int_equal(labels->n_labels, 4);
    for (int i = 0; i < 4; i++)
        assert_string_equal(labels->names[i], names[i]);

    /* the test split is held to them, though it has fewer */
    source = label_of(write_table(*state, "test.tsv", "y\tx\npear\t1\nFig\t2\n"));
    source.labels = labels;
    EXPECT_OK(dataset_open(&source, 1, &test));
    dataset_close(train); /* the test split has its own copy */
    expect_labels(test, (const int32_t[]){3, 0});
    assert_string_equal(dataset_labels(test, 0)->names[3], "pear");
    source.labels = dataset_labels(test, 0);
    Dataset *other = NULL;
    source.path = write_table(*state, "other.csv", "x,y\n1,pear\n\"2\n\",plum\n");
    EXPECT_FAIL(dataset_open(&source, 1, &other), STATUS_BAD_INPUT,
                "other.csv:3: the label 'plum' of 'label' is none of the training split's 4");
    dataset_close(test);
}

static void test_whole_numbers(void **state)
{
    DatasetSource source = label_of(write_table(*state, "train.csv", "y\n10\n0\n2\n1\n3\n4\n5\n6\n7\n8\n9\n"));
    assert_int_equal(classes_of(&source, (const int32_t[]){10, 0, 2, 1, 3, 4, 5, 6, 7, 8, 9}), 11);
    source.path = write_table(*state, "train.csv", "y\n2\n0\n");
    source.n_classes = 3; /* as they are, although one is not seen */
    assert_int_equal(classes_of(&source, (const int32_t[]){2, 0}), 3);
    source.n_classes = 0; /* not 0..1: the distinct values */
    assert_int_equal(classes_of(&source, (const int32_t[]){1, 0}), 2);
    source.path = write_table(*state, "train.jsonl", "{\"y\": -1}\n{\"y\": 10}\n{\"y\": 9}\n");
    assert_int_equal(classes_of(&source, (const int32_t[]){0, 2, 1}), 3); /* in order of value, not of bytes */
    source.path = write_table(*state, "train.csv", "y\n01\n1\n");         /* two spellings are two labels */
    assert_int_equal(classes_of(&source, (const int32_t[]){0, 1}), 2);

    const DatasetLabels three = {.n_labels = 3};
    Dataset *dataset = NULL;
    source.path = write_table(*state, "test.csv", "y\n2\n3\n");
    source.labels = &three;
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "test.csv:3: the label '3' of 'label' is none");
}

static void test_classes_must_agree(void **state)
{
    Dataset *dataset = NULL;
    DatasetSource source = label_of(write_table(*state, "train.csv", "y\na\nb\nc\n"));
    source.n_classes = 2;
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT,
                "train.csv: column 'y' has 3 different labels, but 'label' has 2 classes");
    source.n_classes = 4;
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "3 different labels, but 'label' has 4 classes");
    source.n_classes = 3;
    assert_int_equal(classes_of(&source, (const int32_t[]){0, 1, 2}), 3);
    source.path = write_table(*state, "train.csv", "y\n0\n1\n7\n2\n");
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT,
                "train.csv:4: the label 7 of 'label' is not in 0..2");
    source.path = write_table(*state, "train.csv", "x,y\n0,a\n1,\n");
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "train.csv:3: the label (column 'y') is empty");
}

/* The limit leaves samples out, not classes; all fields are read from one table. */
static void test_limit_and_sharing(void **state)
{
    const char *path = write_table(*state, "train.csv", "y,score\nb,1\nb,-2.5e-1\nc,3\na,4\n");
    DatasetSource sources[] = {
        label_of(path), {.field = "score", .format = "number", .path = path, .columns = {"score"}, .n_samples = 2}};
    sources[0].n_samples = 2;
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(sources, 2, &dataset));
    assert_int_equal(dataset_n_samples(dataset), 2);
    assert_int_equal(dataset_labels(dataset, 0)->n_labels, 3);
    assert_null(dataset_labels(dataset, 1));
    expect_labels(dataset, (const int32_t[]){1, 1});
    float score;
    EXPECT_OK(dataset_read(dataset, 1, 1, &(DatasetPass){0}, &score));
    assert_true(score == -0.25f);
    dataset_close(dataset);

    DatasetShared *shared = dataset_shared_create(sources, 2);
    FieldReader readers[2];
    EXPECT_OK(dataset_open_label(&sources[0], shared, &readers[0]));
    EXPECT_OK(dataset_open_number(&sources[1], shared, &readers[1]));
    assert_int_equal(shared->tables.len, 1);
    readers[0].close(&readers[0]);
    readers[1].close(&readers[1]);
    dataset_shared_destroy(shared);
}

/* Of two limits the smaller one holds, whichever field it is on. */
static void test_smaller_limit(void **state)
{
    const char *path = write_table(*state, "train.csv", "y,score\na,1\nb,2\nc,3\n");
    DatasetSource sources[] = {label_of(path),
                               {.field = "score", .format = "number", .path = path, .columns = {"score"}}};
    sources[0].n_samples = 1;
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(sources, 2, &dataset));
    assert_int_equal(dataset_n_samples(dataset), 1);
    dataset_close(dataset);
}

static void test_numbers(void **state)
{
    static const char *const wrong[] = {"", "x", "1 ", " 1", "1,5", "nan", "inf", "1e999", "0x"};
    Dataset *dataset = NULL;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
    {
        char text[64];
        snprintf(text, sizeof text, "y\tz\n1\t\n%s\t\n", wrong[i]);
        DatasetSource source = {
            .field = "score", .format = "number", .path = write_table(*state, "train.tsv", text), .columns = {"y"}};
        EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "train.tsv:3: 'y' is '");
    }
}

static void test_refusals(void **state)
{
    Dataset *dataset = NULL;
    DatasetSource source = label_of(write_table(*state, "train.dat", "y\na\nb\n"));
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "tables are csv, tsv, jsonl or txt");
    source.table = "tsv";
    assert_int_equal(classes_of(&source, (const int32_t[]){0, 1}), 2);
    source.columns[0] = "z";
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "train.dat:1: there is no column 'z'");
    source.columns[0] = NULL;
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "format 'label' needs one column");
    source.format = "lable";
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "did you mean 'label'?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_whole_numbers),
        cmocka_unit_test(test_classes_must_agree),
        cmocka_unit_test(test_limit_and_sharing),
        cmocka_unit_test(test_smaller_limit),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
