/* C text to a shared object, through the cache on disk (codegen/cache.h). An entry's key is text, flags, compiler
 * version and processor; a corrupt entry is compiled again with a warning on stderr. */
#ifndef PTC_CODEGEN_COMPILE_H
#define PTC_CODEGEN_COMPILE_H

#include "base/arena.h"
#include "base/status.h"

#include <stdbool.h>

/* What texts are compiled with. */
typedef struct CodegenCompiler CodegenCompiler;

typedef struct
{
    const char *so_path; /* in the arena */
    bool cached;         /* nothing was compiled */
    double compile_s;
} CodegenObject;

/* $PTC_CC (default: cc) with our flags and the words of $PTC_CFLAGS (none by default; for sanitizers and experiments).
 * COMPILER: there is none. IO: no place for the cache. */
Status codegen_compiler_find(Arena *arena, CodegenCompiler **out_compiler);
/* The cache's folder, and a text's key in it. */
const char *codegen_compiler_dir(const CodegenCompiler *compiler);
const char *codegen_compiler_key(Arena *arena, const CodegenCompiler *compiler, const char *text);

/* Compiles n texts, n_parallel (>= 1) of them at the same time, without a shell. COMPILER: it refused one; the detail
 * names its log. IO: the folder cannot be written. */
Status codegen_compile_all(Arena *arena, CodegenCompiler *compiler, const char *const *texts, uint32_t n,
                           uint32_t n_parallel, CodegenObject *out_objects);
/* One text, with the compiler that is found. */
Status codegen_compile(Arena *arena, const char *text, CodegenObject *out_object);

#endif
