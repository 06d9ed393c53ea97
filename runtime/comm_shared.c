/* Shared memory between the ranks of a host. Each rank owns a segment: memory without a name (memfd), which peers open
 * as /proc/PID/fd/N, so that nothing is left behind however a rank ends. Its address range is reserved whole and mapped
 * by all peers at the start; memory is taken as the heap grows. So a peer sees a new block without any help from its
 * owner, who may be computing.
 *
 * A message is a block in the sender's heap, announced in the ring of (sender, receiver). The receiver copies it out
 * and marks it as done; the sender reuses such blocks when it needs one. Long messages are announced before they are
 * copied in, so that both copies overlap. */
#include "runtime/comm_mpi.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum
{
    RING_SLOTS = 4096,
    MIN_BLOCK_BYTES = 256,
    PAGE_BYTES = 4096,
    COMMIT_BYTES = 1 << 20,
    PIECE_BYTES = 1 << 18, /* of a long message */
    N_SIZE_CLASSES = 256,
    MAX_HOLES = 64
};

typedef struct
{
    uint64_t offset; /* of the block's head in the sender's segment */
    uint64_t size_bytes;
    uint32_t comm_id, tag, bucket;
} Announcement;

typedef struct
{
    _Alignas(64) _Atomic uint64_t n_put;   /* by the sender */
    _Alignas(64) _Atomic uint64_t n_taken; /* by the receiver */
    _Alignas(64) Announcement slots[RING_SLOTS];
} Ring;

struct CommSegment
{
    uint64_t nonce, size_bytes;
    _Alignas(64) _Atomic uint32_t doorbell; /* a futex */
    _Atomic uint32_t is_asleep;
    _Alignas(64) _Atomic uint32_t state;
    _Atomic uint32_t waits_for; /* a rank of the world */
    CommOrigin origin;          /* valid in COMM_FAILED */
    _Alignas(64) Ring rings[];  /* to each rank of the host, by local_index */
};

/* Pages of the segment that were given back: [at, end). */
typedef struct
{
    uint64_t at, end;
} Hole;

struct CommShared
{
    CommSegment *segment;
    int fd;
    uint64_t heap_end;      /* offset of the first byte that no block has */
    uint64_t committed_end; /* the system has granted memory up to here */
    CommBlock *used;
    CommBlock *free_blocks[N_SIZE_CLASSES];
    Hole holes[MAX_HOLES];
    uint32_t n_holes;
};

static uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

/* ---- segments */

/* Each rank may use as much as the host has, as long as all ranks' ranges fit into an address space. */
static uint64_t segment_size(uint32_t n_local)
{
    uint64_t host_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t most_bytes = (1ull << 45) / n_local;
    uint64_t rings_bytes = sizeof(CommSegment) + n_local * sizeof(Ring);
    return round_up(rings_bytes + (host_bytes < most_bytes ? host_bytes : most_bytes), PAGE_BYTES);
}

static Status map_segment(int fd, uint64_t size_bytes, CommSegment **out_segment)
{
    void *at = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (at == MAP_FAILED)
        return status_fail(STATUS_OUT_OF_MEMORY, "cannot map %llu bytes of shared memory: %s",
                           (unsigned long long)size_bytes, strerror(errno));
    madvise(at, size_bytes, MADV_DONTDUMP);
    madvise(at, size_bytes, MADV_HUGEPAGE); /* where the system grants that for shared memory */
    *out_segment = at;
    return STATUS_OK;
}

static Status no_memory(const CommShared *shared)
{
    return status_fail(STATUS_OUT_OF_MEMORY, "no shared memory for messages: %llu bytes are in use",
                       (unsigned long long)shared->committed_end);
}

/* Makes the first n_bytes of the segment real, so that running out of memory is an error and not a signal. */
static Status commit(CommShared *shared, uint64_t n_bytes)
{
    if (n_bytes <= shared->committed_end)
        return STATUS_OK;
    uint64_t end = round_up(n_bytes, COMMIT_BYTES);
    if (end > shared->segment->size_bytes)
        end = shared->segment->size_bytes;
    if (n_bytes > end ||
        fallocate(shared->fd, 0, (off_t)shared->committed_end, (off_t)(end - shared->committed_end)) != 0)
        return no_memory(shared);
    shared->committed_end = end;
    return STATUS_OK;
}

