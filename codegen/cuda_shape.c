/* See cuda_shape.h. The figures are those of a device with about SMS multiprocessors of 64 K registers and 2048
 * threads: a wrong guess costs time, never a result. */
#include "codegen/cuda_shape.h"

enum
{
    WARP = 32,
    SMS = 132,
    ACCESS_BYTES = 16,
    FLAT_LANES = 256,
    MAX_LANES = 256,
    ROWS_BLOCK = 128,     /* threads of a block with several rows */
    ROW_ELEMS = 32,       /* of a thread's part of a row that stays in registers */
    ROW_REGISTERS = 96,   /* that all such parts of a kernel may take */
    OTHER_REGISTERS = 36, /* addresses, what a row shares */
    LONG_ELEMS = 8,       /* of a thread at a time */
    LONG_BLOCKS = 8 * SMS,
    LOADS = 4,       /* of a thread that should be under way at a time */
    FLAT_ELEMS = 16, /* of a thread */
    LARGE_PART = 4,  /* operands of this part of the domain's elements are large */
    MIN_CHUNK = 12   /* rows whose sum is worth a part */
};

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* ---- how indices change */

static bool changes_in_row(const NestStage *stage, Idx e)
{
    const IdxExpr *x = idx_get(&stage->idx, e);
    for (uint32_t i = 0; i < x->n_terms; i++)
    {
        const IdxTerm *term = &x->terms[i];
        if (term->atom ? changes_in_row(stage, stage->idx.atoms.data[term->atom].source)
                       : term->div % stage->inner != 0)
            return true;
    }
    return false;
}

CudaChange cuda_change(const NestStage *stage, Idx e, uint32_t n, int64_t *out_step)
{
    const IdxExpr *x = idx_get(&stage->idx, e);
    bool aligned = x->konst % n == 0;
    *out_step = 0;
    if (n == 1)
        return (*out_step = changes_in_row(stage, e)) ? CUDA_NEXT : CUDA_SAME;
    for (uint32_t i = 0; i < x->n_terms; i++)
    {
        const IdxTerm *term = &x->terms[i];
        int64_t step;
        if (term->atom && cuda_change(stage, stage->idx.atoms.data[term->atom].source, n, &step) != CUDA_SAME)
            return CUDA_ANY;
        if (term->atom || term->div % n == 0)
            aligned &= term->coef % n == 0;
        else if (term->div == 1 && term->mod % n == 0)
            *out_step += term->coef;
        else
            return CUDA_ANY;
    }
    return *out_step == 0 ? CUDA_SAME : *out_step == 1 && aligned ? CUDA_NEXT : CUDA_STEADY;
}

bool cuda_guard_is_steady(const NestStage *stage, NestInst guard, uint32_t n)
{
    for (; guard; guard = stage->insts.data[guard].args[0])
    {
        const NestInstData *data = &stage->insts.data[guard];
        int64_t step;
        const CudaChange change = cuda_change(stage, data->index, n, &step);
        if (change != CUDA_SAME && (n == 1 || change != CUDA_NEXT || data->lo % n != 0 || data->hi % n != 0))
            return false;
    }
    return true;
}

bool cuda_load_is_wide(const NestStage *stage, NestInst inst, uint32_t n)
{
    const NestInstData *data = &stage->insts.data[inst];
    int64_t step;
    return data->kind == INST_LOAD && cuda_change(stage, data->index, n, &step) == CUDA_NEXT &&
           cuda_guard_is_steady(stage, data->args[0], n);
}

/* ---- the vector */

/* Accesses that n elements take, times ACCESS_BYTES; what cannot be one access is also apart from its neighbours'. */
static int64_t cost_of_vector(const NestStage *stage, uint32_t n)
{
    int64_t cost = 0, step;
    const int64_t one = ACCESS_BYTES / n, apart = n > 1 ? ACCESS_BYTES * 3 / 2 : ACCESS_BYTES;
    for (NestInst i = 1; i < stage->insts.len; i++)
        if (stage->insts.data[i].kind == INST_LOAD && changes_in_row(stage, stage->insts.data[i].index))
            cost +=
                cuda_load_is_wide(stage, i, n) || cuda_change(stage, stage->insts.data[i].index, n, &step) == CUDA_SAME
                    ? one
                    : apart;
    for (uint32_t i = 0; i < stage->stores.len; i++)
        if (stage->stores.data[i].inner)
            cost += cuda_change(stage, stage->stores.data[i].index, n, &step) == CUDA_NEXT ? one : apart;
    return cost;
}

