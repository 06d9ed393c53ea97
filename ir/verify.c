/* The rules of the IR. Two rounds: first the structure of every function (links, counts, attributes: what the SHAPE
 * rules and the printer rely on), then what ops mean (definition before use, types, effects in order). */
#include "ir/verify.h"

#include "ir/builder.h"
#include "ir/text.h"

#include <string.h>

typedef struct
{
    Arena *arena;
    const IrModule *m;
    IrFunc func;
    IrOp op;          /* 0 while its text cannot be printed */
    IrFunc *defined;  /* per value: the function in which it is defined so far */
    bool *global_set; /* per global: set in this function */
    const char *why;
} Verifier;

__attribute__((format(printf, 2, 3))) static bool fail(Verifier *v, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const char *rule = arena_vprintf(v->arena, format, args);
    va_end(args);
    if (v->func && v->op)
        v->why = arena_printf(v->arena, "func @%s: %s: %s", ir_func(v->m, v->func)->name,
                              ir_print_op(v->arena, v->m, v->op), rule);
    else if (v->func)
        v->why = arena_printf(v->arena, "func @%s: %s", ir_func(v->m, v->func)->name, rule);
    else
        v->why = rule;
    return false;
}

/* ---- structure */

static bool check_attrs(Verifier *v, const IrAttrs *attrs)
{
    for (uint32_t i = 0; i < attrs->len; i++)
    {
        const IrAttr *attr = &attrs->data[i];
        if (attr->key <= IR_ATTR_NONE || attr->key >= IR_ATTR_COUNT)
        {
            v->op = 0;
            return fail(v, "has an attribute of no known key");
        }
        if (i && attrs->data[i - 1].key >= attr->key)
            return fail(v, "attribute '%s' is out of order", ir_attr_name(attr->key));
        IrAttrKind kind = ir_attr_kind(attr->key);
        if ((kind == IR_KIND_STR && !attr->s) || (kind == IR_KIND_INTS && attr->n && !attr->ints) ||
            (kind == IR_KIND_BOOL && attr->i != 1))
        {
            v->op = 0; /* it cannot be printed */
            return fail(v, "attribute '%s' has no value", ir_attr_name(attr->key));
        }
    }
    return true;
}

static bool check_type(Verifier *v, const IrType *type)
{
    if (type->dtype >= DT_COUNT || type->rank > IR_MAX_RANK)
        return fail(v, "a type is none");
    int64_t n_elems = 1;
    for (int i = 0; i < type->rank; i++)
    {
        if (type->dims[i] < 1 || type->dims[i] > IR_MAX_ELEMS / n_elems)
            return fail(v, "the type %s is empty or too large", ir_type_text(v->arena, type));
        n_elems *= type->dims[i];
    }
    return true;
}

static bool check_span(Verifier *v, const Span *span)
{
    if (span->file > v->m->files.len)
        return fail(v, "is at a place in file %u of %u", span->file, v->m->files.len);
    return true;
}

static bool check_op_structure(Verifier *v, IrOp op)
{
    const IrOpData *data = ir_op(v->m, op);
    if (data->func != v->func)
        return fail(v, "op %u is linked into this function but belongs to another", op);
    if (data->next ? ir_op(v->m, data->next)->prev != op : ir_func(v->m, v->func)->last != op)
        return fail(v, "the links behind op %u are broken", op);
    if (data->code <= IR_INVALID || data->code >= IR_CODE_COUNT)
        return fail(v, "op %u has no known code", op);
    for (uint32_t i = 0; i < data->n_results; i++)
    {
        if (data->results[i] == 0 || data->results[i] >= v->m->values.len)
            return fail(v, "op %u has a result that is no value", op);
        const IrValueData *result = ir_value(v->m, data->results[i]);
        if (result->def != op || result->result != i)
            return fail(v, "result %u of op %u is defined elsewhere", i + 1, op);
        if (!check_type(v, &result->type))
            return false;
    }
    v->op = op;
    const IrOpInfo *info = ir_op_info(data->code);
    if (data->n_operands < info->min_operands || data->n_operands > info->max_operands)
        return fail(v, "has %u operands, expected %u%s", data->n_operands, info->min_operands,
                    info->max_operands > info->min_operands ? " or more" : "");
    if (info->n_results == IR_MANY ? data->n_results > IR_MAX_RESULTS : data->n_results != info->n_results)
        return fail(v, "has %u results, expected %u", data->n_results,
                    info->n_results == IR_MANY ? IR_MAX_RESULTS : info->n_results);
    bool ok = check_attrs(v, &data->attrs) && check_span(v, &data->span);
    v->op = 0;
    return ok;
}

