/* The border between frozen units and the rest: what is kept by sample in place of running the frozen units again. */
#ifndef PTC_PASSES_CACHE_PREFIX_H
#define PTC_PASSES_CACHE_PREFIX_H

#include "base/arena.h"
#include "ir/module.h"

#include <stdbool.h>

/* Values f32[b ...] of a step function's units 1..last_unit that units behind read, in program order, without those
 * that cost next to nothing (passes/movable.h) or are the same for all samples: these are computed again. */
typedef struct
{
    IrValue *values;
    uint32_t n;
} FrozenBorder;

/* False, with a sentence in the arena, when something there is no row of a sample, or nothing is. */
bool frozen_border(Arena *arena, const IrModule *m, IrFunc func, int64_t last_unit, FrozenBorder *out_border,
                   const char **out_why);

/* A global that the pass makes: a value at a border. */
bool cache_prefix_is_border(const char *global);

#endif
