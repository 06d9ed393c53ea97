/* From one plan to the next while the job goes on: what each rank has in hand, what it needs, and who sends it. */
#include "driver/elastic.h"

#include "base/bug.h"
#include "base/strbuf.h"
#include "driver/session.h"
#include "runtime/fault.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum
{
    MOVE_TAG = (1 << 19) + 2,  /* in the world, where programs send nothing */
    MUCH_MOVED_BYTES = 1 << 20 /* what takes long enough to tell a rate */
};

typedef struct
{
    Arena *arena;          /* names */
    VEC(const char *) had; /* params and states that were on this rank */
    void *piece;           /* one of them, on its way */
    size_t piece_bytes;
    int64_t moved_bytes; /* received by this rank */
    double moving_s;     /* of that */
    ElasticTimes times;
    double copy_s, whole_s;
} Transition;

static bool had(const Transition *t, const char *name)
{
    for (uint32_t i = 0; i < t->had.len; i++)
        if (strcmp(t->had.data[i], name) == 0)
            return true;
    return false;
}

/* The executor ends; what it had stays where it is. */
static Status keep_tensors(Session *s, Transition *t)
{
    s->tensors = executor_tensors_create();
    TRY(session_unbuild(s));
    for (uint32_t i = 0; i < executor_tensors_count(s->tensors); i++)
        vec_push(t->arena, &t->had, arena_strdup(t->arena, executor_tensors_name(s->tensors, i)));
    return STATUS_OK;
}

static bool needs(const Session *s, const char *name)
{
    return ir_global_find(s->m, name) && executor_has_global(s->executor, name);
}

/* ---- who has what, and who needs it */

enum
{
    HAS = 1,
    NEEDS = 2
};

/* A param or state that some rank has or needs: the programs of ranks do not have the same globals. */
typedef struct
{
    const char *name;
    uint8_t *flags; /* by rank */
} Item;

typedef VEC(Item) Items;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const Item *)a)->name, ((const Item *)b)->name);
}

/* This rank's part of the list: "1name\n", the digit its flags. */
static void list_mine(const Session *s, const Transition *t, StrBuf *text)
{
    for (uint32_t i = 0; i < t->had.len; i++)
        strbuf_addf(text, "%d%s\n", needs(s, t->had.data[i]) ? HAS | NEEDS : HAS, t->had.data[i]);
    for (IrGlobal g = 1; g < s->m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(s->m, g);
        const bool is_kept = global->kind == IR_GLOBAL_PARAM || global->kind == IR_GLOBAL_STATE;
        if (is_kept && needs(s, global->name) && !had(t, global->name))
            strbuf_addf(text, "%d%s\n", NEEDS, global->name);
    }
}

static void add_items(Transition *t, Items *items, const char *text, uint32_t rank, uint32_t n_ranks)
{
    const uint32_t n_before = items->len;
    for (const char *at = text; *at; at += strcspn(at, "\n") + 1)
    {
        const Item item = {.name = arena_strndup(t->arena, at + 1, strcspn(at, "\n") - 1)};
        Item *found = n_before ? bsearch(&item, items->data, n_before, sizeof item, by_name) : NULL;
        if (!found)
        {
            vec_push(t->arena, items, item);
            found = &items->data[items->len - 1];
            found->flags = ARENA_ARRAY(t->arena, uint8_t, n_ranks);
        }
        found->flags[rank] = (uint8_t)(*at - '0');
    }
    qsort(items->data, items->len, sizeof *items->data, by_name);
}

/* The same list, in the same order, on every rank. Collective. */
static Status list_all(const Session *s, Transition *t, Items *out_items)
{
    Comm *world = s->ranks.comm.world;
    StrBuf mine = strbuf_make(t->arena);
    list_mine(s, t, &mine);
    if (!world)
    {
        add_items(t, out_items, strbuf_text(&mine), 0, 1);
        return STATUS_OK;
    }
    const uint32_t n_ranks = comm_size(world);
    double longest = (double)mine.len;
    TRY(comm_all_reduce_f64(world, &longest, 1, COMM_MAX));
    const size_t stride = (size_t)longest + 1;
    char *padded = ARENA_ARRAY(t->arena, char, stride), *all = ARENA_ARRAY(t->arena, char, stride *n_ranks);
    memcpy(padded, strbuf_text(&mine), mine.len);
    TRY(comm_all_gather(world, padded, stride, all));
    for (uint32_t r = 0; r < n_ranks; r++)
        add_items(t, out_items, all + r * stride, r, n_ranks);
    return STATUS_OK;
}

/* ---- moving */

