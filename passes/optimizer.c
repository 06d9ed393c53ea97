/* Appends what follows the gradients: clipping by the global norm, then the update of every param by a row of
 * optimizers.def.
 *
 * On entry: @train sets outputs "grad:NAME" and names its optimizer and hyper-parameters in its attributes. On exit:
 * ops of phase OPTIMIZER at the end, after a check_finite of the loss (and, when clipping, one of grad_norm); states
 * are globals; inputs "lr" and "step" are read; the "grad:" outputs are gone; "grad_norm" is an output when clip_norm
 * is set. */
#include "base/bug.h"
#include "base/strbuf.h"
#include "ir/expr.h"
#include "passes/composites.h"
#include "passes/manager.h"

#include <ctype.h>
#include <string.h>

enum
{
    MAX_HYPER = 6,
    MAX_STATES = 4,
    MAX_LETS = 8,
    MAX_VARS = 32
};

typedef struct
{
    const char *name, *expr;
} Let;

typedef struct
{
    IrAttrKey key;
    double absent;
} Hyper;

typedef struct
{
    const char *name;
    Hyper hyper[MAX_HYPER + 1]; /* ends with key NONE */
    const char *states[MAX_STATES + 1];
    Let scalars[MAX_LETS + 1], decay[MAX_LETS + 1], update[MAX_LETS + 1];
} OptimizerRow;

#define DEFAULT(key, value) {IR_ATTR_##key, value},
#define LET(name, expr)     {#name, expr},
#define HYPER(...)                                                                                                     \
    {                                                                                                                  \
        __VA_ARGS__                                                                                                    \
        {                                                                                                              \
            IR_ATTR_NONE, 0                                                                                            \
        }                                                                                                              \
    }
#define STATES(...)                                                                                                    \
    {                                                                                                                  \
        __VA_ARGS__ __VA_OPT__(, ) NULL                                                                                \
    }
#define LETS(...)                                                                                                      \
    {                                                                                                                  \
        __VA_ARGS__                                                                                                    \
        {                                                                                                              \
            NULL, NULL                                                                                                 \
        }                                                                                                              \
    }
#define SCALARS                                                LETS
#define DECAY                                                  LETS
#define UPDATE                                                 LETS
#define OPTIMIZER(name, hyper, states, scalars, decay, update) {#name, hyper, states, scalars, decay, update},
static const OptimizerRow optimizers[] = {
#include "passes/optimizers.def"
};
#undef OPTIMIZER

enum
{
    N_OPTIMIZERS = sizeof optimizers / sizeof optimizers[0]
};

/* Names that expressions may use; a later binding of a name hides the earlier. */
typedef struct
{
    IrExprVar vars[MAX_VARS];
    uint32_t n;
} Scope;

static void scope_bind(Scope *scope, const char *name, IrValue value)
{
    for (uint32_t i = 0; i < scope->n; i++)
        if (strcmp(scope->vars[i].name, name) == 0)
        {
            scope->vars[i].value = value;
            return;
        }
    ENSURE(scope->n < MAX_VARS);
    scope->vars[scope->n++] = (IrExprVar){name, value};
}

static IrValue scope_find(const Scope *scope, const char *name)
{
    for (uint32_t i = 0; i < scope->n; i++)
        if (strcmp(scope->vars[i].name, name) == 0)
            return scope->vars[i].value;
    BUG("optimizer: no value is named '%s'", name);
}

/* How a group of params is updated. */
typedef struct
{
    double lr_scale, weight_decay;
    Scope scalars;
} Settings;

typedef struct
{
    PassContext *ctx;
    IrModule *m;
    IrFunc train;
    const OptimizerRow *row;
    double hyper[MAX_HYPER];
    int weight_decay;   /* its place in hyper; -1: the optimizer has none */
    IrValue clip_scale; /* f32[]; 0: no clipping */
    IrValue lr, step;   /* f32[] */
    Span span;          /* of the loss */
    VEC(Settings) settings;
} Optimizer;

/* The expression with hyper-parameters replaced by their numbers. */
static const char *with_numbers(const Optimizer *o, double weight_decay, const char *expr)
{
    StrBuf buf = strbuf_make(o->ctx->scratch);
    for (const char *at = expr; *at;)
    {
        size_t n = 0;
        while (isalnum((unsigned char)at[n]) || at[n] == '_' || at[n] == '.')
            n++;
        const Hyper *hyper = o->row->hyper;
        while (hyper->key && !(strlen(ir_attr_name(hyper->key)) == n && strncmp(ir_attr_name(hyper->key), at, n) == 0))
            hyper++;
        if (n > 0 && hyper->key)
        {
            strbuf_add(&buf, "(");
            strbuf_add_f64(&buf, hyper->key == IR_ATTR_weight_decay ? weight_decay : o->hyper[hyper - o->row->hyper]);
            strbuf_add(&buf, ")");
        }
        else
            strbuf_add_bytes(&buf, at, n ? n : 1);
        at += n ? n : 1;
    }
    return strbuf_text(&buf);
}

