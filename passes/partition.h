/* Which stage a unit belongs to: shared by the pass and by what prints plans. */
#ifndef PTC_PASSES_PARTITION_H
#define PTC_PASSES_PARTITION_H

#include <stdint.h>

enum
{
    PARTITION_MAX_STAGES = 64
};

/* first_unit: n_stages entries, ascending; units before the first belong to stage 0. */
int partition_stage_of_unit(const int64_t *first_unit, int n_stages, int64_t unit);

#endif
