/* Loads kernel cases, makes their data, compares. */
#include "kernel_case.h"

#include "base/bug.h"
#include "base/diag.h"
#include "base/strbuf.h"
#include "ir/interp.h"
#include "ir/text.h"
#include "ir/verify.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *read_file(Arena *arena, const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        BUG("cannot read %s", path);
    StrBuf text = strbuf_make(arena);
    char block[4096];
    for (size_t n; (n = fread(block, 1, sizeof block, file)) > 0;)
        strbuf_add_bytes(&text, block, n);
    fclose(file);
    return arena_strdup(arena, strbuf_text(&text));
}

static int64_t size_value(const char *sizes, char letter, const char *path)
{
    for (const char *s = sizes; *s; s++)
        if (s[0] == letter && s[1] == '=')
            return atoll(s + 2);
    BUG("%s: no value for $%c in '%s'", path, letter, sizes);
}

static IrModule *instantiate(Arena *arena, const char *path, const char *text, const char *sizes)
{
    StrBuf out = strbuf_make(arena);
    for (const char *c = text; *c; c++)
        if (*c == '$')
        {
            int64_t value = size_value(sizes, *++c, path);
            if (c[1] >= '0' && c[1] <= '9')
                value += *++c - '0';
            strbuf_addf(&out, "%lld", (long long)value);
        }
        else
            strbuf_add_bytes(&out, c, 1);
    Diag *diag = diag_create(arena);
    uint32_t file = diag_add_file(diag, path, strbuf_text(&out), out.len);
    IrModule *m = ir_parse_module(arena, diag, file, strbuf_text(&out), out.len);
    const char *why = NULL;
    if (!m)
    {
        diag_print(diag, stderr, false);
        BUG("%s (%s) does not parse", path, sizes);
    }
    if (!ir_verify(arena, m, &why))
        BUG("%s (%s): %s", path, sizes, why);
    return m;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

KernelCases kernel_cases_load(Arena *arena)
{
    KernelCases cases = {0};
    struct dirent **names;
    const char *root = getenv("PTC_SOURCE_DIR");
    const char *dir = arena_printf(arena, "%s/tests/codegen/kernels", root ? root : ".");
    int n = scandir(dir, &names, NULL, by_name);
    if (n < 0)
        BUG("cannot list %s (set PTC_SOURCE_DIR)", dir);
    for (int i = 0; i < n; i++)
    {
        size_t len = strlen(names[i]->d_name);
        if (len > 3 && strcmp(names[i]->d_name + len - 3, ".ir") == 0)
        {
            const char *path = arena_printf(arena, "%s/%s", dir, names[i]->d_name);
            char *text = read_file(arena, path);
            double tolerance = 2e-5;
            char *sizes = NULL;
            while (strncmp(text, "// ", 3) == 0)
            {
                char *end = strchr(text, '\n');
                *end = 0;
                if (strncmp(text, "// SIZES: ", 10) == 0)
                    sizes = text + 10;
                else if (strncmp(text, "// TOL: ", 8) == 0)
                    tolerance = atof(text + 8);
                text = end + 1;
            }
            char *rest = sizes;
            for (char *set; rest && (set = strsep(&rest, ";"));)
            {
                set += strspn(set, " ");
                KernelCase one = {.label = arena_printf(arena, "%.*s %s", (int)len - 3, names[i]->d_name, set),
                                  .m = instantiate(arena, path, text, set),
                                  .tolerance = tolerance};
                vec_push(arena, &cases, one);
            }
        }
        free(names[i]);
    }
    free(names);
    return cases;
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static void store(void *bytes, DType dtype, int64_t i, double value)
{
    float f = (float)value;
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if (dtype == DT_F32)
        ((float *)bytes)[i] = f;
    else if (dtype == DT_BF16)
        ((uint16_t *)bytes)[i] = (uint16_t)(bits >> 16);
    else if (dtype == DT_I32)
        ((int32_t *)bytes)[i] = (int32_t)value;
    else
        ((uint8_t *)bytes)[i] = (uint8_t)value;
}

static double load(const void *bytes, DType dtype, int64_t i)
{
    if (dtype == DT_F32)
        return (double)((const float *)bytes)[i];
    if (dtype == DT_I32)
        return ((const int32_t *)bytes)[i];
    if (dtype != DT_BF16)
        return ((const uint8_t *)bytes)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)bytes)[i] << 16;
    float f;
    memcpy(&f, &bits, 4);
    return (double)f;
}

