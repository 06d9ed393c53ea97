/* gemm_kernel.h on oneDNN's matmul primitive, C API of v2 and v3.
 *
 * The primitive is made with a user scratchpad and memory objects are made once per worker, so that a run
 * only sets addresses. oneDNN's threading (OpenMP) is held to the calling thread by the per-thread
 * "number of threads" variable; with it at 1 oneDNN calls its loops directly and no team is started. It is
 * set through the OpenMP runtime that oneDNN itself has loaded (a second runtime would have a variable of
 * its own, to no effect), hence dlsym and no <omp.h>. */
#include "runtime/gemm_dnnl.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* The arguments of a run; SCRATCH last. */
enum
{
    ARG_A,
    ARG_B,
    ARG_C,
    ARG_BIAS,
    ARG_SCRATCH,
    N_ARGS
};
static const int ARG_IDS[N_ARGS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS, DNNL_ARG_SCRATCHPAD};

struct GemmKernel
{
    GemmEngine *engine;
    dnnl_primitive_desc_t primitive_desc;
    dnnl_primitive_t primitive;
    dnnl_memory_t *mems; /* [worker][N_ARGS] */
    size_t scratch_bytes;
    bool bias;
};

Status gemm_dnnl_fail(dnnl_status_t status, const char *what)
{
    Status ours = status == dnnl_out_of_memory   ? STATUS_OUT_OF_MEMORY
                  : status == dnnl_unimplemented ? STATUS_UNSUPPORTED
                                                 : STATUS_DEVICE;
    return status_fail(ours, "oneDNN status %d in %s", (int)status, what);
}

typedef void OmpSetNumThreads(int n);

static OmpSetNumThreads *omp_set_num_threads_find(void)
{
    OmpSetNumThreads *fn = NULL;
    *(void **)&fn = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    return fn;
}

void gemm_engine_enter_thread(void)
{
    static _Thread_local bool entered;
    if (entered)
        return;
    OmpSetNumThreads *set = omp_set_num_threads_find();
    if (set)
        set(1);
    entered = true;
}

static Status engine_init(GemmEngine *engine, int n_workers)
{
    if (dnnl_version()->cpu_runtime == DNNL_RUNTIME_OMP && !omp_set_num_threads_find())
        return status_fail(STATUS_UNSUPPORTED, "oneDNN uses OpenMP, but its runtime is not visible in the process");
    gemm_engine_enter_thread();
    engine->n_workers = n_workers;
    engine->streams = calloc((size_t)n_workers, sizeof(dnnl_stream_t));
    if (!engine->streams)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for %d streams", n_workers);
    TRY_DNNL(dnnl_engine_create(&engine->engine, dnnl_cpu, 0));
    for (int i = 0; i < n_workers; i++)
        TRY_DNNL(dnnl_stream_create(&engine->streams[i], engine->engine, dnnl_stream_default_flags));
    return STATUS_OK;
}

Status gemm_engine_create(int n_workers, GemmEngine **out_engine)
{
    GemmEngine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for the contraction library");
    Status status = engine_init(engine, n_workers);
    if (status != STATUS_OK)
        gemm_engine_destroy(engine);
    else
        *out_engine = engine;
    return status;
}

void gemm_engine_destroy(GemmEngine *engine)
{
    if (!engine)
        return;
    for (int i = 0; engine->streams && i < engine->n_workers; i++)
        if (engine->streams[i])
            dnnl_stream_destroy(engine->streams[i]);
    if (engine->engine)
        dnnl_engine_destroy(engine->engine);
    free(engine->streams);
    free(engine);
}

bool gemm_has_bf16(void)
{
    const unsigned wanted = dnnl_cpu_isa_avx512_core_bf16; /* a set of bits, which later ones contain */
    return ((unsigned)dnnl_get_effective_cpu_isa() & wanted) == wanted;
}

const dnnl_data_type_t GEMM_DNNL_DTYPES[GEMM_DTYPE_COUNT] = {[GEMM_F32] = dnnl_f32, [GEMM_BF16] = dnnl_bf16};

static Status mem_desc_make(dnnl_data_type_t dtype, int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride,
                            MemDesc *out_desc)
{
    dnnl_dims_t dims = {rows, cols};
    dnnl_dims_t strides = {row_stride, col_stride};
#if DNNL_VERSION_MAJOR >= 3
    TRY_DNNL(dnnl_memory_desc_create_with_strides(out_desc, 2, dims, dtype, strides));
#else
    TRY_DNNL(dnnl_memory_desc_init_by_strides(out_desc, 2, dims, dtype, strides));
#endif
    return STATUS_OK;
}

