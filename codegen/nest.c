/* Builds the nest of a loop kernel: classifies the reductions, finds the domain, orders the work in phases, and pulls
 * every reduction's operand and every output (codegen/nest_pull.c). */
#include "codegen/nest.h"

#include "base/bug.h"
#include "codegen/nest_pull.h"

typedef struct
{
    Arena *arena;
    const IrModule *m;
    IrFunc func;
    Nest *nest;
    VEC(IrValue) outputs;
    VEC(int64_t) pitches; /* by output; 0: its rows lie one behind another */
    int32_t *depth;       /* by value: row reductions in sequence before it */
    uint8_t *final;       /* by value: bits 1 << NEST_COLUMNS, 1 << NEST_WHOLE of the sums that it depends on */
    const char *why;
} Build;

static bool fail(Build *b, const char *why)
{
    if (!b->why)
        b->why = why;
    return false;
}

static int64_t n_elems(const Build *b, IrValue value)
{
    return ir_type_n_elems(ir_value_type(b->m, value));
}

/* Arguments, outputs, and that every op has a rule. */
static bool collect(Build *b)
{
    Nest *nest = b->nest;
    VEC(IrType) args = {0};
    VEC(IrType) outputs = {0};
    IR_FOR_OPS(b->m, b->func, op)
    {
        const IrOpData *data = ir_op(b->m, op);
        if (data->code == IR_output)
        {
            vec_push(b->arena, &b->outputs, data->operands[0]);
            vec_push(b->arena, &b->pitches, ir_attrs_int(&data->attrs, IR_ATTR_pitch, 0));
            vec_push(b->arena, &outputs, *ir_value_type(b->m, data->operands[0]));
        }
        else if (!pull_has_rule(data->code))
            return fail(b, arena_printf(b->arena, "%s is not an op of loop kernels", ir_op_info(data->code)->name));
        else if (data->code == IR_arg)
            vec_push(b->arena, &args, *ir_value_type(b->m, data->results[0]));
        for (uint32_t i = 0; i < data->n_results; i++)
            if (n_elems(b, data->results[i]) == 0)
                return fail(b, "a value without elements");
    }
    if (outputs.len == 0)
        return fail(b, "no outputs");
    nest->n_args = args.len;
    nest->arg_types = args.data;
    nest->n_outputs = outputs.len;
    nest->output_types = outputs.data;
    return true;
}

/* The reduced axes as one run: the operand is (outer, reduced, inner). */
static bool reduce_run(const Build *b, const IrOpData *op, int64_t *out_outer, int64_t *out_reduced, int64_t *out_inner)
{
    const IrType *type = ir_value_type(b->m, op->operands[0]);
    const IrAttr *axes = ir_attrs_find(&op->attrs, IR_ATTR_axes);
    bool reduced[IR_MAX_RANK] = {false};
    for (uint32_t i = 0; i < axes->n; i++)
        reduced[axes->ints[i]] = true;
    int64_t extent[3] = {1, 1, 1};
    int part = 0;
    for (int i = 0; i < type->rank; i++)
    {
        if (type->dims[i] == 1)
            continue;
        if (part == 0 && reduced[i])
            part = 1;
        else if (part == 1 && !reduced[i])
            part = 2;
        else if (part == 2 && reduced[i])
            return false;
        extent[part] *= type->dims[i];
    }
    *out_outer = extent[0];
    *out_reduced = extent[1];
    *out_inner = extent[2];
    return true;
}

/* True when something computed from value has more elements than one: then a whole sum must be there row by row. */
static bool spreads(const Build *b, IrValue value)
{
    bool *from = ARENA_ARRAY(b->arena, bool, b->m->values.len);
    from[value] = true;
    IR_FOR_OPS(b->m, b->func, op)
    {
        const IrOpData *data = ir_op(b->m, op);
        bool uses = false;
        for (uint32_t i = 0; i < data->n_operands; i++)
            uses |= from[data->operands[i]];
        for (uint32_t i = 0; i < data->n_results && uses; i++)
        {
            if (n_elems(b, data->results[i]) > 1)
                return true;
            from[data->results[i]] = true;
        }
    }
    return false;
}

