/* Tokenizers: the same ids, offsets, rows and text as the Hugging Face library on its fixtures
 * (tests/fixtures/tokenizer_fixtures.py), in one thread and in several; malformed and unsupported files. */
#include "data_test.h"

#include "runtime/tokenizer.h"

#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>

static const char *fixture(const char *name)
{
    static char paths[4][512];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/tests/fixtures/tokenizers/%s", getenv("PTC_SOURCE_DIR"), name);
    return path;
}

/* ---- expected.json */

typedef struct
{
    json_t *root;
    size_t n_texts;
    char **texts; /* exactly as long as they are, so that ASan sees any read past them */
    size_t *n_bytes;
} Expected;

static uint32_t sextet(char c)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    return (uint32_t)(strchr(alphabet, c) - alphabet);
}

static char *from_base64(const char *text, size_t *out_n_bytes)
{
    size_t len = strlen(text), n = len / 4 * 3, at = 0;
    while (n > 0 && len > 0 && text[len - 1] == '=')
    {
        len--;
        n--;
    }
    char *bytes = malloc(n ? n : 1);
    assert_non_null(bytes);
    for (size_t i = 0; i < len; i += 4)
    {
        uint32_t word = 0;
        for (size_t k = 0; k < 4; k++)
            word = word << 6 | (i + k < len ? sextet(text[i + k]) : 0);
        for (int k = 0; k < 3 && at < n; k++)
            bytes[at++] = (char)(word >> (16 - 8 * k));
    }
    *out_n_bytes = n;
    return bytes;
}

static Expected *expected_open(void)
{
    Expected *expected = calloc(1, sizeof *expected);
    assert_non_null(expected);
    expected->root = json_load_file(fixture("expected.json"), JSON_ALLOW_NUL, NULL);
    assert_non_null(expected->root);
    const json_t *texts = json_object_get(expected->root, "texts");
    expected->n_texts = json_array_size(texts);
    assert_true(expected->n_texts > 80);
    expected->texts = calloc(expected->n_texts, sizeof *expected->texts);
    expected->n_bytes = calloc(expected->n_texts, sizeof *expected->n_bytes);
    for (size_t i = 0; i < expected->n_texts; i++)
        expected->texts[i] = from_base64(json_string_value(json_array_get(texts, i)), &expected->n_bytes[i]);
    return expected;
}

static void expected_close(Expected *expected)
{
    for (size_t i = 0; i < expected->n_texts; i++)
        free(expected->texts[i]);
    free(expected->texts);
    free(expected->n_bytes);
    json_decref(expected->root);
    free(expected);
}

static int64_t int_at(const json_t *array, size_t i)
{
    return json_integer_value(json_array_get(array, i));
}

/* The number of texts whose tokens differ. */
static int count_wrong(const Expected *expected, const char *name, TokenizerScratch *scratch)
{
    const json_t *tokens =
        json_object_get(json_object_get(json_object_get(expected->root, "tokenizers"), name), "tokens");
    int n_wrong = json_array_size(tokens) != expected->n_texts;
    for (size_t i = 0; i < expected->n_texts; i++)
    {
        const json_t *want = json_array_get(tokens, i);
        TokenSpan have;
        bool same = tokenizer_encode(scratch, expected->texts[i], expected->n_bytes[i], &have) == STATUS_OK &&
                    json_array_size(want) == 3 * (size_t)have.n_tokens;
        for (size_t k = 0; same && k < have.n_tokens; k++)
        {
            const TextToken *token = &have.tokens[k];
            same = token->id == int_at(want, 3 * k) && token->begin == int_at(want, 3 * k + 1) &&
                   token->end == int_at(want, 3 * k + 2);
        }
        if (!same)
            print_error("%s: text %zu differs\n", name, i);
        n_wrong += !same;
    }
    tokenizer_scratch_reset(scratch);
    return n_wrong;
}

