/* One rank, the last, goes wrong in a chosen way while the others are in a chosen operation. Each of the others writes
 * "CODE seconds detail" to results_dir/rank-N and its flight recorder beside it. */
#include "ranks.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

static const char PLACE[] = "matmul %14 loc(model.xml:12:3)";

/* The victim's part. Does not come back. */
static void misbehave(const char *how, const char *results_dir)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/victim", results_dir);
    FILE *file = fopen(path, "w");
    CHECK(file);
    fprintf(file, "%ld\n", (long)getpid());
    fclose(file);
    usleep(100000);
    if (strcmp(how, "kill") == 0)
        raise(SIGKILL);
    if (strcmp(how, "stop") == 0)
        raise(SIGSTOP);
    if (strcmp(how, "exit") == 0)
        _exit(0);
    if (strcmp(how, "dump") == 0)
    {
        comm_dump(world, "the loss is not a number");
        comm_destroy(world);
        _exit(4);
    }
    sleep(60);
    _exit(0);
}

/* Sums over all ranks, so everybody depends on the victim. */
static Status reduce(size_t n_elems)
{
    float *numbers = calloc(n_elems, sizeof *numbers);
    CommSlice slice = {numbers, numbers, n_elems};
    Status status = comm_all_reduce_start(world, 3, &slice, 1);
    if (status == STATUS_OK)
        status = comm_bucket_wait(world, 3);
    free(numbers);
    return status;
}

/* recv: rank 0 receives from the victim, every other rank from the rank below it; so most wait for ranks that are well.
 */
static Status receive(void)
{
    static uint8_t bytes[1 << 20];
    return comm_recv(world, rank == 0 ? size - 1 : rank - 1, 12, bytes, sizeof bytes);
}

static Status send_all(void)
{
    static uint8_t bytes[100000];
    for (int i = 0; i <= COMM_MAX_IN_FLIGHT; i++)
    {
        Status status = comm_send(world, size - 1, 12, bytes, sizeof bytes);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

static Status work(const char *where)
{
    if (strcmp(where, "recv") == 0)
        return receive();
    if (strcmp(where, "send") == 0)
        return send_all();
    if (strcmp(where, "all-reduce") == 0)
        return reduce(600000);
    if (strcmp(where, "barrier") == 0)
        return comm_barrier(world);
    if (strcmp(where, "destroy") == 0)
    {
        comm_destroy(world);
        return STATUS_TIMEOUT;
    }
    FAIL("no such operation: %s", where);
}

/* The victim sends what nobody expects, and then behaves like the others. */
static Status mislead(const char *where)
{
    static uint8_t bytes[50];
    if (strcmp(where, "all-reduce") == 0)
        return reduce(599999);
    Status status = comm_send(world, 0, 12, bytes, sizeof bytes);
    return status == STATUS_OK ? receive() : status;
}

void run_failure(const char *how, const char *where, const char *results_dir)
{
    bool is_victim = rank == size - 1, misleads = strcmp(how, "mislead") == 0;
    OK(comm_barrier(world));
    if (is_victim && !misleads)
        misbehave(how, results_dir);
    comm_set_place(world, PLACE, 8, 2);
    double start = now_s();
    Status status = is_victim ? mislead(where) : work(where);
    double waited_s = now_s() - start;
    char path[4096], detail[2048];
    snprintf(detail, sizeof detail, "%s", status_detail());
    if (strcmp(where, "destroy") != 0)
    {
        CHECK(comm_barrier(world) == status); /* the failure is final, and said again */
        CHECK(strcmp(status_detail(), detail) == 0);
        OK(comm_dump(world, detail));
        start = now_s();
        comm_destroy(world);
        CHECK(now_s() - start < 1);
    }
    snprintf(path, sizeof path, "%s/rank-%u", results_dir, rank);
    FILE *file = fopen(path, "w");
    CHECK(file);
    fprintf(file, "%d %.2f %s\n", status_exit_code(status), waited_s, detail);
    CHECK(fclose(file) == 0);
    _exit(status_exit_code(status));
}
