/* Resolving includes. libxml2's own XInclude is not used: it would load what it is told to. */
#include "frontend/include.h"

#include "frontend/schema.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum
{
    MAX_INCLUDE_DEPTH = 16,
    MAX_FILES = 256
};

typedef struct
{
    Arena *arena;
    Diag *diag;
    const char *model_dir; /* resolved */
    const char *lib_dir;   /* resolved; NULL: none */
    uint64_t max_bytes;
    VEC(const char *) seen; /* resolved paths */
    const char *open[MAX_INCLUDE_DEPTH];
    uint32_t depth;
} Includer;

static bool is_under(const char *path, const char *dir)
{
    size_t n = dir ? strlen(dir) : 0;
    return n && strncmp(path, dir, n) == 0 && (path[n] == '/' || dir[n - 1] == '/');
}

static bool resolve_dir(Arena *arena, const char *dir, const char **out_real)
{
    char real[PATH_MAX];
    if (!realpath(dir, real))
        return false;
    *out_real = arena_strdup(arena, real);
    return true;
}

/* The file that href means, or NULL after an error. */
static const char *find_file(Includer *x, const XmlElem *e, const XmlAttr *href, const char **out_real)
{
    char real[PATH_MAX];
    Span span = xml_attr_value_span(href);
    const char *path = source_join(x->arena, e->source->dir, href->value);
    if (strstr(href->value, "://"))
    {
        diag_error(x->diag, span, "only files can be included, not '%s'", href->value);
        return NULL;
    }
    if (!realpath(path, real) && x->lib_dir)
    {
        const char *in_lib = source_join(x->arena, x->lib_dir, href->value);
        if (realpath(in_lib, real))
            path = in_lib;
        else
            real[0] = 0;
    }
    else if (!realpath(path, real))
        real[0] = 0;
    if (!real[0])
    {
        diag_error(x->diag, span, "cannot find '%s' beside this file%s", href->value,
                   x->lib_dir ? " or in the library of blocks" : "");
        return NULL;
    }
    if (!is_under(real, x->model_dir) && !is_under(real, x->lib_dir))
    {
        diag_error(x->diag, span, "'%s' is outside of the model's folder and of the library of blocks", href->value);
        return NULL;
    }
    *out_real = arena_strdup(x->arena, real);
    return path;
}

static bool include_children(Includer *x, XmlElem *parent);

/* Reads the file of one xi:include. *out_first is the list of its declarations: NULL when there are none. */
static bool include_file(Includer *x, const XmlElem *e, XmlElem **out_first)
{
    const XmlAttr *href = xml_attr(e, "href");
    const char *real;
    const char *path = find_file(x, e, href, &real);
    Span span = xml_attr_value_span(href);
    *out_first = NULL;
    if (!path)
        return false;
    for (uint32_t i = 0; i < x->depth; i++)
        if (strcmp(x->open[i], real) == 0)
        {
            diag_error(x->diag, span, "'%s' includes itself", href->value);
            return false;
        }
    for (uint32_t i = 0; i < x->seen.len; i++)
        if (strcmp(x->seen.data[i], real) == 0)
            return true;
    if (x->depth == MAX_INCLUDE_DEPTH || x->seen.len == MAX_FILES)
    {
        diag_error(x->diag, span,
                   x->depth == MAX_INCLUDE_DEPTH ? "includes are nested more than %d deep"
                                                 : "more than %d files are included",
                   x->depth == MAX_INCLUDE_DEPTH ? MAX_INCLUDE_DEPTH : MAX_FILES);
        return false;
    }
    vec_push(x->arena, &x->seen, real);
    const Source *source = source_read(x->arena, x->diag, span, path, x->max_bytes);
    XmlElem *root = source ? xml_parse(x->arena, x->diag, source) : NULL;
    if (!root || !elements_check(x->arena, x->diag, root, EL_library) || !schema_check(x->arena, x->diag, source))
        return false;
    x->open[x->depth++] = real;
    bool ok = include_children(x, root);
    x->depth--;
    *out_first = root->first;
    return ok;
}

static bool include_children(Includer *x, XmlElem *parent)
{
    XmlElem **link = &parent->first;
    bool ok = true;
    while (*link)
    {
        XmlElem *e = *link, *first;
        if (e->id != EL_include)
        {
            link = &e->next;
            continue;
        }
        ok = include_file(x, e, &first) && ok;
        *link = e->next;
        if (!first)
            continue;
        XmlElem *last = first;
        while (last->next)
            last = last->next;
        last->next = e->next;
        *link = first;
        link = &last->next;
    }
    return ok;
}

bool include_all(Arena *arena, Diag *diag, XmlElem *root, const char *lib_dir, uint64_t max_bytes)
{
    Includer x = {.arena = arena, .diag = diag, .max_bytes = max_bytes};
    if (!resolve_dir(arena, root->source->dir, &x.model_dir))
        x.model_dir = "";
    if (lib_dir && !resolve_dir(arena, lib_dir, &x.lib_dir))
        x.lib_dir = NULL;
    if (root->source->real)
        x.open[x.depth++] = root->source->real;
    return include_children(&x, root);
}
