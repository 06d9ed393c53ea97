/* libcublasLt on the host, from its documentation: column-major matrices, D = act(alpha op(A) op(B) + beta C + bias),
 * in f32, gelu's operand as a second result, its gradient, and sums of A over k. $MOCK_CUDA_NO_EPILOGUE is one that it
 * refuses. Partial sums over k are of D's type, unless that is forbidden. Asks the alignments that it was promised of
 * what it is given. Its calls are recorded as what they mean. */
#include "mock.h"

#include <math.h>
#include <stdbool.h>

enum
{
    INVALID_VALUE = 7,
    ALGO_MARK = 0x5eed,
    ALGO_WORKSPACE_BYTES = 4096
};

struct cublasLtContext
{
    int unused;
};

struct BlasLtMatmul
{
    int32_t transa, transb, bias_type, aux_type;
    uint32_t epilogue;
    const void *bias;
    void *aux;
    int64_t aux_ld;
};

struct BlasLtLayout
{
    int type;
    int64_t rows, cols, ld, batch_stride;
    int32_t batch;
};

struct BlasLtPreference
{
    uint64_t max_workspace_bytes;
    uint32_t reductions, alignment[4];
};

static uint32_t promised_alignment = 256;

EXPORT size_t cublasLtGetVersion(void)
{
    return (size_t)mock_number("MOCK_CUDA_BLASLT", 130000);
}

EXPORT const char *cublasLtGetStatusString(CuResult result)
{
    return result == BLASLT_NOT_SUPPORTED ? "CUBLAS_STATUS_NOT_SUPPORTED" : "CUBLAS_STATUS_OF_THE_MOCK";
}

EXPORT CuResult cublasLtCreate(BlasLtHandle *handle)
{
    MOCK("cublasLtCreate", " ");
    *handle = calloc(1, sizeof **handle);
    return 0;
}

EXPORT CuResult cublasLtDestroy(BlasLtHandle handle)
{
    MOCK("cublasLtDestroy", " ");
    free(handle);
    return 0;
}

EXPORT CuResult cublasLtMatmulDescCreate(BlasLtMatmul *matmul, int compute_type, int scale_type)
{
    MOCK("cublasLtMatmulDescCreate", "compute %d scale %d", compute_type, scale_type);
    *matmul = calloc(1, sizeof **matmul);
    (*matmul)->epilogue = BLASLT_EPILOGUE_NONE;
    return 0;
}

EXPORT CuResult cublasLtMatmulDescDestroy(BlasLtMatmul matmul)
{
    free(matmul);
    return 0;
}

/* Attributes come with their sizes, which must be right. */
static CuResult set(void *to, size_t wanted_bytes, const void *value, size_t size_bytes)
{
    if (size_bytes != wanted_bytes)
        return INVALID_VALUE;
    memcpy(to, value, size_bytes);
    return 0;
}

EXPORT CuResult cublasLtMatmulDescSetAttribute(BlasLtMatmul m, int attribute, const void *value, size_t size_bytes)
{
    switch (attribute)
    {
    case BLASLT_DESC_TRANSA:
        return set(&m->transa, sizeof m->transa, value, size_bytes);
    case BLASLT_DESC_TRANSB:
        return set(&m->transb, sizeof m->transb, value, size_bytes);
    case BLASLT_DESC_EPILOGUE:
        return set(&m->epilogue, sizeof m->epilogue, value, size_bytes);
    case BLASLT_DESC_BIAS_POINTER:
        return set(&m->bias, sizeof m->bias, value, size_bytes);
    case BLASLT_DESC_AUX_POINTER:
        return set(&m->aux, sizeof m->aux, value, size_bytes);
    case BLASLT_DESC_AUX_LD:
        return set(&m->aux_ld, sizeof m->aux_ld, value, size_bytes);
    case BLASLT_DESC_AUX_TYPE:
        return set(&m->aux_type, sizeof m->aux_type, value, size_bytes);
    case BLASLT_DESC_BIAS_TYPE:
        return set(&m->bias_type, sizeof m->bias_type, value, size_bytes);
    default:
        return INVALID_VALUE;
    }
}

