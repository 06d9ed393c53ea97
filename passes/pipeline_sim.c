/* Runs pipeline schedules: when each instruction starts, what is kept, whether stages wait for each other forever.
 *
 * Orders are given, so every start is the latest of a few earlier times and no queue of events is needed: a stage runs
 * until it waits for something that has no time yet, and is looked at again when a neighbour makes it. Each instruction
 * is run once and each message wakes at most one stage. Stages form a chain, so stages that wait for each other are
 * two neighbours, or one that waits for itself. */
#include "passes/pipeline.h"

#include <stdio.h>

typedef enum
{
    WAITS_NOT,
    WAITS_FORWARD,      /* for the message of F from the stage before */
    WAITS_BACKWARD,     /* for the message of B from the stage after */
    WAITS_OWN,          /* for an instruction that stands later in its own list, or nowhere */
    WAITS_SEND_FORWARD, /* for the stage after to take an F */
    WAITS_SEND_BACKWARD /* for the stage before to take a B */
} Wait;

/* Messages of one direction from one stage: what is sent, what is taken, and when. */
typedef struct
{
    double *arrival_s; /* per micro-batch: negative until sent */
    uint32_t n_sent, n_taken;
    uint32_t seek, n_sought; /* a walk over the takes in the receiver's list: where it is, how many it has passed */
} Channel;

typedef struct
{
    uint32_t at; /* the next instruction */
    double now_s;
    char sending; /* F or B whose instruction has ended and whose send waits; 0: none */
    Wait wait;
    bool queued;
    bool splits; /* the list has W */
    bool *done_b;
    Channel forward, backward; /* what this stage sends to the next one, and to the one before */
} Stage;

typedef struct
{
    const PipelineList *lists;
    const PipelineStage *costs;
    Stage *stages;
    PipelineTimes *times;
    bool *done_f; /* of the last stage */
    size_t n_micro;
    uint32_t n_stages, buffers;
    uint32_t *queue, n_queued;
} Sim;

static void wake(Sim *sim, uint32_t s, Wait wait)
{
    Stage *stage = &sim->stages[s];
    if (stage->wait != wait || stage->queued)
        return;
    stage->queued = true;
    sim->queue[sim->n_queued++] = s;
}

/* When take number `index` of the receiver happened: a later call never asks for an earlier one. */
static double take_time(Channel *channel, uint32_t index, const PipelineList *receiver, const PipelineSpan *spans,
                        char part)
{
    for (;; channel->seek++)
        if (receiver->instrs[channel->seek].part == part && channel->n_sought++ == index)
            return spans[channel->seek++].start_s;
}

/* Sends what the stage has just made; false while the channel is full. */
static bool send_made(Sim *sim, uint32_t s)
{
    Stage *stage = &sim->stages[s];
    bool forward = stage->sending == 'F';
    uint32_t to = forward ? s + 1 : s - 1;
    Channel *channel = forward ? &stage->forward : &stage->backward;
    double link_s = forward ? sim->costs[s].send_forward_s : sim->costs[to].send_backward_s;
    if (sim->buffers && channel->n_sent >= sim->buffers)
    {
        uint32_t index = channel->n_sent - sim->buffers;
        if (channel->n_taken <= index)
        {
            stage->wait = forward ? WAITS_SEND_FORWARD : WAITS_SEND_BACKWARD;
            return false;
        }
        double free_s = take_time(channel, index, &sim->lists[to], sim->times->spans[to], stage->sending);
        if (stage->now_s < free_s)
            stage->now_s = free_s;
    }
    uint32_t m = sim->lists[s].instrs[stage->at - 1].micro_batch;
    channel->arrival_s[m] = stage->now_s + link_s;
    channel->n_sent++;
    stage->sending = 0;
    wake(sim, to, forward ? WAITS_FORWARD : WAITS_BACKWARD);
    return true;
}

/* The channel that the instruction takes its message from; NULL: it takes none. */
static Channel *source(const Sim *sim, uint32_t s, char part)
{
    if (part == 'F' && s > 0)
        return &sim->stages[s - 1].forward;
    if (part == 'B' && s + 1 < sim->n_stages)
        return &sim->stages[s + 1].backward;
    return NULL;
}

