/* Batches are looked at in order, each once; what they lack waits in queues, one for each kind of run. */
#include "runtime/row_plan.h"

#include "base/bug.h"

#include <stdlib.h>
#include <string.h>

enum
{
    N_EPOCHS = 4 /* that are looked at ahead: more would hardly fill more runs */
};

typedef struct
{
    uint64_t sample, step;
    uint32_t rank; /* that reads it */
} Lack;

typedef struct
{
    VEC(Lack) rows;
    uint32_t first; /* those before it have been given out */
} Queue;

struct RowPlan
{
    Arena *arena;
    RowPlanSpec spec;
    uint8_t *states;          /* [variant][sample]; ROW_KEPT also once it is in a queue */
    Queue *queues;            /* [variant][ROW_MAKERS] */
    uint64_t *samples;        /* of a batch */
    uint32_t *needed;         /* [rank][ROW_MAKERS], now */
    double *costs;            /* of the runs that a rank has, by rank */
    bool started;             /* step and position are known */
    uint64_t step;            /* the first that has not been looked at */
    SamplerPosition position; /* of its batch */
    uint64_t end;             /* steps before it may be looked at, */
    uint64_t window;          /* and so many from the one at hand on */
    VEC(PlannedRow) mine;
};

RowPlan *row_plan_create(Arena *arena, const RowPlanSpec *spec)
{
    const uint64_t n_samples = spec->order.sampler.n_samples;
    RowPlan *p = ARENA_NEW(arena, RowPlan);
    *p = (RowPlan){.arena = arena,
                   .spec = *spec,
                   .states = arena_alloc(arena, n_samples * spec->n_variants),
                   .queues = ARENA_ARRAY(arena, Queue, spec->n_variants * ROW_MAKERS),
                   .samples = ARENA_ARRAY(arena, uint64_t, spec->order.batch),
                   .needed = ARENA_ARRAY(arena, uint32_t, spec->n_ranks * ROW_MAKERS),
                   .costs = ARENA_ARRAY(arena, double, spec->n_ranks),
                   .window = N_EPOCHS * sampler_batches_per_epoch(&spec->order.sampler, spec->order.batch)};
    for (uint32_t variant = 0; variant < spec->n_variants; variant++)
        for (uint64_t sample = 0; sample < n_samples; sample++)
            p->states[variant * n_samples + sample] = (uint8_t)spec->state_of(spec->context, variant, sample);
    return p;
}

/* ---- queues */

static uint32_t queue_len(const Queue *q)
{
    return q->rows.len - q->first;
}

/* What has been given out makes room before the queue grows. */
static void queue_push(Arena *arena, Queue *q, Lack row)
{
    if (q->rows.len == q->rows.cap && q->first > q->rows.len / 2)
    {
        memmove(q->rows.data, q->rows.data + q->first, queue_len(q) * sizeof *q->rows.data);
        q->rows.len -= q->first;
        q->first = 0;
    }
    vec_push(arena, &q->rows, row);
}

static Lack queue_pop(Queue *q)
{
    const Lack row = q->rows.data[q->first++];
    if (q->first == q->rows.len)
        q->first = q->rows.len = 0;
    return row;
}

/* ---- looking ahead */

static void look_at_batch(RowPlan *p)
{
    const RowPlanSpec *spec = &p->spec;
    const uint64_t step = p->step++;
    const uint32_t n = batch_order_next(&p->spec.order, &p->position, p->samples);
    const uint32_t variant = spec->variant_of(spec->context, p->samples, n);
    uint8_t *states = p->states + variant * spec->order.sampler.n_samples;
    for (uint32_t r = 0; r < spec->n_ranks; r++)
        for (uint32_t k = spec->shares[r].first; k < n && k < spec->shares[r].first + spec->shares[r].n; k++)
        {
            const uint64_t sample = p->samples[k];
            if (states[sample] == ROW_KEPT)
                continue;
            queue_push(p->arena, &p->queues[variant * ROW_MAKERS + states[sample]],
                       (Lack){.sample = sample, .step = step, .rank = r});
            states[sample] = ROW_KEPT;
        }
}

static bool can_look(const RowPlan *p, uint64_t now)
{
    return p->step < p->end && p->step < now + p->window;
}

/* How many of n rows a queue has. */
static uint32_t find_rows(RowPlan *p, uint64_t now, uint32_t queue, uint32_t n)
{
    const Queue *q = &p->queues[queue];
    while (queue_len(q) < n && can_look(p, now))
        look_at_batch(p);
    return queue_len(q) < n ? queue_len(q) : n;
}

/* The first n of a queue go to a rank, or as many as there are. */
static void give(RowPlan *p, uint64_t now, uint32_t queue, uint32_t n, uint32_t rank)
{
    n = find_rows(p, now, queue, n);
    for (uint32_t i = 0; i < n; i++)
    {
        const PlannedRow row = {.sample = queue_pop(&p->queues[queue]).sample, .variant = queue / ROW_MAKERS};
        if (rank == p->spec.rank)
            vec_push(p->arena, &p->mine, row);
    }
}

