// ---- gradients of attention on tensor cores. A block has the 16 WARPS keys from s0 on of one batch and key head, a
// warp 16 of them as rows, their dk and dv in registers; queries and dout come in tiles of QB by two buffers. ALL: the
// block has all the keys and gives dq too; otherwise ptc_attention_mma_grad_q does, and delta is in the workspace.

// Weights in place of the exponents, gradients of the scores (but for the scale) in place of those of the weights.
PTC_INLINE void ptc_mma_pair_grad(const PtcAttention &a, float delta, bool kept, float &s, float &d)
{
    const float keep = 1.0f / (1.0f - a.p), w = ptc_exp2(s);
    s = w;
    if (a.p > 0.0f)
    {
        d = kept ? d * keep : 0.0f;
        s = kept ? w * keep : 0.0f;
    }
    d = w * (d - delta);
}
// What to subtract from the scores of a query: never -inf.
PTC_INLINE float ptc_base(float lse)
{
    return lse > -PTC_INF ? lse * ptc_log2e() : PTC_INF;
}

// For every query, delta = dout . out and what to subtract from its scores: [2][B, H, T]; 4 lanes a query
template <int D>
PTC_INLINE void ptc_attention_delta(const PtcAttention &a, const uint16_t *out, const float *lse, const uint16_t *dout,
                                    float *delta)
{
    const int64_t n = (int64_t)a.b * a.t * a.h, i = (int64_t)blockIdx.x * (blockDim.x / 4) + threadIdx.x / 4;
    const int64_t at = i < n ? i : n - 1, to = (at / a.h / a.t * a.h + at % a.h) * a.t + at / a.h % a.t;
    float sum = 0.0f;
    for (int x = threadIdx.x % 4 * 8; x < D; x += 32)
        sum = ptc_dot8(*(const PtcBytes16 *)(out + at * D + x), *(const PtcBytes16 *)(dout + at * D + x), sum);
    sum = ptc_lanes_sum<4>(sum);
    if (i < n && threadIdx.x % 4 == 0)
    {
        delta[to] = sum;
        delta[n + to] = ptc_base(lse[to]);
    }
}

// dq of QB queries from the score gradients of all keys, dss [keys][QB + 8]: tiles of 16 x 16 go round the warps.
template <int D, int WARPS, int QB>
PTC_INLINE void ptc_mma_grad_q_tile(const PtcAttention &a, const uint16_t *dss, const uint16_t *ks, uint16_t *dq, int t0)
{
    const int lane = threadIdx.x % 32;
    dss += ptc_tile_columns<QB + 8>();
    ks += ptc_tile_rows<D + 8>();
    for (int tile = threadIdx.x / 32; tile < QB / 16 * (D / 16); tile += WARPS)
    {
        const int i = tile / (D / 16) * 16, x = tile % (D / 16) * 16;
        float acc[2][4] = {};
#pragma unroll
        for (int s = 0; s < WARPS; s++)
        {
            uint32_t ds[4], keys[4];
            ptc_matrices_turned(ds, dss + s * 16 * (QB + 8) + i);
            ptc_matrices_turned(keys, ks + s * 16 * (D + 8) + x);
            ptc_mma(acc[0], ds, keys[0], keys[1]);
            ptc_mma(acc[1], ds, keys[2], keys[3]);
        }
#pragma unroll
        for (int r = 0; r < 2; r++)
        {
            const int t = t0 + i + lane / 4 + 8 * r;
            uint16_t *to = dq + (int64_t)t * a.q_row + x + lane % 4 * 2;
            if (t >= a.t)
                continue;
            *(uint32_t *)to = ptc_pack(acc[0][2 * r] * a.scale, acc[0][2 * r + 1] * a.scale);
            *(uint32_t *)(to + 8) = ptc_pack(acc[1][2 * r] * a.scale, acc[1][2 * r + 1] * a.scale);
        }
    }
}

