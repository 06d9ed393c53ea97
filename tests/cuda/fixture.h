/* What the tests of the cuda back end share. They run on the mocks that $PTC_CUDA_PATH names. */
#ifndef PTC_TESTS_CUDA_FIXTURE_H
#define PTC_TESTS_CUDA_FIXTURE_H

#include "runtime/hal.h"

/* The C++ compiler that the mock of NVRTC needs; false: there is none. */
bool fixture_has_compiler(void);
/* The kernels of a module in text. */
const IrModule *fixture_module(Arena *arena, const char *text);
/* Device "cuda"; a failure fails the test. */
HalDevice *fixture_device(void);
/* A folder with links to some of the mocks, under names of its own: "libcuda.so.1" or "libcuda.so.1=libnvrtc.so.13". It
 * becomes $PTC_CUDA_PATH until fixture_mocks_restore. */
void fixture_mocks_choose(const char *const *links, size_t n);
void fixture_mocks_restore(void);
/* Records calls from now on; what was recorded, in the arena. */
void fixture_log_start(void);
const char *fixture_log_stop(Arena *arena);
/* The status is wanted, with its exit code, and a detail that has all of the text. */
void fixture_expect(Status status, Status wanted, int exit_code, const char *text);

#endif
