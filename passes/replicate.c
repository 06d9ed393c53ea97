/* Divides what a step does once among the replicas of the pipeline: the update of a param, and its optimizer state, are
 * one replica's ("ZeRO stage 1": Rajbhandari et al., 2020, section 5.1); loss, metrics and norms are everybody's.
 *
 * On entry: @train has the attributes `micro_batches`, `replicas` and `replica`; one replica has nothing to divide.
 * Only what is accumulated is in a bucket, so a frozen param is in none. On exit, with several micro-batches: phases
 * stand one after another (forward, backward, optimizer), so that cse never makes an earlier one read a later one; the
 * sums are at the head of the last. Gradients are in buckets of the size that one message should have, and every bucket
 * has an owner. It gets the sum (`reduce`), updates the params and gives their new values to the others (`bcast`). What
 * is not of one param alone (passes/ownership.h) is added for all (`all_reduce`) and done by all; so are numbers that
 * are made of one owner's gradients and read by others, to which the others add zero. The ops of other owners are gone,
 * and with them the states.
 *
 * Pass schedule starts each sum as soon as its last operand is there, and waits where one is read. All replicas have
 * the same collectives in the same order. */
#include "base/bug.h"
#include "ir/builder.h"
#include "passes/manager.h"
#include "passes/ownership.h"

#include <stdlib.h>

enum
{
    BUCKET_BYTES = 4 << 20
};

typedef struct
{
    IrOp op;
    uint32_t made_at; /* program position of what is accumulated, of a family that of the last */
    uint32_t family;  /* 0: common */
    int64_t size_bytes;
} Sum;

/* Sums that are added together. */
typedef struct
{
    const Sum *sums;
    uint32_t n;
    IrOp op; /* the all_reduce or reduce */
} Bucket;

/* What has one owner: families that have a bucket in common. */
typedef struct
{
    uint32_t family;
    int64_t size_bytes;
    uint32_t owner;
} Share;

typedef struct
{
    PassContext *ctx;
    IrModule *m;
    IrFunc func;
    uint32_t n_replicas, replica;
    Ownership o;
    uint32_t n_old; /* values */
    VEC(Sum) sums;  /* in the order in which the backward pass makes them */
    VEC(Bucket) buckets;
    uint32_t *last_bucket; /* by family */
    uint32_t *share_of;    /* by family: 1 + index */
    VEC(Share) shares;
    uint32_t next_bucket; /* number of the next collective */
    IrValue *map;         /* by old value: what is read in its place */
} Replicator;

static int by_time(const void *x, const void *y)
{
    const Sum *a = x, *b = y;
    if (a->made_at != b->made_at)
        return a->made_at < b->made_at ? -1 : 1;
    if (a->family != b->family)
        return a->family < b->family ? -1 : 1;
    return a->op < b->op ? -1 : a->op > b->op;
}

/* Stable: the order within a phase stays. */
static void sort_phases(PassContext *ctx, IrFunc func)
{
    IrModule *m = ctx->m;
    VEC(IrOp) ops = {0};
    IR_FOR_OPS(m, func, op)
    vec_push(ctx->scratch, &ops, op);
    for (int phase = IR_PHASE_FORWARD; phase <= IR_PHASE_OPTIMIZER; phase++)
        for (uint32_t i = 0; i < ops.len; i++)
            if (ir_op(m, ops.data[i])->phase == (IrPhase)phase)
                ir_op_move(m, ops.data[i], 0);
}

/* ---- buckets and their owners */

