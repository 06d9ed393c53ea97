// Runs generated CUDA text on the CPU: put before the text and compiled as C++. A fiber per CUDA thread of a block;
// blocks one after another. A warp runs until it waits at a barrier before the next one gets its turn, in one of three
// orders, so that a missing barrier gives a wrong result in at least one. A barrier that not all threads of a block (or
// a shuffle that not all of a warp) reach is reported. Fibers start by makecontext and switch by _setjmp, which is no
// system call. What a warp does at once (shuffles, codegen/text/mma_cuda.h) is offered by each lane, then taken by
// each.
#define PTC_SHIM 1
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>
#ifdef __SANITIZE_ADDRESS__
#include <dlfcn.h>
#include <sanitizer/asan_interface.h>
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__      static
#define __launch_bounds__(...)
#define PTC_DYNAMIC_ROWS char *const rows = shim_rows
#define threadIdx        shim_thread
#define blockIdx         shim_block
#define blockDim         shim_block_dim
#define gridDim          shim_grid_dim
#define __syncthreads()  shim_barrier(__LINE__)

struct ShimDim
{
    unsigned x;
};
static ShimDim shim_thread, shim_block, shim_block_dim, shim_grid_dim;

enum
{
    SHIM_MAX_THREADS = 1024,
    SHIM_STACK = 64 * 1024,
    SHIM_MAX_ROWS = 227 * 1024,
    SHIM_MAX_COPIES = 256 // of a thread, not waited for
};
alignas(64) char shim_rows[SHIM_MAX_ROWS + 64];
enum ShimState
{
    SHIM_READY,
    SHIM_AT_BARRIER,
    SHIM_AT_SHUFFLE,
    SHIM_DONE
};
struct ShimCopy
{
    void *to;
    const void *from; // NULL: zeros
    size_t size_bytes;
};
struct ShimFiber
{
    jmp_buf at;
    bool started;
    ShimState state;
    int line;        // of the barrier
    float offer[12]; // to the other lanes
    const uint16_t *row;
    ShimCopy copies[SHIM_MAX_COPIES];
    int n_copies;
};
static ShimFiber shim_fibers[SHIM_MAX_THREADS];
alignas(64) static char shim_stacks[SHIM_MAX_THREADS][SHIM_STACK];
static jmp_buf shim_scheduler;
static void (*shim_entry)(void **, char *, uint32_t);
static void **shim_pointers;
static char *shim_workspace;
static uint32_t shim_stream;
static const char *shim_fault; // what a thread did wrong
extern "C" __attribute__((visibility("default"))) unsigned shim_planted;
unsigned shim_planted; // the fault in the text that is to be made; 0: none

// AddressSanitizer's own longjmp clears what it knows of the whole stack of the process, for each switch. No frame is
// left for good here, so nothing is to be cleared.
static void shim_jump(jmp_buf at)
{
#ifdef __SANITIZE_ADDRESS__
    static void *jump = dlsym(dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD), "_longjmp");
    ((void (*)(jmp_buf, int))jump)(at, 1);
#else
    _longjmp(at, 1);
#endif
}

static void shim_wait(ShimState state, int line)
{
    const unsigned me = shim_thread.x;
    shim_fibers[me].state = state;
    shim_fibers[me].line = line;
    if (_setjmp(shim_fibers[me].at) == 0)
        shim_jump(shim_scheduler);
}
static void shim_barrier(int line)
{
    shim_wait(SHIM_AT_BARRIER, line);
}
// All lanes have offered; or, after that, all have taken.
static void shim_collect(int line)
{
    shim_wait(SHIM_AT_SHUFFLE, line);
}
static ShimFiber *shim_warp()
{
    return &shim_fibers[shim_thread.x / 32 * 32];
}
#define __syncwarp() shim_collect(__LINE__)
template <typename T> static T __shfl_xor_sync(unsigned, T x, int distance)
{
    const unsigned me = shim_thread.x;
    static_assert(sizeof x == 4, "a 4-byte value");
    memcpy(shim_fibers[me].offer, &x, 4);
    shim_collect(__LINE__);
    memcpy(&x, shim_fibers[me ^ distance].offer, 4);
    shim_collect(__LINE__);
    return x;
}
static int __reduce_max_sync(unsigned mask, int x)
{
    for (int d = 16; d > 0; d >>= 1)
    {
        const int y = __shfl_xor_sync(mask, x, d);
        x = x > y ? x : y;
    }
    return x;
}
static inline uint32_t min(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}
static inline float __int_as_float(int i)
{
    float f;
    memcpy(&f, &i, 4);
    return f;
}
static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
static inline float __uint_as_float(unsigned i)
{
    return __int_as_float((int)i);
}
static inline unsigned __float_as_uint(float f)
{
    unsigned i;
    memcpy(&i, &f, 4);
    return i;
}

