/* Plasticity: the distance against PyTorch's, when a layer is calm, and the program that makes similarities against the
 * outputs of the layers themselves. */
#include "harness/test.h"
#include "model.h"
#include "passes/freeze_policy.h"
#include "passes/plasticity.h"
#include "passes/probe.h"

#include <math.h>
#include <stdlib.h>

enum
{
    MOST = 8 /* samples of a case */
};

static bool read_floats(FILE *file, float *out, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (fscanf(file, "%f", &out[i]) != 1)
            return false;
    return true;
}

/* plasticity_torch.py beside the file has made it. */
static void distance_is_pytorchs(void **state)
{
    (void)state;
    char path[1024];
    snprintf(path, sizeof path, "%s/tests/fixtures/plasticity.txt", getenv("PTC_SOURCE_DIR"));
    FILE *file = fopen(path, "r");
    float gram[MOST * MOST], reference[MOST * MOST], wide[MOST * (MOST + 3)], wide_reference[MOST * (MOST + 3)];
    uint32_t n, n_cases = 0;
    double expected;
    assert_non_null(file);
    while (fscanf(file, "%u", &n) == 1)
    {
        assert_true(n <= MOST && read_floats(file, gram, n * n) && read_floats(file, reference, n * n));
        assert_int_equal(fscanf(file, "%lf", &expected), 1);
        const double distance = plasticity_distance(gram, reference, n, n);
        assert_true(fabs(distance - expected) <= 1e-9 * expected);
        for (uint32_t i = 0; i < n; i++) /* the same in a larger batch */
            for (uint32_t k = 0; k < n + 3; k++)
            {
                wide[i * (n + 3) + k] = k < n ? gram[i * n + k] : 1000;
                wide_reference[i * (n + 3) + k] = k < n ? reference[i * n + k] : -1;
            }
        assert_true(plasticity_distance(wide, wide_reference, n, n + 3) == distance);
        n_cases++;
    }
    assert_int_equal(n_cases, 4);
    fclose(file);
}

static void calm_layers_are_frozen_from_the_bottom(void **state)
{
    (void)state;
    enum
    {
        N_LAYERS = 3,
        N = 7
    };
    /* averages of two: 4 5 6 6 6 6.5 7, 8 4 4 4 4 4 4, 1 2 3 4 5 6 7 */
    static const double readings[N_LAYERS][N] = {{4, 6, 6, 6, 6, 7, 7}, {8, 0, 8, 0, 8, 0, 8}, {1, 3, 3, 5, 5, 7, 7}};
    static const uint32_t calm[N_LAYERS][N] = {{0, 0, 0, 1, 2, 0, 0}, {0, 0, 1, 2, 3, 4, 5}, {0, 0, 0, 0, 0, 0, 0}};
    static const uint32_t frozen[N] = {0, 0, 0, 0, 2, 0, 0};
    const FreezeSettings settings = {
        .policy = FREEZE_plasticity, .window = 2, .tolerance = 0.4, .patience = 2, .renew = 1};
    Plasticity layers[N_LAYERS] = {{0}};
    for (uint32_t i = 0; i < N; i++)
    {
        for (uint32_t layer = 0; layer < N_LAYERS; layer++)
        {
            plasticity_add(&layers[layer], settings.window, settings.tolerance, readings[layer][i]);
            assert_int_equal(layers[layer].calm, calm[layer][i]);
        }
        const FreezeInput input = {
            .decision = i + 2, .n_layers = N_LAYERS, .plasticity = layers, .loss = NAN, .loss_before = NAN};
        assert_int_equal(freeze_decide(&settings, &input).frozen, frozen[i]);
    }
    assert_true(layers[0].smoothed == 7 && layers[0].steepest == 1);
}

/* @probe of a model against what @prefix gives of the same layers. */
static void probe_sees_the_outputs(void **state)
{
    (void)state;
    enum
    {
        N_LAYERS = 2,
        ROWS = 18
    };
    static const int64_t layers[] = {2, 4, 6};
    static const char path[] = "tests/ranks/tied.xml";
    const char *why = NULL;
    Arena *arena = arena_create();
    IrModule *probe = model_load(arena, path, NULL, 1);
    assert_true(probe_make(arena, probe, layers, N_LAYERS, &why));
    Arena *probe_arena = arena_create();
    probe = ir_module_clone(probe_arena, probe);
    model_run_passes(&probe_arena, &probe, probe_pipeline);
    for (uint32_t layer = 0; layer < N_LAYERS; layer++)
    {
        Arena *cut_arena = arena_create();
        IrModule *cut = model_load(cut_arena, path, NULL, 1);
        IrAttrs *attrs = &ir_func(cut, ir_func_find(cut, "train"))->attrs;
        ir_attrs_put(cut_arena, attrs, ir_attr_int(IR_ATTR_frozen, layers[layer + 1] - 1));
        ir_attrs_put(cut_arena, attrs, ir_attr_bool(IR_ATTR_cached, true));
        model_run_passes(&cut_arena, &cut, "make_eval,freeze,cache_prefix");
        InterpEnv *env = model_run(cut, ROWS);
        assert_int_equal(ir_interp_run(env, cut, ir_func_find(cut, "prefix")), STATUS_OK);
        ir_interp_bind_rest(env, probe);
        assert_int_equal(ir_interp_run(env, probe, ir_func_find(probe, "probe")), STATUS_OK);
        const double *outputs = ir_interp_find(env, "frozen_0");
        const double *gram = ir_interp_find(env, arena_printf(arena, "gram.%u", layer));
        assert_true(outputs && gram && !ir_interp_find(env, "frozen_1"));
        const IrType *type = &ir_global(cut, ir_global_find(cut, "frozen_0"))->type;
        const int64_t n = ir_type_n_elems(type) / ROWS;
        for (int64_t i = 0; i < ROWS; i++)
            for (int64_t k = 0; k < ROWS; k++)
            {
                double sum = 0;
                for (int64_t f = 0; f < n; f++)
                    sum += outputs[i * n + f] * outputs[k * n + f];
                assert_true(fabs(gram[i * ROWS + k] - sum) <= 1e-9 * (1 + fabs(sum)));
            }
        ir_interp_env_destroy(env);
        arena_destroy(cut_arena);
    }
    arena_destroy(probe_arena);
    arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distance_is_pytorchs),
        cmocka_unit_test(calm_layers_are_frozen_from_the_bottom),
        cmocka_unit_test(probe_sees_the_outputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
