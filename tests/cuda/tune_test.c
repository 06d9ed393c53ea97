/* Which algorithm a contraction gets, on a mock that proposes several with times of their own: the fastest that runs,
 * once measured, then read from the cache; and what the cache must not be believed. */
#include "harness/test.h"

#include "fixture.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum
{
    RUNS_PER_ALGORITHM = 8, /* two of them not timed */
    NONE = -1
};

static char cache[] = "/tmp/ptc-cuda-tune-XXXXXX";

static void empty_cache(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'/*", cache);
    assert_int_equal(system(command), 0);
}

/* What came of preparing a contraction on a device that is new, and running it. */
typedef struct
{
    Status status;
    int algorithm; /* that it runs with; NONE */
    uint32_t n_measured, n_warnings;
} Outcome;

static uint32_t count(const char *log, const char *symbol)
{
    uint32_t n = 0;
    for (const char *at = log; (at = strstr(at, symbol)); at++)
        n++;
    return n;
}

/* The algorithm of the one run, and a product that is right. */
static int run(Arena *arena, HalDevice *device, const HalGemm *gemm)
{
    float host[3 * 64] = {2, 3}, sum = 0;
    HalBuffer *buffer = NULL;
    host[64] = 5;
    host[65] = 7;
    assert_int_equal(hal_buffer_create(device, sizeof host, &buffer), STATUS_OK);
    float *x = hal_buffer_address(buffer);
    const GemmArgs args = {.a = x, .b = x + 64, .c = x + 128, .bias = x + 100};
    assert_int_equal(hal_copy(device, HAL_COPY_TO_DEVICE, x, host, sizeof host), STATUS_OK);
    fixture_log_start();
    assert_int_equal(hal_gemm_run(device, gemm, &args), STATUS_OK);
    const char *at = strstr(fixture_log_stop(arena), " algorithm ");
    assert_non_null(at);
    assert_int_equal(hal_copy(device, HAL_COPY_FROM_DEVICE, &sum, x + 128, sizeof sum), STATUS_OK);
    assert_true(sum == 31);
    hal_buffer_destroy(buffer);
    return atoi(at + strlen(" algorithm "));
}

/* A 1x2x1 contraction with a bias (zeros) or without, on a new device. */
static Outcome prepare(const char *algorithms, bool bias)
{
    Arena *arena = arena_create();
    Outcome outcome = {.algorithm = NONE};
    const HalGemm *gemm = NULL;
    GemmDesc desc = gemm_desc_make(1, 1, 2, false, false);
    desc.bias = bias;
    char path[] = "/tmp/ptc-cuda-stderr-XXXXXX", text[4096] = "";
    const int file = mkstemp(path), real = dup(2);
    assert_true(file >= 0 && real >= 0);
    setenv("MOCK_CUDA_ALGORITHMS", algorithms, 1);
    HalDevice *device = fixture_device();
    fixture_log_start();
    dup2(file, 2);
    outcome.status = hal_gemm_create(device, &desc, &gemm);
    dup2(real, 2);
    const uint32_t n_runs = count(fixture_log_stop(arena), "cublasLtMatmul alpha");
    assert_true(pread(file, text, sizeof text - 1, 0) >= 0);
    close(real);
    close(file);
    unlink(path);
    outcome.n_warnings = count(text, "ptc: warning: ");
    outcome.n_measured = n_runs / RUNS_PER_ALGORITHM;
    if (outcome.status == STATUS_OK)
        outcome.algorithm = run(arena, device, gemm);
    hal_device_destroy(device);
    unsetenv("MOCK_CUDA_ALGORITHMS");
    arena_destroy(arena);
    return outcome;
}

static void expect(Outcome got, int algorithm, uint32_t n_measured, uint32_t n_warnings)
{
    if (got.status != STATUS_OK)
        fail_msg("%s", status_detail());
    assert_int_equal(got.algorithm, algorithm);
    assert_int_equal(got.n_measured, n_measured);
    assert_int_equal(got.n_warnings, n_warnings);
}

static void the_fastest_is_measured_once(void **state)
{
    (void)state;
    empty_cache();
    expect(prepare("4:2:8", false), 1, 3, 0);
    expect(prepare("4:2:8", false), 1, 0, 0);
    expect(prepare("1:2:8", false), 1, 0, 0); /* what was kept holds */
    expect(prepare("4:2:1", true), 2, 3, 0);  /* another epilogue */
    expect(prepare("4:2:8", false), 1, 0, 0);
    empty_cache();
    expect(prepare("7", false), 0, 0, 0);
    expect(prepare("4:3:2:1:2:3:4:5:6:6:6:6:6:6:6:6:0.5:0.25", false), 3, 16, 0); /* no more than are asked for */
}

