/* Step functions on the mock of the driver. As graphs: what is recorded and when, that replays read what changes on the
 * device, and how failures are told. One by one: their times, and their names for profilers. */
#include "harness/test.h"

#include "fixture.h"
#include "program.h"

#include "base/strbuf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* w -= lr xT x w, told by the norm of x w; N rows. Two matmuls before the check, an update behind it. */
#define PROGRAM(N)                                                                                                     \
    "module \"steps\"\n"                                                                                               \
    "global param \"w\" : f32[8x8]\n"                                                                                  \
    "global input \"x\" : f32[" N "x8]\n"                                                                              \
    "global input \"lr\" : f32[]\n"                                                                                    \
    "global output \"loss\" : f32[]\n"                                                                                 \
    "func step @train {\n"                                                                                             \
    "  %0 = get {global=\"w\"} : f32[8x8]\n"                                                                           \
    "  %1 = get {global=\"x\"} : f32[" N "x8]\n"                                                                       \
    "  %2 = get {global=\"lr\"} : f32[]\n"                                                                             \
    "  %3 = matmul %1, %0 : f32[" N "x8]\n"                                                                            \
    "  %4 = matmul %1, %3 {ta=true} : f32[8x8]\n"                                                                      \
    "  %5 = mul %3, %3 : f32[" N "x8]\n"                                                                               \
    "  %6 = reduce_sum %5 {axes=[0,1]} : f32[]\n"                                                                      \
    "  check_finite %6\n"                                                                                              \
    "  %7 = matmul %4, %0 : f32[8x8]\n"                                                                                \
    "  %8 = broadcast %2 {dims=[]} : f32[8x8]\n"                                                                       \
    "  %9 = mul %7, %8 : f32[8x8]\n"                                                                                   \
    "  %10 = sub %0, %9 : f32[8x8]\n"                                                                                  \
    "  set %10 {global=\"w\"}\n"                                                                                       \
    "  set %6 {global=\"loss\"}\n"                                                                                     \
    "}\n"                                                                                                              \
    "func step @eval {\n"                                                                                              \
    "  %0 = get {global=\"w\"} : f32[8x8]\n"                                                                           \
    "  %1 = get {global=\"x\"} : f32[" N "x8]\n"                                                                       \
    "  %2 = matmul %1, %0 : f32[" N "x8]\n"                                                                            \
    "  %3 = reduce_sum %2 {axes=[0,1]} : f32[]\n"                                                                      \
    "  set %3 {global=\"loss\"}\n"                                                                                     \
    "}\n"

enum
{
    N_STEPS = 4
};

typedef struct
{
    Arena *arena;
    HalDevice *device;
    DeviceProgram programs[2]; /* 4 rows, 8 rows */
    Executor *executor;
} Steps;

static Steps start(bool no_graphs)
{
    static const char *const texts[] = {PROGRAM("4"), PROGRAM("8")};
    Steps s = {.arena = arena_create()};
    const HalOptions options = {.no_graphs = no_graphs};
    const IrModule *modules[2];
    HalKernelFile files[2];
    ExecutorModule variants[2];
    if (hal_device_create("cuda", &options, &s.device) != STATUS_OK)
        fail_msg("%s", status_detail());
    for (int i = 0; i < 2; i++)
    {
        s.programs[i] = device_program_build(s.arena, fixture_module(s.arena, texts[i]), "fuse,plan_memory");
        modules[i] = s.programs[i].m;
    }
    if (hal_kernels_build(s.arena, "cuda", modules, 2, 1, files) != STATUS_OK)
        fail_msg("%s", status_detail());
    for (int i = 0; i < 2; i++)
        variants[i] = (ExecutorModule){.m = modules[i], .kernels_path = files[i].path};
    if (executor_create(s.device, variants, 2, NULL, NULL, &s.executor) != STATUS_OK)
        fail_msg("%s", status_detail());
    float w[64];
    for (int i = 0; i < 64; i++)
        w[i] = (float)(i * 37 % 64) / 64 - 0.5F;
    assert_int_equal(executor_write_global(s.executor, "w", w), STATUS_OK);
    return s;
}

