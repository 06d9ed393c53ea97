/* The disk level's file: a head, a table with an entry for each slot, the slots. Whoever has it open holds a shared
 * lock (flock, which the system drops with the process); who makes a store needs the exclusive one first, so that two
 * jobs never write the same file, and a file that nobody has open can be told. */
#include "runtime/durable_file.h"
#include "runtime/feature_cache_parts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum
{
    NAME_BYTES = 64
};

typedef struct
{
    char magic[8]; /* with the version of the layout */
    uint64_t key[2], row_elems, n_samples[FEATURE_SPLITS], precision, slot_bytes, n_slots;
    uint64_t check; /* of what stands before */
} DiskHead;

void feature_key_digest(const char *key, uint64_t out_digest[2])
{
    const XXH128_hash_t hash = XXH3_128bits(key, strlen(key));
    out_digest[0] = hash.low64;
    out_digest[1] = hash.high64;
}

static void file_name(const uint64_t key[2], char name[NAME_BYTES])
{
    snprintf(name, NAME_BYTES, "features-%016llx%016llx.ptc", (unsigned long long)key[1], (unsigned long long)key[0]);
}

static uint64_t table_bytes(const FeatureCache *cache)
{
    return (cache->n_slots * sizeof(FeatureTableEntry) + FEATURE_PAGE - 1) / FEATURE_PAGE * FEATURE_PAGE;
}

static DiskHead make_head(const FeatureCache *cache)
{
    DiskHead head = {.magic = "PTCFEA1",
                     .key = {cache->key[0], cache->key[1]},
                     .row_elems = cache->row_elems,
                     .n_samples = {cache->n_samples[0], cache->n_samples[1]},
                     .precision = cache->precision,
                     .slot_bytes = cache->slot_bytes,
                     .n_slots = cache->n_slots};
    head.check = XXH3_64bits(&head, offsetof(DiskHead, check));
    return head;
}

/* ---- files of others */

static void remove_when_unused(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        unlink(path);
    close(fd);
}

static bool is_left_alone(const FeatureCacheOptions *options, const char *name)
{
    for (uint32_t i = 0; i < options->n_other_keys; i++)
    {
        uint64_t digest[2];
        char other[NAME_BYTES];
        feature_key_digest(options->other_keys[i], digest);
        file_name(digest, other);
        if (strcmp(name, other) == 0)
            return true;
    }
    return false;
}

static void remove_others(const FeatureCacheOptions *options, const char *name)
{
    DIR *entries = opendir(options->folder);
    for (struct dirent *entry; entries && (entry = readdir(entries));)
    {
        const char *found = entry->d_name;
        char path[PATH_MAX];
        if (strlen(found) == strlen(name) && strncmp(found, "features-", 9) == 0 &&
            strcmp(found + strlen(found) - 4, ".ptc") == 0 && strcmp(found, name) != 0 &&
            !is_left_alone(options, found) &&
            snprintf(path, sizeof path, "%s/%s", options->folder, found) < (int)sizeof path)
            remove_when_unused(path);
    }
    if (entries)
        closedir(entries);
}

/* ---- what an earlier run has left */

/* Fills the index from the table. Slots that no good entry speaks of (of rows that were forgotten, or being written at
 * a kill) are freed. */
static bool find_rows(FeatureCache *cache, const FeatureTableEntry *table)
{
    FeatureLevel *level = &cache->levels[FEATURE_DISK];
    struct stat info;
    if (fstat(level->fd, &info) != 0)
        return false;
    const uint64_t n_bytes = (uint64_t)info.st_size > level->slots_at ? (uint64_t)info.st_size - level->slots_at : 0;
    const uint64_t n_in_file = (n_bytes + cache->slot_bytes - 1) / cache->slot_bytes;
    const uint32_t n = (uint32_t)(n_in_file < cache->n_slots ? n_in_file : cache->n_slots);
    if (!feature_budget_take(cache, FEATURE_DISK, n * cache->slot_bytes))
        return false;
    atomic_store(&cache->index->n_bytes[FEATURE_DISK], n * cache->slot_bytes);
    atomic_store(&cache->index->n_taken[FEATURE_DISK], n);
    for (uint32_t slot = 0; slot < n; slot++)
    {
        const FeatureTableEntry entry = table[slot];
        const uint64_t row = (uint64_t)entry.row_1 - 1;
        if (entry.row_1 == 0 || row >= cache->n_rows || atomic_load(&level->slot_of[row]) != 0 ||
            feature_table_entry(cache, slot, row, entry.check).tag != entry.tag)
        {
            feature_slot_free(cache, FEATURE_DISK, slot);
            continue;
        }
        atomic_store(&level->checks[slot], entry.check);
        atomic_store(&level->slot_of[row], slot + 1);
    }
    return true;
}

