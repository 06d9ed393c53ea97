/* The front of communicators: finds the back end by name, checks arguments, records and counts every operation, and
 * makes the first failure final: after it every call returns it again and nothing more is sent. */
#include "runtime/comm.h"

#include "base/bug.h"
#include "runtime/comm_ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct
{
    const char *name;
    const CommOps *ops;
} BACK_ENDS[] = {
#define COMM(name, summary) {#name, &comm_##name##_ops},
#include "runtime/comms.def"
#undef COMM
};

static const char BACK_END_NAMES[] =
#define COMM(name, summary) " " #name
#include "runtime/comms.def"
#undef COMM
    ;

static const double DEFAULT_TIMEOUT_S = 300;

/* ---- creation */

static Comm *add_comm(CommWorld *world, const char *name, uint32_t id, uint32_t rank, uint32_t size)
{
    Comm *comm = comm_alloc(sizeof *comm);
    char *copy = strdup(name);
    char **names = realloc(world->names, (world->n_names + 1) * sizeof *names);
    if (!copy || !names)
        base_out_of_memory(strlen(name));
    world->names = names;
    world->names[world->n_names++] = copy;
    *comm = (Comm){.world = world,
                   .next = world->comms,
                   .name = copy,
                   .id = id,
                   .rank = rank,
                   .size = size,
                   .ranks = comm_alloc(size * sizeof *comm->ranks)};
    world->comms = comm;
    return comm;
}

static void free_comm(Comm *comm)
{
    Comm **link = &comm->world->comms;
    while (*link != comm)
        link = &(*link)->next;
    *link = comm->next;
    for (uint32_t i = 0; i < comm->n_sums; i++)
        if (comm->sums[i])
        {
            comm->world->ops->sum_free(comm->sums[i]);
            free(comm->sums[i]->slices);
            free(comm->sums[i]);
        }
    free(comm->sums);
    free(comm->ranks);
    free(comm);
}

static void free_world(CommWorld *world)
{
    for (size_t i = 0; i < COMM_CHANNEL_LISTS; i++)
        for (CommChannel *channel = world->channels[i], *next; channel; channel = next)
        {
            next = channel->next;
            while (channel->first)
                comm_channel_pop(world, channel);
            free(channel);
        }
    for (CommArrival *arrival = world->free_arrivals, *next; arrival; arrival = next)
    {
        next = arrival->next;
        free(arrival);
    }
    for (uint32_t i = 0; i < world->n_names; i++)
        free(world->names[i]);
    free(world->names);
    free(world->peers);
    free(world->dump_dir);
    free(world);
}

Status comm_create(const char *name, const CommOptions *options, Comm **out_comm)
{
    const CommOps *ops = NULL;
    for (size_t i = 0; i < sizeof BACK_ENDS / sizeof *BACK_ENDS; i++)
        if (strcmp(BACK_ENDS[i].name, name) == 0)
            ops = BACK_ENDS[i].ops;
    if (!ops)
        return status_fail(STATUS_BAD_INPUT, "unknown communicator '%s'; known:%s", name, BACK_END_NAMES);
    CommWorld *world = comm_alloc(sizeof *world);
    *world = (CommWorld){.ops = ops, .timeout_s = DEFAULT_TIMEOUT_S, .step = -1, .micro_batch = -1, .next_id = 1};
    world->origin.rank = COMM_NO_RANK;
    if (options && options->timeout_s > 0)
        world->timeout_s = options->timeout_s;
    if (options && options->dump_dir && !(world->dump_dir = strdup(options->dump_dir)))
        base_out_of_memory(strlen(options->dump_dir));
    Status status = ops->create(world);
    if (status != STATUS_OK)
    {
        free_world(world);
        return status;
    }
    Comm *comm = add_comm(world, "world", 0, world->rank, world->size);
    for (uint32_t r = 0; r < world->size; r++)
        comm->ranks[r] = r;
    *out_comm = comm;
    return STATUS_OK;
}

/* ---- every operation */

/* The failure of this world, said again. */
Status comm_failed_before(const CommWorld *world)
{
    return status_fail(world->failure, "%s", world->failure_detail);
}

void comm_set_failure(CommWorld *world, Status status, const char *detail)
{
    if (world->failed)
        return;
    world->failed = true;
    world->failure = status;
    snprintf(world->failure_detail, sizeof world->failure_detail, "%s", detail);
    if (world->origin.rank == COMM_NO_RANK)
    {
        const CommPeer *me = &world->peers[world->rank];
        char prefix[128];
        snprintf(prefix, sizeof prefix, "rank %u (host %s, pid %d)", world->rank, me->host, me->pid);
        bool says_who = strncmp(detail, prefix, strlen(prefix)) == 0;
        world->origin.rank = world->rank;
        snprintf(world->origin.detail, sizeof world->origin.detail, "%s%s%s", says_who ? "" : prefix,
                 says_who ? "" : ": ", detail);
    }
    world->waiting_seq = world->current ? world->current->seq : 0;
    world->ops->tell_failure(world);
}

