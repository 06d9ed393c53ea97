/* See pipeline_slow.h. */
#include "pipeline_slow.h"

#include "harness/test.h"

#include <math.h>

uint32_t pipeline_next_random(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

static double random_s(uint32_t *seed, double most)
{
    return most * (double)(pipeline_next_random(seed) % 1000) / 1000;
}

PipelineStage *pipeline_equal_stages(Arena *arena, uint32_t n_stages, PipelineStage one)
{
    PipelineStage *stages = ARENA_ARRAY(arena, PipelineStage, n_stages);
    for (uint32_t s = 0; s < n_stages; s++)
        stages[s] = one;
    return stages;
}

PipelineStage *pipeline_random_stages(Arena *arena, uint32_t n_stages, uint32_t *seed)
{
    PipelineStage *stages = ARENA_ARRAY(arena, PipelineStage, n_stages);
    double link_s = (double[]){0, 0.1, 1, 10}[pipeline_next_random(seed) % 4];
    bool alike = pipeline_next_random(seed) % 2; /* stages of one make, as a good cut leaves them */
    for (uint32_t s = 0; s < n_stages; s++)
    {
        PipelineStage *stage = &stages[s];
        stage->forward_s = alike ? 0.9 + random_s(seed, 0.2) : random_s(seed, 2);
        stage->backward_s = alike ? 1.8 + random_s(seed, 0.4) : random_s(seed, 4);
        stage->weight_s =
            stage->backward_s * (alike ? 0.5 : (double[]){0, 1, 0.3, 0.5, 0.7}[pipeline_next_random(seed) % 5]);
        stage->send_forward_s = random_s(seed, link_s);
        stage->send_backward_s = random_s(seed, link_s);
        stage->update_s = random_s(seed, 1);
        stage->kept_bytes = pipeline_next_random(seed) % 1000;
        stage->fixed_bytes = pipeline_next_random(seed) % 1000;
    }
    return stages;
}

/* ---- a slow simulator */

typedef struct
{
    bool deadlock;
    double **start_s, **sent_s; /* per stage, per instruction; sent_s: when it is over, its send included */
} Slow;

static double seconds_of(const PipelineList *list, const PipelineStage *stage, char part)
{
    bool splits = false;
    for (uint32_t i = 0; i < list->n; i++)
        splits |= list->instrs[i].part == 'W';
    if (part == 'F')
        return stage->forward_s;
    return part == 'W' ? stage->weight_s : stage->backward_s - (splits ? stage->weight_s : 0);
}

/* The time of an instruction's end by its name; negative while there is none. */
static double time_of(const PipelineList *list, const double *times_s, char part, uint32_t m)
{
    for (uint32_t i = 0; i < list->n; i++)
        if (list->instrs[i].part == part && list->instrs[i].micro_batch == m)
            return times_s[i];
    return -1;
}

/* The start of the stage's n-th instruction of a part; negative while there is none. */
static double take_of(const PipelineList *list, const double *start_s, char part, uint32_t n)
{
    for (uint32_t i = 0; i < list->n; i++)
        if (list->instrs[i].part == part && n-- == 0)
            return start_s[i];
    return -1;
}

/* Gives one instruction its times if all that it needs has them. */
static bool slow_try(Slow *slow, const PipelineList *lists, const PipelineStage *stages, uint32_t n_stages,
                     uint32_t buffers, uint32_t s, uint32_t i)
{
    PipelineInstr instr = lists[s].instrs[i];
    double own_s = i ? slow->sent_s[s][i - 1] : 0, need_s = 0;
    if (slow->start_s[s][i] < 0)
    {
        if (instr.part == 'F' && s > 0)
            need_s = time_of(&lists[s - 1], slow->sent_s[s - 1], 'F', instr.micro_batch);
        else if (instr.part == 'B' && s + 1 < n_stages)
            need_s = time_of(&lists[s + 1], slow->sent_s[s + 1], 'B', instr.micro_batch);
        else if (instr.part != 'F')
            need_s = time_of(&lists[s], slow->sent_s[s], instr.part == 'B' ? 'F' : 'B', instr.micro_batch);
        if (own_s < 0 || need_s < 0)
            return false;
        if (instr.part == 'F' && s > 0)
            need_s += stages[s - 1].send_forward_s;
        if (instr.part == 'B' && s + 1 < n_stages)
            need_s += stages[s].send_backward_s;
        slow->start_s[s][i] = fmax(own_s, need_s);
        return true;
    }
    if (slow->sent_s[s][i] >= 0)
        return false;
    double over_s = slow->start_s[s][i] + seconds_of(&lists[s], &stages[s], instr.part);
    bool sends = (instr.part == 'F' && s + 1 < n_stages) || (instr.part == 'B' && s > 0);
    uint32_t n_before = 0, to = instr.part == 'F' ? s + 1 : s - 1;
    for (uint32_t k = 0; k < i; k++)
        n_before += lists[s].instrs[k].part == instr.part;
    if (sends && buffers && n_before >= buffers)
    {
        double take_s = take_of(&lists[to], slow->start_s[to], instr.part, n_before - buffers);
        if (take_s < 0)
            return false;
        over_s = fmax(over_s, take_s);
    }
    slow->sent_s[s][i] = over_s;
    return true;
}

static Slow slow_simulate(Arena *arena, const PipelineList *lists, const PipelineStage *stages, uint32_t n_stages,
                          uint32_t buffers)
{
    Slow slow = {.start_s = ARENA_ARRAY(arena, double *, n_stages), .sent_s = ARENA_ARRAY(arena, double *, n_stages)};
    for (uint32_t s = 0; s < n_stages; s++)
    {
        slow.start_s[s] = ARENA_ARRAY(arena, double, lists[s].n);
        slow.sent_s[s] = ARENA_ARRAY(arena, double, lists[s].n);
        for (uint32_t i = 0; i < lists[s].n; i++)
            slow.start_s[s][i] = slow.sent_s[s][i] = -1;
    }
    for (bool changed = true; changed;)
    {
        changed = false;
        for (uint32_t s = 0; s < n_stages; s++)
            for (uint32_t i = 0; i < lists[s].n; i++)
                changed |= slow_try(&slow, lists, stages, n_stages, buffers, s, i);
    }
    for (uint32_t s = 0; s < n_stages; s++)
        slow.deadlock |= lists[s].n && slow.sent_s[s][lists[s].n - 1] < 0;
    return slow;
}

const char *pipeline_difference(Arena *arena, const PipelineList *lists, const PipelineStage *stages, uint32_t n_stages,
                                uint32_t buffers, const PipelineTimes *times)
{
    Slow slow = slow_simulate(arena, lists, stages, n_stages, buffers);
    double step_s = 0;
    if (slow.deadlock || times->deadlock)
        return slow.deadlock == times->deadlock ? NULL : "deadlock";
    for (uint32_t s = 0; s < n_stages; s++)
    {
        double over_s = 0;
        for (uint32_t i = 0; i < lists[s].n; i++)
        {
            double end_s = slow.start_s[s][i] + seconds_of(&lists[s], &stages[s], lists[s].instrs[i].part);
            if (fabs(times->spans[s][i].start_s - slow.start_s[s][i]) > 1e-9 ||
                fabs(times->spans[s][i].end_s - end_s) > 1e-9)
                return arena_printf(arena, "stage %u, instruction %u: %g to %g, not %g to %g", s, i,
                                    times->spans[s][i].start_s, times->spans[s][i].end_s, slow.start_s[s][i], end_s);
            over_s = slow.sent_s[s][i];
        }
        step_s = fmax(step_s, over_s + stages[s].update_s);
    }
    if (fabs(step_s - times->step_s) > 1e-9)
        return arena_printf(arena, "step %g, not %g", times->step_s, step_s);
    if (buffers && times->max_in_flight > buffers)
        return "more messages than buffers";
    return NULL;
}

PipelineList *pipeline_parse_lists(Arena *arena, const char *const *texts, uint32_t n_stages, uint32_t n_micro)
{
    PipelineList *lists = ARENA_ARRAY(arena, PipelineList, n_stages);
    const char *why;
    for (uint32_t s = 0; s < n_stages; s++)
        if (!pipeline_list_parse(arena, texts[s], n_micro, &lists[s], &why))
            fail_msg("%s: %s", texts[s], why);
    return lists;
}
