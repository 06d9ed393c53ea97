/* Figures that are no curves: gradient norms by layer, a step of the pipeline. */
#include "driver/report_parts.h"
#include "passes/pipeline.h"
#include "runtime/comm.h"

#include <math.h>
#include <string.h>

enum
{
    LEFT = 64
};

/* ---- gradient norms */

enum
{
    N_SHADES = 8,
    MAX_COLUMNS = 80,
    MAX_ROWS = 100
};

typedef VEC(const ReportEvent *) Decisions;

/* Those with norms; of many, evenly spread ones. */
static Decisions decisions_of(Arena *arena, const ReportRun *run)
{
    Decisions all = {0}, some = {0};
    for (uint32_t i = 0; i < run->events.len; i++)
        if (strcmp(run->events.data[i].name, "freeze") == 0 &&
            isfinite(report_item_of(&run->events.data[i], "norms", 0)))
            vec_push(arena, &all, &run->events.data[i]);
    const uint32_t every = (all.len + MAX_COLUMNS - 1) / MAX_COLUMNS;
    for (uint32_t i = 0; i < all.len; i += every)
        vec_push(arena, &some, all.data[i]);
    return some;
}

typedef struct
{
    double low, high; /* logarithms */
    uint32_t n_layers;
    double cell, row; /* pixels */
} NormMap;

static void draw_norm(StrBuf *page, const NormMap *map, const ReportEvent *event, uint32_t column, uint32_t layer)
{
    const double norm = report_item_of(event, "norms", layer), frozen = report_number_of(event, "frozen_before");
    const double y = (map->n_layers - 1 - layer) * map->row, x = LEFT + column * map->cell;
    const bool is_frozen = layer < frozen;
    char colour[8] = "frozen";
    if (!is_frozen && !(norm > 0))
        return;
    if (!is_frozen)
    {
        const double part = (log(norm) - map->low) / fmax(map->high - map->low, 1e-9);
        snprintf(colour, sizeof colour, "h%d", (int)fmin(part * N_SHADES, N_SHADES - 1));
    }
    strbuf_addf(page, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"><title>", colour, x, y,
                map->cell - 1, map->row - 1);
    if (is_frozen)
        strbuf_addf(page, "step %.0f, layer %u: frozen", event->step, layer + 1);
    else
        strbuf_addf(page, "step %.0f, layer %u: %.4g", event->step, layer + 1, norm);
    strbuf_add(page, "</title></rect>");
}

static void draw_norm_labels(StrBuf *page, const NormMap *map, const Decisions *decisions)
{
    const uint32_t every_row = (uint32_t)ceil(14 / map->row), every_column = (uint32_t)ceil(48 / map->cell);
    for (uint32_t layer = 0; layer < map->n_layers; layer += every_row)
        strbuf_addf(page, "<text class=\"ty\" x=\"%d\" y=\"%.1f\">layer %u</text>", LEFT - 6,
                    (map->n_layers - 0.5 - layer) * map->row + 4, layer + 1);
    for (uint32_t i = 0; i < decisions->len; i += every_column)
        strbuf_addf(page, "<text class=\"tx\" x=\"%.1f\" y=\"%.1f\">%.0f</text>", LEFT + (i + 0.5) * map->cell,
                    map->n_layers * map->row + 15, decisions->data[i]->step);
}

static NormMap norm_map(const Decisions *decisions)
{
    NormMap map = {.low = INFINITY, .high = -INFINITY};
    while (map.n_layers < MAX_ROWS && isfinite(report_item_of(decisions->data[0], "norms", map.n_layers)))
        map.n_layers++;
    for (uint32_t i = 0; i < decisions->len; i++)
        for (uint32_t layer = 0; layer < map.n_layers; layer++)
        {
            const double norm = report_item_of(decisions->data[i], "norms", layer);
            if (!(norm > 0))
                continue;
            map.low = fmin(map.low, log(norm));
            map.high = fmax(map.high, log(norm));
        }
    map.cell = fmin(90, (double)(REPORT_WIDTH - LEFT) / decisions->len);
    map.row = fmin(26, fmax(7, 320.0 / map.n_layers));
    return map;
}

