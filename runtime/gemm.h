/* Contractions on the CPU:
 *
 *     C[b] = act(op(A[b]) * op(B[b]) + bias) + residual[b]  (+ C[b] as it was)
 *
 * with op(A) (M, K), op(B) (K, N), bias (N), residual and C (M, N), row-major, b in 0..batch-1. Either a
 * residual or accumulation into C, not both. One contraction of matrices (batch 1, rows of C and B without gaps) may do
 * one thing more:
 *
 *     aux   writes op(A) op(B) + bias, too, which act is applied to; no residual, no accumulation
 *     dact  C = op(A) op(B) act'(aux) for another activation, aux given; nothing else with it
 *     sums  writes the sums over K of B (K, N), (N) as f32, too; C f32, B not transposed, no bias, no act
 *
 * Results are bit-identical for any number of threads: the tiles that workers take depend on the shape
 * only. One library (oneDNN) does the arithmetic, single-threaded inside each worker. */
#ifndef PTC_RUNTIME_GEMM_H
#define PTC_RUNTIME_GEMM_H

#include "base/status.h"
#include "runtime/pool.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum
{
    GEMM_F32,
    GEMM_BF16,
    GEMM_DTYPE_COUNT
} GemmDtype;

typedef enum
{
#define GEMM_ACT(name) GEMM_ACT_##name,
#include "runtime/gemm_act.def"
#undef GEMM_ACT
    GEMM_ACT_COUNT
} GemmAct;

/* Fill with gemm_desc_make and then set what differs. Leading dimensions and strides count elements.
 * lda: distance of two stored rows of A, which is (M, K), or (K, M) if trans_a; likewise ldb for B, (K, N)
 * or (N, K) if trans_b. Strides are between batch items; stride_a or stride_b 0 shares that operand.
 * Residual has C's dtype, ldr and stride_r. A and B have dtype_ab. */
typedef struct
{
    GemmDtype dtype_ab;
    GemmDtype dtype_c;
    GemmDtype dtype_bias;
    bool tf32; /* f32 operands may be rounded to tf32, where a device is faster for it */
    bool trans_a, trans_b;
    bool bias;
    bool residual;
    bool accumulate;
    bool aux, sums;
    GemmAct act, dact;
    int64_t m, n, k, batch; /* all >= 1 */
    int64_t lda, ldb, ldc, ldr;
    int64_t stride_a, stride_b, stride_c, stride_r;
} GemmDesc;

/* Addresses of the first elements. C overlaps neither A, B, bias nor aux; residual may be C itself (same ld and
 * stride), else does not overlap it. What the desc has not is NULL. aux (M, N) is of C's dtype, rows without gaps:
 * written with desc.aux, read with dact. */
typedef struct
{
    const void *a, *b;
    void *c;
    const void *bias;
    const void *residual;
    void *aux;
    float *sums;
} GemmArgs;

typedef struct GemmLib GemmLib;
typedef struct Gemm Gemm;

/* Dense f32, packed leading dimensions and strides, batch 1, no epilogue. */
GemmDesc gemm_desc_make(int64_t m, int64_t n, int64_t k, bool trans_a, bool trans_b);
/* 2 * batch * m * n * k */
double gemm_flops(const GemmDesc *desc);
/* "relu", "gelu_erf", ...; GEMM_ACT_COUNT when there is no such name. */
GemmAct gemm_act_from_name(const char *name);
const char *gemm_act_name(GemmAct act);

/* Whether this processor multiplies bf16 faster than f32 (AVX512-BF16, AMX). */
bool gemm_has_bf16(void);

/* Holds the prepared contractions and the scratch memory of a pool's workers. Borrows the pool. */
Status gemm_lib_create(Pool *pool, GemmLib **out_lib);
void gemm_lib_destroy(GemmLib *lib);
/* Forgets all prepared contractions. */
void gemm_lib_clear(GemmLib *lib);
/* Memory held for workers and by prepared contractions, bytes. */
size_t gemm_lib_bytes(const GemmLib *lib);

/* Prepares, or finds prepared, a contraction; owned by the library and valid until it is destroyed.
 * STATUS_UNSUPPORTED when the CPU has no kernel for the dtypes. Not while a gemm_run is under way. */
Status gemm_create(GemmLib *lib, const GemmDesc *desc, const Gemm **out_gemm);
const GemmDesc *gemm_desc(const Gemm *gemm);
/* Tiles handed to workers: a function of the desc only. */
int64_t gemm_n_tasks(const Gemm *gemm);
/* Runs it on the library's pool and waits. One at a time per library. We allocate nothing here; oneDNN keeps small
 * bookkeeping of a call, and some of its kernels their packing buffer, on the heap. */
Status gemm_run(const Gemm *gemm, const GemmArgs *args);

#endif
