/* Unicode for tokenizers: checking UTF-8, classes of code points, and the normalisers with their places.
 *
 * Decompositions, combining classes and lower case are utf8proc's; which code points have them is the library's, from
 * the table. A normaliser that moves characters gives each the place that the library gives it: a character made by a
 * decomposition has the place of the character consumed last (`transform_range` in
 * tokenizers/src/tokenizer/normalizer.rs). */
#include "runtime/tokenizer_parts.h"

#include "base/bug.h"

#include <stdlib.h>
#include <utf8proc.h>

/* ---- UTF-8 */

uint32_t utf8_check(const uint8_t *bytes, size_t n_bytes, uint32_t *out_bad)
{
    uint8_t lead = bytes[0];
    if (lead < 0x80)
        return 1;
    *out_bad = 1;
    uint32_t len = lead >= 0xC2 && lead <= 0xDF   ? 2
                   : lead >= 0xE0 && lead <= 0xEF ? 3
                   : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                  : 0;
    /* the range of the second byte (Unicode, table 3-7); later ones are 80..BF */
    uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    for (uint32_t i = 1; i < len; i++)
    {
        if (i == n_bytes || bytes[i] < low || bytes[i] > high)
            return 0;
        *out_bad = i + 1;
        low = 0x80;
        high = 0xBF;
    }
    return len;
}

static uint32_t utf8_put(uint32_t c, uint8_t out[4])
{
    return (uint32_t)utf8proc_encode_char((utf8proc_int32_t)c, out);
}

/* ---- classes */

typedef struct
{
    uint32_t first, flags;
} ClassRun;

static const ClassRun class_runs[] = {
#define R(first, flags) {first, flags},
#define LOWER(first, last, distance)
#include "runtime/tokenizer_unicode.def"
#undef R
#undef LOWER
};

enum
{
    N_CLASS_RUNS = sizeof class_runs / sizeof class_runs[0],
    N_FLAG_VALUES = 2 * CLASS_NORM
};

/* Where the run after run `i` begins. */
static uint32_t run_end(uint32_t i)
{
    return i + 1 < N_CLASS_RUNS ? class_runs[i + 1].first : UNICODE_END;
}

/* A block in which all code points have the same flags is stored once. */
const UnicodeClasses *unicode_classes_create(Arena *arena)
{
    UnicodeClasses *classes = ARENA_NEW(arena, UnicodeClasses);
    uint16_t uniform[N_FLAG_VALUES] = {0}; /* block + 1 */
    uint8_t kind_of[N_FLAG_VALUES] = {0};  /* kind + 1; there are about 40 */
    VEC(UnicodeBlock) blocks = {0};
    uint32_t n_kinds = 0, run = 0;
    for (uint32_t i = 0; i < N_CLASS_RUNS; i++)
        if (kind_of[class_runs[i].flags] == 0)
        {
            ENSURE(n_kinds < UINT8_MAX);
            classes->flags[n_kinds++] = (uint16_t)class_runs[i].flags;
            kind_of[class_runs[i].flags] = (uint8_t)n_kinds;
        }
    for (uint32_t first = 0; first < UNICODE_END; first += UNICODE_BLOCK)
    {
        while (run_end(run) <= first)
            run++;
        bool is_uniform = run_end(run) >= first + UNICODE_BLOCK;
        uint16_t *known = &uniform[class_runs[run].flags];
        if (is_uniform && *known)
        {
            classes->blocks[first / UNICODE_BLOCK] = (uint16_t)(*known - 1);
            continue;
        }
        if (blocks.len == blocks.cap)
            blocks.data = arena_vec_grow(arena, blocks.data, blocks.len, &blocks.cap, sizeof *blocks.data);
        uint32_t end = first + UNICODE_BLOCK, at = first;
        for (uint32_t i = run; at < end; i++)
        {
            uint32_t stop = run_end(i) < end ? run_end(i) : end;
            memset(blocks.data[blocks.len] + (at - first), kind_of[class_runs[i].flags] - 1, stop - at);
            at = stop;
        }
        classes->blocks[first / UNICODE_BLOCK] = (uint16_t)blocks.len++;
        if (is_uniform)
            *known = (uint16_t)blocks.len;
    }
    classes->kinds = blocks.data;
    return classes;
}