// ---- codegen/text/mma_cuda.h
static void shim_unpack(float *to, uint32_t pair)
{
    to[0] = __uint_as_float(pair << 16);
    to[1] = __uint_as_float(pair & 0xFFFF0000u);
}
static void ptc_mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    float *offer = shim_fibers[shim_thread.x].offer;
    const int row = shim_thread.x % 32 / 4, column = shim_thread.x % 4 * 2;
    for (int i = 0; i < 4; i++)
        shim_unpack(offer + 2 * i, a[i]);
    shim_unpack(offer + 8, b0);
    shim_unpack(offer + 10, b1);
    shim_collect(__LINE__);
    for (int lane = 0; lane < 4; lane++) // it has columns 2 lane, 2 lane + 1 and these + 8 of a, and such rows of b
    {
        const float *of_a = shim_warp()[4 * row + lane].offer;
        for (int e = 0; e < 4; e++)
        {
            const float *x = of_a + e / 2 * 2, *y = shim_warp()[4 * (column + e % 2) + lane].offer + 8;
            c[e] += x[0] * y[0] + x[1] * y[1] + x[4] * y[2] + x[5] * y[3];
        }
    }
    shim_collect(__LINE__);
}
static void shim_offer_row(const uint16_t *row, int line)
{
    if ((uintptr_t)row % 16 != 0 || (const char *)row < shim_rows || (const char *)row >= shim_rows + SHIM_MAX_ROWS)
        shim_fault = "a row of a matrix that is not at 16 bytes of shared memory";
    shim_fibers[shim_thread.x].row = row;
    shim_collect(line);
}
static void ptc_matrices(uint32_t (&r)[4], const uint16_t *row)
{
    shim_offer_row(row, __LINE__);
    for (int i = 0; i < 4; i++)
        memcpy(&r[i], shim_warp()[8 * i + shim_thread.x % 32 / 4].row + shim_thread.x % 4 * 2, 4);
    shim_collect(__LINE__);
}
static void ptc_matrices_turned(uint32_t (&r)[4], const uint16_t *row)
{
    shim_offer_row(row, __LINE__);
    for (int i = 0; i < 4; i++)
    {
        const ShimFiber *at = &shim_warp()[8 * i + shim_thread.x % 4 * 2];
        r[i] = at[0].row[shim_thread.x % 32 / 4] | (uint32_t)at[1].row[shim_thread.x % 32 / 4] << 16;
    }
    shim_collect(__LINE__);
}
// A copy is made when it is waited for, so that nobody finds what is not there yet.
static void shim_copy(void *to, const void *from, size_t size_bytes, bool there)
{
    ShimFiber *me = &shim_fibers[shim_thread.x];
    if ((uintptr_t)to % size_bytes != 0 || (uintptr_t)from % size_bytes != 0)
        shim_fault = "a copy that is not aligned to its size";
    if (me->n_copies == SHIM_MAX_COPIES)
        shim_fault = "more copies than the shim keeps";
    else
        me->copies[me->n_copies++] = ShimCopy{to, there ? from : NULL, size_bytes};
}
static void ptc_copy16(void *to, const void *from, bool there)
{
    shim_copy(to, from, 16, there);
}
static void ptc_copy4(void *to, const void *from, bool there)
{
    shim_copy(to, from, 4, there);
}
static void ptc_copies_wait()
{
    ShimFiber *me = &shim_fibers[shim_thread.x];
    for (int i = 0; i < me->n_copies; i++)
        if (me->copies[i].from)
            memcpy(me->copies[i].to, me->copies[i].from, me->copies[i].size_bytes);
        else
            memset(me->copies[i].to, 0, me->copies[i].size_bytes);
    me->n_copies = 0;
}
static float ptc_exp2(float x)
{
    return exp2f(x);
}
static uint32_t shim_bf16(float f)
{
    const uint32_t bits = __float_as_uint(f), rounded = bits + 0x7FFFu + ((bits >> 16) & 1u);
    return (f == f ? rounded : bits | 0x400000u) >> 16;
}
static uint32_t ptc_pack(float x, float y)
{
    return shim_bf16(x) | shim_bf16(y) << 16;
}

