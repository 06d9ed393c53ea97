/* Copies to the device beside its work: from pinned memory, on a stream of their own, to a place ahead of where they
 * are wanted; the stream of the work takes them from there. */
#include "runtime/hal_cuda.h"

#include <stdlib.h>

typedef struct
{
    CuEvent arrived; /* at `ahead` */
    CuEvent taken;   /* from there */
} CudaUpload;

static CudaDevice *device_of(const HalUpload *upload)
{
    return (CudaDevice *)upload->device;
}

static CuDevicePtr address(const void *memory)
{
    return (CuDevicePtr)(uintptr_t)memory;
}

Status cuda_upload_create(HalUpload *upload)
{
    CudaDevice *device = device_of(upload);
    const CudaDriver *driver = &device->driver;
    TRY(cuda_enter(device));
    if (!device->upload_stream)
        CUDA_TRY(driver, stream_create(&device->upload_stream, CUDA_STREAM_NON_BLOCKING),
                 "making a stream for uploads on cuda:%d", device->index);
    CUDA_TRY(driver, pinned_alloc(&upload->host, upload->most_bytes ? upload->most_bytes : 1, 0),
             "taking %zu bytes of pinned host memory", upload->most_bytes);
    CudaUpload *own = upload->own = calloc(1, sizeof *own);
    if (!own)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for an upload's record");
    CUDA_TRY(driver, event_create(&own->arrived, CUDA_EVENT_NO_TIMING), "making an event on cuda:%d", device->index);
    CUDA_TRY(driver, event_create(&own->taken, CUDA_EVENT_NO_TIMING), "making an event on cuda:%d", device->index);
    return STATUS_OK;
}

Status cuda_upload_start(HalUpload *upload, size_t size_bytes)
{
    const CudaDevice *device = device_of(upload);
    const CudaDriver *driver = &device->driver;
    const CuDevicePtr ahead = address(hal_buffer_address(upload->ahead));
    const CudaUpload *own = upload->own;
    TRY(cuda_enter(device));
    CUDA_TRY(driver, stream_wait(device->upload_stream, own->taken, 0), "ordering an upload");
    if (size_bytes)
        CUDA_TRY(driver, copy_to_device(ahead, upload->host, size_bytes, device->upload_stream),
                 "copying %zu bytes to the device", size_bytes);
    CUDA_TRY(driver, event_record(own->arrived, device->upload_stream), "ordering an upload");
    upload->size_bytes = size_bytes;
    return STATUS_OK;
}

Status cuda_upload_finish(HalUpload *upload)
{
    const CudaDevice *device = device_of(upload);
    const CudaDriver *driver = &device->driver;
    const CudaUpload *own = upload->own;
    TRY(cuda_enter(device));
    CUDA_TRY(driver, stream_wait(device->stream, own->arrived, 0), "ordering an upload");
    if (upload->size_bytes)
        CUDA_TRY(driver,
                 copy_on_device(address(upload->dst), address(hal_buffer_address(upload->ahead)), upload->size_bytes,
                                device->stream),
                 "copying %zu bytes on the device", upload->size_bytes);
    CUDA_TRY(driver, event_record(own->taken, device->stream), "ordering an upload");
    CUDA_TRY(driver, event_synchronize(own->arrived), "waiting for an upload");
    return STATUS_OK;
}

/* Also of one that was made in part. */
void cuda_upload_destroy(HalUpload *upload)
{
    CudaDevice *device = device_of(upload);
    const CudaDriver *driver = &device->driver;
    if (cuda_enter(device) != STATUS_OK)
        return;
    if (device->upload_stream)
        driver->stream_synchronize(device->upload_stream);
    CudaUpload *own = upload->own;
    if (own && own->arrived)
        driver->event_destroy(own->arrived);
    if (own && own->taken)
        driver->event_destroy(own->taken);
    free(own);
    if (upload->host)
        driver->pinned_free(upload->host);
}
