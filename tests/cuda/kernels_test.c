/* Kernels of the cuda device on mocks: the cache, files that are no kernels, what is launched, failures; and the real
 * NVRTC behind the same table where the toolkit is. */
#include "harness/test.h"

#include "fixture.h"

#include "base/strbuf.h"
#include "runtime/cuda_compile.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONTRACT_KERNELS                                                                                               \
    "module \"contract\"\n\n"                                                                                          \
    "func kernel @add {\n  %0 = arg : f32[1000]\n  %1 = arg : f32[1000]\n  %2 = add %0, %1 : f32[1000]\n"              \
    "  output %2\n}\n\n"                                                                                               \
    "func kernel @sum {\n  %0 = arg : f32[1000]\n  %1 = reduce_sum %0 {axes=[0]} : f32[]\n  output %1\n}\n"

enum
{
    N = 1000
};

/* Of this process alone, so that what is compiled is known. */
static char cache[] = "/tmp/ptc-cuda-cache-XXXXXX";

static Status build(Arena *arena, HalKernelFile *out)
{
    const IrModule *m = fixture_module(arena, CONTRACT_KERNELS);
    return hal_kernels_build(arena, "cuda", &m, 1, 1, out);
}

static const char *must_build(Arena *arena)
{
    HalKernelFile file;
    if (build(arena, &file) != STATUS_OK)
        fail_msg("%s", status_detail());
    return file.path;
}

static void a_second_time_is_a_hit(void **state)
{
    (void)state;
    if (!fixture_has_compiler())
        TEST_SKIP("no C++ compiler: the mock of NVRTC cannot compile");
    Arena *arena = arena_create();
    HalKernelFile first, second;
    fixture_log_start();
    assert_int_equal(build(arena, &first), STATUS_OK);
    assert_int_equal(build(arena, &second), STATUS_OK);
    const char *log = fixture_log_stop(arena);
    assert_false(first.cached);
    assert_true(second.cached);
    assert_string_equal(first.path, second.path);
    const char *call = strstr(log, "nvrtcCompileProgram --gpu-architecture=sm_90 --fmad=false\n");
    assert_non_null(call);
    assert_null(strstr(call + 1, "nvrtcCompileProgram"));
    setenv("MOCK_CUDA_ARCH", "120", 1);
    assert_int_equal(build(arena, &second), STATUS_OK);
    unsetenv("MOCK_CUDA_ARCH");
    assert_false(second.cached);
    assert_string_not_equal(first.path, second.path);
    arena_destroy(arena);
}

static void a_corrupt_entry_is_compiled_again(void **state)
{
    (void)state;
    if (!fixture_has_compiler())
        TEST_SKIP("no C++ compiler: the mock of NVRTC cannot compile");
    Arena *arena = arena_create();
    HalKernelFile file;
    const char *path = must_build(arena);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, 500, SEEK_SET);
    fputc('~', f);
    fclose(f);
    assert_int_equal(build(arena, &file), STATUS_OK);
    assert_false(file.cached);
    assert_int_equal(truncate(path, 10), 0);
    assert_int_equal(build(arena, &file), STATUS_OK);
    assert_false(file.cached);
    assert_int_equal(build(arena, &file), STATUS_OK);
    assert_true(file.cached);
    arena_destroy(arena);
}

/* The cache is emptied first. */
static Status build_failing(Arena *arena, const char *fail, HalKernelFile *out)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'/*", cache);
    assert_int_equal(system(command), 0);
    setenv("MOCK_CUDA_FAIL", fail, 1);
    const Status status = build(arena, out);
    unsetenv("MOCK_CUDA_FAIL");
    return status;
}

static void failures_of_compiling_are_told(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    HalKernelFile file;
    fixture_expect(build_failing(arena, "nvrtcCompileProgram:1:6", &file), STATUS_COMPILER, 3,
                   "NVRTC_ERROR_COMPILATION; its messages are in ");
    const char *log = strstr(status_detail(), "messages are in ") + strlen("messages are in ");
    assert_int_equal(access(log, R_OK), 0);
    fixture_expect(build_failing(arena, "nvrtcCreateProgram:1:1", &file), STATUS_COMPILER, 3, "NVRTC does not start");
    setenv("MOCK_CUDA_ARCH", "70", 1);
    fixture_expect(build(arena, &file), STATUS_DEVICE, 3,
                   "NVRTC 13.0 does not know sm_70 (it knows up to sm_120): an older CUDA toolkit");
    setenv("MOCK_CUDA_ARCH", "130", 1);
    fixture_expect(build(arena, &file), STATUS_DEVICE, 3, "sm_130 (it knows up to sm_120): a newer CUDA toolkit");
    unsetenv("MOCK_CUDA_ARCH");
    static const char *const links[] = {"libcuda.so.1", "libcublasLt.so.13"};
    fixture_mocks_choose(links, 2);
    const Status status = build(arena, &file);
    fixture_mocks_restore();
    fixture_expect(status, STATUS_DEVICE, 3, "needs NVRTC 12.0 or later");
    setenv("PTC_CACHE_DIR", "/proc/nothing", 1);
    fixture_expect(build(arena, &file), STATUS_IO, 3, "/proc/nothing");
    setenv("PTC_CACHE_DIR", cache, 1);
    arena_destroy(arena);
}

