/* Conformance of every back end: each case through the passes, the code generator and the executor, against the
 * interpreter on what went in; with one, two and three threads to the same bits. A back end that does not compute
 * must still accept everything.
 *
 * PTC_RANDOM_SEEDS: number of random modules (20); PTC_TEST_SEED: the first seed (1). */
#include "cases.h"
#include "program.h"
#include "random_module.h"

#include "harness/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum
{
    MAX_REPORTS = 20
};

/* A list of cases side by side in one module; globals and functions of case i begin with "c<i>_". */
typedef struct
{
    const char *name;
    Arena *arena;
    DeviceCases cases;
    IrModule *m;
    DeviceProgram program;
    double **values; /* by global of m: inputs, and what the interpreter gives */
} Suite;

typedef struct
{
    const char *backend;
    bool computes;
    const Suite *suite;
} Job;

/* Straight to kernels, and with everything that may change the graph before it. */
static const char *const short_passes = "decompose,dce,fuse,plan_memory";
static const char *const long_passes =
    "canonicalise,cse,dce,decompose,canonicalise,cse,dce,epilogue,dce,recompute,dce,fuse,plan_memory";

static uint32_t setting(const char *name, uint32_t absent)
{
    const char *text = getenv(name);
    return text ? (uint32_t)strtoul(text, NULL, 10) : absent;
}

static uint32_t case_of(const IrModule *m, IrGlobal global)
{
    return (uint32_t)strtoul(ir_global(m, global)->name + 1, NULL, 10);
}

static void fill_input(const DeviceCase *c, const IrModule *m, IrGlobal global, double *out_values)
{
    const char *name = strchr(ir_global(m, global)->name, '_') + 1;
    if (c->has_example)
        example_values(&c->example, (uint32_t)strtoul(name + 2, NULL, 10), c->seed, out_values);
    else
        random_module_values(c->m, ir_global_find(c->m, name), c->seed, out_values);
}

static void run_interpreter(Suite *s)
{
    InterpEnv *env = ir_interp_env_create();
    ir_interp_env_round_bf16(env, true);
    s->values = ARENA_ARRAY(s->arena, double *, s->m->globals.len);
    for (IrGlobal g = 1; g < s->m->globals.len; g++)
    {
        s->values[g] = ARENA_ARRAY(s->arena, double, ir_type_n_elems(&ir_global(s->m, g)->type));
        if (ir_global(s->m, g)->kind == IR_GLOBAL_INPUT)
            fill_input(&s->cases.data[case_of(s->m, g)], s->m, g, s->values[g]);
        ir_interp_bind(env, ir_global(s->m, g)->name, s->values[g]);
    }
    IR_FOR_FUNCS(s->m, func)
    assert_int_equal(ir_interp_run(env, s->m, func), STATUS_OK);
    ir_interp_env_destroy(env);
}

static void suite_build(Suite *s, const char *passes)
{
    s->m = ir_module_create(s->arena, s->name);
    for (uint32_t i = 0; i < s->cases.len; i++)
        device_module_append(s->m, s->cases.data[i].m, arena_printf(s->arena, "c%u_", i));
    s->program = device_program_build(s->arena, s->m, passes);
    run_interpreter(s);
}

static Executor *run_device(const Suite *s, HalDevice *device)
{
    Executor *executor = device_executor(device, &s->program);
    for (IrGlobal g = 1; g < s->m->globals.len; g++)
        if (ir_global(s->m, g)->kind == IR_GLOBAL_INPUT)
            device_write_global(executor, s->m, g, s->values[g]);
    IR_FOR_FUNCS(s->m, func)
    if (executor_run(executor, ir_func(s->m, func)->name) != STATUS_OK)
        fail_msg("%s", status_detail());
    return executor;
}

/* NULL, or what is wrong. */
static const char *compare(Arena *arena, const DeviceCase *c, const double *want, const double *got, int64_t n)
{
    double largest = 0;
    for (int64_t i = 0; i < n; i++)
        if (isfinite(want[i]))
            largest = fmax(largest, fabs(want[i]));
    for (int64_t i = 0; i < n; i++)
    {
        double limit = c->tolerance + c->relative * fabs(want[i]) + c->of_largest * largest;
        if (got[i] == want[i] || (isnan(got[i]) && isnan(want[i])) || fabs(got[i] - want[i]) <= limit)
            continue;
        return arena_printf(arena, "element %lld is %.9g, expected %.9g (within %.2g)", (long long)i, got[i], want[i],
                            limit);
    }
    return NULL;
}

/* slack: a factor on the absolute tolerances. */
static uint32_t compare_all(const Suite *s, Executor *executor, double slack)
{
    uint32_t n_wrong = 0;
    for (IrGlobal g = 1; g < s->m->globals.len; g++)
    {
        if (ir_global(s->m, g)->kind == IR_GLOBAL_INPUT)
            continue;
        Arena *arena = arena_create();
        DeviceCase c = s->cases.data[case_of(s->m, g)];
        c.tolerance *= slack;
        int64_t n = ir_type_n_elems(&ir_global(s->m, g)->type);
        double *got = ARENA_ARRAY(arena, double, n);
        device_read_global(executor, s->m, g, got);
        const char *why = compare(arena, &c, s->values[g], got, n);
        if (why && n_wrong++ < MAX_REPORTS)
            printf("%s, %s: %s\n", c.label, ir_global(s->m, g)->name, why);
        arena_destroy(arena);
    }
    return n_wrong;
}

