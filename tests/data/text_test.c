/* Texts of tables as token ids, masks and types: padding, pairs, truncation, limits, and that a text is encoded once.
 */
#include "data_test.h"

#include "runtime/dataset_formats.h"

#include <stdlib.h>

enum
{
    PAD = 0,
    UNK = 1,
    CLS = 2,
    SEP = 3,
    A = 5,
    B = 6,
    C = 7,
    D = 8,
    X = 9
};

static const char *write_text(const char *folder, const char *name, const char *text)
{
    const char *path = path_in(folder, name);
    write_bytes(path, text, strlen(text));
    return path;
}

static const char *write_vocab(const char *folder)
{
    return write_text(folder, "vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\nd\n##x\n");
}

static DatasetSource text_of(const char *path, const char *vocab, const char *part, int64_t length)
{
    return (DatasetSource){.field = part,
                           .format = "text",
                           .path = path,
                           .tokenizer = vocab,
                           .part = part,
                           .columns = {"text"},
                           .elem = ELEM_I32,
                           .rank = 1,
                           .dims = {length}};
}

static void expect_row(const Dataset *dataset, uint32_t field, uint64_t sample, const int32_t *want)
{
    int32_t have[64];
    const DatasetField *info = dataset_field(dataset, field);
    assert_int_equal(info->elem, ELEM_I32);
    EXPECT_OK(dataset_read(dataset, field, sample, &(DatasetPass){0}, have));
    for (uint64_t i = 0; i < info->sample_elems; i++)
        if (have[i] != want[i])
            fail_msg("field '%s', sample %d, place %d: %d, not %d", info->name, (int)sample, (int)i, have[i], want[i]);
}

/* The one text or pair of the table, its ids and types. */
static void expect_tokens(const char *path, const char *vocab, bool pair, int64_t length, const int32_t *ids,
                          const int32_t *types)
{
    DatasetSource sources[] = {text_of(path, vocab, "ids", length), text_of(path, vocab, "types", length)};
    for (int i = 0; i < 2; i++)
        sources[i].columns[1] = pair ? "other" : NULL;
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(sources, 2, &dataset));
    expect_row(dataset, 0, 0, ids);
    expect_row(dataset, 1, 0, types);
    dataset_close(dataset);
}

static void test_parts(void **state)
{
    const char *vocab = write_vocab(*state);
    const char *path = write_text(*state, "train.csv", "text,y\nA bx,0\n\"\",1\n\"c,\nd\",0\n");
    DatasetSource sources[] = {text_of(path, vocab, "ids", 6), text_of(path, vocab, "mask", 6),
                               text_of(path, vocab, "types", 6), text_of(path, vocab, "mask", 6)};
    sources[3].field = "mask_f32";
    sources[3].elem = ELEM_F32;
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(sources, 4, &dataset));
    assert_int_equal(dataset_n_samples(dataset), 3);
    expect_row(dataset, 0, 0, (const int32_t[]){CLS, A, B, X, SEP, PAD});
    expect_row(dataset, 0, 1, (const int32_t[]){CLS, SEP, PAD, PAD, PAD, PAD}); /* an empty text */
    expect_row(dataset, 0, 2, (const int32_t[]){CLS, C, UNK, D, SEP, PAD});
    expect_row(dataset, 1, 0, (const int32_t[]){1, 1, 1, 1, 1, 0});
    expect_row(dataset, 1, 1, (const int32_t[]){1, 1, 0, 0, 0, 0});
    expect_row(dataset, 2, 0, (const int32_t[6]){0});
    float mask[6];
    assert_int_equal(dataset_field(dataset, 3)->elem, ELEM_F32);
    EXPECT_OK(dataset_read(dataset, 3, 1, &(DatasetPass){0}, mask));
    assert_true(mask[0] == 1 && mask[1] == 1 && mask[2] == 0 && mask[5] == 0);
    const int64_t dims[] = {6};
    EXPECT_OK(dataset_check_slot(dataset, 0, ELEM_I32, 1, dims));
    dataset_close(dataset);
}

