/* Loops and index expressions of a printed stage: which loops walk a row, and the text of an index in terms of their
 * variables (names: codegen/nest_print.c). */
#include "codegen/nest_print.h"

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
    p.levels = ARENA_ARRAY(arena, uint8_t, stage->insts.len);
    p.task = strbuf_make(arena);
    p.ahead = strbuf_make(arena);
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

uint32_t nest_innermost(const NestPrinter *p)
{
    return p->shape ? LEVEL_ELEMENT : LEVEL_INNER + nest_n_inner(p) - 1;
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

uint32_t nest_index_level(const NestPrinter *p, Idx e)
{
    const IdxExpr *x = idx_get(&p->stage->idx, e);
    uint32_t level = LEVEL_TASK;
    for (uint32_t i = 0; i < x->n_terms; i++)
    {
        const IdxTerm *term = &x->terms[i];
        uint32_t mine = p->shape ? LEVEL_VECTOR : nest_innermost(p);
        if (term->atom)
            mine = nest_index_level(p, p->stage->idx.atoms.data[term->atom].source);
        else if (digit_form(p, term) == DIGIT_ROW)
            mine = LEVEL_ROW;
        else if (digit_form(p, term) == DIGIT_LOOPS && !p->cuda)
            for (uint32_t k = 0; k < p->n_chain; k++)
                if (p->chain[k] == term->div)
                    mine = nest_innermost(p) - k;
        if (mine > level)
            level = mine;
    }
    int64_t step;
    if (p->shape && level == LEVEL_VECTOR && cuda_change(p->stage, e, p->shape->vector, &step) != CUDA_SAME)
        level = LEVEL_ELEMENT;
    return level;
}

/* CUDA: the position in the row, of the element or of its vector. */
static const char *cuda_position(const NestPrinter *p)
{
    return p->flat ? (p->at_vector ? "fv" : "f") : p->at_vector ? "iv" : "i0";
}

static const char *flat_position(const NestPrinter *p)
{
    if (p->flat)
        return p->cuda ? cuda_position(p) : "f";
    if (p->cuda)
        return arena_printf(p->arena, "(o * %lld + %s)", (long long)p->inner, cuda_position(p));
    if (p->n_chain == 1)
        return arena_printf(p->arena, "(o * %lld + i0)", (long long)p->inner);
    StrBuf s = strbuf_make(p->arena);
    strbuf_addf(&s, "(o * %lld", (long long)p->inner);
    for (uint32_t k = 0; k < p->n_chain; k++)
        strbuf_addf(&s, " + i%u * %lld", k, (long long)p->chain[k]);
    strbuf_add(&s, ")");
    return strbuf_text(&s);
}

/* Position within the row. */
const char *nest_row_position(const NestPrinter *p)
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

static const char *atom_name(NestPrinter *p, uint32_t atom)
{
    const IdxAtom *data = &p->stage->idx.atoms.data[atom];
    uint32_t level = nest_index_level(p, data->source);
    if (!p->atom_named[atom])
    {
        const char *source = nest_index_text(p, data->source);
        StrBuf *out = level == LEVEL_TASK ? &p->task : &p->level[p->shape && level > LEVEL_ROW ? p->now : level];
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

/* What changes by row only gets a name in the row part. */
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
            const char *name = cuda_position(p);
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

const char *nest_index_text(NestPrinter *p, Idx e)
{
    if (!p->shape)
        return index_text(p, e);
    const bool before = p->at_vector;
    int64_t step;
    p->at_vector = cuda_change(p->stage, e, p->shape->vector, &step) != CUDA_ANY;
    const char *text = index_text(p, e);
    if (p->at_vector && step && p->shape->vector > 1 && p->now == LEVEL_ELEMENT)
    {
        StrBuf s = strbuf_make(p->arena);
        strbuf_add(&s, text);
        add_scaled(&s, "v", step);
        text = strbuf_text(&s);
    }
    p->at_vector = before;
    return text;
}
