/* ptc generated kernels: C. -ffp-contract=off: a fused a * b + c is always written out as ptc_fma. */
#include <stdint.h>
#include <string.h>

#define PTC_INLINE static inline __attribute__((always_inline, unused))
#define PTC_FUNC   static __attribute__((noinline, unused))
#define PTC_SIMD   _Pragma("omp simd")
#define PTC_INF    __builtin_inff()
#define PTC_NAN    __builtin_nanf("")

typedef int64_t ptc_index;

typedef void PtcTaskFn(void *const *bufs, void *workspace, void *scratch, int64_t task);
typedef struct
{
    PtcTaskFn *run;
    int64_t n_tasks;
} PtcKernelPhase;
typedef struct
{
    const char *name;
    uint32_t n_phases;
    PtcKernelPhase phase[3];
    int64_t workspace_bytes;
    int64_t scratch_bytes;
} PtcKernel;
typedef struct
{
    uint32_t abi_version;
    uint32_t n_kernels;
    const PtcKernel *kernels;
} PtcKernelTable;

PTC_INLINE float ptc_fma(float a, float b, float c)
{
    return __builtin_fmaf(a, b, c);
}
PTC_INLINE float ptc_bits_float(uint32_t bits)
{
    union
    {
        uint32_t i;
        float f;
    } u = {bits};
    return u.f;
}
PTC_INLINE uint32_t ptc_float_bits(float f)
{
    union
    {
        float f;
        uint32_t i;
    } u = {f};
    return u.i;
}

/* ---- sums: 64 lanes by position, then a fixed tree */
#define PTC_REDUCTION(name, T, V, MASK, IDENTITY, COMBINE)                                                             \
    typedef T V __attribute__((vector_size(64), aligned(4), may_alias));                                               \
    PTC_INLINE T ptc_##name##_lane(T a, T b)                                                                           \
    {                                                                                                                  \
        return COMBINE(a, b);                                                                                          \
    }                                                                                                                  \
    PTC_FUNC T ptc_##name(const T *x, int64_t n)                                                                       \
    {                                                                                                                  \
        T lanes[64], tail[64];                                                                                         \
        for (int l = 0; l < 64; l++)                                                                                   \
            lanes[l] = IDENTITY;                                                                                       \
        V a0 = *(V *)lanes, a1 = a0, a2 = a0, a3 = a0;                                                                 \
        int64_t i = 0;                                                                                                 \
        for (; i + 64 <= n; i += 64)                                                                                   \
        {                                                                                                              \
            a0 = MASK(a0, *(const V *)(x + i));                                                                        \
            a1 = MASK(a1, *(const V *)(x + i + 16));                                                                   \
            a2 = MASK(a2, *(const V *)(x + i + 32));                                                                   \
            a3 = MASK(a3, *(const V *)(x + i + 48));                                                                   \
        }                                                                                                              \
        if (i < n)                                                                                                     \
        {                                                                                                              \
            for (int l = 0; l < 64; l++)                                                                               \
                tail[l] = IDENTITY;                                                                                    \
            memcpy(tail, x + i, (size_t)(n - i) * sizeof(T));                                                          \
            a0 = MASK(a0, *(V *)tail);                                                                                 \
            a1 = MASK(a1, *(V *)(tail + 16));                                                                          \
            a2 = MASK(a2, *(V *)(tail + 32));                                                                          \
            a3 = MASK(a3, *(V *)(tail + 48));                                                                          \
        }                                                                                                              \
        a0 = MASK(a0, a1);                                                                                             \
        a2 = MASK(a2, a3);                                                                                             \
        a0 = MASK(a0, a2);                                                                                             \
        memcpy(lanes, &a0, 64);                                                                                        \
        for (int w = 8; w > 0; w /= 2)                                                                                 \
            for (int l = 0; l < w; l++)                                                                                \
                lanes[l] = ptc_##name##_lane(lanes[l], lanes[l + w]);                                                  \
        return lanes[0];                                                                                               \
    }