static void finish(Steps *s)
{
    executor_destroy(s->executor);
    hal_device_destroy(s->device);
    for (int i = 0; i < 2; i++)
        device_program_destroy(&s->programs[i]);
    arena_destroy(s->arena);
}

/* x and lr are others in every step. */
static Status step(const Steps *s, uint32_t variant, const char *func, int number)
{
    float x[64], lr = 0.01F * (float)(number + 1);
    for (int i = 0; i < 64; i++)
        x[i] = (float)((i + number) * 29 % 64) / 64 - 0.5F;
    executor_select(s->executor, variant);
    assert_int_equal(executor_write_global(s->executor, "x", x), STATUS_OK);
    assert_int_equal(executor_write_global(s->executor, "lr", &lr), STATUS_OK);
    return executor_run(s->executor, func);
}

static void must_step(const Steps *s, uint32_t variant, const char *func, int number)
{
    if (step(s, variant, func, number) != STATUS_OK)
        fail_msg("%s", status_detail());
}

static uint32_t count(const char *log, const char *symbol)
{
    uint32_t n = 0;
    for (const char *at = log; (at = strstr(at, symbol)); at++)
        n++;
    return n;
}

static void read(const Steps *s, float out[65])
{
    assert_int_equal(executor_read_global(s->executor, "w", out), STATUS_OK);
    assert_int_equal(executor_read_global(s->executor, "loss", out + 64), STATUS_OK);
}

/* After every step of the same sequence, with graphs and without. */
static void replays_read_what_has_changed(void **state)
{
    (void)state;
    if (!fixture_has_compiler())
        TEST_SKIP("no C++ compiler: the mock of NVRTC cannot compile");
    Steps graphs = start(false), launches = start(true);
    assert_true(hal_device_records(graphs.device));
    assert_false(hal_device_records(launches.device));
    for (int i = 0; i < N_STEPS; i++)
        for (uint32_t v = 0; v < 2; v++)
        {
            float a[65], b[65], before[65];
            read(&graphs, before);
            must_step(&graphs, v, i % 2 ? "eval" : "train", i);
            must_step(&launches, v, i % 2 ? "eval" : "train", i);
            read(&graphs, a);
            read(&launches, b);
            assert_memory_equal(a, b, sizeof a);
            assert_memory_not_equal(a, before, sizeof a);
        }
    finish(&graphs);
    finish(&launches);
}

/* The check parts the step in two; evaluation and the other length are recorded when they first run. */
static void each_function_of_each_length_is_recorded_once(void **state)
{
    (void)state;
    if (!fixture_has_compiler())
        TEST_SKIP("no C++ compiler: the mock of NVRTC cannot compile");
    static const struct
    {
        uint32_t variant;
        const char *func;
        uint32_t n_recorded, n_replayed;
    } cases[] = {{1, "train", 2, 2}, {1, "train", 0, 2}, {1, "eval", 1, 1}, {0, "train", 2, 2},
                 {1, "train", 0, 2}, {0, "train", 0, 2}, {0, "eval", 1, 1}, {1, "eval", 0, 1}};
    Steps s = start(false);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    {
        fixture_log_start();
        must_step(&s, cases[i].variant, cases[i].func, (int)i);
        const char *log = fixture_log_stop(s.arena);
        assert_int_equal(count(log, "cuStreamBeginCapture_v2 2\n"), cases[i].n_recorded);
        assert_int_equal(count(log, "cuGraphInstantiateWithFlags"), cases[i].n_recorded);
        assert_int_equal(count(log, "cuGraphDestroy"), cases[i].n_recorded);
        assert_int_equal(count(log, "cuGraphLaunch"), cases[i].n_replayed);
        if (!cases[i].n_recorded)
            assert_int_equal(count(log, "cuLaunchKernel") + count(log, "cublasLtMatmul "), 0);
    }
    finish(&s);
}

