/* Reads the SCALAR column. The cost is told from the macros in the text: a call of a polynomial, a division, or less.
 */
#include "codegen/scalar_ops.h"

#include <string.h>

static const char *const texts[IR_CODE_COUNT] = {
#define SCALAR(...)                                                         #__VA_ARGS__
#define NOSCALAR                                                            NULL
#define OP(name, in, out, attrs, opt, shape, traits, grad, scalar, example) [IR_##name] = scalar,
#include "ir/ops.def"
#undef OP
#undef NOSCALAR
#undef SCALAR
};

const char *scalar_op_text(IrCode code)
{
    return texts[code];
}

int32_t scalar_op_cost(IrCode code)
{
    static const struct
    {
        const char *macro;
        int32_t cost;
    } costs[] = {{"ABS", 1},      {"FLOOR", 1}, {"SQRT", 4}, {"RSQRT", 6}, {"EXP", 12}, {"LOG", 12},
                 {"SIGMOID", 16}, {"TANH", 16}, {"ERF", 20}, {"SIN", 16},  {"COS", 16}, {"POW", 30}};
    const char *text = texts[code];
    if (!text)
        return 1;
    for (size_t i = 0; i < sizeof costs / sizeof *costs; i++)
        if (strncmp(text, costs[i].macro, strlen(costs[i].macro)) == 0)
            return costs[i].cost;
    return strchr(text, '/') ? 4 : 1;
}
