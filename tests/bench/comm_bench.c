/* Speed of communicators next to MPI's own calls. Run under mpirun; rank 0 prints.
 * usage: mpirun -n 2 ptc_bench_comm [MB of the largest all-reduce]
 * GB/s are of bytes reduced or sent by one rank, per second; times are the best of the repetitions. */
#include "runtime/comm.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static Comm *world;

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

/* Slowest rank's best time. */
static double slowest(double seconds)
{
    must(comm_all_reduce_f64(world, &seconds, 1, COMM_MAX));
    return seconds;
}

/* n_buckets sums at once, as a backward pass starts them. */
static double time_all_reduce(float *src, float *dst, size_t n_elems, uint32_t n_buckets, int n_times)
{
    double best = 1e30;
    for (int i = 0; i < n_times; i++)
    {
        must(comm_barrier(world));
        double start = now_s();
        for (uint32_t b = 0; b < n_buckets; b++)
        {
            size_t n = n_elems / n_buckets;
            CommSlice slice = {src + b * n, dst + b * n, n};
            must(comm_all_reduce_start(world, b, &slice, 1));
        }
        for (uint32_t b = 0; b < n_buckets; b++)
            must(comm_bucket_wait(world, b));
        double seconds = now_s() - start;
        best = seconds < best ? seconds : best;
    }
    return slowest(best);
}

/* What the memory can do: all ranks copy at once. */
static double time_copy(const float *src, float *dst, size_t n_elems, int n_times)
{
    double best = 1e30;
    for (int i = 0; i < n_times; i++)
    {
        must(comm_barrier(world));
        double start = now_s();
        memcpy(dst, src, n_elems * sizeof *dst);
        double seconds = now_s() - start;
        best = seconds < best ? seconds : best;
    }
    return slowest(best);
}

static double time_mpi_all_reduce(float *src, float *dst, size_t n_elems, int n_times)
{
    double best = 1e30;
    for (int i = 0; i < n_times; i++)
    {
        must(comm_barrier(world));
        double start = now_s();
        MPI_Allreduce(src, dst, (int)n_elems, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        double seconds = now_s() - start;
        best = seconds < best ? seconds : best;
    }
    return slowest(best);
}

/* Half of a round trip between ranks 0 and 1. */
static double time_ping_pong(char *bytes, size_t n, int n_times, bool by_mpi)
{
    uint32_t rank = comm_rank(world);
    double best = 1e30;
    for (int i = 0; i < n_times && rank < 2; i++)
    {
        double start = now_s();
        for (uint32_t turn = 0; turn < 2; turn++)
        {
            bool sends = rank == turn;
            if (by_mpi && sends)
                MPI_Send(bytes, (int)n, MPI_BYTE, 1 - (int)rank, 0, MPI_COMM_WORLD);
            else if (by_mpi)
                MPI_Recv(bytes, (int)n, MPI_BYTE, 1 - (int)rank, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            else
                must(sends ? comm_send(world, 1 - rank, 0, bytes, n) : comm_recv(world, 1 - rank, 0, bytes, n));
        }
        double seconds = (now_s() - start) / 2;
        best = seconds < best ? seconds : best;
    }
    return slowest(rank < 2 ? best : 0);
}

static double time_barrier(bool by_mpi)
{
    enum
    {
        N_TIMES = 2000
    };
    must(comm_barrier(world));
    double start = now_s();
    for (int i = 0; i < N_TIMES; i++)
    {
        if (by_mpi)
            MPI_Barrier(MPI_COMM_WORLD);
        else
            must(comm_barrier(world));
    }
    return slowest((now_s() - start) / N_TIMES);
}

int main(int argc, char **argv)
{
    size_t most_mb = argc > 1 ? strtoul(argv[1], NULL, 10) : 100;
    must(comm_create("mpi", NULL, &world));
    bool prints = comm_rank(world) == 0;
    size_t most_bytes = most_mb * 1000000;
    float *src = malloc(most_bytes), *dst = malloc(most_bytes);
    if (!src || !dst)
        return 1;
    for (size_t i = 0; i < most_bytes / sizeof *src; i++)
        src[i] = dst[i] = (float)(i % 1000);
    void *shared;
    must(comm_memory_take(world, most_bytes, &shared));
    float *in_place = shared ? shared : dst;
    if (prints)
        printf(
            "all-reduce, %u ranks            ptc                 in place            25 MB buckets       MPI_Allreduce "
            "      memcpy\n",
            comm_size(world));
    for (size_t bytes = 4000; bytes <= most_bytes; bytes *= 10)
    {
        for (size_t at = bytes; at <= bytes * 5 / 2 && at <= most_bytes; at = at * 5 / 2)
        {
            int n_times = at > 10000000 ? 20 : 200;
            uint32_t n_buckets = (uint32_t)((at + 24999999) / 25000000);
            size_t n = at / sizeof *src;
            double ours = time_all_reduce(src, dst, n, 1, n_times);
            double placed = time_all_reduce(in_place, in_place, n, 1, n_times);
            double buckets = time_all_reduce(src, dst, n, n_buckets, n_times);
            double theirs = time_mpi_all_reduce(src, dst, n, n_times);
            double copy = time_copy(src, dst, n, n_times);
            if (prints)
                printf(
                    "%12zu bytes  %9.3f ms %6.2f GB/s  %9.3f ms %6.2f GB/s  %9.3f ms %6.2f GB/s  %9.3f ms %6.2f GB/s  "
                    "%9.3f ms\n",
                    at, ours * 1e3, (double)at / ours * 1e-9, placed * 1e3, (double)at / placed * 1e-9, buckets * 1e3,
                    (double)at / buckets * 1e-9, theirs * 1e3, (double)at / theirs * 1e-9, copy * 1e3);
        }
    }
    if (prints)
        printf("message, rank 0 to 1            ptc                 MPI_Send\n");
    for (size_t bytes = 4; bytes <= most_bytes && comm_size(world) > 1; bytes *= 16)
    {
        int n_times = bytes > 1000000 ? 30 : 2000;
        double ours = time_ping_pong((char *)src, bytes, n_times, false);
        double theirs = time_ping_pong((char *)src, bytes, n_times, true);
        if (prints)
            printf("%12zu bytes  %9.2f us %6.2f GB/s  %9.2f us %6.2f GB/s\n", bytes, ours * 1e6,
                   (double)bytes / ours * 1e-9, theirs * 1e6, (double)bytes / theirs * 1e-9);
    }
    double ours = time_barrier(false), theirs = time_barrier(true);
    if (prints)
        printf("barrier             %9.2f us                      %9.2f us\n", ours * 1e6, theirs * 1e6);
    free(src);
    free(dst);
    comm_destroy(world);
    return 0;
}
