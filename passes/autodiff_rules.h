/* Between autodiff.c and the GRAD_FN rules of ops.def. */
#ifndef PTC_PASSES_AUTODIFF_RULES_H
#define PTC_PASSES_AUTODIFF_RULES_H

#include "ir/builder.h"

/* One forward op whose first result has a gradient. */
typedef struct
{
    IrBuilder *b;      /* end of the function, with the op's span and unit, phase BACKWARD */
    IrOpData op;       /* a copy: tables move while ops are made */
    IrValue y, g;      /* first result and its gradient, of the same type */
    const bool *needs; /* per operand: a gradient is wanted */
    IrValue *grads;    /* out, per operand: of the operand's type; 0 where not needed or none flows */
} GradOp;

typedef void GradRule(GradOp *x);

#define GRAD(...) NO_RULE
#define NOGRAD    NO_RULE
#define GRAD_FN(rule)                                                                                                  \
    GradRule grad_##rule;                                                                                              \
    NO_RULE
#define NO_RULE
#define OP(name, in, out, required, optional, shape, traits, grad, ...) grad
#include "ir/ops.def"
#undef OP
#undef NO_RULE
#undef GRAD_FN
#undef NOGRAD
#undef GRAD

#endif
