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

/* ---- loops */

static bool chain_has(const NestPrinter *p, int64_t size)
{
    for (uint32_t i = 0; i <= p->n_chain; i++)
        if (p->chain[i] == size)
            return true;
    return false;
}

static void collect_cuts(const NestPrinter *p, Idx e, int64_t *cuts, uint32_t *n_cuts)
{
    const IdxExpr *x = idx_get(&p->stage->idx, e);
    for (uint32_t i = 0; i < x->n_terms; i++)
    {
        const IdxTerm *term = &x->terms[i];
        if (term->atom)
        {
            collect_cuts(p, p->stage->idx.atoms.data[term->atom].source, cuts, n_cuts);
            continue;
        }
        const int64_t ends[2] = {term->div, term->div * term->mod};
        for (int k = 0; k < 2; k++)
        {
            uint32_t at = 0;
            while (at < *n_cuts && cuts[at] < ends[k])
                at++;
            if ((at < *n_cuts && cuts[at] == ends[k]) || *n_cuts == 64)
                continue;
            for (uint32_t j = (*n_cuts)++; j > at; j--)
                cuts[j] = cuts[j - 1];
            cuts[at] = ends[k];
        }
    }
}

/* All places where some index expression cuts the flat position, ascending. */
static uint32_t stage_cuts(const NestPrinter *p, int64_t *cuts)
{
    uint32_t n_cuts = 0;
    for (NestInst i = 1; i < p->stage->insts.len; i++)
        collect_cuts(p, p->stage->insts.data[i].index, cuts, &n_cuts);
    return n_cuts;
}

/* A row of about 8K elements whose length is a product of whole inner loops. */
static void cut_flat(NestPrinter *p, const int64_t *cuts, uint32_t n_cuts)
{
    enum
    {
        ROW_ELEMS = 8192
    };
    int64_t total = p->inner, row = 1, next = total;
    int64_t chain[PRINT_MAX_LEVELS] = {1};
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_cuts && n + 3 < PRINT_MAX_LEVELS; i++)
    {
        if (cuts[i] <= chain[n] || cuts[i] >= total || cuts[i] % chain[n] != 0 || total % cuts[i] != 0)
            continue;
        if (cuts[i] > ROW_ELEMS)
        {
            next = cuts[i];
            break;
        }
        chain[++n] = cuts[i];
    }
    row = chain[n];
    int64_t more = 1;
    for (int64_t k = 2; row * k <= ROW_ELEMS; k++)
        if ((next / row) % k == 0)
            more = k;
    if (row == 1 && more < 64)
        more = next; /* no divisor of use */
    if (more > 1)
        chain[++n] = row * more;
    p->flat = false;
    p->inner = chain[n];
    p->rows = total / p->inner;
    p->n_chain = n;
    for (uint32_t i = 0; i <= n; i++)
        p->chain[i] = chain[i];
}

NestPrinter nest_printer_make(Arena *arena, const Nest *nest, const NestStage *stage, bool cuda)
{
    NestPrinter p = {.arena = arena,
                     .nest = nest,
                     .stage = stage,
                     .cuda = cuda,
                     .flat = stage->flat,
                     .rows = stage->rows,
                     .inner = stage->inner,
                     .n_chain = 1,
                     .chain = {1, stage->inner}};
    p.atom_named = ARENA_ARRAY(arena, bool, stage->idx.atoms.len);
    p.task = strbuf_make(arena);
    p.body = strbuf_make(arena);
    if (stage->inner == 1)
        p.n_chain = 1, p.chain[1] = 1;
    int64_t cuts[64];
    uint32_t n_cuts = stage_cuts(&p, cuts);
    bool whole = false;
    for (uint32_t k = 0; k < nest->reduces.len; k++)
        whole |= nest->reduces.data[k].kind == REDUCE_WHOLE;
    if (cuda || stage != &nest->main || whole)
        return p;
    if (p.flat)
    {
        bool cut = false;
        for (uint32_t i = 0; i < n_cuts; i++)
            cut |= cuts[i] > 1 && cuts[i] < p.inner;
        if (cut)
            cut_flat(&p, cuts, n_cuts);
        return p;
    }
    p.n_chain = 0;
    for (uint32_t i = 0; i < n_cuts && p.n_chain + 3 < PRINT_MAX_LEVELS; i++)
        if (cuts[i] > p.chain[p.n_chain] && cuts[i] < p.inner && cuts[i] % p.chain[p.n_chain] == 0 &&
            p.inner % cuts[i] == 0)
            p.chain[++p.n_chain] = cuts[i];
    p.chain[++p.n_chain] = p.inner;
    return p;
}