static void test_fixtures(void **state)
{
    (void)state;
    Expected *expected = expected_open();
    const char *name;
    json_t *unused;
    json_object_foreach(json_object_get(expected->root, "tokenizers"), name, unused)
    {
        Tokenizer *tokenizer = NULL;
        EXPECT_OK(tokenizer_open(fixture(name), &tokenizer));
        TokenizerScratch *scratch = tokenizer_scratch_create(tokenizer);
        assert_int_equal(count_wrong(expected, name, scratch), 0);
        assert_int_equal(count_wrong(expected, name, scratch), 0); /* from the cache */
        tokenizer_scratch_destroy(scratch);
        tokenizer_close(tokenizer);
    }
    expected_close(expected);
}

/* ---- several threads share a tokenizer */

typedef struct
{
    const Expected *expected;
    const Tokenizer *tokenizer;
    const char *name;
    int n_wrong;
} Job;

static void *run_job(void *argument)
{
    Job *job = argument;
    TokenizerScratch *scratch = tokenizer_scratch_create(job->tokenizer);
    for (int i = 0; i < 3; i++)
        job->n_wrong += count_wrong(job->expected, job->name, scratch);
    tokenizer_scratch_destroy(scratch);
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    enum
    {
        N_THREADS = 4
    };
    const char *const names[] = {"wordpiece.json", "roberta.json"};
    Expected *expected = expected_open();
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    {
        Tokenizer *tokenizer = NULL;
        EXPECT_OK(tokenizer_open(fixture(names[i]), &tokenizer));
        pthread_t threads[N_THREADS];
        Job jobs[N_THREADS];
        for (int k = 0; k < N_THREADS; k++)
        {
            jobs[k] = (Job){expected, tokenizer, names[i], 0};
            assert_int_equal(pthread_create(&threads[k], NULL, run_job, &jobs[k]), 0);
        }
        for (int k = 0; k < N_THREADS; k++)
        {
            pthread_join(threads[k], NULL);
            assert_int_equal(jobs[k].n_wrong, 0);
        }
        tokenizer_close(tokenizer);
    }
    expected_close(expected);
}

/* ---- rows and decoding */

static void check_row(TokenizerScratch *scratch, const json_t *row)
{
    static const char *const names[] = {"longest_first", "only_first", "only_second"};
    const char *texts[2], *strategy = json_string_value(json_array_get(row, 3));
    TokenSpan spans[2] = {0};
    for (size_t i = 0; i < 2; i++)
    {
        texts[i] = json_string_value(json_array_get(row, i));
        if (texts[i])
            EXPECT_OK(tokenizer_encode(scratch, texts[i], strlen(texts[i]), &spans[i]));
    }
    TokenizerTruncation truncation = TRUNCATE_LONGEST_FIRST;
    while (strcmp(strategy, names[truncation]) != 0)
        truncation++;
    uint32_t max_ids = (uint32_t)int_at(row, 2);
    TokenizerRow have;
    Status status = tokenizer_build(scratch, spans[0], texts[1] ? &spans[1] : NULL, max_ids, truncation, &have);
    const json_t *ids = json_array_get(row, 4), *types = json_array_get(row, 5);
    if (json_is_null(ids))
    {
        EXPECT_FAIL(status, STATUS_BAD_INPUT, "only the ");
        return;
    }
    EXPECT_OK(status);
    assert_int_equal(have.n_ids, json_array_size(ids));
    for (uint32_t i = 0; i < have.n_ids; i++)
    {
        assert_int_equal(have.ids[i], int_at(ids, i));
        assert_int_equal(have.type_ids[i], int_at(types, i));
    }
    for (int which = 0; which < 2; which++)
        for (uint32_t i = 0; i < have.n_kept[which]; i++)
            assert_int_equal(have.ids[have.first_at[which] + i], spans[which].tokens[i].id);
}