static uint32_t to_lower(uint32_t c)
{
    if (c < 0x80)
        return c >= 'A' && c <= 'Z' ? c + 32 : c;
#define R(first, flags)
#define LOWER(first, last, distance)                                                                                   \
    if (c >= (first) && c <= (last))                                                                                   \
        return (uint32_t)((int32_t)c + (distance));
#include "runtime/tokenizer_unicode.def"
#undef R
#undef LOWER
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
}

/* ---- building text */

typedef struct
{
    Arena *arena;
    uint8_t *bytes;
    ByteRange *at;
    uint32_t len, cap;
} Builder;

static Builder builder_make(Arena *arena, uint32_t cap)
{
    return (Builder){arena, arena_alloc(arena, cap), ARENA_ARRAY(arena, ByteRange, cap), 0, cap};
}

static void builder_grow(Builder *out)
{
    uint32_t cap = 2 * out->cap + 64;
    uint8_t *bytes = arena_alloc(out->arena, cap);
    ByteRange *at = ARENA_ARRAY(out->arena, ByteRange, cap);
    memcpy(bytes, out->bytes, out->len);
    memcpy(at, out->at, out->len * sizeof at[0]);
    out->bytes = bytes;
    out->at = at;
    out->cap = cap;
}

static inline void builder_add(Builder *out, uint32_t c, ByteRange at)
{
    if (out->cap - out->len < 4)
        builder_grow(out);
    uint32_t n = 1;
    if (c < 0x80)
        out->bytes[out->len] = (uint8_t)c;
    else
        n = utf8_put(c, out->bytes + out->len);
    for (uint32_t i = 0; i < n; i++)
        out->at[out->len + i] = at;
    out->len += n;
}

static Text builder_text(const Builder *out)
{
    return (Text){out->bytes, out->at, out->len};
}

/* ---- decomposition and composition */

/* A character of the normalised text and the library's account of it: 0 replaces one character of the source, -n also
 * swallows the n after it, 1 is new. */
typedef struct
{
    uint32_t c;
    int32_t change;
    uint64_t order; /* the class of combining; while a run of marks is sorted, above the place in it */
} NormChar;

typedef VEC(NormChar) NormChars;

static uint32_t combining_class(const UnicodeClasses *classes, uint32_t c)
{
    return unicode_class(classes, c) & CLASS_NORM
               ? (uint32_t)utf8proc_get_property((utf8proc_int32_t)c)->combining_class
               : 0;
}

static int compare_order(const void *a, const void *b)
{
    uint64_t x = ((const NormChar *)a)->order, y = ((const NormChar *)b)->order;
    return x < y ? -1 : x > y;
}

/* Sorts the marks [first, len) by class; equal ones keep their order. */
static void sort_marks(NormChars *chars, uint32_t first)
{
    uint32_t n = chars->len - first;
    NormChar *marks = chars->data + first;
    bool sorted = true;
    for (uint32_t i = 1; i < n && sorted; i++)
        sorted = marks[i - 1].order <= marks[i].order;
    if (sorted)
        return;
    for (uint32_t i = 0; i < n; i++)
        marks[i].order = marks[i].order << 32 | i;
    qsort(marks, n, sizeof marks[0], compare_order);
    for (uint32_t i = 0; i < n; i++)
        marks[i].order >>= 32;
}

static NormChars decompose(const UnicodeClasses *classes, Arena *arena, Text text, bool compatible)
{
    enum
    {
        MAX_DECOMPOSITION = 32 /* U+FDFA becomes 18 */
    };
    NormChars chars = {ARENA_ARRAY(arena, NormChar, text.len + 1), 0, text.len + 1};
    uint32_t first_mark = 0;
    int options = UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0);
    for (uint32_t at = 0; at < text.len;)
    {
        utf8proc_int32_t parts[MAX_DECOMPOSITION] = {(utf8proc_int32_t)utf8_next(text.bytes, &at)};
        utf8proc_ssize_t n = 1;
        if (unicode_class(classes, (uint32_t)parts[0]) & CLASS_NORM)
            n = utf8proc_decompose_char(parts[0], parts, MAX_DECOMPOSITION, (utf8proc_option_t)options, NULL);
        for (utf8proc_ssize_t i = 0; i < n && i < MAX_DECOMPOSITION; i++)
        {
            uint32_t c = (uint32_t)parts[i], order = combining_class(classes, c);
            if (order == 0)
                sort_marks(&chars, first_mark);
            vec_push(arena, &chars, (NormChar){c, i > 0, order});
            if (order == 0)
                first_mark = chars.len;
        }
    }
    sort_marks(&chars, first_mark);
    return chars;
}

