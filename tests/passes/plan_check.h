/* A memory plan checked from its definition: the program is run on memory that holds names of values in place of
 * numbers. Every read must find the name of what it wants to read in all of its bytes. */
#ifndef PTC_TESTS_PASSES_PLAN_CHECK_H
#define PTC_TESTS_PASSES_PLAN_CHECK_H

#include "ir/module.h"

typedef struct
{
    int64_t arena_bytes; /* as planned */
    int64_t sums_at;     /* where in it the part begins that other ranks reach; its end: nowhere */
    int64_t live_bytes;  /* the most that is alive at once: no plan can do with less */
    uint32_t n_in_place; /* results written straight into a global */
    uint32_t n_over_old; /* of those: over an old value that the same call reads */
} PlanFacts;

/* NULL, or what is wrong with the plan of a step function of a PLANNED module. */
const char *plan_check(Arena *arena, const IrModule *m, IrFunc func, PlanFacts *out_facts);

#endif
