/* Reading ahead: a thread fills the window with rows from disk, in the order in which they were asked for. A get takes
 * its row out of the window, or out of the line when its turn has not come (and then reads it itself). */
#include "runtime/feature_cache_parts.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum
{
    NICE = 5,
    N_ADVISED = 16, /* rows that the disk may be working on */
    IN_LINE = INT32_MAX
};

typedef enum
{
    PANE_FREE,
    PANE_FILLING, /* by the thread */
    PANE_READY,
    PANE_LEAVING /* being copied by a get */
} PaneState;

/* Room for one row. */
typedef struct
{
    PaneState state;
    uint32_t row;
} Pane;

typedef struct
{
    uint32_t place; /* pane + 1, IN_LINE, or 0: nowhere */
    uint32_t call;  /* of prefetch, that asked for it last */
} Mark;

struct FeatureAhead
{
    FeatureCache *cache;
    uint64_t window_bytes;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    bool stop;
    uint32_t n_panes;
    Pane *panes;
    char *rows;     /* as stored, one a pane */
    Mark *marks;    /* by row */
    uint32_t *line; /* rows; first..end-1 are in it */
    uint64_t first, end, cap;
    uint64_t advised;       /* up to here in the line, the system has been told */
    uint32_t n_calls, call; /* made; the newest that a row was got of */
    pthread_t thread;
};

/* ---- under the lock */

static void empty(FeatureAhead *ahead, Pane *pane)
{
    ahead->marks[pane->row].place = 0;
    pane->state = PANE_FREE;
}

static bool is_wanted(const FeatureAhead *ahead, uint32_t row)
{
    return ahead->marks[row].call >= ahead->call;
}

static Pane *find_pane(FeatureAhead *ahead)
{
    for (uint32_t i = 0; i < ahead->n_panes; i++)
    {
        Pane *pane = &ahead->panes[i];
        if (pane->state == PANE_READY && !is_wanted(ahead, pane->row))
            empty(ahead, pane);
        if (pane->state == PANE_FREE)
            return pane;
    }
    return NULL;
}

/* Brings a row that is wanted to the front of the line. */
static bool has_work(FeatureAhead *ahead)
{
    for (; ahead->first < ahead->end; ahead->first++)
    {
        Mark *mark = &ahead->marks[ahead->line[ahead->first]];
        if (mark->place != IN_LINE)
            continue;
        if (is_wanted(ahead, ahead->line[ahead->first]))
            return true;
        mark->place = 0;
    }
    return false;
}

/* Rows of the line that the system is to be told of; at most N_ADVISED, and no more than have room. */
static uint32_t to_advise(FeatureAhead *ahead, uint32_t rows[N_ADVISED])
{
    const uint64_t n_ahead = ahead->n_panes < N_ADVISED ? ahead->n_panes : N_ADVISED;
    const uint64_t end = ahead->first + n_ahead < ahead->end ? ahead->first + n_ahead : ahead->end;
    uint32_t n = 0;
    for (ahead->advised = ahead->advised > ahead->first ? ahead->advised : ahead->first; ahead->advised < end;
         ahead->advised++)
        rows[n++] = ahead->line[ahead->advised];
    return n;
}

/* ---- the thread */

static void *thread_main(void *context)
{
    FeatureAhead *ahead = context;
    FeatureCache *cache = ahead->cache;
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE); /* of the thread alone; if refused, it only competes */
    pthread_mutex_lock(&ahead->lock);
    while (!ahead->stop)
    {
        Pane *pane = has_work(ahead) ? find_pane(ahead) : NULL;
        if (!pane)
        {
            pthread_cond_wait(&ahead->work, &ahead->lock);
            continue;
        }
        uint32_t soon[N_ADVISED];
        const uint32_t n_soon = to_advise(ahead, soon);
        const uint32_t row = ahead->line[ahead->first++];
        const uint64_t i = (uint64_t)(pane - ahead->panes);
        *pane = (Pane){PANE_FILLING, row};
        ahead->marks[row].place = (uint32_t)i + 1;
        pthread_mutex_unlock(&ahead->lock);
        for (uint32_t k = 0; k < n_soon; k++)
            feature_level_advise(cache, FEATURE_DISK, soon[k]);
        const bool ok = feature_level_read(cache, FEATURE_DISK, row, ahead->rows + i * cache->row_bytes);
        pthread_mutex_lock(&ahead->lock);
        pane->state = PANE_READY;
        if (!ok)
            empty(ahead, pane);
        pthread_cond_broadcast(&ahead->done);
    }
    pthread_mutex_unlock(&ahead->lock);
    return NULL;
}

/* ---- callers */

static bool is_filling(const FeatureAhead *ahead, const Mark *mark)
{
    return mark->place && mark->place != IN_LINE && ahead->panes[mark->place - 1].state == PANE_FILLING;
}

/* The row's pane, which leaves the window, or NULL. */
static Pane *take_pane(FeatureAhead *ahead, uint64_t row)
{
    Mark *mark = &ahead->marks[row];
    if (mark->place == 0)
        return NULL;
    if (mark->call > ahead->call)
    {
        ahead->call = mark->call;
        pthread_cond_signal(&ahead->work);
    }
    if (mark->place == IN_LINE)
    {
        mark->place = 0;
        return NULL;
    }
    if (is_filling(ahead, mark))
    {
        const uint64_t start = feature_now_ns();
        while (is_filling(ahead, mark))
            pthread_cond_wait(&ahead->done, &ahead->lock);
        atomic_fetch_add(&ahead->cache->counts.wait_ns, feature_now_ns() - start);
    }
    Pane *pane = mark->place && mark->place != IN_LINE ? &ahead->panes[mark->place - 1] : NULL;
    if (!pane || pane->state != PANE_READY)
        return NULL;
    pane->state = PANE_LEAVING;
    return pane;
}

