/* Contractions of gemm.h: how a shape is cut into tiles, who runs them, and the table of prepared ones.
 *
 * The grid of tiles is a function of the desc only, and each tile is computed by one worker with one
 * library call, so results do not depend on the number of threads. Tiles of equal size (all but the last
 * row and column of the grid) share one prepared kernel: at most four kernels per contraction. */
#include "runtime/gemm.h"

#include "base/bug.h"
#include "runtime/gemm_kernel.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum
{
    SCRATCH_ALIGN = 64,
    KEY_LEN = 20
};

/* Measured with oneDNN 2.6 on Zen 4 (tests/bench/gemm_peak.c): its f32 kernels are 48 columns wide, full speed from
 * 192 columns on. B^T is repacked for each tile of rows, so there tiles are wider and taller. More than
 * TILES_WANTED would cost speed on two cores; fewer would leave many cores idle. */
enum
{
    TILE_N_STEP = 48,
    TILE_N_MAX = 384,
    TILE_N_MAX_TRANS_B = 768,
    TILE_M_STEP = 16,
    TILE_M_MIN = 48,
    TILE_M_MIN_TRANS_B = 128,
    TILES_WANTED = 16
};
#define TILE_FLOPS_MIN 4e6 /* about 40 us; below it, handing out costs more than it brings */

typedef struct
{
    int64_t tile_m, tile_n;
    int64_t grid_m, grid_n;
    int64_t n_tiles; /* batch * grid_m * grid_n */
    int64_t tiles_per_task;
} Tiling;

struct Gemm
{
    GemmLib *lib;
    GemmDesc desc;
    int64_t key[KEY_LEN];
    Tiling tiling;
    GemmKernel *kernels[2][2]; /* [last row of the grid][last column] */
};

struct GemmLib
{
    Pool *pool;
    GemmEngine *engine;
    Gemm **gemms;
    size_t n_gemms, cap_gemms;
    char *scratch; /* per worker, as large as the largest kernel asks */
    size_t scratch_bytes;
};

static const char *const ACT_NAMES[GEMM_ACT_COUNT] = {
#define GEMM_ACT(name) #name,
#include "runtime/gemm_act.def"
#undef GEMM_ACT
};

GemmAct gemm_act_from_name(const char *name)
{
    int act = 0;
    while (act < GEMM_ACT_COUNT && strcmp(ACT_NAMES[act], name) != 0)
        act++;
    return (GemmAct)act;
}

const char *gemm_act_name(GemmAct act)
{
    return ACT_NAMES[act];
}

GemmDesc gemm_desc_make(int64_t m, int64_t n, int64_t k, bool trans_a, bool trans_b)
{
    return (GemmDesc){
        .trans_a = trans_a,
        .trans_b = trans_b,
        .m = m,
        .n = n,
        .k = k,
        .batch = 1,
        .lda = trans_a ? m : k,
        .ldb = trans_b ? k : n,
        .ldc = n,
        .ldr = n,
        .stride_a = m * k,
        .stride_b = k * n,
        .stride_c = m * n,
        .stride_r = m * n,
    };
}

double gemm_flops(const GemmDesc *desc)
{
    return 2.0 * (double)desc->batch * (double)desc->m * (double)desc->n * (double)desc->k;
}

static int64_t div_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t round_up(int64_t a, int64_t step)
{
    return div_up(a, step) * step;
}

static int64_t max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Equal slices of `total`, rounded up to a step; the last one may be smaller. */
static int64_t slice(int64_t total, int64_t n_slices, int64_t step)
{
    return min_i64(total, round_up(div_up(total, n_slices), step));
}

static Tiling tiling_make(const GemmDesc *d)
{
    Tiling t;
    int64_t tile_n_max = d->trans_b ? TILE_N_MAX_TRANS_B : TILE_N_MAX;
    int64_t tile_m_min = d->trans_b ? TILE_M_MIN_TRANS_B : TILE_M_MIN;
    double tiles_worth = gemm_flops(d) / TILE_FLOPS_MIN;
    int64_t wanted = tiles_worth > TILES_WANTED ? TILES_WANTED : max_i64((int64_t)tiles_worth, 1);
    t.tile_n = slice(d->n, div_up(d->n, tile_n_max), TILE_N_STEP);
    t.grid_n = div_up(d->n, t.tile_n);
    int64_t rows_wanted = div_up(wanted, t.grid_n * d->batch);
    t.tile_m = min_i64(d->m, max_i64(slice(d->m, rows_wanted, TILE_M_STEP), tile_m_min));
    t.grid_m = div_up(d->m, t.tile_m);
    t.n_tiles = d->batch * t.grid_m * t.grid_n;
    double tile_flops = 2.0 * (double)t.tile_m * (double)t.tile_n * (double)d->k;
    t.tiles_per_task = max_i64(1, min_i64((int64_t)(TILE_FLOPS_MIN / tile_flops), t.n_tiles));
    return t;
}

