/* ---- attention: flash style (Dao et al., 2022), the scores of one tile at a time, transposed: rows are keys, vectors
 * run over queries, so that the softmax of a query is a lane. All products go through one register tile,
 *     c[r][0 .. nv * VL) (+)= sum over k of a[r][k * a_step] * b[k * ldb ..],  r < PTC_MR.
 * Rows of a beyond the last are read as copies of the last and not stored. q, k, v and what has their type are floats or
 * bf16; all sums are floats. QB, KB and PAD are known to codegen/template.c. */
#if defined(__AVX512F__)
#define PTC_VL 16
#define PTC_NV 4
#elif defined(__AVX__)
#define PTC_VL 8
#define PTC_NV 2
#else
#define PTC_VL 4
#define PTC_NV 2
#endif
#define PTC_MR     6
#define PTC_QB     64  /* queries of a tile */
#define PTC_KB     128 /* keys of a tile */
#define PTC_PAD(n) (((n) + 15) / 16 * 16)

typedef float ptc_v __attribute__((vector_size(4 * PTC_VL), aligned(4), may_alias));
typedef float ptc_v4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef uint64_t ptc_u64 __attribute__((vector_size(4 * PTC_VL)));
typedef uint32_t ptc_u32 __attribute__((vector_size(2 * PTC_VL), aligned(4), may_alias));
#if defined(__clang__)
#define PTC_MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PTC_MIX(a, b, ...) __builtin_shuffle(a, b, (ptc_v4i){__VA_ARGS__})
typedef int32_t ptc_v4i __attribute__((vector_size(16)));
#endif

#if defined(__clang__)
#define PTC_TILE_FUNC static __attribute__((noinline, unused))
#define PTC_CONTRACT  _Pragma("clang fp contract(fast)")
#define PTC_UNROLL    _Pragma("unroll")
#define PTC_UNROLL10  _Pragma("unroll")
#else
#define PTC_TILE_FUNC static __attribute__((noinline, unused, optimize("fp-contract=fast")))
#define PTC_CONTRACT
#define PTC_UNROLL   _Pragma("GCC unroll 8")
#define PTC_UNROLL10 _Pragma("GCC unroll 10")
#endif

#define PTC_TILE(NAME, MR, NVEC)                                                                                       \
    PTC_TILE_FUNC void NAME(const float *const *a, int64_t a_step, const float *b, int64_t ldb, int64_t n, float *c,   \
                            int64_t ldc, int64_t m, int add)                                                           \
    {                                                                                                                  \
        PTC_CONTRACT                                                                                                   \
        ptc_v acc[MR][NVEC];                                                                                           \
        const float *a0 = a[0], *a1 = a[1], *a2 = a[2], *a3 = a[3], *a4 = a[4], *a5 = a[5];                            \
        PTC_UNROLL for (int r = 0; r < MR; r++)                                                                        \
            PTC_UNROLL for (int v = 0; v < NVEC; v++)                                                                  \
                acc[r][v] = add && r < m ? *(const ptc_v *)(c + r * ldc + v * PTC_VL) : (ptc_v){0};                    \
        for (int64_t k = 0; k < n; k++)                                                                                \
        {                                                                                                              \
            ptc_v x[NVEC];                                                                                             \
            PTC_UNROLL for (int v = 0; v < NVEC; v++)                                                                  \
                x[v] = *(const ptc_v *)(b + v * PTC_VL);                                                               \
            const float y[PTC_MR] = {*a0, *a1, *a2, *a3, *a4, *a5};                                                    \
            PTC_UNROLL for (int r = 0; r < MR; r++)                                                                    \
                PTC_UNROLL for (int v = 0; v < NVEC; v++)                                                              \
                    acc[r][v] = acc[r][v] + y[r] * x[v];                                                               \
            a0 += a_step, a1 += a_step, a2 += a_step, a3 += a_step, a4 += a_step, a5 += a_step;                        \
            b += ldb;                                                                                                  \
        }                                                                                                              \
        PTC_UNROLL for (int r = 0; r < MR; r++)                                                                        \
            PTC_UNROLL for (int v = 0; v < NVEC; v++)                                                                  \
                if (r < m)                                                                                             \
                    *(ptc_v *)(c + r * ldc + v * PTC_VL) = acc[r][v];                                                  \
    }
