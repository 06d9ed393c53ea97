/* The activations of contractions in f64, for tests of what computes them. */
#ifndef PTC_TESTS_HARNESS_GEMM_ACT_H
#define PTC_TESTS_HARNESS_GEMM_ACT_H

#include "runtime/gemm.h"

#include <math.h>

static inline double gemm_act_f64(GemmAct act, double x)
{
    switch (act)
    {
    case GEMM_ACT_relu:
        return x > 0 ? x : 0;
    case GEMM_ACT_gelu_erf:
        return 0.5 * x * (1 + erf(x * M_SQRT1_2));
    case GEMM_ACT_gelu_tanh:
        return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case GEMM_ACT_silu:
        return x / (1 + exp(-x));
    default:
        return x;
    }
}

/* The derivative, as the quotient of a small difference. */
static inline double gemm_act_slope_f64(GemmAct act, double x)
{
    const double h = 1e-5;
    return (gemm_act_f64(act, x + h) - gemm_act_f64(act, x - h)) / (2 * h);
}

#endif
