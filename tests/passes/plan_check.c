/* See plan_check.h. Memory is a list of regions, each holding one value; spaces are 0 for the arena and the id of a
 * global for that global. What a get gives is the value `old(global)`: id n_values + global. */
#include "plan_check.h"

#include "codegen/codegen.h"

#include <string.h>

enum
{
    ALIGNMENT = 64
};

typedef struct
{
    IrGlobal space;
    int64_t first, end; /* bytes */
} Place;

typedef struct
{
    Place place;
    uint32_t holds;
} Region;

typedef struct
{
    Arena *arena;
    const IrModule *m;
    IrFunc func;
    uint32_t *holds; /* by value: what its memory must hold, looking through reshapes */
    Place *place;    /* by value */
    VEC(Region) memory;
    PlanFacts facts;
    const char *why;
} Checker;

static bool overlap(Place a, Place b)
{
    return a.space == b.space && a.first < b.end && b.first < a.end;
}

static IrGlobal global_of(const Checker *c, const IrOpData *data)
{
    return ir_global_find(c->m, ir_attrs_str(&data->attrs, IR_ATTR_global));
}

static Place place_of_global(const Checker *c, IrGlobal global)
{
    return (Place){global, 0, ir_type_size_bytes(&ir_global(c->m, global)->type)};
}

static bool complain(Checker *c, IrOp op, const char *what, IrValue value)
{
    const IrOpData *data = ir_op(c->m, op);
    const char *name = data->code == IR_call  ? ir_attrs_str(&data->attrs, IR_ATTR_fn)
                       : data->code == IR_set ? ir_attrs_str(&data->attrs, IR_ATTR_global)
                                              : "";
    c->why = arena_printf(c->arena, "%s %s: %s (value %u)", ir_op_info(data->code)->name, name, what, value);
    return false;
}

static bool read(Checker *c, IrOp op, IrValue value)
{
    for (uint32_t i = 0; i < c->memory.len; i++)
    {
        const Region *region = &c->memory.data[i];
        if (region->holds == c->holds[value])
            return region->place.space == c->place[value].space && region->place.first == c->place[value].first
                       ? true
                       : complain(c, op, "reads from a place where the value is not", value);
    }
    return complain(c, op, "reads what was overwritten", value);
}

/* Forgets whatever the place held, even a byte of it. */
static void write(Checker *c, Place place, uint32_t holds)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < c->memory.len; i++)
        if (!overlap(c->memory.data[i].place, place))
            c->memory.data[kept++] = c->memory.data[i];
    c->memory.len = kept;
    vec_push(c->arena, &c->memory, (Region){place, holds});
}

/* The results of a bcast are in the places of its operands: the same values at the root, new ones elsewhere. */
static bool is_given(const Checker *c, const IrOpData *bcast)
{
    return ir_attrs_int(&bcast->attrs, IR_ATTR_root, 0) !=
           ir_attrs_int(&ir_func(c->m, c->func)->attrs, IR_ATTR_replica, 0);
}

/* The global that the first set of value, or of a reshape or bcast of it, names; 0 when there is none. */
static IrGlobal set_target(const Checker *c, IrValue value)
{
    IR_FOR_OPS(c->m, c->func, op)
    {
        const IrOpData *data = ir_op(c->m, op);
        IrValue from = data->code == IR_set ? data->operands[0] : 0;
        while (from && (ir_value_code(c->m, from) == IR_reshape || ir_value_code(c->m, from) == IR_bcast))
            from = ir_op(c->m, ir_value(c->m, from)->def)->operands[ir_value(c->m, from)->result];
        if (from && from == value)
            return global_of(c, data);
    }
    return 0;
}