/* Operands that are small beside the domain stay in the caches: their accesses do not decide. */
static bool is_large(const Nest *nest, const NestInstData *load)
{
    return ir_type_n_elems(&nest->arg_types[load->arg]) * LARGE_PART >= nest->main.rows * nest->main.inner;
}

static uint32_t best_vector(const Nest *nest)
{
    const NestStage *stage = &nest->main;
    int64_t widest = 2;
    for (NestInst i = 1; i < stage->insts.len; i++)
    {
        const NestInstData *data = &stage->insts.data[i];
        if (data->kind == INST_LOAD && changes_in_row(stage, data->index) && is_large(nest, data) &&
            dtype_size_bytes(data->dtype) > widest)
            widest = dtype_size_bytes(data->dtype);
    }
    for (uint32_t i = 0; i < stage->stores.len; i++)
        if (stage->stores.data[i].inner && dtype_size_bytes(stage->stores.data[i].dtype) > widest)
            widest = dtype_size_bytes(stage->stores.data[i].dtype);
    uint32_t best = 1;
    int64_t least = INT64_MAX;
    for (uint32_t n = (uint32_t)(ACCESS_BYTES / widest); n > 0; n /= 2)
    {
        const int64_t cost = stage->inner % n == 0 ? cost_of_vector(stage, n) : INT64_MAX;
        if (cost < least)
            best = n, least = cost;
    }
    return best;
}

/* ---- what a thread has */

typedef struct
{
    uint32_t loads; /* most wide ones of a phase */
    uint32_t words; /* registers of a vector of each of those */
    uint32_t kept;  /* values from phase to phase, and sums of columns */
    bool row_sums, random, stores;
} Load;

static Load load_of(const Nest *nest, uint32_t vector)
{
    const NestStage *stage = &nest->main;
    Load load = {0};
    for (uint32_t phase = 0; phase < stage->n_phases; phase++)
    {
        uint32_t n = 0, words = 0;
        for (NestInst i = 1; i < stage->insts.len; i++)
            if (stage->insts.data[i].phase == phase && cuda_load_is_wide(stage, i, vector) &&
                is_large(nest, &stage->insts.data[i]))
            {
                n++;
                words += (uint32_t)ceil_div(vector * dtype_size_bytes(stage->insts.data[i].dtype), 4);
            }
        load.loads = n > load.loads ? n : load.loads;
        load.words = words > load.words ? words : load.words;
    }
    for (NestInst i = 1; i < stage->insts.len; i++)
    {
        load.kept += stage->insts.data[i].slot >= 0 && nest_slot_is_kept(stage, i);
        load.random |= stage->insts.data[i].kind == INST_RANDOM;
    }
    for (uint32_t i = 0; i < stage->stores.len; i++)
        load.stores |= stage->stores.data[i].inner;
    for (uint32_t k = 0; k < nest->reduces.len; k++)
    {
        load.kept += nest->reduces.data[k].kind == REDUCE_COLUMN;
        load.row_sums |= nest->reduces.data[k].kind == REDUCE_ROW;
    }
    return load;
}

/* Vectors, or rows, to load together. Random numbers are long texts, and their own time hides that of loads. */
static uint32_t loads_together(const Load *load)
{
    return load->random || load->loads >= LOADS - 1 ? 1 : load->loads == 2 ? LOADS / 2 : LOADS;
}

static void shape_flat(CudaShape *s, const Nest *nest, const Load *load, bool is_update)
{
    const int64_t n = nest->main.inner;
    s->lanes = FLAT_LANES;
    s->steps = loads_together(load);
    while (s->steps > 1 &&
           (s->steps * s->vector > FLAT_ELEMS || n < 2 * SMS * (int64_t)s->lanes * s->steps * s->vector))
        s->steps /= 2;
    s->width = (int64_t)s->lanes * s->steps * s->vector;
    s->kind = SHAPE_FLAT;
    s->calls = !nest->has_final[NEST_WHOLE] && !load->random && is_update;
    s->exact = !s->calls && n % s->width == 0;
    s->chunk = s->width;
    if (nest->has_final[NEST_WHOLE])
    {
        s->kind = SHAPE_FLAT_CHUNK;
        s->chunk = ceil_div(ceil_div(n, 4 * SMS), s->width) * s->width;
    }
    s->chunks = ceil_div(n, s->chunk);
    s->grid = (uint32_t)s->chunks;
    s->block = s->lanes;
}

