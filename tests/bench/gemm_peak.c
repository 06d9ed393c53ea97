/* The contraction rate that this machine reaches: the ceiling that the bench compares with.
 *
 *   gemm_peak [SECONDS]
 *
 * Times oneDNN's f32 product at a few square and transformer shapes, keeps the fastest repetition of each and prints
 * the greatest rate as one JSON object. The number of threads is OMP_NUM_THREADS (oneDNN's Debian build uses OpenMP).
 */
#include <dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static const struct
{
    dnnl_dim_t m, n, k;
} SHAPES[] = {{1024, 1024, 1024}, {2048, 2048, 2048}, {1024, 3072, 768}, {4096, 768, 768}};

enum
{
    N_SHAPES = sizeof SHAPES / sizeof SHAPES[0],
    MAX_ELEMS = 2048 * 2048 * 2
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float *random_matrix(void)
{
    float *x = malloc(MAX_ELEMS * sizeof *x);
    if (!x)
    {
        fputs("gemm_peak: out of memory\n", stderr);
        exit(1);
    }
    for (size_t i = 0; i < MAX_ELEMS; i++)
        x[i] = (float)((i * 2654435761u >> 8) & 0xffff) / 65536.0f - 0.5f; // zeros would draw less power
    return x;
}

int main(int argc, char **argv)
{
    double budget_s = argc > 1 ? atof(argv[1]) : 4.0;
    float *a = random_matrix(), *b = random_matrix(), *c = random_matrix();
    double best = 0, best_of[N_SHAPES];

    for (int s = 0; s < N_SHAPES; s++)
    {
        dnnl_dim_t m = SHAPES[s].m, n = SHAPES[s].n, k = SHAPES[s].k;
        double flops = 2.0 * (double)m * (double)n * (double)k, end_s = now_s() + budget_s / N_SHAPES;
        best_of[s] = 0;
        do
        {
            double start_s = now_s();
            if (dnnl_sgemm('N', 'N', m, n, k, 1.0f, a, k, b, n, 0.0f, c, n) != dnnl_success)
            {
                fputs("gemm_peak: dnnl_sgemm failed\n", stderr);
                return 1;
            }
            double rate = flops / (now_s() - start_s) * 1e-9;
            if (rate > best_of[s])
                best_of[s] = rate;
        } while (now_s() < end_s);
        if (best_of[s] > best)
            best = best_of[s];
    }
    printf("{\"gemm_peak_gflops\": %.1f, \"shapes\": {", best);
    for (int s = 0; s < N_SHAPES; s++)
        printf("%s\"%dx%dx%d\": %.1f", s ? ", " : "", (int)SHAPES[s].m, (int)SHAPES[s].n, (int)SHAPES[s].k, best_of[s]);
    puts("}}");
    free(a);
    free(b);
    free(c);
    return 0;
}
