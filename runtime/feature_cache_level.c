/* The levels of the feature cache: slots in a file, an index in shared memory.
 *
 * A slot number is given out once. Its process writes the row, then the checksum, and publishes the slot with one
 * compare-and-swap of the row's entry in the index; only then do others read it. Taking a row out clears the entry and
 * punches a hole into the file; who is reading at that moment gets zeros, and a wrong checksum. */
#include "runtime/feature_cache_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

/* ---- budgets */

bool feature_budget_take(FeatureCache *cache, int level, uint64_t n_bytes)
{
    _Atomic uint64_t *used = &cache->budget->used_bytes[level];
    const uint64_t most = cache->budget->most_bytes[level];
    uint64_t now = atomic_load(used);
    do
        if (now > most || n_bytes > most - now)
            return false;
    while (!atomic_compare_exchange_weak(used, &now, now + n_bytes));
    return true;
}

void feature_budget_return(FeatureCache *cache, int level, uint64_t n_bytes)
{
    atomic_fetch_sub(&cache->budget->used_bytes[level], n_bytes);
}

/* ---- bytes in files: 0 or an errno */

int feature_file_read(int fd, void *bytes, uint64_t n_bytes, uint64_t at)
{
    for (uint64_t done = 0; done < n_bytes;)
    {
        ssize_t n = pread(fd, (char *)bytes + done, n_bytes - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : ENODATA;
        done += (uint64_t)n;
    }
    return 0;
}

int feature_file_write(int fd, const void *bytes, uint64_t n_bytes, uint64_t at)
{
    for (uint64_t done = 0; done < n_bytes;)
    {
        ssize_t n = pwrite(fd, (const char *)bytes + done, n_bytes - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : EIO;
        done += (uint64_t)n;
    }
    return 0;
}

/* ---- slots */

static uint64_t slot_at(const FeatureCache *cache, const FeatureLevel *level, uint32_t slot)
{
    return level->slots_at + slot * cache->slot_bytes;
}

/* Bytes of another row, key or store do not pass. */
static uint64_t row_check(const FeatureCache *cache, uint64_t row, const void *stored)
{
    return XXH3_64bits_withSeed(stored, cache->row_bytes, cache->key[0] ^ ((row + 1) * 0x9E3779B97F4A7C15ull));
}

FeatureTableEntry feature_table_entry(const FeatureCache *cache, uint32_t slot, uint64_t row, uint64_t check)
{
    FeatureTableEntry entry = {.check = check, .row_1 = (uint32_t)row + 1, .tag = slot};
    entry.tag = (uint32_t)XXH3_64bits_withSeed(&entry, sizeof entry, cache->key[1]);
    return entry;
}

/* Small rows share pages: their room stays taken. */
void feature_slot_free(FeatureCache *cache, int which, uint32_t slot)
{
    FeatureLevel *level = &cache->levels[which];
    const FeatureTableEntry none = {0};
    if (level->table_at) /* should it fail, the row is there for the next run again, and good or damaged as before */
        (void)!pwrite(level->fd, &none, sizeof none, (off_t)(level->table_at + slot * sizeof none));
    if (cache->row_bytes < FEATURE_PAGED_ROW || atomic_load(&cache->index->has_ended) ||
        fallocate(level->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)slot_at(cache, level, slot),
                  (off_t)cache->slot_bytes) != 0)
        return;
    atomic_fetch_sub(&cache->index->n_bytes[which], cache->slot_bytes);
    feature_budget_return(cache, which, cache->slot_bytes);
}

/* Takes the row out, when it still is in this slot. */
static bool take_out(FeatureCache *cache, int which, uint64_t row, uint32_t slot_1)
{
    if (!atomic_compare_exchange_strong(&cache->levels[which].slot_of[row], &slot_1, 0))
        return false;
    feature_slot_free(cache, which, slot_1 - 1);
    return true;
}

bool feature_level_read(FeatureCache *cache, int which, uint64_t row, void *stored)
{
    FeatureLevel *level = &cache->levels[which];
    if (level->fd < 0 || atomic_load(&cache->index->has_ended))
        return false;
    const uint32_t slot_1 = atomic_load_explicit(&level->slot_of[row], memory_order_acquire);
    if (!slot_1)
        return false;
    const uint64_t check = atomic_load_explicit(&level->checks[slot_1 - 1], memory_order_relaxed);
    const uint64_t at = slot_at(cache, level, slot_1 - 1);
    int error = 0;
    if (level->map)
        memcpy(stored, level->map + at, cache->row_bytes);
    else
        error = feature_file_read(level->fd, stored, cache->row_bytes, at);
    if (error == 0 && row_check(cache, row, stored) == check)
        return true;
    if (!atomic_load(&cache->index->has_ended) && take_out(cache, which, row, slot_1))
    {
        atomic_fetch_add(&cache->counts.corrupt, 1);
        feature_warn(cache, FEATURE_WARN_CORRUPT, "feature cache: a row %s is damaged (%s); such rows are made again",
                     which == FEATURE_DISK ? "on disk" : "in memory",
                     error == 0         ? "wrong checksum"
                     : error == ENODATA ? "the file ends before it"
                                        : strerror(error));
    }
    return false;
}

/* A slot that is nobody else's, its bytes in the budget. */
static bool take_slot(FeatureCache *cache, int which, uint32_t *out_slot)
{
    if (!feature_budget_take(cache, which, cache->slot_bytes))
        return false;
    _Atomic uint32_t *n_taken = &cache->index->n_taken[which];
    uint32_t n = atomic_load(n_taken);
    do
        if (n >= cache->n_slots)
        {
            feature_budget_return(cache, which, cache->slot_bytes);
            return false;
        }
    while (!atomic_compare_exchange_weak(n_taken, &n, n + 1));
    atomic_fetch_add(&cache->index->n_bytes[which], cache->slot_bytes);
    *out_slot = n;
    return true;
}

bool feature_level_write(FeatureCache *cache, int which, uint64_t row, const void *stored)
{
    FeatureLevel *level = &cache->levels[which];
    uint32_t slot;
    if (level->fd < 0 || atomic_load(&level->takes_none) || !take_slot(cache, which, &slot))
        return false;
    const uint64_t check = row_check(cache, row, stored);
    atomic_store_explicit(&level->checks[slot], check, memory_order_relaxed);
    int error = feature_file_write(level->fd, stored, cache->row_bytes, slot_at(cache, level, slot));
    if (error == 0 && level->table_at)
    {
        const FeatureTableEntry entry = feature_table_entry(cache, slot, row, check);
        error = feature_file_write(level->fd, &entry, sizeof entry, level->table_at + slot * sizeof entry);
    }
    if (error != 0)
    {
        feature_slot_free(cache, which, slot);
        atomic_store(&level->takes_none, true);
        feature_warn(cache, which == FEATURE_DISK ? FEATURE_WARN_DISK : FEATURE_WARN_MEMORY,
                     "feature cache: cannot write a row %s: %s; no more rows are put there",
                     which == FEATURE_DISK ? "to disk" : "to memory", strerror(error));
        return false;
    }
    uint32_t none = 0;
    if (!atomic_compare_exchange_strong(&level->slot_of[row], &none, slot + 1))
        feature_slot_free(cache, which, slot); /* another was faster */
    return true;
}

void feature_level_forget(FeatureCache *cache, int which, uint64_t row)
{
    FeatureLevel *level = &cache->levels[which];
    const uint32_t slot_1 = level->fd < 0 ? 0 : atomic_load(&level->slot_of[row]);
    if (slot_1)
        take_out(cache, which, row, slot_1);
}

void feature_level_advise(const FeatureCache *cache, int which, uint64_t row)
{
    const FeatureLevel *level = &cache->levels[which];
    const uint32_t slot_1 = level->fd < 0 ? 0 : atomic_load(&level->slot_of[row]);
    if (slot_1)
        posix_fadvise(level->fd, (off_t)slot_at(cache, level, slot_1 - 1), (off_t)cache->row_bytes,
                      POSIX_FADV_WILLNEED);
}

bool feature_level_holds(const FeatureCache *cache, int which, uint64_t row)
{
    const FeatureLevel *level = &cache->levels[which];
    return level->fd >= 0 && atomic_load_explicit(&level->slot_of[row], memory_order_relaxed) != 0;
}

uint64_t feature_level_rows(const FeatureCache *cache, int which)
{
    uint64_t n = 0;
    for (uint64_t row = 0; row < cache->n_rows; row++)
        n += feature_level_holds(cache, which, row);
    return n;
}
