/* What the files of the executor share: the list of instructions that a step function has become. */
#ifndef PTC_RUNTIME_EXECUTOR_PROGRAM_H
#define PTC_RUNTIME_EXECUTOR_PROGRAM_H

#include "base/bug.h"
#include "ir/interp.h"
#include "runtime/executor.h"

#include <time.h>

typedef enum
{
    DO_LAUNCH,
    DO_BATCH,
    DO_GEMM,
    DO_CHECK_FINITE,
    DO_COPY,
    DO_SEND,
    DO_RECV,
    DO_ALL_REDUCE,
    DO_REDUCE,
    DO_BCAST,
    DO_WAIT
} InstrKind;

typedef struct Instr Instr;
struct Instr
{
    InstrKind kind;
    const HalKernel *kernel; /* DO_LAUNCH */
    void **bufs;
    uint32_t n_bufs;
    HalBatch *batch; /* DO_BATCH: several launches; op is that of the first */
    const Instr *launches;
    uint32_t n_launches;
    const HalGemm *gemm; /* DO_GEMM */
    GemmArgs args;
    void *dst;       /* DO_COPY, DO_RECV */
    const void *src; /* DO_COPY, DO_CHECK_FINITE, DO_SEND */
    size_t size_bytes;
    uint32_t peer, tag;         /* DO_SEND, DO_RECV */
    uint32_t root;              /* DO_REDUCE, DO_BCAST */
    uint32_t bucket;            /* these, DO_ALL_REDUCE, DO_WAIT */
    uint32_t link;              /* between GPUs: the message or the sum of Executor.links; then nothing is mirrored */
    void *mirror;               /* DO_SEND, DO_RECV: on the host; where the device has that memory, src and dst */
    const CommSlice *slices;    /* DO_REDUCE, DO_BCAST, DO_ALL_REDUCE: on the host. DO_WAIT: see on_device */
    const CommSlice *on_device; /* of a device with memory of its own, which slices mirror. DO_WAIT: what comes back */
    uint32_t n_slices;
    const char *place;   /* communication: the op, for messages */
    const char *range;   /* for profilers of the device; NULL: none looks */
    const char *checked; /* DO_CHECK_FINITE: the name of the value */
    uint32_t profile_row;
    IrOp op;
};

/* Instructions that a device can do one after another without the host, and the graph that they become when they first
 * run; only on devices that record. */
typedef struct
{
    uint32_t begin, end;
    HalGraph *graph;   /* NULL: not recorded yet */
    const char *range; /* as an instruction's */
} Segment;

typedef struct
{
    const char *name;
    VEC(Instr) instrs;
    VEC(Segment) segments; /* ascending; what is between them is run one by one */
    uint32_t link;         /* of Executor.links */
    uint32_t first_update; /* behind the last forward or backward instruction */
    double matmul_flops;
} Program;

/* One of the modules, with what was made of it. */
typedef struct
{
    const IrModule *m;
    const char *label; /* for kernels in profiles; NULL: none */
    HalExecutable *executable;
    char **global_address; /* by IrGlobal; NULL: not of this rank */
    VEC(Program) programs;
} ExecutorVariant;

/* A param or state, and what holds its memory. */
typedef struct
{
    const char *name;
    size_t size_bytes;
    char *address;
    HalBuffer *buffer; /* its own; NULL: `address` is in memory of the communicator */
    void *copy;        /* of the interpreter's, on the host: of malloc */
} ExecutorTensor;
typedef VEC(ExecutorTensor) ExecutorTensorList;

typedef struct
{
    char *begin, *end;
} ExecutorRange;
typedef VEC(ExecutorRange) ExecutorRanges;

struct ExecutorTensors
{
    Arena *arena; /* names */
    HalDevice *device;
    ExecutorTensorList list;
    const ExecutorComm *comm; /* whose memory `shared` is */
    ExecutorRanges shared;    /* whole pages; tensors without a buffer lie there */
};

