/* The thread pool of pool.h.
 *
 * One 64-bit word holds the state: epoch (high half), an "open" bit, and how many workers are inside.
 * pool_run writes the job, opens a new epoch, works along, closes it when the index space is used up and
 * waits until nobody is inside. A worker joins only an open epoch, so a worker that wakes late (the core
 * was taken) is not waited for: it finds the epoch closed and goes back to waiting. The job's plain fields
 * change only while the epoch is closed and nobody is inside. */
#include "runtime/pool.h"

#include "base/bug.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum
{
    CACHE_LINE_BYTES = 64,
    SPIN_NS = 50 * 1000,
    SPIN_OVERSUBSCRIBED_NS = 2 * 1000
};
#define STATE_OPEN   (UINT64_C(1) << 31)
#define STATE_INSIDE (STATE_OPEN - 1)

typedef struct
{
    Pool *pool;
    pthread_t thread;
    int index;
} Worker;

struct Pool
{
    _Alignas(CACHE_LINE_BYTES) _Atomic uint64_t state;
    _Atomic uint32_t wake_word; /* the epoch again: what sleeping workers wait on */
    _Atomic uint32_t n_asleep;
    _Atomic uint32_t caller_asleep;
    _Atomic bool stop;
    PoolFn *fn;
    void *ctx;
    int64_t n_tasks;
    _Alignas(CACHE_LINE_BYTES) _Atomic int64_t next_task;
    _Alignas(CACHE_LINE_BYTES) int n_threads;
    int64_t spin_ns;
    Worker *workers; /* n_threads - 1 */
};

static _Thread_local bool inside_task;

static void futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void work(Pool *pool, int worker)
{
    PoolFn *fn = pool->fn;
    void *ctx = pool->ctx;
    int64_t n_tasks = pool->n_tasks;
    inside_task = true;
    for (;;)
    {
        int64_t task = atomic_fetch_add_explicit(&pool->next_task, 1, memory_order_relaxed);
        if (task >= n_tasks)
            break;
        fn(ctx, task, worker);
    }
    inside_task = false;
}

/* Joins the open epoch unless it is the one this worker has already served. */
static bool epoch_enter(Pool *pool, uint32_t *last_epoch)
{
    uint64_t state = atomic_load_explicit(&pool->state, memory_order_relaxed);
    while ((state & STATE_OPEN) != 0 && (uint32_t)(state >> 32) != *last_epoch)
    {
        if (atomic_compare_exchange_weak_explicit(&pool->state, &state, state + 1, memory_order_acquire,
                                                  memory_order_relaxed))
        {
            *last_epoch = (uint32_t)(state >> 32);
            return true;
        }
    }
    return false;
}

static void epoch_leave(Pool *pool)
{
    uint64_t before = atomic_fetch_sub(&pool->state, 1);
    bool last = (before & STATE_INSIDE) == 1 && (before & STATE_OPEN) == 0;
    if (last && atomic_exchange(&pool->caller_asleep, 0) == 1)
        futex_wake(&pool->caller_asleep, 1);
}

/* Waits until there may be a new epoch or the pool stops. */
static bool worker_wait(Pool *pool, uint32_t *last_epoch)
{
    int64_t deadline = 0;
    for (unsigned i = 0;; i++)
    {
        uint32_t word = atomic_load(&pool->wake_word);
        if (epoch_enter(pool, last_epoch))
            return true;
        if (atomic_load_explicit(&pool->stop, memory_order_acquire))
            return false;
        cpu_relax();
        if (i % 32 != 0)
            continue;
        int64_t now = now_ns();
        if (deadline == 0)
            deadline = now + pool->spin_ns;
        if (now < deadline)
            continue;
        atomic_fetch_add(&pool->n_asleep, 1);
        futex_wait(&pool->wake_word, word); /* returns at once if an epoch began since `word` was read */
        atomic_fetch_sub(&pool->n_asleep, 1);
        deadline = 0;
    }
}

static void *worker_main(void *arg)
{
    Worker *worker = arg;
    uint32_t last_epoch = 0;
    while (worker_wait(worker->pool, &last_epoch))
    {
        work(worker->pool, worker->index);
        epoch_leave(worker->pool);
    }
    return NULL;
}

static bool all_left(Pool *pool)
{
    return (atomic_load(&pool->state) & STATE_INSIDE) == 0;
}

