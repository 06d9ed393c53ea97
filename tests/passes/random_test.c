/* Passes keep what a program computes: random modules through lists of passes, run by the interpreter before and after,
 * with the verifier after each pass and, for odd seeds, a round trip through text. Then the same modules as training
 * programs: float inputs become params, the float outputs are summed to a loss, and two SGD steps are compared.
 * The number of seeds: PTC_RANDOM_SEEDS (40). */
#include "base/strbuf.h"
#include "harness/test.h"
#include "ir/interp.h"
#include "ir/text.h"
#include "passes/manager.h"
#include "random_module.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum
{
    N_OPS = 40
};

static const char *const pass_lists[] = {
    "canonicalise",
    "cse,dce",
    "decompose",
    "decompose,recompute,epilogue,dce",
    "decompose,dce,fuse,plan_memory",
    "canonicalise,cse,dce,decompose,canonicalise,cse,dce,recompute,epilogue,dce,fuse,plan_memory",
};

static uint32_t n_seeds(void)
{
    const char *text = getenv("PTC_RANDOM_SEEDS");
    return text ? (uint32_t)strtoul(text, NULL, 10) : 40;
}

static int64_t n_output_elems(const IrModule *m)
{
    int64_t n = 0;
    for (IrGlobal g = 1; g < m->globals.len; g++)
        if (ir_global(m, g)->kind == IR_GLOBAL_OUTPUT)
            n += ir_type_n_elems(&ir_global(m, g)->type);
    return n;
}

/* All outputs, one after another. */
static double *run(Arena *arena, const IrModule *m, uint64_t seed)
{
    InterpEnv *env = ir_interp_env_create();
    ir_interp_bind_rest(env, m);
    for (IrGlobal g = 1; g < m->globals.len; g++)
        if (ir_global(m, g)->kind == IR_GLOBAL_INPUT)
            random_module_values(m, g, seed, ir_interp_find(env, ir_global(m, g)->name));
    assert_int_equal(ir_interp_run(env, m, ir_func_find(m, "train")), STATUS_OK);
    double *values = ARENA_ARRAY(arena, double, n_output_elems(m)), *at = values;
    for (IrGlobal g = 1; g < m->globals.len; g++)
    {
        int64_t n = ir_type_n_elems(&ir_global(m, g)->type);
        if (ir_global(m, g)->kind != IR_GLOBAL_OUTPUT)
            continue;
        memcpy(at, ir_interp_find(env, ir_global(m, g)->name), (size_t)n * sizeof *at);
        at += n;
    }
    ir_interp_env_destroy(env);
    return values;
}

static void check_seed(uint64_t seed, const char *passes)
{
    Arena *arena = arena_create(), *module_arena = arena_create();
    IrModule *m = random_module(module_arena, seed, N_OPS);
    int64_t n = n_output_elems(m);
    const double *before = run(arena, m, seed);
    Diag *diag = diag_create(arena);
    PassOptions options = {.verify_each = true, .roundtrip_each = seed % 2};
    Status status = pass_manager_run(&module_arena, &m, diag, passes, &options);
    diag_print(diag, stdout, false);
    if (status != STATUS_OK)
        fail_msg("seed %llu, %s: %s", (unsigned long long)seed, passes, status_text(status));
    assert_int_equal(n, n_output_elems(m));
    const double *after = run(arena, m, seed);
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(after[i] - before[i]) <= 1e-9 * (1 + fabs(before[i]))))
            fail_msg("seed %llu, %s: output element %lld is %.17g, was %.17g", (unsigned long long)seed, passes,
                     (long long)i, after[i], before[i]);
    arena_destroy(module_arena);
    arena_destroy(arena);
}

static void test_passes_keep_results(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= n_seeds(); seed++)
        for (uint32_t i = 0; i < sizeof pass_lists / sizeof *pass_lists; i++)
            check_seed(seed, pass_lists[i]);
    printf("seeds 1..%u\n", n_seeds());
}

/* ---- training */

static const char *const training_lists[] = {
    "decompose,dce,fuse,plan_memory",
    "canonicalise,cse,dce",
    "decompose,canonicalise,cse,dce,epilogue,dce,recompute,fuse,plan_memory",
    "decompose,recompute,dce,epilogue,cse,dce,fuse,plan_memory",
};

static InterpEnv *run_training(const IrModule *m, uint64_t seed)
{
    InterpEnv *env = ir_interp_env_create();
    ir_interp_bind_rest(env, m);
    for (IrGlobal g = 1; g < m->globals.len; g++)
        if (strncmp(ir_global(m, g)->name, "in", 2) == 0)
            random_module_values(m, g, seed, ir_interp_find(env, ir_global(m, g)->name));
    *ir_interp_find(env, "lr") = 0.0625;
    for (int step = 1; step <= 2; step++)
    {
        *ir_interp_find(env, "step") = step;
        Status status = ir_interp_run(env, m, ir_func_find(m, "train"));
        if (status != STATUS_OK)
            fail_msg("seed %llu: %s", (unsigned long long)seed, status_detail());
    }
    return env;
}

static void check_training(const IrModule *plain, uint64_t seed, const char *passes)
{
    Arena *arena = arena_create(), *module_arena = arena_create();
    IrModule *m = ir_module_clone(module_arena, plain);
    Diag *diag = diag_create(arena);
    PassOptions options = {.verify_each = true, .roundtrip_each = seed % 2};
    Status status = pass_manager_run(&module_arena, &m, diag, passes, &options);
    diag_print(diag, stdout, false);
    assert_int_equal(status, STATUS_OK);
    InterpEnv *before = run_training(plain, seed), *after = run_training(m, seed);
    for (IrGlobal g = 1; g < plain->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(plain, g);
        const double *x = ir_interp_find(before, global->name), *y = ir_interp_find(after, global->name);
        for (int64_t i = 0; i < ir_type_n_elems(&global->type); i++)
            if (!(fabs(y[i] - x[i]) <= 1e-8 * (1 + fabs(x[i]))) && !(isnan(x[i]) && isnan(y[i])))
                fail_msg("seed %llu, %s: %s[%lld] is %.17g, was %.17g", (unsigned long long)seed, passes, global->name,
                         (long long)i, y[i], x[i]);
    }
    ir_interp_env_destroy(before);
    ir_interp_env_destroy(after);
    arena_destroy(module_arena);
    arena_destroy(arena);
}

static void test_passes_keep_training(void **state)
{
    (void)state;
    uint32_t n_trained = 0;
    for (uint32_t seed = 1; seed <= n_seeds(); seed++)
    {
        Arena *arena = arena_create();
        IrModule *m = random_module(arena, seed, N_OPS);
        Diag *diag = diag_create(arena);
        bool trained =
            random_module_make_trainable(m) &&
            pass_manager_run(&arena, &m, diag, "autodiff,optimizer", &(PassOptions){.verify_each = true}) == STATUS_OK;
        for (uint32_t i = 0; trained && i < sizeof training_lists / sizeof *training_lists; i++)
            check_training(m, seed, training_lists[i]);
        n_trained += trained;
        arena_destroy(arena);
    }
    printf("%u of %u modules have something to train\n", n_trained, n_seeds());
    assert_true(n_trained > n_seeds() / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_passes_keep_results),
                                       cmocka_unit_test(test_passes_keep_training)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
