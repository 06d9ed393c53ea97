/* Values that cost next to nothing: made of constants, indices and inputs alone (masks, positions). Where one is needed
 * it is computed, rather than sent or kept. */
#ifndef PTC_PASSES_MOVABLE_H
#define PTC_PASSES_MOVABLE_H

#include "ir/module.h"

/* By value of the function; out_movable has m->values.len entries. */
void movable_values(const IrModule *m, IrFunc func, bool *out_movable);

#endif
