/* Compiles a module's kernels and runs them on case data. */
#include "kernel_run.h"

#include "base/bug.h"
#include "base/strbuf.h"
#include "codegen/codegen.h"
#include "codegen/compile.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum
{
    GUARD_BYTES = 64
};

static void *filled(Arena *arena, int64_t size_bytes)
{
    char *at = arena_alloc(arena, (size_t)size_bytes + 64 + GUARD_BYTES);
    at += 64 - (uintptr_t)at % 64;
    memset(at, 0xFF, (size_t)size_bytes);
    memset(at + size_bytes, 0xA5, GUARD_BYTES);
    return at;
}

static bool guard_ok(const void *at, int64_t size_bytes)
{
    for (int64_t i = 0; i < GUARD_BYTES; i++)
        if (((const unsigned char *)at)[size_bytes + i] != 0xA5)
            return false;
    return true;
}

const char *kernel_data_run(Arena *arena, const PtcKernel *kernel, KernelData *data)
{
    void *bufs[33];
    uint32_t n = data->n_args + data->n_outputs, stream = 0;
    bufs[n] = &stream;
    for (uint32_t i = 0; i < n; i++)
    {
        int64_t size_bytes = ir_type_size_bytes(&data->types[i]);
        bufs[i] = filled(arena, size_bytes);
        memcpy(bufs[i], data->bytes[i], (size_t)size_bytes);
        data->bytes[i] = bufs[i];
    }
    void *workspace = filled(arena, kernel->workspace_bytes), *scratch = filled(arena, kernel->scratch_bytes);
    for (uint32_t p = 0; p < kernel->n_phases; p++)
        for (int64_t t = 0, n_tasks = kernel->phase[p].n_tasks; t < n_tasks; t++)
        {
            int64_t task = (t * 7919 + 3) % n_tasks; /* any order will do */
            kernel->phase[p].run(bufs, workspace, scratch, n_tasks % 7919 ? task : t);
        }
    for (uint32_t i = 0; i < n; i++)
        if (!guard_ok(bufs[i], ir_type_size_bytes(&data->types[i])))
            return arena_printf(arena, "wrote past the end of buffer %u", i);
    if (!guard_ok(workspace, kernel->workspace_bytes))
        return "wrote past the end of the workspace";
    if (!guard_ok(scratch, kernel->scratch_bytes))
        return "wrote past the end of the scratch";
    return NULL;
}

KernelObject kernel_object_make(Arena *arena, const IrModule *m)
{
    StrBuf text = strbuf_make(arena);
    CodegenObject compiled;
    KernelObject object = {0};
#ifdef __SANITIZE_ADDRESS__
    setenv("PTC_CFLAGS", "-O1 -fsanitize=address,undefined -fno-sanitize=alignment,shift,signed-integer-overflow", 1);
#endif
    codegen_emit_c(&text, m);
    if (codegen_compile(arena, strbuf_text(&text), &compiled) != STATUS_OK)
        return object;
    object.path = compiled.so_path;
    object.handle = dlopen(compiled.so_path, RTLD_NOW | RTLD_LOCAL);
    if (!object.handle)
        BUG("%s", dlerror());
    object.table = dlsym(object.handle, PTC_KERNEL_SYMBOL);
    ENSURE(object.table && object.table->abi_version == PTC_KERNEL_ABI_VERSION);
    return object;
}

void kernel_object_close(KernelObject *object)
{
    dlclose(object->handle);
}
