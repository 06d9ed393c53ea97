/* Feature caches side by side. */
#include "runtime/feature_stores.h"

#include "base/bug.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum
{
    MAX_TOLD = 16
};

struct FeatureStores
{
    FeatureCacheWarn *warn;
    void *warn_context;
    uint64_t told[MAX_TOLD]; /* digests of sentences */
    uint32_t n_told;
    uint32_t n;
    FeatureCache *caches[];
};

static void pass_on(void *context, const char *sentence)
{
    FeatureStores *stores = context;
    const uint64_t digest = XXH3_64bits(sentence, strlen(sentence));
    for (uint32_t i = 0; i < stores->n_told; i++)
        if (stores->told[i] == digest)
            return;
    if (stores->n_told < MAX_TOLD)
        stores->told[stores->n_told++] = digest;
    if (stores->warn)
        stores->warn(stores->warn_context, sentence);
}

/* What the caches have in common. */
static FeatureStores *make(const FeatureCacheOptions *options, uint32_t n, FeatureCacheOptions *out_common)
{
    FeatureStores *stores = calloc(1, sizeof *stores + n * sizeof stores->caches[0]);
    if (!stores)
        base_out_of_memory(sizeof *stores);
    stores->warn = options->warn;
    stores->warn_context = options->warn_context;
    *out_common = *options;
    out_common->window_bytes = options->window_bytes / n;
    out_common->warn = pass_on;
    out_common->warn_context = stores;
    return stores;
}

Status feature_stores_create(const FeatureCacheOptions *options, const FeatureStoreSpec *specs, uint32_t n,
                             const FeatureStores *previous, FeatureStores **out_stores)
{
    ENSURE(n > 0);
    FeatureCacheOptions common;
    FeatureStores *stores = make(options, n, &common);
    const char **keys = calloc(n, sizeof *keys);
    if (!keys)
        base_out_of_memory(n * sizeof *keys);
    for (uint32_t i = 0; i < n; i++)
        keys[i] = specs[i].key;
    common.other_keys = keys;
    common.n_other_keys = n;
    common.previous = previous ? previous->caches[0] : NULL;
    Status status = STATUS_OK;
    for (uint32_t i = 0; i < n; i++)
    {
        common.key = specs[i].key;
        common.row_elems = specs[i].row_elems;
        status = feature_cache_create(&common, &stores->caches[i]);
        if (status != STATUS_OK)
            break;
        stores->n++;
        common.previous = stores->caches[0];
    }
    free(keys);
    if (status != STATUS_OK)
        feature_stores_close(stores);
    else
        *out_stores = stores;
    return status;
}

void feature_stores_addresses(const FeatureStores *stores, char addresses[][FEATURE_CACHE_ADDRESS_BYTES])
{
    for (uint32_t i = 0; i < stores->n; i++)
        feature_cache_address(stores->caches[i], addresses[i]);
}

Status feature_stores_join(const FeatureCacheOptions *options, const FeatureStoreSpec *specs, uint32_t n,
                           char addresses[][FEATURE_CACHE_ADDRESS_BYTES], FeatureStores **out_stores)
{
    ENSURE(n > 0);
    FeatureCacheOptions common;
    FeatureStores *stores = make(options, n, &common);
    Status status = STATUS_OK;
    for (uint32_t i = 0; i < n; i++)
    {
        common.key = specs[i].key;
        common.row_elems = specs[i].row_elems;
        status = feature_cache_join(&common, addresses[i], &stores->caches[i]);
        if (status != STATUS_OK)
            break;
        stores->n++;
    }
    if (status != STATUS_OK)
        feature_stores_close(stores);
    else
        *out_stores = stores;
    return status;
}

static void end(FeatureStores *stores, void (*end_one)(FeatureCache *))
{
    for (uint32_t i = 0; stores && i < stores->n; i++)
        end_one(stores->caches[i]);
    free(stores);
}

void feature_stores_close(FeatureStores *stores)
{
    end(stores, feature_cache_close);
}

void feature_stores_remove(FeatureStores *stores)
{
    end(stores, feature_cache_remove);
}

FeatureCache *feature_stores_of(const FeatureStores *stores, uint32_t i)
{
    ENSURE(i < stores->n);
    return stores->caches[i];
}

FeatureCacheCounters feature_stores_counters(const FeatureStores *stores)
{
    FeatureCacheCounters all = feature_cache_counters(stores->caches[0]);
    for (uint32_t i = 1; i < stores->n; i++)
    {
        const FeatureCacheCounters c = feature_cache_counters(stores->caches[i]);
        all.memory_rows += c.memory_rows;
        all.disk_rows += c.disk_rows;
        all.memory_hits += c.memory_hits;
        all.window_hits += c.window_hits;
        all.disk_hits += c.disk_hits;
        all.misses += c.misses;
        all.puts += c.puts;
        all.refused += c.refused;
        all.corrupt += c.corrupt;
        all.wait_s += c.wait_s;
    }
    return all;
}
