/* metrics.jsonl: rows to the letter, resume takes later rows and torn lines out. */
#include "data_test.h"

#include "runtime/metrics_log.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#define FIRST "{\"split\":\"event\",\"step\":0,\"event\":\"start\",\"schema\":1}\n"

static void expect_file(const char *path, const char *expected)
{
    char *text = read_bytes(path, NULL);
    assert_non_null(text);
    assert_string_equal(text, expected);
    free(text);
}

static Status add_train(MetricsLog *log, uint64_t step, double loss)
{
    const Metric metrics[] = {METRIC_U64("epoch", 0), METRIC_F64("loss", loss)};
    return metrics_log_row(log, "train", step, metrics, 2);
}

static void test_rows(void **state)
{
    const char *path = path_in(*state, "metrics.jsonl");
    write_bytes(path, "old run\n", 8);
    MetricsLog *log = NULL;
    EXPECT_OK(metrics_log_create(path, &log));
    EXPECT_OK(add_train(log, 1, 0.1));
    const Metric odd[] = {METRIC_F64("nan", NAN), METRIC_F64("inf", -INFINITY), METRIC_F64("tiny", 1e-300),
                          METRIC_U64("big", UINT64_C(9007199254740993)), METRIC_TEXT("text", "a\"\\\n\x01\xc3\xa9")};
    EXPECT_OK(metrics_log_row(log, "eval", 1, odd, 5));
    EXPECT_OK(metrics_log_event(log, 2, "checkpoint", NULL, 0));
    /* on disk before close */
    expect_file(path, FIRST "{\"split\":\"train\",\"step\":1,\"epoch\":0,\"loss\":0.1}\n"
                            "{\"split\":\"eval\",\"step\":1,\"nan\":null,\"inf\":null,\"tiny\":1e-300,"
                            "\"big\":9007199254740993,\"text\":\"a\\\"\\\\\\u000a\\u0001\xc3\xa9\"}\n"
                            "{\"split\":\"event\",\"step\":2,\"event\":\"checkpoint\"}\n");
    metrics_log_close(log);
}

static void test_numbers_read_back(void **state)
{
    const char *path = path_in(*state, "metrics.jsonl");
    MetricsLog *log = NULL;
    EXPECT_OK(metrics_log_create(path, &log));
    uint64_t seed = test_seed(), counter = 0;
    double values[200];
    for (int i = 0; i < 200; i++)
    {
        values[i] = ldexp((double)random_next(seed, &counter) + random_next(seed, &counter) * 0x1p-32,
                          (int)(random_next(seed, &counter) % 400) - 200);
        EXPECT_OK(add_train(log, (uint64_t)i, values[i]));
    }
    metrics_log_close(log);
    char *text = read_bytes(path, NULL);
    char *line = strtok(text, "\n");
    for (int i = 0; i < 200; i++)
    {
        line = strtok(NULL, "\n");
        assert_non_null(line);
        json_t *row = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
        assert_non_null(row);
        assert_true(json_real_value(json_object_get(row, "loss")) == values[i]);
        json_decref(row);
    }
    free(text);
}

static void test_resume(void **state)
{
    const char *path = path_in(*state, "metrics.jsonl");
    MetricsLog *log = NULL;
    EXPECT_OK(metrics_log_create(path, &log));
    for (uint64_t step = 1; step <= 5; step++)
        EXPECT_OK(add_train(log, step, 0.5));
    metrics_log_close(log);
    FILE *torn = fopen(path, "ab");
    assert_non_null(torn);
    fputs("{\"split\":\"train\",\"step\":2,\"lo", torn);
    fclose(torn);

    EXPECT_OK(metrics_log_resume(path, 3, NULL, 0, &log));
    EXPECT_OK(metrics_log_event(log, 3, "resume", NULL, 0));
    EXPECT_OK(add_train(log, 4, 0.25));
    metrics_log_close(log);
    expect_file(path, FIRST "{\"split\":\"train\",\"step\":1,\"epoch\":0,\"loss\":0.5}\n"
                            "{\"split\":\"train\",\"step\":2,\"epoch\":0,\"loss\":0.5}\n"
                            "{\"split\":\"train\",\"step\":3,\"epoch\":0,\"loss\":0.5}\n"
                            "{\"split\":\"event\",\"step\":3,\"event\":\"resume\"}\n"
                            "{\"split\":\"train\",\"step\":4,\"epoch\":0,\"loss\":0.25}\n");
}

/* What was decided at the step of a checkpoint, but behind it, is decided again. */
static void test_resume_at_a_decision(void **state)
{
    static const char *const redone[] = {"freeze", "transition"};
    static const char *const events[] = {"freeze",    "checkpoint", "freeze",     "checkpoint",
                                         "resources", "freeze",     "transition", "eval"};
    const char *path = path_in(*state, "metrics.jsonl");
    MetricsLog *log = NULL;
    EXPECT_OK(metrics_log_create(path, &log));
    EXPECT_OK(metrics_log_event(log, 2, "checkpoint", NULL, 0));
    EXPECT_OK(metrics_log_event(log, 2, "freeze", NULL, 0));
    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        EXPECT_OK(metrics_log_event(log, 3, events[i], NULL, 0));
    metrics_log_close(log);
    EXPECT_OK(metrics_log_resume(path, 3, redone, 2, &log));
    metrics_log_close(log);
#define EVENT(step, name) "{\"split\":\"event\",\"step\":" #step ",\"event\":\"" name "\"}\n"
    expect_file(path, FIRST EVENT(2, "checkpoint") EVENT(2, "freeze") EVENT(3, "freeze") EVENT(3, "checkpoint")
                          EVENT(3, "freeze") EVENT(3, "checkpoint") EVENT(3, "resources") EVENT(3, "eval"));
#undef EVENT
}

static void test_resume_of_nothing(void **state)
{
    const char *path = path_in(*state, "metrics.jsonl");
    MetricsLog *log = NULL;
    EXPECT_OK(metrics_log_resume(path, 3, NULL, 0, &log));
    metrics_log_close(log);
    expect_file(path, FIRST);
    write_bytes(path, "", 0);
    EXPECT_OK(metrics_log_resume(path, 3, NULL, 0, &log));
    metrics_log_close(log);
    expect_file(path, FIRST);
    write_bytes(path, "not json\n[]\n{}\n", 15);
    EXPECT_OK(metrics_log_resume(path, 3, NULL, 0, &log));
    metrics_log_close(log);
    expect_file(path, FIRST);
    EXPECT_FAIL(metrics_log_create(path_in(*state, "no/such/metrics.jsonl"), &log), STATUS_IO, "cannot open");
}

int main(void)
{
#define WITH_FOLDER(test) cmocka_unit_test_setup_teardown(test, scratch_create, scratch_remove)
    const struct CMUnitTest tests[] = {
        WITH_FOLDER(test_rows),
        WITH_FOLDER(test_numbers_read_back),
        WITH_FOLDER(test_resume),
        WITH_FOLDER(test_resume_at_a_decision),
        WITH_FOLDER(test_resume_of_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