void report_norms(StrBuf *page, const ReportRun *run)
{
    const Decisions decisions = decisions_of(page->arena, run);
    if (!decisions.len)
        return;
    const NormMap map = norm_map(&decisions);
    strbuf_add(page, "<section><h2>Gradients by layer</h2><div class=\"card\"><p>Norm of the gradients over that of "
                     "the weights, at every decision; the numbers below are steps.</p>");
    report_open_figure(page, (int)(map.n_layers * map.row) + 22);
    for (uint32_t i = 0; i < decisions.len; i++)
        for (uint32_t layer = 0; layer < map.n_layers; layer++)
            draw_norm(page, &map, decisions.data[i], i, layer);
    draw_norm_labels(page, &map, &decisions);
    report_close_figure(page);
    strbuf_add(page, "<p class=\"legend\"><span>small</span><span class=\"ramp\">");
    for (int i = 0; i < N_SHADES; i++)
        strbuf_addf(page, "<i class=\"h%d\"></i>", i);
    strbuf_add(page, "</span><span>large (logarithmic)</span><span><i class=\"frozen\"></i>frozen</span></p>"
                     "</div></section>\n");
}

/* ---- a step of the pipeline */

enum
{
    MAX_INSTRS = 4000, /* that are drawn */
    STAGE_HEIGHT = 30
};

typedef struct
{
    uint32_t n_stages;
    PipelineList *lists;
    PipelineTimes times;
    double real_s; /* of the run's steps; NAN: there was none */
} Step;

/* The step that a layout event describes; false: it describes none, or one too large to be seen. */
static bool simulate(Arena *arena, const ReportEvent *layout, Step *out)
{
    const double n_stages = report_number_of(layout, "stages");
    const double n_micro = report_number_of(layout, "micro_batches_of_replica");
    const char *schedule = report_text_of(layout, "schedule");
    PipelineKind kind;
    if (!schedule || !pipeline_by_name(schedule, &kind) || !(n_stages >= 1) || !(n_micro >= 1) ||
        n_stages * n_micro * 3 > MAX_INSTRS)
        return false;
    const uint32_t n = (uint32_t)n_stages;
    PipelineStage *stages = ARENA_ARRAY(arena, PipelineStage, n);
    for (uint32_t k = 0; k < n; k++)
    {
        stages[k] = (PipelineStage){.forward_s = report_item_of(layout, "forward_s", k),
                                    .backward_s = report_item_of(layout, "backward_s", k),
                                    .weight_s = report_item_of(layout, "weight_s", k),
                                    .send_forward_s = report_item_of(layout, "send_forward_s", k),
                                    .send_backward_s = report_item_of(layout, "send_backward_s", k),
                                    .update_s = report_item_of(layout, "update_s", k)};
        const PipelineStage *s = &stages[k];
        if (!(s->forward_s >= 0 && s->weight_s >= 0 && s->backward_s >= s->weight_s && s->send_forward_s >= 0 &&
              s->send_backward_s >= 0 && s->update_s >= 0))
            return false;
    }
    out->n_stages = n;
    out->lists = pipeline_build(arena, kind, (uint32_t)n_micro, stages, n);
    out->times = pipeline_simulate(arena, out->lists, stages, n, COMM_MAX_IN_FLIGHT);
    return !out->times.deadlock && out->times.step_s > 0;
}

static void draw_span(StrBuf *page, const PipelineSpan *span, double y, double pixels_per_s, char part, uint32_t micro)
{
    static const char parts[] = "FBWU";
    static const char *const names[] = {"forward", "backward", "weights", "update"};
    const size_t which = (size_t)(strchr(parts, part) - parts);
    const double x = LEFT + span->start_s * pixels_per_s, width = (span->end_s - span->start_s) * pixels_per_s;
    if (!(width > 0.05))
        return;
    strbuf_addf(page, "<rect class=\"p%c\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%d\"><title>%s", part, x, y,
                fmax(width - 0.6, 0.4), STAGE_HEIGHT - 6, names[which]);
    if (part != 'U')
        strbuf_addf(page, " of micro-batch %u", micro);
    strbuf_addf(page, ": %.3g ms</title></rect>", 1e3 * (span->end_s - span->start_s));
    if (part != 'U' && width > 14)
        strbuf_addf(page, "<text class=\"tp\" x=\"%.1f\" y=\"%.1f\">%u</text>", x + width / 2, y + 16, micro);
}

