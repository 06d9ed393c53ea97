/* libnccl between processes of one host. Bytes go through a file that the ranks of a communicator map; nothing is sent
 * before its receiver asks for it, and a send ends when it has been taken. What is not blocking takes a few polls: work
 * is on its stream (of a mock driver with MOCK_CUDA_ASYNC) only then.
 *
 *   MOCK_NCCL_VERSION=22809
 *   MOCK_NCCL_HANG=RANK:N        what that rank of the world puts on its way from its N-th call on (from 1) never ends
 *   MOCK_NCCL_ERROR=RANK:N:CODE  its N-th call ends in that state
 *   MOCK_NCCL_STUCK=1            no communicator is ever made */
#include "mock_nccl.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

enum
{
    INVALID_ARGUMENT = 4,
    INVALID_USAGE = 5,
    N_POLLS = 2, /* before what does not block is done */
    MAX_OPS = 1024
};

typedef struct
{
    NcclComm comm;
    int peer;
    int sends;
    char *data;
    size_t size_bytes, at;
    int is_asked, is_filled;
} Op;

/* What one group gives a communicator to do. */
typedef struct
{
    unsigned n;
    CuStream stream;
    const void *copy_from; /* of a broadcast that is not in place */
    void *copy_to;
    size_t copy_bytes;
    Op ops[];
} Batch;

static _Thread_local int depth; /* of groups */
static _Thread_local struct
{
    Op op;
    CuStream stream;
} waiting[MAX_OPS];
static _Thread_local unsigned n_waiting;
static unsigned n_batches;       /* of this process */
static const char *last_message; /* likewise */

/* ---- life */

EXPORT CuResult ncclGetVersion(int *version)
{
    MOCK("ncclGetVersion", " ");
    *version = (int)mock_number("MOCK_NCCL_VERSION", 22809);
    return 0;
}

EXPORT const char *ncclGetErrorString(CuResult result)
{
    static _Thread_local char text[32];
    snprintf(text, sizeof text, "mock result %d", result);
    return text;
}

EXPORT const char *ncclGetLastError(NcclComm comm)
{
    (void)comm;
    return last_message ? last_message : "";
}

EXPORT CuResult ncclGetUniqueId(NcclId *id)
{
    MOCK("ncclGetUniqueId", " ");
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *id = (NcclId){0};
    snprintf(id->bytes, sizeof id->bytes, "%ld-%ld", (long)getpid(), now.tv_nsec);
    return 0;
}

static int device_now(void)
{
    char path[4096];
    CuDevice device = -1;
    snprintf(path, sizeof path, "%s/libcuda.so.1", getenv("PTC_CUDA_PATH"));
    void *driver = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
    CuResult (*get)(CuDevice *) = NULL;
    if (driver)
        *(void **)&get = dlsym(driver, "cuCtxGetDevice");
    return get && get(&device) == 0 ? device : -1;
}

static NcclComm make(const char *key, const NcclConfig *config)
{
    NcclComm comm = calloc(1, sizeof *comm);
    snprintf(comm->key, sizeof comm->key, "%s", key);
    comm->config_is_right = config && config->size_bytes == sizeof *config && config->magic == NCCL_CONFIG_MAGIC &&
                            config->version >= NCCL_VERSION_2_18 && config->blocking == 0;
    comm->n_polls = N_POLLS;
    return comm;
}

EXPORT CuResult ncclCommInitRankConfig(NcclComm *out, int n_ranks, NcclId id, int rank, NcclConfig *config)
{
    MOCK("ncclCommInitRankConfig", "%d of %d", rank, n_ranks);
    NcclComm comm = *out = make(id.bytes, config);
    if (!comm->config_is_right || n_ranks > MAX_RANKS)
        return INVALID_ARGUMENT;
    comm->rank = comm->world_rank = rank;
    comm->n_ranks = n_ranks;
    comm->device = device_now();
    comm->doing = MAKING;
    return NCCL_IN_PROGRESS;
}

