// ---- attention: a block has a tile of TILE queries (or keys), LANES threads to a row; online softmax over tiles of
// keys. The gradient computes the scores again: one launch per tile of keys (dk, dv), one per tile of queries (dq).
// T is what q, k, v and their like are stored as: float or bf16 bits.
struct PtcAttention
{
    int b, t, h, d, s, g;
    int q_row, k_row; // elements from one query or key to the next; out and dout lie without gaps
    float scale;
    int causal, window;
    int64_t bias_b, bias_h, bias_t; // strides of the bias [.., S]; 0: broadcast
    float p;
    uint32_t stream;
};

PTC_INLINE float ptc_load(float x)
{
    return x;
}
PTC_INLINE float ptc_load(uint16_t bits)
{
    return ptc_bf16_load(bits);
}
PTC_INLINE void ptc_store(float *to, float x)
{
    *to = x;
}
PTC_INLINE void ptc_store(uint16_t *to, float x)
{
    *to = ptc_bf16_store(x);
}

template <int LANES>
PTC_INLINE float ptc_lanes_sum(float x)
{
    for (int d = LANES / 2; d > 0; d >>= 1)
        x += __shfl_xor_sync(0xFFFFFFFFu, x, d);
    return x;
}
template <int LANES>
PTC_INLINE float ptc_lanes_max(float x)
{
    for (int d = LANES / 2; d > 0; d >>= 1)
        x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, d));
    return x;
}

// rows r0.. of [n, stride] as [TILE][D + 1]; zeros beyond the end
template <int D, int TILE, typename T>
PTC_INLINE void ptc_load_tile(float *to, const T *from, int64_t stride, int64_t r0, int64_t n, float factor)
{
    for (int i = threadIdx.x; i < TILE * D; i += blockDim.x)
    {
        const int r = i / D, x = i % D;
        to[r * (D + 1) + x] = r0 + r < n ? ptc_load(from[(r0 + r) * stride + x]) * factor : 0.0f;
    }
}
template <int D>
PTC_INLINE float ptc_dot(const float *x, const float *y)
{
    float sum = 0.0f;
    for (int i = 0; i < D; i++)
        sum = fmaf(x[i], y[i], sum);
    return sum;
}
// The score of query t and key s with bias, or -inf when masked.
PTC_INLINE float ptc_score(const PtcAttention &a, const float *bias, int64_t batch, int64_t head, int64_t t, int64_t s,
                           float dot)
{
    const int64_t at = t + a.s - a.t;
    if (t >= a.t || s >= a.s || (a.causal && s > at) || (a.window && (s - at > a.window || at - s > a.window)))
        return -PTC_INF;
    return bias ? dot + bias[batch * a.bias_b + head * a.bias_h + t * a.bias_t + s] : dot;
}
// 1, or for dropout 0 or 1 / (1 - p)
PTC_INLINE float ptc_drop(const PtcAttention &a, const int32_t *key, const int32_t *sample, int64_t batch, int64_t head,
                          int64_t t, int64_t s)
{
    if (!(a.p > 0.0f) || t >= a.t || s >= a.s)
        return 1.0f;
    const uint32_t element = (uint32_t)((head * a.t + t) * a.s + s);
    return ptc_random(key[0], key[1], sample[batch], element, a.stream) >= a.p ? 1.0f / (1.0f - a.p) : 0.0f;
}

