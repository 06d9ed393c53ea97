#include "codegen/kernel_set.h"

#include "base/strbuf.h"
#include "codegen/cache.h"
#include "codegen/codegen.h"
#include "codegen/compile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum
{
    MAX_NAME = 127,
    KERNELS_PER_OBJECT = 16 /* at most: of these others may take the next ones */
};

typedef struct
{
    const char *key;
    const IrModule *m;  /* a program that has it, */
    IrFunc func;        /* as this function */
    size_t n_bytes;     /* of text: what compiling it costs */
    const char *object; /* the key of the object that has it; NULL: none yet */
    bool compiled;      /* by this call */
} Kernel;

typedef struct
{
    const char *key;
    bool valid;
} Object;

typedef struct
{
    Arena *arena;
    CodegenCompiler *compiler;
    const char *dir;
    VEC(Kernel) kernels;
    VEC(Object) objects; /* those looked at */
    int lock_file;       /* -1: there are no locks here, and others may do the same work */
} Build;

/* ---- what is wanted */

/* The number of a kernel that is like this function. */
static uint32_t add_kernel(Build *b, Arena *scratch, const IrModule *m, IrFunc func)
{
    StrBuf text = strbuf_make(scratch);
    IrModule *alone = ir_module_create(scratch, "");
    ir_func_copy(alone, m, func, "k");
    codegen_emit_c(&text, alone);
    const char *key = codegen_compiler_key(scratch, b->compiler, strbuf_text(&text));
    for (uint32_t i = 0; i < b->kernels.len; i++)
        if (strcmp(b->kernels.data[i].key, key) == 0)
            return i;
    vec_push(b->arena, &b->kernels,
             (Kernel){.key = arena_strdup(b->arena, key), .m = m, .func = func, .n_bytes = text.len});
    return b->kernels.len - 1;
}

/* The kernels of a module by their numbers, in the order of its functions. */
typedef struct
{
    const char **names;
    uint32_t *kernels;
    uint32_t n;
} Program;

static Program add_program(Build *b, Arena *scratch, const IrModule *m)
{
    Program p = {.names = ARENA_ARRAY(b->arena, const char *, m->funcs.len),
                 .kernels = ARENA_ARRAY(b->arena, uint32_t, m->funcs.len)};
    IR_FOR_FUNCS(m, func)
    {
        if (ir_func(m, func)->kind != IR_FUNC_KERNEL)
            continue;
        p.names[p.n] = ir_func(m, func)->name;
        p.kernels[p.n++] = add_kernel(b, scratch, m, func);
        arena_reset(scratch);
    }
    return p;
}

/* ---- what is there */

static const char *index_path(const Build *b, const Kernel *kernel)
{
    return arena_printf(b->arena, "%s/%s.kernel", b->dir, kernel->key);
}

/* Whole objects are looked at once. */
static bool object_valid(Build *b, const char *key)
{
    for (uint32_t i = 0; i < b->objects.len; i++)
        if (strcmp(b->objects.data[i].key, key) == 0)
            return b->objects.data[i].valid;
    Arena *scratch = arena_create();
    const CacheEntry entry = cache_entry(scratch, b->dir, key, "so", 0);
    const Object object = {key, cache_entry_valid(scratch, &entry)};
    arena_destroy(scratch);
    vec_push(b->arena, &b->objects, object);
    return object.valid;
}

/* Looks for an object that has the kernel. */
static bool find(Build *b, Kernel *kernel)
{
    size_t size;
    const char *key = kernel->object ? NULL : cache_read(b->arena, index_path(b, kernel), &size);
    if (key && size && object_valid(b, key))
        kernel->object = key;
    return kernel->object != NULL;
}

static Status publish(Build *b, Kernel *kernel, const char *object)
{
    const char *path = index_path(b, kernel), *temporary = arena_printf(b->arena, "%s.%ld", path, (long)getpid());
    TRY(cache_write(temporary, object, strlen(object)));
    if (rename(temporary, path) != 0)
        return status_fail(STATUS_IO, "cannot write %s: %s", path, strerror(errno));
    kernel->object = object;
    kernel->compiled = true;
    return STATUS_OK;
}

