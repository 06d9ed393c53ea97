/* Models of the frontend, and running their training step in the interpreter: for tests of the passes that lay a step
 * out on ranks. Failures fail the test. */
#ifndef PTC_TESTS_PASSES_MODEL_H
#define PTC_TESTS_PASSES_MODEL_H

#include "ir/interp.h"
#include "ir/module.h"

/* The module of a model, its path relative to the source folder. sets: "d=16 layers=2" as for --set, or NULL. Its batch
 * is cut into micro_batches parts (at least 1). */
IrModule *model_load(Arena *arena, const char *path, const char *sets, int64_t micro_batches);

/* With the verifier after every pass. */
void model_run_passes(Arena **arena, IrModule **m, const char *passes);

/* Runs @train once. Every param, state and input gets values that depend on its name and the place in it alone: those
 * of n_samples samples, so that batch inputs of one micro-batch ("batch.X.1") get that part of "batch.X". Rows beyond
 * n_samples are padding. The caller destroys the result. */
InterpEnv *model_run(const IrModule *m, int64_t n_samples);

/* NULL, or the first global that is in both runs with elements further apart than bound * (1 + its size). */
const char *model_compare(Arena *arena, const IrModule *m, const InterpEnv *a, const InterpEnv *b, double bound);

#endif
