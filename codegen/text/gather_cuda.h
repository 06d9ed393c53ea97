// ---- gather: one block per row of the result; scatter_add: one thread per column, rows of the update in order
PTC_INLINE int64_t ptc_clamp_row(int32_t row, int64_t rows)
{
    return row < 0 ? 0 : row >= rows ? rows - 1 : row;
}
template <typename T>
PTC_INLINE void ptc_gather(const T *table, const int32_t *index, T *to, int64_t rows, int64_t width, int64_t n)
{
    for (int64_t i = blockIdx.x; i < n; i += gridDim.x)
    {
        const T *from = table + ptc_clamp_row(index[i], rows) * width;
        for (int64_t c = threadIdx.x; c < width; c += blockDim.x)
            to[i * width + c] = from[c];
    }
}
PTC_INLINE void ptc_scatter_add(const int32_t *index, const float *update, const float *sum, float *to, int64_t rows,
                                int64_t width, int64_t n)
{
    const int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= width)
        return;
    for (int64_t r = 0; r < rows; r++)
        to[r * width + c] = sum ? sum[r * width + c] : 0.0f;
    for (int64_t i = 0; i < n; i++)
        to[ptc_clamp_row(index[i], rows) * width + c] += update[i * width + c];
}
