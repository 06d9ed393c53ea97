// ptc generated kernels: CUDA C, for NVRTC (--fmad=false: a fused a * b + c is always written out).
#ifndef PTC_SHIM // the tests run this text on the CPU (tests/codegen/cuda_shim.h)
typedef int int32_t;
typedef unsigned int uint32_t;
typedef unsigned short uint16_t;
typedef unsigned char uint8_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#define PTC_DYNAMIC_ROWS extern __shared__ __align__(16) char rows[]
#endif

#define PTC_INLINE static __device__ __forceinline__
#define PTC_UNROLL _Pragma("unroll")
#define PTC_INF    __int_as_float(0x7F800000)
#define PTC_NAN    __int_as_float(0x7FC00000)

PTC_INLINE float ptc_bits_float(uint32_t bits)
{
    return __uint_as_float(bits);
}
PTC_INLINE uint32_t ptc_float_bits(float f)
{
    return __float_as_uint(f);
}
PTC_INLINE float ptc_sigmoid(float x)
{
    const float e = expf(-fabsf(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}
#ifdef PTC_SHIM
PTC_INLINE float ptc_clamp(float x, float most)
{
    return x > most ? most : x < -most ? -most : x;
}
PTC_INLINE float ptc_reciprocal(float x)
{
    return 1.0f / x;
}
#else
PTC_INLINE float ptc_clamp(float x, float most) // what is NaN stays so
{
    float y;
    asm("{\n.reg .f32 t;\nmin.NaN.f32 t, %1, %2;\nmax.NaN.f32 %0, t, %3;\n}" : "=f"(y) : "f"(x), "f"(most), "f"(-most));
    return y;
}
PTC_INLINE float ptc_reciprocal(float x) // to 1 ulp, of what is not tiny
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif
// x P(x x) / Q(x x), fitted to relative errors in [0, 3.7]: within 6 ulp, in half the instructions of erff.
PTC_INLINE float ptc_erf(float x)
{
    const float c = ptc_clamp(x, 3.7f), s = c * c;
    float p = fmaf(2.289786138e-08f, s, -2.050167950e-06f);
    p = fmaf(p, s, 1.301563754e-04f);
    p = fmaf(p, s, 2.989926375e-03f);
    p = fmaf(p, s, 4.823010787e-02f);
    p = fmaf(p, s, 1.817253828e-01f);
    p = fmaf(p, s, 1.128379107e+00f);
    float q = fmaf(8.006176213e-04f, s, 1.285768952e-02f);
    q = fmaf(q, s, 1.075418368e-01f);
    q = fmaf(q, s, 4.943823814e-01f);
    q = fmaf(q, s, 1.0f);
    return c * p * ptc_reciprocal(q);
}

#define ABS(a)     fabsf(a)
#define EXP(a)     expf(a)
#define LOG(a)     logf(a)
#define SQRT(a)    sqrtf(a)
#define RSQRT(a)   rsqrtf(a)
#define TANH(a)    tanhf(a)
#define SIGMOID(a) ptc_sigmoid(a)
#define ERF(a)     ptc_erf(a)
#define SIN(a)     sinf(a)
#define COS(a)     cosf(a)
#define FLOOR(a)   floorf(a)
#define POW(a, b)  powf(a, b)

// ---- sums over a block: lanes of a warp, then the warps; every thread gets the result
#define PTC_REDUCTION(op, family, T, IDENTITY, COMBINE)                                                                \
    PTC_INLINE T ptc_##op##_identity_##family()                                                                        \
    {                                                                                                                  \
        return IDENTITY;                                                                                               \
    }                                                                                                                  \
    PTC_INLINE T ptc_##op##2_##family(T a, T b)                                                                        \
    {                                                                                                                  \
        return COMBINE(a, b);                                                                                          \
    }                                                                                                                  \
    PTC_INLINE T ptc_warp_##op##_##family(T x)                                                                         \
    {                                                                                                                  \
        for (int d = 16; d > 0; d >>= 1)                                                                               \
        {                                                                                                              \
            const T y = __shfl_xor_sync(0xFFFFFFFFu, x, d);                                                            \
            x = COMBINE(x, y);                                                                                         \
        }                                                                                                              \
        return x;                                                                                                      \
    }                                                                                                                  \
    template <int N> PTC_INLINE T ptc_parts_##op##_##family(const T *part)                                             \
    {                                                                                                                  \
        T x = part[0];                                                                                                 \
        PTC_UNROLL                                                                                                     \
        for (int i = 1; i < N; i++)                                                                                    \
            x = COMBINE(x, part[i]);                                                                                   \
        return x;                                                                                                      \
    }                                                                                                                  \
    PTC_INLINE T ptc_block_##op##_##family(T x)                                                                        \
    {                                                                                                                  \
        __shared__ T part[32];                                                                                         \
        x = ptc_warp_##op##_##family(x);                                                                               \
        if (blockDim.x <= 32)                                                                                          \
            return x;                                                                                                  \
        __syncthreads(); /* the last sum's parts have been read */                                                     \
        if (threadIdx.x % 32 == 0)                                                                                     \
            part[threadIdx.x / 32] = x;                                                                                \
        __syncthreads();                                                                                               \
        return ptc_warp_##op##_##family(threadIdx.x % 32 < blockDim.x / 32 ? part[threadIdx.x % 32]                    \
                                                                           : ptc_##op##_identity_##family());          \
    }
#define PTC_ADD(a, b) ((a) + (b))
#define PTC_MAX(a, b) ((a) > (b) ? (a) : (b))
#define PTC_MIN(a, b) ((a) < (b) ? (a) : (b))
PTC_REDUCTION(sum, f, float, 0.0f, PTC_ADD)
PTC_REDUCTION(max, f, float, -PTC_INF, PTC_MAX)
PTC_REDUCTION(min, f, float, PTC_INF, PTC_MIN)
PTC_REDUCTION(sum, i, int, 0, PTC_ADD)
PTC_REDUCTION(max, i, int, (int)0x80000000, PTC_MAX)
PTC_REDUCTION(min, i, int, 0x7FFFFFFF, PTC_MIN)