/* Whether everything that the instruction waits for has a time; then it is in *out_ready_s. */
static bool is_ready(Sim *sim, uint32_t s, PipelineInstr instr, double *out_ready_s)
{
    Stage *stage = &sim->stages[s];
    const Channel *from = source(sim, s, instr.part);
    *out_ready_s = 0;
    if (from && from->arrival_s[instr.micro_batch] < 0)
        stage->wait = instr.part == 'F' ? WAITS_FORWARD : WAITS_BACKWARD;
    else if (!from && ((instr.part == 'B' && !sim->done_f[instr.micro_batch]) ||
                       (instr.part == 'W' && !stage->done_b[instr.micro_batch])))
        stage->wait = WAITS_OWN;
    else
    {
        *out_ready_s = from ? from->arrival_s[instr.micro_batch] : 0;
        return true;
    }
    return false;
}

static void start(Sim *sim, uint32_t s, PipelineInstr instr, double ready_s)
{
    Stage *stage = &sim->stages[s];
    const PipelineStage *cost = &sim->costs[s];
    double seconds = instr.part == 'F'   ? cost->forward_s
                     : instr.part == 'W' ? cost->weight_s
                                         : cost->backward_s - (stage->splits ? cost->weight_s : 0);
    double start_s = stage->now_s > ready_s ? stage->now_s : ready_s;
    Channel *from = source(sim, s, instr.part);
    if (from)
    {
        from->n_taken++;
        wake(sim, instr.part == 'F' ? s - 1 : s + 1, instr.part == 'F' ? WAITS_SEND_FORWARD : WAITS_SEND_BACKWARD);
    }
    stage->now_s = start_s + seconds;
    sim->times->spans[s][stage->at++] = (PipelineSpan){.start_s = start_s, .end_s = stage->now_s};
    sim->times->busy_s[s] += seconds;
    if (instr.part == 'F' && s + 1 == sim->n_stages)
        sim->done_f[instr.micro_batch] = true;
    if (instr.part == 'B')
        stage->done_b[instr.micro_batch] = true;
    if ((instr.part == 'F' && s + 1 < sim->n_stages) || (instr.part == 'B' && s > 0))
        stage->sending = instr.part;
}

static void run_stage(Sim *sim, uint32_t s)
{
    Stage *stage = &sim->stages[s];
    const PipelineList *list = &sim->lists[s];
    double ready_s;
    stage->wait = WAITS_NOT;
    while (!stage->sending || send_made(sim, s))
    {
        if (stage->at == list->n || !is_ready(sim, s, list->instrs[stage->at], &ready_s))
            return;
        start(sim, s, list->instrs[stage->at], ready_s);
    }
}

/* ---- what went wrong */

static bool has_ended(const Sim *sim, uint32_t s)
{
    return sim->stages[s].at == sim->lists[s].n && !sim->stages[s].sending;
}

static uint32_t waits_for(const Sim *sim, uint32_t s)
{
    Wait wait = sim->stages[s].wait;
    if (wait == WAITS_OWN)
        return s;
    return wait == WAITS_FORWARD || wait == WAITS_SEND_BACKWARD ? s - 1 : s + 1;
}

static void add_wait(StrBuf *buf, const Sim *sim, uint32_t s)
{
    const Stage *stage = &sim->stages[s];
    uint32_t other = waits_for(sim, s);
    if (stage->sending)
    {
        PipelineInstr sent = sim->lists[s].instrs[stage->at - 1];
        strbuf_addf(buf, "stage %u cannot send %c%u before stage %u takes one more %c (buffers: %u)", s, sent.part,
                    sent.micro_batch, other, sent.part, sim->buffers);
        return;
    }
    PipelineInstr next = sim->lists[s].instrs[stage->at];
    if (stage->wait == WAITS_OWN)
        strbuf_addf(buf, "stage %u at %c%u waits for its own %c%u", s, next.part, next.micro_batch,
                    next.part == 'W' ? 'B' : 'F', next.micro_batch);
    else
        strbuf_addf(buf, "stage %u at %c%u waits for %c%u of stage %u", s, next.part, next.micro_batch, next.part,
                    next.micro_batch, other);
}

