/* Law 1: arithmetic does not depend on what is fused. Every loop kernel case gives, to the bit, what its ops give when
 * each is a kernel of its own with results in memory between them; and gcc and clang give the same bits. */
#include "harness/test.h"

#include "kernel_case.h"
#include "kernel_run.h"

#include "base/bug.h"
#include "base/status.h"
#include "ir/builder.h"

#include <stdlib.h>
#include <string.h>

static const uint64_t seed = 99;

/* One kernel "o<op>" in apart per op of func. */
static void take_apart(IrModule *apart, const IrModule *m, IrFunc func)
{
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData data = *ir_op(m, op);
        if (data.code == IR_arg || data.code == IR_output)
            continue;
        IrFunc one = ir_func_add(apart, IR_FUNC_KERNEL, arena_printf(apart->arena, "o%u", op));
        IrValue operands[8];
        ENSURE(data.n_operands <= 8);
        for (uint32_t i = 0; i < data.n_operands; i++)
        {
            IrOp arg = ir_op_insert(apart, one, 0, IR_arg, NULL, 0, ir_value_type(m, data.operands[i]), 1, NULL, 0);
            operands[i] = ir_op_result(apart, arg, 0);
        }
        IrOp clone = ir_op_insert(apart, one, 0, data.code, operands, data.n_operands,
                                  ir_value_type(m, data.results[0]), 1, data.attrs.data, data.attrs.len);
        IrValue result = ir_op_result(apart, clone, 0);
        ir_op_insert(apart, one, 0, IR_output, &result, 1, NULL, 0, NULL, 0);
    }
}

static const PtcKernel *find_kernel(const PtcKernelTable *table, const char *name)
{
    for (uint32_t i = 0; i < table->n_kernels; i++)
        if (strcmp(table->kernels[i].name, name) == 0)
            return &table->kernels[i];
    BUG("no kernel %s", name);
}

static bool is_loop_kernel(const IrModule *m, IrFunc func)
{
    IR_FOR_OPS(m, func, op)
    {
        if (ir_code_has(ir_op(m, op)->code, IR_TRAIT_TEMPLATE))
            return false;
    }
    return true;
}

/* Runs the ops one by one; the outputs replace the bytes of data's outputs. */
static void run_apart(Arena *arena, const PtcKernelTable *table, const IrModule *m, IrFunc func, KernelData *data)
{
    void **bytes = ARENA_ARRAY(arena, void *, m->values.len);
    uint32_t n_args = 0, n_outputs = 0;
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData *o = ir_op(m, op);
        if (o->code == IR_arg)
            bytes[o->results[0]] = data->bytes[n_args++];
        else if (o->code == IR_output)
            data->bytes[data->n_args + n_outputs++] = bytes[o->operands[0]];
        else
        {
            KernelData one = {.n_args = o->n_operands, .n_outputs = 1};
            for (uint32_t i = 0; i < o->n_operands; i++)
            {
                one.types[i] = *ir_value_type(m, o->operands[i]);
                one.bytes[i] = bytes[o->operands[i]];
            }
            one.types[o->n_operands] = *ir_value_type(m, o->results[0]);
            one.bytes[o->n_operands] = arena_alloc(arena, (size_t)ir_type_size_bytes(&one.types[o->n_operands]));
            const PtcKernel *kernel = find_kernel(table, arena_printf(arena, "o%u", op));
            const char *why = kernel_data_run(arena, kernel, &one);
            if (why)
                fail_msg("%s", why);
            bytes[o->results[0]] = one.bytes[o->n_operands];
        }
    }
}

static uint32_t count_different(const char *label, const char *name, const KernelData *x, const KernelData *y)
{
    for (uint32_t i = x->n_args; i < x->n_args + x->n_outputs; i++)
        if (memcmp(x->bytes[i], y->bytes[i], (size_t)ir_type_size_bytes(&x->types[i])) != 0)
        {
            printf("%s @%s: output %u differs\n", label, name, i - x->n_args);
            return 1;
        }
    return 0;
}

static void fused_is_unfused_to_the_bit(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    KernelCases cases = kernel_cases_load(arena);
    uint32_t n_different = 0, n_compared = 0;
    for (uint32_t i = 0; i < cases.len; i += test_is_thin() ? 2 : 1)
    {
        const KernelCase *c = &cases.data[i];
        IrModule *apart = ir_module_create(arena, "apart");
        IR_FOR_FUNCS(c->m, func)
        if (is_loop_kernel(c->m, func))
            take_apart(apart, c->m, func);
        if (apart->funcs.len == 1)
            continue;
        KernelObject object = kernel_object_make(arena, c->m), object_apart = kernel_object_make(arena, apart);
        if (!object.table || !object_apart.table)
            fail_msg("%s: %s", c->label, status_detail());
        IR_FOR_FUNCS(c->m, func)
        {
            const char *name = ir_func(c->m, func)->name;
            if (!is_loop_kernel(c->m, func))
                continue;
            KernelData fused = kernel_data_make(arena, c->m, func, seed), one_by_one = fused;
            const char *why = kernel_data_run(arena, find_kernel(object.table, name), &fused);
            if (why)
                fail_msg("%s", why);
            run_apart(arena, object_apart.table, c->m, func, &one_by_one);
            n_different += count_different(c->label, name, &fused, &one_by_one);
            n_compared++;
        }
        kernel_object_close(&object);
        kernel_object_close(&object_apart);
    }
    printf("seed %llu, %u kernels compared\n", (unsigned long long)seed, n_compared);
    arena_destroy(arena);
    assert_true(n_compared > 20);
    assert_int_equal(n_different, 0);
}

static void compilers_agree_to_the_bit(void **state)
{
    (void)state;
    TEST_IF_FULL();
    if (system("command -v gcc >/dev/null 2>&1 && command -v clang >/dev/null 2>&1") != 0)
        TEST_SKIP("not both of gcc and clang are installed");
    const char *other = system("cc --version | grep -q clang") == 0 ? "gcc" : "clang";
    Arena *arena = arena_create();
    KernelCases cases = kernel_cases_load(arena);
    uint32_t n_different = 0;
    for (uint32_t i = 0; i < cases.len; i++)
    {
        const KernelCase *c = &cases.data[i];
        KernelObject objects[2];
        for (int k = 0; k < 2; k++)
        {
            setenv("PTC_CC", k ? other : "cc", 1);
            objects[k] = kernel_object_make(arena, c->m);
            if (!objects[k].table)
                fail_msg("%s: %s", c->label, status_detail());
        }
        unsetenv("PTC_CC");
        IR_FOR_FUNCS(c->m, func)
        {
            const char *name = ir_func(c->m, func)->name;
            KernelData by_cc = kernel_data_make(arena, c->m, func, seed), by_other = by_cc;
            kernel_data_run(arena, find_kernel(objects[0].table, name), &by_cc);
            kernel_data_run(arena, find_kernel(objects[1].table, name), &by_other);
            n_different += count_different(c->label, name, &by_cc, &by_other);
        }
        kernel_object_close(&objects[0]);
        kernel_object_close(&objects[1]);
    }
    arena_destroy(arena);
    assert_int_equal(n_different, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(fused_is_unfused_to_the_bit),
                                       cmocka_unit_test(compilers_agree_to_the_bit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
