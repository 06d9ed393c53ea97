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

/* The training batch has the inputs of this rank's micro-batches; an evaluation is one micro-batch. */
static Status make_feed(Trainer *t, const Dataset *dataset, TrainerFeed *feed)
{
    const bool training = feed == &t->train_feed, numbered = training && t->options.rank.n_micro > 1;
    *feed = (TrainerFeed){.first_micro = training ? t->options.rank.first_micro : 0,
                          .uploads = ARENA_ARRAY(t->arena, ExecutorUpload *, t->inputs.len + 1),
                          .indices = ARENA_ARRAY(t->arena, uint64_t, t->options.batch + t->options.rows),
                          .slots = ARENA_ARRAY(t->arena, LoaderSlot, t->inputs.len + 1)};
    feed->batch =
        (LoaderBatch){.dataset = dataset, .pass = {.seed = t->options.seed, .augment = training}, .slots = feed->slots};
    for (uint32_t i = 0; i < t->inputs.len; i++)
    {
        const BatchInput *input = &t->inputs.data[i];
        const bool is_read =
            (input->micro >= 0) == numbered && trainer_function_reads(t, training ? "train" : "eval", input->global);
        if (is_read)
            TRY(executor_upload_create(t->executor, input->global, &feed->uploads[i]));
    }
    return STATUS_OK;
}

/* "ids" or "ids.3": is it one of the fields that are as long as the variant says? */
static bool has_length(const Trainer *t, const char *field, const char *number)
{
    const TrainerBuckets *buckets = &t->options.buckets;
    const size_t n = number ? (size_t)(number - field) : strlen(field);
    for (uint32_t i = 0; i < buckets->n_fields && buckets->n_lengths > 1; i++)
        if (strlen(buckets->fields[i]) == n && memcmp(buckets->fields[i], field, n) == 0)
            return true;
    return false;
}

Status trainer_find_inputs(Trainer *t)
{
    for (IrGlobal g = 1; g < t->m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(t->m, g);
        if (global->kind != IR_GLOBAL_INPUT || strncmp(global->name, "batch.", 6) != 0 ||
            !executor_has_global(t->executor, global->name) || trainer_is_border(global->name))
            continue;
        ENSURE(global->type.rank >= 1 && global->type.dims[0] == t->options.rows);
        const char *field = global->name + 6, *number = strchr(field, '.');
        BatchInput input = {.global = global->name,
                            .field = number ? arena_strndup(t->arena, field, (size_t)(number - field)) : field,
                            .micro = number ? atoi(number + 1) : -1,
                            .type = &global->type,
                            .elem = trainer_elem_of(&global->type),
                            .has_length = has_length(t, field, number)};
        if (t->train && is_field(&input))
            TRY(check_field(t->train, &input));
        if (t->test && is_field(&input))
            TRY(check_field(t->test, &input));
        vec_push(t->arena, &t->inputs, input);
    }
    if (t->train)
        TRY(make_feed(t, t->train, &t->train_feed));
    if (t->test)
        TRY(make_feed(t, t->test, &t->test_feed));
    const bool costly = (t->train && dataset_is_costly(t->train)) || (t->test && dataset_is_costly(t->test));
    return loader_create(t->options.loader_threads, costly, &t->loader);
}

/* What is no field of the data; false: it is one. */
static bool fill_numbers(const Trainer *t, const BatchInput *input, const TrainerRows *rows, void *host)
{
    if (is_field(input))
        return false;
    for (uint32_t k = 0; k < t->options.rows; k++)
        if (strcmp(input->field, "sample") == 0)
            ((int32_t *)host)[k] = (int32_t)(rows->first + k);
        else
            ((float *)host)[k] = k < rows->n ? 1.0F : 0.0F;
    return true;
}

Status trainer_fill_input(const Trainer *t, const Dataset *dataset, const DatasetPass *pass, const BatchInput *input,
                          const TrainerRows *rows, void *host)
{
    BatchSlot slot = {.elem = input->elem, .data = host, .length = input->has_length ? rows->length : 0};
    if (fill_numbers(t, input, rows, host))
        return STATUS_OK;
    bool found = dataset_field_find(dataset, input->field, &slot.field);
    ENSURE(found);
    memset((char *)host + rows->n * dataset_row_bytes(dataset, &slot), 0,
           (t->options.rows - rows->n) * dataset_row_bytes(dataset, &slot));
    return dataset_fill_rows(dataset, pass, &slot, rows->indices, 0, rows->n);
}

void trainer_feed_start(Trainer *t, TrainerFeed *feed, uint32_t n, uint64_t epoch)
{
    const uint32_t rows = t->options.rows;
    LoaderBatch *batch = &feed->batch;
    batch->pass.epoch = epoch;
    batch->n_slots = 0;
    feed->n_samples = n;
    feed->variant = trainer_variant_of(t, feed->lengths, feed->indices, n);
    for (uint32_t i = 0; i < t->inputs.len; i++)
    {
        const BatchInput *input = &t->inputs.data[i];
        const uint32_t first = (feed->first_micro + (input->micro > 0 ? (uint32_t)input->micro : 0)) * rows;
        const uint32_t n_here = first >= n ? 0 : n - first < rows ? n - first : rows;
        if (!feed->uploads[i])
            continue;
        void *host = executor_upload_host(feed->uploads[i]);
        if (!fill_numbers(t, input, &(TrainerRows){.n = n_here, .first = first}, host))
        {
            LoaderSlot *slot = &feed->slots[batch->n_slots++];
            *slot = (LoaderSlot){.slot = {.elem = input->elem,
                                          .data = host,
                                          .length = input->has_length ? trainer_length_of(t, feed->variant) : 0},
                                 .indices = feed->indices + (n_here ? first : 0),
                                 .n = n_here,
                                 .rows = rows};
            bool found = dataset_field_find(batch->dataset, input->field, &slot->slot.field);
            ENSURE(found);
        }
    }
    loader_start(t->loader, batch);
    trainer_cache_read_ahead(t, feed);
}

Status trainer_feed_finish(Trainer *t, TrainerFeed *feed)
{
    TRY(loader_wait(t->loader, &feed->batch));
    executor_select(t->executor, feed->variant);
    TRY(trainer_cache_write(t, feed)); /* first: what makes rows may read inputs of the same name */
    for (uint32_t i = 0; i < t->inputs.len; i++)
    {
        if (!feed->uploads[i])
            continue;
        TRY(executor_upload_start(feed->uploads[i], feed->variant));
        TRY(executor_upload_finish(feed->uploads[i]));
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