PTC_TILE(ptc_tile1, PTC_MR, 1)
PTC_TILE(ptc_tile2, PTC_MR, 2)
PTC_TILE(ptc_tile3, PTC_MR, 3)
PTC_TILE(ptc_tile_wide, PTC_MR, PTC_NV)
PTC_TILE(ptc_tile_low, PTC_MR - 1, PTC_NV)

/* c [m, n_cols rounded up to 16] (+)= a b, a(i, k) = a[i * a_row + k * a_step]. */
static void ptc_product(const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t ldb, int64_t m,
                        int64_t n_cols, int64_t n, float *c, int64_t ldc, int add)
{
    const int64_t n_tiles = (m + PTC_MR - 1) / PTC_MR; /* the last ones have a row less, so that none is wasted */
    int64_t height = PTC_MR;
    for (int64_t i = 0, tile = 0; i < m; i += height, tile++)
    {
        const float *rows[PTC_MR];
        if (m - i <= (n_tiles - tile) * (PTC_MR - 1))
            height = PTC_MR - 1;
        const int64_t used = m - i < height ? m - i : height;
        for (int64_t r = 0; r < PTC_MR; r++)
            rows[r] = a + (i + (r < used ? r : used - 1)) * a_row;
        for (int64_t j = 0; j < n_cols; j += PTC_NV * PTC_VL)
        {
            const int64_t nv = (n_cols - j + PTC_VL - 1) / PTC_VL;
            float *to = c + i * ldc + j;
            if (nv >= PTC_NV && height < PTC_MR)
                ptc_tile_low(rows, a_step, b + j, ldb, n, to, ldc, used, add);
            else if (nv >= PTC_NV)
                ptc_tile_wide(rows, a_step, b + j, ldb, n, to, ldc, used, add);
            else if (nv == 3)
                ptc_tile3(rows, a_step, b + j, ldb, n, to, ldc, used, add);
            else if (nv == 2)
                ptc_tile2(rows, a_step, b + j, ldb, n, to, ldc, used, add);
            else
                ptc_tile1(rows, a_step, b + j, ldb, n, to, ldc, used, add);
        }
    }
}

typedef struct
{
    int64_t b, t, h, d, s, g;
    int64_t q_row, k_row; /* elements from one query or key to the next; out and dout lie without gaps */
    float scale;
    int causal;
    int64_t window;
    int64_t bias_b, bias_h, bias_t; /* strides of the bias [.., S]; 0: broadcast */
    float p;
    uint32_t stream;
    int bf16; /* q, k, v, out and their gradients are bf16, not f32 */
} PtcAttention;

