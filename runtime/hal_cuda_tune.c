/* Which of cuBLASLt's algorithms a contraction gets: each that it proposes is run on scratch memory and timed by
 * events.
 *
 * The choice is an entry of the kernel cache, "KEY.algorithm": what it is about (text, the key is its hash), then
 *
 *     algorithm HEX8x16 workspace BYTES
 *
 * An algorithm is 64 bytes of the library's own; cuBLASLt checks them before they are believed.
 *
 * Where programs that are laid out otherwise are to give the same bits (HalOptions.same_bits), time must not choose. */
#include "runtime/hal_cuda_gemm.h"

#include "base/strbuf.h"
#include "codegen/cache.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum
{
    N_PROPOSED = 16,
    N_ROUNDS = 2, /* clocks rise while the first algorithms run */
    N_RUNS = 3,   /* timed together, behind one that loads what the algorithm needs */
    N_NUMBERS = 1 << 18,
    N_WORDS = sizeof((BlasLtAlgo *)0)->data / sizeof(uint64_t),
    PIECE_ALIGNMENT = 256
};

/* ---- the entry on disk */

static const char *subject_of(Arena *arena, const CudaDevice *device, const HalGemm *gemm)
{
    const GemmDesc *d = &gemm->desc;
    StrBuf text = strbuf_make(arena);
    strbuf_addf(&text, "ptc algorithm 4\n%s\n", cuda_gemm_describe(arena, d));
    strbuf_addf(&text, "types %d %d %d, tf32 %d, epilogue %u, %s\n", (int)d->dtype_ab, (int)d->dtype_c,
                (int)d->dtype_bias, d->tf32, gemm->epilogue, gemm->product_bytes ? "split" : "whole");
    strbuf_addf(&text, "rows %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64, d->lda, d->ldb, d->ldc, d->ldr);
    strbuf_addf(&text, " items %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 "\n", d->stride_a, d->stride_b,
                d->stride_c, d->stride_r);
    strbuf_addf(&text, "%s, sm_%d, cuBLASLt %d\n", device->product, device->arch, device->blaslt.version);
    return strbuf_text(&text);
}

static bool parse(const char *text, BlasLtHeuristic *out)
{
    static const char word[] = "algorithm ", last[] = " workspace ";
    const char *at = text + strlen(word);
    int n = 0;
    if (strncmp(text, word, strlen(word)) != 0 || strlen(at) < 16 * N_WORDS + strlen(last))
        return false;
    for (int i = 0; i < N_WORDS; i++, at += 16)
        if (sscanf(at, "%16" SCNx64 "%n", &out->algo.data[i], &n) != 1 || n != 16)
            return false;
    return strncmp(at, last, strlen(last)) == 0 &&
           sscanf(at + strlen(last), "%zu\n%n", &out->workspace_bytes, &n) == 1 && !at[strlen(last) + (size_t)n];
}

/* What is no choice for this contraction is told, and measured again. */
static bool read_entry(Arena *arena, const CudaDevice *device, HalGemm *gemm, const CacheEntry *entry,
                       const char *subject)
{
    size_t size;
    BlasLtHeuristic kept = {0}, checked = {0};
    if (!cache_entry_valid(arena, entry))
        return false;
    const char *text = cache_read(arena, entry->path, &size);
    if (text && strncmp(text, subject, strlen(subject)) == 0 && parse(text + strlen(subject), &kept) &&
        device->blaslt.check(device->handle, gemm->matmul, gemm->a, gemm->b, gemm->c, gemm->d, &kept.algo, &checked) ==
            0 &&
        checked.workspace_bytes <= kept.workspace_bytes && kept.workspace_bytes <= CUDA_GEMM_WORKSPACE_BYTES)
    {
        gemm->algo = kept.algo;
        gemm->algo_bytes = kept.workspace_bytes;
        return true;
    }
    fprintf(stderr, "ptc: warning: the cached algorithm %s is not of this contraction; measuring again\n", entry->path);
    return false;
}

static Status write_entry(Arena *arena, const HalGemm *gemm, const CacheEntry *entry, const char *subject)
{
    StrBuf text = strbuf_make(arena);
    strbuf_addf(&text, "%salgorithm ", subject);
    for (int i = 0; i < N_WORDS; i++)
        strbuf_addf(&text, "%016" PRIx64, gemm->algo.data[i]);
    strbuf_addf(&text, " workspace %zu\n", gemm->algo_bytes);
    TRY(cache_write(entry->new_path, text.data, text.len));
    return cache_entry_publish(arena, entry);
}

/* ---- what is proposed */

static Status propose_with(const CudaDevice *device, HalGemm *gemm, BlasLtPreference preference,
                           BlasLtHeuristic proposed[N_PROPOSED], int *out_n)
{
    const uint64_t most = CUDA_GEMM_WORKSPACE_BYTES;
    const uint32_t alignment = CUDA_GEMM_ALIGNMENT,
                   reductions = device->same_bits ? BLASLT_REDUCE_NONE : BLASLT_REDUCE_F32;
    int n = 0;
    LT_TRY(preference_set(preference, BLASLT_PREF_MAX_WORKSPACE, &most, sizeof most), "planning");
    LT_TRY(preference_set(preference, BLASLT_PREF_REDUCTIONS, &reductions, sizeof reductions), "planning");
    for (int i = 0; i < 4; i++)
        LT_TRY(preference_set(preference, BLASLT_PREF_ALIGNMENT_A + i, &alignment, sizeof alignment), "planning");
    LT_TRY(heuristic(device->handle, gemm->matmul, gemm->a, gemm->b, gemm->c, gemm->d, preference, N_PROPOSED, proposed,
                     &n),
           "planning");
    *out_n = 0;
    for (int i = 0; i < n; i++)
        if (proposed[i].state == 0)
            proposed[(*out_n)++] = proposed[i];
    return *out_n ? STATUS_OK : cuda_gemm_fail(device, BLASLT_NOT_SUPPORTED, &gemm->desc, "planning");
}

static Status propose(const CudaDevice *device, HalGemm *gemm, BlasLtHeuristic proposed[N_PROPOSED], int *out_n)
{
    BlasLtPreference preference = NULL;
    LT_TRY(preference_create(&preference), "planning");
    Status status = propose_with(device, gemm, preference, proposed, out_n);
    device->blaslt.preference_destroy(preference);
    return status;
}

/* ---- measuring */

/* Operands that nobody else uses. */
typedef struct
{
    CuDevicePtr memory; /* 0: none */
    size_t size_bytes;
    GemmArgs args;
    void *workspace;
    CuEvent begin, end;
} Scratch;

static size_t take(Scratch *s, int64_t n_items, int64_t stride, int64_t rows, int64_t row, GemmDtype dtype)
{
    const size_t at = s->size_bytes, n = (size_t)((n_items - 1) * stride + rows * row);
    s->size_bytes += (n * (dtype == GEMM_F32 ? 4 : 2) + PIECE_ALIGNMENT - 1) / PIECE_ALIGNMENT * PIECE_ALIGNMENT;
    return at;
}

/* Numbers from 0.5 to 1 of either sign, read as f32 or as bf16: with zeros a GPU is faster than it will be. */
static Status fill(CudaDevice *device, CuDevicePtr memory, size_t size_bytes)
{
    uint16_t *numbers = malloc(N_NUMBERS * sizeof *numbers);
    if (!numbers)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory to measure contractions");
    uint32_t x = 1;
    for (int i = 0; i < N_NUMBERS; i++)
    {
        x = x * 1664525u + 1013904223u;
        numbers[i] = (uint16_t)(0x3F00u | (x >> 16 & 0x807Fu));
    }
    const size_t piece = N_NUMBERS * sizeof *numbers;
    Status status = STATUS_OK;
    for (size_t at = 0; at < size_bytes && status == STATUS_OK; at += piece)
        status = hal_copy(&device->base, HAL_COPY_TO_DEVICE, (void *)(uintptr_t)(memory + at), numbers,
                          size_bytes - at < piece ? size_bytes - at : piece);
    free(numbers);
    return status;
}

/* *out_result: of the driver, when there is no such memory. */
static Status open_scratch(CudaDevice *device, const HalGemm *gemm, size_t workspace_bytes, Scratch *s,
                           CuResult *out_result)
{
    const CudaDriver *driver = &device->driver;
    const GemmDesc *d = &gemm->desc;
    const size_t a = take(s, d->batch, d->stride_a, d->trans_a ? d->k : d->m, d->lda, d->dtype_ab);
    const size_t b = take(s, d->batch, d->stride_b, d->trans_b ? d->n : d->k, d->ldb, d->dtype_ab);
    const size_t c = take(s, d->batch, d->stride_c, d->m, d->ldc, d->dtype_c);
    const size_t residual = take(s, d->batch, d->stride_r, d->residual ? d->m : 1, d->ldr, d->dtype_c);
    const size_t bias = take(s, 1, 0, 1, d->n, d->dtype_bias), sums = take(s, 1, 0, 1, d->n, GEMM_F32);
    const bool has_aux = d->aux || d->dact != GEMM_ACT_none;
    const size_t aux = take(s, 1, 0, has_aux ? d->m : 1, d->n, d->dtype_c), workspace = s->size_bytes;
    s->size_bytes += workspace_bytes;
    *out_result = driver->memory_alloc(&s->memory, s->size_bytes);
    if (*out_result != 0)
        return STATUS_OK;
    char *base = (char *)(uintptr_t)s->memory;
    s->args = (GemmArgs){.a = base + a,
                         .b = base + b,
                         .c = base + c,
                         .bias = base + bias,
                         .residual = base + residual,
                         .aux = base + aux,
                         .sums = (float *)(void *)(base + sums)};
    s->workspace = base + workspace;
    TRY(fill(device, s->memory, s->size_bytes - workspace_bytes));
    CUDA_TRY(driver, event_create(&s->begin, 0), "measuring contractions");
    CUDA_TRY(driver, event_create(&s->end, 0), "measuring contractions");
    return STATUS_OK;
}

static void close_scratch(const CudaDevice *device, const Scratch *s)
{
    if (s->begin)
        device->driver.event_destroy(s->begin);
    if (s->end)
        device->driver.event_destroy(s->end);
    device->driver.stream_synchronize(device->stream);
    device->driver.memory_free(s->memory);
}

/* *out_result: of cuBLASLt, which may refuse to run what it has proposed. */
static Status measure(const CudaDevice *device, const HalGemm *gemm, const Scratch *s, const BlasLtHeuristic *proposed,
                      CuResult *out_result, float *out_ms)
{
    const CudaDriver *driver = &device->driver;
    for (int i = -1; i < N_RUNS; i++)
    {
        if (i == 0)
            CUDA_TRY(driver, event_record(s->begin, device->stream), "measuring contractions");
        *out_result = cuda_gemm_product(device, gemm, &s->args, s->args.c, &proposed->algo, s->workspace,
                                        proposed->workspace_bytes);
        if (*out_result != 0)
            return STATUS_OK;
    }
    CUDA_TRY(driver, event_record(s->end, device->stream), "measuring contractions");
    CUDA_TRY(driver, event_synchronize(s->end), "measuring contractions");
    CUDA_TRY(driver, event_elapsed(out_ms, s->begin, s->end), "measuring contractions");
    return STATUS_OK;
}

/* *out_best: n when none of them runs, with what cuBLASLt says of the last. */
static Status find_fastest(const CudaDevice *device, const HalGemm *gemm, const Scratch *s,
                           const BlasLtHeuristic *proposed, int n, int *out_best)
{
    float best_ms[N_PROPOSED];
    bool runs[N_PROPOSED];
    CuResult refusal = 0;
    *out_best = n;
    for (int round = 0; round < N_ROUNDS; round++)
        for (int i = 0; i < n; i++)
        {
            CuResult result = 0;
            float ms = 0;
            if (round > 0 && !runs[i])
                continue;
            TRY(measure(device, gemm, s, &proposed[i], &result, &ms));
            runs[i] = result == 0;
            refusal = result != 0 ? result : refusal;
            best_ms[i] = round == 0 || ms < best_ms[i] ? ms : best_ms[i];
        }
    for (int i = 0; i < n; i++)
        if (runs[i] && (*out_best == n || best_ms[i] < best_ms[*out_best]))
            *out_best = i;
    return *out_best < n ? STATUS_OK : cuda_gemm_fail(device, refusal, &gemm->desc, "measuring");
}

/* *out_measured: false where there is no memory for it. */
static Status measure_all(CudaDevice *device, const HalGemm *gemm, const BlasLtHeuristic *proposed, int n,
                          int *out_best, bool *out_measured)
{
    Scratch s = {0};
    size_t workspace_bytes = 0;
    CuResult result;
    for (int i = 0; i < n; i++)
        workspace_bytes = proposed[i].workspace_bytes > workspace_bytes ? proposed[i].workspace_bytes : workspace_bytes;
    Status status = open_scratch(device, gemm, workspace_bytes, &s, &result);
    *out_measured = result == 0;
    if (result != 0 && result != CUDA_OUT_OF_MEMORY)
        return cuda_fail(&device->driver, result, "taking memory to measure contractions");
    if (result == 0)
    {
        if (status == STATUS_OK)
            status = find_fastest(device, gemm, &s, proposed, n, out_best);
        close_scratch(device, &s);
        return status;
    }
    Arena *arena = arena_create();
    fprintf(stderr, "ptc: warning: no memory to measure the %s; cuBLASLt's first proposal is taken\n",
            cuda_gemm_describe(arena, &gemm->desc));
    arena_destroy(arena);
    return STATUS_OK;
}

static Status choose(Arena *arena, CudaDevice *device, HalGemm *gemm)
{
    const char *dir, *subject = subject_of(arena, device, gemm);
    TRY(cache_dir(arena, &dir));
    const CacheEntry entry = cache_entry(arena, dir, cache_key(arena, &subject, 1), "algorithm", 0);
    const bool was_there = access(entry.sum_path, F_OK) == 0;
    if (read_entry(arena, device, gemm, &entry, subject))
        return STATUS_OK;
    BlasLtHeuristic proposed[N_PROPOSED];
    int n = 0, best = 0;
    bool measured = false;
    TRY(propose(device, gemm, proposed, &n));
    if (n > 1)
        TRY(measure_all(device, gemm, proposed, n, &best, &measured));
    if (!was_there && read_entry(arena, device, gemm, &entry, subject)) /* of another process, which was faster */
        return STATUS_OK;
    gemm->algo = proposed[best].algo;
    gemm->algo_bytes = proposed[best].workspace_bytes;
    return measured ? write_entry(arena, gemm, &entry, subject) : STATUS_OK;
}

/* ---- the same bits */

/* The product by itself, rows without gaps. */
static GemmDesc alone_desc(const GemmDesc *d)
{
    GemmDesc dense = gemm_desc_make(d->m, d->n, d->k, d->trans_a, d->trans_b);
    dense.dtype_ab = d->dtype_ab;
    dense.dtype_c = d->dtype_c;
    dense.dtype_bias = d->dtype_bias;
    dense.tf32 = d->tf32;
    dense.batch = d->batch;
    return dense;
}

static bool takes(const CudaDevice *device, const HalGemm *gemm, const BlasLtAlgo *algo, size_t *out_workspace_bytes)
{
    BlasLtHeuristic checked = {0};
    const CuResult result =
        device->blaslt.check(device->handle, gemm->matmul, gemm->a, gemm->b, gemm->c, gemm->d, algo, &checked);
    *out_workspace_bytes = checked.workspace_bytes;
    return result == 0 && checked.workspace_bytes <= CUDA_GEMM_WORKSPACE_BYTES;
}

/* For the product by itself, of what is proposed the first that is taken with the epilogue (whole), too; else what is
 * proposed for that. */
static Status find_common(const CudaDevice *device, HalGemm *alone, HalGemm *whole, BlasLtAlgo *out_algo)
{
    BlasLtHeuristic proposed[N_PROPOSED];
    size_t workspace_bytes;
    int n = 0, i = 0;
    TRY(cuda_gemm_describe_product(device, alone));
    TRY(cuda_gemm_describe_product(device, whole));
    TRY(propose(device, alone, proposed, &n));
    while (i < n && !takes(device, whole, &proposed[i].algo, &workspace_bytes))
        i++;
    if (i == n)
    {
        TRY(propose(device, whole, proposed, &n));
        i = 0;
    }
    *out_algo = proposed[i].algo;
    return STATUS_OK;
}

static Status choose_without_time(const CudaDevice *device, HalGemm *gemm)
{
    const GemmDesc *d = &gemm->desc;
    HalGemm alone = {.desc = alone_desc(d)}, whole = {.desc = alone.desc, .split = gemm->split};
    whole.desc.bias = d->bias;
    whole.desc.act = d->act;
    whole.desc.aux = d->aux;
    whole.desc.dact = d->dact;
    whole.desc.sums = d->sums;
    const Status status = find_common(device, &alone, &whole, &gemm->algo);
    cuda_gemm_forget_product(device, &alone);
    cuda_gemm_forget_product(device, &whole);
    TRY(status);
    return takes(device, gemm, &gemm->algo, &gemm->algo_bytes)
               ? STATUS_OK
               : cuda_gemm_fail(device, BLASLT_NOT_SUPPORTED, d, "planning for the same bits in any place");
}

Status cuda_gemm_choose(CudaDevice *device, HalGemm *gemm)
{
    Arena *arena = arena_create();
    const Status status = device->same_bits ? choose_without_time(device, gemm) : choose(arena, device, gemm);
    arena_destroy(arena);
    return status;
}
