/* libcuda on the host: memory is the host's, kernels are those of mock_nvrtc.c. Streams are in mock_stream.c. */
#include "mock.h"

#include <dlfcn.h>
#include <unistd.h>

enum
{
    ALIGNMENT = 256,
    INVALID_VALUE = 1,
    INVALID_IMAGE = 200,
    NO_CONTEXT = 201,
    NOT_FOUND = 500,
    LAUNCH_FAILED = 719,
    MAX_BUFFERS = 64
};

struct CUmod_st
{
    void *library;
};

typedef void Entry(void **pointers, char *workspace, uint32_t stream);
typedef const char *Run(Entry *entry, unsigned grid, unsigned block, unsigned smem_bytes, void **pointers,
                        char *workspace, uint32_t stream, int order);
struct CUfunc_st
{
    char name[256];
    Entry *entry;
    Run *run;
    uint32_t n_buffers;
    unsigned smem_bytes; /* at most, for a launch */
};

static struct CUctx_st
{
    int device, n_users;
} contexts[16];
static _Thread_local struct CUctx_st *current;
static size_t used_bytes;

static size_t total_bytes(void)
{
    const char *text = getenv("MOCK_CUDA_MEMORY"), *device = text ? strchr(text, ':') : NULL;
    const int is_other = device && (!current || current->device != atoi(device + 1));
    return is_other ? (size_t)1 << 32 : (size_t)mock_number("MOCK_CUDA_MEMORY", 1L << 32);
}

EXPORT CuResult cuInit(unsigned flags)
{
    MOCK("cuInit", "%u", flags);
    return 0;
}

EXPORT CuResult cuDriverGetVersion(int *version)
{
    MOCK("cuDriverGetVersion", " ");
    *version = (int)mock_number("MOCK_CUDA_VERSION", 13000);
    return 0;
}

EXPORT CuResult cuGetErrorName(CuResult result, const char **text)
{
    static _Thread_local char name[32];
    snprintf(name, sizeof name, "MOCK_ERROR_%d", result);
    *text = name;
    return 0;
}

EXPORT CuResult cuGetErrorString(CuResult result, const char **text)
{
    (void)result;
    *text = "as the test asked";
    return 0;
}

EXPORT CuResult cuDeviceGetCount(int *count)
{
    MOCK("cuDeviceGetCount", " ");
    *count = (int)mock_number("MOCK_CUDA_DEVICES", 2);
    return 0;
}

EXPORT CuResult cuDeviceGet(CuDevice *device, int index)
{
    MOCK("cuDeviceGet", "%d", index);
    *device = index;
    return 0;
}

EXPORT CuResult cuDeviceGetName(char *name, int size, CuDevice device)
{
    MOCK("cuDeviceGetName", "%d", device);
    const char *own = getenv("MOCK_CUDA_NAME");
    snprintf(name, (size_t)size, "%s", own ? own : "Mock GPU");
    return 0;
}

EXPORT CuResult cuDeviceGetPCIBusId(char *bus, int size, CuDevice device)
{
    MOCK("cuDeviceGetPCIBusId", "%d", device);
    snprintf(bus, (size_t)size, "0000:%02x:00.0", device + 1);
    return 0;
}

EXPORT CuResult cuDeviceGetAttribute(int *value, int attribute, CuDevice device)
{
    MOCK("cuDeviceGetAttribute", "%d of %d", attribute, device);
    const int arch = (int)mock_number("MOCK_CUDA_ARCH", 90);
    *value = attribute == CUDA_CAPABILITY_MAJOR ? arch / 10 : arch % 10;
    return 0;
}

EXPORT CuResult cuDevicePrimaryCtxRetain(CuContext *context, CuDevice device)
{
    MOCK("cuDevicePrimaryCtxRetain", "%d", device);
    *context = &contexts[device];
    contexts[device].device = device;
    contexts[device].n_users++;
    return 0;
}

EXPORT CuResult cuDevicePrimaryCtxRelease_v2(CuDevice device)
{
    MOCK("cuDevicePrimaryCtxRelease_v2", "%d", device);
    contexts[device].n_users--;
    return 0;
}

EXPORT CuResult cuCtxSetCurrent(CuContext context)
{
    current = context;
    return 0;
}

/* ptc does not call it: the mock of NCCL does. */
EXPORT CuResult cuCtxGetDevice(CuDevice *device)
{
    *device = current ? current->device : 0;
    return current ? 0 : NO_CONTEXT;
}

/* ---- memory: a header before each piece has its size; what is lent holds no zeros */

EXPORT CuResult cuMemGetInfo_v2(size_t *free_bytes, size_t *all_bytes)
{
    MOCK("cuMemGetInfo_v2", " ");
    *all_bytes = total_bytes();
    *free_bytes = *all_bytes - used_bytes;
    return 0;
}