/* Kinds of the reductions, and the domain that they agree on. */
static bool classify(Build *b)
{
    Nest *nest = b->nest;
    int64_t rows = 0, inner = 0, groups = 0; /* 0: not known yet */
    VEC(int64_t) sizes = {0};
    IR_FOR_OPS(b->m, b->func, op)
    {
        const IrOpData *data = ir_op(b->m, op);
        if (!ir_code_has(data->code, IR_TRAIT_REDUCE))
            continue;
        int64_t outer, reduced, after;
        if (!reduce_run(b, data, &outer, &reduced, &after))
            return fail(b, "reduced axes that are not next to each other");
        if (reduced == 1)
            continue;
        NestReduce r = {.code = data->code,
                        .dtype = (DType)ir_value_type(b->m, data->results[0])->dtype,
                        .operand = data->operands[0],
                        .result = data->results[0]};
        int64_t my_rows = outer, my_inner = reduced, my_groups = 0;
        if (after > 1)
        {
            r.kind = REDUCE_COLUMN;
            my_rows = outer * reduced;
            my_inner = after;
            my_groups = outer;
        }
        else
            r.kind = outer > 1 || spreads(b, r.result) ? REDUCE_ROW : REDUCE_WHOLE;
        vec_push(b->arena, &nest->reduces, r);
        vec_push(b->arena, &sizes, outer * reduced * after);
        if (r.kind == REDUCE_WHOLE)
            continue;
        if ((rows && (rows != my_rows || inner != my_inner)) || (groups && my_groups && groups != my_groups))
            return fail(b, "reductions over different domains");
        rows = my_rows;
        inner = my_inner;
        groups = my_groups ? my_groups : groups;
    }
    nest->has_final[NEST_COLUMNS] = groups > 0;
    nest->groups = groups ? groups : 1;
    int64_t flat = 0;
    for (uint32_t k = 0; k < nest->reduces.len; k++)
    {
        NestReduce *r = &nest->reduces.data[k];
        if (r->kind != REDUCE_WHOLE)
            continue;
        if (rows == 1 && inner == sizes.data[k])
            r->kind = REDUCE_ROW; /* beside row reductions of the only row */
        else if (rows && (rows == sizes.data[k] || rows * inner == sizes.data[k]))
        {
            r->kind = REDUCE_WHOLE_LATER;
            r->n_later = sizes.data[k];
            if (r->n_later > NEST_MAX_CHUNKS * (int64_t)NEST_CHUNK)
                return fail(b, "a whole sum of too many values");
        }
        else if (rows || (flat && flat != sizes.data[k]))
            return fail(b, "reductions over different domains");
        else
            flat = sizes.data[k];
    }
    if (!rows)
    {
        /* Outputs of two sizes: one value per row, and one per element. Beside whole sums, an output of one element
         * tells nothing. */
        bool whole = flat > 0;
        int64_t least = INT64_MAX;
        for (uint32_t i = 0; i < b->outputs.len; i++)
        {
            int64_t n = n_elems(b, b->outputs.data[i]);
            flat = n > flat ? n : flat;
            if (n < least && (n > 1 || !whole))
                least = n;
        }
        if (least < flat && flat % least == 0)
        {
            rows = least;
            inner = flat / least;
        }
        for (uint32_t k = 0; rows && k < nest->reduces.len; k++)
        {
            nest->reduces.data[k].kind = REDUCE_WHOLE_LATER;
            nest->reduces.data[k].n_later = sizes.data[k];
            if (sizes.data[k] != flat || flat > NEST_MAX_CHUNKS * (int64_t)NEST_CHUNK)
                return fail(b, "a whole sum of too many values");
        }
    }
    for (uint32_t k = 0; k < nest->reduces.len; k++)
        nest->has_final[NEST_WHOLE] |=
            nest->reduces.data[k].kind == REDUCE_WHOLE || nest->reduces.data[k].kind == REDUCE_WHOLE_LATER;
    nest->main.flat = rows == 0;
    nest->main.rows = rows ? rows : 1;
    nest->main.inner = rows ? inner : flat;
    nest->chunk_rows = nest_chunk_rows(nest->main.inner);
    return true;
}