static bool check_func_structure(Verifier *v)
{
    const IrFuncData *f = ir_func(v->m, v->func);
    if (ir_func_find(v->m, f->name) != v->func)
        return fail(v, "there is another function of that name");
    if (!check_attrs(v, &f->attrs))
        return false;
    if (f->first ? ir_op(v->m, f->first)->prev != 0 : f->last != 0)
        return fail(v, "the list of ops does not begin with its first op");
    uint32_t n_ops = 0;
    IR_FOR_OPS(v->m, v->func, op)
    if (++n_ops >= v->m->ops.len)
        return fail(v, "the list of ops has a loop");
    else if (!check_op_structure(v, op))
        return false;
    return true;
}

/* Along one axis, the first or the last. */
static bool check_window(Verifier *v, const IrGlobalData *copy)
{
    const char *within = ir_attrs_str(&copy->attrs, IR_ATTR_within);
    const IrGlobal whole = within ? ir_global_find(v->m, within) : 0;
    const IrGlobalData *all = ir_global(v->m, whole);
    const int64_t at = ir_attrs_int(&copy->attrs, IR_ATTR_at, 0);
    int n_shorter = 0;
    if (!within)
        return true;
    bool fits = whole && all->kind == IR_GLOBAL_COPY && !ir_attrs_find(&all->attrs, IR_ATTR_of) &&
                ir_attrs_find(&copy->attrs, IR_ATTR_of) && all->type.rank == copy->type.rank;
    for (int i = 0; fits && i < copy->type.rank; i++)
    {
        const int64_t room = all->type.dims[i] - copy->type.dims[i];
        n_shorter += room != 0;
        fits = room == 0 || (at >= 0 && at <= room && (i == 0 || i == copy->type.rank - 1));
    }
    return (fits && n_shorter == 1) || fail(v, "global \"%s\" does not lie in \"%s\"", copy->name, within);
}

static bool check_global(Verifier *v, IrGlobal index)
{
    const IrGlobalData *global = ir_global(v->m, index);
    if (!check_type(v, &global->type) || !check_attrs(v, &global->attrs) || !check_span(v, &global->span))
        return fail(v, "global \"%s\": %s", global->name, v->why);
    if (ir_global_find(v->m, global->name) != index)
        return fail(v, "global \"%s\": there is another of that name", global->name);
    const char *of = ir_attrs_str(&global->attrs, IR_ATTR_of);
    IrGlobal param = of ? ir_global_find(v->m, of) : 0;
    const bool is_copy = global->kind == IR_GLOBAL_COPY;
    if (of &&
        ((global->kind != IR_GLOBAL_STATE && !is_copy) || !param || ir_global(v->m, param)->kind != IR_GLOBAL_PARAM))
        return fail(v, "global \"%s\": attribute 'of' is for a state or a copy and names a param", global->name);
    if (is_copy &&
        (global->type.dtype != DT_BF16 || (of && !ir_type_same_shape(&global->type, &ir_global(v->m, param)->type))))
        return fail(v, "global \"%s\": a copy is the bf16 of the param that it is 'of'", global->name);
    return !is_copy || check_window(v, global);
}

/* ---- meaning */