void gemm_dnnl_desc_free(MemDesc *desc)
{
#if DNNL_VERSION_MAJOR >= 3
    if (*desc)
        dnnl_memory_desc_destroy(*desc);
#else
    (void)desc;
#endif
}

const GemmDnnlAct GEMM_DNNL_ACTS[GEMM_ACT_COUNT] = {
    [GEMM_ACT_none] = {dnnl_alg_kind_undef, 0},       [GEMM_ACT_relu] = {dnnl_eltwise_relu, 0},
    [GEMM_ACT_gelu_erf] = {dnnl_eltwise_gelu_erf, 0}, [GEMM_ACT_gelu_tanh] = {dnnl_eltwise_gelu_tanh, 0},
    [GEMM_ACT_silu] = {dnnl_eltwise_swish, 1},
};

static Status post_ops_fill(dnnl_post_ops_t ops, const GemmDesc *tile)
{
    const GemmDnnlAct *act = &GEMM_DNNL_ACTS[tile->act];
#if DNNL_VERSION_MAJOR >= 3
    if (act->alg != dnnl_alg_kind_undef)
        TRY_DNNL(dnnl_post_ops_append_eltwise(ops, act->alg, act->alpha, 0));
    if (tile->accumulate)
        TRY_DNNL(dnnl_post_ops_append_sum(ops, 1, 0, dnnl_data_type_undef));
#else
    if (act->alg != dnnl_alg_kind_undef)
        TRY_DNNL(dnnl_post_ops_append_eltwise(ops, 1, act->alg, act->alpha, 0));
    if (tile->accumulate)
        TRY_DNNL(dnnl_post_ops_append_sum(ops, 1));
#endif
    return STATUS_OK;
}

static Status attr_fill(dnnl_primitive_attr_t attr, dnnl_post_ops_t ops, const GemmDesc *tile)
{
    TRY_DNNL(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user));
    TRY(post_ops_fill(ops, tile));
    TRY_DNNL(dnnl_primitive_attr_set_post_ops(attr, ops));
    return STATUS_OK;
}

static Status primitive_desc_make(GemmKernel *kernel, const MemDesc *descs, dnnl_primitive_attr_t attr)
{
    const MemDesc *a = &descs[ARG_A];
    const MemDesc *b = &descs[ARG_B];
    const MemDesc *c = &descs[ARG_C];
    const MemDesc *bias = &descs[ARG_BIAS];
    dnnl_engine_t engine = kernel->engine->engine;
#if DNNL_VERSION_MAJOR >= 3
    TRY_DNNL(dnnl_matmul_primitive_desc_create(&kernel->primitive_desc, engine, *a, *b, kernel->bias ? *bias : NULL, *c,
                                               attr));
#else
    dnnl_matmul_desc_t op;
    TRY_DNNL(dnnl_matmul_desc_init(&op, a, b, kernel->bias ? bias : NULL, c));
    TRY_DNNL(dnnl_primitive_desc_create(&kernel->primitive_desc, &op, attr, engine, NULL));
#endif
    TRY_DNNL(dnnl_primitive_create(&kernel->primitive, kernel->primitive_desc));
    return STATUS_OK;
}

static Status mems_make(GemmKernel *kernel, const MemDesc *descs)
{
    const GemmEngine *engine = kernel->engine;
    kernel->mems = calloc((size_t)engine->n_workers * N_ARGS, sizeof(dnnl_memory_t));
    if (!kernel->mems)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for a contraction's arguments");
    /* scratch_desc points into primitive_desc in both versions */
    const void *scratch_desc = dnnl_primitive_desc_query_md(kernel->primitive_desc, dnnl_query_scratchpad_md, 0);
    kernel->scratch_bytes = dnnl_memory_desc_get_size(scratch_desc);
    for (int w = 0; w < engine->n_workers; w++)
    {
        dnnl_memory_t *mems = kernel->mems + w * N_ARGS;
        for (int arg = 0; arg < N_ARGS; arg++)
        {
            if (arg == ARG_BIAS && !kernel->bias)
                continue;
            if (arg == ARG_SCRATCH)
                TRY_DNNL(dnnl_memory_create(&mems[arg], scratch_desc, engine->engine, DNNL_MEMORY_NONE));
            else
                TRY_DNNL(dnnl_memory_create(&mems[arg], MEM_DESC_REF(descs[arg]), engine->engine, DNNL_MEMORY_NONE));
        }
    }
    return STATUS_OK;
}