/* Depth and finality of every value, in program order. */
static bool order(Build *b)
{
    Nest *nest = b->nest;
    b->depth = ARENA_ARRAY(b->arena, int32_t, b->m->values.len);
    b->final = ARENA_ARRAY(b->arena, uint8_t, b->m->values.len);
    IR_FOR_OPS(b->m, b->func, op)
    {
        const IrOpData *data = ir_op(b->m, op);
        int32_t depth = 0;
        uint8_t final = 0;
        for (uint32_t i = 0; i < data->n_operands; i++)
        {
            if (b->depth[data->operands[i]] > depth)
                depth = b->depth[data->operands[i]];
            final |= b->final[data->operands[i]];
        }
        for (uint32_t i = 0; i < data->n_results; i++)
        {
            b->depth[data->results[i]] = depth;
            b->final[data->results[i]] = final;
        }
        if (!ir_code_has(data->code, IR_TRAIT_REDUCE))
            continue;
        for (uint32_t k = 0; k < nest->reduces.len; k++)
        {
            NestReduce *r = &nest->reduces.data[k];
            if (r->result != data->results[0])
                continue;
            if (final)
                return fail(b, "a reduction of what depends on a column reduction");
            r->phase = (uint32_t)depth;
            if (r->kind == REDUCE_ROW)
                b->depth[r->result] = depth + 1;
            else
                b->final[r->result] = 1 << (r->kind == REDUCE_COLUMN ? NEST_COLUMNS : NEST_WHOLE);
            if ((uint32_t)depth + 1 > nest->main.n_phases)
                nest->main.n_phases = (uint32_t)depth + 1;
        }
    }
    for (uint32_t i = 0; i < b->outputs.len; i++)
        if ((uint32_t)b->depth[b->outputs.data[i]] + 1 > nest->main.n_phases)
            nest->main.n_phases = (uint32_t)b->depth[b->outputs.data[i]] + 1;
    return true;
}

/* Where the element at linear position a of an output lies. */
static Idx place_of(const Build *b, IdxTable *idx, uint32_t output, Idx at)
{
    const IrType *type = ir_value_type(b->m, b->outputs.data[output]);
    Idx row, in_row;
    if (!b->pitches.data[output])
        return at;
    idx_divmod(idx, at, type->dims[type->rank - 1], &row, &in_row);
    return idx_add(idx, idx_scale(idx, row, b->pitches.data[output]), in_row);
}

static bool add_store(Build *b, Pull *p, uint32_t output, Idx at, bool inner)
{
    IrValue value = b->outputs.data[output];
    NestStore store = {.output = output,
                       .dtype = (DType)ir_value_type(b->m, value)->dtype,
                       .source = pull_value(p, value, at),
                       .index = place_of(b, &p->stage->idx, output, at),
                       .inner = inner,
                       .phase = p->phase};
    if (!store.source)
        return fail(b, p->why);
    vec_push(b->arena, &p->stage->stores, store);
    return true;
}

static int64_t slot_bytes(int64_t n)
{
    return (n * 4 + 63) / 64 * 64;
}

bool nest_reduce_is_direct(const NestStage *stage, const NestReduce *reduce)
{
    const NestInstData *data = &stage->insts.data[reduce->source];
    const IdxExpr *x = idx_get(&stage->idx, data->index);
    int64_t total = stage->rows * stage->inner;
    return data->kind == INST_LOAD && !data->args[0] && (data->dtype == DT_F32 || data->dtype == DT_I32) &&
           x->konst == 0 && x->n_terms == 1 && x->terms[0].atom == 0 && x->terms[0].div == 1 && x->terms[0].coef == 1 &&
           x->terms[0].mod == total;
}

bool nest_slot_is_kept(const NestStage *stage, NestInst inst)
{
    for (NestInst i = 1; i < stage->insts.len; i++)
        if (stage->insts.data[i].kind == INST_KEPT && stage->insts.data[i].args[0] == inst)
            return true;
    return false;
}

