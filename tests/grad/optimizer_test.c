/* Every optimizer against a loop written by hand from the definition in torch.optim; clipping; non-finite losses. */
#include "check.h"
#include "programs.h"

#include "ir/expr.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum
{
    N_DECAYED = 3,
    N_PLAIN = 4,
    N_ALL = N_DECAYED + N_PLAIN,
    N_STEPS = 6
};

static uint64_t random_state;

/* loss = sum(c w^2) + sum(d v^4), w of 3 elements with decay, v of 2x2 without: gradients are known. */
static IrModule *quadratic(Arena *arena, const char *optimizer, const IrAttr *attrs, uint32_t n_attrs)
{
    IrModule *m = program_create(arena, optimizer);
    IrFunc train = ir_func_find(m, "train");
    IrAttrs *list = &ir_func(m, train)->attrs;
    ir_attrs_put(arena, list, ir_attr_str(IR_ATTR_optimizer, optimizer));
    for (uint32_t i = 0; i < n_attrs; i++)
        ir_attrs_put(arena, list, attrs[i]);
    IrBuilder b = ir_builder(m, train);
    IrExprVar vars[] = {{"w", program_param(&b, "w", true, DIMS(N_DECAYED))},
                        {"v", program_param(&b, "v", true, DIMS(2, 2))},
                        {"c", program_input(&b, "c", DT_F32, DIMS(N_DECAYED))},
                        {"d", program_input(&b, "d", DT_F32, DIMS(2, 2))}};
    IrGlobalData *w = ir_global(m, ir_global_find(m, "w"));
    ir_attrs_put(arena, &w->attrs, ir_attr_bool(IR_ATTR_decay, true));
    const int64_t axes[] = {0, 1};
    IrValue left = ir_build_reduce(&b, IR_reduce_sum, ir_build_expr(&b, "c * w * w", vars, 4), axes, 1);
    IrValue right = ir_build_reduce(&b, IR_reduce_sum, ir_build_expr(&b, "d * v * v * v * v", vars, 4), axes, 2);
    ir_global_add(m, IR_GLOBAL_OUTPUT, "loss", ir_type_scalar(DT_F32), NULL, 0, (Span){0});
    ir_build_set(&b, "loss", ir_build2(&b, IR_add, left, right));
    assert_true(check_pass(m, pass_autodiff));
    assert_true(check_pass(m, pass_optimizer));
    for (IrGlobal g = 1; g < m->globals.len; g++)
        assert_true(strncmp(ir_global(m, g)->name, "grad:", 5) != 0);
    return m;
}

/* The same model in plain arrays: elements 0..2 are w, 3..6 are v. */
typedef struct
{
    double p[N_ALL], c[N_ALL], g[N_ALL], s[N_ALL], m[N_ALL], lr;
    int step;
} Plain;

static void plain_gradients(Plain *x)
{
    for (int i = 0; i < N_ALL; i++)
        x->g[i] = i < N_DECAYED ? 2 * x->c[i] * x->p[i] : 4 * x->c[i] * x->p[i] * x->p[i] * x->p[i];
}

typedef void PlainStep(Plain *x);

static void run_steps(const IrModule *m, Plain *x, PlainStep *step, const char *states)
{
    InterpEnv *env = ir_interp_env_create();
    check_bind_random(env, m, NULL, &random_state);
    memcpy(x->p, ir_interp_find(env, "w"), N_DECAYED * sizeof(double));
    memcpy(x->p + N_DECAYED, ir_interp_find(env, "v"), N_PLAIN * sizeof(double));
    memcpy(x->c, ir_interp_find(env, "c"), N_DECAYED * sizeof(double));
    memcpy(x->c + N_DECAYED, ir_interp_find(env, "d"), N_PLAIN * sizeof(double));
    for (int t = 1; t <= N_STEPS; t++)
    {
        x->step = t;
        x->lr = 0.01 + 0.005 * check_uniform(&random_state);
        ir_interp_find(env, "lr")[0] = x->lr;
        ir_interp_find(env, "step")[0] = t;
        check_loss(env, m);
        plain_gradients(x);
        step(x);
        for (int i = 0; i < N_ALL; i++)
        {
            bool in_w = i < N_DECAYED;
            int at = in_w ? i : i - N_DECAYED;
            assert_float_equal(ir_interp_find(env, in_w ? "w" : "v")[at], x->p[i], 1e-12 * (1 + fabs(x->p[i])));
            for (const char *s = states; *s; s++)
            {
                const char *name = arena_printf(m->arena, "%s.%c:%c", m->name, *s, in_w ? 'w' : 'v');
                double expected = *s == 'm' ? x->m[i] : x->s[i];
                assert_float_equal(ir_interp_find(env, name)[at], expected, 1e-12 * (1 + fabs(expected)));
            }
        }
    }
    ir_interp_env_destroy(env);
}

