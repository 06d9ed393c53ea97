/* The authors' planner: K by frozen layers for their four models, of the sizes that our own models of them have. */
#include "harness/test.h"
#include "model.h"
#include "passes/cluster.h"
#include "passes/planner_paper.h"

#include <string.h>

/* Units with their params, and the first unit of every layer. */
static UnitCost *load_sizes(Arena *arena, const char *path, const char *sets, uint32_t *out_n_units,
                            const int64_t **out_layers, uint32_t *out_n_layers)
{
    const IrModule *m = model_load(arena, path, sets, 1);
    UnitCost *costs = ARENA_ARRAY(arena, UnitCost, m->globals.len + 1);
    *out_n_units = 0;
    for (IrGlobal g = 1; g < m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(m, g);
        const uint32_t unit = (uint32_t)ir_attrs_int(&global->attrs, IR_ATTR_unit, 0);
        if (global->kind != IR_GLOBAL_PARAM)
            continue;
        costs[unit].n_params += (uint64_t)ir_type_n_elems(&global->type);
        *out_n_units = unit > *out_n_units ? unit : *out_n_units;
    }
    const IrAttr *layers = ir_attrs_find(&ir_func(m, ir_func_find(m, "train"))->attrs, IR_ATTR_layers);
    assert_non_null(layers);
    *out_layers = layers->ints;
    *out_n_layers = layers->n - 1;
    return costs;
}

static const struct
{
    const char *path, *sets;
    uint64_t n_params;
    uint32_t n_first;
    const char *stages; /* with 0, 1, 2, ... layers frozen */
} tables[] = {
    {"examples/zoo/vit-b16.xml", "", 86567656, 8, "8888844442211"},
    {"examples/zoo/vit-b16.xml", "", 86567656, 4, "4444442221111"},
    {"examples/zoo/bert.xml", "span=1", 108893186, 8, "8444442221111"},
    {"examples/zoo/bert.xml", "span=1 layers=24 d=1024 heads=16 hidden=4096", 334094338, 8,
     "8888888884444444422221111"},
};

static void stages_are_the_papers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
    {
        Arena *arena = arena_create();
        uint32_t n_units, n_layers;
        uint64_t n_params = 0;
        const int64_t *layers;
        const UnitCost *costs = load_sizes(arena, tables[i].path, tables[i].sets, &n_units, &layers, &n_layers);
        char found[64] = "";
        for (uint32_t u = 1; u <= n_units; u++)
            n_params += costs[u].n_params;
        assert_true(n_params == tables[i].n_params);
        for (uint32_t frozen = 0; frozen <= n_layers; frozen++)
        {
            const uint32_t last = frozen ? (uint32_t)layers[frozen] - 1 : 0;
            found[frozen] = (char)('0' + paper_stages(arena, costs, n_units, last, tables[i].n_first));
        }
        assert_string_equal(found, tables[i].stages);
        arena_destroy(arena);
    }
}

/* As the authors' log has them: the units of each stage at the start, and the largest. */
static void cuts_are_the_papers(void **state)
{
    (void)state;
    static const int64_t vit[] = {1, 5, 7, 10, 13, 16, 19, 23, 28}, bert[] = {1, 1, 1, 1, 2, 8, 14, 20, 27};
    Arena *arena = arena_create();
    uint32_t n_units, n_layers;
    const int64_t *layers;
    int64_t first[9];
    const UnitCost *costs = load_sizes(arena, tables[0].path, "", &n_units, &layers, &n_layers);
    assert_float_equal(paper_cut(costs, n_units, 0, 8, first), 14175744, 0.5);
    assert_memory_equal(first, vit, sizeof vit);
    assert_float_equal(paper_cut(costs, n_units, 0, 4, first), 22034152, 0.5);
    costs = load_sizes(arena, tables[2].path, tables[2].sets, &n_units, &layers, &n_layers);
    paper_cut(costs, n_units, 0, 8, first);
    assert_memory_equal(first, bert, sizeof bert); /* three devices have nothing */
    paper_fill(8, first);
    static const int64_t filled[] = {1, 2, 3, 4, 5, 8, 14, 20, 27};
    assert_memory_equal(first, filled, sizeof filled);
    int64_t late[] = {1, 5, 5, 5};
    paper_fill(3, late);
    assert_true(late[0] == 1 && late[1] == 3 && late[2] == 4);
    arena_destroy(arena);
}

static void micro_batches_and_cache_are_the_papers(void **state)
{
    (void)state;
    assert_int_equal(paper_micro(8), 16);
    assert_int_equal(paper_micro(4), 16);
    assert_int_equal(paper_micro(2), 16);
    assert_int_equal(paper_micro(1), 4);
    assert_true(paper_caches(12, 3) && !paper_caches(12, 2) && paper_caches(24, 5) && !paper_caches(24, 4));
}

/* 2 nodes of 8 devices, 16 GB/s inside, 4 GB/s between the nodes. */
static void links_follow_the_layout(void **state)
{
    (void)state;
    const Cluster c = {.n_nodes = 2, .n_devices = 8, .link_bytes_per_s = 16e9, .node_bytes_per_s = 4e9};
    CostMachine m = cluster_machine(&c, 8, 2); /* a stage's two copies, eight pairs over one link */
    assert_float_equal(m.link_bytes_per_s, 16e9, 1);
    assert_float_equal(m.sum_bytes_per_s, 4e9 / 8, 1);
    m = cluster_machine(&c, 1, 16); /* 2 * 7 / 8 / 16e9 inside, 1 / 4e9 between */
    assert_float_equal(1e9 / m.sum_bytes_per_s, 0.109375 + 0.25, 1e-6);
    m = cluster_machine(&c, 4, 2); /* both copies in one node */
    assert_float_equal(m.sum_bytes_per_s, 16e9, 1);
    m = cluster_machine(&c, 16, 1);
    assert_float_equal(m.link_bytes_per_s, 4e9, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stages_are_the_papers),
        cmocka_unit_test(cuts_are_the_papers),
        cmocka_unit_test(micro_batches_and_cache_are_the_papers),
        cmocka_unit_test(links_follow_the_layout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
