/* StrBuf: text that grows inside an arena. Always NUL-terminated once something was added. */
#ifndef PTC_BASE_STRBUF_H
#define PTC_BASE_STRBUF_H

#include "base/arena.h"

typedef struct
{
    Arena *arena;
    char *data; /* NULL until the first addition */
    size_t len;
    size_t cap;
} StrBuf;

StrBuf strbuf_make(Arena *arena);
void strbuf_add(StrBuf *buf, const char *text);
void strbuf_add_bytes(StrBuf *buf, const char *bytes, size_t n_bytes);
void strbuf_addf(StrBuf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The text so far; "" when empty. Valid until the next addition. */
const char *strbuf_text(const StrBuf *buf);

/* The shortest decimal text that reads back as the same f64 ("0.1", "1e-05", "inf", "-inf", "nan");
 * always contains one of ".einf" so that it cannot be taken for an integer. */
void strbuf_add_f64(StrBuf *buf, double value);
/* The text in double quotes with \" \\ \n \t and \xNN escapes. */
void strbuf_add_quoted(StrBuf *buf, const char *text);

/* Of n candidates the one nearest to word by edit distance, or NULL when none is near
 * (more than a third of the letters differ). */
const char *str_nearest(const char *word, const char *const *candidates, size_t n);

#endif
