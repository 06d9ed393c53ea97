/* Data format `packed`: all texts of a column, an end token behind each, cut into blocks of one length, so that nothing
 * is padding; what is left at the end is dropped. Parts of a block, i32 [length]:
 *
 *   ids        its tokens
 *   targets    the token behind each: what a causal language model is to say there
 *   documents  the number of the text that each token is of, from 0 in every block: where attention is not to reach
 * back mask       1 everywhere (or f32), for models that ask for one */
#include "base/bug.h"
#include "runtime/dataset_formats.h"

#include <inttypes.h>
#include <string.h>

enum
{
    MAX_LENGTH = 1 << 20
};

typedef enum
{
    PART_IDS,
    PART_TARGETS,
    PART_DOCUMENTS,
    PART_MASK,
    PART_COUNT
} PackedPart;

typedef struct
{
    const TextRows *rows;
    PackedPart part;
} PackedField;

static bool part_by_name(const char *name, PackedPart *out_part)
{
    static const char *const names[PART_COUNT] = {
        [PART_IDS] = "ids", [PART_TARGETS] = "targets", [PART_DOCUMENTS] = "documents", [PART_MASK] = "mask"};
    for (int i = 0; name && i < PART_COUNT; i++)
        if (strcmp(names[i], name) == 0)
        {
            *out_part = (PackedPart)i;
            return true;
        }
    return false;
}

static Status read_packed(const FieldReader *reader, uint64_t sample, const DatasetPass *pass, void *dst)
{
    (void)pass;
    const PackedField *field = reader->state;
    const uint32_t length = (uint32_t)reader->field.dims[0];
    const uint64_t first = sample * length + (field->part == PART_TARGETS);
    if (field->part == PART_MASK)
        dataset_text_mask(reader->field.elem, dst, length, length);
    else
        dataset_text_copy(field->rows, first, length, field->part == PART_DOCUMENTS, dst);
    return STATUS_OK;
}

static void close_packed(FieldReader *reader)
{
    (void)reader; /* all is in what the fields share */
}

Status dataset_open_packed(const DatasetSource *source, DatasetShared *shared, FieldReader *out_reader)
{
    PackedField *field = ARENA_NEW(shared->arena, PackedField);
    if (!source->columns[0] || source->columns[1] || !source->tokenizer || !part_by_name(source->part, &field->part))
        return status_fail(
            STATUS_BAD_INPUT,
            "data field '%s' (%s): format 'packed' needs one column, a tokenizer and a part: ids, targets, "
            "documents or mask",
            source->field, source->path);
    if (source->rank != 1 || source->dims[0] < 1 || source->dims[0] > MAX_LENGTH)
        return status_fail(STATUS_BAD_INPUT, "data field '%s' (%s): a block is one axis of 1 to %d tokens",
                           source->field, source->path, MAX_LENGTH);
    TRY(dataset_text_rows(shared, source, true, &field->rows));
    const uint64_t n_tokens = dataset_text_n_tokens(field->rows), length = (uint64_t)source->dims[0];
    if (n_tokens <= length) /* the last target of a block is a token too */
        return status_fail(STATUS_BAD_INPUT,
                           "data field '%s' (%s): all texts together are %" PRIu64 " tokens, a block of %" PRIu64
                           " needs one more than that",
                           source->field, source->path, n_tokens, length);
    *out_reader =
        (FieldReader){.n_samples = (n_tokens - 1) / length,
                      .state = field,
                      .read = read_packed,
                      .close = close_packed,
                      .field = {.elem = field->part == PART_MASK && source->elem == ELEM_F32 ? ELEM_F32 : ELEM_I32,
                                .rank = 1,
                                .dims = {source->dims[0]}}};
    return STATUS_OK;
}
