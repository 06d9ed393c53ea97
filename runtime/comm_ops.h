/* What a back end of communicators implements, and what all of them share. Included by comm*.c only.
 *
 * comm.c checks arguments, records, counts and handles failure; a back end moves bytes. Control collectives are made of
 * the back end's send and recv (comm_control.c), so that they have the same deadlines. */
#ifndef PTC_RUNTIME_COMM_OPS_H
#define PTC_RUNTIME_COMM_OPS_H

#include "runtime/comm.h"
#include "runtime/comm_record.h"

typedef struct CommWorld CommWorld;
typedef struct CommChannel CommChannel;
typedef struct CommArrival CommArrival;
typedef struct CommSum CommSum;

/* Tags from COMM_TAG_LIMIT on are ours. */
enum
{
    COMM_TAG_LIMIT = 1 << 20,
    COMM_TAG_BARRIER = COMM_TAG_LIMIT,
    COMM_TAG_BROADCAST,
    COMM_TAG_GATHER,
    COMM_TAG_SUM,     /* shared memory: where a block of numbers is; messages: numbers on their way to the root */
    COMM_TAG_SUM_DOWN /* messages: sums on their way back */
};

typedef struct
{
    /* Fills rank, size, peers and back of world. */
    Status (*create)(CommWorld *world);
    /* After the last barrier, or after a failure (world->failed), when it must not wait for anybody. */
    void (*destroy)(CommWorld *world);
    Status (*send)(Comm *comm, uint32_t to, uint32_t tag, const void *data, size_t size_bytes);
    Status (*recv)(Comm *comm, uint32_t from, uint32_t tag, void *data, size_t size_bytes);
    void (*sum_create)(CommSum *sum); /* sets sum->back */
    /* The sum's description is filled in; it is the last one of comm's running list. */
    Status (*sum_start)(Comm *comm, CommSum *sum);
    Status (*sum_wait)(Comm *comm, CommSum *sum);
    void (*sum_free)(CommSum *sum); /* frees sum->back */
    Status (*poll)(CommWorld *world);
    /* For what others carry (comm_outside.h); absent where there are no others. wait: asks until it is done, or it
     * makes no sense any more; *out_peer: a rank of the world that is waited for. late: a rank of comm, by its number
     * in the world, but this one: one that waits for nobody, where there is one. */
    Status (*wait)(CommWorld *world, Status (*ask)(void *context, bool *out_done, uint32_t *out_peer), void *context);
    uint32_t (*late)(const Comm *comm);
    /* Memory for comm_memory_take, or NULL; absent: always NULL. */
    Status (*memory_take)(Comm *comm, size_t size_bytes, void **out_address);
    void (*memory_give)(Comm *comm, void *address, size_t size_bytes);
    void (*memory_forget)(Comm *comm); /* or NULL */
    /* Makes world's failure known to the other ranks, as far as that goes without waiting for them. */
    void (*tell_failure)(CommWorld *world);
} CommOps;

#define COMM(name, summary) extern const CommOps comm_##name##_ops;
#include "runtime/comms.def"
#undef COMM

/* What is done with a bucket; lives from the bucket's first start to the communicator's end. */
struct CommSum
{
    uint32_t bucket;
    CommKind kind; /* ALL_REDUCE, REDUCE or BCAST */
    uint32_t root; /* of the last two */
    bool running;
    CommSlice *slices;
    uint32_t n_slices, cap_slices;
    size_t n_elems; /* of all slices */
    CommRecord record;
    CommSum *next; /* in Comm.running */
    void *back;
};

struct Comm
{
    CommWorld *world;
    Comm *next; /* in CommWorld.comms */
    const char *name;
    uint32_t id; /* the same on all its ranks, and no other communicator's that one of them is in */
    uint32_t rank, size;
    uint32_t *ranks;        /* of the world */
    uint64_t n_collectives; /* started so far */
    uint32_t n_splits;
    CommSum **sums;   /* by bucket */
    uint32_t n_sums;  /* length of that */
    CommSum *running; /* in the order of their starts */
};

