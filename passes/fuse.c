/* Fusion: groups of elementwise work, row reductions (over trailing axes) and column reductions (over leading axes)
 * that share one iteration domain of rows x inner elements, so that one kernel passes over memory once.
 *
 * Entry: LOWERED. Exit: FUSED; every KERNEL function obeys the rules below, which codegen relies on.
 *
 * An op of a group is `full` (one element per domain element), `row` (one per row: a reduction over the inner axes
 * and elementwise work on that), or a column reduction, which ends there (nothing in the group reads it). Within a
 * group, values are read at the same element (also through reshape) or from the element's row (broadcast along the
 * inner axes). Everything else (transposes, slices, gathers, column broadcasts) is read from arguments only.
 *
 * Groups never mix phases or units: what a kernel holds is then the same wherever a pipeline is cut. */
#include "passes/fuse.h"

#include "base/bug.h"
#include "ir/builder.h"
#include "passes/manager.h"

enum
{
    MAX_GROUP_OPS = 256,
    SMALL_UPDATE_ELEMS = 1 << 16,
    SMALL_WORK_MOST = 8,   /* groups in one kernel */
    SMALL_WORK_REACH = 256 /* groups looked back for another one */
};

void fuse_collect_deps(const FusePlan *plan, IrOp op, FuseOps *out)
{
    const IrOpData *data = ir_op(plan->m, op);
    for (uint32_t i = 0; i < data->n_operands; i++)
    {
        IrOp def = ir_value(plan->m, data->operands[i])->def;
        if (plan->fate[def] == FUSE_CLONED)
            fuse_collect_deps(plan, def, out);
        else
            vec_push(plan->scratch, out, def);
    }
}

/* ---- edges */

typedef enum
{
    EDGE_SAME, /* reads element i of the producer for element i */
    EDGE_ROW,  /* reads element i / n_inner */
    EDGE_OTHER
} EdgeKind;

typedef struct
{
    IrOp producer; /* not FUSE_CLONED */
    EdgeKind kind;
    int64_t n_inner; /* EDGE_ROW */
} Edge;

typedef VEC(Edge) Edges;

/* True when the broadcast's operand axes are the leading ones of its result (axes of 1 aside). */
static bool is_row_broadcast(const IrModule *m, const IrOpData *op)
{
    const IrAttr *dims = ir_attrs_find(&op->attrs, IR_ATTR_dims);
    const IrType *from = ir_value_type(m, op->operands[0]), *to = ir_value_type(m, op->results[0]);
    int64_t n_leading = 1;
    if (dims->n == 0)
        return false;
    for (int64_t axis = 0; axis <= dims->ints[dims->n - 1]; axis++)
        n_leading *= to->dims[axis];
    return n_leading == ir_type_n_elems(from);
}

/* The edge through a chain of reshapes and broadcasts, if that is all there is between. */
static bool trace_edge(const FusePlan *plan, IrValue value, Edge *out)
{
    const IrModule *m = plan->m;
    *out = (Edge){.kind = EDGE_SAME, .n_inner = 1};
    for (;;)
    {
        IrOp def = ir_value(m, value)->def;
        const IrOpData *data = ir_op(m, def);
        if (plan->fate[def] != FUSE_CLONED)
        {
            out->producer = def;
            if (fuse_is_column_reduction(m, data) || plan->fate[def] == FUSE_ROOT)
                out->kind = EDGE_OTHER;
            return true;
        }
        if (data->code == IR_broadcast && is_row_broadcast(m, data))
        {
            out->kind = EDGE_ROW;
            out->n_inner *= ir_type_n_elems(ir_value_type(m, data->results[0])) /
                            ir_type_n_elems(ir_value_type(m, data->operands[0]));
        }
        else if (!fuse_keeps_elements(m, data))
            return false;
        value = data->operands[0];
    }
}