/* ---- index expressions */

static uint32_t innermost(const NestPrinter *p)
{
    return LEVEL_INNER + nest_n_inner(p) - 1;
}

typedef enum
{
    DIGIT_FLAT, /* a real division of f */
    DIGIT_ROW,  /* of the row number alone */
    DIGIT_LOOPS /* loop variables, and the low part of the row number when it reaches beyond the row */
} DigitForm;

static DigitForm digit_form(const NestPrinter *p, const IdxTerm *term)
{
    int64_t end = term->div * term->mod;
    if (p->flat)
        return DIGIT_FLAT;
    if (term->div >= p->inner)
        return term->div % p->inner == 0 ? DIGIT_ROW : DIGIT_FLAT;
    if (p->cuda && !(term->div == 1 && end >= p->inner))
        return end <= p->inner || end % p->inner == 0 || end >= p->rows * p->inner ? DIGIT_LOOPS : DIGIT_FLAT;
    if (!chain_has(p, term->div))
        return DIGIT_FLAT;
    if (end < p->inner)
        return chain_has(p, end) ? DIGIT_LOOPS : DIGIT_FLAT;
    return end % p->inner == 0 || end >= p->rows * p->inner ? DIGIT_LOOPS : DIGIT_FLAT;
}

static uint32_t index_level(const NestPrinter *p, Idx e)
{
    const IdxExpr *x = idx_get(&p->stage->idx, e);
    uint32_t level = LEVEL_TASK;
    for (uint32_t i = 0; i < x->n_terms; i++)
    {
        const IdxTerm *term = &x->terms[i];
        uint32_t mine = innermost(p);
        if (term->atom)
            mine = index_level(p, p->stage->idx.atoms.data[term->atom].source);
        else if (digit_form(p, term) == DIGIT_ROW)
            mine = LEVEL_ROW;
        else if (digit_form(p, term) == DIGIT_LOOPS && !p->cuda)
            for (uint32_t k = 0; k < p->n_chain; k++)
                if (p->chain[k] == term->div)
                    mine = innermost(p) - k;
        if (mine > level)
            level = mine;
    }
    return level;
}

static const char *flat_position(const NestPrinter *p)
{
    if (p->flat)
        return "f";
    if (p->cuda || p->n_chain == 1)
        return arena_printf(p->arena, "(o * %lld + i0)", (long long)p->inner);
    StrBuf s = strbuf_make(p->arena);
    strbuf_addf(&s, "(o * %lld", (long long)p->inner);
    for (uint32_t k = 0; k < p->n_chain; k++)
        strbuf_addf(&s, " + i%u * %lld", k, (long long)p->chain[k]);
    strbuf_add(&s, ")");
    return strbuf_text(&s);
}

/* Position within the row. */
static const char *row_position(const NestPrinter *p)
{
    if (p->flat)
        return "f";
    StrBuf s = strbuf_make(p->arena);
    for (uint32_t k = 0; k < nest_n_inner(p); k++)
        if (k == 0)
            strbuf_add(&s, "i0");
        else
            strbuf_addf(&s, " + i%u * %lld", k, (long long)p->chain[k]);
    return strbuf_text(&s);
}

