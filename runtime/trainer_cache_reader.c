/* A thread that reads the rows of a batch that is coming, while the step before runs. */
#include "base/bug.h"
#include "runtime/trainer_cache_parts.h"

#include <pthread.h>
#include <stdio.h>

struct CacheReader
{
    const Trainer *trainer;
    float *row;
    pthread_t thread;
    pthread_mutex_t mutex; /* of all below */
    pthread_cond_t changed;
    const TrainerFeed *feeds[FEATURE_SPLITS]; /* in the order in which they were started; the first is being read */
    uint32_t n_feeds;
    bool quit;
    Status status; /* the first failure */
    char detail[256];
};

static Status read_feed(const Trainer *t, const TrainerFeed *feed, float *row)
{
    for (uint32_t micro = 0; micro < cache_n_micro(t, cache_split(t, feed)); micro++)
    {
        MicroRows *m = &t->cache->micros[cache_split(t, feed)][micro];
        cache_read_rows(t, feed, micro, row);
        if (!m->any_missing)
            TRY(cache_start_uploads(t, m, feed->variant));
    }
    return STATUS_OK;
}

static void *reader_main(void *argument)
{
    CacheReader *r = argument;
    pthread_mutex_lock(&r->mutex);
    for (;;)
    {
        while (!r->quit && r->n_feeds == 0)
            pthread_cond_wait(&r->changed, &r->mutex);
        if (r->quit)
            break;
        const TrainerFeed *feed = r->feeds[0];
        pthread_mutex_unlock(&r->mutex);
        const Status status = read_feed(r->trainer, feed, r->row);
        pthread_mutex_lock(&r->mutex);
        if (status != STATUS_OK && r->status == STATUS_OK)
        {
            r->status = status;
            snprintf(r->detail, sizeof r->detail, "%s", status_detail());
        }
        r->feeds[0] = r->feeds[1];
        r->n_feeds--;
        pthread_cond_broadcast(&r->changed);
    }
    pthread_mutex_unlock(&r->mutex);
    return NULL;
}

Status cache_reader_start(Trainer *t)
{
    TrainerCache *c = t->cache;
    CacheReader *r = ARENA_NEW(t->arena, CacheReader);
    *r = (CacheReader){.trainer = t};
    r->row = ARENA_ARRAY(t->arena, float, c->frozen.row_elems + 1);
    pthread_mutex_init(&r->mutex, NULL);
    pthread_cond_init(&r->changed, NULL);
    if (pthread_create(&r->thread, NULL, reader_main, r) != 0)
        return status_fail(STATUS_OUT_OF_MEMORY, "cannot start a thread that reads the cache");
    c->reader = r;
    return STATUS_OK;
}

void cache_reader_stop(CacheReader *r)
{
    pthread_mutex_lock(&r->mutex);
    r->quit = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
    pthread_join(r->thread, NULL);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->mutex);
}

void cache_reader_give(CacheReader *r, const TrainerFeed *feed)
{
    pthread_mutex_lock(&r->mutex);
    ENSURE(r->n_feeds < FEATURE_SPLITS);
    r->feeds[r->n_feeds++] = feed;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->mutex);
}

Status cache_reader_wait(CacheReader *r, const TrainerFeed *feed)
{
    pthread_mutex_lock(&r->mutex);
    while ((r->n_feeds > 0 && r->feeds[0] == feed) || (r->n_feeds > 1 && r->feeds[1] == feed))
        pthread_cond_wait(&r->changed, &r->mutex);
    const Status status = r->status;
    pthread_mutex_unlock(&r->mutex);
    return status == STATUS_OK ? status : status_fail(status, "%s", r->detail);
}