static void desc_key(const GemmDesc *d, int64_t *key)
{
    const int64_t values[KEY_LEN] = {d->dtype_ab, d->dtype_c,  d->trans_a,    d->trans_b,  d->bias,
                                     d->residual, d->act,      d->accumulate, d->m,        d->n,
                                     d->k,        d->batch,    d->lda,        d->ldb,      d->ldc,
                                     d->ldr,      d->stride_a, d->stride_b,   d->stride_c, d->stride_r};
    memcpy(key, values, sizeof values);
}

static void desc_check(const GemmDesc *d)
{
    ENSURE(d->m >= 1 && d->n >= 1 && d->k >= 1 && d->batch >= 1);
    ENSURE(d->dtype_ab < GEMM_DTYPE_COUNT && d->dtype_c < GEMM_DTYPE_COUNT && d->act < GEMM_ACT_COUNT);
    ENSURE(d->lda >= (d->trans_a ? d->m : d->k));
    ENSURE(d->ldb >= (d->trans_b ? d->k : d->n));
    ENSURE(d->ldc >= d->n);
    ENSURE(!d->residual || d->ldr >= d->n);
    ENSURE(!(d->residual && d->accumulate));
    ENSURE(d->batch == 1 || d->stride_c >= (d->m - 1) * d->ldc + d->n);
}

Status gemm_lib_create(Pool *pool, GemmLib **out_lib)
{
    GemmLib *lib = calloc(1, sizeof *lib);
    if (!lib)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for the contraction library");
    lib->pool = pool;
    Status status = gemm_engine_create(pool_n_threads(pool), &lib->engine);
    if (status != STATUS_OK)
        gemm_lib_destroy(lib);
    else
        *out_lib = lib;
    return status;
}

static void gemm_destroy(Gemm *gemm)
{
    for (int i = 0; i < 4; i++)
        gemm_kernel_destroy(gemm->kernels[i / 2][i % 2]);
    free(gemm);
}

void gemm_lib_destroy(GemmLib *lib)
{
    if (!lib)
        return;
    for (size_t i = 0; i < lib->n_gemms; i++)
        gemm_destroy(lib->gemms[i]);
    gemm_engine_destroy(lib->engine);
    free(lib->gemms);
    free(lib->scratch);
    free(lib);
}

size_t gemm_lib_bytes(const GemmLib *lib)
{
    return lib->scratch_bytes * (size_t)pool_n_threads(lib->pool);
}

static Status scratch_grow(GemmLib *lib, size_t bytes)
{
    bytes = (bytes + SCRATCH_ALIGN - 1) / SCRATCH_ALIGN * SCRATCH_ALIGN;
    if (bytes <= lib->scratch_bytes)
        return STATUS_OK;
    char *scratch = aligned_alloc(SCRATCH_ALIGN, bytes * (size_t)pool_n_threads(lib->pool));
    if (!scratch)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for %zu bytes of scratch per worker", bytes);
    free(lib->scratch);
    lib->scratch = scratch;
    lib->scratch_bytes = bytes;
    return STATUS_OK;
}

/* Size of the tiles in the last (last = 1) or any other slice of a dimension. */
static int64_t tile_extent(int64_t total, int64_t tile, int64_t grid, int last)
{
    return last ? total - (grid - 1) * tile : tile;
}

static Status kernels_create(Gemm *gemm)
{
    const Tiling *t = &gemm->tiling;
    for (int row = 0; row < 2; row++)
        for (int col = 0; col < 2; col++)
        {
            if ((row == 0 && t->grid_m == 1) || (col == 0 && t->grid_n == 1))
                continue; /* every tile is in the last row or column */
            GemmDesc tile = gemm->desc;
            tile.m = tile_extent(tile.m, t->tile_m, t->grid_m, row);
            tile.n = tile_extent(tile.n, t->tile_n, t->grid_n, col);
            tile.accumulate = tile.accumulate || tile.residual;
            tile.residual = false;
            TRY(gemm_kernel_create(gemm->lib->engine, &tile, &gemm->kernels[row][col]));
            TRY(scratch_grow(gemm->lib, gemm_kernel_scratch_bytes(gemm->kernels[row][col])));
        }
    return STATUS_OK;
}

static Status lib_reserve(GemmLib *lib)
{
    if (lib->n_gemms < lib->cap_gemms)
        return STATUS_OK;
    size_t cap = lib->cap_gemms ? 2 * lib->cap_gemms : 64;
    Gemm **gemms = realloc(lib->gemms, cap * sizeof(Gemm *));
    if (!gemms)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for %zu contractions", cap);
    lib->gemms = gemms;
    lib->cap_gemms = cap;
    return STATUS_OK;
}