/* ---- SGD */

static void step_sgd(Plain *x)
{
    for (int i = 0; i < N_ALL; i++)
    {
        double g = x->g[i] + (i < N_DECAYED ? 0.1 * x->p[i] : 0);
        x->s[i] = x->step == 1 ? g : 0.9 * x->s[i] + g;
        x->p[i] -= x->lr * x->s[i];
    }
}

static void step_plain_sgd(Plain *x)
{
    for (int i = 0; i < N_ALL; i++)
        x->p[i] -= x->lr * x->g[i];
}

static void test_sgd(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    IrAttr attrs[] = {ir_attr_float(IR_ATTR_momentum, 0.9), ir_attr_float(IR_ATTR_weight_decay, 0.1)};
    run_steps(quadratic(arena, "sgd", attrs, 2), &(Plain){0}, step_sgd, "v");
    run_steps(quadratic(arena, "sgd", NULL, 0), &(Plain){0}, step_plain_sgd, "");
    arena_destroy(arena);
}

/* ---- AdamW */

static void adamw(Plain *x, double beta1, double beta2, double decay)
{
    double correction1 = 1 - pow(beta1, x->step), correction2 = 1 - pow(beta2, x->step);
    for (int i = 0; i < N_ALL; i++)
    {
        x->p[i] *= i < N_DECAYED ? 1 - x->lr * decay : 1;
        x->m[i] = beta1 * x->m[i] + (1 - beta1) * x->g[i];
        x->s[i] = beta2 * x->s[i] + (1 - beta2) * x->g[i] * x->g[i];
        x->p[i] -= x->lr / correction1 * x->m[i] / (sqrt(x->s[i]) / sqrt(correction2) + 1e-8);
    }
}

static void step_adamw(Plain *x)
{
    adamw(x, 0.85, 0.98, 0.3);
}

static void step_adamw_defaults(Plain *x)
{
    adamw(x, 0.9, 0.999, 0.01);
}

static void test_adamw(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    IrAttr attrs[] = {ir_attr_float(IR_ATTR_beta1, 0.85), ir_attr_float(IR_ATTR_beta2, 0.98),
                      ir_attr_float(IR_ATTR_weight_decay, 0.3)};
    run_steps(quadratic(arena, "adamw", attrs, 3), &(Plain){0}, step_adamw, "mv");
    run_steps(quadratic(arena, "adamw", NULL, 0), &(Plain){0}, step_adamw_defaults, "mv");
    arena_destroy(arena);
}

/* ---- clipping */

static double plain_norm;

static void step_clipped(Plain *x)
{
    double sum = 0;
    for (int i = 0; i < N_ALL; i++)
        sum += x->g[i] * x->g[i];
    plain_norm = sqrt(sum);
    double scale = fmin(1, 2.5 / (plain_norm + 1e-6));
    for (int i = 0; i < N_ALL; i++)
        x->p[i] -= x->lr * scale * x->g[i];
}

static void test_clipping(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    IrAttr clip = ir_attr_float(IR_ATTR_clip_norm, 2.5);
    IrModule *m = quadratic(arena, "sgd", &clip, 1);
    for (int repeat = 0; repeat < 5; repeat++)
        run_steps(m, &(Plain){0}, step_clipped, "");
    InterpEnv *env = ir_interp_env_create();
    check_bind_random(env, m, NULL, &random_state);
    Plain x = {.lr = 0};
    memcpy(x.p, ir_interp_find(env, "w"), N_DECAYED * sizeof(double));
    memcpy(x.p + N_DECAYED, ir_interp_find(env, "v"), N_PLAIN * sizeof(double));
    memcpy(x.c, ir_interp_find(env, "c"), N_DECAYED * sizeof(double));
    memcpy(x.c + N_DECAYED, ir_interp_find(env, "d"), N_PLAIN * sizeof(double));
    plain_gradients(&x);
    step_clipped(&x);
    check_loss(env, m);
    assert_float_equal(ir_interp_find(env, "grad_norm")[0], plain_norm, 1e-12 * (1 + plain_norm));
    ir_interp_env_destroy(env);
    arena_destroy(arena);
}

