/* The reference interpreter: runs any step or kernel function in f64, by definition of its ops (docs/ir.md).
 *
 * It is the oracle of the tests and the device `interp`: simple loops, no fusion, no blocking. All dtypes are held in
 * doubles: i32, u8 and bool exactly, f32 without rounding (so it is more precise than any device), bf16 rounded when
 * round_bf16 is set. It runs modules before and after any pass, also fused and planned ones. */
#ifndef PTC_IR_INTERP_H
#define PTC_IR_INTERP_H

#include "base/status.h"
#include "ir/module.h"

/* The globals' memory: a table from name to row-major doubles. One thread at a time. */
typedef struct InterpEnv InterpEnv;

/* Owns its own arenas; the caller destroys it. */
InterpEnv *ir_interp_env_create(void);
void ir_interp_env_destroy(InterpEnv *env);
/* Round results of dtype bf16 to bf16 (off at first). */
void ir_interp_env_round_bf16(InterpEnv *env, bool on);

/* Binds a global to the caller's memory (n_elems of its type), replacing an earlier binding. */
void ir_interp_bind(InterpEnv *env, const char *global, double *data);
/* Binds every global of m that has no binding yet to zeroed memory of the env. */
void ir_interp_bind_rest(InterpEnv *env, const IrModule *m);
/* The bound memory, NULL when there is none. */
double *ir_interp_find(const InterpEnv *env, const char *global);

/* Runs a STEP function once. What it sets is written when it has ended, so every get reads the old value.
 * STATUS_NON_FINITE: a check_finite failed; only what was set before it is written. A get or set of an unbound
 * global is a BUG. */
Status ir_interp_run(InterpEnv *env, const IrModule *m, IrFunc func);
/* Runs a KERNEL function: args and results are row-major doubles in the order of its args and outputs. */
Status ir_interp_call(InterpEnv *env, const IrModule *m, IrFunc kernel, const double *const *args,
                      double *const *results);

#endif
