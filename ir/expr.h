/* The expression language of <map expr="...">, of the GRAD column of ops.def and of optimizers.def.
 *
 *   expr    = compare | sum, with || && ! ; == != < <= > >= ; + - ; * / ; unary - ; ^ (pow, right to left)
 *   primary = number | name | function "(" expr {"," expr} ")" | "(" expr ")"
 *
 * Functions are the EWISE rows of ops.def by name (exp, tanh, max, select, ...), plus casts f32(x), i32(x),
 * bf16(x), bool(x). Numbers take the dtype and shape of what they meet. Operands are broadcast against each
 * other, right-aligned. i32 and f32 do not mix without a cast; u8 and bool neither. */
#ifndef PTC_IR_EXPR_H
#define PTC_IR_EXPR_H

#include "ir/builder.h"

typedef struct
{
    const char *name;
    IrValue value;
} IrExprVar;

/* Builds the ops of an expression and returns its value; an expression of numbers alone is an f32[] const.
 * On failure returns 0, *out_why is a sentence in the module's arena and *out_at the offset in text where
 * (bytes). Ops made before the failure stay behind as dead code. */
IrValue ir_try_expr(IrBuilder *b, const char *text, const IrExprVar *vars, uint32_t n_vars, const char **out_why,
                    uint32_t *out_at);
/* A failure is a BUG. */
IrValue ir_build_expr(IrBuilder *b, const char *text, const IrExprVar *vars, uint32_t n_vars);

#endif
