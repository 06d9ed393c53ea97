/* The cache of compiled kernels, and what belongs to them, on disk: entries KEY.EXTENSION, each with KEY.sum, the
 * XXH3-128 of its bytes.
 *
 * The folder is $PTC_CACHE_DIR, else $XDG_CACHE_HOME/ptc, else ~/.cache/ptc. Entries are written under other names and
 * renamed, the sum last, so concurrent processes are safe; every use verifies the sum. */
#ifndef PTC_CODEGEN_CACHE_H
#define PTC_CODEGEN_CACHE_H

#include "base/arena.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct
{
    const char *path, *sum_path;         /* of the entry */
    const char *stem;                    /* for files of this process on the way to it: DIR/KEY.PID-NUMBER */
    const char *new_path, *new_sum_path; /* of them, those that become the entry */
} CacheEntry;

/* Finds the folder, and makes it. IO when there is no place for it. */
Status cache_dir(Arena *arena, const char **out_dir);
/* 32 hex digits: of n pieces of text, one after another with their terminating NULs. */
const char *cache_key(Arena *arena, const char *const *texts, size_t n);
/* number: differs between entries that one process makes at the same time. */
CacheEntry cache_entry(Arena *arena, const char *dir, const char *key, const char *extension, unsigned number);
/* True when the entry is there and whole; a corrupt one is told on stderr. */
bool cache_entry_valid(Arena *arena, const CacheEntry *entry);
/* Makes the file at new_path the entry. */
Status cache_entry_publish(Arena *arena, const CacheEntry *entry);

/* A whole file, with a NUL behind it; NULL when it cannot be read. */
char *cache_read(Arena *arena, const char *path, size_t *out_size);
Status cache_write(const char *path, const char *data, size_t size);

#endif
