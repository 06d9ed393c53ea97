/* A small Vision Transformer, built by hand: patch projection, pre-norm attention and MLP blocks with dropout, mean
 * over tokens, head, masked cross entropy; trained by AdamW with clipping. Shared by the tests of passes and devices.
 *
 * Inputs: batch.patches f32[B,T,P], batch.labels i32[B], batch.mask f32[B], batch.sample i32[B], rng.key i32[2], and
 * those of the optimizer (lr, step). Output: loss. */
#ifndef PTC_TESTS_DEVICE_BLOCK_H
#define PTC_TESTS_DEVICE_BLOCK_H

#include "ir/interp.h"
#include "ir/module.h"

typedef struct
{
    int64_t batch, tokens, patch, width, heads, hidden, classes;
    int n_layers;
    double dropout; /* 0: none */
} BlockSizes;

/* @train with its optimizer's attributes; no pass has run. */
IrModule *block_module(Arena *arena, const BlockSizes *sizes);

/* Binds every global of m (before or after autodiff and optimizer): params by their init, states and outputs zero. */
void block_bind(InterpEnv *env, const IrModule *m, uint64_t seed);
/* The inputs of step number `step` (from 1). */
void block_set_inputs(InterpEnv *env, const IrModule *m, uint64_t seed, int step);

#endif