CommRecord comm_make_record(const Comm *comm, CommKind kind, uint64_t number, uint32_t peer, uint32_t tag,
                            uint64_t size_bytes)
{
    const CommWorld *world = comm->world;
    return (CommRecord){.comm = comm->name,
                        .number = number,
                        .kind = kind,
                        .peer = peer,
                        .tag = tag,
                        .size_bytes = size_bytes,
                        .what = world->what,
                        .step = world->step,
                        .micro_batch = world->micro_batch};
}

static void start(CommWorld *world, CommRecord *record)
{
    comm_recorder_start(&world->recorder, record);
    world->current = record;
}

/* Ends what start or a wait has begun. */
static Status finish(CommWorld *world, CommRecord *record, Status status)
{
    if (status == STATUS_OK)
        comm_recorder_complete(&world->recorder, record);
    else
        comm_set_failure(world, status, status_detail());
    world->current = NULL;
    return status;
}

/* Runs call, a collective, between start and finish. */
#define COLLECTIVE(comm, kind, root, size_bytes, call)                                                                 \
    do                                                                                                                 \
    {                                                                                                                  \
        CommWorld *world_ = (comm)->world;                                                                             \
        if (world_->failed)                                                                                            \
            return comm_failed_before(world_);                                                                         \
        CommRecord record_ = comm_make_record(comm, kind, ++(comm)->n_collectives, root, COMM_NO_TAG, size_bytes);     \
        start(world_, &record_);                                                                                       \
        Status status_ = (call);                                                                                       \
        TRY(finish(world_, &record_, status_));                                                                        \
    } while (0)

/* ---- point to point */

Status comm_send(Comm *comm, uint32_t to, uint32_t tag, const void *data, size_t size_bytes)
{
    CommWorld *world = comm->world;
    ENSURE(to < comm->size && tag < COMM_TAG_LIMIT);
    if (world->failed)
        return comm_failed_before(world);
    CommChannel *channel = comm_channel(world, comm->id, comm->ranks[to], tag, true);
    CommRecord record = comm_make_record(comm, COMM_KIND_SEND, ++channel->n_messages, comm->ranks[to], tag, size_bytes);
    start(world, &record);
    TRY(finish(world, &record, world->ops->send(comm, to, tag, data, size_bytes)));
    world->counters.sent_bytes += size_bytes;
    return STATUS_OK;
}

Status comm_recv(Comm *comm, uint32_t from, uint32_t tag, void *data, size_t size_bytes)
{
    CommWorld *world = comm->world;
    ENSURE(from < comm->size && tag < COMM_TAG_LIMIT);
    if (world->failed)
        return comm_failed_before(world);
    CommChannel *channel = comm_channel(world, comm->id, comm->ranks[from], tag, false);
    CommRecord record =
        comm_make_record(comm, COMM_KIND_RECV, ++channel->n_messages, comm->ranks[from], tag, size_bytes);
    start(world, &record);
    TRY(finish(world, &record, world->ops->recv(comm, from, tag, data, size_bytes)));
    world->counters.received_bytes += size_bytes;
    return STATUS_OK;
}

/* ---- sums */

static CommSum *sum_of_bucket(Comm *comm, uint32_t bucket)
{
    ENSURE(bucket < COMM_MAX_BUCKETS);
    if (bucket >= comm->n_sums)
    {
        CommSum **sums = realloc(comm->sums, (bucket + 1) * sizeof *sums);
        if (!sums)
            base_out_of_memory((bucket + 1) * sizeof *sums);
        memset(sums + comm->n_sums, 0, (bucket + 1 - comm->n_sums) * sizeof *sums);
        comm->sums = sums;
        comm->n_sums = bucket + 1;
    }
    if (!comm->sums[bucket])
    {
        comm->sums[bucket] = comm_alloc(sizeof(CommSum));
        comm->sums[bucket]->bucket = bucket;
        comm->world->ops->sum_create(comm->sums[bucket]);
    }
    return comm->sums[bucket];
}

Status comm_memory_take(Comm *comm, size_t size_bytes, void **out_address)
{
    CommWorld *world = comm->world;
    *out_address = NULL;
    if (world->failed)
        return comm_failed_before(world);
    Status status = world->ops->memory_take ? world->ops->memory_take(comm, size_bytes, out_address) : STATUS_OK;
    if (status != STATUS_OK)
        comm_set_failure(world, status, status_detail());
    return status;
}

void comm_memory_give(Comm *comm, void *address, size_t size_bytes)
{
    if (address && !comm->world->failed)
        comm->world->ops->memory_give(comm, address, size_bytes);
}