// Asks for tiles of QB queries, of dout and of out (ALL), and for what is known of each query: with ALL its lse, otherwise
// delta and what to subtract.
template <int D, int THREADS, int QB, bool ALL>
PTC_INLINE void ptc_copy_queries(const PtcAttention &a, const uint16_t *q, const uint16_t *dout, const uint16_t *out,
                                 const float *lse, const float *delta, int64_t batch, int head, int t0, uint16_t *qs,
                                 uint16_t *os, float *bases, float *deltas)
{
    const int64_t at = batch * a.t * (a.h * D) + head * D, stats = (batch * a.h + head) * a.t;
    ptc_copy_rows<D, QB, THREADS>(qs, q + batch * a.t * a.q_row + head * D, a.q_row, t0, a.t, threadIdx.x);
    ptc_copy_rows<D, QB, THREADS>(qs + QB * (D + 8), dout + at, a.h * D, t0, a.t, threadIdx.x);
    if (ALL)
        ptc_copy_rows<D, QB, THREADS>(os, out + at, a.h * D, t0, a.t, threadIdx.x);
    const int i = threadIdx.x, t = t0 + i < a.t ? t0 + i : a.t - 1;
    if (i < QB)
        ptc_copy4(bases + i, lse + stats + t, true);
    if (i < QB && !ALL)
        ptc_copy4(deltas + i, delta + stats + t, true);
}

// What ptc_copy_queries asked for with ALL, to delta and what to subtract; by the last threads, 4 to a query.
template <int D, int THREADS, int QB>
PTC_INLINE void ptc_query_stats(const uint16_t *os, const uint16_t *dos, float *bases, float *deltas)
{
    for (int i = (THREADS - 1 - threadIdx.x) / 4; i < QB; i += THREADS / 4)
    {
        float sum = 0.0f;
#pragma unroll
        for (int x = threadIdx.x % 4 * 8; x < D; x += 32)
            sum = ptc_dot8(*(const PtcBytes16 *)(os + i * (D + 8) + x), *(const PtcBytes16 *)(dos + i * (D + 8) + x), sum);
        sum = ptc_lanes_sum<4>(sum);
        if (threadIdx.x % 4 == 0)
        {
            deltas[i] = sum;
            bases[i] = ptc_base(bases[i]);
        }
    }
}

// What a tile of 8 N queries from t0 on adds to the gradients of the warp's 16 keys from s0 on; ds: those of the scores.
template <int D, int N>
PTC_INLINE void ptc_grad_keys_tile(const PtcAttention &a, const float *bias, const float *key_bias, const uint16_t *ks,
                                   const uint16_t *vs, const uint16_t *qs, const uint16_t *dos, const float *bases,
                                   const float *deltas, int t0, int s0, uint32_t kept, float (&acc_k)[D / 8][4],
                                   float (&acc_v)[D / 8][4], float (&ds)[N][4])
{
    const int row = threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
    float p[N][4], subtract[2 * N];
    ptc_times_rows<D>(p, ks, qs);
    ptc_times_rows<D>(ds, vs, dos);
#pragma unroll
    for (int i = 0; i < 2 * N; i++)
        subtract[i] = bases[i / 2 * 8 + column + i % 2];
    ptc_mma_scores<N, true>(a, bias, key_bias, subtract, t0 + column, s0 + row, ptc_has_hidden(a, t0, 8 * N, s0, 16), p);
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            ptc_mma_pair_grad(a, deltas[8 * j + column + e % 2], kept >> (4 * j + e) & 1u, p[j][e], ds[j][e]);
    ptc_times_columns<D>(acc_v, p, dos);
    ptc_times_columns<D>(acc_k, ds, qs);
}
// A warp's 16 x QB sums as bf16, [16][QB + 8].
template <int QB>
PTC_INLINE void ptc_keep_turned(uint16_t *to, const float (&c)[QB / 8][4])
{
    to += threadIdx.x % 32 / 4 * (QB + 8) + threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < QB / 8; j++)
    {
        *(uint32_t *)(to + 8 * j) = ptc_pack(c[j][0], c[j][1]);
        *(uint32_t *)(to + 8 * j + 8 * (QB + 8)) = ptc_pack(c[j][2], c[j][3]);
    }
}

