/* What the programs of an executor say to other GPUs: told while it is built; then every pair of ranks that talks gets
 * a lane for each direction, and the replicas a group for their sums, all split from the world of NCCL. */
#include "base/bug.h"
#include "runtime/hal_cuda_nccl.h"

#include <stdlib.h>
#include <string.h>

enum
{
    LIST_TAG = (1 << 19) + 4, /* in pipe, where programs send nothing */
    ALIGNMENT = 256,
    NAME_BYTES = 32
};

/* ---- telling */

DeviceLinks *device_links_create(DeviceComm *c, Comm *pipe, Comm *data)
{
    Arena *arena = arena_create();
    DeviceLinks *l = ARENA_NEW(arena, DeviceLinks);
    *l = (DeviceLinks){.next = c->links, .comm = c, .pipe = pipe, .data = data, .arena = arena};
    c->links = l;
    return l;
}

uint32_t device_links_program(DeviceLinks *l, const char *name, uint32_t variant)
{
    vec_push(l->arena, &l->programs, (CudaProgram){arena_strdup(l->arena, name), variant});
    for (uint32_t i = 0; i < l->lanes.len; i++)
        vec_push(l->arena, &l->lanes.data[i]->told, (CudaMessages){0});
    return l->programs.len - 1;
}

static uint32_t find_lane(DeviceLinks *l, bool sends, uint32_t peer)
{
    for (uint32_t i = 0; i < l->lanes.len; i++)
        if (l->lanes.data[i]->sends == sends && l->lanes.data[i]->peer == peer)
            return i;
    CudaLane *lane = ARENA_NEW(l->arena, CudaLane);
    *lane = (CudaLane){.peer = peer, .sends = sends};
    for (uint32_t i = 0; i < l->programs.len; i++)
        vec_push(l->arena, &lane->told, (CudaMessages){0});
    vec_push(l->arena, &l->lanes, lane);
    return l->lanes.len - 1;
}

static uint32_t find_tag(DeviceLinks *l, CudaLane *lane, uint32_t tag)
{
    for (uint32_t i = 0; i < lane->tags.len; i++)
        if (lane->tags.data[i].tag == tag)
            return i;
    vec_push(l->arena, &lane->tags, (CudaTag){.tag = tag});
    return lane->tags.len - 1;
}

