/* Every kernel case, compiled as C, against the interpreter; tasks in a shuffled order, workspace and scratch filled
 * with NaN bytes beforehand, guard bytes behind every buffer. */
#include "harness/test.h"

#include "kernel_case.h"

#include "codegen/codegen.h"
#include "codegen/compile.h"
#include "codegen/kernel_abi.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum
{
    GUARD_BYTES = 64
};

static const uint64_t seed = 20260131;

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

static const char *run_kernel(Arena *arena, const PtcKernel *kernel, KernelData *data)
{
    void *bufs[32];
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

static uint32_t run_case(Arena *arena, const KernelCase *c)
{
    StrBuf text = strbuf_make(arena);
    CodegenObject object;
    uint32_t n_failed = 0;
    codegen_emit_c(&text, c->m);
    if (codegen_compile(arena, strbuf_text(&text), &object) != STATUS_OK)
    {
        printf("%s: %s\n", c->label, status_detail());
        return 1;
    }
    void *handle = dlopen(object.so_path, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        fail_msg("%s", dlerror());
    const PtcKernelTable *table = dlsym(handle, PTC_KERNEL_SYMBOL);
    assert_non_null(table);
    assert_int_equal(table->abi_version, PTC_KERNEL_ABI_VERSION);
    uint32_t k = 0;
    IR_FOR_FUNCS(c->m, func)
    {
        const PtcKernel *kernel = &table->kernels[k++];
        assert_string_equal(kernel->name, ir_func(c->m, func)->name);
        KernelData data = kernel_data_make(arena, c->m, func, seed);
        const char *why = run_kernel(arena, kernel, &data);
        if (!why)
            why = kernel_data_compare(arena, &data, c->tolerance);
        if (!why)
            continue;
        printf("%s @%s: %s (%s)\n", c->label, kernel->name, why, object.so_path);
        n_failed++;
    }
    assert_int_equal(table->n_kernels, k);
    dlclose(handle);
    return n_failed;
}

static void kernels_agree_with_the_interpreter(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    KernelCases cases = kernel_cases_load(arena);
    uint32_t n_failed = 0;
    printf("seed %llu, %u cases\n", (unsigned long long)seed, cases.len);
    assert_true(cases.len > 10);
    for (uint32_t i = 0; i < cases.len; i++)
        n_failed += run_case(arena, &cases.data[i]);
    arena_destroy(arena);
    assert_int_equal(n_failed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(kernels_agree_with_the_interpreter)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
