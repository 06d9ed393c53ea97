/* Feature stores: a feature cache for each length to which samples are padded. The outputs for one sample at two
 * lengths are two rows: padding changes in which order sums are rounded, and a row made at another length would be
 * another run. All share the budgets, and each warning is passed on once. Not for several threads at once. */
#ifndef PTC_RUNTIME_FEATURE_STORES_H
#define PTC_RUNTIME_FEATURE_STORES_H

#include "runtime/feature_cache.h"

typedef struct FeatureStores FeatureStores;

typedef struct
{
    const char *key; /* no two are the same */
    uint64_t row_elems;
} FeatureStoreSpec;

/* The options are those of feature_cache_create for all n stores, but for key, row_elems, other_keys and previous,
 * which are not read: previous is here the stores whose budgets these share, or NULL. */
Status feature_stores_create(const FeatureCacheOptions *options, const FeatureStoreSpec *specs, uint32_t n,
                             const FeatureStores *previous, FeatureStores **out_stores);
/* addresses: as many as stores. */
void feature_stores_addresses(const FeatureStores *stores, char addresses[][FEATURE_CACHE_ADDRESS_BYTES]);
Status feature_stores_join(const FeatureCacheOptions *options, const FeatureStoreSpec *specs, uint32_t n,
                           char addresses[][FEATURE_CACHE_ADDRESS_BYTES], FeatureStores **out_stores);
void feature_stores_close(FeatureStores *stores);  /* NULL is allowed; rows on disk stay for a later run */
void feature_stores_remove(FeatureStores *stores); /* NULL is allowed */

/* Of the i-th length. */
FeatureCache *feature_stores_of(const FeatureStores *stores, uint32_t i);
/* Sums; bytes are those of the budgets, as for one. */
FeatureCacheCounters feature_stores_counters(const FeatureStores *stores);

#endif
