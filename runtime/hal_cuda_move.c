/* Tensors that go from GPU to GPU between programs: from where they lie to where they will lie, in one group of NCCL
 * over the world. */
#include "runtime/hal_cuda_nccl.h"

static Status open_stream(DeviceComm *c)
{
    const CudaDevice *device = c->device;
    TRY(cuda_enter(device));
    if (!c->all.stream)
        CUDA_TRY(&device->driver, stream_create(&c->all.stream, CUDA_STREAM_NON_BLOCKING), "making a stream on cuda:%d",
                 device->index);
    if (!c->moved)
        CUDA_TRY(&device->driver, event_create(&c->moved, CUDA_EVENT_NO_TIMING), "making an event on cuda:%d",
                 device->index);
    return STATUS_OK;
}

static Status start(DeviceComm *c, const DeviceMove *moves, uint32_t n, const CommOutside *operation)
{
    NCCL_TRY(c, operation, group_start());
    for (uint32_t i = 0; i < n; i++)
    {
        const DeviceMove *move = &moves[i];
        if (!move->size_bytes)
            continue;
        if (move->sends)
            NCCL_TRY(c, operation,
                     send(move->at, move->size_bytes, NCCL_BYTES, (int)move->peer, c->all.comm, c->all.stream));
        else
            NCCL_TRY(c, operation,
                     recv(move->at, move->size_bytes, NCCL_BYTES, (int)move->peer, c->all.comm, c->all.stream));
    }
    NCCL_TRY(c, operation, group_end());
    return cuda_nccl_settle(c, &c->all, operation);
}

static Status move_all(DeviceComm *c, const DeviceMove *moves, uint32_t n, CommOutside *operation)
{
    const CudaDriver *driver = &c->device->driver;
    TRY(open_stream(c));
    CUDA_TRY(driver, event_record(c->moved, c->device->stream), "ordering messages");
    CUDA_TRY(driver, stream_wait(c->all.stream, c->moved, 0), "ordering messages");
    TRY(start(c, moves, n, operation));
    CUDA_TRY(driver, event_record(c->moved, c->all.stream), "ordering messages");
    return cuda_nccl_finish(c, operation, c->moved);
}

Status device_comm_move(DeviceComm *c, const DeviceMove *moves, uint32_t n, size_t all_bytes)
{
    CommOutside operation = comm_outside_start(c->world, COMM_KIND_MOVE, COMM_NO_RANK, COMM_NO_TAG, all_bytes);
    if (n == 0)
    {
        comm_outside_complete(&operation);
        return STATUS_OK;
    }
    const Status status = move_all(c, moves, n, &operation);
    return status == STATUS_OK ? status : cuda_nccl_give_up(c, status);
}
