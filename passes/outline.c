/* Makes a KERNEL function of every fusion group and rewrites the step function to calls.
 *
 * New ops are appended to the step function in an order that respects data and effects, then the old ones are
 * removed. Kernels that are equal but for their place in the XML are shared (twelve equal layers, one kernel). */
#include "passes/fuse.h"

#include "base/bug.h"
#include "base/strbuf.h"
#include "ir/builder.h"
#include "ir/text.h"

#include <string.h>

typedef struct
{
    IrFunc func;
    uint64_t hash;
    const char *text;
} Kernel;

typedef struct
{
    FusePlan *plan;
    IrModule *m;
    Arena *scratch;
    bool *needed;      /* by old value: something outside its group reads it */
    IrValue *step_map; /* old value -> value in the new body */
    int64_t *pitch;    /* by old value: of the copy that it is set to, which lies in another; 0: none */
    bool *emitted;     /* by op: stays and is in its new place */
    bool *group_emitted;
    IrOp check;         /* the function's first check_finite, before all that updates; 0 = none */
    bool *before_check; /* by op: stands before it */
    VEC(Kernel) kernels;
    uint32_t n_names;
    IrValue *kernel_map; /* old value -> value in the kernel of group kernel_map_of[value] */
    uint32_t *kernel_map_of;
} Outliner;

static IrOp def_of(const Outliner *o, IrValue value)
{
    return ir_value(o->m, value)->def;
}

/* ---- which values cross a group's border */

static void need_operands(Outliner *o, IrOp op, uint32_t reader_group, bool reader_in_group)
{
    const IrOpData *data = ir_op(o->m, op);
    for (uint32_t i = 0; i < data->n_operands; i++)
    {
        IrOp def = def_of(o, data->operands[i]);
        if (o->plan->fate[def] == FUSE_CLONED)
            need_operands(o, def, reader_group, reader_in_group);
        else if (!reader_in_group || o->plan->group_of[def] != reader_group)
            o->needed[data->operands[i]] = true;
    }
}

static void note_pitch(Outliner *o, const IrOpData *op)
{
    IrWindow window;
    if (op->code == IR_set &&
        ir_global_window(o->m, ir_global_find(o->m, ir_attrs_str(&op->attrs, IR_ATTR_global)), &window))
        o->pitch[op->operands[0]] = window.pitch;
}

/* ---- the step function's new body */

static void emit_op(Outliner *o, IrOp op);

/* The value in the new body. Only reshapes are looked through: other clonable ops have become roots. */
static IrValue step_value(Outliner *o, IrValue value)
{
    if (o->step_map[value])
        return o->step_map[value];
    IrOp def = def_of(o, value);
    if (o->plan->fate[def] != FUSE_CLONED)
    {
        emit_op(o, def);
        ENSURE(o->step_map[value]);
        return o->step_map[value];
    }
    ENSURE(ir_op(o->m, def)->code == IR_reshape);
    IrValue from = step_value(o, ir_op(o->m, def)->operands[0]);
    IrBuilder b = ir_builder(o->m, o->plan->func);
    const IrOpData *data = ir_op(o->m, def);
    b.span = data->span;
    b.unit = data->unit;
    b.phase = data->phase;
    return o->step_map[value] = ir_build_reshape(&b, from, *ir_value_type(o->m, value));
}

static void emit_stays(Outliner *o, IrOp op)
{
    if (o->emitted[op])
        return;
    o->emitted[op] = true;
    const uint32_t n_operands = ir_op(o->m, op)->n_operands;
    for (uint32_t i = 0; i < n_operands; i++)
    {
        IrValue value = step_value(o, ir_op(o->m, op)->operands[i]);
        ir_op(o->m, op)->operands[i] = value;
    }
    ir_op_move(o->m, op, 0);
    const IrOpData *data = ir_op(o->m, op);
    for (uint32_t i = 0; i < data->n_results; i++)
        o->step_map[data->results[i]] = data->results[i];
}

/* ---- kernels */

typedef struct
{
    Outliner *o;
    IrFunc func;
    uint32_t group;
    IrOp first_body;    /* args go before it */
    VEC(IrValue) args;  /* old values */
    bool step_operands; /* templates: views are taken in the step function, and every operand is an argument of its own
                         */
} KernelBuilder;

static IrValue map_value(KernelBuilder *k, IrValue value, IrValue to)
{
    k->o->kernel_map_of[value] = k->group;
    return k->o->kernel_map[value] = to;
}

/* Older values first, so that kernels are equal which differ in nothing else. */
static void order_operands(const IrModule *m, IrOp op, IrValue *operands)
{
    if (ir_code_has(ir_op(m, op)->code, IR_TRAIT_COMMUTES) && operands[0] > operands[1])
    {
        const IrValue first = operands[0];
        operands[0] = operands[1];
        operands[1] = first;
    }
}

