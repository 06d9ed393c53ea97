/* ---- elementary functions: branch-free polynomials that vectorise. Coefficients: weighted least squares towards the
 * minimax of the relative error. Errors measured in tests/codegen. */
PTC_INLINE float ptc_scale2(float x, int32_t e)
{
    const int32_t half = e >> 1;
    return x * ptc_bits_float((uint32_t)(half + 127) << 23) * ptc_bits_float((uint32_t)(e - half + 127) << 23);
}
PTC_INLINE float ptc_exp(float x)
{
    const float c = x < -104.0f ? -104.0f : x > 89.0f ? 89.0f : x;
    const float n = __builtin_rintf(c * 1.44269504f);
    const float r = ptc_fma(n, -3.194618329871446e-05f, ptc_fma(n, -0.693115234375f, c));
    float p = 1.978926600e-04f;
    p = ptc_fma(p, r, 1.394575287e-03f);
    p = ptc_fma(p, r, 8.333503751e-03f);
    p = ptc_fma(p, r, 4.166628032e-02f);
    p = ptc_fma(p, r, 1.666666582e-01f);
    p = ptc_fma(p, r, 5.000000072e-01f);
    p = ptc_fma(r * r, p, r) + 1.0f;
    const float y = ptc_scale2(p, (int32_t)n);
    return x == x ? y : x;
}
PTC_INLINE float ptc_log(float x)
{
    const float tiny = x < 1.17549435e-38f ? 8388608.0f : 1.0f;
    const float s = x * tiny;
    const uint32_t bits = ptc_float_bits(s) - 0x3F3504F3u; /* sqrt(0.5) */
    const float e = (float)((int32_t)bits >> 23) - (x < 1.17549435e-38f ? 23.0f : 0.0f);
    const float f = ptc_bits_float((bits & 0x007FFFFFu) + 0x3F3504F3u) - 1.0f;
    float p = 6.746591926e-02f;
    p = ptc_fma(p, f, -1.167563880e-01f);
    p = ptc_fma(p, f, 1.188817757e-01f);
    p = ptc_fma(p, f, -1.240559201e-01f);
    p = ptc_fma(p, f, 1.421955056e-01f);
    p = ptc_fma(p, f, -1.666799562e-01f);
    p = ptc_fma(p, f, 2.000211875e-01f);
    p = ptc_fma(p, f, -2.500000960e-01f);
    p = ptc_fma(p, f, 3.333331260e-01f);
    const float q = ptc_fma(p, f * f * f, ptc_fma(e, 3.194618329871446e-05f, -0.5f * f * f));
    const float y = ptc_fma(e, 0.693115234375f, f + q);
    const float special = x == 0.0f ? -PTC_INF : x > 0.0f ? x : PTC_NAN; /* 0, inf, negative or nan */
    return x > 0.0f && x < PTC_INF ? y : special;
}
PTC_INLINE float ptc_tanh(float x)
{
    const float t = __builtin_fabsf(x), s = x * x;
    float p = -5.704978374e-03f;
    p = ptc_fma(p, s, 2.063907874e-02f);
    p = ptc_fma(p, s, -5.373971216e-02f);
    p = ptc_fma(p, s, 1.333144216e-01f);
    p = ptc_fma(p, s, -3.333328194e-01f);
    const float small = ptc_fma(p * s, x, x);
    const float large = 1.0f - 2.0f / (ptc_exp(2.0f * t) + 1.0f);
    return t < 0.625f ? small : __builtin_copysignf(large, x);
}
PTC_INLINE float ptc_sigmoid(float x)
{
    const float e = ptc_exp(-__builtin_fabsf(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}
PTC_INLINE float ptc_erf(float x)
{
    const float t = __builtin_fabsf(x), s = x * x;
    float p = 8.316772450e-05f;
    p = ptc_fma(p, s, -8.130011966e-04f);
    p = ptc_fma(p, s, 5.199906603e-03f);
    p = ptc_fma(p, s, -2.685894148e-02f);
    p = ptc_fma(p, s, 1.128368719e-01f);
    p = ptc_fma(p, s, -3.761263319e-01f);
    p = ptc_fma(p, s, 1.283791666e-01f);
    const float small = ptc_fma(p, x, x);
    const float u = t < 4.0f ? t : 4.0f;
    float q = -2.121793839e-05f;
    q = ptc_fma(q, u, 4.358849044e-04f);
    q = ptc_fma(q, u, -4.177963035e-03f);
    q = ptc_fma(q, u, 2.513762332e-02f);
    q = ptc_fma(q, u, -1.083082736e-01f);
    q = ptc_fma(q, u, -6.333212496e-01f);
    q = ptc_fma(q, u, -1.129527649e+00f);
    q = ptc_fma(q, u, 1.773349694e-04f);
    const float large = __builtin_copysignf(1.0f - ptc_exp(q), x);
    const float y = t < 0.93f ? small : large;
    return x == x ? y : x;
}
/* x - n pi/2 in [-pi/4, pi/4] for abs(x) < 1e5, and n mod 4. */
PTC_INLINE float ptc_reduce_half_pi(float x, int32_t *quadrant)
{
    const float n = __builtin_rintf(x * 0.636619772f);
    *quadrant = (int32_t)n & 3;
    return ptc_fma(n, -7.54978942e-08f, ptc_fma(n, -4.837512969970703e-04f, ptc_fma(n, -1.5703125f, x)));
}
PTC_INLINE float ptc_sin_quadrant(float r, int32_t quadrant)
{
    const float s = r * r;
    float p = 2.717564398e-06f;
    p = ptc_fma(p, s, -1.983925663e-04f);
    p = ptc_fma(p, s, 8.333329144e-03f);
    p = ptc_fma(p, s, -1.666666664e-01f);
    const float sine = ptc_fma(p * s, r, r);
    float q = 2.443120278e-05f;
    q = ptc_fma(q, s, -1.388730602e-03f);
    q = ptc_fma(q, s, 4.166664565e-02f);
    const float cosine = ptc_fma(q * s, s, ptc_fma(s, -0.5f, 1.0f));
    const float y = (quadrant & 1) ? cosine : sine;
    return (quadrant & 2) ? -y : y;
}
PTC_INLINE float ptc_sin(float x)
{
    int32_t quadrant;
    const float r = ptc_reduce_half_pi(x, &quadrant);
    return ptc_sin_quadrant(r, quadrant);
}
PTC_INLINE float ptc_cos(float x)
{
    int32_t quadrant;
    const float r = ptc_reduce_half_pi(x, &quadrant);
    return ptc_sin_quadrant(r, quadrant + 1);
}

/* The macros of the SCALAR column, for floats. */
#define ABS(a)     __builtin_fabsf(a)
#define EXP(a)     ptc_exp(a)
#define LOG(a)     ptc_log(a)
#define SQRT(a)    __builtin_sqrtf(a)
#define RSQRT(a)   (1.0f / __builtin_sqrtf(a))
#define TANH(a)    ptc_tanh(a)
#define SIGMOID(a) ptc_sigmoid(a)
#define ERF(a)     ptc_erf(a)
#define SIN(a)     ptc_sin(a)
#define COS(a)     ptc_cos(a)
#define FLOOR(a)   __builtin_floorf(a)
#define POW(a, b)  __builtin_powf(a, b)