static void collect_edges(const FusePlan *plan, IrOp op, Edges *out)
{
    const IrModule *m = plan->m;
    const IrOpData *data = ir_op(m, op);
    for (uint32_t i = 0; i < data->n_operands; i++)
    {
        Edge edge;
        if (trace_edge(plan, data->operands[i], &edge))
        {
            vec_push(plan->scratch, out, edge);
            continue;
        }
        FuseOps deps = {0};
        fuse_collect_deps(plan, ir_value(m, data->operands[i])->def, &deps);
        for (uint32_t k = 0; k < deps.len; k++)
            vec_push(plan->scratch, out, (Edge){.producer = deps.data[k], .kind = EDGE_OTHER});
    }
}

/* ---- groups */

typedef struct
{
    FusePlan *plan;
    Edges *edges;   /* by op: computed once */
    uint32_t *mark; /* by op: last search that visited it */
    uint32_t search;
    uint32_t *position; /* by op: in program order, from 1 on */
    uint32_t *covered;  /* by position: the first one of all groups that begin before it and do not end before it */
    uint32_t floor;     /* of this search: what stands before it does not lead to what is looked for */
    FuseOps *deps;      /* by op */
} Fuser;

static FuseGroup *group_at(const Fuser *f, uint32_t id)
{
    return &f->plan->groups.data[id];
}

static uint32_t new_group(Fuser *f, IrOp op)
{
    const IrModule *m = f->plan->m;
    const IrOpData *data = ir_op(m, op);
    FuseGroup group = {.n_elems = ir_type_n_elems(ir_value_type(m, data->results[0]))};
    if (ir_code_has(data->code, IR_TRAIT_REDUCE))
    {
        int64_t n_out = group.n_elems;
        group.n_elems = ir_type_n_elems(ir_value_type(m, data->operands[0]));
        group.reduces = true;
        if (n_out > 1)
            group.n_inner = fuse_is_column_reduction(m, data) ? n_out : group.n_elems / n_out;
        else if (!fuse_is_column_reduction(m, data))
            group.n_inner = group.n_elems;
    }
    vec_push(f->plan->scratch, &group.ops, op);
    vec_push(f->plan->scratch, &f->plan->groups, group);
    f->plan->group_of[op] = f->plan->groups.len - 1;
    return f->plan->groups.len - 1;
}

/* Does op depend on a member of group `to`? Whole groups are passed at a time, since a kernel runs as a whole: an old
 * op may depend on a younger one by way of a group that has joined an older op and a younger one. Only such groups
 * lead up, so nothing before the floor is looked at. */
static bool reaches(Fuser *f, IrOp op, uint32_t to, uint32_t skip)
{
    uint32_t id = f->plan->group_of[op];
    if (id == to)
        return true;
    if (f->position[op] < f->floor || f->mark[op] == f->search)
        return false;
    if (id == 0)
    {
        f->mark[op] = f->search;
        for (uint32_t i = 0; i < f->deps[op].len; i++)
            if (reaches(f, f->deps[op].data[i], to, skip))
                return true;
        return false;
    }
    if (id == skip)
        return false;
    const FuseGroup *group = group_at(f, id);
    for (uint32_t k = 0; k < group->ops.len; k++)
        f->mark[group->ops.data[k]] = f->search;
    for (uint32_t k = 0; k < group->ops.len; k++)
    {
        const FuseOps *deps = &f->deps[group->ops.data[k]];
        for (uint32_t i = 0; i < deps->len; i++)
            if (f->plan->group_of[deps->data[i]] != id && reaches(f, deps->data[i], to, skip))
                return true;
    }
    return false;
}

/* The last position that no group leads up across, at or before where the group begins. */
static uint32_t floor_below(const Fuser *f, const FuseGroup *group)
{
    uint32_t at = f->position[group->ops.data[0]];
    while (f->covered[at] < at)
        at = f->covered[at];
    return at;
}

