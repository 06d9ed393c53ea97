/* ---- gather: table [rows, width], index [n] -> [n, width]; rows of the result lo..hi-1 */
PTC_INLINE int64_t ptc_clamp_row(int32_t row, int64_t rows)
{
    return row < 0 ? 0 : row >= rows ? rows - 1 : row;
}
PTC_FUNC void ptc_gather(const char *table, const int32_t *index, char *to, int64_t rows, int64_t row_bytes, int64_t lo,
                         int64_t hi)
{
    for (int64_t i = lo; i < hi; i++)
        memcpy(to + i * row_bytes, table + ptc_clamp_row(index[i], rows) * row_bytes, (size_t)row_bytes);
}

/* ---- scatter_add: columns lo..hi-1 of the result [rows, width] = sum (NULL: zeros; it may be the result) plus update
 * [n, width] rows, in order of n */
PTC_FUNC void ptc_scatter_add(const int32_t *index, const float *update, const float *sum, float *to, int64_t rows,
                              int64_t width, int64_t n, int64_t lo, int64_t hi)
{
    for (int64_t r = 0; r < rows && sum != to; r++)
        if (sum)
            memcpy(to + r * width + lo, sum + r * width + lo, (size_t)(hi - lo) * sizeof(float));
        else
            memset(to + r * width + lo, 0, (size_t)(hi - lo) * sizeof(float));
    for (int64_t i = 0; i < n; i++)
    {
        float *row = to + ptc_clamp_row(index[i], rows) * width;
        const float *from = update + i * width;
        PTC_SIMD
        for (int64_t c = lo; c < hi; c++)
            row[c] += from[c];
    }
}
