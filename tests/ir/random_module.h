/* Random well-typed straight-line programs over the op table, for round-trip tests and for comparing devices.
 *
 * A module has one step function @train that reads input globals "in0", "in1", ... and sets output globals "out0",
 * "out1", ... Every EWISE row of ops.def takes part by its EXAMPLE, the other rows by rules of random_rules.c or,
 * without one, by their EXAMPLE. bf16 does not take part.
 *
 * Values stay in sane ranges when the inputs come from random_module_values: floats of magnitude at most about 1e4, all
 * finite; logarithms, roots and divisors of at least 0.2; integers below 1e6. The generator carries a bound of the
 * rounding error along and outputs a value only where it is below RANDOM_MODULE_TOLERANCE for a device that computes in
 * f32 with functions good to 2 ulp; what jumps (floor, comparisons, casts to integers) is only applied to values that
 * every device computes exactly. */
#ifndef PTC_TESTS_IR_RANDOM_MODULE_H
#define PTC_TESTS_IR_RANDOM_MODULE_H

#include "ir/module.h"

/* Absolute, on every element of every output; integers and bools are exact. */
#define RANDOM_MODULE_TOLERANCE 2e-3

/* The same module for the same seed. n_ops: ops drawn from the table; leaves and what keeps ranges come on top. */
IrModule *random_module(Arena *arena, uint64_t seed, uint32_t n_ops);

/* Makes a training program of it: float inputs become trainable params, the sum of the float outputs the output "loss",
 * SGD with momentum and clipping the optimizer. Gradients have no bound of errors. False when no float is output. */
bool random_module_make_trainable(IrModule *m);

/* Values for an input global (or one that was an input), exact in its dtype: see example_values. */
void random_module_values(const IrModule *m, IrGlobal input, uint64_t seed, double *out_values);

#endif
