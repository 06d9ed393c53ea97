/* Feature cache: the outputs of a frozen prefix, one row of fixed size for each sample. The ranks of a host share one
 * store: what one has put, the others get. It is a cache: any row may be missing at any time, and is then made again.
 *
 * Two levels, each a file of slots. Memory: a file without a name in memory (memfd), gone with its last process however
 * that ends. Disk: FOLDER/features-DIGEST.ptc, written when the memory budget is used up, read ahead by a thread of
 * each process. A row is put where there is room and stays there; nothing is evicted, since a pass over the samples in
 * random order reads each row once.
 *
 * No library holds the rows; XXH3 guards them. Rows are dense, of one size, written once and addressed by a small
 * integer, so a file and an index in shared memory do all that a B+tree would. LMDB was measured on disk with rows of
 * 25 kB and 600 kB, in GB/s of processor time: put 1.0 and 2.8, get 3.5 and 6.4, against 1.3 and 3.2, 4.1 and 7.4 here.
 * It has one writer at a time, who holds a lock while it copies, and it trusts its map: of 30 truncated files 17 ended
 * their reader with SIGBUS, a damaged page may lead it anywhere, and under MDB_WRITEMAP a full disk is a signal too.
 * Here disk rows go through pread and pwrite, so every failure is an errno or a wrong checksum.
 *
 * Never wrong: a row's checksum (seeded with key and sample) is verified whenever it is read. A damaged row counts as
 * missing; a level that cannot be written takes no more rows; both warn once. No locks between processes: a slot is
 * filled by the one process that took it, and then published by one atomic store, so a process that is killed at any
 * moment blocks nobody and leaves no torn row. The room of the row that it was putting, and of its window, is lost to
 * the others.
 *
 * Budgets: slots are counted (a row's bytes, rounded up to 64, or to 4096 when they are at least 16384), in memory also
 * the windows of all processes, on disk also the file's head and table. The index (14 bytes a sample, 28 with a disk
 * level) is not. A budget is that of a store and of its successors together, however many are open.
 *
 * Calls on one cache may come from several threads, but those that close it. After fork, the child joins for itself. */
#ifndef PTC_RUNTIME_FEATURE_CACHE_H
#define PTC_RUNTIME_FEATURE_CACHE_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct FeatureCache FeatureCache;

typedef enum
{
    FEATURE_F32, /* bit for bit */
    FEATURE_BF16 /* rounded to nearest, ties to even */
} FeaturePrecision;

typedef enum
{
    FEATURE_TRAIN,
    FEATURE_TEST,
    FEATURE_SPLITS
} FeatureSplit;

enum
{
    FEATURE_CACHE_ADDRESS_BYTES = 96
};

/* A sentence, on the thread that called a function of this header; the text lives until the call returns. */
typedef void FeatureCacheWarn(void *context, const char *sentence);

typedef struct
{
    const char *key;    /* of what the rows are made: boundary, weights, input pipeline; any text */
    uint64_t row_elems; /* f32 values of a row, > 0 */
    uint64_t n_samples[FEATURE_SPLITS];
    FeaturePrecision precision;
    uint64_t memory_bytes;         /* of the host; 0: no rows in memory */
    uint64_t disk_bytes;           /* 0: no disk level */
    const char *folder;            /* of this job on this host; made when missing; NULL without a disk level */
    uint64_t window_bytes;         /* of each process: rows read ahead; out of memory_bytes; 0: prefetch does nothing */
    const char *const *other_keys; /* their files in the folder are left alone, to be opened next */
    uint32_t n_other_keys;
    FeatureCache *previous; /* share its budgets (those above are then not read); the caller still closes it; or NULL */
    FeatureCacheWarn *warn; /* NULL: nobody is told */
    void *warn_context;
} FeatureCacheOptions;

/* Made by one process of the host. Rows of an earlier run under the same key, sizes and precision are found in the
 * folder again; files of other keys that nobody has open are removed. OUT_OF_MEMORY when there is no room for the
 * index, UNSUPPORTED with 2^30 samples in a split or 2^32 values in a row; without the disk level, and with a warning,
 * when the folder or file cannot be used or another job has it open. */
Status feature_cache_create(const FeatureCacheOptions *options, FeatureCache **out_cache);
/* Where other processes of the host find it while this one has it open. */
void feature_cache_address(const FeatureCache *cache, char out_address[FEATURE_CACHE_ADDRESS_BYTES]);
/* The options of feature_cache_create; budgets, folder, other_keys and previous are not read. IO when nothing is there,
 * BAD_INPUT when it is another store than the options say. */
Status feature_cache_join(const FeatureCacheOptions *options, const char *address, FeatureCache **out_cache);
/* This process is done. When all have closed, the memory is free (in a successor's budget after a remove only), and a
 * later run finds the rows on disk. NULL is allowed. */
void feature_cache_close(FeatureCache *cache);
/* Closes and ends the store: memory and disk are free, in the budgets too, and the others find no rows any more. NULL
 * is allowed. Every process calls this or feature_cache_close. */
void feature_cache_remove(FeatureCache *cache);

/* dst, src: row_elems values. get: false when the row is missing. put: true when the row is held now, by this call or
 * an earlier one (which is not replaced); false when no level has room. */
bool feature_cache_get(FeatureCache *cache, FeatureSplit split, uint64_t sample, float *dst);
bool feature_cache_put(FeatureCache *cache, FeatureSplit split, uint64_t sample, const float *src);
/* What get gives of values that are put: rounded, unless rows are kept bit for bit. In place. */
void feature_cache_round(const FeatureCache *cache, float *values, uint64_t n);
/* Whether get would look for it: not yet verified. */
bool feature_cache_has(const FeatureCache *cache, FeatureSplit split, uint64_t sample);
/* Frees the row for all processes (rows of 16384 bytes and more; smaller ones keep their room until the store ends):
 * for rows that have moved up to a successor. */
void feature_cache_forget(FeatureCache *cache, FeatureSplit split, uint64_t sample);
/* Reads the rows that are on disk into this process's window, in this order, while the caller goes on; a get takes a
 * row out of the window. Rows of earlier calls that nobody has got when a row of a later call is got are dropped. Calls
 * behind a full window wait in line. */
void feature_cache_prefetch(FeatureCache *cache, FeatureSplit split, const uint64_t *samples, uint64_t n);

typedef struct
{
    /* of the store */
    uint64_t memory_rows, disk_rows;
    uint64_t memory_bytes, disk_bytes; /* of the budgets: those of predecessors that are open are in them */
    /* of this process, since it opened the store */
    uint64_t memory_hits, window_hits, disk_hits, misses;
    uint64_t puts, refused; /* rows stored; puts without room */
    uint64_t corrupt;       /* rows found damaged */
    double wait_s;          /* get waiting for the disk */
} FeatureCacheCounters;
FeatureCacheCounters feature_cache_counters(FeatureCache *cache);

#endif
