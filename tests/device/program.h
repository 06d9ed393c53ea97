/* What the device tests share: modules side by side in one, compiled once, run on a device and by the interpreter. */
#ifndef PTC_TESTS_DEVICE_PROGRAM_H
#define PTC_TESTS_DEVICE_PROGRAM_H

#include "ir/interp.h"
#include "ir/module.h"
#include "runtime/executor.h"

/* Copies all globals and step functions of `from` into `into`, their names with the prefix before them. */
void device_module_append(IrModule *into, const IrModule *from, const char *prefix);

typedef struct
{
    const IrModule *before; /* the oracle's */
    IrModule *m;            /* planned */
    Arena *m_arena;
} DeviceProgram;

/* Runs the passes on a copy of m and checks that each kernel can be generated. Failures fail the cmocka test; m must
 * outlive the program. */
DeviceProgram device_program_build(Arena *arena, const IrModule *m, const char *passes);
void device_program_destroy(DeviceProgram *program);

/* STATUS_OK, or the test is skipped when the device is absent (with REQUIRE_CUDA=1: fails). */
HalDevice *device_open(const char *backend, int n_threads);
/* Compiles the kernels for the device. */
Executor *device_executor(HalDevice *device, const DeviceProgram *program);
/* The same, taking over params and states. */
Executor *device_executor_from(HalDevice *device, const DeviceProgram *program, ExecutorTensors *from);

/* Globals of m between the interpreter's doubles and a device's storage. */
void device_write_global(Executor *executor, const IrModule *m, IrGlobal global, const double *values);
void device_read_global(Executor *executor, const IrModule *m, IrGlobal global, double *out_values);

#endif