static void cover(Fuser *f, const FuseGroup *group)
{
    const uint32_t first = f->position[group->ops.data[0]], last = f->position[group->ops.data[group->ops.len - 1]];
    for (uint32_t at = first; at <= last; at++)
        if (f->covered[at] > first)
            f->covered[at] = first;
}

/* A dependency of group `late` on group `early` through anything outside of both. */
static bool path_outside(Fuser *f, uint32_t early, uint32_t late)
{
    f->search++;
    f->floor = floor_below(f, group_at(f, early));
    const FuseGroup *group = group_at(f, late);
    for (uint32_t k = 0; k < group->ops.len; k++)
    {
        const FuseOps *deps = &f->deps[group->ops.data[k]];
        for (uint32_t i = 0; i < deps->len; i++)
        {
            uint32_t id = f->plan->group_of[deps->data[i]];
            if (id != early && id != late && reaches(f, deps->data[i], early, late))
                return true;
        }
    }
    return false;
}

/* Elements that op works on: those of what it reduces, or of its result. */
static int64_t work_elems(const IrModule *m, IrOp op)
{
    const IrOpData *data = ir_op(m, op);
    bool reduces = ir_code_has(data->code, IR_TRAIT_REDUCE);
    return ir_type_n_elems(ir_value_type(m, reduces ? data->operands[0] : data->results[0]));
}

/* No member of one group may read a member of the other in a way that a shared loop cannot give. */
static bool edges_allow(const Fuser *f, uint32_t reader, uint32_t producer, int64_t n_elems, int64_t n_inner)
{
    const IrModule *m = f->plan->m;
    const FuseGroup *group = group_at(f, reader);
    for (uint32_t k = 0; k < group->ops.len; k++)
    {
        const Edges *edges = &f->edges[group->ops.data[k]];
        for (uint32_t i = 0; i < edges->len; i++)
        {
            const Edge *edge = &edges->data[i];
            if (f->plan->group_of[edge->producer] != producer)
                continue;
            bool whole_row = edge->n_inner == n_inner && work_elems(m, group->ops.data[k]) == n_elems;
            if (edge->kind == EDGE_OTHER || (edge->kind == EDGE_ROW && !whole_row))
                return false;
        }
    }
    return true;
}

/* The common domain of two groups, `early` feeding `late` (or neither); false when there is none. */
static bool join_domains(const FuseGroup *early, const FuseGroup *late, int64_t row_inner, int64_t *out_n_elems,
                         int64_t *out_n_inner)
{
    int64_t inner = early->n_inner ? early->n_inner : late->n_inner;
    if (early->n_inner && late->n_inner && early->n_inner != late->n_inner && early->n_elems == late->n_elems)
        return false;
    if (early->n_elems == late->n_elems)
    {
        if (row_inner && inner && inner != row_inner)
            return false;
        *out_n_elems = early->n_elems;
        *out_n_inner = row_inner ? row_inner : inner;
        return true;
    }
    if (early->n_elems > late->n_elems) /* late works on early's rows */
    {
        *out_n_elems = early->n_elems;
        *out_n_inner = early->n_inner;
        return early->n_inner && !late->reduces && !late->n_inner && late->n_elems * early->n_inner == early->n_elems;
    }
    *out_n_elems = late->n_elems; /* early works on late's rows */
    *out_n_inner = row_inner;
    return row_inner && !early->reduces && !early->n_inner && (!late->n_inner || late->n_inner == row_inner) &&
           early->n_elems * row_inner == late->n_elems;
}

static bool same_kind(const Fuser *f, IrOp x, IrOp y)
{
    const IrOpData *a = ir_op(f->plan->m, x), *b = ir_op(f->plan->m, y);
    return a->phase == b->phase && a->unit == b->unit;
}

