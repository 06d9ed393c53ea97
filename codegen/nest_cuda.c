/* See nest_cuda.h. A phase is two loops over the vectors of a thread: the first loads whatever is known to be needed,
 * so that all of it is under way at once, the second computes element by element and stores. Names in the text, besides
 * those of codegen/nest_print.c: s vector, v element in it, e element of all that the thread has, iv and fv positions
 * of vectors, yN what a vector stores, partN what the warps of a row leave
 * for each other. */
#include "codegen/nest_cuda.h"

#include "base/bug.h"

enum
{
    WARP = 32
};

const char *const nest_cuda_reduce_names[IR_CODE_COUNT] = {
    [IR_reduce_sum] = "sum", [IR_reduce_max] = "max", [IR_reduce_min] = "min"};

static const char *name_of(const NestReduce *r)
{
    return nest_cuda_reduce_names[r->code];
}

static uint32_t elems_of(const CudaShape *shape)
{
    return shape->steps * shape->vector;
}

static bool in_registers(const CudaShape *shape)
{
    return shape->kind != SHAPE_LONG_ROWS;
}

bool nest_cuda_has_origin(const CudaShape *shape)
{
    return shape->kind == SHAPE_FLAT || shape->kind == SHAPE_FLAT_CHUNK || shape->kind == SHAPE_LONG_ROWS ||
           shape->splits > 1;
}

void nest_cuda_variables(StrBuf *out, const NestPrinter *p)
{
    const CudaShape *shape = p->shape;
    for (NestInst i = 1; i < p->stage->insts.len; i++)
    {
        const NestInstData *data = &p->stage->insts.data[i];
        if (data->slot >= 0 && nest_slot_is_kept(p->stage, i) && in_registers(shape))
            strbuf_addf(out, "%s s%d[%u];\n", nest_register_type(data->dtype), data->slot, elems_of(shape));
    }
    for (uint32_t k = 0; k < p->nest->reduces.len; k++)
    {
        const NestReduce *r = &p->nest->reduces.data[k];
        if (r->kind == REDUCE_COLUMN && in_registers(shape))
            strbuf_addf(
                out, "%s c%u[%u];\nPTC_UNROLL\nfor (int e = 0; e < %u; e++)\n    c%u[e] = ptc_%s_identity_%c();\n",
                nest_register_type(r->dtype), k, elems_of(shape), elems_of(shape), k, name_of(r), nest_cuda_family(r));
        if (r->kind == REDUCE_ROW && shape->lanes > WARP)
            strbuf_addf(out, "__shared__ %s part%u[2][%u];\n", nest_register_type(r->dtype), k, shape->lanes / WARP);
    }
}

void nest_cuda_open_steps(StrBuf *out, const NestPrinter *p)
{
    const CudaShape *shape = p->shape;
    const char *position = p->flat ? "fv" : "iv";
    strbuf_addf(out, "PTC_UNROLL\nfor (int s = 0; s < %u; s++)\n{\nconst ptc_index %s = %s(s * %u + lane) * %u;\n",
                shape->steps, position, nest_cuda_has_origin(shape) ? "origin + " : "", shape->lanes, shape->vector);
    if (shape->calls)
        strbuf_addf(out, "if (%s < n)\n{\n", position);
    else if (!shape->exact)
        strbuf_addf(out, "if (%s < %lld)\n{\n", position, (long long)p->inner);
}

void nest_cuda_close_steps(StrBuf *out, const NestPrinter *p)
{
    strbuf_add(out, p->shape->exact ? "}\n" : "}\n}\n");
}

static void forget_atoms(NestPrinter *p)
{
    for (uint32_t a = 0; a < p->stage->idx.atoms.len; a++)
        if (nest_index_level(p, p->stage->idx.atoms.data[a].source) > LEVEL_ROW)
            p->atom_named[a] = false;
}

/* A load, or what is the same for a whole vector: an array over the thread's vectors. */
static void print_of_vector(NestPrinter *p, StrBuf *arrays, NestInst inst)
{
    const NestInstData *data = &p->stage->insts.data[inst];
    const uint32_t n = p->shape->vector, n_steps = p->shape->steps;
    const bool ahead = nest_load_is_ahead(p, inst);
    StrBuf *out = &p->level[LEVEL_VECTOR];
    if (!cuda_load_is_wide(p->stage, inst, n))
    {
        strbuf_addf(arrays, "%s t%u[%u];\n", nest_register_type(data->dtype), inst, n_steps);
        strbuf_addf(out, "t%u[s] = %s;\n", inst, nest_inst_text(p, inst));
        return;
    }
    const char *at = nest_index_text(p, data->index);
    strbuf_addf(arrays, "PtcVector<%s, %u> t%u[%u];\n", nest_storage_type(data->dtype), n, inst, n_steps);
    strbuf_addf(out, "t%u[s] = ", inst);
    if (data->args[0])
        strbuf_addf(out, "ptc_vector_if<%u>(%s, a%u + (%s));\n", n, nest_value_text(p, data->args[0]), data->arg, at);
    else
        strbuf_addf(out, "ptc_vector%s<%u>(a%u + (%s));\n", ahead ? "_early" : "", n, data->arg, at);
}

