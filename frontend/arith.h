/* The arithmetic of {expressions} and of test=: whole numbers, text, comparisons. The texts true and false are
 * conditions too.
 *
 *   expr = or;  || && == != < <= > >= + - * / % unary - !  primary = number | 'text' | name | (expr) | min(a, b) |
 * max(a, b)
 *
 * Division must be exact: an extent that does not divide is a mistake, not something to round. */
#ifndef PTC_FRONTEND_ARITH_H
#define PTC_FRONTEND_ARITH_H

#include "base/arena.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct
{
    const char *text; /* NULL: the number below */
    int64_t number;
} ArithValue;

/* Finds a name; false when it is unknown, with *out_why a sentence. */
typedef bool ArithLookup(void *context, const char *name, ArithValue *out_value, const char **out_why);

/* False on failure: *out_why is a sentence, *out_at and *out_n the place in text. */
bool arith_eval(Arena *arena, const char *text, ArithLookup *lookup, void *context, ArithValue *out_value,
                const char **out_why, uint32_t *out_at, uint32_t *out_n);
/* The value as text. */
const char *arith_text(Arena *arena, ArithValue value);
/* A text that is a whole number becomes one. */
ArithValue arith_from_text(const char *text);

#endif