void comm_memory_forget(Comm *comm)
{
    if (comm->world->ops->memory_forget)
        comm->world->ops->memory_forget(comm);
}

/* peer: root, in the world. */
static Status start_bucket(Comm *comm, CommKind kind, uint32_t bucket, uint32_t root, uint32_t peer,
                           const CommSlice *slices, uint32_t n_slices)
{
    CommWorld *world = comm->world;
    CommSum *sum = sum_of_bucket(comm, bucket);
    ENSURE(!sum->running);
    sum->kind = kind;
    sum->root = root;
    if (world->failed)
        return comm_failed_before(world);
    if (sum->cap_slices < n_slices)
    {
        free(sum->slices);
        sum->slices = comm_alloc(n_slices * sizeof *sum->slices);
        sum->cap_slices = n_slices;
    }
    sum->n_slices = n_slices;
    sum->n_elems = 0;
    for (uint32_t i = 0; i < n_slices; i++)
    {
        sum->slices[i] = slices[i];
        sum->n_elems += slices[i].n_elems;
    }
    uint64_t size_bytes = sum->n_elems * sizeof(float);
    sum->record = comm_make_record(comm, kind, ++comm->n_collectives, peer, bucket, size_bytes);
    sum->running = true;
    sum->next = NULL;
    CommSum **last = &comm->running;
    while (*last)
        last = &(*last)->next;
    *last = sum;
    start(world, &sum->record);
    Status status = world->ops->sum_start(comm, sum);
    if (status != STATUS_OK)
        return finish(world, &sum->record, status);
    world->current = NULL;
    world->counters.reduced_bytes += size_bytes;
    return STATUS_OK;
}

Status comm_all_reduce_start(Comm *comm, uint32_t bucket, const CommSlice *slices, uint32_t n_slices)
{
    return start_bucket(comm, COMM_KIND_ALL_REDUCE, bucket, 0, COMM_NO_RANK, slices, n_slices);
}

Status comm_reduce_start(Comm *comm, uint32_t bucket, uint32_t root, const CommSlice *slices, uint32_t n_slices)
{
    ENSURE(root < comm->size);
    return start_bucket(comm, COMM_KIND_REDUCE, bucket, root, comm->ranks[root], slices, n_slices);
}

Status comm_bcast_start(Comm *comm, uint32_t bucket, uint32_t root, const CommSlice *slices, uint32_t n_slices)
{
    ENSURE(root < comm->size);
    return start_bucket(comm, COMM_KIND_BCAST, bucket, root, comm->ranks[root], slices, n_slices);
}

Status comm_bucket_wait(Comm *comm, uint32_t bucket)
{
    CommWorld *world = comm->world;
    if (world->failed)
        return comm_failed_before(world);
    CommSum *sum = sum_of_bucket(comm, bucket);
    ENSURE(sum->running);
    world->current = &sum->record;
    TRY(finish(world, &sum->record, world->ops->sum_wait(comm, sum)));
    CommSum **link = &comm->running;
    while (*link != sum)
        link = &(*link)->next;
    *link = sum->next;
    sum->running = false;
    return STATUS_OK;
}

Status comm_poll(Comm *comm)
{
    CommWorld *world = comm->world;
    if (world->failed)
        return comm_failed_before(world);
    Status status = world->ops->poll(world);
    if (status != STATUS_OK)
        comm_set_failure(world, status, status_detail());
    return status;
}

/* ---- control plane */

Status comm_barrier(Comm *comm)
{
    COLLECTIVE(comm, COMM_KIND_BARRIER, COMM_NO_RANK, 0, comm_control_barrier(comm));
    return STATUS_OK;
}

Status comm_broadcast(Comm *comm, uint32_t root, void *data, size_t size_bytes)
{
    ENSURE(root < comm->size);
    COLLECTIVE(comm, COMM_KIND_BROADCAST, comm->ranks[root], size_bytes,
               comm_control_broadcast(comm, root, data, size_bytes));
    return STATUS_OK;
}

Status comm_all_gather(Comm *comm, const void *mine, size_t size_bytes, void *all)
{
    COLLECTIVE(comm, COMM_KIND_ALL_GATHER, COMM_NO_RANK, size_bytes,
               comm_control_all_gather(comm, mine, size_bytes, all));
    return STATUS_OK;
}

static Status all_reduce_f64(Comm *comm, double *values, uint32_t n, CommReduceOp op)
{
    double *all = comm_alloc((size_t)n * comm->size * sizeof *all);
    Status status = comm_control_all_gather(comm, values, n * sizeof *values, all);
    for (uint32_t i = 0; i < n && status == STATUS_OK; i++)
    {
        double result = all[i];
        for (uint32_t r = 1; r < comm->size; r++)
        {
            double value = all[(size_t)r * n + i];
            if (op == COMM_SUM)
                result += value;
            else if (value > result || value != value) /* a NaN wins, on every rank */
                result = value;
        }
        values[i] = result;
    }
    free(all);
    return status;
}

