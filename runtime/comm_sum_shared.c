/* Buckets in shared memory. A sum is cut in pieces, each piece in one part per member. Once all members' numbers
 * of a piece are there, each member adds its own part of it, reading everybody's numbers where they are and writing the
 * sum to the result of everybody, or of the root. Of a bcast each member copies every piece from the root. A member is
 * done when all have done all of their parts.
 *
 * Each member announces a block that says where its numbers are and where its results go: in memory that it took for
 * that (comm_memory_take), or else in the block itself. Then it copies its numbers in, piece by piece, and the results
 * out; while it copies it sums what the others have written already, which is still in the cache. */
#include "runtime/comm_mpi.h"
#include "runtime/comm_sum.h"

#include <stdlib.h>

/* Elements that lie together; offsets in the owner's segment. */
typedef struct
{
    uint64_t src, dst, n_elems;
} Span;

/* What a block begins with; a copy of the numbers is behind it. */
typedef struct
{
    _Alignas(64) uint64_t n_spans;
    Span spans[];
} Table;

/* A member, as this rank sees it. */
struct CommSumSide
{
    CommBlockHead *head; /* NULL until announced */
    char *segment;
    uint64_t span; /* where this rank sums, */
    size_t begin;  /* and the first element of that */
};

static Table *table_of(CommBlockHead *head)
{
    return comm_block_bytes(head);
}

/* The part of a piece of n elements that a rank sums: whole cache lines. */
static size_t part_begin(size_t n, uint32_t rank, uint32_t size)
{
    return rank == size ? n : (size_t)((uint64_t)n * rank / size) & ~(size_t)15;
}

static void wake_others(Comm *comm)
{
    for (uint32_t r = 0; r < comm->size; r++)
        if (r != comm->rank)
            comm_shared_wake(comm_mpi(comm->world), comm->ranks[r]);
}

/* ---- the members' blocks */

static Status check_table(Comm *comm, const CommSum *sum, uint32_t rank, const Table *table)
{
    const CommMpi *mpi = comm_mpi(comm->world);
    uint64_t n_elems = 0;
    bool is_inside = true;
    for (uint64_t i = 0; i < table->n_spans && is_inside; i++)
    {
        const Span *span = &table->spans[i];
        is_inside = span->n_elems <= sum->n_elems - n_elems &&
                    comm_shared_address(mpi, comm->ranks[rank], span->src, span->n_elems * sizeof(float)) &&
                    comm_shared_address(mpi, comm->ranks[rank], span->dst, span->n_elems * sizeof(float));
        n_elems += is_inside ? span->n_elems : 0;
    }
    if (is_inside && n_elems == (comm_sum_takes_from(sum, rank) ? sum->n_elems : 0))
        return STATUS_OK;
    char peer[128];
    return status_fail(STATUS_IO, "bucket %u of %s: %s does not say where its %zu numbers are", sum->bucket, comm->name,
                       comm_mpi_rank_text(mpi, comm->ranks[rank], peer), sum->n_elems);
}

/* Looks for the other members' announcements. Those of one member arrive in the order in which it started sums, and
 * older sums of this communicator look first. */
static Status find_blocks(Comm *comm, CommSum *sum)
{
    CommMpi *mpi = comm_mpi(comm->world);
    CommMpiSum *s = sum->back;
    for (uint32_t r = 0; r < comm->size; r++)
    {
        if (s->sides[r].head)
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
        TRY(check_table(comm, sum, r, table_of(arrival->source)));
        s->sides[r].head = arrival->source;
        comm_channel_pop(comm->world, channel);
    }
    return STATUS_OK;
}

/* Where element `at` of the sum is, and how many follow there. Only ever asked further on. */
static size_t find_elems(CommSumSide *side, size_t at, const float **out_src, float **out_dst)
{
    const Span *spans = table_of(side->head)->spans;
    while (at - side->begin >= spans[side->span].n_elems)
        side->begin += spans[side->span++].n_elems;
    const Span *span = &spans[side->span];
    const size_t skip = at - side->begin;
    *out_src = (const float *)(const void *)(side->segment + span->src) + skip;
    *out_dst = (float *)(void *)(side->segment + span->dst) + skip;
    return span->n_elems - skip;
}

/* ---- adding */

