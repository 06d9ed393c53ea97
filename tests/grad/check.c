/* See check.h. */
#include "check.h"

#include "ir/verify.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum
{
    MAX_CHECKED_ELEMS = 24 /* per param: more are sampled */
};

uint64_t check_seed(void)
{
    static uint64_t seed;
    if (!seed)
    {
        const char *text = getenv("PTC_TEST_SEED");
        seed = text ? strtoull(text, NULL, 10) : (uint64_t)time(NULL);
        printf("seed %llu (PTC_TEST_SEED)\n", (unsigned long long)seed);
    }
    return seed;
}

/* splitmix64 */
static uint64_t next_word(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double check_uniform(uint64_t *state)
{
    return (double)(next_word(state) >> 11) * 0x1p-53;
}

double check_normal(uint64_t *state)
{
    double u = check_uniform(state), v = check_uniform(state);
    return sqrt(-2 * log(1 - u)) * cos(2 * M_PI * v);
}

/* Near `about`, further than a difference step from all integers and from the values of other turns (modulo 61), so
 * that no difference crosses a kink of floor, max, select. */
static double off_the_kinks(double about, uint32_t turn)
{
    return floor(about * 64) / 64 + (1 + turn % 61) / 4096.0;
}

void check_bind_random(InterpEnv *env, const IrModule *m, const char *const *positive, uint64_t *state)
{
    ir_interp_bind_rest(env, m);
    uint32_t turn = 0;
    for (IrGlobal g = 1; g < m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(m, g);
        double *data = ir_interp_find(env, global->name);
        bool above_zero = false;
        for (const char *const *name = positive; name && *name; name++)
            above_zero = above_zero || strcmp(*name, global->name) == 0;
        for (int64_t i = 0; i < ir_type_n_elems(&global->type); i++)
        {
            if (global->kind == IR_GLOBAL_OUTPUT || global->kind == IR_GLOBAL_STATE)
                data[i] = 0;
            else if (global->type.dtype == DT_BOOL)
                data[i] = check_uniform(state) < 0.5;
            else if (!dtype_is_float((DType)global->type.dtype))
                data[i] = floor(check_uniform(state) * 5);
            else
                data[i] = off_the_kinks(above_zero ? 0.5 + 2 * check_uniform(state) : check_normal(state), turn++);
        }
    }
}

bool check_pass(IrModule *m, PassFn *pass)
{
    Arena *scratch = arena_create();
    PassContext ctx = {.m = m, .scratch = scratch, .diag = diag_create(scratch)};
    for (uint32_t i = 0; i < m->files.len; i++)
        diag_add_file(ctx.diag, m->files.data[i], NULL, 0);
    bool ok = pass(&ctx);
    diag_print(ctx.diag, stdout, false);
    assert_int_equal(ok, diag_error_count(ctx.diag) == 0);
    const char *why;
    if (!ir_verify(scratch, m, &why))
        fail_msg("%s: %s", m->name, why);
    arena_destroy(scratch);
    return ok;
}

double check_loss(InterpEnv *env, const IrModule *m)
{
    assert_int_equal(ir_interp_run(env, m, ir_func_find(m, "train")), STATUS_OK);
    return ir_interp_find(env, "loss")[0];
}

static double central_difference(InterpEnv *env, const IrModule *m, double *at)
{
    const double step = 1e-5, kept = *at;
    *at = kept + step;
    double above = check_loss(env, m);
    *at = kept - step;
    double below = check_loss(env, m);
    *at = kept;
    return (above - below) / (2 * step);
}

/* The worst difference of one param's gradient, relative to 1 + its size. */
static double param_error(InterpEnv *env, const IrModule *m, const IrGlobalData *param, const double *grad,
                          uint64_t *state)
{
    int64_t n = ir_type_n_elems(&param->type);
    double *data = ir_interp_find(env, param->name), worst = 0;
    int64_t n_checked = n < MAX_CHECKED_ELEMS ? n : MAX_CHECKED_ELEMS;
    for (int64_t k = 0; k < n_checked; k++)
    {
        int64_t i = n <= MAX_CHECKED_ELEMS ? k : (int64_t)(check_uniform(state) * (double)n);
        double expected = central_difference(env, m, &data[i]);
        double got = grad ? grad[i] : 0;
        double error = fabs(got - expected) / (1 + fabs(expected));
        if (!(error <= CHECK_GRADIENT_TOLERANCE))
            printf("%s: gradient of %s[%lld] is %.12g, differences say %.12g\n", m->name, param->name, (long long)i,
                   got, expected);
        worst = error <= worst ? worst : error;
    }
    return worst;
}

void check_same_outputs(InterpEnv *env, const IrModule *before, const IrModule *after)
{
    Arena *arena = arena_create();
    double **kept = ARENA_ARRAY(arena, double *, before->globals.len);
    check_loss(env, before);
    for (IrGlobal g = 1; g < before->globals.len; g++)
        kept[g] = arena_memdup(arena, ir_interp_find(env, ir_global(before, g)->name),
                               sizeof(double) * (size_t)ir_type_n_elems(&ir_global(before, g)->type));
    check_loss(env, after);
    for (IrGlobal g = 1; g < before->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(before, g);
        const double *now = ir_interp_find(env, global->name);
        for (int64_t i = 0; i < ir_type_n_elems(&global->type); i++)
            if (!(fabs(now[i] - kept[g][i]) <= 1e-12 * (1 + fabs(kept[g][i]))) && kept[g][i] != now[i])
                fail_msg("%s: %s[%lld] was %.17g and is %.17g", before->name, global->name, (long long)i, kept[g][i],
                         now[i]);
    }
    arena_destroy(arena);
}

/* NULL when the param has no gradient. */
static const char *grad_name(const IrModule *m, const char *param)
{
    for (IrGlobal g = 1; g < m->globals.len; g++)
    {
        const char *name = ir_global(m, g)->name;
        if (strncmp(name, "grad:", 5) == 0 && strcmp(name + 5, param) == 0)
            return name;
    }
    return NULL;
}

double check_gradient_error(InterpEnv *env, const IrModule *m, const IrModule *grads, uint64_t *state)
{
    double worst = 0;
    check_loss(env, grads);
    for (IrGlobal g = 1; g < m->globals.len; g++)
    {
        const IrGlobalData *param = ir_global(m, g);
        if (param->kind != IR_GLOBAL_PARAM || !ir_attrs_bool(&param->attrs, IR_ATTR_trainable))
            continue;
        const char *name = grad_name(grads, param->name);
        double error = param_error(env, m, param, name ? ir_interp_find(env, name) : NULL, state);
        worst = error <= worst ? worst : error;
    }
    return worst;
}

uint32_t check_gradients(const IrModule *m, const char *const *positive, uint64_t *state)
{
    Arena *arena = arena_create();
    IrModule *grads = ir_module_clone(arena, m);
    if (!check_pass(grads, pass_autodiff))
        fail_msg("%s: autodiff reports an error", m->name);
    IrModule *lowered = ir_module_clone(arena, grads);
    assert_true(check_pass(lowered, pass_decompose));
    InterpEnv *env = ir_interp_env_create();
    check_bind_random(env, grads, positive, state);
    check_same_outputs(env, grads, lowered);
    if (!(check_gradient_error(env, m, grads, state) <= CHECK_GRADIENT_TOLERANCE))
        fail_msg("%s: wrong gradients", m->name);
    uint32_t n_grads = 0;
    for (IrGlobal g = 1; g < m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(m, g);
        if (!grad_name(grads, global->name))
            continue;
        if (global->kind != IR_GLOBAL_PARAM || !ir_attrs_bool(&global->attrs, IR_ATTR_trainable))
            fail_msg("%s: %s is not trainable, yet has a gradient", m->name, global->name);
        n_grads++;
    }
    ir_interp_env_destroy(env);
    arena_destroy(arena);
    return n_grads;
}

uint32_t check_count_ops(const IrModule *m, IrPhase phase, uint32_t unit, IrCode code)
{
    uint32_t n = 0;
    IR_FOR_OPS(m, ir_func_find(m, "train"), op)
    {
        const IrOpData *data = ir_op(m, op);
        n += data->phase == phase && (!unit || data->unit == unit) && (!code || data->code == code);
    }
    return n;
}

void check_add_loss(IrBuilder *b, const IrValue *values, uint32_t n_values)
{
    static const int64_t all_axes[IR_MAX_RANK] = {0, 1, 2, 3, 4, 5, 6, 7};
    IrModule *m = b->m;
    IrValue loss = 0;
    for (uint32_t i = 0; i < n_values; i++)
    {
        IrType type = ir_type_with_dtype(*ir_value_type(m, values[i]), DT_F32);
        const char *name = arena_printf(m->arena, "weight%u", i);
        ir_global_add(m, IR_GLOBAL_INPUT, name, type, NULL, 0, (Span){0});
        IrValue weighted = ir_build2(b, IR_mul, ir_build_cast(b, values[i], DT_F32), ir_build_get(b, name));
        IrValue sum = ir_build_reduce(b, IR_reduce_sum, weighted, all_axes, type.rank);
        loss = loss ? ir_build2(b, IR_add, loss, sum) : sum;
    }
    ir_global_add(m, IR_GLOBAL_OUTPUT, "loss", ir_type_scalar(DT_F32), NULL, 0, (Span){0});
    ir_build_set(b, "loss", loss);
}
