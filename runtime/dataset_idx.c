/* Data format `idx`: the first dimension of the array counts the samples. */
#include "runtime/dataset_formats.h"
#include "runtime/idx.h"

#include <stdlib.h>
#include <string.h>

static Status read_idx(const FieldReader *reader, uint64_t sample, const DatasetPass *pass, void *dst)
{
    (void)pass;
    const IdxArray *array = reader->state;
    memcpy(dst, array->data + sample * reader->field.sample_bytes, reader->field.sample_bytes);
    return STATUS_OK;
}

static void close_idx(FieldReader *reader)
{
    idx_close(reader->state);
    free(reader->state);
}

Status dataset_open_idx(const DatasetSource *source, DatasetShared *shared, FieldReader *out_reader)
{
    (void)shared;
    IdxArray *array = malloc(sizeof *array);
    if (!array)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for data field '%s'", source->field);
    Status status = idx_open(source->path, array);
    if (status != STATUS_OK)
    {
        free(array);
        return status;
    }
    *out_reader = (FieldReader){.n_samples = (uint64_t)array->dims[0],
                                .state = array,
                                .read = read_idx,
                                .close = close_idx,
                                .field = {.elem = array->elem, .rank = array->rank - 1}};
    memcpy(out_reader->field.dims, array->dims + 1, (array->rank - 1) * sizeof array->dims[0]);
    return STATUS_OK;
}
