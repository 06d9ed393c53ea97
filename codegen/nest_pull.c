/* Pull rules: one function per structural op says at which positions its operands are read; elementwise ops read at
 * the same position. Positions are linear; views split them into axes and join them again (codegen/index.h). */
#include "codegen/nest_pull.h"

#include "base/bug.h"
#include "codegen/scalar_ops.h"

enum
{
    COST_LOAD = 1,
    COST_RANDOM = 40,
    COST_KEEP = 8 /* a value dearer than this is kept in a slot rather than computed again */
};

typedef NestInst PullRule(Pull *p, const IrOpData *op, IrValue value, Idx at, NestInst guard);
static NestInst pull_guarded(Pull *p, IrValue value, Idx at, NestInst guard);

static bool idx_is_inner(const NestStage *stage, Idx at)
{
    const IdxExpr *x = idx_get(&stage->idx, at);
    for (uint32_t i = 0; i < x->n_terms; i++)
    {
        const IdxTerm *term = &x->terms[i];
        if (term->atom == 0 ? term->div % stage->inner != 0
                            : idx_is_inner(stage, stage->idx.atoms.data[term->atom].source))
            return true;
    }
    return false;
}

static NestInst add_inst(Pull *p, NestInstData inst)
{
    NestStage *stage = p->stage;
    inst.phase = p->phase;
    inst.slot = -1;
    inst.inner = idx_is_inner(stage, inst.index);
    for (uint32_t i = 0; i < inst.n_args; i++)
    {
        if (inst.args[i] == 0)
            continue;
        const NestInstData *arg = &stage->insts.data[inst.args[i]];
        inst.inner |= arg->inner;
        inst.cost += arg->cost;
    }
    if (stage->insts.len == 0)
        vec_push(p->arena, &stage->insts, (NestInstData){0});
    vec_push(p->arena, &stage->insts, inst);
    return stage->insts.len - 1;
}

static NestInst fail(Pull *p, const char *why)
{
    if (!p->why)
        p->why = why;
    return 0;
}

void pull_keep(NestStage *stage, NestInst inst)
{
    NestInstData *data = &stage->insts.data[inst];
    if (data->kind == INST_KEPT)
        return;
    if (data->slot < 0)
        data->slot = (int32_t)stage->n_slots++;
}

/* lo <= at < hi and guard; returns guard itself when the bounds always hold. */
static NestInst add_guard(Pull *p, Idx at, int64_t lo, int64_t hi, NestInst guard)
{
    int64_t min, max;
    idx_range(&p->stage->idx, at, &min, &max);
    if (min >= lo && max < hi)
        return guard;
    for (NestInst i = 1; i < p->stage->insts.len; i++)
    {
        const NestInstData *data = &p->stage->insts.data[i];
        if (data->kind == INST_GUARD && data->index == at && data->lo == lo && data->hi == hi &&
            data->args[0] == guard && (data->phase == p->phase || !data->inner))
            return i;
    }
    return add_inst(p, (NestInstData){.kind = INST_GUARD,
                                      .dtype = DT_BOOL,
                                      .n_args = 1,
                                      .args = {guard},
                                      .index = at,
                                      .lo = lo,
                                      .hi = hi,
                                      .cost = 1});
}

static NestInst add_const(Pull *p, DType dtype, double value)
{
    return add_inst(p, (NestInstData){.kind = INST_CONST, .dtype = dtype, .value = value});
}

static NestInst add_pick(Pull *p, DType dtype, NestInst cond, NestInst yes, NestInst no)
{
    if (!yes || !no)
        return 0;
    return add_inst(p,
                    (NestInstData){.kind = INST_PICK, .dtype = dtype, .n_args = 3, .args = {cond, yes, no}, .cost = 1});
}

