/* Messages between GPUs. A send of NCCL is a rendezvous, one of comm.h is not, and schedules rely on that. So each pair
 * of ranks has a lane for each direction, with a communicator, a stream and slots of its own. A send is copied into a
 * slot and goes from there; work of the device only waits for a slot that is still full after COMM_MAX_IN_FLIGHT
 * messages of its tag. A receiver takes the messages of a lane in the order of the sender's program, ahead of its own,
 * into slots, of which each tag has as many as that order wants. Why nothing waits for ever that would not wait in
 * comm.h: when a program takes message p of a lane, all receives up to p are under way (there is a slot for each), so
 * all sends up to p end as soon as the sender has come to them. A full slot of a sender is that of a message that the
 * receiver has not taken, too, or it becomes free without it. Lanes share neither stream nor communicator, so none
 * waits for another one. */
#include "base/bug.h"
#include "runtime/hal_cuda_nccl.h"

#include <string.h>

enum
{
    SENDER,
    RECEIVER /* ranks in the communicator of a lane */
};

/* ---- how many slots */

static uint32_t count_of(const CudaMessages *list, uint32_t end, uint32_t tag)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < end; i++)
        n += list->data[i].tag == tag;
    return n;
}

/* Messages of a tag that have come and were not taken, at most. */
static uint32_t most_ahead(const CudaLane *lane, uint32_t program, uint32_t tag)
{
    uint32_t most = 0, n_come = 0, n_taken = 0;
    const CudaMessages *told = &lane->told.data[program];
    for (uint32_t i = 0; i < told->len; i++)
    {
        const uint32_t come = count_of(&lane->sent[program], told->data[i].position + 1, tag);
        n_come = come > n_come ? come : n_come;
        most = n_come - n_taken > most ? n_come - n_taken : most;
        n_taken += told->data[i].tag == tag;
    }
    return most;
}

void cuda_lane_count_slots(CudaLane *lane, uint32_t n_programs)
{
    for (uint32_t t = 0; t < lane->tags.len; t++)
        for (uint32_t p = 0; p < n_programs; p++)
        {
            CudaTag *tag = &lane->tags.data[t];
            const uint32_t n = count_of(&lane->told.data[p], lane->told.data[p].len, t);
            uint32_t wanted = COMM_MAX_IN_FLIGHT;
            if (!lane->sends)
                wanted = most_ahead(lane, p, t) + 1; /* one more comes while that is taken */
            wanted = wanted < n ? wanted : n;
            tag->n_slots = tag->n_slots > wanted ? tag->n_slots : wanted;
        }
}

/* ---- on the device */

static CuDevicePtr slot_at(const DeviceLinks *l, const CudaTag *tag, uint64_t nth)
{
    const CuDevicePtr memory = (CuDevicePtr)(uintptr_t)hal_buffer_address(l->memory);
    return memory + tag->at + nth % tag->n_slots * tag->slot_bytes;
}

/* Of the lane's stream: a slot, from or to the peer. */
static Status move(DeviceLinks *l, CudaLane *lane, const CommOutside *operation, CuDevicePtr slot, size_t size_bytes)
{
    DeviceComm *c = l->comm;
    void *data = (void *)(uintptr_t)slot;
    if (lane->sends)
        NCCL_TRY(c, operation, send(data, size_bytes, NCCL_BYTES, RECEIVER, lane->group.comm, lane->group.stream));
    else
        NCCL_TRY(c, operation, recv(data, size_bytes, NCCL_BYTES, SENDER, lane->group.comm, lane->group.stream));
    return cuda_nccl_settle(c, &lane->group, operation);
}

static CommOutside start(const DeviceLinks *l, const CudaLane *lane, const CudaMessage *message)
{
    comm_set_place(l->comm->world, message->place, l->step, message->micro_batch);
    return comm_outside_start(l->pipe, lane->sends ? COMM_KIND_SEND : COMM_KIND_RECV, lane->peer,
                              lane->tags.data[message->tag].tag, message->size_bytes);
}

Status cuda_lane_first_message(DeviceLinks *l, CudaLane *lane)
{
    const CudaDriver *driver = &l->comm->device->driver;
    const CommOutside operation =
        comm_outside_start(l->pipe, lane->sends ? COMM_KIND_SEND : COMM_KIND_RECV, lane->peer, COMM_NO_TAG, 1);
    TRY(move(l, lane, &operation, slot_at(l, &lane->tags.data[0], 0), 1));
    CUDA_TRY(driver, event_record(lane->ready, lane->group.stream), "connecting GPUs");
    cuda_nccl_pending(l, operation, lane->ready);
    return cuda_nccl_wait(l, lane->ready);
}

