/* Writer of safetensors files. */
#include "runtime/safetensors.h"

#include "base/arena.h"
#include "base/bug.h"
#include "runtime/durable_file.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static json_t *tensor_entry(const NamedTensor *tensor, uint64_t begin, uint64_t size_bytes)
{
    json_t *shape = json_array();
    for (uint32_t i = 0; i < tensor->rank; i++)
        json_array_append_new(shape, json_integer(tensor->dims[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", elem_safetensors_name(tensor->elem), "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)(begin + size_bytes));
}

/* order[]: indices of tensors by falling element size, else as given. */
static void order_by_alignment(const NamedTensor *tensors, uint32_t n_tensors, uint32_t *out_order)
{
    uint32_t n = 0;
    for (size_t elem_bytes = 8; elem_bytes > 0; elem_bytes /= 2)
        for (uint32_t i = 0; i < n_tensors; i++)
            if (elem_size_bytes(tensors[i].elem) == elem_bytes)
                out_order[n++] = i;
    ENSURE(n == n_tensors);
}

/* The header's text, padded with spaces; the caller frees it with free(). NULL: no memory. */
static char *build_header(const NamedTensor *tensors, uint32_t n_tensors, const uint32_t *order,
                          const SafetensorsMeta *meta, uint32_t n_meta, size_t *out_bytes)
{
    json_t *root = json_object();
    if (n_meta > 0)
    {
        json_t *object = json_object();
        for (uint32_t i = 0; i < n_meta; i++)
            json_object_set_new(object, meta[i].key, json_string(meta[i].value));
        ENSURE(json_object_size(object) == n_meta); /* distinct keys, UTF-8 */
        json_object_set_new(root, "__metadata__", object);
    }
    uint64_t at = 0;
    for (uint32_t i = 0; i < n_tensors; i++)
    {
        const NamedTensor *tensor = &tensors[order[i]];
        uint64_t size_bytes;
        bool fits = elem_tensor_size_bytes(tensor->elem, tensor->rank, tensor->dims, &size_bytes);
        ENSURE(fits);
        ENSURE(strcmp(tensor->name, "__metadata__") != 0);
        json_object_set_new(root, tensor->name, tensor_entry(tensor, at, size_bytes));
        at += size_bytes;
    }
    ENSURE(json_object_size(root) == n_tensors + (n_meta > 0)); /* distinct names, UTF-8 */
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    if (!text)
        return NULL;
    size_t len = strlen(text);
    size_t padded = (len + 7) / 8 * 8;
    char *grown = realloc(text, padded + 1);
    if (!grown)
    {
        free(text);
        return NULL;
    }
    memset(grown + len, ' ', padded - len);
    ENSURE(padded <= SAFETENSORS_MAX_HEADER_BYTES);
    *out_bytes = padded;
    return grown;
}

Status safetensors_write(const char *path, const NamedTensor *tensors, uint32_t n_tensors, const SafetensorsMeta *meta,
                         uint32_t n_meta, char *out_digest)
{
    Arena *arena = arena_create();
    uint32_t *order = ARENA_ARRAY(arena, uint32_t, n_tensors);
    order_by_alignment(tensors, n_tensors, order);
    size_t header_bytes = 0;
    DurableFile *out = NULL;
    char *header = build_header(tensors, n_tensors, order, meta, n_meta, &header_bytes);
    Status status =
        header ? durable_file_create(path, &out) : status_fail(STATUS_OUT_OF_MEMORY, "no memory to write '%s'", path);
    if (status == STATUS_OK)
    {
        /* Failures stay in the file; commit reports the first. */
        uint8_t length[8];
        for (int i = 0; i < 8; i++)
            length[i] = (uint8_t)((uint64_t)header_bytes >> 8 * i);
        durable_file_write(out, length, sizeof length);
        durable_file_write(out, header, header_bytes);
        for (uint32_t i = 0; i < n_tensors; i++)
        {
            const NamedTensor *tensor = &tensors[order[i]];
            durable_file_write(out, tensor->data, safetensors_tensor_size_bytes(tensor));
        }
        status = durable_file_commit(out, out_digest);
    }
    free(header);
    arena_destroy(arena);
    return status;
}
