/* Contractions of the cuda device on a mock of cuBLASLt that computes from what it is told: every flag against a loop
 * in f64, recorded calls, what is refused, failures. */
#include "harness/gemm_act.h"
#include "harness/test.h"

#include "fixture.h"

#include "base/strbuf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum
{
    ALIGNMENT_ELEMS = 64 /* operands begin at whole multiples, as plan_memory places them */
};

static uint64_t rng_state = 20240607;

static uint64_t rng_next(void)
{
    rng_state += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */
    uint64_t z = rng_state;
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static int64_t below(int64_t n)
{
    return (int64_t)(rng_next() % (uint64_t)n);
}

/* ---- a contraction and its operands, on the host as on the device */

enum
{
    A,
    B,
    BIAS,
    RESIDUAL,
    C,
    AUX,
    SUMS,
    N_OPERANDS
};

typedef struct
{
    int64_t at[N_OPERANDS]; /* elements from the start of the buffer */
    int64_t n_elems;
    float *before, *after;
} Operands;

static int64_t place(Operands *o, int operand, int64_t n_elems)
{
    o->at[operand] = o->n_elems;
    o->n_elems += (n_elems + ALIGNMENT_ELEMS) / ALIGNMENT_ELEMS * ALIGNMENT_ELEMS; /* with a gap behind */
    return n_elems;
}

static void fill(Operands *o, const GemmDesc *d)
{
    *o = (Operands){0};
    place(o, A, (d->batch - 1) * d->stride_a + (d->trans_a ? d->k : d->m) * d->lda);
    place(o, B, (d->batch - 1) * d->stride_b + (d->trans_b ? d->n : d->k) * d->ldb);
    place(o, BIAS, d->n);
    place(o, RESIDUAL, (d->batch - 1) * d->stride_r + d->m * d->ldr);
    place(o, C, (d->batch - 1) * d->stride_c + d->m * d->ldc);
    place(o, AUX, d->m * d->n);
    place(o, SUMS, d->n);
    o->before = malloc((size_t)o->n_elems * sizeof(float));
    o->after = malloc((size_t)o->n_elems * sizeof(float));
    assert_true(o->before && o->after);
    for (int64_t i = 0; i < o->n_elems; i++)
        o->before[i] = (float)(rng_next() >> 40) * 0x1p-23F - 1;
}

static GemmDtype dtype_of(const GemmDesc *d, int operand)
{
    return operand == A || operand == B ? d->dtype_ab
           : operand == BIAS            ? d->dtype_bias
           : operand == SUMS            ? GEMM_F32
                                        : d->dtype_c;
}

/* Element i of an operand at x; one of bf16 is the upper half of an f32. */
static double get(const float *x, int64_t i, GemmDtype dtype)
{
    if (dtype == GEMM_F32)
        return (double)x[i];
    const uint32_t bits = (uint32_t)((const uint16_t *)(const void *)x)[i] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

/* Random bits as bf16 are no numbers. */
static void fill_bf16(Operands *o, const GemmDesc *d)
{
    for (int operand = 0; operand < N_OPERANDS; operand++)
    {
        uint16_t *x = (uint16_t *)(void *)(o->before + o->at[operand]);
        const int64_t end = operand + 1 < N_OPERANDS ? o->at[operand + 1] : o->n_elems;
        for (int64_t i = 0; dtype_of(d, operand) == GEMM_BF16 && i < 2 * (end - o->at[operand]); i++)
        {
            const float value = (float)(rng_next() >> 40) * 0x1p-23F - 1;
            uint32_t bits;
            memcpy(&bits, &value, sizeof bits);
            x[i] = (uint16_t)(bits >> 16);
        }
    }
}

/* op(A) op(B) + bias */
static double product(const GemmDesc *d, const Operands *o, int64_t item, int64_t i, int64_t j)
{
    const float *x = o->before;
    double sum = 0;
    for (int64_t p = 0; p < d->k; p++)
        sum += get(x + o->at[A], item * d->stride_a + (d->trans_a ? p * d->lda + i : i * d->lda + p), d->dtype_ab) *
               get(x + o->at[B], item * d->stride_b + (d->trans_b ? j * d->ldb + p : p * d->ldb + j), d->dtype_ab);
    if (d->bias)
        sum += get(x + o->at[BIAS], j, d->dtype_bias);
    return sum;
}

/* residual: where the residual was, in elements. */
static double expected(const GemmDesc *d, const Operands *o, int64_t residual, int64_t item, int64_t i, int64_t j)
{
    const float *x = o->before;
    double result = gemm_act_f64(d->act, product(d, o, item, i, j));
    if (d->dact != GEMM_ACT_none)
        result *= gemm_act_slope_f64(d->dact, get(x + o->at[AUX], i * d->n + j, d->dtype_c));
    if (d->residual)
        result += get(x + residual, item * d->stride_r + i * d->ldr + j, d->dtype_c);
    if (d->accumulate)
        result += get(x + o->at[C], item * d->stride_c + i * d->ldc + j, d->dtype_c);
    return result;
}

/* What is written besides C. */
static void check_rest(const GemmDesc *d, const Operands *o, double bound, char *owned)
{
    const size_t elem_bytes = d->dtype_c == GEMM_F32 ? 4 : 2;
    for (int64_t e = 0; d->aux && e < d->m * d->n; e++)
    {
        const double want = product(d, o, 0, e / d->n, e % d->n), got = get(o->after + o->at[AUX], e, d->dtype_c);
        memset(owned + (size_t)o->at[AUX] * sizeof(float) + (size_t)e * elem_bytes, 1, elem_bytes);
        if (!(fabs(got - want) <= bound))
            fail_msg("aux [%lld,%lld] is %.9g, expected %.9g", (long long)(e / d->n), (long long)(e % d->n), got, want);
    }
    for (int64_t j = 0; d->sums && j < d->n; j++)
    {
        double want = 0;
        for (int64_t p = 0; p < d->k; p++)
            want += get(o->before + o->at[B], p * d->n + j, d->dtype_ab);
        const double got = (double)o->after[o->at[SUMS] + j];
        memset(owned + (size_t)(o->at[SUMS] + j) * sizeof(float), 1, sizeof(float));
        if (!(fabs(got - want) <= 2e-6 * ((double)d->k + 2)))
            fail_msg("sum %lld is %.9g, expected %.9g", (long long)j, got, want);
    }
}

/* Every element of what is written is right, everything else is as it was. */
static void check(const GemmDesc *d, const Operands *o, int64_t residual)
{
    const size_t elem_bytes = d->dtype_c == GEMM_F32 ? 4 : 2, n_bytes = (size_t)o->n_elems * sizeof(float);
    /* a split product is rounded twice */
    const double bound = d->dtype_c == GEMM_F32 ? 2e-6 * ((double)d->k + 2) : 0x1p-7 * ((double)d->k + 2) / 2;
    char *owned = calloc(n_bytes, 1);
    assert_non_null(owned);
    for (int64_t e = 0; e < d->batch * d->m * d->n; e++)
    {
        const int64_t j = e % d->n, i = e / d->n % d->m, item = e / d->n / d->m;
        const int64_t at = item * d->stride_c + i * d->ldc + j;
        const double want = expected(d, o, residual, item, i, j), got = get(o->after + o->at[C], at, d->dtype_c);
        memset(owned + (size_t)o->at[C] * sizeof(float) + (size_t)at * elem_bytes, 1, elem_bytes);
        if (!(fabs(got - want) <= bound))
            fail_msg("[%lld][%lld,%lld] is %.9g, expected %.9g", (long long)item, (long long)i, (long long)j, got,
                     want);
    }
    check_rest(d, o, bound, owned);
    for (size_t i = 0; i < n_bytes; i++)
        if (!owned[i] && ((const char *)o->after)[i] != ((const char *)o->before)[i])
            fail_msg("byte %zu, which is of no result, was written", i);
    free(owned);
}

static void run_desc(HalDevice *device, const GemmDesc *d, bool residual_is_c)
{
    Operands o;
    HalBuffer *buffer = NULL;
    const HalGemm *gemm = NULL;
    fill(&o, d);
    fill_bf16(&o, d);
    const size_t size_bytes = (size_t)o.n_elems * sizeof(float);
    if (hal_gemm_create(device, d, &gemm) != STATUS_OK)
        fail_msg("%s", status_detail());
    assert_int_equal(hal_buffer_create(device, size_bytes, &buffer), STATUS_OK);
    float *x = hal_buffer_address(buffer);
    const int64_t residual = o.at[residual_is_c ? C : RESIDUAL];
    const GemmArgs args = {.a = x + o.at[A],
                           .b = x + o.at[B],
                           .c = x + o.at[C],
                           .bias = d->bias ? x + o.at[BIAS] : NULL,
                           .residual = d->residual ? x + residual : NULL,
                           .aux = d->aux || d->dact != GEMM_ACT_none ? x + o.at[AUX] : NULL,
                           .sums = d->sums ? x + o.at[SUMS] : NULL};
    assert_int_equal(hal_copy(device, HAL_COPY_TO_DEVICE, x, o.before, size_bytes), STATUS_OK);
    if (hal_gemm_run(device, gemm, &args) != STATUS_OK)
        fail_msg("%s", status_detail());
    assert_int_equal(hal_sync(device), STATUS_OK);
    assert_int_equal(hal_copy(device, HAL_COPY_FROM_DEVICE, o.after, x, size_bytes), STATUS_OK);
    check(d, &o, residual);
    hal_buffer_destroy(buffer);
    free(o.before);
    free(o.after);
}

/* ---- tests */

static bool is_split(const GemmDesc *d)
{
    return d->act == GEMM_ACT_gelu_erf || d->act == GEMM_ACT_silu ||
           (d->act != GEMM_ACT_none && (d->residual || d->accumulate));
}

static void every_flag_alone_and_with_others(void **state)
{
    (void)state;
    if (!fixture_has_compiler())
        TEST_SKIP("no C++ compiler: the mock of NVRTC cannot compile");
    HalDevice *device = fixture_device();
    uint32_t n_run = 0;
    for (uint32_t act = 0; act < GEMM_ACT_COUNT; act++)
        for (uint32_t flags = 0; flags < 32; flags++)
        {
            GemmDesc d = gemm_desc_make(5, 7, 11, flags & 1, flags & 2);
            d.act = (GemmAct)act;
            d.bias = flags & 4;
            d.residual = flags & 8;
            d.accumulate = flags & 16;
            if (d.residual && d.accumulate)
                continue; /* gemm.h: not both */
            d.ldr = d.n;
            run_desc(device, &d, false);
            if (d.residual)
                run_desc(device, &d, true);
            n_run++;
            if (flags & 3)
                continue;
            d.dtype_ab = GEMM_BF16;
            run_desc(device, &d, false);
            d.dtype_c = d.dtype_bias = GEMM_BF16;
            run_desc(device, &d, false);
            n_run += 2;
        }
    printf("%u contractions\n", n_run);
    assert_true(n_run >= 100);
    hal_device_destroy(device);
}

/* The parts of a training step: in the epilogue, or split where rows are no whole multiples of 8 or the library
 * refuses. */
static uint32_t run_step_parts(HalDevice *device, int64_t n, GemmDtype dtype)
{
    uint32_t n_run = 0;
    for (uint32_t flags = 0; flags < 4; flags++)
    {
        GemmDesc d = gemm_desc_make(5, n, 11, flags & 1, flags & 2);
        d.dtype_ab = d.dtype_c = d.dtype_bias = dtype;
        d.act = GEMM_ACT_gelu_tanh;
        d.aux = true;
        d.bias = flags != 1;
        run_desc(device, &d, false);
        d.aux = d.bias = false;
        d.act = GEMM_ACT_none;
        d.dact = GEMM_ACT_gelu_tanh;
        run_desc(device, &d, false);
        d.dact = GEMM_ACT_none;
        d.dtype_c = GEMM_F32;
        d.sums = true;
        d.accumulate = flags == 1;
        n_run += flags & 2 ? 2 : 3;
        if (!(flags & 2))
            run_desc(device, &d, false);
    }
    return n_run;
}

static void the_parts_of_a_training_step(void **state)
{
    (void)state;
    if (!fixture_has_compiler())
        TEST_SKIP("no C++ compiler: the mock of NVRTC cannot compile");
    static const char *const refused[] = {"160", "164", "192", "256"};
    HalDevice *device = fixture_device();
    uint32_t n_run = run_step_parts(device, 8, GEMM_F32) + run_step_parts(device, 8, GEMM_BF16) +
                     run_step_parts(device, 7, GEMM_F32);
    hal_device_destroy(device);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
    {
        setenv("MOCK_CUDA_NO_EPILOGUE", refused[i], 1);
        device = fixture_device();
        n_run += run_step_parts(device, 8, GEMM_BF16);
        hal_device_destroy(device);
    }
    unsetenv("MOCK_CUDA_NO_EPILOGUE");
    printf("%u contractions\n", n_run);
    assert_int_equal(n_run, 70);
}

static void random_strides_and_batches(void **state)
{
    (void)state;
    HalDevice *device = fixture_device();
    for (int round = 0; round < 300; round++)
    {
        GemmDesc d = gemm_desc_make(1 + below(9), 1 + below(9), 1 + below(12), below(2), below(2));
        d.bias = below(2);
        d.residual = below(2);
        d.accumulate = !d.residual && below(2);
        d.act = d.residual || d.accumulate ? GEMM_ACT_none : below(2) ? GEMM_ACT_relu : GEMM_ACT_gelu_tanh;
        d.lda += below(4);
        d.ldb += below(4);
        d.ldc += below(4);
        d.ldr = d.n + below(4);
        d.batch = 1 + below(3);
        d.stride_a = below(4) ? (d.trans_a ? d.k : d.m) * d.lda + below(5) : 0;
        d.stride_b = below(4) ? (d.trans_b ? d.n : d.k) * d.ldb + below(5) : 0;
        d.stride_c = d.m * d.ldc + below(5);
        d.stride_r = d.m * d.ldr + below(5);
        assert_false(is_split(&d));
        run_desc(device, &d, false);
    }
    hal_device_destroy(device);
}

/* 256 + 1 is 256 in bf16, 256 + 1 + 1 is 258. */
static void products_of_bf16_are_added_in_f32(void **state)
{
    (void)state;
    static const uint16_t ones[3] = {0x3F80, 0x3F80, 0x3F80}, numbers[3] = {0x4380, 0x3F80, 0x3F80};
    HalDevice *device = fixture_device();
    HalBuffer *buffer = NULL;
    const HalGemm *gemm = NULL;
    uint16_t got = 0;
    GemmDesc d = gemm_desc_make(1, 1, 3, false, false);
    d.dtype_ab = d.dtype_c = d.dtype_bias = GEMM_BF16;
    assert_int_equal(hal_gemm_create(device, &d, &gemm), STATUS_OK);
    assert_int_equal(hal_buffer_create(device, 1024, &buffer), STATUS_OK);
    char *x = hal_buffer_address(buffer);
    const GemmArgs args = {.a = x, .b = x + 256, .c = x + 512};
    assert_int_equal(hal_copy(device, HAL_COPY_TO_DEVICE, x, ones, sizeof ones), STATUS_OK);
    assert_int_equal(hal_copy(device, HAL_COPY_TO_DEVICE, x + 256, numbers, sizeof numbers), STATUS_OK);
    assert_int_equal(hal_gemm_run(device, gemm, &args), STATUS_OK);
    assert_int_equal(hal_copy(device, HAL_COPY_FROM_DEVICE, &got, x + 512, sizeof got), STATUS_OK);
    assert_int_equal(got, 0x4381);
    hal_buffer_destroy(buffer);
    hal_device_destroy(device);
}

/* What cuBLASLt is asked, in its own terms. */
static void calls_are_as_planned(void **state)
{
    (void)state;
    static const char *const calls =
        /* 64x10 = (64x784) (784x10): m and n exchanged, B first */
        "A 10x784 ld 10 op 0 type 0, B 784x64 ld 784 op 0, C ld 10, D 10x64 ld 10 type 0, batch 1 strides 0 0 0 0, "
        "epilogue 1, workspace 33554432, reductions 2, alignment 64 64 64 64\n"
        /* transposed A: the gradient of weights */
        "A 10x64 ld 10 op 0 type 0, B 784x64 ld 784 op 1, C ld 10, D 10x784 ld 10 type 0, batch 1 strides 0 0 0 0, "
        "epilogue 1, workspace 33554432, reductions 2, alignment 64 64 64 64\n"
        /* transposed B, batched: scores of attention */
        "A 32x49 ld 32 op 1 type 0, B 32x49 ld 32 op 0, C ld 49, D 49x49 ld 49 type 0, batch 8 strides 1568 1568 2401 "
        "2401, epilogue 1, workspace 33554432, reductions 2, alignment 64 64 64 64\n"
        /* bias and gelu */
        "A 10x784 ld 10 op 0 type 0, B 784x64 ld 784 op 0, C ld 10, D 10x64 ld 10 type 0, batch 1 strides 0 0 0 0, "
        "epilogue 36, workspace 33554432, reductions 2, alignment 64 64 64 64\n"
        /* a residual with rows of another length */
        "A 10x784 ld 10 op 0 type 0, B 784x64 ld 784 op 0, C ld 12, D 10x64 ld 10 type 0, batch 1 strides 0 0 0 0, "
        "epilogue 4, workspace 33554432, reductions 2, alignment 64 64 64 64\n"
        /* bf16 operands and result */
        "A 10x784 ld 10 op 0 type 14, B 784x64 ld 784 op 0, C ld 10, D 10x64 ld 10 type 14, batch 1 strides 0 0 0 0, "
        "epilogue 2, workspace 33554432, reductions 2, alignment 64 64 64 64\n"
        /* bf16 operands, f32 result */
        "A 10x784 ld 10 op 0 type 14, B 784x64 ld 784 op 0, C ld 10, D 10x64 ld 10 type 0, batch 1 strides 0 0 0 0, "
        "epilogue 1, workspace 33554432, reductions 2, alignment 64 64 64 64\n"
        "A 10x784 ld 10 op 0 type 0, B 784x64 ld 784 op 0, C ld 10, D 10x64 ld 10 type 0, batch 1 strides 0 0 0 0, "
        "epilogue 1, workspace 33554432, reductions 2, alignment 64 64 64 64\n"
        /* bias, gelu and its operand */
        "A 16x784 ld 16 op 0 type 14, B 784x64 ld 784 op 0, C ld 16, D 16x64 ld 16 type 14, batch 1 strides 0 0 0 0, "
        "epilogue 164, workspace 33554432, reductions 2, alignment 64 64 64 64, aux ld 16 type 14\n"
        /* the gradient of gelu, B transposed */
        "A 784x16 ld 784 op 1 type 0, B 784x64 ld 784 op 0, C ld 16, D 16x64 ld 16 type 0, batch 1 strides 0 0 0 0, "
        "epilogue 192, workspace 33554432, reductions 2, alignment 64 64 64 64, aux ld 16 type 0\n"
        /* the gradient of weights and of a bias: sums over k of our B, which is its A */
        "A 16x784 ld 16 op 0 type 14, B 64x784 ld 64 op 1, C ld 16, D 16x64 ld 16 type 0, batch 1 strides 0 0 0 0, "
        "epilogue 256, workspace 33554432, reductions 2, alignment 64 64 64 64, sums type 0\n";
    enum
    {
        N_DESCS = 11
    };
    GemmDesc d[N_DESCS];
    for (int i = 0; i < 8; i++)
        d[i] = gemm_desc_make(64, 10, 784, false, false);
    d[1] = gemm_desc_make(784, 10, 64, true, false);
    d[2] = gemm_desc_make(49, 49, 32, false, true);
    d[2].batch = 8;
    d[2].stride_a = d[2].stride_b = 49 * 32;
    d[2].stride_c = 49 * 49;
    d[3].bias = true;
    d[3].act = GEMM_ACT_gelu_tanh;
    d[4].bias = d[4].residual = true;
    d[4].ldr = 12;
    d[5].dtype_ab = d[5].dtype_c = GEMM_BF16;
    d[5].act = GEMM_ACT_relu;
    d[6].dtype_ab = GEMM_BF16;
    d[7].tf32 = true;
    for (int i = 8; i < N_DESCS; i++)
        d[i] = gemm_desc_make(64, 16, 784, i == 10, i == 9);
    d[8].dtype_ab = d[8].dtype_c = d[8].dtype_bias = d[10].dtype_ab = GEMM_BF16;
    d[8].bias = d[8].aux = d[10].sums = true;
    d[8].act = d[9].dact = GEMM_ACT_gelu_tanh;
    Arena *arena = arena_create();
    HalDevice *device = fixture_device();
    const HalGemm *gemm = NULL;
    fixture_log_start();
    for (int i = 0; i < N_DESCS; i++)
        if (hal_gemm_create(device, &d[i], &gemm) != STATUS_OK)
            fail_msg("%s", status_detail());
    const char *log = fixture_log_stop(arena);
    StrBuf got = strbuf_make(arena);
    static const char symbol[] = "cublasLtMatmulAlgoGetHeuristic ";
    for (const char *at = log; (at = strstr(at, symbol)); at++)
        strbuf_add_bytes(&got, at + strlen(symbol), strcspn(at, "\n") + 1 - strlen(symbol));
    assert_string_equal(strbuf_text(&got), calls);
    assert_non_null(strstr(log, "cublasLtMatmulDescCreate compute 68 scale 0\n"));
    assert_non_null(strstr(log, "cublasLtMatmulDescCreate compute 77 scale 0\n")); /* tf32 */
    hal_device_destroy(device);
    arena_destroy(arena);
}

/* A split contraction is one product into the workspace and one kernel; one that the epilogue can do is one call. */
static void what_the_epilogue_cannot_do_is_split(void **state)
{
    (void)state;
    if (!fixture_has_compiler())
        TEST_SKIP("no C++ compiler: the mock of NVRTC cannot compile");
    Arena *arena = arena_create();
    HalDevice *device = fixture_device();
    GemmDesc d = gemm_desc_make(8, 16, 4, false, false);
    d.bias = d.residual = true;
    d.ldr = 16;
    fixture_log_start();
    run_desc(device, &d, true);
    const char *log = fixture_log_stop(arena);
    assert_non_null(strstr(log, "cublasLtMatmul alpha 1 beta 1 epilogue 4 in place 1 workspace 4096 algorithm 0\n"));
    assert_null(strstr(log, "cuLaunchKernel"));
    d.act = GEMM_ACT_relu;
    fixture_log_start();
    run_desc(device, &d, true);
    log = fixture_log_stop(arena);
    assert_non_null(strstr(log, "cublasLtMatmul alpha 1 beta 0 epilogue 4 in place 1 workspace 4096 algorithm 0\n"));
    assert_non_null(strstr(log, "cuLaunchKernel k0_0 grid 1 1 1 block 256 1 1 smem 0\n"));
    assert_int_equal(hal_memory_info(device).workspace_bytes, 8 * 16 * 4 + 4096);
    hal_device_destroy(device);
    arena_destroy(arena);
}

static void what_there_is_no_way_for_is_refused(void **state)
{
    (void)state;
    HalDevice *device = fixture_device();
    const HalGemm *gemm = NULL;
    GemmDesc d = gemm_desc_make(4, 5, 6, true, false);
    d.act = GEMM_ACT_silu;
    d.ldc = 8;
    fixture_expect(
        hal_gemm_create(device, &d, &gemm), STATUS_UNSUPPORTED, 3,
        "device 'cuda': the contraction 1 x 4x5x6, A transposed, silu: no support for an activation in a kernel "
        "of its own, with gaps between rows");
    d = gemm_desc_make(4, 5, 6, false, false);
    d.residual = d.accumulate = true;
    fixture_expect(hal_gemm_create(device, &d, &gemm), STATUS_UNSUPPORTED, 3, "a residual and accumulation");
    d = gemm_desc_make(4, 5, 6, false, false);
    d.dtype_ab = d.dtype_c = GEMM_BF16;
    d.bias = true;
    fixture_expect(hal_gemm_create(device, &d, &gemm), STATUS_UNSUPPORTED, 3,
                   "a bias that is not of the result's type");
    assert_null(gemm);
    hal_device_destroy(device);
}

static void failures_are_told(void **state)
{
    (void)state;
    HalDevice *device = fixture_device();
    const HalGemm *gemm = NULL, *again = NULL;
    GemmDesc d = gemm_desc_make(4, 5, 6, false, true);
    setenv("MOCK_CUDA_FAIL", "cublasLtMatmulAlgoGetHeuristic:1:15", 1);
    fixture_expect(hal_gemm_create(device, &d, &gemm), STATUS_UNSUPPORTED, 3,
                   "cuBLASLt, planning the contraction 1 x 4x5x6, B transposed: CUBLAS_STATUS_NOT_SUPPORTED");
    setenv("MOCK_CUDA_FAIL", "cublasLtMatmulDescCreate:1:3", 1);
    fixture_expect(hal_gemm_create(device, &d, &gemm), STATUS_DEVICE, 3, "cuBLASLt, describing the contraction");
    setenv("MOCK_CUDA_FAIL", "cuMemAlloc_v2:1:2", 1);
    fixture_expect(hal_gemm_create(device, &d, &gemm), STATUS_OUT_OF_MEMORY, 5,
                   "workspace of kernels and contractions");
    unsetenv("MOCK_CUDA_FAIL");
    assert_null(gemm);
    assert_int_equal(hal_gemm_create(device, &d, &gemm), STATUS_OK);
    assert_int_equal(hal_gemm_create(device, &d, &again), STATUS_OK);
    assert_ptr_equal(gemm, again);
    HalBuffer *buffer = NULL;
    assert_int_equal(hal_buffer_create(device, 1024, &buffer), STATUS_OK);
    float *x = hal_buffer_address(buffer);
    const GemmArgs args = {.a = x, .b = x + 64, .c = x + 128};
    setenv("MOCK_CUDA_FAIL", "cublasLtMatmul:1:13", 1);
    fixture_expect(hal_gemm_run(device, gemm, &args), STATUS_DEVICE, 3, "cuBLASLt, running the contraction 1 x 4x5x6");
    unsetenv("MOCK_CUDA_FAIL");
    hal_buffer_destroy(buffer);
    hal_device_destroy(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_flag_alone_and_with_others),
        cmocka_unit_test(the_parts_of_a_training_step),
        cmocka_unit_test(random_strides_and_batches),
        cmocka_unit_test(products_of_bf16_are_added_in_f32),
        cmocka_unit_test(calls_are_as_planned),
        cmocka_unit_test(what_the_epilogue_cannot_do_is_split),
        cmocka_unit_test(what_there_is_no_way_for_is_refused),
        cmocka_unit_test(failures_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
