/* What the files that call oneDNN share (gemm_dnnl.c: contractions, gemm_dnnl_act.c: activations by themselves). */
#ifndef PTC_RUNTIME_GEMM_DNNL_H
#define PTC_RUNTIME_GEMM_DNNL_H

#include "runtime/gemm_kernel.h"

#include <dnnl.h>

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t MemDesc;
#define MEM_DESC_REF(d) (d)
#else
typedef dnnl_memory_desc_t MemDesc;
#define MEM_DESC_REF(d) (&(d))
#endif

struct GemmEngine
{
    dnnl_engine_t engine;
    dnnl_stream_t *streams; /* one per worker */
    int n_workers;
};

typedef struct
{
    dnnl_alg_kind_t alg; /* dnnl_alg_kind_undef: no activation */
    float alpha;
} GemmDnnlAct;

extern const GemmDnnlAct GEMM_DNNL_ACTS[GEMM_ACT_COUNT];
extern const dnnl_data_type_t GEMM_DNNL_DTYPES[GEMM_DTYPE_COUNT];

/* "oneDNN status N in WHAT" */
Status gemm_dnnl_fail(dnnl_status_t status, const char *what);
void gemm_dnnl_desc_free(MemDesc *desc);
/* Those that are there, and the array; NULL is allowed. */
void gemm_dnnl_mems_free(dnnl_memory_t *mems, int n_mems);

#define TRY_DNNL(expr)                                                                                                 \
    do                                                                                                                 \
    {                                                                                                                  \
        dnnl_status_t dnnl_status_ = (expr);                                                                           \
        if (dnnl_status_ != dnnl_success)                                                                              \
            return gemm_dnnl_fail(dnnl_status_, #expr);                                                                \
    } while (0)

#endif
