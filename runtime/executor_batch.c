/* Launches that a device does at once, where it can: the updates of params. A launch joins the first one of its family
 * since the host was last needed, if nothing that it then comes before reads or writes what it writes, or writes what
 * it reads. */
#include "runtime/executor_program.h"

typedef VEC(Instr) Instrs;

typedef struct
{
    Instr alone;     /* the first launch, or something else */
    Instrs launches; /* with the first; none where family is 0 */
    uint32_t family; /* 0: nothing joins it */
} Place;

typedef VEC(Place) Places;

static bool overlap(const char *a, int64_t a_bytes, const char *b, int64_t b_bytes)
{
    return a < b + b_bytes && b < a + a_bytes;
}

static int64_t buffer_bytes(const IrModule *m, const IrOpData *op, uint32_t i)
{
    const IrValue value = i < op->n_operands ? op->operands[i] : op->results[i - op->n_operands];
    return ir_type_size_bytes(ir_value_type(m, value));
}

/* The two launches can be done in any order, or at once. */
static bool independent(const Executor *x, const Instr *a, const Instr *b)
{
    const IrOpData *of_a = ir_op(x->m, a->op), *of_b = ir_op(x->m, b->op);
    const uint32_t n_a = of_a->n_operands + of_a->n_results, n_b = of_b->n_operands + of_b->n_results;
    for (uint32_t i = 0; i < n_a; i++)
        for (uint32_t k = i < of_a->n_operands ? of_b->n_operands : 0; k < n_b; k++)
            if (overlap(a->bufs[i], buffer_bytes(x->m, of_a, i), b->bufs[k], buffer_bytes(x->m, of_b, k)))
                return false;
    return true;
}

static bool independent_of_place(const Executor *x, const Place *place, const Instr *launch)
{
    for (uint32_t i = 0; i < place->launches.len; i++)
        if (!independent(x, &place->launches.data[i], launch))
            return false;
    return place->launches.len || independent(x, &place->alone, launch);
}

/* The place that it joins, from `from` on; NULL: none. */
static Place *find_place(const Executor *x, Places *places, uint32_t from, const Instr *launch, uint32_t family)
{
    for (uint32_t at = places->len; at > from; at--)
    {
        Place *place = &places->data[at - 1];
        if (!independent_of_place(x, place, launch))
            return NULL;
        if (place->family == family)
            return place;
    }
    return NULL;
}

static Status build_batch(Executor *x, const Place *place, Instr *out)
{
    const uint32_t n = place->launches.len;
    HalCall *calls = ARENA_ARRAY(x->arena, HalCall, n);
    for (uint32_t i = 0; i < n; i++)
        calls[i] = (HalCall){place->launches.data[i].kernel, place->launches.data[i].bufs};
    const char *name = x->profile.data[place->alone.profile_row].name;
    *out = (Instr){.kind = DO_BATCH, .op = place->alone.op, .launches = place->launches.data, .n_launches = n};
    out->profile_row = executor_profile_row(x, arena_printf(x->arena, "%s and %u more", name, n - 1));
    return hal_batch_create(x->device, calls, n, &out->batch);
}

Status executor_join_launches(Executor *x, Program *program)
{
    Places places = {0};
    uint32_t from = 0;
    for (uint32_t i = 0; i < program->instrs.len; i++)
    {
        const Instr *instr = &program->instrs.data[i];
        const bool is_launch = instr->kind == DO_LAUNCH;
        const uint32_t family = is_launch ? hal_kernel_family(x->device, instr->kernel) : 0;
        Place *joined = family ? find_place(x, &places, from, instr, family) : NULL;
        Place place = {.alone = *instr, .family = family};
        if (family)
            vec_push(x->arena, joined ? &joined->launches : &place.launches, *instr);
        if (!joined)
            vec_push(x->arena, &places, place);
        from = is_launch ? from : places.len;
    }
    Status status = STATUS_OK;
    program->instrs.len = 0;
    for (uint32_t i = 0; i < places.len && status == STATUS_OK; i++)
    {
        Instr instr = places.data[i].alone;
        if (places.data[i].launches.len > 1)
            status = build_batch(x, &places.data[i], &instr);
        vec_push(x->arena, &program->instrs, instr);
    }
    if (status != STATUS_OK)
        executor_destroy_batches(x, program);
    return status;
}

void executor_destroy_batches(const Executor *x, const Program *program)
{
    for (uint32_t i = 0; i < program->instrs.len; i++)
        hal_batch_destroy(x->device, program->instrs.data[i].batch);
}
