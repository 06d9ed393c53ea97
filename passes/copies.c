/* Keeps the bf16 of params beside them: a cast of a param is the same in every step, so it becomes a global (kind copy)
 * that the param's update writes, too.
 *
 * On entry: the program of one rank, LOWERED, behind the passes that make such casts (precision, epilogue). On exit:
 * step functions read the copy where they cast a param to bf16; what sets a param that has a copy sets the copy; and
 * @refresh makes all copies of this rank from their params, for whoever has written params from outside. */
#include "base/bug.h"
#include "ir/builder.h"
#include "passes/manager.h"

#include <string.h>

typedef struct
{
    PassContext *ctx;
    IrModule *m;
    uint32_t n_old;    /* globals */
    IrGlobal *copy_of; /* by old global; 0: none */
} Copies;

/* What a get or set names. */
static IrGlobal global_of(const IrModule *m, const IrOpData *op)
{
    return ir_global_find(m, ir_attrs_str(&op->attrs, IR_ATTR_global));
}

/* The param whose bf16 the op makes; 0: it does something else. */
static IrGlobal cast_param(const IrModule *m, const IrOpData *op)
{
    if (op->code != IR_cast || ir_value_type(m, op->results[0])->dtype != DT_BF16)
        return 0;
    const IrOpData *get = ir_op(m, ir_value(m, op->operands[0])->def);
    const IrGlobal global = get->code == IR_get ? global_of(m, get) : 0;
    return global && ir_global(m, global)->kind == IR_GLOBAL_PARAM ? global : 0;
}

/* 0: something else has its name. */
static IrGlobal copy_of(Copies *c, IrGlobal param)
{
    IrModule *m = c->m;
    const IrGlobalData global = *ir_global(m, param);
    const char *name = arena_printf(c->ctx->scratch, "bf16:%s", global.name);
    const IrAttr of = ir_attr_str(IR_ATTR_of, global.name);
    if (!c->copy_of[param] && !ir_global_find(m, name))
        c->copy_of[param] =
            ir_global_add(m, IR_GLOBAL_COPY, name, ir_type_with_dtype(global.type, DT_BF16), &of, 1, global.span);
    return c->copy_of[param];
}

/* Reads copies where params are cast. */
static void read_copies(Copies *c, IrFunc func)
{
    IrModule *m = c->m;
    const uint32_t n_old = m->values.len;
    IrValue *map = ARENA_ARRAY(c->ctx->scratch, IrValue, n_old);
    IrValue *got = ARENA_ARRAY(c->ctx->scratch, IrValue, c->n_old); /* by param */
    for (IrOp op = ir_func(m, func)->first, next; op; op = next)
    {
        const IrOpData data = *ir_op(m, op);
        next = data.next;
        const IrGlobal param = cast_param(m, &data);
        if (!param || !copy_of(c, param))
            continue;
        if (!got[param])
        {
            IrBuilder b = ir_builder_before(m, op);
            got[param] = ir_build_get(&b, ir_global(m, c->copy_of[param])->name);
        }
        map[data.results[0]] = got[param];
        ir_op_remove(m, op);
    }
    ir_func_replace_values(m, func, map, n_old);
}

/* What a bcast of this replica's own gives to the others; the value itself, if it is none of that. */
static IrValue before_bcast(const IrModule *m, IrFunc func, IrValue value)
{
    const IrOpData *def = ir_op(m, ir_value(m, value)->def);
    const int64_t replica = ir_attrs_int(&ir_func(m, func)->attrs, IR_ATTR_replica, 0);
    const bool gives = def->code == IR_bcast && ir_attrs_int(&def->attrs, IR_ATTR_root, 0) == replica;
    return gives ? def->operands[ir_value(m, value)->result] : value;
}

static bool comes_from_others(const IrModule *m, IrValue value)
{
    return ir_value_code(m, value) == IR_bcast || ir_value_code(m, value) == IR_recv;
}

/* Sets copies beside their params. The cast stands where the update's arithmetic ends, so that one kernel writes both;
 * what comes from others is cast behind the set, which is where it is waited for. */
static void write_copies(Copies *c, IrFunc func)
{
    IrModule *m = c->m;
    for (IrOp op = ir_func(m, func)->first, next; op; op = next)
    {
        const IrOpData data = *ir_op(m, op);
        next = data.next;
        const IrGlobal copy = data.code == IR_set ? c->copy_of[global_of(m, &data)] : 0;
        if (!copy)
            continue;
        const IrValue value = before_bcast(m, func, data.operands[0]);
        const IrOp def = ir_value(m, value)->def;
        IrBuilder set = ir_builder_before(m, op), cast = ir_builder_before(m, def);
        set.before = next;
        cast.before = ir_op(m, def)->next;
        const IrValue narrow = ir_build_cast(comes_from_others(m, value) ? &set : &cast, value, DT_BF16);
        ir_build_set(&set, ir_global(m, copy)->name, narrow);
    }
}

static void make_refresh(Copies *c)
{
    IrModule *m = c->m;
    IrBuilder b = ir_builder(m, 0);
    for (IrGlobal param = 1; param < c->n_old; param++)
    {
        if (!c->copy_of[param])
            continue;
        if (!b.func)
            b.func = ir_func_add(m, IR_FUNC_STEP, IR_REFRESH);
        const IrGlobalData global = *ir_global(m, param);
        b.span = global.span;
        b.unit = (uint32_t)ir_attrs_int(&global.attrs, IR_ATTR_unit, 0);
        const IrValue narrow = ir_build_cast(&b, ir_build_get(&b, global.name), DT_BF16);
        ir_build_set(&b, ir_global(m, c->copy_of[param])->name, narrow);
    }
}

bool pass_copies(PassContext *ctx)
{
    IrModule *m = ctx->m;
    Copies c = {
        .ctx = ctx, .m = m, .n_old = m->globals.len, .copy_of = ARENA_ARRAY(ctx->scratch, IrGlobal, m->globals.len)};
    if (ir_func_find(m, IR_REFRESH))
        return true;
    IR_FOR_FUNCS(m, func)
    if (ir_func(m, func)->kind == IR_FUNC_STEP)
        read_copies(&c, func);
    IR_FOR_FUNCS(m, func)
    if (ir_func(m, func)->kind == IR_FUNC_STEP)
        write_copies(&c, func);
    make_refresh(&c);
    return true;
}