static NestInst pull_arg(Pull *p, const IrOpData *op, IrValue value, Idx at, NestInst guard)
{
    (void)op;
    uint32_t number = 0;
    for (IrOp o = ir_func(p->nest->m, p->nest->func)->first; o != ir_value(p->nest->m, value)->def;
         o = ir_op(p->nest->m, o)->next)
        number += ir_op(p->nest->m, o)->code == IR_arg;
    return add_inst(p, (NestInstData){.kind = INST_LOAD,
                                      .dtype = (DType)ir_value_type(p->nest->m, value)->dtype,
                                      .n_args = 1,
                                      .args = {guard},
                                      .index = at,
                                      .arg = number,
                                      .cost = COST_LOAD});
}

static NestInst pull_const(Pull *p, const IrOpData *op, IrValue value, Idx at, NestInst guard)
{
    (void)at, (void)guard;
    return add_const(p, (DType)ir_value_type(p->nest->m, value)->dtype, ir_attrs_float(&op->attrs, IR_ATTR_value, 0));
}

static NestInst pull_iota(Pull *p, const IrOpData *op, IrValue value, Idx at, NestInst guard)
{
    (void)guard;
    const IrType *type = ir_value_type(p->nest->m, value);
    Idx axes[IR_MAX_RANK];
    idx_split(&p->stage->idx, at, type->rank, type->dims, axes);
    return add_inst(p, (NestInstData){.kind = INST_INDEX,
                                      .dtype = (DType)type->dtype,
                                      .index = axes[ir_attrs_int(&op->attrs, IR_ATTR_axis, 0)],
                                      .cost = 1});
}

static NestInst pull_random(Pull *p, const IrOpData *op, IrValue value, Idx at, NestInst guard)
{
    const IrType *type = ir_value_type(p->nest->m, value);
    Idx row, element;
    idx_divmod(&p->stage->idx, at, ir_type_n_elems(type) / type->dims[0], &row, &element);
    NestInst key0 = pull_value(p, op->operands[0], idx_const(&p->stage->idx, 0));
    NestInst key1 = pull_value(p, op->operands[0], idx_const(&p->stage->idx, 1));
    NestInst sample = pull_guarded(p, op->operands[1], row, guard);
    if (!key0 || !key1 || !sample)
        return 0;
    return add_inst(p, (NestInstData){.kind = INST_RANDOM,
                                      .dtype = DT_F32,
                                      .n_args = 3,
                                      .args = {key0, key1, sample},
                                      .index = element,
                                      .stream = ir_attrs_int(&op->attrs, IR_ATTR_stream, 0),
                                      .cost = COST_RANDOM});
}

static NestInst pull_ewise(Pull *p, const IrOpData *op, IrValue value, Idx at, NestInst guard)
{
    NestInstData inst = {.kind = INST_OP,
                         .code = op->code,
                         .dtype = (DType)ir_value_type(p->nest->m, value)->dtype,
                         .in_dtype = (DType)ir_value_type(p->nest->m, op->operands[op->n_operands - 1])->dtype,
                         .n_args = op->n_operands,
                         .cost = scalar_op_cost(op->code)};
    for (uint32_t i = 0; i < op->n_operands; i++)
    {
        inst.args[i] = pull_guarded(p, op->operands[i], at, guard);
        if (!inst.args[i])
            return 0;
    }
    return add_inst(p, inst);
}

static NestInst pull_reshape(Pull *p, const IrOpData *op, IrValue value, Idx at, NestInst guard)
{
    (void)value;
    return pull_guarded(p, op->operands[0], at, guard);
}

static NestInst pull_transpose(Pull *p, const IrOpData *op, IrValue value, Idx at, NestInst guard)
{
    const IrType *type = ir_value_type(p->nest->m, value);
    const IrType *from = ir_value_type(p->nest->m, op->operands[0]);
    const IrAttr *perm = ir_attrs_find(&op->attrs, IR_ATTR_perm);
    Idx axes[IR_MAX_RANK], from_axes[IR_MAX_RANK];
    idx_split(&p->stage->idx, at, type->rank, type->dims, axes);
    for (int i = 0; i < type->rank; i++)
        from_axes[perm->ints[i]] = axes[i];
    return pull_guarded(p, op->operands[0], idx_join(&p->stage->idx, from->rank, from->dims, from_axes), guard);
}

