/* Axis patterns: the sides of "b (h p) (w q) -> b (h w) (p q)" and of "b t d, d e -> b t e". */
#ifndef PTC_FRONTEND_PATTERN_H
#define PTC_FRONTEND_PATTERN_H

#include "frontend/expand.h"

enum
{
    PATTERN_MAX_AXES = 16
};

typedef struct
{
    const char *name; /* "..." for any axes */
    uint32_t at;      /* offset in the pattern */
    uint32_t group;   /* which axis of the operand it is a part of */
} PatternAxis;

typedef struct
{
    PatternAxis axes[PATTERN_MAX_AXES];
    uint32_t n_axes;
    uint32_t n_groups; /* axes of the operand; "..." counts as one, an axis of 1 is a group without axes */
    int ellipsis;      /* its group; -1: none */
    uint32_t at, n_bytes;
} PatternSide;

/* A pattern attribute cut at "->" and at commas: the sides in order, the last is the result. False after an error. */
bool pattern_parse(Expander *x, const XmlAttr *attr, const char *text, uint32_t n_operands, bool groups,
                   PatternSide *out_sides);
/* The operand's axes against its type; "..." is spread over the axes that are left, named "..0", "..1": *out_spread
 * says how many. False (told) when the number of axes does not fit. */
bool pattern_fit(Expander *x, const XmlAttr *attr, const char *text, PatternSide *side, const IrType *type,
                 uint32_t *out_spread);
/* "..." of a result becomes that many axes. */
void pattern_spread(Expander *x, PatternSide *side, uint32_t spread);
/* The axis of that name in the side; -1 when there is none. */
int pattern_find(const PatternSide *side, const char *name);

#endif
