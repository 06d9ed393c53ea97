/* A whole training program through the default pipeline, every pass verified and round-tripped, computes what it
 * computed before: params, states and outputs after some steps, in f64. */
#include "check.h"
#include "programs.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static uint64_t random_state;

static void run_training(InterpEnv *env, const IrModule *m, uint64_t seed)
{
    static const char *const positive[] = {"batch.weights", NULL};
    check_bind_random(env, m, positive, &seed);
    for (int t = 1; t <= 3; t++)
    {
        ir_interp_find(env, "lr")[0] = 0.01;
        ir_interp_find(env, "step")[0] = t;
        check_loss(env, m);
    }
}

static void compare(const IrModule *m, const InterpEnv *a, const InterpEnv *b)
{
    for (IrGlobal g = 1; g < m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(m, g);
        const double *x = ir_interp_find(a, global->name), *y = ir_interp_find(b, global->name);
        for (int64_t i = 0; i < ir_type_n_elems(&global->type); i++)
            if (!(fabs(x[i] - y[i]) <= 1e-9 * (1 + fabs(x[i]))))
                fail_msg("%s: %s[%lld] is %.17g before the passes and %.17g after", m->name, global->name, (long long)i,
                         x[i], y[i]);
    }
}

static void check_pipeline(uint32_t frozen, const char *optimizer)
{
    Arena *arena = arena_create(), *m_arena = arena_create();
    IrModule *m = program_language_model(m_arena, 3, frozen);
    IrAttrs *attrs = &ir_func(m, ir_func_find(m, "train"))->attrs;
    ir_attrs_put(m_arena, attrs, ir_attr_str(IR_ATTR_optimizer, optimizer));
    ir_attrs_put(m_arena, attrs, ir_attr_float(IR_ATTR_clip_norm, 0.5));
    IrModule *plain = ir_module_clone(arena, m);
    assert_true(check_pass(plain, pass_autodiff));
    assert_true(check_pass(plain, pass_optimizer));
    Diag *diag = diag_create(arena);
    diag_add_file(diag, "model.xml", NULL, 0);
    PassOptions options = {.verify_each = true, .roundtrip_each = true};
    if (pass_manager_run(&m_arena, &m, diag, pass_pipeline_default, &options) != STATUS_OK)
    {
        diag_print(diag, stdout, false);
        fail_msg("the pipeline failed: %s", status_detail());
    }
    InterpEnv *before = ir_interp_env_create(), *after = ir_interp_env_create();
    uint64_t seed = random_state;
    check_uniform(&random_state);
    run_training(before, plain, seed);
    run_training(after, m, seed);
    compare(plain, before, after);
    assert_true(ir_func_find(m, "eval") != 0);
    ir_interp_env_destroy(before);
    ir_interp_env_destroy(after);
    arena_destroy(m_arena);
    arena_destroy(arena);
}

static void test_pipeline(void **state)
{
    (void)state;
    check_pipeline(0, "adamw");
    check_pipeline(1u << 31 | 1, "adamw");
    check_pipeline(1u << 1, "sgd");
}

int main(void)
{
    random_state = check_seed();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pipeline)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
