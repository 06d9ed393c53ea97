/* ptc_bench_gemm: what the machine can do and what our contractions reach of it.
 *
 * Prints the measured f32 multiply-add peak, then for each shape the rate of gemm_run at 1 and 2 threads,
 * its share of that peak, and the rate of oneDNN's own sgemm, whole and on one thread, in the same minute.
 * Medians; on a shared machine compare the columns of one line. `--json` prints one object a line. */
#include "base/bug.h"
#include "runtime/gemm.h"

#include <dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum
{
    N_REPS = 11,
    N_PEAK_REPS = 50,
    N_ACCS = 12, /* independent chains: latency 4 x 2 units, with some to spare */
    MAX_THREADS = 2
};

typedef float Vec __attribute__((vector_size(64)));

typedef struct
{
    const char *name;
    int64_t m, n, k;
    bool trans_a, trans_b;
} Shape;

#define FORWARD_BACKWARD(model, rows, in, out)                                                                         \
    {model " forward", rows, out, in, false, false}, {model " d input", rows, in, out, false, true},                   \
    {                                                                                                                  \
        model " d weight", in, out, rows, true, false                                                                  \
    }

static const Shape SHAPES[] = {
    FORWARD_BACKWARD("ViT qkv", 3200, 192, 576),    FORWARD_BACKWARD("ViT proj", 3200, 192, 192),
    FORWARD_BACKWARD("ViT mlp1", 3200, 192, 768),   FORWARD_BACKWARD("ViT mlp2", 3200, 768, 192),
    FORWARD_BACKWARD("BERT proj", 1024, 768, 768),  FORWARD_BACKWARD("BERT qkv", 1024, 768, 2304),
    FORWARD_BACKWARD("BERT mlp1", 1024, 768, 3072), FORWARD_BACKWARD("BERT mlp2", 1024, 3072, 768),
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare_f64(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, compare_f64);
    return values[n / 2];
}

static void require(Status status)
{
    if (status == STATUS_OK)
        return;
    fprintf(stderr, "ptc_bench_gemm: %s: %s\n", status_text(status), status_detail());
    exit(status_exit_code(status));
}

static const int64_t PEAK_ROUNDS = 400000;

/* Independent multiply-adds, written out so that each chain is a register; the sum goes out so that they are not
 * optimised away. */
static void peak_task(void *ctx, int64_t task, int worker)
{
    float *out = ctx;
    (void)worker;
    Vec f = {0};
    f += 0.999f;
    Vec a = f, b = f * 2, c = f * 3, d = f * 4, e = f * 5, g = f * 6;
    Vec h = f * 7, i = f * 8, j = f * 9, k = f * 10, l = f * 11, m = f * 12;
    for (int64_t round = 0; round < PEAK_ROUNDS; round++)
    {
        a = a * f + f, b = b * f + f, c = c * f + f, d = d * f + f, e = e * f + f, g = g * f + f;
        h = h * f + f, i = i * f + f, j = j * f + f, k = k * f + f, l = l * f + f, m = m * f + f;
    }
    Vec sum = a + b + c + d + e + g + h + i + j + k + l + m;
    out[task * 16] = sum[0];
}

