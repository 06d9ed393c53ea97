/* Channels: one per (communicator, peer, tag, direction), found by hash, kept until the world ends. Records of arrived
 * messages are reused, so that a training step allocates none. */
#include "runtime/comm_ops.h"

#include "base/bug.h"

#include <stdlib.h>

void *comm_alloc(size_t size_bytes)
{
    void *memory = calloc(1, size_bytes ? size_bytes : 1);
    if (!memory)
        base_out_of_memory(size_bytes);
    return memory;
}

CommChannel *comm_channel(CommWorld *world, uint32_t comm_id, uint32_t peer, uint32_t tag, bool sends)
{
    uint64_t hash = ((uint64_t)comm_id << 40 ^ (uint64_t)peer << 21 ^ tag) * 2 + sends;
    hash = hash * 0x9E3779B97F4A7C15u >> 32;
    CommChannel **list = &world->channels[hash % COMM_CHANNEL_LISTS];
    for (CommChannel *c = *list; c; c = c->next)
        if (c->tag == tag && c->peer == peer && c->comm_id == comm_id && c->sends == sends)
            return c;
    CommChannel *channel = comm_alloc(sizeof *channel);
    *channel = (CommChannel){.next = *list, .comm_id = comm_id, .peer = peer, .tag = tag, .sends = sends};
    *list = channel;
    return channel;
}

CommArrival *comm_channel_append(CommWorld *world, CommChannel *channel)
{
    CommArrival *arrival = world->free_arrivals;
    if (arrival)
        world->free_arrivals = arrival->next;
    else
        arrival = comm_alloc(sizeof *arrival);
    *arrival = (CommArrival){0};
    if (channel->first)
        channel->last->next = arrival;
    else
        channel->first = arrival;
    channel->last = arrival;
    return arrival;
}

void comm_channel_pop(CommWorld *world, CommChannel *channel)
{
    CommArrival *arrival = channel->first;
    channel->first = arrival->next;
    arrival->next = world->free_arrivals;
    world->free_arrivals = arrival;
}
