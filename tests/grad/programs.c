/* See programs.h. */
#include "programs.h"

#include "ir/expr.h"

enum
{
    N_BATCH = 2,
    N_TOKENS = 3,
    WIDTH = 4,
    HIDDEN = 6,
    N_WORDS = 7
};

IrValue program_param(IrBuilder *b, const char *name, bool trainable, size_t rank, const int64_t *dims)
{
    IrAttr attr = ir_attr_bool(IR_ATTR_trainable, trainable);
    ir_global_add(b->m, IR_GLOBAL_PARAM, name, ir_type(DT_F32, (int)rank, dims), &attr, 1, b->span);
    return ir_build_get(b, name);
}

IrValue program_input(IrBuilder *b, const char *name, DType dtype, size_t rank, const int64_t *dims)
{
    ir_global_add(b->m, IR_GLOBAL_INPUT, name, ir_type(dtype, (int)rank, dims), NULL, 0, b->span);
    return ir_build_get(b, name);
}

IrValue program_einsum(IrBuilder *b, const char *expr, IrValue x, IrValue y)
{
    IrAttr attr = ir_attr_str(IR_ATTR_expr, expr);
    return ir_build_op(b, IR_einsum, NULL, (const IrValue[]){x, y}, 2, &attr, 1);
}

IrValue program_dropout(IrBuilder *b, IrValue x, IrValue key, IrValue sample, double p, int64_t stream)
{
    IrAttr attrs[] = {ir_attr_float(IR_ATTR_p, p), ir_attr_int(IR_ATTR_stream, stream)};
    return ir_build_op(b, IR_dropout, NULL, (const IrValue[]){x, key, sample}, 3, attrs, 2);
}

IrModule *program_create(Arena *arena, const char *name)
{
    IrModule *m = ir_module_create(arena, name);
    vec_push(arena, &m->files, "model.xml");
    ir_func_add(m, IR_FUNC_STEP, "train");
    return m;
}

static IrValue layer_norm(IrBuilder *b, const char *name, IrValue x, bool trainable)
{
    Arena *arena = b->m->arena;
    IrValue gamma = program_param(b, arena_printf(arena, "%s.gamma", name), trainable, DIMS(WIDTH));
    IrValue beta = program_param(b, arena_printf(arena, "%s.beta", name), trainable, DIMS(WIDTH));
    IrAttr eps = ir_attr_float(IR_ATTR_eps, 1e-5);
    return ir_build_op(b, IR_layer_norm, NULL, (const IrValue[]){x, gamma, beta}, 3, &eps, 1);
}

static IrValue mlp_block(IrBuilder *b, const char *name, IrValue x, bool trainable)
{
    Arena *arena = b->m->arena;
    IrValue normed = layer_norm(b, arena_printf(arena, "%s.norm", name), x, trainable);
    IrValue up = program_param(b, arena_printf(arena, "%s.up", name), trainable, DIMS(WIDTH, HIDDEN));
    IrValue bias = program_param(b, arena_printf(arena, "%s.bias", name), trainable, DIMS(HIDDEN));
    IrValue down = program_param(b, arena_printf(arena, "%s.down", name), trainable, DIMS(HIDDEN, WIDTH));
    IrExprVar vars[] = {{"h", program_einsum(b, "btd,de->bte", normed, up)}, {"bias", bias}};
    vars[0].value = ir_build_expr(b, "h + bias", vars, 2);
    IrValue active = ir_build_expr(b, "0.5 * h * (1 + erf(h / sqrt(2)))", vars, 1);
    return ir_build2(b, IR_add, x, program_einsum(b, "bte,ed->btd", active, down));
}

IrModule *program_language_model(Arena *arena, int n_layers, uint32_t frozen)
{
    IrModule *m = program_create(arena, "language model");
    IrBuilder b = ir_builder(m, ir_func_find(m, "train"));
    bool train_embedding = !(frozen >> 31);
    b.unit = 1;
    b.span = (Span){.file = 1, .line = 1, .col = 1};
    IrValue tokens = program_input(&b, "batch.tokens", DT_I32, DIMS(N_BATCH, N_TOKENS));
    IrValue table = program_param(&b, "table", train_embedding, DIMS(N_WORDS, WIDTH));
    IrExprVar sum[] = {{"x", ir_build2(&b, IR_gather, table, tokens)},
                       {"p", program_param(&b, "positions", train_embedding, DIMS(N_TOKENS, WIDTH))}};
    IrValue x = ir_build_expr(&b, "x + p", sum, 2);
    for (int layer = 0; layer < n_layers; layer++)
    {
        b.unit++;
        b.span.line++;
        x = mlp_block(&b, arena_printf(arena, "layer%d", layer), x, !(frozen >> layer & 1));
    }
    b.unit++;
    b.span.line++;
    x = layer_norm(&b, "final", x, true);
    IrValue logits = program_einsum(&b, "btd,vd->btv", x, table);
    IrValue labels = program_input(&b, "batch.labels", DT_I32, DIMS(N_BATCH, N_TOKENS));
    IrValue weights = program_input(&b, "batch.weights", DT_F32, DIMS(N_BATCH, N_TOKENS));
    const int64_t axes[] = {0, 1};
    IrExprVar mean[] = {{"l", ir_build2(&b, IR_cross_entropy, logits, labels)}, {"w", weights}};
    mean[0].value = ir_build_reduce(&b, IR_reduce_sum, ir_build_expr(&b, "l * w", mean, 2), axes, 2);
    mean[1].value = ir_build_reduce(&b, IR_reduce_sum, weights, axes, 2);
    ir_global_add(m, IR_GLOBAL_OUTPUT, "loss", ir_type_scalar(DT_F32), NULL, 0, b.span);
    ir_build_set(&b, "loss", ir_build_expr(&b, "l / w", mean, 2));
    return m;
}
