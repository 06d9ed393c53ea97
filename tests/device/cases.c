/* Makes the cases; see cases.h. */
#include "cases.h"

#include "base/bug.h"
#include "ir/builder.h"
#include "passes/manager.h"
#include "random_module.h"

#include <string.h>

enum
{
    N_RANDOM_OPS = 40
};

static void add_example(Arena *arena, DeviceCases *cases, const Example *example, const char *label)
{
    bool exact = ir_code_has(example->code, IR_TRAIT_EWISE | IR_TRAIT_VIEW | IR_TRAIT_LEAF);
    /* a bf16 result that is nearly half way between two may be rounded either way */
    const double ulp = example->n_operands && example->operands[0].dtype == DT_BF16 ? 0x1p-7 : 0;
    /* and a device may round the product before an activation, too, or before a residual: where the two nearly cancel,
     * the product is as large as that, a few units */
    const bool twice = ir_attrs_find(&example->attrs, IR_ATTR_act) || ir_attrs_find(&example->attrs, IR_ATTR_dact);
    const double before_residual = ir_attrs_find(&example->attrs, IR_ATTR_residual) ? 2 * ulp : 0;
    DeviceCase one = {.label = label,
                      .m = ir_module_create(arena, label),
                      .has_example = true,
                      .example = *example,
                      .seed = 1 + cases->len,
                      .tolerance = exact ? 2e-7 : 1e-6 + before_residual,
                      .relative = (exact ? 5e-7 : 2e-6) + ulp,
                      .of_largest = exact ? 0 : 2e-5 + (twice ? ulp / 2 : 0)};
    example_build(one.m, example, EXAMPLE_INPUTS, "train");
    vec_push(arena, cases, one);
}

void device_cases_of_examples(Arena *arena, DeviceCases *cases)
{
    for (uint32_t i = 0; i < example_count(); i++)
    {
        Example example = example_at(arena, i);
        add_example(arena, cases, &example, example.label);
    }
}

/* ---- shapes */

static const IrType ragged[] = {
    {.rank = 0},
    {.rank = 1, .dims = {1}},
    {.rank = 1, .dims = {7}},
    {.rank = 2, .dims = {17, 33}},
    {.rank = 4, .dims = {3, 1, 7, 2}},
    {.rank = 2, .dims = {1, 4099}},
};

