/* Gradients of any @train against central differences, in f64 through the reference interpreter. */
#ifndef PTC_TESTS_GRAD_CHECK_H
#define PTC_TESTS_GRAD_CHECK_H

#include "ir/builder.h"
#include "ir/interp.h"
#include "passes/manager.h"

/* From PTC_TEST_SEED, else the clock; printed once per program. */
uint64_t check_seed(void);
/* A stream of numbers: uniform in [0, 1), and about normal. */
double check_uniform(uint64_t *state);
double check_normal(uint64_t *state);

/* Binds every global of m to fresh random values: floats normal (params whose name is in `positive`, a comma-free
 * list ended by NULL, in [0.5, 2.5)), i32 and u8 in 0..4, bool 0 or 1; outputs and states zero. */
void check_bind_random(InterpEnv *env, const IrModule *m, const char *const *positive, uint64_t *state);

/* Runs one pass on m with fresh diagnostics; false when it reported an error. The result is verified. */
bool check_pass(IrModule *m, PassFn *pass);

/* Loss "loss" of @train for the current bindings. */
double check_loss(InterpEnv *env, const IrModule *m);

/* Relative to 1 + the gradient's size. */
#define CHECK_GRADIENT_TOLERANCE 2e-6

/* The worst error of the outputs "grad:NAME" that grads computes, by central differences of m's loss at the current
 * bindings; a trainable param without such an output must have none by differences either. Prints what is off. */
double check_gradient_error(InterpEnv *env, const IrModule *m, const IrModule *grads, uint64_t *state);

/* Runs both from the current bindings (which neither may change: no params set) and fails unless all globals that
 * `before` has agree. */
void check_same_outputs(InterpEnv *env, const IrModule *before, const IrModule *after);

/* Runs autodiff on a copy of m and compares every "grad:NAME" with central differences at a random point. Fails the
 * running cmocka test on a difference. Returns the number of params with a gradient. Also checks that decompose,
 * applied to the differentiated copy, keeps the loss and the gradients. */
uint32_t check_gradients(const IrModule *m, const char *const *positive, uint64_t *state);

/* Number of ops in @train with that phase, of that unit (0: any), of that code (0: any). */
uint32_t check_count_ops(const IrModule *m, IrPhase phase, uint32_t unit, IrCode code);

/* loss = sum of value * random weights of value's type, set to a new output "loss". */
void check_add_loss(IrBuilder *b, const IrValue *values, uint32_t n_values);

#endif
