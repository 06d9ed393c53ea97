/* The mpi back end, inside. MPI starts the ranks and carries messages between hosts; ranks of one host share memory.
 *
 *   comm_mpi.c         start (who is where), end, send and recv, which way a message goes
 *   comm_link.c        loads the plug-in
 *   comm_wait.c        every wait: deadline, peers that died or failed, what the error says
 *   comm_shared.c      shared memory: a segment per rank, its heap of blocks, a ring per ordered pair of ranks
 *   comm_net.c         messages over MPI
 *   comm_sum_shared.c  all-reduce in shared memory
 *   comm_sum_tree.c    all-reduce by messages
 *
 * All of it runs in the calling thread: progress is made inside of calls. */
#ifndef PTC_RUNTIME_COMM_MPI_H
#define PTC_RUNTIME_COMM_MPI_H

#include "runtime/comm_link.h"
#include "runtime/comm_ops.h"

#include <stdatomic.h>

typedef struct CommShared CommShared;
typedef struct CommNet CommNet;
typedef struct CommSegment CommSegment;

typedef struct
{
    uint64_t start_time; /* of the process, as in /proc/PID/stat: a process id may come back */
    uint64_t host_key;   /* equal for ranks that see each other in /proc */
    uint32_t local_index;
    bool is_shared;       /* reached through shared memory (this rank itself, too) */
    CommSegment *segment; /* mapped, when is_shared */
} CommMpiPeer;

typedef struct
{
    CommWorld *world;
    const CommLink *link;
    CommMpiPeer *peers;
    CommShared *shared;     /* NULL: this rank shares no memory */
    CommNet *net;           /* NULL: all ranks share memory */
    uint32_t *shared_ranks; /* of the world, this one among them */
    uint32_t n_shared;
    uint32_t waits_for; /* a rank of the world, or COMM_NO_RANK */
    bool is_crowded;    /* more ranks on this host than cores: a wait must not spin */
    bool is_summing;    /* inside of the progress of sums */
    bool is_outside;    /* waits for what no rank wakes it for */
    double last_look_s; /* when processes were last looked for */
    CommOrigin told;    /* by a message: a failure elsewhere; rank is COMM_NO_RANK until then */
} CommMpi;

static inline CommMpi *comm_mpi(const CommWorld *world)
{
    return world->back;
}

/* Everything that can be done now, without waiting. */
Status comm_mpi_progress(CommMpi *mpi);
/* "rank 1 (host a, pid 77)" */
const char *comm_mpi_rank_text(const CommMpi *mpi, uint32_t rank, char out_text[128]);
/* STATUS_IO: the peer's message is not what this rank waits for. */
Status comm_mpi_mismatch(const CommMpi *mpi, uint32_t from, uint64_t has_bytes, uint64_t wants_bytes);

/* A message that is never limited in flight and needs no taker: numbers of sums. Copies data. */
Status comm_mpi_post(CommMpi *mpi, uint32_t comm_id, uint32_t to, uint32_t tag, uint32_t bucket, const void *data,
                     size_t size_bytes);
/* The first message of a channel: whether it is there as a whole; removing it. */
bool comm_mpi_arrived(const CommChannel *channel);
void comm_mpi_take(CommMpi *mpi, CommChannel *channel);

/* ---- comm_link.c */

Status comm_link_load(const CommLink **out_link);

/* ---- comm_wait.c */

/* out_peer: a rank of the world that is waited for. */
typedef Status CommCondition(CommMpi *mpi, void *context, bool *out_done, uint32_t *out_peer);
/* Makes progress until condition says done. */
Status comm_mpi_wait(CommMpi *mpi, CommCondition *condition, void *context);
/* CommOps.wait and .late */
Status comm_mpi_wait_outside(CommWorld *world, Status (*ask)(void *context, bool *out_done, uint32_t *out_peer),
                             void *context);
uint32_t comm_mpi_late(const Comm *comm);
double comm_now_s(void);
/* When a process was started, in a unit of its own; 0 when it has ended (or is only waiting for its parent to notice),
 * COMM_UNKNOWN_TIME when that cannot be told. out_state: a letter as in /proc/PID/stat; may be NULL. */
#define COMM_UNKNOWN_TIME UINT64_MAX
uint64_t comm_process_start_time(int32_t pid, char *out_state);

/* ---- comm_shared.c */

typedef enum
{
    COMM_RUNNING,
    COMM_LEFT, /* ended as it should: its process may be gone */
    COMM_FAILED
} CommState;

/* At the start of a block in a heap; the bytes follow. Its owner writes `written` and `summed`, readers add to done. */
typedef struct
{
    _Alignas(64) _Atomic uint64_t written; /* bytes that may be read */
    _Atomic uint64_t summed;               /* pieces of an all-reduce */
    _Atomic uint32_t n_done;               /* readers that have finished */
} CommBlockHead;

/* The owner's view of a block. */
typedef struct CommBlock
{
    struct CommBlock *next;
    CommBlockHead *head;
    uint64_t offset; /* of head in the segment */
    uint32_t size_class, n_readers;
    CommChannel *channel; /* counts it in flight, or NULL */
} CommBlock;

static inline void *comm_block_bytes(CommBlockHead *head)
{
    return head + 1;
}