/* Before the loop over the elements of a vector. */
static void print_random(NestPrinter *p, StrBuf *arrays, NestInst inst)
{
    const NestInstData *data = &p->stage->insts.data[inst];
    const bool words = nest_random_is_compared(p, inst);
    p->now = LEVEL_VECTOR;
    strbuf_addf(arrays, "%s t%u[%u];\nptc_random_%s<%u>(t%u, %s, %s, %s, (uint32_t)(%s), stream + %lldu);\n",
                words ? "uint32_t" : "float", inst, p->shape->vector, words ? "words" : "vector", p->shape->vector,
                inst, nest_value_text(p, data->args[0]), nest_value_text(p, data->args[1]),
                nest_value_text(p, data->args[2]), nest_index_text(p, data->index), (long long)(uint32_t)data->stream);
    p->now = LEVEL_ELEMENT;
}

/* The names of the row's quotients are those of the text's own block. What there is one of a row is read by later
 * phases, too: the next one waits as nN. */
static void print_ahead(NestPrinter *p)
{
    StrBuf arrays = strbuf_make(p->arena), single = strbuf_make(p->arena);
    p->now = LEVEL_VECTOR;
    for (NestInst i = 1; i < p->stage->insts.len; i++)
        if (nest_load_is_ahead(p, i) && nest_inst_level(p, i) == LEVEL_ROW)
        {
            const NestInstData *data = &p->stage->insts.data[i];
            const char *at = nest_index_text(p, data->index);
            strbuf_addf(&arrays, "%s n%u;\n", nest_register_type(data->dtype), i);
            strbuf_addf(&single, "n%u = ptc_at(ptc_vector_early<1>(a%u + (%s)), 0);\n", i, data->arg, at);
        }
        else if (nest_load_is_ahead(p, i))
            print_of_vector(p, &arrays, i);
    if (arrays.len)
    {
        strbuf_add(&p->task, strbuf_text(&arrays));
        strbuf_add(&p->ahead, strbuf_text(&p->level[LEVEL_ROW]));
        strbuf_add(&p->ahead, strbuf_text(&single));
        nest_cuda_open_steps(&p->ahead, p);
        strbuf_add(&p->ahead, strbuf_text(&p->level[LEVEL_VECTOR]));
        nest_cuda_close_steps(&p->ahead, p);
    }
    p->level[LEVEL_ROW] = strbuf_make(p->arena);
    p->level[LEVEL_VECTOR] = strbuf_make(p->arena);
    p->digits.len = 0;
}

static void print_instructions(NestPrinter *p, StrBuf *arrays, uint32_t phase, uint32_t now)
{
    p->now = now;
    forget_atoms(p);
    for (NestInst i = 1; i < p->stage->insts.len; i++)
    {
        const NestInstData *data = &p->stage->insts.data[i];
        if (data->phase != phase || data->kind == INST_CONST || data->kind == INST_REDUCED)
            continue;
        const uint32_t level = nest_inst_level(p, i);
        if (nest_load_is_ahead(p, i))
        {
            if (level == LEVEL_ROW && now == LEVEL_VECTOR)
                strbuf_addf(&p->level[LEVEL_ROW], "const %s t%u = n%u;\n", nest_register_type(data->dtype), i, i);
            continue;
        }
        const bool of_vector = level == LEVEL_VECTOR || cuda_load_is_wide(p->stage, i, p->shape->vector);
        if ((level == LEVEL_ELEMENT && !of_vector) != (now == LEVEL_ELEMENT))
            continue;
        if (of_vector)
            print_of_vector(p, arrays, i);
        else if (nest_random_is_wide(p, i))
            print_random(p, arrays, i);
        else
        {
            const char *text = nest_inst_text(p, i);
            strbuf_addf(level == LEVEL_TASK ? &p->task : &p->level[level], "const %s t%u = %s;\n",
                        nest_register_type(data->dtype), i, text);
        }
    }
}

