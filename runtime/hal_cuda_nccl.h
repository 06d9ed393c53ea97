/* What the files of the way between GPUs share.
 *
 *   hal_cuda_nccl.c   the process: who takes part, NCCL's start and end, its errors, waiting
 *   hal_cuda_links.c  the programs of an executor: communicators and memory for what they say
 *   hal_cuda_lane.c   messages
 *   hal_cuda_sum.c    sums over replicas, and their kernel
 *   hal_cuda_move.c   messages between programs */
#ifndef PTC_RUNTIME_HAL_CUDA_NCCL_H
#define PTC_RUNTIME_HAL_CUDA_NCCL_H

#include "runtime/comm_outside.h"
#include "runtime/device_comm.h"
#include "runtime/hal_cuda.h"

/* A communicator of NCCL, with a stream of its own. */
typedef struct CudaGroup
{
    struct CudaGroup *next; /* of all that there are */
    NcclComm comm;
    CuStream stream;
} CudaGroup;

struct DeviceComm
{
    CudaDevice *device;
    Comm *world;
    CudaNccl nccl;
    CudaGroup all; /* the world; with a stream once something moves */
    CuEvent moved; /* of that stream, likewise */
    CudaGroup *groups;
    DeviceLinks *links; /* all */
    bool aborted;
    double error_s; /* when NCCL was first seen to have failed; 0: it has not */
};

/* On its way; done when the event has happened. */
typedef struct
{
    CommOutside operation;
    CuEvent event;   /* NULL: of the past */
    bool is_awaited; /* by the work of the device */
} CudaPending;

/* Messages of one tag, or what holds them on the device: slots that are used in turn. */
typedef struct
{
    uint32_t tag, n_slots;
    size_t slot_bytes;
    size_t at;               /* of the first slot, in the memory of the links */
    uint64_t n_put, n_taken; /* messages put into slots, and taken from them, since the beginning */
    CuEvent *put, *taken;    /* by slot; that of the lane's stream says when NCCL is done with it */
} CudaTag;

typedef struct
{
    uint32_t tag; /* index into the lane's tags */
    size_t size_bytes;
    const char *place;
    int32_t micro_batch;
    uint32_t position; /* among the sender's messages of the program */
} CudaMessage;

typedef VEC(CudaMessage) CudaMessages;

/* Messages from this rank to another one, or the other way. */
typedef struct
{
    uint32_t peer; /* of pipe */
    bool sends;
    CudaGroup group;
    CuEvent ready; /* of the work of the device */
    VEC(CudaTag) tags;
    VEC(CudaMessages) told; /* by program: in this rank's order */
    CudaMessages *sent;     /* by program: in the sender's order */
    uint32_t n_issued;      /* of the program that runs */
} CudaLane;

typedef struct
{
    uint32_t lane, program, index;
} CudaMessageAt;

typedef struct
{
    DeviceSumKind kind;
    uint32_t bucket, root;
    CommSlice *slices;
    uint32_t n_slices;
    size_t *at; /* of slices, each from a multiple of 4 numbers on, in one row of n_elems */
    size_t n_elems;
    uint32_t first_chunk, n_chunks; /* of what this rank adds */
    CuEvent done;
} CudaSum;

typedef struct
{
    const char *name;
    uint32_t variant;
} CudaProgram;

struct DeviceLinks
{
    DeviceLinks *next;
    DeviceComm *comm;
    Comm *pipe, *data;
    Arena *arena;
    VEC(CudaProgram) programs;
    VEC(CudaLane *) lanes;
    VEC(CudaMessageAt) messages;
    VEC(CudaSum) sums;
    VEC(CudaPending) pending;
    uint32_t first_pending;
    HalBuffer *memory; /* slots, then what others put into sums, then the table of chunks */
    size_t size_bytes;
    size_t others_at, chunks_at;
    CudaGroup adding; /* of data */
    CuModule module;
    CuFunction add;
    CuEvent ready, end;
    uint32_t program;
    int64_t step;
};

/* NCCL's call, and on failure what it was for. */
#define NCCL_TRY(device_comm, operation, call)                                                                         \
    do                                                                                                                 \
    {                                                                                                                  \
        const CuResult nccl_result_ = (device_comm)->nccl.call;                                                        \
        if (nccl_result_ != 0 && nccl_result_ != NCCL_IN_PROGRESS)                                                     \
            return cuda_nccl_fail(device_comm, nccl_result_, operation);                                               \
    } while (0)

/* hal_cuda_nccl.c */
Status cuda_nccl_fail(DeviceComm *comm, CuResult result, const CommOutside *operation);
/* Until what was called last for the group is under way, or done where it is nothing for a stream. */
Status cuda_nccl_settle(DeviceComm *comm, CudaGroup *group, const CommOutside *operation);
/* A group of the world's, with its stream; a rank that says NCCL_NO_COLOR is in none. Collective over the world. */
Status cuda_nccl_split(DeviceComm *comm, int color, int key, CudaGroup *out_group);
/* The end of a group, if there is one. It is begun for all groups before any is left: members have them in other
 * orders. */
void cuda_nccl_begin_to_leave(DeviceComm *comm, CudaGroup *group);
void cuda_nccl_leave(DeviceComm *comm, CudaGroup *group);
/* Aborts what is on its way; returns status, with its detail. */
Status cuda_nccl_give_up(DeviceComm *comm, Status status);
/* Waits until the event has happened. */
Status cuda_nccl_wait(DeviceLinks *links, CuEvent event);
/* The same for one operation that has begun, beside any links. */
Status cuda_nccl_finish(DeviceComm *comm, CommOutside *operation, CuEvent event);
void cuda_nccl_pending(DeviceLinks *links, CommOutside operation, CuEvent event);
/* The work of the device waits for the event from here on. */
void cuda_nccl_await(DeviceLinks *links, CuEvent event);

/* hal_cuda_lane.c */
/* Of the sender: as many as may be in flight; of the receiver: as many as its order of taking wants, and one. */
void cuda_lane_count_slots(CudaLane *lane, uint32_t n_programs);
Status cuda_lane_first_message(DeviceLinks *links, CudaLane *lane);
Status cuda_lane_issue(DeviceLinks *links, CudaLane *lane, uint32_t n);

/* hal_cuda_sum.c */
/* What all sums want on the device, from `at` on; returns the end. */
size_t cuda_sum_place(DeviceLinks *links, size_t at);
Status cuda_sum_prepare(DeviceLinks *links);

/* The kernel that adds what n_ranks have, of which this one is `rank`. chunks: tables of (own, out, at, n), a block of
 * threads each: out = the sum of own and of the others' numbers from `at` on, of which each of them has a row of
 * `stride` at `others`, in their order. All is aligned to 16 bytes. */
const char *cuda_sum_text(Arena *arena, uint32_t n_ranks, uint32_t rank);
Status cuda_sum_load(CudaDevice *device, uint32_t n_ranks, uint32_t rank, CuModule *out_module, CuFunction *out_add);
Status cuda_sum_launch(const CudaDevice *device, CuFunction add, CuStream stream, uint32_t n_chunks, CuDevicePtr chunks,
                       CuDevicePtr others, uint32_t stride);

#endif
