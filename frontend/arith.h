/* The arithmetic of {expressions} and of test=: whole numbers, real numbers, text, comparisons. The texts true and
 * false are conditions too.
 *
 *   expr = or;  || && == != < <= > >= + - * / % unary - !  primary = number | 'text' | name | (expr) | min(a, b) |
 * max(a, b)
 *
 * Division of whole numbers must be exact: an extent that does not divide is a mistake, not something to round. With a
 * real number everything but % is real, and stays so: 2 * 0.5 is no extent. */
#ifndef PTC_FRONTEND_ARITH_H
#define PTC_FRONTEND_ARITH_H

#include "base/arena.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum
{
    ARITH_WHOLE,
    ARITH_REAL,
    ARITH_TEXT
} ArithKind;

typedef struct
{
    ArithKind kind;
    int64_t number;   /* WHOLE */
    double real;      /* REAL, finite */
    const char *text; /* TEXT; REAL: how it was written, NULL: it was computed */
} ArithValue;

/* Finds a name; false when it is unknown, with *out_why a sentence. */
typedef bool ArithLookup(void *context, const char *name, ArithValue *out_value, const char **out_why);

/* False on failure: *out_why is a sentence, *out_at and *out_n the place in text. */
bool arith_eval(Arena *arena, const char *text, ArithLookup *lookup, void *context, ArithValue *out_value,
                const char **out_why, uint32_t *out_at, uint32_t *out_n);
/* The value as text. */
const char *arith_text(Arena *arena, ArithValue value);
/* A text that is a whole or a real number becomes one. */
ArithValue arith_from_text(const char *text);
/* The shortest text that reads back as the number, and not as a whole one: "0.1", "2.0", "1e-12". */
const char *arith_real_text(Arena *arena, double real);

#endif
