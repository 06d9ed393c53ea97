/* Generated CUDA text to cubins and PTX by NVRTC; it needs neither a driver nor a GPU. */
#ifndef PTC_RUNTIME_CUDA_COMPILE_H
#define PTC_RUNTIME_CUDA_COMPILE_H

#include "base/arena.h"
#include "codegen/codegen.h"
#include "ir/module.h"
#include "runtime/cuda_load.h"

enum
{
    CUDA_N_OPTIONS = 2
};

typedef enum
{
    CUDA_CUBIN,
    CUDA_PTX
} CudaForm;

/* What all texts are compiled with. */
typedef struct
{
    CudaNvrtc nvrtc;
    CudaForm form;
    int arch; /* 90 for sm_90 */
    const char *version;
    const char *options[CUDA_N_OPTIONS];
} CudaCompiler;

/* driver: the compiler is not newer than it (NULL: any). DEVICE: no NVRTC, or it does not know the architecture. To be
 * closed in any case; zeroed is allowed. */
Status cuda_compiler_open(Arena *arena, const CudaDriver *driver, int arch, CudaForm form, CudaCompiler *out_compiler);
void cuda_compiler_close(CudaCompiler *compiler);

/* stem: of files that keep a text which NVRTC refuses, and its messages (COMPILER, the detail names them). */
Status cuda_compile(Arena *arena, const CudaCompiler *compiler, const char *text, const char *stem,
                    const char **out_data, size_t *out_size);

/* UNSUPPORTED: a kernel of the module is for newer architectures; the detail has its op and place. */
Status cuda_check_kernels(const IrModule *m, const CodegenCudaTable *table, int arch);

/* All KERNEL functions of a module as one cubin or one text of PTX, for --emit. arch: "sm_90"; NULL: that of the first
 * GPU here. USAGE: it is no architecture, or none is given and there is no GPU. */
Status cuda_emit(Arena *arena, const IrModule *m, CudaForm form, const char *arch, const char **out_data,
                 size_t *out_size);

#endif
