// ---- tensor cores: what a whole warp does at once, for sm_80 and later. tests/codegen/cuda_shim.h has the same functions
// for the CPU. Fragments are those of mma.m16n8k16: lane l has of a 16 x 8 sum the rows l / 4 and l / 4 + 8, the columns
// l % 4 * 2 and the next.
#ifndef PTC_SHIM
// c += a b
PTC_INLINE void ptc_mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Four matrices of 8 x 8; lane l gives the address of row l % 8 of matrix l / 8, in shared memory.
PTC_INLINE void ptc_matrices(uint32_t (&r)[4], const uint16_t *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}
PTC_INLINE void ptc_matrices_turned(uint32_t (&r)[4], const uint16_t *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}
// 16 bytes to shared memory, zeros where there are none; they are there after ptc_copies_wait.
PTC_INLINE void ptc_copy16(void *to, const void *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(there ? 16 : 0)
                 : "memory");
}
PTC_INLINE void ptc_copy4(void *to, const void *from, bool there)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from),
                 "r"(there ? 4 : 0)
                 : "memory");
}
// Until all copies that this thread asked for are there.
PTC_INLINE void ptc_copies_wait()
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}
PTC_INLINE float ptc_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// Two bf16, the first in the lower half.
PTC_INLINE uint32_t ptc_pack(float x, float y)
{
    uint32_t bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(y), "f"(x));
    return bits;
}
#endif

struct alignas(16) PtcBytes16
{
    uint32_t x[4];
};
// sum + x . y, each 8 bf16
PTC_INLINE float ptc_dot8(PtcBytes16 x, PtcBytes16 y, float sum)
{
    for (int i = 0; i < 4; i++)
    {
        sum = fmaf(ptc_bits_float(x.x[i] << 16), ptc_bits_float(y.x[i] << 16), sum);
        sum = fmaf(ptc_bits_float(x.x[i] & 0xFFFF0000u), ptc_bits_float(y.x[i] & 0xFFFF0000u), sum);
    }
    return sum;
}

// Where lane l's row begins in a 16 x 16 tile of a matrix with LD elements a row: for fragments a of a tile [m][k] and, turned,
// b of a tile [k][n].
template <int LD>
PTC_INLINE int ptc_tile_rows()
{
    const int lane = threadIdx.x % 32;
    return lane % 16 * LD + lane / 16 * 8;
}
// The same for fragments b of a tile [n][k] and, turned, a of a tile [k][m].
template <int LD>
PTC_INLINE int ptc_tile_columns()
{
    const int lane = threadIdx.x % 32;
    return (lane % 8 + lane / 16 * 8) * LD + lane / 8 % 2 * 8;
}

// Rows r0 .. r0 + ROWS - 1 of [end, stride] to shared memory [ROWS][D + 8] (the 8 keep the banks apart), zeros beyond the
// end.
template <int D, int ROWS, int THREADS>
PTC_INLINE void ptc_copy_rows(uint16_t *to, const uint16_t *from, int stride, int r0, int end, int thread)
{
#pragma unroll
    for (int i = 0; i * THREADS < ROWS * (D / 8); i++)
    {
        const int at = i * THREADS + thread, r = at / (D / 8), x = at % (D / 8) * 8, row = r0 + r;
        if (ROWS * (D / 8) % THREADS == 0 || at < ROWS * (D / 8))
            ptc_copy16(to + r * (D + 8) + x, from + (int64_t)row * stride + x, row < end); // beyond it nothing is read
    }
}

// The fragments a of columns 16 i .. 16 i + 15 of 16 rows, in registers or in shared memory.
template <int D, int N>
PTC_INLINE void ptc_fragment(uint32_t (&to)[4], const uint32_t (&from)[N][4], int i)
{
    for (int j = 0; j < 4; j++)
        to[j] = from[i][j];
}
template <int D>
PTC_INLINE void ptc_fragment(uint32_t (&to)[4], const uint16_t *from, int i)
{
    ptc_matrices(to, from + i * 16 + ptc_tile_rows<D + 8>());
}

// c = a b^T: a is 16 x D, b [8 N][D + 8] in shared memory.
template <int D, int N, typename A>
PTC_INLINE void ptc_times_rows(float (&c)[N][4], const A &a, const uint16_t *b)
{
#pragma unroll
    for (int j = 0; j < N; j++)
        for (int e = 0; e < 4; e++)
            c[j][e] = 0.0f;
    b += ptc_tile_columns<D + 8>();
#pragma unroll
    for (int i = 0; i < D / 16; i++)
    {
        uint32_t x[4];
        ptc_fragment<D>(x, a, i);
#pragma unroll
        for (int j = 0; j < N / 2; j++)
        {
            uint32_t y[4];
            ptc_matrices(y, b + j * 16 * (D + 8) + i * 16);
            ptc_mma(c[2 * j], x, y[0], y[1]);
            ptc_mma(c[2 * j + 1], x, y[2], y[3]);
        }
    }
}

// c += a b: a is a sum of 16 x 8 N, rounded to bf16, b [8 N][D + 8] in shared memory.
template <int D, int N>
PTC_INLINE void ptc_times_columns(float (&c)[D / 8][4], const float (&a)[N][4], const uint16_t *b)
{
    b += ptc_tile_rows<D + 8>();
#pragma unroll
    for (int j = 0; j < N / 2; j++)
    {
        const uint32_t x[4] = {ptc_pack(a[2 * j][0], a[2 * j][1]), ptc_pack(a[2 * j][2], a[2 * j][3]),
                               ptc_pack(a[2 * j + 1][0], a[2 * j + 1][1]), ptc_pack(a[2 * j + 1][2], a[2 * j + 1][3])};
#pragma unroll
        for (int i = 0; i < D / 16; i++)
        {
            uint32_t y[4];
            ptc_matrices_turned(y, b + j * 16 * (D + 8) + i * 16);
            ptc_mma(c[2 * i], x, y[0], y[1]);
            ptc_mma(c[2 * i + 1], x, y[2], y[3]);
        }
    }
}

// Writes 16 x D sums, times a factor for each of the lane's two rows, to rows r0.. of [end, stride], by way of the warp's
// own 16 x (D + 8) elements of shared memory.
template <int D>
PTC_INLINE void ptc_store_rows(uint16_t *to, int stride, int r0, int end, const float (&c)[D / 8][4], float factor0,
                               float factor1, uint16_t *own)
{
    const int lane = threadIdx.x % 32, at = lane / 4 * (D + 8) + lane % 4 * 2;
    __syncwarp(); // what the elements were is read
#pragma unroll
    for (int i = 0; i < D / 8; i++)
    {
        *(uint32_t *)(own + at + i * 8) = ptc_pack(c[i][0] * factor0, c[i][1] * factor0);
        *(uint32_t *)(own + at + i * 8 + 8 * (D + 8)) = ptc_pack(c[i][2] * factor1, c[i][3] * factor1);
    }
    __syncwarp();
#pragma unroll
    for (int i = lane; i < 2 * D; i += 32)
    {
        const int r = i / (D / 8), x = i % (D / 8) * 8;
        if (r0 + r < end)
            *(PtcBytes16 *)(to + (int64_t)(r0 + r) * stride + x) = *(const PtcBytes16 *)(own + r * (D + 8) + x);
    }
}