static void a_workspace_that_moves_makes_graphs_anew(void **state)
{
    (void)state;
    if (!fixture_has_compiler())
        TEST_SKIP("no C++ compiler: the mock of NVRTC cannot compile");
    Steps s = start(false), other = start(true);
    must_step(&s, 1, "train", 0);
    must_step(&other, 1, "train", 0);
    GemmDesc d = gemm_desc_make(64, 64, 8, false, false);
    d.act = GEMM_ACT_relu;
    d.residual = true; /* the product goes through the workspace */
    d.ldr = 64;
    const HalGemm *gemm = NULL;
    if (hal_gemm_create(s.device, &d, &gemm) != STATUS_OK)
        fail_msg("%s", status_detail());
    fixture_log_start();
    must_step(&s, 1, "train", 1);
    must_step(&s, 1, "train", 2);
    assert_int_equal(count(fixture_log_stop(s.arena), "cuStreamBeginCapture_v2"), 2);
    must_step(&other, 1, "train", 1);
    must_step(&other, 1, "train", 2);
    float a[65], b[65];
    read(&s, a);
    read(&other, b);
    assert_memory_equal(a, b, sizeof a);
    finish(&s);
    finish(&other);
}

/* Each is told with what was recorded, and the next run records again. */
static void failures_name_what_was_recorded(void **state)
{
    (void)state;
    if (!fixture_has_compiler())
        TEST_SKIP("no C++ compiler: the mock of NVRTC cannot compile");
    static const struct
    {
        const char *fail;
        Status status;
        int exit_code;
        const char *text;
    } cases[] = {
        {"cuStreamBeginCapture_v2:1:900", STATUS_DEVICE, 3,
         "as a graph: capturing the stream of cuda:0: MOCK_ERROR_900 (900, as the test asked): this driver cannot "
         "record it; --no-graphs runs without"},
        {"cuLaunchKernel:1:719", STATUS_DEVICE, 3, "as a graph: launching kernel 'k"},
        {"cublasLtMatmul:2:13", STATUS_DEVICE, 3, "as a graph: cuBLASLt, running the contraction 1 x 8x8x8, A trans"},
        {"cuStreamEndCapture:1:901", STATUS_DEVICE, 3, "an earlier call could not be recorded"},
        {"cuGraphInstantiateWithFlags:1:2", STATUS_OUT_OF_MEMORY, 5,
         "as a graph: instantiating a graph on cuda:0: MOCK_ERROR_2"},
    };
    Steps s = start(false);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    {
        setenv("MOCK_CUDA_FAIL", cases[i].fail, 1);
        const Status status = step(&s, 1, "train", 0);
        unsetenv("MOCK_CUDA_FAIL");
        fixture_expect(status, cases[i].status, cases[i].exit_code, "recording @train (ops 1 to ");
        fixture_expect(status, cases[i].status, cases[i].exit_code, cases[i].text);
    }
    must_step(&s, 1, "train", 0);
    setenv("MOCK_CUDA_FAIL", "cuGraphLaunch:1:719", 1);
    fixture_expect(step(&s, 1, "train", 1), STATUS_DEVICE, 3, "running @train (ops 1 to ");
    unsetenv("MOCK_CUDA_FAIL");
    must_step(&s, 1, "train", 1);
    finish(&s);
}

/* ---- profiles: launches one by one, in the time of the mock, where a contraction takes 1 ms and a launch 0.25 ms */

static bool is_near(double a, double b)
{
    return a > b - 1e-9 && a < b + 1e-9;
}

