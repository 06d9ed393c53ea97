/* Modules: tables of globals, functions, ops and values, all in one arena. */
#include "ir/module.h"

#include "base/bug.h"

#include <string.h>

/* ---- the op table as data */

#define IN(min, max)    min, max
#define OUT(n)          n
#define KEYS_1(a)       IR_ATTR_##a,
#define KEYS_2(a, ...)  IR_ATTR_##a, KEYS_1(__VA_ARGS__)
#define KEYS_3(a, ...)  IR_ATTR_##a, KEYS_2(__VA_ARGS__)
#define KEYS_4(a, ...)  IR_ATTR_##a, KEYS_3(__VA_ARGS__)
#define KEYS_5(a, ...)  IR_ATTR_##a, KEYS_4(__VA_ARGS__)
#define KEYS_6(a, ...)  IR_ATTR_##a, KEYS_5(__VA_ARGS__)
#define KEYS_7(a, ...)  IR_ATTR_##a, KEYS_6(__VA_ARGS__)
#define KEYS_8(a, ...)  IR_ATTR_##a, KEYS_7(__VA_ARGS__)
#define KEYS_9(a, ...)  IR_ATTR_##a, KEYS_8(__VA_ARGS__)
#define KEYS_10(a, ...) IR_ATTR_##a, KEYS_9(__VA_ARGS__)
#define KEYS_0()
#define PICK(_1, _2, _3, _4, _5, _6, _7, _8, _9, _10, name, ...) name
#define KEYS(...)                                                                                                      \
    __VA_OPT__(PICK(__VA_ARGS__, KEYS_10, KEYS_9, KEYS_8, KEYS_7, KEYS_6, KEYS_5, KEYS_4, KEYS_3, KEYS_2,              \
                    KEYS_1, )(__VA_ARGS__))
#define ATTRS(...)            ((const IrAttrKey[]){KEYS(__VA_ARGS__) IR_ATTR_NONE})
#define OPT                   ATTRS
#define TRAITS(...)           TRAIT_BITS(__VA_ARGS__)
#define EWISE                 IR_TRAIT_EWISE
#define FLOAT                 IR_TRAIT_FLOAT
#define COMMUTES              IR_TRAIT_COMMUTES
#define VIEW                  IR_TRAIT_VIEW
#define REDUCE                IR_TRAIT_REDUCE
#define LEAF                  IR_TRAIT_LEAF
#define EFFECT                IR_TRAIT_EFFECT
#define COSTLY                IR_TRAIT_COSTLY
#define TEMPLATE              IR_TRAIT_TEMPLATE
#define LIBRARY               IR_TRAIT_LIBRARY
#define COMPOSITE             IR_TRAIT_COMPOSITE
#define RANDOM                IR_TRAIT_RANDOM
#define TRAIT_BITS(bits)      (bits)
#define EXAMPLE(types, attrs) types, attrs
#define NOEXAMPLE             NULL, NULL