static void test_rows_and_text(void **state)
{
    (void)state;
    Expected *expected = expected_open();
    Arena *arena = arena_create();
    const char *name;
    json_t *wanted;
    json_object_foreach(json_object_get(expected->root, "tokenizers"), name, wanted)
    {
        Tokenizer *tokenizer = NULL;
        EXPECT_OK(tokenizer_open(fixture(name), &tokenizer));
        TokenizerScratch *scratch = tokenizer_scratch_create(tokenizer);
        size_t i;
        json_t *row;
        json_array_foreach(json_object_get(wanted, "rows"), i, row) check_row(scratch, row);
        for (i = 0; i < expected->n_texts; i++)
        {
            TokenSpan span;
            EXPECT_OK(tokenizer_encode(scratch, expected->texts[i], expected->n_bytes[i], &span));
            int32_t *ids = ARENA_ARRAY(arena, int32_t, span.n_tokens);
            for (uint32_t k = 0; k < span.n_tokens; k++)
                ids[k] = span.tokens[k].id;
            size_t n_bytes;
            const char *text = tokenizer_decode(tokenizer, arena, ids, span.n_tokens, false, &n_bytes);
            const json_t *want = json_array_get(json_object_get(wanted, "decoded"), i);
            if (n_bytes != json_string_length(want))
                fail_msg("%s, text %zu: '%s' instead of '%s'", name, i, text, json_string_value(want));
            assert_memory_equal(text, json_string_value(want), n_bytes);
        }
        tokenizer_scratch_destroy(scratch);
        tokenizer_close(tokenizer);
    }
    arena_destroy(arena);
    expected_close(expected);
}

static void test_row_limits(void **state)
{
    (void)state;
    Tokenizer *tokenizer = NULL;
    EXPECT_OK(tokenizer_open(fixture("wordpiece.json"), &tokenizer));
    TokenizerScratch *scratch = tokenizer_scratch_create(tokenizer);
    assert_int_equal(tokenizer_added(tokenizer, false), 2);
    assert_int_equal(tokenizer_added(tokenizer, true), 3);
    TokenSpan span;
    TokenizerRow row;
    EXPECT_OK(tokenizer_encode(scratch, "a b c", 5, &span));
    EXPECT_FAIL(tokenizer_build(scratch, span, &span, 2, TRUNCATE_LONGEST_FIRST, &row), STATUS_BAD_INPUT,
                "at most 2 ids are allowed, and the special tokens alone are 3");
    EXPECT_FAIL(tokenizer_build(scratch, span, NULL, 3, TRUNCATE_ONLY_SECOND, &row), STATUS_BAD_INPUT, "there is none");
    EXPECT_OK(tokenizer_build(scratch, span, &span, 3, TRUNCATE_LONGEST_FIRST, &row));
    assert_int_equal(row.n_ids, 3);
    /* a window of the second text, as for span questions */
    TokenSpan window = {span.tokens + 1, 2};
    EXPECT_OK(tokenizer_build(scratch, span, &window, 8, TRUNCATE_ONLY_SECOND, &row));
    assert_int_equal(row.n_ids, 8);
    assert_int_equal(row.first_at[1], 5);
    assert_int_equal(row.ids[5], span.tokens[1].id);
    assert_int_equal(row.type_ids[5], 1);
    EXPECT_FAIL(tokenizer_encode(scratch, "", (size_t)TOKENIZER_MAX_TEXT_BYTES + 1, &span), STATUS_BAD_INPUT,
                "a text of 16777217 bytes; at most 16777216 are supported");
    tokenizer_scratch_destroy(scratch);
    tokenizer_close(tokenizer);
}

/* Words and runs of marks as long as the text: no step is quadratic. */
static void test_long_text(void **state)
{
    (void)state;
    enum
    {
        N_BYTES = 1 << 18
    };
    const char *const names[] = {"wordpiece.json", "compatible.json", "gpt2.json", "llama3.json", "modern.json"};
    const char *const patterns[] = {"a", "ab", " ", "\n ", "\xcc\x81\xcc\xa3", "\xc3\xa9", "'", "\xff", "a\xcc\xa3"};
    char *text = malloc(N_BYTES);
    assert_non_null(text);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    {
        Tokenizer *tokenizer = NULL;
        EXPECT_OK(tokenizer_open(fixture(names[i]), &tokenizer));
        TokenizerScratch *scratch = tokenizer_scratch_create(tokenizer);
        for (size_t k = 0; k < sizeof patterns / sizeof patterns[0]; k++)
        {
            size_t len = strlen(patterns[k]);
            for (size_t at = 0; at < N_BYTES; at++)
                text[at] = patterns[k][at % len];
            TokenSpan span;
            EXPECT_OK(tokenizer_encode(scratch, text, N_BYTES, &span));
            for (uint32_t t = 0; t < span.n_tokens; t++)
                assert_true(span.tokens[t].begin <= span.tokens[t].end && span.tokens[t].end <= N_BYTES);
            tokenizer_scratch_reset(scratch);
        }
        tokenizer_scratch_destroy(scratch);
        tokenizer_close(tokenizer);
    }
    free(text);
}

