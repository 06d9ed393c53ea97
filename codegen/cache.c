#include "codegen/cache.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

static Status make_dirs(Arena *arena, const char *path)
{
    char *copy = arena_strdup(arena, path);
    for (char *c = copy + 1;; c++)
    {
        if (*c && *c != '/')
            continue;
        char end = *c;
        *c = 0;
        if (mkdir(copy, 0777) != 0 && errno != EEXIST)
            return status_fail(STATUS_IO, "cannot make the kernel cache's directory %s: %s", copy, strerror(errno));
        *c = end;
        if (!end)
            return STATUS_OK;
    }
}

Status cache_dir(Arena *arena, const char **out_dir)
{
    const char *own = getenv("PTC_CACHE_DIR"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (own && *own)
        *out_dir = arena_strdup(arena, own);
    else if (xdg && *xdg)
        *out_dir = arena_printf(arena, "%s/ptc", xdg);
    else if (home && *home)
        *out_dir = arena_printf(arena, "%s/.cache/ptc", home);
    else
        return status_fail(STATUS_IO, "no place for the kernel cache: set PTC_CACHE_DIR");
    return make_dirs(arena, *out_dir);
}

char *cache_read(Arena *arena, const char *path, size_t *out_size)
{
    FILE *file = fopen(path, "rb");
    struct stat info;
    if (!file)
        return NULL;
    char *data = NULL;
    if (fstat(fileno(file), &info) == 0 && S_ISREG(info.st_mode))
    {
        data = arena_alloc(arena, (size_t)info.st_size + 1);
        *out_size = fread(data, 1, (size_t)info.st_size, file);
        if (*out_size != (size_t)info.st_size)
            data = NULL;
        else
            data[*out_size] = 0;
    }
    fclose(file);
    return data;
}

Status cache_write(const char *path, const char *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    if (!file)
        return status_fail(STATUS_IO, "cannot write %s: %s", path, strerror(errno));
    bool ok = fwrite(data, 1, size, file) == size;
    ok &= fclose(file) == 0;
    return ok ? STATUS_OK : status_fail(STATUS_IO, "cannot write %s: %s", path, strerror(errno));
}

static const char *hash_text(Arena *arena, XXH128_hash_t h)
{
    return arena_printf(arena, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
}

const char *cache_key(Arena *arena, const char *const *texts, size_t n)
{
    XXH3_state_t *state = XXH3_createState();
    XXH3_128bits_reset(state);
    for (size_t i = 0; i < n; i++)
        XXH3_128bits_update(state, texts[i], strlen(texts[i]) + 1);
    const char *key = hash_text(arena, XXH3_128bits_digest(state));
    XXH3_freeState(state);
    return key;
}

CacheEntry cache_entry(Arena *arena, const char *dir, const char *key, const char *extension, unsigned number)
{
    const char *stem = arena_printf(arena, "%s/%s.%ld-%u", dir, key, (long)getpid(), number);
    return (CacheEntry){.path = arena_printf(arena, "%s/%s.%s", dir, key, extension),
                        .sum_path = arena_printf(arena, "%s/%s.sum", dir, key),
                        .stem = stem,
                        .new_path = arena_printf(arena, "%s.%s", stem, extension),
                        .new_sum_path = arena_printf(arena, "%s.sum", stem)};
}

bool cache_entry_valid(Arena *arena, const CacheEntry *entry)
{
    size_t size, sum_size;
    const char *sum = cache_read(arena, entry->sum_path, &sum_size);
    if (!sum)
        return false;
    const char *data = cache_read(arena, entry->path, &size);
    if (data && strcmp(sum, hash_text(arena, XXH3_128bits(data, size))) == 0)
        return true;
    fprintf(stderr, "ptc: warning: the cached entry %s is corrupt; it is made again\n", entry->path);
    return false;
}

Status cache_entry_publish(Arena *arena, const CacheEntry *entry)
{
    size_t size;
    const char *data = cache_read(arena, entry->new_path, &size);
    if (!data)
        return status_fail(STATUS_IO, "cannot read %s", entry->new_path);
    const char *sum = hash_text(arena, XXH3_128bits(data, size));
    TRY(cache_write(entry->new_sum_path, sum, strlen(sum)));
    if (rename(entry->new_path, entry->path) != 0 || rename(entry->new_sum_path, entry->sum_path) != 0)
        return status_fail(STATUS_IO, "cannot write %s: %s", entry->path, strerror(errno));
    return STATUS_OK;
}