static bool check_operands(Verifier *v, const IrOpData *data)
{
    for (uint32_t i = 0; i < data->n_operands; i++)
        if (data->operands[i] == 0 || data->operands[i] >= v->m->values.len || v->defined[data->operands[i]] != v->func)
            return fail(v, "operand %u is not defined before", i + 1);
    for (uint32_t i = 0; i < data->n_results; i++)
        v->defined[data->results[i]] = v->func;
    return true;
}

static bool check_types(Verifier *v, const IrOpData *data)
{
    IrType types[IR_MAX_RESULTS];
    uint32_t n_types;
    const char *why;
    const IrType *given = data->n_results == 1 ? ir_value_type(v->m, data->results[0]) : NULL;
    if (!ir_infer(v->arena, v->m, data->code, data->operands, data->n_operands, &data->attrs, given, types, &n_types,
                  &why))
        return fail(v, "%s", why);
    if (n_types != data->n_results)
        return fail(v, "has %u results, expected %u", data->n_results, n_types);
    for (uint32_t i = 0; i < n_types; i++)
        if (!ir_type_equal(&types[i], ir_value_type(v->m, data->results[i])))
            return fail(v, "result %u is %s, expected %s", i + 1,
                        ir_type_text(v->arena, ir_value_type(v->m, data->results[i])),
                        ir_type_text(v->arena, &types[i]));
    return true;
}

/* Ops that only one kind of function may hold: steps touch globals and call kernels, kernels have args and outputs. */
static bool check_home(Verifier *v, const IrOpData *data)
{
    bool step = ir_func(v->m, v->func)->kind == IR_FUNC_STEP;
    const char *name = ir_op_info(data->code)->name;
    bool of_step = data->code == IR_get || data->code == IR_set || data->code == IR_call ||
                   data->code == IR_check_finite || data->code == IR_accumulate || data->code == IR_send ||
                   data->code == IR_recv || data->code == IR_all_reduce || data->code == IR_reduce ||
                   data->code == IR_bcast || data->code == IR_wait;
    bool of_kernel = data->code == IR_arg || data->code == IR_output;
    if (step && of_kernel)
        return fail(v, "'%s' belongs into a kernel", name);
    if (!step && of_step)
        return fail(v, "'%s' belongs into a step", name);
    return true;
}

/* args first, outputs last: a kernel's signature can be read off its ends. */
static bool check_kernel_order(Verifier *v, const IrOpData *data)
{
    if (data->code == IR_arg && data->prev && ir_op(v->m, data->prev)->code != IR_arg)
        return fail(v, "the args of a kernel come before its other ops");
    if (data->code == IR_output && data->next && ir_op(v->m, data->next)->code != IR_output)
        return fail(v, "the outputs of a kernel come after its other ops");
    return true;
}

static bool check_global_use(Verifier *v, const IrOpData *data, bool check_to_come)
{
    if (data->code != IR_get && data->code != IR_set)
        return true;
    const char *name = ir_attrs_str(&data->attrs, IR_ATTR_global);
    IrGlobal index = ir_global_find(v->m, name); /* there: the SHAPE rules have looked */
    const IrGlobalData *global = ir_global(v->m, index);
    if (data->code == IR_get && ir_attrs_find(&global->attrs, IR_ATTR_within))
        return fail(v, "global \"%s\" is read with what it lies in", name);
    if (data->code == IR_get)
        return global->kind == IR_GLOBAL_OUTPUT ? fail(v, "global \"%s\" is an output", name) : true;
    if (global->kind == IR_GLOBAL_COPY && !ir_attrs_find(&global->attrs, IR_ATTR_of))
        return fail(v, "global \"%s\" is set by what lies in it", name);
    if (v->global_set[index])
        return fail(v, "global \"%s\" is set twice", name);
    v->global_set[index] = true;
    bool kept = global->kind != IR_GLOBAL_OUTPUT;
    if (kept && check_to_come)
        return fail(v, "sets what is kept before a check_finite that could refuse the step");
    return true;
}

