// ---- gather: a warp per row of the result
PTC_INLINE int64_t ptc_clamp_row(int32_t row, int64_t rows)
{
    return row < 0 ? 0 : row >= rows ? rows - 1 : row;
}
template <int V, typename T>
PTC_INLINE void ptc_gather(const T *table, const int32_t *index, T *to, int64_t rows, int64_t width, int64_t n)
{
    const int64_t warps = blockDim.x / 32;
    for (int64_t i = blockIdx.x * warps + threadIdx.x / 32; i < n; i += gridDim.x * warps)
    {
        const T *from = table + ptc_clamp_row(index[i], rows) * width;
        for (int64_t c = threadIdx.x % 32 * V; c < width; c += 32 * V * 4)
        {
            PtcVector<T, V> x[4];
            PTC_UNROLL
            for (int k = 0; k < 4; k++)
                if (c + 32 * V * k < width)
                    x[k] = *(const PtcVector<T, V> *)(from + c + 32 * V * k);
            PTC_UNROLL
            for (int k = 0; k < 4; k++)
                if (c + 32 * V * k < width)
                    *(PtcVector<T, V> *)(to + i * width + c + 32 * V * k) = x[k];
        }
    }
}

// ---- scatter_add, in the order of the ids. First launch: a block has PTC_SCATTER_CHUNK ids. The first of equal ids
// leads; where it is not alone, a warp adds their rows into the leader's row of the workspace. Second launch: a warp has
// a row of the table, at most one leader in each chunk, and adds what they stand for.
#define PTC_SCATTER_CHUNK 128 // 4 ids a lane
#define PTC_SCATTER_BATCH 4   // chunks that are looked at, and rows that are loaded, together
template <int V, typename T>
PTC_INLINE void ptc_scatter_lead(const int32_t *index, const T *update, int32_t *lead, float *sums, int64_t rows,
                                 int64_t width, int64_t n)
{
    __shared__ int32_t row[PTC_SCATTER_CHUNK], next[PTC_SCATTER_CHUNK], first[PTC_SCATTER_CHUNK];
    const int64_t base = (int64_t)blockIdx.x * PTC_SCATTER_CHUNK;
    const int me = threadIdx.x, lane = me % 32, pieces = (int)((width + 32 * V - 1) / (32 * V));
    if (me < PTC_SCATTER_CHUNK)
        row[me] = base + me < n ? (int32_t)ptc_clamp_row(index[base + me], rows) : -1;
    __syncthreads();
    if (me < PTC_SCATTER_CHUNK)
    {
        bool leads = row[me] >= 0;
        int32_t after = -1;
        for (int k = 0; k < PTC_SCATTER_CHUNK; k++)
            if (row[k] == row[me])
            {
                leads &= k >= me;
                after = k > me && after < 0 ? k : after;
            }
        next[me] = after;
        first[me] = leads && after >= 0;
        lead[base + me] = leads ? row[me] * 2 + (after >= 0) : -1;
    }
    __syncthreads();
    for (int item = me / 32; item < PTC_SCATTER_CHUNK * pieces; item += blockDim.x / 32)
    {
        const int leader = item / pieces;
        const int64_t c = (item % pieces * 32 + lane) * V;
        if (!first[leader] || c >= width)
            continue;
        float sum[V] = {};
        for (int j = leader; j >= 0;)
        {
            float x[PTC_SCATTER_BATCH][V] = {};
            PTC_UNROLL
            for (int k = 0; k < PTC_SCATTER_BATCH; k++)
                if (j >= 0)
                {
                    ptc_load_vector<V>(x[k], update + (base + j) * width + c);
                    j = next[j];
                }
            PTC_UNROLL
            for (int k = 0; k < PTC_SCATTER_BATCH; k++)
                PTC_UNROLL
                for (int v = 0; v < V; v++)
                    sum[v] += x[k][v];
        }
        ptc_store_vector<V>(sums + (base + leader) * width + c, sum);
    }
}
// A warp has STEPS * 32 * V columns of its row. lead: for a multiple of PTC_SCATTER_BATCH chunks.
template <int V, int STEPS, typename T>
PTC_INLINE void ptc_scatter_rows(const int32_t *lead, const T *update, const float *sums, const float *before, float *to,
                                 int64_t rows, int64_t width, int64_t n)
{
    constexpr int B = PTC_SCATTER_BATCH, LOADS = STEPS < B ? B : 1;
    const int64_t pieces = (width + STEPS * 32 * V - 1) / (STEPS * 32 * V);
    const int64_t item = blockIdx.x * (int64_t)(blockDim.x / 32) + threadIdx.x / 32, r = item / pieces;
    const int lane = threadIdx.x % 32;
    const int64_t c0 = (item % pieces * STEPS * 32 + lane) * V;
    const uint32_t mine = 2 * (uint32_t)r;
    if (r >= rows)
        return;
    float sum[STEPS * V] = {};
    PTC_UNROLL
    for (int s = 0; s < STEPS; s++)
        if (before && c0 + s * 32 * V < width)
            ptc_load_vector<V>(sum + s * V, before + r * width + c0 + s * 32 * V);
    for (int64_t base = 0; base < n; base += B * PTC_SCATTER_CHUNK)
    {
        int32_t id[B][4];
        uint32_t nearest = 0xFFFFFFFFu;
        PTC_UNROLL
        for (int b = 0; b < B; b++)
            ptc_load_vector<4>(id[b], lead + base + b * PTC_SCATTER_CHUNK + lane * 4);
        PTC_UNROLL
        for (int i = 0; i < 4 * B; i++)
            nearest = min(nearest, (uint32_t)id[i / 4][i % 4] - mine);
        if (__reduce_max_sync(0xFFFFFFFFu, nearest <= 1) == 0)
            continue;
        PTC_UNROLL
        for (int b0 = 0; b0 < B; b0 += LOADS)
        {
            float x[LOADS][STEPS * V] = {};
            PTC_UNROLL
            for (int b = 0; b < LOADS; b++)
            {
                int32_t hit = -1; // place and kind of the chunk's leader of this row
                PTC_UNROLL
                for (int k = 0; k < 4; k++)
                    hit = (uint32_t)id[b0 + b][k] - mine <= 1 ? (lane * 4 + k) * 2 + (id[b0 + b][k] & 1) : hit;
                hit = __reduce_max_sync(0xFFFFFFFFu, hit);
                const int64_t from = (base + (b0 + b) * PTC_SCATTER_CHUNK + (hit >> 1)) * width;
                PTC_UNROLL
                for (int s = 0; s < STEPS; s++)
                {
                    const int64_t c = c0 + s * 32 * V;
                    if (hit >= 0 && c < width && hit & 1)
                        ptc_load_vector<V>(x[b] + s * V, sums + from + c);
                    else if (hit >= 0 && c < width)
                        ptc_load_vector<V>(x[b] + s * V, update + from + c);
                }
            }
            PTC_UNROLL
            for (int b = 0; b < LOADS; b++)
                PTC_UNROLL
                for (int i = 0; i < STEPS * V; i++)
                    sum[i] += x[b][i];
        }
    }
    PTC_UNROLL
    for (int s = 0; s < STEPS; s++)
        if (c0 + s * 32 * V < width)
            ptc_store_vector<V>(to + r * width + c0 + s * 32 * V, sum + s * V);
}