static void profiles_have_the_times_of_the_device(void **state)
{
    (void)state;
    if (!fixture_has_compiler())
        TEST_SKIP("no C++ compiler: the mock of NVRTC cannot compile");
    Steps s = start(false);
    uint32_t n_rows, n_gemms = 0, n_launches = 0;
    executor_profile_start(s.executor);
    fixture_log_start();
    must_step(&s, 1, "train", 0);
    must_step(&s, 1, "train", 1);
    const char *log = fixture_log_stop(s.arena);
    assert_int_equal(count(log, "cuStreamBeginCapture"), 0);
    const ExecutorProfileRow *rows = executor_profile_rows(s.executor, &n_rows);
    for (uint32_t i = 0; i < n_rows && rows[i].n_runs; i++)
    {
        const double ms = 1e3 * rows[i].seconds;
        if (strncmp(rows[i].name, "matmul", 6) == 0)
        {
            n_gemms += (uint32_t)rows[i].n_runs;
            assert_true(is_near(ms, (double)rows[i].n_runs));
        }
        else if (rows[i].name[0] == 'k')
            n_launches += (uint32_t)(4 * ms + 0.5);
        else if (strcmp(rows[i].name, "check_finite") == 0)
            assert_true(is_near(ms, 0));
    }
    assert_int_equal(n_gemms, 6);
    assert_int_equal(n_gemms, count(log, "cublasLtMatmul "));
    assert_int_equal(n_launches, count(log, "cuLaunchKernel"));
    finish(&s);
}

/* One op behind another, with no gaps: the host takes no time of the mock's. */
static void traces_have_the_times_of_the_device(void **state)
{
    (void)state;
    if (!fixture_has_compiler())
        TEST_SKIP("no C++ compiler: the mock of NVRTC cannot compile");
    Steps s = start(false);
    uint32_t n_events;
    executor_trace_start(s.executor, 100);
    must_step(&s, 1, "train", 0);
    executor_trace_stop(s.executor);
    const ExecutorEvent *events = executor_trace_events(s.executor, &n_events);
    double total_ms = 0;
    assert_true(n_events > 4);
    for (uint32_t i = 0; i < n_events; i++)
    {
        total_ms += 1e3 * (events[i].end_s - events[i].start_s);
        if (i > 0)
            assert_true(events[i].start_s > events[i - 1].end_s - 1e-6 &&
                        events[i].start_s < events[i - 1].end_s + 1e-6);
    }
    assert_true(total_ms > 3 && total_ms < 10);
    fixture_log_start();
    must_step(&s, 1, "train", 1);
    assert_int_equal(count(fixture_log_stop(s.arena), "cuGraphLaunch"), 2); /* it is over */
    finish(&s);
}

/* Ops by name and place where they are launched one by one, else the function. */
static void ranges_are_named_by_ops(void **state)
{
    (void)state;
    if (!fixture_has_compiler())
        TEST_SKIP("no C++ compiler: the mock of NVRTC cannot compile");
    Steps graphs = start(false), launches = start(true);
    fixture_log_start();
    must_step(&launches, 1, "train", 0);
    const char *log = fixture_log_stop(launches.arena);
    const char *train = strstr(log, "nvtxRangePushA train\n"), *matmul = strstr(log, "nvtxRangePushA matmul 8x8x8\n");
    assert_true(train && matmul && train < matmul);
    assert_non_null(strstr(log, "nvtxRangePushA check_finite\n"));
    assert_int_equal(count(log, "nvtxRangePushA"), count(log, "nvtxRangePop"));
    must_step(&graphs, 1, "train", 0);
    fixture_log_start();
    must_step(&graphs, 1, "train", 1);
    log = fixture_log_stop(graphs.arena);
    assert_non_null(strstr(log, "nvtxRangePushA train\n"));
    assert_non_null(strstr(log, "nvtxRangePushA train, ops 1 to "));
    assert_null(strstr(log, "nvtxRangePushA matmul"));
    assert_int_equal(count(log, "nvtxRangePushA"), count(log, "nvtxRangePop"));
    finish(&graphs);
    finish(&launches);
}

static void without_nvtx_nothing_is_named(void **state)
{
    (void)state;
    static const char *const links[] = {"libcuda.so.1", "libcublasLt.so.13"};
    fixture_mocks_choose(links, 2);
    HalDevice *device = fixture_device();
    const bool names = hal_device_names_ranges(device);
    hal_device_destroy(device);
    fixture_mocks_restore();
    assert_false(names);
    device = fixture_device();
    assert_true(hal_device_names_ranges(device));
    hal_device_destroy(device);
}

/* ---- updates of params: one launch for those that are of one kind and do not wait for each other */

