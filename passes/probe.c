#include "passes/probe.h"

#include "ir/builder.h"
#include "passes/cache_prefix.h"
#include "passes/strip_random.h"

const char *const probe_pipeline = "canonicalise,cse,dce,decompose,canonicalise,cse,dce,epilogue,dce,fuse,plan_memory";

static void remove_sets(IrModule *m, IrFunc func)
{
    for (IrOp op = ir_func(m, func)->first, next; op; op = next)
    {
        next = ir_op(m, op)->next;
        if (ir_op(m, op)->code == IR_set)
            ir_op_remove(m, op);
    }
}

/* A A^T, of all values of a border together. */
static IrValue build_gram(IrBuilder *b, const FrozenBorder *border)
{
    IrModule *m = b->m;
    IrValue sum = 0;
    for (uint32_t i = 0; i < border->n; i++)
    {
        const IrType *type = ir_value_type(m, border->values[i]);
        const int64_t rows = type->dims[0], dims[] = {rows, ir_type_n_elems(type) / rows}, square[] = {rows, rows};
        const IrType out = ir_type(DT_F32, 2, square);
        const IrValue a = ir_build_reshape(b, border->values[i], ir_type(DT_F32, 2, dims)), operands[] = {a, a};
        const IrAttr expr = ir_attr_str(IR_ATTR_expr, "bf,cf->bc");
        const IrValue gram = ir_build_op(b, IR_einsum, &out, operands, 2, &expr, 1);
        sum = sum ? ir_build2(b, IR_add, sum, gram) : gram;
    }
    return sum;
}

bool probe_make(Arena *arena, IrModule *m, const int64_t *layers, uint32_t n_layers, const char **out_why)
{
    const IrFunc train = ir_func_find(m, "train"), probe = ir_func_clone(m, train, "probe");
    FrozenBorder *borders = ARENA_ARRAY(arena, FrozenBorder, n_layers);
    ir_func(m, probe)->attrs = (IrAttrs){0};
    ir_func_remove(m, train);
    strip_random(arena, m, probe, UINT32_MAX);
    for (uint32_t layer = 0; layer < n_layers; layer++)
        if (!frozen_border(arena, m, probe, layers[layer + 1] - 1, &borders[layer], out_why))
            return false;
    remove_sets(m, probe);
    IrBuilder b = ir_builder(m, probe);
    for (uint32_t layer = 0; layer < n_layers; layer++)
    {
        const char *name = arena_printf(m->arena, "gram.%u", layer);
        b.unit = (uint32_t)layers[layer + 1] - 1;
        const IrValue gram = build_gram(&b, &borders[layer]);
        ir_global_add(m, IR_GLOBAL_OUTPUT, name, *ir_value_type(m, gram), NULL, 0, (Span){0});
        ir_build_set(&b, name, gram);
    }
    return true;
}
