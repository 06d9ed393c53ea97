/* Names in bodies: numbers (dimensions, parameters) are one set of names, values another. A block's body sees its own
 * names and the root's numbers, nothing else: what a block means never depends on what is called how where it is used.
 */
#include "frontend/expand.h"

#include "base/strbuf.h"
#include "frontend/arith.h"

#include <string.h>

static uint32_t bucket_of(const Frame *frame, const char *name)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (const char *p = name; *p; p++)
        hash = (hash ^ (unsigned char)*p) * 16777619u;
    return hash % frame->n_buckets;
}

Frame *frame_open(Expander *x, Frame *up, bool is_block, const char *prefix, const char *hf_prefix)
{
    Frame *frame = ARENA_NEW(x->arena, Frame);
    frame->n_buckets = up ? 32 : 4096; /* a model's own body may be long */
    frame->buckets = ARENA_ARRAY(x->arena, Symbol *, frame->n_buckets);
    frame->up = up;
    frame->is_block = is_block;
    frame->prefix = prefix;
    frame->hf_prefix = hf_prefix;
    return frame;
}

bool frame_hf_prefix(Expander *x, const XmlElem *e, const char *own, const char **out_prefix)
{
    const char *text;
    if (!attr_text(x, e, "hf", &text))
        return false;
    if (!text)
        text = own ? own : "";
    *out_prefix = *text ? arena_printf(x->arena, "%s%s.", x->frame->hf_prefix, text) : x->frame->hf_prefix;
    return true;
}

static bool is_value(SymbolKind kind)
{
    return kind >= SYM_VALUE;
}

Symbol *frame_find_here(const Frame *frame, const char *name, bool values)
{
    for (Symbol *s = frame->buckets[bucket_of(frame, name)]; s; s = s->next)
        if (is_value(s->kind) == values && strcmp(s->name, name) == 0)
            return s;
    return NULL;
}

/* The frame where a search goes on. */
static const Frame *next_frame(const Expander *x, const Frame *frame, bool values)
{
    if (!frame->is_block)
        return frame->up;
    return values ? NULL : x->root;
}

Symbol *frame_find(const Expander *x, const char *name, bool values)
{
    for (const Frame *frame = x->frame; frame; frame = next_frame(x, frame, values))
    {
        Symbol *s = frame_find_here(frame, name, values);
        if (s)
            return s;
    }
    return NULL;
}

Symbol *frame_add(Expander *x, const char *name, SymbolKind kind, Span span)
{
    Symbol *old = frame_find_here(x->frame, name, is_value(kind));
    if (old)
    {
        expand_error(x, span, NULL, "the name '%s' is taken", name);
        if (old->span.file)
            diag_note(x->diag, old->span, "it is defined here");
        return NULL;
    }
    Symbol *s = ARENA_NEW(x->arena, Symbol);
    Symbol **bucket = &x->frame->buckets[bucket_of(x->frame, name)];
    s->name = name;
    s->kind = kind;
    s->span = span;
    s->next = *bucket;
    *bucket = s;
    return s;
}

bool frame_add_text(Expander *x, const char *name, const char *text, Span span)
{
    static const SymbolKind kinds[] = {[ARITH_WHOLE] = SYM_NUMBER, [ARITH_REAL] = SYM_REAL, [ARITH_TEXT] = SYM_TEXT};
    const ArithValue value = arith_from_text(text);
    Symbol *s = frame_add(x, name, kinds[value.kind], span);
    if (!s)
        return false;
    s->number = value.number;
    s->real = value.real;
    s->is_dim = value.kind == ARITH_WHOLE;
    s->text = value.text;
    return true;
}

bool frame_dim(const Expander *x, const char *name, int64_t *out_extent)
{
    for (const Frame *frame = x->frame; frame; frame = frame->up)
    {
        const Symbol *s = frame_find_here(frame, name, false);
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
    enum
    {
        MAX_CANDIDATES = 10000
    };
    VEC(const char *) names = {0};
    if (strlen(name) < 2)
        return NULL; /* every other letter would be near */
    for (const Frame *frame = x->frame; frame; frame = next_frame(x, frame, values))
        for (uint32_t i = 0; i < frame->n_buckets; i++)
            for (const Symbol *s = frame->buckets[i]; s && names.len < MAX_CANDIDATES; s = s->next)
                if (is_value(s->kind) == values)
                    vec_push(x->arena, &names, s->name);
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
