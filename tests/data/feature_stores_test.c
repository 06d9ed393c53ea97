/* Caches side by side, one for each length: rows of one sample that are not each other's, one budget, one warning. */
#include "feature_rows.h"
#include "runtime/feature_stores.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

enum
{
    N = 3, /* lengths */
    N_SAMPLES = 20,
    MOST_ELEMS = 64
};

static const FeatureStoreSpec specs[N] = {
    {"weights abc; 8", 16}, {"weights abc; 12", 32}, {"weights abc; 24", MOST_ELEMS}};
static float row[MOST_ELEMS];
static Warnings warnings;

static FeatureCacheOptions options_of(const char *folder, uint64_t memory_bytes)
{
    warnings = (Warnings){0};
    return (FeatureCacheOptions){.n_samples = {N_SAMPLES, 0},
                                 .memory_bytes = memory_bytes,
                                 .disk_bytes = folder ? 1 << 20 : 0,
                                 .folder = folder,
                                 .warn = count_warning,
                                 .warn_context = &warnings};
}

static FeatureStores *create(const FeatureCacheOptions *options)
{
    FeatureStores *stores;
    EXPECT_OK(feature_stores_create(options, specs, N, NULL, &stores));
    return stores;
}

static uint64_t put_all(FeatureStores *stores)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < N; i++)
        for (uint64_t sample = 0; sample < N_SAMPLES; sample++)
        {
            make_row(sample, i, row, specs[i].row_elems);
            n += feature_cache_put(feature_stores_of(stores, i), FEATURE_TRAIN, sample, row);
        }
    return n;
}

static uint64_t get_all(FeatureStores *stores)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < N; i++)
        for (uint64_t sample = 0; sample < N_SAMPLES; sample++)
        {
            const bool found = feature_cache_get(feature_stores_of(stores, i), FEATURE_TRAIN, sample, row);
            assert_true(!found || is_row(sample, i, row, specs[i].row_elems));
            n += found;
        }
    return n;
}

static void test_one_budget(void **state)
{
    (void)state;
    const FeatureCacheOptions options = options_of(NULL, 20 * 64 + 10 * 128);
    FeatureStores *stores = create(&options);
    assert_int_equal(put_all(stores), 30);
    assert_int_equal(get_all(stores), 30);
    const FeatureCacheCounters c = feature_stores_counters(stores);
    assert_int_equal(c.memory_rows, 30);
    assert_int_equal(c.memory_bytes, options.memory_bytes);
    assert_int_equal(c.memory_hits, 30);
    assert_int_equal(c.misses, 30);
    assert_int_equal(c.refused, 30);

    FeatureStores *next;
    EXPECT_OK(feature_stores_create(&options, specs, N, stores, &next)); /* all room is taken */
    assert_int_equal(put_all(next), 0);
    feature_stores_remove(stores);
    assert_int_equal(put_all(next), 30);
    feature_stores_remove(next);
}

static void test_joined(void **state)
{
    (void)state;
    const FeatureCacheOptions options = options_of(NULL, 1 << 20);
    char addresses[N][FEATURE_CACHE_ADDRESS_BYTES];
    FeatureStores *stores = create(&options), *joined;
    feature_stores_addresses(stores, addresses);
    EXPECT_OK(feature_stores_join(&options, specs, N, addresses, &joined));
    assert_int_equal(put_all(stores), N * N_SAMPLES);
    assert_int_equal(get_all(joined), N * N_SAMPLES);
    feature_stores_close(joined);
    memcpy(addresses[2], addresses[1], sizeof addresses[2]);
    EXPECT_FAIL(feature_stores_join(&options, specs, N, addresses, &joined), STATUS_BAD_INPUT, "is another one");
    feature_stores_close(stores);
}

/* Flips a bit in every byte behind head and table of each file. */
static int damage_all(const char *folder)
{
    int n = 0;
    DIR *entries = opendir(folder);
    for (struct dirent *entry; (entry = readdir(entries));)
    {
        if (entry->d_name[0] == '.')
            continue;
        char bytes[N_SAMPLES * MOST_ELEMS * 4];
        const int fd = open(path_in(folder, entry->d_name), O_RDWR | O_CLOEXEC);
        const ssize_t n_bytes = pread(fd, bytes, sizeof bytes, 8192);
        assert_true(n_bytes > 0);
        for (ssize_t i = 0; i < n_bytes; i++)
            bytes[i] ^= 1;
        assert_int_equal(pwrite(fd, bytes, (size_t)n_bytes, 8192), n_bytes);
        close(fd);
        n++;
    }
    closedir(entries);
    return n;
}

static void test_later_run(void **state)
{
    const FeatureCacheOptions options = options_of(*state, 0);
    FeatureStores *stores = create(&options);
    assert_int_equal(put_all(stores), N * N_SAMPLES);
    feature_stores_close(stores);

    stores = create(&options); /* none removes the file of another */
    assert_int_equal(get_all(stores), N * N_SAMPLES);
    feature_stores_close(stores);
    assert_int_equal(warnings.n, 0);

    assert_int_equal(damage_all(*state), N);
    stores = create(&options);
    assert_int_equal(get_all(stores), 0);
    assert_int_equal(feature_stores_counters(stores).corrupt, N * N_SAMPLES);
    assert_int_equal(warnings.n, 1); /* of three stores */
    assert_non_null(strstr(warnings.last, "damaged"));
    feature_stores_remove(stores);
    assert_int_equal(damage_all(*state), 0); /* no file is left */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_one_budget), cmocka_unit_test(test_joined),
                                       cmocka_unit_test_setup_teardown(test_later_run, scratch_create, scratch_remove)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