/* A store of a vector is in two parts: an array, and behind the loop over its elements the access, which makes pairs
 * of bf16. */
static void print_stores(NestPrinter *p, uint32_t phase, StrBuf *arrays, StrBuf *accesses)
{
    const uint32_t n = p->shape->vector;
    for (uint32_t i = 0; i < p->stage->stores.len; i++)
    {
        const NestStore *store = &p->stage->stores.data[i];
        if (store->phase != phase)
            continue;
        const char *in_register = nest_value_text(p, store->source);
        const char *value = nest_store_text(p, store->dtype, in_register);
        const bool is_bf16 = store->dtype == DT_BF16;
        int64_t step;
        if (!store->inner)
            strbuf_addf(&p->level[LEVEL_ROW], "if (first)\n    z%u[%s] = %s;\n", store->output,
                        nest_index_text(p, store->index), value);
        else if (cuda_change(p->stage, store->index, n, &step) != CUDA_NEXT)
            strbuf_addf(&p->level[LEVEL_ELEMENT], "z%u[%s] = %s;\n", store->output, nest_index_text(p, store->index),
                        value);
        else
        {
            strbuf_addf(arrays, "%s y%u[%u];\n",
                        is_bf16 ? nest_register_type(DT_BF16) : nest_storage_type(store->dtype), store->output, n);
            strbuf_addf(&p->level[LEVEL_ELEMENT], "y%u[%s] = %s;\n", store->output, n > 1 ? "v" : "0",
                        is_bf16 ? in_register : value);
            p->now = LEVEL_VECTOR;
            strbuf_addf(accesses, "ptc_store_vector<%u>(z%u + (%s), y%u);\n", n, store->output,
                        nest_index_text(p, store->index), store->output);
            p->now = LEVEL_ELEMENT;
        }
    }
}

static void print_sums(NestPrinter *p, uint32_t phase)
{
    StrBuf *element = &p->level[LEVEL_ELEMENT];
    for (uint32_t k = 0; k < p->nest->reduces.len; k++)
    {
        const NestReduce *r = &p->nest->reduces.data[k];
        if (r->phase != phase)
            continue;
        const char *value = nest_value_text(p, r->source);
        if (r->kind == REDUCE_WHOLE_LATER)
        {
            const bool of_row = r->n_later == p->stage->rows;
            strbuf_addf(of_row ? &p->level[LEVEL_ROW] : element, "%sw%u[%s] = %s;\n", of_row ? "if (first)\n    " : "",
                        k, nest_index_text(p, r->at), value);
            continue;
        }
        const char *sum = arena_printf(p->arena, "v%u", k);
        if (r->kind == REDUCE_COLUMN)
            sum = arena_printf(p->arena, "c%u[%s]", k, in_registers(p->shape) ? "e" : nest_row_position(p));
        strbuf_addf(element, "%s = ptc_%s2_%c(%s, %s);\n", sum, name_of(r), nest_cuda_family(r), sum, value);
    }
}

static void print_effects(NestPrinter *p, uint32_t phase, StrBuf *arrays, StrBuf *accesses)
{
    const NestStage *stage = p->stage;
    for (NestInst i = 1; i < stage->insts.len; i++)
    {
        const NestInstData *data = &stage->insts.data[i];
        if (data->slot >= 0 && data->phase == phase && nest_slot_is_kept(stage, i))
            strbuf_addf(&p->level[LEVEL_ELEMENT], "s%d[%s] = %s;\n", data->slot,
                        in_registers(p->shape) ? "e" : nest_row_position(p), nest_value_text(p, i));
    }
    print_sums(p, phase);
    print_stores(p, phase, arrays, accesses);
}

