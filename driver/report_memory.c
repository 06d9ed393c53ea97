/* Memory by layout and rank: what the memory planner counts, beside what the processes have had. */
#include "driver/report_parts.h"

#include <math.h>
#include <string.h>

enum
{
    MAX_LAYOUTS = 40,
    MAX_RANKS = 16,
    BAR_HEIGHT = 14,
    LAYOUT_HEIGHT = 40
};

typedef struct
{
    const ReportEvent *layout;
    const ReportEvent *real; /* the first event behind it that knows */
    uint32_t fullest;        /* rank */
} Row;

typedef VEC(Row) Rows;

/* key: "planned_bytes" or "real_bytes"; only several ranks have lists. */
static double bytes_of(Arena *arena, const ReportEvent *event, const char *key, uint32_t rank)
{
    const double bytes = report_item_of(event, arena_printf(arena, "%s_of_ranks", key), rank);
    return isfinite(bytes) || rank ? bytes : report_number_of(event, key);
}

static uint32_t n_ranks_of(Arena *arena, const Row *row)
{
    uint32_t n = 1;
    while (isfinite(bytes_of(arena, row->real, "real_bytes", n)))
        n++;
    return n;
}

static const ReportEvent *find_real(const ReportRun *run, uint32_t layout)
{
    for (uint32_t i = layout + 1; i < run->events.len && strcmp(run->events.data[i].name, "layout") != 0; i++)
        if (isfinite(report_number_of(&run->events.data[i], "real_bytes")))
            return &run->events.data[i];
    return NULL;
}

static Rows find_rows(Arena *arena, const ReportRun *run)
{
    Rows rows = {0};
    for (uint32_t i = 0; i < run->events.len && rows.len < MAX_LAYOUTS; i++)
    {
        Row row = {.layout = &run->events.data[i], .real = find_real(run, i)};
        if (strcmp(row.layout->name, "layout") != 0 || !row.real)
            continue;
        for (uint32_t r = 1, n = n_ranks_of(arena, &row); r < n; r++)
            if (bytes_of(arena, row.real, "real_bytes", r) > bytes_of(arena, row.real, "real_bytes", row.fullest))
                row.fullest = r;
        vec_push(arena, &rows, row);
    }
    return rows;
}

/* ---- the rank with most, as bars */

static void draw_bar(StrBuf *page, const char *colour, double bytes, double largest, double y)
{
    const double left = 170, width = bytes / largest * (REPORT_WIDTH - left - 90);
    if (!isfinite(bytes))
        return;
    strbuf_addf(page,
                "<rect class=\"%s\" x=\"%.0f\" y=\"%.1f\" width=\"%.1f\" height=\"%d\"/><text class=\"tl\" x=\"%.1f\" "
                "y=\"%.1f\">%s</text>",
                colour, left, y, fmax(width, 1), BAR_HEIGHT, left + width + 6, y + 11,
                report_bytes(page->arena, bytes));
}

static const char *name_of(Arena *arena, const Row *row)
{
    return arena_printf(arena, "step %.0f, %.0f frozen", row->layout->step, report_number_of(row->layout, "frozen"));
}

static void draw_rows(StrBuf *page, const Rows *rows)
{
    double largest = 1;
    for (uint32_t i = 0; i < rows->len; i++)
    {
        const Row *row = &rows->data[i];
        largest = fmax(largest, bytes_of(page->arena, row->real, "real_bytes", row->fullest));
        largest = fmax(largest, bytes_of(page->arena, row->layout, "planned_bytes", row->fullest));
    }
    report_open_figure(page, (int)rows->len * LAYOUT_HEIGHT);
    for (uint32_t i = 0; i < rows->len; i++)
    {
        const Row *row = &rows->data[i];
        const double y = i * LAYOUT_HEIGHT + 4;
        strbuf_addf(page, "<text class=\"ty\" x=\"162\" y=\"%.1f\">%s</text>", y + 18, name_of(page->arena, row));
        draw_bar(page, "f1", bytes_of(page->arena, row->layout, "planned_bytes", row->fullest), largest, y);
        draw_bar(page, "f2", bytes_of(page->arena, row->real, "real_bytes", row->fullest), largest, y + BAR_HEIGHT + 1);
    }
    report_close_figure(page);
}

/* ---- all ranks, as a table */

static void add_row(StrBuf *page, const Row *row, uint32_t n_shown)
{
    Arena *arena = page->arena;
    strbuf_addf(page, "<tr><td>%s</td>", name_of(arena, row));
    for (uint32_t r = 0; r < n_shown; r++)
    {
        const double planned = bytes_of(arena, row->layout, "planned_bytes", r);
        const double real = bytes_of(arena, row->real, "real_bytes", r);
        strbuf_addf(page, "<td>%s / %s</td>", isfinite(planned) ? report_bytes(arena, planned) : "",
                    isfinite(real) ? report_bytes(arena, real) : "");
    }
    strbuf_add(page, "</tr>\n");
}

static void add_table(StrBuf *page, const Rows *rows, uint32_t n_ranks)
{
    const uint32_t n_shown = n_ranks < MAX_RANKS ? n_ranks : MAX_RANKS;
    strbuf_add(page, "<div class=\"wide\"><table><thead><tr><th>predicted / real</th>");
    for (uint32_t r = 0; r < n_shown; r++)
        strbuf_addf(page, "<th>rank %u</th>", r);
    strbuf_add(page, "</tr></thead><tbody>\n");
    for (uint32_t i = 0; i < rows->len; i++)
        add_row(page, &rows->data[i], n_shown);
    strbuf_add(page, "</tbody></table></div>");
    if (n_shown < n_ranks)
        strbuf_addf(page, "<p>and %u more ranks in metrics.jsonl</p>", n_ranks - n_shown);
}

void report_memory(StrBuf *page, const ReportRun *run)
{
    const Rows rows = find_rows(page->arena, run);
    uint32_t n_ranks = 1;
    for (uint32_t i = 0; i < rows.len; i++)
    {
        const uint32_t n = n_ranks_of(page->arena, &rows.data[i]);
        n_ranks = n > n_ranks ? n : n_ranks;
    }
    if (!rows.len)
        return;
    strbuf_add(page,
               "<section><h2>Memory</h2><div class=\"card\"><p>By layout: what the memory planner counts, and the "
               "peak of the process in the first steps");
    strbuf_add(page, n_ranks > 1 ? "; of the rank with the highest one.</p>" : ".</p>");
    strbuf_add(page, "<p class=\"legend\"><span><i class=\"b1\"></i>predicted</span><span><i class=\"b2\"></i>real"
                     "</span></p>");
    draw_rows(page, &rows);
    if (n_ranks > 1)
        add_table(page, &rows, n_ranks);
    strbuf_add(page, "</div></section>\n");
}