EXPORT CuResult ncclCommSplit(NcclComm parent, int color, int key, NcclComm *out, NcclConfig *config)
{
    MOCK("ncclCommSplit", "%d %d", color, key);
    *out = NULL;
    if (parent->doing != NOTHING || parent->n_splits == MAX_SPLITS)
        return INVALID_USAGE;
    parent->split = &parent->shared->splits[parent->n_splits++];
    parent->split->keys[parent->rank] = key;
    atomic_store(&parent->split->colors[parent->rank], color + 2);
    parent->doing = SPLITTING;
    parent->n_polls = N_POLLS;
    if (color == NCCL_NO_COLOR)
        return NCCL_IN_PROGRESS;
    char name[KEY_BYTES];
    snprintf(name, sizeof name, "%.80s-%u-%d", parent->key, parent->n_splits, color);
    NcclComm comm = *out = make(name, config);
    if (!comm->config_is_right)
        return INVALID_ARGUMENT;
    comm->world_rank = parent->world_rank;
    comm->device = parent->device;
    comm->split = parent->split;
    comm->parent_rank = parent->rank;
    comm->n_parents = parent->n_ranks;
    comm->doing = SPLITTING;
    return NCCL_IN_PROGRESS;
}

/* All ranks of the parent have said their color; then it is known who is in it. */
static int is_split(NcclComm comm, int me, int n)
{
    for (int r = 0; r < n; r++)
        if (!atomic_load(&comm->split->colors[r]))
            return 0;
    const int color = atomic_load(&comm->split->colors[me]);
    comm->rank = comm->n_ranks = 0;
    for (int r = 0; r < n; r++)
        if (atomic_load(&comm->split->colors[r]) == color)
        {
            comm->n_ranks++;
            comm->rank += comm->split->keys[r] < comm->split->keys[me] ||
                          (comm->split->keys[r] == comm->split->keys[me] && r < me);
        }
    return 1;
}

static void fail(NcclComm comm, CuResult state, const char *message)
{
    comm->state = state;
    last_message = message;
    comm->doing = NOTHING;
}

/* Not blocking: a look at whether everybody has come. */
static void go_on_making(NcclComm comm)
{
    if (!comm->shared && !nccl_map(comm))
    {
        fail(comm, NCCL_SYSTEM_ERROR, "no file to share");
        return;
    }
    if (!comm->has_joined)
    {
        comm->shared->devices[comm->rank] = comm->device;
        atomic_fetch_add(&comm->shared->n_joined, 1);
        comm->has_joined = 1;
    }
    if (atomic_load(&comm->shared->n_joined) < comm->n_ranks || mock_number("MOCK_NCCL_STUCK", 0))
        return;
    for (int r = 0; r < comm->n_ranks; r++)
        if (r != comm->rank && comm->shared->devices[r] == comm->device)
        {
            fail(comm, INVALID_USAGE, "Duplicate GPU detected");
            return;
        }
    comm->doing = NOTHING;
}

static void put_on_its_way(NcclComm comm);

EXPORT CuResult ncclCommGetAsyncError(NcclComm comm, CuResult *state)
{
    MOCK("ncclCommGetAsyncError", " ");
    if (comm->n_polls > 0)
        comm->n_polls--;
    else if (comm->doing == SPLITTING && comm->n_parents && is_split(comm, comm->parent_rank, comm->n_parents))
        comm->doing = MAKING;
    else if (comm->doing == SPLITTING && !comm->n_parents)
        comm->doing = NOTHING;
    else if (comm->doing == MAKING)
        go_on_making(comm);
    else if (comm->doing == GROUP)
        put_on_its_way(comm);
    else if (comm->doing == ENDING && !atomic_load(&comm->n_running))
        comm->doing = NOTHING;
    *state = comm->doing == NOTHING ? comm->state : NCCL_IN_PROGRESS;
    return 0;
}

EXPORT CuResult ncclCommFinalize(NcclComm comm)
{
    MOCK("ncclCommFinalize", " ");
    comm->doing = ENDING;
    comm->n_polls = N_POLLS;
    return NCCL_IN_PROGRESS;
}