/* A tensor's bytes, in memory that the next one has again. */
static void *piece(Transition *t, size_t size_bytes)
{
    if (size_bytes <= t->piece_bytes)
        return t->piece;
    free(t->piece);
    t->piece = malloc(size_bytes);
    if (!t->piece)
        base_out_of_memory(size_bytes);
    t->piece_bytes = size_bytes;
    return t->piece;
}

static size_t bytes_here(const Session *s, const char *name)
{
    return (size_t)ir_type_size_bytes(&ir_global(s->m, ir_global_find(s->m, name))->type);
}

/* From where it lies: this rank's program may have no use for it. */
static Status send(const Session *s, Transition *t, const char *name, uint32_t to)
{
    const bool in_use = needs(s, name);
    const size_t size_bytes = in_use ? bytes_here(s, name) : executor_tensors_bytes(s->tensors, name);
    void *data = piece(t, size_bytes);
    TRY(in_use ? executor_read_global(s->executor, name, data) : executor_tensors_read(s->tensors, name, data));
    return comm_send(s->ranks.comm.world, to, MOVE_TAG, data, size_bytes);
}

static Status receive(const Session *s, Transition *t, const char *name, uint32_t from)
{
    const size_t size_bytes = bytes_here(s, name);
    void *data = piece(t, size_bytes);
    t->moved_bytes += (int64_t)size_bytes;
    const double start_s = driver_now_s();
    const Status status = comm_recv(s->ranks.comm.world, from, MOVE_TAG, data, size_bytes);
    t->moving_s += driver_now_s() - start_s;
    return status == STATUS_OK ? executor_write_global(s->executor, name, data) : status;
}

/* One tensor goes to all ranks that lack it; those that have it take turns in sending. Every rank walks the list in the
 * same order, so no two can wait for each other. */
static Status move_tensor(const Session *s, Transition *t, const Item *item)
{
    const Comm *world = s->ranks.comm.world;
    const uint32_t n_ranks = world ? comm_size(world) : 1, me = s->ranks.rank;
    uint32_t n_owners = 0, n_sent = 0;
    for (uint32_t r = 0; r < n_ranks; r++)
        n_owners += (item->flags[r] & HAS) != 0;
    for (uint32_t to = 0; to < n_ranks; to++)
    {
        if (item->flags[to] != NEEDS)
            continue;
        if (!n_owners)
            return status_fail(STATUS_IO, "no rank has '%s'", item->name);
        uint32_t turn = n_sent++ % n_owners, from = 0;
        while (!(item->flags[from] & HAS) || turn-- > 0)
            from++;
        if (from == me)
            TRY(send(s, t, item->name, to));
        if (to == me)
            TRY(receive(s, t, item->name, from));
    }
    return STATUS_OK;
}

/* What the next decision goes by, the same on every rank: bytes and seconds of the rank that had most of them. */
static Status note_rate(Session *s, const Transition *t)
{
    double most[2] = {(double)t->moved_bytes, t->moving_s};
    if (s->ranks.comm.world)
        TRY(comm_all_reduce_f64(s->ranks.comm.world, most, 2, COMM_MAX));
    if (most[0] >= MUCH_MOVED_BYTES && most[1] > 0)
        s->ranks.moved_bytes_per_s = most[0] / most[1];
    return STATUS_OK;
}

static Status move_tensors(Session *s, Transition *t)
{
    Items items = {0};
    if (s->ranks.comm.world)
        comm_set_place(s->ranks.comm.world, "transition", -1, -1);
    TRY(list_all(s, t, &items));
    for (uint32_t i = 0; i < items.len; i++)
        TRY(move_tensor(s, t, &items.data[i]));
    return note_rate(s, t);
}

/* ---- what is told */

static const char *plan_text(const Session *s)
{
    if (!s->ranks.planned)
        return "";
    const Plan *plan = &s->ranks.choice.chosen->plan;
    const char *why = s->ranks.choice.why;
    return arena_printf(s->arena, "; %u stage%s x %u replica%s%s, %u micro-batches, %s%s%s%s", plan->n_stages,
                        plan->n_stages == 1 ? "" : "s", plan->n_replicas, plan->n_replicas == 1 ? "" : "s",
                        ranks_idle_text(s), plan->n_micro, pipeline_name(plan->schedule), *why ? " (" : "", why,
                        *why ? ")" : "");
}

