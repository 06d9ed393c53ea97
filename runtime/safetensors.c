/* Reader of safetensors files. Everything that the header says is checked before a tensor is handed out. */
#include "runtime/safetensors.h"

#include "base/arena.h"
#include "runtime/mapped_file.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum
{
    LENGTH_BYTES = 8,
    TYPE_TEXT_BYTES = 200
};

/* A tensor and where its data lies, while offsets are checked. */
typedef struct
{
    NamedTensor tensor;
    uint64_t begin, end;
} Entry;

struct Safetensors
{
    Arena *arena; /* the object itself, tensors, names */
    const char *path;
    json_t *metadata; /* owned reference, or NULL */
    uint32_t n_tensors;
    NamedTensor *tensors; /* in the order of their data */
    uint32_t *by_name;    /* indices of tensors, sorted by name */
    MappedFile mapped;
};

#define FAIL(file, ...) fail_at((file)->path, __VA_ARGS__)

__attribute__((format(printf, 2, 3))) static Status fail_at(const char *path, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return status_fail(STATUS_BAD_INPUT, "%s: %s", path, text);
}

/* ---- the header */

static Status parse_shape(const Safetensors *file, const json_t *shape, NamedTensor *tensor)
{
    if (!json_is_array(shape))
        return FAIL(file, "tensor '%s': 'shape' is not an array", tensor->name);
    size_t rank = json_array_size(shape);
    if (rank > TENSOR_MAX_RANK)
        return FAIL(file, "tensor '%s': %zu dimensions; at most %d are supported", tensor->name, rank, TENSOR_MAX_RANK);
    tensor->rank = (uint32_t)rank;
    for (size_t i = 0; i < rank; i++)
    {
        const json_t *dim = json_array_get(shape, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return FAIL(file, "tensor '%s': dimension %zu is not a number from 0 on", tensor->name, i + 1);
        tensor->dims[i] = json_integer_value(dim);
    }
    return STATUS_OK;
}

static Status parse_offsets(const Safetensors *file, const json_t *offsets, Entry *entry)
{
    const char *name = entry->tensor.name;
    const json_t *begin = json_array_get(offsets, 0);
    const json_t *end = json_array_get(offsets, 1);
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return FAIL(file, "tensor '%s': 'data_offsets' is not an array of two integers", name);
    if (json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
        return FAIL(file, "tensor '%s': impossible data_offsets [%" JSON_INTEGER_FORMAT ", %" JSON_INTEGER_FORMAT "]",
                    name, json_integer_value(begin), json_integer_value(end));
    entry->begin = (uint64_t)json_integer_value(begin);
    entry->end = (uint64_t)json_integer_value(end);
    return STATUS_OK;
}

static Status parse_entry(const Safetensors *file, const char *name, const json_t *value, Entry *out_entry)
{
    *out_entry = (Entry){.tensor.name = name};
    NamedTensor *tensor = &out_entry->tensor;
    if (!json_is_object(value) || json_object_size(value) != 3)
        return FAIL(file, "tensor '%s': not an object of 'dtype', 'shape' and 'data_offsets'", name);
    const char *dtype = json_string_value(json_object_get(value, "dtype"));
    if (!dtype || !elem_by_safetensors_name(dtype, &tensor->elem))
        return FAIL(file, "tensor '%s': unknown dtype '%s'", name, dtype ? dtype : "");
    TRY(parse_shape(file, json_object_get(value, "shape"), tensor));
    TRY(parse_offsets(file, json_object_get(value, "data_offsets"), out_entry));

    uint64_t size_bytes;
    if (!elem_tensor_size_bytes(tensor->elem, tensor->rank, tensor->dims, &size_bytes))
        return FAIL(file, "tensor '%s': its dimensions multiply to more than 2^63 bytes", name);
    if (size_bytes != out_entry->end - out_entry->begin)
    {
        char type[TYPE_TEXT_BYTES];
        elem_tensor_text(tensor->elem, tensor->rank, tensor->dims, type, sizeof type);
        return FAIL(file, "tensor '%s': %s takes %" PRIu64 " bytes, but data_offsets span %" PRIu64, name, type,
                    size_bytes, out_entry->end - out_entry->begin);
    }
    return STATUS_OK;
}

static Status check_metadata(const Safetensors *file, const json_t *metadata)
{
    if (!json_is_object(metadata))
        return FAIL(file, "__metadata__ is not an object");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)metadata, key, value)
    {
        if (!json_is_string(value))
            return FAIL(file, "__metadata__: the value of '%s' is not a string", key);
    }
    return STATUS_OK;
}