static CudaLane *lane_of(const DeviceLinks *l, uint32_t number, const CudaMessage **out_message)
{
    const CudaMessageAt *at = &l->messages.data[number];
    CudaLane *lane = l->lanes.data[at->lane];
    ENSURE(at->program == l->program);
    *out_message = &lane->told.data[at->program].data[at->index];
    return lane;
}

Status device_links_send(DeviceLinks *l, uint32_t number, const void *src)
{
    const CudaDevice *device = l->comm->device;
    const CudaDriver *driver = &device->driver;
    const CudaMessage *message;
    CudaLane *lane = lane_of(l, number, &message);
    CudaTag *tag = &lane->tags.data[message->tag];
    const CuDevicePtr slot = slot_at(l, tag, tag->n_put);
    const CuEvent gone = tag->put[tag->n_put % tag->n_slots];
    TRY(cuda_enter(device));
    if (tag->n_put >= tag->n_slots)
    {
        cuda_nccl_await(l, gone);
        CUDA_TRY(driver, stream_wait(device->stream, gone, 0), "ordering a message");
    }
    if (message->size_bytes)
        CUDA_TRY(driver, copy_on_device(slot, (CuDevicePtr)(uintptr_t)src, message->size_bytes, device->stream),
                 "copying %zu bytes on the device", message->size_bytes);
    CUDA_TRY(driver, event_record(lane->ready, device->stream), "ordering a message");
    CUDA_TRY(driver, stream_wait(lane->group.stream, lane->ready, 0), "ordering a message");
    const CommOutside operation = start(l, lane, message);
    TRY(move(l, lane, &operation, slot, message->size_bytes));
    CUDA_TRY(driver, event_record(gone, lane->group.stream), "ordering a message");
    cuda_nccl_pending(l, operation, gone);
    tag->n_put++;
    return STATUS_OK;
}

/* The next message of the sender, into its slot. */
static Status issue(DeviceLinks *l, CudaLane *lane)
{
    const CudaDriver *driver = &l->comm->device->driver;
    const CudaMessage *message = &lane->sent[l->program].data[lane->n_issued];
    CudaTag *tag = &lane->tags.data[message->tag];
    const uint64_t slot = tag->n_put % tag->n_slots;
    ENSURE(tag->n_put - tag->n_taken < tag->n_slots);
    if (tag->n_put >= tag->n_slots)
        CUDA_TRY(driver, stream_wait(lane->group.stream, tag->taken[slot], 0), "ordering a message");
    const CommOutside operation = start(l, lane, message);
    TRY(move(l, lane, &operation, slot_at(l, tag, tag->n_put), message->size_bytes));
    CUDA_TRY(driver, event_record(tag->put[slot], lane->group.stream), "ordering a message");
    cuda_nccl_pending(l, operation, tag->put[slot]);
    tag->n_put++;
    lane->n_issued++;
    return STATUS_OK;
}

Status cuda_lane_issue(DeviceLinks *l, CudaLane *lane, uint32_t n)
{
    const CudaMessages *sent = &lane->sent[l->program];
    TRY(cuda_enter(l->comm->device));
    while (lane->n_issued < sent->len)
    {
        const CudaTag *tag = &lane->tags.data[sent->data[lane->n_issued].tag];
        if (lane->n_issued >= n && tag->n_put - tag->n_taken == tag->n_slots)
            break;
        TRY(issue(l, lane));
    }
    return STATUS_OK;
}

Status device_links_recv(DeviceLinks *l, uint32_t number, void *dst)
{
    const CudaDevice *device = l->comm->device;
    const CudaDriver *driver = &device->driver;
    const CudaMessage *message;
    CudaLane *lane = lane_of(l, number, &message);
    CudaTag *tag = &lane->tags.data[message->tag];
    TRY(cuda_lane_issue(l, lane, message->position + 1));
    const uint64_t slot = tag->n_taken % tag->n_slots;
    cuda_nccl_await(l, tag->put[slot]);
    CUDA_TRY(driver, stream_wait(device->stream, tag->put[slot], 0), "ordering a message");
    if (message->size_bytes)
        CUDA_TRY(driver,
                 copy_on_device((CuDevicePtr)(uintptr_t)dst, slot_at(l, tag, tag->n_taken), message->size_bytes,
                                device->stream),
                 "copying %zu bytes on the device", message->size_bytes);
    CUDA_TRY(driver, event_record(tag->taken[slot], device->stream), "ordering a message");
    tag->n_taken++;
    return cuda_lane_issue(l, lane, 0);
}
