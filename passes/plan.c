/* Plans: which micro-batches a replica has, what makes a plan impossible, and its attributes. */
#include "passes/plan.h"

#include "base/bug.h"
#include "passes/partition.h"

/* The smallest power of two that is at least n. */
static uint32_t round_up_to_power(uint32_t n)
{
    uint32_t power = 1;
    while (power < n)
        power *= 2;
    return power;
}

uint32_t plan_first_micro(const Plan *plan, uint32_t replica)
{
    const uint32_t n = plan->n_micro, r = plan->n_replicas;
    if (replica >= r)
        return n;
    if (plan->deterministic)
    {
        uint32_t share = round_up_to_power((n + r - 1) / r);
        return replica * share < n ? replica * share : n;
    }
    return replica * (n / r) + (replica < n % r ? replica : n % r);
}

bool plan_check(Arena *arena, const Plan *plan, uint32_t n_units, const char **out_why)
{
    *out_why = NULL;
    if (plan->n_stages < 1 || plan->n_stages > n_units || plan->n_stages > PARTITION_MAX_STAGES)
        *out_why = arena_printf(
            arena, "%u stages: the model has %u units, and a stage wants one at least%s", plan->n_stages, n_units,
            n_units > PARTITION_MAX_STAGES ? arena_printf(arena, " (and %d stages are the most)", PARTITION_MAX_STAGES)
                                           : "");
    else if (plan->n_replicas < 1 || plan->n_micro < plan->n_replicas)
        *out_why = arena_printf(arena, "%u micro-batches for %u replicas: every replica wants one at least",
                                plan->n_micro, plan->n_replicas);
    else if (plan_first_micro(plan, plan->n_replicas - 1) >= plan->n_micro)
        *out_why =
            arena_printf(arena,
                         "%u micro-batches over %u replicas: in deterministic mode every replica but the last has "
                         "the same power of two of them, and then nothing is left for the last",
                         plan->n_micro, plan->n_replicas);
    for (uint32_t s = 0; !*out_why && s < plan->n_stages; s++)
        if (s == 0 ? plan->first_unit[s] != 1
                   : plan->first_unit[s] <= plan->first_unit[s - 1] || plan->first_unit[s] > (int64_t)n_units)
            *out_why = arena_printf(arena, "stage %u would begin at unit %lld of %u", s, (long long)plan->first_unit[s],
                                    n_units);
    return !*out_why;
}

void plan_place(const Plan *plan, uint32_t rank, uint32_t *out_replica, uint32_t *out_stage)
{
    const bool idle = rank >= plan->n_stages * plan->n_replicas;
    *out_replica = idle ? plan->n_replicas : rank / plan->n_stages;
    *out_stage = idle ? plan->n_stages : rank % plan->n_stages;
}

void plan_apply(Arena *scratch, IrModule *m, const Plan *plan, uint32_t replica, uint32_t stage)
{
    IrFunc train = ir_func_find(m, "train");
    const bool idle = stage == plan->n_stages && replica == plan->n_replicas;
    ENSURE(train && (idle || (stage < plan->n_stages && replica < plan->n_replicas)));
    const uint32_t model = idle ? 0 : replica; /* nothing of its order is left by pass partition */
    const uint32_t n_micro = plan_first_micro(plan, model + 1) - plan_first_micro(plan, model);
    const PipelineStage *costs = plan->costs;
    if (!costs)
    {
        PipelineStage *equal = ARENA_ARRAY(scratch, PipelineStage, plan->n_stages);
        for (uint32_t s = 0; s < plan->n_stages; s++)
            equal[s] = (PipelineStage){.forward_s = 1, .backward_s = 2, .weight_s = s ? 1 : 0};
        costs = equal;
    }
    PipelineList *lists = pipeline_build(scratch, plan->schedule, n_micro, costs, plan->n_stages);
    IrAttrs *attrs = &ir_func(m, train)->attrs;
    const IrAttr put[] = {ir_attr_int(IR_ATTR_micro_batches, plan->n_micro),
                          ir_attr_ints(IR_ATTR_stages, plan->first_unit, plan->n_stages),
                          ir_attr_int(IR_ATTR_stage, stage),
                          ir_attr_int(IR_ATTR_replicas, plan->n_replicas),
                          ir_attr_int(IR_ATTR_replica, replica),
                          ir_attr_str(IR_ATTR_order, pipeline_list_text(scratch, &lists[idle ? 0 : stage])),
                          ir_attr_bool(IR_ATTR_deterministic, true)};
    for (uint32_t i = 0; i < 6u + plan->deterministic; i++)
        ir_attrs_put(m->arena, attrs, put[i]);
}