/* Two processes may measure the same: the one that ends first has chosen. */
static void the_first_choice_stays(void **state)
{
    (void)state;
    char command[160];
    empty_cache();
    expect(prepare("4:2:8", false), 1, 3, 0);
    snprintf(command, sizeof command, "mkdir '%s-aside' && mv '%s'/* '%s-aside'", cache, cache, cache);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof command, "mv '%s-aside'/* '%s' && rmdir '%s-aside'", cache, cache, cache);
    setenv("MOCK_CUDA_MEANWHILE", command, 1);
    const Outcome late = prepare("1:2:8", false);
    unsetenv("MOCK_CUDA_MEANWHILE");
    expect(late, 1, 3, 0);
    expect(prepare("1:2:8", false), 1, 0, 0);
}

static void what_does_not_run_is_skipped(void **state)
{
    (void)state;
    empty_cache();
    expect(prepare("x:5:3", false), 2, 2, 0);
    empty_cache();
    expect(prepare("3:x", false), 0, 1, 0);
    empty_cache();
    fixture_expect(prepare("x:x", false).status, STATUS_DEVICE, 3,
                   "cuBLASLt, measuring the contraction 1 x 1x1x2: CUBLAS_STATUS_OF_THE_MOCK");
    setenv("MOCK_CUDA_FAIL", "cuEventSynchronize:2:719", 1);
    fixture_expect(prepare("1:2", false).status, STATUS_DEVICE, 3, "measuring contractions: MOCK_ERROR_719");
    unsetenv("MOCK_CUDA_FAIL");
    expect(prepare("4:2:8", false), 1, 3, 0); /* nothing of that was kept */
}

/* A choice holds for one GPU and one version of the library. */
static void another_machine_measures_by_itself(void **state)
{
    (void)state;
    static const char *const others[][2] = {
        {"MOCK_CUDA_NAME", "Other GPU"}, {"MOCK_CUDA_ARCH", "80"}, {"MOCK_CUDA_BLASLT", "130100"}};
    empty_cache();
    expect(prepare("4:2:8", false), 1, 3, 0);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
    {
        setenv(others[i][0], others[i][1], 1);
        expect(prepare("4:2:1", false), 2, 3, 0);
        unsetenv(others[i][0]);
    }
    expect(prepare("4:2:8", false), 1, 0, 0);
}

/* ---- entries that are damaged, or of another contraction */

/* The path of the one entry, or of its sum. */
static const char *find_entry(const char *extension)
{
    static char path[512];
    DIR *dir = opendir(cache);
    assert_non_null(dir);
    path[0] = 0;
    for (struct dirent *e; (e = readdir(dir));)
    {
        const size_t n = strlen(e->d_name), m = strlen(extension);
        if (n > m && strcmp(e->d_name + n - m, extension) == 0)
            snprintf(path, sizeof path, "%s/%s", cache, e->d_name);
    }
    closedir(dir);
    assert_true(path[0]);
    return path;
}

static void damaged_entries_are_measured_again(void **state)
{
    (void)state;
    empty_cache();
    expect(prepare("4:2:8", false), 1, 3, 0);
    FILE *file = fopen(find_entry(".algorithm"), "r+");
    assert_non_null(file);
    fseek(file, -30, SEEK_END);
    fputc('~', file);
    fclose(file);
    expect(prepare("1:2:8", false), 0, 3, 1);
    assert_int_equal(truncate(find_entry(".algorithm"), 10), 0);
    expect(prepare("4:2:1", false), 2, 3, 1);
    expect(prepare("4:2:8", false), 2, 0, 0);
}

static void entries_of_others_are_measured_again(void **state)
{
    (void)state;
    char command[2048], own[512];
    empty_cache();
    expect(prepare("4:2:8", true), 1, 3, 0);
    snprintf(command, sizeof command, "mkdir '%s/other' && mv '%s'/*.* '%s/other'", cache, cache, cache);
    assert_int_equal(system(command), 0);
    expect(prepare("4:2:8", false), 1, 3, 0);
    snprintf(own, sizeof own, "%s", find_entry(".algorithm"));
    snprintf(command, sizeof command, "cp '%s'/other/*.algorithm '%s' && cp '%s'/other/*.sum '%s'", cache, own, cache,
             find_entry(".sum"));
    assert_int_equal(system(command), 0);
    expect(prepare("1:2:8", false), 0, 3, 1); /* whole, and about the other contraction */
    expect(prepare("4:2:8", false), 0, 0, 0);
    setenv("MOCK_CUDA_FAIL", "cublasLtMatmulAlgoCheck:1:7", 1);
    expect(prepare("4:2:8", false), 1, 3, 1); /* the library does not know what was kept */
    unsetenv("MOCK_CUDA_FAIL");
}

