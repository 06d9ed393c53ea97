/* Elementwise ops on numbers, by the SCALAR column of ops.def. */
#ifndef PTC_IR_SCALAR_EVAL_H
#define PTC_IR_SCALAR_EVAL_H

#include "ir/module.h"

/* In f64, a, b and c the operands; false for ops that have no scalar expression. */
bool ir_scalar_eval(IrCode code, double a, double b, double c, double *out);

#endif
