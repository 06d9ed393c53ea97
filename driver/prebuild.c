#include "driver/prebuild.h"

#include "base/bug.h"
#include "driver/session.h"
#include "ir/text.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <xxhash.h>

enum
{
    MAX_GUESSES = 8,
    NICE = 15,
    WORKSPACE_BYTES = 64 << 20 /* that an algorithm may want, beside its operands */
};
#define PREPARE_S 2e-3 /* between two steps, but one that is begun is ended */

/* A session with another plan: what it has compiled is its own, all else is lent. */
typedef struct
{
    Session session;
    uint64_t key; /* of the job that was compiled */
    bool taken;
    VEC(GemmDesc) contractions; /* of all its programs, as often as they come */
} Built;

struct Prebuild
{
    const Session *session;
    uint64_t steps_left;           /* behind the next decision; 0: there is none */
    uint32_t guesses[MAX_GUESSES]; /* frozen layers, the likeliest first */
    uint32_t n_guesses;
    Built built[MAX_GUESSES];
    atomic_uint n_built;
    uint32_t preparing, n_prepared; /* the program whose turn it is, and how many of its contractions have had theirs */
    atomic_bool ends;
    pthread_t thread;
    bool runs;
};

/* ---- what may come */

/* What the next decision may say. Without norms and outputs it is known; with norms it is at most as much as without,
 * with outputs one reading more can make layers calm enough. */
static void guess(Prebuild *p, const Session *s)
{
    const Elastic *e = &s->elastic;
    FreezeSettings settings = e->settings;
    const FreezeNeeds needs = freeze_policy_needs(settings.policy);
    const FreezeInput input = {.decision = e->n_decisions + 1,
                               .n_layers = s->job->n_layers,
                               .frozen = e->frozen,
                               .plasticity = e->plasticity,
                               .bound = needs == FREEZE_NEEDS_NORMS ? e->frozen : e->bound};
    if (needs == FREEZE_NEEDS_OUTPUTS && !e->plasticity)
        return;
    settings.guard = false;
    settings.patience--;
    if (needs == FREEZE_NEEDS_NORMS)
        settings.policy = FREEZE_schedule; /* from where it stands: the most that alpha allows */
    const uint32_t most = freeze_decide(&settings, &input).frozen, n = needs == FREEZE_NEEDS_NOTHING ? 1 : MAX_GUESSES;
    for (uint32_t frozen = most; frozen > e->frozen && p->n_guesses < n; frozen--)
        p->guesses[p->n_guesses++] = frozen;
}

/* ---- making them */

/* All that the passes see: plan and frozen layers are attributes in it. */
static uint64_t key_of(const IrModule *m)
{
    Arena *arena = arena_create();
    StrBuf text = strbuf_make(arena);
    ir_print_module(&text, m);
    const uint64_t key = XXH3_64bits(text.data, text.len);
    arena_destroy(arena);
    return key;
}

static void drop(Built *b)
{
    session_unbuild(&b->session);
    arena_destroy(b->session.arena);
}

static void list_contractions(Built *b)
{
    const Session *s = &b->session;
    for (uint32_t i = 0; i <= s->variants.n_shorter; i++)
    {
        uint32_t n;
        const GemmDesc *descs = executor_contractions(s->arena, variants_module(s, i), &n);
        for (uint32_t k = 0; k < n; k++)
            vec_push(s->arena, &b->contractions, descs[k]);
    }
}