Status comm_shared_create(CommMpi *mpi, uint32_t n_local, uint64_t nonce, int *out_fd, uint64_t *out_size_bytes)
{
    CommShared *shared = comm_alloc(sizeof *shared);
    uint64_t size_bytes = segment_size(n_local);
    shared->fd = memfd_create("ptc", MFD_CLOEXEC);
    Status status = STATUS_OK;
    if (shared->fd < 0 || ftruncate(shared->fd, (off_t)size_bytes) != 0)
        status = status_fail(STATUS_IO, "cannot create shared memory: %s", strerror(errno));
    else
        status = map_segment(shared->fd, size_bytes, &shared->segment);
    if (status != STATUS_OK)
    {
        if (shared->fd >= 0)
            close(shared->fd);
        free(shared);
        return status;
    }
    shared->segment->nonce = nonce;
    shared->segment->size_bytes = size_bytes;
    shared->segment->waits_for = COMM_NO_RANK;
    shared->heap_end = round_up(sizeof(CommSegment) + n_local * sizeof(Ring), PAGE_BYTES);
    shared->committed_end = 0;
    mpi->shared = shared;
    mpi->peers[mpi->world->rank].segment = shared->segment;
    *out_fd = shared->fd;
    *out_size_bytes = size_bytes;
    return commit(shared, shared->heap_end);
}

Status comm_shared_map(CommMpi *mpi, uint32_t rank, int fd, uint64_t size_bytes, uint64_t nonce)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", mpi->world->peers[rank].pid, fd);
    int peer_fd = open(path, O_RDWR | O_CLOEXEC);
    if (peer_fd < 0)
        return status_fail(STATUS_IO, "cannot open the memory of rank %u, '%s': %s", rank, path, strerror(errno));
    CommSegment *segment = NULL;
    Status status = map_segment(peer_fd, size_bytes, &segment);
    close(peer_fd);
    if (status != STATUS_OK)
        return status;
    if (segment->nonce != nonce || segment->size_bytes != size_bytes)
    {
        munmap(segment, size_bytes);
        return status_fail(STATUS_IO, "'%s' is not the memory of rank %u", path, rank);
    }
    mpi->peers[rank].segment = segment;
    return STATUS_OK;
}

void comm_shared_destroy(CommMpi *mpi)
{
    CommShared *shared = mpi->shared;
    if (!shared)
        return;
    for (int i = -1; i < N_SIZE_CLASSES; i++)
        for (CommBlock *block = i < 0 ? shared->used : shared->free_blocks[i], *next; block; block = next)
        {
            next = block->next;
            free(block);
        }
    for (uint32_t r = 0; r < mpi->world->size; r++)
        if (mpi->peers[r].segment)
            munmap(mpi->peers[r].segment, mpi->peers[r].segment->size_bytes);
    close(shared->fd);
    free(shared);
    mpi->shared = NULL;
}

/* ---- the heap: four sizes between powers of two, a list of free blocks for each; the hottest block first */

static uint64_t class_bytes(uint64_t n_bytes)
{
    if (n_bytes <= MIN_BLOCK_BYTES)
        return MIN_BLOCK_BYTES;
    return round_up(n_bytes, 1ull << (63 - __builtin_clzll(n_bytes) - 2));
}

static uint32_t class_index(uint64_t rounded_bytes)
{
    int log2 = 63 - __builtin_clzll(rounded_bytes);
    return (uint32_t)log2 * 4 + (uint32_t)(rounded_bytes >> (log2 - 2) & 3);
}

/* Frees the blocks that all readers are done with. */
static void reclaim(CommShared *shared)
{
    CommBlock **link = &shared->used;
    while (*link)
    {
        CommBlock *block = *link;
        if (atomic_load_explicit(&block->head->n_done, memory_order_acquire) < block->n_readers)
        {
            link = &block->next;
            continue;
        }
        if (block->channel)
            block->channel->n_in_flight--;
        *link = block->next;
        block->next = shared->free_blocks[block->size_class];
        shared->free_blocks[block->size_class] = block;
    }
}

static Status grow_heap(CommShared *shared, uint64_t rounded_bytes, CommBlock **out_block)
{
    uint64_t at = rounded_bytes >= 16 * PAGE_BYTES ? round_up(shared->heap_end, PAGE_BYTES) : shared->heap_end;
    TRY(commit(shared, at + rounded_bytes));
    shared->heap_end = at + rounded_bytes;
    CommBlock *block = comm_alloc(sizeof *block);
    block->head = (CommBlockHead *)((char *)shared->segment + at);
    block->offset = at;
    block->size_class = class_index(rounded_bytes);
    *out_block = block;
    return STATUS_OK;
}

