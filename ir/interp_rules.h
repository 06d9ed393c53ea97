/* Between interp.c and its rules: one function per op that has no SCALAR column. */
#ifndef PTC_IR_INTERP_RULES_H
#define PTC_IR_INTERP_RULES_H

#include "ir/interp.h"

/* One running function. */
typedef struct InterpFrame InterpFrame;

/* One op at work. Buffers hold the n_elems of their types; a rule writes all of every result. */
typedef struct
{
    const IrModule *m;
    const IrOpData *op;
    Arena *scratch; /* reset after the run */
    InterpFrame *frame;
    const double **in;
    double **out;
} InterpOp;

typedef Status InterpRule(InterpOp *x);

/* Every row without SCALAR must have its rule: a missing one does not link. */
#define SCALAR(...) SKIP_ROW
#define NOSCALAR    DECLARE_ROW
#define SKIP_ROW(name)
#define DECLARE_ROW(name)                                                       InterpRule interp_##name;
#define OP(name, in, out, required, optional, shape, traits, grad, scalar, ...) scalar(name)
#include "ir/ops.def"
#undef OP
#undef DECLARE_ROW
#undef SKIP_ROW
#undef NOSCALAR
#undef SCALAR

static inline const IrType *interp_in_type(const InterpOp *x, uint32_t i)
{
    return ir_value_type(x->m, x->op->operands[i]);
}
static inline const IrType *interp_out_type(const InterpOp *x, uint32_t i)
{
    return ir_value_type(x->m, x->op->results[i]);
}

/* Row-major strides in elements. */
void interp_strides(const IrType *type, int64_t *out_strides);
/* dst[i . dst_strides] = src[i . src_strides] for every index i of dims. */
void interp_copy_strided(int rank, const int64_t *dims, const double *src, const int64_t *src_strides, double *dst,
                         const int64_t *dst_strides);
/* c[m][n] = sum over k of a[m][k] b[k][n]. */
void interp_gemm(int64_t n_rows, int64_t n_cols, int64_t depth, const double *a, const double *b, double *c);
/* The op's random stream: attribute stream, counted from that of the call when it runs in a kernel. */
int64_t interp_stream(const InterpOp *x);
/* The stream's number of element elem of the row that has this sample, in [0, 1). key: (seed, step). */
double interp_uniform(const double *key, double sample, int64_t stream, int64_t elem);
/* An element as a tensor of this dtype holds it: the semantics of `cast`. */
double interp_convert(DType dtype, double value);

#endif
