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
    KEY_LEN = 24
};

/* Measured with oneDNN 2.6 on Zen 4 (tests/bench/gemm_bench.c): its f32 kernels are 48 columns wide, full speed from
 * 192 columns on. B^T is repacked for each tile of rows, so there tiles are wider and taller; a tile's B beyond the
 * cache of a core is read again for each tile of rows, so there they are taller, too. More than TILES_WANTED would cost
 * speed on two cores; fewer would leave many cores idle. */
enum
{
    TILE_N_STEP = 48,
    TILE_N_MAX = 384,
    TILE_N_MAX_TRANS_B = 768,
    TILE_M_STEP = 16,
    TILE_M_MIN = 48,
    TILE_M_MIN_LARGE_B = 128,
    TILE_M_MIN_TRANS_B = 128,
    TILES_WANTED = 16
};
#define LARGE_B_BYTES  (2 << 20)
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
    GemmKernel *kernels[4];
    int64_t sizes[4][2]; /* of a kernel's tile: rows, columns */
    int n_kernels;
    int kernel_of[2][2];     /* [last row of the grid][last column] */
    bool add_after;          /* see kernels_create */
    size_t add_after_offset; /* of the product in the worker's scratch, bytes */
    GemmAfter *after;        /* what is done with the whole product; NULL: nothing */
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
    double tiles_worth = gemm_flops(d) / TILE_FLOPS_MIN;
    int64_t wanted = tiles_worth > TILES_WANTED ? TILES_WANTED : max_i64((int64_t)tiles_worth, 1);
    t.tile_n = slice(d->n, div_up(d->n, tile_n_max), TILE_N_STEP);
    bool large_b = d->k * t.tile_n * (int64_t)sizeof(float) > LARGE_B_BYTES;
    int64_t tile_m_min = d->trans_b ? TILE_M_MIN_TRANS_B : large_b ? TILE_M_MIN_LARGE_B : TILE_M_MIN;
    t.grid_n = div_up(d->n, t.tile_n);
    int64_t rows_wanted = div_up(wanted, t.grid_n * d->batch);
    t.tile_m = min_i64(d->m, max_i64(slice(d->m, rows_wanted, TILE_M_STEP), tile_m_min));
    const int64_t n_rows = div_up(d->m, t.tile_m);
    if (n_rows > 1 && d->batch * n_rows * t.grid_n % 2)
        t.tile_m = slice(d->m, n_rows + 1, TILE_M_STEP); /* three tiles would keep two workers busy as long as four */
    t.grid_m = div_up(d->m, t.tile_m);
    t.n_tiles = d->batch * t.grid_m * t.grid_n;
    double tile_flops = 2.0 * (double)t.tile_m * (double)t.tile_n * (double)d->k;
    t.tiles_per_task = max_i64(1, min_i64((int64_t)(TILE_FLOPS_MIN / tile_flops), t.n_tiles));
    return t;
}

static void desc_key(const GemmDesc *d, int64_t *key)
{
    const int64_t values[KEY_LEN] = {d->dtype_ab, d->dtype_c,  d->dtype_bias, d->trans_a, d->trans_b, d->bias,
                                     d->residual, d->act,      d->accumulate, d->m,       d->n,       d->k,
                                     d->batch,    d->lda,      d->ldb,        d->ldc,     d->ldr,     d->stride_a,
                                     d->stride_b, d->stride_c, d->stride_r,   d->aux,     d->sums,    d->dact};
    memcpy(key, values, sizeof values);
}

static void desc_check(const GemmDesc *d)
{
    const bool adds = d->residual || d->accumulate, acts = d->act != GEMM_ACT_none, one = d->batch == 1;
    ENSURE(!d->aux || (acts && !adds && one && d->ldc == d->n));
    ENSURE(d->dact == GEMM_ACT_none || (!d->bias && !acts && !d->sums && !adds && one && d->ldc == d->n));
    ENSURE(!d->sums || (!d->bias && !acts && !d->trans_b && d->dtype_c == GEMM_F32 && one && d->ldb == d->n));
    ENSURE(d->m >= 1 && d->n >= 1 && d->k >= 1 && d->batch >= 1);
    ENSURE(d->dtype_ab < GEMM_DTYPE_COUNT && d->dtype_c < GEMM_DTYPE_COUNT && d->dtype_bias < GEMM_DTYPE_COUNT);
    ENSURE(d->act < GEMM_ACT_COUNT && d->dact < GEMM_ACT_COUNT);
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
    for (int i = 0; i < gemm->n_kernels; i++)
        gemm_kernel_destroy(gemm->kernels[i]);
    gemm_after_destroy(gemm->after);
    free(gemm);
}

