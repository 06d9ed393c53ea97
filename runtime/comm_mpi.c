/* The mpi back end: how ranks find each other, and which way a message goes.
 *
 * At the start ranks exchange, over MPI, who they are and where; those of one host then map each other's memory. When
 * that fails for any of them (another user, another container), the ranks of that host use MPI among themselves too.
 * For tests on one host: with $PTC_COMM_SHARED=0 nobody shares memory, with N >= 2 it is as if each host had N ranks.
 */
#include "runtime/comm_mpi.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <xxhash.h>

/* ---- which way */

Status comm_mpi_progress(CommMpi *mpi)
{
    if (mpi->shared)
        TRY(comm_shared_drain(mpi));
    if (mpi->net)
        TRY(comm_net_progress(mpi));
    if (mpi->is_summing) /* a wait inside of a sum's progress */
        return STATUS_OK;
    mpi->is_summing = true;
    Status status = STATUS_OK;
    for (Comm *comm = mpi->world->comms; comm && status == STATUS_OK; comm = comm->next)
    {
        if (!comm->running)
            continue;
        if (!((CommMpiSum *)comm->running->back)->is_shared)
            status = comm_sum_tree_progress(comm);
        else
            for (CommSum *sum = comm->running; sum && status == STATUS_OK; sum = sum->next)
                status = comm_sum_shared_progress(comm, sum);
    }
    mpi->is_summing = false;
    return status;
}

static Status mpi_poll(CommWorld *world)
{
    return comm_mpi_progress(comm_mpi(world));
}

static Status mpi_send(Comm *comm, uint32_t to, uint32_t tag, const void *data, size_t size_bytes)
{
    CommMpi *mpi = comm_mpi(comm->world);
    uint32_t rank = comm->ranks[to];
    return mpi->peers[rank].is_shared ? comm_shared_send(mpi, comm->id, rank, tag, data, size_bytes)
                                      : comm_net_send(mpi, comm->id, rank, tag, data, size_bytes);
}

static Status has_first(CommMpi *mpi, void *context, bool *out_done, uint32_t *out_peer)
{
    (void)mpi;
    const CommChannel *channel = context;
    *out_peer = channel->peer;
    *out_done = channel->first != NULL;
    return STATUS_OK;
}

static Status mpi_recv(Comm *comm, uint32_t from, uint32_t tag, void *data, size_t size_bytes)
{
    CommMpi *mpi = comm_mpi(comm->world);
    uint32_t rank = comm->ranks[from];
    CommChannel *channel = comm_channel(comm->world, comm->id, rank, tag, false);
    if (!mpi->peers[rank].is_shared)
        return comm_net_recv(mpi, channel, data, size_bytes);
    TRY(comm_mpi_wait(mpi, has_first, channel));
    if (channel->first->size_bytes != size_bytes)
        return comm_mpi_mismatch(mpi, rank, channel->first->size_bytes, size_bytes);
    return comm_shared_take(mpi, channel, data);
}

Status comm_mpi_post(CommMpi *mpi, uint32_t comm_id, uint32_t to, uint32_t tag, uint32_t bucket, const void *data,
                     size_t size_bytes)
{
    if (!mpi->peers[to].is_shared)
        return comm_net_post(mpi, comm_id, to, tag, bucket, data, size_bytes);
    CommBlock *block;
    TRY(comm_shared_alloc(mpi, size_bytes, 1, NULL, &block));
    memcpy(comm_block_bytes(block->head), data, size_bytes);
    atomic_store_explicit(&block->head->written, size_bytes, memory_order_release);
    return comm_shared_announce(mpi, block, comm_id, to, tag, bucket, size_bytes);
}

bool comm_mpi_arrived(const CommChannel *channel)
{
    return !channel->first->is_message || comm_net_arrived(channel->first);
}

void comm_mpi_take(CommMpi *mpi, CommChannel *channel)
{
    if (channel->first->is_message)
    {
        comm_net_take(mpi, channel);
        return;
    }
    CommBlockHead *head = channel->first->source;
    comm_channel_pop(mpi->world, channel);
    atomic_fetch_add_explicit(&head->n_done, 1, memory_order_release);
}

static bool shares_memory(const Comm *comm)
{
    const CommMpi *mpi = comm_mpi(comm->world);
    bool shares = true;
    for (uint32_t r = 0; r < comm->size; r++)
        shares = shares && mpi->peers[comm->ranks[r]].is_shared;
    return shares;
}

static Status mpi_memory_take(Comm *comm, size_t size_bytes, void **out_address)
{
    return shares_memory(comm) ? comm_shared_reserve(comm_mpi(comm->world), size_bytes, out_address) : STATUS_OK;
}

static void mpi_memory_give(Comm *comm, void *address, size_t size_bytes)
{
    comm_shared_release(comm_mpi(comm->world), address, size_bytes);
}

