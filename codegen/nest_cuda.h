/* The main stage of a nest as the body of a CUDA kernel: what comes for each row, phase by phase. */
#ifndef PTC_CODEGEN_NEST_CUDA_H
#define PTC_CODEGEN_NEST_CUDA_H

#include "codegen/nest_print.h"

extern const char *const nest_cuda_reduce_names[IR_CODE_COUNT];
static inline char nest_cuda_family(const NestReduce *r)
{
    return dtype_is_float(r->dtype) ? 'f' : 'i';
}

/* Fills task, ahead, body. The text uses lane, o (not flat), origin where nest_cuda_has_origin, turn where rows of
 * several warps follow one another, and first: true in the thread that stores what there is one of a row. */
void nest_cuda_body(NestPrinter *p);
bool nest_cuda_has_origin(const CudaShape *shape);

/* Opens the loop over a thread's vectors, up to where one is known to be in the row; its two braces or one. */
void nest_cuda_open_steps(StrBuf *out, const NestPrinter *p);
void nest_cuda_close_steps(StrBuf *out, const NestPrinter *p);

/* Variables outside of the row loop: slots and column sums in registers, parts of rows that several warps share. */
void nest_cuda_variables(StrBuf *out, const NestPrinter *p);

#endif
