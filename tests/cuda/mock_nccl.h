/* What the ranks of a communicator share in the mock of NCCL: a file that all of them map. */
#ifndef PTC_TESTS_CUDA_MOCK_NCCL_H
#define PTC_TESTS_CUDA_MOCK_NCCL_H

#include "mock.h"

#include <stdatomic.h>

enum
{
    MAX_RANKS = 8,
    MAX_SPLITS = 256,
    KEY_BYTES = 128,
    PIECE_BYTES = 1 << 16
};

/* From one rank to another. */
typedef struct
{
    _Atomic unsigned n_asked; /* receives that have begun */
    unsigned n_sent;          /* sends that have; the sender's */
    _Atomic int is_full;
    size_t n;
    char bytes[PIECE_BYTES];
} Mailbox;

typedef struct
{
    _Atomic int colors[MAX_RANKS]; /* plus 2; 0: not said yet */
    int keys[MAX_RANKS];
} Split;

typedef struct
{
    _Atomic int n_joined;
    int devices[MAX_RANKS];
    Split splits[MAX_SPLITS];
    Mailbox boxes[MAX_RANKS][MAX_RANKS];
} Shared;

struct ncclComm
{
    char key[KEY_BYTES];
    int rank, n_ranks, world_rank, device;
    int parent_rank, n_parents; /* of one that was split off */
    enum
    {
        NOTHING,
        MAKING,
        SPLITTING,
        GROUP,
        ENDING
    } doing;
    int n_polls; /* that find it doing that */
    int config_is_right, has_joined, hangs;
    _Atomic int aborted, n_running; /* batches */
    CuResult state;
    Shared *shared;
    Split *split;
    unsigned n_splits;
    void *batch;
};

/* 0: it cannot. */
int nccl_map(struct ncclComm *comm);
void nccl_unmap(struct ncclComm *comm);

static inline Mailbox *nccl_mailbox(struct ncclComm *comm, int from, int to)
{
    return &comm->shared->boxes[from][to];
}

#endif
