/* How the executor treats globals: every get reads the old value, whatever the order of copies; a refused step changes
 * nothing that is kept; the bf16 copy of a param is the param's, whoever has written that. */
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

static const char *const narrow = "module \"narrow\"\n"
                                  "global param \"a\" : f32[3]\n"
                                  "global input \"x\" : f32[3]\n"
                                  "global input \"b\" : f32[]\n"
                                  "global output \"y\" : f32[3]\n"
                                  "func step @train {\n"
                                  "  %0 = get {global=\"a\"} : f32[3]\n"
                                  "  %1 = get {global=\"x\"} : f32[3]\n"
                                  "  %2 = get {global=\"b\"} : f32[]\n"
                                  "  %3 = cast %0 : bf16[3]\n"
                                  "  %4 = cast %3 : f32[3]\n"
                                  "  %5 = mul %4, %1 : f32[3]\n"
                                  "  set %5 {global=\"y\"}\n"
                                  "  check_finite %2 opt\n"
                                  "  %6 = sub %0, %5 : f32[3] opt\n"
                                  "  set %6 {global=\"a\"} opt\n"
                                  "}\n";

/* Two params whose copies lie side by side. */
static const char *const packed = "module \"packed\"\n"
                                  "global param \"a\" : f32[2x3]\n"
                                  "global param \"c\" : f32[2x3]\n"
                                  "global input \"x\" : f32[2x6]\n"
                                  "global input \"b\" : f32[]\n"
                                  "global output \"y\" : f32[2x6]\n"
                                  "func step @train {\n"
                                  "  %0 = get {global=\"a\"} : f32[2x3]\n"
                                  "  %1 = get {global=\"c\"} : f32[2x3]\n"
                                  "  %2 = get {global=\"x\"} : f32[2x6]\n"
                                  "  %3 = get {global=\"b\"} : f32[]\n"
                                  "  %4 = concat %0, %1 {axis=1} : f32[2x6]\n"
                                  "  %5 = cast %4 : bf16[2x6]\n"
                                  "  %6 = cast %5 : f32[2x6]\n"
                                  "  %7 = mul %6, %2 : f32[2x6]\n"
                                  "  set %7 {global=\"y\"}\n"
                                  "  check_finite %3 opt\n"
                                  "  %8 = slice %7 {starts=[0,3]} : f32[2x3] opt\n"
                                  "  %9 = sub %0, %8 : f32[2x3] opt\n"
                                  "  set %9 {global=\"a\"} opt\n"
                                  "  %10 = add %1, %1 : f32[2x3] opt\n"
                                  "  set %10 {global=\"c\"} opt\n"
                                  "}\n";

static DeviceProgram compile(Arena *arena, const char *text, const char *passes)
{
    Diag *diag = diag_create(arena);
    IrModule *m = ir_parse_module(arena, diag, diag_add_file(diag, "test", text, strlen(text)), text, strlen(text));
    assert_non_null(m);
    return device_program_build(arena, m, passes);
}

static Executor *start(Arena *arena, HalDevice *device, const char *text, DeviceProgram *out_program)
{
    *out_program = compile(arena, text, "fuse,plan_memory");
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

/* ---- copies of params */

/* A program that casts the param in every step, and one that keeps its copy. */
typedef struct
{
    HalDevice *device; /* NULL: the interpreter */
    DeviceProgram programs[2];
    Executor *executors[2];
} Twins;

static void twins_start(Twins *t, ExecutorTensors *const from[2])
{
    for (int i = 0; i < 2; i++)
        if (t->device)
            t->executors[i] = device_executor_from(t->device, &t->programs[i], from[i]);
        else
            assert_int_equal(
                executor_create_interp(&(ExecutorModule){.m = t->programs[i].m}, 1, from[i], &t->executors[i]),
                STATUS_OK);
}

static void twins_write(Twins *t, const char *name, const float *values)
{
    for (int i = 0; i < 2; i++)
        assert_int_equal(executor_write_global(t->executors[i], name, values), STATUS_OK);
}

/* Both do the same to the bit, and what the copy holds then is the rounded param. */
static void twins_run(Twins *t, float b)
{
    float a[2][6] = {0}, y[2][12] = {0};
    uint16_t copy[3];
    twins_write(t, "b", &b);
    for (int i = 0; i < 2; i++)
    {
        const Status wanted = isfinite(b) ? STATUS_OK : STATUS_NON_FINITE;
        assert_int_equal(executor_run(t->executors[i], "train"), wanted);
        executor_read_global(t->executors[i], "a", a[i]);
        executor_read_global(t->executors[i], "y", y[i]);
    }
    assert_memory_equal(a[0], a[1], sizeof a[0]);
    assert_memory_equal(y[0], y[1], sizeof y[0]);
    if (!t->device || executor_has_global(t->executors[1], "c"))
        return;
    executor_read_global(t->executors[1], "bf16:a", copy);
    for (int i = 0; i < 3; i++)
    {
        uint32_t bits;
        memcpy(&bits, &a[1][i], sizeof bits);
        assert_int_equal(copy[i], (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}

static void run_twins(const char *backend, const char *text)
{
    Arena *arena = arena_create();
    Twins t = {.device = backend ? device_open(backend, 1) : NULL};
    const float first[] = {1.01f, -2.003f, 3.1f, 0.1f, 0.2f, 0.3f}, second[] = {0.7f, 1e-3f, -12.6f, 3.3f, 0.9f, -0.7f};
    const float x[] = {0.013f, -0.4f, 0.21f, 1.1f, -1.7f, 0.3f, 0.33f, -0.9f, 0.011f, 1.3f, 0.6f, -0.2f};
    ExecutorTensors *kept[2] = {NULL, NULL};
    t.programs[0] = compile(arena, text, "fuse,plan_memory");
    t.programs[1] = compile(arena, text, "copies,fuse,plan_memory");
    twins_start(&t, kept);
    twins_write(&t, "x", x);
    twins_write(&t, "a", first);
    if (executor_has_global(t.executors[0], "c"))
        twins_write(&t, "c", second);
    for (int step = 0; step < 3; step++)
        twins_run(&t, 0);
    twins_run(&t, INFINITY);
    twins_run(&t, 0);
    twins_write(&t, "a", second);
    twins_run(&t, 0);
    for (int i = 0; i < 2; i++)
    {
        kept[i] = executor_tensors_create();
        assert_int_equal(executor_release(t.executors[i], kept[i]), STATUS_OK);
    }
    twins_start(&t, kept);
    twins_write(&t, "x", x);
    twins_run(&t, 0);
    for (int i = 0; i < 2; i++)
    {
        executor_tensors_destroy(kept[i]);
        executor_destroy(t.executors[i]);
        device_program_destroy(&t.programs[i]);
    }
    hal_device_destroy(t.device);
    arena_destroy(arena);
}

static void test_copies(void **state)
{
    (void)state;
    run_twins("cpu", narrow);
    run_twins("cpu", packed);
}

static void test_copies_interpreted(void **state)
{
    (void)state;
    run_twins(NULL, narrow);
    run_twins(NULL, packed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_swap), cmocka_unit_test(test_refused_step),
                                       cmocka_unit_test(test_copies), cmocka_unit_test(test_copies_interpreted)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
