/* The SCALAR column of ops.def as data: the C expression of each elementwise op over a, b, c. */
#ifndef PTC_CODEGEN_SCALAR_OPS_H
#define PTC_CODEGEN_SCALAR_OPS_H

#include "ir/module.h"

/* NULL for an op without. */
const char *scalar_op_text(IrCode code);
/* About how many additions it costs to compute again. */
int32_t scalar_op_cost(IrCode code);

#endif
