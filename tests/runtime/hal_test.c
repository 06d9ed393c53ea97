/* One conformance suite over every row of backends.def. A back end that computes must also be right. A device that is
 * not here is a skip (with REQUIRE_CUDA=1: a failure); tests/cuda runs the suite on a mock of one. argv[1]: the shared
 * object of hal_kernels.c; argv[2]: the same with a wrong ABI version. */
#include "harness/test.h"

#include "ir/text.h"
#include "runtime/hal.h"

#include <stdlib.h>
#include <string.h>

enum
{
    N = 1000
};

static const char *kernels_path;
static const char *wrong_abi_path;

static HalDevice *device_open(const char *name)
{
    HalDevice *device = NULL;
    HalOptions options = {.n_threads = 2};
    const Status status = hal_device_create(name, &options, &device);
    if (status == STATUS_DEVICE && !getenv("REQUIRE_CUDA"))
        TEST_SKIP("device %s: %s", name, status_detail());
    if (status != STATUS_OK)
        fail_msg("%s", status_detail());
    assert_string_equal(hal_device_name(device), name);
    return device;
}

static void buffers_and_copies(HalDevice *device)
{
    HalBuffer *buffer = NULL;
    assert_int_equal(hal_buffer_create(device, 3 * 4096 + 5, &buffer), STATUS_OK);
    char *base = hal_buffer_address(buffer);
    assert_int_equal((uintptr_t)base % 64, 0);
    char out[100];
    char in[100];
    memset(out, 1, sizeof out);
    for (int i = 0; i < 100; i++)
        in[i] = (char)(i * 7);
    assert_int_equal(hal_copy(device, HAL_COPY_FROM_DEVICE, out, base + 4096, sizeof out), STATUS_OK);
    for (int i = 0; i < 100; i++)
        assert_int_equal(out[i], 0);
    assert_int_equal(hal_copy(device, HAL_COPY_TO_DEVICE, base, in, sizeof in), STATUS_OK);
    assert_int_equal(hal_copy(device, HAL_COPY_ON_DEVICE, base + 8192, base, sizeof in), STATUS_OK);
    assert_int_equal(hal_copy(device, HAL_COPY_FROM_DEVICE, out, base + 8192, sizeof out), STATUS_OK);
    assert_memory_equal(out, in, sizeof in);
    assert_int_equal(hal_copy(device, HAL_COPY_TO_DEVICE, base, in, 0), STATUS_OK);

    HalBuffer *empty = NULL;
    assert_int_equal(hal_buffer_create(device, 0, &empty), STATUS_OK);
    HalMemoryInfo info = hal_memory_info(device);
    assert_int_equal(info.buffer_bytes, 3 * 4096 + 5);
    assert_true(info.total_bytes > 0 && info.free_bytes > 0 && info.free_bytes <= info.total_bytes);
    hal_buffer_destroy(buffer);
    hal_buffer_destroy(empty);
    hal_buffer_destroy(NULL);
    info = hal_memory_info(device);
    assert_int_equal(info.buffer_bytes, 0);
    assert_int_equal(info.peak_buffer_bytes, 3 * 4096 + 5);
}

static void too_much_memory_is_refused(HalDevice *device)
{
    HalBuffer *buffer = NULL;
    assert_int_equal(hal_buffer_create(device, SIZE_MAX / 4, &buffer), STATUS_OUT_OF_MEMORY);
    assert_null(buffer);
    assert_int_equal(hal_memory_info(device).buffer_bytes, 0);
}

/* A table of the kernels of hal_kernels.c, beside the object. */
static const char *table_of(Arena *arena, const char *so_path)
{
    const char *path = arena_printf(arena, "%s.kernels", so_path), *name = strrchr(so_path, '/') + 1;
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "ptc host kernels 2\nadd %s add\nsum %s sum\n", name, name);
    fclose(file);
    return path;
}