static const IrOpInfo op_infos[] = {
    {.name = "invalid", .required = ATTRS(), .optional = ATTRS()},
#define OP(name, in, out, required, optional, shape, traits, grad, scalar, ...)                                        \
    {#name, in, out, traits, required, optional, __VA_ARGS__},
#include "ir/ops.def"
#undef OP
};

const IrOpInfo *ir_op_info(IrCode code)
{
    return &op_infos[code];
}

IrCode ir_code_by_name(const char *name)
{
    for (int i = 1; i < IR_CODE_COUNT; i++)
        if (strcmp(name, op_infos[i].name) == 0)
            return (IrCode)i;
    return IR_INVALID;
}

/* ---- creation */

IrModule *ir_module_create(Arena *arena, const char *name)
{
    IrModule *m = ARENA_NEW(arena, IrModule);
    m->arena = arena;
    m->name = arena_strdup(arena, name);
    vec_push(arena, &m->globals, (IrGlobalData){0});
    vec_push(arena, &m->funcs, (IrFuncData){.removed = true});
    vec_push(arena, &m->ops, (IrOpData){0});
    vec_push(arena, &m->values, (IrValueData){0});
    return m;
}

IrGlobal ir_global_find(const IrModule *m, const char *name)
{
    for (uint32_t i = 1; i < m->globals.len; i++)
        if (strcmp(m->globals.data[i].name, name) == 0)
            return i;
    return 0;
}

IrGlobal ir_global_add(IrModule *m, IrGlobalKind kind, const char *name, IrType type, const IrAttr *attrs,
                       uint32_t n_attrs, Span span)
{
    if (ir_global_find(m, name))
        BUG("global '%s' exists", name);
    IrGlobalData global = {.kind = kind,
                           .name = arena_strdup(m->arena, name),
                           .type = type,
                           .attrs = ir_attrs_copy(m->arena, attrs, n_attrs),
                           .span = span};
    vec_push(m->arena, &m->globals, global);
    return m->globals.len - 1;
}

IrFunc ir_func_find(const IrModule *m, const char *name)
{
    IR_FOR_FUNCS(m, f)
    if (strcmp(ir_func(m, f)->name, name) == 0)
        return f;
    return 0;
}

bool ir_global_window(const IrModule *m, IrGlobal global, IrWindow *out_window)
{
    const IrGlobalData *data = ir_global(m, global);
    const char *within = ir_attrs_str(&data->attrs, IR_ATTR_within);
    const IrGlobal whole = within ? ir_global_find(m, within) : 0;
    if (!whole)
        return false;
    const IrType *part = &data->type, *all = &ir_global(m, whole)->type;
    const int last = part->rank - 1;
    const int64_t at = ir_attrs_int(&data->attrs, IR_ATTR_at, 0);
    *out_window = (IrWindow){.whole = whole, .start = at};
    if (last > 0 && part->dims[last] != all->dims[last])
    {
        out_window->row = part->dims[last];
        out_window->pitch = all->dims[last];
    }
    else
        out_window->start = at * (ir_type_n_elems(part) / part->dims[0]);
    return true;
}

IrFunc ir_func_add(IrModule *m, IrFuncKind kind, const char *name)
{
    if (ir_func_find(m, name))
        BUG("function '%s' exists", name);
    IrFuncData func = {.kind = kind, .name = arena_strdup(m->arena, name)};
    vec_push(m->arena, &m->funcs, func);
    return m->funcs.len - 1;
}

void ir_func_remove(IrModule *m, IrFunc func)
{
    ir_func(m, func)->removed = true;
}

/* ---- ops */

static void link_before(IrModule *m, IrFunc func, IrOp op, IrOp before)
{
    IrFuncData *f = ir_func(m, func);
    IrOp prev = before ? ir_op(m, before)->prev : f->last;
    IrOpData *data = ir_op(m, op);
    data->func = func;
    data->prev = prev;
    data->next = before;
    if (prev)
        ir_op(m, prev)->next = op;
    else
        f->first = op;
    if (before)
        ir_op(m, before)->prev = op;
    else
        f->last = op;
}

static void unlink_op(IrModule *m, IrOp op)
{
    IrOpData *data = ir_op(m, op);
    IrFuncData *f = ir_func(m, data->func);
    if (data->prev)
        ir_op(m, data->prev)->next = data->next;
    else
        f->first = data->next;
    if (data->next)
        ir_op(m, data->next)->prev = data->prev;
    else
        f->last = data->prev;
}

IrOp ir_op_insert(IrModule *m, IrFunc func, IrOp before, IrCode code, const IrValue *operands, uint32_t n_operands,
                  const IrType *result_types, uint32_t n_results, const IrAttr *attrs, uint32_t n_attrs)
{
    IrOpData data = {.code = code, .n_operands = n_operands, .n_results = n_results};
    data.operands = arena_memdup(m->arena, operands, n_operands * sizeof *operands);
    data.results = ARENA_ARRAY(m->arena, IrValue, n_results);
    data.attrs = ir_attrs_copy(m->arena, attrs, n_attrs);
    IrOp op = m->ops.len;
    for (uint32_t i = 0; i < n_results; i++)
    {
        data.results[i] = m->values.len;
        vec_push(m->arena, &m->values, (IrValueData){.type = result_types[i], .def = op, .result = i});
    }
    vec_push(m->arena, &m->ops, data);
    link_before(m, func, op, before);
    return op;
}

void ir_op_remove(IrModule *m, IrOp op)
{
    unlink_op(m, op);
    ir_op(m, op)->func = 0;
}

void ir_op_move(IrModule *m, IrOp op, IrOp before)
{
    if (op == before || ir_op(m, op)->next == before)
        return;
    IrFunc func = ir_op(m, op)->func;
    unlink_op(m, op);
    link_before(m, func, op, before);
}

void ir_func_replace_values(IrModule *m, IrFunc func, const IrValue *map, uint32_t n_map)
{
    IR_FOR_OPS(m, func, op)
    {
        IrOpData *data = ir_op(m, op);
        for (uint32_t i = 0; i < data->n_operands; i++)
            while (data->operands[i] < n_map && map[data->operands[i]])
                data->operands[i] = map[data->operands[i]];
    }
}

IrUses ir_uses_build(Arena *scratch, const IrModule *m, IrFunc func)
{
    IrUses uses = {.n_values = m->values.len, .first = ARENA_ARRAY(scratch, uint32_t, m->values.len + 1)};
    IR_FOR_OPS(m, func, op)
    for (uint32_t i = 0; i < ir_op(m, op)->n_operands; i++)
        uses.first[ir_op(m, op)->operands[i] + 1]++;
    for (uint32_t v = 0; v < uses.n_values; v++)
        uses.first[v + 1] += uses.first[v];
    uses.users = ARENA_ARRAY(scratch, IrOp, uses.first[uses.n_values]);
    uint32_t *fill = arena_memdup(scratch, uses.first, sizeof *fill * (uses.n_values + 1));
    IR_FOR_OPS(m, func, op)
    for (uint32_t i = 0; i < ir_op(m, op)->n_operands; i++)
        uses.users[fill[ir_op(m, op)->operands[i]]++] = op;
    return uses;
}

/* ---- copies */

/* Copies the ops of `from` (function of src) to the end of `to` (function of dst). */
static void copy_body(IrModule *dst, IrFunc to, const IrModule *src, IrFunc from)
{
    IrValue *map = ARENA_ARRAY(dst->arena, IrValue, src->values.len);
    for (IrOp op = ir_func(src, from)->first; op;)
    {
        const IrOpData old = *ir_op(src, op); /* src may be dst, whose table moves as it grows */
        IrValue *operands = ARENA_ARRAY(dst->arena, IrValue, old.n_operands);
        for (uint32_t i = 0; i < old.n_operands; i++)
            operands[i] = map[old.operands[i]];
        IrType *types = ARENA_ARRAY(dst->arena, IrType, old.n_results);
        for (uint32_t i = 0; i < old.n_results; i++)
            types[i] = *ir_value_type(src, old.results[i]);
        IrOp copy = ir_op_insert(dst, to, 0, old.code, operands, old.n_operands, types, old.n_results, old.attrs.data,
                                 old.attrs.len);
        IrOpData *data = ir_op(dst, copy);
        data->span = old.span;
        data->unit = old.unit;
        data->phase = old.phase;
        for (uint32_t i = 0; i < old.n_results; i++)
            map[old.results[i]] = data->results[i];
        op = old.next;
    }
}

IrFunc ir_func_copy(IrModule *to, const IrModule *from, IrFunc func, const char *name)
{
    const IrFunc copy = ir_func_add(to, ir_func(from, func)->kind, name);
    const IrAttrs *attrs = &ir_func(from, func)->attrs;
    ir_func(to, copy)->attrs = ir_attrs_copy(to->arena, attrs->data, attrs->len);
    copy_body(to, copy, from, func);
    return copy;
}

IrFunc ir_func_clone(IrModule *m, IrFunc func, const char *name)
{
    return ir_func_copy(m, m, func, name);
}

IrModule *ir_module_clone(Arena *arena, const IrModule *m)
{
    IrModule *copy = ir_module_create(arena, m->name);
    for (uint32_t i = 0; i < m->files.len; i++)
        vec_push(arena, &copy->files, arena_strdup(arena, m->files.data[i]));
    for (uint32_t i = 1; i < m->globals.len; i++)
    {
        const IrGlobalData *global = ir_global(m, i);
        ir_global_add(copy, global->kind, global->name, global->type, global->attrs.data, global->attrs.len,
                      global->span);
    }
    IR_FOR_FUNCS(m, f)
    ir_func_copy(copy, m, f, ir_func(m, f)->name);
    return copy;
}
