/* Files that appear whole or not at all. */
#include "runtime/durable_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum
{
    BUFFER_BYTES = 1 << 16
};

struct DurableFile
{
    char *path;
    char *temp_path;
    int fd;
    Status status; /* of the first failure */
    XXH3_state_t *hash;
    size_t n_buffered;
    uint8_t buffer[BUFFER_BYTES];
};

static void digest_to_text(XXH128_hash_t hash, char *out_digest)
{
    snprintf(out_digest, FILE_DIGEST_CHARS, "%016llx%016llx", (unsigned long long)hash.high64,
             (unsigned long long)hash.low64);
}

void file_digest_text(const void *bytes, size_t n_bytes, char out_digest[FILE_DIGEST_CHARS])
{
    digest_to_text(XXH3_128bits(bytes, n_bytes), out_digest);
}

static void free_file(DurableFile *file)
{
    if (file->fd >= 0)
        close(file->fd);
    if (file->hash)
        XXH3_freeState(file->hash);
    free(file->path);
    free(file->temp_path);
    free(file);
}

Status durable_file_create(const char *path, DurableFile **out_file)
{
    DurableFile *file = malloc(sizeof *file);
    if (!file)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory to write '%s'", path);
    file->status = STATUS_OK;
    file->n_buffered = 0;
    file->fd = -1;
    file->hash = XXH3_createState();
    file->path = strdup(path);
    if (asprintf(&file->temp_path, "%s.tmp-%ld", path, (long)getpid()) < 0)
        file->temp_path = NULL;
    if (!file->hash || !file->path || !file->temp_path)
    {
        free_file(file);
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory to write '%s'", path);
    }
    XXH3_128bits_reset(file->hash);
    file->fd = open(file->temp_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file->fd < 0)
    {
        Status status = status_fail(STATUS_IO, "cannot create '%s': %s", file->temp_path, strerror(errno));
        free_file(file);
        return status;
    }
    *out_file = file;
    return STATUS_OK;
}

/* Straight to the file; keeps the first failure. */
static Status write_out(DurableFile *file, const uint8_t *bytes, size_t n_bytes)
{
    while (n_bytes > 0 && file->status == STATUS_OK)
    {
        ssize_t n = write(file->fd, bytes, n_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
        {
            file->status = status_fail(STATUS_IO, "cannot write '%s': %s", file->temp_path, strerror(errno));
            break;
        }
        bytes += n;
        n_bytes -= (size_t)n;
    }
    return file->status;
}

static Status flush(DurableFile *file)
{
    size_t n = file->n_buffered;
    file->n_buffered = 0;
    return write_out(file, file->buffer, n);
}

Status durable_file_write(DurableFile *file, const void *bytes, size_t n_bytes)
{
    if (file->status != STATUS_OK)
        return file->status;
    if (n_bytes == 0)
        return STATUS_OK;
    XXH3_128bits_update(file->hash, bytes, n_bytes);
    if (n_bytes > BUFFER_BYTES - file->n_buffered)
        TRY(flush(file));
    if (n_bytes > BUFFER_BYTES)
        return write_out(file, bytes, n_bytes);
    memcpy(file->buffer + file->n_buffered, bytes, n_bytes);
    file->n_buffered += n_bytes;
    return STATUS_OK;
}

/* The folder of path, in `folder` (PATH_MAX bytes). */
static void folder_of(const char *path, char *folder)
{
    snprintf(folder, PATH_MAX, "%s", path);
    char *slash = strrchr(folder, '/');
    if (!slash)
        snprintf(folder, PATH_MAX, ".");
    else
        slash[slash == folder] = 0; /* "/x" is in "/" */
}

Status durable_file_commit(DurableFile *file, char *out_digest)
{
    flush(file);
    if (file->status == STATUS_OK && fsync(file->fd) != 0)
        file->status = status_fail(STATUS_IO, "cannot write '%s' to disk: %s", file->temp_path, strerror(errno));
    if (file->status == STATUS_OK && rename(file->temp_path, file->path) != 0)
        file->status =
            status_fail(STATUS_IO, "cannot rename '%s' to '%s': %s", file->temp_path, file->path, strerror(errno));
    if (file->status != STATUS_OK)
    {
        Status status = file->status;
        durable_file_abandon(file);
        return status;
    }
    if (out_digest)
        digest_to_text(XXH3_128bits_digest(file->hash), out_digest);
    char folder[PATH_MAX];
    folder_of(file->path, folder);
    free_file(file);
    return durable_folder_sync(folder);
}

void durable_file_abandon(DurableFile *file)
{
    if (!file)
        return;
    unlink(file->temp_path);
    free_file(file);
}

Status durable_file_put(const char *path, const void *bytes, size_t n_bytes, char *out_digest)
{
    DurableFile *file;
    TRY(durable_file_create(path, &file));
    durable_file_write(file, bytes, n_bytes); /* commit reports the failure */
    return durable_file_commit(file, out_digest);
}

Status durable_folder_sync(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return status_fail(STATUS_IO, "cannot open folder '%s': %s", path, strerror(errno));
    /* EINVAL: a file system that cannot sync folders; nothing more can be done there. */
    Status status = STATUS_OK;
    if (fsync(fd) != 0 && errno != EINVAL)
        status = status_fail(STATUS_IO, "cannot write folder '%s' to disk: %s", path, strerror(errno));
    close(fd);
    return status;
}

Status durable_folder_create(const char *path)
{
    char part[PATH_MAX];
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
        return status_fail(STATUS_BAD_INPUT, "path too long: '%s'", path);
    for (char *at = part + 1;; at++)
    {
        char end = *at;
        if (end != '/' && end != 0)
            continue;
        *at = 0;
        struct stat info;
        if (mkdir(part, 0777) != 0 && !(errno == EEXIST && stat(part, &info) == 0 && S_ISDIR(info.st_mode)))
        {
            int error = errno;
            return status_fail(STATUS_IO, "cannot create folder '%s': %s", part,
                               error == EEXIST ? "there is a file of that name" : strerror(error));
        }
        if (end == 0)
            return STATUS_OK;
        *at = end;
    }
}