EXPORT CuResult ncclCommDestroy(NcclComm comm)
{
    MOCK("ncclCommDestroy", " ");
    if (comm->doing != NOTHING)
        return INVALID_USAGE;
    nccl_unmap(comm);
    free(comm);
    return 0;
}

/* Its work may still be looking at it. */
EXPORT CuResult ncclCommAbort(NcclComm comm)
{
    MOCK("ncclCommAbort", " ");
    atomic_store(&comm->aborted, 1);
    return 0;
}

/* ---- groups */

/* Moves what can be moved; true: something was. */
static int step(Op *op)
{
    const NcclComm comm = op->comm;
    Mailbox *box = op->sends ? nccl_mailbox(comm, comm->rank, op->peer) : nccl_mailbox(comm, op->peer, comm->rank);
    if (!op->is_asked)
    {
        if (!op->sends)
            atomic_fetch_add(&box->n_asked, 1);
        else if (atomic_load(&box->n_asked) == box->n_sent)
            return 0;
        else
            box->n_sent++;
        return op->is_asked = 1;
    }
    if (op->sends == atomic_load(&box->is_full))
        return 0;
    if (!op->sends)
    {
        if (box->n > op->size_bytes - op->at)
            abort(); /* they do not mean the same message */
        memcpy(op->data + op->at, box->bytes, box->n);
        op->at += box->n;
        atomic_store(&box->is_full, 0);
        return op->is_filled = op->at == op->size_bytes, 1;
    }
    if (op->at == op->size_bytes && op->is_filled)
        return op->is_filled = 2; /* the last piece was taken */
    box->n = op->size_bytes - op->at < PIECE_BYTES ? op->size_bytes - op->at : PIECE_BYTES;
    memcpy(box->bytes, op->data + op->at, box->n);
    op->at += box->n;
    op->is_filled = op->at == op->size_bytes;
    atomic_store(&box->is_full, 1);
    return 1;
}

static int is_done(const Op *op)
{
    return op->is_filled == (op->sends ? 2 : 1);
}

/* Ops between the same two, in the same direction, one after another. */
static int is_first(const Batch *batch, unsigned i)
{
    for (unsigned k = 0; k < i; k++)
        if (batch->ops[k].peer == batch->ops[i].peer && batch->ops[k].sends == batch->ops[i].sends &&
            !is_done(&batch->ops[k]))
            return 0;
    return 1;
}

static CuResult run_batch(const void *args)
{
    Batch *batch;
    memcpy(&batch, args, sizeof batch);
    const NcclComm comm = batch->ops[0].comm;
    if (batch->copy_bytes)
        memmove(batch->copy_to, batch->copy_from, batch->copy_bytes);
    for (unsigned n_left = batch->n; n_left && !atomic_load(&comm->aborted);)
    {
        int moved = 0;
        n_left = batch->n;
        for (unsigned i = 0; i < batch->n; i++)
        {
            if (!is_done(&batch->ops[i]) && is_first(batch, i) && !comm->hangs)
                moved |= step(&batch->ops[i]);
            n_left -= (unsigned)is_done(&batch->ops[i]);
        }
        if (!moved && n_left)
            usleep(20);
    }
    free(batch);
    atomic_fetch_sub(&comm->n_running, 1);
    return 0;
}

/* Whether the variable says RANK:N[:code] of this batch; from: of all later ones, too. */
static int is_told(const char *variable, int rank, int from, int *code)
{
    const char *text = getenv(variable);
    int who;
    unsigned nth;
    *code = 0;
    return text && sscanf(text, "%d:%u:%d", &who, &nth, code) >= 2 && who == rank &&
           (n_batches == nth || (from && n_batches > nth));
}

static void put_on_its_way(NcclComm comm)
{
    int code;
    n_batches++;
    comm->doing = NOTHING;
    Batch *batch = comm->batch;
    comm->batch = NULL;
    comm->hangs |= is_told("MOCK_NCCL_HANG", comm->world_rank, 1, &code);
    if (is_told("MOCK_NCCL_ERROR", comm->world_rank, 0, &code))
    {
        fail(comm, code, "as the test asked");
        comm->hangs = 1;
    }
    atomic_fetch_add(&comm->n_running, 1);
    mock_stream_do(batch->stream, run_batch, &batch, sizeof batch, 0);
}