static const char *kernels_for(Arena *arena, HalDevice *device)
{
    static const char text[] =
        "module \"contract\"\n\n"
        "func kernel @add {\n  %0 = arg : f32[1000]\n  %1 = arg : f32[1000]\n  %2 = add %0, %1 : f32[1000]\n"
        "  output %2\n}\n\n"
        "func kernel @sum {\n  %0 = arg : f32[1000]\n  %1 = reduce_sum %0 {axes=[0]} : f32[]\n  output %1\n}\n";
    if (hal_device_uses_host_memory(device))
        return table_of(arena, kernels_path);
    Diag *diag = diag_create(arena);
    const IrModule *m =
        ir_parse_module(arena, diag, diag_add_file(diag, "contract", text, strlen(text)), text, strlen(text));
    HalKernelFile file;
    assert_non_null(m);
    if (hal_kernels_build(arena, hal_device_name(device), &m, 1, 1, &file) != STATUS_OK)
        fail_msg("%s", status_detail());
    return file.path;
}

/* What was recorded does not run before it is replayed. */
static void replays(HalDevice *device, const HalKernel *add, const HalKernel *sum, float *x)
{
    HalGraph *graph = NULL;
    float total = -1;
    if (!hal_device_records(device))
        return;
    assert_int_equal(hal_copy(device, HAL_COPY_TO_DEVICE, x + 3 * N, &total, sizeof total), STATUS_OK);
    assert_int_equal(hal_record_begin(device), STATUS_OK);
    assert_int_equal(hal_launch(device, add, (void *[]){x, x + N, x + 2 * N}, 3), STATUS_OK);
    assert_int_equal(hal_launch(device, sum, (void *[]){x + 2 * N, x + 3 * N}, 2), STATUS_OK);
    assert_int_equal(hal_record_end(device, &graph), STATUS_OK);
    assert_int_equal(hal_copy(device, HAL_COPY_FROM_DEVICE, &total, x + 3 * N, sizeof total), STATUS_OK);
    assert_true(total == -1);
    assert_false(hal_graph_is_stale(device, graph));
    assert_int_equal(hal_graph_run(device, graph), STATUS_OK);
    hal_graph_destroy(device, graph);
    hal_graph_destroy(device, NULL);
}

/* x | y | sum of both | total */
static void kernels_run(HalDevice *device)
{
    Arena *arena = arena_create();
    HalBuffer *buffer = NULL;
    HalExecutable *executable = NULL;
    const HalKernel *add = NULL;
    const HalKernel *sum = NULL;
    assert_int_equal(hal_buffer_create(device, (3 * N + 1) * sizeof(float), &buffer), STATUS_OK);
    assert_int_equal(hal_executable_load(device, kernels_for(arena, device), &executable), STATUS_OK);
    assert_int_equal(hal_executable_kernel(executable, "add", &add), STATUS_OK);
    assert_int_equal(hal_executable_kernel(executable, "sum", &sum), STATUS_OK);
    float *x = hal_buffer_address(buffer);
    float host[2 * N];
    for (int i = 0; i < 2 * N; i++)
        host[i] = (float)i;
    assert_int_equal(hal_copy(device, HAL_COPY_TO_DEVICE, x, host, sizeof host), STATUS_OK);
    assert_int_equal(hal_mark(device, 200), STATUS_OK);
    for (int round = 0; round < 100; round++)
    {
        assert_int_equal(hal_launch(device, add, (void *[]){x, x + N, x + 2 * N}, 3), STATUS_OK);
        assert_int_equal(hal_launch(device, sum, (void *[]){x + 2 * N, x + 3 * N}, 2), STATUS_OK);
    }
    assert_int_equal(hal_mark(device, 0), STATUS_OK);
    double seconds = -1;
    assert_int_equal(hal_mark_seconds(device, 200, 0, &seconds), STATUS_OK);
    assert_true(hal_device_computes(device) ? seconds > 0 : seconds >= 0);
    replays(device, add, sum, x);
    assert_int_equal(hal_sync(device), STATUS_OK);
    float total = -1;
    assert_int_equal(hal_copy(device, HAL_COPY_FROM_DEVICE, &total, x + 3 * N, sizeof total), STATUS_OK);
    /* 0 + 1 + ... + 1999, rounded in the course of ten chunks */
    float expected = hal_device_computes(device) ? 1999.0f * 1000 : 0;
    assert_true(total >= expected * 0.999999f && total <= expected * 1.000001f);
    hal_executable_unload(executable);
    hal_executable_unload(NULL);
    hal_buffer_destroy(buffer);
    arena_destroy(arena);
}

