// ---- attention on tensor cores, for bf16 heads of D = 32 .. 128, as FlashAttention-2 (Dao, 2023): a warp has 16
// queries, their sums in registers; tiles of KB keys and values come by two buffers. Scores are in units of log 2.
PTC_INLINE float ptc_log2e()
{
    return 1.44269504088896341f;
}
PTC_INLINE bool ptc_visible(const PtcAttention &a, int t, int s)
{
    const int at = t + a.s - a.t;
    return t < a.t && s < a.s && !(a.causal && s > at) && !(a.window && (s - at > a.window || at - s > a.window));
}
// Of n queries from t on and m keys from s on some pair is not visible.
PTC_INLINE bool ptc_has_hidden(const PtcAttention &a, int t, int n, int s, int m)
{
    const int at = t + a.s - a.t;
    return t + n > a.t || s + m > a.s || (a.causal && s + m - 1 > at) ||
           (a.window && (s + m - 1 - at > a.window || at + n - 1 - s > a.window));
}
// The keys that some of n queries from t on sees: *lo (a multiple of 16) .. *hi - 1.
PTC_INLINE void ptc_key_range(const PtcAttention &a, int t, int n, int *lo, int *hi)
{
    const int at = t + a.s - a.t, ahead = a.causal ? 0 : a.window;
    *lo = a.window && at > a.window ? (at - a.window) / 16 * 16 : 0;
    *hi = (a.causal || a.window) && at + n + ahead < a.s ? at + n + ahead : a.s;
}
// The queries that see some of m keys from s on: *lo (a multiple of 16) .. *hi - 1.
PTC_INLINE void ptc_query_range(const PtcAttention &a, int s, int m, int *lo, int *hi)
{
    const int at = s - a.s + a.t, first = a.causal ? at : at - a.window;
    *lo = (a.causal || a.window) && first > 0 ? first / 16 * 16 : 0;
    *hi = a.window && at + m + a.window < a.t ? at + m + a.window : a.t;
}

// A lane's part of 16 x 8 N products: element e of tile j is of query t + e / 2 * 8 and key s + 8 j + e % 2, or where
// TURNED, of query t + 8 j + e % 2 and key s + e / 2 * 8. Products become scores less `base` of the query. `row`: the
// bias of the keys from s on (TURNED: of the two) where it is the same for all queries. `hidden`: some of the pairs may
// not be visible.
template <int N, bool TURNED>
PTC_INLINE void ptc_mma_scores(const PtcAttention &a, const float *bias, const float *row,
                               const float (&base)[TURNED ? 2 * N : 2], int t, int s, bool hidden, float (&c)[N][4])
{
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
        {
            const int to_t = t + (TURNED ? 8 * j + e % 2 : e / 2 * 8), to_s = s + (TURNED ? e / 2 * 8 : 8 * j + e % 2);
            float term = -base[TURNED ? 2 * j + e % 2 : e / 2];
            if (bias && a.bias_t == 0)
                term = fmaf(row[TURNED ? e / 2 : 8 * j + e % 2], ptc_log2e(), term);
            else if (bias)
                term = fmaf(bias[(to_t < a.t ? to_t : a.t - 1) * a.bias_t + (to_s < a.s ? to_s : a.s - 1)], ptc_log2e(),
                            term);
            c[j][e] = fmaf(c[j][e], a.scale * ptc_log2e(), term);
        }
    if (!hidden)
        return;
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (!ptc_visible(a, t + (TURNED ? 8 * j + e % 2 : e / 2 * 8), s + (TURNED ? e / 2 * 8 : 8 * j + e % 2)))
                c[j][e] = -PTC_INF;
}
// Four bits: which of the four elements of a block of random numbers dropout keeps.
PTC_INLINE uint32_t ptc_kept4(const PtcAttention &a, const int32_t *key, int32_t sample, uint32_t block)
{
    const uint32_t least = (uint32_t)ceilf(a.p * 0x1p24f) << 8; // word >> 8 >= p 2^24
    uint32_t words[4];
    ptc_random4(key[0], key[1], sample, block, a.stream, words);
    return (words[0] >= least ? 1u : 0u) | (words[1] >= least ? 2u : 0u) | (words[2] >= least ? 4u : 0u) |
           (words[3] >= least ? 8u : 0u);
}
// Which elements of 16 x 8 N products dropout keeps: bit 4 j + e for element e of tile j. Queries and keys as those of
// ptc_mma_scores. Where rows of scores begin at multiples of 4, lanes share blocks: each makes one of a tile, and they
// exchange bits.
template <int N, bool TURNED>
PTC_INLINE uint32_t ptc_kept(const PtcAttention &a, const int32_t *key, int32_t sample, int64_t head, int t, int s)
{
    const int lane = threadIdx.x % 32;
    const uint32_t first = (uint32_t)((head * a.t + t) * a.s + s), step = (uint32_t)a.s;
    uint32_t bits = 0;
    if (a.s % 4 != 0)
    {
#pragma unroll 1
        for (int j = 0; j < N; j++)
            for (int e = 0; e < 4; e++)
            {
                const uint32_t element =
                    first + (TURNED ? (8 * j + e % 2) * step + e / 2 * 8 : 8 * j + e % 2 + e / 2 * 8 * step);
                if (ptc_random(key[0], key[1], sample, element, a.stream) >= a.p)
                    bits |= 1u << (4 * j + e);
            }
        return bits;
    }
    // What the lane makes: of two lanes beside each other, whose columns are a block, the first makes the upper row; of
    // four lanes above each other, whose rows are two blocks of keys, lane i makes element i.
    const uint32_t own = TURNED ? first + lane / 4 % 2 * step + lane / 8 % 2 * 8 : first + lane % 2 * 8 * step;
#pragma unroll 2
    for (int j = 0; j < N; j++)
        bits |= ptc_kept4(a, key, sample, (own + 8 * j * (TURNED ? step : 1)) / 4) << (4 * j);
    if (!TURNED)
    {
        const uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, bits, 1);
        const uint32_t upper = lane % 2 ? other : bits, lower = lane % 2 ? bits : other;
        return (upper >> lane % 2 * 2 & 0x33333333u) | (lower >> lane % 2 * 2 & 0x33333333u) << 2;
    }
    uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, bits, 4);
    bits = lane / 4 % 2 ? (bits & 0xAAAAAAAAu) | (other & 0xAAAAAAAAu) >> 1
                        : (bits & 0x55555555u) | (other & 0x55555555u) << 1;
    other = __shfl_xor_sync(0xFFFFFFFFu, bits, 8);
    return lane / 8 % 2 ? (bits & 0xCCCCCCCCu) | (other & 0xCCCCCCCCu) >> 2
                        : (bits & 0x33333333u) | (other & 0x33333333u) << 2;
}

