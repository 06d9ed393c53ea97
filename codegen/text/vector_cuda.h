// ---- N neighbouring elements by one access, of at most 16 bytes; bf16 and small integers become what registers hold
template <typename T, int N> struct alignas(sizeof(T) * N) PtcVector
{
    T at[N];
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
template <int N, typename R, typename T> PTC_INLINE void ptc_load_vector(R *to, const T *from)
{
    const PtcVector<T, N> x = *(const PtcVector<T, N> *)from;
    PTC_UNROLL
    for (int i = 0; i < N; i++)
        to[i] = ptc_widen(x.at[i]);
}
// What a guard keeps out is 0.
template <int N, typename R, typename T> PTC_INLINE void ptc_load_vector_if(bool guard, R *to, const T *from)
{
    PTC_UNROLL
    for (int i = 0; i < N; i++)
        to[i] = 0;
    if (guard)
        ptc_load_vector<N>(to, from);
}
template <int N, typename T> PTC_INLINE void ptc_store_vector(T *to, const T *from)
{
    PtcVector<T, N> x;
    PTC_UNROLL
    for (int i = 0; i < N; i++)
        x.at[i] = from[i];
    *(PtcVector<T, N> *)to = x;
}
// N random numbers, of elements that begin at a multiple of 4.
template <int N>
PTC_INLINE void ptc_random_vector(float *to, int32_t key0, int32_t key1, int32_t sample, uint32_t element,
                                  uint32_t stream)
{
    uint32_t words[N];
    PTC_UNROLL
    for (int i = 0; i < N; i += 4)
        ptc_random4(key0, key1, sample, element / 4 + i / 4, stream, words + i);
    PTC_UNROLL
    for (int i = 0; i < N; i++)
        to[i] = (float)(int32_t)(words[i] >> 8) * 0x1p-24f;
}
