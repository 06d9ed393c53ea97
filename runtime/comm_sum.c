/* Sums over ranks, read straight from everybody's memory. The loops run over strips of constant length, which is what
 * lets gcc vectorise them at -O2, and which keeps the partial sums of the tree in the first-level cache. Adding is all
 * that is done to a number, so the instruction set cannot change a result. */
#include "runtime/comm_sum.h"

#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum
{
    STRIP = 1024 /* elements */
};

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&               \
    !defined(__SANITIZE_THREAD__)
#define WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDEST
#endif

WIDEST static void add2(const float *a, const float *b, float *out)
{
    for (size_t i = 0; i < STRIP; i++)
        out[i] = a[i] + b[i];
}

WIDEST static void add3(const float *a, const float *b, const float *c, float *out)
{
    for (size_t i = 0; i < STRIP; i++)
        out[i] = (a[i] + b[i]) + c[i];
}

WIDEST static void add4(const float *a, const float *b, const float *c, const float *d, float *out)
{
    for (size_t i = 0; i < STRIP; i++)
        out[i] = (a[i] + b[i]) + (c[i] + d[i]);
}

/* A strip at an offset; n <= STRIP elements, fewer only in the last one. */
static void sum_strip(const float *const *srcs, uint32_t n_srcs, size_t at, size_t n, float *out)
{
    const bool whole = n == STRIP;
    if (whole && n_srcs == 2)
        add2(srcs[0] + at, srcs[1] + at, out);
    else if (whole && n_srcs == 3)
        add3(srcs[0] + at, srcs[1] + at, srcs[2] + at, out);
    else if (whole && n_srcs == 4)
        add4(srcs[0] + at, srcs[1] + at, srcs[2] + at, srcs[3] + at, out);
    else if (n_srcs == 1)
        memmove(out, srcs[0] + at, n * sizeof *out);
    else if (n_srcs == 2)
    {
        for (size_t i = 0; i < n; i++)
            out[i] = srcs[0][at + i] + srcs[1][at + i];
    }
    else
    {
        float left[STRIP], right[STRIP]; /* out may be a source that is still to be read */
        uint32_t p = 1;
        while (p * 2 < n_srcs)
            p *= 2;
        sum_strip(srcs, p, at, n, left);
        sum_strip(srcs + p, n_srcs - p, at, n, right);
        if (whole)
            add2(left, right, out);
        else
            for (size_t i = 0; i < n; i++)
                out[i] = left[i] + right[i];
    }
}

void comm_sum_pairwise(const float *const *srcs, uint32_t n_srcs, float *const *outs, uint32_t n_outs, size_t n_elems)
{
    for (size_t at = 0; at < n_elems; at += STRIP)
    {
        const size_t n = n_elems - at < STRIP ? n_elems - at : STRIP;
        sum_strip(srcs, n_srcs, at, n, outs[0] + at);
        for (uint32_t i = 1; i < n_outs; i++)
            memcpy(outs[i] + at, outs[0] + at, n * sizeof **outs);
    }
}

static void copy_past_caches(float *dst, const float *src, size_t n_elems)
{
#ifdef __SSE2__
    for (; n_elems > 0 && (uintptr_t)dst % 16 != 0; n_elems--)
        *dst++ = *src++;
    for (; n_elems >= 16; n_elems -= 16, dst += 16, src += 16)
        for (int i = 0; i < 16; i += 4)
            _mm_stream_ps(dst + i, _mm_loadu_ps(src + i));
    _mm_sfence();
#endif
    memcpy(dst, src, n_elems * sizeof *dst);
}

/* Calls copy for the parts of slices that [first, first + n_elems) covers. */
#define FOR_PARTS(copy)                                                                                                \
    do                                                                                                                 \
    {                                                                                                                  \
        size_t begin = 0, done = 0;                                                                                    \
        for (uint32_t s = 0; s < n_slices && done < n_elems; begin += slices[s++].n_elems)                             \
        {                                                                                                              \
            if (first + done >= begin + slices[s].n_elems)                                                             \
                continue;                                                                                              \
            size_t skip = first + done - begin, n = slices[s].n_elems - skip;                                          \
            if (n > n_elems - done)                                                                                    \
                n = n_elems - done;                                                                                    \
            copy;                                                                                                      \
            done += n;                                                                                                 \
        }                                                                                                              \
    } while (0)

void comm_slices_read(const CommSlice *slices, uint32_t n_slices, size_t first, size_t n_elems, float *out)
{
    FOR_PARTS(memcpy(out + done, slices[s].src + skip, n * sizeof *out));
}

void comm_slices_write(const CommSlice *slices, uint32_t n_slices, size_t first, size_t n_elems, const float *in,
                       bool is_long)
{
    /* so much that it would only push out of the caches what others still read there */
    if (is_long)
        FOR_PARTS(copy_past_caches(slices[s].dst + skip, in + done, n));
    else
        FOR_PARTS(memcpy(slices[s].dst + skip, in + done, n * sizeof *in));
}
