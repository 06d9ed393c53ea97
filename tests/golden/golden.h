/* Golden tests: text in, text out, in one file.
 *
 *     // RUN: ptc opt --passes=dce
 *     module "m"
 *     ...
 *     // ----
 *     what comes out
 *
 * A file may hold several cases, divided by lines `// ====`. Places in messages are those of the file.
 * A new verb is one row in verbs.c. */
#ifndef PTC_TESTS_GOLDEN_H
#define PTC_TESTS_GOLDEN_H

#include "base/arena.h"

typedef struct
{
    Arena *arena;
    const char *file;  /* for messages: the file's name without its folder */
    const char *input; /* padded with newlines in front, so that line numbers are those of the file */
    const char *args;  /* what follows the verb in the RUN line; "" when nothing */
} GoldenCase;

typedef struct
{
    const char *verb; /* the first words of the RUN line */
    /* The output, in the arena: what the command would print, diagnostics included. */
    const char *(*run)(const GoldenCase *test);
} GoldenVerb;

/* Ends with a row of NULL. */
extern const GoldenVerb golden_verbs[];

#endif
