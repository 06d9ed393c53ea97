/* Reading ahead in the feature cache: rows come from the window, reading is hidden, threads do not meet. */
#include "feature_rows.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <math.h>
#include <pthread.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

enum
{
    ELEMS = 5120,
    SLOT = 20480,
    N = 64,
    WINDOW = 16,
    BATCH = 8,
    TABLE = 3 * 4096
};

static Warnings warnings;

static FeatureCacheOptions options_of(const char *folder, uint64_t n_rows_in_memory)
{
    warnings = (Warnings){0};
    return (FeatureCacheOptions){.key = "ahead",
                                 .row_elems = ELEMS,
                                 .n_samples = {N, N},
                                 .memory_bytes = (n_rows_in_memory + WINDOW) * SLOT,
                                 .disk_bytes = 1 << 30,
                                 .folder = folder,
                                 .window_bytes = WINDOW * SLOT,
                                 .warn = count_warning,
                                 .warn_context = &warnings};
}

static void put_all(FeatureCache *cache)
{
    float row[ELEMS];
    for (uint64_t i = 0; i < N; i++)
    {
        make_row(i, 1, row, ELEMS);
        assert_true(feature_cache_put(cache, FEATURE_TEST, i, row));
    }
}

static FeatureCache *create_full(const FeatureCacheOptions *options)
{
    FeatureCache *cache;
    EXPECT_OK(feature_cache_create(options, &cache));
    put_all(cache);
    return cache;
}

static void expect_row(FeatureCache *cache, uint64_t sample)
{
    float row[ELEMS];
    assert_true(feature_cache_get(cache, FEATURE_TEST, sample, row));
    assert_true(is_row(sample, 1, row, ELEMS));
}

static void prefetch_range(FeatureCache *cache, uint64_t first, uint64_t n)
{
    uint64_t samples[N];
    for (uint64_t i = 0; i < n; i++)
        samples[i] = first + i;
    feature_cache_prefetch(cache, FEATURE_TEST, samples, n);
}

static void sleep_ms(int ms)
{
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&pause, NULL);
}

/* Until the row has come from the window once: on a busy machine a get may be faster than the thread. */
static void get_from_window(FeatureCache *cache, uint64_t sample)
{
    const uint64_t before = feature_cache_counters(cache).window_hits;
    for (int i = 0; i < 500 && feature_cache_counters(cache).window_hits == before; i++)
    {
        prefetch_range(cache, sample, 1);
        sleep_ms(5);
        expect_row(cache, sample);
    }
    assert_true(feature_cache_counters(cache).window_hits > before);
}

static void test_rows_come_from_the_window(void **state)
{
    FeatureCacheOptions options = options_of(*state, 4);
    FeatureCache *cache = create_full(&options);
    assert_int_equal(feature_cache_counters(cache).memory_bytes, (4 + WINDOW) * SLOT);
    prefetch_range(cache, 0, BATCH); /* 0 to 3 are in memory */
    for (uint64_t i = 0; i < BATCH; i++)
        expect_row(cache, i);
    FeatureCacheCounters c = feature_cache_counters(cache);
    assert_int_equal(c.memory_hits, 4);
    assert_int_equal(c.window_hits + c.disk_hits, 4);

    /* Calls behind a full window wait in line; a row is got twice, the second time from disk. */
    prefetch_range(cache, 8, WINDOW);
    prefetch_range(cache, 8 + WINDOW, WINDOW);
    for (uint64_t i = 8; i < 8 + 2 * WINDOW; i++)
        expect_row(cache, i);
    expect_row(cache, 8);
    c = feature_cache_counters(cache);
    assert_int_equal(c.window_hits + c.disk_hits, 4 + 2 * WINDOW + 1);
    get_from_window(cache, 50);
    feature_cache_remove(cache);
}

