/* Pipeline schedules: their names, their lists as text, and the builders.
 *
 * gpipe and 1f1b are orders written down. zb-h1 is found by trying: a few rules of list scheduling run the stages in
 * time and write down what each did; the order with the shortest step stays, the first of equals. Two kinds of rules:
 * 1f1b's order of F and B, where W goes into a wait that is long enough (rules by wait), and free choice among what is
 * ready at the moment (rules by priority). Each is tried with each stage keeping what 1f1b keeps on it, then with all
 * keeping what 1f1b keeps on the first one: by rules, more freedom is not always faster. 1f1b with W right after its B
 * is always among them and no slower than 1f1b: gradients leave earlier, everything else is at the same time. */
#include "passes/pipeline.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

/* Per channel, beside no bound: with these zb-h1 is held to what 1f1b takes. Up to 8 stages the last is as good as no
 * bound, for a message in flight is of a micro-batch that its sender or its receiver keeps. */
static const uint32_t some_buffers[] = {1, 2, 8 /* COMM_MAX_IN_FLIGHT of runtime/comm.h */};

enum
{
    N_BUFFERS = sizeof some_buffers / sizeof *some_buffers,
    MAX_FREE_INSTRS = 1 << 19 /* larger schedules are not tried by priority, which costs a heap */
};

#define NEVER (-1.0) /* no time yet */

typedef struct
{
    const char *name;
    bool splits;
} KindRow;

static const KindRow kinds[] = {
#define PIPELINE(id, name, splits, summary) {name, splits},
#include "passes/pipelines.def"
#undef PIPELINE
};

const char *pipeline_name(PipelineKind kind)
{
    return kinds[kind].name;
}

bool pipeline_splits_backward(PipelineKind kind)
{
    return kinds[kind].splits;
}

bool pipeline_by_name(const char *name, PipelineKind *out_kind)
{
    for (int kind = 0; kind < PIPELINE_COUNT; kind++)
        if (strcmp(kinds[kind].name, name) == 0)
        {
            *out_kind = (PipelineKind)kind;
            return true;
        }
    return false;
}

/* ---- text */

const char *pipeline_list_text(Arena *arena, const PipelineList *list)
{
    StrBuf buf = strbuf_make(arena);
    for (uint32_t i = 0; i < list->n; i++)
        strbuf_addf(&buf, "%s%c%u", i ? " " : "", list->instrs[i].part, list->instrs[i].micro_batch);
    return strbuf_text(&buf);
}

/* One word, "F12": no sign, no leading zero, so that the list's text is the only one that reads as this list. */
static bool parse_instr(const char *word, size_t n, PipelineInstr *out_instr)
{
    if (n < 2 || n > 11 || !strchr("FBW", word[0]) || (word[1] == '0' && n > 2))
        return false;
    uint64_t number = 0;
    for (size_t i = 1; i < n; i++)
    {
        if (!isdigit((unsigned char)word[i]))
            return false;
        number = number * 10 + (uint64_t)(word[i] - '0');
    }
    *out_instr = (PipelineInstr){word[0], (uint32_t)number};
    return number <= UINT32_MAX;
}

/* NULL when the instruction may stand after n_done[part] of each part; otherwise what is wrong. */
static const char *judge(Arena *arena, PipelineInstr instr, const uint32_t *n_done, uint32_t n_micro)
{
    uint32_t due = n_done[(unsigned char)instr.part], m = instr.micro_batch;
    char before = instr.part == 'W' ? 'B' : 'F';
    if (m >= n_micro)
        return arena_printf(arena, "%c%u: there are %u micro-batches, from 0", instr.part, m, n_micro);
    if (m < due)
        return arena_printf(arena, "%c%u stands twice", instr.part, m);
    if (m > due)
        return arena_printf(arena, "%c%u stands where only %c%u may", instr.part, m, instr.part, due);
    if (instr.part != 'F' && m >= n_done[(unsigned char)before])
        return arena_printf(arena, "%c%u stands before %c%u", instr.part, m, before, m);
    return NULL;
}