static bool find_places(Checker *c, IrOp op)
{
    const IrOpData *data = ir_op(c->m, op);
    const IrAttr *offsets = ir_attrs_find(&data->attrs, IR_ATTR_offsets);
    for (uint32_t i = 0; i < data->n_results; i++)
    {
        IrValue value = data->results[i];
        int64_t size_bytes = ir_type_size_bytes(ir_value_type(c->m, value));
        c->holds[value] = value;
        if (data->code == IR_get)
        {
            c->holds[value] = c->m->values.len + global_of(c, data);
            c->place[value] = place_of_global(c, global_of(c, data));
        }
        else if (data->code == IR_reshape)
        {
            c->holds[value] = c->holds[data->operands[0]];
            c->place[value] = c->place[data->operands[0]];
        }
        else if (data->code == IR_bcast)
        {
            c->holds[value] = is_given(c, data) ? value : c->holds[data->operands[i]];
            c->place[value] = c->place[data->operands[i]];
        }
        else if (!offsets || offsets->n != data->n_results)
            return complain(c, op, "has no offsets", value);
        else if (offsets->ints[i] == -1)
        {
            IrGlobal target = set_target(c, value);
            if (!target)
                return complain(c, op, "is in place of nothing", value);
            c->place[value] = place_of_global(c, target);
            c->facts.n_in_place++;
        }
        else if (offsets->ints[i] < 0 || offsets->ints[i] % ALIGNMENT ||
                 offsets->ints[i] + size_bytes > c->facts.arena_bytes)
            return complain(c, op, "is not inside the arena", value);
        else
            c->place[value] = (Place){0, offsets->ints[i], offsets->ints[i] + size_bytes};
    }
    return true;
}

/* Results may share memory with an operand only where the kernel reads each element before it writes it, and never
 * with each other. */
static bool check_aliases(Checker *c, IrOp op)
{
    const IrOpData *data = ir_op(c->m, op);
    IrFunc kernel = data->code == IR_call ? ir_func_find(c->m, ir_attrs_str(&data->attrs, IR_ATTR_fn)) : 0;
    for (uint32_t i = 0; i < data->n_results; i++)
    {
        for (uint32_t k = 0; k < i; k++)
            if (overlap(c->place[data->results[i]], c->place[data->results[k]]))
                return complain(c, op, "two results share memory", data->results[i]);
        for (uint32_t k = 0; k < data->n_operands; k++)
        {
            if (!overlap(c->place[data->results[i]], c->place[data->operands[k]]))
                continue;
            bool is_residual = data->code == IR_matmul && ir_attrs_bool(&data->attrs, IR_ATTR_residual) &&
                               k + 1 == data->n_operands &&
                               c->place[data->results[i]].first == c->place[data->operands[k]].first;
            bool is_sum = ir_attrs_find(&data->attrs, IR_ATTR_bucket) && k == i &&
                          c->place[data->results[i]].first == c->place[data->operands[k]].first;
            if (!is_residual && !is_sum && (!kernel || !codegen_kernel_may_alias(c->arena, c->m, kernel, k, i)))
                return complain(c, op, "writes over an operand that it still reads", data->operands[k]);
            c->facts.n_over_old++;
        }
    }
    return true;
}

/* Other ranks read what a sum adds until its wait, and they reach nothing but what lies behind sums_at. */
static bool check_reduced(Checker *c, IrOp op)
{
    const IrOpData *data = ir_op(c->m, op);
    for (uint32_t i = 0; i < data->n_results && (data->code == IR_all_reduce || data->code == IR_reduce); i++)
    {
        if (c->place[data->results[i]].space || c->place[data->results[i]].first < c->facts.sums_at)
            return complain(c, op, "is summed where no other rank reaches", data->results[i]);
        if (c->holds[data->operands[i]] < c->m->values.len &&
            (c->place[data->operands[i]].space || c->place[data->operands[i]].first < c->facts.sums_at))
            return complain(c, op, "adds what no other rank reaches", data->operands[i]);
    }
    for (uint32_t i = 0; i < data->n_operands && data->code == IR_wait; i++)
    {
        IrValue sum = data->operands[i];
        IrValue added = ir_op(c->m, ir_value(c->m, sum)->def)->operands[ir_value(c->m, sum)->result];
        if (c->place[added].first != c->place[sum].first && !read(c, op, added))
            return false;
    }
    return true;
}

static bool run_op(Checker *c, IrOp op)
{
    const IrOpData *data = ir_op(c->m, op);
    if (data->code == IR_get || data->code == IR_reshape || data->code == IR_set)
        return find_places(c, op); /* sets: see run_sets */
    for (uint32_t i = 0; i < data->n_operands; i++)
        if (!read(c, op, data->operands[i]))
            return false;
    if (!find_places(c, op) || !check_aliases(c, op) || !check_reduced(c, op))
        return false;
    for (uint32_t i = 0; i < data->n_results; i++)
        write(c, c->place[data->results[i]], c->holds[data->results[i]]);
    return true;
}

