/* The cuda device on mocks: libraries that are missing or too old, devices that are not there, memory, copies, failures
 * of the driver. Each with its message and exit code. */
#include "harness/test.h"

#include "fixture.h"

#include <stdlib.h>
#include <string.h>

static Status create(const char *name)
{
    HalDevice *device = NULL;
    const Status status = hal_device_create(name, NULL, &device);
    hal_device_destroy(device);
    return status;
}

static void missing_libraries_are_named(void **state)
{
    (void)state;
    static const struct
    {
        const char *links[3];
        size_t n;
        const char *text;
    } cases[] = {
        {{NULL}, 0, "needs an NVIDIA driver for CUDA 12.0 or later: libcuda.so.1 was not found"},
        {{"libcuda.so.1"}, 1, "needs cuBLASLt 12.0 or later"},
        {{"libcuda.so.1=libnvrtc.so.13"}, 1, "libcuda.so.1 here is older: it has no cuInit"},
        {{"libcuda.so.1", "libcublasLt.so.12=libnvrtc.so.13"},
         2,
         "libcublasLt.so.12 here is older: it has no cublasLtGetVersion"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    {
        fixture_mocks_choose(cases[i].links, cases[i].n);
        const Status status = create("cuda");
        fixture_mocks_restore();
        fixture_expect(status, STATUS_DEVICE, 3, cases[i].text);
    }
}

static void a_driver_that_is_too_old_says_so(void **state)
{
    (void)state;
    setenv("MOCK_CUDA_VERSION", "11040", 1);
    fixture_expect(create("cuda"), STATUS_DEVICE, 3,
                   "needs an NVIDIA driver for CUDA 12.0 or later; the one here supports CUDA 11.4");
    setenv("MOCK_CUDA_VERSION", "12040", 1);
    fixture_expect(create("cuda"), STATUS_DEVICE, 3,
                   "the NVIDIA driver is too old for libcublasLt.so.13: it supports CUDA up to 12.4");
    unsetenv("MOCK_CUDA_VERSION");
    assert_int_equal(create("cuda"), STATUS_OK);
}

static void an_older_library_serves_an_older_driver(void **state)
{
    (void)state;
    static const char *const links[] = {"libcuda.so.1", "libcublasLt.so.13", "libcublasLt.so.12=libcublasLt.so.13"};
    fixture_mocks_choose(links, 3);
    setenv("MOCK_CUDA_VERSION", "12040", 1);
    const Status status = create("cuda");
    unsetenv("MOCK_CUDA_VERSION");
    fixture_mocks_restore();
    assert_int_equal(status, STATUS_OK);
}

static void devices_go_by_index(void **state)
{
    (void)state;
    assert_int_equal(create("cuda:0"), STATUS_OK);
    assert_int_equal(create("cuda:1"), STATUS_OK);
    fixture_expect(create("cuda:7"), STATUS_DEVICE, 3, "there is no device 'cuda:7': the last one is cuda:1");
    fixture_expect(create("cuda:"), STATUS_USAGE, 2, "a number from 0 on is wanted");
    fixture_expect(create("cuda:-1"), STATUS_USAGE, 2, "a number from 0 on is wanted");
    fixture_expect(create("cuda:1x"), STATUS_USAGE, 2, "a number from 0 on is wanted");
    fixture_expect(create("cpu:1"), STATUS_USAGE, 2, "there is only one device 'cpu'");
    fixture_expect(create("cud"), STATUS_BAD_INPUT, 1, "known: cpu null cuda");
    setenv("MOCK_CUDA_DEVICES", "0", 1);
    fixture_expect(create("cuda"), STATUS_DEVICE, 3, "there is no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it");
    unsetenv("MOCK_CUDA_DEVICES");
}

/* Every call that makes a device fails once: told, and nothing is left behind. */
static void every_call_of_the_start_may_fail(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"cuInit:1:100",
         "the NVIDIA driver does not start: MOCK_ERROR_100 (100, as the test asked): there is no NVIDIA"},
        {"cuInit:1:803", "a restart of the machine loads both anew"},
        {"cuDriverGetVersion:1:999", "MOCK_ERROR_999"},
        {"cuDeviceGetCount:1:3", "counting CUDA devices"},
        {"cuDeviceGet:1:101", "finding cuda:0"},
        {"cuDeviceGetAttribute:2:1", "asking cuda:0"},
        {"cuDeviceGetName:1:1", "asking cuda:0"},
        {"cuDevicePrimaryCtxRetain:1:46",
         "starting cuda:0: MOCK_ERROR_46 (46, as the test asked): another process has"},
        {"cuStreamCreate:1:1", "making a stream on cuda:0"},
        {"cuEventCreate:2:1", "making an event on cuda:0"},
        {"cublasLtCreate:1:1", "cuBLASLt does not start on cuda:0: CUBLAS_STATUS_OF_THE_MOCK"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    {
        setenv("MOCK_CUDA_FAIL", cases[i][0], 1);
        const Status status = create("cuda");
        unsetenv("MOCK_CUDA_FAIL");
        fixture_expect(status, STATUS_DEVICE, 3, cases[i][1]);
        assert_int_equal(create("cuda"), STATUS_OK);
    }
    setenv("MOCK_CUDA_FAIL", "cuMemHostAlloc:2:2", 1);
    fixture_expect(create("cuda"), STATUS_OUT_OF_MEMORY, 5, "taking 4.0 MiB of pinned host memory");
    unsetenv("MOCK_CUDA_FAIL");
}

static void memory_is_counted_and_ends(void **state)
{
    (void)state;
    HalBuffer *buffer = NULL, *other = NULL;
    setenv("MOCK_CUDA_MEMORY", "16777216", 1);
    HalDevice *device = fixture_device();
    assert_false(hal_device_uses_host_memory(device));
    assert_int_equal(hal_memory_info(device).total_bytes, 16 << 20);
    assert_int_equal(hal_buffer_create(device, 10 << 20, &buffer), STATUS_OK);
    assert_int_equal(hal_memory_info(device).free_bytes, 6 << 20);
    fixture_expect(hal_buffer_create(device, 7 << 20, &other), STATUS_OUT_OF_MEMORY, 5,
                   "taking 7.0 MiB for a buffer, with 6.0 MiB of 16.0 MiB free on cuda:0 (Mock GPU)");
    setenv("MOCK_CUDA_FAIL", "cuMemsetD8Async:1:719", 1);
    fixture_expect(hal_buffer_create(device, 1 << 20, &other), STATUS_DEVICE, 3, "zeroing 1.0 MiB");
    unsetenv("MOCK_CUDA_FAIL");
    assert_null(other);
    hal_buffer_destroy(buffer);
    assert_int_equal(hal_memory_info(device).free_bytes, 16 << 20);
    hal_device_destroy(device);
    unsetenv("MOCK_CUDA_MEMORY");
}

/* Longer than both pieces of staging memory together, and no whole number of them. */
static void long_copies_go_in_pieces(void **state)
{
    (void)state;
    enum
    {
        N = (13 << 20) + 77
    };
    Arena *arena = arena_create();
    HalDevice *device = fixture_device();
    HalBuffer *buffer = NULL;
    unsigned char *in = malloc(N), *out = malloc(N);
    for (size_t i = 0; i < N; i++)
        in[i] = (unsigned char)(i * 2654435761U >> 13);
    assert_int_equal(hal_buffer_create(device, N, &buffer), STATUS_OK);
    void *address = hal_buffer_address(buffer);
    fixture_log_start();
    assert_int_equal(hal_copy(device, HAL_COPY_TO_DEVICE, address, in, N), STATUS_OK);
    assert_int_equal(hal_copy(device, HAL_COPY_FROM_DEVICE, out, address, N), STATUS_OK);
    const char *log = fixture_log_stop(arena);
    assert_memory_equal(in, out, N);
    static const char *const calls[] = {"cuMemcpyHtoDAsync_v2 4194304\n", "cuMemcpyHtoDAsync_v2 1048653\n",
                                        "cuMemcpyDtoHAsync_v2 4194304\n", "cuMemcpyDtoHAsync_v2 1048653\n"};
    for (size_t i = 0; i < 4; i++)
    {
        uint32_t n = 0;
        for (const char *at = log; (at = strstr(at, calls[i])); at++)
            n++;
        assert_int_equal(n, i % 2 ? 1 : 3);
    }
    free(in);
    free(out);
    hal_buffer_destroy(buffer);
    hal_device_destroy(device);
    arena_destroy(arena);
}

/* Nothing is between them and the device, wherever in the memory they go. */
static void copies_to_pinned_memory_go_straight(void **state)
{
    (void)state;
    enum
    {
        N = (9 << 20) + 5
    };
    Arena *arena = arena_create();
    HalDevice *device = fixture_device();
    HalBuffer *buffer = NULL;
    void *pinned = NULL, *other = NULL;
    unsigned char *in = malloc(N);
    for (size_t i = 0; i < N; i++)
        in[i] = (unsigned char)(i * 31 + (i >> 11));
    assert_int_equal(hal_buffer_create(device, N, &buffer), STATUS_OK);
    assert_int_equal(hal_pinned_create(device, N + 64, &pinned), STATUS_OK);
    assert_int_equal(hal_pinned_create(device, 1, &other), STATUS_OK);
    assert_int_equal(hal_copy(device, HAL_COPY_TO_DEVICE, hal_buffer_address(buffer), in, N), STATUS_OK);
    fixture_log_start();
    assert_int_equal(hal_copy(device, HAL_COPY_FROM_DEVICE, (char *)pinned + 64, hal_buffer_address(buffer), N),
                     STATUS_OK);
    const char *log = fixture_log_stop(arena);
    assert_non_null(strstr(log, "cuMemcpyDtoHAsync_v2 9437189\n"));
    assert_memory_equal((char *)pinned + 64, in, N);
    setenv("MOCK_CUDA_FAIL", "cuMemHostAlloc:1:2", 1);
    void *none = NULL;
    fixture_expect(hal_pinned_create(device, 1 << 20, &none), STATUS_OUT_OF_MEMORY, 5,
                   "taking 1.0 MiB of pinned host memory");
    unsetenv("MOCK_CUDA_FAIL");
    hal_pinned_destroy(device, pinned);
    hal_pinned_destroy(device, other);
    hal_buffer_destroy(buffer);
    hal_device_destroy(device);
    free(in);
    arena_destroy(arena);
}

static void failures_of_copies_and_waits_are_told(void **state)
{
    (void)state;
    HalDevice *device = fixture_device();
    HalBuffer *buffer = NULL;
    char bytes[100] = {0};
    assert_int_equal(hal_buffer_create(device, 200, &buffer), STATUS_OK);
    char *address = hal_buffer_address(buffer);
    setenv("MOCK_CUDA_FAIL", "cuMemcpyHtoDAsync_v2:1:1", 1);
    fixture_expect(hal_copy(device, HAL_COPY_TO_DEVICE, address, bytes, 100), STATUS_DEVICE, 3,
                   "copying 100 bytes to the device");
    setenv("MOCK_CUDA_FAIL", "cuMemcpyDtoHAsync_v2:1:1", 1);
    fixture_expect(hal_copy(device, HAL_COPY_FROM_DEVICE, bytes, address, 100), STATUS_DEVICE, 3,
                   "copying 100 bytes from the device");
    setenv("MOCK_CUDA_FAIL", "cuMemcpyDtoDAsync_v2:1:1", 1);
    fixture_expect(hal_copy(device, HAL_COPY_ON_DEVICE, address + 100, address, 100), STATUS_DEVICE, 3,
                   "copying 100 bytes on the device");
    setenv("MOCK_CUDA_FAIL", "cuEventSynchronize:2:700", 1);
    fixture_expect(
        hal_copy(device, HAL_COPY_FROM_DEVICE, bytes, address, 100), STATUS_DEVICE, 3,
        "waiting for work on the device: MOCK_ERROR_700 (700, as the test asked): the device is lost to this "
        "process");
    setenv("MOCK_CUDA_FAIL", "cuStreamSynchronize:1+:719", 1);
    fixture_expect(hal_sync(device), STATUS_DEVICE, 3, "waiting for work on cuda:0");
    fixture_expect(hal_sync(device), STATUS_DEVICE, 3, "the device is lost to this process");
    hal_buffer_destroy(buffer);
    hal_device_destroy(device);
    unsetenv("MOCK_CUDA_FAIL");
}

static void marks_may_fail(void **state)
{
    (void)state;
    HalDevice *device = fixture_device();
    double seconds;
    setenv("MOCK_CUDA_FAIL", "cuEventCreate:3:2", 1);
    fixture_expect(hal_mark(device, 0), STATUS_OUT_OF_MEMORY, 5, "making an event on cuda:0");
    setenv("MOCK_CUDA_FAIL", "cuEventRecord:1:719", 1);
    fixture_expect(hal_mark(device, 1), STATUS_DEVICE, 3, "taking the time on cuda:0");
    unsetenv("MOCK_CUDA_FAIL");
    assert_int_equal(hal_mark(device, 0), STATUS_OK);
    assert_int_equal(hal_mark(device, 1), STATUS_OK);
    assert_int_equal(hal_mark_seconds(device, 0, 1, &seconds), STATUS_OK);
    assert_true(seconds == 0);
    setenv("MOCK_CUDA_FAIL", "cuEventSynchronize:1:719", 1);
    fixture_expect(hal_mark_seconds(device, 0, 1, &seconds), STATUS_DEVICE, 3, "waiting for work on cuda:0");
    unsetenv("MOCK_CUDA_FAIL");
    hal_device_destroy(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_libraries_are_named),
        cmocka_unit_test(a_driver_that_is_too_old_says_so),
        cmocka_unit_test(an_older_library_serves_an_older_driver),
        cmocka_unit_test(devices_go_by_index),
        cmocka_unit_test(every_call_of_the_start_may_fail),
        cmocka_unit_test(memory_is_counted_and_ends),
        cmocka_unit_test(long_copies_go_in_pieces),
        cmocka_unit_test(copies_to_pinned_memory_go_straight),
        cmocka_unit_test(failures_of_copies_and_waits_are_told),
        cmocka_unit_test(marks_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