static const struct
{
    const char *op, *types, *attrs;
} structural[] = {
    {"iota", "-> i32[7x1x33]", "axis=2"},
    {"iota", "-> f32[17x33]", "axis=0"},
    {"random", "i32[2], i32[7] -> f32[7x17x3]", "stream=11"},
    {"random", "i32[2], i32[1] -> f32[1]", "stream=2147483647"},
    {"reshape", "f32[7x33] -> f32[33x7]", ""},
    {"transpose", "f32[17x33]", "perm=[1,0]"},
    {"transpose", "f32[3x1x7x33]", "perm=[2,0,3,1]"},
    {"transpose", "i32[7x33x1]", "perm=[1,2,0]"},
    {"broadcast", "f32[33] -> f32[7x33]", "dims=[1]"},
    {"broadcast", "f32[33] -> f32[33x7]", "dims=[0]"},
    {"broadcast", "f32[7x1] -> f32[7x3x1x17]", "dims=[0,2]"},
    {"slice", "f32[17x33] -> f32[1x33]", "starts=[16,0]"},
    {"slice", "f32[17x33] -> f32[17x7]", "starts=[0,26]"},
    {"slice", "i32[4099] -> i32[1]", "starts=[4098]"},
    {"pad", "f32[7x1]", "lo=[0,16], hi=[3,16], value=-1.5"},
    {"pad", "i32[7]", "lo=[1], hi=[0], value=3"},
    {"concat", "f32[7x33], f32[1x33], f32[17x33]", "axis=0"},
    {"concat", "f32[7x1x3], f32[7x17x3]", "axis=1"},
    {"concat", "i32[1]", "axis=0"},
    {"gather", "f32[17x33], i32[7]", ""},
    {"gather", "f32[5x1], i32[1x1]", ""},
    {"gather", "f32[5x3x7], i32[17]", ""},
    {"scatter_add", "i32[33], f32[33x17]", "rows=5"},
    {"scatter_add", "i32[7x3], f32[7x3]", "rows=17"},
    {"scatter_add", "i32[1], f32[1x1]", "rows=5"},
    {"scatter_add", "i32[33], f32[33x17], f32[5x17]", "rows=5, residual=true"},
    {"reduce_sum", "f32[1]", "axes=[0]"},
    {"reduce_sum", "f32[7x1]", "axes=[0]"},
    {"reduce_sum", "f32[1x7]", "axes=[0]"},
    {"reduce_sum", "f32[7x1]", "axes=[1]"},
    {"reduce_sum", "f32[17x33]", "axes=[1]"},
    {"reduce_sum", "f32[1037x33]", "axes=[0]"},
    {"reduce_sum", "f32[33x1037]", "axes=[1]"},
    {"reduce_sum", "f32[7x33x17]", "axes=[0,2]"},
    {"reduce_sum", "f32[7x33x17]", "axes=[1]"},
    {"reduce_sum", "f32[7x33x17]", "axes=[0,1]"},
    {"reduce_sum", "f32[100003]", "axes=[0]"},
    {"reduce_sum", "f32[7x3x17x5]", "axes=[1,3]"},
    {"reduce_sum", "i32[17x33]", "axes=[0]"},
    {"reduce_max", "f32[17x33]", "axes=[1]"},
    {"reduce_max", "f32[1037x7]", "axes=[0]"},
    {"reduce_max", "i32[17x33]", "axes=[0,1]"},
    {"reduce_min", "f32[17x33]", "axes=[1]"},
    {"reduce_min", "f32[33x1x7]", "axes=[0]"},
    {"matmul", "f32[1x1], f32[1x1]", ""},
    {"matmul", "f32[1x33], f32[33x1]", ""},
    {"matmul", "f32[17x33], f32[33x7]", ""},
    {"matmul", "f32[33x17], f32[33x7]", "ta=true"},
    {"matmul", "f32[17x33], f32[7x33]", "tb=true"},
    {"matmul", "f32[33x17], f32[7x33]", "ta=true, tb=true"},
    {"matmul", "f32[3x17x33], f32[3x33x7]", ""},
    {"matmul", "f32[3x2x33x17], f32[3x2x7x33]", "ta=true, tb=true"},
    {"matmul", "f32[17x1], f32[1x33], f32[33]", "bias=true"},
    {"matmul", "f32[17x33], f32[33x7], f32[7], f32[17x7]", "bias=true, residual=true"},
    {"matmul", "f32[17x33], f32[33x8], f32[8]", "bias=true, act=\"gelu_tanh\", aux=true"},
    {"matmul", "f32[17x33], f32[24x33]", "tb=true, act=\"silu\", aux=true"},
    {"matmul", "f32[65x5], f32[5x264], f32[264]", "bias=true, act=\"gelu_tanh\", aux=true"},
    {"matmul", "f32[17x33], f32[8x33], f32[17x8]", "tb=true, dact=\"gelu_tanh\""},
    {"matmul", "f32[65x5], f32[5x264], f32[65x264]", "dact=\"gelu_erf\""},
    {"matmul", "f32[1037x7], f32[1037x33]", "ta=true, sums=true"},
    {"matmul", "f32[7x33], f32[33x300], f32[7x300]", "sums=true, residual=true"},
    {"matmul", "bf16[17x33], bf16[33x8], bf16[8]", "bias=true, act=\"gelu_tanh\", aux=true"},
    {"matmul", "bf16[17x33], bf16[8x33], bf16[17x8]", "tb=true, dact=\"gelu_tanh\""},
    {"matmul", "bf16[70x7], bf16[70x33]", "ta=true, sums=true"},
    {"matmul", "f32[130x257], f32[257x65], f32[65]", "bias=true, act=\"gelu_erf\""},
    {"matmul", "f32[130x257], f32[257x65], f32[65], f32[130x65]", "bias=true, act=\"silu\", residual=true"},
    {"matmul", "f32[17x33], f32[7x33], f32[7]", "tb=true, bias=true, act=\"relu\""},
    {"matmul", "f32[33x17], f32[33x7]", "ta=true, act=\"gelu_tanh\""},
    {"einsum", "f32[7x3x17], f32[17x3x5]", "expr=\"bhd,dhe->bhe\""},
    {"einsum", "f32[7x17x33], f32[33x5x3]", "expr=\"btd,dhe->bhte\""},
    {"einsum", "f32[17x33], f32[17x33]", "expr=\"ab,ab->a\""},
    {"softmax", "f32[7x1]", ""},
    {"softmax", "f32[17x33]", ""},
    {"softmax", "f32[3x1037]", ""},
    {"layer_norm", "f32[17x33], f32[33], f32[33]", "eps=1e-05"},
    {"layer_norm", "f32[1x1037], f32[1037], f32[1037]", "eps=1e-05"},
    {"rms_norm", "f32[7x3x17], f32[17]", "eps=1e-05"},
    {"dropout", "f32[7x3x33], i32[2], i32[7]", "p=0.5, stream=7"},
    {"cross_entropy", "f32[7x17], i32[7]", ""},
    {"cross_entropy", "f32[1x5], i32[1]", ""},
    {"cross_entropy", "f32[3x33x1037], i32[3x33]", ""},
    {"cast", "f32[17x33] -> bf16[17x33]", ""},
    {"cast", "bf16[17x33] -> f32[17x33]", ""},
    {"cast", "u8[4099] -> f32[4099]", ""},
    {"add", "bf16[17x33], bf16[17x33]", ""},
    {"tanh", "bf16[1x4099]", ""},
    {"transpose", "bf16[17x33]", "perm=[1,0]"},
    {"broadcast", "bf16[33] -> bf16[7x33x5]", "dims=[1]"},
    {"reduce_sum", "bf16[17x33]", "axes=[0]"},
    {"reduce_sum", "bf16[17x1037]", "axes=[1]"},
    {"matmul", "bf16[17x33], bf16[33x7]", ""},
    {"matmul", "bf16[33x17], bf16[33x7] -> f32[17x7]", "ta=true"},
    {"matmul", "bf16[3x17x32], bf16[3x64x32]", "tb=true"},
    {"matmul", "bf16[130x257], bf16[257x65], bf16[65], bf16[130x65]", "bias=true, residual=true"},
    {"matmul", "bf16[17x33], bf16[7x33], bf16[7]", "tb=true, bias=true, act=\"gelu_erf\""},
    {"matmul", "bf16[17x32], bf16[32x8], f32[17x8] -> f32[17x8]", "residual=true"},
    {"einsum", "bf16[7x17x33], bf16[33x5x3] -> f32[7x5x17x3]", "expr=\"btd,dhe->bhte\""},
    {"cast", "i32[7x33] -> u8[7x33]", ""},
    {"cast", "bool[7x33] -> u8[7x33]", ""},
    {"cast", "f32[7x33] -> bool[7x33]", ""},
};

