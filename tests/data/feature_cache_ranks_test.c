/* The feature cache between processes: rows shared, a process killed at any moment, disks that are full. */
#include "feature_rows.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum
{
    ELEMS = 4608, /* 18,432 bytes, in 20,480 */
    SLOT = 20480,
    N = 1200,
    N_KILLS = 25,
    MAX_PROCESSES = 3
};

/* Between the processes of a test. */
typedef struct
{
    _Atomic int n_arrived, n_rows_seen;
    char address[FEATURE_CACHE_ADDRESS_BYTES];
} Board;

static float row[ELEMS];
static Warnings warnings;

static FeatureCacheOptions options_of(const char *folder, uint64_t memory_bytes, uint64_t disk_bytes)
{
    warnings = (Warnings){0};
    return (FeatureCacheOptions){.key = "ranks",
                                 .row_elems = ELEMS,
                                 .n_samples = {N, 0},
                                 .memory_bytes = memory_bytes,
                                 .disk_bytes = disk_bytes,
                                 .folder = folder,
                                 .warn = count_warning,
                                 .warn_context = &warnings};
}

static Board *new_board(void)
{
    Board *board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(board != MAP_FAILED);
    return board;
}

static void sleep_us(uint64_t us)
{
    struct timespec pause = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000 * 1000)};
    nanosleep(&pause, NULL);
}

static void meet(Board *board, int n)
{
    atomic_fetch_add(&board->n_arrived, 1);
    while (atomic_load(&board->n_arrived) < n)
        sleep_us(100);
}

/* In a child, whose verdict is its exit code: the line that failed, at most 255. */
#define MUST(cond)                                                                                                     \
    do                                                                                                                 \
        if (!(cond))                                                                                                   \
        {                                                                                                              \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                                                 \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    while (0)

static pid_t start(void (*child)(const FeatureCacheOptions *, Board *, int), const FeatureCacheOptions *options,
                   Board *board, int number)
{
    fflush(stdout);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
    {
        child(options, board, number);
        _exit(0);
    }
    return pid;
}

static void expect_good_end(pid_t pid)
{
    int how;
    assert_int_equal(waitpid(pid, &how, 0), pid);
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 0);
}

static void kill_9(pid_t pid)
{
    int how;
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &how, 0), pid);
    assert_true(WIFSIGNALED(how));
}

/* ---- sharing */

static void put_share(FeatureCache *cache, int first, int step)
{
    for (int i = first; i < N; i += step)
    {
        make_row((uint64_t)i, 1, row, ELEMS);
        MUST(feature_cache_put(cache, FEATURE_TRAIN, (uint64_t)i, row));
    }
}

static void expect_all(FeatureCache *cache)
{
    for (uint64_t i = 0; i < N; i++)
        MUST(feature_cache_get(cache, FEATURE_TRAIN, i, row) && is_row(i, 1, row, ELEMS));
    MUST(feature_cache_counters(cache).corrupt == 0);
}

static int n_sharing;

static void share(const FeatureCacheOptions *options, Board *board, int number)
{
    FeatureCache *cache;
    MUST(feature_cache_join(options, board->address, &cache) == STATUS_OK);
    meet(board, n_sharing);
    put_share(cache, number, n_sharing);
    meet(board, 2 * n_sharing);
    expect_all(cache);
    feature_cache_close(cache);
}

static void test_two_and_three_share(void **state)
{
    for (n_sharing = 2; n_sharing <= MAX_PROCESSES; n_sharing++)
    {
        Board *board = new_board();
        FeatureCacheOptions options = options_of(*state, N / 2 * SLOT, 1 << 30);
        FeatureCache *cache;
        EXPECT_OK(feature_cache_create(&options, &cache));
        feature_cache_address(cache, board->address);
        pid_t pids[MAX_PROCESSES];
        for (int i = 1; i < n_sharing; i++)
            pids[i] = start(share, &options, board, i);
        meet(board, n_sharing);
        put_share(cache, 0, n_sharing);
        meet(board, 2 * n_sharing);
        expect_all(cache);
        for (int i = 1; i < n_sharing; i++)
            expect_good_end(pids[i]);
        FeatureCacheCounters c = feature_cache_counters(cache);
        assert_int_equal(c.memory_rows, N / 2); /* one copy for all */
        assert_int_equal(c.disk_rows, N / 2);
        assert_int_equal(c.memory_bytes, N / 2 * SLOT);
        feature_cache_remove(cache);
        munmap(board, sizeof *board);
    }
}

