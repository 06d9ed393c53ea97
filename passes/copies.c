/* Keeps the bf16 of params beside them: a cast of a param is the same in every step, so it becomes a global (kind copy)
 * that the param's update writes, too.
 *
 * On entry: the program of one rank, LOWERED, behind the passes that make such casts (precision, epilogue). On exit:
 * step functions read the copy where they cast a param to bf16, or params side by side (pass pack); what sets a param
 * that has a copy sets the copy; and @refresh makes all copies of this rank from their params, for whoever has written
 * params from outside. */
#include "base/strbuf.h"
#include "ir/builder.h"
#include "passes/manager.h"

typedef struct
{
    IrValue value;
    IrGlobal copy;
} Got;

typedef struct
{
    PassContext *ctx;
    IrModule *m;
    uint32_t n_old;    /* globals */
    IrGlobal *copy_of; /* by old global; 0: none */
    bool packs;        /* a copy may lie in another one */
} Copies;

static const char *global_name(const IrOpData *op)
{
    return ir_attrs_str(&op->attrs, IR_ATTR_global);
}

/* The param that the value is; 0: it is something else. */
static IrGlobal param_of(const IrModule *m, IrValue value)
{
    const IrOpData *get = ir_op(m, ir_value(m, value)->def);
    const IrGlobal global = get->code == IR_get ? ir_global_find(m, global_name(get)) : 0;
    return global && ir_global(m, global)->kind == IR_GLOBAL_PARAM ? global : 0;
}

/* ---- the globals */

static IrGlobal add_copy(Copies *c, const char *name, IrType type, const IrAttr *attrs, uint32_t n_attrs, Span span)
{
    return ir_global_add(c->m, IR_GLOBAL_COPY, name, ir_type_with_dtype(type, DT_BF16), attrs, n_attrs, span);
}

static const char *name_of_copy(const Copies *c, IrGlobal param)
{
    return arena_printf(c->ctx->scratch, "bf16:%s", ir_global(c->m, param)->name);
}

/* 0: it lies in another one, or something else has its name. */
static IrGlobal copy_alone(Copies *c, IrGlobal param)
{
    const IrGlobalData global = *ir_global(c->m, param);
    const IrAttr of = ir_attr_str(IR_ATTR_of, global.name);
    IrWindow window;
    if (c->copy_of[param])
        return ir_global_window(c->m, c->copy_of[param], &window) ? 0 : c->copy_of[param];
    if (ir_global_find(c->m, name_of_copy(c, param)))
        return 0;
    return c->copy_of[param] = add_copy(c, name_of_copy(c, param), global.type, &of, 1, global.span);
}

/* Params that have no copy yet, each there once. */
static bool may_pack(const Copies *c, const IrOpData *concat)
{
    const IrModule *m = c->m;
    const int64_t axis = ir_attrs_int(&concat->attrs, IR_ATTR_axis, 0);
    bool may = c->packs && (axis == 0 || axis == ir_value_type(m, concat->results[0])->rank - 1);
    for (uint32_t i = 0; i < concat->n_operands && may; i++)
    {
        const IrGlobal param = param_of(m, concat->operands[i]);
        may = param && !c->copy_of[param] && !ir_global_find(m, name_of_copy(c, param));
        for (uint32_t k = 0; k < i && may; k++)
            may = param_of(m, concat->operands[k]) != param;
    }
    return may;
}

/* The copies of what pass pack has laid side by side lie so, too, in one that is read. */
static IrGlobal copy_together(Copies *c, const IrOpData *concat)
{
    IrModule *m = c->m;
    const int64_t axis = ir_attrs_int(&concat->attrs, IR_ATTR_axis, 0);
    StrBuf name = strbuf_make(c->ctx->scratch);
    for (uint32_t i = 0; i < concat->n_operands; i++)
    {
        const IrGlobal param = param_of(m, concat->operands[i]);
        strbuf_addf(&name, "%s%s", i ? "+" : "bf16:", param ? ir_global(m, param)->name : "");
    }
    const IrGlobal found = ir_global_find(m, strbuf_text(&name));
    if (found || !may_pack(c, concat))
        return found && ir_global(m, found)->kind == IR_GLOBAL_COPY ? found : 0;
    const IrGlobal whole =
        add_copy(c, strbuf_text(&name), *ir_value_type(m, concat->results[0]), NULL, 0, concat->span);
    for (uint32_t i = 0, at = 0; i < concat->n_operands; i++)
    {
        const IrGlobal param = param_of(m, concat->operands[i]);
        const IrGlobalData global = *ir_global(m, param);
        const IrAttr attrs[] = {ir_attr_str(IR_ATTR_of, global.name), ir_attr_int(IR_ATTR_at, at),
                                ir_attr_str(IR_ATTR_within, strbuf_text(&name))};
        c->copy_of[param] = add_copy(c, name_of_copy(c, param), global.type, attrs, 3, global.span);
        at += (uint32_t)global.type.dims[axis];
    }
    return whole;
}

/* The copy that has what the op makes; 0: none. */
static IrGlobal copy_for(Copies *c, const IrOpData *op)
{
    if (op->code != IR_cast || ir_value_type(c->m, op->results[0])->dtype != DT_BF16)
        return 0;
    const IrOpData from = *ir_op(c->m, ir_value(c->m, op->operands[0])->def);
    const IrGlobal param = param_of(c->m, op->operands[0]);
    return param ? copy_alone(c, param) : from.code == IR_concat ? copy_together(c, &from) : 0;
}

/* ---- step functions */

/* Reads copies where params are cast. */
static void read_copies(Copies *c, IrFunc func)
{
    IrModule *m = c->m;
    const uint32_t n_old = m->values.len;
    IrValue *map = ARENA_ARRAY(c->ctx->scratch, IrValue, n_old);
    VEC(Got) got = {0};
    for (IrOp op = ir_func(m, func)->first, next; op; op = next)
    {
        const IrOpData data = *ir_op(m, op);
        next = data.next;
        const IrGlobal copy = copy_for(c, &data);
        uint32_t i = 0;
        while (i < got.len && got.data[i].copy != copy)
            i++;
        if (!copy)
            continue;
        if (i == got.len)
        {
            IrBuilder b = ir_builder_before(m, op);
            vec_push(c->ctx->scratch, &got, (Got){ir_build_get(&b, ir_global(m, copy)->name), copy});
        }
        map[data.results[0]] = got.data[i].value;
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
        const IrGlobal copy = data.code == IR_set ? c->copy_of[ir_global_find(m, global_name(&data))] : 0;
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

/* Whether params are set behind everything else, so that each copy can be written where it lies. */
static bool updates_come_last(const IrModule *m)
{
    IR_FOR_FUNCS(m, func)
    {
        bool updated = false;
        IR_FOR_OPS(m, func, op)
        {
            const IrOpData *data = ir_op(m, op);
            if (updated && (data->phase != IR_PHASE_OPTIMIZER || data->code == IR_check_finite))
                return false;
            updated = updated || (data->code == IR_set &&
                                  ir_global(m, ir_global_find(m, global_name(data)))->kind == IR_GLOBAL_PARAM);
        }
    }
    return true;
}

bool pass_copies(PassContext *ctx)
{
    IrModule *m = ctx->m;
    Copies c = {.ctx = ctx,
                .m = m,
                .n_old = m->globals.len,
                .copy_of = ARENA_ARRAY(ctx->scratch, IrGlobal, m->globals.len),
                .packs = updates_come_last(m)};
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
