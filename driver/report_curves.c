/* What goes over the steps of a run: loss and metrics, speed, the layout, the cache. */
#include "driver/report_parts.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

typedef VEC(ReportPoint) Points;

static const struct
{
    const char *key, *title, *unit;
    double factor;
    bool spread;
} curves[] = {
#define CURVE(key, title, unit, factor, spread) {#key, title, unit, factor, spread},
#include "driver/report_curves.def"
#undef CURVE
};

enum
{
    N_CURVES = sizeof curves / sizeof *curves
};

/* Where the transitions are. */
static Points marks_of(Arena *arena, const ReportRun *run)
{
    Points marks = {0};
    for (uint32_t i = 0; i < run->events.len; i++)
        if (strcmp(run->events.data[i].name, "transition") == 0)
            vec_push(arena, &marks, ((ReportPoint){run->events.data[i].step, 0}));
    return marks;
}

static Points field_of(Arena *arena, const ReportRun *run, const char *event, const char *key, double factor)
{
    Points points = {0};
    for (uint32_t i = 0; i < run->events.len; i++)
    {
        const double value = report_number_of(&run->events.data[i], key);
        if (strcmp(run->events.data[i].name, event) == 0 && isfinite(value))
            vec_push(arena, &points, ((ReportPoint){run->events.data[i].step, value * factor}));
    }
    return points;
}

static double largest(const Points *points)
{
    double value = 0;
    for (uint32_t i = 0; i < points->len; i++)
        value = fmax(value, points->data[i].y);
    return value;
}

static void draw(StrBuf *page, const ReportRun *run, ReportChart chart)
{
    const Points marks = marks_of(page->arena, run);
    chart.last_x = run->last_step;
    chart.marks = marks.data;
    chart.n_marks = marks.len;
    report_chart(page, &chart);
}

/* ---- loss and metrics */

static bool is_result(const char *key)
{
    for (size_t i = 0; i < N_CURVES; i++)
        if (strcmp(key, curves[i].key) == 0)
            return false;
    return strcmp(key, "epoch") != 0 && strcmp(key, "seconds") != 0;
}

static void draw_result(StrBuf *page, const ReportRun *run, const char *key)
{
    const ReportSeries *train = report_series(&run->train, key), *test = report_series(&run->eval, key);
    char *title = arena_strdup(page->arena, key);
    title[0] = (char)toupper((unsigned char)title[0]);
    ReportLine lines[2];
    uint32_t n = 0;
    if (train)
        lines[n++] =
            (ReportLine){.label = "training", .colour = 1, .points = train->points.data, .n = train->points.len};
    if (test)
        lines[n++] = (ReportLine){
            .label = "test", .colour = 2, .points = test->points.data, .n = test->points.len, .dots = true};
    draw(page, run, (ReportChart){.title = title, .unit = n == 1 ? lines[0].label : "", .lines = lines, .n_lines = n});
}

static void draw_results(StrBuf *page, const ReportRun *run)
{
    for (uint32_t i = 0; i < run->train.len; i++)
        if (is_result(run->train.data[i].key))
            draw_result(page, run, run->train.data[i].key);
    for (uint32_t i = 0; i < run->eval.len; i++)
        if (is_result(run->eval.data[i].key) && !report_series(&run->train, run->eval.data[i].key))
            draw_result(page, run, run->eval.data[i].key);
}

static void draw_curve(StrBuf *page, const ReportRun *run, size_t which)
{
    const ReportSeries *series = report_series(&run->train, curves[which].key);
    if (!series)
        return;
    Points points = {0};
    for (uint32_t i = 0; i < series->points.len; i++)
        vec_push(page->arena, &points,
                 ((ReportPoint){series->points.data[i].x, series->points.data[i].y * curves[which].factor}));
    const ReportLine line = {.label = curves[which].title, .colour = 1, .points = points.data, .n = points.len};
    draw(page, run,
         (ReportChart){.title = curves[which].title,
                       .unit = curves[which].unit,
                       .spread = curves[which].spread,
                       .from_zero = true,
                       .lines = &line,
                       .n_lines = 1});
}

/* ---- the layout */