/* The fewest lanes that keep a row in registers; 0: none do. Up to twice as many when those fit the row exactly. */
static uint32_t lanes_for(const CudaShape *s, int64_t inner, const Load *load)
{
    const int64_t arrays = load->loads + load->kept ? load->loads + load->kept : 1;
    uint32_t fewest = 0;
    for (uint32_t lanes = WARP; lanes <= MAX_LANES && (!fewest || lanes <= 2 * fewest); lanes += WARP)
    {
        const int64_t elems = ceil_div(inner, (int64_t)lanes * s->vector) * s->vector;
        if (elems > ROW_ELEMS || elems * arrays > ROW_REGISTERS)
            continue;
        if (inner % ((int64_t)lanes * s->vector) == 0)
            return lanes;
        fewest = fewest ? fewest : lanes;
    }
    return fewest;
}

/* Rows of a block, and parts that sums of columns come in: `blocks` blocks in all, about. */
static void cut_chunks(CudaShape *s, const Nest *nest, int64_t blocks)
{
    const int64_t group_rows = nest->main.rows / nest->groups;
    int64_t chunks = blocks / (nest->groups * s->splits);
    if (chunks > group_rows / MIN_CHUNK)
        chunks = group_rows / MIN_CHUNK;
    s->chunk = ceil_div(ceil_div(group_rows, chunks > 1 ? chunks : 1), s->unroll) * s->unroll;
    s->chunks = ceil_div(group_rows, s->chunk);
    s->grid = (uint32_t)(nest->groups * s->chunks * s->splits);
    s->block = s->lanes;
}

/* Lanes by columns alone: as few blocks as share a row, or up to twice as many when those fit it exactly. */
static void split_row(CudaShape *s, int64_t vectors)
{
    const int64_t fewest = ceil_div(vectors, MAX_LANES);
    s->splits = fewest;
    for (int64_t splits = fewest; splits <= 2 * fewest; splits++)
        if (vectors % (splits * WARP) == 0)
        {
            s->splits = splits;
            break;
        }
    s->lanes = (uint32_t)(ceil_div(ceil_div(vectors, s->splits), WARP) * WARP);
}

static void shape_rows(CudaShape *s, const Nest *nest, const Load *load)
{
    const int64_t inner = nest->main.inner;
    const bool columns = nest->has_final[NEST_COLUMNS];
    int64_t blocks = 4 * SMS;
    if (columns && !load->row_sums)
    {
        split_row(s, inner / s->vector);
        s->unroll = load->random          ? 1
                    : load->loads > LOADS ? 1
                    : load->loads > 1     ? LOADS / 2
                    : load->stores        ? LOADS
                                          : 2 * LOADS;
    }
    else
        s->lanes = lanes_for(s, inner, load);
    s->kind = !s->lanes ? SHAPE_LONG_ROWS : columns ? SHAPE_COLUMNS : SHAPE_ROWS;
    s->lanes = s->lanes ? s->lanes : MAX_LANES;
    const int64_t vectors = (int64_t)s->lanes * s->vector * s->splits;
    s->steps = s->kind == SHAPE_LONG_ROWS ? LONG_ELEMS / s->vector : (uint32_t)ceil_div(inner, vectors);
    s->width = (int64_t)s->lanes * s->steps * s->vector;
    s->leaves = s->kind == SHAPE_COLUMNS && !load->row_sums && inner % (s->width * s->splits) != 0;
    s->exact = s->leaves || inner % (s->width * s->splits) == 0;
    s->block = s->lanes;
    if (s->kind == SHAPE_ROWS)
    {
        s->rows = s->lanes < ROWS_BLOCK && (!load->row_sums || s->lanes == WARP) ? ROWS_BLOCK / s->lanes : 1;
        while (s->rows > 1 && nest->main.rows < 2 * SMS * (int64_t)s->rows)
            s->rows /= 2;
        s->block = s->lanes * s->rows;
        s->grid = (uint32_t)ceil_div(nest->main.rows, s->rows);
    }
    else if (columns)
    {
        if (s->kind == SHAPE_COLUMNS)
        {
            /* As many blocks as registers allow at a time. */
            const int64_t registers = s->steps * (s->vector * load->kept + load->words * s->unroll) + OTHER_REGISTERS;
            blocks = 65536 / (registers * s->lanes) * SMS;
            blocks = blocks > 8 * SMS ? 8 * SMS : blocks < SMS ? SMS : blocks;
        }
        cut_chunks(s, nest, blocks);
    }
    else
        s->grid = (uint32_t)(nest->main.rows < LONG_BLOCKS ? nest->main.rows : LONG_BLOCKS);
}

CudaShape cuda_shape_make(const Nest *nest, bool is_update)
{
    CudaShape s = {.vector = best_vector(nest), .rows = 1, .splits = 1, .unroll = 1};
    const Load load = load_of(nest, s.vector);
    if (nest->main.flat)
        shape_flat(&s, nest, &load, is_update);
    else
        shape_rows(&s, nest, &load);
    return s;
}