bool pipeline_list_parse(Arena *arena, const char *text, uint32_t n_micro, PipelineList *out_list, const char **out_why)
{
    VEC(PipelineInstr) instrs = {0};
    uint32_t n_done[128] = {0}; /* by part */
    for (const char *at = text; *at;)
    {
        size_t n = strcspn(at, " ");
        PipelineInstr instr;
        if (!parse_instr(at, n, &instr))
        {
            *out_why = n ? arena_printf(arena, "'%.*s' is not F, B or W and the number of a micro-batch",
                                        (int)(n < 40 ? n : 40), at)
                         : "instructions are separated by one space each";
            return false;
        }
        *out_why = judge(arena, instr, n_done, n_micro);
        if (*out_why)
            return false;
        n_done[(unsigned char)instr.part]++;
        vec_push(arena, &instrs, instr);
        at += n;
        if (at[0] == ' ' && at[1] == 0)
        {
            *out_why = "instructions are separated by one space each";
            return false;
        }
        at += at[0] == ' ';
    }
    for (const char *part = "FBW"; *part; part++)
        if (n_done[(unsigned char)*part] < n_micro && (*part != 'W' || n_done['W']))
        {
            *out_why = arena_printf(arena, "%c%u is missing", *part, n_done[(unsigned char)*part]);
            return false;
        }
    *out_why = NULL;
    *out_list = (PipelineList){instrs.len, instrs.data};
    return true;
}

/* ---- orders that are known */

/* How many F of 1f1b stand before a stage's first B: what it keeps at most. */
static uint32_t warm_up_of(uint32_t n_micro, uint32_t n_stages, uint32_t stage)
{
    return n_micro < n_stages - stage ? n_micro : n_stages - stage;
}

/* 1f1b's next of F and B after n_f and n_b of them; 0: none is left. */
static char next_of_1f1b(uint32_t n_micro, uint32_t warm_up, uint32_t n_f, uint32_t n_b)
{
    if (n_f < n_micro && n_f < n_b + warm_up)
        return 'F';
    return n_b < n_micro ? 'B' : 0;
}

static void build_known(PipelineKind kind, uint32_t n_micro, uint32_t n_stages, PipelineList *lists)
{
    for (uint32_t s = 0; s < n_stages; s++)
    {
        uint32_t warm_up = kind == PIPELINE_gpipe ? n_micro : warm_up_of(n_micro, n_stages, s);
        uint32_t n_f = 0, n_b = 0;
        for (uint32_t i = 0; i < lists[s].n; i++)
        {
            char part = next_of_1f1b(n_micro, warm_up, n_f, n_b);
            lists[s].instrs[i] = (PipelineInstr){part, part == 'F' ? n_f++ : n_b++};
        }
    }
}

/* ---- zb-h1 */

/* How a stage decides. A W is started in a wait that is at least `share` of the W's time; below 0: always at once. */
typedef struct
{
    double share;
    enum
    {
        KEEP_1F1B,  /* F and B in the order of 1f1b */
        B_F_W,      /* what is ready, in this order */
        F_B_W,      /* the same */
        RELIEVE_B_W /* F, or the W that F needs to keep no more than it may, then B, then W */
    } choice;
} Rule;

static const Rule rules[] = {{-1, KEEP_1F1B}, /* the first: the one to fall back to */
                             {1, KEEP_1F1B},  {0.5, KEEP_1F1B}, {0, KEEP_1F1B},     {0, B_F_W},      {0.5, F_B_W},
                             {0, F_B_W},      {1, RELIEVE_B_W}, {0.5, RELIEVE_B_W}, {0, RELIEVE_B_W}};

enum
{
    N_RULES = sizeof rules / sizeof *rules
};

