/* ptc diagnose: findings in files written here, files of the flight recorder itself, and files that are broken in every
 * way. */
#include "harness/test.h"
#include "runtime/comm.h"
#include "runtime/diagnose.h"
#include "runtime/durable_file.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64];

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/ptc-diagnose-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
    return rmdir(folder);
}

static void put(const char *name, const char *text, size_t n_bytes)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path); /* some file systems sync a file that is written over */
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, n_bytes, file), n_bytes);
    assert_int_equal(fclose(file), 0);
}

/* A file of a rank of three, with entries given as JSON objects. waiting: a seq or "null". */
static void put_rank(Arena *arena, unsigned rank, const char *waiting, const char *entries)
{
    const char *text = arena_printf(
        arena,
        "{\"format\": 1, \"ptc\": \"0\", \"rank\": %u, \"size\": 3, \"host\": \"a\", \"pid\": %u, \"status\": null,"
        " \"reason\": \"because\", \"time_us\": 9, \"waiting\": %s, \"comms\": [{\"name\": \"world\", \"ranks\":"
        " [0, 1, 2]}], \"entries\": [%s]}",
        rank, 70 + rank, waiting, entries);
    put(arena_printf(arena, "rank-%u.json", rank), text, strlen(text));
}

static const char *entry(Arena *arena, int seq, const char *op, int number, const char *peer, const char *tag,
                         int bytes, int start, int end)
{
    return arena_printf(arena,
                        "{\"seq\": %d, \"comm\": \"world\", \"op\": \"%s\", \"number\": %d, \"peer\": %s, \"tag\": %s,"
                        " \"bytes\": %d, \"what\": null, \"step\": 8, \"micro_batch\": null, \"start_us\": %d,"
                        " \"end_us\": %d, \"state\": \"%s\"}",
                        seq, op, number, peer, tag, bytes, start, end, end ? "completed" : "started");
}

static const char *report(Arena *arena)
{
    StrBuf text = strbuf_make(arena);
    if (diagnose_folder(arena, folder, &text) != STATUS_OK)
        fail_msg("%s", status_detail());
    return strbuf_text(&text);
}

#define ASSERT_TELLS(text, part)                                                                                       \
    do                                                                                                                 \
    {                                                                                                                  \
        if (!strstr(text, part))                                                                                       \
            fail_msg("'%s' is not in:\n%s", part, text);                                                               \
    } while (0)

static void tells_a_different_collective(void **state)
{
    (void)state;
    Arena *a = arena_create();
    const char *same = entry(a, 1, "barrier", 1, "null", "null", 0, 100, 150);
    put_rank(a, 0, "2", arena_printf(a, "%s, %s", same, entry(a, 2, "all_reduce", 2, "null", "3", 400, 200, 0)));
    put_rank(a, 1, "2", arena_printf(a, "%s, %s", same, entry(a, 2, "broadcast", 2, "0", "null", 400, 201, 0)));
    put_rank(a, 2, "2", arena_printf(a, "%s, %s", same, entry(a, 2, "all_reduce", 2, "null", "3", 400, 202, 0)));
    const char *text = report(a);
    ASSERT_TELLS(text, "3 of 3 ranks");
    ASSERT_TELLS(text, "rank 1 (host a, pid 71)\n  last done  barrier, step 8\n  was in     broadcast, 400 bytes");
    ASSERT_TELLS(text, "first divergence: collective 2 of world: ranks 0 and 2 started all_reduce bucket 3, 400 bytes, "
                       "step 8, rank 1 broadcast, 400 bytes");
    arena_destroy(a);
}

/* The size of a sum differs: that is the cause, although a rank also waits for a message that was never sent. */
static void tells_a_different_size(void **state)
{
    (void)state;
    Arena *a = arena_create();
    put_rank(a, 0, "2",
             arena_printf(a, "%s, %s", entry(a, 1, "all_reduce", 1, "null", "0", 400, 100, 0),
                          entry(a, 2, "recv", 1, "1", "5", 8, 50, 0)));
    put_rank(a, 1, "1", entry(a, 1, "all_reduce", 1, "null", "0", 404, 300, 0));
    put_rank(a, 2, "1", entry(a, 1, "all_reduce", 1, "null", "0", 400, 100, 0));
    const char *text = report(a);
    ASSERT_TELLS(text,
                 "ranks 0 and 2 started all_reduce bucket 0, 400 bytes, step 8, rank 1 all_reduce bucket 0, 404 ");
    ASSERT_TELLS(text, "under way  1 sums");
    ASSERT_TELLS(text, "1 more follow");
    arena_destroy(a);
}