/* Copies are made after everything else, those that read globals first (executor.c). A refused step writes no global
 * that is kept. */
static bool run_sets(Checker *c)
{
    IR_FOR_OPS(c->m, c->func, op)
    {
        const IrOpData *data = ir_op(c->m, op);
        if (data->code == IR_set && !read(c, op, data->operands[0]))
            return false;
    }
    return true;
}

static bool check_refusal(Checker *c)
{
    bool check_to_come = false;
    for (IrOp op = ir_func(c->m, c->func)->last; op; op = ir_op(c->m, op)->prev)
    {
        const IrOpData *data = ir_op(c->m, op);
        check_to_come = check_to_come || data->code == IR_check_finite;
        for (uint32_t i = 0; check_to_come && data->code != IR_get && i < data->n_results; i++)
        {
            IrGlobal space = c->place[data->results[i]].space;
            if (data->code != IR_reshape && space &&
                (ir_global(c->m, space)->kind == IR_GLOBAL_PARAM || ir_global(c->m, space)->kind == IR_GLOBAL_STATE))
                return complain(c, op, "writes what is kept before the step can still be refused", data->results[i]);
        }
    }
    return true;
}

/* Live: from the op that makes it to the last that reads it; what is copied to a global at the end, to the end. */
static void measure_live(Checker *c)
{
    const IrModule *m = c->m;
    uint32_t *last_read = ARENA_ARRAY(c->arena, uint32_t, m->values.len), position = 0, n_ops = 0;
    IR_FOR_OPS(m, c->func, op)
    n_ops++;
    IR_FOR_OPS(m, c->func, op)
    {
        position++;
        const IrOpData *data = ir_op(m, op);
        for (uint32_t i = 0; i < data->n_operands; i++)
            if (c->holds[data->operands[i]] < m->values.len && data->code != IR_reshape)
                last_read[c->holds[data->operands[i]]] = data->code == IR_set ? n_ops : position;
    }
    int64_t *dies = ARENA_ARRAY(c->arena, int64_t, n_ops + 2), live = 0;
    position = 0;
    IR_FOR_OPS(m, c->func, op)
    {
        position++;
        const IrOpData *data = ir_op(m, op);
        for (uint32_t i = 0; (data->code == IR_call || data->code == IR_matmul) && i < data->n_results; i++)
        {
            const Place *place = &c->place[data->results[i]];
            int64_t size_bytes = place->space ? 0 : place->end - place->first;
            uint32_t last = last_read[data->results[i]];
            live += size_bytes;
            dies[last > position ? last : position] += size_bytes;
            for (uint32_t k = 0; k < data->n_operands && size_bytes; k++)
            {
                IrValue held = c->holds[data->operands[k]];
                if (held >= m->values.len || last_read[held] != position || c->place[held].space ||
                    c->place[held].first != place->first)
                    continue;
                live -= size_bytes; /* the operand ends where the result begins: once in this place */
                dies[position] -= size_bytes;
                break;
            }
        }
        if (live > c->facts.live_bytes)
            c->facts.live_bytes = live;
        live -= dies[position];
    }
}

const char *plan_check(Arena *arena, const IrModule *m, IrFunc func, PlanFacts *out_facts)
{
    Checker c = {.arena = arena,
                 .m = m,
                 .func = func,
                 .holds = ARENA_ARRAY(arena, uint32_t, m->values.len),
                 .place = ARENA_ARRAY(arena, Place, m->values.len)};
    c.facts.arena_bytes = ir_attrs_int(&ir_func(m, func)->attrs, IR_ATTR_arena_bytes, -1);
    c.facts.sums_at = ir_attrs_int(&ir_func(m, func)->attrs, IR_ATTR_sums_at, c.facts.arena_bytes);
    for (IrGlobal g = 1; g < m->globals.len; g++)
        vec_push(arena, &c.memory, (Region){place_of_global(&c, g), m->values.len + g});
    IR_FOR_OPS(m, func, op)
    if (!run_op(&c, op))
        return c.why;
    if (!run_sets(&c) || !check_refusal(&c))
        return c.why;
    measure_live(&c);
    if (c.facts.arena_bytes < c.facts.live_bytes)
        return arena_printf(arena, "the arena has %lld bytes, %lld are alive at once", (long long)c.facts.arena_bytes,
                            (long long)c.facts.live_bytes);
    *out_facts = c.facts;
    return NULL;
}
