/* Checkpoints: written and read back, pruned, damaged in each part and found again. */
#include "checkpoint_state.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t open_step(const char *out_dir, StrBuf *warnings)
{
    Checkpoint *checkpoint = NULL;
    EXPECT_OK(checkpoint_open(out_dir, warnings, &checkpoint));
    assert_non_null(checkpoint);
    expect_whole(checkpoint);
    uint64_t step = checkpoint_state(checkpoint)->step;
    checkpoint_close(checkpoint);
    return step;
}

/* Names below OUT/checkpoints, sorted, with a space after each; in a static buffer. */
static const char *list(const char *out_dir)
{
    static char names[1000];
    struct dirent **entries;
    int n = scandir(path_in(out_dir, "checkpoints"), &entries, NULL, alphasort);
    names[0] = 0;
    for (int i = 0; i < n; i++)
    {
        if (entries[i]->d_name[0] != '.')
            strcat(strcat(names, entries[i]->d_name), " ");
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
    return names;
}

static void flip_byte(const char *path, size_t at)
{
    size_t n_bytes;
    char *bytes = read_bytes(path, &n_bytes);
    assert_non_null(bytes);
    bytes[at < n_bytes ? at : n_bytes - 1] ^= 1;
    write_bytes(path, bytes, n_bytes);
    free(bytes);
}

static void test_none(void **state)
{
    const char *out_dir = *state;
    Checkpoint *checkpoint = NULL;
    EXPECT_OK(checkpoint_open(out_dir, NULL, &checkpoint));
    assert_null(checkpoint);
    EXPECT_OK(checkpoint_open(path_in(out_dir, "missing"), NULL, &checkpoint));
    assert_null(checkpoint);
    EXPECT_FAIL(checkpoint_open_folder(out_dir, &checkpoint), STATUS_BAD_INPUT, "state.json");
}

static void test_round_trip_and_pruning(void **state)
{
    const char *out_dir = path_in(*state, "deep/out");
    EXPECT_OK(write_step(out_dir, 5, 2));
    assert_int_equal(open_step(out_dir, NULL), 5);
    EXPECT_OK(write_step(out_dir, 10, 2));
    EXPECT_OK(write_step(out_dir, 100000000, 2));
    assert_string_equal(list(out_dir), "latest step-00000010 step-100000000 ");
    assert_int_equal(open_step(out_dir, NULL), 100000000);
    EXPECT_OK(write_step(out_dir, 100000000, 2)); /* the same again */
    assert_int_equal(open_step(out_dir, NULL), 100000000);
    EXPECT_OK(write_step(out_dir, 20, 2)); /* resumed from 10: the other future is gone */
    assert_string_equal(list(out_dir), "latest step-00000010 step-00000020 ");
    EXPECT_OK(write_step(out_dir, 30, 1));
    assert_string_equal(list(out_dir), "latest step-00000030 ");
}

static void test_stale_folders_go(void **state)
{
    const char *out_dir = *state;
    EXPECT_OK(write_step(out_dir, 1, 2));
    const char *stale = path_in(out_dir, "checkpoints/tmp-step-00000002");
    mkdir(stale, 0777);
    write_bytes(path_in(stale, "model.safetensors"), "half", 4);
    write_bytes(path_in(out_dir, "checkpoints/latest.tmp-1"), "st", 2);
    assert_int_equal(open_step(out_dir, NULL), 1);
    EXPECT_OK(write_step(out_dir, 2, 2));
    assert_string_equal(list(out_dir), "latest step-00000001 step-00000002 ");
}

static void test_damage_falls_back(void **state)
{
    const char *out_dir = *state;
    static const char *const parts[] = {"model.safetensors", "optimizer.safetensors", "state.json"};
    const size_t places[] = {0, 9, 100, 1000000000};
    for (size_t part = 0; part < 3; part++)
        for (size_t place = 0; place < 4; place++)
        {
            if (part == 2 && place == 3)
                continue; /* the newline at the end */
            EXPECT_OK(write_step(out_dir, 1, 2));
            EXPECT_OK(write_step(out_dir, 2, 2));
            flip_byte(path_in(path_in(out_dir, "checkpoints/step-00000002"), parts[part]), places[place]);
            Arena *arena = arena_create();
            StrBuf warnings = strbuf_make(arena);
            assert_int_equal(open_step(out_dir, &warnings), 1);
            assert_non_null(strstr(strbuf_text(&warnings), "step-00000002 is skipped: "));
            assert_non_null(strstr(strbuf_text(&warnings), parts[part]));
            arena_destroy(arena);
        }
    /* damaged both */
    flip_byte(path_in(out_dir, "checkpoints/step-00000001/model.safetensors"), 50);
    Checkpoint *checkpoint = NULL;
    EXPECT_FAIL(checkpoint_open(out_dir, NULL, &checkpoint), STATUS_BAD_INPUT, "no good checkpoint in");
    assert_null(checkpoint);
    /* and going on from there repairs it */
    EXPECT_OK(write_step(out_dir, 2, 2));
    assert_int_equal(open_step(out_dir, NULL), 2);
}

static void test_missing_and_truncated_files(void **state)
{
    const char *out_dir = *state;
    EXPECT_OK(write_step(out_dir, 1, 2));
    EXPECT_OK(write_step(out_dir, 2, 2));
    assert_int_equal(truncate(path_in(out_dir, "checkpoints/step-00000002/model.safetensors"), 0), 0);
    assert_int_equal(open_step(out_dir, NULL), 1);
    EXPECT_OK(write_step(out_dir, 2, 2));
    unlink(path_in(out_dir, "checkpoints/step-00000002/state.json"));
    assert_int_equal(open_step(out_dir, NULL), 1);
}

static void test_latest_is_only_a_hint(void **state)
{
    const char *out_dir = *state;
    EXPECT_OK(write_step(out_dir, 1, 2));
    EXPECT_OK(write_step(out_dir, 2, 2));
    const char *latest = path_in(out_dir, "checkpoints/latest");
    write_bytes(latest, "step-00000001\n", 14);
    assert_int_equal(open_step(out_dir, NULL), 1);
    write_bytes(latest, "../../etc/passwd\n", 17);
    assert_int_equal(open_step(out_dir, NULL), 2);
    write_bytes(latest, "step-00000077\n", 14);
    assert_int_equal(open_step(out_dir, NULL), 2);
    unlink(latest);
    assert_int_equal(open_step(out_dir, NULL), 2);
}

static void test_failed_write_keeps_the_old(void **state)
{
    const char *out_dir = *state;
    write_bytes(path_in(out_dir, "file"), "", 0);
    EXPECT_FAIL(write_step(path_in(out_dir, "file"), 1, 2), STATUS_IO, "cannot create folder");
}

int main(void)
{
#define WITH_FOLDER(test) cmocka_unit_test_setup_teardown(test, scratch_create, scratch_remove)
    const struct CMUnitTest tests[] = {
        WITH_FOLDER(test_none),
        WITH_FOLDER(test_round_trip_and_pruning),
        WITH_FOLDER(test_stale_folders_go),
        WITH_FOLDER(test_damage_falls_back),
        WITH_FOLDER(test_missing_and_truncated_files),
        WITH_FOLDER(test_latest_is_only_a_hint),
        WITH_FOLDER(test_failed_write_keeps_the_old),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