/* Without a driver; the mock's PTX is the text. */
static void modules_are_emitted(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    const IrModule *m = fixture_module(arena, CONTRACT_KERNELS);
    static const char *const links[] = {"libnvrtc.so.13"};
    const char *data;
    size_t size;
    fixture_mocks_choose(links, 1);
    const Status ptx = cuda_emit(arena, m, CUDA_PTX, "sm_80", &data, &size);
    const bool whole = ptx == STATUS_OK && strstr(data, "k1_1(") && strlen(data) == size;
    const Status cubin =
        fixture_has_compiler() ? cuda_emit(arena, m, CUDA_CUBIN, "sm_120", &data, &size) : STATUS_UNSUPPORTED;
    fixture_mocks_restore();
    assert_true(whole);
    if (cubin == STATUS_UNSUPPORTED)
        TEST_SKIP("no C++ compiler: the mock of NVRTC cannot compile");
    assert_int_equal(cubin, STATUS_OK);
    assert_memory_equal(data, "mockbin", 8);
    setenv("MOCK_CUDA_FAIL", "nvrtcGetPTX:1:6", 1);
    fixture_expect(cuda_emit(arena, m, CUDA_PTX, "sm_80", &data, &size), STATUS_COMPILER, 3, "NVRTC refused");
    unsetenv("MOCK_CUDA_FAIL");
    arena_destroy(arena);
}

/* Before anything is compiled. */
static void what_needs_a_newer_gpu_is_refused(void **state)
{
    (void)state;
    static const char text[] = "module \"new\"\n"
                               "file 1 \"model.xml\"\n\n"
                               "func kernel @k {\n  %0 = arg : bf16[1x16x1x32]\n  %1 = arg : bf16[1x16x1x32]\n"
                               "  %2 = arg : bf16[1x16x1x32]\n"
                               "  %3, %4 = attention %0, %1, %2 {scale=0.1} : bf16[1x16x1x32], f32[1x1x16] loc(1:7:9)\n"
                               "  output %3\n  output %4\n}\n";
    static const char why[] = "model.xml:7:9: attention of bf16 needs a GPU of sm_80 or later, and this one is sm_75: ";
    Arena *arena = arena_create();
    const IrModule *m = fixture_module(arena, text);
    HalKernelFile file;
    const char *data;
    size_t size;
    setenv("MOCK_CUDA_ARCH", "75", 1);
    fixture_expect(hal_kernels_build(arena, "cuda", &m, 1, 1, &file), STATUS_UNSUPPORTED, 3, why);
    unsetenv("MOCK_CUDA_ARCH");
    fixture_expect(cuda_emit(arena, m, CUDA_CUBIN, "sm_75", &data, &size), STATUS_UNSUPPORTED, 3, why);
    arena_destroy(arena);
}

/* ---- loading */

static Status load_text(const char *text, size_t n)
{
    char path[128];
    HalExecutable *executable = NULL;
    snprintf(path, sizeof path, "%s/made.kernels", cache);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fwrite(text, 1, n, file);
    fclose(file);
    HalDevice *device = fixture_device();
    const Status status = hal_executable_load(device, path, &executable);
    assert_null(executable);
    hal_device_destroy(device);
    return status;
}