static IrValue kernel_value(KernelBuilder *k, IrValue value)
{
    IrModule *m = k->o->m;
    if (k->o->kernel_map_of[value] == k->group && !k->step_operands)
        return k->o->kernel_map[value];
    IrOp def = def_of(k->o, value);
    if (k->o->plan->fate[def] == FUSE_CLONED && !k->step_operands)
    {
        uint32_t n = ir_op(m, def)->n_operands;
        IrValue *operands = ARENA_ARRAY(k->o->scratch, IrValue, n);
        for (uint32_t i = 0; i < n; i++)
            operands[i] = kernel_value(k, ir_op(m, def)->operands[i]);
        order_operands(m, def, operands);
        IrBuilder b = ir_builder(m, k->func);
        IrOp clone = ir_build_clone(&b, def, operands);
        if (!k->first_body)
            k->first_body = clone;
        return map_value(k, value, ir_op_result(m, clone, 0));
    }
    vec_push(k->o->scratch, &k->args, value);
    const IrType type = *ir_value_type(m, value);
    IrOp arg = ir_op_insert(m, k->func, k->first_body, IR_arg, NULL, 0, &type, 1, NULL, 0);
    return map_value(k, value, ir_op_result(m, arg, 0));
}

static void build_body(KernelBuilder *k, const FuseGroup *group)
{
    IrModule *m = k->o->m;
    for (uint32_t i = 0; i < group->ops.len; i++)
    {
        IrOp op = group->ops.data[i];
        uint32_t n = ir_op(m, op)->n_operands;
        IrValue *operands = ARENA_ARRAY(k->o->scratch, IrValue, n);
        for (uint32_t j = 0; j < n; j++)
            operands[j] = kernel_value(k, ir_op(m, op)->operands[j]);
        order_operands(m, op, operands);
        IrBuilder b = ir_builder(m, k->func);
        IrOp clone = ir_build_clone(&b, op, operands);
        if (!k->first_body)
            k->first_body = clone;
        for (uint32_t j = 0; j < ir_op(m, op)->n_results; j++)
            map_value(k, ir_op(m, op)->results[j], ir_op_result(m, clone, j));
    }
}

/* Random streams count from the first one of the kernel, which becomes an attribute of the call. */
static bool take_out_stream(const Outliner *o, IrFunc kernel, int64_t *out_stream)
{
    IrModule *m = o->m;
    int64_t first = INT64_MAX;
    IR_FOR_OPS(m, kernel, op)
    {
        const IrAttr *stream = ir_attrs_find(&ir_op(m, op)->attrs, IR_ATTR_stream);
        if (stream && stream->i < first)
            first = stream->i;
    }
    *out_stream = first;
    IR_FOR_OPS(m, kernel, op)
    {
        const IrAttr *stream = ir_attrs_find(&ir_op(m, op)->attrs, IR_ATTR_stream);
        if (stream)
            ir_attrs_put(m->arena, &ir_op(m, op)->attrs, ir_attr_int(IR_ATTR_stream, stream->i - first));
    }
    return first != INT64_MAX;
}

/* The kernel's text without its name and places: equal text, equal kernel. */
static const char *kernel_key(Outliner *o, IrFunc func)
{
    VEC(IrOpData) saved = {0};
    IR_FOR_OPS(o->m, func, op)
    {
        IrOpData *data = ir_op(o->m, op);
        vec_push(o->scratch, &saved, *data);
        data->span = (Span){0};
        data->unit = 0;
        data->phase = IR_PHASE_FORWARD;
    }
    StrBuf buf = strbuf_make(o->scratch);
    ir_print_func(&buf, o->m, func);
    uint32_t i = 0;
    IR_FOR_OPS(o->m, func, op)
    {
        IrOpData *data = ir_op(o->m, op);
        data->span = saved.data[i].span;
        data->unit = saved.data[i].unit;
        data->phase = saved.data[i++].phase;
    }
    const char *body = strchr(strbuf_text(&buf), '\n');
    ENSURE(body);
    return body;
}

/* The kernel that equals func, which is func itself when it is new. */
static IrFunc share_kernel(Outliner *o, IrFunc func)
{
    Kernel kernel = {.func = func, .hash = 14695981039346656037u, .text = kernel_key(o, func)};
    for (const char *c = kernel.text; *c; c++) /* FNV-1a */
        kernel.hash = (kernel.hash ^ (unsigned char)*c) * 1099511628211u;
    for (uint32_t i = 0; i < o->kernels.len; i++)
        if (o->kernels.data[i].hash == kernel.hash && strcmp(o->kernels.data[i].text, kernel.text) == 0)
            return o->kernels.data[i].func;
    vec_push(o->scratch, &o->kernels, kernel);
    return func;
}

/* A group that nothing reads from (dead code) makes no kernel. */
static bool group_is_needed(const Outliner *o, const FuseGroup *group)
{
    for (uint32_t i = 0; i < group->ops.len; i++)
    {
        const IrOpData *data = ir_op(o->m, group->ops.data[i]);
        for (uint32_t j = 0; j < data->n_results; j++)
            if (o->needed[data->results[j]])
                return true;
    }
    return false;
}