/* By place; of two at one place the empty one first. Equal places (of empty tensors) by name. */
static int compare_entries(const void *a, const void *b)
{
    const Entry *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end)
        return x->end < y->end ? -1 : 1;
    return strcmp(x->tensor.name, y->tensor.name);
}

static int compare_names(const void *a, const void *b, void *tensors)
{
    const NamedTensor *t = tensors;
    return strcmp(t[*(const uint32_t *)a].name, t[*(const uint32_t *)b].name);
}

/* Sorted entries must follow each other from 0 to data_bytes. */
static Status check_tiling(const Safetensors *file, const Entry *entries, uint32_t n_entries, uint64_t data_bytes)
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < n_entries; i++)
    {
        const Entry *entry = &entries[i];
        if (entry->begin != at)
            return FAIL(
                file, "tensor '%s' begins at data byte %" PRIu64 ", %s byte %" PRIu64, entry->tensor.name, entry->begin,
                entry->begin < at ? "overlapping the tensor before it, which ends at" : "leaving a hole after", at);
        if (entry->end > data_bytes)
            return FAIL(file,
                        "truncated: tensor '%s' ends at data byte %" PRIu64 ", the file has %" PRIu64 " bytes of data",
                        entry->tensor.name, entry->end, data_bytes);
        at = entry->end;
    }
    if (at != data_bytes)
        return FAIL(file, "%" PRIu64 " bytes after the last tensor, which ends at data byte %" PRIu64, data_bytes - at,
                    at);
    return STATUS_OK;
}

static Status parse_tensors(Safetensors *file, json_t *root, const uint8_t *data, uint64_t data_bytes)
{
    Entry *entries = ARENA_ARRAY(file->arena, Entry, json_object_size(root));
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value)
    {
        if (strcmp(key, "__metadata__") == 0)
        {
            TRY(check_metadata(file, value));
            file->metadata = json_incref(value);
            continue;
        }
        TRY(parse_entry(file, arena_strdup(file->arena, key), value, &entries[file->n_tensors]));
        file->n_tensors++;
    }
    if (file->n_tensors > 1)
        qsort(entries, file->n_tensors, sizeof entries[0], compare_entries);
    TRY(check_tiling(file, entries, file->n_tensors, data_bytes));

    file->tensors = ARENA_ARRAY(file->arena, NamedTensor, file->n_tensors);
    file->by_name = ARENA_ARRAY(file->arena, uint32_t, file->n_tensors);
    for (uint32_t i = 0; i < file->n_tensors; i++)
    {
        file->tensors[i] = entries[i].tensor;
        file->tensors[i].data = data + entries[i].begin;
        file->by_name[i] = i;
    }
    if (file->n_tensors > 1)
        qsort_r(file->by_name, file->n_tensors, sizeof file->by_name[0], compare_names, file->tensors);
    return STATUS_OK;
}

