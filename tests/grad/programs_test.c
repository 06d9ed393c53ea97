/* Differentiation of whole programs: composition, shared values, broadcasting, what is frozen, what has no gradient,
 * attention with a learned bias, evaluation without dropout. */
#include "check.h"
#include "programs.h"

#include "ir/expr.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const char *const weights_above_zero[] = {"batch.weights", NULL};

static uint64_t random_state;

static void test_language_model(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    IrModule *m = program_language_model(arena, 2, 0);
    assert_int_equal(check_gradients(m, weights_above_zero, &random_state), 2 + 2 * 5 + 2);
    arena_destroy(arena);
}

static IrModule *differentiate(IrModule *m)
{
    assert_true(check_pass(m, pass_autodiff));
    return m;
}

static void test_frozen_prefix_costs_nothing(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    IrModule *all = differentiate(program_language_model(arena, 2, 0));
    assert_true(check_count_ops(all, IR_PHASE_BACKWARD, 1, 0) > 0);
    assert_int_equal(check_count_ops(all, IR_PHASE_BACKWARD, 2, IR_einsum), 4);
    assert_int_equal(check_count_ops(all, IR_PHASE_BACKWARD, 3, IR_einsum), 4);
    IrModule *prefix = differentiate(program_language_model(arena, 2, 1u << 31 | 1));
    assert_int_equal(check_count_ops(prefix, IR_PHASE_BACKWARD, 1, 0), 0);
    assert_int_equal(check_count_ops(prefix, IR_PHASE_BACKWARD, 2, 0), 0);
    /* down's gradient, its operand's, up's; nothing for the norm's operand but for gamma and beta */
    assert_int_equal(check_count_ops(prefix, IR_PHASE_BACKWARD, 3, IR_einsum), 4);
    assert_int_equal(check_gradients(program_language_model(arena, 2, 1u << 31 | 1), weights_above_zero, &random_state),
                     5 + 2);
    arena_destroy(arena);
}

static void test_frozen_middle(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    IrModule *m = differentiate(program_language_model(arena, 3, 1u << 1));
    /* the gradient passes through the frozen block, but no weight gradient is computed in it */
    assert_int_equal(check_count_ops(m, IR_PHASE_BACKWARD, 3, IR_einsum), 2);
    assert_int_equal(check_gradients(program_language_model(arena, 3, 1u << 1), weights_above_zero, &random_state),
                     2 + 2 * 5 + 2);
    arena_destroy(arena);
}

static void test_backward_ops_keep_their_origin(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    IrModule *m = differentiate(program_language_model(arena, 2, 0));
    IR_FOR_OPS(m, ir_func_find(m, "train"), op)
    {
        const IrOpData *data = ir_op(m, op);
        if (data->code != IR_get) /* those of a param that two units read are the param's */
            assert_int_equal(data->span.line, data->unit);
    }
    arena_destroy(arena);
}

/* One value used many times, through views, as both operands of a product, and where its gradient is zero. */
static void test_shared_values(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    IrModule *m = program_create(arena, "shared values");
    IrBuilder b = ir_builder(m, ir_func_find(m, "train"));
    IrValue w = program_param(&b, "w", true, DIMS(3, 4));
    IrValue row = program_param(&b, "row", true, DIMS(4));
    program_param(&b, "unused", true, DIMS(2));
    IrValue steps = program_param(&b, "steps", true, DIMS(3, 4));
    const int64_t flip[] = {1, 0};
    IrExprVar vars[] = {{"w", w},
                        {"again", ir_build_get(&b, "w")},
                        {"row", row},
                        {"s", steps},
                        {"k", program_input(&b, "k", DT_I32, DIMS(3, 4))}};
    IrValue y = ir_build_expr(&b,
                              "w * w + tanh(again) * row - row * row + floor(s) * w + "
                              "select(w > row, sin(w), again * f32(k)) + max(w, row) * min(s, row - 100) * 0 + "
                              "f32(i32(w) + k)",
                              vars, 5);
    IrValue gram = program_einsum(&b, "ab,cb->ac", y, w);
    IrValue turned = program_einsum(&b, "ab,bc->ac", y, ir_build_transpose(&b, w, flip));
    check_add_loss(&b, (const IrValue[]){y, gram, turned, row}, 4);
    /* steps: its floor has no gradient, but min(s, .) does; unused has none */
    assert_int_equal(check_gradients(m, NULL, &random_state), 3);
    arena_destroy(arena);
}

