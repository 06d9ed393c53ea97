/* Pretrained weights: files, folders and shards; names, layouts and casts; what does not fit. */
#include "data_test.h"

#include "runtime/pretrained.h"
#include "runtime/safetensors.h"

#include <stdlib.h>
#include <sys/stat.h>

static const float numbers[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};

static NamedTensor tensor(const char *name, Elem elem, int64_t rows, int64_t cols, const void *data)
{
    return (NamedTensor){.name = name, .elem = elem, .rank = 2, .dims = {rows, cols}, .data = data};
}

static IrModule *module_of(Arena *arena)
{
    return ir_module_create(arena, "m");
}

static const IrGlobalData *add_param(IrModule *m, const char *name, int64_t rows, int64_t cols, const char *hf,
                                     bool turned)
{
    const int64_t dims[] = {rows, cols}, there[] = {cols, rows}, perm[] = {1, 0};
    IrAttr attrs[4];
    uint32_t n = 0;
    if (hf)
        attrs[n++] = ir_attr_str(IR_ATTR_hf, hf);
    if (turned)
    {
        attrs[n++] = ir_attr_ints(IR_ATTR_hf_dims, there, 2);
        attrs[n++] = ir_attr_ints(IR_ATTR_hf_perm, perm, 2);
        attrs[n++] = ir_attr_ints(IR_ATTR_hf_shape, there, 2);
    }
    IrGlobal g = ir_global_add(m, IR_GLOBAL_PARAM, name, ir_type(DT_F32, 2, dims), attrs, n, (Span){0});
    return ir_global(m, g);
}

static Pretrained *open_one(const char *folder, const NamedTensor *tensors, uint32_t n)
{
    const char *path = path_in(folder, "model.safetensors");
    Pretrained *weights = NULL;
    EXPECT_OK(safetensors_write(path, tensors, n, NULL, 0, NULL));
    EXPECT_OK(pretrained_open(folder, &weights));
    return weights;
}

static void test_names_and_layouts(void **state)
{
    Arena *arena = arena_create();
    IrModule *m = module_of(arena);
    const NamedTensor tensors[] = {tensor("a.weight", ELEM_F32, 3, 4, numbers), tensor("b", ELEM_F32, 3, 4, numbers)};
    Pretrained *weights = open_one(*state, tensors, 2);
    float turned[12], straight[12];
    EXPECT_OK(pretrained_read(weights, add_param(m, "a", 4, 3, "a.weight", true), turned));
    EXPECT_OK(pretrained_read(weights, add_param(m, "b", 3, 4, NULL, false), straight));
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 3; k++)
            assert_true(turned[i * 3 + k] == numbers[k * 4 + i]);
    assert_memory_equal(straight, numbers, sizeof numbers);
    StrBuf table = strbuf_make(arena);
    EXPECT_OK(pretrained_compare(weights, m, true, &table));
    assert_int_equal(table.len, 0);

    float back[12];
    NamedTensor out;
    pretrained_lay_out(ir_global(m, ir_global_find(m, "a")), turned, back, &out);
    assert_memory_equal(back, numbers, sizeof numbers);
    assert_string_equal(out.name, "a.weight");
    assert_int_equal(out.dims[0], 3);
    pretrained_close(weights);
    arena_destroy(arena);
}

static void test_casts(void **state)
{
    Arena *arena = arena_create();
    IrModule *m = module_of(arena);
    static const uint16_t half[] = {0x3c00, 0xc000, 0x0001, 0x7bff}, brain[] = {0x3f80, 0xc000, 0x0080, 0x7f7f};
    const NamedTensor tensors[] = {tensor("h", ELEM_F16, 2, 2, half), tensor("b", ELEM_BF16, 2, 2, brain)};
    Pretrained *weights = open_one(*state, tensors, 2);
    float h[4], b[4];
    EXPECT_OK(pretrained_read(weights, add_param(m, "h", 2, 2, NULL, false), h));
    EXPECT_OK(pretrained_read(weights, add_param(m, "b", 2, 2, NULL, false), b));
    const float want_h[] = {1, -2, 0x1p-24F, 65504}, want_b[] = {1, -2, 0x1p-126F, 0x1.fep127F};
    assert_memory_equal(h, want_h, sizeof h);
    assert_memory_equal(b, want_b, sizeof b);
    StrBuf table = strbuf_make(arena);
    EXPECT_OK(pretrained_compare(weights, m, true, &table));
    assert_non_null(strstr(strbuf_text(&table), "2 of 2 params found (2 cast to f32)"));
    pretrained_close(weights);
    arena_destroy(arena);
}

