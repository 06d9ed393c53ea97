/* Every kernel case, compiled as C, against the interpreter; tasks in a shuffled order, workspace and scratch filled
 * with NaN bytes beforehand, guard bytes behind every buffer. */
#include "harness/test.h"

#include "kernel_case.h"
#include "kernel_run.h"

#include "base/status.h"

static const uint64_t seed = 20260131;

static uint32_t run_case(Arena *arena, const KernelCase *c)
{
    uint32_t n_failed = 0;
    KernelObject object = kernel_object_make(arena, c->m);
    const PtcKernelTable *table = object.table;
    if (!table)
    {
        printf("%s: %s\n", c->label, status_detail());
        return 1;
    }
    uint32_t k = 0;
    IR_FOR_FUNCS(c->m, func)
    {
        const PtcKernel *kernel = &table->kernels[k++];
        assert_string_equal(kernel->name, ir_func(c->m, func)->name);
        KernelData data = kernel_data_make(arena, c->m, func, seed);
        const char *why = kernel_data_run(arena, kernel, &data);
        if (!why)
            why = kernel_data_compare(arena, &data, c->tolerance);
        if (!why)
            continue;
        printf("%s @%s: %s (%s)\n", c->label, kernel->name, why, object.path);
        n_failed++;
    }
    assert_int_equal(table->n_kernels, k);
    kernel_object_close(&object);
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