static void test_pairs_and_truncation(void **state)
{
    const char *vocab = write_vocab(*state);
    const char *path = write_text(*state, "pair.tsv", "other\ttext\nb c\ta\n");
    expect_tokens(path, vocab, true, 8, (const int32_t[]){CLS, A, SEP, B, C, SEP, PAD, PAD},
                  (const int32_t[]){0, 0, 0, 1, 1, 1, 0, 0});
    path = write_text(*state, "long.jsonl", "{\"text\": \"a b c d\", \"other\": \"b\"}\n");
    expect_tokens(path, vocab, false, 4, (const int32_t[]){CLS, A, B, SEP}, (const int32_t[4]){0});
    expect_tokens(path, vocab, false, 2, (const int32_t[]){CLS, SEP}, (const int32_t[2]){0});
    /* the longer one is cut until both are of one length, then both */
    expect_tokens(path, vocab, true, 6, (const int32_t[]){CLS, A, B, SEP, B, SEP}, (const int32_t[]){0, 0, 0, 0, 1, 1});
    path = write_text(*state, "longer.jsonl", "{\"text\": \"a b c d\", \"other\": \"d c b a\"}\n");
    expect_tokens(path, vocab, true, 7, (const int32_t[]){CLS, A, B, SEP, D, C, SEP},
                  (const int32_t[]){0, 0, 0, 0, 1, 1, 1});
}

/* Row i: i % 7 times "a", then "b". */
static const char *write_many(const char *folder, int n_rows, int bad_row)
{
    const char *path = path_in(folder, "many.csv");
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs("text,label\n", file);
    for (int i = 0; i < n_rows; i++)
        fprintf(file, "%sb%s,%d\n", &"a a a a a a "[12 - 2 * (i % 7)], i >= bad_row ? " \xF0\x9F\x98\x80" : "", i % 3);
    fclose(file);
    return path;
}

static void test_many_rows_in_threads(void **state)
{
    enum
    {
        N_ROWS = 5000,
        LENGTH = 10
    };
    const char *path = write_many(*state, N_ROWS, N_ROWS), *vocab = write_vocab(*state);
    const DatasetSource sources[] = {
        text_of(path, vocab, "ids", LENGTH),
        text_of(path, vocab, "mask", LENGTH),
        {.field = "label", .format = "label", .path = path, .columns = {"label"}, .n_classes = 3}};
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(sources, 3, &dataset));
    assert_int_equal(dataset_n_samples(dataset), N_ROWS);
    for (uint64_t i = 0; i < N_ROWS; i++)
    {
        int32_t ids[LENGTH] = {CLS, A, A, A, A, A, A}, mask[LENGTH] = {0}, label;
        for (uint64_t k = 0; k < i % 7 + 3; k++)
            mask[k] = 1;
        memset(ids + i % 7 + 1, 0, (LENGTH - i % 7 - 1) * sizeof *ids);
        ids[i % 7 + 1] = B;
        ids[i % 7 + 2] = SEP;
        expect_row(dataset, 0, i, ids);
        expect_row(dataset, 1, i, mask);
        EXPECT_OK(dataset_read(dataset, 2, i, &(DatasetPass){0}, &label));
        assert_int_equal(label, i % 3);
    }
    dataset_close(dataset);
}

/* What stands behind the limit is not even encoded. */
static void test_limit(void **state)
{
    const char *path = write_many(*state, 600, 600), *vocab = write_vocab(*state);
    DatasetSource sources[] = {text_of(path, vocab, "ids", 10), text_of(path, vocab, "mask", 10)};
    sources[0].n_samples = sources[1].n_samples = 300;
    Dataset *dataset = NULL;
    EXPECT_OK(dataset_open(sources, 2, &dataset));
    assert_int_equal(dataset_n_samples(dataset), 300);
    int32_t ids[10];
    EXPECT_OK(dataset_read(dataset, 0, 299, &(DatasetPass){0}, ids));
    assert_int_equal(ids[299 % 7 + 1], B);
    dataset_close(dataset);
}

