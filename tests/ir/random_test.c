/* Random modules: accepted by the verifier, stable through print and parse, and run by the interpreter to finite
 * numbers. The number of seeds: PTC_RANDOM_SEEDS (100). */
#include "random_module.h"

#include "base/strbuf.h"
#include "harness/test.h"
#include "ir/interp.h"
#include "ir/text.h"
#include "ir/verify.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum
{
    N_OPS = 40
};

static uint32_t n_seeds(void)
{
    const char *text = getenv("PTC_RANDOM_SEEDS");
    return text ? (uint32_t)strtoul(text, NULL, 10) : 100;
}

static const char *print(Arena *arena, const IrModule *m)
{
    StrBuf buf = strbuf_make(arena);
    ir_print_module(&buf, m);
    return strbuf_text(&buf);
}

static void test_roundtrip(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= n_seeds(); seed++)
    {
        Arena *arena = arena_create();
        IrModule *m = random_module(arena, seed, N_OPS);
        const char *why, *text = print(arena, m);
        if (!ir_verify(arena, m, &why))
            fail_msg("seed %u: %s", seed, why);
        assert_string_equal(text, print(arena, random_module(arena, seed, N_OPS)));
        Diag *diag = diag_create(arena);
        IrModule *again =
            ir_parse_module(arena, diag, diag_add_file(diag, "text", text, strlen(text)), text, strlen(text));
        diag_print(diag, stdout, false);
        if (!again)
            fail_msg("seed %u: its text is not read", seed);
        assert_string_equal(text, print(arena, again));
        if (!ir_verify(arena, again, &why))
            fail_msg("seed %u, read again: %s", seed, why);
        arena_destroy(arena);
    }
    printf("seeds 1..%u\n", n_seeds());
}

static void run_seed(uint32_t seed, uint32_t *used)
{
    Arena *arena = arena_create();
    IrModule *m = random_module(arena, seed, N_OPS);
    InterpEnv *env = ir_interp_env_create();
    ir_interp_bind_rest(env, m);
    for (IrGlobal g = 1; g < m->globals.len; g++)
        if (ir_global(m, g)->kind == IR_GLOBAL_INPUT)
            random_module_values(m, g, seed, ir_interp_find(env, ir_global(m, g)->name));
    assert_int_equal(ir_interp_run(env, m, ir_func_find(m, "train")), STATUS_OK);
    for (IrGlobal g = 1; g < m->globals.len; g++)
        for (int64_t i = 0; i < ir_type_n_elems(&ir_global(m, g)->type); i++)
            if (!(fabs(ir_interp_find(env, ir_global(m, g)->name)[i]) <= 1e6))
                fail_msg("seed %u: %s[%lld] is %g\n%s", seed, ir_global(m, g)->name, (long long)i,
                         ir_interp_find(env, ir_global(m, g)->name)[i], print(arena, m));
    IR_FOR_OPS(m, ir_func_find(m, "train"), op)
    used[ir_op(m, op)->code]++;
    ir_interp_env_destroy(env);
    arena_destroy(arena);
}

static void test_values_are_sane(void **state)
{
    (void)state;
    uint32_t used[IR_CODE_COUNT] = {0};
    for (uint32_t seed = 1; seed <= n_seeds(); seed++)
        run_seed(seed, used);
    for (int code = 1; code < IR_CODE_COUNT; code++)
        if (ir_op_info((IrCode)code)->example_types && used[code] == 0 && n_seeds() >= 100)
            fail_msg("'%s' was never drawn", ir_op_info((IrCode)code)->name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_roundtrip), cmocka_unit_test(test_values_are_sane)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
