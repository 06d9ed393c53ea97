/* The order of samples: a keyed permutation of (seed, epoch), O(1) from position to sample, so nothing is stored and
 * seeking is free. It does not know ranks or batch sizes: whoever trains at position p of epoch e sees the same sample.
 *
 * A Feistel network over the smallest power of two >= n, Philox as its round function, cycle-walked into 0..n-1 (Black
 * and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002); fewer than two walks on average. */
#ifndef PTC_RUNTIME_SAMPLER_H
#define PTC_RUNTIME_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

typedef struct
{
    uint64_t n_samples; /* 1..2^62 */
    uint64_t seed;
    bool shuffle; /* false: 0, 1, 2, ... in every epoch (evaluation) */
} Sampler;

/* The entire state of reading: the next sample is number `consumed` of `epoch`. consumed < n_samples. */
typedef struct
{
    uint64_t epoch;
    uint64_t consumed;
} SamplerPosition;

Sampler sampler_make(uint64_t n_samples, uint64_t seed, bool shuffle);
/* The sample at a position of an epoch; position < n_samples. A bijection for each (seed, epoch). */
uint64_t sampler_at(const Sampler *sampler, uint64_t epoch, uint64_t position);
/* The next batch: at most `batch` samples, never across the end of an epoch (so the last batch of an epoch may be
 * short). Moves *position, to (epoch + 1, 0) when the epoch is used up. Returns how many; >= 1. */
uint32_t sampler_next(const Sampler *sampler, SamplerPosition *position, uint32_t batch, uint64_t *out_samples);
/* Where a run stands after `step` batches from (0, 0); the inverse of calling sampler_next step times. */
SamplerPosition sampler_position_at_step(const Sampler *sampler, uint32_t batch, uint64_t step);
/* Batches in one epoch: ceil(n_samples / batch). */
uint64_t sampler_batches_per_epoch(const Sampler *sampler, uint32_t batch);

#endif
