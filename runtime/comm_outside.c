/* Operations that the communicator records and waits for, but does not carry. */
#include "runtime/comm_outside.h"

#include "base/bug.h"
#include "runtime/comm_ops.h"

CommOutside comm_outside_start(Comm *comm, CommKind kind, uint32_t peer, uint32_t tag, uint64_t size_bytes)
{
    CommWorld *world = comm->world;
    const uint32_t world_peer = peer == COMM_NO_RANK ? COMM_NO_RANK : comm->ranks[peer];
    const bool is_message = kind == COMM_KIND_SEND || kind == COMM_KIND_RECV;
    uint64_t number;
    if (is_message)
        number = ++comm_channel(world, comm->id, world_peer, tag, kind == COMM_KIND_SEND)->n_messages;
    else
        number = ++comm->n_collectives;
    if (kind == COMM_KIND_SEND)
        world->counters.sent_bytes += size_bytes;
    else if (kind == COMM_KIND_RECV)
        world->counters.received_bytes += size_bytes;
    else
        world->counters.reduced_bytes += size_bytes;
    CommOutside operation = {comm, comm_make_record(comm, kind, number, world_peer, tag, size_bytes)};
    comm_recorder_start(&world->recorder, &operation.record);
    return operation;
}

void comm_outside_complete(CommOutside *operation)
{
    comm_recorder_complete(&operation->comm->world->recorder, &operation->record);
}

uint32_t comm_outside_peer(const CommOutside *operation)
{
    const CommRecord *record = &operation->record;
    const bool is_message = record->kind == COMM_KIND_SEND || record->kind == COMM_KIND_RECV;
    return is_message ? record->peer : operation->comm->world->ops->late(operation->comm);
}

typedef struct
{
    CommWorld *world;
    CommOutsideDone *done;
    void *context;
} Wait;

static Status ask(void *context, bool *out_done, uint32_t *out_peer)
{
    const Wait *wait = context;
    const CommOutside *now = NULL;
    TRY(wait->done(wait->context, out_done, &now));
    if (*out_done || !now)
        return STATUS_OK;
    wait->world->current = &now->record;
    *out_peer = comm_outside_peer(now);
    return STATUS_OK;
}

Status comm_outside_wait(Comm *comm, CommOutsideDone *done, void *context)
{
    CommWorld *world = comm->world;
    if (world->failed)
        return comm_failed_before(world);
    ENSURE(world->ops->wait);
    Wait wait = {world, done, context};
    const Status status = world->ops->wait(world, ask, &wait);
    if (status != STATUS_OK)
        comm_set_failure(world, status, status_detail());
    world->current = NULL;
    return status;
}