// Weights exp(score - max) of a tile, in place of the scores; what was summed so far is to be multiplied by factor.
template <int N>
PTC_INLINE void ptc_softmax_tile(float (&s)[N][4], float (&max)[2], float (&sum)[2], float (&factor)[2])
{
#pragma unroll
    for (int r = 0; r < 2; r++)
    {
        float top = max[r], part = 0.0f;
#pragma unroll
        for (int j = 0; j < N; j++)
            top = fmaxf(top, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
        top = ptc_lanes_max<4>(top);
        const float base = top > -PTC_INF ? top : 0.0f;
        factor[r] = ptc_exp2(max[r] - base);
        max[r] = top;
#pragma unroll
        for (int j = 0; j < N; j++)
        {
            s[j][2 * r] = ptc_exp2(s[j][2 * r] - base);
            s[j][2 * r + 1] = ptc_exp2(s[j][2 * r + 1] - base);
            part += s[j][2 * r] + s[j][2 * r + 1];
        }
        sum[r] = sum[r] * factor[r] + part; // of the lane alone
    }
}

// A tile of keys [8 N][D + 8] and values [8 N][D + 8], of which the first is key s0 (column: and the lane's first).
template <int D, int N>
PTC_INLINE void ptc_attention_tile(const PtcAttention &a, const float *bias, const uint32_t (&queries)[D / 16][4],
                                   const uint16_t *keys, const uint16_t *values, int t0, int s0, uint32_t kept,
                                   const float *row_bias, float (&acc)[D / 8][4], float (&max)[2], float (&sum)[2])
{
    const int lane = threadIdx.x % 32;
    const float none[2] = {};
    float s[N][4], factor[2];
    ptc_times_rows<D>(s, queries, keys);
    ptc_mma_scores<N, false>(a, bias, row_bias + lane % 4 * 2, none, t0 + lane / 4, s0 + lane % 4 * 2,
                             ptc_has_hidden(a, t0, 16, s0, 8 * N), s);
    ptc_softmax_tile(s, max, sum, factor);
    if (a.p > 0.0f)
    {
#pragma unroll
        for (int j = 0; j < N; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                s[j][e] = kept >> (4 * j + e) & 1u ? s[j][e] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < D / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            acc[i][e] *= factor[e / 2];
    ptc_times_columns<D>(acc, s, values);
}

// Asks for a tile of keys, values [2][KB][D + 8] and of a bias that is the same for all queries [KB].
template <int D, int THREADS, int KB>
PTC_INLINE void ptc_copy_keys(const PtcAttention &a, const uint16_t *k, const uint16_t *v, const float *bias, int s0,
                              uint16_t *to, float *to_bias)
{
    const int i = threadIdx.x;
    ptc_copy_rows<D, KB, THREADS>(to, k, a.k_row, s0, a.s, i);
    ptc_copy_rows<D, KB, THREADS>(to + KB * (D + 8), v, a.k_row, s0, a.s, i);
    if (bias && a.bias_t == 0)
        for (int x = i; x < KB; x += THREADS)
            ptc_copy4(to_bias + x, bias + s0 + x, s0 + x < a.s);
}

// TAIL: how many keys the last tile has, as a multiple of 16; KB when that is not known.
template <int D, int WARPS, int KB, int TAIL>
PTC_INLINE void ptc_attention_mma(const PtcAttention &a, const uint16_t *q, const uint16_t *k, const uint16_t *v,
                                  const float *bias, const int32_t *key, const int32_t *sample, uint16_t *out,
                                  float *lse)
{
    PTC_DYNAMIC_ROWS;
    const int N = KB / 8, LD = D + 8, lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = lane % 4 * 2;
    float *biases = (float *)rows;                      // [2][KB]
    uint16_t *tiles = (uint16_t *)(biases + 2 * KB);    // [2][keys, values][KB][LD]
    uint16_t *own = tiles + (4 * KB + 16 * warp) * LD; // of the warp
    const int blocks = (a.t + 16 * WARPS - 1) / (16 * WARPS), head = (int)(blockIdx.x / blocks % a.h);
    const int64_t batch = blockIdx.x / blocks / a.h, queries = batch * a.t * (a.h * D) + head * D;
    const int block_t = (int)(blockIdx.x % blocks * 16 * WARPS), t0 = block_t + 16 * warp, t = t0 + lane / 4;
    int lo, hi;
    ptc_key_range(a, block_t, 16 * WARPS, &lo, &hi);
    k += batch * a.s * a.k_row + head / (a.h / a.g) * D;
    v += batch * a.s * a.k_row + head / (a.h / a.g) * D;
    bias += bias ? batch * a.bias_b + head * a.bias_h : 0;
    float acc[D / 8][4] = {}, max[2] = {-PTC_INF, -PTC_INF}, sum[2] = {};
    uint32_t fragments[D / 16][4];
    ptc_copy_rows<D, 16, 32>(own, q + batch * a.t * a.q_row + head * D, a.q_row, t0, a.t, lane);
    if (lo < hi)
        ptc_copy_keys<D, 32 * WARPS, KB>(a, k, v, bias, lo, tiles, biases);
    for (int s0 = lo, stage = 0; s0 < hi; s0 += KB, stage ^= 1)
    {
        const uint16_t *now = tiles + stage * 2 * KB * LD;
        const float *row_bias = biases + stage * KB;
        uint32_t kept = 0;
        if (a.p > 0.0f)
            kept = ptc_kept<N, false>(a, key, sample[batch], head, t, s0 + column);
        ptc_copies_wait();
        __syncthreads(); // the tile is there, and nobody reads the one before it
        if (s0 + KB < hi)
            ptc_copy_keys<D, 32 * WARPS, KB>(a, k, v, bias, s0 + KB, tiles + (stage ^ 1) * 2 * KB * LD,
                                             biases + (stage ^ 1) * KB);
        if (s0 == lo)
        {
#pragma unroll
            for (int i = 0; i < D / 16; i++)
                ptc_fragment<D>(fragments[i], (const uint16_t *)own, i);
        }
        if (TAIL == KB || s0 + KB <= a.s)
            ptc_attention_tile<D, N>(a, bias, fragments, now, now + KB * LD, t0, s0, kept, row_bias, acc, max, sum);
        else
            ptc_attention_tile<D, TAIL / 8>(a, bias, fragments, now, now + KB * LD, t0, s0, kept, row_bias, acc, max,
                                            sum);
    }
    ptc_copies_wait();
    float factor[2];
#pragma unroll
    for (int r = 0; r < 2; r++)
    {
        sum[r] = ptc_lanes_sum<4>(sum[r]);
        factor[r] = sum[r] > 0.0f ? 1.0f / (sum[r] * (1.0f - a.p)) : 0.0f;
        if (lane % 4 == 0 && t + 8 * r < a.t)
            lse[(batch * a.h + head) * a.t + t + 8 * r] =
                sum[r] > 0.0f ? (max[r] + log2f(sum[r])) * 0.69314718055994531f : -PTC_INF;
    }
    ptc_store_rows<D>(out + queries, a.h * D, t0, a.t, acc, factor[0], factor[1], own);
}
