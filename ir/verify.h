/* Checks that a module obeys the rules of the IR: counts, attributes, types (by the SHAPE rules), definition before
 * use, one definition, globals and kernels that exist with the types used, effects in order, kernel bodies made of what
 * a kernel may hold, no set of a param or state before check_finite in a function that has one. */
#ifndef PTC_IR_VERIFY_H
#define PTC_IR_VERIFY_H

#include "ir/module.h"

/* True when the module is right. Otherwise *out_why describes the first fault (function, op text, rule). */
bool ir_verify(Arena *arena, const IrModule *m, const char **out_why);

#endif