#define PTC_ADD(a, b)   ((a) + (b))
#define PTC_MAX(a, b)   ((a) > (b) ? (a) : (b))
#define PTC_MIN(a, b)   ((a) < (b) ? (a) : (b))
typedef int32_t ptc_mask16 __attribute__((vector_size(64), aligned(4), may_alias));
#define PTC_VBLEND(V, m, a, b) ((V)(((ptc_mask16)(a) & (m)) | ((ptc_mask16)(b) & ~(m))))
#define PTC_VMAXF(a, b)        PTC_VBLEND(ptc_vmaxf, (a) > (b), a, b)
#define PTC_VMINF(a, b)        PTC_VBLEND(ptc_vminf, (a) < (b), a, b)
#define PTC_VMAXI(a, b)        PTC_VBLEND(ptc_vmaxi, (a) > (b), a, b)
#define PTC_VMINI(a, b)        PTC_VBLEND(ptc_vmini, (a) < (b), a, b)
PTC_REDUCTION(sum_f, float, ptc_vsumf, PTC_ADD, 0.0f, PTC_ADD)
PTC_REDUCTION(max_f, float, ptc_vmaxf, PTC_VMAXF, -PTC_INF, PTC_MAX)
PTC_REDUCTION(min_f, float, ptc_vminf, PTC_VMINF, PTC_INF, PTC_MIN)
PTC_REDUCTION(sum_i, int32_t, ptc_vsumi, PTC_ADD, 0, PTC_ADD)
PTC_REDUCTION(max_i, int32_t, ptc_vmaxi, PTC_VMAXI, INT32_MIN, PTC_MAX)
PTC_REDUCTION(min_i, int32_t, ptc_vmini, PTC_VMINI, INT32_MAX, PTC_MIN)

/* One step of a column reduction, its start, and the total of n_chunks partial rows of `stride` elements. */
#define PTC_COLUMN(op, family, T, IDENTITY, COMBINE)                                                                   \
    PTC_INLINE T ptc_##op##2_##family(T a, T b)                                                                        \
    {                                                                                                                  \
        return COMBINE(a, b);                                                                                          \
    }                                                                                                                  \
    PTC_INLINE void ptc_##op##_start_##family(T *to, int64_t n)                                                        \
    {                                                                                                                  \
        for (int64_t i = 0; i < n; i++)                                                                                \
            to[i] = IDENTITY;                                                                                          \
    }                                                                                                                  \
    PTC_FUNC void ptc_##op##_columns_##family(T *to, const T *from, int64_t n_chunks, int64_t stride, int64_t n)       \
    {                                                                                                                  \
        memcpy(to, from, (size_t)n * sizeof(T));                                                                       \
        for (int64_t c = 1; c < n_chunks; c++)                                                                         \
        {                                                                                                              \
            const T *row = from + c * stride;                                                                          \
            PTC_SIMD                                                                                                   \
            for (int64_t i = 0; i < n; i++)                                                                            \
                to[i] = COMBINE(to[i], row[i]);                                                                        \
        }                                                                                                              \
    }                                                                                                                  \
    /* A whole reduction of values that lie in memory: chunks, then the chunks' results. */                            \
    PTC_FUNC T ptc_##op##_chunks_##family(const T *x, int64_t n)                                                       \
    {                                                                                                                  \
        T partial[1024];                                                                                               \
        int64_t k = 0;                                                                                                 \
        for (int64_t i = 0; i < n && k < 1024; i += 32768)                                                             \
            partial[k++] = ptc_##op##_##family(x + i, n - i < 32768 ? n - i : 32768);                                  \
        return ptc_##op##_##family(partial, k);                                                                        \
    }
PTC_COLUMN(sum, f, float, 0.0f, PTC_ADD)
PTC_COLUMN(max, f, float, -PTC_INF, PTC_MAX)
PTC_COLUMN(min, f, float, PTC_INF, PTC_MIN)
PTC_COLUMN(sum, i, int32_t, 0, PTC_ADD)
PTC_COLUMN(max, i, int32_t, INT32_MIN, PTC_MAX)
PTC_COLUMN(min, i, int32_t, INT32_MAX, PTC_MIN)
