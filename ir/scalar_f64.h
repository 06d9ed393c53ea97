/* The functions of ops.def's SCALAR column in f64, for whoever expands the column on doubles. */
#ifndef PTC_IR_SCALAR_F64_H
#define PTC_IR_SCALAR_F64_H

#include <math.h>

#define ABS(x)     fabs(x)
#define FLOOR(x)   floor(x)
#define EXP(x)     exp(x)
#define LOG(x)     log(x)
#define SQRT(x)    sqrt(x)
#define RSQRT(x)   (1 / sqrt(x))
#define TANH(x)    tanh(x)
#define SIGMOID(x) (1 / (1 + exp(-(x))))
#define ERF(x)     erf(x)
#define SIN(x)     sin(x)
#define COS(x)     cos(x)
#define POW(x, y)  pow(x, y)

#endif
