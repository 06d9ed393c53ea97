/* The page about a run: its frame, its summary and its tables. */
#include "driver/report.h"

#include "driver/report_parts.h"

#include <math.h>
#include <string.h>

/* ---- the summary */

static void tile(StrBuf *page, const char *label, const char *value, const char *note)
{
    strbuf_add(page, "<div class=\"tile\"><small>");
    report_text(page, label);
    strbuf_add(page, "</small><b>");
    report_text(page, value);
    strbuf_add(page, "</b><small>");
    report_text(page, note);
    strbuf_add(page, "</small></div>");
}

static void throughput_tile(StrBuf *page, const ReportRun *run)
{
    const ReportEvent *first = NULL, *last = report_last(run, "transition", run->events.len);
    for (uint32_t i = 0; i < run->events.len && !first; i++)
        if (strcmp(run->events.data[i].name, "transition") == 0)
            first = &run->events.data[i];
    const double at_first = report_speed(run, -1, first ? first->step : run->last_step);
    const double at_last = report_speed(run, last ? last->step : -1, run->last_step);
    if (!isfinite(at_first) || !isfinite(at_last))
        return;
    Arena *arena = page->arena;
    tile(page, "Samples a second", report_short(arena, round(at_last)),
         first ? arena_printf(arena, "%.3g times the %s before the first transition", at_last / at_first,
                              report_short(arena, round(at_first)))
               : "mean of all steps");
}

static void frozen_tile(StrBuf *page, const ReportRun *run)
{
    const ReportEvent *start = report_last(run, "run", run->events.len);
    const ReportEvent *layout = report_last(run, "layout", run->events.len);
    uint32_t n_transitions = 0;
    for (uint32_t i = 0; i < run->events.len; i++)
        n_transitions += strcmp(run->events.data[i].name, "transition") == 0;
    if (!report_text_of(start, "policy") || !layout)
        return;
    Arena *arena = page->arena;
    tile(page, "Frozen layers",
         arena_printf(arena, "%.0f of %.0f", report_number_of(layout, "frozen"), report_number_of(start, "layers")),
         arena_printf(arena, "policy %s, %u transition%s", report_text_of(start, "policy"), n_transitions,
                      n_transitions == 1 ? "" : "s"));
}

static void steps_tile(StrBuf *page, const ReportRun *run)
{
    Arena *arena = page->arena;
    const ReportEvent *start = report_last(run, "run", run->events.len);
    const ReportEvent *end = report_last(run, "end", run->events.len);
    const double total = report_number_of(start, "total_steps"), train_s = report_number_of(end, "train_s");
    const char *steps = arena_printf(arena, "%.0f steps", run->last_step);
    if (end && end->step == run->last_step && isfinite(train_s))
        tile(page, "Training", report_seconds(arena, train_s),
             arena_printf(arena, "%s, %.1f %% of it waiting for data", steps,
                          train_s > 0 ? 100 * report_number_of(end, "data_s") / train_s : 0));
    else
        tile(page, "Training", steps, isfinite(total) ? arena_printf(arena, "of %.0f; not at its end", total) : "");
}

void report_summary(StrBuf *page, const ReportRun *run)
{
    Arena *arena = page->arena;
    strbuf_add(page, "<div class=\"tiles\">");
    for (uint32_t i = 0; i < run->eval.len; i++)
    {
        const ReportSeries *series = &run->eval.data[i];
        if (strcmp(series->key, "seconds") == 0 || !series->points.len)
            continue;
        const ReportPoint *last = &series->points.data[series->points.len - 1];
        tile(page, arena_printf(arena, "Test %s", series->key), arena_printf(arena, "%.4f", last->y),
             arena_printf(arena, "at step %.0f", last->x));
    }
    throughput_tile(page, run);
    frozen_tile(page, run);
    steps_tile(page, run);
    strbuf_add(page, "</div>\n");
}

/* ---- decisions and transitions */

enum
{
    MAX_CHANGES = 200
};

static void cell(StrBuf *page, const char *text)
{
    strbuf_add(page, "<td>");
    report_text(page, text);
    strbuf_add(page, "</td>");
}

static const char *what_changed(Arena *arena, const ReportEvent *event)
{
    const double before = report_number_of(event, "frozen_before"), after = report_number_of(event, "frozen");
    if (strcmp(event->name, "transition") == 0)
        return "transition";
    return after > before ? arena_printf(arena, "%.0f → %.0f frozen", before, after)
                          : arena_printf(arena, "stays at %.0f", after);
}

static const char *layout_text(Arena *arena, const ReportEvent *event)
{
    const char *schedule = report_text_of(event, "schedule");
    if (strcmp(event->name, "transition") != 0)
        return "";
    const double n_idle = report_number_of(event, "idle");
    const char *why = report_text_of(event, "plan_why");
    return arena_printf(
        arena, "K %.0f, R %.0f%s, M %.0f%s%s%s%s%s", report_number_of(event, "stages"),
        report_number_of(event, "replicas"), n_idle > 0 ? arena_printf(arena, ", %.0f idle", n_idle) : "",
        report_number_of(event, "micro_batches"), schedule && *schedule ? ", " : "", schedule ? schedule : "",
        report_number_of(event, "cached") == 1 ? ", cached" : "", why && *why ? ": " : "", why ? why : "");
}

