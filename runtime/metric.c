#include "runtime/metric.h"

#include "base/bug.h"
#include "runtime/metric_finish.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct
{
    MetricSpec spec;
    const char *outputs[2]; /* NAME.sum and, of means, NAME.weight; or NAME.rows */
    uint32_t n_elems[2];    /* of each; of rows, of one sample (in a variant of the executor fewer) */
    uint32_t n_rows;        /* samples */
    uint32_t at, n_numbers; /* in the sums, or in the rows of a sample */
} Entry;

struct MetricSet
{
    Entry *entries;
    uint32_t n_entries;
    uint32_t n_sums, row_size;
    const SquadSet *squad;
    float *host; /* room for any output */
};

static MetricFinish *const finishers[IR_METRIC_COUNT] = {
#define METRIC(kind, takes, sums, finish, results, text) [IR_METRIC_##kind] = metric_finish_##finish,
#include "ir/metrics.def"
#undef METRIC
};

/* ---- results */

uint32_t metric_n_results(const MetricSpec *specs, uint32_t n_specs)
{
    uint32_t n = 1;
    for (uint32_t i = 0; i < n_specs; i++)
        for (uint32_t k = 0; ir_metric_result(specs[i].kind, k); k++)
            n++;
    ENSURE(n <= METRIC_MAX_RESULTS);
    return n;
}

const char *const *metric_result_names(Arena *arena, const MetricSpec *specs, uint32_t n_specs)
{
    const char **names = ARENA_ARRAY(arena, const char *, metric_n_results(specs, n_specs));
    uint32_t n = 0;
    names[n++] = "loss";
    for (uint32_t i = 0; i < n_specs; i++)
        for (uint32_t k = 0; ir_metric_result(specs[i].kind, k); k++)
            names[n++] = arena_printf(arena, "%s%s", specs[i].name, ir_metric_result(specs[i].kind, k));
    return names;
}

/* ---- the set */

static uint32_t n_elems_of(const IrModule *m, const char *name, uint32_t first_axis)
{
    IrGlobal global = ir_global_find(m, name);
    uint64_t n = global != 0;
    for (uint32_t i = first_axis; global && i < ir_global(m, global)->type.rank; i++)
        n *= (uint64_t)ir_global(m, global)->type.dims[i];
    ENSURE(n <= UINT32_MAX);
    return (uint32_t)n;
}

static void add_entry(Arena *arena, MetricSet *set, const MetricSpec *spec, const IrModule *m, uint32_t *n_host)
{
    static const char *const ends[] = {"sum", "weight"};
    Entry *entry = &set->entries[set->n_entries++];
    const bool rows = ir_metric_has_rows(spec->kind);
    *entry = (Entry){.spec = *spec, .at = rows ? set->row_size : set->n_sums};
    for (int i = 0; i < (rows ? 1 : 2); i++)
    {
        entry->outputs[i] = arena_printf(arena, "%s.%s", spec->name, rows ? "rows" : ends[i]);
        entry->n_elems[i] = n_elems_of(m, entry->outputs[i], rows);
        const uint32_t n_all = n_elems_of(m, entry->outputs[i], 0);
        entry->n_rows = entry->n_elems[i] ? n_all / entry->n_elems[i] : 0;
        *n_host = n_all > *n_host ? n_all : *n_host;
        entry->n_numbers += spec->kind == IR_METRIC_span ? SQUAD_SPAN_SIZE : entry->n_elems[i];
    }
    *(rows ? &set->row_size : &set->n_sums) += entry->n_numbers;
}

MetricSet *metric_set_create(Arena *arena, const MetricSpec *specs, uint32_t n_specs, const IrModule *m,
                             const SquadSet *squad)
{
    MetricSet *set = ARENA_NEW(arena, MetricSet);
    uint32_t n_host = 1;
    set->squad = squad;
    set->entries = ARENA_ARRAY(arena, Entry, n_specs + 1);
    add_entry(arena, set, &(MetricSpec){.name = "loss", .kind = IR_METRIC_mean}, m, &n_host);
    for (uint32_t i = 0; i < n_specs; i++)
        add_entry(arena, set, &specs[i], m, &n_host);
    set->host = ARENA_ARRAY(arena, float, n_host);
    return set;
}

uint32_t metric_set_n_sums(const MetricSet *set)
{
    return set->n_sums;
}

uint32_t metric_set_row_size(const MetricSet *set)
{
    return set->row_size;
}

Status metric_set_add_sums(const MetricSet *set, Executor *executor, double *sums)
{
    for (uint32_t i = 0; i < set->n_entries; i++)
    {
        const Entry *entry = &set->entries[i];
        double *to = sums + entry->at;
        for (int k = 0; k < 2 && !ir_metric_has_rows(entry->spec.kind); to += entry->n_elems[k++])
        {
            if (!executor_has_global(executor, entry->outputs[k]))
                continue;
            if (entry->n_elems[k] == 1)
            {
                double value;
                TRY(executor_read_scalar(executor, entry->outputs[k], &value));
                to[0] += value;
                continue;
            }
            TRY(executor_read_global(executor, entry->outputs[k], set->host));
            for (uint32_t j = 0; j < entry->n_elems[k]; j++)
                to[j] += set->host[j];
        }
    }
    return STATUS_OK;
}

/* What is kept of one sample's row. */
static void keep_row(const MetricSet *set, const Entry *entry, uint64_t sample, const float *row, uint32_t n_elems,
                     double *to)
{
    const uint32_t half = n_elems / 2;
    if (entry->spec.kind == IR_METRIC_span)
        squad_best_span(set->squad, sample, row, row + half, half, &entry->spec.search, to);
    else
        for (uint32_t i = 0; i < entry->n_numbers; i++)
            to[i] = row[i];
}

Status metric_set_keep_rows(const MetricSet *set, Executor *executor, const uint64_t *samples, uint32_t n, double *rows)
{
    for (uint32_t i = 0; i < set->n_entries; i++)
    {
        const Entry *entry = &set->entries[i];
        if (!ir_metric_has_rows(entry->spec.kind) || !executor_has_global(executor, entry->outputs[0]))
            continue;
        const uint32_t n_elems = (uint32_t)executor_n_elems(executor, entry->outputs[0]) / entry->n_rows;
        TRY(executor_read_global(executor, entry->outputs[0], set->host));
        for (uint32_t k = 0; k < n; k++)
            keep_row(set, entry, samples[k], set->host + (size_t)k * n_elems, n_elems,
                     rows + samples[k] * set->row_size + entry->at);
    }
    return STATUS_OK;
}

Status metric_set_finish(const MetricSet *set, const double *sums, const double *rows, uint64_t n_samples,
                         const char *predictions, double *out_results)
{
    for (uint32_t i = 0; i < set->n_entries; i++)
    {
        const Entry *entry = &set->entries[i];
        const bool has_rows = ir_metric_has_rows(entry->spec.kind);
        const double *from = has_rows ? rows : sums;
        uint32_t n_results = 0;
        while (ir_metric_result(entry->spec.kind, n_results))
            out_results[n_results++] = NAN;
        const MetricNumbers numbers = {.numbers = from ? from + entry->at : NULL,
                                       .n_numbers = entry->n_numbers,
                                       .n_samples = n_samples,
                                       .stride = set->row_size,
                                       .squad = set->squad,
                                       .predictions = predictions};
        if (from)
            TRY(finishers[entry->spec.kind](&numbers, out_results));
        out_results += n_results;
    }
    return STATUS_OK;
}