static void mpi_memory_forget(Comm *comm)
{
    comm_shared_forget(comm_mpi(comm->world));
}

static Status mpi_sum_start(Comm *comm, CommSum *sum)
{
    CommMpiSum *s = sum->back;
    s->n_pieces = (sum->n_elems + COMM_PIECE_ELEMS - 1) / COMM_PIECE_ELEMS;
    s->is_shared = shares_memory(comm);
    return s->is_shared ? comm_sum_shared_start(comm, sum) : comm_sum_tree_start(comm, sum);
}

static Status mpi_sum_wait(Comm *comm, CommSum *sum)
{
    const CommMpiSum *s = sum->back;
    return s->is_shared ? comm_sum_shared_wait(comm, sum) : comm_sum_tree_wait(comm, sum);
}

static void mpi_sum_create(CommSum *sum)
{
    sum->back = comm_alloc(sizeof(CommMpiSum));
}

static void mpi_sum_free(CommSum *sum)
{
    CommMpiSum *s = sum->back;
    free(s->sides);
    free(s->outs);
    free(s->srcs);
    free(s->numbers);
    free(s);
}

static void mpi_tell_failure(CommWorld *world)
{
    CommMpi *mpi = comm_mpi(world);
    if (mpi->shared)
        comm_shared_set_state(mpi, COMM_FAILED);
    if (mpi->net)
        comm_net_tell_failure(mpi);
}

/* ---- the start */

/* What ranks tell each other: first who they are, then where their memory is, then whether they could open it. */
typedef struct
{
    char host[64];
    uint64_t host_key, start_time;
    cpu_set_t cores; /* that it may run on */
    int32_t pid;
} Identity;

typedef struct
{
    uint64_t size_bytes, nonce;
    int32_t fd; /* -1: this rank shares no memory */
} Memory;

static Status gather(const CommMpi *mpi, const void *mine, size_t size_bytes, void *all)
{
    CommLinkRequest request;
    int code = mpi->link->gather(mine, size_bytes, all, &request);
    double end_s = comm_now_s() + mpi->world->timeout_s;
    for (bool done = false; code == 0 && !done;)
    {
        code = mpi->link->test(&request, &done, NULL, NULL);
        if (!done && comm_now_s() > end_s)
            return status_fail(STATUS_TIMEOUT, "rank %u waited %.1f s for the other %u ranks to start",
                               mpi->world->rank, mpi->world->timeout_s, mpi->world->size - 1);
        if (!done)
            sched_yield();
    }
    if (code == 0)
        return STATUS_OK;
    char text[512];
    mpi->link->error_text(code, text, sizeof text);
    return status_fail(STATUS_PEER_LOST, "rank %u cannot reach the other ranks: %s", mpi->world->rank, text);
}

/* Ranks with the same key see the same processes in /proc. */
static uint64_t host_key(const char *host)
{
    char text[512], link[128] = "", boot[64] = "";
    ssize_t n = readlink("/proc/self/ns/pid", link, sizeof link - 1);
    link[n > 0 ? n : 0] = 0;
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
    {
        n = read(fd, boot, sizeof boot - 1);
        boot[n > 0 ? n : 0] = 0;
        close(fd);
    }
    int n_text = snprintf(text, sizeof text, "%s|%s|%s", host, link, boot);
    return XXH3_64bits(text, (size_t)n_text);
}

static uint32_t shared_setting(void)
{
    const char *text = getenv("PTC_COMM_SHARED");
    return text && *text >= '0' && *text <= '9' ? (uint32_t)strtoul(text, NULL, 10) : 1;
}

static Status learn_peers(CommMpi *mpi)
{
    CommWorld *world = mpi->world;
    Identity me = {.pid = (int32_t)getpid()}, *all = comm_alloc(world->size * sizeof *all);
    if (gethostname(me.host, sizeof me.host - 1) != 0)
        snprintf(me.host, sizeof me.host, "unknown");
    me.host_key = host_key(me.host);
    if (shared_setting() > 1)
        me.host_key += world->rank / shared_setting();
    if (sched_getaffinity(0, sizeof me.cores, &me.cores) != 0)
        CPU_ZERO(&me.cores);
    me.start_time = comm_process_start_time(me.pid, NULL);
    Status status = gather(mpi, &me, sizeof me, all);
    uint32_t n_local = 0;
    cpu_set_t cores;
    CPU_ZERO(&cores);
    for (uint32_t r = 0; r < world->size && status == STATUS_OK; r++)
    {
        world->peers[r] = (CommPeer){.pid = all[r].pid, .is_local = all[r].host_key == me.host_key};
        memcpy(world->peers[r].host, all[r].host, sizeof world->peers[r].host);
        mpi->peers[r] = (CommMpiPeer){.start_time = all[r].start_time, .host_key = all[r].host_key};
        if (world->peers[r].is_local)
        {
            mpi->peers[r].local_index = n_local++;
            CPU_OR(&cores, &cores, &all[r].cores);
        }
    }
    mpi->is_crowded = (int)n_local > CPU_COUNT(&cores);
    free(all);
    return status;
}

