/* Kernels of one op that are written by hand with the shape filled in: gather, scatter_add, attention,
 * attention_grad (codegen/text/). */
#ifndef PTC_CODEGEN_TEMPLATE_H
#define PTC_CODEGEN_TEMPLATE_H

#include "codegen/codegen.h"
#include "codegen/kernel_abi.h"

/* The TEMPLATE op of the function, 0 when there is none. */
IrOp template_find(const IrModule *m, IrFunc func);
/* The function is args, that op on the args in order, and outputs of its results in order. */
bool template_supported(Arena *scratch, const IrModule *m, IrFunc func, const char **out_why);
/* The first result may be written over this arg. */
bool template_may_alias(const IrModule *m, IrFunc func, uint32_t arg);
CodegenKernelInfo template_info(const IrModule *m, IrFunc func);
/* The template functions that m uses. */
void template_print_c_helpers(StrBuf *out, const IrModule *m);
/* k<number>_<phase>. */
void template_print_c(StrBuf *out, const IrModule *m, IrFunc func, uint32_t number);

/* The same in CUDA C: k<number>_<launch>; fills the launches of *out_kernel. */
void template_print_cuda_helpers(StrBuf *out, const IrModule *m);
void template_print_cuda(StrBuf *out, const IrModule *m, IrFunc func, uint32_t number, CodegenCudaKernel *out_kernel);

#endif
