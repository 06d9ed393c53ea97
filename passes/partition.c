/* Keeps, of every step function, what one pipeline stage does; a value that another stage makes becomes a `recv`, one
 * that another stage needs gets a `send` behind it.
 *
 * On entry: @train has the attributes `stages` (the first unit of each) and `stage`; without them nothing changes. A
 * `stage` behind the last is none: the rank is idle, and nothing is kept. Runs
 * on the whole program of a step, so that every rank finds the same edges and gives them the same tags. On exit: the
 * stage's own part; what the update of a param that lives on several stages gives is sent to the others.
 *
 * An op runs on the stage of its unit, demand-driven from the effects. Ops of no unit in phase OPTIMIZER (scalars that
 * every update reads), the reading of params, and whatever only constants, indices and inputs go into (masks,
 * positions) run wherever they are needed, instead of being sent. */
#include "passes/partition.h"

#include "base/bug.h"
#include "ir/builder.h"
#include "passes/manager.h"
#include "passes/movable.h"

#include <string.h>

enum
{
    EVERYWHERE = -1
};

/* A value made on one stage and needed on another. */
typedef struct
{
    IrValue value;
    int from, to;
    IrOp set; /* the edge carries an updated param, which `set` writes on its own stage; 0: an ordinary value */
    uint32_t tag;
} Edge;

typedef struct
{
    PassContext *ctx;
    IrModule *m;
    IrFunc func;
    const int64_t *first_unit; /* of each stage */
    int n_stages, stage;
    int *home;        /* by op */
    bool *movable;    /* by value */
    uint64_t *needed; /* by value: stages that read it */
    uint64_t *runs;   /* by op: stages that run it */
    VEC(Edge) edges;
    uint32_t next_tag;
} Partition;

static uint64_t bit(int stage)
{
    return (uint64_t)1 << stage;
}

int partition_stage_of_unit(const int64_t *first_unit, int n_stages, int64_t unit)
{
    int stage = 0;
    while (stage + 1 < n_stages && unit >= first_unit[stage + 1])
        stage++;
    return stage;
}

/* ---- where ops run */

static void find_homes(Partition *p)
{
    movable_values(p->m, p->func, p->movable);
    IR_FOR_OPS(p->m, p->func, op)
    {
        const IrOpData *data = ir_op(p->m, op);
        const bool movable = data->n_results > 0 && p->movable[data->results[0]];
        bool common = movable || data->code == IR_get || (data->unit == 0 && data->phase == IR_PHASE_OPTIMIZER);
        p->home[op] = common ? EVERYWHERE : partition_stage_of_unit(p->first_unit, p->n_stages, data->unit);
    }
}

/* One walk from the end: who reads a value, and so which stage runs what makes it. */
static void find_demand(Partition *p)
{
    const IrModule *m = p->m;
    const uint64_t all = p->n_stages == 64 ? UINT64_MAX : bit(p->n_stages) - 1;
    for (IrOp op = ir_func(m, p->func)->last; op; op = ir_op(m, op)->prev)
    {
        const IrOpData *data = ir_op(m, op);
        uint64_t readers = 0;
        for (uint32_t i = 0; i < data->n_results; i++)
            readers |= p->needed[data->results[i]];
        if (ir_code_has(data->code, IR_TRAIT_EFFECT))
            readers |= p->home[op] == EVERYWHERE ? all : bit(p->home[op]);
        p->runs[op] = p->home[op] == EVERYWHERE || !readers ? readers : bit(p->home[op]);
        for (uint32_t i = 0; i < data->n_operands; i++)
            p->needed[data->operands[i]] |= p->runs[op];
    }
}

static const char *global_of(const IrOpData *op)
{
    return ir_attrs_str(&op->attrs, IR_ATTR_global);
}

/* Stages that read the param in any step function: it lives there. */
static uint64_t stages_with(const Partition *p, const char *param)
{
    uint64_t stages = 0;
    IR_FOR_OPS(p->m, p->func, op)
    {
        const IrOpData *data = ir_op(p->m, op);
        if (data->code == IR_get && strcmp(global_of(data), param) == 0)
            stages |= p->runs[op];
    }
    return stages;
}

static void find_edges(Partition *p)
{
    const IrModule *m = p->m;
    IR_FOR_OPS(m, p->func, op)
    {
        const IrOpData *data = ir_op(m, op);
        if (p->home[op] == EVERYWHERE)
            continue;
        bool updates =
            data->code == IR_set && ir_global(m, ir_global_find(m, global_of(data)))->kind == IR_GLOBAL_PARAM;
        uint64_t holders = updates ? stages_with(p, global_of(data)) : 0;
        for (int to = 0; to < p->n_stages; to++)
        {
            if (to == p->home[op])
                continue;
            for (uint32_t i = 0; i < data->n_results; i++)
                if (p->needed[data->results[i]] & bit(to))
                    vec_push(p->ctx->scratch, &p->edges,
                             (Edge){.value = data->results[i], .from = p->home[op], .to = to, .tag = p->next_tag++});
            if (holders & bit(to))
                vec_push(
                    p->ctx->scratch, &p->edges,
                    (Edge){.value = data->operands[0], .from = p->home[op], .to = to, .set = op, .tag = p->next_tag++});
        }
    }
}

/* ---- rewriting */

