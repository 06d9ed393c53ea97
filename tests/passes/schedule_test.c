/* A step over M micro-batches is the step of the whole batch: in the interpreter, in f64, the unrolled program gives
 * the same loss, metrics, params and optimizer states, for any M, in any order of forward and backward passes, added
 * one after another or pairwise, with dropout, a masked last micro-batch and losses that weigh their tokens. */
#include "model.h"

#include "harness/test.h"
#include "passes/manager.h"
#include "passes/plan.h"

#include <stdlib.h>

static const char tied[] = "tests/ranks/tied.xml";

/* The planned program of M micro-batches. order: NULL for the default one; "" for that of a plan of one stage. */
static IrModule *compile(Arena **arena, const char *path, const char *sets, uint32_t n_micro, const char *order,
                         bool deterministic)
{
    static const int64_t first_unit[] = {1};
    IrModule *m = model_load(*arena, path, sets, n_micro);
    IrAttrs *attrs = &ir_func(m, ir_func_find(m, "train"))->attrs;
    Plan plan = {.n_stages = 1,
                 .n_replicas = 1,
                 .n_micro = n_micro,
                 .schedule = PIPELINE_gpipe,
                 .deterministic = deterministic,
                 .first_unit = first_unit};
    if (order && !*order)
        plan_apply(*arena, m, &plan, 0, 0);
    else
    {
        ir_attrs_put(*arena, attrs, ir_attr_int(IR_ATTR_micro_batches, n_micro));
        if (deterministic)
            ir_attrs_put(*arena, attrs, ir_attr_bool(IR_ATTR_deterministic, true));
        if (order)
            ir_attrs_put(*arena, attrs, ir_attr_str(IR_ATTR_order, order));
    }
    model_run_passes(arena, &m, pass_pipeline_default);
    return m;
}

static void check(const char *path, const char *sets, int64_t n_samples, uint32_t n_micro, const char *order,
                  bool deterministic)
{
    Arena *whole_arena = arena_create(), *arena = arena_create();
    IrModule *whole = compile(&whole_arena, path, sets, 1, NULL, false);
    IrModule *parts = compile(&arena, path, sets, n_micro, order, deterministic);
    InterpEnv *a = model_run(whole, n_samples), *b = model_run(parts, n_samples);
    const char *why = model_compare(arena, whole, a, b, 1e-10);
    if (why)
        fail_msg("%s, %u micro-batches, order %s, deterministic %d: %s", path, n_micro, order ? order : "-",
                 deterministic, why);
    ir_interp_env_destroy(a);
    ir_interp_env_destroy(b);
    arena_destroy(whole_arena);
    arena_destroy(arena);
}

static void test_any_number(void **state)
{
    (void)state;
    static const uint32_t numbers[] = {2, 3, 4, 5, 9, 18};
    for (uint32_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        for (int deterministic = 0; deterministic < 2; deterministic++)
            check(tied, NULL, 18, numbers[i], NULL, deterministic);
}

static void test_any_order(void **state)
{
    (void)state;
    static const char *const orders[] = {"", "F0 F1 F2 B0 B1 B2", "F0 F1 B0 F2 B1 B2", "F0 B0 W0 F1 B1 W1 F2 B2 W2",
                                         "F0 F1 B0 F2 B1 W0 B2 W1 W2"};
    for (uint32_t i = 0; i < sizeof orders / sizeof *orders; i++)
        for (int deterministic = 0; deterministic < 2; deterministic++)
            check(tied, NULL, 18, 3, orders[i], deterministic);
}

/* The last batch of an epoch: all, some or one of the last micro-batches have nothing but padding. */
static void test_short_batch(void **state)
{
    (void)state;
    static const int64_t numbers[] = {17, 12, 7, 1};
    for (uint32_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        check(tied, NULL, numbers[i], 5, NULL, i % 2);
}

static void test_other_optimizers(void **state)
{
    (void)state;
    check(tied, "train.optimizer=sgd train.momentum=0.9 train.clip_norm=0", 18, 3, NULL, false);
    check(tied, "train.optimizer=sgd train.momentum=0 train.clip_norm=1", 18, 4, NULL, true);
    check(tied, "train.optimizer=adamw train.weight_decay=0 train.clip_norm=0", 18, 4, NULL, false);
}

static void test_examples(void **state)
{
    (void)state;
    static const char *const paths[] = {"examples/vit-fashion-mnist.xml", "examples/vit-alibi.xml",
                                        "examples/vit-postnorm.xml", "examples/vit-rmsnorm-swiglu-rotary.xml"};
    for (uint32_t i = 0; i < sizeof paths / sizeof *paths; i++)
        check(paths[i], "d=8 layers=1 heads=2 hidden=8 patch=7 train.batch=5", 5, 3, NULL, i % 2);
}

/* Forward, backward and sum of a micro-batch use no other: the comparison sees one that is left out. */
static void test_can_fail(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    IrModule *m = compile(&arena, tied, NULL, 3, NULL, false);
    InterpEnv *a = model_run(m, 18), *b = model_run(m, 17);
    assert_non_null(model_compare(arena, m, a, b, 1e-10));
    ir_interp_env_destroy(a);
    ir_interp_env_destroy(b);
    arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_any_number),  cmocka_unit_test(test_any_order),
                                       cmocka_unit_test(test_short_batch), cmocka_unit_test(test_other_optimizers),
                                       cmocka_unit_test(test_examples),    cmocka_unit_test(test_can_fail)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
