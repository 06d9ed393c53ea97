/* Philox4x32-10: a counter-based generator (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011).
 *
 * A pure function of (counter, key): no state, the same on every device and for every number of threads. What
 * the four counter words mean is the caller's choice; two users of one key must use disjoint counters. The
 * generated kernels contain the same ten rounds; tests/data/philox_test.c holds the published test vectors. */
#ifndef PTC_BASE_PHILOX_H
#define PTC_BASE_PHILOX_H

#include <stdint.h>

enum
{
    PHILOX_ROUNDS = 10
};

/* out may be the same array as ctr. */
static inline void philox4x32(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = ctr[0], c1 = ctr[1], c2 = ctr[2], c3 = ctr[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < PHILOX_ROUNDS; round++)
    {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u; /* the golden ratio and sqrt(3) - 1, as Weyl sequences */
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* A uniform number in [0, 1) with 24 bits, exact in f32. */
static inline float philox_unit_f32(uint32_t word)
{
    return (float)(word >> 8) * 0x1p-24f;
}

/* A uniform number in [0, 1) with 53 bits. */
static inline double philox_unit_f64(uint32_t high, uint32_t low)
{
    return (double)(((uint64_t)high << 32 | low) >> 11) * 0x1p-53;
}

#endif
