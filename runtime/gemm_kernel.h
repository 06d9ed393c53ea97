/* One tile of a contraction, prepared by the library: the seam between gemm.c (what is a tile, who runs
 * it) and gemm_dnnl.c (how oneDNN is called). Not used outside runtime/gemm*. */
#ifndef PTC_RUNTIME_GEMM_KERNEL_H
#define PTC_RUNTIME_GEMM_KERNEL_H

#include "runtime/gemm.h"

typedef struct GemmEngine GemmEngine;
typedef struct GemmKernel GemmKernel;

/* State of the library for n_workers threads. */
Status gemm_engine_create(int n_workers, GemmEngine **out_engine);
void gemm_engine_destroy(GemmEngine *engine);
/* Tells the library to stay on the calling thread: each thread calls it before it creates or runs kernels. */
void gemm_engine_enter_thread(void);

/* tile: m, n, k, leading dimensions, flags and act of one tile; batch and strides are ignored. desc.accumulate
 * means C += ...; residual must be false. */
Status gemm_kernel_create(GemmEngine *engine, const GemmDesc *tile, GemmKernel **out_kernel);
void gemm_kernel_destroy(GemmKernel *kernel);
/* What the library itself holds for a kernel, code and tables, about. */
size_t gemm_kernel_held_bytes(void);
/* Scratch memory one run needs, aligned to 64 bytes. */
size_t gemm_kernel_scratch_bytes(const GemmKernel *kernel);
const char *gemm_kernel_impl(const GemmKernel *kernel);
/* Runs on the calling thread. One run at a time per (kernel, worker). */
Status gemm_kernel_run(GemmKernel *kernel, int worker, const GemmArgs *args, void *scratch);

/* An activation by itself, over n_elems dense elements: out = act(x), or, as a gradient, out = out act'(x). Runs as
 * kernels do. */
typedef struct GemmActKernel GemmActKernel;
Status gemm_act_kernel_create(GemmEngine *engine, GemmAct act, bool gradient, GemmDtype dtype, int64_t n_elems,
                              GemmActKernel **out_kernel);
void gemm_act_kernel_destroy(GemmActKernel *kernel);
Status gemm_act_kernel_run(GemmActKernel *kernel, int worker, const void *x, void *out);

/* gemm_after.c: what aux, dact and sums of gemm.h take once the whole product is there. *out_after is NULL when the
 * desc has none of them. Borrows pool and engine. */
typedef struct GemmAfter GemmAfter;
Status gemm_after_create(Pool *pool, GemmEngine *engine, const GemmDesc *desc, GemmAfter **out_after);
void gemm_after_destroy(GemmAfter *after);
Status gemm_after_run(const GemmAfter *after, const GemmArgs *args);

#endif
