/* Index expressions: where in a tensor a loop nest reads or writes, as
 *
 *     konst + sum of coef * ((atom / div) % mod)
 *
 * Atom 0 is the flat position in the stage's domain; other atoms name a quotient or remainder that does not separate
 * into digits (they become real divisions in the text). Expressions are canonical (sorted, merged, interned), so that
 * equal ids mean equal expressions. Views are done by linearising and splitting: idx_divmod is exact whenever the terms
 * separate at the divisor. */
#ifndef PTC_CODEGEN_INDEX_H
#define PTC_CODEGEN_INDEX_H

#include "base/arena.h"

#include <stdbool.h>
#include <stdint.h>

typedef uint32_t Idx; /* id in an IdxTable; 0 is the constant 0 */

typedef struct
{
    uint32_t atom;
    int64_t div, mod, coef;
} IdxTerm;

typedef struct
{
    int64_t konst;
    uint32_t n_terms;
    const IdxTerm *terms; /* by atom, then div */
} IdxExpr;

typedef struct
{
    int64_t extent; /* values are 0..extent-1 where the expression is used */
    Idx source;     /* atoms >= 1: source / divisor, or source % divisor */
    int64_t divisor;
    bool is_mod;
} IdxAtom;

typedef struct
{
    Arena *arena;
    VEC(IdxExpr) exprs;
    VEC(IdxAtom) atoms;
} IdxTable;

IdxTable idx_table_make(Arena *arena, int64_t domain_elems);
static inline const IdxExpr *idx_get(const IdxTable *t, Idx e)
{
    return &t->exprs.data[e];
}
Idx idx_const(IdxTable *t, int64_t value);
/* (atom 0 / div) % mod */
Idx idx_digit(IdxTable *t, int64_t div, int64_t mod);
Idx idx_add(IdxTable *t, Idx a, Idx b);
Idx idx_add_const(IdxTable *t, Idx a, int64_t value);
Idx idx_scale(IdxTable *t, Idx a, int64_t factor);
/* a = q * divisor + r with 0 <= r < divisor, for a >= 0. */
void idx_divmod(IdxTable *t, Idx a, int64_t divisor, Idx *out_q, Idx *out_r);
/* Bounds by intervals. */
void idx_range(const IdxTable *t, Idx a, int64_t *out_min, int64_t *out_max);

/* The index on every axis of the element at linear position a of a row-major tensor, and back. */
void idx_split(IdxTable *t, Idx a, int rank, const int64_t *dims, Idx *out_axes);
Idx idx_join(IdxTable *t, int rank, const int64_t *dims, const Idx *axes);

#endif
