/* Loader: threads that fill batches while the caller computes.
 *
 * A batch says which samples go to which rows of which host buffers; nothing else is assumed about its shape. Who fills
 * a row, and when, changes neither its contents nor which failure is told. Batches that are started are filled in that
 * order. Starting and waiting allocate nothing. */
#ifndef PTC_RUNTIME_LOADER_H
#define PTC_RUNTIME_LOADER_H

#include "runtime/dataset.h"

typedef struct Loader Loader;

enum
{
    LOADER_MAX_THREADS = 256,
    LOADER_DETAIL_BYTES = 2048
};

/* Rows 0..n-1 become the samples `indices`, rows n..rows-1 zeros. */
typedef struct
{
    BatchSlot slot;
    const uint64_t *indices;
    uint32_t n, rows;
} LoaderSlot;

/* Set by the caller, who leaves it and all that it points to alone from loader_start until loader_wait has returned. */
typedef struct LoaderBatch LoaderBatch;
struct LoaderBatch
{
    const Dataset *dataset;
    DatasetPass pass;
    const LoaderSlot *slots;
    uint32_t n_slots;

    struct /* the loader's */
    {
        LoaderBatch *next;
        uint32_t slot, row; /* the first row that nobody has taken */
        uint32_t n_open;    /* parts that are being filled */
        bool started;
        Status status; /* of the first row that failed, in the order of slots and rows */
        uint32_t bad_slot, bad_row;
        char detail[LOADER_DETAIL_BYTES];
    } state;
};

/* n_threads 0: one for every core that this process may use. They give way to other threads (nice). costly: a sample is
 * a task of its own (dataset_is_costly). */
Status loader_create(uint32_t n_threads, bool costly, Loader **out_loader);
/* Drops what is started. NULL is allowed. */
void loader_destroy(Loader *loader);

/* The batch must not be under way. */
void loader_start(Loader *loader, LoaderBatch *batch);
/* Until the batch is filled. The first row's failure, with its detail; then the rest of the batch is undefined. */
Status loader_wait(Loader *loader, LoaderBatch *batch);

#endif
