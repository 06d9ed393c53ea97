/* Questions on texts against Hugging Face's run_qa and the official script of SQuAD v1.1
 * (tests/fixtures/squad_fixtures.py): windows, labels, answers, exact match, F1; the data format; files that are none.
 * $PTC_SQUAD_FIXTURE names a second fixture, of any file and tokenizer. */
#include "data_test.h"

#include "runtime/dataset.h"
#include "runtime/squad.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

static const char *fixture_path(const char *name)
{
    static char paths[4][512];
    static unsigned next;
    char *path = paths[next++ % 4];
    if (*name == '/')
        snprintf(path, sizeof paths[0], "%s", name);
    else
        snprintf(path, sizeof paths[0], "%s/tests/fixtures/%s", getenv("PTC_SOURCE_DIR"), name);
    return path;
}

static int64_t int_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    assert_non_null(text);
    return text;
}

/* ---- windows and answers */

static void expect_list(const json_t *want, const int32_t *have, uint32_t n, int32_t padding, const char *what,
                        uint64_t window)
{
    assert_true(json_array_size(want) <= n);
    for (uint32_t i = 0; i < n; i++)
    {
        const int32_t value =
            i < json_array_size(want) ? (int32_t)json_integer_value(json_array_get(want, i)) : padding;
        if (have[i] != value)
            fail_msg("window %d, %s, place %d: %d, not %d", (int)window, what, (int)i, have[i], value);
    }
}

static void expect_window(const SquadSet *set, uint64_t window, const json_t *want, int32_t pad)
{
    const uint32_t length = squad_length(set);
    int32_t *ids = calloc(length, sizeof *ids), *types = calloc(length, sizeof *types), first, last;
    squad_row(set, window, length, pad, ids, types);
    expect_list(json_object_get(want, "ids"), ids, length, pad, "ids", window);
    expect_list(json_object_get(want, "types"), types, length, 0, "types", window);
    assert_int_equal(squad_n_tokens(set, window), json_array_size(json_object_get(want, "ids")));
    squad_labels(set, window, &first, &last);
    if (first != int_of(want, "first") || last != int_of(want, "last"))
        fail_msg("window %d: label %d..%d, not %d..%d", (int)window, first, last, (int)int_of(want, "first"),
                 (int)int_of(want, "last"));
    free(ids);
    free(types);
}

/* As `scores` of the script. */
static void make_scores(uint32_t *state, float *scores, uint32_t n)
{
    *state = (*state * 1103515245U + 12345U) % (1U << 31);
    const uint64_t factor = 1 + *state % 8388592;
    for (uint32_t i = 0; i < n; i++)
        scores[i] = (float)(factor * (i + 1) % 8388593) / 4096;
}

static void expect_answers(const SquadSet *set, const json_t *run, const char *folder)
{
    const uint64_t n_windows = squad_n_windows(set);
    const uint32_t length = squad_length(set);
    const SquadSearch search = {(uint32_t)int_of(run, "n_best"), (uint32_t)int_of(run, "max_answer")};
    double *spans = calloc(n_windows * SQUAD_SPAN_SIZE, sizeof *spans), exact_match, f1;
    float *scores = calloc(2 * (size_t)length, sizeof *scores);
    uint32_t state = 5;
    for (uint64_t i = 0; i < n_windows; i++)
    {
        make_scores(&state, scores, length);
        make_scores(&state, scores + length, length);
        squad_best_span(set, i, scores, scores + length, length, &search, spans + i * SQUAD_SPAN_SIZE);
    }
    const char *path = path_in(folder, "answers.json");
    EXPECT_OK(squad_judge(set, spans, SQUAD_SPAN_SIZE, n_windows, path, &exact_match, &f1));
    assert_true(fabs(exact_match - json_number_value(json_object_get(run, "exact_match"))) < 1e-12);
    assert_true(fabs(f1 - json_number_value(json_object_get(run, "f1"))) < 1e-12);
    json_t *answers = json_load_file(path, 0, NULL);
    assert_non_null(answers);
    const char *id;
    json_t *answer;
    json_object_foreach(answers, id,
                        answer) if (!json_equal(answer, json_object_get(json_object_get(run, "answers"), id)))
        fail_msg("%s: answer '%s', not '%s'", id, json_string_value(answer),
                 text_of(json_object_get(run, "answers"), id));
    assert_int_equal(json_object_size(answers), json_object_size(json_object_get(run, "answers")));
    json_decref(answers);
    EXPECT_FAIL(squad_judge(set, spans, SQUAD_SPAN_SIZE, n_windows, path_in(folder, "no/such"), &exact_match, &f1),
                STATUS_IO, "no/such");
    free(spans);
    free(scores);
}

