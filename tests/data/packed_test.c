/* Blocks of packed texts: ids, targets, documents, masks; over rows, empty ones and chunks; plain text files. */
#include "data_test.h"

#include "runtime/dataset.h"

#include <stdio.h>

enum
{
    END = 3, /* [SEP] */
    A = 5,
    B = 6,
    C = 7,
    D = 8
};

static const char *write_text(const char *folder, const char *name, const char *text)
{
    const char *path = path_in(folder, name);
    write_bytes(path, text, strlen(text));
    return path;
}

/* Whose end token is called so. */
static const char *write_vocab(const char *folder, const char *end)
{
    static char path[512];
    char text[128];
    snprintf(text, sizeof text, "{\"eos_token\": \"%s\"}", end);
    write_text(folder, "tokenizer_config.json", text);
    snprintf(path, sizeof path, "%s",
             write_text(folder, "vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\nd\n##x\n"));
    return path;
}

static DatasetSource packed_of(const char *path, const char *vocab, const char *part, int64_t length)
{
    return (DatasetSource){.field = part,
                           .format = "packed",
                           .path = path,
                           .tokenizer = vocab,
                           .part = part,
                           .columns = {"text"},
                           .elem = ELEM_I32,
                           .rank = 1,
                           .dims = {length}};
}

static void expect_block(const Dataset *dataset, uint32_t field, uint64_t sample, const int32_t *want)
{
    int32_t have[64];
    const DatasetField *info = dataset_field(dataset, field);
    EXPECT_OK(dataset_read(dataset, field, sample, &(DatasetPass){0}, have));
    for (uint64_t i = 0; i < info->sample_elems; i++)
        if (have[i] != want[i])
            fail_msg("field '%s', block %d, place %d: %d, not %d", info->name, (int)sample, (int)i, have[i], want[i]);
}

/* a b | c | (nothing) | d a b c: 7 tokens and 3 ends */
static void expect_blocks(const char *path, const char *vocab)
{
    DatasetSource sources[] = {packed_of(path, vocab, "ids", 3), packed_of(path, vocab, "targets", 3),
                               packed_of(path, vocab, "documents", 3), packed_of(path, vocab, "mask", 3)};
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(sources, 4, &dataset));
    assert_int_equal(dataset_n_samples(dataset), 3); /* the tenth token is a target only */
    expect_block(dataset, 0, 0, (const int32_t[]){A, B, END});
    expect_block(dataset, 1, 0, (const int32_t[]){B, END, C});
    expect_block(dataset, 2, 0, (const int32_t[]){0, 0, 0});
    expect_block(dataset, 0, 1, (const int32_t[]){C, END, D});
    expect_block(dataset, 1, 1, (const int32_t[]){END, D, A});
    expect_block(dataset, 2, 1, (const int32_t[]){0, 0, 2}); /* the empty text has a number, too */
    expect_block(dataset, 0, 2, (const int32_t[]){A, B, C});
    expect_block(dataset, 1, 2, (const int32_t[]){B, C, END});
    expect_block(dataset, 2, 2, (const int32_t[]){0, 0, 0});
    expect_block(dataset, 3, 1, (const int32_t[]){1, 1, 1});
    dataset_close(dataset);
}

static void test_parts(void **state)
{
    const char *vocab = write_vocab(*state, "[SEP]");
    expect_blocks(write_text(*state, "train.csv", "y,text\n0,a b\n1,c\n0,\n1,d a b c\n"), vocab);
    expect_blocks(write_text(*state, "train.txt", "a b\nc\n\nd a b c\n"), vocab);
    expect_blocks(write_text(*state, "windows.txt",
                             "\xEF\xBB\xBF"
                             "a b\r\nc\r\n\r\nd a b c"),
                  vocab);
}

/* The limit is of blocks, not of texts. */
static void test_limit(void **state)
{
    const char *vocab = write_vocab(*state, "[SEP]");
    const char *path = write_text(*state, "limit.txt", "a b\nc\n\nd a b c\n");
    DatasetSource source = packed_of(path, vocab, "ids", 3);
    source.n_samples = 2;
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(&source, 1, &dataset));
    assert_int_equal(dataset_n_samples(dataset), 2);
    expect_block(dataset, 0, 1, (const int32_t[]){C, END, D});
    dataset_close(dataset);
}

/* 1,000 rows, of i % 5 tokens each: every block against what is counted here. */
static void test_many_rows(void **state)
{
    enum
    {
        N_ROWS = 1000,
        LENGTH = 37
    };
    static int32_t tokens[N_ROWS * 6], rows[N_ROWS * 6];
    const char *vocab = write_vocab(*state, "[SEP]"), *path = path_in(*state, "many.txt");
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    uint32_t n = 0;
    for (int row = 0; row < N_ROWS; row++)
    {
        for (int i = 0; i < row % 5; i++, n++)
        {
            fprintf(file, "%s%c", i ? " " : "", "abcd"[(row + i) % 4]);
            tokens[n] = A + (row + i) % 4;
            rows[n] = row;
        }
        fprintf(file, "\n");
        if (row % 5)
        {
            tokens[n] = END;
            rows[n++] = row;
        }
    }
    fclose(file);
    DatasetSource sources[] = {packed_of(path, vocab, "ids", LENGTH), packed_of(path, vocab, "targets", LENGTH),
                               packed_of(path, vocab, "documents", LENGTH)};
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(sources, 3, &dataset));
    const uint64_t n_blocks = dataset_n_samples(dataset);
    assert_int_equal(n_blocks, (n - 1) / LENGTH);
    for (uint64_t b = 0; b < n_blocks; b++)
    {
        int32_t documents[LENGTH];
        for (int i = 0; i < LENGTH; i++)
            documents[i] = rows[b * LENGTH + (uint64_t)i] - rows[b * LENGTH];
        expect_block(dataset, 0, b, tokens + b * LENGTH);
        expect_block(dataset, 1, b, tokens + b * LENGTH + 1);
        expect_block(dataset, 2, b, documents);
    }
    dataset_close(dataset);
}

static void test_refused(void **state)
{
    const char *vocab = write_vocab(*state, "[SEP]");
    const char *path = write_text(*state, "short.txt", "a b\nc\n");
    DatasetSource source = packed_of(path, vocab, "ids", 5);
    Dataset *dataset = NULL;
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT,
                "are 5 tokens, a block of 5 needs one more than that");
    source.dims[0] = 4;
    source.part = "types";
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT,
                "needs one column, a tokenizer and a part: ids, targets, documents or mask");
    source.part = "ids";
    source.columns[0] = "line";
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "short.txt:1: there is no column 'line'");
    source.columns[0] = "text";
    source.tokenizer = write_vocab(*state, "[END]");
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "has no end token to stand between texts");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_many_rows),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
