/* Initialisers of params: the text of `init=` and what it means. Rows in ir/inits.def. */
#ifndef PTC_IR_INIT_H
#define PTC_IR_INIT_H

#include "ir/module.h"

/* True when text is a known initialiser with a valid argument ("zeros", "normal(0.02)"). Otherwise *out_why is a
 * sentence in the arena. */
bool ir_init_check(Arena *arena, const char *text, const char **out_why);

/* Fills dst (n_elems of type, f32 whatever its dtype) by a checked text. Every number is a pure function of (seed,
 * name, element): the same for any order, device or number of ranks. */
void ir_init_fill(float *dst, const IrType *type, const char *text, uint64_t seed, const char *name);

#endif
