// Runs generated CUDA text on the CPU: put before the text and compiled as C++. A fiber per CUDA thread of a block;
// blocks one after another. A warp runs until it waits at a barrier before the next one gets its turn, in one of three
// orders, so that a missing barrier gives a wrong result in at least one. A barrier that not all threads of a block (or
// a shuffle that not all of a warp) reach is reported. Fibers start by makecontext and switch by _setjmp, which is no
// system call.
#define PTC_SHIM 1
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__      static
#define __launch_bounds__(n)
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
alignas(64) char shim_rows[48 * 1024];

enum
{
    SHIM_MAX_THREADS = 1024,
    SHIM_STACK = 64 * 1024
};
enum ShimState
{
    SHIM_READY,
    SHIM_AT_BARRIER,
    SHIM_AT_SHUFFLE,
    SHIM_DONE
};
struct ShimFiber
{
    jmp_buf at;
    bool started;
    ShimState state;
    int line;         // of the barrier
    uint32_t shuffle; // what it offers
};
static ShimFiber shim_fibers[SHIM_MAX_THREADS];
alignas(64) static char shim_stacks[SHIM_MAX_THREADS][SHIM_STACK];
static jmp_buf shim_scheduler;
static void (*shim_entry)(void **, char *, uint32_t);
static void **shim_pointers;
static char *shim_workspace;
static uint32_t shim_stream;

static void shim_wait(ShimState state, int line)
{
    const unsigned me = shim_thread.x;
    shim_fibers[me].state = state;
    shim_fibers[me].line = line;
    if (_setjmp(shim_fibers[me].at) == 0)
        _longjmp(shim_scheduler, 1);
}
static void shim_barrier(int line)
{
    shim_wait(SHIM_AT_BARRIER, line);
}
template <typename T> static T __shfl_xor_sync(unsigned, T x, int distance)
{
    const unsigned me = shim_thread.x;
    static_assert(sizeof x == 4, "a 4-byte value");
    memcpy(&shim_fibers[me].shuffle, &x, 4);
    shim_wait(SHIM_AT_SHUFFLE, 0); // all have offered
    memcpy(&x, &shim_fibers[me ^ distance].shuffle, 4);
    shim_wait(SHIM_AT_SHUFFLE, 0); // all have taken
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
static inline float __int_as_float(int i)
{
    float f;
    memcpy(&f, &i, 4);
    return f;
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

// A fiber serves one thread number for ever, block after block.
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
        _longjmp(shim_fibers[t].at, 1);
    static ucontext_t context;
    shim_fibers[t].started = true;
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

static const char *shim_run_block(unsigned n_threads, int order)
{
    memset(shim_rows, 0xFF, sizeof shim_rows);
    for (unsigned t = 0; t < n_threads; t++)
        shim_fibers[t].state = SHIM_READY;
    for (;;)
    {
        bool ran = false, all_done = true;
        for (unsigned w = 0; w < n_threads / 32; w++)
            ran |= shim_run_warp(32 * shim_position(w, n_threads / 32, order), order);
        for (unsigned t = 0; t < n_threads; t++)
            all_done &= shim_fibers[t].state == SHIM_DONE;
        if (all_done)
            return NULL;
        if (shim_all(0, n_threads, SHIM_AT_BARRIER))
            shim_release(0, n_threads);
        else if (!ran)
            return "a barrier or a shuffle that not all threads reach";
    }
}

extern "C" __attribute__((visibility("default"))) const char *shim_run(void (*entry)(void **, char *, uint32_t),
                                                                       unsigned grid, unsigned block, void **pointers,
                                                                       char *workspace, uint32_t stream, int order)
{
    shim_entry = entry;
    shim_pointers = pointers;
    shim_workspace = workspace;
    shim_stream = stream;
    shim_block_dim.x = block;
    shim_grid_dim.x = grid;
    for (unsigned i = 0; i < grid; i++)
    {
        shim_block.x = shim_position(i, grid, order);
        const char *why = shim_run_block(block, order);
        if (why)
            return why;
    }
    return NULL;
}
