/* Making, joining and ending a feature cache. What processes share is memory without a name (memfd): the budget, the
 * index and the memory level's file. Others open them as /proc/PID/fd/N, so nothing is left behind however all end. */
#include "base/bug.h"
#include "runtime/feature_cache_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum
{
    MOST_SAMPLES = 1 << 30
};

static uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

/* ---- the object */

static Status new_cache(const FeatureCacheOptions *options, FeatureCache **out_cache)
{
    ENSURE(options->row_elems > 0);
    const uint64_t n_rows = options->n_samples[FEATURE_TRAIN] + options->n_samples[FEATURE_TEST];
    if (options->n_samples[FEATURE_TRAIN] >= MOST_SAMPLES || options->n_samples[FEATURE_TEST] >= MOST_SAMPLES ||
        options->row_elems > UINT32_MAX)
        return status_fail(STATUS_UNSUPPORTED, "too large for the feature cache: %llu samples, rows of %llu values",
                           (unsigned long long)n_rows, (unsigned long long)options->row_elems);
    FeatureCache *cache = calloc(1, sizeof *cache);
    if (!cache)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for the feature cache");
    feature_key_digest(options->key, cache->key);
    cache->row_elems = options->row_elems;
    cache->n_samples[FEATURE_TRAIN] = options->n_samples[FEATURE_TRAIN];
    cache->n_samples[FEATURE_TEST] = options->n_samples[FEATURE_TEST];
    cache->precision = options->precision;
    cache->n_rows = n_rows;
    cache->row_bytes = options->row_elems * (options->precision == FEATURE_BF16 ? 2 : 4);
    cache->slot_bytes = round_up(cache->row_bytes, cache->row_bytes < FEATURE_PAGED_ROW ? 64 : FEATURE_PAGE);
    cache->n_slots = n_rows + n_rows / 4 + 64;
    cache->window_bytes = options->window_bytes;
    cache->index_fd = cache->budget_fd = -1;
    cache->levels[FEATURE_MEMORY].fd = cache->levels[FEATURE_DISK].fd = -1;
    cache->warn = options->warn;
    cache->warn_context = options->warn_context;
    pthread_mutex_init(&cache->lock, NULL);
    *out_cache = cache;
    return STATUS_OK;
}