/* A sentence about the first stages that can never go on; NULL when all have ended. */
static const char *find_deadlock(Arena *arena, const Sim *sim)
{
    uint32_t s = 0;
    while (s < sim->n_stages && has_ended(sim, s))
        s++;
    if (s == sim->n_stages)
        return NULL;
    /* Every stage waits for one: within n_stages steps the walk is in a circle, or at one that has ended. */
    uint32_t last = s;
    for (uint32_t i = 0; i < sim->n_stages && !has_ended(sim, s); i++)
    {
        last = s;
        s = waits_for(sim, s);
    }
    StrBuf buf = strbuf_make(arena);
    if (has_ended(sim, s))
    {
        add_wait(&buf, sim, last);
        strbuf_addf(&buf, ", which has come to the end of its list");
        return strbuf_text(&buf);
    }
    uint32_t first = s;
    if (waits_for(sim, s) < s)
        first = waits_for(sim, s);
    uint32_t second = waits_for(sim, first);
    add_wait(&buf, sim, first);
    if (second != first)
    {
        strbuf_add(&buf, ", and ");
        add_wait(&buf, sim, second);
    }
    return strbuf_text(&buf);
}

/* ---- what a run says */

/* Most messages of a channel sent and not yet taken. A send that waited happened when a take let it go, as in
 * send_made(). */
static uint32_t count_in_flight(const Sim *sim, uint32_t from, uint32_t to, char part)
{
    const PipelineList *sender = &sim->lists[from], *receiver = &sim->lists[to];
    const PipelineSpan *sent = sim->times->spans[from], *taken = sim->times->spans[to];
    Channel walk = {0};
    uint32_t n_sent = 0, n_taken = 0, most = 0, at = 0;
    for (uint32_t i = 0; i < sender->n; i++)
    {
        if (sender->instrs[i].part != part)
            continue;
        double send_s = sent[i].end_s;
        if (sim->buffers && n_sent >= sim->buffers)
        {
            double free_s = take_time(&walk, n_sent - sim->buffers, receiver, taken, part);
            send_s = send_s > free_s ? send_s : free_s;
        }
        /* Of earlier messages, those taken by then: a take makes room for a send at the same moment. */
        for (; at < receiver->n && n_taken < n_sent; at++)
            if (receiver->instrs[at].part == part)
            {
                if (taken[at].start_s > send_s)
                    break;
                n_taken++;
            }
        n_sent++;
        most = most > n_sent - n_taken ? most : n_sent - n_taken;
    }
    return most;
}

static uint32_t count_kept(const PipelineList *list, bool splits)
{
    uint32_t n_kept = 0, most = 0;
    for (uint32_t i = 0; i < list->n; i++)
    {
        if (list->instrs[i].part == 'F')
            most = ++n_kept > most ? n_kept : most;
        else if (list->instrs[i].part == (splits ? 'W' : 'B'))
            n_kept--;
    }
    return most;
}

static void measure(Sim *sim)
{
    PipelineTimes *times = sim->times;
    double end_s = 0, busy_s = 0;
    for (uint32_t s = 0; s < sim->n_stages; s++)
    {
        const PipelineList *list = &sim->lists[s];
        Stage *stage = &sim->stages[s];
        times->spans[s][list->n] = (PipelineSpan){stage->now_s, stage->now_s + sim->costs[s].update_s};
        if (times->step_s < times->spans[s][list->n].end_s)
            times->step_s = times->spans[s][list->n].end_s;
        if (list->n && end_s < times->spans[s][list->n - 1].end_s)
            end_s = times->spans[s][list->n - 1].end_s;
        busy_s += times->busy_s[s];
        times->max_kept[s] = count_kept(list, stage->splits);
        times->peak_bytes[s] = sim->costs[s].fixed_bytes + sim->costs[s].kept_bytes * times->max_kept[s];
        for (int forward = 0; forward < 2; forward++)
        {
            if (forward ? s + 1 == sim->n_stages : s == 0)
                continue;
            uint32_t most = count_in_flight(sim, s, forward ? s + 1 : s - 1, forward ? 'F' : 'B');
            if (times->max_in_flight < most)
                times->max_in_flight = most;
        }
    }
    if (end_s > 0)
        times->bubble = 1 - busy_s / (end_s * sim->n_stages);
    if (times->bubble < 0) /* rounding */
        times->bubble = 0;
}