template <int D, int TILE, int LANES, typename T>
PTC_INLINE void ptc_attention(const PtcAttention &a, const T *q, const T *k, const T *v, const float *bias,
                              const int32_t *key, const int32_t *sample, T *out, float *lse)
{
    PTC_DYNAMIC_ROWS;
    float *qs = (float *)rows, *ks = qs + TILE * (D + 1), *vs = ks + TILE * (D + 1), *ps = vs + TILE * (D + 1);
    const int64_t blocks = (a.t + TILE - 1) / TILE, head = blockIdx.x / blocks % a.h;
    const int64_t batch = blockIdx.x / blocks / a.h, t0 = blockIdx.x % blocks * TILE;
    const int64_t kv = batch * a.s * a.k_row + head / (a.h / a.g) * D;
    const int row = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    float acc[(D + LANES - 1) / LANES] = {}, max = -PTC_INF, sum = 0.0f;
    ptc_load_tile<D, TILE>(qs, q + batch * a.t * a.q_row + head * D, a.q_row, t0, a.t, a.scale);
    for (int64_t s0 = 0; s0 < a.s; s0 += TILE)
    {
        float scores[(TILE + LANES - 1) / LANES], top = max;
        __syncthreads();
        ptc_load_tile<D, TILE>(ks, k + kv, a.k_row, s0, a.s, 1.0f);
        ptc_load_tile<D, TILE>(vs, v + kv, a.k_row, s0, a.s, 1.0f);
        __syncthreads();
        for (int j = 0; j * LANES < TILE; j++)
        {
            const int s = j * LANES + lane;
            scores[j] = s < TILE ? ptc_score(a, bias, batch, head, t0 + row, s0 + s,
                                             ptc_dot<D>(qs + row * (D + 1), ks + (s < TILE ? s : 0) * (D + 1)))
                                 : -PTC_INF;
            top = fmaxf(top, scores[j]);
        }
        top = ptc_lanes_max<LANES>(top);
        const float base = top > -PTC_INF ? top : 0.0f, factor = expf(max - base);
        float part = 0.0f;
        max = top;
        for (int j = 0; j * LANES < TILE; j++)
        {
            const int s = j * LANES + lane;
            const float w = expf(scores[j] - base);
            part += w;
            if (s < TILE)
                ps[row * (TILE + 1) + s] = w * ptc_drop(a, key, sample, batch, head, t0 + row, s0 + s);
        }
        sum = sum * factor + ptc_lanes_sum<LANES>(part);
        __syncthreads();
        for (int i = 0; i * LANES < D; i++)
        {
            const int x = i * LANES + lane;
            float total = acc[i] * factor;
            for (int s = 0; s < TILE && x < D; s++)
                total = fmaf(ps[row * (TILE + 1) + s], vs[s * (D + 1) + x], total);
            acc[i] = total;
        }
    }
    if (t0 + row >= a.t)
        return;
    for (int i = 0; i * LANES < D; i++)
        if (i * LANES + lane < D)
            ptc_store(&out[((batch * a.t + t0 + row) * a.h + head) * D + i * LANES + lane],
                      sum > 0.0f ? acc[i] / sum : 0.0f);
    if (lane == 0)
        lse[(batch * a.h + head) * a.t + t0 + row] = sum > 0.0f ? max + logf(sum) : -PTC_INF;
}

// Loads lse (as what to subtract) and delta = out . dout of the queries t0...
template <int D, int TILE, typename T>
PTC_INLINE void ptc_load_rows(const PtcAttention &a, const T *out, const float *lse, const float *dos, float *bases,
                              float *deltas, int64_t batch, int64_t head, int64_t t0)
{
    for (int r = threadIdx.x; r < TILE; r += blockDim.x)
    {
        const bool there = t0 + r < a.t;
        const float l = there ? lse[(batch * a.h + head) * a.t + t0 + r] : PTC_INF;
        bases[r] = l > -PTC_INF ? l : PTC_INF;
        float sum = 0.0f;
        for (int x = 0; x < D && there; x++)
            sum = fmaf(ptc_load(out[((batch * a.t + t0 + r) * a.h + head) * D + x]), dos[r * (D + 1) + x], sum);
        deltas[r] = sum;
    }
}

// Probability (dropped) and score gradient of one query and key of the tiles.
template <int D>
PTC_INLINE void ptc_pair_grad(const PtcAttention &a, const float *bias, const int32_t *key, const int32_t *sample,
                              const float *q, const float *k, const float *v, const float *dout, float base, float delta,
                              int64_t batch, int64_t head, int64_t t, int64_t s, float *p, float *ds)
{
    const float w = expf(ptc_score(a, bias, batch, head, t, s, ptc_dot<D>(q, k) * a.scale) - base);
    const float drop = ptc_drop(a, key, sample, batch, head, t, s);
    *p = w * drop;
    *ds = w * (ptc_dot<D>(dout, v) * drop - delta) * a.scale;
}

