/* Lines over steps as SVG: axes, ticks, legend, thinning. The one way in which this page draws curves. */
#include "driver/report_parts.h"

#include <math.h>
#include <stdlib.h>

enum
{
    WIDTH = 400,
    HEIGHT = 210,
    LEFT = 46,
    RIGHT = 12,
    TOP = 10,
    BOTTOM = 24,
    MAX_POINTS = 300, /* of a line as it is drawn */
    MAX_MARKS = 40,
    MANY_TIMES = 50 /* from where on a logarithmic axis shows more */
};

/* ---- text */

void report_text(StrBuf *page, const char *text)
{
    for (const unsigned char *at = (const unsigned char *)text; *at; at++)
    {
        if (*at == '&')
            strbuf_add(page, "&amp;");
        else if (*at == '<')
            strbuf_add(page, "&lt;");
        else if (*at == '>')
            strbuf_add(page, "&gt;");
        else if (*at == '"')
            strbuf_add(page, "&quot;");
        else if (*at < 0x20 || *at == 0x7f)
            strbuf_add(page, " ");
        else
            strbuf_add_bytes(page, (const char *)at, 1);
    }
}

const char *report_short(Arena *arena, double value)
{
    static const struct
    {
        double unit;
        const char *suffix;
    } units[] = {{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e4, "k"}};
    const double size = fabs(value);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (size >= units[i].unit)
            return arena_printf(arena, "%.4g%s", value / (i == 3 ? 1e3 : units[i].unit), units[i].suffix);
    return arena_printf(arena, "%.4g", value);
}

const char *report_bytes(Arena *arena, double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int i = 0;
    while (i < 4 && fabs(bytes) >= 1024)
    {
        bytes /= 1024;
        i++;
    }
    return arena_printf(arena, fabs(bytes) < 100 ? "%.3g %s" : "%.0f %s", bytes, units[i]);
}

const char *report_seconds(Arena *arena, double seconds)
{
    if (seconds >= 3600)
        return arena_printf(arena, "%.0f h %02.0f min", floor(seconds / 3600), floor(fmod(seconds, 3600) / 60));
    if (seconds >= 60)
        return arena_printf(arena, "%.0f min %02.0f s", floor(seconds / 60), floor(fmod(seconds, 60)));
    if (seconds >= 1)
        return arena_printf(arena, "%.3g s", seconds);
    return arena_printf(arena, "%.3g ms", 1e3 * seconds);
}

/* ---- scales */

typedef struct
{
    double low, high, step;
    double from, to;  /* pixels */
    bool logarithmic; /* low, high and step are of log10 */
} Scale;

/* 1, 2 or 5 times a power of ten: the first that makes at most n ticks. */
static double tick_step(double range, int n)
{
    const double rough = range / n, power = pow(10, floor(log10(rough)));
    const double part = rough / power;
    return power * (part <= 1 ? 1 : part <= 2 ? 2 : part <= 5 ? 5 : 10);
}

static Scale scale_of(double low, double high, int n_ticks, bool whole, double from, double to)
{
    if (!(high > low))
    {
        const double room = high != 0 ? fabs(high) * 0.1 : 1;
        low -= low == 0 ? 0 : room;
        high += room;
    }
    const double step = tick_step(high - low, n_ticks);
    return (Scale){.low = low, .high = high, .step = whole && step < 1 ? 1 : step, .from = from, .to = to};
}

static double place(const Scale *s, double value)
{
    if (s->logarithmic)
        value = log10(value);
    return s->from + (value - s->low) / (s->high - s->low) * (s->to - s->from);
}

static Scale y_scale(const ReportChart *c)
{
    double low = INFINITY, high = -INFINITY;
    for (uint32_t i = 0; i < c->n_lines; i++)
        for (uint32_t k = 0; k < c->lines[i].n; k++)
        {
            low = fmin(low, c->lines[i].points[k].y);
            high = fmax(high, c->lines[i].points[k].y);
        }
    const bool spread = c->spread && low > 0 && high > MANY_TIMES * low;
    if (c->from_zero && !spread)
        low = fmin(low, 0);
    Scale s =
        scale_of(spread ? log10(low) : low, spread ? log10(high) : high, 5, c->whole || spread, HEIGHT - BOTTOM, TOP);
    s.logarithmic = spread;
    s.low = floor(s.low / s.step + 1e-9) * s.step;
    s.high = ceil(s.high / s.step - 1e-9) * s.step;
    return s;
}

static void draw_axes(StrBuf *page, const Scale *x, const Scale *y)
{
    const double first_x = ceil(x->low / x->step - 1e-9), first_y = round(y->low / y->step);
    for (int i = 0; i <= (int)lround((y->high - y->low) / y->step); i++)
    {
        const double at = (first_y + i) * y->step, tick = y->logarithmic ? pow(10, at) : at, py = place(y, tick);
        strbuf_addf(page, "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text class=\"ty\" x=\"%d\" y=\"%.1f\">%s</text>",
                    LEFT, py, WIDTH - RIGHT, LEFT - 6, py + 4, report_short(page->arena, tick));
    }
    for (int i = 0; i <= (int)floor(x->high / x->step - first_x + 1e-6); i++)
        strbuf_addf(page, "<text class=\"tx\" x=\"%.1f\" y=\"%d\">%s</text>", place(x, (first_x + i) * x->step),
                    HEIGHT - 7, report_short(page->arena, (first_x + i) * x->step));
    strbuf_addf(page, "<path class=\"axis\" d=\"M%d %.1fH%d\"/>", LEFT, y->from, WIDTH - RIGHT);
}

