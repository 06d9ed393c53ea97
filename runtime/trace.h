/* Timelines of traced steps, merged over ranks, in the Chrome trace format (chrome://tracing, Perfetto): a process per
 * rank, a row for its kernels and one for its communication, an event per op, named by kernel or op, with its unit, its
 * place in the XML and its micro-batch. The simulated ones of passes/pipeline.h are in the same format. */
#ifndef PTC_RUNTIME_TRACE_H
#define PTC_RUNTIME_TRACE_H

#include "runtime/comm.h"
#include "runtime/executor.h"

/* Writes the events of all ranks (world NULL: of this one) to path, on rank 0. place: what this rank is,
 * "stage 0 of replica 1". Collective. IO when the file cannot be written. */
Status trace_write(const char *path, const Executor *executor, Comm *world, const char *place);

#endif
