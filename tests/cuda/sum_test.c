/* The kernel that adds what ranks have: the bits of comm_sum.h, whichever rank runs it. */
#include "harness/test.h"

#include "fixture.h"

#include "runtime/comm_sum.h"
#include "runtime/cuda_compile.h"
#include "runtime/hal_cuda_nccl.h"

#include <stdlib.h>
#include <string.h>

enum
{
    STRIDE = 1028, /* what a rank has, and a little */
    MAX_RANKS = 5,
    N_CHUNKS = 3
};

/* As the kernel's text has it. */
typedef struct
{
    const float *own;
    float *out;
    unsigned at, n;
} Chunk;
static const Chunk PIECES[N_CHUNKS] = {{.at = 0, .n = 3}, {.at = 4, .n = 1000}, {.at = 1004, .n = 21}};

static float number(uint32_t rank, size_t i)
{
    const uint32_t x = (rank * 2654435761U + (uint32_t)i * 69069U) * 0x5bd1e995U;
    return ((float)(x >> 12) - 500000) * (x % 3 ? 1.0F : 1e-4F);
}

static float *at(HalBuffer *buffer)
{
    return hal_buffer_address(buffer);
}

static void adds(HalDevice *device, uint32_t n_ranks, uint32_t me)
{
    CudaDevice *cuda = (CudaDevice *)device;
    CuModule module = NULL;
    CuFunction add = NULL;
    HalBuffer *own, *others, *table;
    static float rows[MAX_RANKS][STRIDE], want[STRIDE], have[STRIDE];
    const float *srcs[MAX_RANKS];
    float *outs[1] = {want};
    if (cuda_sum_load(cuda, n_ranks, me, &module, &add) != STATUS_OK)
        fail_msg("%s", status_detail());
    assert_int_equal(hal_buffer_create(device, sizeof want, &own), STATUS_OK);
    assert_int_equal(hal_buffer_create(device, sizeof rows, &others), STATUS_OK);
    assert_int_equal(hal_buffer_create(device, sizeof PIECES, &table), STATUS_OK);
    for (uint32_t r = 0; r < n_ranks; r++)
    {
        for (size_t i = 0; i < STRIDE; i++)
            rows[r][i] = number(r, i);
        srcs[r] = rows[r];
        float *to = r == me ? at(own) : at(others) + (r - (r > me)) * STRIDE;
        assert_int_equal(hal_copy(device, HAL_COPY_TO_DEVICE, to, rows[r], sizeof want), STATUS_OK);
    }
    Chunk chunks[N_CHUNKS];
    memcpy(chunks, PIECES, sizeof chunks);
    for (uint32_t c = 0; c < N_CHUNKS; c++)
        chunks[c].own = chunks[c].out = at(own) + chunks[c].at;
    assert_int_equal(hal_copy(device, HAL_COPY_TO_DEVICE, at(table), chunks, sizeof chunks), STATUS_OK);
    if (cuda_sum_launch(cuda, add, cuda->stream, N_CHUNKS, (CuDevicePtr)(uintptr_t)at(table),
                        (CuDevicePtr)(uintptr_t)at(others), STRIDE) != STATUS_OK)
        fail_msg("%s", status_detail());
    assert_int_equal(hal_copy(device, HAL_COPY_FROM_DEVICE, have, at(own), sizeof have), STATUS_OK);
    comm_sum_pairwise(srcs, n_ranks, outs, 1, STRIDE);
    for (size_t i = 0; i < STRIDE; i++)
        if (i == 3 || i >= 1025) /* between the chunks and behind them */
            want[i] = rows[me][i];
    assert_memory_equal(have, want, sizeof want);
    cuda->driver.module_unload(module);
    hal_buffer_destroy(own);
    hal_buffer_destroy(others);
    hal_buffer_destroy(table);
}

static void numbers_are_added_pairwise_in_the_order_of_ranks(void **state)
{
    (void)state;
    static const uint32_t cases[][2] = {{2, 1}, {3, 0}, {5, 2}};
    if (!fixture_has_compiler())
        TEST_SKIP("no C++ compiler: the mock of NVRTC cannot compile");
    HalDevice *device = fixture_device();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        adds(device, cases[i][0], cases[i][1]);
    hal_device_destroy(device);
}

static void the_order_is_in_the_text(void **state)
{
    (void)state;
    Arena *arena = arena_create();
    assert_non_null(strstr(cuda_sum_text(arena, 5, 2), "= (((a0 + a1) + (a2 + a3)) + a4);"));
    assert_non_null(strstr(cuda_sum_text(arena, 3, 0), "= ((a0 + a1) + a2);"));
    arena_destroy(arena);
}

static void the_real_nvrtc_compiles_it(void **state)
{
    (void)state;
#ifdef PTC_NVRTC_DIR
    static const int archs[] = {80, 90, 120};
    const char *mocks = getenv("PTC_CUDA_PATH");
    char *kept = strdup(mocks);
    Arena *arena = arena_create();
    setenv("PTC_CUDA_PATH", PTC_NVRTC_DIR, 1);
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
    {
        CudaCompiler compiler;
        const char *cubin;
        size_t n = 0;
        assert_int_equal(cuda_compiler_open(arena, NULL, archs[i], CUDA_CUBIN, &compiler), STATUS_OK);
        if (cuda_compile(arena, &compiler, cuda_sum_text(arena, 8, 3), "/tmp/ptc-sum", &cubin, &n) != STATUS_OK)
            fail_msg("%s", status_detail());
        assert_true(n > 100);
        cuda_compiler_close(&compiler);
    }
    setenv("PTC_CUDA_PATH", kept, 1);
    free(kept);
    arena_destroy(arena);
#else
    TEST_SKIP("no CUDA toolkit: the real NVRTC does not compile it");
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(numbers_are_added_pairwise_in_the_order_of_ranks),
                                       cmocka_unit_test(the_order_is_in_the_text),
                                       cmocka_unit_test(the_real_nvrtc_compiles_it)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