static Status kernel_init(GemmKernel *kernel, const GemmDesc *t, MemDesc *descs, dnnl_primitive_attr_t *attr,
                          dnnl_post_ops_t *ops)
{
    dnnl_data_type_t dtype_ab = GEMM_DNNL_DTYPES[t->dtype_ab];
    TRY(mem_desc_make(dtype_ab, t->m, t->k, t->trans_a ? 1 : t->lda, t->trans_a ? t->lda : 1, &descs[ARG_A]));
    TRY(mem_desc_make(dtype_ab, t->k, t->n, t->trans_b ? 1 : t->ldb, t->trans_b ? t->ldb : 1, &descs[ARG_B]));
    TRY(mem_desc_make(GEMM_DNNL_DTYPES[t->dtype_c], t->m, t->n, t->ldc, 1, &descs[ARG_C]));
    if (t->bias)
        TRY(mem_desc_make(GEMM_DNNL_DTYPES[t->dtype_bias], 1, t->n, t->n, 1, &descs[ARG_BIAS]));
    TRY_DNNL(dnnl_primitive_attr_create(attr));
    TRY_DNNL(dnnl_post_ops_create(ops));
    TRY(attr_fill(*attr, *ops, t));
    TRY(primitive_desc_make(kernel, descs, *attr));
    if (strncmp(gemm_kernel_impl(kernel), "ref", 3) == 0) /* plain loops, a thousand times slower: say no instead */
        return status_fail(STATUS_UNSUPPORTED, "oneDNN has no fast kernel for a %s product on this processor",
                           t->dtype_ab == GEMM_BF16 ? "bf16" : "f32");
    return mems_make(kernel, descs);
}

Status gemm_kernel_create(GemmEngine *engine, const GemmDesc *tile, GemmKernel **out_kernel)
{
    GemmKernel *kernel = calloc(1, sizeof *kernel);
    if (!kernel)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for a contraction");
    gemm_engine_enter_thread();
    kernel->engine = engine;
    kernel->bias = tile->bias;
    MemDesc descs[N_ARGS] = {0};
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    Status status = kernel_init(kernel, tile, descs, &attr, &ops);
    for (int arg = 0; arg < N_ARGS; arg++)
        gemm_dnnl_desc_free(&descs[arg]);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    if (ops)
        dnnl_post_ops_destroy(ops);
    if (status != STATUS_OK)
        gemm_kernel_destroy(kernel);
    else
        *out_kernel = kernel;
    return status;
}

void gemm_dnnl_mems_free(dnnl_memory_t *mems, int n_mems)
{
    for (int i = 0; mems && i < n_mems; i++)
        if (mems[i])
            dnnl_memory_destroy(mems[i]);
    free(mems);
}

void gemm_kernel_destroy(GemmKernel *kernel)
{
    if (!kernel)
        return;
    gemm_dnnl_mems_free(kernel->mems, kernel->engine->n_workers * N_ARGS);
    if (kernel->primitive)
        dnnl_primitive_destroy(kernel->primitive);
    if (kernel->primitive_desc)
        dnnl_primitive_desc_destroy(kernel->primitive_desc);
    free(kernel);
}

size_t gemm_kernel_held_bytes(void)
{
    return 224 * 1024; /* measured: 26 kernels of oneDNN 2.6 take 5.8 MiB once they have run */
}

size_t gemm_kernel_scratch_bytes(const GemmKernel *kernel)
{
    return kernel->scratch_bytes;
}

const char *gemm_kernel_impl(const GemmKernel *kernel)
{
    const char *name = "";
    dnnl_primitive_desc_query(kernel->primitive_desc, dnnl_query_impl_info_str, 0, &name);
    return name;
}

Status gemm_kernel_run(GemmKernel *kernel, int worker, const GemmArgs *args, void *scratch)
{
    gemm_engine_enter_thread();
    /* oneDNN's handles are not const-qualified; only C and the scratch memory are written. */
    void *handles[N_ARGS] = {(void *)(uintptr_t)args->a, (void *)(uintptr_t)args->b, args->c,
                             (void *)(uintptr_t)args->bias, scratch};
    dnnl_memory_t *mems = kernel->mems + worker * N_ARGS;
    dnnl_exec_arg_t exec_args[N_ARGS];
    int n_args = 0;
    for (int arg = 0; arg < N_ARGS; arg++)
    {
        if (!mems[arg])
            continue;
        TRY_DNNL(dnnl_memory_set_data_handle(mems[arg], handles[arg]));
        exec_args[n_args++] = (dnnl_exec_arg_t){ARG_IDS[arg], mems[arg]};
    }
    TRY_DNNL(dnnl_primitive_execute(kernel->primitive, kernel->engine->streams[worker], n_args, exec_args));
    return STATUS_OK;
}
