/* Data sets: opens one reader per field through formats.def, checks that they fit together, and assembles batches. */
#include "runtime/dataset.h"

#include "base/bug.h"
#include "base/strbuf.h"
#include "runtime/dataset_formats.h"

#include "runtime/pool.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct Dataset
{
    Arena *arena; /* names and paths */
    uint64_t n_samples;
    uint32_t n_fields;
    FieldReader *readers;
    DatasetShared *shared;
};

typedef struct
{
    const char *name;
    DatasetOpener *open;
    bool needs_path;
} Format;

static const Format formats[] = {
#define DATA_FORMAT(name, opener, needs_path, text) {#name, opener, needs_path},
#include "runtime/formats.def"
#undef DATA_FORMAT
};

static const char *const format_names[] = {
#define DATA_FORMAT(name, opener, needs_path, text) #name,
#include "runtime/formats.def"
#undef DATA_FORMAT
};

static Status find_format(const DatasetSource *source, const Format **out_format)
{
    size_t n_formats = sizeof formats / sizeof formats[0];
    for (size_t i = 0; i < n_formats; i++)
        if (strcmp(formats[i].name, source->format) == 0)
        {
            *out_format = &formats[i];
            return STATUS_OK;
        }
    const char *nearest = str_nearest(source->format, format_names, n_formats);
    return status_fail(STATUS_BAD_INPUT, "data field '%s': unknown format '%s'%s%s%s", source->field, source->format,
                       nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
}

/* Opens sources[n_fields] as the next field. */
static Status add_field(Dataset *dataset, const DatasetSource *source)
{
    uint32_t other;
    if (dataset_field_find(dataset, source->field, &other))
        return status_fail(STATUS_BAD_INPUT, "data field '%s' is given twice", source->field);
    const Format *format = NULL;
    TRY(find_format(source, &format));
    if (format->needs_path && !source->path)
        return status_fail(STATUS_BAD_INPUT, "data field '%s': format '%s' needs a path", source->field,
                           source->format);

    FieldReader *reader = &dataset->readers[dataset->n_fields];
    TRY(format->open(source, dataset->shared, reader));
    dataset->n_fields++; /* from here on dataset_close closes it */
    DatasetField *field = &reader->field;
    field->name = arena_strdup(dataset->arena, source->field);
    field->path = format->needs_path ? arena_strdup(dataset->arena, source->path) : format->name;
    bool fits = elem_tensor_size_bytes(field->elem, field->rank, field->dims, &field->sample_bytes);
    ENSURE(fits); /* the opener has seen to it */
    field->sample_elems = field->sample_bytes / elem_size_bytes(field->elem);

    if (reader->n_samples == 0)
        return status_fail(STATUS_BAD_INPUT, "data field '%s' (%s) has no samples", field->name, field->path);
    const FieldReader *first = &dataset->readers[0];
    if (reader->n_samples != first->n_samples)
        return status_fail(STATUS_BAD_INPUT, "data field '%s' (%s) has %" PRIu64 " samples, but '%s' (%s) has %" PRIu64,
                           field->name, field->path, reader->n_samples, first->field.name, first->field.path,
                           first->n_samples);
    if (dataset->n_fields == 1)
        dataset->n_samples = reader->n_samples;
    if (source->n_samples && source->n_samples < dataset->n_samples)
        dataset->n_samples = source->n_samples;
    return STATUS_OK;
}

Status dataset_open(const DatasetSource *sources, uint32_t n_sources, Dataset **out_dataset)
{
    if (n_sources == 0)
        return status_fail(STATUS_BAD_INPUT, "a data set needs at least one field");
    Arena *arena = arena_create();
    Dataset *dataset = ARENA_NEW(arena, Dataset);
    *dataset = (Dataset){.arena = arena,
                         .readers = ARENA_ARRAY(arena, FieldReader, n_sources),
                         .shared = dataset_shared_create(sources, n_sources)};
    for (uint32_t i = 0; i < n_sources; i++)
    {
        Status status = add_field(dataset, &sources[i]);
        if (status != STATUS_OK)
        {
            dataset_close(dataset);
            return status;
        }
    }
    dataset_shared_opened(dataset->shared);
    *out_dataset = dataset;
    return STATUS_OK;
}

void dataset_close(Dataset *dataset)
{
    if (!dataset)
        return;
    for (uint32_t i = 0; i < dataset->n_fields; i++)
        dataset->readers[i].close(&dataset->readers[i]);
    dataset_shared_destroy(dataset->shared);
    arena_destroy(dataset->arena); /* holds *dataset too */
}

uint64_t dataset_n_samples(const Dataset *dataset)
{
    return dataset->n_samples;
}

uint32_t dataset_n_fields(const Dataset *dataset)
{
    return dataset->n_fields;
}

const DatasetField *dataset_field(const Dataset *dataset, uint32_t field)
{
    ENSURE(field < dataset->n_fields);
    return &dataset->readers[field].field;
}

bool dataset_field_find(const Dataset *dataset, const char *name, uint32_t *out_field)
{
    for (uint32_t i = 0; i < dataset->n_fields; i++)
        if (strcmp(dataset->readers[i].field.name, name) == 0)
        {
            *out_field = i;
            return true;
        }
    return false;
}

const DatasetLabels *dataset_labels(const Dataset *dataset, uint32_t field)
{
    ENSURE(field < dataset->n_fields);
    return dataset->readers[field].labels;
}

const SquadSet *dataset_squad(const Dataset *dataset)
{
    for (uint32_t i = 0; i < dataset->n_fields; i++)
        if (dataset->readers[i].squad)
            return dataset->readers[i].squad;
    return NULL;
}

bool dataset_is_costly(const Dataset *dataset)
{
    bool costly = false;
    for (uint32_t i = 0; i < dataset->n_fields; i++)
        costly = costly || dataset->readers[i].costly;
    return costly;
}

Status dataset_read(const Dataset *dataset, uint32_t field, uint64_t sample, const DatasetPass *pass, void *dst)
{
    ENSURE(field < dataset->n_fields);
    ENSURE(sample < dataset->n_samples);
    const FieldReader *reader = &dataset->readers[field];
    return reader->read(reader, sample, pass, dst);
}

uint32_t dataset_length(const Dataset *dataset, uint32_t field, uint64_t sample)
{
    ENSURE(field < dataset->n_fields && sample < dataset->n_samples);
    const FieldReader *reader = &dataset->readers[field];
    if (reader->length)
        return reader->length(reader, sample);
    return reader->field.rank ? (uint32_t)reader->field.dims[0] : 1;
}

static Status check_sample(const DatasetField *field, uint64_t sample, const void *values, double low, double high)
{
    for (uint64_t i = 0; i < field->sample_elems; i++)
    {
        double value = elem_get_f64(field->elem, values, i);
        if (!(value >= low && value <= high))
            return status_fail(STATUS_BAD_INPUT, "%s: sample %" PRIu64 ": %s %g is not in %g..%g", field->path, sample,
                               field->name, value, low, high);
    }
    return STATUS_OK;
}

Status dataset_check_range(const Dataset *dataset, uint32_t field, double low, double high)
{
    const DatasetPass as_it_is = {0};
    const DatasetField *info = dataset_field(dataset, field);
    void *values = malloc(info->sample_bytes ? info->sample_bytes : 1);
    if (!values)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for a sample of '%s'", info->name);
    Status status = STATUS_OK;
    for (uint64_t i = 0; i < dataset->n_samples && status == STATUS_OK; i++)
    {
        status = dataset_read(dataset, field, i, &as_it_is, values);
        if (status == STATUS_OK)
            status = check_sample(info, i, values, low, high);
    }
    free(values);
    return status;
}

/* ---- digests */

enum
{
    MOST_READ = 8 /* samples whose files are stamped */
};

Status dataset_digest(const Dataset *dataset, uint32_t field, uint64_t *out_digest)
{
    const FieldReader *reader = &dataset->readers[field];
    const DatasetField *info = dataset_field(dataset, field);
    const DatasetPass as_it_is = {0};
    void *values = malloc(info->sample_bytes ? info->sample_bytes : 1);
    if (!values)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for a sample of '%s'", info->name);
    Status status = STATUS_OK;
    uint64_t digest = XXH3_64bits(&dataset->n_samples, sizeof dataset->n_samples), stamp;
    for (uint64_t i = 0; i < dataset->n_samples && status == STATUS_OK; i++)
    {
        if (reader->stamp)
        {
            status = reader->stamp(reader, i, &stamp);
            digest = status == STATUS_OK ? XXH3_64bits_withSeed(&stamp, sizeof stamp, digest) : 0;
        }
        if (status != STATUS_OK || (reader->stamp && i >= MOST_READ))
            continue;
        status = dataset_read(dataset, field, i, &as_it_is, values);
        digest = status == STATUS_OK ? XXH3_64bits_withSeed(values, info->sample_bytes, digest) : 0;
    }
    free(values);
    *out_digest = digest;
    return status;
}

/* ---- verifying */

enum
{
    VERIFY_AT_ONCE = 64 /* samples of a task */
};

typedef struct
{
    const FieldReader *reader;
    uint64_t n_samples;
    pthread_mutex_t lock;
    uint64_t bad_sample; /* the first so far; n_samples: none */
    Status status;
    char detail[2048]; /* status_detail is the thread's own */
} Verifying;

static void verify_samples(void *context, int64_t task, int worker)
{
    (void)worker;
    Verifying *v = context;
    uint64_t sample = (uint64_t)task * VERIFY_AT_ONCE;
    const uint64_t end = v->n_samples - sample < VERIFY_AT_ONCE ? v->n_samples : sample + VERIFY_AT_ONCE;
    Status status = STATUS_OK;
    while (sample < end && (status = v->reader->verify(v->reader, sample)) == STATUS_OK)
        sample++;
    if (status == STATUS_OK)
        return;
    pthread_mutex_lock(&v->lock);
    if (sample < v->bad_sample)
    {
        v->bad_sample = sample;
        v->status = status;
        snprintf(v->detail, sizeof v->detail, "%s", status_detail());
    }
    pthread_mutex_unlock(&v->lock);
}

Status dataset_verify(const Dataset *dataset)
{
    for (uint32_t i = 0; i < dataset->n_fields; i++)
    {
        Verifying v = {.reader = &dataset->readers[i],
                       .n_samples = dataset->n_samples,
                       .lock = PTHREAD_MUTEX_INITIALIZER,
                       .bad_sample = dataset->n_samples};
        Pool *pool;
        if (!v.reader->verify)
            continue;
        TRY(pool_create(0, false, &pool));
        pool_run(pool, (int64_t)((v.n_samples + VERIFY_AT_ONCE - 1) / VERIFY_AT_ONCE), verify_samples, &v);
        pool_destroy(pool);
        if (v.status != STATUS_OK)
            return status_fail(v.status, "%s", v.detail);
    }
    return STATUS_OK;
}

/* ---- batches */

enum
{
    TYPE_TEXT_BYTES = 200
};

Status dataset_check_slot(const Dataset *dataset, uint32_t field, Elem elem, uint32_t rank, const int64_t *dims)
{
    const DatasetField *info = dataset_field(dataset, field);
    bool same_shape = info->rank == rank;
    for (uint32_t i = 0; same_shape && i < rank; i++)
        same_shape = info->dims[i] == dims[i];
    if (same_shape && elem_converts(info->elem, elem))
        return STATUS_OK;
    char have[TYPE_TEXT_BYTES], want[TYPE_TEXT_BYTES];
    elem_tensor_text(info->elem, info->rank, info->dims, have, sizeof have);
    elem_tensor_text(elem, rank, dims, want, sizeof want);
    return status_fail(STATUS_BAD_INPUT, "%s: each sample of '%s' is %s; the model wants %s", info->path, info->name,
                       have, want);
}

uint64_t dataset_row_bytes(const Dataset *dataset, const BatchSlot *slot)
{
    const uint64_t n_elems = slot->length ? slot->length : dataset_field(dataset, slot->field)->sample_elems;
    return n_elems * elem_size_bytes(slot->elem);
}

/* The first slot->length elements of each sample. */
static void fill_shorter(const FieldReader *reader, const BatchSlot *slot, const uint64_t *indices, uint32_t first,
                         uint32_t n)
{
    ENSURE(reader->read_first && reader->field.elem == slot->elem && slot->length <= reader->field.sample_elems);
    const size_t row_bytes = slot->length * elem_size_bytes(slot->elem);
    for (uint32_t row = first; row < first + n; row++)
        reader->read_first(reader, indices[row], slot->length, (char *)slot->data + row * row_bytes);
}

/* Samples of another type than the slot's go through a buffer of one sample. */
Status dataset_fill_rows(const Dataset *dataset, const DatasetPass *pass, const BatchSlot *slot,
                         const uint64_t *indices, uint32_t first, uint32_t n)
{
    const DatasetField *field = dataset_field(dataset, slot->field);
    ENSURE(elem_converts(field->elem, slot->elem));
    if (slot->length)
    {
        fill_shorter(&dataset->readers[slot->field], slot, indices, first, n);
        return STATUS_OK;
    }
    const bool direct = field->elem == slot->elem;
    const uint64_t row_bytes = dataset_row_bytes(dataset, slot);
    char stack[1024];
    char *sample = stack;
    if (!direct && field->sample_bytes > sizeof stack && !(sample = malloc(field->sample_bytes)))
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for a sample of '%s'", field->name);

    Status status = STATUS_OK;
    for (uint32_t row = first; row < first + n && status == STATUS_OK; row++)
    {
        char *dst = (char *)slot->data + row * row_bytes;
        status = dataset_read(dataset, slot->field, indices[row], pass, direct ? dst : sample);
        if (!direct && status == STATUS_OK)
            elem_convert(field->elem, sample, slot->elem, dst, field->sample_elems);
    }
    if (sample != stack)
        free(sample);
    return status;
}
