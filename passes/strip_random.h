/* Taking what is random out of a function: the forward pass then is that of evaluation. */
#ifndef PTC_PASSES_STRIP_RANDOM_H
#define PTC_PASSES_STRIP_RANDOM_H

#include "base/arena.h"
#include "ir/module.h"

/* Of the forward ops of units 1..last_unit. What the removed dropouts alone used is left for dce. */
void strip_random(Arena *scratch, IrModule *m, IrFunc func, uint32_t last_unit);

#endif
