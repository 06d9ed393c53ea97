/* Data sets on tables (runtime/table.h): what their fields share, fields of one value a row, and format `number`. */
#include "runtime/dataset_formats.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- what fields share */

DatasetShared *dataset_shared_create(const DatasetSource *sources, uint32_t n_sources)
{
    Arena *arena = arena_create();
    DatasetShared *shared = ARENA_NEW(arena, DatasetShared);
    *shared = (DatasetShared){.arena = arena, .sources = sources, .n_sources = n_sources};
    return shared;
}

void dataset_shared_opened(DatasetShared *shared)
{
    for (uint32_t i = 0; i < shared->tables.len; i++)
        table_close(shared->tables.data[i].table);
    for (uint32_t i = 0; i < shared->tokenizers.len; i++)
        tokenizer_close(shared->tokenizers.data[i].tokenizer);
    shared->tables.len = 0;
    shared->tokenizers.len = 0;
    shared->sources = NULL;
    shared->n_sources = 0;
}

void dataset_shared_destroy(DatasetShared *shared)
{
    if (!shared)
        return;
    dataset_shared_opened(shared);
    for (uint32_t i = 0; i < shared->texts.len; i++)
        dataset_text_destroy(shared->texts.data[i]);
    for (uint32_t i = 0; i < shared->squads.len; i++)
        squad_close(shared->squads.data[i].set);
    arena_destroy(shared->arena); /* holds *shared too */
}

static bool kind_of(const DatasetSource *source, TableKind *out_kind)
{
    return source->table ? table_kind_by_name(source->table, out_kind) : table_kind_by_path(source->path, out_kind);
}

Status dataset_shared_table(DatasetShared *shared, const DatasetSource *source, const Table **out_table)
{
    SharedTable entry = {.path = source->path};
    if (!kind_of(source, &entry.kind))
        return status_fail(STATUS_BAD_INPUT,
                           "data field '%s' (%s): tables are csv, tsv, jsonl or txt, and neither the file's name nor "
                           "'table' says which",
                           source->field, source->path);
    for (uint32_t i = 0; i < shared->tables.len; i++)
        if (shared->tables.data[i].kind == entry.kind && strcmp(shared->tables.data[i].path, entry.path) == 0)
        {
            *out_table = shared->tables.data[i].table;
            return STATUS_OK;
        }
    VEC(const char *) columns = {0};
    for (uint32_t i = 0; i < shared->n_sources; i++)
    {
        const DatasetSource *other = &shared->sources[i];
        TableKind kind;
        if (other->path && strcmp(other->path, source->path) == 0 && kind_of(other, &kind) && kind == entry.kind)
            for (int k = 0; k < 2 && other->columns[k]; k++)
                vec_push(shared->arena, &columns, other->columns[k]);
    }
    TRY(table_open(source->path, entry.kind, columns.data, columns.len, &entry.table));
    entry.path = arena_strdup(shared->arena, source->path);
    vec_push(shared->arena, &shared->tables, entry);
    *out_table = entry.table;
    return STATUS_OK;
}

/* ---- one number a row */

static Status read_value(const FieldReader *reader, uint64_t sample, const DatasetPass *pass, void *dst)
{
    (void)pass;
    memcpy(dst, (const DatasetValue *)reader->state + sample, sizeof(DatasetValue));
    return STATUS_OK;
}

static void close_values(FieldReader *reader)
{
    free(reader->state);
}

uint64_t dataset_rows_used(const DatasetSource *source, const Table *table)
{
    const uint64_t n_rows = table_n_rows(table);
    return source->n_samples && source->n_samples < n_rows ? source->n_samples : n_rows;
}

Status dataset_open_column(const DatasetSource *source, DatasetShared *shared, Elem elem, DatasetColumn *out_column,
                           FieldReader *out_reader)
{
    DatasetColumn *c = out_column;
    if (!source->columns[0] || source->columns[1])
        return status_fail(STATUS_BAD_INPUT, "data field '%s' (%s): format '%s' needs one column", source->field,
                           source->path, source->format);
    TRY(dataset_shared_table(shared, source, &c->table));
    TRY(table_column(c->table, source->columns[0], &c->column));
    c->n_used = dataset_rows_used(source, c->table);
    c->values = malloc(c->n_used * sizeof *c->values);
    if (!c->values)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for data field '%s'", source->field);
    *out_reader = (FieldReader){.n_samples = table_n_rows(c->table),
                                .state = c->values,
                                .read = read_value,
                                .close = close_values,
                                .field = {.elem = elem}};
    return STATUS_OK;
}

/* ---- number */

static Status parse_number(const DatasetSource *source, const DatasetColumn *c, uint64_t row, float *out)
{
    const TableCell cell = table_cell(c->table, row, c->column);
    char text[64], *end = text;
    if (cell.n_bytes > 0 && cell.n_bytes < sizeof text && !isspace((unsigned char)cell.text[0]))
    {
        memcpy(text, cell.text, cell.n_bytes);
        text[cell.n_bytes] = 0;
        *out = strtof(text, &end);
    }
    if (end == text || end != text + cell.n_bytes || !isfinite(*out))
        return status_fail(STATUS_BAD_INPUT, "%s:%" PRIu64 ": '%s' is '%s': expected a number", table_path(c->table),
                           table_line(c->table, row), source->columns[0], table_cell_text(cell).text);
    return STATUS_OK;
}

Status dataset_open_number(const DatasetSource *source, DatasetShared *shared, FieldReader *out_reader)
{
    DatasetColumn c;
    TRY(dataset_open_column(source, shared, ELEM_F32, &c, out_reader));
    for (uint64_t row = 0; row < c.n_used; row++)
    {
        Status status = parse_number(source, &c, row, &c.values[row].f32);
        if (status != STATUS_OK)
        {
            free(c.values);
            return status;
        }
    }
    return STATUS_OK;
}