void gemm_lib_clear(GemmLib *lib)
{
    for (size_t i = 0; i < lib->n_gemms; i++)
        gemm_destroy(lib->gemms[i]);
    lib->n_gemms = 0;
}

void gemm_lib_destroy(GemmLib *lib)
{
    if (!lib)
        return;
    gemm_lib_clear(lib);
    gemm_engine_destroy(lib->engine);
    free(lib->gemms);
    free(lib->scratch);
    free(lib);
}

size_t gemm_lib_bytes(const GemmLib *lib)
{
    size_t n_kernels = 0;
    for (size_t i = 0; i < lib->n_gemms; i++)
        n_kernels += (size_t)lib->gemms[i]->n_kernels;
    return lib->scratch_bytes * (size_t)pool_n_threads(lib->pool) + n_kernels * gemm_kernel_held_bytes();
}

static Status scratch_grow(GemmLib *lib, size_t bytes)
{
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

static int64_t dtype_bytes(GemmDtype dtype)
{
    static const int64_t bytes[GEMM_DTYPE_COUNT] = {[GEMM_F32] = 4, [GEMM_BF16] = 2};
    return bytes[dtype];
}

static size_t align_up(size_t bytes)
{
    return (bytes + SCRATCH_ALIGN - 1) / SCRATCH_ALIGN * SCRATCH_ALIGN;
}

/* Tiles in the last row or column may be as large as the others. */
static Status kernel_find(Gemm *gemm, const GemmDesc *tile, int *out_index)
{
    for (int i = 0; i < gemm->n_kernels; i++)
        if (gemm->sizes[i][0] == tile->m && gemm->sizes[i][1] == tile->n)
        {
            *out_index = i;
            return STATUS_OK;
        }
    const int i = gemm->n_kernels;
    TRY(gemm_kernel_create(gemm->lib->engine, tile, &gemm->kernels[i]));
    gemm->sizes[i][0] = tile->m;
    gemm->sizes[i][1] = tile->n;
    *out_index = gemm->n_kernels++;
    return STATUS_OK;
}

/* The library adds into C at full speed only without an activation before the sum (else its reference loops run, a
 * thousand times slower). With one, the product goes to scratch memory as f32 and we add. */
static Status kernels_create(Gemm *gemm)
{
    const Tiling *t = &gemm->tiling;
    GemmDesc tile = gemm->desc;
    bool adds = tile.accumulate || tile.residual;
    gemm->add_after = adds && tile.act != GEMM_ACT_none;
    tile.residual = false;
    if (tile.aux)
        tile.act = GEMM_ACT_none; /* the product is what aux is to have */
    tile.accumulate = adds && !gemm->add_after;
    if (gemm->add_after)
    {
        tile.dtype_c = GEMM_F32;
        tile.ldc = t->tile_n;
    }
    size_t kernel_bytes = 0;
    for (int row = 0; row < 2; row++)
        for (int col = 0; col < 2; col++)
        {
            if ((row == 0 && t->grid_m == 1) || (col == 0 && t->grid_n == 1))
                continue; /* every tile is in the last row or column */
            tile.m = tile_extent(gemm->desc.m, t->tile_m, t->grid_m, row);
            tile.n = tile_extent(gemm->desc.n, t->tile_n, t->grid_n, col);
            TRY(kernel_find(gemm, &tile, &gemm->kernel_of[row][col]));
            size_t bytes = align_up(gemm_kernel_scratch_bytes(gemm->kernels[gemm->kernel_of[row][col]]));
            kernel_bytes = bytes > kernel_bytes ? bytes : kernel_bytes;
        }
    gemm->add_after_offset = kernel_bytes;
    size_t product_bytes = gemm->add_after ? (size_t)(t->tile_m * t->tile_n) * sizeof(float) : 0;
    return scratch_grow(gemm->lib, kernel_bytes + align_up(product_bytes));
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
    if (status == STATUS_OK)
        status = gemm_after_create(lib->pool, lib->engine, desc, &gemm->after);
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
    return (const char *)base + n_elems * dtype_bytes(dtype);
}

static char *offset(void *base, int64_t n_elems, GemmDtype dtype)
{
    return (char *)base + n_elems * dtype_bytes(dtype);
}

/* A tile of the result: where it starts and how large it is. */
typedef struct
{
    int64_t item, m0, n0, m, n;
    int last_row, last_col;
} Tile;

static Tile tile_make(const Gemm *gemm, int64_t index)
{
    const Tiling *t = &gemm->tiling;
    int64_t col = index % t->grid_n;
    int64_t row = index / t->grid_n % t->grid_m;
    int last_row = row == t->grid_m - 1;
    int last_col = col == t->grid_n - 1;
    return (Tile){
        .item = index / t->grid_n / t->grid_m,
        .m0 = row * t->tile_m,
        .n0 = col * t->tile_n,
        .m = tile_extent(gemm->desc.m, t->tile_m, t->grid_m, last_row),
        .n = tile_extent(gemm->desc.n, t->tile_n, t->grid_n, last_col),
        .last_row = last_row,
        .last_col = last_col,
    };
}

/* The library adds into C, so a residual elsewhere is first copied there: the tile is in cache when added to. */
static void residual_copy(const GemmDesc *d, const Tile *tile, char *c, const char *r)
{
    if (c == r)
        return;
    for (int64_t i = 0; i < tile->m; i++)
        memcpy(offset(c, i * d->ldc, d->dtype_c), const_offset(r, i * d->ldr, d->dtype_c),
               (size_t)(tile->n * dtype_bytes(d->dtype_c)));
}

static float bf16_to_f32(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

/* To nearest, ties to even; NaN stays NaN. */
static uint16_t bf16_from_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* c = product + addend, row by row; addend may be c itself. */
static void add_rows(const GemmDesc *d, const Tile *tile, const float *product, int64_t ld_product, char *c,
                     const char *addend, int64_t ld_addend)
{
    for (int64_t i = 0; i < tile->m; i++)
    {
        const float *p = product + i * ld_product;
        void *out = offset(c, i * d->ldc, d->dtype_c);
        const void *in = const_offset(addend, i * ld_addend, d->dtype_c);
        if (d->dtype_c == GEMM_F32)
            for (int64_t j = 0; j < tile->n; j++)
                ((float *)out)[j] = p[j] + ((const float *)in)[j];
        else
            for (int64_t j = 0; j < tile->n; j++)
                ((uint16_t *)out)[j] = bf16_from_f32(p[j] + bf16_to_f32(((const uint16_t *)in)[j]));
    }
}

static Status tile_run(const Gemm *gemm, const GemmArgs *args, int64_t index, int worker)
{
    const GemmDesc *d = &gemm->desc;
    Tile tile = tile_make(gemm, index);
    int64_t a_elems = tile.item * d->stride_a + (d->trans_a ? tile.m0 : tile.m0 * d->lda);
    int64_t b_elems = tile.item * d->stride_b + (d->trans_b ? tile.n0 * d->ldb : tile.n0);
    char *c = offset(args->c, tile.item * d->stride_c + tile.m0 * d->ldc + tile.n0, d->dtype_c);
    const char *residual = NULL;
    if (d->residual)
        residual = const_offset(args->residual, tile.item * d->stride_r + tile.m0 * d->ldr + tile.n0, d->dtype_c);
    char *scratch = gemm->lib->scratch ? gemm->lib->scratch + (size_t)worker * gemm->lib->scratch_bytes : NULL;
    float *product = gemm->add_after ? (float *)(void *)(scratch + gemm->add_after_offset) : NULL;
    if (residual && !product)
        residual_copy(d, &tile, c, residual);
    GemmArgs part = {
        .a = const_offset(args->a, a_elems, d->dtype_ab),
        .b = const_offset(args->b, b_elems, d->dtype_ab),
        .c = product ? (void *)product : c,
        .bias = d->bias ? const_offset(args->bias, tile.n0, d->dtype_bias) : NULL,
    };
    TRY(gemm_kernel_run(gemm->kernels[gemm->kernel_of[tile.last_row][tile.last_col]], worker, &part, scratch));
    if (product)
        add_rows(d, &tile, product, gemm->tiling.tile_n, c, residual ? residual : c, residual ? d->ldr : d->ldc);
    return STATUS_OK;
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
    const GemmDesc *d = &gemm->desc;
    ENSURE(d->bias == (args->bias != NULL) && d->residual == (args->residual != NULL));
    ENSURE((d->aux || d->dact != GEMM_ACT_none) == (args->aux != NULL) && d->sums == (args->sums != NULL));
    GemmArgs product = *args;
    product.c = d->aux ? args->aux : args->c;
    Run run = {.gemm = gemm, .args = &product, .status = STATUS_OK};
    pool_run(gemm->lib->pool, gemm_n_tasks(gemm), task_run, &run);
    Status status = (Status)atomic_load_explicit(&run.status, memory_order_relaxed);
    if (status == STATUS_OK && gemm->after)
        status = gemm_after_run(gemm->after, args);
    if (status != STATUS_OK)
        return status_fail(status, "a contraction of (%lld, %lld, %lld) failed in the library", (long long)gemm->desc.m,
                           (long long)gemm->desc.n, (long long)gemm->desc.k);
    return STATUS_OK;
}