/* to[x * PTC_QB + q] = from[q * stride + x] * factor; queries beyond n, up to the next multiple of 16, are zero. */
PTC_FUNC void ptc_transpose(float *to, const float *from, int64_t stride, int64_t n, int64_t d, float factor)
{
    static const float zeros[4];
    const int64_t whole = d / 4 * 4; /* blocks of 4 x 4 */
    for (int64_t q = 0; q < PTC_PAD(n); q += 4)
    {
        const float *rows[4];
        for (int64_t r = 0; r < 4; r++)
            rows[r] = from + (q + r) * stride;
        for (int64_t x = 0; x < whole; x += 4)
        {
            const ptc_v4 a = *(const ptc_v4 *)(q < n ? rows[0] + x : zeros);
            const ptc_v4 b = *(const ptc_v4 *)(q + 1 < n ? rows[1] + x : zeros);
            const ptc_v4 c = *(const ptc_v4 *)(q + 2 < n ? rows[2] + x : zeros);
            const ptc_v4 e = *(const ptc_v4 *)(q + 3 < n ? rows[3] + x : zeros);
            const ptc_v4 ac0 = PTC_MIX(a, c, 0, 4, 1, 5), be0 = PTC_MIX(b, e, 0, 4, 1, 5);
            const ptc_v4 ac1 = PTC_MIX(a, c, 2, 6, 3, 7), be1 = PTC_MIX(b, e, 2, 6, 3, 7);
            float *at = to + x * PTC_QB + q;
            *(ptc_v4 *)at = PTC_MIX(ac0, be0, 0, 4, 1, 5) * factor;
            *(ptc_v4 *)(at + PTC_QB) = PTC_MIX(ac0, be0, 2, 6, 3, 7) * factor;
            *(ptc_v4 *)(at + 2 * PTC_QB) = PTC_MIX(ac1, be1, 0, 4, 1, 5) * factor;
            *(ptc_v4 *)(at + 3 * PTC_QB) = PTC_MIX(ac1, be1, 2, 6, 3, 7) * factor;
        }
        for (int64_t x = whole; x < d; x++)
            for (int64_t r = 0; r < 4; r++)
                to[x * PTC_QB + q + r] = q + r < n ? rows[r][x] * factor : 0.0f;
    }
}

/* Rows of q, k, v and the like, `stride` elements apart from element `at` on, as rows of floats that may be read in whole
 * vectors: themselves, or a padded copy. */
PTC_FUNC const float *ptc_float_rows(const PtcAttention *a, const void *from, int64_t at, int64_t stride, int64_t n_rows,
                                     float *copy, int64_t *out_ld)
{
    const int64_t d = a->d, d_pad = PTC_PAD(a->d);
    if (!a->bf16 && d % PTC_VL == 0)
    {
        *out_ld = stride;
        return (const float *)from + at;
    }
    *out_ld = d_pad;
    for (int64_t r = 0; r < n_rows; r++)
    {
        float *to = copy + r * d_pad;
        const uint16_t *bits = (const uint16_t *)from + at + r * stride;
        const float *floats = (const float *)from + at + r * stride;
        if (a->bf16)
            PTC_SIMD
            for (int64_t x = 0; x < d; x++)
                to[x] = ptc_bf16_load(bits[x]);
        else
            memcpy(to, floats, (size_t)d * sizeof(float));
        for (int64_t x = d; x < d_pad; x++)
            to[x] = 0.0f;
    }
    return copy;
}

/* Writes a row of results, times a factor. */
PTC_FUNC void ptc_store_row(const PtcAttention *a, void *to, int64_t at, const float *from, float factor)
{
    float *floats = (float *)to + at;
    uint16_t *bits = (uint16_t *)to + at;
    if (a->bf16)
        PTC_SIMD
        for (int64_t x = 0; x < a->d; x++)
            bits[x] = ptc_bf16_store(from[x] * factor);
    else
        PTC_SIMD
        for (int64_t x = 0; x < a->d; x++)
            floats[x] = from[x] * factor;
}

/* The keys that some query of t0 .. t0 + nq - 1 sees: lo..hi-1. */
PTC_INLINE void ptc_key_range(const PtcAttention *a, int64_t t0, int64_t nq, int64_t *lo, int64_t *hi)
{
    const int64_t shift = a->s - a->t;
    *lo = 0;
    *hi = a->s;
    if (a->window && t0 + shift - a->window > 0)
        *lo = t0 + shift - a->window;
    if (a->window && t0 + nq + shift + a->window < *hi)
        *hi = t0 + nq + shift + a->window;
    if (a->causal && t0 + nq + shift < *hi)
        *hi = t0 + nq + shift;
    if (*hi < *lo)
        *hi = *lo;
}