Status comm_shared_alloc(CommMpi *mpi, size_t size_bytes, uint32_t n_readers, CommChannel *channel,
                         CommBlock **out_block)
{
    CommShared *shared = mpi->shared;
    uint64_t rounded_bytes = class_bytes(sizeof(CommBlockHead) + size_bytes);
    CommBlock **list = &shared->free_blocks[class_index(rounded_bytes)];
    if (!*list)
        reclaim(shared);
    CommBlock *block = *list;
    if (block)
        *list = block->next;
    else
        TRY(grow_heap(shared, rounded_bytes, &block));
    atomic_store_explicit(&block->head->written, 0, memory_order_relaxed);
    atomic_store_explicit(&block->head->summed, 0, memory_order_relaxed);
    atomic_store_explicit(&block->head->n_done, 0, memory_order_relaxed);
    block->n_readers = n_readers;
    block->channel = channel;
    block->next = shared->used;
    shared->used = block;
    *out_block = block;
    return STATUS_OK;
}

Status comm_shared_reserve(CommMpi *mpi, size_t size_bytes, void **out_address)
{
    CommShared *shared = mpi->shared;
    const uint64_t n_bytes = round_up(size_bytes, PAGE_BYTES);
    for (uint32_t i = 0; i < shared->n_holes; i++)
    {
        Hole *hole = &shared->holes[i];
        if (hole->end - hole->at < n_bytes)
            continue;
        if (fallocate(shared->fd, 0, (off_t)hole->at, (off_t)n_bytes) != 0)
            return no_memory(shared);
        *out_address = (char *)shared->segment + hole->at;
        hole->at += n_bytes;
        return STATUS_OK;
    }
    uint64_t at = round_up(shared->heap_end, PAGE_BYTES), end = at + n_bytes;
    TRY(commit(shared, end));
    shared->heap_end = end;
    *out_address = (char *)shared->segment + at;
    return STATUS_OK;
}

/* One with those that it touches. */
static void add_hole(CommShared *shared, Hole hole)
{
    for (uint32_t i = 0; i < shared->n_holes;)
    {
        const Hole other = shared->holes[i];
        if (other.end < hole.at || other.at > hole.end)
        {
            i++;
            continue;
        }
        hole = (Hole){other.at < hole.at ? other.at : hole.at, other.end > hole.end ? other.end : hole.end};
        shared->holes[i] = shared->holes[--shared->n_holes];
        i = 0;
    }
    if (shared->n_holes < MAX_HOLES) /* else it stays taken until the end */
        shared->holes[shared->n_holes++] = hole;
}

void comm_shared_release(CommMpi *mpi, void *address, size_t size_bytes)
{
    CommShared *shared = mpi->shared;
    const uint64_t at = (uint64_t)((char *)address - (char *)shared->segment),
                   n_bytes = round_up(size_bytes, PAGE_BYTES);
    const bool is_empty =
        fallocate(shared->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)n_bytes) == 0;
    if (is_empty)
        add_hole(shared, (Hole){at, at + n_bytes});
}

/* The pages stay, in their owners' hands; here they are mapped again when they are touched. */
void comm_shared_forget(const CommMpi *mpi)
{
    for (uint32_t i = 0; i < mpi->n_shared; i++)
    {
        CommSegment *segment = mpi->peers[mpi->shared_ranks[i]].segment;
        if (segment != mpi->shared->segment)
            madvise(segment, segment->size_bytes, MADV_DONTNEED);
    }
}

bool comm_shared_offset(const CommMpi *mpi, const void *at, size_t size_bytes, uint64_t *out_offset)
{
    const CommShared *shared = mpi->shared;
    *out_offset = (uintptr_t)at - (uintptr_t)shared->segment;
    return (uintptr_t)at >= (uintptr_t)shared->segment && *out_offset <= shared->heap_end &&
           size_bytes <= shared->heap_end - *out_offset;
}

void *comm_shared_address(const CommMpi *mpi, uint32_t rank, uint64_t offset, uint64_t size_bytes)
{
    CommSegment *segment = mpi->peers[rank].segment;
    const bool is_inside = offset <= segment->size_bytes && size_bytes <= segment->size_bytes - offset;
    return is_inside ? (char *)segment + offset : NULL;
}

