// ---- attention: a block has a tile of TILE queries (or keys), LANES threads to a row; online softmax over tiles of
// keys. The gradient computes the scores again: one launch per tile of keys (dk, dv), one per tile of queries (dq).
// T is what q, k, v and their like are stored as: float or bf16 bits. Rows in shared memory are read by vectors of V floats,
// and lie V apart from each other.
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

template <int D> struct PtcRow
{
    static const int V = D % 4 == 0 ? 4 : 1, LD = D + V;
};
struct alignas(16) PtcFloats4
{
    float x[4];
};
template <int V>
PTC_INLINE void ptc_load_floats(float (&to)[V], const float *from)
{
    if (V == 4)
        *(PtcFloats4 *)to = *(const PtcFloats4 *)from;
    else
        to[0] = *from;
}

// rows r0.. of [n, stride] as [TILE][LD]; zeros beyond the end
template <int D, int TILE, typename T>
PTC_INLINE void ptc_load_tile(float *to, const T *from, int64_t stride, int64_t r0, int64_t n, float factor)
{
    for (int i = threadIdx.x; i < TILE * D; i += blockDim.x)
    {
        const int r = i / D, x = i % D;
        to[r * PtcRow<D>::LD + x] = r0 + r < n ? ptc_load(from[(r0 + r) * stride + x]) * factor : 0.0f;
    }
}
// sums[j] = x . row lane + j LANES of ys, a tile of TILE rows
template <int D, int TILE, int LANES, int N>
PTC_INLINE void ptc_dots(float (&sums)[N], const float *x, const float *ys, int lane)
{
    const int V = PtcRow<D>::V;
    for (int j = 0; j < N; j++)
        sums[j] = 0.0f;
#pragma unroll 4
    for (int i = 0; i < D; i += V)
    {
        alignas(16) float a[V];
        ptc_load_floats<V>(a, x + i);
#pragma unroll
        for (int j = 0; j < N; j++)
        {
            alignas(16) float b[V];
            const int row = j * LANES + lane;
            ptc_load_floats<V>(b, ys + (row < TILE ? row : 0) * PtcRow<D>::LD + i);
            for (int v = 0; v < V; v++)
                sums[j] = fmaf(a[v], b[v], sums[j]);
        }
    }
}
// acc += sum over the tile's rows of weights[r] * row r of ys; a lane has every LANES-th vector of a row.
template <int D, int TILE, int LANES, int N>
PTC_INLINE void ptc_weighted_rows(float (&acc)[N], const float *weights, const float *ys, int lane)
{
    const int V = PtcRow<D>::V;
#pragma unroll 4
    for (int r = 0; r < TILE; r++)
    {
        const float w = weights[r];
#pragma unroll
        for (int i = 0; i < N / V; i++)
        {
            alignas(16) float y[V];
            const int x = (i * LANES + lane) * V;
            ptc_load_floats<V>(y, ys + r * PtcRow<D>::LD + (x < D ? x : 0));
            for (int v = 0; v < V; v++)
                acc[i * V + v] = fmaf(w, y[v], acc[i * V + v]);
        }
    }
}
// Stores such a row, times factor.
template <int D, int LANES, int N, typename T>
PTC_INLINE void ptc_store_lanes(T *to, const float (&acc)[N], float factor, int lane)
{
    const int V = PtcRow<D>::V;
#pragma unroll
    for (int i = 0; i < N; i++)
    {
        const int x = (i / V * LANES + lane) * V + i % V;
        if (x < D)
            ptc_store(&to[x], acc[i] * factor);
    }
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
    const int LD = PtcRow<D>::LD, V = PtcRow<D>::V, N = (TILE + LANES - 1) / LANES;
    float *qs = (float *)rows, *ks = qs + TILE * LD, *vs = ks + TILE * LD, *ps = vs + TILE * LD;
    const int64_t blocks = (a.t + TILE - 1) / TILE, head = blockIdx.x / blocks % a.h;
    const int64_t batch = blockIdx.x / blocks / a.h, t0 = blockIdx.x % blocks * TILE;
    const int64_t kv = batch * a.s * a.k_row + head / (a.h / a.g) * D;
    const int row = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    float acc[(D / V + LANES - 1) / LANES * V] = {}, max = -PTC_INF, sum = 0.0f;
    ptc_load_tile<D, TILE>(qs, q + batch * a.t * a.q_row + head * D, a.q_row, t0, a.t, a.scale);
    for (int64_t s0 = 0; s0 < a.s; s0 += TILE)
    {
        float scores[N], top = max;
        __syncthreads();
        ptc_load_tile<D, TILE>(ks, k + kv, a.k_row, s0, a.s, 1.0f);
        ptc_load_tile<D, TILE>(vs, v + kv, a.k_row, s0, a.s, 1.0f);
        __syncthreads();
        ptc_dots<D, TILE, LANES>(scores, qs + row * LD, ks, lane);
        for (int j = 0; j < N; j++)
        {
            const int s = j * LANES + lane;
            scores[j] = s < TILE ? ptc_score(a, bias, batch, head, t0 + row, s0 + s, scores[j]) : -PTC_INF;
            top = fmaxf(top, scores[j]);
        }
        top = ptc_lanes_max<LANES>(top);
        const float base = top > -PTC_INF ? top : 0.0f, factor = expf(max - base);
        float part = 0.0f;
        max = top;
        for (int j = 0; j < N; j++)
        {
            const int s = j * LANES + lane;
            const float w = expf(scores[j] - base);
            part += w;
            if (s < TILE)
                ps[row * (TILE + 1) + s] = w * ptc_drop(a, key, sample, batch, head, t0 + row, s0 + s);
        }
        sum = sum * factor + ptc_lanes_sum<LANES>(part);
        for (float &total : acc)
            total *= factor;
        __syncthreads();
        ptc_weighted_rows<D, TILE, LANES>(acc, ps + row * (TILE + 1), vs, lane);
    }
    if (t0 + row >= a.t)
        return;
    ptc_store_lanes<D, LANES>(out + ((batch * a.t + t0 + row) * a.h + head) * D, acc, sum > 0.0f ? 1.0f / sum : 0.0f, lane);
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
            sum = fmaf(ptc_load(out[((batch * a.t + t0 + r) * a.h + head) * D + x]), dos[r * PtcRow<D>::LD + x], sum);
        deltas[r] = sum;
    }
}