EXPORT CuResult cublasLtMatrixLayoutCreate(BlasLtLayout *layout, int type, uint64_t rows, uint64_t cols, int64_t ld)
{
    *layout = calloc(1, sizeof **layout);
    **layout = (struct BlasLtLayout){.type = type, .rows = (int64_t)rows, .cols = (int64_t)cols, .ld = ld, .batch = 1};
    return 0;
}

EXPORT CuResult cublasLtMatrixLayoutDestroy(BlasLtLayout layout)
{
    free(layout);
    return 0;
}

EXPORT CuResult cublasLtMatrixLayoutSetAttribute(BlasLtLayout l, int attribute, const void *value, size_t size_bytes)
{
    switch (attribute)
    {
    case BLASLT_LAYOUT_BATCH_COUNT:
        return set(&l->batch, sizeof l->batch, value, size_bytes);
    case BLASLT_LAYOUT_BATCH_STRIDE:
        return set(&l->batch_stride, sizeof l->batch_stride, value, size_bytes);
    default:
        return INVALID_VALUE;
    }
}

EXPORT CuResult cublasLtMatmulPreferenceCreate(BlasLtPreference *preference)
{
    *preference = calloc(1, sizeof **preference);
    **preference = (struct BlasLtPreference){0, 7, {256, 256, 256, 256}};
    return 0;
}

EXPORT CuResult cublasLtMatmulPreferenceDestroy(BlasLtPreference preference)
{
    free(preference);
    return 0;
}

EXPORT CuResult cublasLtMatmulPreferenceSetAttribute(BlasLtPreference p, int attribute, const void *value,
                                                     size_t size_bytes)
{
    if (attribute == BLASLT_PREF_MAX_WORKSPACE)
        return set(&p->max_workspace_bytes, sizeof p->max_workspace_bytes, value, size_bytes);
    if (attribute == BLASLT_PREF_REDUCTIONS)
        return set(&p->reductions, sizeof p->reductions, value, size_bytes);
    if (attribute >= BLASLT_PREF_ALIGNMENT_A && attribute < BLASLT_PREF_ALIGNMENT_A + 4)
        return set(&p->alignment[attribute - BLASLT_PREF_ALIGNMENT_A], sizeof *p->alignment, value, size_bytes);
    return INVALID_VALUE;
}

/* Shapes must fit; the sizes of op(A) are (m, k), of op(B) (k, n), of C and D (m, n). */
static bool fits(const struct BlasLtMatmul *mm, const struct BlasLtLayout *a, const struct BlasLtLayout *b,
                 const struct BlasLtLayout *c, const struct BlasLtLayout *d)
{
    const int64_t k = mm->transa ? a->rows : a->cols;
    return (mm->transa ? a->cols : a->rows) == d->rows && (mm->transb ? b->cols : b->rows) == k &&
           (mm->transb ? b->rows : b->cols) == d->cols && c->rows == d->rows && c->cols == d->cols &&
           a->ld >= a->rows && b->ld >= b->rows && c->ld >= c->rows && d->ld >= d->rows && a->batch == d->batch &&
           b->batch == d->batch && c->batch == d->batch && a->type == b->type && c->type == d->type;
}

/* What the documentation asks of an epilogue, and what the library answers otherwise. */
static CuResult check_epilogue(const struct BlasLtMatmul *mm, const struct BlasLtLayout *d)
{
    const uint32_t act = mm->epilogue & ~(uint32_t)BLASLT_EPILOGUE_BIAS;
    const bool sums = mm->epilogue == BLASLT_EPILOGUE_BGRADA, aux = mm->epilogue & BLASLT_EPILOGUE_AUX;
    if (mm->epilogue == (uint32_t)mock_number("MOCK_CUDA_NO_EPILOGUE", 0) || (sums && mm->transa))
        return BLASLT_NOT_SUPPORTED;
    if (!sums && mm->epilogue != BLASLT_EPILOGUE_DGELU && mm->epilogue != BLASLT_EPILOGUE_BIAS &&
        act != BLASLT_EPILOGUE_NONE && act != BLASLT_EPILOGUE_RELU && act != BLASLT_EPILOGUE_GELU &&
        act != (BLASLT_EPILOGUE_GELU | BLASLT_EPILOGUE_AUX))
        return INVALID_VALUE;
    if (sums && (!mm->bias || mm->bias_type != d->type))
        return INVALID_VALUE;
    return aux && (!mm->aux || (uintptr_t)mm->aux % 16 || mm->aux_type != d->type || mm->aux_ld % 8 ||
                   mm->aux_ld < d->rows || d->batch != 1)
               ? INVALID_VALUE
               : 0;
}