static void emit_group(Outliner *o, uint32_t id)
{
    IrModule *m = o->m;
    const FuseGroup *group = &o->plan->groups.data[id];
    if (o->group_emitted[id] || !group_is_needed(o, group))
        return;
    o->group_emitted[id] = true;
    IrOp last = group->ops.data[group->ops.len - 1];
    if (o->check && ir_op(m, last)->phase == IR_PHASE_OPTIMIZER && !o->before_check[last])
        emit_op(o, o->check);

    KernelBuilder k = {.o = o, .group = id};
    k.func = ir_func_add(m, IR_FUNC_KERNEL, arena_printf(o->scratch, "k%u", o->n_names++));
    k.step_operands = ir_code_has(ir_op(m, last)->code, IR_TRAIT_TEMPLATE);
    build_body(&k, group);
    VEC(IrValue) results = {0};
    for (uint32_t i = 0; i < group->ops.len; i++)
    {
        for (uint32_t j = 0; j < ir_op(m, group->ops.data[i])->n_results; j++)
        {
            IrValue result = ir_op(m, group->ops.data[i])->results[j];
            bool template_result = ir_op(m, group->ops.data[i])->n_results > 1; /* all of them, in order */
            if (!o->needed[result] && !template_result)
                continue;
            vec_push(o->scratch, &results, result);
            const IrAttr pitch = ir_attr_int(IR_ATTR_pitch, o->pitch[result]);
            ir_op_insert(m, k.func, 0, IR_output, &o->kernel_map[result], 1, NULL, 0, &pitch, o->pitch[result] != 0);
        }
    }
    int64_t stream;
    bool random = take_out_stream(o, k.func, &stream);
    IrFunc kernel = share_kernel(o, k.func);
    if (kernel != k.func)
    {
        ir_func_remove(m, k.func);
        o->n_names--;
    }

    IrValue *operands = ARENA_ARRAY(o->scratch, IrValue, k.args.len);
    for (uint32_t i = 0; i < k.args.len; i++)
        operands[i] = step_value(o, k.args.data[i]);
    ENSURE(results.len <= IR_MAX_RESULTS);
    IrType types[IR_MAX_RESULTS];
    for (uint32_t i = 0; i < results.len; i++)
        types[i] = *ir_value_type(m, results.data[i]);
    IrAttr attrs[2] = {ir_attr_str(IR_ATTR_fn, ir_func(m, kernel)->name)};
    if (random)
        attrs[1] = ir_attr_int(IR_ATTR_stream, stream);
    IrOp call =
        ir_op_insert(m, o->plan->func, 0, IR_call, operands, k.args.len, types, results.len, attrs, random ? 2 : 1);
    IrOpData *data = ir_op(m, call);
    data->span = ir_op(m, last)->span;
    data->unit = ir_op(m, last)->unit;
    data->phase = ir_op(m, last)->phase;
    for (uint32_t i = 0; i < results.len; i++)
        o->step_map[results.data[i]] = data->results[i];
}

static void emit_op(Outliner *o, IrOp op)
{
    uint32_t group = o->plan->group_of[op];
    if (group)
        emit_group(o, group);
    else
        emit_stays(o, op);
}

void fuse_outline(FusePlan *plan)
{
    IrModule *m = plan->m;
    Outliner o = {.plan = plan,
                  .m = m,
                  .scratch = plan->scratch,
                  .needed = ARENA_ARRAY(plan->scratch, bool, m->values.len),
                  .step_map = ARENA_ARRAY(plan->scratch, IrValue, m->values.len),
                  .kernel_map = ARENA_ARRAY(plan->scratch, IrValue, m->values.len),
                  .kernel_map_of = ARENA_ARRAY(plan->scratch, uint32_t, m->values.len),
                  .pitch = ARENA_ARRAY(plan->scratch, int64_t, m->values.len),
                  .emitted = ARENA_ARRAY(plan->scratch, bool, m->ops.len),
                  .before_check = ARENA_ARRAY(plan->scratch, bool, m->ops.len),
                  .group_emitted = ARENA_ARRAY(plan->scratch, bool, plan->groups.len)};
    VEC(IrOp) old = {0};
    IR_FOR_OPS(m, plan->func, op)
    {
        vec_push(plan->scratch, &old, op);
        if (ir_op(m, op)->code == IR_check_finite && !o.check)
            o.check = op;
        o.before_check[op] = !o.check;
        note_pitch(&o, ir_op(m, op));
        if (plan->fate[op] != FUSE_CLONED)
            need_operands(&o, op, plan->group_of[op], plan->group_of[op] != 0);
    }
    IR_FOR_FUNCS(m, f) /* kernels of functions done before */
    if (ir_func(m, f)->kind == IR_FUNC_KERNEL)
        share_kernel(&o, f);
    o.n_names = o.kernels.len;
    for (uint32_t i = 0; i < old.len; i++)
    {
        IrOp op = old.data[i];
        uint32_t id = plan->group_of[op];
        const FuseGroup *group = &plan->groups.data[id];
        if (plan->fate[op] == FUSE_STAYS ? ir_op(m, op)->code != IR_get
                                         : id && group->ops.data[group->ops.len - 1] == op)
            emit_op(&o, op);
    }
    for (uint32_t i = 0; i < old.len; i++)
        if (!o.emitted[old.data[i]])
            ir_op_remove(m, old.data[i]);
}