/* ---- sleeping and waking */

static long futex(_Atomic uint32_t *word, int op, uint32_t value, const struct timespec *timeout)
{
    return syscall(SYS_futex, word, op, value, timeout, NULL, 0);
}

/* Either the sleeper sees what was published before the fence, or the waker sees that it sleeps. */
void comm_shared_wake(CommMpi *mpi, uint32_t rank)
{
    CommSegment *segment = mpi->peers[rank].segment;
    atomic_thread_fence(memory_order_seq_cst);
    if (!atomic_load_explicit(&segment->is_asleep, memory_order_relaxed))
        return;
    atomic_fetch_add(&segment->doorbell, 1);
    futex(&segment->doorbell, FUTEX_WAKE, 1, NULL);
}

Status comm_shared_sleep(CommMpi *mpi, double seconds, CommCondition *condition, void *context, bool *out_done,
                         uint32_t *out_peer)
{
    CommSegment *segment = mpi->shared->segment;
    uint32_t rung = atomic_load(&segment->doorbell);
    atomic_store(&segment->is_asleep, 1);
    atomic_thread_fence(memory_order_seq_cst);
    Status status = comm_mpi_progress(mpi);
    if (status == STATUS_OK)
        status = condition(mpi, context, out_done, out_peer);
    if (status == STATUS_OK && !*out_done)
    {
        struct timespec t = {.tv_nsec = (long)(seconds * 1e9)};
        futex(&segment->doorbell, FUTEX_WAIT, rung, &t);
    }
    atomic_store(&segment->is_asleep, 0);
    return status;
}

void comm_shared_set_waits_for(CommMpi *mpi, uint32_t rank)
{
    atomic_store_explicit(&mpi->shared->segment->waits_for, rank, memory_order_relaxed);
}

uint32_t comm_shared_waits_for(const CommMpi *mpi, uint32_t rank)
{
    return atomic_load_explicit(&mpi->peers[rank].segment->waits_for, memory_order_relaxed);
}

void comm_shared_set_state(CommMpi *mpi, CommState state)
{
    CommSegment *segment = mpi->shared->segment;
    segment->origin = mpi->world->origin;
    atomic_store_explicit(&segment->state, state, memory_order_release);
    for (uint32_t i = 0; i < mpi->n_shared; i++)
        comm_shared_wake(mpi, mpi->shared_ranks[i]);
}

CommState comm_shared_state(const CommMpi *mpi, uint32_t rank, CommOrigin *out_origin)
{
    CommSegment *segment = mpi->peers[rank].segment;
    CommState state = (CommState)atomic_load_explicit(&segment->state, memory_order_acquire);
    if (state == COMM_FAILED && out_origin)
        *out_origin = segment->origin;
    return state;
}

/* ---- rings */

static Ring *ring_to(const CommMpi *mpi, uint32_t from, uint32_t to)
{
    return &mpi->peers[from].segment->rings[mpi->peers[to].local_index];
}

typedef struct
{
    Ring *ring;
    uint32_t to;
} RingSpace;

static Status ring_has_space(CommMpi *mpi, void *context, bool *out_done, uint32_t *out_peer)
{
    (void)mpi;
    const RingSpace *wait = context;
    *out_peer = wait->to;
    *out_done = atomic_load_explicit(&wait->ring->n_put, memory_order_relaxed) -
                    atomic_load_explicit(&wait->ring->n_taken, memory_order_acquire) <
                RING_SLOTS;
    return STATUS_OK;
}

Status comm_shared_announce(CommMpi *mpi, const CommBlock *block, uint32_t comm_id, uint32_t to, uint32_t tag,
                            uint32_t bucket, uint64_t size_bytes)
{
    RingSpace wait = {ring_to(mpi, mpi->world->rank, to), to};
    bool has_space;
    uint32_t peer;
    TRY(ring_has_space(mpi, &wait, &has_space, &peer));
    if (!has_space)
        TRY(comm_mpi_wait(mpi, ring_has_space, &wait));
    uint64_t n = atomic_load_explicit(&wait.ring->n_put, memory_order_relaxed);
    wait.ring->slots[n % RING_SLOTS] = (Announcement){block->offset, size_bytes, comm_id, tag, bucket};
    atomic_store_explicit(&wait.ring->n_put, n + 1, memory_order_release);
    comm_shared_wake(mpi, to);
    return STATUS_OK;
}

