/* Tables: csv, tsv and jsonl, with what real files do to them and the places that messages name. */
#include "data_test.h"

#include "runtime/table.h"

#include <stdlib.h>

static const char *const ab[] = {"a", "b"};

static Status open_text(const char *text, TableKind kind, Table **out_table)
{
    return table_open_memory("t", text, strlen(text), kind, ab, 2, out_table);
}

static Table *open_good(const char *text, TableKind kind)
{
    Table *table = NULL;
    EXPECT_OK(open_text(text, kind, &table));
    return table;
}

static void expect_bad(const char *text, TableKind kind, const char *part)
{
    Table *table = NULL;
    EXPECT_FAIL(open_text(text, kind, &table), STATUS_BAD_INPUT, part);
}

static void expect_cell(const Table *table, uint64_t row, const char *column, const char *text)
{
    uint32_t number;
    EXPECT_OK(table_column(table, column, &number));
    TableCell cell = table_cell(table, row, number);
    if (cell.n_bytes != strlen(text) || memcmp(cell.text, text, cell.n_bytes) != 0)
        fail_msg("row %d, column %s: '%.*s', not '%s'", (int)row, column, (int)cell.n_bytes, cell.text, text);
}

static void test_csv(void **state)
{
    (void)state;
    Table *table = open_good("\xEF\xBB\xBFz,b,a\r\n" /* byte order mark, CRLF, another order, a column nobody wants */
                             "1,plain,\"quoted\"\r\n"
                             "2,\"two\nlines, a comma\",\"say \"\"hi\"\"\"\r\n"
                             ",,\r\n"
                             "3,it's 5\" long,\"\"\"\"\n" /* LF among CRLF; a quote inside an unquoted field is text */
                             "4,last,no line end",
                             TABLE_CSV);
    assert_int_equal(table_n_rows(table), 5);
    expect_cell(table, 0, "a", "quoted");
    expect_cell(table, 0, "b", "plain");
    expect_cell(table, 1, "a", "say \"hi\"");
    expect_cell(table, 1, "b", "two\nlines, a comma");
    expect_cell(table, 2, "a", "");
    expect_cell(table, 2, "b", "");
    expect_cell(table, 3, "a", "\"");
    expect_cell(table, 3, "b", "it's 5\" long");
    expect_cell(table, 4, "a", "no line end");
    const uint64_t lines[] = {2, 3, 5, 6, 7};
    for (int i = 0; i < 5; i++)
        assert_int_equal(table_line(table, (uint64_t)i), lines[i]);
    table_close(table);

    table = open_good("a,b\n\"\",\"\"\n\n\r\n\n", TABLE_CSV); /* empty lines at the end */
    assert_int_equal(table_n_rows(table), 1);
    expect_cell(table, 0, "a", "");
    table_close(table);
    table = open_good("a,b\r\n1,\"2\"\r", TABLE_CSV); /* cut between CR and LF */
    expect_cell(table, 0, "b", "2");
    table_close(table);
    table = open_good("a,b\n1,2\r3\n", TABLE_CSV); /* a CR in the middle is text */
    expect_cell(table, 0, "b", "2\r3");
    table_close(table);
    static const char zero[] = "a,b\n\0x,\xFF\n"; /* any bytes */
    EXPECT_OK(table_open_memory("t", zero, sizeof zero - 1, TABLE_CSV, ab, 2, &table));
    assert_int_equal(table_cell(table, 0, 0).n_bytes, 2);
    table_close(table);
}

