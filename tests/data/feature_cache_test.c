/* The feature cache in one process: what comes back, budgets, damage, generations, resume. */
#include "feature_rows.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

enum
{
    ELEMS = 5000, /* 20,000 bytes: five pages */
    SLOT = 20480,
    N_TRAIN = 40,
    N_TEST = 10,
    TABLE = 4096 + 4096 /* of the disk file: head, and 126 entries of 16 bytes */
};

static float row[ELEMS];
static Warnings warnings;

static FeatureCacheOptions options_of(const char *folder, uint64_t memory_bytes, uint64_t disk_bytes)
{
    warnings = (Warnings){0};
    return (FeatureCacheOptions){.key = "boundary 3, weights abc",
                                 .row_elems = ELEMS,
                                 .n_samples = {N_TRAIN, N_TEST},
                                 .memory_bytes = memory_bytes,
                                 .disk_bytes = disk_bytes,
                                 .folder = folder,
                                 .warn = count_warning,
                                 .warn_context = &warnings};
}

static FeatureCache *create(const FeatureCacheOptions *options)
{
    FeatureCache *cache;
    EXPECT_OK(feature_cache_create(options, &cache));
    return cache;
}

/* Both splits; test samples have another salt. */
static uint64_t put_all(FeatureCache *cache)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < N_TRAIN + N_TEST; i++)
    {
        const FeatureSplit split = i < N_TRAIN ? FEATURE_TRAIN : FEATURE_TEST;
        make_row(i, 1, row, ELEMS);
        n += feature_cache_put(cache, split, i < N_TRAIN ? i : i - N_TRAIN, row);
    }
    return n;
}

/* The number found; none may be wrong. */
static uint64_t get_all(FeatureCache *cache)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < N_TRAIN + N_TEST; i++)
    {
        const FeatureSplit split = i < N_TRAIN ? FEATURE_TRAIN : FEATURE_TEST;
        const uint64_t sample = i < N_TRAIN ? i : i - N_TRAIN;
        const bool found = feature_cache_get(cache, split, sample, row);
        assert_true(!found || feature_cache_has(cache, split, sample));
        if (found && !is_row(i, 1, row, ELEMS))
            fail_msg("row %d is wrong", (int)i);
        n += found;
    }
    return n;
}

static uint64_t used_blocks_bytes(const char *path)
{
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    return (uint64_t)info.st_blocks * 512;
}

/* The only file in the folder, or NULL. */
static const char *only_file(const char *folder)
{
    const char *path = NULL;
    int n = 0;
    DIR *entries = opendir(folder);
    for (struct dirent *entry; (entry = readdir(entries));)
        if (entry->d_name[0] != '.')
        {
            path = path_in(folder, entry->d_name);
            n++;
        }
    closedir(entries);
    assert_true(n <= 1);
    return path;
}

