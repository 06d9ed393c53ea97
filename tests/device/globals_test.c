/* How the executor treats globals: every get reads the old value, whatever the order of copies; a refused step changes
 * nothing that is kept. */
#include "program.h"

#include "harness/test.h"
#include "ir/text.h"

#include <math.h>
#include <string.h>

static const char *const swap = "module \"swap\"\n"
                                "global param \"a\" : f32[3]\n"
                                "global param \"b\" : f32[3]\n"
                                "global param \"c\" : f32[3x1]\n"
                                "global output \"y\" : f32[3]\n"
                                "func step @train {\n"
                                "  %0 = get {global=\"a\"} : f32[3]\n"
                                "  %1 = get {global=\"b\"} : f32[3]\n"
                                "  %2 = get {global=\"c\"} : f32[3x1]\n"
                                "  %3 = reshape %2 : f32[3]\n"
                                "  %4 = reshape %1 : f32[3x1]\n"
                                "  %5 = add %0, %1 : f32[3]\n"
                                "  set %0 {global=\"b\"}\n"
                                "  set %3 {global=\"a\"}\n"
                                "  set %4 {global=\"c\"}\n"
                                "  set %5 {global=\"y\"}\n"
                                "}\n";

static const char *const refused = "module \"refused\"\n"
                                   "global param \"a\" : f32[3]\n"
                                   "global input \"wide\" : f32[5]\n"
                                   "global input \"b\" : f32[]\n"
                                   "func step @train {\n"
                                   "  %0 = get {global=\"a\"} : f32[3]\n"
                                   "  %1 = get {global=\"b\"} : f32[]\n"
                                   "  %2 = get {global=\"wide\"} : f32[5]\n"
                                   "  %3 = mul %0, %0 : f32[3]\n"
                                   "  check_finite %2\n"
                                   "  check_finite %1\n"
                                   "  set %3 {global=\"a\"}\n"
                                   "}\n";

static Executor *start(Arena *arena, HalDevice *device, const char *text, DeviceProgram *out_program)
{
    Diag *diag = diag_create(arena);
    IrModule *m = ir_parse_module(arena, diag, diag_add_file(diag, "test", text, strlen(text)), text, strlen(text));
    assert_non_null(m);
    *out_program = device_program_build(arena, m, "fuse,plan_memory");
    return device_executor(device, out_program);
}

static void expect(Executor *executor, const char *name, const float *values)
{
    float got[3];
    assert_int_equal(executor_read_global(executor, name, got), STATUS_OK);
    assert_memory_equal(got, values, sizeof got);
}

static void test_swap(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    HalDevice *device = device_open("cpu", 1);
    DeviceProgram program;
    Executor *executor = start(arena, device, swap, &program);
    const float a[] = {1, 2, 3}, b[] = {10, 20, 30}, c[] = {100, 200, 300}, sum[] = {11, 22, 33};
    executor_write_global(executor, "a", a);
    executor_write_global(executor, "b", b);
    executor_write_global(executor, "c", c);
    assert_int_equal(executor_run(executor, "train"), STATUS_OK);
    expect(executor, "b", a);
    expect(executor, "a", c);
    expect(executor, "c", b);
    expect(executor, "y", sum);
    executor_destroy(executor);
    device_program_destroy(&program);
    hal_device_destroy(device);
    arena_destroy(arena);
}

static void test_refused_step(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    HalDevice *device = device_open("cpu", 2);
    DeviceProgram program;
    Executor *executor = start(arena, device, refused, &program);
    const float a[] = {1, 2, 3}, squared[] = {1, 4, 9}, wide[] = {0, 1, 2, 3, 4}, bad_wide[] = {0, 1, 2, 3, NAN};
    const float b = 1, bad_b = INFINITY;
    executor_write_global(executor, "a", a);
    executor_write_global(executor, "b", &b);
    executor_write_global(executor, "wide", bad_wide);
    assert_int_equal(executor_run(executor, "train"), STATUS_NON_FINITE);
    expect(executor, "a", a);
    executor_write_global(executor, "wide", wide);
    executor_write_global(executor, "b", &bad_b);
    assert_int_equal(executor_run(executor, "train"), STATUS_NON_FINITE);
    expect(executor, "a", a);
    executor_write_global(executor, "b", &b);
    assert_int_equal(executor_run(executor, "train"), STATUS_OK);
    expect(executor, "a", squared);
    executor_destroy(executor);
    device_program_destroy(&program);
    hal_device_destroy(device);
    arena_destroy(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_swap), cmocka_unit_test(test_refused_step)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
