/* See nest_print.h. Names in the text: aN arguments, zN outputs, sN scratch rows, cN column partials, wN whole sums'
 * partials, tN instructions, rN row reductions, gN quotients of the row number, bN per-row bases of addresses,
 * xN atoms; loops: o rows, iK inner loops (i0 innermost), f the flat position. */
#include "codegen/nest_print.h"

#include "base/bug.h"
#include "codegen/scalar_ops.h"

#include <math.h>
#include <string.h>

const char *nest_storage_type(DType dtype)
{
    static const char *const types[DT_COUNT] = {
        [DT_F32] = "float", [DT_BF16] = "uint16_t", [DT_I32] = "int32_t", [DT_U8] = "uint8_t", [DT_BOOL] = "uint8_t"};
    return types[dtype];
}

const char *nest_register_type(DType dtype)
{
    return dtype_is_float(dtype) ? "float" : "int32_t";
}

/* ---- instructions */

static uint32_t find_level(const NestPrinter *p, NestInst inst)
{
    const NestInstData *data = &p->stage->insts.data[inst];
    uint32_t level = nest_index_level(p, data->index);
    if (data->kind == INST_KEPT)
        return nest_innermost(p);
    if (data->kind == INST_REDUCED)
        return p->stage != &p->nest->main ? nest_innermost(p) : LEVEL_ROW;
    if (p->shape && data->kind == INST_GUARD && level == LEVEL_ELEMENT &&
        cuda_guard_is_steady(p->stage, inst, p->shape->vector))
        level = LEVEL_VECTOR;
    for (uint32_t i = 0; i < data->n_args; i++)
        if (data->args[i])
        {
            uint32_t mine = nest_inst_level(p, data->args[i]);
            if (mine > level)
                level = mine;
        }
    return level;
}

uint32_t nest_inst_level(const NestPrinter *p, NestInst inst)
{
    if (!p->levels[inst])
        p->levels[inst] = (uint8_t)(1 + find_level(p, inst));
    return p->levels[inst] - 1U;
}

/* Rows that follow one another in a block and are summed up wait for loads, then for each other's warps: what the first
 * phase loads is begun a row earlier, when its registers are free again. */
bool nest_load_is_ahead(const NestPrinter *p, NestInst inst)
{
    const NestInstData *data = &p->stage->insts.data[inst];
    const IdxExpr *x = idx_get(&p->stage->idx, data->index);
    bool sums = false, by_row = false;
    if (!p->shape || p->shape->kind != SHAPE_COLUMNS || data->kind != INST_LOAD || data->phase != 0 || data->args[0])
        return false;
    for (uint32_t k = 0; k < p->nest->reduces.len; k++)
        sums |= p->nest->reduces.data[k].kind == REDUCE_ROW;
    for (uint32_t i = 0; i < x->n_terms; i++)
    {
        if (x->terms[i].atom)
            return false;
        by_row |= x->terms[i].div * x->terms[i].mod > p->inner;
    }
    return sums && by_row &&
           (cuda_load_is_wide(p->stage, inst, p->shape->vector) || nest_inst_level(p, inst) == LEVEL_ROW);
}

bool nest_random_is_wide(const NestPrinter *p, NestInst inst)
{
    const NestInstData *data = &p->stage->insts.data[inst];
    const IdxExpr *x = idx_get(&p->stage->idx, data->index);
    int64_t step;
    bool wide = p->shape && data->kind == INST_RANDOM && p->shape->vector % 4 == 0 &&
                cuda_change(p->stage, data->index, p->shape->vector, &step) == CUDA_NEXT;
    for (uint32_t i = 0; i < x->n_terms; i++)
        wide = wide && x->terms[i].atom == 0;
    for (uint32_t i = 0; i < data->n_args && wide; i++)
        wide = nest_inst_level(p, data->args[i]) <= LEVEL_VECTOR;
    return wide;
}

/* p <= random, with a constant p: words are compared, which needs no number. */
static bool compares_random(const NestPrinter *p, const NestInstData *data)
{
    const NestInstData *insts = p->stage->insts.data;
    return data->kind == INST_OP && data->code == IR_ge && insts[data->args[0]].kind == INST_RANDOM &&
           insts[data->args[1]].kind == INST_CONST && nest_random_is_wide(p, data->args[0]);
}