static void expect_run(const char *questions, const json_t *run, const char *folder)
{
    Tokenizer *tokenizer;
    SquadSet *set;
    EXPECT_OK(tokenizer_open(fixture_path(text_of(run, "tokenizer")), &tokenizer));
    EXPECT_OK(squad_open(questions, tokenizer, (uint32_t)int_of(run, "length"), (uint32_t)int_of(run, "stride"), &set));
    tokenizer_close(tokenizer);
    const json_t *windows = json_object_get(run, "windows");
    assert_int_equal(squad_n_windows(set), json_array_size(windows));
    assert_int_equal(squad_n_questions(set), json_object_size(json_object_get(run, "answers")));
    for (size_t i = 0; i < json_array_size(windows); i++)
        expect_window(set, i, json_array_get(windows, i), (int32_t)int_of(run, "pad"));
    expect_answers(set, run, folder);
    print_message("%s: %zu windows of %zu questions\n", text_of(run, "tokenizer"), json_array_size(windows),
                  json_object_size(json_object_get(run, "answers")));
    squad_close(set);
}

static void expect_fixture(const char *path, const char *folder)
{
    json_t *fixture = json_load_file(path, 0, NULL);
    assert_non_null(fixture);
    const json_t *runs = json_object_get(fixture, "runs");
    assert_true(json_array_size(runs) > 0);
    for (size_t i = 0; i < json_array_size(runs); i++)
        expect_run(fixture_path(text_of(fixture, "questions")), json_array_get(runs, i), folder);
    json_decref(fixture);
}

static void test_windows_and_answers(void **state)
{
    expect_fixture(fixture_path("squad/expected.json"), *state);
    if (getenv("PTC_SQUAD_FIXTURE"))
        expect_fixture(getenv("PTC_SQUAD_FIXTURE"), *state);
}

static void test_official_numbers(void **state)
{
    (void)state;
    json_t *fixture = json_load_file(fixture_path("squad/expected.json"), 0, NULL);
    const json_t *pairs = json_object_get(fixture, "pairs");
    int n_wrong = json_array_size(pairs) < 20;
    for (size_t i = 0; i < json_array_size(pairs); i++)
    {
        const json_t *pair = json_array_get(pairs, i), *a = json_array_get(pair, 0), *b = json_array_get(pair, 1);
        const double want_match = json_number_value(json_array_get(pair, 2));
        const double want_f1 = json_number_value(json_array_get(pair, 3));
        double match, f1;
        squad_compare(json_string_value(a), json_string_length(a), json_string_value(b), json_string_length(b), &match,
                      &f1);
        if (match == want_match && fabs(f1 - want_f1) < 1e-12)
            continue;
        print_error("'%s' and '%s': %g, %g, not %g, %g\n", json_string_value(a), json_string_value(b), match, f1,
                    want_match, want_f1);
        n_wrong++;
    }
    json_decref(fixture);
    assert_int_equal(n_wrong, 0);
}

/* ---- best spans */

