/* Buckets by messages, for communicators that span hosts. All-reduce: up a binomial tree to rank 0 and back down it,
 * piece by piece, so that all links of the tree are busy at once. A rank adds its children's numbers in the order of
 * their distance, 1, 2, 4, ...: that makes the same pairwise sums as comm_sum_pairwise. Reduce: up that tree, so that
 * the sums are the same, and from rank 0 to the root. Bcast: down a tree from the root.
 *
 * Pieces of all buckets of a communicator travel in order on the same channels, so a bucket's pieces go up only when
 * those of the buckets before it have gone, and likewise down. */
#include "runtime/comm_mpi.h"
#include "runtime/comm_sum.h"

#include <stdlib.h>

static float *piece_numbers(const CommMpiSum *s, size_t i)
{
    return s->numbers + i * COMM_PIECE_ELEMS;
}

/* The distance to the parent; the children are at all smaller powers of two. rank: counted from the tree's top. */
static uint32_t reach(const Comm *comm, uint32_t rank)
{
    uint32_t step = 1;
    while (step < comm->size && !(rank & step))
        step *= 2;
    return step;
}

static uint32_t top_of(const CommSum *sum)
{
    return sum->kind == COMM_KIND_BCAST ? sum->root : 0;
}

/* This rank, counted from the top of the tree. */
static uint32_t place_in_tree(const Comm *comm, const CommSum *sum)
{
    return (comm->rank + comm->size - top_of(sum)) % comm->size;
}

/* A result comes to this rank from another one; from which. */
static bool comes_down(const Comm *comm, const CommSum *sum)
{
    return comm->rank != top_of(sum) && comm_sum_gives_to(sum, comm->rank);
}

static uint32_t comes_from(const Comm *comm, const CommSum *sum)
{
    const uint32_t place = place_in_tree(comm, sum);
    if (sum->kind == COMM_KIND_REDUCE)
        return 0;
    return (place - reach(comm, place) + top_of(sum)) % comm->size;
}

/* The first message of a channel, when it is there as a whole; NULL otherwise. */
static Status first_piece(Comm *comm, const CommSum *sum, CommChannel *channel, size_t n_elems,
                          const CommArrival **out_arrival)
{
    const CommArrival *arrival = channel->first;
    *out_arrival = NULL;
    if (!arrival || !comm_mpi_arrived(channel))
        return STATUS_OK;
    if (arrival->bucket != sum->bucket)
        return status_fail(STATUS_IO,
                           "rank %u starts bucket %u of %s where rank %u starts bucket %u; the ranks run different "
                           "programs",
                           comm->world->rank, sum->bucket, comm->name, channel->peer, arrival->bucket);
    if (arrival->size_bytes != n_elems * sizeof(float))
    {
        comm->world->current = &sum->record;
        return comm_mpi_mismatch(comm_mpi(comm->world), channel->peer, arrival->size_bytes, n_elems * sizeof(float));
    }
    *out_arrival = arrival;
    return STATUS_OK;
}

static Status post_down(Comm *comm, const CommSum *sum, uint32_t to, size_t i)
{
    const CommMpiSum *s = sum->back;
    return comm_mpi_post(comm_mpi(comm->world), comm->id, comm->ranks[to], COMM_TAG_SUM_DOWN, sum->bucket,
                         piece_numbers(s, i), comm_piece_elems(sum, i) * sizeof(float));
}

static Status send_down(Comm *comm, const CommSum *sum, size_t i)
{
    const uint32_t place = place_in_tree(comm, sum);
    if (sum->kind == COMM_KIND_REDUCE)
        return comm->rank == 0 && sum->root != 0 ? post_down(comm, sum, sum->root, i) : STATUS_OK;
    for (uint32_t step = reach(comm, place) / 2; step > 0; step /= 2)
        if (place + step < comm->size)
            TRY(post_down(comm, sum, (comm->rank + step) % comm->size, i));
    return STATUS_OK;
}

