// ---- gradients of attention on tensor cores. A block has the 16 WARPS keys from s0 on of one batch and key head, a warp
// 16 of them as rows, their dk and dv in registers; queries and dout come in tiles of QB by two buffers. ALL: the block has
// all the keys and gives dq too; otherwise ptc_attention_mma_grad_q does, and delta is in the workspace.

// Weights in place of the scores, gradients of the scores (but for the scale) in place of those of the weights.
PTC_INLINE void ptc_mma_pair_grad(const PtcAttention &a, float base, float delta, bool kept, float &s, float &d)
{
    const float keep = 1.0f / (1.0f - a.p), w = ptc_exp2(s - base);
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

// delta = dout . out of every query, [B, H, T]; 4 lanes a query
template <int D>
PTC_INLINE void ptc_attention_delta(const PtcAttention &a, const uint16_t *out, const uint16_t *dout, float *delta)
{
    const int64_t n = a.b * a.t * a.h, i = (int64_t)blockIdx.x * (blockDim.x / 4) + threadIdx.x / 4, at = i < n ? i : n - 1;
    float sum = 0.0f;
    for (int x = threadIdx.x % 4 * 8; x < D; x += 32)
        sum = ptc_dot8(*(const PtcBytes16 *)(out + at * D + x), *(const PtcBytes16 *)(dout + at * D + x), sum);
    sum = ptc_lanes_sum<4>(sum);
    if (i < n && threadIdx.x % 4 == 0)
        delta[(i / a.h / a.t * a.h + i % a.h) * a.t + i / a.h % a.t] = sum;
}

// dq of QB queries from the score gradients of all keys, dss [keys][QB + 8]: tiles of 16 x 16 go round the warps.
template <int D, int WARPS, int QB>
PTC_INLINE void ptc_mma_grad_q_tile(const PtcAttention &a, const uint16_t *dss, const uint16_t *ks, uint16_t *dq, int t0)
{
    const int lane = threadIdx.x % 32;
    for (int tile = threadIdx.x / 32; tile < QB / 16 * (D / 16); tile += WARPS)
    {
        const int i = tile / (D / 16) * 16, x = tile % (D / 16) * 16;
        float acc[2][4] = {};
#pragma unroll
        for (int s = 0; s < WARPS; s++)
        {
            uint32_t ds[4], keys[4];
            ptc_matrices_turned(ds, dss + s * 16 * (QB + 8) + i + ptc_tile_columns<QB + 8>());
            ptc_matrices_turned(keys, ks + s * 16 * (D + 8) + x + ptc_tile_rows<D + 8>());
            ptc_mma(acc[0], ds, keys[0], keys[1]);
            ptc_mma(acc[1], ds, keys[2], keys[3]);
        }
#pragma unroll
        for (int r = 0; r < 2; r++)
        {
            const int t = t0 + i + lane / 4 + 8 * r;
            uint16_t *to = dq + t * a.h * D + x + lane % 4 * 2;
            if (t >= a.t)
                continue;
            *(uint32_t *)to = ptc_pack(acc[0][2 * r] * a.scale, acc[0][2 * r + 1] * a.scale);
            *(uint32_t *)(to + 8) = ptc_pack(acc[1][2 * r] * a.scale, acc[1][2 * r + 1] * a.scale);
        }
    }
}

template <int D, int WARPS, int QB, bool ALL>
PTC_INLINE void ptc_attention_mma_grad_kv(const PtcAttention &a, const uint16_t *q, const uint16_t *k, const uint16_t *v,
                                          const float *bias, const int32_t *key, const int32_t *sample,
                                          const uint16_t *out, const float *lse, const uint16_t *dout, uint16_t *dq,
                                          uint16_t *dk, uint16_t *dv, const float *workspace)
{
    PTC_DYNAMIC_ROWS;
    const int N = QB / 8, LD = D + 8, KEYS = 16 * WARPS, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row = lane / 4, column = lane % 4 * 2;
    uint16_t *ks = (uint16_t *)rows, *vs = ks + KEYS * LD, *tiles = vs + KEYS * LD; // [2][queries, dout][QB][LD]
    uint16_t *os = tiles + 4 * QB * LD, *dss = os + (ALL ? QB * LD : 0);            // [QB][LD], [KEYS][QB + 8]
    float *lses = (float *)(dss + (ALL ? KEYS * (QB + 8) : 0)), *deltas = lses + 2 * QB; // [2][QB] each
    const int64_t blocks = (a.s + KEYS - 1) / KEYS, group = blockIdx.x / blocks % a.g, heads = a.h / a.g;
    const int64_t batch = blockIdx.x / blocks / a.g, kv = (batch * a.s * a.g + group) * D;
    const int s0 = (int)(blockIdx.x % blocks * KEYS), s = s0 + 16 * warp + row;
    int lo = 0, hi = (int)a.t;
    if (!ALL)
        ptc_query_range(a, s0, KEYS, &lo, &hi);
    const int n_tiles = hi > lo ? (hi - lo + QB - 1) / QB : 0, n_steps = n_tiles * (int)heads;
    float acc_k[D / 8][4] = {}, acc_v[D / 8][4] = {};
    ptc_copy_rows<D>(ks, k + kv, a.g * D, s0, KEYS, a.s, threadIdx.x, 32 * WARPS);
    ptc_copy_rows<D>(vs, v + kv, a.g * D, s0, KEYS, a.s, threadIdx.x, 32 * WARPS);
    for (int step = -1; step < n_steps; step++)
    {
        const int stage = step & 1, t0 = lo + (step < 0 ? 0 : step % n_tiles) * QB;
        const int64_t head = group * heads + (step < 0 ? 0 : step / n_tiles), at = (batch * a.t * a.h + head) * D;
        uint32_t kept = 0;
        if (a.p > 0.0f && step >= 0)
            kept = ptc_kept<N, true>(a, key, sample[batch], head, t0 + column, s);
        if (step >= 0)
        {
            ptc_copies_wait();
            __syncthreads(); // the tile is there, and nobody reads the one before it
        }
        uint16_t *qs = tiles + stage * 2 * QB * LD, *dos = qs + QB * LD;
        if (ALL && step >= 0)
        {
            for (int i = threadIdx.x / 4; i < QB; i += 8 * WARPS)
            {
                float sum = 0.0f;
                for (int x = threadIdx.x % 4 * 8; x < D; x += 32)
                    sum = ptc_dot8(*(const PtcBytes16 *)(os + i * LD + x), *(const PtcBytes16 *)(dos + i * LD + x), sum);
                sum = ptc_lanes_sum<4>(sum);
                if (threadIdx.x % 4 == 0)
                    deltas[stage * QB + i] = sum;
            }
            __syncthreads();
        }
        if (step + 1 < n_steps)
        {
            const int64_t next_head = group * heads + (step + 1) / n_tiles, next = (batch * a.t * a.h + next_head) * D;
            const int64_t stats = (batch * a.h + next_head) * a.t;
            const int next_t0 = lo + (step + 1) % n_tiles * QB;
            uint16_t *to = tiles + (stage ^ 1) * 2 * QB * LD;
            ptc_copy_rows<D>(to, q + next, a.h * D, next_t0, QB, a.t, threadIdx.x, 32 * WARPS);
            ptc_copy_rows<D>(to + QB * LD, dout + next, a.h * D, next_t0, QB, a.t, threadIdx.x, 32 * WARPS);
            if (ALL)
                ptc_copy_rows<D>(os, out + next, a.h * D, next_t0, QB, a.t, threadIdx.x, 32 * WARPS);
            for (int i = threadIdx.x; i < QB; i += 32 * WARPS)
            {
                const bool there = next_t0 + i < a.t;
                ptc_copy4(lses + (stage ^ 1) * QB + i, lse + stats + (there ? next_t0 + i : 0), there);
                if (!ALL)
                    ptc_copy4(deltas + (stage ^ 1) * QB + i, workspace + stats + (there ? next_t0 + i : 0), there);
            }
        }
        if (step < 0)
            continue; // the first tile was asked for
        float p[N][4], ds[N][4];
        ptc_times_rows<D>(p, (const uint16_t *)ks + 16 * warp * LD, qs, hi - t0);
        ptc_times_rows<D>(ds, (const uint16_t *)vs + 16 * warp * LD, dos, hi - t0);
        ptc_mma_scores<N, true>(a, bias ? bias + batch * a.bias_b + head * a.bias_h : 0, t0 + column, s,
                                ptc_has_hidden(a, t0, QB, s0 + 16 * warp, 16), p);
#pragma unroll
        for (int j = 0; j < N; j++)
        {
            const float *base = lses + stage * QB + 8 * j + column, *delta = deltas + stage * QB + 8 * j + column;
#pragma unroll
            for (int e = 0; e < 4; e++)
                ptc_mma_pair_grad(a, ptc_base(base[e % 2]), delta[e % 2], kept >> (4 * j + e) & 1u, p[j][e], ds[j][e]);
        }
        ptc_times_columns<D>(acc_v, p, dos, hi - t0);
        ptc_times_columns<D>(acc_k, ds, qs, hi - t0);
        if (!ALL)
            continue;
#pragma unroll
        for (int j = 0; j < N; j++)
        {
            uint16_t *to = dss + (16 * warp + row) * (QB + 8) + 8 * j + column;
            *(uint32_t *)to = ptc_pack(ds[j][0], ds[j][1]);
            *(uint32_t *)(to + 8 * (QB + 8)) = ptc_pack(ds[j][2], ds[j][3]);
        }
        __syncthreads();
        ptc_mma_grad_q_tile<D, WARPS, QB>(a, dss, ks, dq + at, t0);
    }
    ptc_copies_wait();
    __syncthreads(); // nobody reads keys any more
    ptc_store_rows<D>(dk + kv, a.g * D, s0 + 16 * warp, a.s, acc_k, a.scale, a.scale, ks + 16 * warp * LD);
    ptc_store_rows<D>(dv + kv, a.g * D, s0 + 16 * warp, a.s, acc_v, 1.0f, 1.0f, vs + 16 * warp * LD);
}

template <int D, int WARPS, int KB>
PTC_INLINE void ptc_attention_mma_grad_q(const PtcAttention &a, const uint16_t *q, const uint16_t *k, const uint16_t *v,
                                         const float *bias, const int32_t *key, const int32_t *sample, const float *lse,
                                         const uint16_t *dout, uint16_t *dq, const float *workspace)
{
    PTC_DYNAMIC_ROWS;
    const int N = KB / 8, LD = D + 8, lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = lane % 4 * 2;
    uint16_t *tiles = (uint16_t *)rows, *own = tiles + (4 * KB + 32 * warp) * LD; // [2][keys, values][KB][LD]
    const int64_t blocks = (a.t + 16 * WARPS - 1) / (16 * WARPS), head = blockIdx.x / blocks % a.h;
    const int64_t batch = blockIdx.x / blocks / a.h, stats = (batch * a.h + head) * a.t;
    const int block_t = (int)(blockIdx.x % blocks * 16 * WARPS), t0 = block_t + 16 * warp, t = t0 + lane / 4;
    const int64_t kv = (batch * a.s * a.g + head / (a.h / a.g)) * D, queries = (batch * a.t * a.h + head) * D;
    int lo, hi;
    ptc_key_range(a, block_t, 16 * WARPS, &lo, &hi);
    bias += bias ? batch * a.bias_b + head * a.bias_h : 0;
    float acc[D / 8][4] = {}, base[2], delta[2];
#pragma unroll
    for (int r = 0; r < 2; r++)
    {
        base[r] = t + 8 * r < a.t ? ptc_base(lse[stats + t + 8 * r]) : PTC_INF;
        delta[r] = t + 8 * r < a.t ? workspace[stats + t + 8 * r] : 0.0f;
    }
    ptc_copy_rows<D>(own, q + queries, a.h * D, t0, 16, a.t, lane, 32);
    ptc_copy_rows<D>(own + 16 * LD, dout + queries, a.h * D, t0, 16, a.t, lane, 32);
    for (int s0 = lo - KB, stage = 1; s0 < hi; s0 += KB, stage ^= 1)
    {
        uint16_t *now = tiles + stage * 2 * KB * LD, *next = tiles + (stage ^ 1) * 2 * KB * LD;
        uint32_t kept = 0;
        if (a.p > 0.0f && s0 >= lo)
            kept = ptc_kept<N, false>(a, key, sample[batch], head, t, s0 + column);
        if (s0 >= lo)
        {
            ptc_copies_wait();
            __syncthreads(); // the tile is there, and nobody reads the one before it
        }
        if (s0 + KB < hi)
        {
            ptc_copy_rows<D>(next, k + kv, a.g * D, s0 + KB, KB, a.s, threadIdx.x, 32 * WARPS);
            ptc_copy_rows<D>(next + KB * LD, v + kv, a.g * D, s0 + KB, KB, a.s, threadIdx.x, 32 * WARPS);
        }
        if (s0 < lo)
            continue; // the first tile was asked for
        float p[N][4], ds[N][4];
        ptc_times_rows<D>(p, (const uint16_t *)own, now, hi - s0);
        ptc_times_rows<D>(ds, (const uint16_t *)own + 16 * LD, now + KB * LD, hi - s0);
        ptc_mma_scores<N, false>(a, bias, t, s0 + column, ptc_has_hidden(a, t0, 16, s0, KB), p);
#pragma unroll
        for (int j = 0; j < N; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                ptc_mma_pair_grad(a, base[e / 2], delta[e / 2], kept >> (4 * j + e) & 1u, p[j][e], ds[j][e]);
        ptc_times_columns<D>(acc, ds, now, hi - s0);
    }
    ptc_copies_wait();
    ptc_store_rows<D>(dq + queries, a.h * D, t0, a.t, acc, a.scale, a.scale, own);
}
