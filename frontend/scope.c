/* Names in bodies. A block's body sees its own names and the root's numbers, nothing else: what a block means never
 * depends on what is called how where it is used. */
#include "frontend/expand.h"

#include "base/strbuf.h"

#include <string.h>

static uint32_t bucket_of(const char *name)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (const char *p = name; *p; p++)
        hash = (hash ^ (unsigned char)*p) * 16777619u;
    return hash % N_BUCKETS;
}

Frame *frame_open(Expander *x, Frame *up, bool is_block, const char *prefix)
{
    Frame *frame = ARENA_NEW(x->arena, Frame);
    frame->up = up;
    frame->is_block = is_block;
    frame->prefix = prefix;
    return frame;
}

Symbol *frame_find_here(const Frame *frame, const char *name)
{
    for (Symbol *s = frame->buckets[bucket_of(name)]; s; s = s->next)
        if (strcmp(s->name, name) == 0)
            return s;
    return NULL;
}

Symbol *frame_find(const Frame *frame, const char *name)
{
    bool numbers_only = false;
    for (; frame; frame = frame->up)
    {
        Symbol *s = frame_find_here(frame, name);
        if (s && (!numbers_only || s->kind == SYM_NUMBER))
            return s;
        numbers_only = numbers_only || frame->is_block;
    }
    return NULL;
}

Symbol *frame_add(Expander *x, const char *name, SymbolKind kind, Span span)
{
    Symbol *old = frame_find_here(x->frame, name);
    if (old)
    {
        expand_error(x, span, NULL, "the name '%s' is taken", name);
        if (old->span.file)
            diag_note(x->diag, old->span, "it is defined here");
        return NULL;
    }
    Symbol *s = ARENA_NEW(x->arena, Symbol);
    Symbol **bucket = &x->frame->buckets[bucket_of(name)];
    s->name = name;
    s->kind = kind;
    s->span = span;
    s->next = *bucket;
    *bucket = s;
    return s;
}

bool frame_dim(const Expander *x, const char *name, int64_t *out_extent)
{
    for (const Frame *frame = x->frame; frame; frame = frame->up)
    {
        const Symbol *s = frame_find_here(frame, name);
        if (s && s->kind == SYM_NUMBER && s->is_dim)
        {
            *out_extent = s->number;
            return true;
        }
        if (frame->is_block)
            break;
    }
    return false;
}

const char *frame_nearest(Expander *x, const char *name, bool values)
{
    VEC(const char *) names = {0};
    bool numbers_only = false;
    for (const Frame *frame = x->frame; frame; frame = frame->up)
    {
        for (int i = 0; i < N_BUCKETS; i++)
            for (const Symbol *s = frame->buckets[i]; s && names.len < 10000; s = s->next)
                if ((s->kind >= SYM_VALUE) == values && !(numbers_only && s->kind != SYM_NUMBER))
                    vec_push(x->arena, &names, s->name);
        numbers_only = numbers_only || frame->is_block;
    }
    return str_nearest(name, names.data, names.len);
}

IrValue symbol_value(Expander *x, Symbol *symbol)
{
    if (symbol->kind == SYM_VALUE || (symbol->value && symbol->unit == x->b.unit))
        return symbol->value;
    symbol->value = ir_build_get(&x->b, symbol->global);
    symbol->unit = x->b.unit;
    return symbol->value;
}
