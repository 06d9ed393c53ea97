/* einsum as matmul: views and the transposed forms of matmul where the letters allow it, transposes where not. */
#ifndef PTC_PASSES_EINSUM_H
#define PTC_PASSES_EINSUM_H

#include "ir/builder.h"

/* Whether it becomes a matmul and views of its operands. */
bool einsum_is_matmul(const char *expr);

/* Builds the primitives of einsum x, y {expr} at b; the result has the einsum's type, whose dtype may be f32 where the
 * operands are bf16 and it is a matmul. Without a letter that is summed
 * it is a product; where an operand has no letter of its own it is a product and a sum (a row kernel, no matmul). */
IrValue einsum_lower(IrBuilder *b, IrValue x, IrValue y, const char *expr, DType dtype);

#endif