EXPORT CuResult cuMemAlloc_v2(CuDevicePtr *address, size_t size_bytes)
{
    MOCK("cuMemAlloc_v2", "%zu", size_bytes);
    if (!current || current->n_users < 1)
        return NO_CONTEXT;
    if (size_bytes > total_bytes() - used_bytes)
        return CUDA_OUT_OF_MEMORY;
    const size_t whole = ALIGNMENT + (size_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    char *memory = aligned_alloc(ALIGNMENT, whole);
    for (size_t i = 0; i < whole / 4; i++) /* what others may have left: NaNs, and what could be ids of rows */
        ((uint32_t *)(void *)memory)[i] = i % 2 ? 0xFFFFFFFFu : (uint32_t)(i / 2 % 7);
    memcpy(memory, &size_bytes, sizeof size_bytes);
    used_bytes += size_bytes;
    *address = (CuDevicePtr)(uintptr_t)(memory + ALIGNMENT);
    return 0;
}

EXPORT CuResult cuMemFree_v2(CuDevicePtr address)
{
    MOCK("cuMemFree_v2", " ");
    char *memory = (char *)(uintptr_t)address - ALIGNMENT;
    size_t size_bytes;
    memcpy(&size_bytes, memory, sizeof size_bytes);
    used_bytes -= size_bytes;
    free(memory);
    return 0;
}

EXPORT CuResult cuMemHostAlloc(void **address, size_t size_bytes, unsigned flags)
{
    MOCK("cuMemHostAlloc", "%zu %u", size_bytes, flags);
    *address = malloc(size_bytes);
    return 0;
}

EXPORT CuResult cuMemFreeHost(void *address)
{
    MOCK("cuMemFreeHost", " ");
    free(address);
    return 0;
}

/* ---- kernels */

/* A function's record is found by its symbol in the list of the module. */
struct CUfunc_list
{
    struct CUfunc_st function;
    struct CUmod_st *module;
    struct CUfunc_list *next;
};
static struct CUfunc_list *functions;

EXPORT CuResult cuModuleLoadData(CuModule *module, const void *image)
{
    MOCK("cuModuleLoadData", " ");
    MockCubin head;
    memcpy(&head, image, sizeof head);
    if (memcmp(head.magic, MOCK_CUBIN_MAGIC, sizeof head.magic) != 0)
        return INVALID_IMAGE;
    char path[] = "/tmp/ptc-mock-module-XXXXXX";
    const int file = mkstemp(path);
    if (file < 0 || write(file, (const char *)image + sizeof head, head.size_bytes) != (ssize_t)head.size_bytes)
        return INVALID_IMAGE;
    close(file);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    unlink(path);
    if (!library)
        return INVALID_IMAGE;
    *module = malloc(sizeof **module);
    (*module)->library = library;
    return 0;
}

EXPORT CuResult cuModuleUnload(CuModule module)
{
    MOCK("cuModuleUnload", " ");
    for (struct CUfunc_list **at = &functions; *at;)
    {
        struct CUfunc_list *function = *at;
        if (function->module == module)
        {
            *at = function->next;
            free(function);
        }
        else
            at = &function->next;
    }
    dlclose(module->library);
    free(module);
    return 0;
}

EXPORT CuResult cuModuleGetFunction(CuFunction *out, CuModule module, const char *name)
{
    MOCK("cuModuleGetFunction", "%s", name);
    char symbol[300];
    struct CUfunc_list *record = calloc(1, sizeof *record);
    struct CUfunc_st *function = &record->function;
    snprintf(function->name, sizeof function->name, "%s", name);
    snprintf(symbol, sizeof symbol, "call_%s", name);
    *(void **)&function->entry = dlsym(module->library, symbol);
    *(void **)&function->run = dlsym(module->library, "shim_run");
    snprintf(symbol, sizeof symbol, "n_buffers_%s", name);
    const uint32_t *n_buffers = dlsym(module->library, symbol);
    if (!function->entry || !function->run || !n_buffers)
    {
        free(record);
        return NOT_FOUND;
    }
    function->n_buffers = *n_buffers;
    function->smem_bytes = 48 * 1024;
    record->module = module;
    record->next = functions;
    functions = record;
    *out = function;
    return 0;
}

EXPORT CuResult cuFuncSetAttribute(CuFunction function, int attribute, int value)
{
    MOCK("cuFuncSetAttribute", "%s %d %d", function->name, attribute, value);
    if (attribute != CUDA_FUNCTION_MAX_SMEM || value > 227 * 1024)
        return INVALID_VALUE;
    function->smem_bytes = (unsigned)value;
    return 0;
}

typedef struct
{
    const struct CUfunc_st *function;
    unsigned grid, block, smem_bytes;
    void *buffers[MAX_BUFFERS];
    char *workspace;
    uint32_t number;
} Launch;

static CuResult launch(const void *args)
{
    const Launch *l = args;
    void *buffers[MAX_BUFFERS];
    memcpy(buffers, l->buffers, sizeof buffers);
    return l->function->run(l->function->entry, l->grid, l->block, l->smem_bytes, buffers, l->workspace, l->number, 0)
               ? LAUNCH_FAILED
               : 0;
}

EXPORT CuResult cuLaunchKernel(CuFunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                               unsigned block_y, unsigned block_z, unsigned smem_bytes, CuStream stream,
                               void **parameters, void **extra)
{
    MOCK("cuLaunchKernel", "%s grid %u %u %u block %u %u %u smem %u", function->name, grid_x, grid_y, grid_z, block_x,
         block_y, block_z, smem_bytes);
    (void)extra;
    Launch l = {.function = function, .grid = grid_x, .block = block_x, .smem_bytes = smem_bytes};
    if (smem_bytes > function->smem_bytes)
        return INVALID_VALUE;
    if (function->n_buffers > MAX_BUFFERS)
        return LAUNCH_FAILED;
    for (uint32_t i = 0; i < function->n_buffers; i++)
        memcpy(&l.buffers[i], parameters[i], sizeof l.buffers[i]);
    memcpy(&l.workspace, parameters[function->n_buffers], sizeof l.workspace);
    memcpy(&l.number, parameters[function->n_buffers + 1], sizeof l.number);
    return mock_stream_do(stream, launch, &l, sizeof l, 0.25);
}
