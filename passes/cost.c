/* Sums up ops by unit. */
#include "passes/cost.h"

#include "base/bug.h"

#include <string.h>

CostMachine cost_machine_default(int n_threads)
{
    const double n = n_threads > 0 ? n_threads : 1;
    return (CostMachine){.flops_per_s = 100e9 * n,
                         .bf16_flops_per_s = 200e9 * n,
                         .bytes_per_s = 20e9 * (n < 2 ? n : 1.5),
                         .op_s = 3e-6,
                         .link_bytes_per_s = 5e9,
                         .link_s = 5e-6,
                         .sum_bytes_per_s = 5e9};
}

typedef struct
{
    const IrModule *m;
    IrFunc train;
    UnitCost *units;
    uint32_t n_units;
    bool *awaited; /* by value: another unit's backward pass, further down, depends on it */
    IrValue *root; /* by value: whose memory it is in, through reshapes */
} Cost;

static UnitCost *unit_of(const Cost *c, const IrOpData *op)
{
    return &c->units[op->unit <= c->n_units ? op->unit : 0];
}

static int64_t bytes_of(const Cost *c, IrValue value)
{
    return ir_type_size_bytes(ir_value_type(c->m, value));
}

static double matmul_flops(const IrModule *m, const IrOpData *op)
{
    const IrType *a = ir_value_type(m, op->operands[0]), *out = ir_value_type(m, op->results[0]);
    const int64_t depth = a->dims[ir_attrs_bool(&op->attrs, IR_ATTR_ta) ? a->rank - 2 : a->rank - 1];
    return 2.0 * (double)ir_type_n_elems(out) * (double)depth;
}

/* Attention kernels multiply scores twice in the forward pass and five times in the backward pass. */
static double attention_flops(const IrModule *m, const IrOpData *call)
{
    IrFunc kernel = ir_func_find(m, ir_attrs_str(&call->attrs, IR_ATTR_fn));
    IR_FOR_OPS(m, kernel, op)
    {
        const IrOpData *data = ir_op(m, op);
        if (data->code != IR_attention && data->code != IR_attention_grad)
            continue;
        const bool packed = ir_attrs_bool(&data->attrs, IR_ATTR_packed);
        const IrType *q = ir_value_type(m, data->operands[0]), *k = ir_value_type(m, data->operands[packed ? 0 : 1]);
        const int64_t n_heads = q->dims[2] / (packed ? 3 : 1);
        double scores = (double)(q->dims[0] * n_heads) * (double)q->dims[1] * (double)k->dims[1];
        return (data->code == IR_attention ? 4.0 : 10.0) * scores * (double)q->dims[3];
    }
    return 0;
}

static double flops_of(const IrModule *m, const IrOpData *op)
{
    return op->code == IR_matmul ? matmul_flops(m, op) : op->code == IR_call ? attention_flops(m, op) : 0;
}

static double modelled_s(const Cost *c, const IrOpData *op, const CostMachine *machine)
{
    double bytes = 0, flops = flops_of(c->m, op);
    for (uint32_t i = 0; i < op->n_operands; i++)
        bytes += (double)bytes_of(c, op->operands[i]);
    for (uint32_t i = 0; i < op->n_results; i++)
        bytes += (double)bytes_of(c, op->results[i]);
    const bool bf16 = op->code == IR_matmul && ir_value_type(c->m, op->operands[0])->dtype == DT_BF16;
    double arithmetic_s = flops / (bf16 ? machine->bf16_flops_per_s : machine->flops_per_s),
           memory_s = bytes / machine->bytes_per_s;
    return machine->op_s + (arithmetic_s > memory_s ? arithmetic_s : memory_s);
}

/* From the end: a backward value is awaited when a backward op of another unit reads it, or one that is awaited. */
static void find_awaited(Cost *c)
{
    const IrModule *m = c->m;
    for (IrOp op = ir_func(m, c->train)->last; op; op = ir_op(m, op)->prev)
    {
        const IrOpData *data = ir_op(m, op);
        if (data->phase != IR_PHASE_BACKWARD)
            continue;
        bool awaited = false;
        for (uint32_t i = 0; i < data->n_results; i++)
            awaited = awaited || c->awaited[data->results[i]];
        for (uint32_t i = 0; i < data->n_operands; i++)
        {
            const IrOpData *def = ir_op(m, ir_value(m, data->operands[i])->def);
            if (awaited || (def->phase == IR_PHASE_BACKWARD && def->unit != data->unit))
                c->awaited[data->operands[i]] = true;
        }
    }
}

static void add_times(Cost *c, const double *op_seconds, const CostMachine *machine)
{
    const IrModule *m = c->m;
    IR_FOR_OPS(m, c->train, op)
    {
        const IrOpData *data = ir_op(m, op);
        if (data->code != IR_call && data->code != IR_matmul)
            continue;
        UnitCost *unit = unit_of(c, data);
        double seconds = op_seconds ? op_seconds[op] : modelled_s(c, data, machine), flops = flops_of(m, data);
        bool awaited = false;
        for (uint32_t i = 0; i < data->n_results; i++)
        {
            awaited = awaited || c->awaited[data->results[i]];
            if (bytes_of(c, data->results[i]) > unit->largest_bytes)
                unit->largest_bytes = bytes_of(c, data->results[i]);
        }
        switch (data->phase)
        {
        case IR_PHASE_FORWARD:
            unit->forward_s += seconds;
            unit->forward_flops += flops;
            break;
        case IR_PHASE_BACKWARD:
            unit->backward_s += seconds;
            unit->weight_s += awaited ? 0 : seconds;
            unit->backward_flops += flops;
            break;
        case IR_PHASE_OPTIMIZER:
            unit->update_s += seconds;
            break;
        }
    }
}

