/* Speed of the feature cache: rows put and got, in memory and on disk, by one process and by two that share a store.
 * usage: ptc_bench_feature_cache FOLDER [MB of a store]
 * Rows and GB/s (of f32 values) are of both processes together. A get of two processes reads what the other has put.
 * "cold": the page cache was emptied before; "ahead": so it was, and 32 rows are prefetched while the 32 before them
 * are got. */
#include "runtime/feature_cache.h"

#include <fcntl.h>
#include <glob.h>
#include <stdatomic.h>
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
    atomic_fetch_add(&run->shared->n_arrived, 1);
    while (atomic_load(&run->shared->n_arrived) < n * run->n_processes)
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

/* The i-th of this process's rows, or of those that its neighbour has put; in an order that is no file's. */
static uint64_t sample_at(const Run *run, uint64_t i, bool of_neighbour)
{
    const uint64_t share = run->n_rows / run->n_processes;
    const uint32_t process = of_neighbour ? run->n_processes - 1 - run->process : run->process;
    return i * 7919 % share * run->n_processes + process;
}

static void do_part(const Run *run, FeatureCache *cache, Part part, float *row)
{
    const uint64_t share = run->n_rows / run->n_processes;
    uint64_t next[BATCH];
    for (uint64_t i = 0; i < share; i++)
    {
        if (part == GET_COLD_AHEAD && i % BATCH == 0)
        {
            uint64_t n = 0;
            for (uint64_t at = i == 0 ? 0 : i + BATCH; at < i + 2 * BATCH && at < share; at++)
                next[n++ % BATCH] = sample_at(run, at, true);
            feature_cache_prefetch(cache, FEATURE_TRAIN, next, n < BATCH ? n : BATCH);
        }
        const uint64_t sample = sample_at(run, i, part != PUT);
        const bool ok = part == PUT ? feature_cache_put(cache, FEATURE_TRAIN, sample, row)
                                    : feature_cache_get(cache, FEATURE_TRAIN, sample, row);
        if (!ok)
        {
            fprintf(stderr, "a row is missing\n");
            exit(1);
        }
    }
}

static void do_parts(const Run *run, FeatureCache *cache)
{
    float *row = malloc(run->options.row_elems * sizeof *row);
    for (uint64_t i = 0; i < run->options.row_elems; i++)
        row[i] = (float)(i % 251);
    const int n_parts = run->options.folder ? N_PARTS : GET_COLD;
    for (int part = 0; part < n_parts; part++)
    {
        meet(run, 2 * (uint32_t)part + 1);
        if (part >= GET_COLD && run->process == 0)
            empty_page_cache(run);
        meet(run, 2 * (uint32_t)part + 2);
        const double start = now_s();
        do_part(run, cache, (Part)part, row);
        run->shared->seconds[run->process][part] = now_s() - start;
    }
    free(row);
}

static void print_run(const Run *run)
{
    static const char *const NAMES[N_PARTS] = {"put", "get", "cold", "ahead"};
    const double row_bytes = (double)run->options.row_elems * 4;
    printf("%7.0f bytes  %-4s  %-6s  %u", row_bytes, run->options.precision == FEATURE_BF16 ? "bf16" : "f32",
           run->options.folder ? "disk" : "memory", run->n_processes);
    for (int part = 0; part < (run->options.folder ? N_PARTS : GET_COLD); part++)
    {
        double seconds = 0;
        for (uint32_t i = 0; i < run->n_processes; i++)
            seconds = run->shared->seconds[i][part] > seconds ? run->shared->seconds[i][part] : seconds;
        printf("   %s %7.0f rows/s %5.2f GB/s", NAMES[part], (double)run->n_rows / seconds,
               (double)run->n_rows * row_bytes / seconds * 1e-9);
    }
    printf("\n");
}

static void run_store(Run run)
{
    run.shared = mmap(NULL, sizeof *run.shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (run.shared == MAP_FAILED)
        exit(1);
    FeatureCache *cache;
    must(feature_cache_create(&run.options, &cache));
    feature_cache_address(cache, run.shared->address);
    fflush(stdout);
    for (run.process = run.n_processes - 1; run.process > 0; run.process--)
        if (fork() == 0)
        {
            FeatureCache *joined;
            must(feature_cache_join(&run.options, run.shared->address, &joined));
            do_parts(&run, joined);
            feature_cache_close(joined);
            _exit(0);
        }
    do_parts(&run, cache);
    for (uint32_t i = 1; i < run.n_processes; i++)
        wait(NULL);
    feature_cache_remove(cache);
    print_run(&run);
    munmap(run.shared, sizeof *run.shared);
}

int main(int argc, char **argv)
{
    if (argc < 2)
    {
        fprintf(stderr, "usage: %s FOLDER [MB of a store]\n", argv[0]);
        return 2;
    }
    const uint64_t store_bytes = (argc > 2 ? strtoull(argv[2], NULL, 10) : 400) * 1000000;
    const uint64_t row_elems[] = {6272, 150528};
    for (int size = 0; size < 2; size++)
        for (int precision = FEATURE_F32; precision <= FEATURE_BF16; precision++)
            for (int on_disk = 0; on_disk < 2; on_disk++)
                for (uint32_t n = 1; n <= MAX_PROCESSES; n++)
                {
                    const uint64_t window_bytes = row_elems[size] * 4 * 2 * BATCH;
                    const uint64_t n_rows = store_bytes / (row_elems[size] * 4) / n * n;
                    const FeatureCacheOptions options = {
                        .key = "bench",
                        .row_elems = row_elems[size],
                        .n_samples = {n_rows, 0},
                        .precision = (FeaturePrecision)precision,
                        .memory_bytes = on_disk ? n * window_bytes : 2 * store_bytes,
                        .disk_bytes = on_disk ? 2 * store_bytes : 0,
                        .folder = on_disk ? argv[1] : NULL,
                        .window_bytes = window_bytes,
                    };
                    run_store((Run){.options = options, .n_processes = n, .n_rows = n_rows});
                }
    return 0;
}