static void free_cache(FeatureCache *cache)
{
    feature_ahead_destroy(cache);
    for (int i = 0; i < FEATURE_LEVELS; i++)
        if (cache->levels[i].fd >= 0)
            close(cache->levels[i].fd);
    if (cache->levels[FEATURE_MEMORY].map)
        munmap((void *)cache->levels[FEATURE_MEMORY].map, cache->n_slots * cache->slot_bytes);
    if (cache->index)
        munmap(cache->index, cache->index_bytes);
    if (cache->budget)
        munmap(cache->budget, sizeof *cache->budget);
    if (cache->index_fd >= 0)
        close(cache->index_fd);
    if (cache->budget_fd >= 0)
        close(cache->budget_fd);
    for (int i = 0; i < FEATURE_SCRATCH; i++)
        free(atomic_load(&cache->scratch[i]));
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

/* ---- shared memory */

static void *map(int fd, uint64_t n_bytes)
{
    void *at = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return at == MAP_FAILED ? NULL : at;
}

/* Memory is taken here, so that using it is never a signal. */
static void *make_shared(uint64_t n_bytes, int *out_fd)
{
    *out_fd = memfd_create("ptc-features", MFD_CLOEXEC);
    if (*out_fd < 0 || ftruncate(*out_fd, (off_t)n_bytes) != 0 || fallocate(*out_fd, 0, 0, (off_t)n_bytes) != 0)
        return NULL;
    return map(*out_fd, n_bytes);
}

/* Only slots that were written are read, and the file is sealed against becoming shorter: no signal. Without the
 * addresses, rows are read by pread. */
static void map_memory(FeatureCache *cache)
{
    FeatureLevel *memory = &cache->levels[FEATURE_MEMORY];
    const uint64_t n_bytes = cache->n_slots * cache->slot_bytes;
    void *at = mmap(NULL, n_bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, memory->fd, 0);
    if (at == MAP_FAILED)
        return;
    madvise(at, n_bytes, MADV_DONTDUMP);
    memory->map = at;
}

static void make_memory(FeatureCache *cache)
{
    FeatureLevel *memory = &cache->levels[FEATURE_MEMORY];
    memory->fd = memfd_create("ptc-features", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (memory->fd < 0)
        feature_warn(cache, FEATURE_WARN_MEMORY, "feature cache: nothing is kept in memory: %s", strerror(errno));
    else if (fcntl(memory->fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0)
        map_memory(cache);
}

static void lay_out_index(FeatureCache *cache, int n_levels)
{
    char *at = (char *)(cache->index + 1);
    for (int i = 0; i < n_levels; i++)
    {
        cache->levels[i].checks = (_Atomic uint64_t *)at;
        at += cache->n_slots * sizeof *cache->levels[i].checks;
    }
    for (int i = 0; i < n_levels; i++)
    {
        cache->levels[i].slot_of = (_Atomic uint32_t *)at;
        at += cache->n_rows * sizeof *cache->levels[i].slot_of;
    }
}

static uint64_t index_size(const FeatureCache *cache, int n_levels)
{
    return sizeof(FeatureIndex) +
           (uint64_t)n_levels * (cache->n_slots * sizeof(uint64_t) + cache->n_rows * sizeof(uint32_t));
}

static Status make_index(FeatureCache *cache, int n_levels)
{
    cache->index_bytes = index_size(cache, n_levels);
    cache->index = make_shared(cache->index_bytes, &cache->index_fd);
    if (!cache->index)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for the feature cache's index, %llu bytes: %s",
                           (unsigned long long)cache->index_bytes, strerror(errno));
    FeatureIndex *index = cache->index;
    if (getrandom(&index->nonce, sizeof index->nonce, 0) != sizeof index->nonce)
        return status_fail(STATUS_IO, "no random number: %s", strerror(errno));
    memcpy(index->key, cache->key, sizeof index->key);
    memcpy(index->n_samples, cache->n_samples, sizeof index->n_samples);
    index->row_elems = cache->row_elems;
    index->precision = cache->precision;
    lay_out_index(cache, n_levels);
    return STATUS_OK;
}

static Status make_budget(FeatureCache *cache, const FeatureCacheOptions *options)
{
    const FeatureCache *previous = options->previous;
    if (previous)
    {
        cache->budget_fd = fcntl(previous->budget_fd, F_DUPFD_CLOEXEC, 0);
        cache->budget = cache->budget_fd < 0 ? NULL : map(cache->budget_fd, sizeof *cache->budget);
    }
    else
        cache->budget = make_shared(sizeof *cache->budget, &cache->budget_fd);
    if (!cache->budget)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for the feature cache: %s", strerror(errno));
    if (!previous)
    {
        cache->budget->most_bytes[FEATURE_MEMORY] = options->memory_bytes;
        cache->budget->most_bytes[FEATURE_DISK] = options->disk_bytes;
    }
    return STATUS_OK;
}

static Status create(FeatureCache *cache, const FeatureCacheOptions *options)
{
    TRY(make_budget(cache, options));
    const bool has_disk = options->folder && cache->budget->most_bytes[FEATURE_DISK] > 0;
    TRY(make_index(cache, has_disk ? FEATURE_LEVELS : FEATURE_DISK));
    if (cache->budget->most_bytes[FEATURE_MEMORY] > 0)
        make_memory(cache);
    if (has_disk)
        feature_disk_open(cache, options);
    if (!options->previous)
        feature_ahead_create(cache);
    return STATUS_OK;
}

Status feature_cache_create(const FeatureCacheOptions *options, FeatureCache **out_cache)
{
    FeatureCache *cache;
    TRY(new_cache(options, &cache));
    Status status = create(cache, options);
    if (status != STATUS_OK)
    {
        free_cache(cache);
        return status;
    }
    feature_tell(cache);
    *out_cache = cache;
    return STATUS_OK;
}

/* ---- joining */

void feature_cache_address(const FeatureCache *cache, char out_address[FEATURE_CACHE_ADDRESS_BYTES])
{
    snprintf(out_address, FEATURE_CACHE_ADDRESS_BYTES, "%d:%d:%d:%d:%d:%016llx", (int)getpid(), cache->index_fd,
             cache->budget_fd, cache->levels[FEATURE_MEMORY].fd, cache->levels[FEATURE_DISK].fd,
             (unsigned long long)cache->index->nonce);
}

static Status open_of(int pid, int fd, int *out_fd)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
    *out_fd = open(path, O_RDWR | O_CLOEXEC);
    return *out_fd >= 0
               ? STATUS_OK
               : status_fail(STATUS_IO, "cannot open the feature cache's memory, '%s': %s", path, strerror(errno));
}

static Status join_index(FeatureCache *cache, bool has_disk, unsigned long long nonce, const char *address)
{
    cache->index_bytes = index_size(cache, has_disk ? FEATURE_LEVELS : FEATURE_DISK);
    struct stat info;
    if (fstat(cache->index_fd, &info) != 0 || (uint64_t)info.st_size < sizeof(FeatureIndex))
        return status_fail(STATUS_IO, "no feature cache is at '%s'", address);
    cache->index = (uint64_t)info.st_size < cache->index_bytes ? NULL : map(cache->index_fd, cache->index_bytes);
    const FeatureIndex *index = cache->index;
    if (index && index->nonce != nonce)
        return status_fail(STATUS_IO, "no feature cache is at '%s'", address);
    if (!index || memcmp(index->key, cache->key, sizeof index->key) != 0 ||
        memcmp(index->n_samples, cache->n_samples, sizeof index->n_samples) != 0 ||
        index->row_elems != cache->row_elems || index->precision != cache->precision)
        return status_fail(STATUS_BAD_INPUT, "the feature cache at '%s' is another one than this process expects",
                           address);
    lay_out_index(cache, has_disk ? FEATURE_LEVELS : FEATURE_DISK);
    return STATUS_OK;
}

static Status join(FeatureCache *cache, const char *address)
{
    int pid, index_fd, budget_fd, memory_fd, disk_fd, end = 0;
    unsigned long long nonce;
    if (sscanf(address, "%d:%d:%d:%d:%d:%llx%n", &pid, &index_fd, &budget_fd, &memory_fd, &disk_fd, &nonce, &end) !=
            6 ||
        address[end])
        return status_fail(STATUS_BAD_INPUT, "'%s' is no feature cache's address", address);
    TRY(open_of(pid, index_fd, &cache->index_fd));
    TRY(join_index(cache, disk_fd >= 0, nonce, address));
    TRY(open_of(pid, budget_fd, &cache->budget_fd));
    cache->budget = map(cache->budget_fd, sizeof *cache->budget);
    if (!cache->budget)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for the feature cache: %s", strerror(errno));
    if (memory_fd >= 0)
    {
        TRY(open_of(pid, memory_fd, &cache->levels[FEATURE_MEMORY].fd));
        if ((fcntl(cache->levels[FEATURE_MEMORY].fd, F_GET_SEALS) & F_SEAL_SHRINK) != 0)
            map_memory(cache);
    }
    if (disk_fd >= 0)
    {
        int fd;
        TRY(open_of(pid, disk_fd, &fd));
        TRY(feature_disk_join(cache, fd));
    }
    feature_ahead_create(cache);
    return STATUS_OK;
}

Status feature_cache_join(const FeatureCacheOptions *options, const char *address, FeatureCache **out_cache)
{
    FeatureCache *cache;
    TRY(new_cache(options, &cache));
    Status status = join(cache, address);
    if (status != STATUS_OK)
    {
        free_cache(cache);
        return status;
    }
    feature_tell(cache);
    *out_cache = cache;
    return STATUS_OK;
}

/* ---- ending */

void feature_cache_close(FeatureCache *cache)
{
    if (cache)
        free_cache(cache);
}

void feature_cache_remove(FeatureCache *cache)
{
    if (!cache)
        return;
    if (atomic_exchange(&cache->index->has_ended, 1) == 0)
    {
        if (cache->levels[FEATURE_DISK].fd >= 0)
            feature_disk_remove(cache);
        for (int i = 0; i < FEATURE_LEVELS; i++)
        {
            struct stat info; /* should this fail, the last to close frees it */
            if (cache->levels[i].fd >= 0 && fstat(cache->levels[i].fd, &info) == 0 && info.st_size > 0)
                (void)!fallocate(cache->levels[i].fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, info.st_size);
            feature_budget_return(cache, i, atomic_exchange(&cache->index->n_bytes[i], 0));
        }
    }
    free_cache(cache);
}