/* A window full of rows that nobody came for does not stay full. */
static void test_rows_that_nobody_gets(void **state)
{
    FeatureCacheOptions options = options_of(*state, 0);
    FeatureCache *cache = create_full(&options);
    prefetch_range(cache, 0, WINDOW);
    sleep_ms(50);
    prefetch_range(cache, 20, BATCH);
    expect_row(cache, 20);
    get_from_window(cache, 60);
    prefetch_range(cache, 40, 24); /* more than the window */
    feature_cache_remove(cache);   /* while rows are in line */
}

static void test_damaged_in_the_window(void **state)
{
    FeatureCacheOptions options = options_of(*state, 0);
    FeatureCache *cache = create_full(&options);
    char address[FEATURE_CACHE_ADDRESS_BYTES], path[64];
    int fd;
    feature_cache_address(cache, address);
    assert_int_equal(sscanf(address, "%*d:%*d:%*d:%*d:%d", &fd), 1);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "x", 1, TABLE + 5 * SLOT), 1);
    close(fd);
    prefetch_range(cache, 0, BATCH);
    float row[ELEMS];
    for (uint64_t i = 0; i < BATCH; i++)
        assert_int_equal(feature_cache_get(cache, FEATURE_TEST, i, row), i != 5);
    assert_int_equal(feature_cache_counters(cache).corrupt, 1);
    assert_int_equal(warnings.n, 1);
    feature_cache_remove(cache);
}

/* A successor has its window when its predecessor has given room back. */
static void test_window_of_a_successor(void **state)
{
    FeatureCacheOptions options = options_of(*state, 2);
    FeatureCache *old = create_full(&options);
    options.key = "ahead, next";
    options.previous = old;
    FeatureCache *next = create_full(&options);
    prefetch_range(next, 0, BATCH);
    for (uint64_t i = 0; i < BATCH; i++)
        expect_row(next, i);
    assert_int_equal(feature_cache_counters(next).window_hits, 0);
    feature_cache_remove(old);
    assert_int_equal(feature_cache_counters(next).memory_bytes, 0);
    prefetch_range(next, 0, WINDOW);
    assert_int_equal(feature_cache_counters(next).memory_bytes, WINDOW * SLOT);
    get_from_window(next, WINDOW - 1);
    feature_cache_remove(next);
}

/* ---- hidden */

