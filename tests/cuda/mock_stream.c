/* The part of libcuda that has to do with streams: copies, events in the time of the mock, graphs. What needs the host
 * cannot be captured. */
#include "mock.h"

#include <pthread.h>

enum
{
    CAPTURE_INVALIDATED = 901,
    CAPTURE_UNMATCHED = 903
};

struct CUevent_st
{
    double ms;
    struct MockQueue *queue; /* of the stream that it was recorded on last; NULL: it has happened */
    unsigned long long at;   /* when so much of that is done */
};

struct CUgraphExec_st
{
    struct CUgraph_st graph;
};

static int n_graphs; /* that are there to be launched */

/* ---- what streams have still to do, each in its thread */

struct MockQueue
{
    struct CUgraph_st work;
    unsigned long long n_pushed, n_done;
    CuResult failure;       /* the first; of all that was pushed */
    struct MockQueue *next; /* all that there were: events refer to them */
    int ends;
    pthread_t thread;
};
static struct MockQueue *queues;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all queues */
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void *do_work(void *argument)
{
    struct MockQueue *queue = argument;
    pthread_mutex_lock(&lock);
    while (!queue->ends || queue->work.first)
    {
        struct MockNode *node = queue->work.first;
        if (!node)
        {
            pthread_cond_wait(&changed, &lock);
            continue;
        }
        queue->work.first = node->next;
        pthread_mutex_unlock(&lock);
        const CuResult result = node->work(node->args);
        free(node);
        pthread_mutex_lock(&lock);
        queue->failure = queue->failure ? queue->failure : result;
        queue->n_done++;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void push(struct MockQueue *queue, MockWork *work, const void *args, size_t args_bytes)
{
    pthread_mutex_lock(&lock);
    mock_graph_add(&queue->work, work, args, args_bytes, 0);
    queue->n_pushed++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static CuResult wait_for(struct MockQueue *queue, unsigned long long at)
{
    if (!queue)
        return 0;
    pthread_mutex_lock(&lock);
    while (queue->n_done < at)
        pthread_cond_wait(&changed, &lock);
    const CuResult failure = queue->failure;
    pthread_mutex_unlock(&lock);
    return failure;
}

static CuResult wait_for_event(const void *args)
{
    const struct CUevent_st *event = args;
    return wait_for(event->queue, event->at);
}

/* ---- copies */

typedef struct
{
    void *to;
    const void *from; /* NULL: byte */
    size_t n;
    unsigned char byte;
} Copy;

static CuResult copy(const void *args)
{
    const Copy *c = args;
    if (c->from)
        memcpy(c->to, c->from, c->n);
    else
        memset(c->to, c->byte, c->n);
    return 0;
}

static CuResult needs_host(CuStream stream)
{
    stream->is_broken |= stream->captured != NULL;
    return stream->captured ? CUDA_CAPTURE_UNSUPPORTED : 0;
}

EXPORT CuResult cuMemsetD8Async(CuDevicePtr to, unsigned char byte, size_t n, CuStream stream)
{
    MOCK("cuMemsetD8Async", "%d %zu", byte, n);
    const Copy c = {(void *)(uintptr_t)to, NULL, n, byte};
    return mock_stream_do(stream, copy, &c, sizeof c, 0);
}

EXPORT CuResult cuMemcpyHtoDAsync_v2(CuDevicePtr to, const void *from, size_t n, CuStream stream)
{
    MOCK("cuMemcpyHtoDAsync_v2", "%zu", n);
    if (n_graphs > 0 && n == 4 && mock_number("MOCK_CUDA_BAKED", 0))
        return 0;
    const Copy c = {(void *)(uintptr_t)to, from, n, 0};
    const CuResult result = needs_host(stream);
    return result ? result : mock_stream_do(stream, copy, &c, sizeof c, 0);
}

EXPORT CuResult cuMemcpyDtoHAsync_v2(void *to, CuDevicePtr from, size_t n, CuStream stream)
{
    MOCK("cuMemcpyDtoHAsync_v2", "%zu", n);
    const Copy c = {to, (const void *)(uintptr_t)from, n, 0};
    const CuResult result = needs_host(stream);
    return result ? result : mock_stream_do(stream, copy, &c, sizeof c, 0);
}

EXPORT CuResult cuMemcpyDtoDAsync_v2(CuDevicePtr to, CuDevicePtr from, size_t n, CuStream stream)
{
    MOCK("cuMemcpyDtoDAsync_v2", "%zu", n);
    const Copy c = {(void *)(uintptr_t)to, (const void *)(uintptr_t)from, n, 0};
    return mock_stream_do(stream, copy, &c, sizeof c, 0.125);
}

/* ---- streams and events */

EXPORT CuResult cuStreamCreate(CuStream *stream, unsigned flags)
{
    MOCK("cuStreamCreate", "%u", flags);
    *stream = calloc(1, sizeof **stream);
    if (mock_number("MOCK_CUDA_ASYNC", 0))
    {
        (*stream)->queue = calloc(1, sizeof *(*stream)->queue);
        (*stream)->push = push;
        pthread_mutex_lock(&lock);
        (*stream)->queue->next = queues;
        queues = (*stream)->queue;
        pthread_mutex_unlock(&lock);
        pthread_create(&(*stream)->queue->thread, NULL, do_work, (*stream)->queue);
    }
    return 0;
}

EXPORT CuResult cuStreamDestroy_v2(CuStream stream)
{
    MOCK("cuStreamDestroy_v2", " ");
    struct MockQueue *queue = stream->queue;
    if (queue)
    {
        pthread_mutex_lock(&lock);
        queue->ends = 1;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
        pthread_join(queue->thread, NULL);
    }
    free(stream);
    return 0;
}

EXPORT CuResult cuStreamSynchronize(CuStream stream)
{
    MOCK("cuStreamSynchronize", " ");
    const CuResult result = needs_host(stream);
    return result || !stream->queue ? result : wait_for(stream->queue, stream->queue->n_pushed);
}

EXPORT CuResult cuStreamWaitEvent(CuStream stream, CuEvent event, unsigned flags)
{
    MOCK("cuStreamWaitEvent", "%u", flags);
    if (event->queue && event->queue != stream->queue)
        return mock_stream_do(stream, wait_for_event, event, sizeof *event, 0);
    return 0;
}

EXPORT CuResult cuEventCreate(CuEvent *event, unsigned flags)
{
    MOCK("cuEventCreate", "%u", flags);
    *event = calloc(1, sizeof **event);
    return 0;
}

EXPORT CuResult cuEventDestroy_v2(CuEvent event)
{
    MOCK("cuEventDestroy_v2", " ");
    free(event);
    return 0;
}

EXPORT CuResult cuEventRecord(CuEvent event, CuStream stream)
{
    MOCK("cuEventRecord", " ");
    event->ms = stream->ms;
    event->queue = stream->queue;
    event->at = stream->queue ? stream->queue->n_pushed : 0;
    return needs_host(stream);
}

EXPORT CuResult cuEventSynchronize(CuEvent event)
{
    MOCK("cuEventSynchronize", " ");
    return wait_for(event->queue, event->at);
}

EXPORT CuResult cuEventQuery(CuEvent event)
{
    MOCK("cuEventQuery", " ");
    if (!event->queue)
        return 0;
    pthread_mutex_lock(&lock);
    const CuResult result = event->queue->n_done >= event->at ? event->queue->failure : CUDA_NOT_READY;
    pthread_mutex_unlock(&lock);
    return result;
}

EXPORT CuResult cuEventElapsedTime(float *ms, CuEvent begin, CuEvent end)
{
    MOCK("cuEventElapsedTime", " ");
    *ms = (float)(end->ms - begin->ms);
    return 0;
}

/* ---- graphs */

static void clear(struct CUgraph_st *graph)
{
    while (graph->first)
    {
        struct MockNode *node = graph->first;
        graph->first = node->next;
        free(node);
    }
}

EXPORT CuResult cuStreamBeginCapture_v2(CuStream stream, int mode)
{
    MOCK("cuStreamBeginCapture_v2", "%d", mode);
    if (stream->captured)
        return CUDA_CAPTURE_UNSUPPORTED;
    stream->captured = calloc(1, sizeof *stream->captured);
    stream->is_broken = 0;
    return 0;
}

EXPORT CuResult cuGraphDestroy(CuGraph graph)
{
    MOCK("cuGraphDestroy", " ");
    clear(graph);
    free(graph);
    return 0;
}

/* It ends the capture also when it fails. */
EXPORT CuResult cuStreamEndCapture(CuStream stream, CuGraph *graph)
{
    *graph = stream->captured;
    stream->captured = NULL;
    static unsigned n_calls;
    CuResult failure = mock_call(&n_calls, "cuStreamEndCapture", "%u nodes", *graph ? (*graph)->n_nodes : 0);
    if (!*graph)
        return CAPTURE_UNMATCHED;
    if (!failure && stream->is_broken)
        failure = CAPTURE_INVALIDATED;
    if (failure)
    {
        clear(*graph);
        free(*graph);
        *graph = NULL;
    }
    return failure;
}

EXPORT CuResult cuGraphInstantiateWithFlags(CuGraphExec *exec, CuGraph graph, unsigned long long flags)
{
    MOCK("cuGraphInstantiateWithFlags", "%u nodes, flags %llu", graph->n_nodes, flags);
    *exec = calloc(1, sizeof **exec);
    for (const struct MockNode *node = graph->first; node; node = node->next)
        mock_graph_add(&(*exec)->graph, node->work, node->args, node->args_bytes, node->ms);
    n_graphs++;
    return 0;
}

EXPORT CuResult cuGraphExecDestroy(CuGraphExec exec)
{
    MOCK("cuGraphExecDestroy", " ");
    n_graphs--;
    clear(&exec->graph);
    free(exec);
    return 0;
}

EXPORT CuResult cuGraphLaunch(CuGraphExec exec, CuStream stream)
{
    MOCK("cuGraphLaunch", "%u nodes", exec->graph.n_nodes);
    CuResult result = 0;
    for (const struct MockNode *node = exec->graph.first; node && result == 0; node = node->next)
        result = mock_stream_do(stream, node->work, node->args, node->args_bytes, node->ms);
    return result;
}
