/* What became of a job: finds the rank whose failure was the cause, and says it. A rank that failed because a peer was
 * lost (exit code 6) is a consequence, and so is one that the launcher killed. */
#include "driver/launch_watch.h"

#include "base/status.h"
#include "base/strbuf.h"
#include "driver/launch_record.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- what a rank's end was */

typedef enum
{
    END_WELL,    /* exit code 0 */
    END_STOPPED, /* by a signal, with a checkpoint: exit code 75 */
    END_ABSENT,  /* did not start */
    END_SIGNAL,  /* by a signal that the launcher sent on, without one */
    END_KILLED,  /* by the launcher, since it did not end */
    END_PEER,    /* exit code 6 */
    END_FAILED,  /* another exit code */
    END_LOST     /* killed by somebody else, or gone */
} End;

static End end_of(const LaunchWatch *w, uint32_t rank)
{
    const LaunchRank *r = &w->ranks[rank];
    if (r->state == RANK_ENDED)
        return r->code == 0                                      ? END_WELL
               : r->code == status_exit_code(STATUS_INTERRUPTED) ? END_STOPPED
               : r->code == status_exit_code(STATUS_PEER_LOST)   ? END_PEER
                                                                 : END_FAILED;
    if (r->state == RANK_ABSENT)
        return END_ABSENT;
    if (w->killed_ns && r->at_ns >= w->killed_ns)
        return END_KILLED;
    bool sent = w->n_signals > 1 || !r->signal_number || r->signal_number == w->signal_number;
    return w->n_signals && sent ? END_SIGNAL : END_LOST;
}

/* The cause: the first that was lost or failed by itself, else the first that missed a peer, else one that did not
 * start although nobody stopped the job; n_ranks: none failed. */
static uint32_t find_cause(const LaunchWatch *w)
{
    uint32_t best = w->n_ranks;
    bool best_own = false;
    for (uint32_t i = 0; i < w->n_ranks; i++)
    {
        End end = end_of(w, i);
        bool own = end == END_FAILED || end == END_LOST;
        if (!own && end != END_PEER)
            continue;
        bool better = best == w->n_ranks || (own && !best_own);
        if (better || (own == best_own && w->ranks[i].at_ns < w->ranks[best].at_ns))
        {
            best = i;
            best_own = own;
        }
    }
    for (uint32_t i = 0; i < w->n_ranks && best == w->n_ranks && !w->n_signals; i++)
        if (end_of(w, i) == END_ABSENT)
            best = i;
    return best;
}

uint32_t launch_lost_ranks(const LaunchWatch *w, bool *is)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->n_ranks; i++)
    {
        is[i] = end_of(w, i) == END_LOST;
        n += is[i];
    }
    return n;
}

/* ---- saying it */

const char *launch_rank_list(Arena *arena, const bool *is, uint32_t n_ranks)
{
    StrBuf text = strbuf_make(arena);
    uint32_t n = 0, seen = 0;
    for (uint32_t i = 0; i < n_ranks; i++)
        n += is[i];
    strbuf_add(&text, n == 1 ? "rank" : "ranks");
    for (uint32_t i = 0; i < n_ranks; i++)
        if (is[i])
        {
            strbuf_addf(&text, "%s %u", seen == 0 ? "" : seen + 1 < n ? "," : " and", i);
            seen++;
        }
    return strbuf_text(&text);
}

/* One line for all other ranks that ended so. */
static void say_others(const LaunchWatch *w, End end, uint32_t except, const char *what)
{
    bool *is = ARENA_ARRAY(w->arena, bool, w->n_ranks);
    bool any = false;
    for (uint32_t i = 0; i < w->n_ranks; i++)
        any |= is[i] = i != except && end_of(w, i) == end;
    if (any)
        fprintf(stderr, "ptc: %s of %u %s\n", launch_rank_list(w->arena, is, w->n_ranks), w->n_ranks, what);
}

