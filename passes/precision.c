/* Mixed precision, as the attribute `precision` of @train says: contractions work on bf16, and what lies in memory
 * between the kernels of the forward and the backward pass is bf16. What is computed in registers stays f32, and so do
 * params, optimizer states, the gradients of params, and whatever is a sum (statistics of norms, losses).
 *
 * Runs on the whole program, before partition: what is rounded is then the same wherever the pipeline is cut. On exit
 * every rounded value has one cast to bf16, where it is made, and its readers cast that back, each for itself: such a
 * cast is a load to the kernel that reads (pass fuse). With tf32 nothing is rounded here: the library does it.
 *
 * Rounded are operands and results of contractions, and a value that some reader can only have from memory. Whether it
 * can is told by levels: how many kernels must have run, one after another, before a value is there. An elementwise op
 * of a higher level than its operand waits for something else meanwhile (a residual connection does). What the backward
 * pass reads of the forward pass is left to pass recompute. */
#include "base/bug.h"
#include "ir/builder.h"
#include "passes/cache_prefix.h"
#include "passes/einsum.h"
#include "passes/manager.h"

#include <string.h>

typedef struct
{
    PassContext *ctx;
    IrModule *m;
    IrFunc func;
    uint32_t n_old;   /* values */
    uint32_t *level;  /* by old value; 0: of inputs, params and constants alone */
    bool *is_sum;     /* by old value: a sum, or computed from sums alone */
    bool *wide;       /* by old value: somebody reads it as f32 from memory */
    bool *rounded;    /* by old value */
    IrValue *narrow;  /* by old value: its bf16; 0: not made yet */
    IrValue *widened; /* by old value: what stands for it where f32 is read from memory; 0: itself */
} Precision;

static const IrOpData *def_of(const Precision *p, IrValue value)
{
    return ir_op(p->m, ir_value(p->m, value)->def);
}

static bool is_f32(const Precision *p, IrValue value)
{
    return ir_value_type(p->m, value)->dtype == DT_F32;
}

/* ---- what is converted */

/* The operands of a contraction that are bf16; attention_grad: q, k, v, out and the gradient of out. */
static bool reads_narrow(const IrOpData *op, uint32_t i)
{
    const uint32_t n_queries = ir_attrs_bool(&op->attrs, IR_ATTR_packed) ? 1 : 3; /* with keys and values */
    switch (op->code)
    {
    case IR_matmul:
    case IR_einsum:
        return i < 2;
    case IR_attention:
        return i < n_queries;
    case IR_attention_grad:
        return i < n_queries || i + 3 == op->n_operands || i + 1 == op->n_operands;
    default:
        return false;
    }
}

static bool gives_narrow(const IrOpData *op, uint32_t i)
{
    return op->code != IR_attention || i == 0; /* not the logsumexp */
}

static bool is_converted(const Precision *p, const IrOpData *op)
{
    if (op->phase == IR_PHASE_OPTIMIZER || !reads_narrow(op, 0) || !is_f32(p, op->operands[0]))
        return false;
    return op->code == IR_einsum ? einsum_is_matmul(ir_attrs_str(&op->attrs, IR_ATTR_expr))
                                 : op->code != IR_matmul || op->n_operands == 2;
}

/* It can give f32, too. */
static bool gives_f32(const Precision *p, const IrOpData *op)
{
    return p->wide[op->results[0]] && (op->code == IR_matmul || op->code == IR_einsum);
}

static bool is_border(const IrOpData *op)
{
    return (op->code == IR_get || op->code == IR_set) &&
           cache_prefix_is_border(ir_attrs_str(&op->attrs, IR_ATTR_global));
}

/* Fusable work that reads its operands element by element, or row by row. */
static bool is_fusable(IrCode code)
{
    return ir_code_has(code, IR_TRAIT_EWISE | IR_TRAIT_REDUCE | IR_TRAIT_VIEW | IR_TRAIT_COMPOSITE) &&
           code != IR_einsum;
}

static bool is_plain_view(const IrOpData *op)
{
    return ir_code_has(op->code, IR_TRAIT_VIEW) && op->n_operands == 1;
}

/* Views that read memory in another order: what they read is there. */
static bool moves_elements(IrCode code)
{
    return ir_code_has(code, IR_TRAIT_VIEW) && code != IR_reshape && code != IR_broadcast;
}

static IrValue behind_views(const Precision *p, IrValue value)
{
    while (is_plain_view(def_of(p, value)))
        value = def_of(p, value)->operands[0];
    return value;
}

/* Reshapes and broadcasts are never in memory. */
static IrValue stored_behind(const Precision *p, IrValue value)
{
    while (is_plain_view(def_of(p, value)) && !moves_elements(def_of(p, value)->code))
        value = def_of(p, value)->operands[0];
    return value;
}

/* ---- levels and sums */

