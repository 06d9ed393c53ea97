#include "driver/prebuild.h"

#include "base/bug.h"
#include "driver/session.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum
{
    MAX_GUESSES = 8,
    NICE = 15
};

struct Prebuild
{
    const Session *session;
    uint64_t steps_left;           /* when the next decision is made */
    uint32_t guesses[MAX_GUESSES]; /* frozen layers, the likeliest first */
    uint32_t n_guesses;
    atomic_bool ends;
    pthread_t thread;
};

/* What the next decision may say. Without norms it is known; with them it is at most as much as without. */
static void guess(Prebuild *p, const Session *s)
{
    const Elastic *e = &s->elastic;
    FreezeSettings settings = e->settings;
    const FreezeInput input = {.decision = e->n_decisions + 1,
                               .n_layers = s->job->n_layers,
                               .frozen = e->frozen,
                               .bound = freeze_policy_needs_norms(settings.policy) ? e->frozen : e->bound};
    const bool needs_norms = freeze_policy_needs_norms(settings.policy);
    settings.guard = false;
    if (needs_norms)
        settings.policy = FREEZE_schedule; /* from where it stands: the most that alpha allows */
    const uint32_t most = freeze_decide(&settings, &input).frozen;
    for (uint32_t frozen = most; frozen > e->frozen && p->n_guesses < (needs_norms ? MAX_GUESSES : 1); frozen--)
        p->guesses[p->n_guesses++] = frozen;
}

/* The session as it would be with so many layers frozen: what it owns is its own, what it reads is lent. */
static void build_for(const Session *s, uint32_t frozen, uint64_t steps_left)
{
    Arena *arena = arena_create();
    Session shadow = *s;
    shadow.arena = arena;
    shadow.module_arena = NULL;
    shadow.m = NULL;
    shadow.executor = NULL;
    shadow.device = NULL;
    shadow.variants = (Variants){0};
    shadow.ranks.comm = (ExecutorComm){0};
    shadow.elastic.frozen = frozen;
    shadow.elastic.cache = shadow.elastic.cache_before = NULL;
    elastic_choose_cache(&shadow);
    shadow.elastic.cached_from = shadow.elastic.cached && s->elastic.cache ? s->elastic.cached_unit : 0;
    ranks_hold(&shadow, steps_left);
    Status status = ranks_replan(&shadow);
    if (status == STATUS_OK)
        status = session_compile(&shadow);
    if (status == STATUS_OK)
        status = session_build_kernels(&shadow, 1);
    status_clear(); /* what is wrong will be told when it matters */
    session_unbuild(&shadow);
    arena_destroy(arena);
}

static void *thread_main(void *context)
{
    Prebuild *p = context;
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE); /* compilers started here inherit it */
    for (uint32_t i = 0; i < p->n_guesses && !atomic_load(&p->ends); i++)
        build_for(p->session, p->guesses[i], p->steps_left);
    return NULL;
}

Prebuild *prebuild_start(const Session *s, const Trainer *trainer)
{
    Prebuild *p = calloc(1, sizeof *p);
    if (!p)
        base_out_of_memory(sizeof *p);
    p->session = s;
    p->steps_left = elastic_steps_behind(s, trainer);
    if (s->elastic.on && s->executor)
        guess(p, s);
    if (p->n_guesses && pthread_create(&p->thread, NULL, thread_main, p) == 0)
        return p;
    free(p);
    return NULL;
}

void prebuild_finish(Prebuild *p)
{
    if (!p)
        return;
    atomic_store(&p->ends, true);
    pthread_join(p->thread, NULL);
    free(p);
}
