/* One walk in program order, joining families as values meet (union-find over values and params),
 * then the families that cannot have an owner are dropped. */
#include "passes/ownership.h"

enum
{
    HAS_SUM = 1,
    HAS_PARAM = 2,
    IS_COMMON = 4
};

typedef struct
{
    Arena *arena;
    const IrModule *m;
    Ownership o;
    uint32_t *parent;  /* by node: a value, or n_values + a param; 0 is nothing */
    uint8_t *marks;    /* by root node */
    bool *is_mixed;    /* by value: made of numbers of several families */
    VEC(IrValue) read; /* tensors of families that something common reads */
} Walk;

static uint32_t find(Walk *w, uint32_t node)
{
    while (w->parent[node] != node)
        node = w->parent[node] = w->parent[w->parent[node]];
    return node;
}

static uint32_t join(Walk *w, uint32_t a, uint32_t b)
{
    a = find(w, a);
    b = find(w, b);
    if (!a || !b)
        return a ? a : b;
    w->parent[a > b ? a : b] = a > b ? b : a;
    w->marks[a > b ? b : a] = w->marks[a] | w->marks[b];
    return a > b ? b : a;
}

static bool is_number(const Walk *w, IrValue value)
{
    return ir_type_n_elems(ir_value_type(w->m, value)) == 1;
}

static uint32_t node_of_param(const Walk *w, IrGlobal param)
{
    return w->m->values.len + param;
}

/* The param whose optimizer state this is; 0 for anything else, and where the param is a single number. */
static IrGlobal param_of_state(const IrModule *m, const IrOpData *op)
{
    const IrGlobalData *global = ir_global(m, ir_global_find(m, ir_attrs_str(&op->attrs, IR_ATTR_global)));
    const char *of = global->kind == IR_GLOBAL_STATE ? ir_attrs_str(&global->attrs, IR_ATTR_of) : NULL;
    const IrGlobal param = of ? ir_global_find(m, of) : 0;
    return param && ir_type_n_elems(&ir_global(m, param)->type) > 1 ? param : 0;
}

/* Something common reads the value. */
static void read_commonly(Walk *w, IrValue value)
{
    if (!w->o.value[value])
        return;
    if (is_number(w, value))
        w->o.is_published[value] = true;
    else
        vec_push(w->arena, &w->read, value);
}

static void walk_set(Walk *w, IrOp op)
{
    const IrOpData *data = ir_op(w->m, op);
    const IrGlobal global = ir_global_find(w->m, ir_attrs_str(&data->attrs, IR_ATTR_global));
    const IrGlobal state_of = param_of_state(w->m, data);
    uint32_t *family = &w->o.value[data->operands[0]];
    if (state_of)
    {
        w->o.set[op] = node_of_param(w, state_of);
        join(w, *family, w->o.set[op]);
    }
    else if (ir_global(w->m, global)->kind == IR_GLOBAL_PARAM && *family && !is_number(w, data->operands[0]))
    {
        w->marks[join(w, *family, node_of_param(w, global))] |= HAS_PARAM;
        w->o.param[data->operands[0]] = global;
    }
    else
        read_commonly(w, data->operands[0]);
}

/* Tensors bind families together. Numbers of several do not: they are published where they meet. */
static uint32_t family_of_operands(Walk *w, const IrOpData *data)
{
    uint32_t tensors = 0, number = 0;
    bool mixed = false;
    for (uint32_t i = 0; i < data->n_operands; i++)
        if (w->o.value[data->operands[i]] && !is_number(w, data->operands[i]))
            tensors = join(w, tensors, w->o.value[data->operands[i]]);
    for (uint32_t i = 0; i < data->n_operands; i++)
    {
        const uint32_t family = find(w, w->o.value[data->operands[i]]);
        mixed = mixed || w->is_mixed[data->operands[i]] || (number && family && family != number);
        number = family && is_number(w, data->operands[i]) ? family : number;
    }
    const uint32_t family = tensors ? tensors : mixed ? 0 : number;
    for (uint32_t i = 0; i < data->n_results; i++)
        w->is_mixed[data->results[i]] = mixed && !tensors;
    for (uint32_t i = 0; i < data->n_operands; i++)
        if (is_number(w, data->operands[i]) && find(w, w->o.value[data->operands[i]]) != family)
            read_commonly(w, data->operands[i]);
    return family;
}

static void walk_op(Walk *w, IrOp op)
{
    const IrOpData *data = ir_op(w->m, op);
    uint32_t family = 0;
    if (data->code == IR_accumulate)
    {
        family = is_number(w, data->results[0]) ? 0 : data->results[0];
        w->marks[family] = HAS_SUM;
    }
    else if (data->code == IR_set)
        walk_set(w, op);
    else if (data->code == IR_get)
        family = param_of_state(w->m, data) ? node_of_param(w, param_of_state(w->m, data)) : 0;
    else if (data->n_results)
        family = family_of_operands(w, data);
    else
        for (uint32_t i = 0; i < data->n_operands; i++)
            read_commonly(w, data->operands[i]);
    for (uint32_t i = 0; i < data->n_results; i++)
        w->o.value[data->results[i]] = family;
}

/* The root of a family that can have an owner: it leads from sums to params, and nothing common reads a tensor of it.
 */
static uint32_t root_of(Walk *w, uint32_t node)
{
    const uint32_t family = find(w, node);
    return w->marks[family] == (HAS_SUM | HAS_PARAM) ? family : 0;
}

static void settle(Walk *w)
{
    for (uint32_t i = 0; i < w->read.len; i++)
        if (!w->o.param[w->read.data[i]])
            w->marks[find(w, w->o.value[w->read.data[i]])] |= IS_COMMON;
    for (IrValue value = 1; value < w->m->values.len; value++)
    {
        const uint32_t family = w->o.value[value] = root_of(w, w->o.value[value]);
        w->o.param[value] = family ? w->o.param[value] : 0;
        w->o.is_published[value] = family && w->o.is_published[value];
    }
    for (IrOp op = 1; op < w->m->ops.len; op++)
        w->o.set[op] = root_of(w, w->o.set[op]);
}

Ownership ownership_find(Arena *arena, const IrModule *m, IrFunc func)
{
    const uint32_t n = m->values.len + m->globals.len;
    Walk w = {.arena = arena,
              .m = m,
              .o = {.value = ARENA_ARRAY(arena, uint32_t, m->values.len),
                    .set = ARENA_ARRAY(arena, uint32_t, m->ops.len),
                    .param = ARENA_ARRAY(arena, IrGlobal, m->values.len),
                    .is_published = ARENA_ARRAY(arena, bool, m->values.len),
                    .n = n},
              .parent = ARENA_ARRAY(arena, uint32_t, n),
              .marks = ARENA_ARRAY(arena, uint8_t, n),
              .is_mixed = ARENA_ARRAY(arena, bool, m->values.len)};
    for (uint32_t i = 0; i < n; i++)
        w.parent[i] = i;
    IR_FOR_OPS(m, func, op)
    walk_op(&w, op);
    settle(&w);
    return w.o;
}

uint32_t ownership_of_op(const Ownership *o, const IrModule *m, IrOp op)
{
    const IrOpData *data = ir_op(m, op);
    return data->n_results ? o->value[data->results[0]] : o->set[op];
}