static void test_join_says_what_is_wrong(void **state)
{
    (void)state;
    FeatureCacheOptions options = options_of(NULL, 1 << 20, 0);
    FeatureCache *cache, *joined;
    EXPECT_OK(feature_cache_create(&options, &cache));
    char address[FEATURE_CACHE_ADDRESS_BYTES];
    feature_cache_address(cache, address);
    EXPECT_FAIL(feature_cache_join(&options, "1:2", &joined), STATUS_BAD_INPUT, "is no feature cache's address");
    options.row_elems++;
    EXPECT_FAIL(feature_cache_join(&options, address, &joined), STATUS_BAD_INPUT, "another one than");
    options.row_elems--;
    options.key = "other";
    EXPECT_FAIL(feature_cache_join(&options, address, &joined), STATUS_BAD_INPUT, "another one than");
    options.key = "ranks";
    char *last = &address[strlen(address) - 1];
    *last = *last == '0' ? '1' : '0';
    EXPECT_FAIL(feature_cache_join(&options, address, &joined), STATUS_IO, "no feature cache is at");
    feature_cache_address(cache, address);
    feature_cache_close(cache);
    EXPECT_FAIL(feature_cache_join(&options, address, &joined), STATUS_IO, "cannot open");
}

/* ---- kills */

/* Puts and gets, in an order of its own, until all rows are there. */
static void work(const FeatureCacheOptions *options, Board *board, int number)
{
    FeatureCache *cache;
    MUST(feature_cache_join(options, board->address, &cache) == STATUS_OK);
    meet(board, 3);
    for (int round = 0; round < 2; round++)
        for (uint64_t i = 0; i < N; i++)
        {
            const uint64_t sample = (i * (number == 1 ? 7 : 11) + 13) % N;
            if (feature_cache_get(cache, FEATURE_TRAIN, sample, row))
                MUST(is_row(sample, 1, row, ELEMS));
            else
            {
                make_row(sample, 1, row, ELEMS);
                MUST(feature_cache_put(cache, FEATURE_TRAIN, sample, row));
            }
            atomic_fetch_add(&board->n_rows_seen, 1);
        }
    expect_all(cache);
    feature_cache_close(cache);
}

/* One of two workers is killed; the other and the parent end with all rows, and so does the next run. */
static uint64_t kill_round(const FeatureCacheOptions *options, uint64_t delay_us)
{
    Board *board = new_board();
    FeatureCache *cache;
    EXPECT_OK(feature_cache_create(options, &cache));
    feature_cache_address(cache, board->address);
    pid_t victim = start(work, options, board, 1), other = start(work, options, board, 2);
    meet(board, 3);
    sleep_us(delay_us);
    kill_9(victim);
    const int seen = atomic_load(&board->n_rows_seen);
    expect_good_end(other);
    expect_all(cache);
    FeatureCacheCounters c = feature_cache_counters(cache);
    /* Room is lost for at most the row that it was putting; small rows that two have put at once keep theirs. */
    assert_true(c.memory_bytes <= options->memory_bytes && c.memory_bytes <= (c.memory_rows + 1) * SLOT);
    const uint64_t on_disk = c.disk_rows;
    feature_cache_close(cache);

    FeatureCacheOptions next = *options;
    next.memory_bytes = 0;
    EXPECT_OK(feature_cache_create(&next, &cache));
    assert_int_equal(feature_cache_counters(cache).disk_rows, on_disk);
    uint64_t n = 0;
    for (uint64_t i = 0; i < N; i++)
        if (feature_cache_get(cache, FEATURE_TRAIN, i, row))
        {
            assert_true(is_row(i, 1, row, ELEMS));
            n++;
        }
    assert_int_equal(n, on_disk);
    feature_cache_remove(cache);
    munmap(board, sizeof *board);
    return seen < 2 * N;
}

static void test_killed_while_putting(void **state)
{
    uint64_t seed = test_seed(), counter = 0, n_early = 0;
    for (int i = 0; i < N_KILLS; i++)
    {
        FeatureCacheOptions options = options_of(*state, N / 2 * SLOT, 1 << 30);
        n_early += kill_round(&options, random_next(seed, &counter) % 30000);
        assert_int_equal(warnings.n, 0);
    }
    printf("%d of %d kills before all rows were put\n", (int)n_early, N_KILLS);
    assert_true(n_early > 0);
}

static void make_and_wait(const FeatureCacheOptions *options, Board *board, int number)
{
    (void)number;
    FeatureCache *cache;
    MUST(feature_cache_create(options, &cache) == STATUS_OK);
    put_share(cache, 0, 2);
    feature_cache_address(cache, board->address);
    meet(board, 2);
    for (;;)
        pause();
}

