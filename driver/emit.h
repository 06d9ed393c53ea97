/* --emit=KIND: what a model is compiled to, in one of several forms (driver/emits.def). */
#ifndef PTC_DRIVER_EMIT_H
#define PTC_DRIVER_EMIT_H

#include "driver/driver.h"
#include "ir/module.h"

/* USAGE: no such kind, or flags that do not go with it. */
Status emit_check(const Options *options);
/* Writes the module, after the passes, to -o FILE or standard output. */
Status emit_module(Arena *arena, const IrModule *m, const Options *options);

#endif
