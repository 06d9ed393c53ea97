/* Diagnostics: what is wrong with the user's model or data, and where.
 *
 * Collected (at most DIAG_LIMIT errors, then "too many errors"), printed with file:line:col, the
 * source line, a caret and notes. The reader goes on at the next sibling after an error, so one run
 * reports several. All texts are copied into the arena that the sink was made with. */
#ifndef PTC_BASE_DIAG_H
#define PTC_BASE_DIAG_H

#include "base/arena.h"

#include <stdbool.h>
#include <stdio.h>

enum
{
    DIAG_LIMIT = 20
};

/* A place in a source file. file is an index into the sink's table + 1; 0 means "no place".
 * line and col count from 1; col 0 means the whole line. n_cols is the width to underline. */
typedef struct
{
    uint32_t file;
    uint32_t line;
    uint32_t col;
    uint32_t n_cols;
} Span;

typedef struct Diag Diag;

Diag *diag_create(Arena *arena);
/* Registers a source file. text (n_bytes, need not be NUL-terminated) must outlive the sink; NULL
 * when the text is not at hand (the caret line is then left out). Returns its file number (>= 1). */
uint32_t diag_add_file(Diag *diag, const char *path, const char *text, size_t n_bytes);
const char *diag_file_path(const Diag *diag, uint32_t file);
uint32_t diag_file_count(const Diag *diag);

__attribute__((format(printf, 3, 4))) void diag_error(Diag *diag, Span span, const char *format, ...);
__attribute__((format(printf, 3, 4))) void diag_warning(Diag *diag, Span span, const char *format, ...);
/* Belongs to the error or warning before it; printed below it. */
__attribute__((format(printf, 3, 4))) void diag_note(Diag *diag, Span span, const char *format, ...);
/* A "did you mean 'x'?" beside the caret of the last error. suggestion NULL is ignored. */
void diag_suggest(Diag *diag, const char *suggestion);

uint32_t diag_error_count(const Diag *diag);
/* True when the limit is reached and the reader should give up. */
bool diag_is_full(const Diag *diag);
/* Prints all of them in source order of reporting. colour: ANSI escapes. */
void diag_print(const Diag *diag, FILE *out, bool colour);

#endif