bool feature_ahead_get(FeatureCache *cache, uint64_t row, float *dst)
{
    FeatureAhead *ahead = atomic_load(&cache->ahead);
    if (!ahead)
        return false;
    pthread_mutex_lock(&ahead->lock);
    Pane *pane = take_pane(ahead, row);
    pthread_mutex_unlock(&ahead->lock);
    if (!pane)
        return false;
    feature_decode(cache, ahead->rows + (uint64_t)(pane - ahead->panes) * cache->row_bytes, dst);
    pthread_mutex_lock(&ahead->lock);
    empty(ahead, pane);
    pthread_cond_signal(&ahead->work);
    pthread_mutex_unlock(&ahead->lock);
    return true;
}

/* Room for n more in the line. */
static bool grow_line(FeatureAhead *ahead, uint64_t n)
{
    if (ahead->first > 0)
        memmove(ahead->line, ahead->line + ahead->first, (ahead->end - ahead->first) * sizeof *ahead->line);
    ahead->end -= ahead->first;
    ahead->advised -= ahead->advised > ahead->first ? ahead->first : ahead->advised;
    ahead->first = 0;
    if (n <= ahead->cap - ahead->end)
        return true;
    uint32_t *line = realloc(ahead->line, 2 * (ahead->end + n) * sizeof *line);
    if (!line)
        return false;
    ahead->line = line;
    ahead->cap = 2 * (ahead->end + n);
    return true;
}

/* Under the lock. */
static void join_line(FeatureAhead *ahead, uint64_t row)
{
    const FeatureCache *cache = ahead->cache;
    if (atomic_load(&cache->levels[FEATURE_MEMORY].slot_of[row]) != 0 ||
        atomic_load(&cache->levels[FEATURE_DISK].slot_of[row]) == 0)
        return;
    Mark *mark = &ahead->marks[row];
    mark->call = ahead->n_calls;
    if (mark->place != 0)
        return;
    mark->place = IN_LINE;
    ahead->line[ahead->end++] = (uint32_t)row;
}

void feature_ahead_start(FeatureCache *cache, uint64_t first_row, const uint64_t *samples, uint64_t n)
{
    FeatureAhead *ahead = atomic_load(&cache->ahead);
    if (!ahead)
        return;
    pthread_mutex_lock(&ahead->lock);
    ahead->n_calls++;
    if (n <= ahead->cap - ahead->end || grow_line(ahead, n))
        for (uint64_t i = 0; i < n; i++)
            join_line(ahead, first_row + samples[i]);
    pthread_cond_signal(&ahead->work);
    pthread_mutex_unlock(&ahead->lock);
}

/* ---- beginning and end */

static void free_ahead(FeatureAhead *ahead)
{
    feature_budget_return(ahead->cache, FEATURE_MEMORY, ahead->window_bytes);
    free(ahead->panes);
    free(ahead->rows);
    free(ahead->marks);
    free(ahead->line);
    free(ahead);
}

void feature_ahead_create(FeatureCache *cache)
{
    const uint64_t n_fit = cache->window_bytes / cache->row_bytes;
    const uint64_t n = n_fit < cache->n_rows ? n_fit : cache->n_rows;
    if (n == 0 || cache->levels[FEATURE_DISK].fd < 0 ||
        !feature_budget_take(cache, FEATURE_MEMORY, n * cache->row_bytes))
        return;
    FeatureAhead *ahead = calloc(1, sizeof *ahead);
    if (!ahead)
    {
        feature_budget_return(cache, FEATURE_MEMORY, n * cache->row_bytes);
        return;
    }
    *ahead = (FeatureAhead){.cache = cache, .window_bytes = n * cache->row_bytes, .n_panes = (uint32_t)n};
    ahead->panes = calloc(n, sizeof *ahead->panes);
    ahead->rows = malloc(ahead->window_bytes);
    ahead->marks = calloc(cache->n_rows, sizeof *ahead->marks);
    pthread_mutex_init(&ahead->lock, NULL);
    pthread_cond_init(&ahead->work, NULL);
    pthread_cond_init(&ahead->done, NULL);
    if (!ahead->panes || !ahead->rows || !ahead->marks || pthread_create(&ahead->thread, NULL, thread_main, ahead) != 0)
    {
        free_ahead(ahead);
        return;
    }
    atomic_store(&cache->ahead, ahead);
}

void feature_ahead_destroy(FeatureCache *cache)
{
    FeatureAhead *ahead = atomic_exchange(&cache->ahead, NULL);
    if (!ahead)
        return;
    pthread_mutex_lock(&ahead->lock);
    ahead->stop = true;
    pthread_cond_signal(&ahead->work);
    pthread_mutex_unlock(&ahead->lock);
    pthread_join(ahead->thread, NULL);
    pthread_mutex_destroy(&ahead->lock);
    pthread_cond_destroy(&ahead->work);
    pthread_cond_destroy(&ahead->done);
    free_ahead(ahead);
}