/* ---- algorithms */

static uint64_t mixed(uint64_t h, uint64_t x)
{
    h = (h ^ x) * UINT64_C(0x9E3779B97F4A7C15);
    return h ^ h >> 29;
}

/* Of all that is asked but addresses. */
static uint64_t hash_of(const struct BlasLtMatmul *mm, const struct BlasLtLayout *const layouts[4])
{
    const int64_t of_all[] = {mm->transa, mm->transb, mm->bias_type, mm->aux_type, mm->epilogue, mm->aux_ld};
    uint64_t h = 1;
    for (size_t i = 0; i < sizeof of_all / sizeof *of_all; i++)
        h = mixed(h, (uint64_t)of_all[i]);
    for (size_t i = 0; i < 4; i++)
    {
        const struct BlasLtLayout *l = layouts[i];
        const int64_t of_one[] = {l->type, l->rows, l->cols, l->ld, l->batch_stride, l->batch};
        for (size_t j = 0; j < sizeof of_one / sizeof *of_one; j++)
            h = mixed(h, (uint64_t)of_one[j]);
    }
    return h;
}

/* Algorithm 0 takes all epilogues. */
static bool takes(unsigned number, uint32_t epilogue)
{
    return !number || !mock_number("MOCK_CUDA_ORDERS", 0) || mixed(number, epilogue) % 2 == 0;
}

/* The number-th of $MOCK_CUDA_ALGORITHMS, if there are so many; *ms: below 0 when it does not run. */
static bool algorithm(unsigned number, uint64_t hash, double *ms)
{
    const char *at = getenv("MOCK_CUDA_ALGORITHMS");
    const unsigned n_orders = (unsigned)mock_number("MOCK_CUDA_ORDERS", 0);
    if (n_orders)
    {
        *ms = (double)(mixed(hash, number) % 16) + 1;
        return number < n_orders;
    }
    at = at && *at ? at : "1";
    for (; number > 0 && *at; number--)
    {
        at += strcspn(at, ":");
        at += *at == ':';
    }
    *ms = *at == 'x' ? -1 : atof(at);
    return *at != 0;
}

EXPORT CuResult cublasLtMatmulAlgoGetHeuristic(BlasLtHandle handle, BlasLtMatmul mm, BlasLtLayout a, BlasLtLayout b,
                                               BlasLtLayout c, BlasLtLayout d, BlasLtPreference preference,
                                               int n_wanted, BlasLtHeuristic *results, int *n_results)
{
    char vectors[64] = "";
    if (mm->epilogue & BLASLT_EPILOGUE_AUX)
        snprintf(vectors, sizeof vectors, ", aux ld %lld type %d", (long long)mm->aux_ld, mm->aux_type);
    else if (mm->epilogue == BLASLT_EPILOGUE_BGRADA)
        snprintf(vectors, sizeof vectors, ", sums type %d", mm->bias_type);
    MOCK("cublasLtMatmulAlgoGetHeuristic",
         "A %lldx%lld ld %lld op %d type %d, B %lldx%lld ld %lld op %d, C ld %lld, D %lldx%lld ld %lld type %d, batch "
         "%d strides %lld %lld %lld %lld, epilogue %u, workspace %llu, reductions %u, alignment %u %u %u %u%s",
         (long long)a->rows, (long long)a->cols, (long long)a->ld, mm->transa, a->type, (long long)b->rows,
         (long long)b->cols, (long long)b->ld, mm->transb, (long long)c->ld, (long long)d->rows, (long long)d->cols,
         (long long)d->ld, d->type, d->batch, (long long)a->batch_stride, (long long)b->batch_stride,
         (long long)c->batch_stride, (long long)d->batch_stride, mm->epilogue,
         (unsigned long long)preference->max_workspace_bytes, preference->reductions, preference->alignment[0],
         preference->alignment[1], preference->alignment[2], preference->alignment[3], vectors);
    (void)handle;
    const char *meanwhile = getenv("MOCK_CUDA_MEANWHILE");
    if (meanwhile && system(meanwhile) != 0)
        return INVALID_VALUE;
    *n_results = 0;
    if (!fits(mm, a, b, c, d) || n_wanted < 1)
        return INVALID_VALUE;
    if (preference->max_workspace_bytes < ALGO_WORKSPACE_BYTES)
        return BLASLT_NOT_SUPPORTED;
    if (check_epilogue(mm, d) != 0)
        return check_epilogue(mm, d);
    promised_alignment = preference->alignment[0];
    const unsigned n_orders = (unsigned)mock_number("MOCK_CUDA_ORDERS", 0);
    const uint64_t hash = hash_of(mm, (const struct BlasLtLayout *[]){a, b, c, d});
    double ms;
    for (unsigned i = 0; *n_results < n_wanted && algorithm(i, hash, &ms); i++)
    {
        const unsigned number = n_orders ? (unsigned)(hash + i) % n_orders : i;
        if (takes(number, mm->epilogue))
            results[(*n_results)++] =
                (BlasLtHeuristic){.algo = {{ALGO_MARK, number, preference->reductions & ~2U, n_orders}},
                                  .workspace_bytes = ALGO_WORKSPACE_BYTES};
    }
    return 0;
}

