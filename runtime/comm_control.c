/* Small collectives made of messages: a dissemination barrier (Hensgen, Finkel, Manber, "Two algorithms for barrier
 * synchronization", 1988), a binomial tree for broadcasts, a gather at rank 0 followed by a broadcast. */
#include "runtime/comm_ops.h"

#include <string.h>

enum
{
    PIECE_BYTES = 4 << 20 /* of a broadcast: ranks pass pieces on while the next ones come */
};

Status comm_control_barrier(Comm *comm)
{
    const CommOps *ops = comm->world->ops;
    for (uint32_t step = 1; step < comm->size; step *= 2)
    {
        TRY(ops->send(comm, (comm->rank + step) % comm->size, COMM_TAG_BARRIER, NULL, 0));
        TRY(ops->recv(comm, (comm->rank + comm->size - step) % comm->size, COMM_TAG_BARRIER, NULL, 0));
    }
    return STATUS_OK;
}

static Status broadcast_piece(Comm *comm, uint32_t root, void *data, size_t size_bytes)
{
    const CommOps *ops = comm->world->ops;
    uint32_t n = comm->size, place = (comm->rank + n - root) % n, step = 1; /* place 0 is the root */
    while (step < n && !(place & step))
        step *= 2;
    if (place > 0)
        TRY(ops->recv(comm, (place - step + root) % n, COMM_TAG_BROADCAST, data, size_bytes));
    for (step /= 2; step > 0; step /= 2)
        if (place + step < n)
            TRY(ops->send(comm, (place + step + root) % n, COMM_TAG_BROADCAST, data, size_bytes));
    return STATUS_OK;
}

Status comm_control_broadcast(Comm *comm, uint32_t root, void *data, size_t size_bytes)
{
    size_t at = 0;
    do
    {
        size_t n = size_bytes - at < PIECE_BYTES ? size_bytes - at : PIECE_BYTES;
        TRY(broadcast_piece(comm, root, (char *)data + at, n));
        at += n;
    } while (at < size_bytes);
    return STATUS_OK;
}

Status comm_control_all_gather(Comm *comm, const void *mine, size_t size_bytes, void *all)
{
    const CommOps *ops = comm->world->ops;
    if (comm->rank > 0)
        TRY(ops->send(comm, 0, COMM_TAG_GATHER, mine, size_bytes));
    else
    {
        if (size_bytes > 0)
            memmove(all, mine, size_bytes);
        for (uint32_t r = 1; r < comm->size; r++)
            TRY(ops->recv(comm, r, COMM_TAG_GATHER, (char *)all + r * size_bytes, size_bytes));
    }
    return comm_control_broadcast(comm, 0, all, size_bytes * comm->size);
}