static void run_lets(const Optimizer *o, IrBuilder *b, double weight_decay, Scope *scope, const Let *lets)
{
    for (; lets->name; lets++)
        scope_bind(scope, lets->name,
                   ir_build_expr(b, with_numbers(o, weight_decay, lets->expr), scope->vars, scope->n));
}

static bool read_attrs(Optimizer *o, Span span)
{
    const IrAttrs *attrs = &ir_func(o->m, o->train)->attrs;
    const char *name = ir_attrs_str(attrs, IR_ATTR_optimizer);
    const char *names[N_OPTIMIZERS];
    for (uint32_t i = 0; i < N_OPTIMIZERS; i++)
    {
        names[i] = optimizers[i].name;
        if (name && strcmp(name, names[i]) == 0)
            o->row = &optimizers[i];
    }
    if (!o->row)
    {
        diag_error(o->ctx->diag, span, name ? "no optimizer is named '%s'" : "@train names no optimizer%s",
                   name ? name : "");
        if (name)
            diag_suggest(o->ctx->diag, str_nearest(name, names, N_OPTIMIZERS));
        return false;
    }
    o->weight_decay = -1;
    for (uint32_t i = 0; o->row->hyper[i].key; i++)
    {
        o->hyper[i] = ir_attrs_float(attrs, o->row->hyper[i].key, o->row->hyper[i].absent);
        if (o->row->hyper[i].key == IR_ATTR_weight_decay)
            o->weight_decay = (int)i;
    }
    return true;
}

/* ---- gradients */

typedef struct
{
    IrOp set;
    IrValue grad;
    IrGlobal param;
} Gradient;

typedef VEC(Gradient) Gradients;

static const char grad_prefix[] = "grad:";

static bool is_grad_name(const char *name)
{
    return strncmp(name, grad_prefix, strlen(grad_prefix)) == 0;
}

/* The gradients in program order; their sets and output globals go away. False when one belongs to no param. */
static bool take_gradients(Optimizer *o, Gradients *out_grads)
{
    IrModule *m = o->m;
    Gradients grads = {0};
    for (IrOp op = ir_func(m, o->train)->first, next; op; op = next)
    {
        const IrOpData *data = ir_op(m, op);
        next = data->next;
        const char *name = data->code == IR_set ? ir_attrs_str(&data->attrs, IR_ATTR_global) : "";
        if (!is_grad_name(name))
            continue;
        IrGlobal param = ir_global_find(m, name + strlen(grad_prefix));
        if (!param || ir_global(m, param)->kind != IR_GLOBAL_PARAM ||
            !ir_type_same_shape(&ir_global(m, param)->type, ir_value_type(m, data->operands[0])))
        {
            diag_error(o->ctx->diag, data->span, "'%s' is not the gradient of a param", name);
            return false;
        }
        vec_push(o->ctx->scratch, &grads, (Gradient){op, data->operands[0], param});
        ir_op_remove(m, op);
    }
    uint32_t kept = 1;
    for (IrGlobal g = 1; g < m->globals.len; g++)
        if (!is_grad_name(ir_global(m, g)->name))
            m->globals.data[kept++] = m->globals.data[g];
    m->globals.len = kept;
    for (uint32_t i = 0; i < grads.len; i++)
    {
        const char *name = ir_attrs_str(&ir_op(m, grads.data[i].set)->attrs, IR_ATTR_global);
        grads.data[i].param = ir_global_find(m, name + strlen(grad_prefix));
    }
    *out_grads = grads;
    return true;
}

/* By unit, 0 where it has no gradients. Squares of a unit's gradients are added in the unit. */
static IrValue *squares_by_unit(const Optimizer *o, const IrBuilder *like, const Gradients *grads, uint32_t *out_n)
{
    IrModule *m = o->m;
    uint32_t n_units = 1;
    for (uint32_t i = 0; i < grads->len; i++)
        if (ir_op(m, grads->data[i].set)->unit >= n_units)
            n_units = ir_op(m, grads->data[i].set)->unit + 1;
    IrValue *sums = ARENA_ARRAY(o->ctx->scratch, IrValue, n_units);
    IrBuilder b = *like;
    for (uint32_t i = 0; i < grads->len; i++)
    {
        b.unit = ir_op(m, grads->data[i].set)->unit;
        IrValue g = ir_build_cast(&b, grads->data[i].grad, DT_F32);
        IrValue squares = composite_sum_all(&b, ir_build2(&b, IR_mul, g, g));
        sums[b.unit] = sums[b.unit] ? ir_build2(&b, IR_add, sums[b.unit], squares) : squares;
    }
    *out_n = n_units;
    return sums;
}

