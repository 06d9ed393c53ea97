/* The parts of a page about a run: reading, drawing, sections. All text goes through report_text, so that the page is
 * well-formed (as XML, too) whatever a model is called. */
#ifndef PTC_DRIVER_REPORT_PARTS_H
#define PTC_DRIVER_REPORT_PARTS_H

#include "base/status.h"
#include "base/strbuf.h"

#include <jansson.h>
#include <stdbool.h>

/* ---- what was read */

typedef struct
{
    double x, y;
} ReportPoint;

typedef struct
{
    const char *key;
    VEC(ReportPoint) points; /* x: steps done; only values that can be drawn */
} ReportSeries;

typedef VEC(ReportSeries) ReportSeriesList;

typedef struct
{
    const char *name;
    double step;
    const json_t *row; /* of the run */
} ReportEvent;

typedef struct
{
    const char *path;
    ReportSeriesList train, eval;
    VEC(ReportEvent) events;
    double last_step;
    json_t *rows; /* of the events; owned */
} ReportRun;

/* out_run is to be closed after a failure, too. */
Status report_read(Arena *arena, const char *path, ReportRun *out_run);
void report_close(ReportRun *run);
ReportSeries *report_series(const ReportSeriesList *list, const char *key); /* NULL: none */
/* NAN, NULL: it has no such field. */
double report_number_of(const ReportEvent *event, const char *key);
const char *report_text_of(const ReportEvent *event, const char *key);
/* The k-th number of a list, or NAN. */
double report_item_of(const ReportEvent *event, const char *key, size_t k);
/* The last event of a name up to the one with number `before`; NULL: none. */
const ReportEvent *report_last(const ReportRun *run, const char *name, uint32_t before);

/* Samples a second over the steps behind `from`, up to `to`; NAN without any. */
double report_speed(const ReportRun *run, double from, double to);

/* ---- text */

void report_text(StrBuf *page, const char *text); /* escaped */
/* Short, for people: 1.2k, 0.0034; bytes as MiB. In the arena. */
const char *report_short(Arena *arena, double value);
const char *report_bytes(Arena *arena, double bytes);
const char *report_seconds(Arena *arena, double seconds);

/* ---- charts */

typedef struct
{
    const char *label;
    uint32_t colour; /* 1.. of the style sheet */
    const ReportPoint *points;
    uint32_t n;
    bool stairs; /* a value holds until the next one */
    bool dots;   /* points are few and of interest */
} ReportLine;

typedef struct
{
    const char *title;
    const char *unit; /* of y; "": none */
    double first_x, last_x;
    bool from_zero;
    bool whole;  /* no ticks between whole numbers */
    bool spread; /* a logarithmic axis where values are far apart */
    const ReportLine *lines;
    uint32_t n_lines;
    const ReportPoint *marks; /* vertical lines at their x */
    uint32_t n_marks;
} ReportChart;

/* A card with the chart. Lines of many points are drawn as means with a band from the smallest to the largest. Nothing
 * when there are no points. */
void report_chart(StrBuf *page, const ReportChart *chart);

/* A figure as wide as the page, in units of which it has REPORT_WIDTH across. */
enum
{
    REPORT_WIDTH = 1000
};
void report_open_figure(StrBuf *page, int height);
void report_close_figure(StrBuf *page);

/* ---- sections; each leaves itself out when the run has nothing to say about it */

void report_summary(StrBuf *page, const ReportRun *run);
void report_curves(StrBuf *page, const ReportRun *run);
void report_norms(StrBuf *page, const ReportRun *run);
void report_pipelines(StrBuf *page, const ReportRun *run);
void report_memory(StrBuf *page, const ReportRun *run);
void report_changes(StrBuf *page, const ReportRun *run);
void report_settings(StrBuf *page, const ReportRun *run);

extern const char *const report_styles[]; /* parts of the style sheet; NULL behind the last */

#endif
