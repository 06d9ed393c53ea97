/* The SCALAR column of ops.def, expanded on doubles. */
#include "ir/scalar_eval.h"

#include "ir/scalar_f64.h"

#define SCALAR(...)                                                                                                    \
    *out = (__VA_ARGS__);                                                                                              \
    return true;
#define NOSCALAR return false;

bool ir_scalar_eval(IrCode code, double a, double b, double c, double *out)
{
    (void)a, (void)b, (void)c;
    switch (code)
    {
#define OP(name, in, out, required, optional, shape, traits, grad, scalar, ...)                                        \
    case IR_##name:                                                                                                    \
        scalar
#include "ir/ops.def"
#undef OP
    case IR_INVALID:
    case IR_CODE_COUNT:
        break;
    }
    return false;
}