static void test_nothing_to_train(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    IrModule *m = program_create(arena, "nothing");
    IrBuilder b = ir_builder(m, ir_func_find(m, "train"));
    IrValue frozen = program_param(&b, "frozen", false, DIMS(3));
    IrValue stepped = ir_build1(&b, IR_floor, program_param(&b, "stepped", true, DIMS(3)));
    check_add_loss(&b, (const IrValue[]){frozen, stepped}, 2);
    assert_false(check_pass(m, pass_autodiff));
    IrModule *empty = program_create(arena, "empty");
    assert_false(check_pass(empty, pass_autodiff));
    arena_destroy(arena);
}

typedef struct
{
    bool causal, bias_trainable;
    int64_t window, n_groups;
    double p;
    int64_t bias_dims[3];
} AttentionCase;

static IrModule *attention_model(Arena *arena, const AttentionCase *c, int64_t n_queries)
{
    enum
    {
        BATCH = 2,
        HEADS = 4,
        KEYS = 5,
        HEAD_WIDTH = 3
    };
    IrModule *m = program_create(arena, "attention");
    IrBuilder b = ir_builder(m, ir_func_find(m, "train"));
    IrValue operands[6] = {program_param(&b, "q", true, DIMS(BATCH, n_queries, HEADS, HEAD_WIDTH)),
                           program_param(&b, "k", true, DIMS(BATCH, KEYS, c->n_groups, HEAD_WIDTH)),
                           program_param(&b, "v", true, DIMS(BATCH, KEYS, c->n_groups, HEAD_WIDTH)),
                           program_param(&b, "bias", c->bias_trainable,
                                         DIMS(c->bias_dims[0] ? BATCH : 1, c->bias_dims[1] ? HEADS : 1,
                                              c->bias_dims[2] ? n_queries : 1, KEYS)),
                           program_input(&b, "rng.key", DT_I32, DIMS(2)),
                           program_input(&b, "batch.sample", DT_I32, DIMS(BATCH))};
    IrAttr attrs[6] = {ir_attr_float(IR_ATTR_scale, 0.6), ir_attr_bool(IR_ATTR_causal, c->causal),
                       ir_attr_int(IR_ATTR_window, c->window), ir_attr_bool(IR_ATTR_bias, true)};
    uint32_t n_attrs = 4, n_operands = 4;
    if (c->p > 0)
    {
        attrs[n_attrs++] = ir_attr_float(IR_ATTR_p, c->p);
        attrs[n_attrs++] = ir_attr_int(IR_ATTR_stream, 3);
        n_operands = 6;
    }
    IrValue out = ir_build_op(&b, IR_attention, NULL, operands, n_operands, attrs, n_attrs);
    check_add_loss(&b, &out, 1);
    return m;
}

/* The template and the form taken apart have the same values and both the right gradients. */
static void test_attention(void **state)
{
    (void)state;
    static const AttentionCase cases[] = {
        {.n_groups = 4},
        {.n_groups = 2, .causal = true, .bias_dims = {1, 1, 1}},
        {.n_groups = 1, .window = 1, .bias_dims = {0, 1, 0}},
        {.n_groups = 4, .causal = true, .window = 1, .p = 0.4, .bias_dims = {0, 1, 1}},
    };
    for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++)
    {
        /* 7 queries over 5 keys with a causal mask: the first two queries see no key */
        for (int64_t n_queries = 3; n_queries <= 7; n_queries += 4)
        {
            Arena *arena = arena_create();
            AttentionCase c = cases[i];
            IrModule *template = attention_model(arena, &c, n_queries);
            assert_int_equal(check_gradients(template, NULL, &random_state), 3);
            c.bias_trainable = true;
            IrModule *apart = attention_model(arena, &c, n_queries);
            assert_int_equal(check_gradients(apart, NULL, &random_state), 4);
            IrModule *grads = differentiate(ir_module_clone(arena, apart));
            assert_int_equal(check_count_ops(grads, IR_PHASE_FORWARD, 0, IR_attention), 0);
            InterpEnv *env = ir_interp_env_create();
            check_bind_random(env, grads, NULL, &random_state);
            check_same_outputs(env, apart, grads);
            ir_interp_env_destroy(env);
            arena_destroy(arena);
        }
    }
}

