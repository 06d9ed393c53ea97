/* On entry: @train has the attributes `frozen` and `cached`. On exit: @train and @eval start from inputs
 * "batch.frozen_0", ..., the values at the border; @prefix makes outputs "frozen_0", ... from the batch. With
 * `cached_from`, an earlier border, @advance makes the same from "batch.before_0", ..., the values there. What nobody
 * needs any more is left for dce. */
#include "passes/cache_prefix.h"

#include "base/bug.h"
#include "ir/builder.h"
#include "passes/manager.h"
#include "passes/movable.h"

#include <string.h>

/* ---- the border */

/* By value: something of a sample goes into it. */
static bool *values_of_samples(Arena *arena, const IrModule *m, IrFunc func)
{
    bool *of_sample = ARENA_ARRAY(arena, bool, m->values.len);
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData *data = ir_op(m, op);
        bool found = data->code == IR_get && strncmp(ir_attrs_str(&data->attrs, IR_ATTR_global), "batch.", 6) == 0;
        for (uint32_t i = 0; i < data->n_operands; i++)
            found = found || of_sample[data->operands[i]];
        for (uint32_t i = 0; i < data->n_results; i++)
            of_sample[data->results[i]] = found;
    }
    return of_sample;
}

static bool is_behind(const IrOpData *op, int64_t last_unit)
{
    return op->unit == 0 || op->unit > last_unit;
}

/* By value: an op behind the border reads it. */
static bool *values_read_behind(Arena *arena, const IrModule *m, IrFunc func, int64_t last_unit)
{
    bool *is_read = ARENA_ARRAY(arena, bool, m->values.len);
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData *data = ir_op(m, op);
        for (uint32_t i = 0; i < data->n_operands && is_behind(data, last_unit); i++)
            is_read[data->operands[i]] = true;
    }
    return is_read;
}

static const char *obstacle(Arena *arena, const IrModule *m, const IrType *type)
{
    const IrGlobal mask = ir_global_find(m, "batch.mask");
    const int64_t rows = mask ? ir_global(m, mask)->type.dims[0] : 0;
    if (type->dtype == DT_F32 && type->rank >= 1 && type->dims[0] == rows)
        return NULL;
    return arena_printf(arena,
                        "a value %s goes from the frozen layers to the others: expected f32, a row for each sample",
                        ir_type_text(arena, type));
}

bool frozen_border(Arena *arena, const IrModule *m, IrFunc func, int64_t last_unit, FrozenBorder *out_border,
                   const char **out_why)
{
    const bool *of_sample = values_of_samples(arena, m, func), *is_read = values_read_behind(arena, m, func, last_unit);
    bool *movable = ARENA_ARRAY(arena, bool, m->values.len);
    VEC(IrValue) values = {0};
    movable_values(m, func, movable);
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData *data = ir_op(m, op);
        for (uint32_t i = 0; i < data->n_results && !is_behind(data, last_unit); i++)
        {
            const IrValue value = data->results[i];
            if (!is_read[value] || !of_sample[value] || movable[value])
                continue;
            *out_why = obstacle(arena, m, ir_value_type(m, value));
            if (*out_why)
                return false;
            vec_push(arena, &values, value);
        }
    }
    *out_border = (FrozenBorder){.values = values.data, .n = values.len};
    *out_why = values.len ? NULL : "nothing goes from the frozen layers to the others";
    return values.len > 0;
}

/* ---- rewriting */

typedef struct
{
    PassContext *ctx;
    IrModule *m;
    int64_t last_unit; /* frozen */
} Cut;

static const char *border_name(const Cut *c, const char *stem, uint32_t i)
{
    return arena_printf(c->m->arena, "%s_%u", stem, i);
}

bool cache_prefix_is_border(const char *global)
{
    static const char *const stems[] = {"frozen_", "batch.frozen_", "batch.before_"};
    for (size_t i = 0; i < sizeof stems / sizeof *stems; i++)
        if (strncmp(global, stems[i], strlen(stems[i])) == 0)
            return true;
    return false;
}

/* Ops behind the border read inputs in place of the values there. An input is of the last unit before the border, as
 * the value was: what is done to it (rounding) is not in the kernels behind, which are those of a run without the
 * cache. */