static void test_csv_errors(void **state)
{
    (void)state;
    expect_bad("", TABLE_CSV, "t: the file is empty");
    expect_bad("\n\r\n", TABLE_CSV, "t: the file is empty");
    expect_bad("\xEF\xBB\xBF", TABLE_CSV, "t: the file is empty");
    expect_bad("a,b\n", TABLE_CSV, "t: there are no rows below");
    expect_bad("\na,b\n1,2\n", TABLE_CSV, "t:1: an empty line where the names");
    expect_bad("a,b\n1,2\n\n3,4\n", TABLE_CSV, "t:3: an empty line");
    expect_bad("a,b\n1,2\n3\n", TABLE_CSV, "t:3: 1 fields, but the first line names 2 columns");
    expect_bad("a,b\n\"1\n\n\",2\n3,4,5\n", TABLE_CSV, "t:5: 3 fields, but the first line names 2 columns");
    expect_bad("a,b\n1,2\n\"x\ny\",\"open\nto the end", TABLE_CSV, "t:4:4: this quote is never closed");
    expect_bad("a,b\n1,\"2\" 3\n", TABLE_CSV, "t:2:6: text after the closing quote: expected ','");
    expect_bad("a,b\n1,\"2\n2\"x\n", TABLE_CSV, "t:3:3: text after the closing quote");
    expect_bad("a,\"b", TABLE_CSV, "t:1:3: this quote is never closed");

    Table *table = open_good("A,bb,b\n1,2,3\n", TABLE_CSV);
    uint32_t column;
    EXPECT_FAIL(table_column(table, "a", &column), STATUS_BAD_INPUT, "t:1: there is no column 'a'");
    EXPECT_OK(table_column(table, "b", &column));
    table_close(table);
    table = open_good("a,b,a\n1,2,3\n", TABLE_CSV);
    EXPECT_FAIL(table_column(table, "a", &column), STATUS_BAD_INPUT, "t:1: there are 2 columns 'a'");
    table_close(table);
    const char *const wanted[] = {"categry"};
    EXPECT_OK(table_open_memory("t", "text,category\n1,2\n", 18, TABLE_CSV, wanted, 1, &table));
    EXPECT_FAIL(table_column(table, "categry", &column), STATUS_BAD_INPUT,
                "there is no column 'categry'; did you mean 'category'?");
    table_close(table);
}

static void test_tsv(void **state)
{
    (void)state;
    Table *table = open_good("a\tb\r\nhe said \"no, \t1\r\n\"quoted\"\t\r\n \t \n", TABLE_TSV);
    assert_int_equal(table_n_rows(table), 3);
    expect_cell(table, 0, "a", "he said \"no, ");
    expect_cell(table, 0, "b", "1");
    expect_cell(table, 1, "a", "\"quoted\"");
    expect_cell(table, 1, "b", "");
    expect_cell(table, 2, "a", " ");
    table_close(table);
    expect_bad("a\tb\n1\t2\t3\n", TABLE_TSV, "t:2: 3 fields, but the first line names 2 columns");
    expect_bad("a\tb\n1\t2\n\n1\t2", TABLE_TSV, "t:3: an empty line");
}

static void test_jsonl(void **state)
{
    (void)state;
    Table *table = open_good("{\"a\": \"x\\n\\u00e4\\ud83d\\ude00\", \"b\": 1, \"c\": [1, {}]}\r\n"
                             "  {\"b\": -2.5, \"a\": \"\"}  \n"
                             "{\"b\": 1e30, \"a\": \"nul\\u0000\", \"d\": null}\n\n",
                             TABLE_JSONL);
    assert_int_equal(table_n_rows(table), 3);
    expect_cell(table, 0, "a", "x\n\xC3\xA4\xF0\x9F\x98\x80");
    expect_cell(table, 0, "b", "1");
    expect_cell(table, 1, "a", "");
    expect_cell(table, 1, "b", "-2.5");
    expect_cell(table, 2, "b", "1e+30");
    uint32_t column;
    EXPECT_OK(table_column(table, "a", &column));
    assert_int_equal(table_cell(table, 2, column).n_bytes, 4);
    assert_int_equal(table_line(table, 2), 3);
    EXPECT_FAIL(table_column(table, "c", &column), STATUS_BAD_INPUT, "no column 'c'"); /* it was not asked for */
    table_close(table);
}

static void test_jsonl_errors(void **state)
{
    (void)state;
    expect_bad("", TABLE_JSONL, "t: the file is empty");
    expect_bad("{\"a\":1,\"b\":2}\n\n{\"a\":1,\"b\":2}\n", TABLE_JSONL, "t:2: an empty line");
    expect_bad("{\"a\":1,\"b\":2}\n{\"a\":1,\"b\":}\n", TABLE_JSONL, "t:2:12: ");
    expect_bad("{\"a\":1,\"b\":2}{}\n", TABLE_JSONL, "t:1:14: ");
    expect_bad("{\"a\":1,\n\"b\":2}\n", TABLE_JSONL, "t:1:");
    expect_bad("[1, 2]\n", TABLE_JSONL, "t:1: an array: expected an object");
    expect_bad("12\n", TABLE_JSONL, "t:1:");
    expect_bad("{\"a\":1,\"a\":2}\n", TABLE_JSONL, "t:1:");
    expect_bad("{\"a\":\"\xFF\",\"b\":2}\n", TABLE_JSONL, "t:1:");
    expect_bad("{\"a\":1,\"b\":2}\n{\"a\":1}\n", TABLE_JSONL, "t:2: column 'b' is missing");
    expect_bad("{\"a\":null,\"b\":2}\n", TABLE_JSONL, "t:1: column 'a' is null: expected a string or a number");
    expect_bad("{\"a\":1,\"b\":[2]}\n", TABLE_JSONL, "t:1: column 'b' is an array");
    Table *table = open_good("{\"a\":1,\"bb\":2}\n", TABLE_JSONL);
    uint32_t column;
    EXPECT_FAIL(table_column(table, "b", &column), STATUS_BAD_INPUT, "t:1: there is no column 'b'");
    table_close(table);
}