/* A vocabulary of letters and one question: [CLS] b [SEP] a b c d [SEP]. */
static SquadSet *open_letters(const char *folder, const char *text, uint32_t length, uint32_t stride, Status want,
                              const char *part)
{
    static const char vocab[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\nd\n";
    Tokenizer *tokenizer;
    SquadSet *set = NULL;
    (void)folder;
    EXPECT_OK(tokenizer_open_vocab("vocab", vocab, strlen(vocab), &tokenizer));
    Status status = squad_open_text("q.json", text, strlen(text), tokenizer, length, stride, &set);
    if (want == STATUS_OK)
        EXPECT_OK(status);
    else
        EXPECT_FAIL(status, want, part);
    tokenizer_close(tokenizer);
    return set;
}

#define QUESTION(id, start, text)                                                                                      \
    "{\"id\": \"" id "\", \"question\": \"b\", \"answers\": [{\"answer_start\": " start ", \"text\": \"" text "\"}]}"
#define FILE_OF(context, questions)                                                                                    \
    "{\"data\": [{\"paragraphs\": [{\"context\": \"" context "\", \"qas\": [" questions "]}]}]}"

static void expect_span(const SquadSet *set, const float *first, const float *last, SquadSearch search, double begin,
                        double end, double n_valid)
{
    double span[SQUAD_SPAN_SIZE];
    squad_best_span(set, 0, first, last, 9, &search, span);
    assert_true(span[SQUAD_BEGIN] == begin && span[SQUAD_END] == end && span[SQUAD_N_VALID] == n_valid);
}

static void test_best_span(void **state)
{
    SquadSet *set = open_letters(*state, FILE_OF("a b c d", QUESTION("x", "2", "b")), 9, 2, STATUS_OK, NULL);
    const float middle[9] = {0, 0, 0, 1, 5, 2, 0}, late[9] = {0, 0, 0, 0, 1, 2, 7}, early[9] = {0, 0, 0, 9, 1, 0, 0};
    const float outside[9] = {9, 8, 7}, padding[9] = {0, 0, 0, 0, 0, 0, 0, 9, 9};
    expect_span(set, middle, late, (SquadSearch){20, 30}, 2, 7, 2);
    expect_span(set, middle, late, (SquadSearch){20, 2}, 4, 7, 2);  /* c d: b c d is too long */
    expect_span(set, middle, late, (SquadSearch){1, 2}, 0, 0, 0);   /* nothing else is tried */
    expect_span(set, late, early, (SquadSearch){1, 30}, 0, 0, 0);   /* backwards */
    expect_span(set, late, early, (SquadSearch){2, 30}, 0, 0, 0);   /* d, c before a, b */
    expect_span(set, outside, late, (SquadSearch){3, 30}, 0, 0, 0); /* not in the context */
    expect_span(set, middle, padding, (SquadSearch){2, 30}, 0, 0, 0);
    expect_span(set, middle, late, (SquadSearch){1, 3}, 2, 7, 1);
    squad_close(set);
}

/* ---- files */

static void test_bad_files(void **state)
{
    static const struct
    {
        const char *text, *part;
        uint32_t length;
    } cases[] = {
        {"", "q.json:1:0: ", 9},
        {"{\"data\": [}", "q.json:1:", 9},
        {"[]", "q.json: expected an object with a list 'data' (SQuAD v1.1)", 9},
        {"{\"data\": [3]}", "q.json: data[0]: expected an object with a list 'paragraphs'", 9},
        {"{\"data\": []}", "q.json: there are no questions", 9},
        {"{\"data\": [{\"paragraphs\": [{\"qas\": []}]}]}",
         "data[0].paragraphs[0]: expected an object with a text 'context'", 9},
        {FILE_OF(" \\t\\u00a0", ""), "data[0].paragraphs[0]: the context is empty", 9},
        {FILE_OF("a b", "{\"id\": \"x\", \"question\": \"b\", \"answers\": []}"),
         "qas[0]: the question 'x' has no answer", 9},
        {FILE_OF("a b", "{\"id\": 7}"), "qas[0]: expected an object with a text 'id'", 9},
        {FILE_OF("a b", QUESTION("x", "2", "b") "," QUESTION("x", "0", "a")), "the id 'x' is there twice", 9},
        {FILE_OF("a b", QUESTION("x", "1", "b")),
         "data[0].paragraphs[0].qas[0].answers[0]: the context does not have 'b' at answer_start, character 1", 9},
        {FILE_OF("a b", QUESTION("x", "-1", "b")), "at answer_start, character -1", 9},
        {FILE_OF("a b", QUESTION("x", "99999", "b")), "at answer_start, character 99999", 9},
        {FILE_OF("a b", QUESTION("x", "2.0", "b")), "expected a whole number 'answer_start'", 9},
        {FILE_OF("a b", QUESTION("x", "1", " ")), "an empty answer", 9},
        {FILE_OF("a b", QUESTION("x", "2", "b")),
         "qas[0]: the question has 1 tokens, which leave 0 of 4 to the context", 4},
        {FILE_OF("a b c d", QUESTION("x", "2", "b")), "which leave 2 of 6 to the context; windows that overlap by 2",
         6},
        {FILE_OF("\\u0001", QUESTION("x", "0", "\\u0001")), "qas[0]: the context has no tokens", 9},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        open_letters(*state, cases[i].text, cases[i].length, 2, STATUS_BAD_INPUT, cases[i].part);
    Tokenizer *tokenizer;
    SquadSet *set;
    EXPECT_OK(tokenizer_open_vocab("vocab", "[UNK]\n[CLS]\n[SEP]\n", 18, &tokenizer));
    EXPECT_FAIL(squad_open(path_in(*state, "none.json"), tokenizer, 9, 2, &set), STATUS_BAD_INPUT, "none.json");
    tokenizer_close(tokenizer);
}

/* ---- the data format */

static DatasetSource source_of(const char *part, uint32_t rank, int64_t length)
{
    return (DatasetSource){.field = part,
                           .format = "squad",
                           .path = fixture_path("squad/questions.json"),
                           .tokenizer = fixture_path("tokenizers/wordpiece.json"),
                           .part = part,
                           .elem = ELEM_I32,
                           .stride = 20,
                           .rank = rank,
                           .dims = {length}};
}

static void test_format(void **state)
{
    (void)state;
    DatasetSource sources[] = {source_of("first", 0, 0), source_of("ids", 1, 64), source_of("mask", 1, 64),
                               source_of("types", 1, 64), source_of("last", 0, 0)};
    const DatasetPass pass = {0};
    Dataset *dataset;
    sources[2].elem = ELEM_F32;
    EXPECT_OK(dataset_open(sources, 5, &dataset));
    const SquadSet *set = dataset_squad(dataset);
    assert_non_null(set);
    assert_int_equal(dataset_n_samples(dataset), squad_n_windows(set));
    for (uint64_t i = 0; i < dataset_n_samples(dataset); i++)
    {
        int32_t ids[64], types[64], want_ids[64], want_types[64], first, last, want_first, want_last;
        float mask[64];
        EXPECT_OK(dataset_read(dataset, 0, i, &pass, &first));
        EXPECT_OK(dataset_read(dataset, 1, i, &pass, ids));
        EXPECT_OK(dataset_read(dataset, 2, i, &pass, mask));
        EXPECT_OK(dataset_read(dataset, 3, i, &pass, types));
        EXPECT_OK(dataset_read(dataset, 4, i, &pass, &last));
        squad_row(set, i, 64, 0, want_ids, want_types);
        squad_labels(set, i, &want_first, &want_last);
        assert_memory_equal(ids, want_ids, sizeof ids);
        assert_memory_equal(types, want_types, sizeof types);
        assert_true(first == want_first && last == want_last);
        for (uint32_t k = 0; k < 64; k++)
            assert_true(mask[k] == (k < squad_n_tokens(set, i) ? 1 : 0));
    }
    dataset_close(dataset);
    EXPECT_FAIL(dataset_open(sources, 1, &dataset), STATUS_BAD_INPUT, "the part ids, mask or types says how many");
    sources[3].dims[0] = 65;
    EXPECT_FAIL(dataset_open(sources, 5, &dataset), STATUS_BAD_INPUT, "another field of the file has windows of 64");
    sources[3].dims[0] = 64;
    sources[3].stride = 7;
    EXPECT_FAIL(dataset_open(sources, 5, &dataset), STATUS_BAD_INPUT, "that share 7");
    sources[3].part = "type";
    EXPECT_FAIL(dataset_open(sources, 5, &dataset), STATUS_BAD_INPUT, "needs a tokenizer and a part");
    sources[3].part = "last";
    EXPECT_FAIL(dataset_open(sources, 5, &dataset), STATUS_BAD_INPUT, "part 'last' is a number");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_windows_and_answers, scratch_create, scratch_remove),
        cmocka_unit_test(test_official_numbers),
        cmocka_unit_test_setup_teardown(test_best_span, scratch_create, scratch_remove),
        cmocka_unit_test_setup_teardown(test_bad_files, scratch_create, scratch_remove),
        cmocka_unit_test(test_format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