/* The folder of a model without a head, a checkpoint of ours, and what is no weight. */
static void test_other_names(void **state)
{
    Arena *arena = arena_create();
    IrModule *m = module_of(arena);
    static const int64_t places[12] = {0};
    const NamedTensor tensors[] = {tensor("encoder.weight", ELEM_F32, 3, 4, numbers),
                                   tensor("layers.0.w", ELEM_F32, 4, 3, numbers),
                                   tensor("position_ids", ELEM_I64, 3, 4, places)};
    Pretrained *weights = open_one(*state, tensors, 3);
    float turned[12], straight[12];
    EXPECT_OK(pretrained_read(weights, add_param(m, "e", 4, 3, "bert.encoder.weight", true), turned));
    EXPECT_OK(pretrained_read(weights, add_param(m, "layers.0.w", 4, 3, "bert.layer.0.weight", true), straight));
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 3; k++)
            assert_true(turned[i * 3 + k] == numbers[k * 4 + i]);
    assert_memory_equal(straight, numbers, sizeof numbers);
    StrBuf table = strbuf_make(arena);
    EXPECT_OK(pretrained_compare(weights, m, true, &table));
    assert_int_equal(table.len, 0);
    pretrained_close(weights);
    arena_destroy(arena);
}

/* The names of a norm in older BERTs; what has the current names has them. */
static void test_older_names(void **state)
{
    Arena *arena = arena_create();
    IrModule *m = module_of(arena);
    static const float other[12] = {5};
    const NamedTensor tensors[] = {
        tensor("norm.gamma", ELEM_F32, 3, 4, numbers), tensor("norm.beta", ELEM_F32, 3, 4, other),
        tensor("last.weight", ELEM_F32, 3, 4, numbers), tensor("last.bias", ELEM_F32, 3, 4, other)};
    Pretrained *weights = open_one(*state, tensors, 4);
    static const char *const names[] = {"bert.norm.weight", "bert.norm.bias", "last.weight", "last.bias"};
    float have[12];
    for (int i = 0; i < 4; i++)
    {
        EXPECT_OK(pretrained_read(weights, add_param(m, names[i], 3, 4, names[i], false), have));
        assert_memory_equal(have, i % 2 ? other : numbers, sizeof have);
    }
    StrBuf table = strbuf_make(arena);
    EXPECT_OK(pretrained_compare(weights, m, true, &table));
    assert_int_equal(table.len, 0);
    const NamedTensor *found;
    assert_int_equal(pretrained_match(weights, add_param(m, "n", 3, 4, "norm.w", false), &found), PRETRAINED_MISSING);
    pretrained_close(weights);
    arena_destroy(arena);
}

static void test_what_does_not_fit(void **state)
{
    Arena *arena = arena_create();
    IrModule *m = module_of(arena);
    const NamedTensor tensors[] = {tensor("layer.weigth", ELEM_F32, 3, 4, numbers),
                                   tensor("b", ELEM_F32, 3, 4, numbers), tensor("c", ELEM_F32, 3, 4, numbers)};
    Pretrained *weights = open_one(*state, tensors, 3);
    add_param(m, "a", 3, 4, "layer.weight", false);
    add_param(m, "b", 4, 4, NULL, false);
    add_param(m, "c", 3, 4, NULL, false);
    StrBuf table = strbuf_make(arena);
    EXPECT_FAIL(pretrained_compare(weights, m, true, &table), STATUS_BAD_INPUT,
                "does not fit the model: 1 params missing, 1 of a wrong shape, 1 tensors unexpected");
    const char *text = strbuf_text(&table);
    assert_non_null(strstr(text, "missing      layer.weight (param a); did you mean 'layer.weigth'?"));
    assert_non_null(strstr(text, "wrong shape  b is f32[3x4], param b wants f32[4x4]"));
    assert_non_null(strstr(text, "unexpected   layer.weigth"));
    StrBuf again = strbuf_make(arena);
    EXPECT_OK(pretrained_compare(weights, m, false, &again));
    pretrained_close(weights);
    arena_destroy(arena);
}