static Channel make_channel(Arena *arena, size_t n_micro)
{
    Channel channel = {.arrival_s = ARENA_ARRAY(arena, double, n_micro)};
    for (size_t m = 0; m < n_micro; m++)
        channel.arrival_s[m] = -1;
    return channel;
}

PipelineTimes pipeline_simulate(Arena *arena, const PipelineList *lists, const PipelineStage *stages, uint32_t n_stages,
                                uint32_t buffers)
{
    PipelineTimes times = {0};
    Arena *scratch = arena_create();
    Sim sim = {.lists = lists, .costs = stages, .times = &times, .n_stages = n_stages, .buffers = buffers};
    sim.stages = ARENA_ARRAY(scratch, Stage, n_stages);
    sim.queue = ARENA_ARRAY(scratch, uint32_t, n_stages);
    times.spans = ARENA_ARRAY(arena, PipelineSpan *, n_stages);
    times.busy_s = ARENA_ARRAY(arena, double, n_stages);
    times.max_kept = ARENA_ARRAY(arena, uint32_t, n_stages);
    times.peak_bytes = ARENA_ARRAY(arena, int64_t, n_stages);
    for (uint32_t s = 0; s < n_stages; s++)
    {
        times.spans[s] = ARENA_ARRAY(arena, PipelineSpan, (size_t)lists[s].n + 1);
        for (uint32_t i = 0; i < lists[s].n; i++)
        {
            if (lists[s].instrs[i].micro_batch >= sim.n_micro)
                sim.n_micro = (size_t)lists[s].instrs[i].micro_batch + 1;
            sim.stages[s].splits |= lists[s].instrs[i].part == 'W';
        }
    }
    sim.done_f = ARENA_ARRAY(scratch, bool, sim.n_micro);
    for (uint32_t s = 0; s < n_stages; s++)
    {
        Stage *stage = &sim.stages[s];
        stage->done_b = ARENA_ARRAY(scratch, bool, sim.n_micro);
        if (s + 1 < n_stages)
            stage->forward = make_channel(scratch, sim.n_micro);
        if (s > 0)
            stage->backward = make_channel(scratch, sim.n_micro);
    }
    for (uint32_t s = n_stages; s-- > 0;)
        wake(&sim, s, WAITS_NOT);
    while (sim.n_queued)
    {
        uint32_t s = sim.queue[--sim.n_queued];
        sim.stages[s].queued = false;
        run_stage(&sim, s);
    }
    times.why = find_deadlock(arena, &sim);
    times.deadlock = times.why != NULL;
    if (!times.deadlock)
        measure(&sim);
    arena_destroy(scratch);
    return times;
}

/* ---- traces */

static void add_event(StrBuf *buf, const char *name, uint32_t stage, PipelineSpan span)
{
    strbuf_addf(buf, ",\n{\"name\":\"%s\",\"ph\":\"X\",\"pid\":%u,\"tid\":0,\"ts\":%.3f,\"dur\":%.3f}", name, stage,
                span.start_s * 1e6, (span.end_s - span.start_s) * 1e6);
}

void pipeline_trace(StrBuf *buf, const PipelineList *lists, const PipelineTimes *times, uint32_t n_stages)
{
    strbuf_add(buf, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[");
    for (uint32_t s = 0; s < n_stages; s++)
        strbuf_addf(buf, "%s\n{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":%u,\"args\":{\"name\":\"stage %u\"}}",
                    s ? "," : "", s, s);
    for (uint32_t s = 0; s < n_stages && !times->deadlock; s++)
    {
        for (uint32_t i = 0; i < lists[s].n; i++)
        {
            char name[16];
            PipelineInstr instr = lists[s].instrs[i];
            snprintf(name, sizeof name, "%c%u", instr.part, instr.micro_batch);
            add_event(buf, name, s, times->spans[s][i]);
        }
        add_event(buf, "update", s, times->spans[s][lists[s].n]);
    }
    strbuf_add(buf, "\n]}\n");
}