/* ---- opening */

static void test_questions(void **state)
{
    (void)state;
    Tokenizer *tokenizer = NULL;
    EXPECT_OK(tokenizer_open(fixture("cased"), &tokenizer));
    assert_int_equal(tokenizer_vocab_size(tokenizer), 700);
    assert_int_equal(tokenizer_special(tokenizer, TOKENIZER_CLS), tokenizer_id(tokenizer, "[CLS]"));
    assert_int_equal(tokenizer_special(tokenizer, TOKENIZER_PAD), 0);
    assert_int_equal(tokenizer_special(tokenizer, TOKENIZER_UNK), 1);
    assert_int_equal(tokenizer_special(tokenizer, TOKENIZER_BOS), -1);
    assert_true(tokenizer_is_special(tokenizer, 0));
    assert_false(tokenizer_is_special(tokenizer, 5));
    assert_false(tokenizer_is_special(tokenizer, -1));
    assert_int_equal(tokenizer_id(tokenizer, "no such token"), -1);
    assert_string_equal(tokenizer_text(tokenizer, 3), "[SEP]");
    assert_null(tokenizer_text(tokenizer, -1));
    assert_null(tokenizer_text(tokenizer, 700));
    tokenizer_close(tokenizer);

    EXPECT_OK(tokenizer_open(fixture("roberta.json"), &tokenizer));
    assert_int_equal(tokenizer_special(tokenizer, TOKENIZER_MASK), tokenizer_vocab_size(tokenizer) - 1);
    assert_int_equal(tokenizer_special(tokenizer, TOKENIZER_CLS), 0);
    assert_int_equal(tokenizer_special(tokenizer, TOKENIZER_EOS), 2);
    tokenizer_close(tokenizer);
    EXPECT_OK(tokenizer_open(fixture("llama3.json"), &tokenizer));
    assert_string_equal(tokenizer_text(tokenizer, tokenizer_special(tokenizer, TOKENIZER_BOS)), "<|begin_of_text|>");
    assert_int_equal(tokenizer_special(tokenizer, TOKENIZER_PAD), -1);
    tokenizer_close(tokenizer);
}

static void put_text(const char *folder, const char *name, const char *text)
{
    write_bytes(path_in(folder, name), text, strlen(text));
}

static void test_open(void **state)
{
    char folder[512];
    snprintf(folder, sizeof folder, "%s/tokenizer", (const char *)*state);
    assert_int_equal(mkdir(folder, 0700), 0);
    Tokenizer *tokenizer = NULL;
    EXPECT_FAIL(tokenizer_open(path_in(folder, "none.json"), &tokenizer), STATUS_BAD_INPUT, "cannot open");
    EXPECT_FAIL(tokenizer_open(folder, &tokenizer), STATUS_BAD_INPUT, "neither a tokenizer.json nor a vocab.txt");
    put_text(folder, "vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\nA\r\n##b\nb \na");
    EXPECT_OK(tokenizer_open(folder, &tokenizer));
    TokenizerScratch *scratch = tokenizer_scratch_create(tokenizer);
    TokenSpan span;
    EXPECT_OK(tokenizer_encode(scratch, "AB b", 4, &span));
    assert_int_equal(span.n_tokens, 3);
    assert_int_equal(span.tokens[0].id, 7);
    assert_int_equal(span.tokens[1].id, 5);
    assert_int_equal(span.tokens[2].id, 6);
    tokenizer_scratch_destroy(scratch);
    tokenizer_close(tokenizer);

    put_text(folder, "tokenizer_config.json", "{\"do_lower_case\": false, \"mask_token\": null, \"pad_token\": \"b\"}");
    EXPECT_OK(tokenizer_open(path_in(folder, "vocab.txt"), &tokenizer));
    scratch = tokenizer_scratch_create(tokenizer);
    EXPECT_OK(tokenizer_encode(scratch, "Ab", 2, &span));
    assert_int_equal(span.tokens[0].id, 4);
    assert_int_equal(tokenizer_special(tokenizer, TOKENIZER_PAD), 6);
    assert_int_equal(tokenizer_special(tokenizer, TOKENIZER_MASK), -1);
    tokenizer_scratch_destroy(scratch);
    tokenizer_close(tokenizer);

    put_text(folder, "tokenizer_config.json", "{\"do_lower_case\": false,\n oops}");
    EXPECT_FAIL(tokenizer_open(folder, &tokenizer), STATUS_BAD_INPUT, "tokenizer_config.json:2:");
    put_text(folder, "tokenizer_config.json", "");
    EXPECT_FAIL(tokenizer_open(folder, &tokenizer), STATUS_BAD_INPUT, "tokenizer_config.json:1:0: an empty file");
    put_text(folder, "tokenizer_config.json", "[]");
    EXPECT_FAIL(tokenizer_open(folder, &tokenizer), STATUS_BAD_INPUT, "not a JSON object");
    put_text(folder, "tokenizer_config.json", "{\"cls_token\": \"<cls>\"}");
    EXPECT_FAIL(tokenizer_open(folder, &tokenizer), STATUS_BAD_INPUT, "vocab.txt: the vocabulary has no '<cls>'");
    put_text(folder, "tokenizer.json", "{\"model\":\n{\"vocab\":{\"a\":1,\"a\":2}}}");
    EXPECT_FAIL(tokenizer_open(folder, &tokenizer), STATUS_BAD_INPUT, "duplicate");
}