typedef struct
{
    double now_s;            /* the end of what it has started last */
    double *f_at_s, *b_at_s; /* per micro-batch: when the message that F, B waits for is here */
    uint32_t n_f, n_b, n_w;
    uint32_t warm_up, bound; /* of 1f1b; on n_f - n_w */
    bool queued;
} Worker;

typedef struct
{
    double at_s;
    uint32_t stage;
} Event;

typedef struct
{
    Arena *arena; /* for the heap */
    const PipelineStage *costs;
    uint32_t n_stages, n_micro;
    bool wide; /* every stage may keep what 1f1b keeps on the first one; otherwise what it keeps on the stage */
    Worker *workers;
    uint32_t *queue, n_queued;
    VEC(Event) heap;
    PipelineList *lists; /* being written */
} Trial;

/* Writes an instruction down and moves time on. Returns the stage that gets a message, or the same stage. */
static uint32_t do_instr(Trial *trial, uint32_t s, char part, double start_s)
{
    Worker *worker = &trial->workers[s];
    const PipelineStage *cost = &trial->costs[s];
    PipelineList *list = &trial->lists[s];
    uint32_t m = part == 'F' ? worker->n_f++ : part == 'B' ? worker->n_b++ : worker->n_w++;
    list->instrs[list->n++] = (PipelineInstr){part, m};
    if (start_s > worker->now_s)
        worker->now_s = start_s;
    worker->now_s += part == 'F' ? cost->forward_s : part == 'B' ? cost->backward_s - cost->weight_s : cost->weight_s;
    if (part == 'F' && s + 1 == trial->n_stages)
        worker->b_at_s[m] = worker->now_s;
    else if (part == 'F')
    {
        trial->workers[s + 1].f_at_s[m] = worker->now_s + cost->send_forward_s;
        return s + 1;
    }
    else if (part == 'B' && s > 0)
    {
        trial->workers[s - 1].b_at_s[m] = worker->now_s + trial->costs[s - 1].send_backward_s;
        return s - 1;
    }
    return s;
}

/* In the order of 1f1b: as far as messages with a known time allow. A wait is known before it begins, for what a
 * message's time depends on is decided before it. */
static void work_in_order(Trial *trial, uint32_t s, double share)
{
    Worker *worker = &trial->workers[s];
    for (;;)
    {
        char part = next_of_1f1b(trial->n_micro, worker->warm_up, worker->n_f, worker->n_b);
        bool has_w = worker->n_w < worker->n_b;
        bool must = has_w && (share < 0 || !part || (part == 'F' && worker->n_f - worker->n_w >= worker->bound));
        if (!part && !has_w)
            return;
        double at_s = 0;
        if (!must)
        {
            at_s = part == 'F' ? worker->f_at_s[worker->n_f] : worker->b_at_s[worker->n_b];
            if (at_s < 0)
                return;
        }
        double wait_s = at_s - worker->now_s;
        uint32_t to;
        if (must || (has_w && wait_s > 0 && wait_s >= share * trial->costs[s].weight_s))
            to = do_instr(trial, s, 'W', 0);
        else
            to = do_instr(trial, s, part, at_s);
        if (to != s && !trial->workers[to].queued)
        {
            trial->workers[to].queued = true;
            trial->queue[trial->n_queued++] = to;
        }
    }
}

static bool is_before(Event a, Event b)
{
    return a.at_s < b.at_s || (a.at_s <= b.at_s && a.stage < b.stage);
}

static void push_event(Trial *trial, Event event)
{
    vec_push(trial->arena, &trial->heap, event);
    uint32_t i = trial->heap.len - 1;
    for (; i && is_before(event, trial->heap.data[(i - 1) / 2]); i = (i - 1) / 2)
        trial->heap.data[i] = trial->heap.data[(i - 1) / 2];
    trial->heap.data[i] = event;
}