/* Exchanges between replicas: the root is one of them, and what only it gets nobody else reads. */
static bool check_root(Verifier *v, const IrOpData *data, bool check_to_come)
{
    const IrAttrs *plan = &ir_func(v->m, v->func)->attrs;
    const IrAttr *root = ir_attrs_find(&data->attrs, IR_ATTR_root);
    if (root && (root->i < 0 || root->i >= ir_attrs_int(plan, IR_ATTR_replicas, 1)))
        return fail(v, "its root is no replica");
    if (data->code == IR_bcast && check_to_come)
        return fail(v, "gives new params before a check_finite that could refuse the step");
    for (uint32_t i = 0; i < data->n_operands && data->code != IR_wait; i++)
    {
        const IrOpData *def = ir_op(v->m, ir_value(v->m, data->operands[i])->def);
        if (def->code == IR_reduce &&
            ir_attrs_int(&def->attrs, IR_ATTR_root, 0) != ir_attrs_int(plan, IR_ATTR_replica, 0))
            return fail(v, "operand %u is a sum that only another replica gets", i + 1);
    }
    return true;
}

/* A copy is what its param is: whatever sets one sets the other. */
static bool check_copies(Verifier *v)
{
    const bool refreshes = strcmp(ir_func(v->m, v->func)->name, IR_REFRESH) == 0;
    for (IrGlobal g = 1; g < v->m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(v->m, g);
        const char *of = global->kind == IR_GLOBAL_COPY ? ir_attrs_str(&global->attrs, IR_ATTR_of) : NULL;
        const bool sets_param = of && v->global_set[ir_global_find(v->m, of)];
        if (of && sets_param && !v->global_set[g])
            return fail(v, "sets \"%s\" and not its copy \"%s\"", of, global->name);
        if (of && !sets_param && v->global_set[g] && !refreshes)
            return fail(v, "sets the copy \"%s\" and not \"%s\"", global->name, of);
    }
    return true;
}

static bool check_func_meaning(Verifier *v)
{
    uint32_t n_checks = 0;
    memset(v->global_set, 0, sizeof *v->global_set * v->m->globals.len);
    IR_FOR_OPS(v->m, v->func, op)
    n_checks += ir_op(v->m, op)->code == IR_check_finite;
    IR_FOR_OPS(v->m, v->func, op)
    {
        const IrOpData *data = ir_op(v->m, op);
        v->op = op;
        n_checks -= data->code == IR_check_finite;
        if (!check_operands(v, data) || !check_home(v, data) || !check_types(v, data) || !check_kernel_order(v, data) ||
            !check_global_use(v, data, n_checks > 0) || !check_root(v, data, n_checks > 0))
            return false;
    }
    v->op = 0;
    const IrFuncData *f = ir_func(v->m, v->func);
    if (!check_copies(v))
        return false;
    if (f->kind == IR_FUNC_KERNEL && (!f->last || ir_op(v->m, f->last)->code != IR_output))
        return fail(v, "a kernel has at least one output");
    return true;
}

bool ir_verify(Arena *arena, const IrModule *m, const char **out_why)
{
    Verifier verifier = {.arena = arena,
                         .m = m,
                         .defined = ARENA_ARRAY(arena, IrFunc, m->values.len),
                         .global_set = ARENA_ARRAY(arena, bool, m->globals.len)};
    Verifier *v = &verifier;
    bool ok = true;
    for (IrGlobal global = 1; ok && global < m->globals.len; global++)
        ok = check_global(v, global);
    for (int round = 0; round < 2; round++)
    {
        for (IrFunc func = 1; ok && func < m->funcs.len; func++)
        {
            v->func = func;
            if (!ir_func(m, func)->removed)
                ok = round == 0 ? check_func_structure(v) : check_func_meaning(v);
        }
    }
    *out_why = ok ? NULL : v->why;
    return ok;
}