/* ---- locks: one byte of a file for each kernel, of this open file, so that threads exclude each other, too */

static bool lock(const Build *b, const Kernel *kernel, short type, int command)
{
    const unsigned long long at = strtoull(arena_strndup(b->arena, kernel->key, 15), NULL, 16);
    struct flock range = {.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)at, .l_len = 1};
    while (b->lock_file >= 0 && fcntl(b->lock_file, command, &range) != 0)
        if (errno != EINTR)
            return errno != EAGAIN && errno != EACCES; /* what cannot lock goes without */
    return true;
}

static bool try_lock(const Build *b, const Kernel *kernel)
{
    return lock(b, kernel, F_WRLCK, F_OFD_SETLK);
}

static void unlock(const Build *b, const Kernel *kernel)
{
    lock(b, kernel, F_UNLCK, F_OFD_SETLK);
}

static void wait_for_lock(const Build *b, const Kernel *kernel)
{
    lock(b, kernel, F_WRLCK, F_OFD_SETLKW);
    unlock(b, kernel);
}

/* ---- compiling */

static int by_cost(const void *a, const void *b)
{
    const Kernel *x = *(Kernel *const *)a, *y = *(Kernel *const *)b;
    return (x->n_bytes < y->n_bytes) - (x->n_bytes > y->n_bytes);
}

/* Takes kernels that nobody has and nobody else makes, up to `most`. */
static uint32_t claim(Build *b, Kernel **claimed, uint32_t most)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < b->kernels.len && n < most; i++)
    {
        Kernel *kernel = &b->kernels.data[i];
        if (kernel->object || !try_lock(b, kernel))
            continue;
        if (find(b, kernel)) /* it was just being made */
            unlock(b, kernel);
        else
            claimed[n++] = kernel;
    }
    return n;
}

/* Compiles them in so many objects of like cost. */
static Status compile(Build *b, Kernel **kernels, uint32_t n, uint32_t n_objects)
{
    const char **texts = ARENA_ARRAY(b->arena, const char *, n_objects);
    CodegenObject *objects = ARENA_ARRAY(b->arena, CodegenObject, n_objects);
    qsort(kernels, n, sizeof *kernels, by_cost);
    for (uint32_t i = 0; i < n_objects; i++)
    {
        IrModule *m = ir_module_create(b->arena, "");
        for (uint32_t k = i; k < n; k += n_objects)
            ir_func_copy(m, kernels[k]->m, kernels[k]->func, kernels[k]->key);
        StrBuf text = strbuf_make(b->arena);
        codegen_emit_c(&text, m);
        texts[i] = strbuf_text(&text);
    }
    TRY(codegen_compile_all(b->arena, b->compiler, texts, n_objects, n_objects, objects));
    for (uint32_t k = 0; k < n; k++)
        TRY(publish(b, kernels[k], codegen_compiler_key(b->arena, b->compiler, texts[k % n_objects])));
    return STATUS_OK;
}

static Status compile_missing(Build *b, uint32_t n_parallel)
{
    const uint32_t most = n_parallel * KERNELS_PER_OBJECT;
    Kernel **claimed = ARENA_ARRAY(b->arena, Kernel *, most);
    for (uint32_t i = 0; i < b->kernels.len; i++)
        find(b, &b->kernels.data[i]);
    for (uint32_t i = 0; i < b->kernels.len;)
    {
        if (b->kernels.data[i].object)
        {
            i++;
            continue;
        }
        const uint32_t n = claim(b, claimed, most);
        if (n)
            TRY(compile(b, claimed, n, n < n_parallel ? n : n_parallel));
        else
            wait_for_lock(b, &b->kernels.data[i]);
        for (uint32_t k = 0; k < n; k++)
            unlock(b, claimed[k]);
        if (!n)
            find(b, &b->kernels.data[i]);
    }
    return STATUS_OK;
}

/* ---- tables */