static Event pop_event(Trial *trial)
{
    Event *data = trial->heap.data, first = data[0], last = data[--trial->heap.len];
    uint32_t i = 0, n = trial->heap.len;
    for (uint32_t child = 1; child < n; child = 2 * i + 1)
    {
        child += child + 1 < n && is_before(data[child + 1], data[child]);
        if (!is_before(data[child], last))
            break;
        data[i] = data[child];
        i = child;
    }
    data[i] = last;
    return first;
}

/* What a stage that is idle at now_s does by the rule; 0: it waits for the next message. */
static char choose(const Trial *trial, uint32_t s, Rule rule, double now_s)
{
    const Worker *worker = &trial->workers[s];
    bool has_w = worker->n_w < worker->n_b;
    double b_at_s = worker->n_b < trial->n_micro ? worker->b_at_s[worker->n_b] : NEVER;
    double f_at_s = worker->n_f < trial->n_micro ? worker->f_at_s[worker->n_f] : NEVER;
    bool f_may = worker->n_f - worker->n_w < worker->bound;
    bool b_ready = b_at_s >= 0 && b_at_s <= now_s, f_ready = f_at_s >= 0 && f_at_s <= now_s;
    if (rule.choice == RELIEVE_B_W && f_ready && !f_may && has_w)
        return 'W';
    if (rule.choice != B_F_W && f_ready && f_may)
        return 'F';
    if (b_ready)
        return 'B';
    if (f_ready && f_may)
        return 'F';
    if (!has_w)
        return 0;
    double next_s = b_at_s;
    if (f_may && f_at_s >= 0 && (next_s < 0 || f_at_s < next_s))
        next_s = f_at_s;
    return next_s < 0 || next_s - now_s >= rule.share * trial->costs[s].weight_s ? 'W' : 0;
}

static void work_by_choice(Trial *trial, Rule rule)
{
    trial->heap.len = 0;
    for (uint32_t s = 0; s < trial->n_stages; s++)
        push_event(trial, (Event){0, s});
    while (trial->heap.len)
    {
        Event event = pop_event(trial);
        Worker *worker = &trial->workers[event.stage];
        char part = worker->now_s > event.at_s ? 0 : choose(trial, event.stage, rule, event.at_s);
        if (!part)
            continue;
        uint32_t to = do_instr(trial, event.stage, part, event.at_s);
        push_event(trial, (Event){worker->now_s, event.stage});
        if (to == event.stage)
            continue;
        const Worker *other = &trial->workers[to];
        double at_s = part == 'F' ? other->f_at_s[worker->n_f - 1] : other->b_at_s[worker->n_b - 1];
        if (at_s >= other->now_s) /* otherwise it looks when it has ended what it does */
            push_event(trial, (Event){at_s, to});
    }
}

/* Runs the rule from the start; the lists are written. Returns the time of the step. */
static double run_rule(Trial *trial, Rule rule)
{
    for (uint32_t s = 0; s < trial->n_stages; s++)
    {
        Worker *worker = &trial->workers[s];
        worker->now_s = 0;
        worker->n_f = worker->n_b = worker->n_w = 0;
        worker->warm_up = warm_up_of(trial->n_micro, trial->n_stages, s);
        worker->bound = trial->wide ? warm_up_of(trial->n_micro, trial->n_stages, 0) : worker->warm_up;
        for (uint32_t m = 0; m < trial->n_micro; m++)
        {
            worker->f_at_s[m] = s ? NEVER : 0;
            worker->b_at_s[m] = NEVER;
        }
        trial->lists[s].n = 0;
        trial->queue[s] = trial->n_stages - 1 - s;
        worker->queued = true;
    }
    trial->n_queued = trial->n_stages;
    if (rule.choice != KEEP_1F1B)
        work_by_choice(trial, rule);
    else
        while (trial->n_queued)
        {
            uint32_t s = trial->queue[--trial->n_queued];
            trial->workers[s].queued = false;
            work_in_order(trial, s, rule.share);
        }
    double step_s = 0;
    for (uint32_t s = 0; s < trial->n_stages; s++)
    {
        double end_s = trial->workers[s].now_s + trial->costs[s].update_s;
        step_s = end_s > step_s ? end_s : step_s;
    }
    return step_s;
}