/* (o / div) % mod with a name of its own. */
static const char *row_quotient(NestPrinter *p, int64_t div, int64_t mod)
{
    bool top = div * mod >= p->rows;
    if (div == 1 && top)
        return "o";
    for (uint32_t i = 0; i < p->digits.len; i++)
        if (p->digits.data[i].div == div && p->digits.data[i].mod == mod)
            return arena_printf(p->arena, "g%u", p->digits.data[i].name);
    PrintDigit d = {0, div, mod, p->n_names++};
    vec_push(p->arena, &p->digits, d);
    StrBuf *row = &p->level[LEVEL_ROW];
    strbuf_addf(row, "const ptc_index g%u = ", d.name);
    if (div == 1)
        strbuf_addf(row, "o %% %lld;\n", (long long)mod);
    else if (top)
        strbuf_addf(row, "o / %lld;\n", (long long)div);
    else
        strbuf_addf(row, "o / %lld %% %lld;\n", (long long)div, (long long)mod);
    return arena_printf(p->arena, "g%u", d.name);
}

static const char *index_text(NestPrinter *p, Idx e);

static const char *atom_name(NestPrinter *p, uint32_t atom)
{
    const IdxAtom *data = &p->stage->idx.atoms.data[atom];
    uint32_t level = index_level(p, data->source);
    if (!p->atom_named[atom])
    {
        const char *source = index_text(p, data->source);
        StrBuf *out = level == LEVEL_TASK ? &p->task : &p->level[level];
        strbuf_addf(out, "const ptc_index x%u = (%s) %c %lld;\n", atom, source, data->is_mod ? '%' : '/',
                    (long long)data->divisor);
        p->atom_named[atom] = true;
    }
    return arena_printf(p->arena, "x%u", atom);
}

static void add_scaled(StrBuf *s, const char *text, int64_t coef)
{
    if (s->len)
        strbuf_add(s, " + ");
    if (coef == 1)
        strbuf_add(s, text);
    else
        strbuf_addf(s, "%s * %lld", text, (long long)coef);
}

/* An integer expression for e. What changes by row only gets a name in the row part. */
static const char *index_text(NestPrinter *p, Idx e)
{
    const IdxExpr *x = idx_get(&p->stage->idx, e);
    StrBuf outer = strbuf_make(p->arena), inner = strbuf_make(p->arena);
    int64_t coefs[PRINT_MAX_LEVELS] = {0};
    if (x->konst)
        strbuf_addf(&outer, "%lld", (long long)x->konst);
    for (uint32_t i = 0; i < x->n_terms; i++)
    {
        const IdxTerm *term = &x->terms[i];
        int64_t end = term->div * term->mod;
        if (term->atom)
        {
            const char *name = atom_name(p, term->atom);
            if (term->div > 1)
                name = arena_printf(p->arena, "(%s / %lld)", name, (long long)term->div);
            if (end < p->stage->idx.atoms.data[term->atom].extent)
                name = arena_printf(p->arena, "(%s %% %lld)", name, (long long)term->mod);
            add_scaled(&inner, name, term->coef);
            continue;
        }
        DigitForm form = digit_form(p, term);
        if (form == DIGIT_FLAT)
        {
            const char *name = flat_position(p);
            if (term->div > 1)
                name = arena_printf(p->arena, "(%s / %lld)", name, (long long)term->div);
            if (end < p->rows * p->inner)
                name = arena_printf(p->arena, "(%s %% %lld)", name, (long long)term->mod);
            add_scaled(&inner, name, term->coef);
            continue;
        }
        if (form == DIGIT_ROW || end > p->inner)
        {
            int64_t div = form == DIGIT_ROW ? term->div / p->inner : 1;
            int64_t mod = form == DIGIT_ROW ? term->mod : (end + p->inner - 1) / p->inner;
            int64_t weight = form == DIGIT_ROW ? 1 : p->inner / term->div;
            if (p->rows > 1)
                add_scaled(&outer, row_quotient(p, div, mod), term->coef * weight);
        }
        if (form == DIGIT_ROW)
            continue;
        if (p->cuda)
        {
            const char *name = "i0";
            if (term->div > 1)
                name = arena_printf(p->arena, "(%s / %lld)", name, (long long)term->div);
            if (end < p->inner)
                name = arena_printf(p->arena, "(%s %% %lld)", name, (long long)term->mod);
            add_scaled(&inner, name, term->coef);
            continue;
        }
        for (uint32_t k = 0; k < p->n_chain; k++)
            if (p->chain[k] >= term->div && p->chain[k] < end)
                coefs[k] += term->coef * (p->chain[k] / term->div);
    }
    StrBuf text = strbuf_make(p->arena);
    if (outer.len)
    {
        const char *base = strbuf_text(&outer);
        bool plain = true;
        for (const char *c = base; *c; c++)
            plain &= *c != ' ';
        if (!plain && !p->cuda)
        {
            /* Names are found again by their text. */
            uint32_t known = 0;
            const char *name = NULL;
            for (; known < p->bases.len && !name; known++)
                if (p->bases.data[known] == e)
                    name = arena_printf(p->arena, "b%u", known);
            if (!name)
            {
                name = arena_printf(p->arena, "b%u", p->bases.len);
                strbuf_addf(&p->level[LEVEL_ROW], "const ptc_index %s = %s;\n", name, base);
                vec_push(p->arena, &p->bases, e);
            }
            base = name;
        }
        strbuf_add(&text, base);
    }
    for (uint32_t k = 0; k < p->n_chain; k++)
        if (coefs[k])
            add_scaled(&text, arena_printf(p->arena, "i%u", k), coefs[k]);
    if (inner.len)
        add_scaled(&text, strbuf_text(&inner), 1);
    return text.len ? strbuf_text(&text) : "0";
}

