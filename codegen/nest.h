/* The loop nest of a loop kernel: what both printers read.
 *
 * Stage 0 walks a domain of rows x inner elements (f = row * inner + i), in tasks of rows. Its row body is a chain of
 * phases: phase p computes what depends on p row reductions in sequence, then reduces; what is full and needed again
 * in a later phase is recomputed when cheap, else kept in a slot of the worker's scratch (one row long). Column and
 * whole sums leave partial results per task in the workspace; up to two final stages add them in order and compute what
 * depends on them.
 *
 * Values are instructions in the order of computation; where they are computed (task, row, an inner loop) follows from
 * their operands and index expressions. The orders of all sums:
 *   row and whole sums   64 lanes by position, then a fixed tree (ptc_sum of the prelude); whole sums in chunks of
 *                        NEST_CHUNK elements, whose partials are summed the same way
 *   column sums          serial over the rows of a chunk (nest_chunk_rows), then serial over the chunks
 * CUDA kernels have orders of their own, functions of shapes likewise (codegen/cuda_shape.h). */
#ifndef PTC_CODEGEN_NEST_H
#define PTC_CODEGEN_NEST_H

#include "codegen/index.h"
#include "ir/module.h"

enum
{
    NEST_CHUNK = 32768,    /* elements of a whole sum's chunk, and of a flat task */
    NEST_ROW_TASK = 49152, /* elements of a task of rows, about */
    NEST_COLUMNS = 0,      /* numbers of the final stages */
    NEST_WHOLE = 1,
    NEST_FINALS = 2,
    NEST_MAX_CHUNKS = 1024 /* of a whole sum that waits in the workspace (the prelude's ptc_OP_chunks) */
};

typedef uint32_t NestInst; /* 0 = none */

typedef enum
{
    INST_CONST,
    INST_LOAD,    /* args[0]: guard or 0 (then the value is 0) */
    INST_OP,      /* an EWISE op on args */
    INST_INDEX,   /* the index expression as a number */
    INST_RANDOM,  /* args: key[0], key[1], sample; index: element */
    INST_GUARD,   /* lo <= index < hi, and args[0] when not 0 */
    INST_PICK,    /* args[0] (a guard) ? args[1] : args[2] */
    INST_REDUCED, /* result of reduction `reduce` */
    INST_KEPT     /* slot of args[0], computed in an earlier phase */
} NestInstKind;

typedef struct
{
    NestInstKind kind;
    IrCode code;    /* OP */
    DType dtype;    /* of the value; computed in f32 or i32, rounded to this */
    DType in_dtype; /* OP: of the deciding operand */
    uint32_t n_args;
    NestInst args[3];
    Idx index;
    int64_t lo, hi;  /* GUARD */
    uint32_t arg;    /* LOAD: kernel argument */
    uint32_t reduce; /* REDUCED */
    int64_t stream;  /* RANDOM */
    double value;    /* CONST */
    bool inner;      /* changes within a row */
    uint32_t phase;  /* computed in the row (or inner) part of this phase */
    int32_t cost;    /* of computing it again */
    int32_t slot;    /* scratch row that holds it after its phase, or -1 */
} NestInstData;

typedef enum
{
    REDUCE_ROW,        /* over the inner elements: one result a row */
    REDUCE_COLUMN,     /* over the rows of a group: one result per inner element */
    REDUCE_WHOLE,      /* over the whole flat domain */
    REDUCE_WHOLE_LATER /* in a domain of rows, over one value per row or per element: those wait in the workspace */
} NestReduceKind;

typedef struct
{
    NestReduceKind kind;
    IrCode code; /* reduce_sum, reduce_max, reduce_min */
    DType dtype; /* of operand and result */
    IrValue operand, result;
    uint32_t phase;           /* where its operand is complete */
    NestInst source;          /* the operand in stage 0 */
    int64_t workspace_offset; /* COLUMN, WHOLE: partials; WHOLE_LATER: the values */
    int64_t n_later;          /* WHOLE_LATER: values */
    Idx at;                   /* WHOLE_LATER: place of a value */
} NestReduce;

typedef struct
{
    uint32_t output; /* number of the kernel's output */
    DType dtype;
    NestInst source;
    Idx index;
    bool inner;
    uint32_t phase;
} NestStore;

typedef struct
{
    IdxTable idx;
    int64_t rows, inner; /* domain = rows * inner */
    bool flat;           /* rows == 1: tasks are runs of elements */
    uint32_t n_phases;   /* of the row body */
    uint32_t n_slots;
    VEC(NestInstData) insts; /* [0] unused */
    VEC(NestStore) stores;
} NestStage;

typedef struct
{
    const IrModule *m;
    IrFunc func;
    uint32_t n_args, n_outputs;
    const IrType *arg_types, *output_types;
    VEC(NestReduce) reduces;
    int64_t groups;     /* column sums: rows come in groups, reduced apart */
    int64_t chunk_rows; /* rows of a task (flat: unused) */
    NestStage main;
    bool has_final[NEST_FINALS];
    NestStage final[NEST_FINALS]; /* what depends on column sums (domain groups x inner), on whole sums (1 element) */
    int64_t workspace_bytes;
} Nest;

/* NULL with *out_why when the function is not a loop kernel that can be generated. Everything is in the arena. */
Nest *nest_build(Arena *arena, const IrModule *m, IrFunc func, const char **out_why);

/* True when a row or whole reduction can read its operand where it lies, in argument memory. */
bool nest_reduce_is_direct(const NestStage *stage, const NestReduce *reduce);
/* True when a later phase reads the slot (not only the reduction of its own phase). */
bool nest_slot_is_kept(const NestStage *stage, NestInst inst);

static inline int64_t nest_chunk_rows(int64_t inner)
{
    return inner >= NEST_ROW_TASK ? 1 : NEST_ROW_TASK / inner;
}
/* Tasks that share one group of rows. */
static inline int64_t nest_chunks_per_group(const Nest *n)
{
    int64_t rows = n->main.rows / n->groups;
    return (rows + n->chunk_rows - 1) / n->chunk_rows;
}

#endif
