/* A file mapped read-only. Someone who truncates it while it is mapped ends the process (SIGBUS). */
#ifndef PTC_RUNTIME_MAPPED_FILE_H
#define PTC_RUNTIME_MAPPED_FILE_H

#include "base/status.h"

#include <stddef.h>

typedef struct
{
    void *data; /* NULL when the file is empty */
    size_t size_bytes;
} MappedFile;

/* BAD_INPUT when the file is missing or not a regular file, IO when reading fails. */
Status mapped_file_open(const char *path, MappedFile *out_file);
void mapped_file_close(MappedFile *file);

#endif
