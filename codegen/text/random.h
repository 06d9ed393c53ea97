/* ---- random numbers: Philox4x32-10 (Salmon et al., SC 2011), uniform in [0, 1); elements 4 q .. 4 q + 3 are the words of
 * block q. Written out, for a loop within would keep the caller's loop from being vectorised. */
#define PTC_PHILOX_HIGH(m, x) (uint32_t)(((uint64_t)(m) * (x)) >> 32) /* compilers know its vector form */
#define PTC_PHILOX_ROUND(k0, k1)                                                                                       \
    {                                                                                                                  \
        const uint32_t n0 = PTC_PHILOX_HIGH(0xCD9E8D57u, c2) ^ c1 ^ (k0);                                              \
        const uint32_t n2 = PTC_PHILOX_HIGH(0xD2511F53u, c0) ^ c3 ^ (k1);                                              \
        c1 = 0xCD9E8D57u * c2;                                                                                         \
        c3 = 0xD2511F53u * c0;                                                                                         \
        c0 = n0;                                                                                                       \
        c2 = n2;                                                                                                       \
    }
#define PTC_PHILOX(k0, k1, w0, w1)                                                                                     \
    PTC_PHILOX_ROUND(k0, k1)                                                                                           \
    PTC_PHILOX_ROUND(k0 + w0, k1 + w1)                                                                                 \
    PTC_PHILOX_ROUND(k0 + 2 * w0, k1 + 2 * w1)                                                                         \
    PTC_PHILOX_ROUND(k0 + 3 * w0, k1 + 3 * w1)                                                                         \
    PTC_PHILOX_ROUND(k0 + 4 * w0, k1 + 4 * w1)                                                                         \
    PTC_PHILOX_ROUND(k0 + 5 * w0, k1 + 5 * w1)                                                                         \
    PTC_PHILOX_ROUND(k0 + 6 * w0, k1 + 6 * w1)                                                                         \
    PTC_PHILOX_ROUND(k0 + 7 * w0, k1 + 7 * w1)                                                                         \
    PTC_PHILOX_ROUND(k0 + 8 * w0, k1 + 8 * w1)                                                                         \
    PTC_PHILOX_ROUND(k0 + 9 * w0, k1 + 9 * w1)
PTC_INLINE float ptc_random(int32_t key0, int32_t key1, int32_t sample, uint32_t element, uint32_t stream)
{
    uint32_t c0 = element / 4, c1 = (uint32_t)sample, c2 = (uint32_t)key1, c3 = stream;
    PTC_PHILOX((uint32_t)key0, 0x70746331u, 0x9E3779B9u, 0xBB67AE85u)
    const uint32_t low = element & 1 ? c1 : c0, high = element & 1 ? c3 : c2;
    return (float)(int32_t)((element & 2 ? high : low) >> 8) * 0x1p-24f;
}
/* Block `block`: four elements. */
PTC_INLINE void ptc_random4(int32_t key0, int32_t key1, int32_t sample, uint32_t block, uint32_t stream, uint32_t *words)
{
    uint32_t c0 = block, c1 = (uint32_t)sample, c2 = (uint32_t)key1, c3 = stream;
    PTC_PHILOX((uint32_t)key0, 0x70746331u, 0x9E3779B9u, 0xBB67AE85u)
    words[0] = c0;
    words[1] = c1;
    words[2] = c2;
    words[3] = c3;
}

/* ---- bf16 storage: bits of the upper half of an f32, rounded to nearest even */
PTC_INLINE float ptc_bf16_load(uint16_t bits)
{
    return ptc_bits_float((uint32_t)bits << 16);
}
/* Of a value that is one of bf16. */
PTC_INLINE uint16_t ptc_bf16_bits(float f)
{
    return (uint16_t)(ptc_float_bits(f) >> 16);
}
PTC_INLINE uint32_t ptc_bf16_pair(float low, float high)
{
    return (ptc_float_bits(low) >> 16) | (ptc_float_bits(high) & 0xFFFF0000u);
}
#ifdef __CUDACC__ /* an instruction, from sm_80 on: it rounds two */
PTC_INLINE float ptc_bf16_round(float f)
{
    uint32_t bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(f), "f"(0.0f));
    return ptc_bits_float(bits);
}
PTC_INLINE uint16_t ptc_bf16_store(float f)
{
    return ptc_bf16_bits(ptc_bf16_round(f));
}
#else
PTC_INLINE uint16_t ptc_bf16_store(float f)
{
    const uint32_t bits = ptc_float_bits(f);
    const uint32_t rounded = bits + 0x7FFFu + ((bits >> 16) & 1u);
    return (uint16_t)((f == f ? rounded : bits | 0x400000u) >> 16);
}
PTC_INLINE float ptc_bf16_round(float f)
{
    const uint32_t bits = ptc_float_bits(f);
    const uint32_t rounded = bits + 0x7FFFu + ((bits >> 16) & 1u);
    return ptc_bits_float((f == f ? rounded : bits | 0x400000u) & 0xFFFF0000u);
}
#endif
