// ---- one launch for many calls: a table of them, and each has the blocks from `first` up to that of the next one
template <int N> struct PtcCall
{
    int64_t n; // elements
    uint32_t first, unused;
    void *at[N]; // operands and results
};
// The call that *block is one of; *block becomes its number there.
template <int N> PTC_INLINE const PtcCall<N> *ptc_call_of(const PtcCall<N> *calls, uint32_t n_calls, uint32_t *block)
{
    uint32_t at = 0;
    for (uint32_t end = n_calls; end - at > 1;)
    {
        const uint32_t middle = (at + end) / 2;
        if (calls[middle].first <= *block)
            at = middle;
        else
            end = middle;
    }
    *block -= calls[at].first;
    return calls + at;
}
template <typename T> PTC_INLINE void ptc_call_take(T *&to, void *from)
{
    to = (T *)from;
}
