/* Tables of text: files whose rows have named columns.
 *
 *   csv    RFC 4180: the first row names the columns; a field in double quotes may hold commas, line ends and doubled
 *          quotes. Quotes inside an unquoted field are text.
 *   tsv    the same with tabs and without quoting, as GLUE writes it.
 *   jsonl  a JSON object a line (RFC 8259), whose values are strings or numbers where a column is asked for; the first
 *          one names the columns.
 *   txt    plain text: each line is a row, an empty one too, and its one column is called "text".
 *
 * Lines end with LF or CRLF; a byte order mark is skipped; empty lines are allowed at the end only, but for txt. Cells
 * are bytes: only jsonl is checked to be UTF-8. Failures are BAD_INPUT with a sentence that begins with "PATH:LINE" or
 * "PATH:LINE:COLUMN" (bytes from 1), IO when the file cannot be read. An opened table is read-only and may be shared.
 */
#ifndef PTC_RUNTIME_TABLE_H
#define PTC_RUNTIME_TABLE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum
{
    TABLE_CSV,
    TABLE_TSV,
    TABLE_JSONL,
    TABLE_TXT
} TableKind;

enum
{
    TABLE_MAX_ROW_BYTES = 64 * 1024 * 1024 /* longer rows are refused */
};

typedef struct Table Table;

/* Lent by the table; not NUL-terminated. */
typedef struct
{
    const char *text;
    uint32_t n_bytes;
} TableCell;

/* False when there is no such kind: names are "csv", "tsv", "jsonl", "txt". */
bool table_kind_by_name(const char *name, TableKind *out_kind);
/* By the end of the file's name. */
bool table_kind_by_path(const char *path, TableKind *out_kind);

/* Reads the columns named and no others; those that are not there are told by table_column. At least one row. The
 * caller closes *out_table. */
Status table_open(const char *path, TableKind kind, const char *const *columns, uint32_t n_columns, Table **out_table);
/* The same from memory; bytes must outlive the table. name stands for the path in messages. */
Status table_open_memory(const char *name, const void *bytes, size_t n_bytes, TableKind kind,
                         const char *const *columns, uint32_t n_columns, Table **out_table);
/* NULL is allowed. */
void table_close(Table *table);

const char *table_path(const Table *table);
uint64_t table_n_rows(const Table *table);
/* One of the columns that were asked for. BAD_INPUT: the file has none of that name (with the nearest), or two. */
Status table_column(const Table *table, const char *name, uint32_t *out_column);
TableCell table_cell(const Table *table, uint64_t row, uint32_t column);
/* The line on which a row begins, from 1. */
uint64_t table_line(const Table *table, uint64_t row);

/* A cell for a message: at most 60 bytes of it, whole characters, control characters as '?'; NUL-terminated. */
typedef struct
{
    char text[72];
} CellText;
CellText table_cell_text(TableCell cell);

#endif