template <int D, int WARPS, int QB, bool ALL>
PTC_INLINE void ptc_attention_mma_grad_kv(const PtcAttention &a, const uint16_t *q, const uint16_t *k, const uint16_t *v,
                                          const float *bias, const int32_t *key, const int32_t *sample,
                                          const uint16_t *out, const float *lse, const uint16_t *dout, uint16_t *dq,
                                          uint16_t *dk, uint16_t *dv, const float *delta)
{
    PTC_DYNAMIC_ROWS;
    const int N = QB / 8, LD = D + 8, KEYS = 16 * WARPS, THREADS = 32 * WARPS;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 4, column = lane % 4 * 2;
    uint16_t *ks = (uint16_t *)rows, *vs = ks + KEYS * LD, *tiles = vs + KEYS * LD; // [2][queries, dout][QB][LD]
    uint16_t *os = tiles + 4 * QB * LD, *dss = os + (ALL ? QB * LD : 0);            // [QB][LD], [KEYS][QB + 8]
    float *bases = (float *)(dss + (ALL ? KEYS * (QB + 8) : 0)), *deltas = bases + 2 * QB; // [2][QB] each
    const int blocks = (a.s + KEYS - 1) / KEYS, group = (int)(blockIdx.x / blocks % a.g), heads = a.h / a.g;
    const int64_t batch = blockIdx.x / blocks / a.g, kv = batch * a.s * a.k_row + group * D;
    const int s0 = (int)(blockIdx.x % blocks * KEYS) + 16 * warp, s = s0 + row;
    int lo = 0, hi = a.t, head = group * heads;
    if (!ALL)
        ptc_query_range(a, s0 - 16 * warp, KEYS, &lo, &hi);
    bool more = lo < hi;
    float acc_k[D / 8][4] = {}, acc_v[D / 8][4] = {};
    ptc_copy_rows<D, KEYS, THREADS>(ks, k + kv, a.k_row, s0 - 16 * warp, a.s, threadIdx.x);
    ptc_copy_rows<D, KEYS, THREADS>(vs, v + kv, a.k_row, s0 - 16 * warp, a.s, threadIdx.x);
    if (more)
        ptc_copy_queries<D, THREADS, QB, ALL>(a, q, dout, out, lse, delta, batch, head, lo, tiles, os, bases, deltas);
    if (ALL)
    {
        ptc_copies_wait();
        __syncthreads(); // the first tile is there
        ptc_query_stats<D, THREADS, QB>(os, tiles + QB * LD, bases, deltas);
    }
    for (int t0 = lo, stage = 0; more; stage ^= 1)
    {
        const int next_head = t0 + QB < hi ? head : head + 1, next_t0 = t0 + QB < hi ? t0 + QB : lo;
        const uint16_t *qs = tiles + stage * 2 * QB * LD, *dos = qs + QB * LD;
        uint16_t *next = tiles + (stage ^ 1) * 2 * QB * LD;
        const float *query_bias = bias ? bias + batch * a.bias_b + head * a.bias_h : 0;
        float key_bias[2] = {}, ds[N][4];
        uint32_t kept = 0;
        if (bias && a.bias_t == 0)
            for (int r = 0; r < 2; r++)
                key_bias[r] = query_bias[s + 8 * r < a.s ? s + 8 * r : a.s - 1];
        if (a.p > 0.0f)
            kept = ptc_kept<N, true>(a, key, sample[batch], head, t0 + column, s);
        if (!ALL)
            ptc_copies_wait();
        __syncthreads(); // the tile and its stats are there, and nobody reads the one before it
        more = next_head < (group + 1) * heads;
        if (more)
            ptc_copy_queries<D, THREADS, QB, ALL>(a, q, dout, out, lse, delta, batch, next_head, next_t0, next, os,
                                                  bases + (stage ^ 1) * QB, deltas + (stage ^ 1) * QB);
        ptc_grad_keys_tile<D, N>(a, query_bias, key_bias, ks + 16 * warp * LD, vs + 16 * warp * LD, qs, dos,
                                 bases + stage * QB, deltas + stage * QB, t0, s0, kept, acc_k, acc_v, ds);
        if (ALL)
        {
            ptc_keep_turned<QB>(dss + 16 * warp * (QB + 8), ds);
            ptc_copies_wait();
            __syncthreads(); // all score gradients are there, and the next tile
            ptc_mma_grad_q_tile<D, WARPS, QB>(a, dss, ks, dq + batch * a.t * a.q_row + head * D, t0);
            if (more)
                ptc_query_stats<D, THREADS, QB>(os, next + QB * LD, bases + (stage ^ 1) * QB, deltas + (stage ^ 1) * QB);
        }
        head = next_head;
        t0 = next_t0;
    }
    ptc_copies_wait();
    __syncthreads(); // nobody reads keys any more
    ptc_store_rows<D>(dk + kv, a.k_row, s0, a.s, acc_k, a.scale, a.scale, ks + 16 * warp * LD);
    ptc_store_rows<D>(dv + kv, a.k_row, s0, a.s, acc_v, 1.0f, 1.0f, vs + 16 * warp * LD);
}