/* A row of exactly the limit is read, a longer one is refused, and so is a line with too many fields. */
static void test_long_rows(void **state)
{
    (void)state;
    const size_t head = 4, most = TABLE_MAX_ROW_BYTES;
    char *text = malloc(head + most + 1);
    assert_non_null(text);
    Table *table = NULL;
    memcpy(text, "a,b\n", head);
    memset(text + head, 'x', most + 1);
    text[head + 1] = ',';
    EXPECT_OK(table_open_memory("t", text, head + most, TABLE_CSV, ab, 2, &table));
    assert_int_equal(table_cell(table, 0, 1).n_bytes, most - 2);
    table_close(table);
    EXPECT_FAIL(table_open_memory("t", text, head + most + 1, TABLE_CSV, ab, 2, &table), STATUS_BAD_INPUT,
                "t:2: a row of more than 64 MB");
    text[head] = '"'; /* in quotes */
    text[head + most - 1] = '"';
    text[head + most] = ',';
    EXPECT_FAIL(table_open_memory("t", text, head + most + 1, TABLE_CSV, ab, 2, &table), STATUS_BAD_INPUT,
                "t:2: a row of more than 64 MB");
    text[head] = '{';
    EXPECT_FAIL(table_open_memory("t", text + head, most + 1, TABLE_JSONL, ab, 2, &table), STATUS_BAD_INPUT,
                "t:1: a row of more than 64 MB");
    memset(text, ',', 1 << 20);
    EXPECT_FAIL(table_open_memory("t", text, 1 << 20, TABLE_CSV, ab, 2, &table), STATUS_BAD_INPUT,
                "t:1: more than 65536 fields");
    free(text);
}

static void test_files(void **state)
{
    const char *path = path_in(*state, "x.tsv");
    write_bytes(path, "a\tb\n1\t2\n", 8);
    TableKind kind;
    assert_true(table_kind_by_path(path, &kind));
    assert_int_equal(kind, TABLE_TSV);
    assert_false(table_kind_by_path("csv", &kind));
    assert_false(table_kind_by_path("a.csv.gz", &kind));
    Table *table = NULL;
    EXPECT_OK(table_open(path, kind, ab, 2, &table));
    assert_string_equal(table_path(table), path);
    expect_cell(table, 0, "b", "2");
    table_close(table);
    EXPECT_FAIL(table_open(path_in(*state, "none.csv"), TABLE_CSV, ab, 2, &table), STATUS_BAD_INPUT, "No such file");
    EXPECT_FAIL(table_open(*state, TABLE_CSV, ab, 2, &table), STATUS_BAD_INPUT, "not a regular file");
}

static void test_cells_in_messages(void **state)
{
    (void)state;
    assert_string_equal(table_cell_text((TableCell){"tab\there", 8}).text, "tab?here");
    char longer[80];
    memset(longer, 'x', sizeof longer);
    memcpy(longer + 58, "\xE2\x82\xAC", 3); /* the limit of 60 is inside of it */
    const char *shown = table_cell_text((TableCell){longer, sizeof longer}).text;
    assert_int_equal(strlen(shown), 61);
    assert_string_equal(shown + 57, "x...");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_csv),   cmocka_unit_test(test_csv_errors),        cmocka_unit_test(test_tsv),
        cmocka_unit_test(test_jsonl), cmocka_unit_test(test_jsonl_errors),      cmocka_unit_test(test_long_rows),
        cmocka_unit_test(test_files), cmocka_unit_test(test_cells_in_messages),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