// From the products q.k and dout.v of one query and key, in *p and *ds: the probability (dropped) and score gradient.
PTC_INLINE void ptc_pair_grad(const PtcAttention &a, const float *bias, const int32_t *key, const int32_t *sample,
                              float base, float delta, int64_t batch, int64_t head, int64_t t, int64_t s, float *p,
                              float *ds)
{
    const float w = expf(ptc_score(a, bias, batch, head, t, s, *p * a.scale) - base);
    const float drop = ptc_drop(a, key, sample, batch, head, t, s);
    *p = w * drop;
    *ds = w * (*ds * drop - delta) * a.scale;
}

template <int D, int TILE, int LANES, typename T>
PTC_INLINE void ptc_attention_grad_kv(const PtcAttention &a, const T *q, const T *k, const T *v, const float *bias,
                                      const int32_t *key, const int32_t *sample, const T *out, const float *lse,
                                      const T *dout, T *dq, T *dk, T *dv)
{
    PTC_DYNAMIC_ROWS;
    const int LD = PtcRow<D>::LD, V = PtcRow<D>::V, N = (TILE + LANES - 1) / LANES;
    float *qs = (float *)rows, *ks = qs + TILE * LD, *vs = ks + TILE * LD, *dos = vs + TILE * LD;
    float *ps = dos + TILE * LD, *dss = ps + TILE * (TILE + 1);
    float *bases = dss + TILE * (TILE + 1), *deltas = bases + TILE;
    const int64_t blocks = (a.s + TILE - 1) / TILE, group = blockIdx.x / blocks % a.g, heads = a.h / a.g;
    const int64_t batch = blockIdx.x / blocks / a.g, s0 = blockIdx.x % blocks * TILE;
    const int64_t kv = batch * a.s * a.k_row + group * D;
    const int row = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    float acc_k[(D / V + LANES - 1) / LANES * V] = {}, acc_v[(D / V + LANES - 1) / LANES * V] = {};
    ptc_load_tile<D, TILE>(ks, k + kv, a.k_row, s0, a.s, 1.0f);
    ptc_load_tile<D, TILE>(vs, v + kv, a.k_row, s0, a.s, 1.0f);
    for (int64_t head = group * heads; head < (group + 1) * heads; head++)
        for (int64_t t0 = 0; t0 < a.t; t0 += TILE)
        {
            float p[N], ds[N];
            __syncthreads();
            ptc_load_tile<D, TILE>(qs, q + batch * a.t * a.q_row + head * D, a.q_row, t0, a.t, 1.0f);
            ptc_load_tile<D, TILE>(dos, dout + (batch * a.t * a.h + head) * D, a.h * D, t0, a.t, 1.0f);
            __syncthreads();
            ptc_load_rows<D, TILE>(a, out, lse, dos, bases, deltas, batch, head, t0);
            __syncthreads();
            ptc_dots<D, TILE, LANES>(p, ks + row * LD, qs, lane);
            ptc_dots<D, TILE, LANES>(ds, vs + row * LD, dos, lane);
            for (int j = 0; j < N; j++)
            {
                const int r = j * LANES + lane;
                if (r >= TILE)
                    continue;
                ptc_pair_grad(a, bias, key, sample, bases[r], deltas[r], batch, head, t0 + r, s0 + row, &p[j], &ds[j]);
                ps[row * (TILE + 1) + r] = p[j];
                dss[row * (TILE + 1) + r] = ds[j];
            }
            __syncthreads();
            ptc_weighted_rows<D, TILE, LANES>(acc_v, ps + row * (TILE + 1), dos, lane);
            ptc_weighted_rows<D, TILE, LANES>(acc_k, dss + row * (TILE + 1), qs, lane);
        }
    if (s0 + row >= a.s)
        return;
    ptc_store_lanes<D, LANES>(dk + kv + (s0 + row) * a.k_row, acc_k, 1.0f, lane);
    ptc_store_lanes<D, LANES>(dv + kv + (s0 + row) * a.k_row, acc_v, 1.0f, lane);
}