static bool empty_page_cache(const char *folder)
{
    bool done = false;
    DIR *entries = opendir(folder);
    for (struct dirent *entry; (entry = readdir(entries));)
    {
        int fd = entry->d_name[0] == '.' ? -1 : open(path_in(folder, entry->d_name), O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        done = fdatasync(fd) == 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0;
        close(fd);
    }
    closedir(entries);
    return done;
}

enum
{
    BIG_ELEMS = 131072, /* 512 KiB */
    N_BIG = 96
};

/* A pass in batches, each followed by 30 ms without the cache, with the next batch prefetched or not. */
static double waited_s(const FeatureCacheOptions *options, bool ahead)
{
    FeatureCache *cache;
    EXPECT_OK(feature_cache_create(options, &cache));
    assert_true(empty_page_cache(options->folder));
    static float row[BIG_ELEMS];
    uint64_t samples[BATCH];
    for (uint64_t at = 0; at < N_BIG; at += BATCH)
    {
        for (uint64_t i = 0; i < BATCH; i++)
            assert_true(feature_cache_get(cache, FEATURE_TRAIN, (at + i) * 41 % N_BIG, row));
        for (uint64_t i = 0; i < BATCH; i++)
            samples[i] = (at + BATCH + i) * 41 % N_BIG;
        if (ahead)
            feature_cache_prefetch(cache, FEATURE_TRAIN, samples, BATCH);
        sleep_ms(30);
    }
    const double wait_s = feature_cache_counters(cache).wait_s;
    feature_cache_close(cache);
    return wait_s;
}

static void test_reading_is_hidden(void **state)
{
    struct statfs info;
    assert_int_equal(statfs(*state, &info), 0);
    if (info.f_type == TMPFS_MAGIC)
        TEST_SKIP("the folder for temporary files is in memory: no disk to wait for");
    FeatureCacheOptions options = options_of(*state, 0);
    options.row_elems = BIG_ELEMS;
    options.n_samples[FEATURE_TRAIN] = N_BIG;
    options.window_bytes = options.memory_bytes = 2 * BATCH * 4 * BIG_ELEMS;
    FeatureCache *cache;
    EXPECT_OK(feature_cache_create(&options, &cache));
    float *row = malloc(4 * BIG_ELEMS);
    for (uint64_t i = 0; i < N_BIG; i++)
    {
        make_row(i, 1, row, BIG_ELEMS);
        assert_true(feature_cache_put(cache, FEATURE_TRAIN, i, row));
    }
    free(row);
    feature_cache_close(cache);
    double without = 0, with = 0;
    for (int i = 0; i < 3; i++) /* others may be busy with the disk; some round shows it */
    {
        without = waited_s(&options, false);
        with = waited_s(&options, true);
        if (with < without / 2)
            break;
    }
    printf("waited for the disk: %.1f ms, with prefetch %.1f ms\n", 1e3 * without, 1e3 * with);
    assert_true(with < without / 2);
}

/* ---- threads */

typedef struct
{
    FeatureCache *cache;
    uint64_t first;
    bool is_bf16, ok;
} Worker;

/* A row that bf16 holds exactly, when it has to. */
static void make_short_row(const Worker *worker, uint64_t sample, float *row)
{
    make_row(sample, 1, row, ELEMS);
    for (int i = 0; i < ELEMS && worker->is_bf16; i++)
        row[i] = truncf(row[i] / 16) / 8;
}

static void *work(void *context)
{
    Worker *worker = context;
    float row[ELEMS], wanted[ELEMS];
    uint64_t samples[BATCH];
    worker->ok = true;
    for (uint64_t round = 0; round < 6; round++)
        for (uint64_t at = 0; at < N; at += BATCH)
        {
            for (uint64_t i = 0; i < BATCH; i++)
                samples[i] = ((at + i) * 5 + worker->first) % N;
            feature_cache_prefetch(worker->cache, FEATURE_TEST, samples, BATCH);
            for (uint64_t i = 0; i < BATCH; i++)
            {
                make_short_row(worker, samples[i], wanted);
                if (feature_cache_get(worker->cache, FEATURE_TEST, samples[i], row))
                    worker->ok &= memcmp(row, wanted, sizeof row) == 0;
                else
                    feature_cache_put(worker->cache, FEATURE_TEST, samples[i], wanted);
                if (round == 2 && i == 3)
                    feature_cache_forget(worker->cache, FEATURE_TEST, samples[i]);
            }
            worker->ok &= feature_cache_counters(worker->cache).corrupt == 0;
        }
    return NULL;
}

static void test_threads(void **state)
{
    for (int precision = FEATURE_F32; precision <= FEATURE_BF16; precision++)
    {
        FeatureCacheOptions options = options_of(*state, 8);
        options.precision = (FeaturePrecision)precision;
        FeatureCache *cache;
        EXPECT_OK(feature_cache_create(&options, &cache));
        Worker workers[3];
        pthread_t threads[3];
        for (int i = 0; i < 3; i++)
        {
            workers[i] = (Worker){.cache = cache, .first = (uint64_t)i * 3, .is_bf16 = precision == FEATURE_BF16};
            assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
        }
        for (int i = 0; i < 3; i++)
        {
            pthread_join(threads[i], NULL);
            assert_true(workers[i].ok);
        }
        assert_int_equal(feature_cache_counters(cache).corrupt, 0);
        feature_cache_remove(cache);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_create, scratch_remove)
    const struct CMUnitTest tests[] = {
        TEST(test_rows_come_from_the_window), TEST(test_rows_that_nobody_gets), TEST(test_damaged_in_the_window),
        TEST(test_window_of_a_successor),     TEST(test_reading_is_hidden),     TEST(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