/* Adds the bias and masks keys in the tile of scores [nk][PTC_QB]. */
PTC_FUNC void ptc_mask_scores(const PtcAttention *a, const float *bias, float *scores, int64_t batch, int64_t head,
                              int64_t t0, int64_t s0, int64_t nq, int64_t nk)
{
    const int64_t shift = a->s - a->t;
    for (int64_t s = 0; s < nk; s++)
    {
        float *row = scores + s * PTC_QB;
        if (bias)
        {
            const float *from = bias + batch * a->bias_b + head * a->bias_h + t0 * a->bias_t + s0 + s;
            for (int64_t q = 0; q < nq; q++)
                row[q] += from[q * a->bias_t];
        }
        if (!a->causal && !a->window)
            continue;
        const int32_t first = (int32_t)(s0 + s - shift - t0); /* the query that sits at this key */
        const int32_t reach = a->window ? (int32_t)a->window : INT32_MAX / 2;
        const int32_t ahead = a->causal ? 0 : reach;
        PTC_SIMD
        for (int32_t q = 0; q < PTC_QB; q++)
            row[q] = first - q > ahead || q - first > reach ? -PTC_INF : row[q];
    }
}

/* The low 32 bits of each a times m. gcc knows no cheap vector form of it. */
PTC_INLINE ptc_u64 ptc_mul_wide(ptc_u64 a, ptc_u64 m)
{
#if defined(__AVX2__) && !defined(__clang__)
    ptc_u64 product;
    __asm__("vpmuludq %2, %1, %0" : "=v"(product) : "v"(a), "v"(m));
    return product;
#else
    return (a & 0xFFFFFFFFu) * m;
#endif
}

/* Factors 0 or 1 / (1 - p) for the tile's first `lanes` queries: ptc_random of many elements. Where rows of scores begin at
 * multiples of 4, a block of random numbers is that of 4 keys: all of s's are filled in, otherwise s alone, in row s % 4.
 * A word sits in the lower half of 64 bits; the upper half is never read. */
