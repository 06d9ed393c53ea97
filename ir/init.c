#include "ir/init.h"

#include "base/bug.h"
#include "base/philox.h"
#include "base/strbuf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum
{
#define INIT(name, ...) INIT_##name,
#include "ir/inits.def"
#undef INIT
    INIT_COUNT
} InitKind;

static const struct
{
    const char *name;
    int n_args;
    double min_arg;
} inits[] = {
#define INIT(name, n_args, min_arg, text) {#name, n_args, min_arg},
#include "ir/inits.def"
#undef INIT
};

/* NULL when the text is right, otherwise what is wrong with it. */
static const char *parse(Arena *arena, const char *text, InitKind *out_kind, double *out_arg)
{
    size_t n = strcspn(text, "(");
    int kind = 0;
    while (kind < INIT_COUNT && !(strlen(inits[kind].name) == n && strncmp(text, inits[kind].name, n) == 0))
        kind++;
    if (kind == INIT_COUNT)
    {
        const char *names[INIT_COUNT];
        for (int i = 0; i < INIT_COUNT; i++)
            names[i] = inits[i].name;
        const char *near = str_nearest(arena_strndup(arena, text, n), names, INIT_COUNT);
        return arena_printf(arena, "unknown initialiser '%.*s'%s%s%s", (int)n, text, near ? "; did you mean '" : "",
                            near ? near : "", near ? "'?" : "");
    }
    *out_kind = (InitKind)kind;
    *out_arg = 0;
    if (inits[kind].n_args == 0)
        return text[n] ? arena_printf(arena, "'%s' takes no argument", inits[kind].name) : NULL;
    char *end = NULL;
    if (text[n] == '(')
        *out_arg = strtod(text + n + 1, &end);
    if (!end || end == text + n + 1 || strcmp(end, ")") != 0)
        return arena_printf(arena, "'%s' takes one number: %s(0.02)", inits[kind].name, inits[kind].name);
    if (!(isfinite(*out_arg) && *out_arg >= inits[kind].min_arg))
        return arena_printf(arena, "the argument of '%s' is out of range", inits[kind].name);
    return NULL;
}

bool ir_init_check(Arena *arena, const char *text, const char **out_why)
{
    InitKind kind;
    double arg;
    *out_why = parse(arena, text, &kind, &arg);
    return !*out_why;
}

/* ---- random numbers by (seed, name, element, draw) */

typedef struct
{
    uint32_t key[2];
    uint32_t name_hash;
} Stream;

static Stream stream_of(uint64_t seed, const char *name)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (const char *c = name; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 16777619u;
    return (Stream){{(uint32_t)seed, (uint32_t)(seed >> 32) ^ 0x696e6974u}, hash};
}

/* Two numbers uniform in (0, 1). */
static void draw(const Stream *stream, uint64_t element, uint32_t attempt, double out[2])
{
    const uint32_t counter[4] = {(uint32_t)element, (uint32_t)(element >> 32), attempt, stream->name_hash};
    uint32_t bits[4];
    philox4x32(counter, stream->key, bits);
    for (int i = 0; i < 2; i++)
        out[i] = ((double)(bits[2 * i] >> 5) * 67108864.0 + (double)(bits[2 * i + 1] >> 6) + 0.5) / 9007199254740992.0;
}

static double normal(const Stream *stream, uint64_t element, uint32_t attempt)
{
    double u[2];
    draw(stream, element, attempt, u);
    return sqrt(-2 * log(u[0])) * cos(2 * 3.14159265358979323846 * u[1]); /* Box and Muller */
}

static double truncated_normal(const Stream *stream, uint64_t element)
{
    double x = 3;
    for (uint32_t attempt = 0; fabs(x) > 2; attempt++)
        x = normal(stream, element, attempt);
    return x;
}

static double uniform(const Stream *stream, uint64_t element)
{
    double u[2];
    draw(stream, element, 0, u);
    return 2 * u[0] - 1;
}

void ir_init_fill(float *dst, const IrType *type, const char *text, uint64_t seed, const char *name)
{
    Arena *arena = arena_create();
    InitKind kind;
    double arg;
    const char *why = parse(arena, text, &kind, &arg);
    if (why)
        BUG("init of '%s': %s", name, why);
    arena_destroy(arena);
    Stream stream = stream_of(seed, name);
    uint64_t n = (uint64_t)ir_type_n_elems(type);
    double fan_out = type->rank ? (double)type->dims[type->rank - 1] : 1, fan_in = (double)n / fan_out;
    if (kind == INIT_xavier_uniform)
        arg = sqrt(6 / (fan_in + fan_out));
    else if (kind == INIT_kaiming_uniform)
        arg = sqrt(1 / fan_in);
    else if (kind == INIT_ones)
        arg = 1;
    for (uint64_t i = 0; i < n; i++)
    {
        switch (kind)
        {
        case INIT_normal:
            dst[i] = (float)(arg * normal(&stream, i, 0));
            break;
        case INIT_trunc_normal:
            dst[i] = (float)(arg * truncated_normal(&stream, i));
            break;
        case INIT_uniform:
        case INIT_xavier_uniform:
        case INIT_kaiming_uniform:
            dst[i] = (float)(arg * uniform(&stream, i));
            break;
        default:
            dst[i] = (float)arg;
        }
    }
}