static void test_creator_killed(void **state)
{
    Board *board = new_board();
    FeatureCacheOptions options = options_of(*state, N / 2 * SLOT, 1 << 30);
    pid_t creator = start(make_and_wait, &options, board, 0);
    meet(board, 2);
    FeatureCache *cache, *late;
    EXPECT_OK(feature_cache_join(&options, board->address, &cache));
    kill_9(creator);
    EXPECT_FAIL(feature_cache_join(&options, board->address, &late), STATUS_IO, "cannot open");
    put_share(cache, 1, 2);
    feature_cache_address(cache, board->address);
    EXPECT_OK(feature_cache_join(&options, board->address, &late));
    expect_all(late);
    expect_all(cache);
    feature_cache_close(late);
    feature_cache_remove(cache);
    munmap(board, sizeof *board);
}

static void read_until_gone(const FeatureCacheOptions *options, Board *board, int number)
{
    (void)number;
    FeatureCache *cache;
    MUST(feature_cache_join(options, board->address, &cache) == STATUS_OK);
    meet(board, 2);
    bool found = true;
    for (uint64_t i = 0; found; i = (i + 1) % N)
    {
        found = feature_cache_get(cache, FEATURE_TRAIN, i, row);
        MUST(!found || is_row(i, 1, row, ELEMS));
    }
    make_row(0, 1, row, ELEMS);
    MUST(!feature_cache_put(cache, FEATURE_TRAIN, 0, row));
    MUST(feature_cache_counters(cache).corrupt == 0 && warnings.n == 0);
    feature_cache_remove(cache);
}

static void test_removed_under_a_reader(void **state)
{
    Board *board = new_board();
    FeatureCacheOptions options = options_of(*state, N / 2 * SLOT, 1 << 30);
    FeatureCache *cache;
    EXPECT_OK(feature_cache_create(&options, &cache));
    put_share(cache, 0, 1);
    feature_cache_address(cache, board->address);
    pid_t reader = start(read_until_gone, &options, board, 0);
    meet(board, 2);
    sleep_us(2000);
    feature_cache_remove(cache);
    expect_good_end(reader);
    munmap(board, sizeof *board);
}

/* ---- full disks */

/* Rows go on being found where they are; the level that fails says so once. */
static void fill_until_refused(FeatureCache *cache, const char *words)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < N; i++)
    {
        make_row(i, 1, row, ELEMS);
        n += feature_cache_put(cache, FEATURE_TRAIN, i, row);
    }
    MUST(n > 0 && n < N);
    MUST(feature_cache_counters(cache).refused == N - n);
    MUST(warnings.n == 1 && strstr(warnings.last, words));
    uint64_t n_found = 0;
    for (uint64_t i = 0; i < N; i++)
        if (feature_cache_get(cache, FEATURE_TRAIN, i, row))
        {
            MUST(is_row(i, 1, row, ELEMS));
            n_found++;
        }
    MUST(n_found == n && warnings.n == 1);
}

static void fill_small_tmpfs(const FeatureCacheOptions *options, Board *board, int number)
{
    (void)board, (void)number;
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", options->folder, "tmpfs", 0, "size=4m") != 0)
        _exit(PTC_SKIP_CODE);
    FeatureCache *cache;
    MUST(feature_cache_create(options, &cache) == STATUS_OK);
    fill_until_refused(cache, strerror(ENOSPC));
    feature_cache_close(cache);
}

static void test_disk_full(void **state)
{
    FeatureCacheOptions options = options_of(*state, 10 * SLOT, 1 << 30);
    pid_t pid = start(fill_small_tmpfs, &options, NULL, 0);
    int how;
    assert_int_equal(waitpid(pid, &how, 0), pid);
    assert_true(WIFEXITED(how));
    if (WEXITSTATUS(how) == PTC_SKIP_CODE)
        TEST_SKIP("only root can mount a small tmpfs");
    assert_int_equal(WEXITSTATUS(how), 0);
}

static void fill_below_limit(const FeatureCacheOptions *options, Board *board, int number)
{
    (void)board, (void)number;
    const struct rlimit limit = {100 * SLOT, 100 * SLOT};
    signal(SIGXFSZ, SIG_IGN);
    MUST(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    FeatureCache *cache;
    MUST(feature_cache_create(options, &cache) == STATUS_OK);
    fill_until_refused(cache, strerror(EFBIG));
    feature_cache_remove(cache);
}

static void test_files_limited(void **state)
{
    FeatureCacheOptions on_disk = options_of(*state, 0, 1 << 30), in_memory = options_of(NULL, 1 << 30, 0);
    expect_good_end(start(fill_below_limit, &on_disk, NULL, 0));
    expect_good_end(start(fill_below_limit, &in_memory, NULL, 0));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_create, scratch_remove)
    const struct CMUnitTest tests[] = {
        TEST(test_two_and_three_share), TEST(test_join_says_what_is_wrong), TEST(test_killed_while_putting),
        TEST(test_creator_killed),      TEST(test_removed_under_a_reader),  TEST(test_disk_full),
        TEST(test_files_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