/* The canonical composition of a pair, or 0. */
static uint32_t compose_pair(const UnicodeClasses *classes, uint32_t a, uint32_t b)
{
    if (b < 0x300)
        return 0;
    utf8proc_int32_t pair[3] = {(utf8proc_int32_t)a, (utf8proc_int32_t)b, 0};
    if (utf8proc_normalize_utf32(pair, 2, (utf8proc_option_t)(UTF8PROC_COMPOSE | UTF8PROC_STABLE)) != 1)
        return 0;
    uint32_t c = (uint32_t)pair[0];
    return unicode_class(classes, c) & CLASS_NORM ? c : 0;
}

/* In place; the steps and their changes are those of unicode-normalization-alignments, recompose.rs. */
static void compose(const UnicodeClasses *classes, Arena *arena, NormChars *chars)
{
    enum
    {
        NONE = 256 /* no mark stands between the composee and the next character */
    };
    NormChar *marks = ARENA_ARRAY(arena, NormChar, chars->len + 1); /* not composed, to follow the composee */
    NormChar composee = {0};
    bool has_composee = false;
    uint32_t n_marks = 0, n = 0;
    uint64_t last_class = NONE;
    for (uint32_t i = 0; i < chars->len; i++)
    {
        NormChar next = chars->data[i];
        if (!has_composee)
        {
            if (next.order != 0)
                chars->data[n++] = next;
            else
            {
                composee = next;
                has_composee = true;
            }
            continue;
        }
        bool blocked = last_class != NONE && last_class >= next.order;
        uint32_t composed = blocked ? 0 : compose_pair(classes, composee.c, next.c);
        if (composed)
        {
            composee.c = composed;
            composee.change += next.change - 1;
        }
        else if (next.order == 0)
        {
            chars->data[n++] = composee;
            memcpy(chars->data + n, marks, n_marks * sizeof marks[0]);
            n += n_marks;
            n_marks = 0;
            composee = next;
            last_class = NONE;
        }
        else
        {
            marks[n_marks++] = next;
            last_class = next.order;
        }
    }
    if (has_composee)
        chars->data[n++] = composee;
    memcpy(chars->data + n, marks, n_marks * sizeof marks[0]);
    chars->len = n + n_marks;
}

/* Nothing below U+0300 but what CLASS_NORM marks changes in any form. */
static bool needs_norm(const UnicodeClasses *classes, Text text)
{
    for (uint32_t at = 0; at < text.len;)
    {
        if (text.bytes[at] < 0x80)
        {
            at++;
            continue;
        }
        uint32_t c = utf8_next(text.bytes, &at);
        if (c >= 0x300 || unicode_class(classes, c) & CLASS_NORM)
            return true;
    }
    return false;
}

static Text run_unicode_form(const UnicodeClasses *classes, Arena *arena, Text text, bool compatible, bool composed)
{
    if (!needs_norm(classes, text))
        return text;
    NormChars chars = decompose(classes, arena, text, compatible);
    if (composed)
        compose(classes, arena, &chars);
    Builder out = builder_make(arena, text.len + 16);
    uint32_t at = 0;
    for (uint32_t i = 0; i < chars.len; i++)
    {
        int32_t change = chars.data[i].change;
        ByteRange place = text.at[change > 0 && at > 0 ? at - 1 : at < text.len ? at : text.len - 1];
        builder_add(&out, chars.data[i].c, place);
        for (; change <= 0 && at < text.len; change++)
            utf8_next(text.bytes, &at);
    }
    return builder_text(&out);
}

/* ---- the other normalisers */