static void collect_sums(Replicator *r)
{
    IrModule *m = r->m;
    uint32_t *position = ARENA_ARRAY(r->ctx->scratch, uint32_t, m->ops.len), at = 0;
    uint32_t *last = ARENA_ARRAY(r->ctx->scratch, uint32_t, r->o.n); /* by family */
    IrOp head = 0;                                                   /* the first op of the last phase that is no sum */
    IR_FOR_OPS(m, r->func, op)
    {
        const IrOpData *data = ir_op(m, op);
        position[op] = ++at;
        if (data->code == IR_accumulate)
            vec_push(r->ctx->scratch, &r->sums,
                     (Sum){op, position[ir_value(m, data->operands[0])->def], r->o.value[data->results[0]],
                           ir_type_size_bytes(ir_value_type(m, data->operands[0]))});
        else if (!head && data->phase == IR_PHASE_OPTIMIZER)
            head = op;
    }
    for (uint32_t i = 0; i < r->sums.len; i++)
        if (last[r->sums.data[i].family] < r->sums.data[i].made_at)
            last[r->sums.data[i].family] = r->sums.data[i].made_at;
    for (uint32_t i = 0; i < r->sums.len; i++)
        if (r->sums.data[i].family)
            r->sums.data[i].made_at = last[r->sums.data[i].family];
    if (r->sums.len)
        qsort(r->sums.data, r->sums.len, sizeof *r->sums.data, by_time);
    for (uint32_t i = 0; i < r->sums.len; i++)
        ir_op_move(m, r->sums.data[i].op, head);
}

/* Cuts the common sums, or the others, in buckets. One that is larger than a bucket is alone. */
static void fill_buckets(Replicator *r, bool owned, int64_t most_bytes)
{
    Sum *sums = ARENA_ARRAY(r->ctx->scratch, Sum, r->sums.len);
    uint32_t n_sums = 0;
    for (uint32_t i = 0; i < r->sums.len; i++)
        if ((r->sums.data[i].family != 0) == owned)
            sums[n_sums++] = r->sums.data[i];
    for (uint32_t i = 0, n; i < n_sums; i += n)
    {
        int64_t size_bytes = 0;
        for (n = 0; i + n < n_sums && n < IR_MAX_RESULTS && (n == 0 || size_bytes < most_bytes); n++)
        {
            if (n > 0 && sums[i + n].size_bytes >= most_bytes)
                break;
            size_bytes += sums[i + n].size_bytes;
        }
        vec_push(r->ctx->scratch, &r->buckets, (Bucket){.sums = sums + i, .n = n});
        for (uint32_t k = 0; k < n && owned; k++)
            r->last_bucket[sums[i + k].family] = r->buckets.len - 1;
    }
}

static uint32_t share_of_family(Replicator *r, uint32_t family)
{
    if (!r->share_of[family])
    {
        vec_push(r->ctx->scratch, &r->shares, (Share){.family = family});
        r->share_of[family] = r->shares.len;
    }
    return r->share_of[family] - 1;
}

/* All of a bucket is one share's, and all of a family. */
static void find_shares(Replicator *r)
{
    for (uint32_t b = 0; b < r->buckets.len; b++)
    {
        const Bucket *bucket = &r->buckets.data[b];
        if (!bucket->sums[0].family)
            continue;
        const uint32_t share = share_of_family(r, bucket->sums[0].family);
        for (uint32_t i = 0; i < bucket->n; i++)
        {
            const uint32_t other = r->share_of[bucket->sums[i].family];
            for (uint32_t f = 0; f < r->o.n && other && other - 1 != share; f++)
                if (r->share_of[f] == other)
                    r->share_of[f] = share + 1;
            if (other && other - 1 != share)
            {
                r->shares.data[share].size_bytes += r->shares.data[other - 1].size_bytes;
                r->shares.data[other - 1].size_bytes = 0;
            }
            r->share_of[bucket->sums[i].family] = share + 1;
            r->shares.data[share].size_bytes += bucket->sums[i].size_bytes;
        }
    }
}

static int by_size(const void *x, const void *y)
{
    const Share *a = *(Share *const *)x, *b = *(Share *const *)y;
    if (a->size_bytes != b->size_bytes)
        return a->size_bytes > b->size_bytes ? -1 : 1;
    return a < b ? -1 : a > b;
}