static Status go_up(Comm *comm, CommSum *sum)
{
    CommWorld *world = comm->world;
    CommMpiSum *s = sum->back;
    const uint32_t parent_step = reach(comm, comm->rank);
    while (s->n_up < s->n_pieces)
    {
        size_t n = comm_piece_elems(sum, s->n_up);
        float *mine = piece_numbers(s, s->n_up);
        for (; s->step < parent_step && comm->rank + s->step < comm->size; s->step *= 2)
        {
            CommChannel *channel =
                comm_channel(world, comm->id, comm->ranks[comm->rank + s->step], COMM_TAG_SUM, false);
            const CommArrival *arrival;
            TRY(first_piece(comm, sum, channel, n, &arrival));
            if (!arrival)
                return STATUS_OK;
            const float *const both[] = {mine, arrival->data};
            comm_sum_pairwise(both, 2, &mine, 1, n);
            comm_mpi_take(comm_mpi(world), channel);
        }
        if (comm->rank > 0)
            TRY(comm_mpi_post(comm_mpi(world), comm->id, comm->ranks[comm->rank - parent_step], COMM_TAG_SUM,
                              sum->bucket, mine, n * sizeof *mine));
        s->n_up++;
        s->step = 1;
    }
    return STATUS_OK;
}

static Status go_down(Comm *comm, CommSum *sum)
{
    CommMpiSum *s = sum->back;
    while (s->n_down < s->n_up)
    {
        if (!comes_down(comm, sum))
        {
            TRY(send_down(comm, sum, s->n_down++));
            continue;
        }
        CommChannel *channel =
            comm_channel(comm->world, comm->id, comm->ranks[comes_from(comm, sum)], COMM_TAG_SUM_DOWN, false);
        size_t n = comm_piece_elems(sum, s->n_down);
        const CommSlice whole = {NULL, piece_numbers(s, s->n_down), n};
        const CommArrival *arrival;
        TRY(first_piece(comm, sum, channel, n, &arrival));
        if (!arrival)
            return STATUS_OK;
        comm_slices_write(&whole, 1, 0, n, arrival->data, false);
        comm_mpi_take(comm_mpi(comm->world), channel);
        TRY(send_down(comm, sum, s->n_down++));
    }
    return STATUS_OK;
}

Status comm_sum_tree_progress(Comm *comm)
{
    for (CommSum *sum = comm->running; sum; sum = sum->next)
    {
        const CommMpiSum *s = sum->back;
        TRY(go_up(comm, sum));
        if (s->n_up < s->n_pieces)
            break;
    }
    for (CommSum *sum = comm->running; sum; sum = sum->next)
    {
        const CommMpiSum *s = sum->back;
        TRY(go_down(comm, sum));
        if (s->n_down < s->n_pieces)
            break;
    }
    return STATUS_OK;
}

Status comm_sum_tree_start(Comm *comm, CommSum *sum)
{
    CommMpiSum *s = sum->back;
    if (!s->numbers || s->cap_elems < sum->n_elems)
    {
        free(s->numbers);
        s->numbers = malloc(sum->n_elems * sizeof *s->numbers + 1);
        s->cap_elems = sum->n_elems;
        if (!s->numbers)
            return status_fail(STATUS_OUT_OF_MEMORY, "no memory to reduce %zu numbers", sum->n_elems);
    }
    if (comm_sum_takes_from(sum, comm->rank))
        comm_slices_read(sum->slices, sum->n_slices, 0, sum->n_elems, s->numbers);
    s->n_up = sum->kind == COMM_KIND_BCAST ? s->n_pieces : 0;
    s->n_down = 0;
    s->step = 1;
    return comm_mpi_progress(comm_mpi(comm->world));
}

static Status is_back(CommMpi *mpi, void *context, bool *out_done, uint32_t *out_peer)
{
    (void)mpi;
    Comm *comm = ((void **)context)[0];
    const CommSum *sum = ((void **)context)[1];
    const CommMpiSum *s = sum->back;
    *out_done = s->n_down == s->n_pieces;
    bool goes_up = s->n_up < s->n_pieces;
    *out_peer =
        comm->ranks[goes_up || !comes_down(comm, sum) ? (comm->rank + s->step) % comm->size : comes_from(comm, sum)];
    return STATUS_OK;
}

Status comm_sum_tree_wait(Comm *comm, CommSum *sum)
{
    const CommMpiSum *s = sum->back;
    void *context[] = {comm, sum};
    TRY(comm_mpi_wait(comm_mpi(comm->world), is_back, context));
    if (comm_sum_gives_to(sum, comm->rank))
        comm_slices_write(sum->slices, sum->n_slices, 0, sum->n_elems, s->numbers, comm_sum_is_long(sum));
    return STATUS_OK;
}
