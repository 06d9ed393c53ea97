/* The macros that the SCALAR column of ir/ops.def may use, besides C's operators over a, b, c:
 *
 *     ABS EXP LOG SQRT RSQRT TANH SIGMOID ERF SIN COS FLOOR POW
 *
 * The generated text defines them (codegen/text/math_c.h, math_cuda.h) for f32; ABS also for i32. Operands and result
 * are float (f32 and bf16 values) or int32_t (i32, u8 and bool values); comparisons give int32_t 0 or 1.
 *
 * Text for the printers: each embedded file of codegen/text/ is one NUL-terminated array, made at build time. */
#ifndef PTC_CODEGEN_SCALAR_H
#define PTC_CODEGEN_SCALAR_H

#include "base/strbuf.h"
#include "ir/module.h"

extern const char codegen_text_prelude_c[];
extern const char codegen_text_random[];
extern const char codegen_text_math_c[];
extern const char codegen_text_gather_c[];
extern const char codegen_text_attention_c[];
extern const char codegen_text_prelude_cuda[];
extern const char codegen_text_vector_cuda[];
extern const char codegen_text_calls_cuda[];
extern const char codegen_text_gather_cuda[];
extern const char codegen_text_attention_cuda[];
extern const char codegen_text_mma_cuda[];
extern const char codegen_text_attention_mma_cuda[];
extern const char codegen_text_attention_mma_grad_cuda[];

/* An inline function "op_NAME_f" or "op_NAME_i" from its SCALAR text for each elementwise op that the KERNEL functions
 * of m use. */
void scalar_print_ops(StrBuf *out, const IrModule *m);

#endif