static uint32_t level_of(const Precision *p, const IrOpData *op)
{
    uint32_t level = is_border(op) ? 1 : 0;
    for (uint32_t i = 0; i < op->n_operands; i++)
    {
        const IrValue value = op->operands[i];
        const uint32_t below = p->level[value], crosses = below > 0 && def_of(p, value)->unit != op->unit;
        level = below + crosses > level ? below + crosses : level;
    }
    if (moves_elements(op->code))
        return level + (level > 0);
    return level + (op->code == IR_einsum || ir_code_has(op->code, IR_TRAIT_TEMPLATE | IR_TRAIT_LIBRARY));
}

static bool is_sum(const Precision *p, const IrOpData *op, uint32_t result)
{
    if (ir_code_has(op->code, IR_TRAIT_REDUCE) || op->code == IR_cross_entropy)
        return true;
    if (op->code == IR_attention && result == 1)
        return true;
    bool any = false;
    for (uint32_t i = 0; i < op->n_operands && ir_code_has(op->code, IR_TRAIT_EWISE | IR_TRAIT_VIEW); i++)
        any = any || (op->code != IR_broadcast && p->is_sum[op->operands[i]]);
    return any;
}

static void find_levels(Precision *p)
{
    IR_FOR_OPS(p->m, p->func, op)
    {
        const IrOpData *data = ir_op(p->m, op);
        const uint32_t level = level_of(p, data);
        for (uint32_t i = 0; i < data->n_results; i++)
        {
            p->level[data->results[i]] = level;
            p->is_sum[data->results[i]] = is_sum(p, data, i);
        }
    }
}

/* From the end: the optimizer and sums over micro-batches want f32, also of what a value of theirs is added up or moved
 * from; templates read it. */
static void find_wide(Precision *p)
{
    bool *wanted = ARENA_ARRAY(p->ctx->scratch, bool, p->n_old);
    for (IrOp op = ir_func(p->m, p->func)->last; op; op = ir_op(p->m, op)->prev)
    {
        const IrOpData *data = ir_op(p->m, op);
        const bool is_template = ir_code_has(data->code, IR_TRAIT_TEMPLATE), converted = is_converted(p, data);
        bool wants = data->phase == IR_PHASE_OPTIMIZER || data->code == IR_accumulate;
        for (uint32_t i = 0; i < data->n_results && ir_code_has(data->code, IR_TRAIT_EWISE | IR_TRAIT_VIEW); i++)
            wants = wants || wanted[data->results[i]];
        for (uint32_t i = 0; i < data->n_operands; i++)
        {
            const IrValue value = data->operands[i];
            wanted[value] = wanted[value] || wants;
            if (wants || (is_template && !(converted && reads_narrow(data, i))))
                p->wide[value] = p->wide[stored_behind(p, value)] = true;
        }
    }
}

/* ---- what is rounded */

static void round_value(Precision *p, IrValue value)
{
    if (p->level[value] > 0 && is_f32(p, value))
        p->rounded[value] = true;
}

static void find_rounded(Precision *p)
{
    const IrModule *m = p->m;
    IR_FOR_OPS(m, p->func, op)
    {
        const IrOpData *data = ir_op(m, op);
        const bool converted = is_converted(p, data);
        for (uint32_t i = 0; i < data->n_results && converted && !gives_f32(p, data); i++)
            if (gives_narrow(data, i))
                round_value(p, data->results[i]);
        if (data->phase == IR_PHASE_OPTIMIZER)
            continue;
        for (uint32_t i = 0; i < data->n_operands; i++)
        {
            const IrValue value = stored_behind(p, data->operands[i]);
            if (converted && reads_narrow(data, i))
                round_value(p, behind_views(p, value));
            else if (p->is_sum[value] || p->wide[value])
                continue;
            else if (is_border(data) || (is_fusable(data->code) && def_of(p, value)->phase == data->phase &&
                                         data->n_results > 0 && p->level[data->results[0]] > p->level[value]))
                round_value(p, value);
        }
    }
}

/* ---- rewriting */

/* The bf16 of a value, for op. What is made of inputs and params alone is cast for each reader, since it may be made
 * on every stage. */
static IrValue narrow_for(Precision *p, IrValue value, IrOp op)
{
    IrModule *m = p->m;
    if (value >= p->n_old) /* wide_for has put it behind a view */
        return def_of(p, value)->operands[0];
    if (p->narrow[value])
        return p->narrow[value];
    const IrOp def = ir_value(m, value)->def;
    const IrOpData data = *ir_op(m, def);
    IrBuilder b = ir_builder_before(m, op);
    if (!is_plain_view(&data))
    {
        ENSURE(p->level[value] == 0);
        return ir_build_cast(&b, value, DT_BF16);
    }
    const IrValue operand = narrow_for(p, data.operands[0], op);
    if (p->level[value] > 0)
    {
        b.unit = data.unit;
        b.phase = data.phase;
    }
    const uint32_t unit = b.unit;
    const IrOp view = ir_build_clone(&b, def, &operand);
    ir_op(m, view)->unit = unit;
    const IrValue result = ir_op_result(m, view, 0);
    ir_value(m, result)->type.dtype = DT_BF16;
    if (p->level[value] > 0)
        p->narrow[value] = result;
    return result;
}