PTC_FUNC void ptc_drop_keys(const PtcAttention *a, const int32_t *key, int32_t sample, int64_t head, int64_t t0,
                            int64_t s, int64_t lanes, float (*factors)[PTC_QB])
{
    uint32_t words[4][PTC_QB];
    const uint32_t step = (uint32_t)a->s;
    const float p = a->p, keep = 1.0f / (1.0f - a->p);
    ptc_u64 element;
    for (int l = 0; l < PTC_VL / 2; l++)
        element[l] = (uint32_t)((head * a->t + t0) * a->s + s) + (uint32_t)l * step;
    for (int64_t q = 0; q < lanes; q += PTC_VL / 2)
    {
        const ptc_u64 zero = {0}, m0 = zero + 0xD2511F53u, m1 = zero + 0xCD9E8D57u;
        ptc_u64 c0 = (element & 0xFFFFFFFFu) >> 2, c1 = zero + (uint32_t)sample, c2 = zero + (uint32_t)key[1];
        ptc_u64 c3 = zero + a->stream;
        uint32_t k0 = (uint32_t)key[0], k1 = 0x70746331u;
        PTC_UNROLL10 for (int round = 0; round < 10; round++)
        {
            const ptc_u64 p0 = ptc_mul_wide(c0, m0), p1 = ptc_mul_wide(c2, m1);
            c0 = (p1 >> 32) ^ c1 ^ k0;
            c2 = (p0 >> 32) ^ c3 ^ k1;
            c1 = p1;
            c3 = p0;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        *(ptc_u32 *)(words[0] + q) = __builtin_convertvector(c0, ptc_u32);
        *(ptc_u32 *)(words[1] + q) = __builtin_convertvector(c1, ptc_u32);
        *(ptc_u32 *)(words[2] + q) = __builtin_convertvector(c2, ptc_u32);
        *(ptc_u32 *)(words[3] + q) = __builtin_convertvector(c3, ptc_u32);
        element += (uint32_t)(PTC_VL / 2) * step;
    }
    if (a->s % 4 != 0)
        for (int64_t q = 0; q < lanes; q++)
            words[s % 4][q] = words[(uint32_t)((head * a->t + t0 + q) * a->s + s) % 4][q];
    for (int64_t w = 0; w < 4; w++)
    {
        PTC_SIMD
        for (int64_t q = 0; q < lanes; q++)
            factors[w][q] = (float)(int32_t)(words[w][q] >> 8) * 0x1p-24f >= p ? keep : 0.0f;
    }
}
/* The factors of key s, which is keys `first` .. in turn. */
PTC_INLINE const float *ptc_drop_row(const PtcAttention *a, const int32_t *key, int32_t sample, int64_t head, int64_t t0,
                                     int64_t s, int64_t first, int64_t lanes, float (*factors)[PTC_QB])
{
    if (a->s % 4 != 0 || s % 4 == 0 || s == first)
        ptc_drop_keys(a, key, sample, head, t0, s, lanes, factors);
    return factors[s % 4];
}

PTC_FUNC void ptc_attention(const PtcAttention *a, const void *q, const void *k, const void *v, const float *bias,
                            const int32_t *key, const int32_t *sample, void *out, float *lse, float *scratch,
                            int64_t task)
{
    const int64_t blocks = (a->t + PTC_QB - 1) / PTC_QB;
    const int64_t block = task % blocks, head = task / blocks % a->h, batch = task / blocks / a->h;
    const int64_t t0 = block * PTC_QB, nq = a->t - t0 < PTC_QB ? a->t - t0 : PTC_QB;
    const int64_t k_ld = a->k_row, d_pad = PTC_PAD(a->d);
    const int64_t kv = batch * a->s * k_ld + head / (a->h / a->g) * a->d;
    float *qt = scratch;                   /* [d][QB] */
    float *scores = qt + a->d * PTC_QB;    /* [KB][QB] */
    float *acc = scores + PTC_KB * PTC_QB; /* [QB][d_pad] */
    float *copy = acc + PTC_QB * d_pad;    /* [KB][d_pad]: keys, then values */
    float max[PTC_QB], sum[PTC_QB], shift[PTC_QB], grow[PTC_QB], factors[4][PTC_QB];
    int64_t lo, hi, ld;

    const float *rows = ptc_float_rows(a, q, (batch * a->t + t0) * a->q_row + head * a->d, a->q_row, nq, acc, &ld);
    ptc_transpose(qt, rows, ld, nq, a->d, a->scale);
    for (int l = 0; l < PTC_QB; l++)
        max[l] = -PTC_INF, sum[l] = 0.0f;
    memset(acc, 0, (size_t)(PTC_QB * d_pad) * sizeof(float));
    ptc_key_range(a, t0, nq, &lo, &hi);
    for (int64_t s0 = lo; s0 < hi; s0 += PTC_KB)
    {
        const int64_t nk = hi - s0 < PTC_KB ? hi - s0 : PTC_KB;
        rows = ptc_float_rows(a, k, kv + s0 * k_ld, k_ld, nk, copy, &ld);
        ptc_product(rows, ld, 1, qt, PTC_QB, nk, nq, a->d, scores, PTC_QB, 0);
        if (bias || a->causal || a->window)
            ptc_mask_scores(a, bias, scores, batch, head, t0, s0, nq, nk);
        const int64_t lanes = PTC_PAD(nq);
        for (int64_t l = 0; l < lanes; l++)
            shift[l] = max[l];
        for (int64_t s = 0; s < nk; s++)
        {
            const float *row = scores + s * PTC_QB;
            PTC_SIMD
            for (int64_t l = 0; l < lanes; l++)
                max[l] = row[l] > max[l] ? row[l] : max[l];
        }
        PTC_SIMD
        for (int64_t l = 0; l < lanes; l++)
        {
            const float base = max[l] > -PTC_INF ? max[l] : 0.0f;
            const float factor = ptc_exp(shift[l] - base);
            sum[l] *= factor;
            grow[l] = factor; /* of what was summed so far */
            shift[l] = base;
        }
        if (s0 > lo)
            for (int64_t i = 0; i < nq; i++)
            {
                const float factor = grow[i];
                PTC_SIMD
                for (int64_t x = 0; x < d_pad; x++)
                    acc[i * d_pad + x] *= factor;
            }
        for (int64_t s = 0; s < nk; s++)
        {
            float *row = scores + s * PTC_QB;
            PTC_SIMD
            for (int64_t l = 0; l < lanes; l++)
            {
                row[l] = ptc_exp(row[l] - shift[l]);
                sum[l] += row[l];
            }
            if (a->p > 0.0f)
            {
                const float *drop =
                    ptc_drop_row(a, key, sample[batch], head, t0, s0 + s, s0, lanes, factors);
                PTC_SIMD
                for (int64_t l = 0; l < lanes; l++)
                    row[l] *= drop[l];
            }
        }
        rows = ptc_float_rows(a, v, kv + s0 * k_ld, k_ld, nk, copy, &ld);
        ptc_product(scores, 1, PTC_QB, rows, ld, nq, a->d, nk, acc, d_pad, 1);
    }
    for (int64_t i = 0; i < nq; i++)
    {
        ptc_store_row(a, out, ((batch * a->t + t0 + i) * a->h + head) * a->d, acc + i * d_pad,
                      sum[i] > 0.0f ? 1.0f / sum[i] : 0.0f);
        lse[(batch * a->h + head) * a->t + t0 + i] = sum[i] > 0.0f ? max[i] + ptc_log(sum[i]) : -PTC_INF;
    }
}

/* Gradients of one (batch, key head): all its query heads and their blocks. The scores are computed again. */
PTC_FUNC void ptc_attention_grad(const PtcAttention *a, const void *q, const void *k, const void *v, const float *bias,
                                 const int32_t *key, const int32_t *sample, const void *out, const float *lse,
                                 const void *dout, void *dq, void *dk, void *dv, float *scratch, int64_t task)
{
    const int64_t group = task % a->g, batch = task / a->g, heads = a->h / a->g;
    const int64_t q_ld = a->q_row, k_ld = a->k_row, o_ld = a->h * a->d, d_pad = PTC_PAD(a->d);
    const int64_t kv = batch * a->s * k_ld + group * a->d;
    float *qt = scratch;                      /* [d][QB] */
    float *dot = qt + a->d * PTC_QB;          /* [d][QB] */
    float *probs = dot + a->d * PTC_QB;       /* [KB][QB] */
    float *dscores = probs + PTC_KB * PTC_QB; /* [KB][QB] */
    float *acc_q = dscores + PTC_KB * PTC_QB; /* [QB][d_pad] */
    float *acc_k = acc_q + PTC_QB * d_pad;    /* [s][d_pad] */
    float *acc_v = acc_k + a->s * d_pad;      /* [s][d_pad] */
    float *pad_k = acc_v + a->s * d_pad;      /* [KB][d_pad] */
    float *pad_v = pad_k + PTC_KB * d_pad;    /* [KB][d_pad] */
    float *pad_q = pad_v + PTC_KB * d_pad;    /* [QB][d_pad] */
    float *pad_do = pad_q + PTC_QB * d_pad;   /* [QB][d_pad] */
    float base[PTC_QB], delta[PTC_QB], factors[4][PTC_QB];
    const float scale = a->scale;

    memset(acc_k, 0, (size_t)(2 * a->s * d_pad) * sizeof(float));
    for (int64_t head = group * heads; head < (group + 1) * heads; head++)
        for (int64_t t0 = 0; t0 < a->t; t0 += PTC_QB)
        {
            const int64_t nq = a->t - t0 < PTC_QB ? a->t - t0 : PTC_QB, lanes = PTC_PAD(nq);
            const int64_t at = (batch * a->t + t0) * q_ld + head * a->d, o_at = (batch * a->t + t0) * o_ld + head * a->d;
            int64_t lo, hi, out_ld, q_rows_ld, do_ld, k_rows_ld, v_rows_ld;
            const float *q_rows = ptc_float_rows(a, q, at, q_ld, nq, pad_q, &q_rows_ld);
            const float *do_rows = ptc_float_rows(a, dout, o_at, o_ld, nq, pad_do, &do_ld);
            const float *out_rows = ptc_float_rows(a, out, o_at, o_ld, nq, acc_q, &out_ld);
            for (int64_t i = 0; i < PTC_QB; i++)
            {
                const float l = i < nq ? lse[(batch * a->h + head) * a->t + t0 + i] : PTC_INF;
                base[i] = l > -PTC_INF ? l : PTC_INF;
                delta[i] = 0.0f;
                for (int64_t x = 0; x < a->d && i < nq; x += 64)
                {
                    float products[64];
                    const int64_t n = a->d - x < 64 ? a->d - x : 64;
                    const float *o = out_rows + i * out_ld + x, *g = do_rows + i * do_ld + x;
                    PTC_SIMD
                    for (int64_t y = 0; y < n; y++)
                        products[y] = o[y] * g[y];
                    delta[i] += ptc_sum_f(products, n);
                }
            }
            ptc_transpose(qt, q_rows, q_rows_ld, nq, a->d, scale);
            ptc_transpose(dot, do_rows, do_ld, nq, a->d, 1.0f);
            memset(acc_q, 0, (size_t)(PTC_QB * d_pad) * sizeof(float));
            ptc_key_range(a, t0, nq, &lo, &hi);
            for (int64_t s0 = lo; s0 < hi; s0 += PTC_KB)
            {
                const int64_t nk = hi - s0 < PTC_KB ? hi - s0 : PTC_KB;
                const float *k_rows = ptc_float_rows(a, k, kv + s0 * k_ld, k_ld, nk, pad_k, &k_rows_ld);
                const float *v_rows = ptc_float_rows(a, v, kv + s0 * k_ld, k_ld, nk, pad_v, &v_rows_ld);
                ptc_product(k_rows, k_rows_ld, 1, qt, PTC_QB, nk, nq, a->d, probs, PTC_QB, 0);
                ptc_product(v_rows, v_rows_ld, 1, dot, PTC_QB, nk, nq, a->d, dscores, PTC_QB, 0);
                if (bias || a->causal || a->window)
                    ptc_mask_scores(a, bias, probs, batch, head, t0, s0, nq, nk);
                for (int64_t s = 0; s < nk; s++)
                {
                    float *p = probs + s * PTC_QB, *ds = dscores + s * PTC_QB;
                    if (a->p > 0.0f)
                    {
                        const float *drop =
                            ptc_drop_row(a, key, sample[batch], head, t0, s0 + s, s0, lanes, factors);
                        PTC_SIMD
                        for (int64_t l = 0; l < lanes; l++)
                        {
                            const float w = ptc_exp(p[l] - base[l]);
                            ds[l] = w * (ds[l] * drop[l] - delta[l]) * scale;
                            p[l] = w * drop[l];
                        }
                        continue;
                    }
                    PTC_SIMD
                    for (int64_t l = 0; l < lanes; l++)
                    {
                        const float w = ptc_exp(p[l] - base[l]);
                        ds[l] = w * (ds[l] - delta[l]) * scale;
                        p[l] = w;
                    }
                }
                ptc_product(probs, PTC_QB, 1, do_rows, do_ld, nk, a->d, nq, acc_v + s0 * d_pad, d_pad, 1);
                ptc_product(dscores, PTC_QB, 1, q_rows, q_rows_ld, nk, a->d, nq, acc_k + s0 * d_pad, d_pad, 1);
                ptc_product(dscores, 1, PTC_QB, k_rows, k_rows_ld, nq, a->d, nk, acc_q, d_pad, 1);
            }
            for (int64_t i = 0; i < nq; i++)
                ptc_store_row(a, dq, at + i * q_ld, acc_q + i * d_pad, 1.0f);
        }
    for (int64_t s = 0; s < a->s; s++)
    {
        ptc_store_row(a, dk, kv + s * k_ld, acc_k + s * d_pad, 1.0f);
        ptc_store_row(a, dv, kv + s * k_ld, acc_v + s * d_pad, 1.0f);
    }
}
