/* Pass replicate, from its definition, on the programs that ranks run: of every tensor's optimizer state one replica
 * has all and the others have none; all set all params; no replica has much more than its part; and all have the same
 * collectives in the same order. */
#include "model.h"

#include "harness/test.h"
#include "passes/manager.h"
#include "passes/plan.h"

#include <string.h>

enum
{
    MAX_REPLICAS = 4,
    N_MICRO = 4
};

typedef struct
{
    const char *path, *sets;
    uint32_t n_stages, n_replicas;
    int64_t first_unit[2];
} Case;

static IrModule *compile(Arena **arena, const Case *c, uint32_t replica, uint32_t stage)
{
    const Plan plan = {.n_stages = c->n_stages,
                       .n_replicas = c->n_replicas,
                       .n_micro = N_MICRO,
                       .schedule = PIPELINE_one_f_one_b,
                       .first_unit = c->first_unit};
    IrModule *m = model_load(*arena, c->path, c->sets, N_MICRO);
    plan_apply(*arena, m, &plan, replica, stage);
    model_run_passes(arena, &m, pass_pipeline_default);
    return m;
}

static bool touches(const IrModule *m, const char *global, IrCode code)
{
    IR_FOR_OPS(m, ir_func_find(m, "train"), op)
    {
        const IrOpData *data = ir_op(m, op);
        if ((data->code == IR_set || data->code == code) &&
            strcmp(ir_attrs_str(&data->attrs, IR_ATTR_global), global) == 0)
            return true;
    }
    return false;
}

/* "all_reduce 0, reduce 1 to 1, bcast 2 to 0 ..." */
static const char *collectives(Arena *arena, const IrModule *m)
{
    StrBuf text = strbuf_make(arena);
    IR_FOR_OPS(m, ir_func_find(m, "train"), op)
    {
        const IrOpData *data = ir_op(m, op);
        if (data->code == IR_all_reduce || data->code == IR_reduce || data->code == IR_bcast)
            strbuf_addf(&text, "%s %lld of %u at %lld, ", ir_op_info(data->code)->name,
                        (long long)ir_attrs_int(&data->attrs, IR_ATTR_bucket, -1), data->n_operands,
                        (long long)ir_attrs_int(&data->attrs, IR_ATTR_root, -1));
    }
    return strbuf_text(&text);
}

static void check_stage(const Case *c, uint32_t stage)
{
    Arena *arenas[MAX_REPLICAS];
    IrModule *m[MAX_REPLICAS] = {0};
    int64_t bytes[MAX_REPLICAS] = {0}, total = 0;
    for (uint32_t r = 0; r < c->n_replicas; r++)
    {
        arenas[r] = arena_create();
        m[r] = compile(&arenas[r], c, r, stage);
        if (strcmp(collectives(arenas[r], m[r]), collectives(arenas[0], m[0])) != 0)
            fail_msg("replica %u has other collectives: %s; not %s", r, collectives(arenas[r], m[r]),
                     collectives(arenas[0], m[0]));
    }
    for (IrGlobal g = 1; g < m[0]->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(m[0], g);
        const char *of = global->kind == IR_GLOBAL_STATE ? ir_attrs_str(&global->attrs, IR_ATTR_of) : NULL;
        uint32_t n_have = 0, n_set = 0;
        for (uint32_t r = 0; r < c->n_replicas; r++)
        {
            const bool has = touches(m[r], global->name, IR_get);
            bytes[r] += of && has ? ir_type_size_bytes(&global->type) : 0;
            n_have += has;
            n_set += touches(m[r], global->name, IR_set);
        }
        if (of && ir_type_n_elems(&global->type) > 1 && n_have > 1)
            fail_msg("%u replicas have %s", n_have, global->name);
        if (!of && n_set != 0 && n_set != c->n_replicas)
            fail_msg("%u replicas set %s", n_set, global->name);
        total += of && n_have ? ir_type_size_bytes(&global->type) : 0;
    }
    assert_true(total > 0);
    for (uint32_t r = 0; r < c->n_replicas; r++)
        if (bytes[r] * (int64_t)c->n_replicas * 2 < total || bytes[r] * (int64_t)c->n_replicas > 2 * total)
            fail_msg("%s: replica %u of %u has %lld of %lld bytes of state", c->path, r, c->n_replicas,
                     (long long)bytes[r], (long long)total);
    for (uint32_t r = 0; r < c->n_replicas; r++)
        arena_destroy(arenas[r]);
}

static void test_states(void **state)
{
    (void)state;
    static const Case cases[] = {
        {"tests/ranks/tied.xml", NULL, 1, 2, {1}},
        {"tests/ranks/tied.xml", NULL, 1, 3, {1}},
        {"tests/ranks/tied.xml", "train.clip_norm=0", 1, 2, {1}},
        {"tests/ranks/tied.xml", NULL, 2, 2, {1, 4}}, /* the tied embedding is on both stages */
        {"examples/vit-fashion-mnist.xml", NULL, 1, 2, {1}},
        {"examples/vit-fashion-mnist.xml", NULL, 2, 2, {1, 6}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (uint32_t s = 0; s < cases[i].n_stages; s++)
            check_stage(&cases[i], s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_states)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
