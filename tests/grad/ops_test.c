/* Every row of ops.def with a gradient and an example: autodiff against central differences. */
#include "check.h"
#include "example.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Rows that have a GRAD or GRAD_FN column. */
#define GRAD(...)                                                       true
#define GRAD_FN(...)                                                    true
#define NOGRAD                                                          false
#define OP(name, in, out, required, optional, shape, traits, grad, ...) grad,
static const bool has_grad[] = {
    false,
#include "ir/ops.def"
};
#undef OP

/* A float operand and a float result. */
static bool is_differentiable(Arena *arena, const Example *example)
{
    bool float_operand = false;
    for (uint32_t i = 0; i < example->n_operands; i++)
        float_operand = float_operand || dtype_is_float((DType)example->operands[i].dtype);
    IrModule *m = ir_module_create(arena, example->label);
    IrOp op = example_build(m, example, EXAMPLE_PARAMS, "train");
    return has_grad[example->code] && float_operand &&
           dtype_is_float((DType)ir_value_type(m, ir_op_result(m, op, 0))->dtype);
}

static IrModule *build(Arena *arena, const Example *example, uint32_t n_results)
{
    IrModule *m = ir_module_create(arena, example->label);
    IrOp op = example_build(m, example, EXAMPLE_PARAMS, "train");
    IrBuilder b = ir_builder(m, ir_func_find(m, "train"));
    check_add_loss(&b, ir_op(m, op)->results, n_results);
    return m;
}

static void test_every_gradient(void **state)
{
    (void)state;
    bool checked[IR_CODE_COUNT] = {false};
    uint64_t random = check_seed();
    for (uint32_t i = 0; i < example_count(); i++)
    {
        Arena *arena = arena_create();
        Example example = example_at(arena, i);
        if (is_differentiable(arena, &example))
        {
            const char *positive[EXAMPLE_MAX_OPERANDS + 1] = {NULL};
            uint32_t n_positive = 0, n_trainable = 0;
            IrModule *m = build(arena, &example, 1);
            for (uint32_t k = 0; k < example.n_operands; k++)
            {
                n_trainable += dtype_is_float((DType)example.operands[k].dtype);
                if (example.positive[k])
                    positive[n_positive++] = arena_printf(arena, "in%u", k);
            }
            for (int repeat = 0; repeat < 3; repeat++)
                assert_int_equal(check_gradients(m, positive, &random), n_trainable);
            if (example.code == IR_attention) /* through the logsumexp as well */
                check_gradients(build(arena, &example, 2), positive, &random);
            checked[example.code] = true;
        }
        arena_destroy(arena);
    }
    uint32_t n_checked = 0;
    for (int code = 1; code < IR_CODE_COUNT; code++)
    {
        n_checked += checked[code];
        if (has_grad[code] && !checked[code])
            fail_msg("the gradient of '%s' was not checked: its row has no example with a float operand",
                     ir_op_info((IrCode)code)->name);
    }
    printf("%u rows with a gradient checked\n", n_checked);
}

static Example find_example(Arena *arena, IrCode code)
{
    for (uint32_t i = 0; i < example_count(); i++)
    {
        Example example = example_at(arena, i);
        if (example.code == code)
            return example;
    }
    fail_msg("%s has no example", ir_op_info(code)->name);
    return (Example){0};
}

/* The gradient of one function is not taken for that of another. */
static void test_the_check_can_fail(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    Example exp_example = find_example(arena, IR_exp), erf_example = find_example(arena, IR_erf);
    IrModule *m = build(arena, &exp_example, 1), *other = build(arena, &erf_example, 1);
    assert_true(check_pass(other, pass_autodiff));
    InterpEnv *env = ir_interp_env_create();
    uint64_t random = check_seed();
    check_bind_random(env, other, NULL, &random);
    assert_true(check_gradient_error(env, m, other, &random) > 0.01);
    ir_interp_env_destroy(env);
    arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_gradient),
        cmocka_unit_test(test_the_check_can_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
