/* What the mocks of CUDA's libraries share. They are shared objects under the libraries' own names, in a folder
 * that $PTC_CUDA_PATH names, so that ptc loads them as it would load the real ones.
 *
 *   MOCK_CUDA_LOG=FILE              a line per call; a name that ends in "-" is followed by the process
 *   MOCK_CUDA_LOG_ONLY=cuMemcpy:nccl  of symbols that begin so
 *   MOCK_CUDA_FAIL=SYMBOL:N:RESULT  the N-th call (from 1) of that symbol gives RESULT; "N+": and all that follow
 *   MOCK_CUDA_VERSION=13000         what the driver supports
 *   MOCK_CUDA_BAKED=1               what a graph reads of single numbers (4 bytes) stays what it was when it was made
 *   MOCK_CUDA_ASYNC=1               each stream has a thread that does its work, later
 *   MOCK_CUDA_ALGORITHMS=4:x:2      what cuBLASLt proposes: algorithms that take 4 ms, do not run, take 2 ms (one of 1
 *                                   ms)
 *   MOCK_CUDA_ORDERS=8              instead so many, which each add over k in an order of their own and refuse some
 *                                   epilogues; all that is asked decides which is proposed first and which is fast
 *   MOCK_CUDA_NO_EPILOGUE=256       an epilogue that cuBLASLt refuses
 *   MOCK_CUDA_MEANWHILE=COMMAND     what happens while it proposes algorithms
 *   MOCK_CUDA_DEVICES=2, MOCK_CUDA_NAME=NAME, MOCK_CUDA_ARCH=90, MOCK_CUDA_MEMORY=BYTES or BYTES:DEVICE,
 *   MOCK_CUDA_BLASLT=130000 */
#ifndef PTC_TESTS_CUDA_MOCK_H
#define PTC_TESTS_CUDA_MOCK_H

#include "runtime/cuda_abi.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* In front of a cubin of the mock: a shared object of the same kernels for the CPU. */
typedef struct
{
    char magic[8];
    size_t size_bytes;
} MockCubin;
#define MOCK_CUBIN_MAGIC "mockbin"

static inline long mock_number(const char *variable, long otherwise)
{
    const char *text = getenv(variable);
    return text && *text ? atol(text) : otherwise;
}

static inline int mock_is_logged(const char *symbol)
{
    const char *only = getenv("MOCK_CUDA_LOG_ONLY");
    for (size_t n; only && *only; only += n + (only[n] == ':'))
    {
        n = strcspn(only, ":");
        if (strncmp(symbol, only, n) == 0)
            return 1;
    }
    return !only;
}

static inline FILE *mock_open_log(const char *symbol)
{
    const char *path = getenv("MOCK_CUDA_LOG");
    char own[4096];
    if (!path || !*path || !mock_is_logged(symbol))
        return NULL;
    snprintf(own, sizeof own, path[strlen(path) - 1] == '-' ? "%s%ld" : "%s", path, (long)getpid());
    return fopen(own, "a");
}

/* Records the call, counts it while it is to fail, and says what it is to give. */
__attribute__((format(printf, 3, 4))) static inline int mock_call(unsigned *n_calls, const char *symbol,
                                                                  const char *format, ...)
{
    const char *fail = getenv("MOCK_CUDA_FAIL");
    const size_t n = strlen(symbol);
    FILE *file = mock_open_log(symbol);
    if (file)
    {
        va_list args;
        va_start(args, format);
        fprintf(file, "%s ", symbol);
        vfprintf(file, format, args);
        fputc('\n', file);
        fclose(file);
        va_end(args);
    }
    if (!fail || strncmp(fail, symbol, n) != 0 || fail[n] != ':')
    {
        *n_calls = 0;
        return 0;
    }
    ++*n_calls;
    char *end;
    const unsigned long nth = strtoul(fail + n + 1, &end, 10);
    const int on = *end == '+';
    return *n_calls == nth || (on && *n_calls > nth) ? atoi(end + on + 1) : 0;
}

/* Streams do at once what they are given, unless they are asynchronous; while one is captured, it becomes a node of a
 * graph. What is given must be whole by itself: the caller's memory may go. */
typedef CuResult MockWork(const void *args);

struct MockNode
{
    struct MockNode *next;
    MockWork *work;
    double ms;
    size_t args_bytes;
    _Alignas(16) char args[];
};

struct CUgraph_st
{
    struct MockNode *first, *last;
    unsigned n_nodes;
};

struct MockQueue;
struct CUstream_st
{
    struct CUgraph_st *captured; /* NULL: it is not */
    int is_broken;               /* something could not be captured */
    double ms;                   /* what its work has taken, in the time of the mock */
    struct MockQueue *queue;     /* of MOCK_CUDA_ASYNC; NULL: it does at once what it is given */
    void (*push)(struct MockQueue *queue, MockWork *work, const void *args, size_t args_bytes);
};

static inline void mock_graph_add(struct CUgraph_st *graph, MockWork *work, const void *args, size_t args_bytes,
                                  double ms)
{
    struct MockNode *node = malloc(sizeof *node + args_bytes);
    *node = (struct MockNode){.work = work, .ms = ms, .args_bytes = args_bytes};
    memcpy(node->args, args, args_bytes);
    *(graph->first ? &graph->last->next : &graph->first) = node;
    graph->last = node;
    graph->n_nodes++;
}

static inline CuResult mock_stream_do(CuStream stream, MockWork *work, const void *args, size_t args_bytes, double ms)
{
    if (stream->captured)
    {
        mock_graph_add(stream->captured, work, args, args_bytes, ms);
        return 0;
    }
    stream->ms += ms;
    if (!stream->queue)
        return work(args);
    stream->push(stream->queue, work, args, args_bytes);
    return 0;
}

/* First in every function. */
#define MOCK(...)                                                                                                      \
    static unsigned n_calls;                                                                                           \
    const int failure = mock_call(&n_calls, __VA_ARGS__);                                                              \
    if (failure)                                                                                                       \
    return failure

#endif