/* Joins group `early` into `late` when the rules allow it; row_inner is that of the edge between them, 0 for none. */
static bool try_merge(Fuser *f, uint32_t early, uint32_t late, int64_t row_inner)
{
    FuseGroup *a = group_at(f, early), *b = group_at(f, late);
    int64_t n_elems, n_inner;
    if (early == late || a->ops.len + b->ops.len > MAX_GROUP_OPS || !same_kind(f, a->ops.data[0], b->ops.data[0]) ||
        !join_domains(a, b, row_inner, &n_elems, &n_inner) || !edges_allow(f, late, early, n_elems, n_inner) ||
        !edges_allow(f, early, late, n_elems, n_inner) || path_outside(f, early, late) || path_outside(f, late, early))
        return false;
    FuseOps both = {0};
    for (uint32_t i = 0, k = 0; i < a->ops.len || k < b->ops.len;)
    {
        bool from_a = k == b->ops.len || (i < a->ops.len && f->position[a->ops.data[i]] < f->position[b->ops.data[k]]);
        vec_push(f->plan->scratch, &both, from_a ? a->ops.data[i++] : b->ops.data[k++]);
    }
    for (uint32_t i = 0; i < a->ops.len; i++)
        f->plan->group_of[a->ops.data[i]] = late;
    b->ops.data = both.data;
    b->ops.len = both.len;
    b->ops.cap = both.cap;
    b->n_elems = n_elems;
    b->n_inner = n_inner;
    b->reduces = b->reduces || a->reduces;
    a->ops.len = 0;
    cover(f, b);
    return true;
}

static void merge_with_producers(Fuser *f, IrOp op)
{
    const Edges *edges = &f->edges[op];
    for (uint32_t i = 0; i < edges->len; i++)
    {
        const Edge *edge = &edges->data[i];
        uint32_t producer = f->plan->group_of[edge->producer];
        if (edge->kind != EDGE_OTHER && producer && f->plan->fate[edge->producer] == FUSE_GROUPED)
            try_merge(f, producer, f->plan->group_of[op], edge->kind == EDGE_ROW ? edge->n_inner : 0);
    }
}

/* Joins op's group with one that reads value, also through what keeps the elements. */
static bool merge_with_reader(Fuser *f, IrOp op, IrValue value, const IrUses *uses)
{
    const IrModule *m = f->plan->m;
    for (uint32_t i = uses->first[value]; i < uses->first[value + 1]; i++)
    {
        const IrOp user = uses->users[i];
        const uint32_t sibling = f->plan->group_of[user];
        if (fuse_keeps_elements(m, ir_op(m, user))
                ? merge_with_reader(f, op, ir_op(m, user)->results[0], uses)
                : sibling && f->plan->fate[user] == FUSE_GROUPED &&
                      ir_type_n_elems(ir_value_type(m, value)) == group_at(f, sibling)->n_elems &&
                      try_merge(f, sibling, f->plan->group_of[op], 0))
            return true;
    }
    return false;
}

/* A column reduction of something in memory joins a group that reads the same memory anyway. */
static void merge_with_sibling(Fuser *f, IrOp op, const IrUses *uses)
{
    const IrModule *m = f->plan->m;
    IrValue value = ir_op(m, op)->operands[0];
    while (fuse_keeps_elements(m, ir_op(m, ir_value(m, value)->def)))
        value = ir_op(m, ir_value(m, value)->def)->operands[0];
    if (f->plan->fate[ir_value(m, value)->def] != FUSE_CLONED)
        merge_with_reader(f, op, value, uses);
}

/* ---- small work side by side */

/* Work that a launch of its own costs more than it is: updates of small params, casts of params, sums of columns. */
static bool is_small_work(const Fuser *f, const FuseGroup *group)
{
    const IrModule *m = f->plan->m;
    const IrOpData *first = ir_op(m, group->ops.data[0]);
    if (first->phase == IR_PHASE_OPTIMIZER && first->code == IR_cast)
        return false; /* of a param that another rank updates, which may wait for what this one updates */
    if (first->phase == IR_PHASE_OPTIMIZER)
        return group->n_elems > 1 && group->n_elems < SMALL_UPDATE_ELEMS && !group->reduces;
    if (group->ops.len > 1)
        return false;
    const FuseOps *deps = &f->deps[group->ops.data[0]];
    bool reads_params = first->code == IR_cast;
    for (uint32_t i = 0; i < deps->len; i++)
        reads_params = reads_params && ir_op(m, deps->data[i])->code == IR_get;
    return reads_params || fuse_is_column_reduction(m, first);
}