/* The largest first, each to the replica that has least. */
static void choose_owners(Replicator *r)
{
    Share **sorted = ARENA_ARRAY(r->ctx->scratch, Share *, r->shares.len);
    int64_t *load = ARENA_ARRAY(r->ctx->scratch, int64_t, r->n_replicas);
    for (uint32_t i = 0; i < r->shares.len; i++)
        sorted[i] = &r->shares.data[i];
    if (r->shares.len)
        qsort(sorted, r->shares.len, sizeof(Share *), by_size);
    for (uint32_t i = 0; i < r->shares.len; i++)
    {
        uint32_t least = 0;
        for (uint32_t k = 1; k < r->n_replicas; k++)
            least = load[k] < load[least] ? k : least;
        sorted[i]->owner = least;
        load[least] += sorted[i]->size_bytes;
    }
}

static uint32_t owner_of(const Replicator *r, uint32_t family)
{
    return r->shares.data[r->share_of[family] - 1].owner;
}

static bool is_mine(const Replicator *r, uint32_t family)
{
    return !family || owner_of(r, family) == r->replica;
}

static void divide(Replicator *r)
{
    int64_t owned_bytes = 0;
    for (uint32_t i = 0; i < r->sums.len; i++)
        owned_bytes += r->sums.data[i].family ? r->sums.data[i].size_bytes : 0;
    const int64_t even_bytes = (owned_bytes + r->n_replicas - 1) / r->n_replicas;
    fill_buckets(r, false, BUCKET_BYTES);
    fill_buckets(r, true, even_bytes < BUCKET_BYTES ? even_bytes : BUCKET_BYTES);
    find_shares(r);
    choose_owners(r);
}

/* ---- the collectives */

/* Behind an op. root < 0: none. Returns the op. */
static IrOp build_collective(Replicator *r, IrCode code, IrOp after, const IrValue *operands, uint32_t n, int64_t root)
{
    IrModule *m = r->m;
    IrBuilder b = ir_builder_before(m, after);
    b.before = ir_op(m, after)->next;
    b.func = r->func;
    const IrAttr attrs[] = {ir_attr_int(IR_ATTR_bucket, r->next_bucket++), ir_attr_int(IR_ATTR_root, root)};
    const IrValue first = ir_build_op(&b, code, NULL, operands, n, attrs, root < 0 ? 1 : 2);
    return ir_value(m, first)->def;
}

static void reduce_buckets(Replicator *r)
{
    for (uint32_t i = 0; i < r->buckets.len; i++)
    {
        Bucket *bucket = &r->buckets.data[i];
        const uint32_t family = bucket->sums[0].family;
        IrValue operands[IR_MAX_RESULTS] = {0};
        for (uint32_t k = 0; k < bucket->n; k++)
            operands[k] = ir_op_result(r->m, bucket->sums[k].op, 0);
        bucket->op = build_collective(r, family ? IR_reduce : IR_all_reduce, bucket->sums[bucket->n - 1].op, operands,
                                      bucket->n, family ? (int64_t)owner_of(r, family) : -1);
        for (uint32_t k = 0; k < bucket->n; k++)
            r->map[operands[k]] = ir_op_result(r->m, bucket->op, k);
    }
}

/* An op of phase OPTIMIZER and where it goes: what reads a published number comes after all that makes such numbers;
 * what has an owner, by buckets; globals are set last. What stages say to each other keeps its order. */
typedef struct
{
    IrOp op;
    uint32_t level, slot, position;
} Place;

static int by_place(const void *x, const void *y)
{
    const Place *a = x, *b = y;
    if (a->level != b->level)
        return a->level < b->level ? -1 : 1;
    if (a->slot != b->slot)
        return a->slot < b->slot ? -1 : 1;
    return a->position < b->position ? -1 : a->position > b->position;
}

/* Sets, and a new param on its way to or from the stages that have it, too. */
static bool comes_last(const Replicator *r, const IrOpData *op)
{
    const IrOpData *next = op->next ? ir_op(r->m, op->next) : op;
    return op->code == IR_set || (!op->n_results && op->n_operands && r->o.param[op->operands[0]]) ||
           (op->code == IR_recv && next->code == IR_set && next->operands[0] == op->results[0]);
}

