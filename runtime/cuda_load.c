#include "runtime/cuda_load.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum
{
    DRIVER_MIN_VERSION = 12000
};

typedef enum
{
    LIBRARY_driver,
    LIBRARY_nvrtc,
    LIBRARY_blaslt,
    LIBRARY_nccl,
    LIBRARY_nvtx
} Library;

static const struct
{
    Library library;
    const char *soname;
    int major;
} SONAMES[] = {
#define SONAME(library, soname, major) {LIBRARY_##library, soname, major},
#include "runtime/cuda_libraries.def"
#undef SONAME
};

static const char *const NEEDED[] = {
    [LIBRARY_driver] = "device 'cuda' needs an NVIDIA driver for CUDA 12.0 or later",
    [LIBRARY_nvrtc] = "compiling CUDA kernels needs NVRTC 12.0 or later (package cuda-nvrtc, or the CUDA toolkit)",
    [LIBRARY_blaslt] = "device 'cuda' needs cuBLASLt 12.0 or later (package libcublas, or the CUDA toolkit)",
    [LIBRARY_nccl] = "GPUs that exchange by themselves need NCCL 2.18 or later (package libnccl2)",
    [LIBRARY_nvtx] = "names for profilers need NVTX"};

/* An entry point and where it goes. */
typedef struct
{
    const char *symbol;
    void *to; /* a function pointer */
} Entry;

/* In one folder; "" leaves the search to the system. Loaded libraries stay: theirs have threads of their own. */
static void *load_from(const char *folder, size_t n, const char *soname)
{
    char path[4096];
    snprintf(path, sizeof path, "%.*s%s%s", (int)n, folder, n ? "/" : "", soname);
    return dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
}

static void *load(const char *soname)
{
    const char *folders = getenv("PTC_CUDA_PATH");
    void *library = NULL;
    if (!folders || !*folders)
    {
        static const char toolkit[] = "/usr/local/cuda/lib64";
        library = load_from("", 0, soname);
        return library ? library : load_from(toolkit, strlen(toolkit), soname);
    }
    while (*folders && !library)
    {
        const size_t n = strcspn(folders, ":");
        if (n)
            library = load_from(folders, n, soname);
        folders += n + (folders[n] == ':');
    }
    return library;
}

/* The first that is there and not newer than driver_version (0: any). */
static Status open_library(Library which, int driver_version, const Entry *entries, size_t n_entries,
                           void **out_library)
{
    const char *first = NULL, *too_new = NULL;
    for (size_t i = 0; i < sizeof SONAMES / sizeof *SONAMES; i++)
    {
        if (SONAMES[i].library != which)
            continue;
        first = first ? first : SONAMES[i].soname;
        void *library = load(SONAMES[i].soname);
        if (library && driver_version && SONAMES[i].major > driver_version / 1000)
        {
            too_new = SONAMES[i].soname;
            dlclose(library);
            continue;
        }
        if (!library)
            continue;
        *out_library = library;
        for (size_t e = 0; e < n_entries; e++)
        {
            void *address = dlsym(library, entries[e].symbol);
            if (!address)
                return status_fail(STATUS_DEVICE, "%s; %s here is older: it has no %s", NEEDED[which],
                                   SONAMES[i].soname, entries[e].symbol);
            memcpy(entries[e].to, &address, sizeof address);
        }
        return STATUS_OK;
    }
    if (too_new)
        return status_fail(STATUS_DEVICE,
                           "the NVIDIA driver is too old for %s: it supports CUDA up to %d.%d; a newer driver, or an "
                           "older toolkit, is needed",
                           too_new, driver_version / 1000, driver_version % 1000 / 10);
    const char *folders = getenv("PTC_CUDA_PATH");
    return status_fail(STATUS_DEVICE, "%s: %s was not found%s%s", NEEDED[which], first,
                       folders && *folders ? " in " : "", folders && *folders ? folders : "");
}

static void close_library(void **library)
{
    if (*library)
        dlclose(*library);
    *library = NULL;
}

Status cuda_driver_open(CudaDriver *d)
{
    *d = (CudaDriver){0};
    const Entry entries[] = {
#define ENTRY(returns, name, symbol, parameters) {symbol, &d->name},
#include "runtime/cuda_driver.def"
#undef ENTRY
    };
    Status status = open_library(LIBRARY_driver, 0, entries, sizeof entries / sizeof *entries, &d->library);
    if (status == STATUS_OK)
    {
        CuResult result = d->init(0);
        if (result == 0)
            result = d->driver_version(&d->version);
        if (result != 0)
            status = cuda_fail(d, result, "the NVIDIA driver does not start");
        else if (d->version < DRIVER_MIN_VERSION)
            status = status_fail(STATUS_DEVICE, "%s; the one here supports CUDA %d.%d", NEEDED[LIBRARY_driver],
                                 d->version / 1000, d->version % 1000 / 10);
    }
    if (status != STATUS_OK)
        cuda_driver_close(d);
    return status;
}

