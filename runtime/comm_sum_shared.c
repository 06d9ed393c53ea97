/* All-reduce in shared memory. Every member copies its numbers into a block of its own and announces it. The numbers
 * are cut in pieces, each piece in one part per member. Once all members have written a piece, each adds its own part
 * of it, reading the others' blocks and writing the sum into its own (nobody else reads that part of it before it is
 * summed). At the end each member copies all parts of all pieces from where they were summed.
 *
 * While a member writes its numbers it sums what the others have already written: what was just written is still in the
 * cache. Traffic per member is then little more than one copy in and one copy out. */
#include "runtime/comm_mpi.h"
#include "runtime/comm_sum.h"

#include <stdlib.h>

/* The part of a piece of n elements that a rank sums: whole cache lines. */
static size_t part_begin(size_t n, uint32_t rank, uint32_t size)
{
    return rank == size ? n : (size_t)((uint64_t)n * rank / size) & ~(size_t)15;
}

static float *block_floats(CommBlockHead *head)
{
    return comm_block_bytes(head);
}

static void wake_others(Comm *comm)
{
    for (uint32_t r = 0; r < comm->size; r++)
        if (r != comm->rank)
            comm_shared_wake(comm_mpi(comm->world), comm->ranks[r]);
}

/* Looks for the other members' announcements. Those of one member arrive in the order in which it started sums, and
 * older sums of this communicator look first. */
static Status find_blocks(Comm *comm, CommSum *sum)
{
    CommMpi *mpi = comm_mpi(comm->world);
    CommMpiSum *s = sum->back;
    for (uint32_t r = 0; r < comm->size; r++)
    {
        if (s->heads[r])
            continue;
        CommChannel *channel = comm_channel(comm->world, comm->id, comm->ranks[r], COMM_TAG_SUM, false);
        const CommArrival *arrival = channel->first;
        if (!arrival)
            continue;
        if (arrival->bucket != sum->bucket || arrival->size_bytes != sum->n_elems * sizeof(float))
        {
            comm->world->current = &sum->record;
            return arrival->bucket != sum->bucket
                       ? status_fail(STATUS_IO,
                                     "rank %u starts bucket %u of %s where rank %u starts bucket %u; the ranks run "
                                     "different programs",
                                     comm->world->rank, sum->bucket, comm->name, comm->ranks[r], arrival->bucket)
                       : comm_mpi_mismatch(mpi, comm->ranks[r], arrival->size_bytes, sum->n_elems * sizeof(float));
        }
        s->heads[r] = arrival->source;
        comm_channel_pop(comm->world, channel);
    }
    return STATUS_OK;
}

/* Pieces that all members have written. */
static size_t pieces_written(const Comm *comm, const CommSum *sum)
{
    const CommMpiSum *s = sum->back;
    uint64_t least = UINT64_MAX;
    for (uint32_t r = 0; r < comm->size; r++)
    {
        if (!s->heads[r])
            return 0;
        uint64_t written = atomic_load_explicit(&s->heads[r]->written, memory_order_acquire);
        if (written < least)
            least = written;
    }
    return least == sum->n_elems * sizeof(float) ? s->n_pieces : least / (COMM_PIECE_ELEMS * sizeof(float));
}

Status comm_sum_shared_progress(Comm *comm, CommSum *sum)
{
    CommMpiSum *s = sum->back;
    TRY(find_blocks(comm, sum));
    size_t n_written = s->n_summed < s->n_pieces ? pieces_written(comm, sum) : 0;
    if (s->n_summed >= n_written)
        return STATUS_OK;
    const float **srcs = (const float **)(s->heads + comm->size);
    while (s->n_summed < n_written)
    {
        size_t n = comm_piece_elems(sum, s->n_summed);
        size_t begin = part_begin(n, comm->rank, comm->size), end = part_begin(n, comm->rank + 1, comm->size);
        size_t at = s->n_summed * COMM_PIECE_ELEMS + begin;
        for (uint32_t r = 0; r < comm->size; r++)
            srcs[r] = block_floats(s->heads[r]) + at;
        comm_sum_pairwise(srcs, comm->size, block_floats(s->block->head) + at, end - begin);
        atomic_store_explicit(&s->block->head->summed, ++s->n_summed, memory_order_release);
        wake_others(comm);
    }
    return STATUS_OK;
}

