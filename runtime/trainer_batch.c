/* Batches: the samples of a step become the inputs of the step functions. */
#include "base/bug.h"
#include "runtime/trainer_parts.h"

#include <stdlib.h>
#include <string.h>

Elem trainer_elem_of(const IrType *type)
{
    Elem elem = ELEM_F32;
    if (!elem_by_name(dtype_name((DType)type->dtype), &elem))
        BUG("no storage for %s", dtype_name((DType)type->dtype));
    return elem;
}

static bool is_field(const BatchInput *input)
{
    return strcmp(input->field, "mask") != 0 && strcmp(input->field, "sample") != 0;
}

static Status check_field(const Dataset *dataset, const BatchInput *input)
{
    uint32_t field;
    if (!dataset_field_find(dataset, input->field, &field))
        return status_fail(STATUS_BAD_INPUT, "the model's input '%s' is no field of the data", input->field);
    return dataset_check_slot(dataset, field, input->elem, input->type->rank - 1u, input->type->dims + 1);
}

Status trainer_find_inputs(Trainer *t)
{
    for (IrGlobal g = 1; g < t->m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(t->m, g);
        if (global->kind != IR_GLOBAL_INPUT || strncmp(global->name, "batch.", 6) != 0 ||
            !executor_has_global(t->executor, global->name))
            continue;
        ENSURE(global->type.rank >= 1 && global->type.dims[0] == t->options.rows);
        const char *field = global->name + 6, *number = strchr(field, '.');
        BatchInput input = {.global = global->name,
                            .field = number ? arena_strndup(t->arena, field, (size_t)(number - field)) : field,
                            .micro = number ? atoi(number + 1) : -1,
                            .type = &global->type,
                            .elem = trainer_elem_of(&global->type),
                            .host = arena_alloc(t->arena, (size_t)ir_type_size_bytes(&global->type))};
        if (t->train && is_field(&input))
            TRY(check_field(t->train, &input));
        if (t->test && is_field(&input))
            TRY(check_field(t->test, &input));
        vec_push(t->arena, &t->inputs, input);
    }
    t->mask = ARENA_ARRAY(t->arena, float, t->options.rows);
    t->indices = ARENA_ARRAY(t->arena, uint64_t, t->options.batch + t->options.rows);
    return STATUS_OK;
}

Status trainer_write_rows(Trainer *t, const Dataset *dataset, const uint64_t *indices, uint32_t n, uint32_t first,
                          int32_t micro)
{
    const uint32_t rows = t->options.rows;
    for (uint32_t i = 0; i < t->inputs.len; i++)
    {
        const BatchInput *input = &t->inputs.data[i];
        if (input->micro != micro)
            continue;
        if (strcmp(input->field, "sample") == 0)
            for (uint32_t k = 0; k < rows; k++)
                ((int32_t *)input->host)[k] = (int32_t)(first + k);
        else if (strcmp(input->field, "mask") == 0)
            for (uint32_t k = 0; k < rows; k++)
                ((float *)input->host)[k] = k < n ? 1.0F : 0.0F;
        else
        {
            BatchSlot slot = {.elem = input->elem, .data = input->host};
            bool found = dataset_field_find(dataset, input->field, &slot.field);
            ENSURE(found);
            TRY(dataset_fill_batch(dataset, indices, n, rows, &slot, 1, t->mask));
        }
        TRY(executor_write_global(t->executor, input->global, input->host));
    }
    return STATUS_OK;
}

Status trainer_write_batch(Trainer *t, uint32_t n)
{
    const TrainerRank *rank = &t->options.rank;
    for (uint32_t i = 0; i < rank->n_micro; i++)
    {
        uint32_t first = (rank->first_micro + i) * t->options.rows;
        uint32_t n_here = first >= n ? 0 : n - first < t->options.rows ? n - first : t->options.rows;
        TRY(trainer_write_rows(t, t->train, t->indices + (first < n ? first : 0), n_here, first,
                               rank->n_micro > 1 ? (int32_t)i : -1));
    }
    return STATUS_OK;
}

Status trainer_write_scalars(Trainer *t, double lr)
{
    float lr_f32 = (float)lr;
    int32_t step = (int32_t)(t->step + 1);
    int32_t key[2] = {(int32_t)t->options.seed, step};
    if (executor_has_global(t->executor, "lr"))
        TRY(executor_write_global(t->executor, "lr", &lr_f32));
    if (executor_has_global(t->executor, "step"))
        TRY(executor_write_global(t->executor, "step", &step));
    if (executor_has_global(t->executor, "rng.key"))
        TRY(executor_write_global(t->executor, "rng.key", key));
    return STATUS_OK;
}