/* Pieces that all members have written whose numbers are wanted. */
static size_t pieces_written(const Comm *comm, const CommSum *sum)
{
    const CommMpiSum *s = sum->back;
    uint64_t least = UINT64_MAX;
    for (uint32_t r = 0; r < comm->size; r++)
    {
        if (!comm_sum_takes_from(sum, r))
            continue;
        if (!s->sides[r].head)
            return 0;
        uint64_t written = atomic_load_explicit(&s->sides[r].head->written, memory_order_acquire);
        if (written < least)
            least = written;
    }
    return least == sum->n_elems * sizeof(float) ? s->n_pieces : least / (COMM_PIECE_ELEMS * sizeof(float));
}

static void add_part(const Comm *comm, const CommSum *sum, size_t at, size_t end)
{
    CommMpiSum *s = sum->back;
    const bool all = sum->kind == COMM_KIND_ALL_REDUCE;
    while (at < end)
    {
        size_t n = end - at;
        for (uint32_t r = 0; r < comm->size; r++)
        {
            const size_t n_there = find_elems(&s->sides[r], at, &s->srcs[r], &s->outs[r]);
            n = n_there < n ? n_there : n;
        }
        comm_sum_pairwise(s->srcs, comm->size, all ? s->outs : &s->outs[sum->root], all ? comm->size : 1, n);
        at += n;
    }
}

static void copy_piece(const CommSum *sum, size_t at, size_t end)
{
    CommMpiSum *s = sum->back;
    while (at < end)
    {
        const float *src;
        float *dst;
        size_t n = find_elems(&s->sides[sum->root], at, &src, &dst);
        n = n < end - at ? n : end - at;
        comm_slices_write(sum->slices, sum->n_slices, at, n, src, comm_sum_is_long(sum));
        at += n;
    }
}

/* This rank's part of a piece of n elements that begins at base. */
static void do_part(const Comm *comm, const CommSum *sum, size_t base, size_t n)
{
    if (sum->kind != COMM_KIND_BCAST)
        add_part(comm, sum, base + part_begin(n, comm->rank, comm->size),
                 base + part_begin(n, comm->rank + 1, comm->size));
    else if (comm->rank != sum->root)
        copy_piece(sum, base, base + n);
}

Status comm_sum_shared_progress(Comm *comm, CommSum *sum)
{
    CommMpiSum *s = sum->back;
    TRY(find_blocks(comm, sum));
    const size_t n_written = s->n_summed < s->n_pieces ? pieces_written(comm, sum) : 0;
    while (s->n_summed < n_written)
    {
        do_part(comm, sum, s->n_summed * COMM_PIECE_ELEMS, comm_piece_elems(sum, s->n_summed));
        atomic_store_explicit(&s->sides[comm->rank].head->summed, ++s->n_summed, memory_order_release);
        wake_others(comm);
    }
    return STATUS_OK;
}

/* ---- the start */

/* Whether other ranks reach all that they read and write of this one. */
static bool lies_in_place(const Comm *comm, const CommSum *sum)
{
    const CommMpi *mpi = comm_mpi(comm->world);
    const bool gets = comm_sum_gives_to(sum, comm->rank);
    uint64_t offset;
    if (!comm_sum_takes_from(sum, comm->rank))
        return true;
    for (uint32_t i = 0; i < sum->n_slices; i++)
    {
        const CommSlice *slice = &sum->slices[i];
        const size_t size_bytes = slice->n_elems * sizeof(float);
        if (size_bytes > 0 && (!comm_shared_offset(mpi, slice->src, size_bytes, &offset) ||
                               (gets && !comm_shared_offset(mpi, slice->dst, size_bytes, &offset))))
            return false;
    }
    return true;
}

static void fill_table(const Comm *comm, const CommSum *sum, Table *table)
{
    const CommMpi *mpi = comm_mpi(comm->world);
    const bool gets = comm_sum_gives_to(sum, comm->rank);
    table->n_spans = 0;
    for (uint32_t i = 0; i < sum->n_slices && comm_sum_takes_from(sum, comm->rank); i++)
    {
        const CommSlice *slice = &sum->slices[i];
        Span *span = &table->spans[table->n_spans];
        if (slice->n_elems == 0)
            continue;
        *span = (Span){.n_elems = slice->n_elems};
        comm_shared_offset(mpi, slice->src, slice->n_elems * sizeof(float), &span->src);
        span->dst = span->src;
        if (gets)
            comm_shared_offset(mpi, slice->dst, slice->n_elems * sizeof(float), &span->dst);
        table->n_spans++;
    }
}

