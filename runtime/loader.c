/* The threads of loader.h: one lock, one list of batches. A thread takes a few rows of the first batch that has some
 * left. Rows are taken in order, so when one fails all before it are filled or being filled, and the first failure is
 * the same whoever was faster. */
#include "runtime/loader.h"

#include "base/bug.h"
#include "runtime/pool.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum
{
    CHEAP_ROWS = 64, /* taken at once when they are only copied */
    NICE = 5
};

struct Loader
{
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    LoaderBatch *first, *last; /* with rows that nobody has taken */
    bool stop;
    uint32_t rows_at_once;
    uint32_t n_threads;
    pthread_t threads[LOADER_MAX_THREADS];
};

/* Rows of one slot of one batch. */
typedef struct
{
    LoaderBatch *batch;
    uint32_t slot, row, n;
} Part;

/* ---- under the lock */

static bool is_taken(const LoaderBatch *batch)
{
    return batch->state.slot == batch->n_slots;
}

static void skip_filled_slots(LoaderBatch *batch)
{
    while (!is_taken(batch) && batch->state.row == batch->slots[batch->state.slot].n)
    {
        batch->state.slot++;
        batch->state.row = 0;
    }
}

static void unlink_first(Loader *loader)
{
    loader->first = loader->first->state.next;
    if (!loader->first)
        loader->last = NULL;
}

static Part take(Loader *loader)
{
    LoaderBatch *batch = loader->first;
    Part part = {.batch = batch, .slot = batch->state.slot, .row = batch->state.row};
    const uint32_t left = batch->slots[part.slot].n - part.row;
    part.n = left < loader->rows_at_once ? left : loader->rows_at_once;
    batch->state.row += part.n;
    batch->state.n_open++;
    skip_filled_slots(batch);
    if (is_taken(batch))
        unlink_first(loader);
    return part;
}

static bool is_before(const Part *part, const LoaderBatch *batch)
{
    return part->slot < batch->state.bad_slot ||
           (part->slot == batch->state.bad_slot && part->row < batch->state.bad_row);
}

/* Nothing behind a failure needs to be filled. */
static void fail(Loader *loader, const Part *part, Status status)
{
    LoaderBatch *batch = part->batch;
    if (batch->state.status == STATUS_OK || is_before(part, batch))
    {
        batch->state.status = status;
        batch->state.bad_slot = part->slot;
        batch->state.bad_row = part->row;
        snprintf(batch->state.detail, sizeof batch->state.detail, "%s", status_detail()); /* it is this thread's */
    }
    if (loader->first == batch)
    {
        batch->state.slot = batch->n_slots;
        unlink_first(loader);
    }
}

/* ---- the threads */

static Status fill(const Part *part)
{
    const LoaderBatch *batch = part->batch;
    const LoaderSlot *slot = &batch->slots[part->slot];
    return dataset_fill_rows(batch->dataset, &batch->pass, &slot->slot, slot->indices, part->row, part->n);
}

static void *thread_main(void *context)
{
    Loader *loader = context;
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE); /* of the thread alone; if refused, it only competes */
    pthread_mutex_lock(&loader->lock);
    while (!loader->stop)
    {
        if (!loader->first)
        {
            pthread_cond_wait(&loader->work, &loader->lock);
            continue;
        }
        const Part part = take(loader);
        pthread_mutex_unlock(&loader->lock);
        const Status status = fill(&part);
        pthread_mutex_lock(&loader->lock);
        if (status != STATUS_OK)
            fail(loader, &part, status);
        if (--part.batch->state.n_open == 0 && is_taken(part.batch))
            pthread_cond_broadcast(&loader->done);
    }
    pthread_mutex_unlock(&loader->lock);
    return NULL;
}

/* ---- the caller */

Status loader_create(uint32_t n_threads, bool costly, Loader **out_loader)
{
    ENSURE(n_threads <= LOADER_MAX_THREADS);
    n_threads = n_threads ? n_threads : (uint32_t)pool_n_cores();
    n_threads = n_threads < LOADER_MAX_THREADS ? n_threads : LOADER_MAX_THREADS;
    Loader *loader = malloc(sizeof *loader);
    if (!loader)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for the loader");
    *loader = (Loader){.rows_at_once = costly ? 1 : CHEAP_ROWS};
    pthread_mutex_init(&loader->lock, NULL);
    pthread_cond_init(&loader->work, NULL);
    pthread_cond_init(&loader->done, NULL);
    while (loader->n_threads < n_threads)
    {
        const int error = pthread_create(&loader->threads[loader->n_threads], NULL, thread_main, loader);
        if (error != 0)
        {
            const uint32_t failed = loader->n_threads + 1;
            loader_destroy(loader);
            return status_fail(STATUS_OUT_OF_MEMORY, "thread %u of %u of the loader: %s", failed, n_threads,
                               strerror(error));
        }
        loader->n_threads++;
    }
    *out_loader = loader;
    return STATUS_OK;
}

void loader_destroy(Loader *loader)
{
    if (!loader)
        return;
    pthread_mutex_lock(&loader->lock);
    loader->stop = true;
    pthread_cond_broadcast(&loader->work);
    pthread_mutex_unlock(&loader->lock);
    for (uint32_t i = 0; i < loader->n_threads; i++)
        pthread_join(loader->threads[i], NULL);
    pthread_cond_destroy(&loader->done);
    pthread_cond_destroy(&loader->work);
    pthread_mutex_destroy(&loader->lock);
    free(loader);
}

static void clear_padding(const LoaderBatch *batch)
{
    for (uint32_t i = 0; i < batch->n_slots; i++)
    {
        const LoaderSlot *slot = &batch->slots[i];
        ENSURE(slot->n <= slot->rows);
        const uint64_t row_bytes = dataset_row_bytes(batch->dataset, &slot->slot);
        memset((char *)slot->slot.data + slot->n * row_bytes, 0, (slot->rows - slot->n) * row_bytes);
    }
}

void loader_start(Loader *loader, LoaderBatch *batch)
{
    ENSURE(!batch->state.started);
    memset(&batch->state, 0, sizeof batch->state);
    batch->state.started = true;
    clear_padding(batch);
    skip_filled_slots(batch);
    if (is_taken(batch))
        return;
    pthread_mutex_lock(&loader->lock);
    if (loader->last)
        loader->last->state.next = batch;
    else
        loader->first = batch;
    loader->last = batch;
    pthread_cond_broadcast(&loader->work);
    pthread_mutex_unlock(&loader->lock);
}

Status loader_wait(Loader *loader, LoaderBatch *batch)
{
    ENSURE(batch->state.started);
    pthread_mutex_lock(&loader->lock);
    while (!is_taken(batch) || batch->state.n_open > 0)
        pthread_cond_wait(&loader->done, &loader->lock);
    pthread_mutex_unlock(&loader->lock);
    batch->state.started = false;
    return batch->state.status == STATUS_OK ? STATUS_OK : status_fail(batch->state.status, "%s", batch->state.detail);
}
