#include "driver/move.h"

#include "base/bug.h"
#include "base/strbuf.h"
#include "driver/session.h"
#include "runtime/fault.h"

#include <stdlib.h>
#include <string.h>

enum
{
    MOVE_TAG = (1 << 19) + 2, /* in the world, where programs send nothing */
    PART_BYTES = 256 << 20,   /* of all ranks: much for a link, little beside a model */
    PART_MOVES = 512
};

enum
{
    HAS = 1,
    NEEDS = 2
};

/* A param or state that some rank has or needs: the programs of ranks do not have the same globals. */
typedef struct
{
    const char *name;
    size_t size_bytes;
    uint8_t *flags; /* by rank */
    bool is_sent;   /* by this rank */
} Item;

typedef struct
{
    uint32_t item, from, to;
} Move;

/* What is on its way at a time: all moves of some items. */
typedef struct
{
    uint32_t first_item, end_item, first_move, end_move;
    size_t bytes;
} Part;

/* The same on every rank, but for what this rank sends. */
struct MovePlan
{
    Arena *arena;
    uint32_t n_ranks, me;
    VEC(Item) items; /* by name */
    VEC(Move) moves;
    VEC(Part) parts;
    double most_bytes, peak_bytes; /* of the rank that gets most; that has most */
    size_t longest_bytes;          /* of this rank's moves */
};

static bool is_mine(const MovePlan *p, const Move *move)
{
    return move->from == p->me || move->to == p->me;
}

/* ---- who has what, and who needs it */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const Item *)a)->name, ((const Item *)b)->name);
}

static int by_info_name(const void *a, const void *b)
{
    return strcmp(((const ExecutorTensorInfo *)a)->name, ((const ExecutorTensorInfo *)b)->name);
}

/* This rank's part of the list: "1 4096 name\n", the digit its flags. */
static void list_mine(Session *s, Arena *arena, StrBuf *text)
{
    uint32_t n_needs;
    const uint32_t n_had = executor_tensors_count(s->tensors);
    ExecutorTensorInfo *needs = executor_needs(arena, variants_modules(s), s->variants.n_shorter + 1, &n_needs);
    ExecutorTensorInfo *had = ARENA_ARRAY(arena, ExecutorTensorInfo, n_had + 1);
    for (uint32_t i = 0; i < n_had; i++)
        had[i] = executor_tensors_info(s->tensors, i);
    if (n_needs)
        qsort(needs, n_needs, sizeof *needs, by_info_name);
    if (n_had)
        qsort(had, n_had, sizeof *had, by_info_name);
    for (uint32_t i = 0, k = 0; i < n_had || k < n_needs;)
    {
        const int order = i == n_had ? 1 : k == n_needs ? -1 : strcmp(had[i].name, needs[k].name);
        const ExecutorTensorInfo *info = order <= 0 ? &had[i] : &needs[k];
        strbuf_addf(text, "%d %zu %s\n", (order <= 0 ? HAS : 0) | (order >= 0 ? NEEDS : 0), info->size_bytes,
                    info->name);
        i += order <= 0;
        k += order >= 0;
    }
}

static void add_items(MovePlan *p, const char *text, uint32_t rank)
{
    const uint32_t n_before = p->items.len;
    for (const char *at = text, *end; *at; at = end + 1)
    {
        char *name;
        end = strchr(at, '\n');
        const size_t size_bytes = strtoull(at + 1, &name, 10);
        const Item item = {.name = arena_strndup(p->arena, name + 1, (size_t)(end - name) - 1),
                           .size_bytes = size_bytes};
        Item *found = n_before ? bsearch(&item, p->items.data, n_before, sizeof item, by_name) : NULL;
        if (!found)
        {
            vec_push(p->arena, &p->items, item);
            found = &p->items.data[p->items.len - 1];
            found->flags = ARENA_ARRAY(p->arena, uint8_t, p->n_ranks);
        }
        found->flags[rank] = (uint8_t)(*at - '0');
    }
    if (p->items.len)
        qsort(p->items.data, p->items.len, sizeof *p->items.data, by_name);
}