void device_cases_of_shapes(Arena *arena, DeviceCases *cases)
{
    for (uint32_t i = 0; i < example_count(); i++)
    {
        const Example example = example_at(arena, i);
        bool first = i == 0 || example_at(arena, i - 1).code != example.code;
        if (!ir_code_has(example.code, IR_TRAIT_EWISE) || !first)
            continue;
        for (uint32_t k = 0; k < sizeof ragged / sizeof *ragged; k++)
        {
            Example one = example;
            for (uint32_t j = 0; j < one.n_operands; j++)
                one.operands[j] = ir_type_with_dtype(ragged[k], (DType)example.operands[j].dtype);
            one.given = ir_type_with_dtype(ragged[k], (DType)example.given.dtype);
            add_example(arena, cases, &one,
                        arena_printf(arena, "%s in %s", example.label, ir_type_text(arena, &one.operands[0])));
        }
    }
    for (uint32_t i = 0; i < sizeof structural / sizeof *structural; i++)
    {
        Example example = example_make(arena, structural[i].op, structural[i].types, structural[i].attrs);
        add_example(arena, cases, &example, example.label);
    }
}

/* ---- attention */

typedef struct
{
    int64_t batch, queries, keys, heads, groups, width;
    DType dtype;  /* of all but bias and logsumexp */
} AttentionShape; /* groups 0: q, k and v are packed */