static void draw_frozen(StrBuf *page, const ReportRun *run)
{
    const Points frozen = field_of(page->arena, run, "layout", "frozen", 1);
    if (largest(&frozen) == 0)
        return;
    const double n_layers = report_number_of(report_last(run, "run", run->events.len), "layers");
    const ReportLine line = {
        .label = "frozen", .colour = 3, .points = frozen.data, .n = frozen.len, .stairs = true, .dots = true};
    draw(page, run,
         (ReportChart){.title = "Frozen layers",
                       .unit = isfinite(n_layers) ? arena_printf(page->arena, "of %.0f", n_layers) : "",
                       .from_zero = true,
                       .whole = true,
                       .lines = &line,
                       .n_lines = 1});
}

static void draw_layout(StrBuf *page, const ReportRun *run)
{
    const Points stages = field_of(page->arena, run, "layout", "stages", 1);
    const Points replicas = field_of(page->arena, run, "layout", "replicas", 1);
    const Points idle = field_of(page->arena, run, "layout", "idle", 1);
    if (largest(&stages) <= 1 && largest(&replicas) <= 1)
        return;
    const bool some_idle = largest(&idle) > 0;
    const ReportLine lines[] = {
        {.label = "stages K", .colour = 1, .points = stages.data, .n = stages.len, .stairs = true, .dots = true},
        {.label = "replicas R", .colour = 2, .points = replicas.data, .n = replicas.len, .stairs = true, .dots = true},
        {.label = "idle ranks", .colour = 3, .points = idle.data, .n = idle.len, .stairs = true, .dots = true}};
    draw(page, run,
         (ReportChart){.title = "Layout",
                       .unit = "",
                       .from_zero = true,
                       .whole = true,
                       .lines = lines,
                       .n_lines = 2 + (uint32_t)some_idle});
}

/* ---- the cache */

/* Counters are of one store; a transition makes another. */
static Points cache_shares(Arena *arena, const ReportRun *run, const char *field)
{
    Points shares = {0};
    double hits = 0, misses = 0, part = 0;
    for (uint32_t i = 0; i < run->events.len; i++)
    {
        const ReportEvent *event = &run->events.data[i];
        if (strcmp(event->name, "layout") == 0)
            hits = misses = part = 0;
        const double new_hits = report_number_of(event, "cache_hits"),
                     new_misses = report_number_of(event, "cache_misses"), new_part = report_number_of(event, field);
        const double n = new_hits - hits + new_misses - misses;
        if (!(n > 0 && new_part >= part)) /* no counters, or nothing was read */
            continue;
        vec_push(arena, &shares, ((ReportPoint){event->step, 100 * (new_part - part) / n}));
        hits = new_hits;
        misses = new_misses;
        part = new_part;
    }
    return shares;
}

static void draw_cache(StrBuf *page, const ReportRun *run)
{
    const double mib = 1024 * 1024;
    const Points found = cache_shares(page->arena, run, "cache_hits");
    const Points made = cache_shares(page->arena, run, "cache_made");
    const Points memory = field_of(page->arena, run, "resources", "cache_memory_bytes", 1 / mib);
    const Points disk = field_of(page->arena, run, "resources", "cache_disk_bytes", 1 / mib);
    const ReportLine shares[] = {{.label = "found", .colour = 3, .points = found.data, .n = found.len, .dots = true},
                                 {.label = "made", .colour = 4, .points = made.data, .n = made.len, .dots = true}};
    draw(page, run,
         (ReportChart){.title = "Cache hits",
                       .unit = "% of the samples since the pause before",
                       .from_zero = true,
                       .lines = shares,
                       .n_lines = 2});
    const ReportLine lines[] = {{.label = "memory", .colour = 3, .points = memory.data, .n = memory.len, .dots = true},
                                {.label = "disk", .colour = 4, .points = disk.data, .n = disk.len, .dots = true}};
    draw(page, run,
         (ReportChart){.title = "Cache size",
                       .unit = "MiB",
                       .from_zero = true,
                       .lines = lines,
                       .n_lines = largest(&disk) > 0 ? 2 : 1});
}

void report_curves(StrBuf *page, const ReportRun *run)
{
    strbuf_add(page, "<section><h2>Over the steps</h2><div class=\"grid\">\n");
    draw_results(page, run);
    draw_curve(page, run, 0);
    draw_frozen(page, run);
    draw_layout(page, run);
    for (size_t i = 1; i < N_CURVES; i++)
        draw_curve(page, run, i);
    draw_cache(page, run);
    strbuf_add(page, "</div></section>\n");
}