static Status write_table(Build *b, const Program *p, uint32_t number, CodegenKernels *out)
{
    StrBuf text = strbuf_make(b->arena), identity = strbuf_make(b->arena);
    strbuf_addf(&text, "ptc host kernels %u\n", p->n);
    for (uint32_t i = 0; i < p->n; i++)
    {
        const Kernel *kernel = &b->kernels.data[p->kernels[i]];
        strbuf_addf(&identity, "%s %s\n", p->names[i], kernel->key);
        strbuf_addf(&text, "%s %s.so %s\n", p->names[i], kernel->object, kernel->key);
        out->cached = out->cached && !kernel->compiled;
    }
    const char *key = codegen_compiler_key(b->arena, b->compiler, strbuf_text(&identity));
    out->path = arena_printf(b->arena, "%s/%s.kernels", b->dir, key);
    size_t size;
    const char *old = cache_read(b->arena, out->path, &size);
    if (old && strcmp(old, strbuf_text(&text)) == 0)
        return STATUS_OK;
    const char *temporary = arena_printf(b->arena, "%s.%ld-%u", out->path, (long)getpid(), number);
    TRY(cache_write(temporary, text.data, text.len));
    if (rename(temporary, out->path) != 0)
        return status_fail(STATUS_IO, "cannot write %s: %s", out->path, strerror(errno));
    return STATUS_OK;
}

static Status build(Build *b, const IrModule *const *modules, uint32_t n, uint32_t n_parallel, CodegenKernels *out)
{
    TRY(codegen_compiler_find(b->arena, &b->compiler));
    b->dir = codegen_compiler_dir(b->compiler);
    b->lock_file = open(arena_printf(b->arena, "%s/lock", b->dir), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    Program *programs = ARENA_ARRAY(b->arena, Program, n);
    Arena *scratch = arena_create();
    for (uint32_t i = 0; i < n; i++)
        programs[i] = add_program(b, scratch, modules[i]);
    arena_destroy(scratch);
    TRY(compile_missing(b, n_parallel));
    for (uint32_t i = 0; i < n; i++)
    {
        out[i].cached = true;
        TRY(write_table(b, &programs[i], i, &out[i]));
    }
    return STATUS_OK;
}

Status codegen_kernels_build(Arena *arena, const IrModule *const *modules, uint32_t n, uint32_t n_parallel,
                             CodegenKernels *out_kernels)
{
    Build b = {.arena = arena_create(), .lock_file = -1};
    const Status status = build(&b, modules, n, n_parallel, out_kernels);
    for (uint32_t i = 0; i < n && status == STATUS_OK; i++)
        out_kernels[i].path = arena_strdup(arena, out_kernels[i].path);
    if (b.lock_file >= 0)
        close(b.lock_file); /* gives back all locks */
    arena_destroy(b.arena);
    return status;
}

/* ---- reading */

static Status malformed(const char *path)
{
    return status_fail(STATUS_DEVICE, "%s is no table of kernels", path);
}

Status codegen_kernels_read(Arena *arena, const char *path, CodegenKernelPlace **out_places, uint32_t *out_n)
{
    size_t size;
    char name[MAX_NAME + 1], object[MAX_NAME + 1], symbol[MAX_NAME + 1];
    const char *text = cache_read(arena, path, &size), *slash = strrchr(path, '/');
    unsigned n;
    int n_read = 0;
    if (!text)
        return status_fail(STATUS_DEVICE, "cannot read the kernels in %s", path);
    if (sscanf(text, "ptc host kernels %u%n", &n, &n_read) != 1 || n > size)
        return malformed(path);
    CodegenKernelPlace *places = ARENA_ARRAY(arena, CodegenKernelPlace, n);
    for (unsigned i = 0; i < n; i++)
    {
        text += n_read;
        if (sscanf(text, "%127s %127s %127s%n", name, object, symbol, &n_read) != 3)
            return malformed(path);
        places[i] = (CodegenKernelPlace){
            .name = arena_strdup(arena, name),
            .so_path = arena_printf(arena, "%.*s%s", slash ? (int)(slash + 1 - path) : 0, path, object),
            .symbol = arena_strdup(arena, symbol)};
    }
    *out_places = places;
    *out_n = n;
    return STATUS_OK;
}