static uint32_t compare_executors(const Suite *s, Executor *a, Executor *b)
{
    uint32_t n_wrong = 0;
    for (IrGlobal g = 1; g < s->m->globals.len; g++)
    {
        if (!executor_has_global(a, ir_global(s->m, g)->name))
            continue;
        Arena *arena = arena_create();
        size_t size_bytes = (size_t)ir_type_size_bytes(&ir_global(s->m, g)->type);
        void *x = arena_alloc(arena, size_bytes), *y = arena_alloc(arena, size_bytes);
        assert_int_equal(executor_read_global(a, ir_global(s->m, g)->name, x), STATUS_OK);
        assert_int_equal(executor_read_global(b, ir_global(s->m, g)->name, y), STATUS_OK);
        if (memcmp(x, y, size_bytes) != 0 && n_wrong++ < MAX_REPORTS)
            printf("%s, %s: other bits with more threads\n", s->cases.data[case_of(s->m, g)].label,
                   ir_global(s->m, g)->name);
        arena_destroy(arena);
    }
    return n_wrong;
}

static void test_backend(void **state)
{
    const Job *job = *state;
    HalDevice *device = device_open(job->backend, 1);
    assert_int_equal(hal_device_computes(device), job->computes);
    Executor *executor = run_device(job->suite, device);
    /* a GPU adds in another order, which shows where what is added cancels */
    const double slack = hal_device_uses_host_memory(device) ? 1 : 1.5;
    uint32_t n_wrong = job->computes ? compare_all(job->suite, executor, slack) : 0;
    for (int n_threads = 2; job->computes && n_threads <= 3; n_threads++)
    {
        HalDevice *other_device = device_open(job->backend, n_threads);
        Executor *other = run_device(job->suite, other_device);
        n_wrong += compare_executors(job->suite, executor, other);
        executor_destroy(other);
        hal_device_destroy(other_device);
    }
    executor_destroy(executor);
    hal_device_destroy(device);
    assert_int_equal(n_wrong, 0);
}

/* The comparison itself sees a wrong element. */
static void test_comparison_can_fail(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    DeviceCase c = {.tolerance = 1e-6, .of_largest = 1e-5};
    assert_null(compare(arena, &c, (double[]){1, 2}, (double[]){1, 2 + 1e-5}, 2));
    assert_non_null(compare(arena, &c, (double[]){1, 2}, (double[]){1, 2 + 1e-4}, 2));
    assert_non_null(compare(arena, &c, (double[]){1, 2}, (double[]){1, NAN}, 2));
    arena_destroy(arena);
}

int main(void)
{
    uint32_t first_seed = setting("PTC_TEST_SEED", 1), n_seeds = setting("PTC_RANDOM_SEEDS", 20);
    printf("random modules: seeds %u..%u\n", first_seed, first_seed + n_seeds - 1);
    Suite suites[] = {{.name = "examples"},
                      {.name = "examples, optimised"},
                      {.name = "ragged shapes"},
                      {.name = "attention"},
                      {.name = "random modules"},
                      {.name = "random modules, optimised"},
                      {.name = "gradients of random modules, optimised"}};
    enum
    {
        N_SUITES = sizeof suites / sizeof *suites
    };
    for (uint32_t i = 0; i < N_SUITES; i++)
        suites[i].arena = arena_create();
    for (uint32_t i = 0; i < 2; i++)
        device_cases_of_examples(suites[i].arena, &suites[i].cases);
    device_cases_of_shapes(suites[2].arena, &suites[2].cases);
    device_cases_of_attention(suites[3].arena, &suites[3].cases);
    for (uint32_t i = 4; i < 6; i++)
        device_cases_random(suites[i].arena, &suites[i].cases, first_seed, n_seeds);
    device_cases_gradients(suites[6].arena, &suites[6].cases, first_seed, n_seeds);
    for (uint32_t i = 0; i < N_SUITES; i++)
        suite_build(&suites[i], i == 1 || i >= 5 ? long_passes : short_passes);

    static const struct
    {
        const char *name;
        bool computes;
    } backends[] = {
#define BACKEND(name, computes, memory, summary) {#name, computes},
#include "runtime/backends.def"
#undef BACKEND
    };
    enum
    {
        N_BACKENDS = sizeof backends / sizeof *backends
    };
    Job jobs[N_BACKENDS * N_SUITES];
    struct CMUnitTest tests[N_BACKENDS * N_SUITES + 1];
    uint32_t n = 0;
    for (uint32_t d = 0; d < N_BACKENDS; d++)
        for (uint32_t i = 0; i < N_SUITES; i++, n++)
        {
            jobs[n] = (Job){backends[d].name, backends[d].computes, &suites[i]};
            tests[n] = (struct CMUnitTest){.name = arena_printf(suites[i].arena, "%s on %s (%u cases)", suites[i].name,
                                                                backends[d].name, suites[i].cases.len),
                                           .test_func = test_backend,
                                           .initial_state = &jobs[n]};
        }
    tests[n] = (struct CMUnitTest)cmocka_unit_test(test_comparison_can_fail);
    int n_failed = cmocka_run_group_tests_name("device", tests, NULL, NULL);
    for (uint32_t i = 0; i < N_SUITES; i++)
    {
        device_program_destroy(&suites[i].program);
        arena_destroy(suites[i].arena);
    }
    return n_failed;
}
