/* CUDA's libraries, loaded when a program asks for a device of theirs: one table of entry points each.
 *
 * They are looked for by the names in cuda_libraries.def, in the folders of $PTC_CUDA_PATH (separated by colons) and
 * nowhere else when it is set; else as the system's loader does, then in /usr/local/cuda/lib64. What is missing or too
 * old is STATUS_DEVICE, with one sentence that says what to install. */
#ifndef PTC_RUNTIME_CUDA_LOAD_H
#define PTC_RUNTIME_CUDA_LOAD_H

#include "base/status.h"
#include "runtime/cuda_abi.h"

#define ENTRY(returns, name, symbol, parameters) returns(*name) parameters;
typedef struct
{
    void *library;
    int version; /* of CUDA, as the driver counts: 13000 is 13.0 */
#include "runtime/cuda_driver.def"
} CudaDriver;

typedef struct
{
    void *library;
    int version;
#include "runtime/cuda_nvrtc.def"
} CudaNvrtc;

typedef struct
{
    void *library;
    int version;
#include "runtime/cuda_blaslt.def"
} CudaBlasLt;

typedef struct
{
    void *library;
    int version; /* 22809 is 2.28.9 */
#include "runtime/cuda_nccl.def"
} CudaNccl;

typedef struct
{
    void *library; /* NULL: it is not there, and neither are the functions */
#include "runtime/cuda_nvtx.def"
} CudaNvtx;
#undef ENTRY

/* The driver, initialised. */
Status cuda_driver_open(CudaDriver *out_driver);
/* Not newer than the driver in the first number of the version; NVRTC without a driver (NULL): any. */
Status cuda_nvrtc_open(const CudaDriver *driver, CudaNvrtc *out_nvrtc);
Status cuda_blaslt_open(const CudaDriver *driver, CudaBlasLt *out_blaslt);
/* 2.18 or later. */
Status cuda_nccl_open(CudaNccl *out_nccl);
/* It may be missing. */
void cuda_nvtx_open(CudaNvtx *out_nvtx);
/* Zeroed tables are allowed. */
void cuda_driver_close(CudaDriver *driver);
void cuda_nvrtc_close(CudaNvrtc *nvrtc);
void cuda_blaslt_close(CudaBlasLt *blaslt);
void cuda_nccl_close(CudaNccl *nccl);
void cuda_nvtx_close(CudaNvtx *nvtx);

/* "WHAT: CUDA_ERROR_X (its text)", with the advice of cuda_errors.def. */
__attribute__((format(printf, 3, 4))) Status cuda_fail(const CudaDriver *driver, CuResult result, const char *format,
                                                       ...);

/* Device index, and its architecture: 90 for sm_90. An index that is not there is STATUS_DEVICE. */
Status cuda_find_device(const CudaDriver *driver, int index, CuDevice *out_device, int *out_arch);

/* driver->call, and on failure what it was for. */
#define CUDA_TRY(driver, call, ...)                                                                                    \
    do                                                                                                                 \
    {                                                                                                                  \
        CuResult cuda_result_ = (driver)->call;                                                                        \
        if (cuda_result_ != 0)                                                                                         \
            return cuda_fail(driver, cuda_result_, __VA_ARGS__);                                                       \
    } while (0)

#endif