#define UPDATE(P, N, UNIT, OLD, GRADIENT, LR, T)                                                                       \
    "  %" T "0 = broadcast " LR " {dims=[]} : f32[" N "] " UNIT " opt\n"                                               \
    "  %" T "1 = mul " GRADIENT ", %" T "0 : f32[" N "] " UNIT " opt\n"                                                \
    "  %" T "2 = sub " OLD ", %" T "1 : f32[" N "] " UNIT " opt\n"                                                     \
    "  set %" T "2 {global=\"" P "\"} " UNIT " opt\n"

static const char updates[] = "module \"updates\"\n"
                              "global param \"a\" : f32[8x8]\n"
                              "global param \"b\" : f32[3000]\n"
                              "global param \"c\" : f32[132]\n"
                              "global param \"d\" : f32[8x8]\n"
                              "global input \"ga\" : f32[8x8]\n"
                              "global input \"gb\" : f32[3000]\n"
                              "global input \"gc\" : f32[132]\n"
                              "global input \"lr\" : f32[]\n"
                              "func step @train {\n"
                              "  %0 = get {global=\"a\"} : f32[8x8]\n"
                              "  %1 = get {global=\"b\"} : f32[3000]\n"
                              "  %2 = get {global=\"c\"} : f32[132]\n"
                              "  %3 = get {global=\"d\"} : f32[8x8]\n"
                              "  %4 = get {global=\"ga\"} : f32[8x8]\n"
                              "  %5 = get {global=\"gb\"} : f32[3000]\n"
                              "  %6 = get {global=\"gc\"} : f32[132]\n"
                              "  %7 = get {global=\"lr\"} : f32[]\n" /**/
    UPDATE("a", "8x8", "u1", "%0", "%4", "%7", "1")                  /**/
    UPDATE("d", "8x8", "u2", "%3", "%12", "%7", "2")                 /**/
    UPDATE("b", "3000", "u1", "%1", "%5", "%7", "3")                 /**/
    UPDATE("c", "132", "u1", "%2", "%6", "%7", "4") "}\n";

typedef struct
{
    const char *param, *gradient;
    uint32_t n;
} Updated;

static const Updated updated[] = {{"a", "ga", 64}, {"b", "gb", 3000}, {"c", "gc", 132}, {"d", NULL, 64}};

static Status start_updates(Steps *s, const char *fail)
{
    const IrModule *m;
    HalKernelFile file;
    *s = (Steps){.arena = arena_create(), .device = fixture_device()};
    s->programs[0] = device_program_build(s->arena, fixture_module(s->arena, updates), "fuse,plan_memory");
    m = s->programs[0].m;
    if (hal_kernels_build(s->arena, "cuda", &m, 1, 1, &file) != STATUS_OK)
        fail_msg("%s", status_detail());
    const ExecutorModule module = {.m = m, .kernels_path = file.path};
    HalBuffer *buffer; /* so that the mock counts from here on */
    assert_int_equal(hal_buffer_create(s->device, 1, &buffer), STATUS_OK);
    hal_buffer_destroy(buffer);
    if (fail)
        setenv("MOCK_CUDA_FAIL", fail, 1);
    const Status status = executor_create(s->device, &module, 1, NULL, NULL, &s->executor);
    unsetenv("MOCK_CUDA_FAIL");
    return status;
}

static void finish_updates(Steps *s)
{
    executor_destroy(s->executor);
    hal_device_destroy(s->device);
    device_program_destroy(&s->programs[0]);
    arena_destroy(s->arena);
}

static float start_value(uint32_t k, uint32_t i)
{
    return (float)((i * 37 + k) % 101) / 101 - 0.5F;
}

static void write_updated(const Steps *s, float lr)
{
    float values[3000];
    for (uint32_t k = 0; k < 4; k++)
        for (uint32_t i = 0, g = 0; g < (updated[k].gradient ? 2u : 1u); g++)
        {
            for (i = 0; i < updated[k].n; i++)
                values[i] = start_value(k + 10 * g, i);
            assert_int_equal(executor_write_global(s->executor, g ? updated[k].gradient : updated[k].param, values),
                             STATUS_OK);
        }
    assert_int_equal(executor_write_global(s->executor, "lr", &lr), STATUS_OK);
}