static Status list_all(Session *s, MovePlan *p)
{
    Comm *world = s->ranks.comm.world;
    StrBuf mine = strbuf_make(p->arena);
    list_mine(s, p->arena, &mine);
    if (!world)
    {
        add_items(p, strbuf_text(&mine), 0);
        return STATUS_OK;
    }
    double longest = (double)mine.len;
    TRY(comm_all_reduce_f64(world, &longest, 1, COMM_MAX));
    const size_t stride = (size_t)longest + 1;
    char *padded = ARENA_ARRAY(p->arena, char, stride), *all = ARENA_ARRAY(p->arena, char, stride * p->n_ranks);
    memcpy(padded, strbuf_text(&mine), mine.len);
    TRY(comm_all_gather(world, padded, stride, all));
    for (uint32_t r = 0; r < p->n_ranks; r++)
        add_items(p, all + r * stride, r);
    return STATUS_OK;
}

/* ---- who sends it */

/* The one that has sent least so far; n_ranks: nobody has it. */
static uint32_t find_sender(const MovePlan *p, const Item *item, const size_t *sent_bytes)
{
    uint32_t best = p->n_ranks;
    for (uint32_t r = 0; r < p->n_ranks; r++)
        if ((item->flags[r] & HAS) && (best == p->n_ranks || sent_bytes[r] < sent_bytes[best]))
            best = r;
    return best;
}

static Status plan_item(MovePlan *p, uint32_t number, size_t *sent_bytes, size_t *got_bytes)
{
    Item *item = &p->items.data[number];
    for (uint32_t to = 0; to < p->n_ranks; to++)
    {
        if (item->flags[to] != NEEDS)
            continue;
        const Move move = {number, find_sender(p, item, sent_bytes), to};
        if (move.from == p->n_ranks)
            return status_fail(STATUS_IO, "no rank has '%s'", item->name);
        sent_bytes[move.from] += item->size_bytes;
        got_bytes[to] += item->size_bytes;
        item->is_sent |= move.from == p->me;
        if (is_mine(p, &move) && item->size_bytes > p->longest_bytes)
            p->longest_bytes = item->size_bytes;
        vec_push(p->arena, &p->moves, move);
    }
    return STATUS_OK;
}

static Status plan_parts(MovePlan *p)
{
    size_t *sent_bytes = ARENA_ARRAY(p->arena, size_t, p->n_ranks);
    size_t *got_bytes = ARENA_ARRAY(p->arena, size_t, p->n_ranks);
    Part part = {0};
    for (uint32_t i = 0; i < p->items.len; i++)
    {
        const uint32_t first = p->moves.len;
        TRY(plan_item(p, i, sent_bytes, got_bytes));
        const size_t bytes = (p->moves.len - first) * p->items.data[i].size_bytes;
        if (first > part.first_move && (part.bytes + bytes > PART_BYTES || p->moves.len - part.first_move > PART_MOVES))
        {
            part.end_item = i;
            part.end_move = first;
            vec_push(p->arena, &p->parts, part);
            part = (Part){.first_item = i, .first_move = first};
        }
        part.bytes += bytes;
    }
    part.end_item = p->items.len;
    part.end_move = p->moves.len;
    if (part.first_move < part.end_move)
        vec_push(p->arena, &p->parts, part);
    for (uint32_t r = 0; r < p->n_ranks; r++)
        p->most_bytes = (double)got_bytes[r] > p->most_bytes ? (double)got_bytes[r] : p->most_bytes;
    return STATUS_OK;
}

/* ---- what it wants */

static bool is_kept_till_sent(const MovePlan *p, const Item *item)
{
    return item->flags[p->me] == HAS && item->is_sent;
}

/* Of params and states, on this rank. */
static size_t peak_bytes(const MovePlan *p)
{
    size_t held = 0;
    for (uint32_t i = 0; i < p->items.len; i++)
        if (p->items.data[i].flags[p->me] == (HAS | NEEDS) || is_kept_till_sent(p, &p->items.data[i]))
            held += p->items.data[i].size_bytes;
    size_t most = held;
    for (uint32_t k = 0; k < p->parts.len; k++)
    {
        const Part *part = &p->parts.data[k];
        for (uint32_t i = part->first_item; i < part->end_item; i++)
            held += p->items.data[i].flags[p->me] == NEEDS ? p->items.data[i].size_bytes : 0;
        most = held > most ? held : most;
        for (uint32_t i = part->first_item; i < part->end_item; i++)
            held -= is_kept_till_sent(p, &p->items.data[i]) ? p->items.data[i].size_bytes : 0;
    }
    return most;
}

typedef struct
{
    double peak, needs, has; /* bytes */
} Room;

