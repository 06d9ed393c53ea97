/* Data format `label`: a column of a table as classes. The training split says which there are: its whole numbers as
 * they are when they are 0..classes-1, else its distinct labels in order; another split is held to them. */
#include "runtime/dataset_formats.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- names to classes */

typedef struct
{
    TableCell name;
    int32_t class_id;
} LabelEntry;

/* The classes and, sorted by bytes, their names; without entries a label is its own number. */
typedef struct
{
    const DatasetLabels *labels;
    LabelEntry *entries;
} LabelMap;

static int compare_cells(const void *left, const void *right)
{
    const TableCell *a = left, *b = right;
    int order = memcmp(a->text, b->text, a->n_bytes < b->n_bytes ? a->n_bytes : b->n_bytes);
    return order ? order : (a->n_bytes > b->n_bytes) - (a->n_bytes < b->n_bytes);
}

static int compare_entries(const void *left, const void *right)
{
    return compare_cells(&((const LabelEntry *)left)->name, &((const LabelEntry *)right)->name);
}

/* "-12": the number as it is printed, so that two spellings are never one label. */
static bool whole_number(TableCell cell, int64_t *out_value)
{
    const bool negative = cell.n_bytes > 0 && cell.text[0] == '-';
    const uint32_t first = negative ? 1 : 0;
    int64_t value = 0;
    if (cell.n_bytes == first || cell.n_bytes > 18 || (cell.text[first] == '0' && cell.n_bytes > 1))
        return false;
    for (uint32_t i = first; i < cell.n_bytes; i++)
    {
        if (!isdigit((unsigned char)cell.text[i]))
            return false;
        value = value * 10 + (cell.text[i] - '0');
    }
    *out_value = negative ? -value : value;
    return true;
}

static int compare_numbers(const void *left, const void *right)
{
    int64_t a = 0, b = 0;
    whole_number(*(const TableCell *)left, &a);
    whole_number(*(const TableCell *)right, &b);
    return (a > b) - (a < b);
}

static LabelMap map_of(Arena *arena, const DatasetLabels *labels)
{
    LabelMap map = {.labels = labels};
    if (!labels->names)
        return map;
    map.entries = ARENA_ARRAY(arena, LabelEntry, labels->n_labels);
    for (uint32_t i = 0; i < labels->n_labels; i++)
        map.entries[i] = (LabelEntry){{labels->names[i], (uint32_t)strlen(labels->names[i])}, (int32_t)i};
    qsort(map.entries, labels->n_labels, sizeof *map.entries, compare_entries);
    return map;
}

static bool class_of(const LabelMap *map, TableCell name, int32_t *out_class)
{
    if (!map->entries)
    {
        int64_t number;
        if (!whole_number(name, &number) || number < 0 || number >= map->labels->n_labels)
            return false;
        *out_class = (int32_t)number;
        return true;
    }
    const LabelEntry key = {.name = name},
                     *found = bsearch(&key, map->entries, map->labels->n_labels, sizeof key, compare_entries);
    if (found)
        *out_class = found->class_id;
    return found != NULL;
}

/* ---- the classes of the training split */

/* The distinct labels: by number when all are whole numbers, else by bytes. */
static uint32_t distinct(Arena *scratch, const DatasetColumn *c, TableCell **out_cells, bool *out_whole)
{
    const uint64_t n_rows = table_n_rows(c->table);
    TableCell *cells = ARENA_ARRAY(scratch, TableCell, n_rows);
    for (uint64_t row = 0; row < n_rows; row++)
        cells[row] = table_cell(c->table, row, c->column);
    qsort(cells, n_rows, sizeof *cells, compare_cells);
    uint32_t n = 0;
    *out_whole = true;
    for (uint64_t row = 0; row < n_rows; row++)
    {
        int64_t number;
        if (n > 0 && compare_cells(&cells[n - 1], &cells[row]) == 0)
            continue;
        cells[n++] = cells[row];
        *out_whole = *out_whole && whole_number(cells[row], &number);
    }
    if (*out_whole)
        qsort(cells, n, sizeof *cells, compare_numbers);
    *out_cells = cells;
    return n;
}