typedef struct
{
    const char *label;
    bool causal;
    int64_t window;
    bool bias, bias_b, bias_h, bias_t; /* which of its axes are full */
    double p;
} AttentionVariant;

static const AttentionShape attention_shapes[] = {
    {1, 1, 1, 1, 1, 1, DT_F32},       {2, 7, 7, 2, 2, 8, DT_F32},      {3, 17, 33, 4, 2, 16, DT_F32},
    {2, 33, 17, 3, 1, 33, DT_F32},    {1, 5, 1, 2, 1, 64, DT_F32},     {1, 70, 70, 1, 1, 7, DT_F32},
    {1, 1, 130, 4, 4, 16, DT_F32},    {2, 70, 133, 4, 2, 32, DT_BF16}, {1, 128, 128, 2, 2, 64, DT_BF16},
    {1, 133, 70, 2, 1, 128, DT_BF16}, {1, 5, 1, 2, 1, 48, DT_BF16},    {2, 17, 33, 2, 1, 7, DT_BF16},
    {2, 17, 17, 3, 0, 16, DT_F32},    {2, 70, 70, 3, 0, 32, DT_BF16},  {1, 133, 133, 2, 0, 128, DT_BF16},
    {2, 9, 9, 2, 0, 7, DT_BF16},
};

static const AttentionVariant attention_variants[] = {
    {.label = "plain"},
    {.label = "causal", .causal = true},
    {.label = "window", .window = 3},
    {.label = "causal window", .causal = true, .window = 2},
    {.label = "bias S", .bias = true},
    {.label = "bias BS", .bias = true, .bias_b = true},
    {.label = "bias HTS causal", .bias = true, .bias_h = true, .bias_t = true, .causal = true},
    {.label = "bias BHTS", .bias = true, .bias_b = true, .bias_h = true, .bias_t = true},
    {.label = "dropout", .p = 0.3},
    {.label = "all", .causal = true, .window = 40, .bias = true, .bias_h = true, .p = 0.1},
};

static IrValue input(IrBuilder *b, const char *name, IrType type)
{
    ir_global_add(b->m, IR_GLOBAL_INPUT, name, type, NULL, 0, (Span){0});
    return ir_build_get(b, name);
}

static void outputs(IrBuilder *b, IrOp op, const char *const *names)
{
    for (uint32_t i = 0; i < ir_op(b->m, op)->n_results; i++)
    {
        IrValue value = ir_op_result(b->m, op, i);
        ir_global_add(b->m, IR_GLOBAL_OUTPUT, names[i], *ir_value_type(b->m, value), NULL, 0, (Span){0});
        ir_build_set(b, names[i], value);
    }
}

#define TYPE(dtype, ...)                                                                                               \
    ir_type(dtype, sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), (const int64_t[]){__VA_ARGS__})