/* The session as it would be with so many layers frozen. */
static void build_for(Prebuild *p, uint32_t frozen)
{
    const Session *s = p->session;
    Built *b = &p->built[p->n_built];
    Session *shadow = &b->session;
    *b = (Built){.session = *s};
    shadow->arena = arena_create();
    shadow->module_arena = shadow->ahead_arena = NULL;
    shadow->m = NULL;
    shadow->kernels = NULL;
    shadow->executor = NULL;
    shadow->device = NULL;
    shadow->variants = (Variants){0};
    shadow->ranks.comm = (ExecutorComm){0};
    shadow->elastic.frozen = frozen;
    shadow->elastic.cache = shadow->elastic.cache_before = NULL;
    elastic_choose_cache(shadow);
    shadow->elastic.cached_from = shadow->elastic.cached && s->elastic.cache ? s->elastic.cached_unit : 0;
    ranks_hold(shadow, p->steps_left);
    Status status = ranks_replan(shadow);
    if (status == STATUS_OK)
    {
        b->key = key_of(shadow->job->module);
        status = session_compile(shadow);
    }
    if (status == STATUS_OK)
        status = session_build_kernels(shadow, 1);
    if (status == STATUS_OK)
    {
        list_contractions(b);
        atomic_fetch_add(&p->n_built, 1);
    }
    else
        drop(b);
    status_clear(); /* what is wrong will be told when it matters */
}

static void *thread_main(void *context)
{
    Prebuild *p = context;
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE); /* compilers started here inherit it */
    for (uint32_t i = 0; i < p->n_guesses && !atomic_load(&p->ends); i++)
        build_for(p, p->guesses[i]);
    return NULL;
}

Prebuild *prebuild_start(const Session *s, const Trainer *trainer)
{
    Prebuild *p = calloc(1, sizeof *p);
    if (!p)
        base_out_of_memory(sizeof *p);
    p->session = s;
    p->steps_left = elastic_steps_behind(s, trainer);
    if (s->elastic.on && s->executor && p->steps_left)
        guess(p, s);
    p->runs = p->n_guesses && pthread_create(&p->thread, NULL, thread_main, p) == 0;
    if (p->runs)
        return p;
    free(p);
    return NULL;
}

void prebuild_wait(Prebuild *p)
{
    if (!p || !p->runs)
        return;
    atomic_store(&p->ends, true);
    pthread_join(p->thread, NULL);
    p->runs = false;
}

/* ---- contractions */

/* Without room for it nothing would be measured now, but later there may be. */
static bool has_room(const HalDevice *device, const GemmDesc *d)
{
    const int64_t numbers = d->batch * (d->m * d->k + d->k * d->n + 2 * d->m * d->n);
    return hal_memory_info(device).free_bytes > numbers * (int64_t)sizeof(float) + WORKSPACE_BYTES;
}

void prebuild_prepare(Prebuild *p)
{
    HalDevice *device = p ? p->session->device : NULL;
    const double start_s = driver_now_s();
    if (!device || hal_device_uses_host_memory(device))
        return;
    while (p->preparing < atomic_load(&p->n_built) && driver_now_s() - start_s < PREPARE_S)
    {
        const Built *b = &p->built[p->preparing];
        const HalGemm *gemm;
        if (p->n_prepared == b->contractions.len)
        {
            p->preparing++;
            p->n_prepared = 0;
            continue;
        }
        const GemmDesc *desc = &b->contractions.data[p->n_prepared++];
        if (has_room(device, desc) && hal_gemm_create(device, desc, &gemm) != STATUS_OK)
            status_clear(); /* likewise */
    }
}

/* ---- giving them away */

bool prebuild_take(Prebuild *p, Session *s)
{
    const uint64_t key = p && p->n_built ? key_of(s->job->module) : 0;
    for (uint32_t i = 0; p && i < p->n_built; i++)
    {
        Built *b = &p->built[i];
        if (b->taken || b->key != key)
            continue;
        b->taken = true;
        s->m = b->session.m;
        s->module_arena = b->session.module_arena;
        s->variants = b->session.variants;
        s->kernels = b->session.kernels;
        s->kernels_cached = true;
        s->ahead_arena = b->session.arena;
        return true;
    }
    return false;
}

void prebuild_destroy(Prebuild *p)
{
    prebuild_wait(p);
    for (uint32_t i = 0; p && i < p->n_built; i++)
        if (!p->built[i].taken)
            drop(&p->built[i]);
    free(p);
}