static Status check_names(const DatasetSource *source, const DatasetColumn *c)
{
    for (uint64_t row = 0; row < table_n_rows(c->table); row++)
    {
        const TableCell cell = table_cell(c->table, row, c->column);
        if (cell.n_bytes == 0 || memchr(cell.text, 0, cell.n_bytes))
            return status_fail(STATUS_BAD_INPUT, "%s:%" PRIu64 ": the label (column '%s') is %s", table_path(c->table),
                               table_line(c->table, row), source->columns[0],
                               cell.n_bytes ? "not text: it holds a zero byte" : "empty");
    }
    return STATUS_OK;
}

/* The number of classes is not what the model says: names the first number that is outside, if there is one. */
static Status wrong_classes(const DatasetSource *source, const DatasetColumn *c, uint32_t n, bool whole)
{
    for (uint64_t row = 0; whole && row < table_n_rows(c->table); row++)
    {
        const TableCell cell = table_cell(c->table, row, c->column);
        int64_t number = 0;
        if (whole_number(cell, &number) && (number < 0 || number >= source->n_classes))
            return status_fail(STATUS_BAD_INPUT, "%s:%" PRIu64 ": the label %s of '%s' is not in 0..%" PRId64,
                               table_path(c->table), table_line(c->table, row), table_cell_text(cell).text,
                               source->field, source->n_classes - 1);
    }
    return status_fail(STATUS_BAD_INPUT, "%s: column '%s' has %u different labels, but '%s' has %" PRId64 " classes",
                       table_path(c->table), source->columns[0], n, source->field, source->n_classes);
}

/* The classes, in the data set's arena. */
static Status make_labels(const DatasetSource *source, Arena *arena, const DatasetColumn *c, DatasetLabels *out_labels)
{
    Arena *scratch = arena_create();
    TableCell *cells;
    bool whole;
    int64_t first = 0, last = 0;
    const uint32_t n = distinct(scratch, c, &cells, &whole);
    const int64_t wanted = source->n_classes ? source->n_classes : n;
    if (whole)
    {
        whole_number(cells[0], &first);
        whole_number(cells[n - 1], &last);
    }
    Status status = STATUS_OK;
    if (whole && first >= 0 && last < wanted)
        *out_labels = (DatasetLabels){.n_labels = (uint32_t)wanted};
    else if (n != wanted)
        status = wrong_classes(source, c, n, whole);
    else
    {
        const char **names = ARENA_ARRAY(arena, const char *, n);
        for (uint32_t i = 0; i < n; i++)
            names[i] = arena_strndup(arena, cells[i].text, cells[i].n_bytes);
        *out_labels = (DatasetLabels){.n_labels = n, .names = names};
    }
    arena_destroy(scratch);
    return status;
}

static void copy_labels(Arena *arena, const DatasetLabels *labels, DatasetLabels *out_labels)
{
    *out_labels = *labels;
    if (!labels->names)
        return;
    const char **names = ARENA_ARRAY(arena, const char *, labels->n_labels);
    for (uint32_t i = 0; i < labels->n_labels; i++)
        names[i] = arena_strdup(arena, labels->names[i]);
    out_labels->names = names;
}

static Status fill_labels(const DatasetSource *source, Arena *arena, const DatasetColumn *c, FieldReader *reader)
{
    TRY(check_names(source, c));
    DatasetLabels *labels = ARENA_NEW(arena, DatasetLabels);
    if (source->labels)
        copy_labels(arena, source->labels, labels);
    else
        TRY(make_labels(source, arena, c, labels));
    reader->labels = labels;
    const LabelMap map = map_of(arena, labels);
    for (uint64_t row = 0; row < c->n_used; row++)
    {
        const TableCell cell = table_cell(c->table, row, c->column);
        if (!class_of(&map, cell, &c->values[row].i32))
            return status_fail(STATUS_BAD_INPUT,
                               "%s:%" PRIu64 ": the label '%s' of '%s' is none of the training split's %u",
                               table_path(c->table), table_line(c->table, row), table_cell_text(cell).text,
                               source->field, labels->n_labels);
    }
    return STATUS_OK;
}

Status dataset_open_label(const DatasetSource *source, DatasetShared *shared, FieldReader *out_reader)
{
    DatasetColumn c;
    TRY(dataset_open_column(source, shared, ELEM_I32, &c, out_reader));
    Status status = fill_labels(source, shared->arena, &c, out_reader);
    if (status != STATUS_OK)
        free(c.values);
    return status;
}
