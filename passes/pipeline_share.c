/* A pipeline whose stages share cores. */
#include "passes/pipeline.h"

#include <math.h>

typedef struct
{
    uint32_t at; /* the instruction that runs or is next; behind the last one stands the update */
    double left_s;
    bool runs, splits;
    double *f_at_s, *b_at_s; /* per micro-batch: when F, B may start; infinite: not known yet */
} Stage;

typedef struct
{
    const PipelineList *lists;
    const PipelineStage *costs;
    Stage *stages;
    uint32_t n_stages;
    double now_s;
} Share;

static bool has_ended(const Share *share, uint32_t s)
{
    return share->stages[s].at > share->lists[s].n;
}

/* When the stage's next instruction may start. W stands behind its own B. */
static double ready_s(const Share *share, uint32_t s)
{
    const Stage *stage = &share->stages[s];
    if (stage->at == share->lists[s].n)
        return 0;
    const PipelineInstr next = share->lists[s].instrs[stage->at];
    return next.part == 'F' ? stage->f_at_s[next.micro_batch] : next.part == 'B' ? stage->b_at_s[next.micro_batch] : 0;
}

static double seconds_of(const Share *share, uint32_t s)
{
    const Stage *stage = &share->stages[s];
    const PipelineStage *cost = &share->costs[s];
    if (stage->at == share->lists[s].n)
        return cost->update_s;
    const char part = share->lists[s].instrs[stage->at].part;
    return part == 'F'   ? cost->forward_s
           : part == 'W' ? cost->weight_s
                         : cost->backward_s - (stage->splits ? cost->weight_s : 0);
}

static void end_instr(Share *share, uint32_t s)
{
    Stage *stage = &share->stages[s];
    const PipelineInstr done = stage->at < share->lists[s].n ? share->lists[s].instrs[stage->at] : (PipelineInstr){0};
    const uint32_t m = done.micro_batch;
    stage->runs = false;
    stage->at++;
    if (done.part == 'F' && s + 1 < share->n_stages)
        share->stages[s + 1].f_at_s[m] = share->now_s + share->costs[s].send_forward_s;
    else if (done.part == 'F')
        stage->b_at_s[m] = share->now_s;
    else if (done.part == 'B' && s > 0)
        share->stages[s - 1].b_at_s[m] = share->now_s + share->costs[s - 1].send_backward_s;
}

static double *make_times(Arena *arena, uint32_t n, double value)
{
    double *times = ARENA_ARRAY(arena, double, n);
    for (uint32_t i = 0; i < n; i++)
        times[i] = value;
    return times;
}

static void make_stages(Arena *scratch, Share *share)
{
    uint32_t n_micro = 0;
    for (uint32_t i = 0; i < share->lists[0].n; i++)
        n_micro += share->lists[0].instrs[i].part == 'F';
    share->stages = ARENA_ARRAY(scratch, Stage, share->n_stages);
    for (uint32_t s = 0; s < share->n_stages; s++)
    {
        share->stages[s].f_at_s = make_times(scratch, n_micro, s ? HUGE_VAL : 0);
        share->stages[s].b_at_s = make_times(scratch, n_micro, HUGE_VAL);
        for (uint32_t i = 0; i < share->lists[s].n; i++)
            share->stages[s].splits |= share->lists[s].instrs[i].part == 'W';
    }
}

double pipeline_shared_s(Arena *scratch, const PipelineList *lists, const PipelineStage *stages, uint32_t n_stages,
                         double n_cores)
{
    Share share = {.lists = lists, .costs = stages, .n_stages = n_stages};
    make_stages(scratch, &share);
    for (;;)
    {
        double n_running = 0, wait_s = HUGE_VAL, least_s = HUGE_VAL;
        for (uint32_t s = 0; s < n_stages; s++)
        {
            Stage *stage = &share.stages[s];
            if (has_ended(&share, s))
                continue;
            const double at_s = ready_s(&share, s);
            if (!stage->runs && at_s - share.now_s <= 1e-12 * share.now_s) /* rounding is no wait */
            {
                stage->runs = true;
                stage->left_s = seconds_of(&share, s);
            }
            else if (!stage->runs)
                wait_s = fmin(wait_s, at_s - share.now_s);
            n_running += stage->runs;
            least_s = stage->runs ? fmin(least_s, stage->left_s) : least_s;
        }
        const double rate = fmin(1, n_cores / n_running), step_s = fmin(wait_s, least_s / rate);
        if (n_running <= 0 && wait_s > 1e300)
            return share.now_s; /* all have ended: lists that wait for each other are not given */
        share.now_s += step_s;
        for (uint32_t s = 0; s < n_stages; s++)
        {
            Stage *stage = &share.stages[s];
            if (!stage->runs)
                continue;
            const bool ends = stage->left_s <= least_s && step_s >= least_s / rate;
            stage->left_s -= step_s * rate;
            if (ends)
                end_instr(&share, s);
        }
    }
}
