/* Tables of text: what their formats have in common; txt, which has nothing of its own. */
#include "runtime/table.h"

#include "base/bug.h"
#include "base/strbuf.h"
#include "runtime/table_parts.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum
{
    MAX_CELLS = 1 << 30
};

static const char *const kind_names[] = {
    [TABLE_CSV] = "csv", [TABLE_TSV] = "tsv", [TABLE_JSONL] = "jsonl", [TABLE_TXT] = "txt"};

bool table_kind_by_name(const char *name, TableKind *out_kind)
{
    for (size_t i = 0; i < sizeof kind_names / sizeof kind_names[0]; i++)
        if (strcmp(kind_names[i], name) == 0)
        {
            *out_kind = (TableKind)i;
            return true;
        }
    return false;
}

bool table_kind_by_path(const char *path, TableKind *out_kind)
{
    const char *dot = strrchr(path, '.');
    return dot && table_kind_by_name(dot + 1, out_kind);
}

/* ---- what the readers use */

Status table_bad(const Table *table, uint64_t line, uint64_t col, const char *format, ...)
{
    char text[512], place[32] = "";
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (col)
        snprintf(place, sizeof place, ":%" PRIu64, col);
    return status_fail(STATUS_BAD_INPUT, "%s:%" PRIu64 "%s: %s", table->path, line, place, text);
}

void table_set_names(Table *table, const char *const *names, uint32_t n_names, const char *const *wanted,
                     uint32_t n_wanted)
{
    table->names = names;
    table->n_names = n_names;
    table->columns = ARENA_ARRAY(table->arena, const char *, n_names);
    for (uint32_t i = 0; i < n_names; i++)
    {
        bool is_wanted = false;
        for (uint32_t k = 0; k < n_wanted && !is_wanted; k++)
            is_wanted = strcmp(names[i], wanted[k]) == 0;
        if (is_wanted)
            table->columns[table->n_columns++] = names[i];
    }
}

Status table_add_row(Table *table, uint64_t line)
{
    if ((uint64_t)table->cells.len + table->n_columns > MAX_CELLS || table->lines.len >= MAX_CELLS)
        return table_bad(table, line, 0, "the table is too long: more than %d cells", MAX_CELLS);
    vec_push(table->arena, &table->lines, line);
    return STATUS_OK;
}

/* ---- open, close */

static Table *create(const char *path)
{
    Arena *arena = arena_create();
    Table *table = ARENA_NEW(arena, Table);
    *table = (Table){.arena = arena, .path = arena_strdup(arena, path)};
    return table;
}

static Status read_lines(Table *table, const char *text, const char *end, const char *const *wanted, uint32_t n_wanted)
{
    static const char *const names[] = {"text"};
    table_set_names(table, names, 1, wanted, n_wanted);
    uint64_t line = 1;
    for (const char *next; text < end; text = next, line++)
    {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        const char *stop = newline ? newline : end;
        next = newline ? newline + 1 : end;
        if (stop > text && stop[-1] == '\r')
            stop--;
        if (stop - text > TABLE_MAX_ROW_BYTES)
            return table_bad(table, line, 0, "a line of more than %d bytes", TABLE_MAX_ROW_BYTES);
        TRY(table_add_row(table, line));
        if (table->n_columns)
            vec_push(table->arena, &table->cells, (TableCell){text, (uint32_t)(stop - text)});
    }
    return STATUS_OK;
}

static Status read_table(Table *table, const void *bytes, size_t n_bytes, TableKind kind, const char *const *wanted,
                         uint32_t n_wanted)
{
    const char *text = bytes, *end = text ? text + n_bytes : text;
    if (n_bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0)
        text += 3;
    if (text == end || table_rest_is_empty(text, end))
        return status_fail(STATUS_BAD_INPUT, "%s: the file is empty", table->path);
    if (kind == TABLE_JSONL)
        return table_read_jsonl(table, text, end, wanted, n_wanted);
    if (kind == TABLE_TXT)
        return read_lines(table, text, end, wanted, n_wanted);
    TRY(table_read_csv(table, text, end, kind == TABLE_CSV ? ',' : '\t', wanted, n_wanted));
    if (table->lines.len == 0)
        return status_fail(STATUS_BAD_INPUT, "%s: there are no rows below the names of the columns", table->path);
    return STATUS_OK;
}

static Status finish(Table *table, Status status, Table **out_table)
{
    if (status == STATUS_OK)
        *out_table = table;
    else
        table_close(table);
    return status;
}

Status table_open_memory(const char *name, const void *bytes, size_t n_bytes, TableKind kind,
                         const char *const *columns, uint32_t n_columns, Table **out_table)
{
    Table *table = create(name);
    return finish(table, read_table(table, bytes, n_bytes, kind, columns, n_columns), out_table);
}

Status table_open(const char *path, TableKind kind, const char *const *columns, uint32_t n_columns, Table **out_table)
{
    Table *table = create(path);
    Status status = mapped_file_open(path, &table->file);
    if (status == STATUS_OK)
        status = read_table(table, table->file.data, table->file.size_bytes, kind, columns, n_columns);
    return finish(table, status, out_table);
}

void table_close(Table *table)
{
    if (!table)
        return;
    mapped_file_close(&table->file);
    arena_destroy(table->arena); /* holds *table too */
}

/* ---- access */

const char *table_path(const Table *table)
{
    return table->path;
}

uint64_t table_n_rows(const Table *table)
{
    return table->lines.len;
}

Status table_column(const Table *table, const char *name, uint32_t *out_column)
{
    uint32_t n_found = 0;
    for (uint32_t i = table->n_columns; i-- > 0;)
        if (strcmp(table->columns[i], name) == 0)
        {
            *out_column = i;
            n_found++;
        }
    if (n_found == 1)
        return STATUS_OK;
    if (n_found > 1)
        return table_bad(table, 1, 0, "there are %u columns '%s'", n_found, name);
    const char *nearest = str_nearest(name, table->names, table->n_names);
    return table_bad(table, 1, 0, "there is no column '%s'%s%s%s", name, nearest ? "; did you mean '" : "",
                     nearest ? nearest : "", nearest ? "'?" : "");
}

TableCell table_cell(const Table *table, uint64_t row, uint32_t column)
{
    ENSURE(row < table->lines.len && column < table->n_columns);
    return table->cells.data[row * table->n_columns + column];
}

uint64_t table_line(const Table *table, uint64_t row)
{
    ENSURE(row < table->lines.len);
    return table->lines.data[row];
}

CellText table_cell_text(TableCell cell)
{
    enum
    {
        MAX_SHOWN = 60
    };
    CellText shown;
    uint32_t n = cell.n_bytes < MAX_SHOWN ? cell.n_bytes : MAX_SHOWN;
    if (n < cell.n_bytes) /* not in the middle of a character */
        while (n > 0 && ((unsigned char)cell.text[n] & 0xC0) == 0x80)
            n--;
    for (uint32_t i = 0; i < n; i++)
        shown.text[i] = (unsigned char)cell.text[i] < ' ' || cell.text[i] == 0x7F ? '?' : cell.text[i];
    memcpy(shown.text + n, n < cell.n_bytes ? "..." : "", n < cell.n_bytes ? 4 : 1);
    return shown;
}