KernelData kernel_data_make(Arena *arena, const IrModule *m, IrFunc func, uint64_t seed)
{
    KernelData data = {0};
    IrType outputs[16];
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData *o = ir_op(m, op);
        if (o->code == IR_arg)
            data.types[data.n_args++] = *ir_value_type(m, o->results[0]);
        else if (o->code == IR_output)
            outputs[data.n_outputs++] = *ir_value_type(m, o->operands[0]);
    }
    ENSURE(data.n_args + data.n_outputs <= 32);
    for (uint32_t i = 0; i < data.n_outputs; i++)
        data.types[data.n_args + i] = outputs[i];
    for (uint32_t i = 0; i < data.n_args + data.n_outputs; i++)
    {
        DType dtype = (DType)data.types[i].dtype;
        int64_t n = ir_type_n_elems(&data.types[i]);
        data.values[i] = ARENA_ARRAY(arena, double, n);
        data.bytes[i] = arena_alloc(arena, (size_t)ir_type_size_bytes(&data.types[i]) + 64);
        memset(data.bytes[i], 0x5A, (size_t)ir_type_size_bytes(&data.types[i]));
        for (int64_t k = 0; k < n && i < data.n_args; k++)
        {
            uint64_t r = next_random(&seed);
            data.values[i][k] =
                dtype_is_float(dtype) ? (double)(r % 256) / 64 - 2 : (double)(r % (dtype == DT_BOOL ? 2 : 5));
            store(data.bytes[i], dtype, k, data.values[i][k]);
        }
    }
    InterpEnv *env = ir_interp_env_create();
    ir_interp_env_round_bf16(env, true);
    const char *name = ir_func(m, func)->name;
    size_t n_name = strlen(name);
    IrFunc forward = n_name > 5 && strcmp(name + n_name - 5, "_grad") == 0
                         ? ir_func_find(m, arena_strndup(arena, name, n_name - 5))
                         : 0;
    if (forward)
    {
        uint32_t n_shared = 0, n_outputs = 0;
        IR_FOR_OPS(m, forward, op)
        {
            n_shared += ir_op(m, op)->code == IR_arg;
            n_outputs += ir_op(m, op)->code == IR_output;
        }
        if (ir_interp_call(env, m, forward, (const double *const *)data.values, data.values + n_shared) != STATUS_OK)
            BUG("the interpreter failed: %s", status_detail());
        for (uint32_t i = n_shared; i < n_shared + n_outputs; i++)
            for (int64_t k = 0; k < ir_type_n_elems(&data.types[i]); k++)
            {
                data.values[i][k] = (double)(float)data.values[i][k];
                store(data.bytes[i], (DType)data.types[i].dtype, k, data.values[i][k]);
            }
    }
    if (ir_interp_call(env, m, func, (const double *const *)data.values, data.values + data.n_args) != STATUS_OK)
        BUG("the interpreter failed: %s", status_detail());
    ir_interp_env_destroy(env);
    return data;
}

const char *kernel_data_compare(Arena *arena, const KernelData *data, double tolerance)
{
    for (uint32_t i = data->n_args; i < data->n_args + data->n_outputs; i++)
        for (int64_t k = 0; k < ir_type_n_elems(&data->types[i]); k++)
        {
            double want = data->values[i][k], got = load(data->bytes[i], (DType)data->types[i].dtype, k);
            if (got == want || (isnan(got) && isnan(want)) || fabs(got - want) <= tolerance * (1 + fabs(want)))
                continue;
            return arena_printf(arena, "output %u (%s) element %lld: %.9g, expected %.9g", i - data->n_args,
                                ir_type_text(arena, &data->types[i]), (long long)k, got, want);
        }
    return NULL;
}
