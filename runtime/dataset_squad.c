/* Data format `squad`: windows of the questions of a SQuAD v1.1 file (runtime/squad.h). The parts ids, mask and types
 * are [length], first and last are a number each. The fields of one file are read once. */
#include "runtime/dataset_formats.h"

#include <string.h>

enum
{
    MAX_LENGTH = 1 << 20
};

typedef enum
{
    PART_IDS,
    PART_MASK,
    PART_TYPES,
    PART_FIRST,
    PART_LAST,
    PART_COUNT
} SquadPart;

typedef struct
{
    const SquadSet *set;
    SquadPart part;
    int32_t pad_id;
} SquadField;

static bool is_number(SquadPart part)
{
    return part == PART_FIRST || part == PART_LAST;
}

static uint32_t length_of_window(const FieldReader *reader, uint64_t sample)
{
    return squad_n_tokens(((const SquadField *)reader->state)->set, sample);
}

static void read_first_of_window(const FieldReader *reader, uint64_t sample, uint32_t n, void *dst)
{
    const SquadField *field = reader->state;
    if (field->part == PART_MASK)
        dataset_text_mask(reader->field.elem, dst, squad_n_tokens(field->set, sample), n);
    else
        squad_row(field->set, sample, n, field->pad_id, field->part == PART_IDS ? dst : NULL,
                  field->part == PART_TYPES ? dst : NULL);
}

static Status read_window(const FieldReader *reader, uint64_t sample, const DatasetPass *pass, void *dst)
{
    (void)pass;
    read_first_of_window(reader, sample, squad_length(((const SquadField *)reader->state)->set), dst);
    return STATUS_OK;
}

static Status read_place(const FieldReader *reader, uint64_t sample, const DatasetPass *pass, void *dst)
{
    (void)pass;
    const SquadField *field = reader->state;
    int32_t first, last;
    squad_labels(field->set, sample, &first, &last);
    memcpy(dst, field->part == PART_FIRST ? &first : &last, sizeof first);
    return STATUS_OK;
}

static void close_squad(FieldReader *reader)
{
    (void)reader; /* all is in what the fields share */
}

/* ---- open */

static bool part_by_name(const char *name, SquadPart *out_part)
{
    static const char *const names[PART_COUNT] = {"ids", "mask", "types", "first", "last"};
    for (int i = 0; name && i < PART_COUNT; i++)
        if (strcmp(names[i], name) == 0)
        {
            *out_part = (SquadPart)i;
            return true;
        }
    return false;
}

/* Of a row: what the source says, or, of a number, another field of the same file. */
static int64_t length_of(const DatasetShared *shared, const DatasetSource *source)
{
    for (uint32_t i = 0; source->rank == 0 && i < shared->n_sources; i++)
    {
        const DatasetSource *other = &shared->sources[i];
        if (other->rank == 1 && strcmp(other->format, source->format) == 0 && other->path && other->tokenizer &&
            strcmp(other->path, source->path) == 0 && strcmp(other->tokenizer, source->tokenizer) == 0)
            return other->dims[0];
    }
    return source->rank == 1 ? source->dims[0] : 0;
}

static Status shared_set(DatasetShared *shared, const DatasetSource *source, const Tokenizer *tokenizer,
                         uint32_t length, const SquadSet **out_set)
{
    for (uint32_t i = 0; i < shared->squads.len; i++)
    {
        const SharedSquad *other = &shared->squads.data[i];
        *out_set = other->set;
        if (strcmp(other->path, source->path) != 0 || strcmp(other->tokenizer, source->tokenizer) != 0)
            continue;
        if (squad_length(other->set) == length && squad_stride(other->set) == source->stride)
            return STATUS_OK;
        return status_fail(
            STATUS_BAD_INPUT,
            "data field '%s' (%s): windows of %u tokens that share %u, but another field of the file has "
            "windows of %u that share %u",
            source->field, source->path, length, source->stride, squad_length(other->set), squad_stride(other->set));
    }
    SharedSquad entry = {.path = arena_strdup(shared->arena, source->path),
                         .tokenizer = arena_strdup(shared->arena, source->tokenizer)};
    TRY(squad_open(source->path, tokenizer, length, source->stride, &entry.set));
    vec_push(shared->arena, &shared->squads, entry);
    *out_set = entry.set;
    return STATUS_OK;
}

Status dataset_open_squad(const DatasetSource *source, DatasetShared *shared, FieldReader *out_reader)
{
    SquadField *field = ARENA_NEW(shared->arena, SquadField);
    const Tokenizer *tokenizer;
    if (!source->tokenizer || !part_by_name(source->part, &field->part))
        return status_fail(
            STATUS_BAD_INPUT,
            "data field '%s' (%s): format 'squad' needs a tokenizer and a part: ids, mask, types, first or "
            "last",
            source->field, source->path);
    const int64_t length = length_of(shared, source);
    if (is_number(field->part) != (source->rank == 0) || source->rank > 1)
        return status_fail(STATUS_BAD_INPUT, "data field '%s' (%s): part '%s' is %s", source->field, source->path,
                           source->part, is_number(field->part) ? "a number" : "one axis of tokens");
    if (length < 1 || length > MAX_LENGTH)
        return status_fail(
            STATUS_BAD_INPUT,
            "data field '%s' (%s): a window has 1 to %d tokens; the part ids, mask or types says how many",
            source->field, source->path, MAX_LENGTH);
    TRY(dataset_shared_tokenizer(shared, source, &tokenizer));
    TRY(dataset_pad_id(source, tokenizer, &field->pad_id));
    TRY(dataset_check_vocabulary(source, tokenizer));
    TRY(shared_set(shared, source, tokenizer, (uint32_t)length, &field->set));
    *out_reader = (FieldReader){
        .n_samples = squad_n_windows(field->set),
        .state = field,
        .squad = field->set,
        .read = is_number(field->part) ? read_place : read_window,
        .close = close_squad,
        .length = is_number(field->part) ? NULL : length_of_window,
        .read_first = is_number(field->part) ? NULL : read_first_of_window,
        .field = {.elem = field->part == PART_MASK && source->elem == ELEM_F32 ? ELEM_F32 : ELEM_I32,
                  .rank = source->rank,
                  .dims = {is_number(field->part) ? 0 : length}},
    };
    return STATUS_OK;
}