/* Host memory is not asked about: it is lent when it is touched, and others take and give it meanwhile. */
static Room find_room(const Session *s, const MovePlan *p)
{
    Room room = {.peak = (double)peak_bytes(p)};
    if (!s->device || hal_device_uses_host_memory(s->device))
        return room;
    const HalMemoryInfo device = hal_memory_info(s->device);
    const ExecutorMemory program = executor_memory_planned(s->m);
    const double all = (double)(program.param_bytes + program.state_bytes + program.input_bytes + program.output_bytes +
                                program.arena_bytes);
    if (!device.total_bytes) /* it does not tell */
        return room;
    room.needs = all > room.peak ? all : room.peak;
    room.has = (double)device.free_bytes;
    for (uint32_t i = 0; i < executor_tensors_count(s->tensors); i++)
        room.has += (double)executor_tensors_info(s->tensors, i).size_bytes;
    return room;
}

static Status compare_rooms(Session *s, MovePlan *p, const char **out_short)
{
    const Room mine = find_room(s, p);
    Room *all = ARENA_ARRAY(p->arena, Room, p->n_ranks);
    uint32_t worst = 0;
    all[0] = mine;
    if (s->ranks.comm.world)
        TRY(comm_all_gather(s->ranks.comm.world, &mine, sizeof mine, all));
    for (uint32_t r = 0; r < p->n_ranks; r++)
    {
        worst = all[r].needs - all[r].has > all[worst].needs - all[worst].has ? r : worst;
        p->peak_bytes = all[r].peak > p->peak_bytes ? all[r].peak : p->peak_bytes;
    }
    const Room *room = &all[worst];
    *out_short = "";
    if (room->needs > room->has)
        *out_short = arena_printf(s->arena,
                                  "rank %u would need %.1f MiB on its device (%.1f MiB while tensors move), "
                                  "and has %.1f MiB",
                                  worst, room->needs / (1 << 20), room->peak / (1 << 20), room->has / (1 << 20));
    return STATUS_OK;
}

static Status make_plan(Session *s, MovePlan *p, const char **out_short)
{
    if (s->ranks.comm.world)
        comm_set_place(s->ranks.comm.world, "transition", -1, -1);
    TRY(list_all(s, p));
    TRY(plan_parts(p));
    return compare_rooms(s, p, out_short);
}

Status move_plan(Session *s, MovePlan **out_plan, const char **out_short)
{
    Arena *arena = arena_create();
    MovePlan *p = *out_plan = ARENA_NEW(arena, MovePlan);
    const Comm *world = s->ranks.comm.world;
    *p = (MovePlan){.arena = arena, .n_ranks = world ? comm_size(world) : 1, .me = s->ranks.rank};
    return make_plan(s, p, out_short);
}

void move_destroy(MovePlan *p)
{
    if (p)
        arena_destroy(p->arena);
}

/* ---- moving */

static Status take(const Session *s, const Item *item, void **out_at)
{
    TRY(executor_tensors_add(s->tensors, s->device, item->name, item->size_bytes));
    *out_at = executor_tensors_address(s->tensors, item->name);
    return STATUS_OK;
}

/* From device to device, all of the part at once. */
static Status exchange(const Session *s, const MovePlan *p, const Part *part, double *moving_s)
{
    DeviceMove *mine = ARENA_ARRAY(p->arena, DeviceMove, part->end_move - part->first_move);
    uint32_t n = 0;
    bool gets = false;
    for (uint32_t i = part->first_move; i < part->end_move; i++)
    {
        const Move *move = &p->moves.data[i];
        const Item *item = &p->items.data[move->item];
        const bool sends = move->from == p->me;
        DeviceMove one = {.sends = sends, .peer = sends ? move->to : move->from, .size_bytes = item->size_bytes};
        if (!is_mine(p, move))
            continue;
        if (sends)
            one.at = executor_tensors_address(s->tensors, item->name);
        else
            TRY(take(s, item, &one.at));
        gets |= !sends;
        mine[n++] = one;
    }
    const double start_s = driver_now_s();
    const Status status = device_comm_move(s->ranks.comm.device, mine, n, part->bytes);
    *moving_s += gets ? driver_now_s() - start_s : 0;
    return status;
}

