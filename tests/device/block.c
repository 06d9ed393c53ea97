/* See block.h. */
#include "block.h"

#include "ir/builder.h"
#include "ir/expr.h"
#include "ir/init.h"

#include <string.h>

typedef struct
{
    IrModule *m;
    IrBuilder b;
    const BlockSizes *sizes;
    IrValue key, sample;
    int64_t n_streams;
} Block;

#define DIMS(...)                                                                                                      \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[])                                       \
    {                                                                                                                  \
        __VA_ARGS__                                                                                                    \
    }

static IrValue param(Block *x, const char *name, const char *init, int rank, const int64_t *dims)
{
    IrAttr attrs[] = {ir_attr_bool(IR_ATTR_trainable, true), ir_attr_bool(IR_ATTR_decay, rank > 1),
                      ir_attr_str(IR_ATTR_init, init)};
    ir_global_add(x->m, IR_GLOBAL_PARAM, name, ir_type(DT_F32, rank, dims), attrs, 3, (Span){0});
    return ir_build_get(&x->b, name);
}

static IrValue input(Block *x, const char *name, DType dtype, int rank, const int64_t *dims)
{
    ir_global_add(x->m, IR_GLOBAL_INPUT, name, ir_type(dtype, rank, dims), NULL, 0, (Span){0});
    return ir_build_get(&x->b, name);
}

static const char *named(const Block *x, const char *scope, const char *name)
{
    return arena_printf(x->m->arena, "%s.%s", scope, name);
}

static IrValue einsum(Block *x, const char *expr, IrValue a, IrValue w)
{
    IrAttr attr = ir_attr_str(IR_ATTR_expr, expr);
    return ir_build_op(&x->b, IR_einsum, NULL, (const IrValue[]){a, w}, 2, &attr, 1);
}

/* expr over x and y, y stretched to x. */
static IrValue map(Block *x, const char *expr, IrValue a, IrValue other)
{
    IrExprVar vars[] = {{"x", a}, {"y", other}};
    return ir_build_expr(&x->b, expr, vars, 2);
}

static IrValue layer_norm(Block *x, const char *scope, IrValue a)
{
    int64_t width = x->sizes->width;
    IrValue gamma = param(x, named(x, scope, "gamma"), "ones", DIMS(width));
    IrValue beta = param(x, named(x, scope, "beta"), "zeros", DIMS(width));
    IrAttr eps = ir_attr_float(IR_ATTR_eps, 1e-5);
    return ir_build_op(&x->b, IR_layer_norm, NULL, (const IrValue[]){a, gamma, beta}, 3, &eps, 1);
}

static IrValue dropout(Block *x, IrValue a)
{
    if (x->sizes->dropout == 0)
        return a;
    IrAttr attrs[] = {ir_attr_float(IR_ATTR_p, x->sizes->dropout), ir_attr_int(IR_ATTR_stream, ++x->n_streams)};
    return ir_build_op(&x->b, IR_dropout, NULL, (const IrValue[]){a, x->key, x->sample}, 3, attrs, 2);
}

static IrValue projection(Block *x, const char *scope, const char *name, IrValue a)
{
    int64_t heads = x->sizes->heads, depth = x->sizes->width / heads;
    IrValue w = param(x, named(x, scope, name), "normal(0.2)", DIMS(x->sizes->width, heads, depth));
    return einsum(x, "btw,whd->bthd", a, w);
}

static IrValue biased(Block *x, const char *scope, const char *name, IrValue a)
{
    IrValue bias = param(x, named(x, scope, name), "zeros", DIMS(x->sizes->heads, x->sizes->width / x->sizes->heads));
    return map(x, "x + y", a, bias);
}

/* Keys have no bias: its gradient is zero but for rounding, which AdamW would blow up. */
static IrValue attention(Block *x, const char *scope, IrValue a)
{
    const BlockSizes *s = x->sizes;
    IrValue h = layer_norm(x, named(x, scope, "norm"), a);
    IrValue qkv[] = {biased(x, scope, "q.bias", projection(x, scope, "q", h)), projection(x, scope, "k", h),
                     biased(x, scope, "v.bias", projection(x, scope, "v", h))};
    IrAttr scale = ir_attr_float(IR_ATTR_scale, 0.5);
    IrValue mixed = ir_build_op(&x->b, IR_attention, NULL, qkv, 3, &scale, 1);
    IrValue w = param(x, named(x, scope, "out"), "normal(0.2)", DIMS(s->heads, s->width / s->heads, s->width));
    IrValue bias = param(x, named(x, scope, "out.bias"), "zeros", DIMS(s->width));
    IrValue out = map(x, "x + y", einsum(x, "bthd,hdw->btw", mixed, w), bias);
    return ir_build2(&x->b, IR_add, a, dropout(x, out));
}

/* gelu: by erf, or, in odd layers and with rows of whole multiples of 8, by tanh, whose gradient a library has. */
static IrValue mlp(Block *x, const char *scope, IrValue a, bool by_tanh)
{
    const BlockSizes *s = x->sizes;
    const int64_t hidden = by_tanh ? (s->hidden + 7) / 8 * 8 : s->hidden;
    IrValue h = layer_norm(x, named(x, scope, "norm"), a);
    IrValue up = param(x, named(x, scope, "up"), "normal(0.2)", DIMS(s->width, hidden));
    IrValue up_bias = param(x, named(x, scope, "up.bias"), "zeros", DIMS(hidden));
    IrValue down = param(x, named(x, scope, "down"), "normal(0.2)", DIMS(hidden, s->width));
    IrValue down_bias = param(x, named(x, scope, "down.bias"), "zeros", DIMS(s->width));
    h = map(x, "x + y", einsum(x, "btw,wh->bth", h, up), up_bias);
    h = map(x,
            by_tanh ? "0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))"
                    : "0.5 * x * (1 + erf(x / sqrt(2)))",
            h, h);
    h = map(x, "x + y", einsum(x, "bth,hw->btw", h, down), down_bias);
    return ir_build2(&x->b, IR_add, a, dropout(x, h));
}