static void caller_wait(Pool *pool)
{
    int64_t deadline = 0;
    for (unsigned i = 1; !all_left(pool); i++)
    {
        cpu_relax();
        if (i % 32 != 0)
            continue;
        int64_t now = now_ns();
        if (deadline == 0)
            deadline = now + pool->spin_ns;
        if (now < deadline)
            continue;
        atomic_store(&pool->caller_asleep, 1);
        if (!all_left(pool))
            futex_wait(&pool->caller_asleep, 1);
        atomic_store(&pool->caller_asleep, 0);
    }
}

static void wake_workers(Pool *pool, int n)
{
    atomic_fetch_add(&pool->wake_word, 1);
    if (atomic_load(&pool->n_asleep) > 0)
        futex_wake(&pool->wake_word, n);
}

void pool_run(Pool *pool, int64_t n_tasks, PoolFn *fn, void *ctx)
{
    ENSURE(!inside_task); /* the outer run would wait for a worker that waits for it */
    pool->fn = fn;
    pool->ctx = ctx;
    pool->n_tasks = n_tasks;
    atomic_store_explicit(&pool->next_task, 0, memory_order_relaxed);
    int n_helpers = n_tasks < pool->n_threads ? (int)n_tasks - 1 : pool->n_threads - 1;
    if (n_helpers <= 0)
    {
        work(pool, 0);
        return;
    }
    uint64_t epoch = (atomic_load_explicit(&pool->state, memory_order_relaxed) >> 32) + 1;
    epoch = (uint32_t)epoch == 0 ? 1 : epoch; /* 0 is "none served yet" */
    atomic_store(&pool->state, epoch << 32 | STATE_OPEN);
    wake_workers(pool, n_helpers);
    work(pool, 0);
    atomic_fetch_and(&pool->state, ~STATE_OPEN);
    caller_wait(pool);
}

int pool_n_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return (int)sysconf(_SC_NPROCESSORS_ONLN);
    return CPU_COUNT(&set);
}

int pool_n_threads(const Pool *pool)
{
    return pool->n_threads;
}

/* The index-th core of the mask. A failure is harmless: the thread then floats. */
static void pin_to_core(pthread_t thread, const cpu_set_t *mask, int index)
{
    for (int core = 0; core < CPU_SETSIZE; core++)
    {
        if (!CPU_ISSET(core, mask) || index-- > 0)
            continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(core, &one);
        pthread_setaffinity_np(thread, sizeof one, &one);
        return;
    }
}

Status pool_create(int n_threads, bool pin, Pool **out_pool)
{
    int n_cores = pool_n_cores();
    if (n_threads == 0)
        n_threads = n_cores < POOL_MAX_THREADS ? n_cores : POOL_MAX_THREADS;
    if (n_threads < 1 || n_threads > POOL_MAX_THREADS)
        return status_fail(STATUS_USAGE, "%d threads asked for; 1 to %d are possible", n_threads, POOL_MAX_THREADS);
    Pool *pool = aligned_alloc(CACHE_LINE_BYTES, sizeof *pool);
    Worker *workers = calloc((size_t)n_threads, sizeof *workers);
    if (!pool || !workers)
    {
        free(pool);
        free(workers);
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for a pool of %d threads", n_threads);
    }
    memset(pool, 0, sizeof *pool);
    pool->workers = workers;
    pool->spin_ns = n_threads <= n_cores ? SPIN_NS : SPIN_OVERSUBSCRIBED_NS;
    cpu_set_t mask;
    pin = pin && n_threads > 1 && n_threads <= n_cores && sched_getaffinity(0, sizeof mask, &mask) == 0;
    pool->n_threads = 1;
    for (int i = 1; i < n_threads; i++)
    {
        Worker *worker = &workers[i - 1];
        *worker = (Worker){.pool = pool, .index = i};
        int error = pthread_create(&worker->thread, NULL, worker_main, worker);
        if (error != 0)
        {
            pool_destroy(pool);
            return status_fail(STATUS_OUT_OF_MEMORY, "thread %d of %d: %s", i, n_threads, strerror(error));
        }
        pool->n_threads = i + 1;
        if (pin)
            pin_to_core(worker->thread, &mask, i);
    }
    *out_pool = pool;
    return STATUS_OK;
}

void pool_destroy(Pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->stop, true);
    wake_workers(pool, pool->n_threads);
    for (int i = 0; i < pool->n_threads - 1; i++)
        pthread_join(pool->workers[i].thread, NULL);
    free(pool->workers);
    free(pool);
}