/* Adds them up over steps, for whoever decides what is frozen. */
static void track_squares(const Optimizer *o, const IrBuilder *like, const IrValue *squares, uint32_t n_units)
{
    IrBuilder b = *like;
    for (uint32_t unit = 1; unit < n_units; unit++)
    {
        if (!squares[unit])
            continue;
        const char *name = arena_printf(o->m->arena, "grad_sq:%u", unit);
        const IrAttr attrs[] = {ir_attr_str(IR_ATTR_init, "zeros"), ir_attr_int(IR_ATTR_unit, unit)};
        if (!ir_global_find(o->m, name))
            ir_global_add(o->m, IR_GLOBAL_STATE, name, ir_type_scalar(DT_F32), attrs, 2, b.span);
        b.unit = unit;
        ir_build_set(&b, name, ir_build2(&b, IR_add, ir_build_get(&b, name), squares[unit]));
    }
}

/* Those of units in the order of units: the same sum wherever the pipeline is cut. */
static IrValue total_of(const IrBuilder *like, const IrValue *squares, uint32_t n_units)
{
    IrBuilder b = *like;
    IrValue total = 0;
    b.unit = 0;
    for (uint32_t unit = 0; unit < n_units; unit++)
        if (squares[unit])
            total = total ? ir_build2(&b, IR_add, total, squares[unit]) : squares[unit];
    return total;
}

/* Like torch.nn.utils.clip_grad_norm_: all gradients times min(1, clip / (norm + 1e-6)). */
static void build_clipping(Optimizer *o, IrBuilder *b, double clip, const IrValue *squares, uint32_t n_units)
{
    IrExprVar vars[] = {{"norm", ir_build1(b, IR_sqrt, total_of(b, squares, n_units))},
                        {"clip", ir_build_const(b, ir_type_scalar(DT_F32), clip)}};
    o->clip_scale = ir_build_expr(b, "min(clip / (norm + 1e-6), 1)", vars, 2);
    if (!ir_global_find(o->m, "grad_norm"))
        ir_global_add(o->m, IR_GLOBAL_OUTPUT, "grad_norm", ir_type_scalar(DT_F32), NULL, 0, b->span);
    ir_build_set(b, "grad_norm", vars[0].value);
    ir_build_op(b, IR_check_finite, NULL, &vars[0].value, 1, NULL, 0);
}

/* Before anything is updated; on the gradients of the whole batch, before clipping. */
static void build_norms(Optimizer *o, IrBuilder *b, const Gradients *grads)
{
    const IrAttrs *attrs = &ir_func(o->m, o->train)->attrs;
    const double clip = ir_attrs_float(attrs, IR_ATTR_clip_norm, 0);
    const bool track = ir_attrs_bool(attrs, IR_ATTR_track);
    if (clip <= 0 && !track)
        return;
    uint32_t n_units;
    const IrValue *squares = squares_by_unit(o, b, grads, &n_units);
    if (clip > 0)
        build_clipping(o, b, clip, squares, n_units);
    if (track)
        track_squares(o, b, squares, n_units);
}

/* ---- updates */

static const char *state_name(const Optimizer *o, const char *state, const char *param)
{
    return arena_printf(o->m->arena, "%s.%s:%s", o->row->name, state, param);
}

/* The scalars that a param's update starts from, built where they are first needed. */
static Settings settings_of(Optimizer *o, const IrBuilder *like, const IrGlobalData *param)
{
    const double absent = o->weight_decay < 0 ? 0 : o->hyper[o->weight_decay];
    const double lr_scale = ir_attrs_float(&param->attrs, IR_ATTR_lr_scale, 1);
    const double weight_decay =
        ir_attrs_bool(&param->attrs, IR_ATTR_decay) ? ir_attrs_float(&param->attrs, IR_ATTR_weight_decay, absent) : 0;
    for (uint32_t i = 0; i < o->settings.len; i++)
        if (o->settings.data[i].lr_scale == lr_scale && o->settings.data[i].weight_decay == weight_decay)
            return o->settings.data[i];
    Settings settings = {.lr_scale = lr_scale, .weight_decay = weight_decay};
    IrBuilder b = *like;
    b.unit = 0;
    b.span = o->span;
    IrValue lr = o->lr;
    if (lr_scale != 1)
        lr = ir_build2(&b, IR_mul, lr, ir_build_const(&b, ir_type_scalar(DT_F32), lr_scale));
    scope_bind(&settings.scalars, "lr", lr);
    scope_bind(&settings.scalars, "step", o->step);
    run_lets(o, &b, weight_decay, &settings.scalars, o->row->scalars);
    vec_push(o->ctx->scratch, &o->settings, settings);
    return settings;
}