static bool build_main(Build *b)
{
    Nest *nest = b->nest;
    NestStage *stage = &nest->main;
    int64_t total = stage->rows * stage->inner;
    stage->idx = idx_table_make(b->arena, total);
    Pull p = {.arena = b->arena, .nest = nest, .stage = stage, .final = -1};
    Idx full = idx_digit(&stage->idx, 1, total);
    Idx row = idx_digit(&stage->idx, stage->inner, stage->rows);
    for (p.phase = 0; p.phase < stage->n_phases; p.phase++)
    {
        for (uint32_t k = 0; k < nest->reduces.len; k++)
        {
            NestReduce *r = &nest->reduces.data[k];
            if (r->phase != p.phase)
                continue;
            r->at = r->kind == REDUCE_WHOLE_LATER && r->n_later == stage->rows ? row : full;
            r->source = pull_value(&p, r->operand, r->at);
            if (!r->source)
                return fail(b, p.why);
            if ((r->kind == REDUCE_ROW || r->kind == REDUCE_WHOLE) && !nest_reduce_is_direct(stage, r))
                pull_keep(stage, r->source);
        }
        for (uint32_t i = 0; i < b->outputs.len; i++)
        {
            IrValue value = b->outputs.data[i];
            if (b->final[value] || (uint32_t)b->depth[value] != p.phase)
                continue;
            int64_t n = n_elems(b, value);
            if (n != total && n != stage->rows)
                return fail(b, "outputs with different numbers of elements");
            if (!add_store(b, &p, i, n == total ? full : row, n == total))
                return false;
        }
    }
    return true;
}

static bool build_final(Build *b, int which)
{
    Nest *nest = b->nest;
    NestStage *stage = &nest->final[which];
    if (!nest->has_final[which])
        return true;
    stage->rows = which == NEST_COLUMNS ? nest->groups : 1;
    stage->inner = which == NEST_COLUMNS ? nest->main.inner : 1;
    stage->flat = which == NEST_WHOLE;
    stage->n_phases = 1;
    int64_t total = stage->rows * stage->inner;
    stage->idx = idx_table_make(b->arena, total);
    Pull p = {.arena = b->arena, .nest = nest, .stage = stage, .final = which};
    for (uint32_t i = 0; i < b->outputs.len; i++)
    {
        uint8_t final = b->final[b->outputs.data[i]];
        if (!(final & 1 << which))
            continue;
        if (final != 1 << which)
            return fail(b, "an output depends on column sums and on whole sums");
        if (n_elems(b, b->outputs.data[i]) != total)
            return fail(b, "an output that depends on a column reduction has another number of elements");
        if (!add_store(b, &p, i, idx_digit(&stage->idx, 1, total), true))
            return false;
    }
    return true;
}

static void place_partials(Nest *nest)
{
    for (uint32_t k = 0; k < nest->reduces.len; k++)
    {
        NestReduce *r = &nest->reduces.data[k];
        r->workspace_offset = nest->workspace_bytes;
        if (r->kind == REDUCE_COLUMN)
            nest->workspace_bytes += slot_bytes(nest->groups * nest_chunks_per_group(nest) * nest->main.inner);
        else if (r->kind == REDUCE_WHOLE)
            nest->workspace_bytes += slot_bytes((nest->main.inner + NEST_CHUNK - 1) / NEST_CHUNK);
        else if (r->kind == REDUCE_WHOLE_LATER)
            nest->workspace_bytes += slot_bytes(r->n_later);
    }
}

Nest *nest_build(Arena *arena, const IrModule *m, IrFunc func, const char **out_why)
{
    Nest *nest = ARENA_NEW(arena, Nest);
    nest->m = m;
    nest->func = func;
    Build b = {.arena = arena, .m = m, .func = func, .nest = nest};
    if (collect(&b) && classify(&b) && order(&b) && build_main(&b) && build_final(&b, NEST_COLUMNS) &&
        build_final(&b, NEST_WHOLE))
    {
        place_partials(nest);
        return nest;
    }
    ENSURE(b.why);
    *out_why = b.why;
    return NULL;
}