/* A ceiling, so the fastest of many short runs. */
static double peak_gflops(Pool *pool)
{
    float sink[MAX_THREADS * 16];
    double best = 0;
    int n = pool_n_threads(pool);
    for (int rep = 0; rep < N_PEAK_REPS; rep++)
    {
        double start = now_s();
        pool_run(pool, n, peak_task, sink);
        double rate = 2e-9 * 16 * N_ACCS * (double)PEAK_ROUNDS * n / (now_s() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

static void empty_task(void *ctx, int64_t task, int worker)
{
    (void)ctx;
    (void)task;
    (void)worker;
}

static double empty_run_us(Pool *pool)
{
    enum
    {
        N_RUNS = 20000
    };
    double times[N_REPS];
    for (int rep = 0; rep < N_REPS; rep++)
    {
        double start = now_s();
        for (int i = 0; i < N_RUNS; i++)
            pool_run(pool, pool_n_threads(pool), empty_task, NULL);
        times[rep] = 1e6 * (now_s() - start) / N_RUNS;
    }
    return median(times, N_REPS);
}

typedef struct
{
    const float *a, *b;
    float *c;
    const Gemm *gemm[MAX_THREADS];
} Operands;

static double run_once(const Shape *s, const Operands *o, int column)
{
    double start = now_s();
    if (column < MAX_THREADS)
        require(gemm_run(o->gemm[column], &(GemmArgs){.a = o->a, .b = o->b, .c = o->c}));
    else
        dnnl_sgemm(s->trans_a ? 'T' : 'N', s->trans_b ? 'T' : 'N', s->m, s->n, s->k, 1, o->a, s->trans_a ? s->m : s->k,
                   o->b, s->trans_b ? s->k : s->n, 0, o->c, s->n);
    return now_s() - start;
}

/* Columns: ours at 1 and 2 threads, the library's sgemm on one; taken in turn, so that drift hits all alike. */
static void bench_shape(const Shape *s, GemmLib *const *libs, Operands *o, const double *peaks, bool json)
{
    double rates[MAX_THREADS + 1][N_REPS];
    GemmDesc desc = gemm_desc_make(s->m, s->n, s->k, s->trans_a, s->trans_b);
    for (int t = 0; t < MAX_THREADS; t++)
        require(gemm_create(libs[t], &desc, &o->gemm[t]));
    for (int rep = -1; rep < N_REPS; rep++)
        for (int column = 0; column <= MAX_THREADS; column++)
        {
            double rate = 1e-9 * gemm_flops(&desc) / run_once(s, o, column);
            if (rep >= 0)
                rates[column][rep] = rate;
        }
    double one = median(rates[0], N_REPS);
    double two = median(rates[1], N_REPS);
    double library = median(rates[2], N_REPS);
    const char *format =
        json ? "{\"name\": \"%s\", \"m\": %lld, \"n\": %lld, \"k\": %lld, \"gflops_1\": %.1f, \"gflops_2\": %.1f, "
               "\"share_of_peak_1\": %.3f, \"share_of_peak_2\": %.3f, \"sgemm_1\": %.1f, \"tasks\": %lld}\n"
             : "%-18s %5lld %5lld %5lld %8.1f %8.1f %6.2f %6.2f %8.1f %6lld\n";
    printf(format, s->name, (long long)s->m, (long long)s->n, (long long)s->k, one, two, one / peaks[0], two / peaks[1],
           library, (long long)gemm_n_tasks(o->gemm[0]));
    fflush(stdout);
}

static float *filled(int64_t n)
{
    float *data = aligned_alloc(64, (size_t)n * sizeof *data);
    ENSURE(data);
    for (int64_t i = 0; i < n; i++)
        data[i] = (float)(i * 7919 % 1000) * 0.001f - 0.5f;
    return data;
}

int main(int argc, char **argv)
{
    bool json = argc == 2 && strcmp(argv[1], "--json") == 0;
    if (argc > 1 && !json)
    {
        fprintf(stderr, "usage: %s [--json]\n", argv[0]);
        return 2;
    }
    Pool *pools[MAX_THREADS];
    GemmLib *libs[MAX_THREADS];
    double peaks[MAX_THREADS];
    for (int t = 0; t < MAX_THREADS; t++)
    {
        require(pool_create(t + 1, true, &pools[t]));
        require(gemm_lib_create(pools[t], &libs[t]));
        peaks[t] = peak_gflops(pools[t]);
    }
    double empty_us = empty_run_us(pools[1]);
    if (json)
        printf("{\"name\": \"peak\", \"gflops_1\": %.1f, \"gflops_2\": %.1f, \"empty_pool_run_us\": %.2f}\n", peaks[0],
               peaks[1], empty_us);
    else
        printf("f32 multiply-add peak: %.1f GFLOP/s on 1 thread, %.1f on 2; an empty pool_run on 2: %.2f us\n"
               "%-18s %5s %5s %5s %8s %8s %6s %6s %8s %6s\n",
               peaks[0], peaks[1], empty_us, "GFLOP/s", "m", "n", "k", "1 thr", "2 thr", "peak 1", "peak 2", "sgemm 1",
               "tasks");
    int64_t n_elems = 3200 * 3072;
    Operands operands = {.a = filled(n_elems), .b = filled(n_elems), .c = filled(n_elems)};
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++)
        bench_shape(&SHAPES[i], libs, &operands, peaks, json);
    for (int t = 0; t < MAX_THREADS; t++)
    {
        gemm_lib_destroy(libs[t]);
        pool_destroy(pools[t]);
    }
    free((void *)(uintptr_t)operands.a);
    free((void *)(uintptr_t)operands.b);
    free(operands.c);
    return 0;
}
