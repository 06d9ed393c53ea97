/* See model.h. */
#include "model.h"

#include "base/diag.h"
#include "frontend/frontend.h"
#include "harness/test.h"
#include "passes/manager.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

IrModule *model_load(Arena *arena, const char *path, const char *sets, int64_t micro_batches)
{
    const char *overrides[16];
    FrontendOptions options = {.overrides = overrides, .micro_batches = micro_batches};
    for (const char *at = sets ? sets : ""; *at; at += strspn(at, " "))
    {
        size_t n = strcspn(at, " ");
        assert_true(options.n_overrides < 16);
        overrides[options.n_overrides++] = arena_strndup(arena, at, n);
        at += n;
    }
    Diag *diag = diag_create(arena);
    Job *job;
    const char *root = getenv("PTC_SOURCE_DIR");
    Status status = frontend_load(arena, diag, arena_printf(arena, "%s/%s", root ? root : ".", path), &options, &job);
    diag_print(diag, stdout, false);
    assert_int_equal(status, STATUS_OK);
    return job->module;
}

void model_run_passes(Arena **arena, IrModule **m, const char *passes)
{
    Diag *diag = diag_create(*arena);
    Status status = pass_manager_run(arena, m, diag, passes, &(PassOptions){.verify_each = true});
    diag_print(diag, stdout, false);
    assert_int_equal(status, STATUS_OK);
}

/* ---- values */

static double noise(const char *name, uint64_t i)
{
    uint64_t z = 0x9e3779b97f4a7c15u * (i + 1);
    for (const char *c = name; *c; c++)
        z = (z ^ (uint64_t)(unsigned char)*c) * 0x100000001b3u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}

/* "batch.ids.2" is micro-batch 2 of "batch.ids". */
static void fill_batch(const IrGlobalData *global, int64_t n_samples, double *out)
{
    char field[128];
    snprintf(field, sizeof field, "%s", global->name + strlen("batch."));
    char *dot = strchr(field, '.');
    const int64_t rows = global->type.dims[0], first = dot ? atoi(dot + 1) * rows : 0;
    const int64_t width = ir_type_n_elems(&global->type) / rows;
    if (dot)
        *dot = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i++)
        {
            const double x = noise(field, (uint64_t)((first + r) * width + i));
            double *at = &out[r * width + i];
            if (strcmp(field, "sample") == 0)
                *at = (double)(first + r);
            else if (first + r >= n_samples)
                *at = 0;
            else if (strcmp(field, "mask") == 0)
                *at = 1;
            else if (global->type.dtype == DT_F32)
                *at = 2 * x - 1;
            else
                *at = floor(x * (global->type.dtype == DT_U8 ? 256 : 4));
        }
}

static void fill(const IrGlobalData *global, int64_t n_samples, double *out)
{
    const int64_t n = ir_type_n_elems(&global->type);
    if (strncmp(global->name, "batch.", 6) == 0)
        fill_batch(global, n_samples, out);
    else if (strcmp(global->name, "lr") == 0)
        *out = 0.125;
    else
        for (int64_t i = 0; i < n; i++)
            out[i] = global->type.dtype != DT_F32      ? 1
                     : global->kind == IR_GLOBAL_STATE ? noise(global->name, (uint64_t)i) / 4
                                                       : noise(global->name, (uint64_t)i) - 0.5;
}

InterpEnv *model_run(const IrModule *m, int64_t n_samples)
{
    InterpEnv *env = ir_interp_env_create();
    ir_interp_bind_rest(env, m);
    for (IrGlobal g = 1; g < m->globals.len; g++)
        if (ir_global(m, g)->kind != IR_GLOBAL_OUTPUT)
            fill(ir_global(m, g), n_samples, ir_interp_find(env, ir_global(m, g)->name));
    Status status = ir_interp_run(env, m, ir_func_find(m, "train"));
    if (status != STATUS_OK)
        fail_msg("%s: %s", m->name, status_detail());
    return env;
}

const char *model_compare(Arena *arena, const IrModule *m, const InterpEnv *a, const InterpEnv *b, double bound)
{
    for (IrGlobal g = 1; g < m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(m, g);
        const double *x = ir_interp_find(a, global->name), *y = ir_interp_find(b, global->name);
        for (int64_t i = 0; global->kind != IR_GLOBAL_INPUT && x && y && i < ir_type_n_elems(&global->type); i++)
            if (!(fabs(x[i] - y[i]) <= bound * (1 + fabs(x[i]))) && !(isnan(x[i]) && isnan(y[i])))
                return arena_printf(arena, "%s[%lld] is %.17g and %.17g", global->name, (long long)i, x[i], y[i]);
    }
    return NULL;
}