static Status parse_file(Safetensors *file, const uint8_t *bytes, size_t n_bytes)
{
    if (n_bytes < LENGTH_BYTES)
        return FAIL(file, "not a safetensors file: %zu bytes, the length of the header alone takes 8", n_bytes);
    uint64_t header_bytes = 0;
    for (int i = 0; i < LENGTH_BYTES; i++)
        header_bytes |= (uint64_t)bytes[i] << 8 * i;
    if (header_bytes > SAFETENSORS_MAX_HEADER_BYTES)
        return FAIL(file, "not a safetensors file: a header of %" PRIu64 " bytes; at most %d are allowed", header_bytes,
                    SAFETENSORS_MAX_HEADER_BYTES);
    if (header_bytes > n_bytes - LENGTH_BYTES)
        return FAIL(file, "truncated: a header of %" PRIu64 " bytes in a file of %zu", header_bytes, n_bytes);
    const char *header = (const char *)bytes + LENGTH_BYTES;
    if (header_bytes == 0 || header[0] != '{')
        return FAIL(file, "not a safetensors file: the header does not start with '{' at byte 8");

    json_error_t error;
    json_t *root = json_loadb(header, header_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return FAIL(file, "bad header at byte %d: %s", LENGTH_BYTES + error.position, error.text);
    Status status =
        parse_tensors(file, root, bytes + LENGTH_BYTES + header_bytes, n_bytes - LENGTH_BYTES - header_bytes);
    json_decref(root);
    return status;
}

/* ---- open and close */

Status safetensors_open_memory(const char *name, const void *bytes, size_t n_bytes, Safetensors **out_file)
{
    Arena *arena = arena_create();
    Safetensors *file = ARENA_NEW(arena, Safetensors);
    file->arena = arena;
    file->path = arena_strdup(arena, name);
    Status status = parse_file(file, bytes, n_bytes);
    if (status != STATUS_OK)
    {
        safetensors_close(file);
        return status;
    }
    *out_file = file;
    return STATUS_OK;
}

Status safetensors_open(const char *path, Safetensors **out_file)
{
    MappedFile mapped;
    TRY(mapped_file_open(path, &mapped));
    Status status = safetensors_open_memory(path, mapped.data, mapped.size_bytes, out_file);
    if (status != STATUS_OK)
        mapped_file_close(&mapped);
    else
        (*out_file)->mapped = mapped;
    return status;
}

void safetensors_close(Safetensors *file)
{
    if (!file)
        return;
    mapped_file_close(&file->mapped);
    json_decref(file->metadata);
    arena_destroy(file->arena);
}

/* ---- questions */

const char *safetensors_path(const Safetensors *file)
{
    return file->path;
}

uint32_t safetensors_count(const Safetensors *file)
{
    return file->n_tensors;
}

const NamedTensor *safetensors_tensor(const Safetensors *file, uint32_t i)
{
    return &file->tensors[i];
}

const NamedTensor *safetensors_find(const Safetensors *file, const char *name)
{
    uint32_t low = 0, high = file->n_tensors;
    while (low < high)
    {
        uint32_t middle = low + (high - low) / 2;
        const NamedTensor *tensor = &file->tensors[file->by_name[middle]];
        int order = strcmp(name, tensor->name);
        if (order == 0)
            return tensor;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

uint64_t safetensors_tensor_size_bytes(const NamedTensor *tensor)
{
    uint64_t size_bytes = 0;
    elem_tensor_size_bytes(tensor->elem, tensor->rank, tensor->dims, &size_bytes); /* checked when opened */
    return size_bytes;
}

const char *safetensors_metadata(const Safetensors *file, const char *key)
{
    return json_string_value(json_object_get(file->metadata, key));
}

Status safetensors_read(const Safetensors *file, const NamedTensor *expected, void *dst)
{
    const NamedTensor *tensor = safetensors_find(file, expected->name);
    if (!tensor)
        return FAIL(file, "no tensor '%s'", expected->name);
    if (tensor->elem != expected->elem || tensor->rank != expected->rank ||
        memcmp(tensor->dims, expected->dims, tensor->rank * sizeof tensor->dims[0]) != 0)
    {
        char have[TYPE_TEXT_BYTES], want[TYPE_TEXT_BYTES];
        elem_tensor_text(tensor->elem, tensor->rank, tensor->dims, have, sizeof have);
        elem_tensor_text(expected->elem, expected->rank, expected->dims, want, sizeof want);
        return FAIL(file, "tensor '%s' is %s; the model wants %s", expected->name, have, want);
    }
    memcpy(dst, tensor->data, safetensors_tensor_size_bytes(tensor));
    return STATUS_OK;
}
