/* Tables in JSON: an object a line. Line by line, so that no more than one object is in memory besides the cells. */
#include "base/strbuf.h"
#include "runtime/table_parts.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

/* The columns are the members of the first object. */
static void read_names(Table *table, json_t *object, const char *const *wanted, uint32_t n_wanted)
{
    const char **names = ARENA_ARRAY(table->arena, const char *, json_object_size(object));
    uint32_t n = 0;
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) names[n++] = arena_strdup(table->arena, key);
    table_set_names(table, names, n, wanted, n_wanted);
}

static Status read_value(Table *table, uint64_t line, const char *column, const json_t *value, TableCell *out_cell)
{
    static const char *const kinds[] = {
        [JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array", [JSON_STRING] = "a string", [JSON_INTEGER] = "a number",
        [JSON_REAL] = "a number",    [JSON_TRUE] = "true",      [JSON_FALSE] = "false",     [JSON_NULL] = "null"};
    if (!value)
        return table_bad(table, line, 0, "column '%s' is missing", column);
    if (json_is_string(value))
    {
        size_t n_bytes = json_string_length(value);
        *out_cell = (TableCell){arena_strndup(table->arena, json_string_value(value), n_bytes), (uint32_t)n_bytes};
        return STATUS_OK;
    }
    if (!json_is_number(value))
        return table_bad(table, line, 0, "column '%s' is %s: expected a string or a number", column,
                         kinds[json_typeof(value)]);
    StrBuf text = strbuf_make(table->arena);
    if (json_is_integer(value))
        strbuf_addf(&text, "%lld", (long long)json_integer_value(value));
    else
        strbuf_add_f64(&text, json_real_value(value));
    *out_cell = (TableCell){text.data, (uint32_t)text.len};
    return STATUS_OK;
}

static Status read_object(Table *table, uint64_t line, json_t *object, const char *const *wanted, uint32_t n_wanted)
{
    if (!json_is_object(object))
        return table_bad(table, line, 0, "an array: expected an object");
    if (table->lines.len == 0)
        read_names(table, object, wanted, n_wanted);
    TRY(table_add_row(table, line));
    for (uint32_t i = 0; i < table->n_columns; i++)
    {
        TableCell cell;
        TRY(read_value(table, line, table->columns[i], json_object_get(object, table->columns[i]), &cell));
        vec_push(table->arena, &table->cells, cell);
    }
    return STATUS_OK;
}

Status table_read_jsonl(Table *table, const char *text, const char *end, const char *const *wanted, uint32_t n_wanted)
{
    uint64_t line = 1;
    for (const char *at = text; at < end; line++)
    {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        const char *next = stop ? stop + 1 : end;
        stop = stop ? stop : end;
        size_t n_bytes = (size_t)(stop - at);
        if (n_bytes > TABLE_MAX_ROW_BYTES)
            return table_bad(table, line, 0, "a row of more than %d MB", TABLE_MAX_ROW_BYTES >> 20);
        if (n_bytes == 0 || (n_bytes == 1 && *at == '\r'))
        {
            if (table_rest_is_empty(at, end))
                break;
            return table_bad(table, line, 0, "an empty line");
        }
        json_error_t error;
        json_t *object = json_loadb(at, n_bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
        if (!object)
            return table_bad(table, line, (uint64_t)(error.column > 0 ? error.column : 1), "%s", error.text);
        Status status = read_object(table, line, object, wanted, n_wanted);
        json_decref(object);
        TRY(status);
        at = next;
    }
    return STATUS_OK;
}
