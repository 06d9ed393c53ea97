/* A pool of threads that runs index spaces: the only source of parallelism inside a rank.
 *
 * pool_run hands out task indices dynamically, so which worker runs a task is not defined; callers keep
 * results independent of it (and so of the number of threads) by letting a task's work depend on its
 * index only. Waiting spins for a few tens of microseconds, then sleeps: ranks may share the cores. */
#ifndef PTC_RUNTIME_POOL_H
#define PTC_RUNTIME_POOL_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

enum
{
    POOL_MAX_THREADS = 256
};

typedef struct Pool Pool;

/* worker: 0..n_threads-1, 0 is the caller of pool_run; two tasks running at once never share it. */
typedef void PoolFn(void *ctx, int64_t task, int worker);

/* n_threads counts the caller: n_threads - 1 threads are started. n_threads 0: one per core that this
 * process may use. Started threads are pinned, one to a core, when the affinity mask holds at least
 * n_threads cores and pin is set; the caller's own affinity is left alone. pin is for a process that has
 * the cores to itself: two pinned pools on the same mask would fight for the same cores. */
Status pool_create(int n_threads, bool pin, Pool **out_pool);
/* Joins the threads. NULL is allowed. Not while a pool_run is under way. */
void pool_destroy(Pool *pool);
int pool_n_threads(const Pool *pool);
/* Cores in this process's affinity mask. */
int pool_n_cores(void);

/* Calls fn(ctx, t, worker) once for each t in 0..n_tasks-1 and returns when all are done; their writes are
 * then visible to the caller. n_tasks 0 is allowed. One pool_run at a time per pool; calling it from
 * inside a task (of any pool) is a BUG. Does not allocate. */
void pool_run(Pool *pool, int64_t n_tasks, PoolFn *fn, void *ctx);

#endif
