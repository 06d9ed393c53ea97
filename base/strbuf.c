#include "base/strbuf.h"

#include "base/bug.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

StrBuf strbuf_make(Arena *arena)
{
    return (StrBuf){.arena = arena};
}

static char *reserve(StrBuf *buf, size_t extra)
{
    if (buf->cap - buf->len < extra + 1)
    {
        size_t cap = buf->cap ? buf->cap * 2 : 256;
        while (cap - buf->len < extra + 1)
            cap *= 2;
        char *data = arena_alloc(buf->arena, cap);
        if (buf->len)
            memcpy(data, buf->data, buf->len);
        buf->data = data;
        buf->cap = cap;
    }
    return buf->data + buf->len;
}

void strbuf_add_bytes(StrBuf *buf, const char *bytes, size_t n_bytes)
{
    char *end = reserve(buf, n_bytes);
    if (n_bytes)
        memcpy(end, bytes, n_bytes);
    end[n_bytes] = 0;
    buf->len += n_bytes;
}

void strbuf_add(StrBuf *buf, const char *text)
{
    strbuf_add_bytes(buf, text, strlen(text));
}

void strbuf_addf(StrBuf *buf, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0)
        BUG("bad format string '%s'", format);
    vsnprintf(reserve(buf, (size_t)n), (size_t)n + 1, format, again);
    va_end(again);
    buf->len += (size_t)n;
}

const char *strbuf_text(const StrBuf *buf)
{
    return buf->len ? buf->data : "";
}

void strbuf_add_f64(StrBuf *buf, double value)
{
    if (isnan(value) || isinf(value))
    {
        strbuf_add(buf, isnan(value) ? "nan" : value > 0 ? "inf" : "-inf");
        return;
    }
    char text[40];
    for (int digits = 1; digits <= 17; digits++)
    {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    strbuf_add(buf, text);
    if (!strpbrk(text, ".e"))
        strbuf_add(buf, ".0");
}

void strbuf_add_quoted(StrBuf *buf, const char *text)
{
    strbuf_add(buf, "\"");
    for (const char *c = text; *c; c++)
    {
        if (*c == '"' || *c == '\\')
            strbuf_addf(buf, "\\%c", *c);
        else if (*c == '\n')
            strbuf_add(buf, "\\n");
        else if (*c == '\t')
            strbuf_add(buf, "\\t");
        else if ((unsigned char)*c < 0x20 || *c == 0x7f)
            strbuf_addf(buf, "\\x%02x", (unsigned char)*c);
        else
            strbuf_add_bytes(buf, c, 1);
    }
    strbuf_add(buf, "\"");
}

enum
{
    MAX_WORD = 63
};

/* Levenshtein distance with adjacent swaps counted as one edit. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    if (n > MAX_WORD || m > MAX_WORD)
        return SIZE_MAX;
    size_t rows[3][MAX_WORD + 1];
    for (size_t j = 0; j <= m; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= n; i++)
    {
        size_t *row = rows[i % 3], *up = rows[(i + 2) % 3], *up2 = rows[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= m; j++)
        {
            size_t best = up[j - 1] + (a[i - 1] != b[j - 1]);
            if (up[j] + 1 < best)
                best = up[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && up2[j - 2] + 1 < best)
                best = up2[j - 2] + 1;
            row[j] = best;
        }
    }
    return rows[n % 3][m];
}

const char *str_nearest(const char *word, const char *const *candidates, size_t n)
{
    const char *nearest = NULL;
    size_t best = (strlen(word) + 2) / 3 + 1;
    for (size_t i = 0; i < n; i++)
    {
        size_t distance = edit_distance(word, candidates[i]);
        if (distance < best)
        {
            best = distance;
            nearest = candidates[i];
        }
    }
    return nearest;
}
