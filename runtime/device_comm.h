/* What ranks with a GPU each say to each other: from device to device, beside their work, by NCCL.
 *
 * A DeviceComm is the way of this process; DeviceLinks are what the programs of one executor say, all of it told before
 * anything runs. Calls put work on the device and return; only device_links_finish, and what makes links, wait, with
 * the deadline of the communicator that they were made from, whose flight recorder has every operation and which finds
 * the missing rank (comm_outside.h). After any error nothing more is sent, and what was on its way is aborted.
 *
 * Results are those of comm.h, to the bit: sums are added pairwise over the ranks in order. One thread drives it. */
#ifndef PTC_RUNTIME_DEVICE_COMM_H
#define PTC_RUNTIME_DEVICE_COMM_H

#include "runtime/comm.h"
#include "runtime/hal.h"

typedef struct DeviceComm DeviceComm;
typedef struct DeviceLinks DeviceLinks;

enum
{
    DEVICE_COMM_WAY_BYTES = 512
};

/* Collective over world. *out_comm is NULL, on all ranks, where what they say goes through memory of the host: the
 * device has no other way, two ranks share a GPU (NCCL refuses that), or NCCL is missing or too old on one of them.
 * out_way: a sentence about it; "" where there is nothing to choose. */
Status device_comm_create(HalDevice *device, Comm *world, char out_way[DEVICE_COMM_WAY_BYTES], DeviceComm **out_comm);
/* And its links. failed: something went wrong anywhere: nobody is waited for. Before world and device; NULL is allowed.
 */
void device_comm_destroy(DeviceComm *comm, bool failed);

/* ---- between programs */

typedef struct
{
    bool sends;
    uint32_t peer; /* of the world */
    void *at;      /* on the device */
    size_t size_bytes;
} DeviceMove;

/* Messages from memory of one device to that of another, all at once; those between two ranks are meant in their order.
 * They see what was called before, and have arrived on return. all_bytes: of the messages of all ranks. Collective over
 * the world, also for ranks without a message. */
Status device_comm_move(DeviceComm *comm, const DeviceMove *moves, uint32_t n, size_t all_bytes);

/* ---- telling. Each function returns the number by which what was told is meant later. */

/* pipe, data: groups of world; lent. */
DeviceLinks *device_links_create(DeviceComm *comm, Comm *pipe, Comm *data);
/* NULL is allowed. */
void device_links_destroy(DeviceLinks *links);

/* A program; what is told next is in it, in its order. variant: of programs with that name. */
uint32_t device_links_program(DeviceLinks *links, const char *name, uint32_t variant);
/* A message to or from a rank of pipe. place, micro_batch: as for comm_set_place. */
uint32_t device_links_message(DeviceLinks *links, bool sends, uint32_t peer, uint32_t tag, size_t size_bytes,
                              const char *place, int32_t micro_batch);

typedef enum
{
    DEVICE_ALL_REDUCE,
    DEVICE_REDUCE,
    DEVICE_BCAST
} DeviceSumKind;
/* A sum over data, or what root has for all: slices of memory on the device, aligned to 16 bytes; for bcast root's dst
 * is its src. They stay as they are from start to the end of wait, as for comm_memory_take. Copied. */
uint32_t device_links_sum(DeviceLinks *links, DeviceSumKind kind, uint32_t bucket, uint32_t root,
                          const CommSlice *slices, uint32_t n_slices);

/* Takes memory and meets the others. Collective over the world; each time its ranks tell the same programs. */
Status device_links_connect(DeviceLinks *links);
/* Taken on the device. */
size_t device_links_bytes(const DeviceLinks *links);

/* ---- running */

/* A program begins; step: for messages. Its operations follow in its order. */
Status device_links_begin(DeviceLinks *links, uint32_t program, int64_t step);
/* src may be written to by work behind it. */
Status device_links_send(DeviceLinks *links, uint32_t message, const void *src);
/* Work behind it sees dst. */
Status device_links_recv(DeviceLinks *links, uint32_t message, void *dst);
Status device_links_sum_start(DeviceLinks *links, uint32_t sum);
/* Work behind it sees the result. */
Status device_links_sum_wait(DeviceLinks *links, uint32_t sum);
/* Waits for all work of the device, like hal_sync. */
Status device_links_finish(DeviceLinks *links);

#endif