static void no_memory_to_measure_is_told(void **state)
{
    (void)state;
    empty_cache();
    setenv("MOCK_CUDA_FAIL", "cuMemAlloc_v2:1:2", 1);
    expect(prepare("4:2:8", false), 0, 0, 1);
    unsetenv("MOCK_CUDA_FAIL");
    expect(prepare("4:2:8", false), 1, 3, 0); /* that choice was not kept */
}

/* ---- the same bits in any place */

/* The algorithm that it runs with; nothing is measured, and k is not split. */
static int algorithm_of(HalDevice *device, const GemmDesc *d)
{
    Arena *arena = arena_create();
    const HalGemm *gemm = NULL;
    HalBuffer *buffer = NULL;
    fixture_log_start();
    if (hal_gemm_create(device, d, &gemm) != STATUS_OK)
        fail_msg("%s", status_detail());
    const char *log = fixture_log_stop(arena);
    assert_int_equal(count(log, "cublasLtMatmul alpha"), 0);
    assert_int_equal(count(log, "cublasLtMatmulAlgoGetHeuristic"), count(log, " reductions 0,"));
    assert_int_equal(hal_buffer_create(device, 1 << 16, &buffer), STATUS_OK);
    char *x = hal_buffer_address(buffer);
    const GemmArgs args = {
        .a = x, .b = x + (1 << 13), .c = x + (2 << 13), .bias = x + (3 << 13), .residual = x + (4 << 13)};
    fixture_log_start();
    assert_int_equal(hal_gemm_run(device, gemm, &args), STATUS_OK);
    const char *at = strstr(fixture_log_stop(arena), " algorithm ");
    assert_non_null(at);
    const int algorithm = atoi(at + strlen(" algorithm "));
    hal_buffer_destroy(buffer);
    arena_destroy(arena);
    return algorithm;
}

static void neither_time_nor_place_choose(void **state)
{
    (void)state;
    const HalOptions options = {.same_bits = true};
    HalDevice *device = NULL;
    uint32_t seen = 0;
    empty_cache();
    setenv("MOCK_CUDA_ORDERS", "8", 1);
    assert_int_equal(hal_device_create("cuda", &options, &device), STATUS_OK);
    for (int64_t k = 3; k < 11; k++)
    {
        GemmDesc d = gemm_desc_make(5, 8, k, true, false);
        const int algorithm = algorithm_of(device, &d);
        seen |= 1U << algorithm;
        d.accumulate = true;
        d.lda = d.ldb = d.ldc = 16;
        assert_int_equal(algorithm_of(device, &d), algorithm);
        d.accumulate = false;
        d.residual = d.bias = true;
        d.ldr = 24;
        const int with_bias = algorithm_of(device, &d); /* the same where that takes the epilogue */
        d.residual = false;
        d.lda = 5;
        assert_int_equal(algorithm_of(device, &d), with_bias);
    }
    assert_true(seen & (seen - 1)); /* of more than one size */
    GemmDesc d = gemm_desc_make(5, 8, 20, false, false);
    const HalGemm *gemm = NULL;
    setenv("MOCK_CUDA_FAIL", "cublasLtMatmulAlgoCheck:2:15", 1);
    fixture_expect(hal_gemm_create(device, &d, &gemm), STATUS_UNSUPPORTED, 3,
                   "cuBLASLt, planning for the same bits in any place the contraction 1 x 5x8x20");
    unsetenv("MOCK_CUDA_FAIL");
    hal_device_destroy(device);
    unsetenv("MOCK_CUDA_ORDERS");
    assert_int_equal(rmdir(cache), 0); /* it is empty */
    assert_int_equal(mkdir(cache, 0700), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_fastest_is_measured_once),         cmocka_unit_test(what_does_not_run_is_skipped),
        cmocka_unit_test(another_machine_measures_by_itself),   cmocka_unit_test(damaged_entries_are_measured_again),
        cmocka_unit_test(entries_of_others_are_measured_again), cmocka_unit_test(no_memory_to_measure_is_told),
        cmocka_unit_test(neither_time_nor_place_choose),        cmocka_unit_test(the_first_choice_stays),
    };
    if (!mkdtemp(cache))
        return 1;
    setenv("PTC_CACHE_DIR", cache, 1);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", cache);
    return system(command) != 0 || failed;
}