static void tells_a_message_of_another_size(void **state)
{
    (void)state;
    Arena *a = arena_create();
    put_rank(a, 0, "null",
             arena_printf(a, "%s, %s", entry(a, 1, "send", 1, "1", "7", 16, 100, 101),
                          entry(a, 2, "send", 2, "1", "7", 20, 110, 111)));
    put_rank(a, 1, "2",
             arena_printf(a, "%s, %s", entry(a, 1, "recv", 1, "0", "7", 16, 100, 101),
                          entry(a, 2, "recv", 2, "0", "7", 16, 110, 0)));
    put_rank(a, 2, "null", "");
    const char *text = report(a);
    ASSERT_TELLS(text, "rank 1 receives 16 bytes from rank 0 with tag 7 (number 2), which sent 20");
    ASSERT_TELLS(text,
                 "rank 2 (host a, pid 72)\n  last done  nothing\n  was in     no operation\n  reason     because");
    arena_destroy(a);
}

/* 1 waits for 0 and started first, 0 waits for 2, which left nothing: 2 is where to look. */
static void tells_who_is_missing(void **state)
{
    (void)state;
    Arena *a = arena_create();
    put_rank(a, 0, "1", entry(a, 1, "recv", 1, "2", "7", 16, 120, 0));
    put_rank(a, 1, "1", entry(a, 1, "recv", 1, "0", "7", 16, 100, 0));
    const char *text = report(a);
    ASSERT_TELLS(text, "2 of 3 ranks");
    ASSERT_TELLS(text, "rank 2\n  no file");
    ASSERT_TELLS(text,
                 "first divergence: rank 0 waits in recv tag 7, 16 bytes, step 8 from rank 2 (number 1), which rank 2 "
                 "has not sent; rank 2 left no file");
    /* the same, but 2 only never came to it */
    put_rank(a, 2, "null", entry(a, 1, "send", 1, "1", "9", 16, 90, 95));
    ASSERT_TELLS(report(a), "which rank 2 has not sent; rank 2 waited for nothing");
    /* or waits itself: a cycle, told from its earliest wait */
    put_rank(a, 2, "1", entry(a, 1, "recv", 1, "1", "7", 16, 90, 0));
    ASSERT_TELLS(report(a),
                 "first divergence: rank 2 waits in recv tag 7, 16 bytes, step 8 from rank 1 (number 1), which "
                 "rank 1 has not sent; rank 1 was in: recv");
    arena_destroy(a);
}

static void tells_a_missing_member(void **state)
{
    (void)state;
    Arena *a = arena_create();
    put_rank(a, 0, "1", entry(a, 1, "barrier", 1, "null", "null", 0, 120, 0));
    put_rank(a, 1, "1", entry(a, 1, "barrier", 1, "null", "null", 0, 100, 0));
    put_rank(a, 2, "1", entry(a, 1, "send", 9, "1", "3", 4, 130, 0));
    const char *text = report(a);
    ASSERT_TELLS(
        text, "collective 1 of world: rank 1 waits in barrier, step 8, and rank 2 has not started it; rank 2 was in: "
              "send tag 3, 4 bytes, step 8 to rank 1");
    arena_destroy(a);
}

static void tells_that_nothing_differs(void **state)
{
    (void)state;
    Arena *a = arena_create();
    for (unsigned r = 0; r < 3; r++)
        put_rank(a, r, "null", entry(a, 1, "barrier", 1, "null", "null", 0, 120, 130));
    ASSERT_TELLS(report(a), "no divergence");
    arena_destroy(a);
}

/* What the recorder writes is read; texts that are not UTF-8 and control characters do not stop it. */
static void reads_the_recorder(void **state)
{
    (void)state;
    Arena *a = arena_create();
    Comm *comm, *group;
    CommOptions options = {.dump_dir = folder};
    float numbers[4] = {0};
    CommSlice slice = {numbers, numbers, 4};
    assert_int_equal(comm_create("self", &options, &comm), STATUS_OK);
    assert_int_equal(comm_split(comm, 2, 0, &group), STATUS_OK);
    comm_set_place(comm, "add \xff\x1b[2J %3", 17, 2);
    assert_int_equal(comm_all_reduce_start(group, 5, &slice, 1), STATUS_OK);
    for (int i = 0; i < 2 * COMM_RECORDS; i++)
        assert_int_equal(comm_barrier(comm), STATUS_OK);
    assert_int_equal(comm_recv(comm, 0, 11, numbers, 16), STATUS_TIMEOUT);
    assert_int_equal(comm_dump(comm, "a reason\nof two lines"), STATUS_OK);
    comm_destroy(group);
    comm_destroy(comm);
    const char *text = report(a);
    ASSERT_TELLS(text, "1 of 1 ranks");
    ASSERT_TELLS(text, "was in     recv tag 11, 16 bytes, at add ??[2J %3, step 17, micro-batch 2 from rank 0");
    ASSERT_TELLS(text, "last done  barrier");
    ASSERT_TELLS(text, "under way  1 sums"); /* although the ring has forgotten its start */
    ASSERT_TELLS(text, "a rank did not answer in time: a reason?of two lines");
    ASSERT_TELLS(text, "first divergence: rank 0 waits in recv tag 11");
    Diagnosis diagnosis;
    assert_int_equal(diagnose_read(a, folder, &diagnosis), STATUS_OK);
    assert_int_equal(diagnosis.files[0]->n_entries, COMM_RECORDS + 1);
    assert_int_equal(diagnosis.files[0]->n_comms, 2);
    arena_destroy(a);
}