bool nest_random_is_compared(const NestPrinter *p, NestInst inst)
{
    bool other = p->stage->insts.data[inst].slot >= 0;
    for (NestInst i = 1; i < p->stage->insts.len; i++)
    {
        const NestInstData *data = &p->stage->insts.data[i];
        for (uint32_t a = 0; a < data->n_args; a++)
            other |= data->args[a] == inst && !(a == 0 && compares_random(p, data));
    }
    for (uint32_t i = 0; i < p->stage->stores.len; i++)
        other |= p->stage->stores.data[i].source == inst;
    for (uint32_t k = 0; k < p->nest->reduces.len; k++)
        other |= p->nest->reduces.data[k].source == inst;
    return !other && nest_random_is_wide(p, inst);
}

/* A random number is its word's upper 24 bits over 2^24. */
static const char *random_comparison(const NestPrinter *p, const NestInstData *data)
{
    const double least = ceil(ldexp((double)(float)p->stage->insts.data[data->args[1]].value, 24));
    if (least <= 0)
        return "1";
    if (!(least < 0x1p24))
        return "0";
    return arena_printf(p->arena, "(int32_t)(%s >= %uu)", nest_value_text(p, data->args[0]), (uint32_t)least << 8);
}

static const char *const_text(const NestPrinter *p, DType dtype, double value)
{
    if (!dtype_is_float(dtype))
        return arena_printf(p->arena, "%lld",
                            (long long)(dtype == DT_BOOL ? value != 0
                                        : dtype == DT_U8 ? (uint8_t)(int64_t)value
                                                         : (int32_t)value));
    if (isnan(value))
        return "PTC_NAN";
    if (isinf(value))
        return value > 0 ? "PTC_INF" : "-PTC_INF";
    float f = (float)value;
    if (isinf(f))
        return f > 0 ? "PTC_INF" : "-PTC_INF";
    const char *text = arena_printf(p->arena, "%.9g", (double)f);
    bool plain = true;
    for (const char *c = text; *c; c++)
        plain &= *c != '.' && *c != 'e';
    text = arena_printf(p->arena, plain ? "%s.0f" : "%sf", text);
    return dtype == DT_BF16 ? arena_printf(p->arena, "ptc_bf16_round(%s)", text) : text;
}

const char *nest_value_text(const NestPrinter *p, NestInst inst)
{
    const NestInstData *data = &p->stage->insts.data[inst];
    if (data->kind == INST_CONST)
        return const_text(p, data->dtype, data->value);
    if (data->kind == INST_REDUCED && p->stage == &p->nest->main)
        return arena_printf(p->arena, "r%u", data->reduce);
    const char *part = "";
    if (p->shape && cuda_load_is_wide(p->stage, inst, p->shape->vector))
        return arena_printf(p->arena, "ptc_at(t%u[s], v)", inst);
    else if (nest_random_is_wide(p, inst))
        part = "[v]";
    else if (p->shape && nest_inst_level(p, inst) == LEVEL_VECTOR)
        part = "[s]";
    return arena_printf(p->arena, "t%u%s", inst, part);
}

static const char *cast_text(const NestPrinter *p, const NestInstData *data)
{
    const char *a = nest_value_text(p, data->args[0]);
    switch (data->dtype)
    {
    case DT_F32:
        return arena_printf(p->arena, "(float)%s", a);
    case DT_BF16:
        return arena_printf(p->arena, "ptc_bf16_round((float)%s)", a);
    case DT_I32:
        return arena_printf(p->arena, "(int32_t)%s", a);
    case DT_U8:
        return arena_printf(p->arena, "((int32_t)%s & 255)", a);
    default:
        return arena_printf(p->arena, "(int32_t)(%s != 0)", a);
    }
}

