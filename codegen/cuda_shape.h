/* How a CUDA kernel walks the main stage of a nest: which thread has which elements. Decided here, before anything is
 * printed, from shapes and from the index expressions of the loads and stores.
 *
 * A thread takes `vector` neighbouring elements by one access of at most 16 bytes, and `steps` such vectors, which are
 * all loaded before anything is computed. `lanes` threads, whole warps, share a row (a flat stage is one row that
 * blocks share). Where a thread's part of a row is small it stays in registers from phase to phase; then the sums of
 * columns do, too. */
#ifndef PTC_CODEGEN_CUDA_SHAPE_H
#define PTC_CODEGEN_CUDA_SHAPE_H

#include "codegen/nest.h"

typedef enum
{
    SHAPE_FLAT,       /* a block has `width` elements of the only row */
    SHAPE_FLAT_CHUNK, /* a block has `chunk` of them, for whole sums */
    SHAPE_ROWS,       /* a block has `rows` rows, each in registers */
    SHAPE_LONG_ROWS,  /* a block has a row at a time, and goes through it `width` elements at a time */
    SHAPE_COLUMNS     /* a block has `chunk` rows one after another, for column sums; each in registers */
} CudaShapeKind;

typedef struct
{
    CudaShapeKind kind;
    uint32_t vector, lanes, steps;
    uint32_t rows;   /* side by side in a block */
    int64_t width;   /* lanes * steps * vector */
    bool exact;      /* widths end where the row does, or what is beyond its end has left: nothing is there */
    bool leaves;     /* COLUMNS without sums of rows: lanes beyond the end leave at once */
    bool calls;      /* FLAT: one launch can be that of many calls, so the number of elements is a variable, n */
    int64_t splits;  /* COLUMNS: blocks that share a row, each with `width` columns */
    int64_t chunk;   /* rows (FLAT_CHUNK: elements) of a block */
    int64_t chunks;  /* parts that column sums (of a group) and whole sums come in */
    uint32_t unroll; /* COLUMNS without sums of rows: rows whose loads go together */
    uint32_t grid, block;
} CudaShape;

/* is_update: of a param. There are many of the same kind, each too small to keep a device busy. */
CudaShape cuda_shape_make(const Nest *nest, bool is_update);

/* How an index expression of the main stage changes over a vector of n elements. */
typedef enum
{
    CUDA_SAME,   /* not at all */
    CUDA_NEXT,   /* by one from element to element, and begins at a multiple of n */
    CUDA_STEADY, /* by a constant step */
    CUDA_ANY
} CudaChange;
/* *out_step: 0 of SAME, 1 of NEXT, the step of STEADY. */
CudaChange cuda_change(const NestStage *stage, Idx e, uint32_t n, int64_t *out_step);
/* True when a guard (0: none) says the same of all n. */
bool cuda_guard_is_steady(const NestStage *stage, NestInst guard, uint32_t n);
/* True for a load of n neighbours by one access. */
bool cuda_load_is_wide(const NestStage *stage, NestInst inst, uint32_t n);

#endif