Status gemm_create(GemmLib *lib, const GemmDesc *desc, const Gemm **out_gemm)
{
    desc_check(desc);
    int64_t key[KEY_LEN];
    desc_key(desc, key);
    for (size_t i = 0; i < lib->n_gemms; i++)
        if (memcmp(lib->gemms[i]->key, key, sizeof key) == 0)
        {
            *out_gemm = lib->gemms[i];
            return STATUS_OK;
        }
    TRY(lib_reserve(lib));
    Gemm *gemm = calloc(1, sizeof *gemm);
    if (!gemm)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for a contraction");
    gemm->lib = lib;
    gemm->desc = *desc;
    memcpy(gemm->key, key, sizeof key);
    gemm->tiling = tiling_make(desc);
    Status status = kernels_create(gemm);
    if (status != STATUS_OK)
    {
        gemm_destroy(gemm);
        return status;
    }
    lib->gemms[lib->n_gemms++] = gemm;
    *out_gemm = gemm;
    return STATUS_OK;
}

const GemmDesc *gemm_desc(const Gemm *gemm)
{
    return &gemm->desc;
}

int64_t gemm_n_tasks(const Gemm *gemm)
{
    return div_up(gemm->tiling.n_tiles, gemm->tiling.tiles_per_task);
}

typedef struct
{
    const Gemm *gemm;
    const GemmArgs *args;
    _Atomic int status;
} Run;

static const char *const_offset(const void *base, int64_t n_elems, GemmDtype dtype)
{
    static const int64_t elem_bytes[GEMM_DTYPE_COUNT] = {[GEMM_F32] = 4, [GEMM_BF16] = 2};
    return (const char *)base + n_elems * elem_bytes[dtype];
}

static char *offset(void *base, int64_t n_elems, GemmDtype dtype)
{
    return (char *)base + (const_offset(base, n_elems, dtype) - (const char *)base);
}

/* The library adds into C, so a residual elsewhere is first copied there: the tile is in cache when added to. */
static void residual_copy(const GemmDesc *d, char *c, const char *r, int64_t m, int64_t n)
{
    if (c == r)
        return;
    size_t row_bytes = (size_t)(const_offset(c, n, d->dtype_c) - c);
    for (int64_t i = 0; i < m; i++)
        memcpy(offset(c, i * d->ldc, d->dtype_c), const_offset(r, i * d->ldr, d->dtype_c), row_bytes);
}

static Status tile_run(const Gemm *gemm, const GemmArgs *args, int64_t tile, int worker)
{
    const GemmDesc *d = &gemm->desc;
    const Tiling *t = &gemm->tiling;
    int64_t col = tile % t->grid_n;
    int64_t row = tile / t->grid_n % t->grid_m;
    int64_t item = tile / t->grid_n / t->grid_m;
    int64_t m0 = row * t->tile_m;
    int64_t n0 = col * t->tile_n;
    int last_row = row == t->grid_m - 1;
    int last_col = col == t->grid_n - 1;
    GemmArgs part = {
        .a = const_offset(args->a, item * d->stride_a + (d->trans_a ? m0 : m0 * d->lda), d->dtype_ab),
        .b = const_offset(args->b, item * d->stride_b + (d->trans_b ? n0 * d->ldb : n0), d->dtype_ab),
        .c = offset(args->c, item * d->stride_c + m0 * d->ldc + n0, d->dtype_c),
        .bias = d->bias ? args->bias + n0 : NULL,
    };
    if (d->residual)
        residual_copy(d, part.c, const_offset(args->residual, item * d->stride_r + m0 * d->ldr + n0, d->dtype_c),
                      tile_extent(d->m, t->tile_m, t->grid_m, last_row),
                      tile_extent(d->n, t->tile_n, t->grid_n, last_col));
    char *scratch = gemm->lib->scratch ? gemm->lib->scratch + (size_t)worker * gemm->lib->scratch_bytes : NULL;
    return gemm_kernel_run(gemm->kernels[last_row][last_col], worker, &part, scratch);
}

static void task_run(void *ctx, int64_t task, int worker)
{
    Run *run = ctx;
    const Tiling *t = &run->gemm->tiling;
    int64_t first = task * t->tiles_per_task;
    int64_t end = min_i64(first + t->tiles_per_task, t->n_tiles);
    for (int64_t tile = first; tile < end; tile++)
    {
        Status status = tile_run(run->gemm, run->args, tile, worker);
        if (status != STATUS_OK)
            atomic_store_explicit(&run->status, (int)status, memory_order_relaxed);
    }
}

Status gemm_run(const Gemm *gemm, const GemmArgs *args)
{
    ENSURE(gemm->desc.bias == (args->bias != NULL) && gemm->desc.residual == (args->residual != NULL));
    Run run = {.gemm = gemm, .args = args, .status = STATUS_OK};
    pool_run(gemm->lib->pool, gemm_n_tasks(gemm), task_run, &run);
    Status status = (Status)atomic_load_explicit(&run.status, memory_order_relaxed);
    if (status != STATUS_OK)
        return status_fail(status, "a contraction of (%lld, %lld, %lld) failed in the library", (long long)gemm->desc.m,
                           (long long)gemm->desc.n, (long long)gemm->desc.k);
    return STATUS_OK;
}
