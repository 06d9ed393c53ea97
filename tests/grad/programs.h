/* Small models built by hand for the tests of differentiation. */
#ifndef PTC_TESTS_GRAD_PROGRAMS_H
#define PTC_TESTS_GRAD_PROGRAMS_H

#include "ir/builder.h"

#define DIMS(...)                                                                                                      \
    (sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[])                                            \
    {                                                                                                                  \
        __VA_ARGS__                                                                                                    \
    }

/* Adds a global and reads it: program_param(&b, "w", true, DIMS(4, 5)). */
IrValue program_param(IrBuilder *b, const char *name, bool trainable, size_t rank, const int64_t *dims);
IrValue program_input(IrBuilder *b, const char *name, DType dtype, size_t rank, const int64_t *dims);
IrValue program_einsum(IrBuilder *b, const char *expr, IrValue x, IrValue y);
IrValue program_dropout(IrBuilder *b, IrValue x, IrValue key, IrValue sample, double p, int64_t stream);

/* A module with an empty step @train. */
IrModule *program_create(Arena *arena, const char *name);

/* Token embedding, positions, n_layers pre-norm MLP blocks with residuals (units 2, 3, ...), final norm (unit
 * n_layers + 2), a head tied to the embedding, cross entropy with weights, loss = weighted mean. A block whose bit in
 * frozen is set has no trainable param; bit 31: the embedding's positions and table are frozen. */
IrModule *program_language_model(Arena *arena, int n_layers, uint32_t frozen);

#endif
