/* What the files of the feature cache share: feature_cache.c (rows), feature_cache_open.c (making, joining, ending),
 * feature_cache_level.c (slots in a file), feature_cache_disk.c (the file of an earlier run), feature_cache_ahead.c
 * (the window and its thread). */
#ifndef PTC_RUNTIME_FEATURE_CACHE_PARTS_H
#define PTC_RUNTIME_FEATURE_CACHE_PARTS_H

#include "runtime/feature_cache.h"

#include <pthread.h>
#include <stdatomic.h>

enum
{
    FEATURE_MEMORY,
    FEATURE_DISK,
    FEATURE_LEVELS,
    FEATURE_PAGE = 4096,
    FEATURE_PAGED_ROW = 16384, /* rows from here on have pages of their own */
    FEATURE_SCRATCH = 4,
    FEATURE_WARNING_BYTES = 512
};

/* ---- memory that processes share */

/* Of a store and its successors. */
typedef struct
{
    _Atomic uint64_t used_bytes[FEATURE_LEVELS];
    uint64_t most_bytes[FEATURE_LEVELS];
} FeatureBudget;

/* Of a store. Behind it, for each level: slot + 1 of every row (0: not there), then the checksum of every slot. */
typedef struct
{
    uint64_t nonce;
    uint64_t key[2];
    uint64_t row_elems, n_samples[FEATURE_SPLITS], precision;
    _Atomic uint32_t has_ended;
    _Atomic uint32_t n_taken[FEATURE_LEVELS]; /* slots that some process has, or had */
    _Atomic uint64_t n_bytes[FEATURE_LEVELS]; /* of used_bytes, this store's rows */
} FeatureIndex;

/* ---- of one process */

typedef struct
{
    int fd;                      /* -1: the level is not there */
    const char *map;             /* of the slots of the memory level; NULL: read by pread */
    uint64_t slots_at, table_at; /* in the file; table_at 0: none */
    _Atomic uint32_t *slot_of;   /* by row */
    _Atomic uint64_t *checks;    /* by slot */
    _Atomic bool takes_none;     /* it could not be written */
} FeatureLevel;

typedef enum
{
    FEATURE_WARN_OPEN,
    FEATURE_WARN_CORRUPT,
    FEATURE_WARN_MEMORY,
    FEATURE_WARN_DISK,
    FEATURE_WARNINGS
} FeatureWarning;

typedef struct FeatureAhead FeatureAhead;

struct FeatureCache
{
    uint64_t key[2], row_elems, n_samples[FEATURE_SPLITS];
    FeaturePrecision precision;
    uint64_t n_rows;     /* of both splits: a row is its sample, those of the second split behind the first's */
    uint64_t row_bytes;  /* as stored */
    uint64_t slot_bytes; /* one row and what rounding adds */
    uint64_t n_slots;    /* more than rows: slots are not used twice */
    int index_fd, budget_fd;
    FeatureIndex *index;
    uint64_t index_bytes;
    FeatureBudget *budget;
    FeatureLevel levels[FEATURE_LEVELS];
    uint64_t window_bytes;
    _Atomic(FeatureAhead *) ahead;            /* NULL: no window (yet) */
    _Atomic(void *) scratch[FEATURE_SCRATCH]; /* buffers of row_bytes that nobody uses */
    struct
    {
        _Atomic uint64_t memory_hits, window_hits, disk_hits, misses, puts, refused, corrupt, wait_ns;
    } counts;

    pthread_mutex_t lock; /* of what follows, and while the window is made */
    FeatureCacheWarn *warn;
    void *warn_context;
    _Atomic uint32_t n_untold;
    bool was_raised[FEATURE_WARNINGS], was_told[FEATURE_WARNINGS];
    char warnings[FEATURE_WARNINGS][FEATURE_WARNING_BYTES];
};

/* In the table of the disk file, written when the row is: what the next run believes. */
typedef struct
{
    uint64_t check;
    uint32_t row_1; /* row + 1 */
    uint32_t tag;   /* of the other two, key and slot */
} FeatureTableEntry;

/* ---- feature_cache.c */

uint64_t feature_now_ns(void);
void *feature_scratch_take(FeatureCache *cache); /* NULL: no memory */
void feature_scratch_give(FeatureCache *cache, void *scratch);
/* The first of its kind is kept until feature_tell. Any thread. */
__attribute__((format(printf, 3, 4))) void feature_warn(FeatureCache *cache, FeatureWarning kind, const char *format,
                                                        ...);
/* Calls back for what has been kept; on threads of callers only. */
void feature_tell(FeatureCache *cache);
/* row_elems values of a row as stored. */
void feature_decode(const FeatureCache *cache, const void *stored, float *dst);

/* ---- feature_cache_level.c */

bool feature_budget_take(FeatureCache *cache, int level, uint64_t n_bytes);
void feature_budget_return(FeatureCache *cache, int level, uint64_t n_bytes);
/* False when it is not there or damaged (then it is taken out, and warned of). stored: row_bytes. */
bool feature_level_read(FeatureCache *cache, int level, uint64_t row, void *stored);
/* False when there is no room, or no way to write. */
bool feature_level_write(FeatureCache *cache, int level, uint64_t row, const void *stored);
void feature_level_forget(FeatureCache *cache, int level, uint64_t row);
/* Asks the system to have the row at hand soon. */
void feature_level_advise(const FeatureCache *cache, int level, uint64_t row);
bool feature_level_holds(const FeatureCache *cache, int level, uint64_t row);
uint64_t feature_level_rows(const FeatureCache *cache, int level);
/* Gives a slot's room back. */
void feature_slot_free(FeatureCache *cache, int level, uint32_t slot);
FeatureTableEntry feature_table_entry(const FeatureCache *cache, uint32_t slot, uint64_t row, uint64_t check);
/* The whole of n_bytes: 0 or an errno (ENODATA: the file ends before). */
int feature_file_read(int fd, void *bytes, uint64_t n_bytes, uint64_t at);
int feature_file_write(int fd, const void *bytes, uint64_t n_bytes, uint64_t at);

/* ---- feature_cache_disk.c */

/* The disk level of a store that is being made: finds the rows of an earlier run or begins anew. */
void feature_disk_open(FeatureCache *cache, const FeatureCacheOptions *options);
/* The same file, for a process that joins. */
Status feature_disk_join(FeatureCache *cache, int fd);
/* Unlinks it. */
void feature_disk_remove(const FeatureCache *cache);
void feature_key_digest(const char *key, uint64_t out_digest[2]);

/* ---- feature_cache_ahead.c */

/* Without room in the budget, or for a thread: no window. One thread at a time. */
void feature_ahead_create(FeatureCache *cache);
void feature_ahead_destroy(FeatureCache *cache);
void feature_ahead_start(FeatureCache *cache, uint64_t first_row, const uint64_t *samples, uint64_t n);
/* Whether the window had the row; waits for it when it is being read. */
bool feature_ahead_get(FeatureCache *cache, uint64_t row, float *dst);

#endif
