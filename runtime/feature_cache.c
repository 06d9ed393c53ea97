/* The rows of the feature cache: bf16, get, put, and what a process counts and warns of. */
#include "runtime/feature_cache.h"

#include "base/bug.h"
#include "runtime/feature_cache_parts.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t feature_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t row_of(const FeatureCache *cache, FeatureSplit split, uint64_t sample)
{
    ENSURE(split < FEATURE_SPLITS && sample < cache->n_samples[split]);
    return split == FEATURE_TEST ? cache->n_samples[FEATURE_TRAIN] + sample : sample;
}

static void count(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* ---- buffers */

void *feature_scratch_take(FeatureCache *cache)
{
    for (int i = 0; i < FEATURE_SCRATCH; i++)
    {
        void *scratch = atomic_exchange(&cache->scratch[i], NULL);
        if (scratch)
            return scratch;
    }
    return malloc(cache->row_bytes);
}

void feature_scratch_give(FeatureCache *cache, void *scratch)
{
    for (int i = 0; i < FEATURE_SCRATCH; i++)
    {
        void *none = NULL;
        if (atomic_compare_exchange_strong(&cache->scratch[i], &none, scratch))
            return;
    }
    free(scratch);
}

/* ---- warnings */

void feature_warn(FeatureCache *cache, FeatureWarning kind, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    pthread_mutex_lock(&cache->lock);
    if (!cache->was_raised[kind])
    {
        cache->was_raised[kind] = true;
        vsnprintf(cache->warnings[kind], FEATURE_WARNING_BYTES, format, args);
        atomic_fetch_add(&cache->n_untold, 1);
    }
    pthread_mutex_unlock(&cache->lock);
    va_end(args);
}

void feature_tell(FeatureCache *cache)
{
    if (atomic_load_explicit(&cache->n_untold, memory_order_relaxed) == 0)
        return;
    for (int kind = 0; kind < FEATURE_WARNINGS; kind++)
    {
        pthread_mutex_lock(&cache->lock);
        const bool is_new = cache->was_raised[kind] && !cache->was_told[kind];
        if (is_new)
        {
            cache->was_told[kind] = true;
            atomic_fetch_sub(&cache->n_untold, 1);
        }
        pthread_mutex_unlock(&cache->lock);
        if (is_new && cache->warn)
            cache->warn(cache->warn_context, cache->warnings[kind]); /* not written a second time */
    }
}

/* ---- bf16: the upper half of an f32 */

static uint16_t bf16_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)(bits >> 16 | 0x40); /* a NaN stays one */
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}

static void encode_bf16(const float *src, uint16_t *stored, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        stored[i] = bf16_of(src[i]);
}

static void decode_bf16(const uint16_t *stored, float *dst, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
    {
        const uint32_t bits = (uint32_t)stored[i] << 16;
        memcpy(&dst[i], &bits, sizeof bits);
    }
}

void feature_cache_round(const FeatureCache *cache, float *values, uint64_t n)
{
    for (uint64_t i = 0; i < n && cache->precision == FEATURE_BF16; i++)
    {
        const uint16_t stored = bf16_of(values[i]);
        decode_bf16(&stored, &values[i], 1);
    }
}

void feature_decode(const FeatureCache *cache, const void *stored, float *dst)
{
    if (cache->precision == FEATURE_BF16)
        decode_bf16(stored, dst, cache->row_elems);
    else
        memcpy(dst, stored, cache->row_bytes);
}

/* ---- rows */

static bool read_row(FeatureCache *cache, int level, uint64_t row, float *dst)
{
    if (cache->precision == FEATURE_F32)
        return feature_level_read(cache, level, row, dst);
    void *stored = feature_scratch_take(cache);
    if (!stored)
        return false;
    const bool found = feature_level_read(cache, level, row, stored);
    if (found)
        feature_decode(cache, stored, dst);
    feature_scratch_give(cache, stored);
    return found;
}

