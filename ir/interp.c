/* The interpreter's engine: environment, frames, the elementwise rows, dispatch. The other rows: interp_data.c (moving
 * and reducing), interp_math.c (contractions and composites).
 *
 * A value's buffer goes back to a free list of its size after the last use, so a step needs about the memory of its
 * live values. Buffers are never shared: views copy. */
#include "ir/interp.h"

#include "base/bug.h"
#include "ir/interp_rules.h"
#include "ir/scalar_f64.h"

#include <math.h>
#include <string.h>

typedef struct
{
    const char *name;
    double *data;
} Binding;

/* Unused buffers of one size. */
typedef struct FreeBuffer
{
    struct FreeBuffer *next;
} FreeBuffer;

typedef struct
{
    int64_t n_elems;
    FreeBuffer *first;
} FreeList;

struct InterpEnv
{
    Arena *arena;   /* bindings and the memory of bind_rest */
    Arena *scratch; /* values of one run */
    bool round_bf16;
    VEC(Binding) bindings;
    VEC(FreeList) free_lists; /* of one run, in scratch */
};

typedef struct
{
    IrGlobal global;
    const double *data;
} PendingSet;

struct InterpFrame
{
    InterpEnv *env;
    double **values; /* by value id */
    VEC(PendingSet) sets;
    const double *const *args; /* kernels */
    double *const *results;
    uint32_t next_arg, next_result;
    int64_t stream; /* kernels: of the call */
};

/* ---- environment */

InterpEnv *ir_interp_env_create(void)
{
    Arena *arena = arena_create();
    InterpEnv *env = ARENA_NEW(arena, InterpEnv);
    env->arena = arena;
    env->scratch = arena_create();
    return env;
}

void ir_interp_env_destroy(InterpEnv *env)
{
    if (!env)
        return;
    arena_destroy(env->scratch);
    arena_destroy(env->arena);
}

void ir_interp_env_round_bf16(InterpEnv *env, bool on)
{
    env->round_bf16 = on;
}

static Binding *find_binding(const InterpEnv *env, const char *global)
{
    for (uint32_t i = 0; i < env->bindings.len; i++)
        if (strcmp(env->bindings.data[i].name, global) == 0)
            return &env->bindings.data[i];
    return NULL;
}

void ir_interp_bind(InterpEnv *env, const char *global, double *data)
{
    Binding *binding = find_binding(env, global);
    if (binding)
        binding->data = data;
    else
        vec_push(env->arena, &env->bindings, (Binding){arena_strdup(env->arena, global), data});
}

void ir_interp_bind_rest(InterpEnv *env, const IrModule *m)
{
    for (IrGlobal g = 1; g < m->globals.len; g++)
        if (!find_binding(env, ir_global(m, g)->name))
            ir_interp_bind(env, ir_global(m, g)->name,
                           ARENA_ARRAY(env->arena, double, ir_type_n_elems(&ir_global(m, g)->type)));
}

double *ir_interp_find(const InterpEnv *env, const char *global)
{
    const Binding *binding = find_binding(env, global);
    return binding ? binding->data : NULL;
}

static double *bound(const InterpEnv *env, const char *global)
{
    double *data = ir_interp_find(env, global);
    if (!data)
        BUG("global '%s' is not bound", global);
    return data;
}

/* ---- elementwise rows */

/* Operand arrays that an op does not have point at the first, which it has. */
typedef void EwiseLoop(int64_t n, const double *pa, const double *pb, const double *pc, double *out);

#define SCALAR(...)                                                                                                    \
    for (int64_t i = 0; i < n; i++)                                                                                    \
    {                                                                                                                  \
        const double a = pa[i], b = pb[i], c = pc[i];                                                                  \
        (void)a, (void)b, (void)c;                                                                                     \
        out[i] = (double)(__VA_ARGS__);                                                                                \
    }
#define NOSCALAR (void)n, (void)pa, (void)pb, (void)pc, (void)out;
#define OP(name, in, out_, required, optional, shape, traits, grad, scalar, ...)                                       \
    static void ewise_##name(int64_t n, const double *pa, const double *pb, const double *pc, double *out)             \
    {                                                                                                                  \
        scalar                                                                                                         \
    }
#include "ir/ops.def"
#undef OP
#undef SCALAR
#undef NOSCALAR

typedef struct
{
    EwiseLoop *ewise;
    InterpRule *rule; /* NULL: the row is elementwise */
} Row;

#define SCALAR(...) EWISE_ROW
#define NOSCALAR    RULE_ROW
#define EWISE_ROW(name)                                                                                                \
    {                                                                                                                  \
        ewise_##name, NULL                                                                                             \
    }
#define RULE_ROW(name)                                                                                                 \
    {                                                                                                                  \
        ewise_##name, interp_##name                                                                                    \
    }
