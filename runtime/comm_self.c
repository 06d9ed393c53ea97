/* The back end of one rank. Messages to itself are kept until it takes them; a wait for what only it could send would
 * never end, so it fails at once. */
#include "runtime/comm_ops.h"
#include "runtime/comm_sum.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static Status self_create(CommWorld *world)
{
    world->rank = 0;
    world->size = 1;
    world->peers = comm_alloc(sizeof *world->peers);
    world->peers[0] = (CommPeer){.pid = (int32_t)getpid(), .is_local = true};
    if (gethostname(world->peers[0].host, sizeof world->peers[0].host - 1) != 0)
        snprintf(world->peers[0].host, sizeof world->peers[0].host, "localhost");
    return STATUS_OK;
}

static void self_destroy(CommWorld *world)
{
    for (size_t i = 0; i < COMM_CHANNEL_LISTS; i++)
        for (CommChannel *channel = world->channels[i]; channel; channel = channel->next)
            for (CommArrival *arrival = channel->first; arrival; arrival = arrival->next)
                free(arrival->data);
}

static Status waits_for_itself(const CommWorld *world)
{
    char text[512];
    comm_record_describe(world->current, text, sizeof text);
    return status_fail(STATUS_TIMEOUT, "rank 0 would wait for itself: %s", text);
}

static Status self_send(Comm *comm, uint32_t to, uint32_t tag, const void *data, size_t size_bytes)
{
    CommChannel *channel = comm_channel(comm->world, comm->id, comm->ranks[to], tag, false);
    if (channel->n_in_flight == COMM_MAX_IN_FLIGHT)
        return waits_for_itself(comm->world);
    void *copy = malloc(size_bytes ? size_bytes : 1);
    if (!copy)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for a message of %zu bytes", size_bytes);
    if (size_bytes > 0)
        memcpy(copy, data, size_bytes);
    CommArrival *arrival = comm_channel_append(comm->world, channel);
    arrival->data = copy;
    arrival->size_bytes = size_bytes;
    channel->n_in_flight++;
    return STATUS_OK;
}

static Status self_recv(Comm *comm, uint32_t from, uint32_t tag, void *data, size_t size_bytes)
{
    CommChannel *channel = comm_channel(comm->world, comm->id, comm->ranks[from], tag, false);
    CommArrival *arrival = channel->first;
    if (!arrival)
        return waits_for_itself(comm->world);
    if (arrival->size_bytes != size_bytes)
        return status_fail(STATUS_IO, "rank 0 sent itself %zu bytes with tag %u and wants %zu", arrival->size_bytes,
                           tag, size_bytes);
    if (size_bytes > 0)
        memcpy(data, arrival->data, size_bytes);
    free(arrival->data);
    comm_channel_pop(comm->world, channel);
    channel->n_in_flight--;
    return STATUS_OK;
}

/* Of one rank the sum is the copy. */
typedef struct
{
    size_t cap_elems;
    float *copy;
} SelfSum;

static void self_sum_create(CommSum *sum)
{
    sum->back = comm_alloc(sizeof(SelfSum));
}

static Status self_sum_start(Comm *comm, CommSum *sum)
{
    (void)comm;
    SelfSum *self = sum->back;
    if (self->cap_elems < sum->n_elems)
    {
        free(self->copy);
        self->copy = malloc(sum->n_elems * sizeof *self->copy);
        self->cap_elems = self->copy ? sum->n_elems : 0;
        if (!self->copy)
            return status_fail(STATUS_OUT_OF_MEMORY, "no memory to reduce %zu numbers", sum->n_elems);
    }
    comm_slices_read(sum->slices, sum->n_slices, 0, sum->n_elems, self->copy);
    return STATUS_OK;
}

static Status self_sum_wait(Comm *comm, CommSum *sum)
{
    const SelfSum *self = sum->back;
    if (comm_sum_gives_to(sum, comm->rank))
        comm_slices_write(sum->slices, sum->n_slices, 0, sum->n_elems, self->copy, false);
    return STATUS_OK;
}

static void self_sum_free(CommSum *sum)
{
    SelfSum *self = sum->back;
    free(self->copy);
    free(self);
}

static Status self_poll(CommWorld *world)
{
    (void)world;
    return STATUS_OK;
}

static void self_tell_failure(CommWorld *world)
{
    (void)world;
}

const CommOps comm_self_ops = {.create = self_create,
                               .destroy = self_destroy,
                               .send = self_send,
                               .recv = self_recv,
                               .sum_create = self_sum_create,
                               .sum_start = self_sum_start,
                               .sum_wait = self_sum_wait,
                               .sum_free = self_sum_free,
                               .poll = self_poll,
                               .tell_failure = self_tell_failure};
