/* Index algebra: canonical sums of digits (see index.h). Expressions are interned by linear search: a kernel has tens
 * of them. */
#include "codegen/index.h"

#include "base/bug.h"

#include <string.h>

enum
{
    MAX_TERMS = 32
};

typedef struct
{
    int64_t konst;
    uint32_t n;
    IdxTerm terms[MAX_TERMS];
} Sum;

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t floor_div(int64_t a, int64_t b)
{
    return a >= 0 ? a / b : -ceil_div(-a, b);
}

static void sum_add(const IdxTable *t, Sum *s, IdxTerm term)
{
    /* A digit that reaches the top of its atom has the modulus that the extent allows. */
    int64_t room = ceil_div(t->atoms.data[term.atom].extent, term.div);
    if (term.mod > room)
        term.mod = room;
    if (term.mod <= 1 || term.coef == 0)
        return;
    for (uint32_t i = 0; i < s->n; i++)
        if (s->terms[i].atom == term.atom && s->terms[i].div == term.div && s->terms[i].mod == term.mod)
        {
            s->terms[i].coef += term.coef;
            if (s->terms[i].coef == 0)
                s->terms[i] = s->terms[--s->n];
            return;
        }
    ENSURE(s->n < MAX_TERMS);
    s->terms[s->n++] = term;
}

static bool term_before(const IdxTerm *a, const IdxTerm *b)
{
    if (a->atom != b->atom)
        return a->atom < b->atom;
    if (a->div != b->div)
        return a->div < b->div;
    return a->mod < b->mod;
}

static Idx intern(IdxTable *t, Sum *s)
{
    for (uint32_t i = 1; i < s->n; i++) /* insertion sort */
        for (uint32_t j = i; j > 0 && term_before(&s->terms[j], &s->terms[j - 1]); j--)
        {
            IdxTerm swap = s->terms[j];
            s->terms[j] = s->terms[j - 1];
            s->terms[j - 1] = swap;
        }
    /* c * ((a / d) % m) + c m * ((a / (d m)) % m2) = c * ((a / d) % (m m2)) */
    for (bool again = true; again;)
    {
        again = false;
        for (uint32_t i = 0; i < s->n && !again; i++)
            for (uint32_t j = 0; j < s->n && !again; j++)
            {
                IdxTerm *lo = &s->terms[i], *hi = &s->terms[j];
                if (i == j || lo->atom != hi->atom || hi->div != lo->div * lo->mod || hi->coef != lo->coef * lo->mod)
                    continue;
                lo->mod *= hi->mod;
                int64_t room = ceil_div(t->atoms.data[lo->atom].extent, lo->div);
                if (lo->mod > room)
                    lo->mod = room;
                memmove(hi, hi + 1, (s->n - j - 1) * sizeof *hi);
                s->n--;
                again = true;
            }
    }
    for (uint32_t e = 0; e < t->exprs.len; e++)
    {
        const IdxExpr *x = &t->exprs.data[e];
        if (x->konst != s->konst || x->n_terms != s->n)
            continue;
        bool same = true;
        for (uint32_t i = 0; i < s->n && same; i++)
            same = x->terms[i].atom == s->terms[i].atom && x->terms[i].div == s->terms[i].div &&
                   x->terms[i].mod == s->terms[i].mod && x->terms[i].coef == s->terms[i].coef;
        if (same)
            return e;
    }
    IdxExpr expr = {s->konst, s->n, arena_memdup(t->arena, s->terms, s->n * sizeof(IdxTerm))};
    vec_push(t->arena, &t->exprs, expr);
    return t->exprs.len - 1;
}

IdxTable idx_table_make(Arena *arena, int64_t domain_elems)
{
    IdxTable t = {.arena = arena};
    vec_push(arena, &t.atoms, (IdxAtom){.extent = domain_elems});
    Sum zero = {0};
    intern(&t, &zero);
    return t;
}

Idx idx_const(IdxTable *t, int64_t value)
{
    Sum s = {.konst = value};
    return intern(t, &s);
}

Idx idx_digit(IdxTable *t, int64_t div, int64_t mod)
{
    Sum s = {0};
    sum_add(t, &s, (IdxTerm){0, div, mod, 1});
    return intern(t, &s);
}

