/* What a template is: codegen/template.c has the table and those of gather and scatter_add. */
#ifndef PTC_CODEGEN_TEMPLATE_USE_H
#define PTC_CODEGEN_TEMPLATE_USE_H

#include "codegen/template.h"

enum
{
    TEMPLATE_MAX_HELPERS = 4
};

/* An op that is to become a kernel. */
typedef struct
{
    const IrModule *m;
    const IrOpData *op;
    const IrType *types[16]; /* operands, then results */
    uint32_t number;
} TemplateUse;

typedef struct
{
    const char *helpers, *cuda_helpers[TEMPLATE_MAX_HELPERS]; /* texts that the kernels call; in order, NULL: no more */
    const char *(*check)(const TemplateUse *use);             /* NULL: fine; otherwise why not */
    CodegenKernelInfo (*info)(const TemplateUse *use);
    void (*print_c)(StrBuf *out, const TemplateUse *use); /* body of k<number>_0 */
    /* Fills n_launches, workspace_bytes, least_arch, and grid, block and smem_bytes of the launches; the record is
     * zeroed. */
    void (*plan_cuda)(const TemplateUse *use, CodegenCudaKernel *out);
    void (*print_cuda)(StrBuf *out, const TemplateUse *use, uint32_t launch); /* body of k<number>_<launch> */
} Template;

extern const Template template_attention, template_attention_grad;

/* How many tasks do n things. */
int64_t template_tasks(int64_t n, int64_t per_task);
/* The name of operand or result `number` (operands first) in a CUDA kernel. */
void template_print_buffer(StrBuf *out, const TemplateUse *use, uint32_t number);

#endif
