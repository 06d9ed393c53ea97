/* Communicators: how the ranks of a job talk. One row of comms.def and one CommOps table per back end; nothing above
 * this header knows what carries the bytes.
 *
 * Back ends: `self` (one rank, needs nothing) and `mpi` (a plug-in that is loaded only when a job has several ranks, so
 * that one rank needs no MPI). One thread drives a communicator and all that is split from it.
 *
 * Nothing waits for ever. Every wait has a deadline (CommOptions.timeout_s); when it expires, or when a peer is seen to
 * be dead, the call returns STATUS_TIMEOUT or STATUS_PEER_LOST with a detail that says what was waited for, from whom
 * (rank, host, process), and at which place of the program (comm_set_place). The caller ends the process; nothing more
 * is sent. A ring buffer of the last operations is kept always; comm_dump writes it as JSON (`ptc diagnose`).
 *
 * Results never depend on timing: a sum is added in an order that is a function of the group's size alone. */
#ifndef PTC_RUNTIME_COMM_H
#define PTC_RUNTIME_COMM_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Comm Comm;

typedef struct
{
    double timeout_s;     /* of one wait; 0: the default (300 s) */
    const char *dump_dir; /* where comm_dump writes rank-N.json; NULL: nowhere */
} CommOptions;

/* The world: all ranks of the job. name: a row of comms.def, else STATUS_BAD_INPUT. options NULL: the defaults.
 * STATUS_UNSUPPORTED when the back end was not built or cannot be loaded. Collective. */
Status comm_create(const char *name, const CommOptions *options, Comm **out_comm);
/* The part of parent with the same color, ordered by key and then by rank. Collective over parent. Groups are destroyed
 * before their parent. */
Status comm_split(Comm *parent, uint32_t color, uint32_t key, Comm **out_comm);
/* Of a group: frees it. Of the world: after a clean end waits for the others (shutdown is collective); after a failure
 * (any call returned an error) it does not wait. NULL is allowed. */
void comm_destroy(Comm *comm);

uint32_t comm_rank(const Comm *comm);
uint32_t comm_size(const Comm *comm);
/* Of a rank of this communicator: its rank in the world, its host's name. */
uint32_t comm_world_rank(const Comm *comm, uint32_t rank);
const char *comm_host(const Comm *comm, uint32_t rank);
/* Ranks of the world on this rank's host, and which of them this one is (0, 1, ...). */
uint32_t comm_local_size(const Comm *comm);
uint32_t comm_local_rank(const Comm *comm);

/* What messages and the ring buffer call the place that the program is at: copied, cheap enough for every op.
 * step and micro_batch: -1 when there is none. what: an IR op with its place in the XML; must outlive the comm. */
void comm_set_place(Comm *comm, const char *what, int64_t step, int32_t micro_batch);

/* ---- point to point. Messages with the same (sender, receiver, tag) arrive in the order in which they were sent. */

/* Returns when data may be reused, which does not mean that it has arrived: the bytes are buffered. At most
 * COMM_MAX_IN_FLIGHT messages of one (receiver, tag) are: one more waits for the oldest to be taken. tag < 2^20. */
Status comm_send(Comm *comm, uint32_t to, uint32_t tag, const void *data, size_t size_bytes);
/* Waits for the next message with that tag. A message of another size is STATUS_IO (ranks run different programs). */
Status comm_recv(Comm *comm, uint32_t from, uint32_t tag, void *data, size_t size_bytes);

enum
{
    COMM_MAX_IN_FLIGHT = 8
};

/* ---- sums of gradients, and params that one rank has for all; overlapped with computing */

typedef struct
{
    const float *src;
    float *dst; /* may be src */
    size_t n_elems;
} CommSlice;

/* Zeroed memory, aligned to pages, that all ranks of comm reach: what lies in it is summed where it is. NULL when they
 * do not share memory (other hosts, back end self). It belongs to the world of comm and is freed with that, or before
 * by comm_memory_give; only the ranks that want some call this. STATUS_OUT_OF_MEMORY when the host has none. */
Status comm_memory_take(Comm *comm, size_t size_bytes, void **out_address);
/* Whole pages of what was taken, once every sum in them was waited for. comm: of the same world. NULL is allowed. */
void comm_memory_give(Comm *comm, void *address, size_t size_bytes);
/* What this process has seen of other ranks' memory counts as its own no more, until it is looked at again. */
void comm_memory_forget(Comm *comm);

/* Starts dst = the sum of src over all ranks of comm, for every slice. Numbers are added pairwise over the ranks in
 * order: ((0 + 1) + (2 + 3)) + 4, the order in which a single rank adds micro-batches in deterministic mode. bucket <
 * COMM_MAX_BUCKETS names the sum: all ranks start the buckets of a comm in the same order, with the same number of
 * elements; a bucket is started again only after its wait.
 *
 * When all of a rank's slices lie in memory that it took from its world, the ranks read src and write dst themselves:
 * until the wait has returned src must stay as it is and dst must not be read or written, and no dst may overlap a src
 * other than its own. Otherwise the numbers are copied: src may be changed on return, and the wait writes dst. The
 * ranks need not agree in this, nor in how they cut a sum in slices. */
Status comm_all_reduce_start(Comm *comm, uint32_t bucket, const CommSlice *slices, uint32_t n_slices);
/* The same sum for one rank: only dst of root is written, and the others' is not looked at. */
Status comm_reduce_start(Comm *comm, uint32_t bucket, uint32_t root, const CommSlice *slices, uint32_t n_slices);
/* Starts dst = src of root on every other rank. Buckets are those of the sums, with the same rules. When all of root's
 * slices lie in memory that it took from its world, the others read src until the wait has returned. Theirs may lie
 * anywhere; dst is written at any time between start and the end of the wait. src of the others, and dst of root, are
 * not looked at. */
Status comm_bcast_start(Comm *comm, uint32_t bucket, uint32_t root, const CommSlice *slices, uint32_t n_slices);
Status comm_bucket_wait(Comm *comm, uint32_t bucket);
/* Does what can be done now for sums under way (of this comm and of all others of its world); never waits. Called
 * between kernels. */
Status comm_poll(Comm *comm);

enum
{
    COMM_MAX_BUCKETS = 4096
};

/* ---- small collectives of the control plane: blocking, with the same deadlines */

Status comm_barrier(Comm *comm);
Status comm_broadcast(Comm *comm, uint32_t root, void *data, size_t size_bytes);
/* all: comm_size blocks of size_bytes, in rank order. */
Status comm_all_gather(Comm *comm, const void *mine, size_t size_bytes, void *all);

typedef enum
{
    COMM_SUM, /* in rank order */
    COMM_MAX
} CommReduceOp;
Status comm_all_reduce_f64(Comm *comm, double *values, uint32_t n, CommReduceOp op);

/* ---- the flight recorder */

/* Bytes sent point to point and given to sums and bcasts since creation, and seconds spent waiting, by this rank. */
typedef struct
{
    uint64_t sent_bytes, received_bytes, reduced_bytes;
    double wait_s;
} CommCounters;
CommCounters comm_counters(const Comm *comm);

/* Writes the last operations of this rank (of the world and all groups) to dump_dir/rank-N.json: called once when
 * something has failed. reason: a sentence. Does nothing without a dump_dir. */
Status comm_dump(Comm *comm, const char *reason);

#endif