static void what_is_no_file_of_kernels_is_refused(void **state)
{
    (void)state;
    static const struct
    {
        const char *text, *why;
    } cases[] = {
        {"", "is no file of kernels"},
        {"\x7f"
         "ELF",
         "is no file of kernels"},
        {"ptc kernels abi 3 sm 90 kernels 0\n", "is no file of kernels"},
        {"ptc kernels abi 3 sm 90 kernels 0 parts 0\n", "is no file of kernels"},
        {"ptc kernels abi 3 sm 90 kernels 0 parts 1\n", "is no file of kernels"},
        {"ptc kernels abi 3 sm 90 kernels 0 parts 1\n\ncubin 5\nabc", "is no file of kernels"},
        {"ptc kernels abi 3 sm 90 kernels 0 parts 1\n\ncubin 3x\nabc", "is no file of kernels"},
        {"ptc kernels abi one sm 90 kernels 0 parts 1\n\ncubin 3\nabc", "is no file of kernels"},
        {"ptc kernels abi 1 sm 90 kernels 0\ncubin 3\nabc", "has kernel ABI 1, this program 3"},
        {"ptc kernels abi 3 sm 80 kernels 0 parts 1\n\ncubin 3\nabc", "has kernels for sm_80, cuda:0 is sm_90"},
        {"ptc kernels abi 3 sm 90 kernels 0 parts 1\n\ncubin 20\n01234567890123456789", "loading the kernels in "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        fixture_expect(load_text(cases[i].text, strlen(cases[i].text)), STATUS_DEVICE, 3, cases[i].why);
    HalDevice *device = fixture_device();
    HalExecutable *executable = NULL;
    fixture_expect(hal_executable_load(device, "/nonexistent.kernels", &executable), STATUS_DEVICE, 3, "cannot read");
    hal_device_destroy(device);
}

/* The table of a good file with one thing in it changed: what it says is believed by nobody. */
static void faulty_tables_are_refused(void **state)
{
    (void)state;
    if (!fixture_has_compiler())
        TEST_SKIP("no C++ compiler: the mock of NVRTC cannot compile");
    static const char *const changes[][3] = {
        {"kernels 2", "kernels 3", "is no file of kernels"},
        {"launches 1", "launches 0", "is no file of kernels"},
        {"launches 1", "launches 2", "is no file of kernels"},
        {"buffers 3", "buffers X", "is no file of kernels"},
        {"workspace 0", "workspace-1", "is no file of kernels"},
        {"part 0", "part 1", "has no part 1"},
        {"launch k0_0", "launch kx_0", "looking for kernel 'add' (kx_0)"},
    };
    Arena *arena = arena_create();
    const char *path = must_build(arena);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++)
    {
        char *bytes = arena_alloc(arena, (size_t)info.st_size + 1);
        FILE *file = fopen(path, "rb");
        assert_non_null(file);
        assert_int_equal(fread(bytes, 1, (size_t)info.st_size, file), info.st_size);
        fclose(file);
        bytes[info.st_size] = 0;
        char *at = strstr(bytes, changes[i][0]);
        assert_non_null(at);
        memcpy(at, changes[i][1], strlen(changes[i][1]));
        fixture_expect(load_text(bytes, (size_t)info.st_size), STATUS_DEVICE, 3, changes[i][2]);
    }
    arena_destroy(arena);
}

/* ---- launching */

static void launches_are_as_the_table_says(void **state)
{
    (void)state;
    if (!fixture_has_compiler())
        TEST_SKIP("no C++ compiler: the mock of NVRTC cannot compile");
    Arena *arena = arena_create();
    HalDevice *device = fixture_device();
    HalExecutable *executable = NULL;
    HalBuffer *buffer = NULL;
    const HalKernel *sum = NULL;
    assert_int_equal(hal_executable_load(device, must_build(arena), &executable), STATUS_OK);
    assert_int_equal(hal_executable_kernel(executable, "sum", &sum), STATUS_OK);
    assert_int_equal(hal_buffer_create(device, (N + 1) * sizeof(float), &buffer), STATUS_OK);
    float *x = hal_buffer_address(buffer), host[N], total = 0;
    for (int i = 0; i < N; i++)
        host[i] = 0.5F;
    assert_int_equal(hal_copy(device, HAL_COPY_TO_DEVICE, x, host, sizeof host), STATUS_OK);
    fixture_log_start();
    assert_int_equal(hal_launch(device, sum, (void *[]){x, x + N}, 2), STATUS_OK);
    assert_string_equal(fixture_log_stop(arena), "cuLaunchKernel k1_0 grid 1 1 1 block 256 1 1 smem 0\n"
                                                 "cuLaunchKernel k1_1 grid 1 1 1 block 256 1 1 smem 0\n");
    assert_int_equal(hal_copy(device, HAL_COPY_FROM_DEVICE, &total, x + N, sizeof total), STATUS_OK);
    assert_true(total == 500);
    setenv("MOCK_CUDA_FAIL", "cuLaunchKernel:2:719", 1);
    fixture_expect(hal_launch(device, sum, (void *[]){x, x + N}, 2), STATUS_DEVICE, 3,
                   "launching kernel 'sum' (launch 2 of 2, 1 blocks of 256 threads): MOCK_ERROR_719");
    unsetenv("MOCK_CUDA_FAIL");
    hal_executable_unload(executable);
    hal_buffer_destroy(buffer);
    hal_device_destroy(device);
    arena_destroy(arena);
}

static void failures_of_loading_are_told(void **state)
{
    (void)state;
    if (!fixture_has_compiler())
        TEST_SKIP("no C++ compiler: the mock of NVRTC cannot compile");
    Arena *arena = arena_create();
    const char *path = must_build(arena);
    HalDevice *device = fixture_device();
    HalExecutable *executable = NULL;
    setenv("MOCK_CUDA_FAIL", "cuModuleLoadData:1:209", 1);
    fixture_expect(hal_executable_load(device, path, &executable), STATUS_DEVICE, 3, "loading the kernels in ");
    setenv("MOCK_CUDA_FAIL", "cuMemAlloc_v2:1:2", 1);
    fixture_expect(hal_executable_load(device, path, &executable), STATUS_OUT_OF_MEMORY, 5,
                   "for the workspace of kernels and contractions");
    unsetenv("MOCK_CUDA_FAIL");
    assert_null(executable);
    hal_device_destroy(device);
    arena_destroy(arena);
}

#ifdef PTC_HAVE_NVRTC
static const char elf[] = {0x7f, 'E', 'L', 'F'};

static void emitted_by_real_nvrtc(Arena *arena, const char *arch)
{
    const IrModule *m = fixture_module(arena, CONTRACT_KERNELS);
    const char *data;
    size_t size;
    assert_int_equal(cuda_emit(arena, m, CUDA_CUBIN, arch, &data, &size), STATUS_OK);
    assert_memory_equal(data, elf, sizeof elf);
    assert_int_equal(cuda_emit(arena, m, CUDA_PTX, arch, &data, &size), STATUS_OK);
    assert_int_equal(strlen(data), size);
    assert_non_null(strstr(data, arena_printf(arena, ".target %s\n", arch)));
    assert_non_null(strstr(data, ".entry k1_1("));
}
#endif

/* The toolkit's NVRTC in the place of the mock: real cubins through the same table and the same file. */
static void real_nvrtc_makes_cubins(void **state)
{
    (void)state;
#ifdef PTC_HAVE_NVRTC
    Arena *arena = arena_create();
    static const char *const archs[] = {"80", "90", "120"};
    const char *mocks = arena_strdup(arena, getenv("PTC_CUDA_PATH"));
    char path[512];
    snprintf(path, sizeof path, "%s/real", cache);
    assert_int_equal(mkdir(path, 0777), 0);
    static const char *const libraries[] = {"libcuda.so.1", "libcublasLt.so.13"};
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(symlink(arena_printf(arena, "%s/%s", mocks, libraries[i]),
                                 arena_printf(arena, "%s/%s", path, libraries[i])),
                         0);
    setenv("PTC_CUDA_PATH", arena_printf(arena, "%s:%s", path, PTC_NVRTC_DIR), 1);
    setenv("PTC_CACHE_DIR", path, 1);        /* the mock's entries may have the same keys */
    setenv("MOCK_CUDA_VERSION", "99000", 1); /* whichever toolkit this is */
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
    {
        HalKernelFile file;
        char bytes[4096] = {0};
        setenv("MOCK_CUDA_ARCH", archs[i], 1);
        if (build(arena, &file) != STATUS_OK)
            fail_msg("%s", status_detail());
        FILE *f = fopen(file.path, "rb");
        assert_non_null(f);
        assert_true(fread(bytes, 1, sizeof bytes - 1, f) > 100);
        fclose(f);
        assert_non_null(strstr(bytes, arena_printf(arena, "sm %s kernels 2 parts 1\n", archs[i])));
        const char *cubin = strchr(strstr(bytes, "\ncubin ") + 1, '\n') + 1;
        assert_memory_equal(cubin, elf, sizeof elf);
        emitted_by_real_nvrtc(arena, arena_printf(arena, "sm_%s", archs[i]));
    }
    unsetenv("MOCK_CUDA_ARCH");
    unsetenv("MOCK_CUDA_VERSION");
    setenv("PTC_CUDA_PATH", mocks, 1);
    setenv("PTC_CACHE_DIR", cache, 1);
    arena_destroy(arena);
#else
    TEST_SKIP("no CUDA toolkit: the real NVRTC makes no cubins");
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_second_time_is_a_hit),         cmocka_unit_test(a_corrupt_entry_is_compiled_again),
        cmocka_unit_test(failures_of_compiling_are_told), cmocka_unit_test(what_is_no_file_of_kernels_is_refused),
        cmocka_unit_test(faulty_tables_are_refused),      cmocka_unit_test(launches_are_as_the_table_says),
        cmocka_unit_test(failures_of_loading_are_told),   cmocka_unit_test(modules_are_emitted),
        cmocka_unit_test(real_nvrtc_makes_cubins),        cmocka_unit_test(what_needs_a_newer_gpu_is_refused),
    };
    if (!mkdtemp(cache))
        return 1;
    setenv("PTC_CACHE_DIR", cache, 1);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", cache);
    return system(command) != 0 || failed;
}
