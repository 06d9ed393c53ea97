/* Between infer.c and its rules: one function per SHAPE rule of ops.def. */
#ifndef PTC_IR_INFER_RULES_H
#define PTC_IR_INFER_RULES_H

#include "ir/builder.h"

/* One op whose result types are looked for. */
typedef struct
{
    Arena *arena;
    const IrModule *m;
    IrCode code;
    uint32_t n;              /* operands */
    const IrType *const *in; /* their types */
    const IrAttrs *attrs;
    const IrType *given; /* NULL when the caller gave none */
    IrType *out;
    uint32_t n_out;
    const char *why;
} Infer;

/* False: it does not fit, and x->why says so. */
typedef bool InferRule(Infer *x);

#define SHAPE(rule)                                       InferRule infer_##rule;
#define OP(name, in, out, required, optional, shape, ...) shape
#include "ir/ops.def"
#undef OP
#undef SHAPE

/* Sets x->why and returns false. */
__attribute__((format(printf, 2, 3))) bool infer_fail(Infer *x, const char *format, ...);
const char *infer_text(const Infer *x, const IrType *type);
/* One result more; true. */
bool infer_give(Infer *x, IrType type);
bool infer_need_given(Infer *x);
bool infer_want_shape(Infer *x, uint32_t i, const IrType *like);
bool infer_want_type(Infer *x, uint32_t i, IrType type);
bool infer_want_float(Infer *x, uint32_t i);
/* Operands `at` and the next one: a random key, and the samples of n_rows. */
bool infer_want_random_operands(Infer *x, uint32_t at, int64_t n_rows);
/* A list attribute of exactly n entries, each in lo..hi; NULL: it is not that. */
const int64_t *infer_ints_attr(Infer *x, IrAttrKey key, uint32_t n, int64_t lo, int64_t hi);
bool infer_axis_attr(Infer *x, int rank, int *out_axis);

#endif