#define OP(name, in, out, required, optional, shape, traits, grad, scalar, ...) scalar(name),
static const Row rows[] = {
    {NULL, NULL},
#include "ir/ops.def"
};
#undef OP
#undef RULE_ROW
#undef EWISE_ROW
#undef SCALAR
#undef NOSCALAR

static double round_to_bf16(double value)
{
    float f = (float)value;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (isfinite(f))
        bits += 0x7fffu + (bits >> 16 & 1);
    bits &= 0xffff0000u;
    memcpy(&f, &bits, sizeof f);
    return isnan(value) ? value : (double)f;
}

double interp_convert(DType dtype, double value)
{
    switch (dtype)
    {
    case DT_I32:
        return trunc(value);
    case DT_U8:
        return fmod(256 + fmod(trunc(value), 256), 256);
    case DT_BOOL:
        return value != 0;
    default:
        return value;
    }
}

static void run_ewise(InterpOp *x)
{
    const double *a = x->in[0];
    const double *b = x->op->n_operands > 1 ? x->in[1] : a;
    const double *c = x->op->n_operands > 2 ? x->in[2] : a;
    const IrType *type = interp_out_type(x, 0);
    int64_t n = ir_type_n_elems(type);
    rows[x->op->code].ewise(n, a, b, c, x->out[0]);
    if (x->op->code == IR_cast)
        for (int64_t i = 0; i < n; i++)
            x->out[0][i] = interp_convert((DType)type->dtype, x->out[0][i]);
}

/* ---- buffers */

static FreeList *free_list(InterpEnv *env, int64_t n_elems)
{
    for (uint32_t i = 0; i < env->free_lists.len; i++)
        if (env->free_lists.data[i].n_elems == n_elems)
            return &env->free_lists.data[i];
    vec_push(env->scratch, &env->free_lists, (FreeList){.n_elems = n_elems});
    return &env->free_lists.data[env->free_lists.len - 1];
}

static double *buffer_take(InterpEnv *env, int64_t n_elems)
{
    FreeList *list = free_list(env, n_elems);
    FreeBuffer *buffer = list->first;
    if (!buffer)
        return ARENA_ARRAY(env->scratch, double, n_elems);
    list->first = buffer->next;
    return (double *)(void *)buffer;
}

static void buffer_give(InterpEnv *env, double *data, int64_t n_elems)
{
    FreeList *list = free_list(env, n_elems);
    FreeBuffer *buffer = (FreeBuffer *)(void *)data;
    buffer->next = list->first;
    list->first = buffer;
}

/* ---- effects: the rules that touch the frame */

Status interp_get(InterpOp *x)
{
    const double *data = bound(x->frame->env, ir_attrs_str(&x->op->attrs, IR_ATTR_global));
    memcpy(x->out[0], data, sizeof *data * (size_t)ir_type_n_elems(interp_out_type(x, 0)));
    return STATUS_OK;
}

Status interp_set(InterpOp *x)
{
    const IrGlobal global = ir_global_find(x->m, ir_attrs_str(&x->op->attrs, IR_ATTR_global));
    size_t size_bytes = sizeof(double) * (size_t)ir_type_n_elems(interp_in_type(x, 0));
    vec_push(x->scratch, &x->frame->sets, (PendingSet){global, arena_memdup(x->scratch, x->in[0], size_bytes)});
    return STATUS_OK;
}

Status interp_check_finite(InterpOp *x)
{
    int64_t n = ir_type_n_elems(interp_in_type(x, 0));
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x->in[0][i]))
            return status_fail(STATUS_NON_FINITE, "element %lld of a checked value is %g", (long long)i, x->in[0][i]);
    return STATUS_OK;
}

/* One micro-batch: the sum is the number itself. */
Status interp_accumulate(InterpOp *x)
{
    memcpy(x->out[0], x->in[0], sizeof(double) * (size_t)ir_type_n_elems(interp_in_type(x, 0)));
    return STATUS_OK;
}

/* The interpreter is one rank: there is nobody to talk to. */
static Status refuse_communication(const InterpOp *x)
{
    return status_fail(STATUS_UNSUPPORTED, "the interpreter runs on one rank only: it cannot '%s'",
                       ir_op_info(x->op->code)->name);
}

Status interp_send(InterpOp *x)
{
    return refuse_communication(x);
}

Status interp_recv(InterpOp *x)
{
    return refuse_communication(x);
}

Status interp_all_reduce(InterpOp *x)
{
    return refuse_communication(x);
}

Status interp_reduce(InterpOp *x)
{
    return refuse_communication(x);
}

Status interp_bcast(InterpOp *x)
{
    return refuse_communication(x);
}

Status interp_wait(InterpOp *x)
{
    return refuse_communication(x);
}

Status interp_arg(InterpOp *x)
{
    InterpFrame *frame = x->frame;
    memcpy(x->out[0], frame->args[frame->next_arg++], sizeof(double) * (size_t)ir_type_n_elems(interp_out_type(x, 0)));
    return STATUS_OK;
}