static void draw_step(StrBuf *page, const ReportEvent *layout, const Step *step, double longest_s)
{
    const double pixels_per_s = (REPORT_WIDTH - LEFT - 4) / longest_s;
    strbuf_addf(
        page,
        "<h3>From step %.0f: K = %u, R = %.0f, M = %.0f, %s</h3><p>%.0f layers frozen; predicted %s a step, "
        "%.0f %% of it idle%s.</p>",
        layout->step, step->n_stages, report_number_of(layout, "replicas"), report_number_of(layout, "micro_batches"),
        report_text_of(layout, "schedule"), report_number_of(layout, "frozen"),
        report_seconds(page->arena, step->times.step_s), 100 * step->times.bubble,
        isfinite(step->real_s) ? arena_printf(page->arena, "; real %s", report_seconds(page->arena, step->real_s))
                               : "");
    report_open_figure(page, (int)step->n_stages * STAGE_HEIGHT);
    for (uint32_t k = 0; k < step->n_stages; k++)
    {
        const PipelineList *list = &step->lists[k];
        const double y = k * STAGE_HEIGHT + 3;
        strbuf_addf(page,
                    "<text class=\"ty\" x=\"%d\" y=\"%.1f\"><title>from unit %.0f</title>stage %u</text><rect "
                    "class=\"idle\" x=\"%d\" y=\"%.1f\" "
                    "width=\"%.1f\" height=\"%d\"/>",
                    LEFT - 6, y + 16, report_item_of(layout, "first_unit", k), k, LEFT, y,
                    step->times.step_s * pixels_per_s, STAGE_HEIGHT - 6);
        for (uint32_t i = 0; i < list->n; i++)
            draw_span(page, &step->times.spans[k][i], y, pixels_per_s, list->instrs[i].part,
                      list->instrs[i].micro_batch);
        draw_span(page, &step->times.spans[k][list->n], y, pixels_per_s, 'U', 0);
    }
    report_close_figure(page);
}

void report_pipelines(StrBuf *page, const ReportRun *run)
{
    const ReportEvent *after = report_last(run, "layout", run->events.len), *before = NULL;
    if (after)
        before = report_last(run, "layout", (uint32_t)(after - run->events.data));
    Step first, last;
    const bool has_first = before && simulate(page->arena, before, &first);
    const bool has_last = after && simulate(page->arena, after, &last);
    if (!has_first && !has_last)
        return;
    const double batch = report_number_of(report_last(run, "run", run->events.len), "batch");
    first.real_s = before ? batch / report_speed(run, before->step, after->step) : NAN;
    last.real_s = batch / report_speed(run, after->step, run->last_step);
    const double longest_s = fmax(has_first ? first.times.step_s : 0, has_last ? last.times.step_s : 0);
    strbuf_add(page, "<section><h2>A step of the pipeline</h2><div class=\"card\"><p>One replica, as the plan has it");
    strbuf_add(page, has_first && has_last ? ", before and after the last transition, on one scale.</p>" : ".</p>");
    strbuf_add(page, "<p class=\"legend\"><span><i class=\"pF\"></i>forward</span><span><i class=\"pB\"></i>backward"
                     "</span><span><i class=\"pW\"></i>gradients of weights</span><span><i class=\"pU\"></i>update"
                     "</span><span><i class=\"idle\"></i>idle</span></p>");
    if (has_first)
        draw_step(page, before, &first, longest_s);
    if (has_last)
        draw_step(page, after, &last, longest_s);
    strbuf_add(page, "</div></section>\n");
}