static const char *op_text(const NestPrinter *p, const NestInstData *data)
{
    if (data->code == IR_cast)
        return cast_text(p, data);
    if (compares_random(p, data) && nest_random_is_compared(p, data->args[0]))
        return random_comparison(p, data);
    StrBuf s = strbuf_make(p->arena);
    strbuf_addf(&s, "op_%s_%c(", ir_op_info(data->code)->name, dtype_is_float(data->in_dtype) ? 'f' : 'i');
    for (uint32_t i = 0; i < data->n_args; i++)
        strbuf_addf(&s, "%s%s", i ? ", " : "", nest_value_text(p, data->args[i]));
    strbuf_add(&s, ")");
    if (data->dtype == DT_BF16)
        return arena_printf(p->arena, "ptc_bf16_round(%s)", strbuf_text(&s));
    if (data->dtype == DT_U8)
        return arena_printf(p->arena, "(%s & 255)", strbuf_text(&s));
    return strbuf_text(&s);
}

static const char *guard_text(NestPrinter *p, const NestInstData *data)
{
    const char *at = nest_index_text(p, data->index);
    int64_t min, max;
    idx_range(&p->stage->idx, data->index, &min, &max);
    StrBuf s = strbuf_make(p->arena);
    if (min < data->lo)
        strbuf_addf(&s, "(%s >= %lld)", at, (long long)data->lo);
    if (max >= data->hi)
        strbuf_addf(&s, "%s(%s < %lld)", s.len ? " & " : "", at, (long long)data->hi);
    if (data->args[0])
        strbuf_addf(&s, " & %s", nest_value_text(p, data->args[0]));
    return strbuf_text(&s);
}

static const char *load_text(NestPrinter *p, const NestInstData *data)
{
    const char *at = arena_printf(p->arena, "a%u[%s]", data->arg, nest_index_text(p, data->index));
    if (data->dtype == DT_BF16)
        at = arena_printf(p->arena, "ptc_bf16_load(%s)", at);
    else if (data->dtype != DT_F32 && data->dtype != DT_I32)
        at = arena_printf(p->arena, "(int32_t)%s", at);
    if (data->args[0])
        at = arena_printf(p->arena, "%s ? %s : 0", nest_value_text(p, data->args[0]), at);
    return at;
}

const char *nest_inst_text(NestPrinter *p, NestInst inst)
{
    const NestInstData *data = &p->stage->insts.data[inst];
    switch (data->kind)
    {
    case INST_LOAD:
        return load_text(p, data);
    case INST_OP:
        return op_text(p, data);
    case INST_INDEX:
        return arena_printf(p->arena, "(%s)(%s)", nest_register_type(data->dtype), nest_index_text(p, data->index));
    case INST_RANDOM:
        return arena_printf(p->arena, "ptc_random(%s, %s, %s, (uint32_t)(%s), stream + %lldu)",
                            nest_value_text(p, data->args[0]), nest_value_text(p, data->args[1]),
                            nest_value_text(p, data->args[2]), nest_index_text(p, data->index),
                            (long long)(uint32_t)data->stream);
    case INST_GUARD:
        return guard_text(p, data);
    case INST_PICK:
        return arena_printf(p->arena, "%s ? %s : %s", nest_value_text(p, data->args[0]),
                            nest_value_text(p, data->args[1]), nest_value_text(p, data->args[2]));
    case INST_KEPT:
        return arena_printf(p->arena, "s%d[%s]", p->stage->insts.data[data->args[0]].slot,
                            p->shape && p->shape->kind != SHAPE_LONG_ROWS ? "e" : nest_row_position(p));
    case INST_REDUCED:
        if (p->cuda)
            return arena_printf(p->arena, "q%u", data->reduce);
        return arena_printf(p->arena, "q%u[%s]", data->reduce, p->flat ? "0" : "i0");
    case INST_CONST:
        break;
    }
    BUG("an instruction without text");
}

/* ---- the row body */

const char *nest_store_text(const NestPrinter *p, DType dtype, const char *value)
{
    if (dtype == DT_BF16)
        return arena_printf(p->arena, "ptc_bf16_bits(%s)", value); /* rounded at its op */
    if (dtype == DT_U8 || dtype == DT_BOOL)
        return arena_printf(p->arena, "(uint8_t)%s", value);
    return value;
}

