/* What the files of the executor share: the list of instructions that a step function has become. */
#ifndef PTC_RUNTIME_EXECUTOR_PROGRAM_H
#define PTC_RUNTIME_EXECUTOR_PROGRAM_H

#include "base/bug.h"
#include "ir/interp.h"
#include "runtime/executor.h"

typedef enum
{
    DO_LAUNCH,
    DO_GEMM,
    DO_CHECK_FINITE,
    DO_COPY,
    DO_SEND,
    DO_RECV,
    DO_ALL_REDUCE,
    DO_WAIT
} InstrKind;

typedef struct
{
    InstrKind kind;
    const HalKernel *kernel; /* DO_LAUNCH */
    void **bufs;
    uint32_t n_bufs;
    const HalGemm *gemm; /* DO_GEMM */
    GemmArgs args;
    void *dst;       /* DO_COPY, DO_RECV */
    const void *src; /* DO_COPY, DO_CHECK_FINITE, DO_SEND */
    size_t size_bytes;
    uint32_t peer, tag;      /* DO_SEND, DO_RECV */
    uint32_t bucket;         /* DO_ALL_REDUCE, DO_WAIT */
    const CommSlice *slices; /* DO_ALL_REDUCE */
    uint32_t n_slices;
    const char *place;   /* communication: the op, for messages */
    const char *checked; /* DO_CHECK_FINITE: the name of the value */
    uint32_t profile_row;
    IrOp op;
} Instr;

typedef struct
{
    const char *name;
    VEC(Instr) instrs;
    uint32_t first_update; /* behind the last forward or backward instruction */
    double matmul_flops;
} Program;

struct Executor
{
    Arena *arena;
    HalDevice *device;
    InterpEnv *env; /* the reference interpreter instead of a device; then all below but m is unused */
    const IrModule *m;
    HalExecutable *executable;
    const ExecutorComm *comm; /* NULL: none */
    HalBuffer *memory;        /* globals, then the arena */
    int64_t *global_offset;   /* by IrGlobal; -1: not of this rank */
    char *arena_base;
    VEC(Program) programs;
    VEC(ExecutorProfileRow) profile;
    bool profiling;
    ExecutorMemory sizes;
    float *check; /* host copy of what check_finite looks at */
    size_t check_bytes;
    uint64_t step;
    ExecutorTimes times; /* of the last run */
    bool updating;       /* it is behind its last forward and backward op */
    bool tracing;
    ExecutorEvent *events;
    uint32_t n_events, max_events;
};
static inline char *executor_global_address(const Executor *x, IrGlobal global)
{
    ENSURE(x->global_offset[global] >= 0);
    return (char *)hal_buffer_address(x->memory) + x->global_offset[global];
}

/* executor_build.c: takes memory and makes the programs. */
Status executor_build(Executor *x, const char *so_path);

/* executor_run.c */
const Program *executor_find_program(const Executor *x, const char *func);
Status executor_run_instr(Executor *x, const Instr *instr);

#endif