/* mirror: on the host; NULL: the device has its memory there. */
static Status send(const Session *s, const Item *item, uint32_t to, void *mirror)
{
    const void *at = executor_tensors_address(s->tensors, item->name);
    if (mirror)
        TRY(hal_copy(s->device, HAL_COPY_FROM_DEVICE, mirror, at, item->size_bytes));
    return comm_send(s->ranks.comm.world, to, MOVE_TAG, mirror ? mirror : at, item->size_bytes);
}

static Status receive(const Session *s, const Item *item, uint32_t from, void *mirror, double *moving_s)
{
    void *at;
    TRY(take(s, item, &at));
    const double start_s = driver_now_s();
    TRY(comm_recv(s->ranks.comm.world, from, MOVE_TAG, mirror ? mirror : at, item->size_bytes));
    *moving_s += driver_now_s() - start_s;
    return mirror ? hal_copy(s->device, HAL_COPY_TO_DEVICE, at, mirror, item->size_bytes) : STATUS_OK;
}

/* One after another: every rank walks the list in the same order, so no two can wait for each other. */
static Status pass_on(const Session *s, const MovePlan *p, const Part *part, void *mirror, double *moving_s)
{
    for (uint32_t i = part->first_move; i < part->end_move; i++)
    {
        const Move *move = &p->moves.data[i];
        const Item *item = &p->items.data[move->item];
        if (move->from == p->me)
            TRY(send(s, item, move->to, mirror));
        if (move->to == p->me)
            TRY(receive(s, item, move->from, mirror, moving_s));
    }
    return STATUS_OK;
}

/* The interpreter has all that its module has. */
static void drop(const Session *s, const MovePlan *p, uint32_t first, uint32_t end, bool sent)
{
    for (uint32_t i = first; s->device && i < end; i++)
        if (p->items.data[i].flags[p->me] == HAS && p->items.data[i].is_sent == sent)
            executor_tensors_remove(s->tensors, p->items.data[i].name);
}

static Status move_parts(const Session *s, const MovePlan *p, void *mirror, double *moving_s)
{
    drop(s, p, 0, p->items.len, false);
    for (uint32_t k = 0; k < p->parts.len; k++)
    {
        const Part *part = &p->parts.data[k];
        TRY(s->ranks.comm.device ? exchange(s, p, part, moving_s) : pass_on(s, p, part, mirror, moving_s));
        drop(s, p, part->first_item, part->end_item, true);
    }
    return STATUS_OK;
}

static void note(Moved *moved, const MovePlan *p, const char *way, double moving_s)
{
    for (uint32_t k = 0; k < p->parts.len; k++)
        moved->bytes += (double)p->parts.data[k].bytes;
    moved->way = way;
    moved->most_bytes += p->most_bytes;
    moved->most_s += moving_s;
    moved->peak_bytes = p->peak_bytes > moved->peak_bytes ? p->peak_bytes : moved->peak_bytes;
}

Status move_tensors(Session *s, const MovePlan *p, uint64_t step, Moved *moved)
{
    const bool by_device = s->ranks.comm.device != NULL;
    const bool mirrored = !by_device && s->device && !hal_device_uses_host_memory(s->device);
    void *mirror = NULL;
    double moving_s = 0;
    fault_in_transition(s->ranks.rank, step);
    if (s->ranks.comm.world)
        comm_set_place(s->ranks.comm.world, "transition", -1, -1);
    if (mirrored && p->longest_bytes)
        TRY(hal_pinned_create(s->device, p->longest_bytes, &mirror));
    Status status = move_parts(s, p, mirror, &moving_s);
    if (mirror)
        hal_pinned_destroy(s->device, mirror);
    if (status == STATUS_OK && s->ranks.comm.world)
        status = comm_all_reduce_f64(s->ranks.comm.world, &moving_s, 1, COMM_MAX);
    note(moved, p, by_device ? "nccl" : mirrored ? "host" : "messages", moving_s);
    return status;
}

const char *moved_text(const Session *s, const Moved *moved)
{
    if (moved->bytes == 0)
        return "nothing moved";
    const bool is_much = moved->bytes >= 1 << 20;
    return arena_printf(s->arena, "%.1f %s %s", moved->bytes / (is_much ? 1 << 20 : 1 << 10), is_much ? "MiB" : "KiB",
                        strcmp(moved->way, "nccl") == 0   ? "by NCCL"
                        : strcmp(moved->way, "host") == 0 ? "through memory of the host"
                                                          : "by messages");
}
