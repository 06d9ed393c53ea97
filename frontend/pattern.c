/* Parsing of axis patterns. */
#include "frontend/pattern.h"

#include <ctype.h>
#include <string.h>

static bool fail(Expander *x, const XmlAttr *attr, uint32_t at, uint32_t n, const char *why)
{
    expand_error(x, attr_place(attr, at, n), NULL, "%s", why);
    return false;
}

int pattern_find(const PatternSide *side, const char *name)
{
    for (uint32_t i = 0; i < side->n_axes; i++)
        if (strcmp(side->axes[i].name, name) == 0)
            return (int)i;
    return -1;
}

/* text[from..to) */
static bool parse_side(Expander *x, const XmlAttr *attr, const char *text, uint32_t from, uint32_t to, bool groups,
                       PatternSide *side)
{
    *side = (PatternSide){.ellipsis = -1, .at = from, .n_bytes = to - from};
    bool open = false;
    for (uint32_t p = from; p < to;)
    {
        uint32_t n = 1;
        if (isspace((unsigned char)text[p]))
        {
            p++;
            continue;
        }
        if (text[p] == '(' || text[p] == ')')
        {
            if (!groups)
                return fail(x, attr, p, 1, "parentheses have no meaning here");
            if ((text[p] == '(') == open)
                return fail(x, attr, p, 1, open ? "a group inside a group" : "')' without '('");
            open = !open;
            side->n_groups += open;
            p++;
            continue;
        }
        bool dots = to - p >= 3 && strncmp(text + p, "...", 3) == 0;
        if (dots)
            n = 3;
        else
            while (p + n < to && (isalnum((unsigned char)text[p + n]) || text[p + n] == '_'))
                n++;
        const char *name = arena_strndup(x->arena, text + p, n);
        bool one = strcmp(name, "1") == 0;
        if (!one && !dots && !text_is_name(name))
            return fail(x, attr, p, n, arena_printf(x->arena, "'%s' is not an axis", name));
        if (dots && (open || side->ellipsis >= 0))
            return fail(x, attr, p, n, "'...' can stand once, outside of groups");
        if (!one && pattern_find(side, name) >= 0)
            return fail(x, attr, p, n, arena_printf(x->arena, "axis '%s' is there twice", name));
        if (side->n_axes == PATTERN_MAX_AXES || side->n_groups == PATTERN_MAX_AXES)
            return fail(x, attr, p, n, "too many axes");
        if (!open)
            side->n_groups++;
        if (dots)
            side->ellipsis = (int)side->n_groups - 1;
        if (!one)
            side->axes[side->n_axes++] = (PatternAxis){.name = name, .at = p, .group = side->n_groups - 1};
        p += n;
    }
    return open ? fail(x, attr, to ? to - 1 : 0, 1, "'(' without ')'") : true;
}

bool pattern_parse(Expander *x, const XmlAttr *attr, const char *text, uint32_t n_operands, bool groups,
                   PatternSide *out_sides)
{
    const char *arrow = strstr(text, "->");
    if (!arrow)
        return fail(x, attr, 0, (uint32_t)strlen(text), "expected '->' between operands and result");
    uint32_t from = 0, end = (uint32_t)(arrow - text);
    for (uint32_t i = 0; i < n_operands; i++)
    {
        const char *comma = memchr(text + from, ',', end - from);
        if (!comma && i + 1 < n_operands)
            return fail(x, attr, from, end - from, "expected two operands: 'a b, b c -> a c'");
        if (comma && i + 1 == n_operands)
            return fail(x, attr, (uint32_t)(comma - text), 1,
                        n_operands == 1 ? "expected one operand" : "expected two operands");
        uint32_t to = comma ? (uint32_t)(comma - text) : end;
        if (!parse_side(x, attr, text, from, to, groups, &out_sides[i]))
            return false;
        from = to + 1;
    }
    return parse_side(x, attr, text, end + 2, (uint32_t)strlen(text), groups, &out_sides[n_operands]);
}

void pattern_spread(Expander *x, PatternSide *side, uint32_t spread)
{
    PatternSide out = *side;
    out.n_axes = 0;
    out.n_groups = side->n_groups - 1 + spread;
    out.ellipsis = -1;
    for (uint32_t i = 0; i < side->n_axes; i++)
    {
        PatternAxis axis = side->axes[i];
        bool dots = (int)axis.group == side->ellipsis;
        for (uint32_t k = 0; dots && k < spread && out.n_axes < PATTERN_MAX_AXES; k++)
            out.axes[out.n_axes++] =
                (PatternAxis){.name = arena_printf(x->arena, "..%u", k), .at = axis.at, .group = axis.group + k};
        if ((int)axis.group > side->ellipsis)
            axis.group = axis.group + spread - 1;
        if (!dots && out.n_axes < PATTERN_MAX_AXES)
            out.axes[out.n_axes++] = axis;
    }
    *side = out;
}

bool pattern_fit(Expander *x, const XmlAttr *attr, const char *text, PatternSide *side, const IrType *type,
                 uint32_t *out_spread)
{
    uint32_t have = side->n_groups, rank = type->rank;
    if (side->ellipsis >= 0 ? rank + 1 < have : rank != have)
    {
        uint32_t skip = (uint32_t)strspn(text + side->at, " ");
        uint32_t n = side->n_bytes > skip ? side->n_bytes - skip : 1;
        while (n > 1 && side->at + skip + n <= strlen(text) && text[side->at + skip + n - 1] == ' ')
            n--;
        expand_error(x, attr_place(attr, side->at + skip, n), NULL, "the operand is %s: %u axes, the pattern has %u",
                     expand_shape_text(x->arena, type), rank, have);
        return false;
    }
    *out_spread = side->ellipsis < 0 ? 0 : rank + 1 - have;
    if (side->ellipsis >= 0)
        pattern_spread(x, side, *out_spread);
    return true;
}