/* d is updated by the new a, in a launch of its own. */
static void check_updated(const Steps *s, float lr)
{
    float values[3000];
    for (uint32_t k = 0; k < 4; k++)
    {
        assert_int_equal(executor_read_global(s->executor, updated[k].param, values), STATUS_OK);
        for (uint32_t i = 0; i < updated[k].n; i++)
        {
            const float new_a = start_value(0, i) - lr * start_value(10, i);
            const float gradient = updated[k].gradient ? start_value(k + 10, i) : new_a;
            if (fabsf(values[i] - (start_value(k, i) - lr * gradient)) > 1e-6F)
                fail_msg("%s[%u] is %f", updated[k].param, i, (double)values[i]);
        }
    }
}

static void updates_of_one_kind_are_one_launch(void **state)
{
    (void)state;
    if (!fixture_has_compiler())
        TEST_SKIP("no C++ compiler: the mock of NVRTC cannot compile");
    Steps s;
    if (start_updates(&s, NULL) != STATUS_OK)
        fail_msg("%s", status_detail());
    for (int i = 0; i < 2; i++) /* recorded, then replayed */
    {
        write_updated(&s, 0.25F);
        fixture_log_start();
        assert_int_equal(executor_run(s.executor, "train"), STATUS_OK);
        const char *log = fixture_log_stop(s.arena);
        assert_int_equal(count(log, "cuLaunchKernel"), i ? 0 : 2);
        assert_int_equal(count(log, " grid 5 1 1 "), i ? 0 : 1); /* of a, b and c */
        check_updated(&s, 0.25F);
    }
    executor_profile_start(s.executor);
    assert_int_equal(executor_run(s.executor, "train"), STATUS_OK);
    uint32_t n_rows, n_found = 0;
    const ExecutorProfileRow *rows = executor_profile_rows(s.executor, &n_rows);
    for (uint32_t i = 0; i < n_rows; i++)
        if (strstr(rows[i].name, " and 2 more"))
            n_found += rows[i].n_runs == 1 && is_near(rows[i].bytes, 4.0 * (3 * (64 + 3000 + 132) + 3));
    assert_int_equal(n_found, 1);
    setenv("MOCK_CUDA_FAIL", "cuLaunchKernel:2:719", 1);
    fixture_expect(executor_run(s.executor, "train"), STATUS_DEVICE, 3, " for 3 calls (5 blocks of 256 threads)");
    unsetenv("MOCK_CUDA_FAIL");
    finish_updates(&s);
}

static void no_memory_for_what_a_launch_reads_is_told(void **state)
{
    (void)state;
    if (!fixture_has_compiler())
        TEST_SKIP("no C++ compiler: the mock of NVRTC cannot compile");
    Status status = STATUS_OUT_OF_MEMORY;
    uint32_t n = 1;
    for (; status != STATUS_OK && n < 100; n++)
    {
        Steps s;
        char fail[64];
        snprintf(fail, sizeof fail, "cuMemAlloc_v2:%u:2", n);
        status = start_updates(&s, fail);
        if (status != STATUS_OK)
            fixture_expect(status, STATUS_OUT_OF_MEMORY, 5, "taking ");
        finish_updates(&s);
    }
    assert_true(n > 3); /* inputs and outputs, the params, the table */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replays_read_what_has_changed),
        cmocka_unit_test(each_function_of_each_length_is_recorded_once),
        cmocka_unit_test(a_workspace_that_moves_makes_graphs_anew),
        cmocka_unit_test(failures_name_what_was_recorded),
        cmocka_unit_test(profiles_have_the_times_of_the_device),
        cmocka_unit_test(traces_have_the_times_of_the_device),
        cmocka_unit_test(ranges_are_named_by_ops),
        cmocka_unit_test(without_nvtx_nothing_is_named),
        cmocka_unit_test(updates_of_one_kind_are_one_launch),
        cmocka_unit_test(no_memory_for_what_a_launch_reads_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
