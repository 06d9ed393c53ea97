/* Events as JSON text; every rank writes its own and sends it to rank 0. */
#include "runtime/trace.h"

#include "base/bug.h"
#include "base/strbuf.h"
#include "runtime/durable_file.h"

#include <stdlib.h>
#include <string.h>

enum
{
    TRACE_TAG = (1 << 19) + 2, /* in the world, where programs send nothing */
    KERNELS = 0,
    COMMUNICATION = 1
};

static void add_row_name(StrBuf *buf, uint32_t rank, int row, const char *name)
{
    strbuf_addf(buf, "{\"ph\":\"M\",\"pid\":%u,\"tid\":%d,\"name\":\"thread_name\",\"args\":{\"name\":\"%s\"}},\n",
                rank, row, name);
}

/* base_s: the time that counts as 0, the same on every rank. */
static void add_event(StrBuf *buf, uint32_t rank, const ExecutorEvent *e, double base_s)
{
    strbuf_add(buf, "{\"ph\":\"X\",\"name\":");
    strbuf_add_quoted(buf, e->name);
    strbuf_addf(buf, ",\"cat\":\"%s\",\"pid\":%u,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f,\"args\":{\"unit\":%u,", e->part,
                rank, e->waits ? COMMUNICATION : KERNELS, 1e6 * (e->start_s - base_s), 1e6 * (e->end_s - e->start_s),
                e->unit);
    if (e->micro_batch >= 0)
        strbuf_addf(buf, "\"micro_batch\":%d,", e->micro_batch);
    strbuf_add(buf, "\"place\":");
    strbuf_add_quoted(buf, e->place);
    strbuf_add(buf, "}},\n");
}

/* This rank's events, each followed by a comma. */
static void add_rank(StrBuf *buf, const Executor *executor, uint32_t rank, const char *place, double base_s)
{
    uint32_t n;
    const ExecutorEvent *events = executor_trace_events(executor, &n);
    strbuf_addf(buf, "{\"ph\":\"M\",\"pid\":%u,\"name\":\"process_name\",\"args\":{\"name\":\"rank %u: %s\"}},\n", rank,
                rank, place);
    add_row_name(buf, rank, KERNELS, "kernels");
    add_row_name(buf, rank, COMMUNICATION, "communication");
    for (uint32_t i = 0; i < n; i++)
        add_event(buf, rank, &events[i], base_s);
}

static Status receive_rank(StrBuf *buf, Comm *world, uint32_t from)
{
    uint64_t n;
    TRY(comm_recv(world, from, TRACE_TAG, &n, sizeof n));
    char *text = malloc(n);
    if (!text)
        base_out_of_memory(n);
    Status status = comm_recv(world, from, TRACE_TAG, text, n);
    if (status == STATUS_OK)
        strbuf_add_bytes(buf, text, n);
    free(text);
    return status;
}

static Status gather(StrBuf *buf, Comm *world)
{
    if (comm_rank(world) > 0)
    {
        const uint64_t n = buf->len;
        TRY(comm_send(world, 0, TRACE_TAG, &n, sizeof n));
        return comm_send(world, 0, TRACE_TAG, buf->data, n);
    }
    for (uint32_t r = 1; r < comm_size(world); r++)
        TRY(receive_rank(buf, world, r));
    return STATUS_OK;
}

Status trace_write(const char *path, const Executor *executor, Comm *world, const char *place)
{
    Arena *arena = arena_create();
    StrBuf buf = strbuf_make(arena);
    const uint32_t rank = world ? comm_rank(world) : 0;
    if (rank == 0)
        strbuf_add(&buf, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
    uint32_t n;
    const ExecutorEvent *events = executor_trace_events(executor, &n);
    double base_s = n ? events[0].start_s : 0;
    Status status = world ? comm_broadcast(world, 0, &base_s, sizeof base_s) : STATUS_OK;
    add_rank(&buf, executor, rank, place, base_s);
    if (status == STATUS_OK && world)
        status = gather(&buf, world);
    if (status == STATUS_OK && rank == 0)
    {
        strbuf_add(&buf, "{\"ph\":\"M\",\"pid\":0,\"name\":\"process_sort_index\",\"args\":{\"sort_index\":0}}]}\n");
        status = durable_file_put(path, strbuf_text(&buf), buf.len, NULL);
    }
    arena_destroy(arena);
    return status;
}