static void gemm_runs(HalDevice *device)
{
    HalBuffer *buffer = NULL;
    assert_int_equal(hal_buffer_create(device, 48 * sizeof(float), &buffer), STATUS_OK);
    float *a = hal_buffer_address(buffer); /* operands at multiples of 64 bytes */
    const float host[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    GemmDesc desc = gemm_desc_make(2, 2, 2, false, true);
    const HalGemm *gemm = NULL;
    const HalGemm *again = NULL;
    assert_int_equal(hal_gemm_create(device, &desc, &gemm), STATUS_OK);
    assert_int_equal(hal_gemm_create(device, &desc, &again), STATUS_OK);
    assert_ptr_equal(gemm, again);
    assert_int_equal(hal_copy(device, HAL_COPY_TO_DEVICE, a, host, 4 * sizeof *host), STATUS_OK);
    assert_int_equal(hal_copy(device, HAL_COPY_TO_DEVICE, a + 16, host + 4, 4 * sizeof *host), STATUS_OK);
    GemmArgs args = {.a = a, .b = a + 16, .c = a + 32};
    assert_int_equal(hal_gemm_run(device, gemm, &args), STATUS_OK);
    float out[4];
    assert_int_equal(hal_copy(device, HAL_COPY_FROM_DEVICE, out, a + 32, sizeof out), STATUS_OK);
    const float expected[4] = {17, 23, 39, 53};
    const float zeros[4] = {0};
    assert_memory_equal(out, hal_device_computes(device) ? expected : zeros, sizeof out);
    hal_buffer_destroy(buffer);
}

static void bad_executables_are_refused(HalDevice *device)
{
    if (!hal_device_computes(device))
        return; /* the contract: a device that does not compute accepts any path and name */
    Arena *arena = arena_create();
    HalExecutable *executable = NULL;
    assert_int_equal(hal_executable_load(device, "/nonexistent/kernels", &executable), STATUS_DEVICE);
    assert_int_equal(hal_executable_load(device, wrong_abi_path, &executable), STATUS_DEVICE);
    if (hal_device_uses_host_memory(device))
    {
        assert_non_null(strstr(status_detail(), "is no table of kernels"));
        assert_int_equal(hal_executable_load(device, table_of(arena, wrong_abi_path), &executable), STATUS_DEVICE);
        assert_non_null(strstr(status_detail(), "ABI"));
    }
    assert_null(executable);
    assert_int_equal(hal_executable_load(device, kernels_for(arena, device), &executable), STATUS_OK);
    const HalKernel *kernel = NULL;
    assert_int_equal(hal_executable_kernel(executable, "no such", &kernel), STATUS_DEVICE);
    assert_true(hal_memory_info(device).workspace_bytes > 0);
    hal_executable_unload(executable);
    arena_destroy(arena);
}

static void back_end_conforms(void **state)
{
    const char *name = *state;
    HalDevice *device = device_open(name);
    buffers_and_copies(device);
    too_much_memory_is_refused(device);
    kernels_run(device);
    gemm_runs(device);
    bad_executables_are_refused(device);
    hal_device_destroy(device);
}

static void unknown_device_is_refused(void **state)
{
    (void)state;
    HalDevice *device = NULL;
    assert_int_equal(hal_device_create("gpu9000", NULL, &device), STATUS_BAD_INPUT);
    assert_non_null(strstr(status_detail(), "cpu"));
    assert_int_equal(hal_device_create("cpu", NULL, &device), STATUS_OK);
    hal_device_destroy(device);
    hal_device_destroy(NULL);
}

int main(int argc, char **argv)
{
    if (argc != 3)
    {
        fprintf(stderr, "usage: %s KERNELS.so WRONG_ABI.so\n", argv[0]);
        return 2;
    }
    kernels_path = argv[1];
    wrong_abi_path = argv[2];
    const struct CMUnitTest tests[] = {
#define BACKEND(name, computes, memory, summary)                                                                       \
    {"conforms: " #name, back_end_conforms, NULL, NULL, (void *)(uintptr_t) #name},
#include "runtime/backends.def"
#undef BACKEND
        cmocka_unit_test(unknown_device_is_refused),
    };
    return cmocka_run_group_tests_name("hal", tests, NULL, NULL);
}