uint32_t device_links_message(DeviceLinks *l, bool sends, uint32_t peer, uint32_t tag, size_t size_bytes,
                              const char *place, int32_t micro_batch)
{
    const uint32_t number = find_lane(l, sends, peer), program = l->programs.len - 1;
    CudaLane *lane = l->lanes.data[number];
    CudaMessages *told = &lane->told.data[program];
    const CudaMessage message = {.tag = find_tag(l, lane, tag),
                                 .size_bytes = size_bytes,
                                 .place = place,
                                 .micro_batch = micro_batch,
                                 .position = told->len};
    CudaTag *slots = &lane->tags.data[message.tag];
    const size_t slot_bytes = (size_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + (size_bytes == 0) * ALIGNMENT;
    slots->slot_bytes = slots->slot_bytes > slot_bytes ? slots->slot_bytes : slot_bytes;
    vec_push(l->arena, &l->messages, (CudaMessageAt){number, program, told->len});
    vec_push(l->arena, told, message);
    return l->messages.len - 1;
}

/* ---- the order of the sender */

/* Of a program: its head, then its messages. */
typedef struct
{
    char name[NAME_BYTES];
    uint32_t variant, n;
} ListHead;

typedef struct
{
    uint64_t size_bytes;
    uint32_t tag, unused;
} ListItem;

static size_t list_bytes(const DeviceLinks *l, const CudaLane *lane)
{
    size_t size_bytes = 0;
    for (uint32_t p = 0; p < l->programs.len; p++)
        size_bytes += sizeof(ListHead) + lane->told.data[p].len * sizeof(ListItem);
    return size_bytes;
}

static ListHead head_of(const DeviceLinks *l, const CudaLane *lane, uint32_t program)
{
    ListHead head = {.variant = l->programs.data[program].variant, .n = lane->told.data[program].len};
    strncpy(head.name, l->programs.data[program].name, NAME_BYTES - 1);
    return head;
}

static Status send_list(const DeviceLinks *l, CudaLane *lane)
{
    const uint64_t size_bytes = list_bytes(l, lane);
    char *text = arena_alloc(l->arena, size_bytes), *at = text;
    for (uint32_t p = 0; p < l->programs.len; p++)
    {
        const ListHead head = head_of(l, lane, p);
        memcpy(at, &head, sizeof head);
        at += sizeof head;
        for (uint32_t i = 0; i < head.n; i++, at += sizeof(ListItem))
        {
            const CudaMessage *message = &lane->told.data[p].data[i];
            const ListItem item = {message->size_bytes, lane->tags.data[message->tag].tag, 0};
            memcpy(at, &item, sizeof item);
        }
    }
    lane->sent = lane->told.data;
    TRY(comm_send(l->pipe, lane->peer, LIST_TAG, &size_bytes, sizeof size_bytes));
    return comm_send(l->pipe, lane->peer, LIST_TAG, text, size_bytes);
}

static Status differ(const DeviceLinks *l, const CudaLane *lane)
{
    return status_fail(STATUS_IO,
                       "rank %u sends other messages to rank %u than that takes; the ranks run different programs",
                       comm_world_rank(l->pipe, lane->peer), comm_rank(l->comm->world));
}

/* Each message of the sender is the next one of its tag here. */
static Status match(const DeviceLinks *l, CudaLane *lane, uint32_t program, const char *items)
{
    CudaMessages *told = &lane->told.data[program], *sent = &lane->sent[program];
    uint32_t *n_of_tag = ARENA_ARRAY(l->arena, uint32_t, lane->tags.len);
    for (uint32_t i = 0; i < told->len; i++)
    {
        ListItem item;
        uint32_t t = 0, k = 0, n;
        memcpy(&item, items + i * sizeof item, sizeof item);
        while (t < lane->tags.len && lane->tags.data[t].tag != item.tag)
            t++;
        if (t == lane->tags.len)
            return differ(l, lane);
        for (n = n_of_tag[t]++; k < told->len && (told->data[k].tag != t || n > 0); k++)
            n -= told->data[k].tag == t;
        if (k == told->len || told->data[k].size_bytes != item.size_bytes)
            return differ(l, lane);
        told->data[k].position = i;
        vec_push(l->arena, sent, told->data[k]);
    }
    return STATUS_OK;
}

static Status take_list(const DeviceLinks *l, CudaLane *lane)
{
    uint64_t size_bytes;
    TRY(comm_recv(l->pipe, lane->peer, LIST_TAG, &size_bytes, sizeof size_bytes));
    char *text = arena_alloc(l->arena, size_bytes);
    TRY(comm_recv(l->pipe, lane->peer, LIST_TAG, text, size_bytes));
    lane->sent = ARENA_ARRAY(l->arena, CudaMessages, l->programs.len);
    uint32_t n_found = 0;
    for (size_t at = 0; at + sizeof(ListHead) <= size_bytes;)
    {
        ListHead theirs;
        memcpy(&theirs, text + at, sizeof theirs);
        at += sizeof theirs;
        for (uint32_t p = 0; p < l->programs.len; p++)
        {
            const ListHead mine = head_of(l, lane, p);
            if (strcmp(mine.name, theirs.name) != 0 || mine.variant != theirs.variant)
                continue;
            if (mine.n != theirs.n)
                return differ(l, lane);
            TRY(match(l, lane, p, text + at));
            n_found += theirs.n > 0;
        }
        at += theirs.n * sizeof(ListItem);
    }
    for (uint32_t p = 0; p < l->programs.len; p++)
        n_found -= lane->told.data[p].len > 0;
    return n_found == 0 ? STATUS_OK : differ(l, lane);
}

static Status exchange_lists(DeviceLinks *l)
{
    for (uint32_t i = 0; i < l->lanes.len; i++)
        if (l->lanes.data[i]->sends)
            TRY(send_list(l, l->lanes.data[i]));
    for (uint32_t i = 0; i < l->lanes.len; i++)
        if (!l->lanes.data[i]->sends)
            TRY(take_list(l, l->lanes.data[i]));
    return STATUS_OK;
}

/* ---- memory and events */

static Status make_event(const DeviceLinks *l, CuEvent *out_event)
{
    CUDA_TRY(&l->comm->device->driver, event_create(out_event, CUDA_EVENT_NO_TIMING), "making an event on cuda:%d",
             l->comm->device->index);
    return STATUS_OK;
}

static Status make_slots(DeviceLinks *l, CudaLane *lane, size_t *at)
{
    cuda_lane_count_slots(lane, l->programs.len);
    TRY(make_event(l, &lane->ready));
    for (uint32_t t = 0; t < lane->tags.len; t++)
    {
        CudaTag *tag = &lane->tags.data[t];
        tag->at = *at;
        *at += tag->n_slots * tag->slot_bytes;
        tag->put = ARENA_ARRAY(l->arena, CuEvent, tag->n_slots);
        tag->taken = ARENA_ARRAY(l->arena, CuEvent, tag->n_slots);
        for (uint32_t i = 0; i < tag->n_slots; i++)
        {
            TRY(make_event(l, &tag->put[i]));
            TRY(make_event(l, &tag->taken[i]));
        }
    }
    return STATUS_OK;
}

static Status take_memory(DeviceLinks *l)
{
    size_t at = 0;
    TRY(make_event(l, &l->ready));
    TRY(make_event(l, &l->end));
    for (uint32_t i = 0; i < l->lanes.len; i++)
        TRY(make_slots(l, l->lanes.data[i], &at));
    if (comm_size(l->data) > 1)
        at = cuda_sum_place(l, at);
    l->size_bytes = at;
    TRY(hal_buffer_create(&l->comm->device->base, at, &l->memory));
    return hal_sync(&l->comm->device->base);
}

/* ---- communicators */

/* What each rank of the world needs. */
typedef struct
{
    int32_t color; /* of its replicas, or NCCL_NO_COLOR */
    uint8_t to[];  /* by rank of the world: it sends there */
} Needs;

static const Needs *needs_of(const char *rows, size_t stride, uint32_t rank)
{
    return (const Needs *)(const void *)(rows + rank * stride);
}

/* Lanes of one round have no rank in common, so that one split makes them all. Rounds by number, from a row of n x n.
 */
static uint32_t plan_rounds(DeviceLinks *l, const char *rows, size_t stride, uint32_t *round_of)
{
    const uint32_t n = comm_size(l->comm->world);
    uint32_t n_rounds = 0;
    bool *is_busy =
        ARENA_ARRAY(l->arena, bool, 4 * n * n); /* by round and rank: two lanes have at most so many beside them */
    for (uint32_t from = 0; from < n; from++)
        for (uint32_t to = 0; to < n; to++)
        {
            uint32_t round = 0;
            if (!needs_of(rows, stride, from)->to[to])
                continue;
            while (is_busy[round * n + from] || is_busy[round * n + to])
                round++;
            is_busy[round * n + from] = is_busy[round * n + to] = true;
            round_of[from * n + to] = round;
            n_rounds = round + 1 > n_rounds ? round + 1 : n_rounds;
        }
    return n_rounds;
}

/* Every round is one split, of which each rank is in one lane or in none. A lane's first message follows, since NCCL
 * connects two ranks when they first talk: from then on sending waits for nobody. */
static Status make_lanes(DeviceLinks *l, const uint32_t *round_of, uint32_t n_rounds)
{
    Comm *world = l->comm->world;
    const uint32_t n = comm_size(world), me = comm_rank(world);
    for (uint32_t round = 0; round < n_rounds; round++)
    {
        CudaLane *mine = NULL;
        CudaGroup none;
        uint32_t sender = 0;
        for (uint32_t i = 0; i < l->lanes.len && !mine; i++)
        {
            CudaLane *lane = l->lanes.data[i];
            const uint32_t peer = comm_world_rank(l->pipe, lane->peer);
            sender = lane->sends ? me : peer;
            if (round_of[sender * n + (lane->sends ? peer : me)] == round)
                mine = lane;
        }
        TRY(cuda_nccl_split(l->comm, mine ? (int)sender : NCCL_NO_COLOR, mine && !mine->sends,
                            mine ? &mine->group : &none));
        if (mine)
            TRY(cuda_lane_first_message(l, mine));
    }
    return STATUS_OK;
}

static Status make_groups(DeviceLinks *l)
{
    Comm *world = l->comm->world;
    const uint32_t n = comm_size(world);
    const size_t stride = (sizeof(Needs) + n + 3) / 4 * 4;
    Needs *mine = arena_alloc(l->arena, stride);
    char *rows = arena_alloc(l->arena, n * stride);
    const bool adds = comm_size(l->data) > 1;
    bool any_adds = false;
    mine->color = adds ? (int32_t)comm_world_rank(l->data, 0) : NCCL_NO_COLOR;
    for (uint32_t i = 0; i < l->lanes.len; i++)
        if (l->lanes.data[i]->sends)
            mine->to[comm_world_rank(l->pipe, l->lanes.data[i]->peer)] = 1;
    TRY(comm_all_gather(world, mine, stride, rows));
    for (uint32_t r = 0; r < n; r++)
        any_adds |= needs_of(rows, stride, r)->color != NCCL_NO_COLOR;
    uint32_t *round_of = ARENA_ARRAY(l->arena, uint32_t, n * n);
    memset(round_of, 0xff, n * n * sizeof *round_of);
    const uint32_t n_rounds = plan_rounds(l, rows, stride, round_of);
    TRY(make_lanes(l, round_of, n_rounds));
    if (any_adds)
        TRY(cuda_nccl_split(l->comm, mine->color, (int)comm_rank(l->data), &l->adding));
    return adds ? cuda_sum_prepare(l) : STATUS_OK;
}

static Status connect(DeviceLinks *l)
{
    comm_set_place(l->comm->world, "connecting GPUs", -1, -1);
    TRY(cuda_enter(l->comm->device));
    TRY(exchange_lists(l));
    TRY(take_memory(l));
    return make_groups(l);
}

Status device_links_connect(DeviceLinks *l)
{
    const Status status = connect(l);
    return status == STATUS_OK ? status : cuda_nccl_give_up(l->comm, status);
}

size_t device_links_bytes(const DeviceLinks *l)
{
    return l->size_bytes;
}

/* ---- running, and the end */

Status device_links_begin(DeviceLinks *l, uint32_t program, int64_t step)
{
    l->program = program;
    l->step = step;
    for (uint32_t i = 0; i < l->lanes.len; i++)
    {
        l->lanes.data[i]->n_issued = 0;
        if (!l->lanes.data[i]->sends)
            TRY(cuda_lane_issue(l, l->lanes.data[i], 0));
    }
    return STATUS_OK;
}

Status device_links_finish(DeviceLinks *l)
{
    const CudaDevice *device = l->comm->device;
    TRY(cuda_enter(device));
    CUDA_TRY(&device->driver, event_record(l->end, device->stream), "waiting for work on cuda:%d", device->index);
    TRY(cuda_nccl_wait(l, l->end));
    return hal_sync(&l->comm->device->base);
}

static void drop_event(const CudaDriver *driver, CuEvent event)
{
    if (event)
        driver->event_destroy(event);
}

static void drop_lane(const CudaDriver *driver, const CudaLane *lane)
{
    drop_event(driver, lane->ready);
    for (uint32_t t = 0; t < lane->tags.len; t++)
        for (uint32_t i = 0; i < lane->tags.data[t].n_slots && lane->tags.data[t].put; i++)
        {
            drop_event(driver, lane->tags.data[t].put[i]);
            drop_event(driver, lane->tags.data[t].taken[i]);
        }
}

void device_links_destroy(DeviceLinks *l)
{
    if (!l)
        return;
    DeviceComm *c = l->comm;
    const CudaDriver *driver = &c->device->driver;
    DeviceLinks **link = &c->links;
    while (*link != l)
        link = &(*link)->next;
    *link = l->next;
    driver->context_set(c->device->context);
    for (uint32_t i = 0; i < l->lanes.len; i++)
        cuda_nccl_begin_to_leave(c, &l->lanes.data[i]->group);
    cuda_nccl_begin_to_leave(c, &l->adding);
    for (uint32_t i = 0; i < l->lanes.len; i++)
        cuda_nccl_leave(c, &l->lanes.data[i]->group);
    cuda_nccl_leave(c, &l->adding);
    for (uint32_t i = 0; i < l->lanes.len; i++)
        drop_lane(driver, l->lanes.data[i]);
    for (uint32_t i = 0; i < l->sums.len; i++)
        drop_event(driver, l->sums.data[i].done);
    drop_event(driver, l->ready);
    drop_event(driver, l->end);
    if (l->module)
        driver->module_unload(l->module);
    hal_buffer_destroy(l->memory);
    arena_destroy(l->arena);
}
