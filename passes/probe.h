/* A program that tells how alike samples are to each layer (passes/plasticity.h). */
#ifndef PTC_PASSES_PROBE_H
#define PTC_PASSES_PROBE_H

#include "base/arena.h"
#include "ir/module.h"

#include <stdbool.h>

/* Replaces the frontend's @train by @probe: the forward pass of evaluation, which sets an output "gram.LAYER" f32[b b]
 * for each layer from 0 on: A A^T of what units behind it read of it (passes/cache_prefix.h). layers: the first unit of
 * each layer, and of what is behind the last. False, with a sentence in the arena, when that is no row of a sample. */
bool probe_make(Arena *arena, IrModule *m, const int64_t *layers, uint32_t n_layers, const char **out_why);

/* The passes for it. */
extern const char *const probe_pipeline;

#endif