static const char *const reduce_names[IR_CODE_COUNT] = {
    [IR_reduce_sum] = "sum", [IR_reduce_max] = "max", [IR_reduce_min] = "min"};

static void print_effects(NestPrinter *p, uint32_t phase)
{
    const NestStage *stage = p->stage;
    StrBuf *deep = &p->level[nest_innermost(p)];
    for (NestInst i = 1; i < stage->insts.len; i++)
    {
        const NestInstData *data = &stage->insts.data[i];
        if (data->slot >= 0 && data->phase == phase)
            strbuf_addf(deep, "s%d[%s] = %s;\n", data->slot, p->flat ? "f - block" : nest_row_position(p),
                        nest_value_text(p, i));
    }
    if (stage == &p->nest->main)
        for (uint32_t k = 0; k < p->nest->reduces.len; k++)
        {
            const NestReduce *r = &p->nest->reduces.data[k];
            if (r->phase != phase)
                continue;
            if (r->kind == REDUCE_COLUMN)
                strbuf_addf(deep, "c%u[%s] = ptc_%s2_%c(c%u[%s], %s);\n", k, nest_row_position(p),
                            reduce_names[r->code], dtype_is_float(r->dtype) ? 'f' : 'i', k, nest_row_position(p),
                            nest_value_text(p, r->source));
            else if (r->kind == REDUCE_WHOLE_LATER)
                strbuf_addf(r->n_later == stage->rows ? &p->level[LEVEL_ROW] : deep, "w%u[%s] = %s;\n", k,
                            nest_index_text(p, r->at), nest_value_text(p, r->source));
        }
    for (uint32_t i = 0; i < stage->stores.len; i++)
    {
        const NestStore *store = &stage->stores.data[i];
        if (store->phase != phase)
            continue;
        const char *at = nest_index_text(p, store->index);
        StrBuf *out = store->inner ? deep : &p->level[LEVEL_ROW];
        strbuf_addf(out, "z%u[%s] = %s;\n", store->output, at,
                    nest_store_text(p, store->dtype, nest_value_text(p, store->source)));
    }
}

static void print_reductions(NestPrinter *p, uint32_t phase)
{
    for (uint32_t k = 0; k < p->nest->reduces.len; k++)
    {
        const NestReduce *r = &p->nest->reduces.data[k];
        if (r->kind != REDUCE_ROW || r->phase != phase || p->stage != &p->nest->main)
            continue;
        char family = dtype_is_float(r->dtype) ? 'f' : 'i';
        const NestInstData *source = &p->stage->insts.data[r->source];
        const char *from;
        if (nest_reduce_is_direct(p->stage, r))
            from = arena_printf(p->arena, "a%u + o * %lld", source->arg, (long long)p->inner);
        else
            from = arena_printf(p->arena, "s%d",
                                source->kind == INST_KEPT ? p->stage->insts.data[source->args[0]].slot : source->slot);
        const char *call =
            arena_printf(p->arena, "ptc_%s_%c(%s, %lld)", reduce_names[r->code], family, from, (long long)p->inner);
        if (r->dtype == DT_BF16)
            call = arena_printf(p->arena, "ptc_bf16_round(%s)", call);
        strbuf_addf(&p->body, "const %s r%u = %s;\n", nest_register_type(r->dtype), k, call);
    }
}

static void print_loops(NestPrinter *p)
{
    uint32_t n = nest_n_inner(p);
    for (uint32_t k = n; k-- > 0;)
    {
        strbuf_add(&p->body, k == 0 && !p->cuda ? "PTC_SIMD\n" : "");
        if (p->stage != &p->nest->main)
            strbuf_add(&p->body, p->cuda ? "{\n" : "for (int32_t i0 = lo; i0 < hi; i0++)\n{\n");
        else
            strbuf_addf(&p->body, "for (int32_t i%u = 0; i%u < %lld; i%u++)\n{\n", k, k,
                        (long long)(p->chain[k + 1] / p->chain[k]), k);
        strbuf_add(&p->body, strbuf_text(&p->level[LEVEL_INNER + n - 1 - k]));
    }
    for (uint32_t k = 0; k < n; k++)
        strbuf_add(&p->body, "}\n");
}

