/* A file that appears whole or not at all: written beside its place, fsynced, renamed, its folder fsynced.
 * Its XXH3-128 is computed on the way. */
#ifndef PTC_RUNTIME_DURABLE_FILE_H
#define PTC_RUNTIME_DURABLE_FILE_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

enum
{
    FILE_DIGEST_CHARS = 33 /* 32 hex digits and NUL */
};

typedef struct DurableFile DurableFile;

/* Creates PATH.tmp-PID. */
Status durable_file_create(const char *path, DurableFile **out_file);
/* Buffered. After a failure every later call fails too, and commit leaves the old file in place. */
Status durable_file_write(DurableFile *file, const void *bytes, size_t n_bytes);
/* Makes the file appear at its path and frees the object, in success and in failure. out_digest: FILE_DIGEST_CHARS
 * bytes or NULL. */
Status durable_file_commit(DurableFile *file, char *out_digest);
/* Removes what was written and frees the object. NULL is allowed. */
void durable_file_abandon(DurableFile *file);

/* create + write + commit. */
Status durable_file_put(const char *path, const void *bytes, size_t n_bytes, char *out_digest);
/* fsync of a folder, so that renames in it survive a power cut. */
Status durable_folder_sync(const char *path);
/* mkdir -p. */
Status durable_folder_create(const char *path);
/* XXH3-128 of bytes as 32 hex digits. */
void file_digest_text(const void *bytes, size_t n_bytes, char out_digest[FILE_DIGEST_CHARS]);

#endif