/* Maps the memory of this host's ranks; false when it cannot be had. */
static bool map_local(CommMpi *mpi, const Memory *all)
{
    const CommWorld *world = mpi->world;
    for (uint32_t r = 0; r < world->size; r++)
        if (world->peers[r].is_local &&
            (all[r].fd < 0 ||
             (r != world->rank && comm_shared_map(mpi, r, all[r].fd, all[r].size_bytes, all[r].nonce) != STATUS_OK)))
            return false;
    return true;
}

static Status share_memory(CommMpi *mpi)
{
    CommWorld *world = mpi->world;
    Memory mine = {.fd = -1}, *all = comm_alloc(world->size * sizeof *all);
    uint8_t *is_mapped = comm_alloc(world->size);
    uint32_t n_local = 0;
    for (uint32_t r = 0; r < world->size; r++)
        n_local += world->peers[r].is_local;
    if (getrandom(&mine.nonce, sizeof mine.nonce, 0) < 0)
        mine.nonce = (uint64_t)getpid();
    if (shared_setting() > 0 && comm_shared_create(mpi, n_local, mine.nonce, &mine.fd, &mine.size_bytes) != STATUS_OK)
        mine.fd = -1;
    Status status = gather(mpi, &mine, sizeof mine, all);
    uint8_t could_map = status == STATUS_OK && mine.fd >= 0 && map_local(mpi, all);
    if (status == STATUS_OK)
        status = gather(mpi, &could_map, sizeof could_map, is_mapped);
    bool host_shares = true;
    for (uint32_t r = 0; r < world->size; r++)
        host_shares = host_shares && (!world->peers[r].is_local || is_mapped[r]);
    for (uint32_t r = 0; r < world->size && status == STATUS_OK; r++)
    {
        mpi->peers[r].is_shared = host_shares && world->peers[r].is_local;
        if (mpi->peers[r].is_shared)
            mpi->shared_ranks[mpi->n_shared++] = r;
    }
    if (!host_shares)
        comm_shared_destroy(mpi);
    if (status == STATUS_OK && mpi->n_shared < world->size)
        status = comm_net_create(mpi);
    free(all);
    free(is_mapped);
    return status;
}

static void free_mpi(CommMpi *mpi)
{
    comm_shared_destroy(mpi);
    free(mpi->peers);
    free(mpi->shared_ranks);
    free(mpi);
}

static Status mpi_create(CommWorld *world)
{
    const CommLink *link;
    TRY(comm_link_load(&link));
    int code = link->init(&world->rank, &world->size);
    if (code != 0)
    {
        char text[512];
        link->error_text(code, text, sizeof text);
        return status_fail(STATUS_UNSUPPORTED, "MPI does not start: %s", text);
    }
    CommMpi *mpi = comm_alloc(sizeof *mpi);
    *mpi = (CommMpi){.world = world,
                     .link = link,
                     .peers = comm_alloc(world->size * sizeof *mpi->peers),
                     .shared_ranks = comm_alloc(world->size * sizeof *mpi->shared_ranks),
                     .waits_for = COMM_NO_RANK,
                     .told = {.rank = COMM_NO_RANK}};
    world->peers = comm_alloc(world->size * sizeof *world->peers);
    world->back = mpi;
    Status status = learn_peers(mpi);
    if (status == STATUS_OK)
        status = share_memory(mpi);
    if (status != STATUS_OK)
        free_mpi(mpi);
    return status;
}

static void mpi_destroy(CommWorld *world)
{
    CommMpi *mpi = comm_mpi(world);
    if (mpi->shared && !world->failed)
        comm_shared_set_state(mpi, COMM_LEFT);
    comm_net_destroy(mpi);
    if (!world->failed)
        mpi->link->finalize();
    free_mpi(mpi);
}

const CommOps comm_mpi_ops = {.create = mpi_create,
                              .destroy = mpi_destroy,
                              .send = mpi_send,
                              .recv = mpi_recv,
                              .sum_create = mpi_sum_create,
                              .sum_start = mpi_sum_start,
                              .sum_wait = mpi_sum_wait,
                              .sum_free = mpi_sum_free,
                              .poll = mpi_poll,
                              .wait = comm_mpi_wait_outside,
                              .late = comm_mpi_late,
                              .memory_take = mpi_memory_take,
                              .memory_give = mpi_memory_give,
                              .memory_forget = mpi_memory_forget,
                              .tell_failure = mpi_tell_failure};