Status interp_output(InterpOp *x)
{
    InterpFrame *frame = x->frame;
    memcpy(frame->results[frame->next_result++], x->in[0],
           sizeof(double) * (size_t)ir_type_n_elems(interp_in_type(x, 0)));
    return STATUS_OK;
}

static Status run_ops(InterpFrame *frame, const IrModule *m, IrFunc func);

int64_t interp_stream(const InterpOp *x)
{
    return x->frame->stream + ir_attrs_int(&x->op->attrs, IR_ATTR_stream, 0);
}

Status interp_call(InterpOp *x)
{
    IrFunc kernel = ir_func_find(x->m, ir_attrs_str(&x->op->attrs, IR_ATTR_fn));
    InterpFrame frame = {.env = x->frame->env, .args = x->in, .results = x->out, .stream = interp_stream(x)};
    return run_ops(&frame, x->m, kernel);
}

/* ---- running */

static Status run_op(InterpFrame *frame, const IrModule *m, const IrOpData *op)
{
    Arena *scratch = frame->env->scratch;
    InterpOp x = {.m = m, .op = op, .scratch = scratch, .frame = frame};
    const double *few_in[8];
    double *few_out[8];
    x.in = op->n_operands <= 8 ? few_in : ARENA_ARRAY(scratch, const double *, op->n_operands);
    x.out = op->n_results <= 8 ? few_out : ARENA_ARRAY(scratch, double *, op->n_results);
    for (uint32_t i = 0; i < op->n_operands; i++)
    {
        x.in[i] = frame->values[op->operands[i]];
        ENSURE(x.in[i]);
    }
    for (uint32_t i = 0; i < op->n_results; i++)
        x.out[i] = frame->values[op->results[i]] = buffer_take(frame->env, ir_type_n_elems(interp_out_type(&x, i)));
    if (rows[op->code].rule)
        TRY(rows[op->code].rule(&x));
    else
        run_ewise(&x);
    for (uint32_t i = 0; frame->env->round_bf16 && i < op->n_results; i++)
    {
        const IrType *type = interp_out_type(&x, i);
        for (int64_t e = 0; type->dtype == DT_BF16 && e < ir_type_n_elems(type); e++)
            x.out[i][e] = round_to_bf16(x.out[i][e]);
    }
    return STATUS_OK;
}

static Status run_ops(InterpFrame *frame, const IrModule *m, IrFunc func)
{
    Arena *scratch = frame->env->scratch;
    frame->values = ARENA_ARRAY(scratch, double *, m->values.len);
    IrOp *last_use = ARENA_ARRAY(scratch, IrOp, m->values.len);
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData *data = ir_op(m, op);
        for (uint32_t i = 0; i < data->n_results; i++)
            last_use[data->results[i]] = op;
        for (uint32_t i = 0; i < data->n_operands; i++)
            last_use[data->operands[i]] = op;
    }
    IR_FOR_OPS(m, func, op)
    {
        const IrOpData *data = ir_op(m, op);
        TRY(run_op(frame, m, data));
        for (uint32_t i = 0; i < data->n_operands + data->n_results; i++)
        {
            IrValue v = i < data->n_operands ? data->operands[i] : data->results[i - data->n_operands];
            if (last_use[v] != op || !frame->values[v])
                continue;
            buffer_give(frame->env, frame->values[v], ir_type_n_elems(ir_value_type(m, v)));
            frame->values[v] = NULL;
        }
    }
    return STATUS_OK;
}

static void reset(InterpEnv *env)
{
    arena_reset(env->scratch);
    memset(&env->free_lists, 0, sizeof env->free_lists);
}

/* A copy that lies in another one is written there. */
static void write_set(const InterpEnv *env, const IrModule *m, const PendingSet *set)
{
    const int64_t n = ir_type_n_elems(&ir_global(m, set->global)->type);
    IrWindow window = {.whole = set->global};
    ir_global_window(m, set->global, &window);
    double *to = bound(env, ir_global(m, window.whole)->name) + window.start;
    const int64_t row = window.pitch ? window.row : n;
    for (int64_t i = 0; i < n; i += row, to += window.pitch)
        memcpy(to, set->data + i, sizeof *to * (size_t)row);
}

Status ir_interp_run(InterpEnv *env, const IrModule *m, IrFunc func)
{
    reset(env);
    InterpFrame frame = {.env = env};
    Status status = run_ops(&frame, m, func);
    for (uint32_t i = 0; i < frame.sets.len; i++)
        write_set(env, m, &frame.sets.data[i]);
    return status;
}

Status ir_interp_call(InterpEnv *env, const IrModule *m, IrFunc kernel, const double *const *args,
                      double *const *results)
{
    reset(env);
    InterpFrame frame = {.env = env, .args = args, .results = results};
    return run_ops(&frame, m, kernel);
}