/* A rank's numbers go into it; its result is for that rank. */
static inline bool comm_sum_takes_from(const CommSum *sum, uint32_t rank)
{
    return sum->kind != COMM_KIND_BCAST || rank == sum->root;
}
static inline bool comm_sum_gives_to(const CommSum *sum, uint32_t rank)
{
    return sum->kind == COMM_KIND_ALL_REDUCE || (rank == sum->root) == (sum->kind == COMM_KIND_REDUCE);
}

typedef struct
{
    char host[64];
    int32_t pid;
    bool is_local; /* on this rank's host */
} CommPeer;

enum
{
    COMM_DETAIL_BYTES = 1024,
    COMM_CHANNEL_LISTS = 1024
};

/* Which rank failed first, and what it said. */
typedef struct
{
    uint32_t rank; /* of the world */
    char detail[COMM_DETAIL_BYTES];
} CommOrigin;

struct CommWorld
{
    const CommOps *ops;
    double timeout_s;
    char *dump_dir;
    uint32_t rank, size;
    CommPeer *peers;
    Comm *comms;  /* all, the newest first; the world itself is the last */
    char **names; /* of all communicators that there were: records refer to them */
    uint32_t n_names;
    uint32_t next_id;
    CommRecorder recorder;
    const CommRecord *current; /* the operation under way, or NULL */
    CommCounters counters;
    const char *what; /* the place */
    int64_t step;
    int32_t micro_batch;
    bool failed;
    bool stopped_by_caller; /* failed through comm_dump: what failed is not of this layer */
    Status failure;
    char failure_detail[2048];
    CommOrigin origin;    /* rank is COMM_NO_RANK until a failure is known */
    uint64_t waiting_seq; /* of the operation that failed; 0: none */
    CommChannel *channels[COMM_CHANNEL_LISTS];
    CommArrival *free_arrivals;
    void *back;
};

/* ---- channels: messages of one (communicator, peer, tag, direction), by hash */

struct CommArrival
{
    CommArrival *next;
    uint32_t bucket; /* of COMM_TAG_SUM* */
    size_t size_bytes;
    void *data;
    void *source;    /* the back end's */
    bool is_message; /* mpi: it came over MPI */
};

struct CommChannel
{
    CommChannel *next;
    uint32_t comm_id, peer /* of the world */, tag;
    bool sends;
    uint32_t n_in_flight; /* sent and not yet taken */
    uint64_t n_messages;  /* counted by comm.c */
    CommArrival *first, *last;
};

CommChannel *comm_channel(CommWorld *world, uint32_t comm_id, uint32_t peer, uint32_t tag, bool sends);
/* A zeroed one at the end of the queue. */
CommArrival *comm_channel_append(CommWorld *world, CommChannel *channel);
/* Removes the first one; it must have been read. */
void comm_channel_pop(CommWorld *world, CommChannel *channel);

/* Memory for small records: the process ends when there is none. Zeroed. */
void *comm_alloc(size_t size_bytes);

/* ---- comm.c */

/* The failure of this world, said again. */
Status comm_failed_before(const CommWorld *world);
/* The first one stays, and is made known. */
void comm_set_failure(CommWorld *world, Status status, const char *detail);
/* peer: of the world. */
CommRecord comm_make_record(const Comm *comm, CommKind kind, uint64_t number, uint32_t peer, uint32_t tag,
                            uint64_t size_bytes);

/* ---- comm_control.c: without checks and records */

Status comm_control_barrier(Comm *comm);
Status comm_control_broadcast(Comm *comm, uint32_t root, void *data, size_t size_bytes);
Status comm_control_all_gather(Comm *comm, const void *mine, size_t size_bytes, void *all);

/* ---- comm_dump.c */

Status comm_dump_write(const CommWorld *world, const char *reason);

#endif