static void refuses(Arena *arena, const char *name, const char *text, const char *why)
{
    StrBuf out = strbuf_make(arena);
    put(name, text, strlen(text));
    assert_int_equal(diagnose_folder(arena, folder, &out), STATUS_BAD_INPUT);
    if (!strstr(status_detail(), name) || !strstr(status_detail(), why))
        fail_msg("'%s' does not name %s, or '%s'", status_detail(), name, why);
}

static void refuses_what_is_malformed(void **state)
{
    (void)state;
    Arena *a = arena_create();
    StrBuf out = strbuf_make(a);
    assert_int_equal(diagnose_folder(a, folder, &out), STATUS_BAD_INPUT);
    assert_non_null(strstr(status_detail(), "no rank-N.json"));
    assert_int_equal(diagnose_folder(a, "/nowhere/at/all", &out), STATUS_BAD_INPUT);
    assert_non_null(strstr(status_detail(), "/nowhere/at/all"));
    put("rank-x.json", "{", 1); /* not ours */
    put("notes.txt", "{", 1);
    refuses(a, "rank-0.json", "", "1:0");
    refuses(a, "rank-0.json", "[1, 2]", "object");
    refuses(a, "rank-0.json", "{}", "format");
    refuses(a, "rank-0.json", "{\"format\": 2}", "format");
    refuses(a, "rank-0.json", "{\"format\": 1, \"size\": 0}", "size");
    refuses(a, "rank-0.json", "{\"format\": 1, \"size\": 2, \"rank\": 2}", "rank");
    refuses(a, "rank-0.json", "{\"format\": 1, \"size\": 2, \"rank\": 0, \"host\": 3}", "host");
    put_rank(a, 0, "null", "{\"seq\": 0}");
    assert_int_equal(diagnose_folder(a, folder, &out), STATUS_BAD_INPUT);
    assert_non_null(strstr(status_detail(), "entry 1: 'seq'"));
    put_rank(a, 0, "null", entry(a, 1, "smoke", 1, "null", "null", 0, 1, 0));
    assert_int_equal(diagnose_folder(a, folder, &out), STATUS_BAD_INPUT);
    put_rank(a, 0, "null", entry(a, 1, "send", 1, "null", "3", 0, 1, 0));
    assert_int_equal(diagnose_folder(a, folder, &out), STATUS_BAD_INPUT);
    put_rank(a, 0, "null", entry(a, 1, "send", 1, "3", "3", 0, 1, 0)); /* a rank that there is not */
    assert_int_equal(diagnose_folder(a, folder, &out), STATUS_BAD_INPUT);
    put_rank(a, 0, "null", "");
    assert_int_equal(diagnose_folder(a, folder, &out), STATUS_OK);
    put("rank-7.json", "", 0);
    assert_int_equal(diagnose_folder(a, folder, &out), STATUS_BAD_INPUT);
    assert_non_null(strstr(status_detail(), "rank-7.json"));
    arena_destroy(a);
}

/* Cut anywhere, or with any byte changed, a file is read or refused. */
static void survives_damage(void **state)
{
    (void)state;
    Arena *a = arena_create();
    put_rank(a, 1, "1", entry(a, 1, "recv", 1, "0", "7", 16, 100, 0));
    put_rank(a, 0, "2",
             arena_printf(a, "%s, %s", entry(a, 1, "recv", 1, "1", "5", 8, 50, 60),
                          entry(a, 2, "all_reduce", 1, "null", "0", 400, 100, 0)));
    char path[128], text[4096], damaged[4096];
    snprintf(path, sizeof path, "%s/rank-0.json", folder);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t n = fread(text, 1, sizeof text, file);
    fclose(file);
    assert_true(n > 200 && n < sizeof text);
    static const char bytes[] = "0-9e\"{}[],:\\ n\x80";
    for (size_t i = 0; i <= n; i++)
        for (size_t k = 0; k < sizeof bytes; k += i % 16 == 0 ? 1 : 9)
        {
            Arena *scratch = arena_create();
            StrBuf out = strbuf_make(scratch);
            memcpy(damaged, text, n);
            if (i < n && k > 0)
                damaged[i] = bytes[k];
            put("rank-0.json", damaged, k == 0 ? i : n);
            Status status = diagnose_folder(scratch, folder, &out);
            assert_true(status == STATUS_OK || status == STATUS_BAD_INPUT);
            arena_destroy(scratch);
        }
    arena_destroy(a);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(tells_a_different_collective), TEST(tells_a_different_size),    TEST(tells_a_message_of_another_size),
        TEST(tells_who_is_missing),         TEST(tells_a_missing_member),    TEST(tells_that_nothing_differs),
        TEST(reads_the_recorder),           TEST(refuses_what_is_malformed), TEST(survives_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