Status comm_all_reduce_f64(Comm *comm, double *values, uint32_t n, CommReduceOp op)
{
    COLLECTIVE(comm, COMM_KIND_ALL_REDUCE_F64, COMM_NO_RANK, n * sizeof *values, all_reduce_f64(comm, values, n, op));
    return STATUS_OK;
}

/* ---- groups */

typedef struct
{
    uint32_t color, key, rank /* of the parent */, next_id;
} SplitEntry;

static int by_key(const void *a, const void *b)
{
    const SplitEntry *x = a, *y = b;
    if (x->color != y->color)
        return x->color < y->color ? -1 : 1;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

/* entries: of all ranks of parent, sorted. Ids go on from the largest one that any of the ranks has used. */
static Comm *make_group(Comm *parent, const SplitEntry *entries, uint32_t color)
{
    CommWorld *world = parent->world;
    uint32_t first = 0, size = 0, rank = 0, n_colors = 0, my_color = 0, base = 0;
    for (uint32_t i = 0; i < parent->size; i++)
    {
        if (i == 0 || entries[i].color != entries[i - 1].color)
            n_colors++;
        if (entries[i].next_id > base)
            base = entries[i].next_id;
        if (entries[i].color != color)
            continue;
        if (size++ == 0)
            first = i;
        if (entries[i].rank == parent->rank)
            rank = i - first;
        my_color = n_colors - 1;
    }
    world->next_id = base + n_colors;
    char name[256];
    snprintf(name, sizeof name, "%s/%u:%u", parent->name, parent->n_splits++, color);
    Comm *comm = add_comm(world, name, base + my_color, rank, size);
    for (uint32_t i = 0; i < size; i++)
        comm->ranks[i] = parent->ranks[entries[first + i].rank];
    return comm;
}

static Status gather_split(Comm *parent, const SplitEntry *mine, SplitEntry *entries)
{
    COLLECTIVE(parent, COMM_KIND_SPLIT, COMM_NO_RANK, 0, comm_control_all_gather(parent, mine, sizeof *mine, entries));
    return STATUS_OK;
}

Status comm_split(Comm *parent, uint32_t color, uint32_t key, Comm **out_comm)
{
    SplitEntry mine = {color, key, parent->rank, parent->world->next_id};
    SplitEntry *entries = comm_alloc(parent->size * sizeof *entries);
    Status status = gather_split(parent, &mine, entries);
    if (status == STATUS_OK)
    {
        qsort(entries, parent->size, sizeof *entries, by_key);
        *out_comm = make_group(parent, entries, color);
    }
    free(entries);
    return status;
}

/* ---- the end */

static Status last_barrier(Comm *comm)
{
    COLLECTIVE(comm, COMM_KIND_DESTROY, COMM_NO_RANK, 0, comm_control_barrier(comm));
    return STATUS_OK;
}

void comm_destroy(Comm *comm)
{
    if (!comm)
        return;
    CommWorld *world = comm->world;
    if (comm->id != 0)
    {
        free_comm(comm);
        return;
    }
    last_barrier(comm); /* fails at once after a failure, and becomes one when a rank is missing */
    while (world->comms)
        free_comm(world->comms);
    world->ops->destroy(world);
    free_world(world);
}

Status comm_dump(Comm *comm, const char *reason)
{
    CommWorld *world = comm->world;
    world->stopped_by_caller |= !world->failed;
    comm_set_failure(world, STATUS_INTERRUPTED, reason);
    return world->dump_dir ? comm_dump_write(world, reason) : STATUS_OK;
}

/* ---- accessors */

uint32_t comm_rank(const Comm *comm)
{
    return comm->rank;
}

uint32_t comm_size(const Comm *comm)
{
    return comm->size;
}

uint32_t comm_world_rank(const Comm *comm, uint32_t rank)
{
    ENSURE(rank < comm->size);
    return comm->ranks[rank];
}

const char *comm_host(const Comm *comm, uint32_t rank)
{
    return comm->world->peers[comm_world_rank(comm, rank)].host;
}

uint32_t comm_local_size(const Comm *comm)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r < comm->world->size; r++)
        n += comm->world->peers[r].is_local;
    return n;
}

uint32_t comm_local_rank(const Comm *comm)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r < comm->world->rank; r++)
        n += comm->world->peers[r].is_local;
    return n;
}

void comm_set_place(Comm *comm, const char *what, int64_t step, int32_t micro_batch)
{
    CommWorld *world = comm->world;
    world->what = what;
    world->step = step;
    world->micro_batch = micro_batch;
}

CommCounters comm_counters(const Comm *comm)
{
    return comm->world->counters;
}