Status cuda_nvrtc_open(const CudaDriver *driver, CudaNvrtc *n)
{
    *n = (CudaNvrtc){0};
    const Entry entries[] = {
#define ENTRY(returns, name, symbol, parameters) {symbol, &n->name},
#include "runtime/cuda_nvrtc.def"
#undef ENTRY
    };
    int major, minor;
    Status status = open_library(LIBRARY_nvrtc, driver ? driver->version : 0, entries, sizeof entries / sizeof *entries,
                                 &n->library);
    if (status == STATUS_OK && n->get_version(&major, &minor) != 0)
        status = status_fail(STATUS_DEVICE, "NVRTC does not say its version");
    if (status == STATUS_OK)
        n->version = major * 1000 + minor * 10;
    else
        cuda_nvrtc_close(n);
    return status;
}

Status cuda_blaslt_open(const CudaDriver *driver, CudaBlasLt *b)
{
    *b = (CudaBlasLt){0};
    const Entry entries[] = {
#define ENTRY(returns, name, symbol, parameters) {symbol, &b->name},
#include "runtime/cuda_blaslt.def"
#undef ENTRY
    };
    Status status =
        open_library(LIBRARY_blaslt, driver->version, entries, sizeof entries / sizeof *entries, &b->library);
    if (status == STATUS_OK)
        b->version = (int)b->get_version();
    else
        cuda_blaslt_close(b);
    return status;
}

Status cuda_nccl_open(CudaNccl *n)
{
    *n = (CudaNccl){0};
    const Entry entries[] = {
#define ENTRY(returns, name, symbol, parameters) {symbol, &n->name},
#include "runtime/cuda_nccl.def"
#undef ENTRY
    };
    Status status = open_library(LIBRARY_nccl, 0, entries, sizeof entries / sizeof *entries, &n->library);
    if (status == STATUS_OK && n->get_version(&n->version) != 0)
        status = status_fail(STATUS_DEVICE, "NCCL does not say its version");
    if (status == STATUS_OK && n->version < NCCL_VERSION_2_18)
        status = status_fail(STATUS_DEVICE, "%s; the one here is %d.%d", NEEDED[LIBRARY_nccl], n->version / 10000,
                             n->version % 10000 / 100);
    if (status != STATUS_OK)
        cuda_nccl_close(n);
    return status;
}

void cuda_nvtx_open(CudaNvtx *n)
{
    *n = (CudaNvtx){0};
    const Entry entries[] = {
#define ENTRY(returns, name, symbol, parameters) {symbol, &n->name},
#include "runtime/cuda_nvtx.def"
#undef ENTRY
    };
    if (open_library(LIBRARY_nvtx, 0, entries, sizeof entries / sizeof *entries, &n->library) != STATUS_OK)
        cuda_nvtx_close(n);
}

void cuda_driver_close(CudaDriver *driver)
{
    close_library(&driver->library);
}

void cuda_nvrtc_close(CudaNvrtc *nvrtc)
{
    close_library(&nvrtc->library);
}

void cuda_blaslt_close(CudaBlasLt *blaslt)
{
    close_library(&blaslt->library);
}

void cuda_nccl_close(CudaNccl *nccl)
{
    close_library(&nccl->library);
}

void cuda_nvtx_close(CudaNvtx *nvtx)
{
    close_library(&nvtx->library);
}

/* ---- errors and devices */

Status cuda_fail(const CudaDriver *driver, CuResult result, const char *format, ...)
{
    static const struct
    {
        CuResult code;
        Status status;
        const char *advice;
    } errors[] = {
#define CUDA_ERROR(code, status, advice) {code, STATUS_##status, advice},
#include "runtime/cuda_errors.def"
#undef CUDA_ERROR
    };
    Status status = STATUS_DEVICE;
    const char *advice = "", *name = NULL, *text = NULL;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == result)
        {
            status = errors[i].status;
            advice = errors[i].advice;
        }
    if (driver->error_name(result, &name) != 0 || driver->error_text(result, &text) != 0)
        name = text = NULL;
    char what[512];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return status_fail(status, "%s: %s (%d, %s)%s%s", what, name ? name : "CUDA error", result,
                       text ? text : "of unknown meaning", *advice ? ": " : "", advice);
}

Status cuda_find_device(const CudaDriver *driver, int index, CuDevice *out_device, int *out_arch)
{
    int n = 0, major = 0, minor = 0;
    CUDA_TRY(driver, device_count(&n), "counting CUDA devices");
    if (n == 0)
        return status_fail(STATUS_DEVICE, "there is no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it");
    if (index >= n)
        return status_fail(STATUS_DEVICE, "there is no device 'cuda:%d': the last one is cuda:%d", index, n - 1);
    CUDA_TRY(driver, device_get(out_device, index), "finding cuda:%d", index);
    CUDA_TRY(driver, device_attribute(&major, CUDA_CAPABILITY_MAJOR, *out_device), "asking cuda:%d", index);
    CUDA_TRY(driver, device_attribute(&minor, CUDA_CAPABILITY_MINOR, *out_device), "asking cuda:%d", index);
    *out_arch = major * 10 + minor;
    return STATUS_OK;
}