static void test_not_finite(void **state)
{
    Arena *arena = arena_create();
    static const uint16_t half[] = {0x3c00, 0x7c00, 0, 0};
    const NamedTensor tensors[] = {tensor("h", ELEM_F16, 2, 2, half)};
    Pretrained *weights = open_one(*state, tensors, 1);
    float h[4];
    EXPECT_FAIL(pretrained_read(weights, add_param(module_of(arena), "h", 2, 2, NULL, false), h), STATUS_BAD_INPUT,
                "element 1 of 'h' is inf");
    pretrained_close(weights);
    arena_destroy(arena);
}

static void write_index(const char *folder, const char *text)
{
    write_bytes(path_in(folder, "model.safetensors.index.json"), text, strlen(text));
}

static void test_shards(void **state)
{
    char folder[256];
    snprintf(folder, sizeof folder, "%s", path_in(*state, "sharded"));
    mkdir(folder, 0777);
    const NamedTensor a = tensor("a", ELEM_F32, 3, 4, numbers), b = tensor("b", ELEM_F32, 3, 4, numbers);
    EXPECT_OK(safetensors_write(path_in(folder, "model-1.safetensors"), &a, 1, NULL, 0, NULL));
    EXPECT_OK(safetensors_write(path_in(folder, "model-2.safetensors"), &b, 1, NULL, 0, NULL));
    write_index(folder, "{\"weight_map\": {\"a\": \"model-1.safetensors\", \"b\": \"model-2.safetensors\"}}");
    Pretrained *weights = NULL;
    EXPECT_OK(pretrained_open(folder, &weights));
    assert_int_equal(pretrained_count(weights), 2);
    assert_non_null(pretrained_find(weights, "b"));
    pretrained_close(weights);

    write_index(folder, "{\"weight_map\": {\"a\": \"model-1.safetensors\", \"b\": \"model-1.safetensors\"}}");
    EXPECT_FAIL(pretrained_open(folder, &weights), STATUS_BAD_INPUT, "which does not have it");
    write_index(folder, "{\"weight_map\": {\"a\": \"model-1.safetensors\", \"b\": \"model-3.safetensors\"}}");
    EXPECT_FAIL(pretrained_open(folder, &weights), STATUS_BAD_INPUT, "model-3.safetensors");
    write_index(folder, "{\"weight_map\": {\"a\": \"../x.safetensors\"}}");
    EXPECT_FAIL(pretrained_open(folder, &weights), STATUS_BAD_INPUT, "is no file name");
    write_index(folder, "{\"weight_map\": {\"a\": \"model-1.safetensors\",}}");
    EXPECT_FAIL(pretrained_open(folder, &weights), STATUS_BAD_INPUT, "index.json:1:");
    write_index(folder, "{\"weight_map\": 3}");
    EXPECT_FAIL(pretrained_open(folder, &weights), STATUS_BAD_INPUT, "has no object \"weight_map\"");
    EXPECT_FAIL(pretrained_open(path_in(*state, "nowhere"), &weights), STATUS_BAD_INPUT, "cannot open");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_and_layouts),
        cmocka_unit_test(test_casts),
        cmocka_unit_test(test_other_names),
        cmocka_unit_test(test_older_names),
        cmocka_unit_test(test_what_does_not_fit),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_shards),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
