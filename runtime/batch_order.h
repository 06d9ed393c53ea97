/* The order of batches: the sampler's order of samples, and within every group of batches of an epoch the samples
 * sorted by length, so that a batch has few tokens of padding. The batches of a group come in an order of their own. A
 * function of (seed, epoch, lengths): any position can be gone on from. */
#ifndef PTC_RUNTIME_BATCH_ORDER_H
#define PTC_RUNTIME_BATCH_ORDER_H

#include "base/arena.h"
#include "runtime/sampler.h"

typedef struct
{
    Sampler sampler;
    uint32_t batch;          /* samples */
    uint32_t group;          /* batches; below 2: samples stay in the sampler's order */
    const uint32_t *lengths; /* by sample; NULL without groups */
    /* what is known of the group that was read last */
    uint64_t epoch, first; /* its first sample's position; first UINT64_MAX: none */
    uint64_t *samples;     /* group x batch */
} BatchOrder;

/* lengths must outlive it. */
BatchOrder batch_order_make(Arena *arena, Sampler sampler, uint32_t batch, uint32_t group, const uint32_t *lengths);
/* As sampler_next. A short last batch of an epoch, and the batches are the same number, as without groups. */
uint32_t batch_order_next(BatchOrder *order, SamplerPosition *position, uint64_t *out_samples);

#endif