static CuResult end_group(void)
{
    for (unsigned i = 0; i < n_waiting; i++)
    {
        const NcclComm comm = waiting[i].op.comm;
        if (!comm)
            continue;
        Batch *batch = calloc(1, sizeof *batch + n_waiting * sizeof *batch->ops);
        batch->stream = waiting[i].stream;
        for (unsigned k = i; k < n_waiting; k++)
            if (waiting[k].op.comm == comm)
            {
                if (waiting[k].stream != batch->stream || comm->doing != NOTHING || comm->state)
                    return INVALID_USAGE;
                batch->ops[batch->n++] = waiting[k].op;
                waiting[k].op.comm = NULL;
            }
        comm->batch = batch;
    }
    return 0;
}

EXPORT CuResult ncclGroupStart(void)
{
    MOCK("ncclGroupStart", " ");
    depth++;
    return 0;
}

EXPORT CuResult ncclGroupEnd(void)
{
    MOCK("ncclGroupEnd", "%u", n_waiting);
    if (--depth > 0 || n_waiting == 0)
        return 0;
    NcclComm comms[MAX_OPS];
    const unsigned n = n_waiting;
    for (unsigned i = 0; i < n; i++)
        comms[i] = waiting[i].op.comm;
    const CuResult result = end_group();
    n_waiting = 0;
    for (unsigned i = 0; i < n && !result; i++)
    {
        comms[i]->doing = GROUP;
        comms[i]->n_polls = N_POLLS;
    }
    return result ? result : NCCL_IN_PROGRESS;
}

static CuResult add(Op op, CuStream stream)
{
    if (op.peer < 0 || op.peer >= op.comm->n_ranks || op.peer == op.comm->rank || n_waiting == MAX_OPS)
        return INVALID_ARGUMENT;
    if (!stream->queue)
        return INVALID_USAGE; /* it would wait for its peer here */
    waiting[n_waiting].op = op;
    waiting[n_waiting++].stream = stream;
    return 0;
}

static size_t bytes_of(size_t n, int type)
{
    return type == NCCL_F32 ? n * 4 : n;
}

EXPORT CuResult ncclSend(const void *data, size_t n, int type, int peer, NcclComm comm, CuStream stream)
{
    MOCK("ncclSend", "%zu to %d", n, peer);
    const Op op = {
        .comm = comm, .peer = peer, .sends = 1, .data = (char *)(uintptr_t)data, .size_bytes = bytes_of(n, type)};
    ncclGroupStart();
    const CuResult result = add(op, stream), end = ncclGroupEnd();
    return result ? result : end;
}

EXPORT CuResult ncclRecv(void *data, size_t n, int type, int peer, NcclComm comm, CuStream stream)
{
    MOCK("ncclRecv", "%zu from %d", n, peer);
    const Op op = {.comm = comm, .peer = peer, .data = data, .size_bytes = bytes_of(n, type)};
    ncclGroupStart();
    const CuResult result = add(op, stream), end = ncclGroupEnd();
    return result ? result : end;
}

EXPORT CuResult ncclBroadcast(const void *from, void *to, size_t n, int type, int root, NcclComm comm, CuStream stream)
{
    MOCK("ncclBroadcast", "%zu from %d", n, root);
    CuResult result = 0;
    if (comm->rank == root && from != to)
        return INVALID_USAGE; /* ptc has it in place */
    ncclGroupStart();
    for (int r = 0; r < comm->n_ranks && !result; r++)
    {
        const Op op = {.comm = comm,
                       .peer = comm->rank == root ? r : root,
                       .sends = comm->rank == root,
                       .data = to,
                       .size_bytes = bytes_of(n, type)};
        if (r != comm->rank && (comm->rank == root || r == root))
            result = add(op, stream);
    }
    const CuResult end = ncclGroupEnd();
    return result ? result : end;
}
