/* Pipeline schedules as lists of instructions, and the simulator that proves and times them.
 *
 * K stages run M micro-batches. An instruction is one part of one micro-batch on one stage: F (forward), B (backward:
 * the gradient that the stage before waits for, or, when the schedule does not split, all of it) or W (the rest of the
 * backward: gradients of weights). On every stage each of F, B, W takes the micro-batches in the order 0..M-1, so that
 * gradients are added in the same order under every schedule.
 *
 * Schedules (rows of pipelines.def):
 *   gpipe  all F, then all B                                                   Huang et al., GPipe, NeurIPS 2019
 *   1f1b   min(M, K - s) F first on stage s, then one B, one F in turn         Narayanan et al., PipeDream, SOSP 2019
 *          (with a flush at the end of the step)
 *   zb-h1  1f1b with B and W apart; W fills the bubbles. No stage keeps more micro-batches between its F and the end
 *          of its W than 1f1b keeps on the first stage, min(M, K)      Qi et al., Zero Bubble, ICLR 2024 (ZB-H1)
 * For K equal stages, links that take no time and M >= K, a stage idles (K - 1) (F + B + W) of a step under gpipe and
 * 1f1b, (K - 1) max(F, B, F + B - W) under zb-h1: with F = B = W = 1, a third of it, and the step is 3M + K - 1 long,
 * not 3M + 3(K - 1). What zb-h1 keeps is bounded in micro-batches: in bytes its peak over the stages is above that of
 * 1f1b where a later stage keeps more bytes per micro-batch than the first one, or has more fixed ones. */
#ifndef PTC_PASSES_PIPELINE_H
#define PTC_PASSES_PIPELINE_H

#include "base/arena.h"
#include "base/strbuf.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum
{
#define PIPELINE(id, name, splits, summary) PIPELINE_##id,
#include "passes/pipelines.def"
#undef PIPELINE
    PIPELINE_COUNT
} PipelineKind;

const char *pipeline_name(PipelineKind kind);
bool pipeline_by_name(const char *name, PipelineKind *out_kind); /* false when there is none */
bool pipeline_splits_backward(PipelineKind kind);

typedef struct
{
    char part; /* 'F', 'B' or 'W' */
    uint32_t micro_batch;
} PipelineInstr;

typedef struct
{
    uint32_t n;
    PipelineInstr *instrs;
} PipelineList;

/* "F0 F1 B0 F2 B1 B2": the text form of one stage's list, as in the attribute `order` of a step function. */
const char *pipeline_list_text(Arena *arena, const PipelineList *list);
/* False with a sentence in *out_why: a syntax error, or the list is not one of n_micro micro-batches (each of F and B
 * once per micro-batch in ascending order, W for all or for none, F before B before W). */
bool pipeline_list_parse(Arena *arena, const char *text, uint32_t n_micro, PipelineList *out_list,
                         const char **out_why);

/* Times of one stage and of the link to the next one. Seconds per micro-batch. */
typedef struct
{
    double forward_s;
    double backward_s; /* all of it */
    double weight_s;   /* of backward_s, the part that W can do later; 0 <= weight_s <= backward_s */
    double send_forward_s, send_backward_s; /* from this stage to the next, and from the next back to this one */
    double update_s;                        /* after the last backward: reduction that is not hidden, optimizer */
    int64_t kept_bytes;                     /* that one micro-batch keeps between its F and the end of its backward */
    int64_t fixed_bytes;                    /* params, states, gradients, inputs, the largest temporary */
} PipelineStage;

/* The lists of all stages: n_stages of them. Deterministic: a function of the arguments alone. stages is read by zb-h1
 * only (relative times decide where W goes). Lists of zb-h1 have W for all micro-batches, of the others for none.
 * No list needs more than one buffer per channel to end. With 0, 1, 2 and 8 buffers (COMM_MAX_IN_FLIGHT of the
 * executor) zb-h1 is no slower than 1f1b in pipeline_simulate, but for rounding. It lets stages keep more than 1f1b
 * does on them only where that makes the step shorter. */
PipelineList *pipeline_build(Arena *arena, PipelineKind kind, uint32_t n_micro, const PipelineStage *stages,
                             uint32_t n_stages);

typedef struct
{
    double start_s, end_s; /* of each instruction, in the order of the list */
} PipelineSpan;

typedef struct
{
    bool deadlock;          /* then *why names the stages that wait for each other; the rest is unset */
    const char *why;        /* in the arena */
    double step_s;          /* until the last stage has updated */
    double bubble;          /* idle share of K * (time of the last instruction's end), updates not counted */
    double *busy_s;         /* per stage: computing */
    uint32_t *max_kept;     /* per stage: most micro-batches between F and the end of their backward at once */
    int64_t *peak_bytes;    /* per stage: fixed_bytes + max_kept * kept_bytes */
    uint32_t max_in_flight; /* most messages of one channel sent and not yet taken */
    PipelineSpan **spans;   /* per stage, per instruction; one more: the update */
} PipelineTimes;

/* Runs the lists as the executor does: F of stage s waits for the message of F of stage s - 1, B for that of B of stage
 * s + 1 (on the last stage for its own F), W for its own B. A send waits while `buffers` messages of its channel are
 * sent and not taken (0: no bound); a message is taken when its reader starts. Lists need not come from pipeline_build:
 * any lists are judged. O(instructions); memory for n_stages * (largest micro-batch) messages. */
PipelineTimes pipeline_simulate(Arena *arena, const PipelineList *lists, const PipelineStage *stages, uint32_t n_stages,
                                uint32_t buffers);

/* The step when those stages that compute share n_cores evenly, none having more than one: of lists that do not
 * deadlock, without a bound on buffers. n_cores may be a fraction: replicas that do the same at the same time have a
 * part each. */
double pipeline_shared_s(Arena *scratch, const PipelineList *lists, const PipelineStage *stages, uint32_t n_stages,
                         double n_cores);

/* ---- cutting a chain of units */

/* Cuts n units (cost_s[i], bytes[i] >= 0) into n_stages contiguous, non-empty runs: the largest sum of cost_s, plus
 * link_s[i] for each border between units i and i + 1 charged to both sides, is as small as possible, among the cuts
 * where no run's sum of bytes exceeds cap_bytes (0: no cap). may_cut[i]: a cut after unit i is allowed (NULL: all).
 * Ties (within 1e-12, relatively): the cut whose sum of squares is smallest. out_first gets n_stages + 1 unit indices
 * from 0: stage s has out_first[s] .. out_first[s + 1] - 1. False when there is no such cut. link_s, bytes NULL: all 0.
 * The largest sum is exact, in O(n^2). So is the choice between ties, in O(n^2 K) at most; where that is more than 1e9
 * (n above 1200), in O(n^2): then exact without links, and with them nearly the most even of the ties. The arena is for
 * scratch, too. */
bool pipeline_cut(Arena *arena, const double *cost_s, const int64_t *bytes, const double *link_s, const bool *may_cut,
                  uint32_t n_units, uint32_t n_stages, int64_t cap_bytes, uint32_t *out_first);

/* ---- traces */

/* The simulated step in the Chrome trace format, as runtime/trace.h writes real ones: a process per stage, an event per
 * instruction, named "F3", "B3", "W3", then "update". Microseconds. No events when the lists deadlock. */
void pipeline_trace(StrBuf *buf, const PipelineList *lists, const PipelineTimes *times, uint32_t n_stages);

#endif
