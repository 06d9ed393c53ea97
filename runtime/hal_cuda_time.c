/* The cuda device's time line: events of the stream; and names of what runs there, for NVIDIA's profilers. */
#include "base/bug.h"
#include "runtime/hal_cuda.h"

#include <stdlib.h>

static Status make_marks(CudaDevice *device, uint32_t n)
{
    CuEvent *larger = realloc(device->marks, n * sizeof *larger);
    if (!larger)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for %u events", n);
    device->marks = larger;
    while (device->n_marks < n)
    {
        CUDA_TRY(&device->driver, event_create(&larger[device->n_marks], 0), "making an event on cuda:%d",
                 device->index);
        device->n_marks++;
    }
    return STATUS_OK;
}

Status cuda_mark(HalDevice *base, uint32_t number)
{
    CudaDevice *device = (CudaDevice *)base;
    TRY(cuda_enter(device));
    if (number >= device->n_marks)
        TRY(make_marks(device, 2 * number + 64));
    CUDA_TRY(&device->driver, event_record(device->marks[number], device->stream), "taking the time on cuda:%d",
             device->index);
    return STATUS_OK;
}

Status cuda_mark_seconds(HalDevice *base, uint32_t from, uint32_t to, double *out_seconds)
{
    const CudaDevice *device = (const CudaDevice *)base;
    float ms = 0;
    ENSURE(from < device->n_marks && to < device->n_marks);
    TRY(cuda_enter(device));
    CUDA_TRY(&device->driver, event_synchronize(device->marks[to]), "waiting for work on cuda:%d", device->index);
    CUDA_TRY(&device->driver, event_elapsed(&ms, device->marks[from], device->marks[to]), "taking the time on cuda:%d",
             device->index);
    *out_seconds = 1e-3 * (double)ms;
    return STATUS_OK;
}

void cuda_marks_destroy(CudaDevice *device)
{
    for (uint32_t i = 0; i < device->n_marks; i++)
        device->driver.event_destroy(device->marks[i]);
    free(device->marks);
}

bool cuda_names_ranges(const HalDevice *base)
{
    return ((const CudaDevice *)base)->nvtx.library != NULL;
}

void cuda_range_begin(HalDevice *base, const char *name)
{
    ((const CudaDevice *)base)->nvtx.range_push(name);
}

void cuda_range_end(HalDevice *base)
{
    ((const CudaDevice *)base)->nvtx.range_pop();
}