static void print_loops(NestPrinter *p, StrBuf *loads, StrBuf *arrays, StrBuf *accesses)
{
    const CudaShape *shape = p->shape;
    StrBuf *body = &p->body;
    if (shape->kind == SHAPE_LONG_ROWS)
        strbuf_addf(body, "for (ptc_index origin = 0; origin < %lld; origin += %lld)\n{\n", (long long)p->inner,
                    (long long)shape->width);
    strbuf_add(body, strbuf_text(loads));
    if (p->level[LEVEL_VECTOR].len)
    {
        nest_cuda_open_steps(body, p);
        strbuf_add(body, strbuf_text(&p->level[LEVEL_VECTOR]));
        nest_cuda_close_steps(body, p);
    }
    nest_cuda_open_steps(body, p);
    strbuf_add(body, strbuf_text(arrays));
    if (shape->vector > 1)
        strbuf_addf(body,
                    "PTC_UNROLL\nfor (int v = 0; v < %u; v++)\n{\nconst int e = s * %u + v;\n"
                    "const ptc_index %s = %s + v;\n",
                    shape->vector, shape->vector, p->flat ? "f" : "i0", p->flat ? "fv" : "iv");
    else
        strbuf_addf(body, "{\nconst int v = 0, e = s;\nconst ptc_index %s = %s;\n", p->flat ? "f" : "i0",
                    p->flat ? "fv" : "iv");
    strbuf_add(body, strbuf_text(&p->level[LEVEL_ELEMENT]));
    strbuf_add(body, "}\n");
    strbuf_add(body, strbuf_text(accesses));
    nest_cuda_close_steps(body, p);
    if (shape->kind == SHAPE_LONG_ROWS)
        strbuf_add(body, "}\n");
}

/* Over the lanes of a warp; where a row has several warps, they leave their sums and all add them in order. The parts
 * are two: those of the row before may still be read. */
static void print_row_sums(NestPrinter *p, uint32_t phase)
{
    const uint32_t n_warps = p->shape->lanes / WARP;
    const bool turns = p->shape->kind == SHAPE_COLUMNS || p->shape->kind == SHAPE_LONG_ROWS;
    const char *turn = turns ? "turn" : "0";
    StrBuf parts = strbuf_make(p->arena), totals = strbuf_make(p->arena);
    for (uint32_t k = 0; k < p->nest->reduces.len; k++)
    {
        const NestReduce *r = &p->nest->reduces.data[k];
        if (r->kind != REDUCE_ROW || r->phase != phase)
            continue;
        const char *text = arena_printf(p->arena, "ptc_warp_%s_%c(v%u)", name_of(r), nest_cuda_family(r), k);
        if (n_warps > 1)
        {
            strbuf_addf(&p->body, "v%u = %s;\n", k, text);
            strbuf_addf(&parts, "part%u[%s][lane / %d] = v%u;\n", k, turn, WARP, k);
            text = arena_printf(p->arena, "ptc_parts_%s_%c<%u>(part%u[%s])", name_of(r), nest_cuda_family(r), n_warps,
                                k, turn);
        }
        if (r->dtype == DT_BF16)
            text = arena_printf(p->arena, "ptc_bf16_round(%s)", text);
        strbuf_addf(&totals, "const %s r%u = %s;\n", nest_register_type(r->dtype), k, text);
    }
    if (parts.len)
        strbuf_addf(&p->body, "if (lane %% %d == 0)\n{\n%s}\n__syncthreads();\n", WARP, strbuf_text(&parts));
    strbuf_add(&p->body, strbuf_text(&totals));
}

static void print_phase(NestPrinter *p, uint32_t phase)
{
    StrBuf loads = strbuf_make(p->arena), arrays = strbuf_make(p->arena), accesses = strbuf_make(p->arena);
    for (uint32_t l = 0; l < PRINT_MAX_LEVELS; l++)
        p->level[l] = strbuf_make(p->arena);
    if (phase == 0)
        print_ahead(p);
    print_instructions(p, &loads, phase, LEVEL_VECTOR);
    print_instructions(p, &arrays, phase, LEVEL_ELEMENT);
    const size_t before = p->level[LEVEL_ELEMENT].len;
    print_effects(p, phase, &arrays, &accesses);
    strbuf_add(&p->body, strbuf_text(&p->level[LEVEL_ROW]));
    for (uint32_t k = 0; k < p->nest->reduces.len; k++)
    {
        const NestReduce *r = &p->nest->reduces.data[k];
        if (r->kind == REDUCE_ROW && r->phase == phase)
            strbuf_addf(&p->body, "%s v%u = ptc_%s_identity_%c();\n", nest_register_type(r->dtype), k, name_of(r),
                        nest_cuda_family(r));
    }
    if (p->level[LEVEL_ELEMENT].len > before)
        print_loops(p, &loads, &arrays, &accesses);
    if (phase == 0 && p->ahead.len)
        strbuf_addf(&p->body,
                    "if (o + 1 < hi)\n{\nconst ptc_index next = o + 1;\n{\nconst ptc_index o = next;\n%s}\n}\n",
                    strbuf_text(&p->ahead));
    print_row_sums(p, phase);
}

void nest_cuda_body(NestPrinter *p)
{
    ENSURE(p->shape && p->stage == &p->nest->main);
    for (uint32_t phase = 0; phase < p->stage->n_phases; phase++)
        print_phase(p, phase);
}
