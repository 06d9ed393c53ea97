/* What the readers of table.h's formats share. */
#ifndef PTC_RUNTIME_TABLE_PARTS_H
#define PTC_RUNTIME_TABLE_PARTS_H

#include "base/arena.h"
#include "runtime/mapped_file.h"
#include "runtime/table.h"

typedef VEC(TableCell) TableCells;

struct Table
{
    Arena *arena; /* the table itself, names, cells that are not in the file as they are */
    const char *path;
    MappedFile file;          /* cells point into it */
    const char *const *names; /* of all columns of the file */
    uint32_t n_names;
    const char **columns; /* those that are read, in the order of names */
    uint32_t n_columns;
    TableCells cells; /* n_columns a row */
    VEC(uint64_t) lines;
};

/* "PATH:LINE:COL: ..."; col 0: the whole line. */
__attribute__((format(printf, 4, 5))) Status table_bad(const Table *table, uint64_t line, uint64_t col,
                                                       const char *format, ...);
/* The file's columns; wanted are those to read. names is kept. */
void table_set_names(Table *table, const char *const *names, uint32_t n_names, const char *const *wanted,
                     uint32_t n_wanted);
/* One more row; its cells (n_columns) are added by the caller. BAD_INPUT when there are too many. */
Status table_add_row(Table *table, uint64_t line);

/* text and end: the file without a byte order mark. separator ',' with quotes, '\t' without. */
Status table_read_csv(Table *table, const char *text, const char *end, char separator, const char *const *wanted,
                      uint32_t n_wanted);
Status table_read_jsonl(Table *table, const char *text, const char *end, const char *const *wanted, uint32_t n_wanted);

/* Is there nothing but line ends from text on? */
static inline bool table_rest_is_empty(const char *text, const char *end)
{
    while (text < end && (*text == '\n' || *text == '\r'))
        text++;
    return text == end;
}

#endif
