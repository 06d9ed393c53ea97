/* A whole training program on every computing back end: three steps against the interpreter on the program before
 * decompose, the same bits for any number of threads, and no allocation while it steps.
 *
 * malloc and its relatives are wrapped at link time (see CMakeLists.txt); what the contraction library allocates inside
 * itself is counted too where it is linked statically. */
#include "block.h"
#include "program.h"

#include "harness/test.h"
#include "passes/manager.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum
{
    N_STEPS = 3
};

static const uint64_t seed = 20260131;
static const BlockSizes sizes = {.batch = 5,
                                 .tokens = 17,
                                 .patch = 7,
                                 .width = 24,
                                 .heads = 3,
                                 .hidden = 33,
                                 .classes = 4,
                                 .n_layers = 2,
                                 .dropout = 0.125};

/* ---- counting allocations */

static atomic_uint n_allocations;

void *__real_malloc(size_t n_bytes);
void *__real_calloc(size_t n, size_t n_bytes);
void *__real_realloc(void *old, size_t n_bytes);
void *__real_aligned_alloc(size_t alignment, size_t n_bytes);
void *__wrap_malloc(size_t n_bytes);
void *__wrap_calloc(size_t n, size_t n_bytes);
void *__wrap_realloc(void *old, size_t n_bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t n_bytes);

void *__wrap_malloc(size_t n_bytes)
{
    n_allocations++;
    return __real_malloc(n_bytes);
}

void *__wrap_calloc(size_t n, size_t n_bytes)
{
    n_allocations++;
    return __real_calloc(n, n_bytes);
}

void *__wrap_realloc(void *old, size_t n_bytes)
{
    n_allocations++;
    return __real_realloc(old, n_bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t n_bytes)
{
    n_allocations++;
    return __real_aligned_alloc(alignment, n_bytes);
}

/* ---- training */

static Executor *start(HalDevice *device, const DeviceProgram *program, const InterpEnv *env)
{
    Executor *executor = device_executor(device, program);
    for (IrGlobal g = 1; g < program->m->globals.len; g++)
        device_write_global(executor, program->m, g, ir_interp_find(env, ir_global(program->m, g)->name));
    return executor;
}

static void run_step(Executor *executor, const IrModule *m, InterpEnv *env, int step)
{
    block_set_inputs(env, m, seed, step);
    for (IrGlobal g = 1; g < m->globals.len; g++)
        if (ir_global(m, g)->kind == IR_GLOBAL_INPUT)
            device_write_global(executor, m, g, ir_interp_find(env, ir_global(m, g)->name));
    unsigned before = n_allocations;
    Status status = executor_run(executor, "train");
    unsigned after = n_allocations;
    assert_int_equal(status, STATUS_OK);
    if (step > 1)
        assert_int_equal(after, before);
}

/* AdamW's first steps are nearly sign(gradient): where a gradient is about 0, rounding may move a param by up to twice
 * the learning rate. So params are compared on average, the loss and the states element by element. */
static double mean_difference(const double *a, const double *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += fabs(a[i] - b[i]);
    return sum / (double)n;
}

static void compare(Executor *executor, const IrModule *m, const InterpEnv *env, int step)
{
    Arena *arena = arena_create();
    for (IrGlobal g = 1; g < m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(m, g);
        int64_t n = ir_type_n_elems(&global->type);
        double *got = ARENA_ARRAY(arena, double, n), largest = 0, worst = 0;
        const double *want = ir_interp_find(env, global->name);
        device_read_global(executor, m, g, got);
        for (int64_t i = 0; i < n; i++)
        {
            largest = fmax(largest, fabs(want[i]));
            worst = fmax(worst, isfinite(got[i]) ? fabs(got[i] - want[i]) : INFINITY);
        }
        double limit = 1e-6 + 5e-4 * largest;
        bool ok =
            global->kind == IR_GLOBAL_PARAM ? mean_difference(got, want, n) <= 2e-5 * (largest + 1) : worst <= limit;
        if (!ok)
            fail_msg("step %d: %s is off by up to %g, %g on average (largest %g)", step, global->name, worst,
                     mean_difference(got, want, n), largest);
    }
    arena_destroy(arena);
}

static void train(const char *backend, int n_threads, const IrModule *plain, const DeviceProgram *program,
                  bool computes, double *out_losses)
{
    HalDevice *device = device_open(backend, n_threads);
    InterpEnv *env = ir_interp_env_create();
    block_bind(env, plain, seed);
    block_bind(env, program->m, seed);
    Executor *executor = start(device, program, env);
    for (int step = 1; step <= N_STEPS; step++)
    {
        run_step(executor, program->m, env, step);
        assert_int_equal(executor_read_scalar(executor, "loss", &out_losses[step - 1]), STATUS_OK);
        if (!computes || n_threads > 1)
            continue;
        assert_int_equal(ir_interp_run(env, plain, ir_func_find(plain, "train")), STATUS_OK);
        compare(executor, program->m, env, step);
        printf("step %d: loss %.7f, interpreter %.7f\n", step, out_losses[step - 1], *ir_interp_find(env, "loss"));
    }
    ir_interp_env_destroy(env);
    executor_destroy(executor);
    hal_device_destroy(device);
}

typedef struct
{
    const char *name;
    bool computes;
} Backend;

static const Backend backends[] = {
#define BACKEND(name, computes, memory, summary) {#name, computes},
#include "runtime/backends.def"
#undef BACKEND
};

static struct
{
    Arena *arena, *plain_arena;
    IrModule *plain;
    DeviceProgram program;
} block;

static int build_block(void **state)
{
    (void)state;
    block.arena = arena_create();
    block.plain_arena = arena_create();
    Diag *diag = diag_create(block.arena);
    IrModule *source = block_module(block.arena, &sizes);
    block.plain = ir_module_clone(block.plain_arena, source);
    printf("seed %llu\n", (unsigned long long)seed);
    assert_int_equal(pass_manager_run(&block.plain_arena, &block.plain, diag, "autodiff,optimizer", &(PassOptions){0}),
                     STATUS_OK);
    block.program = device_program_build(block.arena, source, pass_pipeline_default);
    return 0;
}

static int destroy_block(void **state)
{
    (void)state;
    device_program_destroy(&block.program);
    arena_destroy(block.plain_arena);
    arena_destroy(block.arena);
    return 0;
}

static void test_training(void **state)
{
    const Backend *backend = *state;
    double one[N_STEPS], losses[N_STEPS];
    train(backend->name, 1, block.plain, &block.program, backend->computes, one);
    for (int n_threads = 2; n_threads <= 3; n_threads++)
    {
        train(backend->name, n_threads, block.plain, &block.program, backend->computes, losses);
        assert_memory_equal(losses, one, sizeof one);
    }
}

static void test_allocations_are_seen(void **state)
{
    (void)state;
    unsigned before = n_allocations;
    Arena *arena = arena_create(); /* in another file: the wrapper is linked in everywhere */
    arena_destroy(arena);
    assert_true(n_allocations > before);
}

int main(void)
{
    enum
    {
        N_BACKENDS = sizeof backends / sizeof *backends
    };
    struct CMUnitTest tests[N_BACKENDS + 1] = {cmocka_unit_test(test_allocations_are_seen)};
    for (uint32_t i = 0; i < N_BACKENDS; i++)
        tests[i + 1] = (struct CMUnitTest){
            .name = backends[i].name, .test_func = test_training, .initial_state = (void *)(uintptr_t)&backends[i]};
    return cmocka_run_group_tests(tests, build_block, destroy_block);
}