// A tile of keys and values, as ptc_attention_tile.
template <int D, int N>
PTC_INLINE void ptc_attention_grad_tile(const PtcAttention &a, const float *bias, const uint16_t *queries,
                                        const uint16_t *keys, const uint16_t *values, int t0, int s0, uint32_t kept,
                                        const float *row_bias, const float (&base)[2], const float (&delta)[2],
                                        float (&acc)[D / 8][4])
{
    const int lane = threadIdx.x % 32;
    float p[N][4], ds[N][4];
    ptc_times_rows<D>(p, queries, keys);
    ptc_times_rows<D>(ds, queries + 16 * (D + 8), values);
    ptc_mma_scores<N, false>(a, bias, row_bias + lane % 4 * 2, base, t0 + lane / 4, s0 + lane % 4 * 2,
                             ptc_has_hidden(a, t0, 16, s0, 8 * N), p);
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            ptc_mma_pair_grad(a, delta[e / 2], kept >> (4 * j + e) & 1u, p[j][e], ds[j][e]);
    ptc_times_columns<D>(acc, ds, keys);
}

template <int D, int WARPS, int KB, int TAIL>
PTC_INLINE void ptc_attention_mma_grad_q(const PtcAttention &a, const uint16_t *q, const uint16_t *k, const uint16_t *v,
                                         const float *bias, const int32_t *key, const int32_t *sample,
                                         const uint16_t *dout, uint16_t *dq, const float *workspace)
{
    PTC_DYNAMIC_ROWS;
    const int N = KB / 8, LD = D + 8, lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = lane % 4 * 2;
    float *biases = (float *)rows;                      // [2][KB]
    uint16_t *tiles = (uint16_t *)(biases + 2 * KB);    // [2][keys, values][KB][LD]
    uint16_t *own = tiles + (4 * KB + 32 * warp) * LD; // of the warp
    const int blocks = (a.t + 16 * WARPS - 1) / (16 * WARPS), head = (int)(blockIdx.x / blocks % a.h);
    const int64_t batch = blockIdx.x / blocks / a.h, queries = batch * a.t * (a.h * D) + head * D;
    const int block_t = (int)(blockIdx.x % blocks * 16 * WARPS), t0 = block_t + 16 * warp, t = t0 + lane / 4;
    int lo, hi;
    ptc_key_range(a, block_t, 16 * WARPS, &lo, &hi);
    k += batch * a.s * a.k_row + head / (a.h / a.g) * D;
    v += batch * a.s * a.k_row + head / (a.h / a.g) * D;
    bias += bias ? batch * a.bias_b + head * a.bias_h : 0;
    float acc[D / 8][4] = {}, base[2], delta[2];
#pragma unroll
    for (int r = 0; r < 2; r++)
    {
        const float *stats = workspace + (batch * a.h + head) * a.t + (t + 8 * r < a.t ? t + 8 * r : a.t - 1);
        delta[r] = stats[0];
        base[r] = stats[(int64_t)a.b * a.h * a.t];
    }
    ptc_copy_rows<D, 16, 32>(own, q + batch * a.t * a.q_row + head * D, a.q_row, t0, a.t, lane);
    ptc_copy_rows<D, 16, 32>(own + 16 * LD, dout + queries, a.h * D, t0, a.t, lane);
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
        if (TAIL == KB || s0 + KB <= a.s)
            ptc_attention_grad_tile<D, N>(a, bias, own, now, now + KB * LD, t0, s0, kept, row_bias, base, delta, acc);
        else
            ptc_attention_grad_tile<D, TAIL / 8>(a, bias, own, now, now + KB * LD, t0, s0, kept, row_bias, base, delta,
                                                 acc);
    }
    ptc_copies_wait();
    ptc_store_rows<D>(dq + batch * a.t * a.q_row + head * D, a.q_row, t0, a.t, acc, a.scale, a.scale, own);
}
