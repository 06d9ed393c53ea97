/* Activations of gemm_kernel.h on oneDNN's eltwise primitive, C API of v2 and v3, prepared as in gemm_dnnl.c. */
#include "runtime/gemm_dnnl.h"

#include <stdlib.h>

enum
{
    ARG_X,
    ARG_OUT,
    N_ARGS
};

struct GemmActKernel
{
    GemmEngine *engine;
    bool gradient;
    MemDesc desc;
    dnnl_primitive_desc_t forward, backward; /* backward: of a gradient */
    dnnl_primitive_t primitive;
    dnnl_memory_t *mems; /* [worker][N_ARGS] */
};

static Status descs_make(GemmActKernel *kernel, const GemmDnnlAct *act)
{
    dnnl_engine_t engine = kernel->engine->engine;
#if DNNL_VERSION_MAJOR >= 3
    TRY_DNNL(dnnl_eltwise_forward_primitive_desc_create(&kernel->forward, engine, dnnl_forward_training, act->alg,
                                                        kernel->desc, kernel->desc, act->alpha, 0, NULL));
    if (kernel->gradient)
        TRY_DNNL(dnnl_eltwise_backward_primitive_desc_create(&kernel->backward, engine, act->alg, kernel->desc,
                                                             kernel->desc, kernel->desc, act->alpha, 0, kernel->forward,
                                                             NULL));
#else
    dnnl_eltwise_desc_t op;
    TRY_DNNL(dnnl_eltwise_forward_desc_init(&op, dnnl_forward_training, act->alg, &kernel->desc, act->alpha, 0));
    TRY_DNNL(dnnl_primitive_desc_create(&kernel->forward, &op, NULL, engine, NULL));
    if (kernel->gradient)
    {
        TRY_DNNL(dnnl_eltwise_backward_desc_init(&op, act->alg, &kernel->desc, &kernel->desc, act->alpha, 0));
        TRY_DNNL(dnnl_primitive_desc_create(&kernel->backward, &op, NULL, engine, kernel->forward));
    }
#endif
    TRY_DNNL(dnnl_primitive_create(&kernel->primitive, kernel->gradient ? kernel->backward : kernel->forward));
    return STATUS_OK;
}

static Status kernel_init(GemmActKernel *kernel, GemmAct act, GemmDtype dtype, int64_t n_elems)
{
    const dnnl_dims_t dims = {n_elems}, strides = {1};
#if DNNL_VERSION_MAJOR >= 3
    TRY_DNNL(dnnl_memory_desc_create_with_strides(&kernel->desc, 1, dims, GEMM_DNNL_DTYPES[dtype], strides));
#else
    TRY_DNNL(dnnl_memory_desc_init_by_strides(&kernel->desc, 1, dims, GEMM_DNNL_DTYPES[dtype], strides));
#endif
    TRY(descs_make(kernel, &GEMM_DNNL_ACTS[act]));
    const int n_mems = kernel->engine->n_workers * N_ARGS;
    kernel->mems = calloc((size_t)n_mems, sizeof(dnnl_memory_t));
    if (!kernel->mems)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for an activation's arguments");
    for (int i = 0; i < n_mems; i++)
        TRY_DNNL(
            dnnl_memory_create(&kernel->mems[i], MEM_DESC_REF(kernel->desc), kernel->engine->engine, DNNL_MEMORY_NONE));
    return STATUS_OK;
}

Status gemm_act_kernel_create(GemmEngine *engine, GemmAct act, bool gradient, GemmDtype dtype, int64_t n_elems,
                              GemmActKernel **out_kernel)
{
    GemmActKernel *kernel = calloc(1, sizeof *kernel);
    if (!kernel)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for an activation");
    gemm_engine_enter_thread();
    kernel->engine = engine;
    kernel->gradient = gradient;
    const Status status = kernel_init(kernel, act, dtype, n_elems);
    if (status != STATUS_OK)
        gemm_act_kernel_destroy(kernel);
    else
        *out_kernel = kernel;
    return status;
}

void gemm_act_kernel_destroy(GemmActKernel *kernel)
{
    if (!kernel)
        return;
    gemm_dnnl_mems_free(kernel->mems, kernel->engine->n_workers * N_ARGS);
    if (kernel->primitive)
        dnnl_primitive_destroy(kernel->primitive);
    if (kernel->backward)
        dnnl_primitive_desc_destroy(kernel->backward);
    if (kernel->forward)
        dnnl_primitive_desc_destroy(kernel->forward);
    gemm_dnnl_desc_free(&kernel->desc);
    free(kernel);
}

Status gemm_act_kernel_run(GemmActKernel *kernel, int worker, const void *x, void *out)
{
    gemm_engine_enter_thread();
    dnnl_memory_t *mems = kernel->mems + worker * N_ARGS;
    TRY_DNNL(dnnl_memory_set_data_handle(mems[ARG_X], (void *)(uintptr_t)x)); /* only read */
    TRY_DNNL(dnnl_memory_set_data_handle(mems[ARG_OUT], out));
    const dnnl_exec_arg_t forward[] = {{DNNL_ARG_SRC, mems[ARG_X]}, {DNNL_ARG_DST, mems[ARG_OUT]}},
                          backward[] = {{DNNL_ARG_SRC, mems[ARG_X]},
                                        {DNNL_ARG_DIFF_DST, mems[ARG_OUT]},
                                        {DNNL_ARG_DIFF_SRC, mems[ARG_OUT]}};
    TRY_DNNL(dnnl_primitive_execute(kernel->primitive, kernel->engine->streams[worker], kernel->gradient ? 3 : 2,
                                    kernel->gradient ? backward : forward));
    return STATUS_OK;
}
