/* Sample order by a keyed permutation: Feistel network with Philox rounds, cycle-walked. */
#include "runtime/sampler.h"

#include "base/bug.h"
#include "base/philox.h"

enum
{
    N_ROUNDS = 8,
    KEY_DOMAIN = 0x53485546 /* "SHUF": other users of the seed have other keys */
};

Sampler sampler_make(uint64_t n_samples, uint64_t seed, bool shuffle)
{
    ENSURE(n_samples >= 1 && n_samples <= UINT64_C(1) << 62);
    return (Sampler){.n_samples = n_samples, .seed = seed, .shuffle = shuffle};
}

/* A permutation of 0..2^n_bits - 1. The halves differ by one bit when n_bits is odd; rounds change them in turn. */
static uint64_t feistel(uint64_t value, uint32_t n_bits, uint64_t seed, uint64_t epoch)
{
    uint32_t right_bits = (n_bits + 1) / 2;
    uint64_t left_mask = (UINT64_C(1) << (n_bits - right_bits)) - 1;
    uint64_t right_mask = (UINT64_C(1) << right_bits) - 1;
    uint64_t left = value >> right_bits;
    uint64_t right = value & right_mask;
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32) ^ KEY_DOMAIN};
    for (uint32_t round = 0; round < N_ROUNDS; round++)
    {
        /* a half has at most 31 bits and fits counter word 0 */
        bool to_right = round % 2 == 0;
        uint32_t words[4] = {(uint32_t)(to_right ? left : right), (uint32_t)epoch, (uint32_t)(epoch >> 32), round};
        philox4x32(words, key, words);
        if (to_right)
            right = (right ^ words[0]) & right_mask;
        else
            left = (left ^ words[0]) & left_mask;
    }
    return left << right_bits | right;
}

uint64_t sampler_at(const Sampler *sampler, uint64_t epoch, uint64_t position)
{
    ENSURE(position < sampler->n_samples);
    if (!sampler->shuffle || sampler->n_samples == 1)
        return position;
    uint32_t n_bits = 64 - (uint32_t)__builtin_clzll(sampler->n_samples - 1);
    /* The cycle that starts inside 0..n-1 comes back inside: this ends. */
    uint64_t sample = position;
    do
        sample = feistel(sample, n_bits, sampler->seed, epoch);
    while (sample >= sampler->n_samples);
    return sample;
}

uint32_t sampler_next(const Sampler *sampler, SamplerPosition *position, uint32_t batch, uint64_t *out_samples)
{
    ENSURE(batch >= 1 && position->consumed < sampler->n_samples);
    uint64_t left = sampler->n_samples - position->consumed;
    uint32_t n = left < batch ? (uint32_t)left : batch;
    for (uint32_t i = 0; i < n; i++)
        out_samples[i] = sampler_at(sampler, position->epoch, position->consumed + i);
    position->consumed += n;
    if (position->consumed == sampler->n_samples)
        *position = (SamplerPosition){.epoch = position->epoch + 1};
    return n;
}

uint64_t sampler_batches_per_epoch(const Sampler *sampler, uint32_t batch)
{
    ENSURE(batch >= 1);
    return (sampler->n_samples - 1) / batch + 1;
}

SamplerPosition sampler_position_at_step(const Sampler *sampler, uint32_t batch, uint64_t step)
{
    uint64_t per_epoch = sampler_batches_per_epoch(sampler, batch);
    return (SamplerPosition){.epoch = step / per_epoch, .consumed = step % per_epoch * batch};
}