static bool reuse(FeatureCache *cache)
{
    FeatureLevel *level = &cache->levels[FEATURE_DISK];
    DiskHead head;
    const DiskHead wanted = make_head(cache);
    const uint64_t n_bytes = cache->n_slots * sizeof(FeatureTableEntry);
    if (feature_file_read(level->fd, &head, sizeof head, 0) != 0 || memcmp(&head, &wanted, sizeof head) != 0)
        return false;
    FeatureTableEntry *table = malloc(n_bytes);
    bool ok = table && feature_file_read(level->fd, table, n_bytes, level->table_at) == 0 && find_rows(cache, table);
    free(table);
    return ok;
}

static int begin_anew(const FeatureCache *cache)
{
    const FeatureLevel *level = &cache->levels[FEATURE_DISK];
    const DiskHead head = make_head(cache);
    if (ftruncate(level->fd, 0) != 0 || ftruncate(level->fd, (off_t)level->slots_at) != 0)
        return errno;
    return feature_file_write(level->fd, &head, sizeof head, 0);
}

/* ---- opening */

static void lay_out(FeatureCache *cache, int fd)
{
    FeatureLevel *level = &cache->levels[FEATURE_DISK];
    level->fd = fd;
    level->table_at = FEATURE_PAGE;
    level->slots_at = FEATURE_PAGE + table_bytes(cache);
}

/* What is wrong, or NULL. */
static const char *open_file(FeatureCache *cache, const char *path)
{
    FeatureLevel *level = &cache->levels[FEATURE_DISK];
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0)
        return strerror(errno);
    lay_out(cache, fd);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        return errno == EWOULDBLOCK ? "another job has it open" : strerror(errno);
    if (!feature_budget_take(cache, FEATURE_DISK, level->slots_at))
        return "the budget is too small";
    atomic_store(&cache->index->n_bytes[FEATURE_DISK], 0);
    if (!reuse(cache))
    {
        int error = begin_anew(cache);
        if (error != 0)
        {
            feature_budget_return(cache, FEATURE_DISK, level->slots_at);
            return strerror(error);
        }
    }
    atomic_fetch_add(&cache->index->n_bytes[FEATURE_DISK], level->slots_at);
    return flock(fd, LOCK_SH | LOCK_NB) == 0 ? NULL : strerror(errno);
}

void feature_disk_open(FeatureCache *cache, const FeatureCacheOptions *options)
{
    const char *folder = options->folder, *wrong = "the path is too long";
    char name[NAME_BYTES], path[PATH_MAX];
    file_name(cache->key, name);
    if (durable_folder_create(folder) != STATUS_OK)
        wrong = status_detail();
    else if (snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path)
    {
        remove_others(options, name);
        wrong = open_file(cache, path);
    }
    if (!wrong)
        return;
    FeatureLevel *level = &cache->levels[FEATURE_DISK];
    if (level->fd >= 0)
        close(level->fd);
    level->fd = -1;
    feature_warn(cache, FEATURE_WARN_OPEN, "feature cache: nothing is kept on disk: '%s/%s': %s", folder, name, wrong);
}

Status feature_disk_join(FeatureCache *cache, int fd)
{
    lay_out(cache, fd);
    return flock(fd, LOCK_SH | LOCK_NB) == 0
               ? STATUS_OK
               : status_fail(STATUS_IO, "cannot lock the feature cache's file: %s", strerror(errno));
}

void feature_disk_remove(const FeatureCache *cache)
{
    const int fd = cache->levels[FEATURE_DISK].fd;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    struct stat here, there;
    if (n < 0)
        return;
    path[n] = 0;
    if (fstat(fd, &here) == 0 && lstat(path, &there) == 0 && here.st_ino == there.st_ino && here.st_dev == there.st_dev)
        unlink(path);
}
