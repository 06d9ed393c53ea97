/* Tables with a separator: csv (RFC 4180) and tsv, which is the same without quotes. One pass; a cell that has no
 * doubled quotes is lent from the file. */
#include "runtime/table_parts.h"

#include <inttypes.h>
#include <string.h>

enum
{
    MAX_FIELDS = 1 << 16
};

typedef struct
{
    Table *table;
    const char *at, *end;
    const char *line_at; /* where the line of `at` begins */
    uint64_t line;
    char separator;
    bool quotes;
    TableCells fields; /* of the row */
} Csv;

static uint64_t column_of(const Csv *csv, const char *place)
{
    return (uint64_t)(place - csv->line_at) + 1;
}

/* The bytes of a line end at p: 0, 1 (LF, or a CR at the end of the file) or 2 (CRLF). */
static uint32_t line_end(const Csv *csv, const char *p)
{
    if (p == csv->end)
        return 0;
    if (*p == '\r' && p + 1 == csv->end)
        return 1;
    return *p == '\n' ? 1 : *p == '\r' && p[1] == '\n' ? 2 : 0;
}

/* The text between quotes with each doubled one as one. */
static TableCell unquote(Arena *arena, const char *text, size_t n_bytes, size_t n_doubled)
{
    if (n_doubled == 0)
        return (TableCell){text, (uint32_t)n_bytes};
    char *copy = arena_alloc(arena, n_bytes - n_doubled);
    size_t n = 0;
    for (size_t i = 0; i < n_bytes; i++)
    {
        copy[n++] = text[i];
        i += text[i] == '"'; /* the other one follows */
    }
    return (TableCell){copy, (uint32_t)n};
}

/* At the opening quote. */
static Status read_quoted(Csv *csv, const char *row, TableCell *out_cell)
{
    const char *open = csv->at, *p = open + 1;
    const uint64_t open_line = csv->line, open_col = column_of(csv, open);
    size_t n_doubled = 0;
    for (;; p++)
    {
        if (p == csv->end)
            return table_bad(csv->table, open_line, open_col, "this quote is never closed");
        if (*p == '\n')
        {
            csv->line++;
            csv->line_at = p + 1;
        }
        if (*p != '"')
            continue;
        if (p + 1 == csv->end || p[1] != '"')
            break;
        n_doubled++;
        p++;
    }
    csv->at = p + 1;
    if (csv->at < csv->end && *csv->at != csv->separator && !line_end(csv, csv->at))
        return table_bad(csv->table, csv->line, column_of(csv, csv->at),
                         "text after the closing quote: expected '%c' or the end of the line", csv->separator);
    if (csv->at - row <= TABLE_MAX_ROW_BYTES)
        *out_cell = unquote(csv->table->arena, open + 1, (size_t)(p - open - 1), n_doubled);
    return STATUS_OK;
}

static TableCell read_plain(Csv *csv)
{
    const char *begin = csv->at, *p = begin;
    while (p < csv->end && *p != csv->separator && *p != '\n')
        p++;
    if (p > begin && p[-1] == '\r' && (p == csv->end || *p == '\n'))
        p--;
    csv->at = p;
    return p - begin <= TABLE_MAX_ROW_BYTES ? (TableCell){begin, (uint32_t)(p - begin)} : (TableCell){0};
}

/* One row into csv->fields, and on to the next. */
static Status read_row(Csv *csv)
{
    const char *row = csv->at;
    const uint64_t line = csv->line;
    csv->fields.len = 0;
    for (;; csv->at++)
    {
        TableCell cell = {0};
        if (csv->quotes && csv->at < csv->end && *csv->at == '"')
            TRY(read_quoted(csv, row, &cell));
        else
            cell = read_plain(csv);
        if (csv->at - row > TABLE_MAX_ROW_BYTES)
            return table_bad(csv->table, line, 0, "a row of more than %d MB", TABLE_MAX_ROW_BYTES >> 20);
        if (csv->fields.len == MAX_FIELDS)
            return table_bad(csv->table, line, 0, "more than %d fields", MAX_FIELDS);
        vec_push(csv->table->arena, &csv->fields, cell);
        if (csv->at == csv->end || *csv->at != csv->separator)
            break;
    }
    csv->at += line_end(csv, csv->at);
    csv->line++;
    csv->line_at = csv->at;
    return STATUS_OK;
}

static Status read_names(Csv *csv, const char *const *wanted, uint32_t n_wanted)
{
    Table *table = csv->table;
    TRY(read_row(csv));
    const char **names = ARENA_ARRAY(table->arena, const char *, csv->fields.len);
    for (uint32_t i = 0; i < csv->fields.len; i++)
        names[i] = arena_strndup(table->arena, csv->fields.data[i].text, csv->fields.data[i].n_bytes);
    table_set_names(table, names, csv->fields.len, wanted, n_wanted);
    return STATUS_OK;
}

Status table_read_csv(Table *table, const char *text, const char *end, char separator, const char *const *wanted,
                      uint32_t n_wanted)
{
    Csv csv = {.table = table,
               .at = text,
               .end = end,
               .line_at = text,
               .line = 1,
               .separator = separator,
               .quotes = separator == ','};
    if (line_end(&csv, csv.at))
        return table_bad(table, 1, 0, "an empty line where the names of the columns should be");
    TRY(read_names(&csv, wanted, n_wanted));
    uint32_t *fields_read = ARENA_ARRAY(table->arena, uint32_t, table->n_columns);
    for (uint32_t i = 0, n = 0; n < table->n_columns; i++)
        if (table->names[i] == table->columns[n])
            fields_read[n++] = i;
    while (csv.at < end)
    {
        const uint64_t line = csv.line;
        if (line_end(&csv, csv.at))
        {
            if (table_rest_is_empty(csv.at, end))
                break;
            return table_bad(table, line, 0, "an empty line");
        }
        TRY(read_row(&csv));
        if (csv.fields.len != table->n_names)
            return table_bad(table, line, 0, "%u fields, but the first line names %u columns", csv.fields.len,
                             table->n_names);
        TRY(table_add_row(table, line));
        for (uint32_t i = 0; i < table->n_columns; i++)
            vec_push(table->arena, &table->cells, csv.fields.data[fields_read[i]]);
    }
    return STATUS_OK;
}
