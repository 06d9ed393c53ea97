/* decompose: einsum in every arrangement of letters, without transposes where none is needed; whole random modules. */
#include "check.h"
#include "programs.h"
#include "random_module.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static uint64_t random_state;

static uint32_t random_below(uint32_t n)
{
    return (uint32_t)(check_uniform(&random_state) * n);
}

static void shuffle(char *letters)
{
    for (size_t n = strlen(letters); n > 1; n--)
    {
        size_t k = random_below((uint32_t)n);
        char kept = letters[n - 1];
        letters[n - 1] = letters[k];
        letters[k] = kept;
    }
}

static IrModule *einsum_module(Arena *arena, const char *expr, const int64_t *extents)
{
    IrModule *m = program_create(arena, expr);
    IrBuilder b = ir_builder(m, ir_func_find(m, "train"));
    IrValue operands[2];
    const char *at = expr;
    for (int k = 0; k < 2; k++)
    {
        int64_t dims[IR_MAX_RANK];
        size_t n = 0;
        for (; *at >= 'a' && *at <= 'z'; at++)
            dims[n++] = extents[*at - 'a'];
        operands[k] = program_param(&b, k ? "y" : "x", true, n, dims);
        at++;
    }
    IrValue out = program_einsum(&b, expr, operands[0], operands[1]);
    IrType type = *ir_value_type(m, out);
    ir_global_add(m, IR_GLOBAL_OUTPUT, "out", type, NULL, 0, (Span){0});
    ir_build_set(&b, "out", out);
    check_add_loss(&b, &out, 1);
    return m;
}

static void check_einsum(const char *expr, const int64_t *extents)
{
    Arena *arena = arena_create();
    IrModule *m = einsum_module(arena, expr, extents), *lowered = ir_module_clone(arena, m);
    assert_true(check_pass(lowered, pass_decompose));
    assert_int_equal(check_count_ops(lowered, IR_PHASE_FORWARD, 0, IR_einsum), 0);
    InterpEnv *env = ir_interp_env_create();
    check_bind_random(env, m, NULL, &random_state);
    check_same_outputs(env, m, lowered);
    ir_interp_env_destroy(env);
    arena_destroy(arena);
}

static void test_random_einsums(void **state)
{
    (void)state;
    for (int repeat = 0; repeat < 400; repeat++)
    {
        int64_t extents[26];
        char lists[3][8] = {{0}};
        uint32_t n_letters = 1 + random_below(6);
        for (uint32_t i = 0; i < n_letters; i++)
        {
            extents[i] = 1 + random_below(4);
            uint32_t where = 1 + random_below(3); /* first, second, both */
            bool kept = random_below(3) > 0;
            for (uint32_t k = 0; k < 3; k++)
                if (k == 2 ? kept : (where >> k & 1) != 0)
                    lists[k][strlen(lists[k])] = (char)('a' + i);
        }
        for (int k = 0; k < 3; k++)
            shuffle(lists[k]);
        char expr[40];
        snprintf(expr, sizeof expr, "%s,%s->%s", lists[0], lists[1], lists[2]);
        check_einsum(expr, extents);
    }
}

/* Contractions of Transformers and their gradients: one matmul or one product each, no transpose. */
static void test_no_needless_transposes(void **state)
{
    (void)state;
    static const int64_t extents[26] = {2, 3, 4, 5, 6, 2, 3, 2, 3, 4, 2, 3, 4, 5, 2, 3, 4, 5, 6, 4, 3, 7, 2, 3, 4, 5};
    static const struct
    {
        const char *expr;
        uint32_t n_matmuls;
    } cases[] = {
        {"btd,de->bte", 1},  {"btd,ed->bte", 1}, {"btd,dhk->bthk", 1}, {"bthk,hkd->btd", 1},
        {"bd,dc->bc", 1},    {"dc,bd->bc", 1},   {"bnd,bdm->bnm", 1},  {"bnd,bmd->bnm", 1},
        {"gtd,gde->gte", 1}, {"bt,btd->btd", 0}, {"btd,d->bt", 0},     {"btd,d->btd", 0},
    };
    for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++)
    {
        Arena *arena = arena_create();
        IrModule *m = einsum_module(arena, cases[i].expr, extents);
        assert_true(check_pass(m, pass_autodiff));
        assert_true(check_pass(m, pass_decompose));
        for (IrPhase phase = IR_PHASE_FORWARD; phase <= IR_PHASE_BACKWARD; phase++)
        {
            uint32_t n_transposes = check_count_ops(m, phase, 0, IR_transpose);
            if (n_transposes)
                fail_msg("%s: %u transposes in phase %d", cases[i].expr, n_transposes, (int)phase);
            uint32_t per_phase = phase == IR_PHASE_FORWARD ? 1 : 2;
            if (check_count_ops(m, phase, 0, IR_matmul) != per_phase * cases[i].n_matmuls)
                fail_msg("%s: %u matmuls in phase %d", cases[i].expr, check_count_ops(m, phase, 0, IR_matmul),
                         (int)phase);
        }
        arena_destroy(arena);
    }
}

static void test_random_modules(void **state)
{
    (void)state;
    for (int repeat = 0; repeat < 60; repeat++)
    {
        Arena *arena = arena_create();
        uint64_t seed = (uint64_t)(check_uniform(&random_state) * 1e12);
        IrModule *m = random_module(arena, seed, 5 + random_below(40));
        IrBuilder b = ir_builder(m, ir_func_find(m, "train"));
        if (!ir_global_find(m, "loss")) /* check_loss reads it */
        {
            ir_global_add(m, IR_GLOBAL_OUTPUT, "loss", ir_type_scalar(DT_F32), NULL, 0, (Span){0});
            ir_build_set(&b, "loss", ir_build_const(&b, ir_type_scalar(DT_F32), 0));
        }
        IrModule *lowered = ir_module_clone(arena, m);
        assert_true(check_pass(lowered, pass_decompose));
        assert_null(pass_property_missing(lowered, PASS_PROPERTY_LOWERED));
        InterpEnv *env = ir_interp_env_create();
        ir_interp_bind_rest(env, m);
        for (IrGlobal g = 1; g < m->globals.len; g++)
            if (ir_global(m, g)->kind == IR_GLOBAL_INPUT)
                random_module_values(m, g, seed, ir_interp_find(env, ir_global(m, g)->name));
        check_same_outputs(env, m, lowered);
        ir_interp_env_destroy(env);
        arena_destroy(arena);
    }
}

int main(void)
{
    random_state = check_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_einsums),
        cmocka_unit_test(test_no_needless_transposes),
        cmocka_unit_test(test_random_modules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
