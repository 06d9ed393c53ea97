/* Files mapped read-only. */
#include "runtime/mapped_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static Status open_failure(const char *path)
{
    int error = errno;
    Status status = error == ENOENT || error == ENOTDIR || error == EACCES ? STATUS_BAD_INPUT : STATUS_IO;
    return status_fail(status, "cannot open '%s': %s", path, strerror(error));
}

Status mapped_file_open(const char *path, MappedFile *out_file)
{
    *out_file = (MappedFile){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* O_NONBLOCK: do not wait for a FIFO's writer */
    if (fd < 0)
        return open_failure(path);

    Status status = STATUS_OK;
    struct stat info;
    if (fstat(fd, &info) != 0)
        status = status_fail(STATUS_IO, "cannot stat '%s': %s", path, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        status = status_fail(STATUS_BAD_INPUT, "'%s' is not a regular file", path);
    else if (info.st_size > 0)
    {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            status = status_fail(STATUS_IO, "cannot map '%s': %s", path, strerror(errno));
        else
            *out_file = (MappedFile){.data = data, .size_bytes = (size_t)info.st_size};
    }
    close(fd);
    return status;
}

void mapped_file_close(MappedFile *file)
{
    if (file->data)
        munmap(file->data, file->size_bytes);
    *file = (MappedFile){0};
}