/* ---- instructions */

static uint32_t inst_level(const NestPrinter *p, NestInst inst)
{
    const NestInstData *data = &p->stage->insts.data[inst];
    uint32_t level = index_level(p, data->index);
    if (data->kind == INST_KEPT)
        return innermost(p);
    if (data->kind == INST_REDUCED)
        return p->stage != &p->nest->main ? innermost(p) : LEVEL_ROW;
    for (uint32_t i = 0; i < data->n_args; i++)
        if (data->args[i])
        {
            uint32_t mine = inst_level(p, data->args[i]);
            if (mine > level)
                level = mine;
        }
    return level;
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

static const char *ref(const NestPrinter *p, NestInst inst)
{
    const NestInstData *data = &p->stage->insts.data[inst];
    if (data->kind == INST_CONST)
        return const_text(p, data->dtype, data->value);
    if (data->kind == INST_REDUCED && p->stage == &p->nest->main)
        return arena_printf(p->arena, "r%u", data->reduce);
    return arena_printf(p->arena, "t%u", inst);
}

static const char *cast_text(const NestPrinter *p, const NestInstData *data)
{
    const char *a = ref(p, data->args[0]);
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
    StrBuf s = strbuf_make(p->arena);
    strbuf_addf(&s, "op_%s_%c(", ir_op_info(data->code)->name, dtype_is_float(data->in_dtype) ? 'f' : 'i');
    for (uint32_t i = 0; i < data->n_args; i++)
        strbuf_addf(&s, "%s%s", i ? ", " : "", ref(p, data->args[i]));
    strbuf_add(&s, ")");
    if (data->dtype == DT_BF16)
        return arena_printf(p->arena, "ptc_bf16_round(%s)", strbuf_text(&s));
    if (data->dtype == DT_U8)
        return arena_printf(p->arena, "(%s & 255)", strbuf_text(&s));
    return strbuf_text(&s);
}

static const char *guard_text(NestPrinter *p, const NestInstData *data)
{
    const char *at = index_text(p, data->index);
    int64_t min, max;
    idx_range(&p->stage->idx, data->index, &min, &max);
    StrBuf s = strbuf_make(p->arena);
    if (min < data->lo)
        strbuf_addf(&s, "(%s >= %lld)", at, (long long)data->lo);
    if (max >= data->hi)
        strbuf_addf(&s, "%s(%s < %lld)", s.len ? " & " : "", at, (long long)data->hi);
    if (data->args[0])
        strbuf_addf(&s, " & %s", ref(p, data->args[0]));
    return strbuf_text(&s);
}

static const char *load_text(NestPrinter *p, const NestInstData *data)
{
    const char *at = arena_printf(p->arena, "a%u[%s]", data->arg, index_text(p, data->index));
    if (data->dtype == DT_BF16)
        at = arena_printf(p->arena, "ptc_bf16_load(%s)", at);
    else if (data->dtype != DT_F32 && data->dtype != DT_I32)
        at = arena_printf(p->arena, "(int32_t)%s", at);
    if (data->args[0])
        at = arena_printf(p->arena, "%s ? %s : 0", ref(p, data->args[0]), at);
    return at;
}

static const char *inst_text(NestPrinter *p, const NestInstData *data)
{
    switch (data->kind)
    {
    case INST_LOAD:
        return load_text(p, data);
    case INST_OP:
        return op_text(p, data);
    case INST_INDEX:
        return arena_printf(p->arena, "(%s)(%s)", nest_register_type(data->dtype), index_text(p, data->index));
    case INST_RANDOM:
        return arena_printf(p->arena, "ptc_random(%s, %s, %s, (uint32_t)(%s), stream + %lldu)", ref(p, data->args[0]),
                            ref(p, data->args[1]), ref(p, data->args[2]), index_text(p, data->index),
                            (long long)(uint32_t)data->stream);
    case INST_GUARD:
        return guard_text(p, data);
    case INST_PICK:
        return arena_printf(p->arena, "%s ? %s : %s", ref(p, data->args[0]), ref(p, data->args[1]),
                            ref(p, data->args[2]));
    case INST_KEPT:
        return arena_printf(p->arena, "s%d[%s]", p->stage->insts.data[data->args[0]].slot, row_position(p));
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

static const char *store_text(const NestPrinter *p, DType dtype, const char *value)
{
    if (dtype == DT_BF16)
        return arena_printf(p->arena, "ptc_bf16_store(%s)", value);
    if (dtype == DT_U8 || dtype == DT_BOOL)
        return arena_printf(p->arena, "(uint8_t)%s", value);
    return value;
}

static const char *const reduce_names[IR_CODE_COUNT] = {
    [IR_reduce_sum] = "sum", [IR_reduce_max] = "max", [IR_reduce_min] = "min"};

static void print_effects(NestPrinter *p, uint32_t phase)
{
    const NestStage *stage = p->stage;
    StrBuf *deep = &p->level[innermost(p)];
    for (NestInst i = 1; i < stage->insts.len; i++)
    {
        const NestInstData *data = &stage->insts.data[i];
        if (data->slot >= 0 && data->phase == phase && (!p->cuda || nest_slot_is_kept(stage, i)))
            strbuf_addf(deep, "s%d[%s] = %s;\n", data->slot, p->flat ? "f - block" : row_position(p), ref(p, i));
    }
    if (stage == &p->nest->main)
        for (uint32_t k = 0; k < p->nest->reduces.len; k++)
        {
            const NestReduce *r = &p->nest->reduces.data[k];
            if (r->phase != phase)
                continue;
            if (p->cuda && (r->kind == REDUCE_ROW || r->kind == REDUCE_WHOLE))
                strbuf_addf(deep, "v%u = ptc_%s2_%c(v%u, %s);\n", k, reduce_names[r->code],
                            dtype_is_float(r->dtype) ? 'f' : 'i', k, ref(p, r->source));
            else if (r->kind == REDUCE_COLUMN)
                strbuf_addf(deep, "c%u[%s] = ptc_%s2_%c(c%u[%s], %s);\n", k, row_position(p), reduce_names[r->code],
                            dtype_is_float(r->dtype) ? 'f' : 'i', k, row_position(p), ref(p, r->source));
            else if (r->kind == REDUCE_WHOLE_LATER)
                strbuf_addf(r->n_later == stage->rows ? &p->level[LEVEL_ROW] : deep, "%sw%u[%s] = %s;\n",
                            p->cuda && r->n_later == stage->rows ? "if (threadIdx.x == 0)\n    " : "", k,
                            index_text(p, r->at), ref(p, r->source));
        }
    for (uint32_t i = 0; i < stage->stores.len; i++)
    {
        const NestStore *store = &stage->stores.data[i];
        if (store->phase != phase)
            continue;
        const char *at = index_text(p, store->index);
        StrBuf *out = store->inner ? deep : &p->level[LEVEL_ROW];
        strbuf_addf(out, "%sz%u[%s] = %s;\n", p->cuda && !store->inner ? "if (threadIdx.x == 0)\n    " : "",
                    store->output, at, store_text(p, store->dtype, ref(p, store->source)));
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
        if (p->cuda)
        {
            const char *total = arena_printf(p->arena, "ptc_block_%s_%c(v%u)", reduce_names[r->code], family, k);
            if (r->dtype == DT_BF16)
                total = arena_printf(p->arena, "ptc_bf16_round(%s)", total);
            strbuf_addf(&p->body, "const %s r%u = %s;\n", nest_register_type(r->dtype), k, total);
            continue;
        }
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
        if (p->cuda && p->stage != &p->nest->main) /* a thread has one column */
            strbuf_add(&p->body, "{\n");
        else if (p->cuda)
            strbuf_addf(&p->body, "for (int i0 = threadIdx.x; i0 < %lld; i0 += blockDim.x)\n{\n", (long long)p->inner);
        else
        {
            strbuf_add(&p->body, k == 0 ? "PTC_SIMD\n" : "");
            if (p->stage != &p->nest->main)
                strbuf_add(&p->body, "for (int32_t i0 = lo; i0 < hi; i0++)\n{\n");
            else
                strbuf_addf(&p->body, "for (int32_t i%u = 0; i%u < %lld; i%u++)\n{\n", k, k,
                            (long long)(p->chain[k + 1] / p->chain[k]), k);
        }
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
            if (index_level(p, p->stage->idx.atoms.data[a].source) > LEVEL_ROW)
                p->atom_named[a] = false;
        for (NestInst i = 1; i < p->stage->insts.len; i++)
        {
            const NestInstData *data = &p->stage->insts.data[i];
            if (data->phase != phase || data->kind == INST_CONST ||
                (data->kind == INST_REDUCED && p->stage == &p->nest->main))
                continue;
            uint32_t level = inst_level(p, i);
            const char *text = inst_text(p, data);
            strbuf_addf(level == LEVEL_TASK ? &p->task : &p->level[level], "const %s t%u = %s;\n",
                        nest_register_type(data->dtype), i, text);
        }
        for (uint32_t k = 0; k < p->nest->reduces.len && p->cuda && p->stage == &p->nest->main; k++)
        {
            const NestReduce *r = &p->nest->reduces.data[k];
            if (r->kind == REDUCE_ROW && r->phase == phase)
                strbuf_addf(&p->body, "%s v%u = ptc_%s_identity_%c();\n", nest_register_type(r->dtype), k,
                            reduce_names[r->code], dtype_is_float(r->dtype) ? 'f' : 'i');
        }
        size_t before = p->level[innermost(p)].len;
        print_effects(p, phase);
        strbuf_add(&p->body, strbuf_text(&p->level[LEVEL_ROW]));
        if (p->flat)
            strbuf_add(&p->body, strbuf_text(&p->level[LEVEL_INNER]));
        else if (p->level[innermost(p)].len > before)
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
    for (uint32_t i = 0; i < nest->n_args; i++)
        strbuf_addf(out, "const %s *a%u, ", nest_storage_type((DType)nest->arg_types[i].dtype), i);
    for (uint32_t i = 0; i < nest->n_outputs; i++)
        strbuf_addf(out, "%s *z%u, ", nest_storage_type((DType)nest->output_types[i].dtype), i);
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

bool nest_slot_is_kept(const NestStage *stage, NestInst inst)
{
    for (NestInst i = 1; i < stage->insts.len; i++)
        if (stage->insts.data[i].kind == INST_KEPT && stage->insts.data[i].args[0] == inst)
            return true;
    return false;
}