/* Diagnostics that rank 0, which prints its own, did not come to. */
static void show_diag(const LaunchWatch *w, uint32_t rank)
{
    char path[PATH_MAX], line[4096];
    const LaunchRank *first = &w->ranks[0];
    if (rank == 0 || (first->state == RANK_ENDED && first->code == w->ranks[rank].code))
        return;
    launch_record_path(path, w->dir, rank, "diag");
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        fputs(line, stderr);
    if (file)
        fclose(file);
}

static bool all_say(const LaunchWatch *w, const char *detail)
{
    for (uint32_t i = 0; i < w->n_ranks; i++)
        if (w->ranks[i].state != RANK_ENDED || strcmp(w->ranks[i].detail, detail) != 0)
            return false;
    return true;
}

static void say_cause(const LaunchWatch *w, uint32_t rank)
{
    const LaunchRank *r = &w->ranks[rank];
    char host[sizeof r->host] = "";
    gethostname(host, sizeof host - 1);
    bool elsewhere = r->host[0] && strcmp(r->host, host) != 0;
    const char *where = elsewhere ? arena_printf(w->arena, " (host %s)", r->host) : "";
    if (r->state == RANK_ABSENT)
        fprintf(stderr, "ptc: rank %u of %u did not start\n", rank, w->n_ranks);
    else if (r->state == RANK_LOST && r->signal_number)
    {
        const char *name = sigabbrev_np(r->signal_number);
        fprintf(stderr, "ptc: rank %u of %u%s was killed by signal %d%s%s%s\n", rank, w->n_ranks, where,
                r->signal_number, name ? " (SIG" : "", name ? name : "", name ? ")" : "");
    }
    else if (r->state == RANK_LOST)
        fprintf(stderr, "ptc: rank %u of %u%s is gone without a word\n", rank, w->n_ranks, where);
    else if (*r->detail && all_say(w, r->detail))
        fprintf(stderr, "ptc: error: %s\n", r->detail);
    else if (*r->detail)
        fprintf(stderr, "ptc: error: rank %u%s: %s\n", rank, where, r->detail);
    else if (r->code == status_exit_code(STATUS_BAD_INPUT))
        show_diag(w, rank);
    else
        fprintf(stderr, "ptc: rank %u of %u%s ended with exit code %d\n", rank, w->n_ranks, where, r->code);
}

LaunchOutcome launch_report(const LaunchWatch *w)
{
    LaunchOutcome outcome = {0};
    uint32_t stopped = w->n_ranks; /* the first that was */
    bool died = false;
    for (uint32_t i = 0; i < w->n_ranks; i++)
    {
        outcome.started |= w->ranks[i].state != RANK_ABSENT;
        if (stopped == w->n_ranks && end_of(w, i) == END_STOPPED)
            stopped = i;
        died |= end_of(w, i) != END_WELL;
    }
    uint32_t cause = find_cause(w);
    if (!outcome.started)
        outcome.signal_number = w->signal_number;
    else if (cause < w->n_ranks)
    {
        End end = end_of(w, cause);
        say_others(w, END_KILLED, cause, "did not end and had to be killed");
        say_others(w, END_PEER, cause, "ended because a rank was lost");
        say_others(w, END_LOST, cause, "were lost too");
        if (end != END_FAILED || !all_say(w, w->ranks[cause].detail))
            say_others(w, END_FAILED, cause, "failed too");
        fflush(stderr);
        say_cause(w, cause);
        outcome.exit_code = end == END_FAILED ? w->ranks[cause].code : status_exit_code(STATUS_PEER_LOST);
        outcome.lost = end != END_FAILED;
        bool *is = ARENA_ARRAY(w->arena, bool, w->n_ranks);
        outcome.n_lost = launch_lost_ranks(w, is);
        if (outcome.lost && outcome.n_lost == 0 && (w->killed_ns || end == END_ABSENT))
            outcome.n_lost = 1; /* the one that did not answer */
    }
    else if (stopped < w->n_ranks)
    {
        if (*w->ranks[stopped].detail)
            fprintf(stderr, "ptc: error: %s\n", w->ranks[stopped].detail);
        outcome.exit_code = status_exit_code(STATUS_INTERRUPTED);
    }
    else if (died)
        outcome.signal_number = w->signal_number;
    return outcome;
}