/* Drops every character of a class, which makes no other change. */
static Text drop_class(const UnicodeClasses *classes, Arena *arena, Text text, uint32_t class)
{
    Builder out = builder_make(arena, text.len + 4);
    for (uint32_t at = 0; at < text.len;)
    {
        ByteRange place = text.at[at];
        uint32_t c = utf8_next(text.bytes, &at);
        if (!(unicode_class(classes, c) & class))
            builder_add(&out, c, place);
    }
    return builder_text(&out);
}

static bool is_chinese(uint32_t c)
{
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

static Text clean_and_space(const UnicodeClasses *classes, Arena *arena, const Normalizer *bert, Text text)
{
    Builder out = builder_make(arena, text.len + 4);
    for (uint32_t at = 0; at < text.len;)
    {
        ByteRange place = text.at[at];
        uint32_t c = utf8_next(text.bytes, &at);
        if (bert->clean_text)
        {
            uint32_t class = unicode_class(classes, c);
            if (class & CLASS_DROPPED)
                continue;
            if (class & CLASS_SPACE)
                c = ' ';
        }
        bool chinese = bert->chinese && c >= 0x3400 && is_chinese(c);
        if (chinese)
            builder_add(&out, ' ', place);
        builder_add(&out, c, place);
        if (chinese)
            builder_add(&out, ' ', place);
    }
    return builder_text(&out);
}

static Text lowercase(Arena *arena, Text text)
{
    Builder out = builder_make(arena, text.len + 4);
    for (uint32_t at = 0; at < text.len;)
    {
        ByteRange place = text.at[at];
        uint32_t c = utf8_next(text.bytes, &at);
        if (c == 0x130) /* the one that becomes two: i and a dot above */
        {
            builder_add(&out, 'i', place);
            builder_add(&out, 0x307, place);
        }
        else
            builder_add(&out, to_lower(c), place);
    }
    return builder_text(&out);
}

/* Text of ASCII only: one pass in place of four. */
static Text bert_ascii(const UnicodeClasses *classes, Arena *arena, const Normalizer *bert, Text text)
{
    uint8_t *bytes = arena_alloc(arena, text.len);
    ByteRange *places = ARENA_ARRAY(arena, ByteRange, text.len);
    uint32_t n = 0;
    for (uint32_t i = 0; i < text.len; i++)
    {
        uint8_t c = text.bytes[i];
        uint32_t class = unicode_class(classes, c);
        if (bert->clean_text && class & CLASS_DROPPED)
            continue;
        bytes[n] = bert->clean_text && class & CLASS_SPACE ? ' ' : bert->lowercase ? (uint8_t)to_lower(c) : c;
        places[n++] = text.at[i];
    }
    return (Text){bytes, places, n};
}

static Text run_bert(const UnicodeClasses *classes, Arena *arena, const Normalizer *bert, Text text)
{
    bool ascii = true;
    for (uint32_t i = 0; i < text.len && ascii; i++)
        ascii = text.bytes[i] < 0x80;
    if (ascii)
        return bert_ascii(classes, arena, bert, text);
    if (bert->clean_text || bert->chinese)
        text = clean_and_space(classes, arena, bert, text);
    if (bert->strip_accents)
        text = drop_class(classes, arena, run_unicode_form(classes, arena, text, false, false), CLASS_ACCENT);
    return bert->lowercase ? lowercase(arena, text) : text;
}

Text normalizer_run(const UnicodeClasses *classes, Arena *arena, const Normalizer *normalizer, Text text)
{
    switch (normalizer->kind)
    {
    case NORMALIZE_BERT:
        return run_bert(classes, arena, normalizer, text);
    case NORMALIZE_LOWERCASE:
        return lowercase(arena, text);
    case NORMALIZE_NFC:
    case NORMALIZE_NFKC:
        return run_unicode_form(classes, arena, text, normalizer->kind == NORMALIZE_NFKC, true);
    case NORMALIZE_NFD:
    case NORMALIZE_NFKD:
        return run_unicode_form(classes, arena, text, normalizer->kind == NORMALIZE_NFKD, false);
    case NORMALIZE_STRIP_ACCENTS:
        return drop_class(classes, arena, text, CLASS_MARK);
    }
    return text;
}