/* The file that address speaks of: 3 memory, 4 disk. */
static int open_level(const FeatureCache *cache, int field)
{
    char address[FEATURE_CACHE_ADDRESS_BYTES], path[64];
    int numbers[5];
    feature_cache_address(cache, address);
    assert_int_equal(sscanf(address, "%d:%d:%d:%d:%d", &numbers[0], &numbers[1], &numbers[2], &numbers[3], &numbers[4]),
                     5);
    snprintf(path, sizeof path, "/proc/self/fd/%d", numbers[field]);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/* ---- what comes back */

static void test_f32_bit_for_bit(void **state)
{
    FeatureCacheOptions options = options_of(*state, 25 * SLOT, 1 << 30);
    FeatureCache *cache = create(&options);
    assert_int_equal(get_all(cache), 0);
    uint32_t odd[4] = {0x7FC12345, 0xFF800000, 0x80000000, 0x00000001}; /* NaN, -inf, -0, denormal */
    make_row(3, 1, row, ELEMS);
    memcpy(row, odd, sizeof odd);
    assert_true(feature_cache_put(cache, FEATURE_TEST, 9, row));
    memset(row, 0, sizeof row);
    assert_true(feature_cache_get(cache, FEATURE_TEST, 9, row));
    assert_memory_equal(row, odd, sizeof odd);
    feature_cache_forget(cache, FEATURE_TEST, 9);
    assert_false(feature_cache_get(cache, FEATURE_TEST, 9, row));
    assert_int_equal(put_all(cache), N_TRAIN + N_TEST);
    assert_int_equal(get_all(cache), N_TRAIN + N_TEST);
    FeatureCacheCounters c = feature_cache_counters(cache);
    assert_int_equal(c.memory_rows, 25);
    assert_int_equal(c.disk_rows, 25);
    assert_int_equal(c.memory_hits, 26);
    assert_int_equal(c.disk_hits, 25);
    assert_int_equal(c.misses, N_TRAIN + N_TEST + 1);
    assert_int_equal(c.puts, N_TRAIN + N_TEST + 1);
    assert_int_equal(c.refused + c.corrupt, 0);
    assert_true(c.wait_s > 0);
    assert_int_equal(warnings.n, 0);
    feature_cache_close(cache);
}

/* Nearest, found by trying both neighbours in f64; ties go to the even one. */
static float bf16_nearest(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    float low, high;
    uint32_t low_bits = bits & 0xFFFF0000u, high_bits = low_bits + 0x10000u;
    memcpy(&low, &low_bits, sizeof low);
    memcpy(&high, &high_bits, sizeof high);
    const double below = fabs((double)value - low), above = fabs((double)high - value);
    return below < above || (below == above && (low_bits >> 16) % 2 == 0) ? low : high;
}

static void test_bf16_nearest_even(void **state)
{
    (void)state;
    FeatureCacheOptions options = options_of(NULL, 1 << 20, 0);
    options.precision = FEATURE_BF16;
    FeatureCache *cache = create(&options);
    make_row(7, 1, row, ELEMS);
    const uint32_t ties[] = {0x3F808000, 0x3F818000, 0xBF808000, 0x3F808001, 0x3F807FFF, 0x00008000, 0x7F7F7FFF};
    memcpy(row, ties, sizeof ties);
    float stored[ELEMS];
    memcpy(stored, row, sizeof row);
    assert_true(feature_cache_put(cache, FEATURE_TRAIN, 0, row));
    assert_true(feature_cache_get(cache, FEATURE_TRAIN, 0, row));
    for (int i = 0; i < ELEMS; i++)
        if (row[i] != bf16_nearest(stored[i]))
            fail_msg("%a became %a", stored[i], row[i]);
    const uint32_t special[] = {0x7F800000, 0xFF800000, 0x7F800001, 0xFFFFFFFF, 0x80000000, 0x7F7FFFFF};
    memcpy(stored, special, sizeof special);
    assert_true(feature_cache_put(cache, FEATURE_TRAIN, 1, stored));
    assert_true(feature_cache_get(cache, FEATURE_TRAIN, 1, row));
    assert_true(isinf(row[0]) && row[0] > 0 && isinf(row[1]) && row[1] < 0);
    assert_true(isnan(row[2]) && isnan(row[3]));
    assert_true(row[4] == 0 && signbit(row[4]));
    assert_true(isinf(row[5])); /* the largest f32 is nearer to 2^128 than to the largest bf16 */
    assert_int_equal(feature_cache_counters(cache).memory_bytes, 2 * 10048); /* small rows: rounded up to 64 */
    feature_cache_close(cache);
}

/* ---- budgets */

static void test_budgets_to_the_byte(void **state)
{
    FeatureCacheOptions options = options_of(*state, 7 * SLOT + SLOT - 1, TABLE + 5 * SLOT + SLOT - 1);
    FeatureCache *cache = create(&options);
    assert_int_equal(put_all(cache), 12);
    assert_int_equal(get_all(cache), 12);
    FeatureCacheCounters c = feature_cache_counters(cache);
    assert_int_equal(c.memory_bytes, 7 * SLOT);
    assert_int_equal(c.disk_bytes, TABLE + 5 * SLOT);
    assert_int_equal(c.refused, N_TRAIN + N_TEST - 12);
    assert_int_equal(warnings.n, 0); /* no room is no error */
    struct stat info;
    int memory = open_level(cache, 3);
    assert_int_equal(fstat(memory, &info), 0);
    close(memory);
    assert_int_equal(info.st_blocks * 512, 7 * SLOT); /* the system counts the same */
    assert_true(used_blocks_bytes(only_file(*state)) <= options.disk_bytes);

    feature_cache_forget(cache, FEATURE_TRAIN, 0);  /* in memory */
    feature_cache_forget(cache, FEATURE_TRAIN, 11); /* on disk */
    c = feature_cache_counters(cache);
    assert_int_equal(c.memory_bytes, 6 * SLOT);
    assert_int_equal(c.disk_bytes, TABLE + 4 * SLOT);
    assert_int_equal(put_all(cache), 12);
    assert_int_equal(get_all(cache), 12);
    feature_cache_remove(cache);
    assert_null(only_file(*state));
}

static void test_no_budget(void **state)
{
    (void)state;
    FeatureCacheOptions options = options_of(NULL, 0, 0);
    FeatureCache *cache = create(&options);
    assert_int_equal(put_all(cache), 0);
    assert_int_equal(get_all(cache), 0);
    feature_cache_close(cache);
    feature_cache_close(NULL);
    feature_cache_remove(NULL);
}

/* ---- damage */

static void test_damaged_rows(void **state)
{
    FeatureCacheOptions options = options_of(*state, 30 * SLOT, 1 << 30);
    FeatureCache *cache = create(&options);
    put_all(cache);
    int memory = open_level(cache, 3), disk = open_level(cache, 4);
    assert_int_equal(pwrite(memory, "x", 1, 2 * SLOT + 77), 1);
    assert_int_equal(pwrite(disk, "x", 1, TABLE + 4 * SLOT + 19999), 1); /* the last byte of train row 34 */
    assert_int_equal(get_all(cache), N_TRAIN + N_TEST - 2);
    assert_false(feature_cache_has(cache, FEATURE_TRAIN, 2));
    assert_false(feature_cache_has(cache, FEATURE_TRAIN, 34));
    assert_int_equal(warnings.n, 1);
    assert_non_null(strstr(warnings.last, "wrong checksum"));
    assert_int_equal(put_all(cache), N_TRAIN + N_TEST); /* made again */
    assert_int_equal(get_all(cache), N_TRAIN + N_TEST);

    assert_int_equal(ftruncate(disk, TABLE + 10 * SLOT + 5), 0);
    assert_int_equal(get_all(cache), N_TRAIN + N_TEST - 11); /* slots 10 to 19, and 20: row 34 */
    assert_int_equal(put_all(cache), N_TRAIN + N_TEST);
    assert_int_equal(get_all(cache), N_TRAIN + N_TEST);
    assert_int_equal(warnings.n, 1);
    assert_int_equal(feature_cache_counters(cache).corrupt, 13);
    close(memory);
    close(disk);
    feature_cache_close(cache);
}

/* ---- the next run */

static void test_resume(void **state)
{
    FeatureCacheOptions options = options_of(*state, 10 * SLOT, 1 << 30);
    FeatureCache *cache = create(&options);
    put_all(cache);
    feature_cache_forget(cache, FEATURE_TRAIN, 20);
    feature_cache_close(cache);

    options.memory_bytes = 0;
    cache = create(&options);
    FeatureCacheCounters c = feature_cache_counters(cache);
    assert_int_equal(c.disk_rows, N_TRAIN + N_TEST - 11);
    assert_int_equal(c.disk_bytes, TABLE + (N_TRAIN + N_TEST - 11) * SLOT);
    assert_int_equal(get_all(cache), N_TRAIN + N_TEST - 11);
    assert_int_equal(put_all(cache), N_TRAIN + N_TEST);
    feature_cache_close(cache);

    /* A table entry of a row that is another's, and a damaged row. */
    const char *path = only_file(*state);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    char entry[16];
    assert_int_equal(pread(fd, entry, 16, 4096), 16);
    assert_int_equal(pwrite(fd, entry, 16, 4096 + 16), 16);
    assert_int_equal(pwrite(fd, "x", 1, TABLE + 8 * SLOT), 1);
    close(fd);
    cache = create(&options);
    assert_int_equal(get_all(cache), N_TRAIN + N_TEST - 2);
    feature_cache_close(cache);
    assert_int_equal(warnings.n, 1);

    /* Truncated in the table; then no file of ours; each is begun anew. */
    assert_int_equal(truncate(path, 5000), 0);
    cache = create(&options);
    assert_int_equal(get_all(cache), 0);
    assert_int_equal(put_all(cache), N_TRAIN + N_TEST);
    feature_cache_close(cache);
    write_bytes(path, "hello", 5);
    cache = create(&options);
    assert_int_equal(put_all(cache), N_TRAIN + N_TEST);
    feature_cache_close(cache);
    options.disk_bytes = 20 * SLOT; /* less than what is there */
    cache = create(&options);
    assert_int_equal(get_all(cache), 0);
    assert_true(used_blocks_bytes(path) <= options.disk_bytes);
    feature_cache_close(cache);
    options.row_elems = ELEMS - 1;
    cache = create(&options);
    assert_int_equal(feature_cache_counters(cache).disk_rows, 0);
    feature_cache_remove(cache);
}

/* Bytes of head, table and rows at random; whatever is found is right. */
static void test_random_damage(void **state)
{
    uint64_t seed = test_seed(), counter = 0, n_found = 0;
    FeatureCacheOptions options = options_of(*state, 0, 1 << 30);
    for (int round = 0; round < 60; round++)
    {
        FeatureCache *cache = create(&options);
        put_all(cache);
        feature_cache_close(cache);
        int fd = open(only_file(*state), O_RDWR | O_CLOEXEC);
        for (int i = 0; i < 12; i++)
        {
            const uint32_t byte = random_next(seed, &counter), place = random_next(seed, &counter);
            const uint32_t end = i == 0 ? round % 6 == 0 ? 80 : 4096 : i < 8 ? TABLE : TABLE + N_TRAIN * SLOT;
            const uint32_t start = i == 0 ? 0 : i < 8 ? 4096 : TABLE;
            assert_int_equal(pwrite(fd, &byte, 1, start + place % (end - start)), 1);
        }
        if (round % 10 == 9)
            assert_int_equal(ftruncate(fd, random_next(seed, &counter) % (TABLE + N_TRAIN * SLOT)), 0);
        close(fd);
        cache = create(&options);
        n_found += get_all(cache);
        feature_cache_close(cache);
    }
    assert_true(n_found > 0 && n_found < 60 * (N_TRAIN + N_TEST));
}

static void test_too_large(void **state)
{
    (void)state;
    FeatureCacheOptions options = options_of(NULL, 1 << 20, 0);
    FeatureCache *cache;
    options.n_samples[FEATURE_TEST] = 1u << 30;
    EXPECT_FAIL(feature_cache_create(&options, &cache), STATUS_UNSUPPORTED, "1073741864 samples");
}

static void test_other_keys(void **state)
{
    FeatureCacheOptions options = options_of(*state, 0, 1 << 30);
    FeatureCache *first = create(&options);
    put_all(first);
    options.key = "boundary 4, weights abc";
    FeatureCache *second = create(&options); /* the first one's file is open: left alone */
    assert_int_equal(get_all(second), 0);
    assert_int_equal(get_all(first), N_TRAIN + N_TEST);
    put_all(second);
    feature_cache_close(first);
    feature_cache_close(second);

    options.key = "boundary 3, weights abc";
    const char *others[] = {"boundary 5, weights abc", "boundary 4, weights abc"};
    options.other_keys = others;
    options.n_other_keys = 2;
    first = create(&options);
    assert_int_equal(get_all(first), N_TRAIN + N_TEST);
    feature_cache_close(first);
    options.n_other_keys = 0;
    options.key = "boundary 4, weights abc";
    second = create(&options); /* removes the first one's */
    assert_int_equal(get_all(second), N_TRAIN + N_TEST);
    only_file(*state);

    FeatureCache *third = create(&options); /* as another job would */
    assert_int_equal(warnings.n, 1);
    assert_non_null(strstr(warnings.last, "another job has it open"));
    assert_int_equal(put_all(third), 0);
    feature_cache_close(third);
    assert_int_equal(get_all(second), N_TRAIN + N_TEST);
    feature_cache_remove(second);
    assert_null(only_file(*state));
}

static void test_bad_folder(void **state)
{
    write_bytes(path_in(*state, "file"), "x", 1);
    FeatureCacheOptions options = options_of(path_in(*state, "file"), 30 * SLOT, 1 << 30);
    FeatureCache *cache = create(&options);
    assert_int_equal(warnings.n, 1);
    assert_non_null(strstr(warnings.last, "nothing is kept on disk"));
    assert_int_equal(put_all(cache), 30);
    assert_int_equal(get_all(cache), 30);
    feature_cache_close(cache);
    assert_int_equal(warnings.n, 1);
    unlink(path_in(*state, "file"));
}

/* ---- generations */

static void test_moving_up(void **state)
{
    FeatureCacheOptions options = options_of(*state, 20 * SLOT, 2 * TABLE + 30 * SLOT);
    FeatureCache *old = create(&options);
    put_all(old);
    options.key = "boundary 4, weights abc";
    options.previous = old;
    FeatureCache *next = create(&options);
    assert_int_equal(put_all(next), 0); /* the old one has all room */
    for (uint64_t i = 0; i < N_TRAIN; i++)
    {
        assert_true(feature_cache_get(old, FEATURE_TRAIN, i, row));
        feature_cache_forget(old, FEATURE_TRAIN, i);
        make_row(i, 2, row, ELEMS);
        assert_true(feature_cache_put(next, FEATURE_TRAIN, i, row));
        FeatureCacheCounters c = feature_cache_counters(next);
        assert_int_equal(c.memory_bytes, 20 * SLOT);
        assert_int_equal(c.disk_bytes, 2 * TABLE + 30 * SLOT);
    }
    feature_cache_remove(old);
    FeatureCacheCounters c = feature_cache_counters(next);
    assert_int_equal(c.memory_rows, 20);
    assert_int_equal(c.disk_rows, 20);
    assert_int_equal(c.memory_bytes, 20 * SLOT);
    assert_int_equal(c.disk_bytes, TABLE + 20 * SLOT);
    for (uint64_t i = 0; i < N_TRAIN; i++)
        assert_true(feature_cache_get(next, FEATURE_TRAIN, i, row) && is_row(i, 2, row, ELEMS));
    feature_cache_remove(next);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_create, scratch_remove)
    const struct CMUnitTest tests[] = {
        TEST(test_f32_bit_for_bit), TEST(test_bf16_nearest_even), TEST(test_budgets_to_the_byte),
        TEST(test_no_budget),       TEST(test_damaged_rows),      TEST(test_resume),
        TEST(test_random_damage),   TEST(test_too_large),         TEST(test_other_keys),
        TEST(test_bad_folder),      TEST(test_moving_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