/* ---- what else holds */

static void test_non_finite_loss_changes_nothing(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    IrModule *m = quadratic(arena, "adamw", NULL, 0);
    InterpEnv *env = ir_interp_env_create();
    check_bind_random(env, m, NULL, &random_state);
    ir_interp_find(env, "c")[1] = INFINITY;
    double before = ir_interp_find(env, "w")[0];
    assert_int_equal(ir_interp_run(env, m, ir_func_find(m, "train")), STATUS_NON_FINITE);
    assert_true(ir_interp_find(env, "w")[0] == before);
    assert_true(ir_interp_find(env, "adamw.m:w")[0] == 0);
    assert_false(isfinite(ir_interp_find(env, "loss")[0]));
    ir_interp_env_destroy(env);
    arena_destroy(arena);
}

static void test_states_are_described(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    IrModule *m = quadratic(arena, "adamw", NULL, 0);
    const IrGlobalData *global = ir_global(m, ir_global_find(m, "adamw.v:w"));
    assert_int_equal(global->kind, IR_GLOBAL_STATE);
    assert_string_equal(ir_attrs_str(&global->attrs, IR_ATTR_of), "w");
    assert_string_equal(ir_attrs_str(&global->attrs, IR_ATTR_init), "zeros");
    /* per param: no pow, no division but the update's own */
    IR_FOR_OPS(m, ir_func_find(m, "train"), op)
    if (ir_op(m, op)->code == IR_pow)
        assert_int_equal(ir_value_type(m, ir_op_result(m, op, 0))->rank, 0);
    arena_destroy(arena);
}

static void test_unknown_optimizer(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    IrModule *m = program_language_model(arena, 1, 0);
    assert_true(check_pass(m, pass_autodiff));
    ir_attrs_put(arena, &ir_func(m, ir_func_find(m, "train"))->attrs, ir_attr_str(IR_ATTR_optimizer, "adamv"));
    assert_false(check_pass(m, pass_optimizer));
    arena_destroy(arena);
}

/* A whole model learns: the loss falls by half within some steps on one batch. */
static void test_language_model_learns(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    IrModule *m = program_language_model(arena, 2, 0);
    ir_attrs_put(arena, &ir_func(m, ir_func_find(m, "train"))->attrs, ir_attr_str(IR_ATTR_optimizer, "adamw"));
    assert_true(check_pass(m, pass_autodiff));
    assert_true(check_pass(m, pass_optimizer));
    assert_true(check_pass(m, pass_decompose));
    InterpEnv *env = ir_interp_env_create();
    const char *const positive[] = {"batch.weights", NULL};
    check_bind_random(env, m, positive, &random_state);
    double *tokens = ir_interp_find(env, "batch.tokens");
    memcpy(ir_interp_find(env, "batch.labels"), tokens, 6 * sizeof(double)); /* to say what it has read */
    ir_interp_find(env, "lr")[0] = 0.02;
    double first = 0, last = 0;
    for (int t = 1; t <= 60; t++)
    {
        ir_interp_find(env, "step")[0] = t;
        last = check_loss(env, m);
        first = t == 1 ? last : first;
    }
    if (!(last < 0.5 * first))
        fail_msg("the loss went from %g to %g", first, last);
    ir_interp_env_destroy(env);
    arena_destroy(arena);
}

int main(void)
{
    random_state = check_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sgd),
        cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_clipping),
        cmocka_unit_test(test_non_finite_loss_changes_nothing),
        cmocka_unit_test(test_states_are_described),
        cmocka_unit_test(test_unknown_optimizer),
        cmocka_unit_test(test_language_model_learns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
