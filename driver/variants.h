/* The programs for the shorter lengths of <data buckets=>: the same job with another value of one <dim>, made like the
 * program for the longest, which is the session's own. */
#ifndef PTC_DRIVER_VARIANTS_H
#define PTC_DRIVER_VARIANTS_H

#include "frontend/frontend.h"
#include "runtime/executor.h"

typedef struct Session Session;

typedef struct
{
    int64_t length;
    Job *job;
    Diag *diag;
    Arena *module_arena;
    IrModule *m; /* after the passes */
} Variant;

typedef struct
{
    Variant *shorter; /* ascending; once variants_compile has run */
    uint32_t n_shorter;
    const char **fields; /* of the data, that have the length as their axis */
    uint32_t n_fields;
} Variants;

/* Loads the job for each shorter length, checks that it differs in the length of texts only, gives it the session's
 * plan and runs the passes. */
Status variants_compile(Session *s);
/* All modules, the longest last, without their kernels: n_shorter + 1 of them, in the job's arena. */
ExecutorModule *variants_modules(Session *s);
/* The i-th of them, after the passes. */
const IrModule *variants_module(const Session *s, uint32_t i);
void variants_close(Session *s);

#endif