static void build_send(Partition *p, const Edge *edge, IrOp after)
{
    IrBuilder b = ir_builder_before(p->m, after);
    b.before = ir_op(p->m, after)->next;
    const IrAttr attrs[] = {ir_attr_int(IR_ATTR_peer, edge->to), ir_attr_int(IR_ATTR_tag, edge->tag)};
    ir_build_op(&b, IR_send, NULL, &edge->value, 1, attrs, 2);
}

/* In place of the op that makes the value elsewhere. */
static IrValue build_recv(Partition *p, const Edge *edge, IrOp at)
{
    IrBuilder b = ir_builder_before(p->m, at);
    const IrAttr attrs[] = {ir_attr_int(IR_ATTR_peer, edge->from), ir_attr_int(IR_ATTR_tag, edge->tag)};
    const IrType type = *ir_value_type(p->m, edge->value);
    return ir_build_op(&b, IR_recv, &type, NULL, 0, attrs, 2);
}

static void rewrite(Partition *p)
{
    IrModule *m = p->m;
    const uint32_t n_old = m->values.len, n_old_ops = m->ops.len;
    IrValue *map = ARENA_ARRAY(p->ctx->scratch, IrValue, n_old);
    for (uint32_t i = 0; i < p->edges.len; i++)
    {
        const Edge edge = p->edges.data[i];
        IrOp at = edge.set ? edge.set : ir_value(m, edge.value)->def;
        if (edge.from == p->stage)
            build_send(p, &edge, at);
        else if (edge.to == p->stage)
        {
            IrValue value = build_recv(p, &edge, at);
            if (edge.set)
            {
                IrBuilder b = ir_builder_before(m, edge.set);
                ir_build_set(&b, global_of(ir_op(m, edge.set)), value);
            }
            else
                map[edge.value] = value;
        }
    }
    for (IrOp op = ir_func(m, p->func)->first, next; op; op = next)
    {
        next = ir_op(m, op)->next;
        if (op < n_old_ops && !(p->runs[op] & bit(p->stage)))
            ir_op_remove(m, op);
    }
    ir_func_replace_values(m, p->func, map, n_old);
}

/* Params and their state: the stage that updates them, else the first that reads them, writes them to checkpoints. */
static void note_owners(Partition *p)
{
    IrModule *m = p->m;
    IR_FOR_OPS(m, p->func, op)
    {
        const IrOpData data = *ir_op(m, op);
        if (data.code != IR_get && data.code != IR_set)
            continue;
        IrGlobalData *global = ir_global(m, ir_global_find(m, global_of(&data)));
        bool kept = global->kind == IR_GLOBAL_PARAM || global->kind == IR_GLOBAL_STATE;
        if (!kept || !p->runs[op] || (data.code == IR_get && ir_attrs_find(&global->attrs, IR_ATTR_stage)))
            continue;
        ir_attrs_put(m->arena, &global->attrs, ir_attr_int(IR_ATTR_stage, __builtin_ctzll(p->runs[op])));
    }
}

static void partition_function(PassContext *ctx, IrFunc func, const IrAttr *stages, int stage, uint32_t *next_tag)
{
    IrModule *m = ctx->m;
    Partition p = {.ctx = ctx,
                   .m = m,
                   .func = func,
                   .first_unit = stages->ints,
                   .n_stages = (int)stages->n,
                   .stage = stage,
                   .home = ARENA_ARRAY(ctx->scratch, int, m->ops.len),
                   .movable = ARENA_ARRAY(ctx->scratch, bool, m->values.len),
                   .needed = ARENA_ARRAY(ctx->scratch, uint64_t, m->values.len),
                   .runs = ARENA_ARRAY(ctx->scratch, uint64_t, m->ops.len),
                   .next_tag = *next_tag};
    find_homes(&p);
    find_demand(&p);
    find_edges(&p);
    note_owners(&p);
    rewrite(&p);
    *next_tag = p.next_tag;
}

/* Of all step functions. */
static void remove_ops(IrModule *m)
{
    IR_FOR_FUNCS(m, f)
    for (IrOp op = ir_func(m, f)->kind == IR_FUNC_STEP ? ir_func(m, f)->first : 0, next; op; op = next)
    {
        next = ir_op(m, op)->next;
        ir_op_remove(m, op);
    }
}

bool pass_partition(PassContext *ctx)
{
    IrModule *m = ctx->m;
    IrFunc train = ir_func_find(m, "train");
    const IrAttrs plan = train ? ir_func(m, train)->attrs : (IrAttrs){0};
    const IrAttr *stages = ir_attrs_find(&plan, IR_ATTR_stages);
    const int64_t stage = ir_attrs_int(&plan, IR_ATTR_stage, -1);
    if (stages && stage == stages->n)
        remove_ops(m);
    if (!stages || stages->n <= 1 || stage == stages->n)
        return true;
    bool ascending = stages->n <= PARTITION_MAX_STAGES && stage >= 0 && stage < stages->n;
    for (uint32_t i = 1; i < stages->n; i++)
        ascending = ascending && stages->ints[i] > stages->ints[i - 1];
    if (!ascending)
    {
        diag_error(ctx->diag, (Span){0},
                   "@train: `stages` wants the first unit of each of at most %d stages, ascending, and `stage` one of "
                   "them, or their number for none",
                   PARTITION_MAX_STAGES);
        return false;
    }
    uint32_t next_tag = 0;
    IR_FOR_FUNCS(m, f)
    if (ir_func(m, f)->kind == IR_FUNC_STEP)
        partition_function(ctx, f, stages, (int)stage, &next_tag);
    return true;
}