typedef VEC(Place) Places;

/* level: by value, 0 where it is not made in this phase. */
static Places sort_updates(Replicator *r, uint32_t *level)
{
    const IrModule *m = r->m;
    Places places = {0};
    uint32_t effects_level = 0;
    IR_FOR_OPS(m, r->func, op)
    {
        const IrOpData *data = ir_op(m, op);
        const bool is_effect = ir_code_has(data->code, IR_TRAIT_EFFECT) && !comes_last(r, data);
        if (data->phase != IR_PHASE_OPTIMIZER || data->code == IR_accumulate || data->code == IR_all_reduce ||
            data->code == IR_reduce)
            continue;
        const uint32_t family = ownership_of_op(&r->o, m, op);
        Place place = {.op = op, .position = places.len};
        for (uint32_t i = 0; i < data->n_operands; i++)
        {
            const IrValue value = data->operands[i];
            const uint32_t there = level[value] + (r->o.is_published[value] && r->o.value[value] != family);
            place.level = there > place.level ? there : place.level;
        }
        if (is_effect)
            place.level = effects_level = place.level > effects_level ? place.level : effects_level;
        for (uint32_t i = 0; i < data->n_results; i++)
            level[data->results[i]] = place.level;
        if (comes_last(r, data))
            place.level = UINT32_MAX;
        else
            place.slot = family ? 1 + r->last_bucket[family] : 0;
        vec_push(r->ctx->scratch, &places, place);
    }
    if (places.len)
        qsort(places.data, places.len, sizeof *places.data, by_place);
    for (uint32_t i = 0; i < places.len; i++)
        ir_op_move(r->m, places.data[i].op, 0);
    return places;
}

/* What a replica that does not own it adds to a number. */
static IrValue zero_before(Replicator *r, IrOp op, IrValue like)
{
    IrBuilder b = ir_builder_before(r->m, op);
    return ir_build_const(&b, *ir_value_type(r->m, like), 0);
}

static void publish(Replicator *r, const IrValue *values, uint32_t n)
{
    IrValue operands[IR_MAX_RESULTS] = {0};
    const IrOp last = ir_value(r->m, values[n - 1])->def;
    for (uint32_t i = 0; i < n; i++)
        operands[i] = is_mine(r, r->o.value[values[i]]) ? values[i] : zero_before(r, last, values[i]);
    const IrOp sum = build_collective(r, IR_all_reduce, last, operands, n, -1);
    for (uint32_t i = 0; i < n; i++)
        r->map[values[i]] = ir_op_result(r->m, sum, i);
}

/* The numbers of one level together. */
static void publish_numbers(Replicator *r, const Places *places, const uint32_t *level)
{
    IrValue values[IR_MAX_RESULTS];
    uint32_t n = 0;
    for (uint32_t i = 0; i < places->len; i++)
    {
        const IrOpData data = *ir_op(r->m, places->data[i].op);
        for (uint32_t k = 0; k < data.n_results; k++)
        {
            if (!r->o.is_published[data.results[k]])
                continue;
            if (n == IR_MAX_RESULTS || (n > 0 && level[values[0]] != level[data.results[k]]))
            {
                publish(r, values, n);
                n = 0;
            }
            values[n++] = data.results[k];
        }
    }
    if (n > 0)
        publish(r, values, n);
}

/* The new params of one bucket: their owner's values, which go where the old ones are. */
static void spread(Replicator *r, const IrValue *values, uint32_t n)
{
    IrModule *m = r->m;
    const IrOp last = ir_value(m, values[n - 1])->def;
    const uint32_t owner = owner_of(r, r->o.value[values[0]]);
    IrValue operands[IR_MAX_RESULTS] = {0};
    for (uint32_t i = 0; i < n; i++)
    {
        IrBuilder b = ir_builder_before(m, last);
        operands[i] = owner == r->replica ? values[i] : ir_build_get(&b, ir_global(m, r->o.param[values[i]])->name);
    }
    const IrOp bcast = build_collective(r, IR_bcast, last, operands, n, owner);
    for (uint32_t i = 0; i < n; i++)
        r->map[values[i]] = ir_op_result(m, bcast, i);
}

