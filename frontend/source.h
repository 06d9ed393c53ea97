/* Source files of a model: read whole, checked to be UTF-8, and offsets turned into places.
 *
 * Only UTF-8 is taken, so that a byte offset in the file is an offset in what libxml2 parses. */
#ifndef PTC_FRONTEND_SOURCE_H
#define PTC_FRONTEND_SOURCE_H

#include "base/diag.h"

typedef struct
{
    uint32_t file;    /* in the Diag */
    const char *path; /* as messages show it */
    const char *dir;  /* its folder, "." when the path has none */
    const char *real; /* resolved path; NULL for text from memory */
    const char *text; /* NUL-terminated */
    uint32_t n_bytes;
    const uint32_t *lines; /* offset of each line's start */
    uint32_t n_lines;
} Source;

/* Reads a regular file of at most max_bytes. NULL after an error, which is told at `from` (the place that names the
 * file; may be no place). */
Source *source_read(Arena *arena, Diag *diag, Span from, const char *path, uint64_t max_bytes);
/* A copy of text as a source. Checks its encoding too. */
Source *source_from_text(Arena *arena, Diag *diag, const char *path, const char *text, size_t n_bytes);

Span source_span(const Source *source, uint32_t offset, uint32_t n_bytes);

/* dir/name, or name when it is absolute or dir is ".". */
const char *source_join(Arena *arena, const char *dir, const char *name);
/* The folder part of a path; "." when there is none. */
const char *source_dir(Arena *arena, const char *path);

#endif
