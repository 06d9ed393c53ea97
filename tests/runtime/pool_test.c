/* The thread pool: every task once, writes visible, late and sleeping workers, misuse. */
#include "runtime/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum
{
    MAX_THREADS = 8,
    MAX_TASKS = 1000
};

typedef struct
{
    int n_threads;
    int counts[MAX_TASKS];         /* plain: one task, one writer; read by the caller afterwards */
    _Atomic int busy[MAX_THREADS]; /* a worker index is never in two tasks at once */
    _Atomic int n_errors;
} Ctx;

static void count_task(void *arg, int64_t task, int worker)
{
    Ctx *ctx = arg;
    if (worker < 0 || worker >= ctx->n_threads || atomic_fetch_add(&ctx->busy[worker], 1) != 0)
        atomic_fetch_add(&ctx->n_errors, 1);
    ctx->counts[task]++;
    atomic_fetch_sub(&ctx->busy[worker], 1);
}

static void each_task_runs_once(void **state)
{
    (void)state;
    static const int64_t task_counts[] = {0, 1, 2, 3, 7, 64, MAX_TASKS};
    for (int n_threads = 1; n_threads <= MAX_THREADS; n_threads++)
    {
        Pool *pool = NULL;
        assert_int_equal(pool_create(n_threads, n_threads % 2 == 0, &pool), STATUS_OK);
        assert_int_equal(pool_n_threads(pool), n_threads);
        Ctx ctx = {.n_threads = n_threads};
        int expected[MAX_TASKS] = {0};
        for (int round = 0; round < 200; round++)
        {
            int64_t n_tasks = task_counts[(size_t)round % (sizeof task_counts / sizeof *task_counts)];
            pool_run(pool, n_tasks, count_task, &ctx);
            for (int64_t i = 0; i < n_tasks; i++)
                expected[i]++;
            if (round % 50 == 0) /* let the workers fall asleep */
                nanosleep(&(struct timespec){.tv_nsec = 500 * 1000}, NULL);
        }
        assert_memory_equal(ctx.counts, expected, sizeof expected);
        assert_int_equal(ctx.n_errors, 0);
        pool_destroy(pool);
    }
}

static void slow_task(void *arg, int64_t task, int worker)
{
    int *out = arg;
    (void)worker;
    nanosleep(&(struct timespec){.tv_nsec = 300 * 1000}, NULL);
    out[task] = (int)task + 1;
}

static void caller_sleeps_until_slow_tasks_end(void **state)
{
    (void)state;
    Pool *pool = NULL;
    assert_int_equal(pool_create(4, false, &pool), STATUS_OK);
    for (int round = 0; round < 20; round++)
    {
        int out[5] = {0};
        pool_run(pool, 5, slow_task, out);
        for (int i = 0; i < 5; i++)
            assert_int_equal(out[i], i + 1);
    }
    pool_destroy(pool);
}

static void create_and_destroy_idle(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++)
    {
        Pool *pool = NULL;
        assert_int_equal(pool_create(3, false, &pool), STATUS_OK);
        pool_destroy(pool);
    }
    Pool *all = NULL;
    assert_int_equal(pool_create(0, false, &all), STATUS_OK);
    assert_true(pool_n_threads(all) >= 1);
    pool_destroy(all);
    pool_destroy(NULL);
}

static void bad_thread_counts_are_refused(void **state)
{
    (void)state;
    Pool *pool = NULL;
    assert_int_equal(pool_create(-1, false, &pool), STATUS_USAGE);
    assert_int_equal(pool_create(POOL_MAX_THREADS + 1, false, &pool), STATUS_USAGE);
    assert_null(pool);
}

static void nested_task(void *arg, int64_t task, int worker)
{
    (void)task;
    (void)worker;
    int dummy[1];
    pool_run(arg, 1, slow_task, dummy);
}

static void nested_run_is_a_bug(void **state)
{
    (void)state;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
    {
        if (!freopen("/dev/null", "w", stderr))
            _exit(1);
        Pool *pool = NULL;
        if (pool_create(1, false, &pool) == STATUS_OK)
            pool_run(pool, 1, nested_task, pool);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nested_run_is_a_bug), /* first: it forks, best while there is one thread */
        cmocka_unit_test(each_task_runs_once),     cmocka_unit_test(caller_sleeps_until_slow_tasks_end),
        cmocka_unit_test(create_and_destroy_idle), cmocka_unit_test(bad_thread_counts_are_refused),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