static void start_from(const Cut *c, IrFunc func, const FrozenBorder *border, int64_t last_unit, const char *stem)
{
    IrModule *m = c->m;
    const IrOp end = m->ops.len;
    for (uint32_t i = 0; i < border->n; i++)
    {
        const char *name = border_name(c, stem, i);
        const IrType type = *ir_value_type(m, border->values[i]);
        IrValue input = 0;
        if (!ir_global_find(m, name))
            ir_global_add(m, IR_GLOBAL_INPUT, name, type, NULL, 0, (Span){0});
        for (IrOp op = ir_func(m, func)->first; op; op = ir_op(m, op)->next)
            for (uint32_t k = 0; op < end && k < ir_op(m, op)->n_operands; k++)
            {
                if (ir_op(m, op)->operands[k] != border->values[i] || !is_behind(ir_op(m, op), last_unit))
                    continue;
                if (!input)
                {
                    IrBuilder b = ir_builder_before(m, op);
                    b.unit = (uint32_t)last_unit;
                    input = ir_build_get(&b, name);
                }
                ir_op(m, op)->operands[k] = input;
            }
    }
}

/* A copy of the function that only makes the values at the border. They are handed over behind it, so that their
 * kernels are those of a run without the cache. */
static void make_prefix(const Cut *c, IrFunc train)
{
    IrModule *m = c->m;
    const IrFunc prefix = ir_func_clone(m, train, "prefix");
    FrozenBorder border;
    const char *why;
    ir_func(m, prefix)->attrs = (IrAttrs){0};
    bool found = frozen_border(c->ctx->scratch, m, prefix, c->last_unit, &border, &why);
    ENSURE(found);
    for (IrOp op = ir_func(m, prefix)->first, next; op; op = next)
    {
        next = ir_op(m, op)->next;
        if (ir_op(m, op)->code == IR_set)
            ir_op_remove(m, op);
    }
    IrBuilder b = ir_builder(m, prefix);
    b.unit = (uint32_t)c->last_unit + 1;
    for (uint32_t i = 0; i < border.n; i++)
    {
        const char *name = border_name(c, "frozen", i);
        ir_global_add(m, IR_GLOBAL_OUTPUT, name, *ir_value_type(m, border.values[i]), NULL, 0, (Span){0});
        ir_build_set(&b, name, border.values[i]);
    }
}

/* Only the units behind the earlier border: what is kept there moves up. */
static void make_advance(const Cut *c, int64_t from)
{
    IrModule *m = c->m;
    const IrFunc advance = ir_func_clone(m, ir_func_find(m, "prefix"), "advance");
    FrozenBorder border;
    const char *why;
    if (frozen_border(c->ctx->scratch, m, advance, from, &border, &why))
        start_from(c, advance, &border, from, "batch.before");
}

bool pass_cache_prefix(PassContext *ctx)
{
    IrModule *m = ctx->m;
    const IrFunc train = ir_func_find(m, "train"), eval = ir_func_find(m, "eval");
    if (!train || !ir_attrs_bool(&ir_func(m, train)->attrs, IR_ATTR_cached))
        return true;
    const Cut c = {.ctx = ctx, .m = m, .last_unit = ir_attrs_int(&ir_func(m, train)->attrs, IR_ATTR_frozen, 0)};
    const int64_t from = ir_attrs_int(&ir_func(m, train)->attrs, IR_ATTR_cached_from, 0);
    FrozenBorder of_train, of_eval;
    const char *why;
    bool ok = frozen_border(ctx->scratch, m, train, c.last_unit, &of_train, &why);
    if (ok && eval && !(ok = frozen_border(ctx->scratch, m, eval, c.last_unit, &of_eval, &why)))
        why = "@eval has another border";
    if (ok && eval && of_train.n != of_eval.n)
    {
        why = "@eval has another border";
        ok = false;
    }
    if (!ok)
    {
        diag_error(ctx->diag, (Span){0}, "the outputs of the frozen layers cannot be kept: %s", why);
        return false;
    }
    make_prefix(&c, train);
    if (from > 0)
        make_advance(&c, from);
    start_from(&c, train, &of_train, c.last_unit, "batch.frozen");
    if (eval)
        start_from(&c, eval, &of_eval, c.last_unit, "batch.frozen");
    return true;
}