static bool get_row(FeatureCache *cache, uint64_t row, float *dst)
{
    if (read_row(cache, FEATURE_MEMORY, row, dst))
    {
        count(&cache->counts.memory_hits);
        return true;
    }
    if (feature_ahead_get(cache, row, dst))
    {
        count(&cache->counts.window_hits);
        return true;
    }
    if (!feature_level_holds(cache, FEATURE_DISK, row))
        return false;
    const uint64_t start = feature_now_ns();
    const bool found = read_row(cache, FEATURE_DISK, row, dst);
    atomic_fetch_add(&cache->counts.wait_ns, feature_now_ns() - start);
    if (found)
        count(&cache->counts.disk_hits);
    return found;
}

bool feature_cache_get(FeatureCache *cache, FeatureSplit split, uint64_t sample, float *dst)
{
    const bool found = get_row(cache, row_of(cache, split, sample), dst);
    if (!found)
        count(&cache->counts.misses);
    feature_tell(cache);
    return found;
}

bool feature_cache_has(const FeatureCache *cache, FeatureSplit split, uint64_t sample)
{
    const uint64_t row = row_of(cache, split, sample);
    return !atomic_load(&cache->index->has_ended) &&
           (feature_level_holds(cache, FEATURE_MEMORY, row) || feature_level_holds(cache, FEATURE_DISK, row));
}

static bool write_row(FeatureCache *cache, uint64_t row, const void *stored)
{
    const bool held = feature_level_write(cache, FEATURE_MEMORY, row, stored) ||
                      feature_level_write(cache, FEATURE_DISK, row, stored);
    count(held ? &cache->counts.puts : &cache->counts.refused);
    return held;
}

bool feature_cache_put(FeatureCache *cache, FeatureSplit split, uint64_t sample, const float *src)
{
    const uint64_t row = row_of(cache, split, sample);
    if (feature_cache_has(cache, split, sample))
        return true;
    bool held = false;
    if (atomic_load(&cache->index->has_ended))
        count(&cache->counts.refused);
    else if (cache->precision == FEATURE_F32)
        held = write_row(cache, row, src);
    else
    {
        void *stored = feature_scratch_take(cache);
        if (stored)
        {
            encode_bf16(src, stored, cache->row_elems);
            held = write_row(cache, row, stored);
            feature_scratch_give(cache, stored);
        }
    }
    feature_tell(cache);
    return held;
}

void feature_cache_forget(FeatureCache *cache, FeatureSplit split, uint64_t sample)
{
    const uint64_t row = row_of(cache, split, sample);
    feature_level_forget(cache, FEATURE_MEMORY, row);
    feature_level_forget(cache, FEATURE_DISK, row);
}

void feature_cache_prefetch(FeatureCache *cache, FeatureSplit split, const uint64_t *samples, uint64_t n)
{
    if (cache->window_bytes == 0 || n == 0)
        return;
    for (uint64_t i = 0; i < n; i++)
        row_of(cache, split, samples[i]); /* in range */
    if (!atomic_load(&cache->ahead))
    {
        pthread_mutex_lock(&cache->lock);
        if (!atomic_load(&cache->ahead))
            feature_ahead_create(cache);
        pthread_mutex_unlock(&cache->lock);
    }
    feature_ahead_start(cache, split == FEATURE_TEST ? cache->n_samples[FEATURE_TRAIN] : 0, samples, n);
    feature_tell(cache);
}

FeatureCacheCounters feature_cache_counters(FeatureCache *cache)
{
    FeatureCacheCounters all = {
        .memory_rows = feature_level_rows(cache, FEATURE_MEMORY),
        .disk_rows = feature_level_rows(cache, FEATURE_DISK),
        .memory_bytes = atomic_load(&cache->budget->used_bytes[FEATURE_MEMORY]),
        .disk_bytes = atomic_load(&cache->budget->used_bytes[FEATURE_DISK]),
        .memory_hits = atomic_load(&cache->counts.memory_hits),
        .window_hits = atomic_load(&cache->counts.window_hits),
        .disk_hits = atomic_load(&cache->counts.disk_hits),
        .misses = atomic_load(&cache->counts.misses),
        .puts = atomic_load(&cache->counts.puts),
        .refused = atomic_load(&cache->counts.refused),
        .corrupt = atomic_load(&cache->counts.corrupt),
        .wait_s = 1e-9 * (double)atomic_load(&cache->counts.wait_ns),
    };
    return all;
}
