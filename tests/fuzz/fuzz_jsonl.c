/* Any bytes as a jsonl table: refused, or cells that can be read. */
#include "runtime/table.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static volatile uint8_t read_sink; /* so that the reads are made */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    static const char *const columns[] = {"a", "b"};
    Table *table;
    if (table_open_memory("fuzz", data, size_bytes, TABLE_JSONL, columns, 2, &table) != STATUS_OK)
        return 0;
    if (table_n_rows(table) == 0)
        abort();
    for (uint64_t row = 0; row < table_n_rows(table); row++)
        for (int i = 0; i < 2; i++)
        {
            uint32_t column;
            if (table_column(table, columns[i], &column) != STATUS_OK)
                continue;
            TableCell cell = table_cell(table, row, column);
            for (uint32_t k = 0; k < cell.n_bytes; k++)
                read_sink ^= (uint8_t)cell.text[k];
        }
    table_close(table);
    return 0;
}