static Status announce(Comm *comm, const CommSum *sum)
{
    const CommMpiSum *s = sum->back;
    for (uint32_t i = 1; i < comm->size; i++)
        TRY(comm_shared_announce(comm_mpi(comm->world), s->block, comm->id, comm->ranks[(comm->rank + i) % comm->size],
                                 COMM_TAG_SUM, sum->bucket, sum->n_elems * sizeof(float)));
    return STATUS_OK;
}

Status comm_sum_shared_start(Comm *comm, CommSum *sum)
{
    CommMpi *mpi = comm_mpi(comm->world);
    CommMpiSum *s = sum->back;
    if (!s->heads) /* and behind them as many pointers to what is added */
        s->heads = comm_alloc(2 * comm->size * sizeof *s->heads);
    for (uint32_t r = 0; r < comm->size; r++)
        s->heads[r] = NULL;
    s->n_summed = 0;
    TRY(comm_shared_alloc(mpi, sum->n_elems * sizeof(float), comm->size, NULL, &s->block));
    s->heads[comm->rank] = s->block->head;
    bool is_long = s->n_pieces > 1;
    if (is_long)
        TRY(announce(comm, sum));
    for (size_t i = 0; i < s->n_pieces; i++)
    {
        size_t at = i * COMM_PIECE_ELEMS, n = comm_piece_elems(sum, i);
        comm_slices_read(sum->slices, sum->n_slices, at, n, block_floats(s->block->head) + at);
        atomic_store_explicit(&s->block->head->written, (at + n) * sizeof(float), memory_order_release);
        if (is_long)
        {
            wake_others(comm);
            TRY(comm_mpi_progress(mpi));
        }
    }
    return is_long ? STATUS_OK : announce(comm, sum);
}

typedef struct
{
    Comm *comm;
    const CommSum *sum;
    uint32_t rank;
    size_t piece;
} PartSummed;

static Status part_is_summed(CommMpi *mpi, void *context, bool *out_done, uint32_t *out_peer)
{
    (void)mpi;
    const PartSummed *wait = context;
    const CommMpiSum *s = wait->sum->back;
    CommBlockHead *head = s->heads[wait->rank];
    *out_peer = wait->comm->ranks[wait->rank];
    *out_done = head && atomic_load_explicit(&head->summed, memory_order_acquire) > wait->piece;
    if (head && !*out_done && atomic_load_explicit(&head->written, memory_order_acquire) > 0)
        for (uint32_t r = 0; r < wait->comm->size; r++) /* it may itself lack somebody's numbers: name that one */
            if (!s->heads[r])
                *out_peer = wait->comm->ranks[r];
    return STATUS_OK;
}

static Status all_are_known(CommMpi *mpi, void *context, bool *out_done, uint32_t *out_peer)
{
    (void)mpi;
    const PartSummed *wait = context;
    const CommMpiSum *s = wait->sum->back;
    *out_done = true;
    for (uint32_t r = 0; r < wait->comm->size && *out_done; r++)
        if (!s->heads[r])
        {
            *out_peer = wait->comm->ranks[r];
            *out_done = false;
        }
    return STATUS_OK;
}

Status comm_sum_shared_wait(Comm *comm, CommSum *sum)
{
    CommMpi *mpi = comm_mpi(comm->world);
    CommMpiSum *s = sum->back;
    PartSummed wait = {comm, sum, 0, 0};
    TRY(comm_mpi_wait(mpi, all_are_known, &wait));
    for (wait.piece = 0; wait.piece < s->n_pieces; wait.piece++)
    {
        size_t n = comm_piece_elems(sum, wait.piece), base = wait.piece * COMM_PIECE_ELEMS;
        for (uint32_t r = 0; r < comm->size; r++)
        {
            size_t begin = part_begin(n, r, comm->size), end = part_begin(n, r + 1, comm->size);
            wait.rank = r;
            if (atomic_load_explicit(&s->heads[r]->summed, memory_order_acquire) <= wait.piece)
                TRY(comm_mpi_wait(mpi, part_is_summed, &wait));
            comm_slices_write(sum->slices, sum->n_slices, base + begin, end - begin,
                              block_floats(s->heads[r]) + base + begin, comm_sum_is_long(sum));
        }
    }
    for (uint32_t r = 0; r < comm->size; r++)
        atomic_fetch_add_explicit(&s->heads[r]->n_done, 1, memory_order_release);
    s->block = NULL;
    return STATUS_OK;
}