void nest_print_body(NestPrinter *p)
{
    for (uint32_t phase = 0; phase < p->stage->n_phases; phase++)
    {
        for (uint32_t l = 0; l < PRINT_MAX_LEVELS; l++)
            p->level[l] = strbuf_make(p->arena);
        for (uint32_t a = 0; a < p->stage->idx.atoms.len; a++)
            if (nest_index_level(p, p->stage->idx.atoms.data[a].source) > LEVEL_ROW)
                p->atom_named[a] = false;
        for (NestInst i = 1; i < p->stage->insts.len; i++)
        {
            const NestInstData *data = &p->stage->insts.data[i];
            if (data->phase != phase || data->kind == INST_CONST ||
                (data->kind == INST_REDUCED && p->stage == &p->nest->main))
                continue;
            uint32_t level = nest_inst_level(p, i);
            const char *text = nest_inst_text(p, i);
            strbuf_addf(level == LEVEL_TASK ? &p->task : &p->level[level], "const %s t%u = %s;\n",
                        nest_register_type(data->dtype), i, text);
        }
        size_t before = p->level[nest_innermost(p)].len;
        print_effects(p, phase);
        strbuf_add(&p->body, strbuf_text(&p->level[LEVEL_ROW]));
        if (p->flat)
            strbuf_add(&p->body, strbuf_text(&p->level[LEVEL_INNER]));
        else if (p->level[nest_innermost(p)].len > before)
            print_loops(p);
        print_reductions(p, phase);
    }
}

static bool stage_is_random(const NestStage *stage)
{
    for (NestInst i = 1; i < stage->insts.len; i++)
        if (stage->insts.data[i].kind == INST_RANDOM)
            return true;
    return false;
}

static bool nest_is_random(const Nest *nest)
{
    bool random = stage_is_random(&nest->main);
    for (int i = 0; i < NEST_FINALS; i++)
        random = random || (nest->has_final[i] && stage_is_random(&nest->final[i]));
    return random;
}

void nest_print_pointers(StrBuf *out, const Nest *nest)
{
    if (nest_is_random(nest))
        strbuf_addf(out, "const uint32_t stream = *(const uint32_t *)bufs[%u];\n(void)stream;\n",
                    nest->n_args + nest->n_outputs);
    for (uint32_t i = 0; i < nest->n_args; i++)
    {
        const char *type = nest_storage_type((DType)nest->arg_types[i].dtype);
        strbuf_addf(out, "const %s *const a%u = (const %s *)bufs[%u];\n", type, i, type, i);
    }
    for (uint32_t i = 0; i < nest->n_outputs; i++)
    {
        const char *type = nest_storage_type((DType)nest->output_types[i].dtype);
        strbuf_addf(out, "%s *const z%u = (%s *)bufs[%u];\n", type, i, type, nest->n_args + i);
    }
}

void nest_print_parameters(StrBuf *out, const Nest *nest)
{
    /* Only results of kernels without reductions may lie over operands (codegen_kernel_may_alias). */
    const char *alone = nest->reduces.len ? "__restrict__ " : "";
    for (uint32_t i = 0; i < nest->n_args; i++)
        strbuf_addf(out, "const %s *%sa%u, ", nest_storage_type((DType)nest->arg_types[i].dtype), alone, i);
    for (uint32_t i = 0; i < nest->n_outputs; i++)
        strbuf_addf(out, "%s *%sz%u, ", nest_storage_type((DType)nest->output_types[i].dtype), alone, i);
    strbuf_add(out, "char *workspace, uint32_t stream");
}

void nest_print_indented(StrBuf *out, const char *text)
{
    int depth = 0;
    while (*text)
    {
        const char *line = text + strspn(text, " ");
        size_t n = strcspn(line, "\n"), n_own = (size_t)(line - text);
        text = line + n + (line[n] == '\n');
        if (line[0] == '}')
            depth--;
        for (size_t i = 0; i < n_own + 4 * (size_t)depth && n; i++)
            strbuf_add(out, " ");
        strbuf_add_bytes(out, line, n);
        strbuf_add(out, "\n");
        if (n && line[n - 1] == '{' && n == 1)
            depth++;
    }
}
