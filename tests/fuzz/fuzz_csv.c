/* Any bytes as a csv, a tsv and a plain text table: refused, or cells that can be read and lines that ascend. */
#include "runtime/table.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static volatile uint8_t read_sink; /* so that the reads are made */

static void read_all(const uint8_t *data, size_t size_bytes, TableKind kind)
{
    static const char *const columns[] = {"a", "text"};
    Table *table;
    if (table_open_memory("fuzz", data, size_bytes, kind, columns, 2, &table) != STATUS_OK)
        return;
    uint64_t line = kind == TABLE_TXT ? 0 : 1; /* others have a line of names */
    if (table_n_rows(table) == 0)
        abort();
    for (uint64_t row = 0; row < table_n_rows(table); row++)
    {
        if (table_line(table, row) <= line)
            abort();
        line = table_line(table, row);
        for (int i = 0; i < 2; i++)
        {
            uint32_t column;
            if (table_column(table, columns[i], &column) != STATUS_OK)
                continue;
            TableCell cell = table_cell(table, row, column);
            for (uint32_t k = 0; k < cell.n_bytes; k++)
                read_sink ^= (uint8_t)cell.text[k];
            read_sink ^= (uint8_t)table_cell_text(cell).text[0];
        }
    }
    table_close(table);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    read_all(data, size_bytes, TABLE_CSV);
    read_all(data, size_bytes, TABLE_TSV);
    read_all(data, size_bytes, TABLE_TXT);
    return 0;
}
