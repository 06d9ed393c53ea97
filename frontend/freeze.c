/* <freeze>: when layers are frozen; <cache>: what is kept of them. */
#include "frontend/expand.h"

#include <stdlib.h>
#include <string.h>

enum
{
    MAX_DECISIONS = 1000000,
    MAX_COUNTS = 4096,
    MAX_WINDOW = 64 /* PLASTICITY_MAX_WINDOW */
};

/* "4 7 9": frozen layers after each decision. */
static bool read_counts(Expander *x, const XmlElem *e, FreezeSpec *freeze)
{
    const char *text = NULL;
    if (!attr_text(x, e, "layers", &text))
        return false;
    if ((text != NULL) != (strcmp(freeze->policy, "explicit") == 0))
    {
        expand_error(x, attr_or_elem_span(e, text ? "layers" : "policy"), NULL,
                     text ? "layers= is for policy=\"explicit\"" : "policy=\"explicit\" wants layers=\"4 7 9\"");
        return false;
    }
    int64_t *counts = ARENA_ARRAY(x->arena, int64_t, MAX_COUNTS);
    for (const char *at = text ? text : ""; *at; at += strspn(at, " "))
    {
        char *end;
        const long long count = strtoll(at, &end, 10);
        const uint32_t n = freeze->n_counts;
        const bool ok = end != at && (!*end || *end == ' ') && n < MAX_COUNTS && count >= (n ? counts[n - 1] : 0) &&
                        count <= x->job->n_layers;
        if (!ok)
        {
            expand_error(x, attr_or_elem_span(e, "layers"), NULL,
                         "layers is '%s': expected numbers from 0 to %u (layers of the model), none smaller than the "
                         "one before",
                         text, x->job->n_layers);
            return false;
        }
        counts[freeze->n_counts++] = count;
        at = end;
    }
    freeze->counts = counts;
    return true;
}

void job_freeze(Expander *x, const XmlElem *root)
{
    const XmlElem *e = x->gave_up ? NULL : job_sole_child(x, root, EL_freeze);
    FreezeSpec *f = &x->job->freeze;
    *f = (FreezeSpec){.every = 1};
    if (!e)
        return;
    f->span = xml_elem_span(e);
    bool ok = attr_text(x, e, "policy", &f->policy);
    ok = attr_float(x, e, "alpha", 0, 1, &f->alpha) && ok;
    ok = attr_bool(x, e, "inclusive", &f->inclusive) && ok;
    ok = attr_float(x, e, "percentile", 0, 100, &f->percentile) && ok;
    ok = attr_float(x, e, "tolerance", 0, 1, &f->tolerance) && ok;
    ok = attr_int(x, e, "window", 1, MAX_WINDOW, &f->window) && ok;
    ok = attr_int(x, e, "patience", 1, MAX_DECISIONS, &f->patience) && ok;
    ok = attr_int(x, e, "renew", 1, MAX_DECISIONS, &f->renew) && ok;
    ok = attr_int(x, e, "every", 1, MAX_DECISIONS, &f->every) && ok;
    ok = attr_int(x, e, "every_steps", 0, INT64_MAX, &f->every_steps) && ok;
    ok = attr_int(x, e, "warmup", 0, MAX_DECISIONS, &f->warmup) && ok;
    ok = attr_int(x, e, "keep", 0, MAX_DECISIONS, &f->keep) && ok;
    ok = attr_bool(x, e, "guard", &f->guard) && ok;
    if (!ok || !read_counts(x, e, f))
        f->policy = NULL;
    else if (!x->job->n_layers && strcmp(f->policy, "none") != 0)
        expand_error(x, f->span, NULL, "the model has no layers to freeze: rounds of a <repeat> with a <unit> in them");
}

void expand_freeze(Expander *x, const XmlElem *e)
{
    (void)x, (void)e; /* job_freeze has read it */
}

void job_cache(Expander *x, const XmlElem *root)
{
    const XmlElem *e = x->gave_up ? NULL : job_sole_child(x, root, EL_cache);
    CacheSpec *cache = &x->job->cache;
    const char *use = "auto", *precision = "f32";
    *cache = (CacheSpec){.use = CACHE_AUTO};
    if (!e)
        return;
    cache->span = xml_elem_span(e);
    if (!attr_text(x, e, "use", &use) || !attr_float(x, e, "memory", 0, 1e6, &cache->memory_gib) ||
        !attr_float(x, e, "disk", 0, 1e9, &cache->disk_gib) || !attr_text(x, e, "precision", &precision))
        return;
    cache->use = strcmp(use, "on") == 0 ? CACHE_ON : strcmp(use, "off") == 0 ? CACHE_OFF : CACHE_AUTO;
    cache->bf16 = strcmp(precision, "bf16") == 0;
}

void expand_cache(Expander *x, const XmlElem *e)
{
    (void)x, (void)e; /* job_cache has read it */
}