// A fiber serves one thread number block after block, until a fault stops it where it is.
static void shim_main()
{
    for (;;)
    {
        shim_entry(shim_pointers, shim_workspace, shim_stream);
        shim_wait(SHIM_DONE, 0);
    }
}
static void shim_resume(unsigned t)
{
    shim_thread.x = t;
    if (_setjmp(shim_scheduler) != 0)
        return;
    if (shim_fibers[t].started)
        shim_jump(shim_fibers[t].at);
    static ucontext_t context;
    shim_fibers[t].started = true;
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(shim_stacks[t], SHIM_STACK);
#endif
    getcontext(&context);
    context.uc_stack.ss_sp = shim_stacks[t];
    context.uc_stack.ss_size = SHIM_STACK;
    makecontext(&context, shim_main, 0);
    setcontext(&context);
}

// Threads first .. last that are not done, when all of them are in `state` at one place.
static bool shim_all(unsigned first, unsigned last, ShimState state)
{
    int line = -1;
    for (unsigned t = first; t < last; t++)
    {
        if (shim_fibers[t].state == SHIM_DONE)
            continue;
        if (shim_fibers[t].state != state || (line >= 0 && shim_fibers[t].line != line))
            return false;
        line = shim_fibers[t].line;
    }
    return line >= 0;
}
static void shim_release(unsigned first, unsigned last)
{
    for (unsigned t = first; t < last; t++)
        if (shim_fibers[t].state != SHIM_DONE)
            shim_fibers[t].state = SHIM_READY;
}

// Position i of an order of n threads: forward, backward, scattered.
static unsigned shim_position(unsigned i, unsigned n, int order)
{
    return order == 0 ? i : order == 1 || n % 37 == 0 ? n - 1 - i : (i * 37 + 11) % n;
}

// Runs a warp until it waits at a barrier or has ended; false when nothing could run.
static bool shim_run_warp(unsigned first, int order)
{
    bool ran = false;
    for (bool again = true; again;)
    {
        for (unsigned i = 0; i < 32; i++)
        {
            const unsigned t = first + shim_position(i, 32, order);
            if (shim_fibers[t].state != SHIM_READY)
                continue;
            shim_resume(t);
            ran = true;
        }
        again = shim_all(first, first + 32, SHIM_AT_SHUFFLE);
        if (again)
            shim_release(first, first + 32);
    }
    return ran;
}

static const char *shim_run_block(unsigned n_threads, unsigned smem_bytes, int order)
{
    memset(shim_rows, 0xFF, smem_bytes + 64);
    for (unsigned t = 0; t < n_threads; t++)
    {
        shim_fibers[t].state = SHIM_READY;
        shim_fibers[t].n_copies = 0;
    }
    for (;;)
    {
        bool ran = false, all_done = true;
        for (unsigned w = 0; w < n_threads / 32; w++)
            ran |= shim_run_warp(32 * shim_position(w, n_threads / 32, order), order);
        for (unsigned t = 0; t < n_threads; t++)
            all_done &= shim_fibers[t].state == SHIM_DONE;
        if (shim_fault)
            return shim_fault;
        for (unsigned i = 0; i < 64 && all_done; i++)
            if (shim_rows[smem_bytes + i] != (char)0xFF)
                return "wrote past the end of shared memory";
        if (all_done)
            return NULL;
        if (shim_all(0, n_threads, SHIM_AT_BARRIER))
            shim_release(0, n_threads);
        else if (!ran)
            return "a barrier or a shuffle that not all threads reach";
    }
}

extern "C" __attribute__((visibility("default"))) const char *shim_run(void (*entry)(void **, char *, uint32_t),
                                                                       unsigned grid, unsigned block,
                                                                       unsigned smem_bytes, void **pointers,
                                                                       char *workspace, uint32_t stream, int order)
{
    shim_fault = smem_bytes > SHIM_MAX_ROWS ? "more shared memory than a device has" : NULL;
    if (shim_fault)
        return shim_fault;
    shim_entry = entry;
    shim_pointers = pointers;
    shim_workspace = workspace;
    shim_stream = stream;
    shim_block_dim.x = block;
    shim_grid_dim.x = grid;
    for (unsigned i = 0; i < grid; i++)
    {
        shim_block.x = shim_position(i, grid, order);
        const char *why = shim_run_block(block, smem_bytes, order);
        if (!why)
            continue;
        for (ShimFiber &fiber : shim_fibers)
            fiber.started &= fiber.state == SHIM_DONE;
        return why;
    }
    return NULL;
}