static Status make_block(Comm *comm, const CommSum *sum)
{
    CommMpi *mpi = comm_mpi(comm->world);
    CommMpiSum *s = sum->back;
    const bool in_place = lies_in_place(comm, sum);
    const size_t behind_bytes = in_place ? sum->n_slices * sizeof(Span) : sum->n_elems * sizeof(float);
    TRY(comm_shared_alloc(mpi, sizeof(Table) + behind_bytes, comm->size, NULL, &s->block));
    Table *table = table_of(s->block->head);
    s->copy = in_place ? NULL : (float *)(void *)(table + 1);
    if (in_place)
        fill_table(comm, sum, table);
    else
    {
        const uint64_t at = s->block->offset + (uint64_t)((char *)s->copy - (char *)s->block->head);
        table->n_spans = 1;
        table->spans[0] = (Span){at, at, sum->n_elems};
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

static Status copy_in(Comm *comm, const CommSum *sum)
{
    const CommMpiSum *s = sum->back;
    const bool is_long = s->n_pieces > 1;
    if (is_long)
        TRY(announce(comm, sum));
    for (size_t i = 0; i < s->n_pieces; i++)
    {
        const size_t at = i * COMM_PIECE_ELEMS, n = comm_piece_elems(sum, i);
        comm_slices_read(sum->slices, sum->n_slices, at, n, s->copy + at);
        atomic_store_explicit(&s->block->head->written, (at + n) * sizeof(float), memory_order_release);
        if (is_long)
        {
            wake_others(comm);
            TRY(comm_mpi_progress(comm_mpi(comm->world)));
        }
    }
    return is_long ? STATUS_OK : announce(comm, sum);
}

Status comm_sum_shared_start(Comm *comm, CommSum *sum)
{
    const CommMpi *mpi = comm_mpi(comm->world);
    CommMpiSum *s = sum->back;
    if (!s->sides)
    {
        s->sides = comm_alloc(comm->size * sizeof *s->sides);
        s->srcs = comm_alloc(comm->size * sizeof *s->srcs);
        s->outs = comm_alloc(comm->size * sizeof *s->outs);
    }
    for (uint32_t r = 0; r < comm->size; r++)
        s->sides[r] = (CommSumSide){.segment = (char *)mpi->peers[comm->ranks[r]].segment};
    s->n_summed = 0;
    TRY(make_block(comm, sum));
    s->sides[comm->rank].head = s->block->head;
    if (s->copy)
        return copy_in(comm, sum);
    atomic_store_explicit(&s->block->head->written, sum->n_elems * sizeof(float), memory_order_release);
    return announce(comm, sum);
}

/* ---- the end */

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
    CommBlockHead *head = s->sides[wait->rank].head;
    *out_peer = wait->comm->ranks[wait->rank];
    *out_done = head && atomic_load_explicit(&head->summed, memory_order_acquire) > wait->piece;
    if (head && !*out_done && atomic_load_explicit(&head->written, memory_order_acquire) > 0)
        for (uint32_t r = 0; r < wait->comm->size; r++) /* it may itself lack somebody's numbers: name that one */
            if (!s->sides[r].head)
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
        if (!s->sides[r].head)
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
        const size_t base = wait.piece * COMM_PIECE_ELEMS;
        for (wait.rank = 0; wait.rank < comm->size; wait.rank++)
            if (atomic_load_explicit(&s->sides[wait.rank].head->summed, memory_order_acquire) <= wait.piece)
                TRY(comm_mpi_wait(mpi, part_is_summed, &wait));
        if (s->copy && comm_sum_gives_to(sum, comm->rank))
            comm_slices_write(sum->slices, sum->n_slices, base, comm_piece_elems(sum, wait.piece), s->copy + base,
                              comm_sum_is_long(sum));
    }
    for (uint32_t r = 0; r < comm->size; r++)
        atomic_fetch_add_explicit(&s->sides[r].head->n_done, 1, memory_order_release);
    s->block = NULL;
    return STATUS_OK;
}