static NestInst pull_broadcast(Pull *p, const IrOpData *op, IrValue value, Idx at, NestInst guard)
{
    const IrType *type = ir_value_type(p->nest->m, value);
    const IrType *from = ir_value_type(p->nest->m, op->operands[0]);
    const IrAttr *dims = ir_attrs_find(&op->attrs, IR_ATTR_dims);
    Idx axes[IR_MAX_RANK], from_axes[IR_MAX_RANK];
    idx_split(&p->stage->idx, at, type->rank, type->dims, axes);
    for (int i = 0; i < from->rank; i++)
        from_axes[i] = axes[dims->ints[i]];
    return pull_guarded(p, op->operands[0], idx_join(&p->stage->idx, from->rank, from->dims, from_axes), guard);
}

static NestInst pull_slice(Pull *p, const IrOpData *op, IrValue value, Idx at, NestInst guard)
{
    const IrType *type = ir_value_type(p->nest->m, value);
    const IrType *from = ir_value_type(p->nest->m, op->operands[0]);
    const IrAttr *starts = ir_attrs_find(&op->attrs, IR_ATTR_starts);
    Idx axes[IR_MAX_RANK];
    idx_split(&p->stage->idx, at, type->rank, type->dims, axes);
    for (int i = 0; i < type->rank; i++)
        axes[i] = idx_add_const(&p->stage->idx, axes[i], starts->ints[i]);
    return pull_guarded(p, op->operands[0], idx_join(&p->stage->idx, from->rank, from->dims, axes), guard);
}

static NestInst pull_pad(Pull *p, const IrOpData *op, IrValue value, Idx at, NestInst guard)
{
    const IrType *type = ir_value_type(p->nest->m, value);
    const IrType *from = ir_value_type(p->nest->m, op->operands[0]);
    const IrAttr *lo = ir_attrs_find(&op->attrs, IR_ATTR_lo);
    Idx axes[IR_MAX_RANK];
    NestInst inside = guard;
    idx_split(&p->stage->idx, at, type->rank, type->dims, axes);
    for (int i = 0; i < type->rank; i++)
    {
        axes[i] = idx_add_const(&p->stage->idx, axes[i], -lo->ints[i]);
        inside = add_guard(p, axes[i], 0, from->dims[i], inside);
    }
    NestInst yes = pull_guarded(p, op->operands[0], idx_join(&p->stage->idx, from->rank, from->dims, axes), inside);
    if (inside == guard)
        return yes;
    NestInst no = add_const(p, (DType)type->dtype, ir_attrs_float(&op->attrs, IR_ATTR_value, 0));
    return add_pick(p, (DType)type->dtype, inside, yes, no);
}

static NestInst pull_concat(Pull *p, const IrOpData *op, IrValue value, Idx at, NestInst guard)
{
    const IrType *type = ir_value_type(p->nest->m, value);
    int64_t axis = ir_attrs_int(&op->attrs, IR_ATTR_axis, 0);
    Idx axes[IR_MAX_RANK];
    idx_split(&p->stage->idx, at, type->rank, type->dims, axes);
    Idx whole = axes[axis];
    NestInst result = 0;
    int64_t start = 0;
    for (uint32_t i = 0; i < op->n_operands; i++)
    {
        const IrType *from = ir_value_type(p->nest->m, op->operands[i]);
        axes[axis] = idx_add_const(&p->stage->idx, whole, -start);
        NestInst inside = add_guard(p, axes[axis], 0, from->dims[axis], guard);
        NestInst piece =
            pull_guarded(p, op->operands[i], idx_join(&p->stage->idx, from->rank, from->dims, axes), inside);
        if (!piece)
            return 0;
        result = i == 0 || inside == guard ? piece : add_pick(p, (DType)type->dtype, inside, piece, result);
        start += from->dims[axis];
    }
    return result;
}