/* This rank's segment, for n_local ranks of this host. out_fd: what peers open under /proc. */
Status comm_shared_create(CommMpi *mpi, uint32_t n_local, uint64_t nonce, int *out_fd, uint64_t *out_size_bytes);
/* A peer's segment. */
Status comm_shared_map(CommMpi *mpi, uint32_t rank, int fd, uint64_t size_bytes, uint64_t nonce);
void comm_shared_destroy(CommMpi *mpi);

Status comm_shared_alloc(CommMpi *mpi, size_t size_bytes, uint32_t n_readers, CommChannel *channel,
                         CommBlock **out_block);
/* Zeroed pages that stay. */
Status comm_shared_reserve(CommMpi *mpi, size_t size_bytes, void **out_address);
void comm_shared_release(CommMpi *mpi, void *address, size_t size_bytes);
void comm_shared_forget(const CommMpi *mpi);
/* Where [at, at + size_bytes) is in this rank's segment; false when it is not in it. */
bool comm_shared_offset(const CommMpi *mpi, const void *at, size_t size_bytes, uint64_t *out_offset);
/* The other way, in a peer's segment; NULL when that does not hold it. */
void *comm_shared_address(const CommMpi *mpi, uint32_t rank, uint64_t offset, uint64_t size_bytes);
/* Says to a peer that the block is there. Waits when 4096 such messages were not looked at. */
Status comm_shared_announce(CommMpi *mpi, const CommBlock *block, uint32_t comm_id, uint32_t to, uint32_t tag,
                            uint32_t bucket, uint64_t size_bytes);
Status comm_shared_send(CommMpi *mpi, uint32_t comm_id, uint32_t to, uint32_t tag, const void *data, size_t size_bytes);
Status comm_shared_take(CommMpi *mpi, CommChannel *channel, void *data);
Status comm_shared_drain(CommMpi *mpi);
/* Wakes a peer that sleeps in a wait; called after what it may wait for was published. */
void comm_shared_wake(CommMpi *mpi, uint32_t rank);
/* Sleeps until woken, unless condition is done by then. */
Status comm_shared_sleep(CommMpi *mpi, double seconds, CommCondition *condition, void *context, bool *out_done,
                         uint32_t *out_peer);
/* Lets the others see whom this rank waits for (COMM_NO_RANK: nobody), and sees it of a peer. */
void comm_shared_set_waits_for(CommMpi *mpi, uint32_t rank);
uint32_t comm_shared_waits_for(const CommMpi *mpi, uint32_t rank);
void comm_shared_set_state(CommMpi *mpi, CommState state);
CommState comm_shared_state(const CommMpi *mpi, uint32_t rank, CommOrigin *out_origin);

/* ---- comm_net.c */

Status comm_net_create(CommMpi *mpi);
void comm_net_destroy(CommMpi *mpi);
Status comm_net_post(CommMpi *mpi, uint32_t comm_id, uint32_t to, uint32_t tag, uint32_t bucket, const void *data,
                     size_t size_bytes);
Status comm_net_send(CommMpi *mpi, uint32_t comm_id, uint32_t to, uint32_t tag, const void *data, size_t size_bytes);
/* Waits, and receives without a copy in between when the message has not come yet. */
Status comm_net_recv(CommMpi *mpi, CommChannel *channel, void *data, size_t size_bytes);
bool comm_net_arrived(const CommArrival *arrival);
void comm_net_take(CommMpi *mpi, CommChannel *channel);
Status comm_net_progress(CommMpi *mpi);
/* Asks a rank whom it waits for (COMM_NO_RANK: nobody); false when it does not answer. */
bool comm_net_waits_for(CommMpi *mpi, uint32_t rank, uint32_t *out_rank);
/* To all ranks that share no memory with this one. */
void comm_net_tell_failure(CommMpi *mpi);

/* ---- comm_sum_shared.c, comm_sum_tree.c */

enum
{
    COMM_PIECE_ELEMS = 1 << 18 /* of an all-reduce: what is published at once */
};

typedef struct CommSumSide CommSumSide;

typedef struct
{
    bool is_shared;
    size_t n_pieces;
    /* shared memory: */
    CommBlock *block;
    CommSumSide *sides; /* by rank of the communicator */
    float **outs;       /* and their numbers at one place of the sum */
    const float **srcs;
    size_t n_summed;
    float *copy; /* in the block; NULL: the sum is made in place */
    /* messages: */
    float *numbers;
    size_t cap_elems;
    size_t n_up, n_down; /* pieces sent to the root, pieces come back */
    uint32_t step;       /* of the piece n_up: children below this distance are added */
} CommMpiSum;

Status comm_sum_shared_start(Comm *comm, CommSum *sum);
Status comm_sum_shared_wait(Comm *comm, CommSum *sum);
Status comm_sum_shared_progress(Comm *comm, CommSum *sum);
Status comm_sum_tree_start(Comm *comm, CommSum *sum);
Status comm_sum_tree_wait(Comm *comm, CommSum *sum);
/* Of all sums of comm. */
Status comm_sum_tree_progress(Comm *comm);

static inline bool comm_sum_is_long(const CommSum *sum)
{
    return sum->n_elems >= 1 << 20;
}

/* Elements of piece i. */
static inline size_t comm_piece_elems(const CommSum *sum, size_t i)
{
    size_t left = sum->n_elems - i * COMM_PIECE_ELEMS;
    return left < COMM_PIECE_ELEMS ? left : COMM_PIECE_ELEMS;
}

#endif