static void add_attention(Arena *arena, DeviceCases *cases, const AttentionShape *s, const AttentionVariant *v)
{
    const double eps = s->dtype == DT_BF16 ? 0x1p-8 : 2e-7;
    const bool packed = s->groups == 0;
    DeviceCase one = {
        .label = arena_printf(arena, "attention %s %s%s B=%lld T=%lld S=%lld H=%lld G=%lld D=%lld", v->label,
                              dtype_name(s->dtype), packed ? " packed" : "", (long long)s->batch, (long long)s->queries,
                              (long long)s->keys, (long long)s->heads, (long long)s->groups, (long long)s->width),
        .seed = 1 + cases->len,
        .tolerance = s->dtype == DT_BF16 ? eps : eps * (double)(8 + s->width), /* dout.v - dout.out cancels */
        .relative = s->dtype == DT_BF16 ? 2 * eps : 10 * eps,
        .of_largest = s->dtype == DT_BF16 ? 2 * eps : 100 * eps};
    one.m = ir_module_create(arena, one.label);
    IrBuilder b = ir_builder(one.m, ir_func_add(one.m, IR_FUNC_STEP, "train"));
    IrType q = TYPE(s->dtype, s->batch, s->queries, s->heads, s->width);
    IrType k = TYPE(s->dtype, s->batch, s->keys, s->groups, s->width);
    IrType three = TYPE(s->dtype, s->batch, s->queries, 3 * s->heads, s->width);
    IrValue operands[9] = {input(&b, "q", packed ? three : q)};
    uint32_t n = 1;
    if (!packed)
    {
        operands[n++] = input(&b, "k", k);
        operands[n++] = input(&b, "v", k);
    }
    if (v->bias)
        operands[n++] = input(
            &b, "bias",
            TYPE(DT_F32, v->bias_b ? s->batch : 1, v->bias_h ? s->heads : 1, v->bias_t ? s->queries : 1, s->keys));
    if (v->p > 0)
    {
        operands[n++] = input(&b, "key", TYPE(DT_I32, 2));
        operands[n++] = input(&b, "sample", TYPE(DT_I32, s->batch));
    }
    IrAttr attrs[7] = {ir_attr_float(IR_ATTR_scale, 0.4)};
    uint32_t n_attrs = 1;
    if (packed)
        attrs[n_attrs++] = ir_attr_bool(IR_ATTR_packed, true);
    if (v->causal)
        attrs[n_attrs++] = ir_attr_bool(IR_ATTR_causal, true);
    if (v->window)
        attrs[n_attrs++] = ir_attr_int(IR_ATTR_window, v->window);
    if (v->bias)
        attrs[n_attrs++] = ir_attr_bool(IR_ATTR_bias, true);
    if (v->p > 0)
    {
        attrs[n_attrs++] = ir_attr_float(IR_ATTR_p, v->p);
        attrs[n_attrs++] = ir_attr_int(IR_ATTR_stream, 5);
    }
    IrValue out = ir_build_op(&b, IR_attention, NULL, operands, n, attrs, n_attrs);
    IrOp op = ir_value(one.m, out)->def;
    operands[n++] = out;
    operands[n++] = ir_op_result(one.m, op, 1);
    operands[n++] = input(&b, "dout", q);
    IrValue dq = ir_build_op(&b, IR_attention_grad, NULL, operands, n, attrs, n_attrs);
    outputs(&b, op, (const char *const[]){"out", "lse"});
    outputs(&b, ir_value(one.m, dq)->def, (const char *const[]){"dq", "dk", "dv"});
    vec_push(arena, cases, one);
}

/* Four shapes take every variant; each of the others takes three, so that all meet ragged sizes. */
void device_cases_of_attention(Arena *arena, DeviceCases *cases)
{
    uint32_t n_variants = sizeof attention_variants / sizeof *attention_variants;
    for (uint32_t s = 0; s < sizeof attention_shapes / sizeof *attention_shapes; s++)
        for (uint32_t v = 0; v < n_variants; v++)
            if ((s >= 1 && s <= 3) || s == 7 || (v + 3 * s) % n_variants < 3)
                add_attention(arena, cases, &attention_shapes[s], &attention_variants[v]);
}

/* ---- random modules */

void device_cases_random(Arena *arena, DeviceCases *cases, uint64_t first_seed, uint32_t n)
{
    for (uint64_t seed = first_seed; seed < first_seed + n; seed++)
    {
        DeviceCase one = {.label = arena_printf(arena, "random module, seed %llu", (unsigned long long)seed),
                          .m = random_module(arena, seed, N_RANDOM_OPS),
                          .seed = seed,
                          .tolerance = RANDOM_MODULE_TOLERANCE};
        vec_push(arena, cases, one);
    }
}

/* Params are inputs again: values are filled in alike. */
void device_cases_gradients(Arena *arena, DeviceCases *cases, uint64_t first_seed, uint32_t n)
{
    uint32_t first = cases->len;
    device_cases_random(arena, cases, first_seed, n);
    for (uint32_t i = first; i < cases->len; i++)
    {
        DeviceCase *one = &cases->data[i];
        PassContext context = {.m = one->m, .scratch = arena, .diag = diag_create(arena)};
        ENSURE(random_module_make_trainable(one->m) && pass_autodiff(&context));
        for (IrGlobal g = 1; g < one->m->globals.len; g++)
            if (ir_global(one->m, g)->kind == IR_GLOBAL_PARAM)
                ir_global(one->m, g)->kind = IR_GLOBAL_INPUT;
        one->label = arena_printf(arena, "gradients of a %s", one->label);
        one->of_largest = 1e-3;
    }
}