/* The step with each of some_buffers; infinite when stages wait for each other. */
static void step_bounded(const Trial *trial, const PipelineList *lists, double *out_step_s)
{
    for (uint32_t i = 0; i < N_BUFFERS; i++)
    {
        Arena *arena = arena_create();
        PipelineTimes times = pipeline_simulate(arena, lists, trial->costs, trial->n_stages, some_buffers[i]);
        out_step_s[i] = times.deadlock ? HUGE_VAL : times.step_s;
        arena_destroy(arena);
    }
}

/* Whether buffers cost an order what it gains over the first one: one without a bound may not even end with one. */
static bool loses_bounded(const Trial *trial, const PipelineList *lists, const double *first_s)
{
    double step_s[N_BUFFERS];
    step_bounded(trial, lists, step_s);
    for (uint32_t i = 0; i < N_BUFFERS; i++)
        if (step_s[i] > first_s[i])
            return true;
    return false;
}

static PipelineList *make_lists(Arena *arena, uint32_t n_stages, uint32_t n_instrs)
{
    PipelineList *lists = ARENA_ARRAY(arena, PipelineList, n_stages);
    for (uint32_t s = 0; s < n_stages; s++)
        lists[s] = (PipelineList){n_instrs, ARENA_ARRAY(arena, PipelineInstr, n_instrs)};
    return lists;
}

static void build_zb_h1(const PipelineStage *stages, uint32_t n_micro, uint32_t n_stages, PipelineList *out_lists)
{
    Arena *arena = arena_create();
    Trial trial = {.arena = arena, .costs = stages, .n_stages = n_stages, .n_micro = n_micro};
    trial.workers = ARENA_ARRAY(arena, Worker, n_stages);
    trial.queue = ARENA_ARRAY(arena, uint32_t, n_stages);
    for (uint32_t s = 0; s < n_stages; s++)
    {
        trial.workers[s].f_at_s = ARENA_ARRAY(arena, double, n_micro);
        trial.workers[s].b_at_s = ARENA_ARRAY(arena, double, n_micro);
    }
    PipelineList *best = make_lists(arena, n_stages, 3 * n_micro), *spare = make_lists(arena, n_stages, 3 * n_micro);
    double best_s = 0, first_bounded_s[N_BUFFERS];
    for (uint32_t i = 0; i < 2 * N_RULES; i++)
    {
        Rule rule = rules[i % N_RULES];
        if (rule.choice != KEEP_1F1B && (uint64_t)n_stages * n_micro > MAX_FREE_INSTRS / 3)
            continue;
        trial.lists = i ? spare : best;
        trial.wide = i >= N_RULES; /* later: more is kept only where that is faster */
        double step_s = run_rule(&trial, rule);
        if (i == 0)
        {
            best_s = step_s;
            step_bounded(&trial, best, first_bounded_s);
            continue;
        }
        if (step_s >= best_s * (1 - 1e-9)) /* no better, or by rounding */
            continue;
        if (loses_bounded(&trial, spare, first_bounded_s))
            continue;
        best_s = step_s;
        spare = best;
        best = trial.lists;
    }
    for (uint32_t s = 0; s < n_stages; s++)
        memcpy(out_lists[s].instrs, best[s].instrs, sizeof *best[s].instrs * best[s].n);
    arena_destroy(arena);
}

PipelineList *pipeline_build(Arena *arena, PipelineKind kind, uint32_t n_micro, const PipelineStage *stages,
                             uint32_t n_stages)
{
    PipelineList *lists = make_lists(arena, n_stages, (kinds[kind].splits ? 3 : 2) * n_micro);
    if (kind == PIPELINE_zb_h1)
        build_zb_h1(stages, n_micro, n_stages, lists);
    else
        build_known(kind, n_micro, n_stages, lists);
    return lists;
}
