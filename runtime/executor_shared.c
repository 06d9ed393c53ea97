/* Memory of the communicator: params that other ranks read in place, and sums over the replicas. The next executor
 * finds its places in what the one before had, so that what stays is not copied, and pages that have been granted are
 * used again; the rest goes back with the old tensors. */
#include "runtime/executor_program.h"

#include <stdlib.h>

enum
{
    PAGE_BYTES = 4096
};

static char *page_of(char *at)
{
    return at - (uintptr_t)at % PAGE_BYTES;
}

static char *page_behind(char *at)
{
    return page_of(at + PAGE_BYTES - 1);
}

/* ---- lists of ranges */

static int by_begin(const void *a, const void *b)
{
    const uintptr_t left = (uintptr_t)((const ExecutorRange *)a)->begin,
                    right = (uintptr_t)((const ExecutorRange *)b)->begin;
    return (left > right) - (left < right);
}

/* Ascending, and none touches another. */
static void tidy(ExecutorRanges *ranges)
{
    uint32_t n = 0;
    if (ranges->len)
        qsort(ranges->data, ranges->len, sizeof *ranges->data, by_begin);
    for (uint32_t i = 0; i < ranges->len; i++)
    {
        const ExecutorRange range = ranges->data[i];
        if (n && range.begin <= ranges->data[n - 1].end)
            ranges->data[n - 1].end = range.end > ranges->data[n - 1].end ? range.end : ranges->data[n - 1].end;
        else
            ranges->data[n++] = range;
    }
    ranges->len = n;
}

static void subtract(Arena *arena, ExecutorRanges *ranges, ExecutorRange gone)
{
    const uint32_t n = ranges->len;
    for (uint32_t i = 0; i < n; i++)
    {
        ExecutorRange *range = &ranges->data[i];
        const ExecutorRange behind = {gone.end, range->end};
        if (gone.end <= range->begin || gone.begin >= range->end)
            continue;
        range->end = gone.begin > range->begin ? gone.begin : range->begin; /* it may be empty */
        if (behind.begin < behind.end)
            vec_push(arena, ranges, behind);
    }
}

/* ---- places */

/* What no tensor lies in. */
static ExecutorRanges find_free(Arena *arena, const ExecutorTensors *from)
{
    ExecutorRanges free_ranges = {0};
    for (uint32_t i = 0; i < from->shared.len; i++)
        vec_push(arena, &free_ranges, from->shared.data[i]);
    tidy(&free_ranges);
    for (uint32_t i = 0; i < from->list.len; i++)
    {
        const ExecutorTensor *tensor = &from->list.data[i];
        if (!tensor->buffer)
            subtract(arena, &free_ranges,
                     (ExecutorRange){tensor->address, tensor->address + executor_align((int64_t)tensor->size_bytes)});
    }
    return free_ranges;
}

/* In the smallest range that has room. */
static void place(ExecutorRanges *free_ranges, ExecutorShare *share)
{
    ExecutorRange *best = NULL;
    for (uint32_t i = 0; i < free_ranges->len; i++)
    {
        ExecutorRange *range = &free_ranges->data[i];
        const size_t size_bytes = (size_t)(range->end - range->begin);
        if (size_bytes >= share->size_bytes && (!best || size_bytes < (size_t)(best->end - best->begin)))
            best = range;
    }
    if (!best)
        return;
    share->at = best->begin;
    best->begin += share->size_bytes;
}

/* For all that has found no place. */
static Status place_rest(const Executor *x, ExecutorShare *shares, uint32_t n)
{
    size_t size_bytes = 0;
    void *taken;
    for (uint32_t i = 0; i < n; i++)
        size_bytes += shares[i].at ? 0 : shares[i].size_bytes;
    if (!size_bytes)
        return STATUS_OK;
    TRY(comm_memory_take(x->comm->data, size_bytes, &taken));
    char *at = taken;
    for (uint32_t i = 0; at && i < n; i++)
    {
        if (shares[i].at || !shares[i].size_bytes)
            continue;
        shares[i].at = at;
        at += shares[i].size_bytes;
    }
    return STATUS_OK;
}

/* ---- all together */

Status executor_share(Executor *x, ExecutorTensors *from, ExecutorShare *shares, uint32_t n)
{
    ExecutorRanges free_ranges = {0};
    ENSURE(!from || !from->shared.len || from->comm == x->comm);
    if (from)
        free_ranges = find_free(x->arena, from);
    for (uint32_t i = 0; i < n; i++)
        if (shares[i].size_bytes && !shares[i].at)
            place(&free_ranges, &shares[i]);
    TRY(place_rest(x, shares, n));
    for (uint32_t i = 0; i < n; i++)
        if (shares[i].size_bytes && shares[i].at)
            vec_push(x->arena, &x->shared,
                     (ExecutorRange){page_of(shares[i].at), page_behind(shares[i].at + shares[i].size_bytes)});
    tidy(&x->shared);
    for (uint32_t i = 0; from && i < x->shared.len; i++)
        subtract(from->arena, &from->shared, x->shared.data[i]);
    return STATUS_OK;
}

void executor_shared_give(const ExecutorComm *comm, ExecutorRanges *ranges)
{
    for (uint32_t i = 0; comm && comm->world && i < ranges->len; i++) /* without a world it has gone with that */
        if (ranges->data[i].begin < ranges->data[i].end)
            comm_memory_give(comm->world, ranges->data[i].begin, (size_t)(ranges->data[i].end - ranges->data[i].begin));
    ranges->len = 0;
}
