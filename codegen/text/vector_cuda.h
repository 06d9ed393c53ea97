// ---- N neighbouring elements by one access, of at most 16 bytes; bf16 and small integers become what registers hold
template <typename T, int N> struct alignas(sizeof(T) * N) PtcVector
{
    T at[N];
};
// Words: halves would have registers of their own as soon as they are loaded, which waits for them.
template <int N> struct alignas(2 * N) PtcVector<uint16_t, N>
{
    uint32_t words[N / 2];
};
template <> struct PtcVector<uint16_t, 1>
{
    uint16_t at[1];
};
PTC_INLINE float ptc_widen(float x)
{
    return x;
}
PTC_INLINE float ptc_widen(uint16_t x)
{
    return ptc_bf16_load(x);
}
PTC_INLINE int32_t ptc_widen(int32_t x)
{
    return x;
}
PTC_INLINE int32_t ptc_widen(uint8_t x)
{
    return x;
}
// Element i of a vector.
template <typename T, int N> PTC_INLINE auto ptc_at(const PtcVector<T, N> &x, int i) -> decltype(ptc_widen(x.at[0]))
{
    return ptc_widen(x.at[i]);
}
template <int N> PTC_INLINE float ptc_at(const PtcVector<uint16_t, N> &x, int i)
{
    if constexpr (N == 1)
        return ptc_widen(x.at[0]);
    else
        return ptc_bits_float(i % 2 ? x.words[i / 2] & 0xFFFF0000u : x.words[i / 2] << 16);
}
template <int N, typename R, typename T> PTC_INLINE void ptc_load_vector(R *to, const T *from)
{
    const PtcVector<T, N> x = *(const PtcVector<T, N> *)from;
    PTC_UNROLL
    for (int i = 0; i < N; i++)
        to[i] = ptc_at(x, i);
}
// The same as it is in memory: half the registers, for bf16.
template <int N, typename T> PTC_INLINE PtcVector<T, N> ptc_vector(const T *from)
{
    return *(const PtcVector<T, N> *)from;
}
// Where it stands: the compiler would move a load to where its value is wanted.
template <int N, typename T> PTC_INLINE PtcVector<T, N> ptc_vector_early(const T *from)
{
#ifdef PTC_SHIM
    return ptc_vector<N>(from);
#else
    constexpr int BYTES = sizeof(T) * N;
    union
    {
        uint32_t words[BYTES < 16 ? 4 : BYTES / 4];
        PtcVector<T, N> x;
    } y;
    uint32_t *w = y.words;
    if (BYTES < 4)
        y.x = ptc_vector<N>(from);
    else if (BYTES == 4)
        asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(w[0]) : "l"(from));
    else if (BYTES == 8)
        asm volatile("ld.global.nc.v2.u32 {%0, %1}, [%2];" : "=r"(w[0]), "=r"(w[1]) : "l"(from));
    PTC_UNROLL
    for (int i = 0; i < BYTES / 16; i++, w += 4)
        asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                     : "l"((const char *)from + 16 * i));
    return y.x;
#endif
}
// What a guard keeps out is 0.
template <int N, typename T> PTC_INLINE PtcVector<T, N> ptc_vector_if(bool guard, const T *from)
{
    PtcVector<T, N> x = {};
    if (guard)
        x = ptc_vector<N>(from);
    return x;
}
template <int N, typename T> PTC_INLINE void ptc_store_vector(T *to, const T *from)
{
    PtcVector<T, N> x;
    PTC_UNROLL
    for (int i = 0; i < N; i++)
        x.at[i] = from[i];
    *(PtcVector<T, N> *)to = x;
}
// Of values that are those of bf16.
template <int N> PTC_INLINE void ptc_store_vector(uint16_t *to, const float *from)
{
    PtcVector<uint16_t, N> x;
    if constexpr (N == 1)
        x.at[0] = ptc_bf16_bits(from[0]);
    else
    {
        PTC_UNROLL
        for (int i = 0; i < N / 2; i++)
            x.words[i] = ptc_bf16_pair(from[2 * i], from[2 * i + 1]);
    }
    *(PtcVector<uint16_t, N> *)to = x;
}
// N random numbers, of elements that begin at a multiple of 4; ptc_random_words: the words that they are made of.
template <int N>
PTC_INLINE void ptc_random_words(uint32_t *to, int32_t key0, int32_t key1, int32_t sample, uint32_t element,
                                 uint32_t stream)
{
    PTC_UNROLL
    for (int i = 0; i < N; i += 4)
        ptc_random4(key0, key1, sample, element / 4 + i / 4, stream, to + i);
}
template <int N>
PTC_INLINE void ptc_random_vector(float *to, int32_t key0, int32_t key1, int32_t sample, uint32_t element,
                                  uint32_t stream)
{
    uint32_t words[N];
    ptc_random_words<N>(words, key0, key1, sample, element, stream);
    PTC_UNROLL
    for (int i = 0; i < N; i++)
        to[i] = (float)(int32_t)(words[i] >> 8) * 0x1p-24f;
}