static void test_sharing(void **state)
{
    const char *path = write_many(*state, 10, 10), *vocab = write_vocab(*state);
    DatasetSource sources[] = {text_of(path, vocab, "ids", 8), text_of(path, vocab, "mask", 8),
                               text_of(path, vocab, "types", 8), text_of(path, vocab, "ids", 9),
                               text_of(path, vocab, "ids", 8)};
    sources[4].columns[1] = "label"; /* a pair is another text */
    DatasetShared *shared = dataset_shared_create(sources, 5);
    FieldReader reader;
    const uint32_t n_texts[] = {1, 1, 1, 2, 3};
    for (int i = 0; i < 5; i++)
    {
        EXPECT_OK(dataset_open_text(&sources[i], shared, &reader));
        assert_int_equal(shared->texts.len, n_texts[i]);
        assert_int_equal(shared->tables.len, 1);
        assert_int_equal(shared->tokenizers.len, 1);
    }
    dataset_shared_opened(shared); /* readers need neither table nor tokenizer */
    int32_t ids[8];
    reader.field.sample_elems = 8;
    EXPECT_OK(reader.read(&reader, 9, &(DatasetPass){0}, ids));
    assert_int_equal(ids[1], A);
    dataset_shared_destroy(shared);
}

static void test_refusals(void **state)
{
    const char *vocab = write_vocab(*state), *path = write_text(*state, "train.csv", "text,y\na,0\nb,1\n");
    Dataset *dataset = NULL;
    DatasetSource source = text_of(path, vocab, "ids", 1);
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "train.csv:2: "); /* no room for [CLS] [SEP] */
    source.dims[0] = 4;
    source.n_classes = 9;
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT,
                "vocab.txt: the tokenizer has 10 ids, but 'ids' has 9 classes");
    source.n_classes = 0;
    source.tokenizer = path_in(*state, "none.txt");
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "none.txt");
    source.tokenizer = NULL;
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "needs columns, a tokenizer and a part");
    source.tokenizer = vocab;
    source.part = "id";
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "needs columns, a tokenizer and a part");
    source.part = "ids";
    source.rank = 0;
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "a text is one axis");
    source.rank = 1;
    source.columns[1] = "txt";
    EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT,
                "train.csv:1: there is no column 'txt'; did you mean 'text'?");
}

/* Of many bad rows, in any number of threads, the first one is told. */
static void test_first_bad_row(void **state)
{
    const char *path = write_many(*state, 4000, 700);
    const char *tokenizer = write_text(
        *state, "tokenizer.json",
        "{\"added_tokens\": [{\"id\": 0, \"content\": \"[PAD]\", \"single_word\": false, \"lstrip\": false, "
        "\"rstrip\": false, \"normalized\": false, \"special\": true}], \"normalizer\": null, \"pre_tokenizer\": "
        "{\"type\": \"Whitespace\"}, \"post_processor\": null, \"decoder\": null, \"model\": {\"type\": \"WordPiece\", "
        "\"unk_token\": \"[UNK]\", \"continuing_subword_prefix\": \"##\", \"max_input_chars_per_word\": 100, "
        "\"vocab\": {\"[PAD]\": 0, \"a\": 1, \"b\": 2}}}");
    DatasetSource source = text_of(path, tokenizer, "ids", 10);
    Dataset *dataset = NULL;
    for (int i = 0; i < 20; i++)
        EXPECT_FAIL(dataset_open(&source, 1, &dataset), STATUS_BAD_INPUT, "many.csv:702: ");
    source.n_samples = 700; /* the bad ones are not looked at */
    EXPECT_OK(dataset_open(&source, 1, &dataset));
    expect_row(dataset, 0, 2, (const int32_t[10]){1, 1, 2}); /* no special tokens here */
    dataset_close(dataset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_pairs_and_truncation),
        cmocka_unit_test(test_many_rows_in_threads),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_sharing),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_first_bad_row),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