/* What an op that reads f32 reads in the place of value. */
static IrValue wide_for(const Precision *p, IrValue value, IrOp op)
{
    const IrOpData *data = ir_op(p->m, op);
    bool keeps = data->phase == IR_PHASE_OPTIMIZER || !is_fusable(data->code);
    for (uint32_t i = 0; i < data->n_results; i++)
        keeps = keeps || p->wide[data->results[i]];
    if ((keeps && p->wide[value] && !p->rounded[value]) || !p->narrow[value])
        return p->widened[value] ? p->widened[value] : value;
    IrBuilder b = ir_builder_before(p->m, op);
    return ir_build_cast(&b, p->narrow[value], DT_F32);
}

static void convert(Precision *p, IrOp op)
{
    IrModule *m = p->m;
    const IrOpData old = *ir_op(m, op);
    IrValue *operands = ARENA_ARRAY(p->ctx->scratch, IrValue, old.n_operands);
    for (uint32_t i = 0; i < old.n_operands; i++)
        operands[i] = reads_narrow(&old, i) ? narrow_for(p, old.operands[i], op) : wide_for(p, old.operands[i], op);
    const bool wide = gives_f32(p, &old);
    const IrType type = ir_type_with_dtype(*ir_value_type(m, old.results[0]), wide ? DT_F32 : DT_BF16);
    IrBuilder b = ir_builder_before(m, op);
    const IrValue first = ir_build_op(&b, old.code, old.n_results == 1 ? &type : NULL, operands, old.n_operands,
                                      old.attrs.data, old.attrs.len);
    const IrOp new = ir_value(m, first)->def;
    for (uint32_t i = 0; i < old.n_results; i++)
        *(wide || !gives_narrow(&old, i) ? &p->widened[old.results[i]] : &p->narrow[old.results[i]]) =
            ir_op_result(m, new, i);
}

static void rewrite(Precision *p)
{
    IrModule *m = p->m;
    for (IrOp op = ir_func(m, p->func)->first, next; op; op = next)
    {
        const IrOpData data = *ir_op(m, op);
        next = data.next;
        const bool converted = is_converted(p, &data);
        if (converted)
            convert(p, op);
        else
            for (uint32_t i = 0; i < data.n_operands; i++)
            {
                const IrValue value = wide_for(p, data.operands[i], op);
                ir_op(m, op)->operands[i] = value;
            }
        for (uint32_t i = 0; i < data.n_results; i++)
        {
            const IrValue value = data.results[i];
            if (!p->rounded[value] || p->narrow[value])
                continue;
            IrBuilder b = ir_builder_before(m, op);
            b.before = next;
            p->narrow[value] = ir_build_cast(&b, p->widened[value] ? p->widened[value] : value, DT_BF16);
        }
        if (converted)
            ir_op_remove(m, op);
    }
}

static void narrow_function(PassContext *ctx, IrFunc func)
{
    const uint32_t n = ctx->m->values.len;
    Precision p = {.ctx = ctx,
                   .m = ctx->m,
                   .func = func,
                   .n_old = n,
                   .level = ARENA_ARRAY(ctx->scratch, uint32_t, n),
                   .is_sum = ARENA_ARRAY(ctx->scratch, bool, n),
                   .wide = ARENA_ARRAY(ctx->scratch, bool, n),
                   .rounded = ARENA_ARRAY(ctx->scratch, bool, n),
                   .narrow = ARENA_ARRAY(ctx->scratch, IrValue, n),
                   .widened = ARENA_ARRAY(ctx->scratch, IrValue, n)};
    find_levels(&p);
    find_wide(&p);
    find_rounded(&p);
    rewrite(&p);
}

bool pass_precision(PassContext *ctx)
{
    IrModule *m = ctx->m;
    const IrFunc train = ir_func_find(m, "train");
    const char *precision = train ? ir_attrs_str(&ir_func(m, train)->attrs, IR_ATTR_precision) : NULL;
    if (!precision)
        return true;
    IR_FOR_FUNCS(m, func)
    {
        if (ir_func(m, func)->kind != IR_FUNC_STEP)
            continue;
        ir_attrs_put(m->arena, &ir_func(m, func)->attrs, ir_attr_str(IR_ATTR_precision, precision));
        if (strcmp(precision, "bf16") == 0)
            narrow_function(ctx, func);
    }
    return true;
}