static void drain_ring(CommMpi *mpi, uint32_t from)
{
    CommWorld *world = mpi->world;
    Ring *ring = ring_to(mpi, from, world->rank);
    uint64_t n = atomic_load_explicit(&ring->n_taken, memory_order_relaxed);
    uint64_t end = atomic_load_explicit(&ring->n_put, memory_order_acquire);
    if (n == end)
        return;
    bool was_full = end - n == RING_SLOTS;
    for (; n < end; n++)
    {
        Announcement a = ring->slots[n % RING_SLOTS];
        CommArrival *arrival = comm_channel_append(world, comm_channel(world, a.comm_id, from, a.tag, false));
        CommBlockHead *head = (CommBlockHead *)((char *)mpi->peers[from].segment + a.offset);
        arrival->bucket = a.bucket;
        arrival->size_bytes = a.size_bytes;
        arrival->source = head;
        arrival->data = comm_block_bytes(head);
    }
    atomic_store_explicit(&ring->n_taken, end, memory_order_release);
    if (was_full)
        comm_shared_wake(mpi, from);
}

Status comm_shared_drain(CommMpi *mpi)
{
    for (uint32_t i = 0; i < mpi->n_shared; i++)
        drain_ring(mpi, mpi->shared_ranks[i]);
    return STATUS_OK;
}

/* ---- messages */

static Status channel_has_space(CommMpi *mpi, void *context, bool *out_done, uint32_t *out_peer)
{
    const CommChannel *channel = context;
    if (channel->n_in_flight >= COMM_MAX_IN_FLIGHT)
        reclaim(mpi->shared);
    *out_peer = channel->peer;
    *out_done = channel->n_in_flight < COMM_MAX_IN_FLIGHT;
    return STATUS_OK;
}

Status comm_shared_send(CommMpi *mpi, uint32_t comm_id, uint32_t to, uint32_t tag, const void *data, size_t size_bytes)
{
    CommChannel *channel = comm_channel(mpi->world, comm_id, to, tag, true);
    if (channel->n_in_flight >= COMM_MAX_IN_FLIGHT)
        TRY(comm_mpi_wait(mpi, channel_has_space, channel));
    CommBlock *block;
    TRY(comm_shared_alloc(mpi, size_bytes, 1, channel, &block));
    channel->n_in_flight++;
    char *bytes = comm_block_bytes(block->head);
    bool is_long = size_bytes > PIECE_BYTES;
    if (is_long)
        TRY(comm_shared_announce(mpi, block, comm_id, to, tag, 0, size_bytes));
    for (size_t at = 0; at < size_bytes;)
    {
        size_t n = size_bytes - at < PIECE_BYTES ? size_bytes - at : PIECE_BYTES;
        memcpy(bytes + at, (const char *)data + at, n);
        at += n;
        atomic_store_explicit(&block->head->written, at, memory_order_release);
        if (is_long)
            comm_shared_wake(mpi, to);
    }
    return is_long ? STATUS_OK : comm_shared_announce(mpi, block, comm_id, to, tag, 0, size_bytes);
}

typedef struct
{
    const CommBlockHead *head;
    uint64_t more_than;
    uint32_t from;
} MoreWritten;

static Status more_is_written(CommMpi *mpi, void *context, bool *out_done, uint32_t *out_peer)
{
    (void)mpi;
    const MoreWritten *wait = context;
    *out_peer = wait->from;
    *out_done = atomic_load_explicit(&wait->head->written, memory_order_acquire) > wait->more_than;
    return STATUS_OK;
}

Status comm_shared_take(CommMpi *mpi, CommChannel *channel, void *data)
{
    const CommArrival *arrival = channel->first;
    CommBlockHead *head = arrival->source;
    const char *bytes = arrival->data;
    size_t size_bytes = arrival->size_bytes;
    for (size_t at = 0; at < size_bytes;)
    {
        size_t written = atomic_load_explicit(&head->written, memory_order_acquire);
        if (written == at)
        {
            MoreWritten wait = {head, at, channel->peer};
            TRY(comm_mpi_wait(mpi, more_is_written, &wait));
            continue;
        }
        memcpy((char *)data + at, bytes + at, written - at);
        at = written;
    }
    comm_channel_pop(mpi->world, channel);
    atomic_fetch_add_explicit(&head->n_done, 1, memory_order_release);
    comm_shared_wake(mpi, channel->peer);
    return STATUS_OK;
}
