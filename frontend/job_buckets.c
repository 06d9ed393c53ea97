/* <data buckets="tokens: 16 32">: the lengths for which a job is compiled. One load is the job for one of them: the
 * <dim> then has that value, and nothing else of the model is different. */
#include "frontend/expand.h"

#include <stdlib.h>
#include <string.h>

enum
{
    MAX_BUCKETS = 32
};

/* The name before ':'; NULL when there is none. */
static const char *dim_of(Arena *arena, const char *text)
{
    text += strspn(text, " ");
    const size_t n = strcspn(text, " :");
    const char *colon = text + n + strspn(text + n, " ");
    return n && *colon == ':' ? arena_strndup(arena, text, n) : NULL;
}

void job_override_length(Arena *arena, XmlElem *root, int64_t length)
{
    const char *dim = NULL;
    for (const XmlElem *e = root->first; e; e = e->next)
        if (e->id == EL_data && xml_attr(e, "buckets"))
            dim = dim_of(arena, xml_attr(e, "buckets")->value);
    for (XmlElem *e = root->first; dim && e; e = e->next)
    {
        const XmlAttr *name = e->id == EL_dim ? xml_attr(e, "name") : NULL;
        for (uint32_t i = 0; name && strcmp(name->value, dim) == 0 && i < e->n_attrs; i++)
        {
            XmlAttr *value = &e->attrs[i];
            if (strcmp(value->name, "value") != 0)
                continue;
            if (!value->replaced) /* as --set does it */
                value->replaced = arena_memdup(arena, value, sizeof *value);
            value->value = arena_printf(arena, "%lld", (long long)length);
        }
    }
}

/* "16 24": ascending, the last one below `longest` when that is given. */
static bool read_lengths(Expander *x, const XmlElem *e, const char *text, int64_t longest)
{
    DataSpec *data = &x->job->data;
    int64_t *lengths = ARENA_ARRAY(x->arena, int64_t, MAX_BUCKETS + 1);
    uint32_t n = 0;
    for (const char *at = text + strspn(text, " "); *at;)
    {
        char *end;
        const long long length = strtoll(at, &end, 10);
        if (end == at || (*end && *end != ' ') || length <= (n ? lengths[n - 1] : 0) || n == MAX_BUCKETS)
        {
            expand_error(x, attr_or_elem_span(e, "buckets"), NULL,
                         "'%.20s' in buckets: expected at most %d lengths, ascending, as in 'tokens: 16 32'", at,
                         MAX_BUCKETS);
            return false;
        }
        lengths[n++] = length;
        at = end + strspn(end, " ");
    }
    if (longest && n && lengths[n - 1] > longest)
    {
        expand_error(x, attr_or_elem_span(e, "buckets"), NULL, "a bucket of %lld, but '%s' is %lld",
                     (long long)lengths[n - 1], data->bucket_dim, (long long)longest);
        return false;
    }
    if (longest && (!n || lengths[n - 1] < longest))
        lengths[n++] = longest;
    data->buckets = lengths;
    data->n_buckets = n;
    return true;
}

void job_buckets(Expander *x, const XmlElem *e, int64_t length)
{
    const char *text = NULL;
    DataSpec *data = &x->job->data;
    if (!attr_text(x, e, "buckets", &text) || !text)
        return;
    data->bucket_dim = dim_of(x->arena, text);
    const Symbol *dim = data->bucket_dim ? frame_find_here(x->root, data->bucket_dim, false) : NULL;
    if (!data->bucket_dim)
        expand_error(x, attr_or_elem_span(e, "buckets"), NULL,
                     "buckets is '%.60s': expected a <dim> and lengths, as in 'tokens: 16 32'", text);
    else if (!dim || dim->kind != SYM_NUMBER || !dim->is_dim || strcmp(dim->name, "b") == 0)
        expand_error(x, attr_or_elem_span(e, "buckets"), frame_nearest(x, data->bucket_dim, false),
                     "buckets of '%s', which is no <dim>", data->bucket_dim);
    else
        read_lengths(x, e, strchr(text, ':') + 1, length ? 0 : dim->number);
}