/* ---- lines */

typedef struct
{
    double x, mean, low, high;
    uint32_t n;
} Bucket;

/* Points by x into at most MAX_POINTS buckets. Returns how many there are. */
static uint32_t thin(const ReportLine *line, const Scale *x, Bucket *buckets)
{
    uint32_t n = 0;
    int64_t last = -1;
    for (uint32_t i = 0; i < line->n; i++)
    {
        const ReportPoint *p = &line->points[i];
        int64_t at = i;
        if (line->n > MAX_POINTS)
            at = (int64_t)((p->x - x->low) / (x->high - x->low) * (MAX_POINTS - 1));
        if (at != last && n < MAX_POINTS)
            buckets[n++] = (Bucket){.low = INFINITY, .high = -INFINITY};
        last = at;
        Bucket *b = &buckets[n - 1];
        b->n++;
        b->x += (p->x - b->x) / b->n;
        b->mean += (p->y - b->mean) / b->n;
        b->low = fmin(b->low, p->y);
        b->high = fmax(b->high, p->y);
    }
    return n;
}

static void draw_band(StrBuf *page, const ReportLine *line, const Bucket *buckets, uint32_t n, const Scale *x,
                      const Scale *y)
{
    strbuf_addf(page, "<path class=\"band f%u\" d=\"", line->colour);
    for (uint32_t i = 0; i < n; i++)
        strbuf_addf(page, "%c%.1f %.1f", i ? 'L' : 'M', place(x, buckets[i].x), place(y, buckets[i].high));
    for (uint32_t i = n; i-- > 0;)
        strbuf_addf(page, "L%.1f %.1f", place(x, buckets[i].x), place(y, buckets[i].low));
    strbuf_add(page, "Z\"/>");
}

static void draw_line(StrBuf *page, const ReportLine *line, const Scale *x, const Scale *y)
{
    Bucket buckets[MAX_POINTS];
    const uint32_t n = thin(line, x, buckets);
    if (!n)
        return;
    if (line->n > MAX_POINTS)
        draw_band(page, line, buckets, n, x, y);
    strbuf_addf(page, "<path class=\"line l%u\" d=\"", line->colour);
    for (uint32_t i = 0; i < n; i++)
    {
        const double px = place(x, buckets[i].x), py = place(y, buckets[i].mean);
        if (i && line->stairs)
            strbuf_addf(page, "H%.1fV%.1f", px, py);
        else
            strbuf_addf(page, "%c%.1f %.1f", i ? 'L' : 'M', px, py);
    }
    if (line->stairs)
        strbuf_addf(page, "H%.1f", x->to);
    strbuf_add(page, "\"/>");
    for (uint32_t i = 0; line->dots && i < n; i++)
    {
        strbuf_addf(page, "<circle class=\"f%u\" cx=\"%.1f\" cy=\"%.1f\" r=\"%s\"><title>", line->colour,
                    place(x, buckets[i].x), place(y, buckets[i].mean), n > 60 ? "1.5" : "3");
        report_text(page, arena_printf(page->arena, "%s, step %.0f: %.6g", line->label, buckets[i].x, buckets[i].mean));
        strbuf_add(page, "</title></circle>");
    }
}

static void draw_marks(StrBuf *page, const ReportChart *c, const Scale *x)
{
    for (uint32_t i = 0; i < c->n_marks && i < MAX_MARKS; i++)
        strbuf_addf(page, "<path class=\"mark\" d=\"M%.1f %dV%d\"><title>step %.0f: a transition</title></path>",
                    place(x, c->marks[i].x), TOP, HEIGHT - BOTTOM, c->marks[i].x);
}

void report_open_figure(StrBuf *page, int height)
{
    strbuf_addf(page, "<div class=\"wide\"><svg viewBox=\"0 0 %d %d\" role=\"img\">", REPORT_WIDTH, height);
}

void report_close_figure(StrBuf *page)
{
    strbuf_add(page, "</svg></div>\n");
}

void report_chart(StrBuf *page, const ReportChart *c)
{
    uint32_t n_points = 0;
    for (uint32_t i = 0; i < c->n_lines; i++)
        n_points += c->lines[i].n;
    if (!n_points)
        return;
    const Scale x = scale_of(c->first_x, c->last_x, 5, true, LEFT, WIDTH - RIGHT), y = y_scale(c);
    strbuf_add(page, "<figure class=\"card\"><figcaption><b>");
    report_text(page, c->title);
    strbuf_add(page, "</b>");
    if (*c->unit)
    {
        strbuf_add(page, " <small>");
        report_text(page, c->unit);
        strbuf_add(page, "</small>");
    }
    strbuf_add(page, "<span class=\"legend\">");
    for (uint32_t i = 0; i < c->n_lines && c->n_lines > 1; i++)
    {
        strbuf_addf(page, "<span><i class=\"b%u\"></i>", c->lines[i].colour);
        report_text(page, c->lines[i].label);
        strbuf_add(page, "</span>");
    }
    strbuf_addf(page, "</span></figcaption><svg viewBox=\"0 0 %d %d\" role=\"img\">", WIDTH, HEIGHT);
    draw_axes(page, &x, &y);
    draw_marks(page, c, &x);
    for (uint32_t i = 0; i < c->n_lines; i++)
        draw_line(page, &c->lines[i], &x, &y);
    strbuf_add(page, "</svg></figure>\n");
}
