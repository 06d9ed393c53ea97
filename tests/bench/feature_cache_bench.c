/* Speed of the feature cache: rows put and got, in memory and on disk, by one process and by two that share a store.
 * usage: ptc_bench_feature_cache FOLDER [MB of a store]
 * GB/s are of f32 values, of both processes together. A get of two processes reads what the other has put. "cold": the
 * page cache is emptied before; "ahead": the next 32 rows are prefetched. */
#include "runtime/feature_cache.h"

#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum
{
    MAX_PROCESSES = 2,
    BATCH = 32
};

typedef enum
{
    PUT,
    GET,
    GET_COLD,
    GET_COLD_AHEAD,
    N_PARTS
} Part;

typedef struct /* by the processes of one store */
{
    _Atomic uint32_t n_arrived;
    double seconds[MAX_PROCESSES][N_PARTS];
    char address[FEATURE_CACHE_ADDRESS_BYTES];
} Shared;

typedef struct
{
    FeatureCacheOptions options;
    uint32_t n_processes, process;
    uint64_t n_rows;
    Shared *shared;
} Run;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must(Status status)
{
    if (status == STATUS_OK)
        return;
    fprintf(stderr, "%s\n", status_detail());
    exit(1);
}

/* The n-th meeting of all. */
static void meet(const Run *run, uint32_t n)
{
    __atomic_fetch_add(&run->shared->n_arrived, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&run->shared->n_arrived, __ATOMIC_SEQ_CST) < n * run->n_processes)
        usleep(50);
}

static void empty_page_cache(const Run *run)
{
    char pattern[4096];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s/features-*.ptc", run->options.folder ? run->options.folder : "");
    if (glob(pattern, 0, NULL, &found) != 0)
        return;
    for (size_t i = 0; i < found.gl_pathc; i++)
    {
        int fd = open(found.gl_pathv[i], O_RDONLY);
        fdatasync(fd);
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
    globfree(&found);
}

/* This process's share: every n_processes-th row, in an order that is no file's. */
static void do_part(const Run *run, FeatureCache *cache, Part part, float *row)
{
    const uint64_t share = run->n_rows / run->n_processes;
    uint64_t ahead[BATCH];
    for (uint64_t i = 0; i < share; i++)
    {
        if (part == GET_COLD_AHEAD && i % BATCH == 0)
        {
            for (uint64_t j = 0; j < BATCH; j++)
                ahead[j] = ((i + j) % share * 7919 % share) * run->n_processes + run->process;
            feature_cache_prefetch(cache, FEATURE_TRAIN, ahead, BATCH);
        }
        const uint64_t process = part == PUT ? run->process : run->n_processes - 1 - run->process;
        const uint64_t sample =
            (i * 7919 % share) * run->n_processes + (part == GET_COLD_AHEAD ? run->process : process);
        if (!(part == PUT ? feature_cache_put
                          : (bool (*)(FeatureCache *, FeatureSplit, uint64_t, const float *))feature_cache_get)(
                cache, FEATURE_TRAIN, sample, row))
            exit(1);
    }
}