static void sum_add_expr(const IdxTable *t, Sum *s, Idx a, int64_t factor)
{
    const IdxExpr *x = idx_get(t, a);
    s->konst += factor * x->konst;
    for (uint32_t i = 0; i < x->n_terms; i++)
    {
        IdxTerm term = x->terms[i];
        term.coef *= factor;
        sum_add(t, s, term);
    }
}

Idx idx_add(IdxTable *t, Idx a, Idx b)
{
    Sum s = {0};
    sum_add_expr(t, &s, a, 1);
    sum_add_expr(t, &s, b, 1);
    return intern(t, &s);
}

Idx idx_add_const(IdxTable *t, Idx a, int64_t value)
{
    Sum s = {.konst = value};
    sum_add_expr(t, &s, a, 1);
    return intern(t, &s);
}

Idx idx_scale(IdxTable *t, Idx a, int64_t factor)
{
    Sum s = {0};
    sum_add_expr(t, &s, a, factor);
    return intern(t, &s);
}

void idx_range(const IdxTable *t, Idx a, int64_t *out_min, int64_t *out_max)
{
    const IdxExpr *x = idx_get(t, a);
    int64_t lo = x->konst, hi = x->konst;
    for (uint32_t i = 0; i < x->n_terms; i++)
    {
        int64_t reach = x->terms[i].coef * (x->terms[i].mod - 1);
        if (reach < 0)
            lo += reach;
        else
            hi += reach;
    }
    *out_min = lo;
    *out_max = hi;
}

/* Sorts the terms of a into multiples of d and the rest, splitting a digit that crosses d. False when they do not
 * separate. */
static bool try_divmod(const IdxTable *t, Idx a, int64_t d, Sum *q, Sum *r)
{
    const IdxExpr *x = idx_get(t, a);
    q->konst = floor_div(x->konst, d);
    r->konst = x->konst - q->konst * d;
    int64_t max = r->konst;
    for (uint32_t i = 0; i < x->n_terms; i++)
    {
        IdxTerm term = x->terms[i];
        if (term.coef % d == 0)
        {
            term.coef /= d;
            sum_add(t, q, term);
            continue;
        }
        if (term.coef < 0)
            return false;
        if (term.coef * (term.mod - 1) >= d && d % term.coef == 0)
        {
            int64_t cut = d / term.coef;
            bool top = term.div * term.mod >= t->atoms.data[term.atom].extent;
            if (term.mod % cut != 0 && !top)
                return false;
            sum_add(t, q, (IdxTerm){term.atom, term.div * cut, ceil_div(term.mod, cut), 1});
            term.mod = cut;
        }
        max += term.coef * (term.mod - 1);
        sum_add(t, r, term);
    }
    return max < d;
}

static Idx atom_index(IdxTable *t, Idx source, int64_t divisor, bool is_mod, int64_t extent)
{
    uint32_t atom = 1;
    while (atom < t->atoms.len && !(t->atoms.data[atom].source == source && t->atoms.data[atom].divisor == divisor &&
                                    t->atoms.data[atom].is_mod == is_mod))
        atom++;
    if (atom == t->atoms.len)
        vec_push(t->arena, &t->atoms, (IdxAtom){extent, source, divisor, is_mod});
    Sum s = {0};
    sum_add(t, &s, (IdxTerm){atom, 1, extent, 1});
    return intern(t, &s);
}

void idx_divmod(IdxTable *t, Idx a, int64_t divisor, Idx *out_q, Idx *out_r)
{
    Sum q = {0}, r = {0};
    if (try_divmod(t, a, divisor, &q, &r))
    {
        *out_q = intern(t, &q);
        *out_r = intern(t, &r);
        return;
    }
    int64_t min, max;
    idx_range(t, a, &min, &max);
    *out_q = atom_index(t, a, divisor, false, (max < 0 ? 0 : max / divisor) + 1);
    *out_r = atom_index(t, a, divisor, true, divisor);
}

void idx_split(IdxTable *t, Idx a, int rank, const int64_t *dims, Idx *out_axes)
{
    for (int axis = rank - 1; axis > 0; axis--)
        idx_divmod(t, a, dims[axis], &a, &out_axes[axis]);
    if (rank > 0)
        out_axes[0] = a;
}

Idx idx_join(IdxTable *t, int rank, const int64_t *dims, const Idx *axes)
{
    Sum s = {0};
    int64_t stride = 1;
    for (int axis = rank - 1; axis >= 0; axis--)
    {
        sum_add_expr(t, &s, axes[axis], stride);
        stride *= dims[axis];
    }
    return intern(t, &s);
}