/* ---- the batch at hand */

/* What each rank lacks for it leaves the queues; its variant, when anything is lacking. */
static uint32_t count_needed(RowPlan *p, uint64_t step)
{
    uint32_t variant = 0;
    memset(p->needed, 0, p->spec.n_ranks * ROW_MAKERS * sizeof *p->needed);
    for (uint32_t i = 0; i < p->spec.n_variants * ROW_MAKERS; i++)
    {
        Queue *q = &p->queues[i];
        while (queue_len(q) && q->rows.data[q->first].step <= step)
        {
            p->needed[queue_pop(q).rank * ROW_MAKERS + i % ROW_MAKERS]++;
            variant = i / ROW_MAKERS;
        }
    }
    return variant;
}

static uint32_t n_runs(uint32_t n, uint32_t rows)
{
    return (n + rows - 1) / rows;
}

static uint32_t less(uint32_t n, uint32_t taken)
{
    return n > taken ? n - taken : 0;
}

/* Fills up the runs that a rank has; their cost. The room in runs from the data is for rows that could advance, where
 * that saves more than rows made ahead are worth. */
static double fill_own_runs(RowPlan *p, uint64_t now, uint32_t variant, uint32_t rank)
{
    const uint32_t rows = p->spec.rows, first = variant * ROW_MAKERS;
    const double *costs = &p->spec.costs[first];
    const uint32_t starts = p->needed[rank * ROW_MAKERS + ROW_STARTS];
    const uint32_t advances = p->needed[rank * ROW_MAKERS + ROW_ADVANCES];
    const uint32_t room = n_runs(starts, rows) * rows - starts;
    uint32_t ahead = find_rows(p, now, first + ROW_STARTS, room);
    uint32_t left = less(advances, room - ahead);
    const uint32_t left_without = less(advances, room);
    if ((n_runs(left, rows) - n_runs(left_without, rows)) * costs[ROW_ADVANCES] > ahead * costs[ROW_STARTS] / rows)
    {
        ahead = 0;
        left = left_without;
    }
    give(p, now, first + ROW_STARTS, ahead, rank);
    give(p, now, first + ROW_ADVANCES, n_runs(left, rows) * rows - left, rank);
    return n_runs(starts, rows) * costs[ROW_STARTS] + n_runs(left, rows) * costs[ROW_ADVANCES];
}

/* The queue from which a run in that time makes most: a full run, unless nothing more can come. */
static bool find_run(const RowPlan *p, double time, uint32_t *out_queue)
{
    double most = 0;
    for (uint32_t i = 0; i < p->spec.n_variants * ROW_MAKERS; i++)
    {
        const uint32_t len = queue_len(&p->queues[i]), n = len < p->spec.rows ? len : p->spec.rows;
        if (p->spec.costs[i] > time || (n < p->spec.rows && p->step < p->end) || n * p->spec.costs[i] <= most)
            continue;
        most = n * p->spec.costs[i];
        *out_queue = i;
    }
    return most > 0;
}

static void fill_time(RowPlan *p, uint64_t now, double time, uint32_t rank)
{
    while (time > 0)
    {
        uint32_t queue = 0;
        bool found;
        while (!(found = find_run(p, time, &queue)) && can_look(p, now))
            look_at_batch(p);
        if (!found)
            return;
        give(p, now, queue, p->spec.rows, rank);
        time -= p->spec.costs[queue];
    }
}

static int by_variant(const void *x, const void *y)
{
    const PlannedRow *a = x, *b = y;
    if (a->variant != b->variant)
        return a->variant < b->variant ? -1 : 1;
    return (a->sample > b->sample) - (a->sample < b->sample);
}

const PlannedRow *row_plan_next(RowPlan *p, uint64_t step, SamplerPosition position, uint64_t end, uint32_t *out_n)
{
    double longest = 0;
    p->mine.len = 0;
    if (!p->started)
    {
        p->started = true;
        p->step = step;
        p->position = position;
    }
    p->end = end;
    while (p->step <= step)
        look_at_batch(p);
    const uint32_t variant = count_needed(p, step);
    for (uint32_t r = 0; r < p->spec.n_ranks; r++)
    {
        p->costs[r] = fill_own_runs(p, step, variant, r);
        longest = p->costs[r] > longest ? p->costs[r] : longest;
    }
    for (uint32_t r = 0; r < p->spec.n_ranks; r++)
        fill_time(p, step, longest - p->costs[r], r);
    if (p->mine.len)
        qsort(p->mine.data, p->mine.len, sizeof *p->mine.data, by_variant);
    *out_n = p->mine.len;
    return p->mine.data;
}