static void loss(Block *x, IrValue features)
{
    const BlockSizes *s = x->sizes;
    static const int64_t tokens[] = {1}, batch[] = {0};
    IrValue mean = ir_build_reduce(&x->b, IR_reduce_sum, features, tokens, 1);
    mean = map(x, arena_printf(x->m->arena, "x / %lld", (long long)s->tokens), mean, mean);
    IrValue head = param(x, "head", "normal(0.2)", DIMS(s->width, s->classes));
    IrValue logits =
        map(x, "x + y", einsum(x, "bw,wc->bc", mean, head), param(x, "head.bias", "zeros", DIMS(s->classes)));
    IrValue labels = input(x, "batch.labels", DT_I32, DIMS(s->batch));
    IrValue mask = input(x, "batch.mask", DT_F32, DIMS(s->batch));
    IrValue rows = ir_build2(&x->b, IR_mul, ir_build2(&x->b, IR_cross_entropy, logits, labels), mask);
    IrValue sum = ir_build_reduce(&x->b, IR_reduce_sum, rows, batch, 1);
    ir_global_add(x->m, IR_GLOBAL_OUTPUT, "loss", ir_type_scalar(DT_F32), NULL, 0, (Span){0});
    ir_build_set(&x->b, "loss", map(x, "x / max(y, 1)", sum, ir_build_reduce(&x->b, IR_reduce_sum, mask, batch, 1)));
}

IrModule *block_module(Arena *arena, const BlockSizes *sizes)
{
    IrModule *m = ir_module_create(arena, "block");
    Block block = {.m = m, .sizes = sizes}, *x = &block;
    IrFunc train = ir_func_add(m, IR_FUNC_STEP, "train");
    IrAttrs *attrs = &ir_func(m, train)->attrs;
    ir_attrs_put(arena, attrs, ir_attr_str(IR_ATTR_optimizer, "adamw"));
    ir_attrs_put(arena, attrs, ir_attr_float(IR_ATTR_weight_decay, 0.05));
    ir_attrs_put(arena, attrs, ir_attr_float(IR_ATTR_clip_norm, 1));
    x->b = ir_builder(m, train);
    x->b.unit = 1;
    if (sizes->dropout > 0)
    {
        x->key = input(x, "rng.key", DT_I32, DIMS(2));
        x->sample = input(x, "batch.sample", DT_I32, DIMS(sizes->batch));
    }
    IrValue patches = input(x, "batch.patches", DT_F32, DIMS(sizes->batch, sizes->tokens, sizes->patch));
    IrValue w = param(x, "embed", "normal(0.2)", DIMS(sizes->patch, sizes->width));
    IrValue positions = param(x, "positions", "normal(0.2)", DIMS(sizes->tokens, sizes->width));
    IrValue h = map(x, "x + y", einsum(x, "btp,pw->btw", patches, w), positions);
    for (int i = 0; i < sizes->n_layers; i++)
    {
        x->b.unit++;
        h = attention(x, arena_printf(arena, "layer%d.attention", i), h);
        x->b.unit++;
        h = mlp(x, arena_printf(arena, "layer%d.mlp", i), h, i % 2 != 0);
    }
    x->b.unit++;
    loss(x, layer_norm(x, "final", h));
    return m;
}

/* ---- values */

void block_bind(InterpEnv *env, const IrModule *m, uint64_t seed)
{
    ir_interp_bind_rest(env, m);
    for (IrGlobal g = 1; g < m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(m, g);
        if (global->kind != IR_GLOBAL_PARAM)
            continue;
        Arena *arena = arena_create();
        int64_t n = ir_type_n_elems(&global->type);
        float *values = ARENA_ARRAY(arena, float, n);
        ir_init_fill(values, &global->type, ir_attrs_str(&global->attrs, IR_ATTR_init), seed, global->name);
        for (int64_t i = 0; i < n; i++)
            ir_interp_find(env, global->name)[i] = (double)values[i];
        arena_destroy(arena);
    }
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void block_set_inputs(InterpEnv *env, const IrModule *m, uint64_t seed, int step)
{
    uint64_t state = seed * 1000 + (uint64_t)step;
    for (IrGlobal g = 1; g < m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(m, g);
        double *values = ir_interp_find(env, global->name);
        int64_t n = ir_type_n_elems(&global->type);
        if (global->kind != IR_GLOBAL_INPUT)
            continue;
        for (int64_t i = 0; i < n; i++)
            if (strcmp(global->name, "lr") == 0)
                values[i] = 0.0078125;
            else if (strcmp(global->name, "step") == 0)
                values[i] = step;
            else if (strcmp(global->name, "batch.mask") == 0)
                values[i] = i + 1 < n; /* the last one is padding */
            else if (strcmp(global->name, "batch.sample") == 0)
                values[i] = (double)i;
            else
                values[i] = global->type.dtype == DT_F32 ? (double)(next_random(&state) % 256) / 64 - 2
                                                         : (double)(next_random(&state) % 4);
    }
}
