/* C text to a shared object, through the cache on disk (codegen/cache.h). An entry's key is text, flags, compiler
 * version and processor; a corrupt entry is compiled again with a warning on stderr. */
#ifndef PTC_CODEGEN_COMPILE_H
#define PTC_CODEGEN_COMPILE_H

#include "base/arena.h"
#include "base/status.h"

#include <stdbool.h>

typedef struct
{
    const char *so_path; /* in the arena */
    bool cached;         /* nothing was compiled */
    double compile_s;
} CodegenObject;

/* Runs $PTC_CC (default: cc) without a shell, with our flags and the words of $PTC_CFLAGS (none by default; for
 * sanitizers and experiments). COMPILER: no compiler, or it refused the text; the detail names the
 * compiler's log. IO: the cache directory cannot be written. */
Status codegen_compile(Arena *arena, const char *text, CodegenObject *out_object);
/* The same of n texts, n_parallel (>= 1) of them at the same time. */
Status codegen_compile_all(Arena *arena, const char *const *texts, uint32_t n, uint32_t n_parallel,
                           CodegenObject *out_objects);

#endif
