/* What policy="plasticity" knows of the layers' outputs. */
#include "driver/elastic_outputs.h"

#include "driver/probe.h"
#include "driver/session.h"

#include <string.h>

static uint32_t reference_size(const Session *s)
{
    return probe_rows(s) * probe_rows(s) * s->job->n_layers;
}

/* Readings of the layers that are not frozen, if there is a snapshot; and a new one where it is due. */
static void compare(Session *s, const Probe *probe, uint32_t decision)
{
    Elastic *e = &s->elastic;
    const uint32_t size = probe->rows * probe->rows;
    for (uint32_t layer = e->frozen; e->reference && layer < s->job->n_layers; layer++)
        plasticity_add(&e->plasticity[layer], e->settings.window, e->settings.tolerance,
                       plasticity_distance(probe->grams + size * layer, e->reference + size * layer, probe->n_samples,
                                           probe->rows));
    if (!e->reference || (decision - 1) % e->settings.renew == 0)
        e->reference = probe->grams;
}

Status elastic_look_at_outputs(Session *s, Trainer *trainer)
{
    Elastic *e = &s->elastic;
    Comm *world = s->ranks.comm.world;
    Probe probe;
    if (!e->plasticity)
        e->plasticity = ARENA_ARRAY(s->arena, Plasticity, s->job->n_layers);
    TRY(probe_run(s, trainer, &probe));
    if (s->ranks.rank == 0)
        compare(s, &probe, e->n_decisions + 1);
    return world ? comm_broadcast(world, 0, e->plasticity, sizeof *e->plasticity * s->job->n_layers) : STATUS_OK;
}

const double *elastic_smoothed(const Session *s)
{
    double *smoothed = ARENA_ARRAY(s->arena, double, s->job->n_layers);
    for (uint32_t layer = 0; layer < s->job->n_layers; layer++)
        smoothed[layer] = s->elastic.plasticity[layer].smoothed;
    return smoothed;
}

/* ---- in checkpoints */

void elastic_add_outputs(const Session *s, StrBuf *text)
{
    const Elastic *e = &s->elastic;
    for (uint32_t layer = 0; e->plasticity && layer < s->job->n_layers; layer++)
    {
        const Plasticity *p = &e->plasticity[layer];
        strbuf_addf(text, "%s[%u, %u, %.17g, %.17g", layer ? ", " : ", \"plasticity\": [", p->n_readings, p->calm,
                    p->smoothed, p->steepest);
        for (uint32_t i = 0; i < e->settings.window; i++)
            strbuf_addf(text, ", %.17g", p->recent[i]);
        strbuf_add(text, "]");
    }
    strbuf_add(text, e->plasticity ? "]" : "");
    for (uint32_t i = 0; e->reference && i < reference_size(s); i++)
        strbuf_addf(text, "%s%.9g", i ? ", " : ", \"reference\": [", (double)e->reference[i]);
    strbuf_add(text, e->reference ? "]" : "");
}

bool elastic_read_outputs(Session *s, const json_t *state)
{
    enum
    {
        N_NUMBERS = 4
    };
    Elastic *e = &s->elastic;
    const json_t *layers = json_object_get(state, "plasticity"), *reference = json_object_get(state, "reference");
    if (!layers)
        return true;
    if (json_array_size(layers) != s->job->n_layers || json_array_size(reference) != reference_size(s))
        return false;
    e->plasticity = ARENA_ARRAY(s->arena, Plasticity, s->job->n_layers);
    for (uint32_t layer = 0; layer < s->job->n_layers; layer++)
    {
        const json_t *numbers = json_array_get(layers, layer);
        Plasticity *p = &e->plasticity[layer];
        if (json_array_size(numbers) != N_NUMBERS + e->settings.window)
            return false;
        p->n_readings = (uint32_t)json_integer_value(json_array_get(numbers, 0));
        p->calm = (uint32_t)json_integer_value(json_array_get(numbers, 1));
        p->smoothed = json_number_value(json_array_get(numbers, 2));
        p->steepest = json_number_value(json_array_get(numbers, 3));
        for (uint32_t i = 0; i < e->settings.window; i++)
            p->recent[i] = json_number_value(json_array_get(numbers, N_NUMBERS + i));
    }
    e->reference = ARENA_ARRAY(s->arena, float, reference_size(s));
    for (uint32_t i = 0; i < reference_size(s); i++)
        e->reference[i] = (float)json_number_value(json_array_get(reference, i));
    return true;
}