static NestInst pull_reduce(Pull *p, const IrOpData *op, IrValue value, Idx at, NestInst guard)
{
    Nest *nest = p->nest;
    uint32_t k = 0;
    while (k < nest->reduces.len && nest->reduces.data[k].result != value)
        k++;
    if (k == nest->reduces.len) /* over axes of one element */
        return pull_guarded(p, op->operands[0], at, guard);
    const NestReduce *reduce = &nest->reduces.data[k];
    NestStage *stage = p->stage;
    if (reduce->kind == REDUCE_ROW)
    {
        if (p->final >= 0)
            return fail(p, "a row reduction is used together with the result of a column reduction");
        if (at != idx_digit(&stage->idx, stage->inner, stage->rows))
            return fail(p, "the result of a row reduction is used in another row");
        if (reduce->phase >= p->phase)
            return fail(p, "a reduction is used before its phase");
    }
    else if (p->final != (reduce->kind == REDUCE_COLUMN ? NEST_COLUMNS : NEST_WHOLE))
        return fail(p, "the result of a column or whole reduction is used in another domain");
    else if (at != idx_digit(&stage->idx, 1, stage->rows * stage->inner))
        return fail(p, "the result of a column reduction is used in another place");
    NestInst inst = add_inst(p, (NestInstData){.kind = INST_REDUCED, .dtype = reduce->dtype, .reduce = k, .index = at});
    return inst;
}

static PullRule *const rules[IR_CODE_COUNT] = {
    [IR_arg] = pull_arg,
    [IR_const] = pull_const,
    [IR_iota] = pull_iota,
    [IR_random] = pull_random,
    [IR_reshape] = pull_reshape,
    [IR_transpose] = pull_transpose,
    [IR_broadcast] = pull_broadcast,
    [IR_slice] = pull_slice,
    [IR_pad] = pull_pad,
    [IR_concat] = pull_concat,
    [IR_reduce_sum] = pull_reduce,
    [IR_reduce_max] = pull_reduce,
    [IR_reduce_min] = pull_reduce,
};

bool pull_has_rule(IrCode code)
{
    return rules[code] || ir_code_has(code, IR_TRAIT_EWISE);
}

static NestInst pull_guarded(Pull *p, IrValue value, Idx at, NestInst guard)
{
    PullMemo *memo = NULL;
    uint32_t slot = 0;
    for (uint32_t i = 0; i < p->memo.len && !memo; i++)
        if (p->memo.data[i].value == value && p->memo.data[i].at == at && p->memo.data[i].guard == guard)
            memo = &p->memo.data[i], slot = i;
    if (memo)
    {
        const NestInstData *data = &p->stage->insts.data[memo->inst];
        if (!data->inner || data->phase == p->phase)
            return memo->inst;
        NestInst holder = data->kind == INST_KEPT ? data->args[0] : memo->inst;
        const NestInstData *held = &p->stage->insts.data[holder];
        if (held->slot >= 0 || held->cost > COST_KEEP)
        {
            pull_keep(p->stage, holder);
            NestInstData kept = {.kind = INST_KEPT, .dtype = held->dtype, .n_args = 1, .args = {holder}};
            memo->inst = add_inst(p, kept);
            p->stage->insts.data[memo->inst].cost = COST_LOAD;
            return memo->inst;
        }
    }
    IrOp def = ir_value(p->nest->m, value)->def;
    const IrOpData *op = ir_op(p->nest->m, def);
    PullRule *rule = ir_code_has(op->code, IR_TRAIT_EWISE) ? pull_ewise : rules[op->code];
    if (!rule)
        return fail(p, "an op that a loop kernel cannot hold");
    NestInst inst = rule(p, op, value, at, guard);
    if (!inst)
        return 0;
    if (memo)
        p->memo.data[slot].inst = inst;
    else
        vec_push(p->arena, &p->memo, (PullMemo){value, at, guard, inst});
    return inst;
}

NestInst pull_value(Pull *p, IrValue value, Idx at)
{
    return pull_guarded(p, value, at, 0);
}
