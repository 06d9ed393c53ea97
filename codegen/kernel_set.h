/* Kernels of several programs as shared objects, each distinct one compiled once, whoever asks for it.
 *
 * A kernel's key in the cache is that of the C text that holds it alone. Kernels that are not there yet are compiled
 * many in an object; KEY.kernel names the object that has the kernel, under the name KEY. Processes and threads that
 * want the same kernels share the work: who holds a kernel's lock compiles it, the others wait for it. */
#ifndef PTC_CODEGEN_KERNEL_SET_H
#define PTC_CODEGEN_KERNEL_SET_H

#include "base/status.h"
#include "ir/module.h"

typedef struct
{
    const char *path; /* the table of its kernels: a file in the cache, which names their objects */
    bool cached;      /* nothing was compiled */
} CodegenKernels;

/* The KERNEL functions of n modules; n_parallel (>= 1) compilers at the same time. Strings are in the arena. Errors as
 * in codegen/compile.h. */
Status codegen_kernels_build(Arena *arena, const IrModule *const *modules, uint32_t n, uint32_t n_parallel,
                             CodegenKernels *out_kernels);

typedef struct
{
    const char *name; /* of the KERNEL function */
    const char *so_path;
    const char *symbol; /* its name in the object's PtcKernelTable */
} CodegenKernelPlace;

/* Reads such a table. DEVICE: it cannot be read, or is none. */
Status codegen_kernels_read(Arena *arena, const char *path, CodegenKernelPlace **out_places, uint32_t *out_n);

#endif