static void test_bad_vocabs(void **state)
{
    (void)state;
    static const struct
    {
        const char *text;
        const char *says;
    } cases[] = {
        {"", "v: an empty vocabulary"},
        {"a\n", "has no '[UNK]'"},
        {"[UNK]\n[CLS]\n", "has no '[SEP]'"},
        {"[UNK]\n[SEP]\n", "has no '[CLS]'"},
        {"[UNK]\n[CLS]\n\xff\n", "line 3: invalid UTF-8"},
        {"[UNK]\n\xe2\x82", "line 2: invalid UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
    {
        Tokenizer *tokenizer = NULL;
        EXPECT_FAIL(tokenizer_open_vocab("v", cases[i].text, strlen(cases[i].text), &tokenizer), STATUS_BAD_INPUT,
                    cases[i].says);
    }
}

#define WORDPIECE                                                                                                      \
    "\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_"       \
    "word\":9"
#define WP(fields)    "{" fields ",\"model\":{" WORDPIECE ",\"vocab\":{\"[UNK]\":0,\"a\":1}}}"
#define BYTE_LEVEL    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true}"
#define BPE(fields)   "{\"pre_tokenizer\":" BYTE_LEVEL ",\"model\":{\"type\":\"BPE\"," fields "}}"
#define ADDED(fields) WP("\"added_tokens\":[{" fields "}]")
#define FLAGS         "\"special\":true,\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false"
#define SPLIT(fields) WP("\"pre_tokenizer\":{\"type\":\"Split\"," fields "}")
#define TEMPLATE(single, pair, specials)                                                                               \
    WP("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":" single ",\"pair\":" pair                      \
       ",\"special_tokens\":" specials "}")
#define NFC     "{\"type\":\"NFC\"}"
#define NFC4    NFC "," NFC "," NFC "," NFC
#define NFC16   NFC4 "," NFC4 "," NFC4 "," NFC4
#define PIECE_A "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"
#define PIECE_B "{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}"

static void expect_refused(const char *text, Status status, const char *says)
{
    size_t len = strlen(text);
    char *bytes = malloc(len ? len : 1);
    assert_non_null(bytes);
    memcpy(bytes, text, len);
    Tokenizer *tokenizer = NULL;
    Status got = tokenizer_open_json("mem", bytes, len, &tokenizer);
    free(bytes);
    if (got == STATUS_OK)
        fail_msg("accepted: %s", text);
    EXPECT_FAIL(got, status, says);
    assert_ptr_equal(strstr(status_detail(), "mem:"), status_detail());
}

static void test_bad_json(void **state)
{
    (void)state;
    static const struct
    {
        const char *text;
        const char *says;
    } cases[] = {
        {"", "mem: an empty file"},
        {"{", "mem:1:"},
        {"{\n\"model\":\n  nope}", "mem:3:"},
        {"{}x", "mem:1:"},
        {"[]", "not a JSON object"},
        {"{}", "model is not an object"},
        {"{\"a\":1,\"a\":2}", "duplicate object key"},
        {"{\"model\":{\"vocab\":{\"a\":0,\"a\":1}}}", "duplicate object key"},
        {"{\"model\":{\"type\":3}}", "model.type is not a string"},
        {"{\"model\":{\"type\":\"WordPiece\"}}", "model.unk_token is not a string"},
        {"{\"model\":{" WORDPIECE "}}", "model.vocab is not an object"},
        {"{\"model\":{" WORDPIECE ",\"vocab\":{}}}", "an empty vocabulary"},
        {"{\"model\":{" WORDPIECE ",\"vocab\":{\"a\":-1}}}", "model.vocab: a is not a number from 0"},
        {"{\"model\":{" WORDPIECE ",\"vocab\":{\"a\":1.5}}}", "model.vocab: a is not a number from 0"},
        {"{\"model\":{" WORDPIECE ",\"vocab\":{\"a\":9999999999}}}", "model.vocab: a is not a number from 0"},
        {"{\"model\":{" WORDPIECE ",\"vocab\":{\"a\":2000000000}}}", "id 2000000000 is too great"},
        {"{\"model\":{" WORDPIECE ",\"vocab\":{\"a\":1,\"b\":1}}}", "'a' and 'b' both have id 1"},
        {"{\"model\":{" WORDPIECE ",\"vocab\":{\"\\ud800\":1}}}", "mem:1:"},
        {WP("\"normalizer\":3"), "normalizer is not an object"},
        {WP("\"normalizer\":{}"), "normalizer.type is not a string"},
        {WP("\"normalizer\":{\"type\":\"BertNormalizer\"}"), "normalizer.clean_text is not true or false"},
        {WP("\"normalizer\":{\"type\":\"Sequence\"}"), "normalizer.normalizers is not an array"},
        {WP("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},1]}"),
         "normalizer.normalizers[1] is not an object"},
        {SPLIT("\"behavior\":\"Isolated\",\"invert\":false"), "pattern has neither a Regex nor a String"},
        {ADDED("\"id\":1"), "added_tokens[0].content is not a string"},
        {ADDED("\"id\":1,\"content\":\"a\""), "added_tokens[0].special is not true or false"},
        {ADDED("\"id\":0,\"content\":\"a\"," FLAGS), "the added token 'a' has id 0 where the vocabulary makes it 1"},
        {ADDED("\"id\":7,\"content\":\"x\"," FLAGS), "the added token 'x' has id 7 where the vocabulary makes it 2"},
        {WP("\"added_tokens\":{}"), "added_tokens is not an array"},
        {ADDED("\"id\":1,\"content\":\"a\"," FLAGS "},{\"id\":1,\"content\":\"a\"," FLAGS), "'a' comes twice"},
        {WP("\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"x\",9],\"cls\":[\"a\",1]}"),
         "no token has id 9"},
        {WP("\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"x\"]}"),
         "sep is not a pair of a token and its id"},
        {TEMPLATE("[" PIECE_A "]", "1", "{}"), "post_processor.pair is not an array"},
        {TEMPLATE("[{}]", "[]", "{}"), "neither a Sequence nor a SpecialToken"},
        {TEMPLATE("[{\"Sequence\":{\"id\":\"C\",\"type_id\":0}}]", "[]", "{}"), "'C' is neither A nor B"},
        {TEMPLATE("[{\"SpecialToken\":{\"id\":\"x\",\"type_id\":0}}]", "[]", "{}"),
         "special_tokens has no ids for 'x'"},
        {BPE("\"vocab\":{\"a\":0}"), "model.merges is not an array"},
        {BPE("\"vocab\":{\"a\":0},\"merges\":[3]"), "merges[0] is not two tokens"},
        {BPE("\"vocab\":{\"a\":0},\"merges\":[\"a\"]"), "merges[0] is not two tokens"},
        {BPE("\"vocab\":{\"a\":0},\"merges\":[\"a a a\"]"), "merges[0] is not two tokens"},
        {BPE("\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]"), "merges[0] is not a pair of strings"},
        {BPE("\"vocab\":{\"a\":0},\"merges\":[\"a a\"]"), "merges[0]: 'aa' is not in the vocabulary"},
        {BPE("\"vocab\":{\"a\":0},\"merges\":[\"#version: 0.2\",\"b a\"]"), "merges[1]: 'b' is not in the vocabulary"},
        {BPE("\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[\"a a\",[\"a\",\"a\"]]"), "written otherwise"},
        {BPE("\"unk_token\":\"u\",\"vocab\":{\"a\":0},\"merges\":[]"), "nor the unknown token 'u'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_refused(cases[i].text, STATUS_BAD_INPUT, cases[i].says);
}

static void test_unsupported(void **state)
{
    (void)state;
    static const struct
    {
        const char *text;
        const char *says;
    } cases[] = {
        {"{\"version\":\"2.0\"}", "version: only \"1.0\""},
        {"{\"model\":{}}", "model: the type '' is not supported"},
        {"{\"model\":{\"type\":\"Unigram\"}}", "the type 'Unigram' is not supported"},
        {WP("\"normalizer\":{\"type\":\"Precompiled\"}"), "normalizer: the normaliser 'Precompiled'"},
        {WP("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Strip\"}]}"),
         "normalizer.normalizers[1]: the normaliser 'Strip'"},
        {WP("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[" NFC16 "," NFC "]}"), "more than 16 steps"},
        {WP("\"pre_tokenizer\":{\"type\":\"Metaspace\"}"), "the pre-tokeniser 'Metaspace'"},
        {WP("\"pre_tokenizer\":" BYTE_LEVEL), "WordPiece behind a ByteLevel"},
        {WP("\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[" BYTE_LEVEL ",{\"type\":\"Whitespace\"}]}"),
         "'Whitespace' after ByteLevel"},
        {SPLIT("\"pattern\":{\"Regex\":\"[a-z]+\"},\"behavior\":\"Isolated\",\"invert\":false"),
         "the regular expression '[a-z]+' is not one of the known ones"},
        {SPLIT("\"pattern\":{\"String\":\" \"},\"behavior\":\"Isolated\",\"invert\":false"), "a split at the text ' '"},
        {WP("\"post_processor\":{\"type\":\"Other\"}"), "the post-processor 'Other'"},
        {TEMPLATE("[]", "[]", "{}"), "does not have every text once"},
        {TEMPLATE("[" PIECE_A "]", "[" PIECE_B "]", "{}"), "post_processor.pair: a template that does not have"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", "BPE without a ByteLevel"},
        {BPE("\"byte_fallback\":true"), "byte_fallback"},
        {BPE("\"dropout\":0.1"), "dropout"},
        {BPE("\"end_of_word_suffix\":\"</w>\""), "end_of_word_suffix '</w>'"},
        {BPE("\"continuing_subword_prefix\":\"##\""), "continuing_subword_prefix '##'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_refused(cases[i].text, STATUS_UNSUPPORTED, cases[i].says);
}

/* A word that needs an unknown token which is not there fails when it comes, as in the library. */
static void test_missing_unknown(void **state)
{
    (void)state;
    static const char text[] = "{\"model\":{" WORDPIECE ",\"vocab\":{\"a\":0,\"##a\":1}}}";
    Tokenizer *tokenizer = NULL;
    EXPECT_OK(tokenizer_open_json("mem", text, sizeof text - 1, &tokenizer));
    TokenizerScratch *scratch = tokenizer_scratch_create(tokenizer);
    TokenSpan span;
    EXPECT_OK(tokenizer_encode(scratch, "aaa", 3, &span));
    assert_int_equal(span.n_tokens, 3);
    EXPECT_FAIL(tokenizer_encode(scratch, "ab", 2, &span), STATUS_BAD_INPUT, "the unknown token '[UNK]' neither");
    tokenizer_scratch_destroy(scratch);
    tokenizer_close(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixtures),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_rows_and_text),
        cmocka_unit_test(test_row_limits),
        cmocka_unit_test(test_long_text),
        cmocka_unit_test(test_questions),
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_bad_vocabs),
        cmocka_unit_test(test_bad_json),
        cmocka_unit_test(test_unsupported),
        cmocka_unit_test(test_missing_unknown),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
