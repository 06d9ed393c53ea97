/* CUDA graphs: what is launched while the stream captures. Arguments of kernels are copied as they are then, so they
 * are addresses and numbers that never change; the workspace's address may, and makes a graph stale. */
#include "runtime/hal_cuda.h"

#include <stdlib.h>

struct HalGraph
{
    CuGraphExec exec;
    CuDevicePtr workspace; /* that its kernels and contractions have */
};

Status cuda_record_begin(HalDevice *base)
{
    const CudaDevice *device = (const CudaDevice *)base;
    TRY(cuda_enter(device));
    CUDA_TRY(&device->driver, capture_begin(device->stream, CUDA_CAPTURE_RELAXED), "capturing the stream of cuda:%d",
             device->index);
    return STATUS_OK;
}

static Status instantiate(const CudaDevice *device, CuGraph captured, HalGraph *graph)
{
    CUDA_TRY(&device->driver, graph_instantiate(&graph->exec, captured, 0), "instantiating a graph on cuda:%d",
             device->index);
    return STATUS_OK;
}

Status cuda_record_end(HalDevice *base, HalGraph **out_graph)
{
    const CudaDevice *device = (const CudaDevice *)base;
    CuGraph captured = NULL;
    CUDA_TRY(&device->driver, capture_end(device->stream, &captured), "capturing the stream of cuda:%d", device->index);
    HalGraph *graph = calloc(1, sizeof *graph);
    Status status = STATUS_OK;
    if (graph)
        status = instantiate(device, captured, graph);
    else
        status = status_fail(STATUS_OUT_OF_MEMORY, "no memory for a graph's record");
    device->driver.graph_destroy(captured);
    if (status != STATUS_OK)
    {
        free(graph);
        return status;
    }
    graph->workspace = device->workspace;
    *out_graph = graph;
    return STATUS_OK;
}

/* Nothing when nothing is captured: begin or end may have failed. */
void cuda_record_drop(HalDevice *base)
{
    const CudaDevice *device = (const CudaDevice *)base;
    CuGraph captured = NULL;
    if (device->driver.capture_end(device->stream, &captured) == 0 && captured)
        device->driver.graph_destroy(captured);
}

Status cuda_graph_run(HalDevice *base, const HalGraph *graph)
{
    const CudaDevice *device = (const CudaDevice *)base;
    TRY(cuda_enter(device));
    CUDA_TRY(&device->driver, graph_launch(graph->exec, device->stream), "launching a graph on cuda:%d", device->index);
    return STATUS_OK;
}

bool cuda_graph_is_stale(const HalDevice *base, const HalGraph *graph)
{
    return graph->workspace != ((const CudaDevice *)base)->workspace;
}

/* Waits: it may be under way. */
void cuda_graph_destroy(HalDevice *base, HalGraph *graph)
{
    const CudaDevice *device = (const CudaDevice *)base;
    device->driver.context_set(device->context);
    device->driver.stream_synchronize(device->stream);
    device->driver.graph_exec_destroy(graph->exec);
    free(graph);
}