template <int D, int TILE, int LANES, typename T>
PTC_INLINE void ptc_attention_grad_kv(const PtcAttention &a, const T *q, const T *k, const T *v, const float *bias,
                                      const int32_t *key, const int32_t *sample, const T *out, const float *lse,
                                      const T *dout, T *dq, T *dk, T *dv)
{
    PTC_DYNAMIC_ROWS;
    float *qs = (float *)rows, *ks = qs + TILE * (D + 1), *vs = ks + TILE * (D + 1), *dos = vs + TILE * (D + 1);
    float *ps = dos + TILE * (D + 1), *dss = ps + TILE * (TILE + 1);
    float *bases = dss + TILE * (TILE + 1), *deltas = bases + TILE;
    const int64_t blocks = (a.s + TILE - 1) / TILE, group = blockIdx.x / blocks % a.g, heads = a.h / a.g;
    const int64_t batch = blockIdx.x / blocks / a.g, s0 = blockIdx.x % blocks * TILE;
    const int64_t kv = batch * a.s * a.k_row + group * D;
    const int row = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    float acc_k[(D + LANES - 1) / LANES] = {}, acc_v[(D + LANES - 1) / LANES] = {};
    ptc_load_tile<D, TILE>(ks, k + kv, a.k_row, s0, a.s, 1.0f);
    ptc_load_tile<D, TILE>(vs, v + kv, a.k_row, s0, a.s, 1.0f);
    for (int64_t head = group * heads; head < (group + 1) * heads; head++)
        for (int64_t t0 = 0; t0 < a.t; t0 += TILE)
        {
            __syncthreads();
            ptc_load_tile<D, TILE>(qs, q + batch * a.t * a.q_row + head * D, a.q_row, t0, a.t, 1.0f);
            ptc_load_tile<D, TILE>(dos, dout + (batch * a.t * a.h + head) * D, a.h * D, t0, a.t, 1.0f);
            __syncthreads();
            ptc_load_rows<D, TILE>(a, out, lse, dos, bases, deltas, batch, head, t0);
            __syncthreads();
            for (int r = lane; r < TILE; r += LANES)
                ptc_pair_grad<D>(a, bias, key, sample, qs + r * (D + 1), ks + row * (D + 1), vs + row * (D + 1),
                                 dos + r * (D + 1), bases[r], deltas[r], batch, head, t0 + r, s0 + row,
                                 &ps[row * (TILE + 1) + r], &dss[row * (TILE + 1) + r]);
            __syncthreads();
            for (int i = 0; i * LANES < D; i++)
            {
                const int x = i * LANES + lane;
                for (int r = 0; r < TILE && x < D; r++)
                {
                    acc_v[i] = fmaf(ps[row * (TILE + 1) + r], dos[r * (D + 1) + x], acc_v[i]);
                    acc_k[i] = fmaf(dss[row * (TILE + 1) + r], qs[r * (D + 1) + x], acc_k[i]);
                }
            }
        }
    for (int i = 0; i * LANES < D; i++)
        if (i * LANES + lane < D && s0 + row < a.s)
        {
            ptc_store(&dk[kv + (s0 + row) * a.k_row + i * LANES + lane], acc_k[i]);
            ptc_store(&dv[kv + (s0 + row) * a.k_row + i * LANES + lane], acc_v[i]);
        }
}

template <int D, int TILE, int LANES, typename T>
PTC_INLINE void ptc_attention_grad_q(const PtcAttention &a, const T *q, const T *k, const T *v, const float *bias,
                                     const int32_t *key, const int32_t *sample, const T *out, const float *lse,
                                     const T *dout, T *dq, T *dk, T *dv)
{
    PTC_DYNAMIC_ROWS;
    float *qs = (float *)rows, *ks = qs + TILE * (D + 1), *vs = ks + TILE * (D + 1), *dos = vs + TILE * (D + 1);
    float *dss = dos + TILE * (D + 1), *bases = dss + TILE * (TILE + 1), *deltas = bases + TILE;
    const int64_t blocks = (a.t + TILE - 1) / TILE, head = blockIdx.x / blocks % a.h;
    const int64_t batch = blockIdx.x / blocks / a.h, t0 = blockIdx.x % blocks * TILE;
    const int64_t kv = batch * a.s * a.k_row + head / (a.h / a.g) * D;
    const int row = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    float acc[(D + LANES - 1) / LANES] = {}, unused;
    ptc_load_tile<D, TILE>(qs, q + batch * a.t * a.q_row + head * D, a.q_row, t0, a.t, 1.0f);
    ptc_load_tile<D, TILE>(dos, dout + (batch * a.t * a.h + head) * D, a.h * D, t0, a.t, 1.0f);
    __syncthreads();
    ptc_load_rows<D, TILE>(a, out, lse, dos, bases, deltas, batch, head, t0);
    for (int64_t s0 = 0; s0 < a.s; s0 += TILE)
    {
        __syncthreads();
        ptc_load_tile<D, TILE>(ks, k + kv, a.k_row, s0, a.s, 1.0f);
        ptc_load_tile<D, TILE>(vs, v + kv, a.k_row, s0, a.s, 1.0f);
        __syncthreads();
        for (int s = lane; s < TILE; s += LANES)
            ptc_pair_grad<D>(a, bias, key, sample, qs + row * (D + 1), ks + s * (D + 1), vs + s * (D + 1),
                             dos + row * (D + 1), bases[row], deltas[row], batch, head, t0 + row, s0 + s, &unused,
                             &dss[row * (TILE + 1) + s]);
        __syncthreads();
        for (int i = 0; i * LANES < D; i++)
            for (int s = 0; s < TILE && i * LANES + lane < D; s++)
                acc[i] = fmaf(dss[row * (TILE + 1) + s], ks[s * (D + 1) + i * LANES + lane], acc[i]);
    }
    for (int i = 0; i * LANES < D; i++)
        if (i * LANES + lane < D && t0 + row < a.t)
            ptc_store(&dq[(batch * a.t + t0 + row) * a.q_row + head * D + i * LANES + lane], acc[i]);
}