static void update_param(Optimizer *o, IrBuilder *b, const Gradient *gradient)
{
    IrModule *m = o->m;
    const IrGlobalData param = *ir_global(m, gradient->param);
    const Settings settings = settings_of(o, b, &param);
    b->span = param.span;
    b->unit = ir_op(m, gradient->set)->unit;
    Scope scope = settings.scalars;
    scope_bind(&scope, "p", ir_build_get(b, param.name));
    IrValue g = ir_build_cast(b, gradient->grad, (DType)param.type.dtype);
    IrExprVar clipped[] = {{"g", g}, {"scale", o->clip_scale}};
    scope_bind(&scope, "g", o->clip_scale ? ir_build_expr(b, "g * scale", clipped, 2) : g);
    for (const char *const *state = o->row->states; *state; state++)
    {
        const char *name = state_name(o, *state, param.name);
        IrAttr attrs[] = {ir_attr_str(IR_ATTR_of, param.name), ir_attr_str(IR_ATTR_init, "zeros")};
        if (!ir_global_find(m, name))
            ir_global_add(m, IR_GLOBAL_STATE, name, param.type, attrs, 2, param.span);
        scope_bind(&scope, *state, ir_build_get(b, name));
    }
    if (settings.weight_decay != 0)
        run_lets(o, b, settings.weight_decay, &scope, o->row->decay);
    run_lets(o, b, settings.weight_decay, &scope, o->row->update);
    ir_build_set(b, param.name, scope_find(&scope, "p"));
    for (const char *const *state = o->row->states; *state; state++)
        ir_build_set(b, state_name(o, *state, param.name), scope_find(&scope, *state));
}

static void add_input(IrModule *m, const char *name, DType dtype)
{
    if (!ir_global_find(m, name))
        ir_global_add(m, IR_GLOBAL_INPUT, name, ir_type_scalar(dtype), NULL, 0, (Span){0});
}

static IrOp find_loss_set(const IrModule *m, IrFunc train)
{
    IR_FOR_OPS(m, train, op)
    if (ir_op(m, op)->code == IR_set && strcmp(ir_attrs_str(&ir_op(m, op)->attrs, IR_ATTR_global), "loss") == 0)
        return op;
    return 0;
}

/* What autodiff leaves behind has these; IR from elsewhere may not. */
static bool check_entry(const Optimizer *o, IrOp loss_set)
{
    if (!loss_set)
    {
        diag_error(o->ctx->diag, (Span){0}, "@train does not set \"loss\"");
        return false;
    }
    static const char *const inputs[] = {"lr", "step"};
    for (int i = 0; i < 2; i++)
    {
        IrGlobal global = ir_global_find(o->m, inputs[i]);
        IrType want = ir_type_scalar(i ? DT_I32 : DT_F32);
        if (global &&
            (ir_global(o->m, global)->kind != IR_GLOBAL_INPUT || !ir_type_equal(&ir_global(o->m, global)->type, &want)))
        {
            diag_error(o->ctx->diag, ir_global(o->m, global)->span, "\"%s\" must be an input %s", inputs[i],
                       ir_type_text(o->ctx->scratch, &want));
            return false;
        }
    }
    return true;
}

bool pass_optimizer(PassContext *ctx)
{
    Optimizer o = {.ctx = ctx, .m = ctx->m, .train = ir_func_find(ctx->m, "train")};
    IrOp loss_set = find_loss_set(o.m, o.train);
    Gradients grads = {0};
    if (!check_entry(&o, loss_set) || !read_attrs(&o, ir_op(o.m, loss_set)->span) || !take_gradients(&o, &grads))
        return false;
    IrBuilder b = ir_builder(o.m, o.train);
    b.span = ir_op(o.m, loss_set)->span;
    b.phase = IR_PHASE_OPTIMIZER;
    ir_build_op(&b, IR_check_finite, NULL, &ir_op(o.m, loss_set)->operands[0], 1, NULL, 0);
    add_input(o.m, "lr", DT_F32);
    add_input(o.m, "step", DT_I32);
    build_norms(&o, &b, &grads);
    o.span = b.span;
    o.lr = ir_build_get(&b, "lr");
    o.step = ir_build_cast(&b, ir_build_get(&b, "step"), DT_F32);
    for (uint32_t i = 0; i < grads.len; i++)
        update_param(&o, &b, &grads.data[i]);
    return true;
}
