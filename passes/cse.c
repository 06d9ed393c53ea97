/* Common subexpressions: within a function, an op with the same code, operands, attributes and result types as an
 * earlier one is replaced by it. A merged op keeps the earlier one's phase: what the forward pass has computed the
 * backward pass reads (pass recompute may undo that where it is cheap).
 *
 * Views of params are merged within a unit only: they cost nothing, and a bias that layers share must reach the matmul
 * of each layer as a bias, wherever the pipeline is cut. */
#include "passes/manager.h"

#include "base/bug.h"

#include <string.h>

static uint64_t mix(uint64_t hash, uint64_t value)
{
    hash ^= value + 0x9e3779b97f4a7c15u + (hash << 6) + (hash >> 2);
    return hash * 0xff51afd7ed558ccdu;
}

static bool is_view_of_param(const IrModule *m, const IrOpData *op)
{
    if (!ir_code_has(op->code, IR_TRAIT_VIEW) || op->n_operands != 1)
        return false;
    const IrOpData *of = ir_op(m, ir_value(m, op->operands[0])->def);
    if (of->code != IR_get)
        return is_view_of_param(m, of);
    return ir_global(m, ir_global_find(m, ir_attrs_str(&of->attrs, IR_ATTR_global)))->kind == IR_GLOBAL_PARAM;
}

static uint64_t hash_op(const IrOpData *op)
{
    uint64_t hash = mix(0, op->code);
    for (uint32_t i = 0; i < op->n_operands; i++)
        hash = mix(hash, op->operands[i]);
    for (uint32_t i = 0; i < op->attrs.len; i++)
    {
        const IrAttr *attr = &op->attrs.data[i];
        uint64_t bits;
        memcpy(&bits, &attr->f, sizeof bits);
        hash = mix(mix(mix(hash, attr->key), (uint64_t)attr->i), bits);
        for (uint32_t k = 0; k < attr->n; k++)
            hash = mix(hash, (uint64_t)attr->ints[k]);
        for (const char *c = attr->s; c && *c; c++)
            hash = mix(hash, (unsigned char)*c);
    }
    return hash ^ hash >> 32;
}

static bool same_op(const IrModule *m, const IrOpData *a, const IrOpData *b)
{
    if (a->code != b->code || a->n_operands != b->n_operands || a->n_results != b->n_results ||
        memcmp(a->operands, b->operands, a->n_operands * sizeof *a->operands) != 0 ||
        !ir_attrs_equal(&a->attrs, &b->attrs) || (a->unit != b->unit && is_view_of_param(m, a)))
        return false;
    for (uint32_t i = 0; i < a->n_results; i++)
        if (!ir_type_equal(ir_value_type(m, a->results[i]), ir_value_type(m, b->results[i])))
            return false;
    return true;
}

static void merge_function(PassContext *ctx, IrFunc func)
{
    IrModule *m = ctx->m;
    uint32_t n_slots = 64;
    while (n_slots < 2 * m->ops.len)
        n_slots *= 2;
    IrOp *slots = ARENA_ARRAY(ctx->scratch, IrOp, n_slots);
    IrValue *map = ARENA_ARRAY(ctx->scratch, IrValue, m->values.len);
    for (IrOp op = ir_func(m, func)->first, next; op; op = next)
    {
        IrOpData *data = ir_op(m, op);
        next = data->next;
        for (uint32_t i = 0; i < data->n_operands; i++)
            if (map[data->operands[i]])
                data->operands[i] = map[data->operands[i]];
        if (ir_code_has(data->code, IR_TRAIT_EFFECT))
            continue;
        uint32_t at = (uint32_t)hash_op(data) & (n_slots - 1);
        while (slots[at] && !same_op(m, ir_op(m, slots[at]), data))
            at = (at + 1) & (n_slots - 1);
        if (!slots[at])
        {
            slots[at] = op;
            continue;
        }
        for (uint32_t i = 0; i < data->n_results; i++)
            map[data->results[i]] = ir_op(m, slots[at])->results[i];
        ir_op_remove(m, op);
    }
}

bool pass_cse(PassContext *ctx)
{
    IR_FOR_FUNCS(ctx->m, f)
    merge_function(ctx, f);
    return true;
}