template <int D, int TILE, int LANES, typename T>
PTC_INLINE void ptc_attention_grad_q(const PtcAttention &a, const T *q, const T *k, const T *v, const float *bias,
                                     const int32_t *key, const int32_t *sample, const T *out, const float *lse,
                                     const T *dout, T *dq, T *dk, T *dv)
{
    PTC_DYNAMIC_ROWS;
    const int LD = PtcRow<D>::LD, V = PtcRow<D>::V, N = (TILE + LANES - 1) / LANES;
    float *qs = (float *)rows, *ks = qs + TILE * LD, *vs = ks + TILE * LD, *dos = vs + TILE * LD;
    float *dss = dos + TILE * LD, *bases = dss + TILE * (TILE + 1), *deltas = bases + TILE;
    const int64_t blocks = (a.t + TILE - 1) / TILE, head = blockIdx.x / blocks % a.h;
    const int64_t batch = blockIdx.x / blocks / a.h, t0 = blockIdx.x % blocks * TILE;
    const int64_t kv = batch * a.s * a.k_row + head / (a.h / a.g) * D;
    const int row = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    float acc[(D / V + LANES - 1) / LANES * V] = {};
    ptc_load_tile<D, TILE>(qs, q + batch * a.t * a.q_row + head * D, a.q_row, t0, a.t, 1.0f);
    ptc_load_tile<D, TILE>(dos, dout + (batch * a.t * a.h + head) * D, a.h * D, t0, a.t, 1.0f);
    __syncthreads();
    ptc_load_rows<D, TILE>(a, out, lse, dos, bases, deltas, batch, head, t0);
    for (int64_t s0 = 0; s0 < a.s; s0 += TILE)
    {
        float p[N], ds[N];
        __syncthreads();
        ptc_load_tile<D, TILE>(ks, k + kv, a.k_row, s0, a.s, 1.0f);
        ptc_load_tile<D, TILE>(vs, v + kv, a.k_row, s0, a.s, 1.0f);
        __syncthreads();
        ptc_dots<D, TILE, LANES>(p, qs + row * LD, ks, lane);
        ptc_dots<D, TILE, LANES>(ds, dos + row * LD, vs, lane);
        for (int j = 0; j < N; j++)
        {
            const int s = j * LANES + lane;
            if (s >= TILE)
                continue;
            ptc_pair_grad(a, bias, key, sample, bases[row], deltas[row], batch, head, t0 + row, s0 + s, &p[j], &ds[j]);
            dss[row * (TILE + 1) + s] = ds[j];
        }
        __syncthreads();
        ptc_weighted_rows<D, TILE, LANES>(acc, dss + row * (TILE + 1), ks, lane);
    }
    if (t0 + row < a.t)
        ptc_store_lanes<D, LANES>(dq + (batch * a.t + t0 + row) * a.q_row + head * D, acc, 1.0f, lane);
}