/* Groups of small work that share nothing but their domain become one kernel. */
static void merge_small_work(Fuser *f)
{
    const uint32_t n = f->plan->groups.len;
    bool *small = ARENA_ARRAY(f->plan->scratch, bool, n);
    uint32_t *n_merged = ARENA_ARRAY(f->plan->scratch, uint32_t, n);
    for (uint32_t id = 1; id < n; id++)
        small[id] = group_at(f, id)->ops.len && f->plan->fate[group_at(f, id)->ops.data[0]] == FUSE_GROUPED &&
                    is_small_work(f, group_at(f, id));
    for (uint32_t late = 2; late < n; late++)
        for (uint32_t early = late - 1; small[late] && early > 0 && late - early < SMALL_WORK_REACH; early--)
            if (small[early] && group_at(f, early)->ops.len &&
                group_at(f, early)->n_elems == group_at(f, late)->n_elems &&
                n_merged[early] + n_merged[late] + 2 <= SMALL_WORK_MOST && try_merge(f, early, late, 0))
                n_merged[late] += n_merged[early] + 1;
}

static void form_groups(FusePlan *plan)
{
    const IrModule *m = plan->m;
    Fuser f = {.plan = plan,
               .edges = ARENA_ARRAY(plan->scratch, Edges, m->ops.len),
               .deps = ARENA_ARRAY(plan->scratch, FuseOps, m->ops.len),
               .mark = ARENA_ARRAY(plan->scratch, uint32_t, m->ops.len),
               .position = ARENA_ARRAY(plan->scratch, uint32_t, m->ops.len),
               .covered = ARENA_ARRAY(plan->scratch, uint32_t, m->ops.len + 1)};
    uint32_t position = 0;
    vec_push(plan->scratch, &plan->groups, (FuseGroup){0});
    IR_FOR_OPS(m, plan->func, op)
    {
        f.position[op] = ++position;
        f.covered[position] = position;
        if (plan->fate[op] == FUSE_CLONED)
            continue;
        fuse_collect_deps(plan, op, &f.deps[op]);
        if (plan->fate[op] == FUSE_STAYS)
            continue;
        new_group(&f, op);
        if (plan->fate[op] != FUSE_GROUPED)
            continue;
        collect_edges(plan, op, &f.edges[op]);
        merge_with_producers(&f, op);
    }
    IrUses uses = ir_uses_build(plan->scratch, m, plan->func);
    IR_FOR_OPS(m, plan->func, op)
    if (plan->fate[op] == FUSE_GROUPED && fuse_is_column_reduction(m, ir_op(m, op)) &&
        group_at(&f, plan->group_of[op])->ops.len == 1)
        merge_with_sibling(&f, op, &uses);
    merge_small_work(&f);
}

bool pass_fuse(PassContext *ctx)
{
    IrModule *m = ctx->m;
    uint32_t n_funcs = m->funcs.len; /* outlining adds kernels */
    for (IrFunc func = 1; func < n_funcs; func++)
    {
        if (ir_func(m, func)->removed || ir_func(m, func)->kind != IR_FUNC_STEP)
            continue;
        fuse_normalise_reductions(m, func);
        FusePlan plan = {.scratch = ctx->scratch,
                         .m = m,
                         .func = func,
                         .fate = ARENA_ARRAY(ctx->scratch, FuseFate, m->ops.len),
                         .group_of = ARENA_ARRAY(ctx->scratch, uint32_t, m->ops.len)};
        fuse_decide_fates(&plan);
        form_groups(&plan);
        fuse_outline(&plan);
    }
    return true;
}
