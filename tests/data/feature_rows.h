/* What the tests of the feature cache share: rows that are a function of (sample, salt), options, warnings counted. */
#ifndef PTC_TESTS_FEATURE_ROWS_H
#define PTC_TESTS_FEATURE_ROWS_H

#include "data_test.h"
#include "runtime/feature_cache.h"

#include <stdlib.h>

typedef struct
{
    int n;
    char last[1024];
} Warnings;

static inline void count_warning(void *context, const char *sentence)
{
    Warnings *warnings = context;
    warnings->n++;
    snprintf(warnings->last, sizeof warnings->last, "%s", sentence);
}

/* All bit patterns that are no NaN with a payload that bf16 would lose; exact in f32. */
static inline void make_row(uint64_t sample, uint32_t salt, float *row, uint64_t n)
{
    uint32_t state = (uint32_t)sample * 2654435761u ^ salt;
    for (uint64_t i = 0; i < n; i++)
    {
        state = state * 1664525u + 1013904223u;
        row[i] = (float)(int32_t)state * 1e-6f;
    }
}

/* Bit for bit. */
static inline bool is_row(uint64_t sample, uint32_t salt, const float *row, uint64_t n)
{
    float *wanted = malloc(n * sizeof *wanted);
    make_row(sample, salt, wanted, n);
    bool same = memcmp(row, wanted, n * sizeof *wanted) == 0;
    free(wanted);
    return same;
}

#endif