/* What crosses from forward to backward, and from unit to unit. */
static void add_traffic(Arena *scratch, Cost *c)
{
    const IrModule *m = c->m;
    uint32_t *keeper = ARENA_ARRAY(scratch, uint32_t, m->values.len);
    uint32_t *reader = ARENA_ARRAY(scratch, uint32_t, m->values.len); /* the last unit whose forward pass reads it */
    IR_FOR_OPS(m, c->train, op)
    {
        const IrOpData *data = ir_op(m, op);
        for (uint32_t i = 0; i < data->n_results; i++)
            c->root[data->results[i]] = data->code == IR_reshape ? c->root[data->operands[0]] : data->results[i];
        for (uint32_t i = 0; i < data->n_operands && data->code != IR_reshape; i++)
        {
            IrValue root = c->root[data->operands[i]];
            const IrOpData *def = ir_op(m, ir_value(m, root)->def);
            if (def->code == IR_get || def->phase != IR_PHASE_FORWARD)
                continue;
            if (data->phase == IR_PHASE_BACKWARD && (!keeper[root] || data->unit < keeper[root]))
                keeper[root] = data->unit;
            if (data->phase == IR_PHASE_FORWARD && data->unit > reader[root])
                reader[root] = data->unit;
        }
    }
    for (IrValue value = 1; value < m->values.len; value++)
    {
        if (keeper[value])
            c->units[keeper[value] <= c->n_units ? keeper[value] : 0].kept_bytes += bytes_of(c, value);
        const IrOpData *def = ir_op(m, ir_value(m, value)->def);
        for (uint32_t unit = def->unit; reader[value] && unit < reader[value] && unit <= c->n_units; unit++)
            c->units[unit].border_bytes += bytes_of(c, value);
    }
}

static void add_params(Cost *c)
{
    const IrModule *m = c->m;
    for (IrGlobal g = 1; g < m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(m, g), *param = global;
        if (global->kind == IR_GLOBAL_COPY && !ir_attrs_find(&global->attrs, IR_ATTR_of))
            continue; /* its parts are copies, too */
        if (global->kind == IR_GLOBAL_STATE || global->kind == IR_GLOBAL_COPY)
        {
            const char *of = ir_attrs_str(&global->attrs, IR_ATTR_of); /* NULL: of the unit itself, as grad_sq is */
            param = of ? ir_global(m, ir_global_find(m, of)) : global;
        }
        else if (global->kind != IR_GLOBAL_PARAM)
            continue;
        int64_t unit = ir_attrs_int(&param->attrs, IR_ATTR_unit, 0), bytes = ir_type_size_bytes(&global->type);
        UnitCost *cost = &c->units[unit >= 1 && unit <= c->n_units ? unit : 1];
        if (global->kind == IR_GLOBAL_STATE)
            cost->state_bytes += bytes;
        else if (global->kind == IR_GLOBAL_COPY)
            cost->copy_bytes += bytes;
        else
        {
            cost->param_bytes += bytes;
            cost->n_params += (uint64_t)ir_type_n_elems(&global->type);
            cost->grad_bytes += ir_attrs_bool(&global->attrs, IR_ATTR_trainable) ? bytes : 0;
        }
    }
}

void cost_units(Arena *scratch, const IrModule *m, const double *op_seconds, const CostMachine *machine,
                uint32_t n_units, UnitCost *out_costs)
{
    Cost c = {.m = m,
              .train = ir_func_find(m, "train"),
              .units = out_costs,
              .n_units = n_units,
              .awaited = ARENA_ARRAY(scratch, bool, m->values.len),
              .root = ARENA_ARRAY(scratch, IrValue, m->values.len)};
    ENSURE(c.train);
    memset(out_costs, 0, sizeof *out_costs * (n_units + 1));
    find_awaited(&c);
    add_times(&c, op_seconds, machine);
    add_traffic(scratch, &c);
    add_params(&c);
}

void cost_freeze(const UnitCost *costs, uint32_t n_units, uint32_t last, bool cached, UnitCost *out_costs)
{
    for (uint32_t unit = 0; unit <= n_units; unit++)
    {
        UnitCost cost = costs[unit];
        if (unit >= 1 && unit <= last)
        {
            cost.backward_s = cost.weight_s = cost.update_s = cost.backward_flops = 0;
            cost.state_bytes = cost.grad_bytes = cost.kept_bytes = 0;
            if (cached)
                cost.forward_s = cost.forward_flops = 0;
            if (cached && unit == last)
                cost.border_bytes = 0;
        }
        out_costs[unit] = cost;
    }
}
