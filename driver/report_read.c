/* Reads metrics.jsonl into series and events. */
#include "driver/report_parts.h"
#include "runtime/mapped_file.h"

#include <math.h>
#include <string.h>

static const double max_drawn = 1e300; /* differences of numbers have to be finite, too */

ReportSeries *report_series(const ReportSeriesList *list, const char *key)
{
    for (uint32_t i = 0; i < list->len; i++)
        if (strcmp(list->data[i].key, key) == 0)
            return &list->data[i];
    return NULL;
}

static void add_numbers(Arena *arena, ReportSeriesList *list, double step, json_t *row)
{
    const char *key;
    json_t *value;
    json_object_foreach(row, key, value)
    {
        const ReportPoint point = {step, json_number_value(value)};
        if (!json_is_number(value) || strcmp(key, "step") == 0 || fabs(point.y) > max_drawn)
            continue;
        ReportSeries *series = report_series(list, key);
        if (!series)
        {
            const ReportSeries fresh = {.key = arena_strdup(arena, key)};
            vec_push(arena, list, fresh);
            series = &list->data[list->len - 1];
        }
        vec_push(arena, &series->points, point);
    }
}

static Status add_row(Arena *arena, ReportRun *run, const char *text, size_t n_bytes, unsigned line)
{
    json_error_t error;
    json_t *row = json_loadb(text, n_bytes, 0, &error);
    const char *split = json_string_value(json_object_get(row, "split"));
    const char *name = json_string_value(json_object_get(row, "event"));
    const json_t *step = json_object_get(row, "step");
    if (!split || !json_is_integer(step) || json_integer_value(step) < 0 || (strcmp(split, "event") == 0 && !name))
    {
        json_decref(row);
        return status_fail(STATUS_BAD_INPUT, "%s:%u: %s", run->path, line,
                           row ? "this is no row of metrics: it wants split and step" : error.text);
    }
    const double at = json_number_value(step);
    run->last_step = fmax(run->last_step, at);
    if (strcmp(split, "event") == 0)
    {
        const ReportEvent event = {.name = name, .step = at, .row = row};
        vec_push(arena, &run->events, event);
        json_array_append(run->rows, row);
    }
    else if (strcmp(split, "train") == 0 || strcmp(split, "eval") == 0)
        add_numbers(arena, *split == 't' ? &run->train : &run->eval, at, row);
    json_decref(row);
    return STATUS_OK;
}

Status report_read(Arena *arena, const char *path, ReportRun *out_run)
{
    MappedFile file;
    *out_run = (ReportRun){.path = path, .rows = json_array()};
    TRY(mapped_file_open(path, &file));
    Status status = STATUS_OK;
    unsigned line = 0;
    const char *at = file.data, *end = at + file.size_bytes, *newline;
    while (status == STATUS_OK && at < end && (newline = memchr(at, '\n', (size_t)(end - at))) != NULL)
    {
        status = add_row(arena, out_run, at, (size_t)(newline - at), ++line);
        at = newline + 1;
    }
    mapped_file_close(&file);
    if (status == STATUS_OK && line == 0)
        status = status_fail(STATUS_BAD_INPUT, "%s has no rows: the run has not begun", path);
    return status;
}

void report_close(ReportRun *run)
{
    json_decref(run->rows);
    run->rows = NULL;
}

/* ---- events */

double report_number_of(const ReportEvent *event, const char *key)
{
    const json_t *value = event ? json_object_get(event->row, key) : NULL;
    return json_is_number(value) ? json_number_value(value) : NAN;
}

const char *report_text_of(const ReportEvent *event, const char *key)
{
    return event ? json_string_value(json_object_get(event->row, key)) : NULL;
}

double report_item_of(const ReportEvent *event, const char *key, size_t k)
{
    const json_t *value = event ? json_array_get(json_object_get(event->row, key), k) : NULL;
    return json_is_number(value) ? json_number_value(value) : NAN;
}

const ReportEvent *report_last(const ReportRun *run, const char *name, uint32_t before)
{
    for (uint32_t i = before; i-- > 0;)
        if (strcmp(run->events.data[i].name, name) == 0)
            return &run->events.data[i];
    return NULL;
}

/* Steps have about as many samples each, so it is the harmonic mean. */
double report_speed(const ReportRun *run, double from, double to)
{
    const ReportSeries *speed = report_series(&run->train, "samples_per_s");
    double sum = 0, n = 0;
    for (uint32_t i = 0; speed && i < speed->points.len; i++)
        if (speed->points.data[i].x > from && speed->points.data[i].x <= to && speed->points.data[i].y > 0)
        {
            sum += 1 / speed->points.data[i].y;
            n++;
        }
    return n > 0 ? n / sum : NAN;
}