static Status tell(Session *s, const Transition *t, Trainer *trainer, const TrainerObserver *observer)
{
    double moved = (double)t->moved_bytes;
    if (s->ranks.comm.world)
        TRY(comm_all_reduce_f64(s->ranks.comm.world, &moved, 1, COMM_SUM));
    if (s->ranks.rank != 0)
        return STATUS_OK;
    const Elastic *e = &s->elastic;
    if (observer && observer->note)
        observer->note(observer->context,
                       arena_printf(s->arena,
                                    "step %llu: %u of %u layers frozen (%s)%s; %s%s; %.2f s: compile %.2f s%s, regroup "
                                    "%.2f s, trial %.2f s, copy %.2f s (%.1f MiB moved)",
                                    (unsigned long long)trainer_steps_done(trainer), e->frozen, s->job->n_layers,
                                    e->why, plan_text(s), e->cached ? "cached" : "not cached: ",
                                    e->cached ? "" : e->not_cached, t->whole_s, t->times.build_s,
                                    t->times.ahead      ? " (made ahead)"
                                    : s->kernels_cached ? " (kernels cached)"
                                                        : "",
                                    t->times.regroup_s, t->times.trial_s, t->copy_s, moved / (1 << 20)));
    MetricsLog *log = trainer_log(trainer);
    if (!log)
        return STATUS_OK;
    const Plan *plan = s->ranks.planned ? &s->ranks.choice.chosen->plan : NULL;
    const Metric rows[] = {METRIC_U64("frozen", e->frozen),
                           METRIC_U64("layers", s->job->n_layers),
                           METRIC_U64("stages", plan ? plan->n_stages : 1),
                           METRIC_U64("replicas", plan ? plan->n_replicas : 1),
                           METRIC_U64("idle", ranks_n_idle(s)),
                           METRIC_U64("micro_batches", plan ? plan->n_micro : 1),
                           METRIC_TEXT("schedule", plan ? pipeline_name(plan->schedule) : ""),
                           METRIC_F64("predicted_step_s", plan ? s->ranks.choice.chosen->step_s : NAN),
                           METRIC_F64("predicted_end_s", plan ? s->ranks.choice.chosen->end_s : NAN),
                           METRIC_TEXT("plan_why", plan ? s->ranks.choice.why : ""),
                           METRIC_U64("cached", e->cached),
                           METRIC_F64("transition_s", t->whole_s),
                           METRIC_F64("compile_s", t->times.build_s),
                           METRIC_U64("ahead", t->times.ahead),
                           METRIC_F64("regroup_s", t->times.regroup_s),
                           METRIC_F64("trial_s", t->times.trial_s),
                           METRIC_F64("copy_s", t->copy_s),
                           METRIC_F64("moved_bytes", moved),
                           METRIC_U64("planned_bytes", (uint64_t)session_predicted_bytes(s))};
    return metrics_log_event(log, trainer_steps_done(trainer), "transition", rows, sizeof rows / sizeof *rows);
}

Status elastic_build(Session *s, ElasticTimes *times)
{
    bool worth = true;
    elastic_choose_cache(s);
    do
    {
        if (!worth)
            TRY(session_unbuild(s));
        double start_s = driver_now_s();
        TRY(ranks_replan(s));
        times->regroup_s += driver_now_s() - start_s;
        start_s = driver_now_s();
        times->ahead = prebuild_take(s->prebuild, s);
        if (!times->ahead)
            TRY(session_compile(s));
        TRY(session_build(s));
        times->build_s += driver_now_s() - start_s;
        start_s = driver_now_s();
        TRY(elastic_judge_cache(s, &worth));
        times->trial_s += driver_now_s() - start_s;
    } while (!worth);
    return STATUS_OK;
}

static Status go_over(Session *s, Transition *t, const TrainerObserver *observer,
                      const volatile sig_atomic_t *stop_flag, Trainer **trainer)
{
    const TrainerPosition position = trainer_position(*trainer);
    const double begin_s = driver_now_s();
    ranks_hold(s, trainer_total_steps(*trainer) - position.step);
    trainer_destroy(*trainer);
    *trainer = NULL;
    TRY(keep_tensors(s, t));
    t->copy_s = driver_now_s() - begin_s;
    TRY(elastic_build(s, &t->times));
    const double start_s = driver_now_s();
    fault_in_transition(s->ranks.rank, position.step);
    TRY(move_tensors(s, t));
    executor_tensors_destroy(s->tensors);
    s->tensors = NULL;
    if (s->options->profile)
        executor_profile_start(s->executor);
    t->copy_s += driver_now_s() - start_s;
    TRY(session_trainer(s, observer, true, stop_flag, &position, trainer));
    t->whole_s = driver_now_s() - begin_s;
    return tell(s, t, *trainer, observer);
}

Status elastic_transition(Session *s, const TrainerObserver *observer, const volatile sig_atomic_t *stop_flag,
                          Trainer **trainer)
{
    Transition t = {.arena = arena_create()};
    Status status = go_over(s, &t, observer, stop_flag, trainer);
    executor_tensors_destroy(s->tensors);
    s->tensors = NULL;
    free(t.piece);
    arena_destroy(t.arena);
    return status;
}