EXPORT CuResult cublasLtMatmulAlgoCheck(BlasLtHandle handle, BlasLtMatmul mm, BlasLtLayout a, BlasLtLayout b,
                                        BlasLtLayout c, BlasLtLayout d, const BlasLtAlgo *algo, BlasLtHeuristic *result)
{
    MOCK("cublasLtMatmulAlgoCheck", "%u", (unsigned)algo->data[1]);
    double ms;
    (void)handle;
    promised_alignment = 64;
    *result = (BlasLtHeuristic){.workspace_bytes = ALGO_WORKSPACE_BYTES};
    return algo->data[0] == ALGO_MARK && algorithm((unsigned)algo->data[1], 0, &ms) &&
                   takes((unsigned)algo->data[1], mm->epilogue) && fits(mm, a, b, c, d) && check_epilogue(mm, d) == 0
               ? 0
               : INVALID_VALUE;
}

/* Elements are f32 or bf16, the upper half of one. */
static float load(const void *base, int type, int64_t i)
{
    if (type == BLASLT_F32)
        return ((const float *)base)[i];
    const uint32_t bits = (uint32_t)((const uint16_t *)base)[i] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void store(void *base, int type, int64_t i, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (type == BLASLT_F32)
        ((float *)base)[i] = x;
    else
        ((uint16_t *)base)[i] = (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16); /* to nearest, ties to even */
}

static float at(const void *matrix, const struct BlasLtLayout *l, int32_t item, int64_t row, int64_t col)
{
    return load(matrix, l->type, item * l->batch_stride + col * l->ld + row);
}

static float activated(uint32_t epilogue, float x)
{
    if (epilogue & BLASLT_EPILOGUE_RELU)
        return x > 0 ? x : 0;
    if (epilogue & BLASLT_EPILOGUE_GELU)
        return 0.5F * x * (1 + tanhf(0.7978845608F * (x + 0.044715F * x * x * x)));
    return x;
}

static float gelu_slope(float x)
{
    const float k = 0.7978845608F, t = tanhf(k * (x + 0.044715F * x * x * x));
    return 0.5F * (1 + t) + 0.5F * x * (1 - t * t) * k * (1 + 3 * 0.044715F * x * x);
}

static bool aligned(const void *address)
{
    return (uintptr_t)address % promised_alignment == 0;
}

typedef struct
{
    struct BlasLtMatmul mm;
    struct BlasLtLayout la, lb, lc, ld;
    const void *a, *b, *c;
    void *d;
    float alpha, beta;
    void *workspace;
    size_t workspace_bytes;
    BlasLtAlgo algo;
} Product;

static float sum_over_k(const Product *p, int32_t item, int64_t row, int64_t col)
{
    const struct BlasLtMatmul *mm = &p->mm;
    const int64_t k = mm->transa ? p->la.rows : p->la.cols;
    const int64_t first = p->algo.data[3] ? (int64_t)p->algo.data[1] * k / (int64_t)p->algo.data[3] : 0;
    double sum = 0;
    for (int64_t n = 0, i = first; n < k; n++, i = i + 1 < k ? i + 1 : 0)
    {
        sum += (double)(mm->transa ? at(p->a, &p->la, item, i, row) : at(p->a, &p->la, item, row, i)) *
               (double)(mm->transb ? at(p->b, &p->lb, item, col, i) : at(p->b, &p->lb, item, i, col));
        sum = p->algo.data[3] ? (double)(float)sum : sum;
        if (n == k / 2 && p->algo.data[2])
        {
            float partial;
            store(&partial, p->ld.type, 0, (float)sum);
            sum = (double)load(&partial, p->ld.type, 0);
        }
    }
    return (float)sum;
}

/* Sums of A's rows, not scaled, in the place of a bias. */
static void sum_rows(const Product *p)
{
    for (int64_t row = 0; row < p->la.rows; row++)
    {
        double sum = 0;
        for (int64_t i = 0; i < p->la.cols; i++)
            sum += (double)at(p->a, &p->la, 0, row, i);
        store((void *)(uintptr_t)p->mm.bias, p->mm.bias_type, row, (float)sum);
    }
}

static CuResult compute(const void *args)
{
    const Product *p = args;
    const struct BlasLtMatmul *mm = &p->mm;
    memset(p->workspace, 0xFF, p->workspace_bytes);
    for (int32_t item = 0; item < p->ld.batch; item++)
        for (int64_t col = 0; col < p->ld.cols; col++)
            for (int64_t row = 0; row < p->ld.rows; row++)
            {
                float x = p->alpha * sum_over_k(p, item, row, col);
                if (p->beta != 0)
                    x += p->beta * at(p->c, &p->lc, item, row, col);
                if (mm->epilogue & BLASLT_EPILOGUE_BIAS)
                    x += load(mm->bias, mm->bias_type, row);
                if (mm->epilogue == BLASLT_EPILOGUE_DGELU)
                    x *= gelu_slope(load(mm->aux, mm->aux_type, col * mm->aux_ld + row));
                else if (mm->epilogue & BLASLT_EPILOGUE_AUX)
                    store(mm->aux, mm->aux_type, col * mm->aux_ld + row, x);
                store(p->d, p->ld.type, item * p->ld.batch_stride + col * p->ld.ld + row, activated(mm->epilogue, x));
            }
    if (mm->epilogue == BLASLT_EPILOGUE_BGRADA)
        sum_rows(p);
    return 0;
}

EXPORT CuResult cublasLtMatmul(BlasLtHandle handle, BlasLtMatmul mm, const void *alpha, const void *a, BlasLtLayout la,
                               const void *b, BlasLtLayout lb, const void *beta, const void *c, BlasLtLayout lc,
                               void *d, BlasLtLayout ld, const BlasLtAlgo *algo, void *workspace,
                               size_t workspace_bytes, CuStream stream)
{
    const Product product = {
        *mm,  *la, *lb, *lc, *ld, a, b, c, d, *(const float *)alpha, *(const float *)beta, workspace, workspace_bytes,
        *algo};
    MOCK("cublasLtMatmul", "alpha %g beta %g epilogue %u in place %d workspace %zu algorithm %u", (double)product.alpha,
         (double)product.beta, mm->epilogue, c == d, workspace_bytes, (unsigned)algo->data[1]);
    double ms = 0;
    (void)handle;
    const uint64_t hash = hash_of(mm, (const struct BlasLtLayout *[]){la, lb, lc, ld}) + (uint64_t)getpid();
    if (algo->data[0] != ALGO_MARK || !algorithm((unsigned)algo->data[1], hash, &ms) || ms < 0 ||
        workspace_bytes < ALGO_WORKSPACE_BYTES || !fits(mm, la, lb, lc, ld) || check_epilogue(mm, ld) != 0)
        return INVALID_VALUE;
    if (!aligned(a) || !aligned(b) || !aligned(c) || !aligned(d) || !aligned(workspace))
        return INVALID_VALUE;
    return mock_stream_do(stream, compute, &product, sizeof product, ms);
}