static void add_change(StrBuf *page, const ReportEvent *event)
{
    static const char *const times[] = {"transition_s", "compile_s", "regroup_s", "trial_s", "copy_s"};
    Arena *arena = page->arena;
    const char *why = report_text_of(event, "why");
    const double moved = report_number_of(event, "moved_bytes");
    strbuf_addf(page, "<tr class=\"%s\">", *event->name == 't' ? "transition" : "decision");
    cell(page, arena_printf(arena, "%.0f", event->step));
    cell(page, what_changed(arena, event));
    cell(page, why ? why : layout_text(arena, event));
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
    {
        const double seconds = report_number_of(event, times[i]);
        cell(page, isfinite(seconds) ? arena_printf(arena, "%.3f", seconds) : "");
    }
    cell(page, isfinite(moved) ? report_bytes(arena, moved) : "");
    strbuf_add(page, "</tr>\n");
}

static bool is_change(const ReportEvent *event)
{
    return strcmp(event->name, "freeze") == 0 || strcmp(event->name, "transition") == 0;
}

void report_changes(StrBuf *page, const ReportRun *run)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < run->events.len; i++)
        n += is_change(&run->events.data[i]);
    if (!n)
        return;
    strbuf_add(page,
               "<section><h2>Decisions and transitions</h2><div class=\"card wide\"><table><thead><tr><th>step</th>"
               "<th>what</th><th>why, or the new layout</th><th>all s</th><th>compile s</th><th>regroup s</th>"
               "<th>trial of the cache s</th><th>copy s</th><th>moved</th></tr></thead><tbody>\n");
    n = 0;
    for (uint32_t i = 0; i < run->events.len; i++)
        if (is_change(&run->events.data[i]) && ++n <= MAX_CHANGES)
            add_change(page, &run->events.data[i]);
    strbuf_add(page, "</tbody></table>");
    if (n > MAX_CHANGES)
        strbuf_addf(page, "<p>and %u more in metrics.jsonl</p>", n - MAX_CHANGES);
    strbuf_add(page, "</div></section>\n");
}

/* ---- settings */

static void add_setting(StrBuf *page, const char *key, const json_t *value)
{
    char *label = arena_strdup(page->arena, key);
    for (char *at = label; *at; at++)
        *at = *at == '_' ? ' ' : *at;
    strbuf_add(page, "<div><dt>");
    report_text(page, label);
    strbuf_add(page, "</dt><dd>");
    if (json_is_string(value))
        report_text(page, json_string_value(value));
    else
        report_text(page, arena_printf(page->arena, "%.10g", json_number_value(value)));
    strbuf_add(page, "</dd></div>");
}

void report_settings(StrBuf *page, const ReportRun *run)
{
    static const char *const not_shown[] = {"split", "step", "event", "command"};
    const ReportEvent *start = report_last(run, "run", run->events.len);
    if (!start)
        return;
    strbuf_add(page, "<section><h2>Settings</h2><div class=\"card\"><pre>");
    report_text(page, report_text_of(start, "command") ? report_text_of(start, "command") : "");
    strbuf_add(page, "</pre><dl>");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)start->row, key, value)
    {
        bool shown = true;
        for (size_t i = 0; i < sizeof not_shown / sizeof *not_shown; i++)
            shown = shown && strcmp(key, not_shown[i]) != 0;
        if (shown)
            add_setting(page, key, value);
    }
    strbuf_add(page, "</dl></div></section>\n");
}

/* ---- the page */

static void add_head(StrBuf *page, const ReportRun *run)
{
    const ReportEvent *start = report_last(run, "run", run->events.len);
    const char *model = report_text_of(start, "model"), *started = report_text_of(start, "started");
    Arena *arena = page->arena;
    strbuf_add(page, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\n"
                     "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>");
    report_text(page, model ? model : "a run");
    strbuf_add(page, " - ptc</title>\n<style>");
    for (const char *const *part = report_styles; *part; part++)
        strbuf_add(page, *part);
    strbuf_add(page, "</style></head><body><main>\n<header><h1>");
    report_text(page, model ? model : "A run");
    strbuf_add(page, "</h1><p>");
    if (start)
        report_text(page,
                    arena_printf(arena, "%s parameters, %.0f rank%s on %s, started %s",
                                 report_short(arena, report_number_of(start, "params")),
                                 report_number_of(start, "ranks"), report_number_of(start, "ranks") == 1 ? "" : "s",
                                 report_text_of(start, "device") ? report_text_of(start, "device") : "?",
                                 started ? started : "?"));
    strbuf_add(page, "</p></header>\n");
}

Status report_write(Arena *arena, const Options *options, const char *folder)
{
    ReportRun run;
    Status status = report_read(arena, arena_printf(arena, "%s/metrics.jsonl", folder), &run);
    if (status == STATUS_OK)
    {
        StrBuf page = strbuf_make(arena);
        add_head(&page, &run);
        report_summary(&page, &run);
        report_curves(&page, &run);
        report_norms(&page, &run);
        report_pipelines(&page, &run);
        report_memory(&page, &run);
        report_changes(&page, &run);
        report_settings(&page, &run);
        strbuf_add(&page, "<footer>Dashed lines are transitions. Numbers are those of metrics.jsonl; where a curve has "
                          "many points, the line is their mean and the band reaches from the smallest to the largest."
                          "</footer></main></body></html>\n");
        FILE *out;
        status = driver_open_output(options, &out);
        if (status == STATUS_OK)
        {
            fputs(strbuf_text(&page), out);
            status = driver_close_output(options, out);
        }
    }
    report_close(&run);
    return status;
}