struct Executor
{
    Arena *arena;
    HalDevice *device;
    InterpEnv *env; /* the reference interpreter instead of a device; then all below but m is unused */
    ExecutorVariant *variants;
    uint32_t n_variants;
    ExecutorVariant *now;       /* the selected one */
    const IrModule *m;          /* its module */
    bool stale;                 /* params have been written, copies of them not */
    bool copies_differ;         /* one variant has copies that another has not */
    const ExecutorComm *comm;   /* NULL: none */
    DeviceLinks *links;         /* NULL: none, or they have gone with comm->device */
    ExecutorTensorList tensors; /* params and states */
    VEC(ExecutorUpload *) uploads;
    VEC(void *) mirrors; /* pinned memory; of the last one so much is taken */
    size_t mirrored_bytes, mirrors_bytes;
    HalBuffer *memory; /* of all variants: inputs and outputs, then the arena */
    char *arena_base;
    char *sums_base; /* the part of the arena from sums_at on */
    ExecutorRanges
        shared; /* whole pages of the communicator: params that others read here, or once did, and the sums */
    VEC(ExecutorProfileRow) profile;
    bool profiling;
    ExecutorMemory sizes;
    float *check; /* host copy of what check_finite looks at */
    size_t check_bytes;
    uint64_t step;
    ExecutorTimes times;            /* of the last run */
    bool updating;                  /* it is behind its last forward and backward op */
    bool marks_waits;               /* by links: it waits on the device, so that is where its times are taken */
    uint32_t n_waits, n_pipe_waits; /* of the last run: all, and those before its updates */
    bool tracing;
    ExecutorEvent *events;
    uint32_t n_events, max_events;
};
static inline char *executor_global_address(const Executor *x, IrGlobal global)
{
    ENSURE(x->now->global_address[global]);
    return x->now->global_address[global];
}

/* executor_memory.c */
int64_t executor_align(int64_t size_bytes);
/* What sums over the replicas touch lies from here on in the planned arena, and in memory of its own here. */
int64_t executor_sums_at(const IrModule *m, IrFunc func);
/* A global set to the old value of another that is set too: copies in any order could come too late. */
bool executor_needs_staging(const IrModule *m, IrFunc func, const IrOpData *set);
/* Gives every global its place, and takes the memory, or takes it over. OUT_OF_MEMORY: the detail says what is needed
 * for what. */
Status executor_take_memory(Executor *x, ExecutorTensors *from);

/* executor_shared.c */

/* What is to lie in memory of the communicator. */
typedef struct
{
    char *at; /* where it lies there already; NULL: nowhere yet */
    size_t size_bytes;
} ExecutorShare;
/* Finds places for those of some size that have none, in memory of `from` (NULL: none) that none of its tensors is in,
 * or in new memory; `at` stays NULL where the ranks of comm->data share none. The pages of all of them are then x's,
 * and no more those of `from`. */
Status executor_share(Executor *x, ExecutorTensors *from, ExecutorShare *shares, uint32_t n);
/* To the communicator; the list is then empty. */
void executor_shared_give(const ExecutorComm *comm, ExecutorRanges *ranges);

/* executor_upload.c */
void executor_uploads_drop(Executor *x);

/* executor_tensors.c */
bool executor_is_tensor(const IrGlobalData *global);
/* Where it lies in memory of the communicator; NULL: not there. */
char *executor_tensors_shared(const ExecutorTensors *tensors, const char *name);
/* Gives it memory of its own, its old one if it has that in `from`. at: it lies there instead; NULL: nowhere yet. */
Status executor_take_tensor(Executor *x, const IrGlobalData *global, ExecutorTensors *from, char *at,
                            char **out_address);
Status executor_fill_interp(Executor *x, ExecutorTensors *from);
void executor_tensors_drop(ExecutorTensorList *tensors);

/* executor_build.c: makes the programs. */
Status executor_build(Executor *x, const ExecutorModule *modules, ExecutorTensors *from);

uint32_t executor_profile_row(Executor *x, const char *name);

/* executor_batch.c */
/* Puts launches together that the device does at once. */
Status executor_join_launches(Executor *x, Program *program);
void executor_destroy_batches(const Executor *x, const Program *program);

/* executor_comm.c */
void executor_mirrors_drop(Executor *x);
double executor_now_s(clockid_t clock);
/* address: by value. */
Status executor_build_comm(Executor *x, Program *program, IrOp op, char *const *address);
Status executor_communicate(Executor *x, const Instr *instr);
/* Waits for the device, and for what it waits for. */
Status executor_sync(Executor *x);
/* Where marks_waits: marks of the device. */
enum
{
    EXECUTOR_MARK_START,
    EXECUTOR_MARK_UPDATE,
    EXECUTOR_MARK_WAITS /* from here on: before and behind each wait */
};

/* executor_run.c */
const Program *executor_find_program(const Executor *x, const char *func);
Status executor_run_instr(Executor *x, const Instr *instr);
/* Failures of the device with the op and its place in the XML. */
Status executor_run_placed(Executor *x, const Instr *instr);

/* executor_graph.c */
void executor_find_segments(const Executor *x, Program *program);
/* The one that begins there; NULL: none does. */
Segment *executor_find_segment(const Program *program, uint32_t begin);
/* Recorded when it runs for the first time, and when memory has moved; else replayed. */
Status executor_run_segment(Executor *x, const Program *program, Segment *segment);
void executor_destroy_graphs(const Executor *x, const Program *program);

#endif