static void spread_params(Replicator *r, const Places *places)
{
    for (uint32_t b = 0; b < r->buckets.len; b++)
    {
        IrValue values[IR_MAX_RESULTS];
        uint32_t n = 0;
        for (uint32_t i = 0; i < places->len; i++)
        {
            const IrOpData data = *ir_op(r->m, places->data[i].op);
            for (uint32_t k = 0; k < data.n_results; k++)
            {
                const IrValue value = data.results[k];
                if (!r->o.param[value] || r->last_bucket[r->o.value[value]] != b)
                    continue;
                if (n == IR_MAX_RESULTS)
                {
                    spread(r, values, n);
                    n = 0;
                }
                values[n++] = value;
            }
        }
        if (n > 0)
            spread(r, values, n);
    }
}

/* Gives readers what comes out of the collectives, and takes away what other replicas do. */
static void rewrite(Replicator *r)
{
    IrModule *m = r->m;
    for (IrOp op = ir_func(m, r->func)->first, next; op; op = next)
    {
        IrOpData *data = ir_op(m, op);
        next = data->next;
        const bool is_old = data->code != IR_all_reduce && data->code != IR_reduce && data->code != IR_bcast;
        const uint32_t family =
            is_old && (!data->n_results || data->results[0] < r->n_old) ? ownership_of_op(&r->o, m, op) : 0;
        for (uint32_t i = 0; is_old && i < data->n_operands; i++)
        {
            const IrValue value = data->operands[i];
            const bool is_sum = value < r->n_old && ir_value_code(m, value) == IR_accumulate;
            if (value < r->n_old && r->map[value] && (is_sum || r->o.value[value] != family))
                data->operands[i] = r->map[value];
        }
        if (data->code != IR_accumulate && !is_mine(r, family))
            ir_op_remove(m, op);
    }
}

bool pass_replicate(PassContext *ctx)
{
    IrModule *m = ctx->m;
    IrFunc train = ir_func_find(m, "train");
    if (!train || ir_attrs_int(&ir_func(m, train)->attrs, IR_ATTR_micro_batches, 1) <= 1)
        return true;
    sort_phases(ctx, train);
    const IrAttrs *plan = &ir_func(m, train)->attrs;
    const int64_t n_replicas = ir_attrs_int(plan, IR_ATTR_replicas, 1),
                  replica = ir_attrs_int(plan, IR_ATTR_replica, 0);
    if (n_replicas <= 1)
        return true;
    if (replica < 0 || replica > n_replicas)
    {
        diag_error(ctx->diag, (Span){0}, "@train: `replica` is one of %lld, or their number for none",
                   (long long)n_replicas);
        return false;
    }
    Replicator r = {.ctx = ctx,
                    .m = m,
                    .func = train,
                    .n_replicas = (uint32_t)n_replicas,
                    .replica = (uint32_t)replica,
                    .o = ownership_find(ctx->scratch, m, train),
                    .n_old = m->values.len,
                    .map = ARENA_ARRAY(ctx->scratch, IrValue, m->values.len)};
    r.last_bucket = ARENA_ARRAY(ctx->scratch, uint32_t, r.o.n);
    r.share_of = ARENA_ARRAY(ctx->scratch, uint32_t, r.o.n);
    collect_sums(&r);
    divide(&r);
    uint32_t *level = ARENA_ARRAY(ctx->scratch, uint32_t, m->values.len);
    const Places places = sort_updates(&r, level);
    reduce_buckets(&r);
    publish_numbers(&r, &places, level);
    spread_params(&r, &places);
    rewrite(&r);
    return true;
}