static void test_matmul_epilogues(void **state)
{
    (void)state;
    static const char *const acts[] = {"relu", "gelu_erf", "gelu_tanh", "silu"};
    for (uint32_t i = 0; i < sizeof acts / sizeof *acts; i++)
    {
        Arena *arena = arena_create();
        IrModule *m = program_create(arena, acts[i]);
        IrBuilder b = ir_builder(m, ir_func_find(m, "train"));
        IrValue operands[] = {program_param(&b, "a", true, DIMS(4, 3)), program_param(&b, "b", true, DIMS(5, 4)),
                              program_param(&b, "bias", true, DIMS(5)),
                              program_param(&b, "residual", true, DIMS(3, 5))};
        IrAttr attrs[] = {ir_attr_bool(IR_ATTR_ta, true), ir_attr_bool(IR_ATTR_tb, true),
                          ir_attr_bool(IR_ATTR_bias, true), ir_attr_bool(IR_ATTR_residual, true),
                          ir_attr_str(IR_ATTR_act, acts[i])};
        IrValue y = ir_build_op(&b, IR_matmul, NULL, operands, 4, attrs, 5);
        check_add_loss(&b, &y, 1);
        assert_int_equal(check_gradients(m, NULL, &random_state), 4);
        arena_destroy(arena);
    }
}

/* @eval is @train with the dropouts taken out by hand; @train keeps them. */
static IrModule *dropout_model(Arena *arena, bool with_dropout)
{
    IrModule *m = program_create(arena, "dropout");
    IrBuilder b = ir_builder(m, ir_func_find(m, "train"));
    IrValue key = program_input(&b, "rng.key", DT_I32, DIMS(2));
    IrValue sample = program_input(&b, "batch.sample", DT_I32, DIMS(2));
    IrValue x = program_param(&b, "x", true, DIMS(2, 5, 2, 4));
    IrAttr attrs[] = {ir_attr_float(IR_ATTR_scale, 0.5), ir_attr_bool(IR_ATTR_causal, true),
                      ir_attr_float(IR_ATTR_p, 0.5), ir_attr_int(IR_ATTR_stream, 1)};
    IrValue dropped =
        with_dropout ? program_dropout(&b, ir_build1(&b, IR_sin, x), key, sample, 0.5, 2) : ir_build1(&b, IR_sin, x);
    IrValue operands[] = {dropped, x, x, key, sample};
    IrValue y = ir_build_op(&b, IR_attention, NULL, operands, with_dropout ? 5 : 3, attrs, with_dropout ? 4 : 2);
    check_add_loss(&b, &y, 1);
    return m;
}

static void test_eval_has_no_dropout(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    IrModule *m = dropout_model(arena, true), *plain = dropout_model(arena, false);
    IrAttr optimizer = ir_attr_str(IR_ATTR_optimizer, "sgd");
    ir_attrs_put(arena, &ir_func(m, ir_func_find(m, "train"))->attrs, optimizer);
    assert_true(check_pass(m, pass_make_eval));
    IrFunc eval = ir_func_find(m, "eval");
    assert_int_equal(ir_func(m, eval)->attrs.len, 0);
    InterpEnv *env = ir_interp_env_create();
    check_bind_random(env, m, NULL, &random_state);
    double expected = check_loss(env, plain);
    assert_int_equal(ir_interp_run(env, m, eval), STATUS_OK);
    assert_true(ir_interp_find(env, "loss")[0] == expected);
    assert_true(check_loss(env, m) != expected);
    assert_int_equal(check_count_ops(m, IR_PHASE_FORWARD, 0, IR_dropout), 1);
    ir_interp_env_destroy(env);
    arena_destroy(arena);
}

int main(void)
{
    random_state = check_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_language_model),      cmocka_unit_test(test_frozen_prefix_costs_nothing),
        cmocka_unit_test(test_frozen_middle),       cmocka_unit_test(test_backward_ops_keep_their_origin),
        cmocka_unit_test(test_shared_values),       cmocka_unit_test(test_nothing_to_train),
        cmocka_unit_test(test_attention),           cmocka_unit_test(test_matmul_epilogues),
        cmocka_unit_test(test_eval_has_no_dropout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
