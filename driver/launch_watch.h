/* The launcher's eyes: one start of a job's ranks, from the fork of mpirun to what became of every rank. */
#ifndef PTC_DRIVER_LAUNCH_WATCH_H
#define PTC_DRIVER_LAUNCH_WATCH_H

#include "base/arena.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef enum
{
    RANK_ABSENT, /* nothing was heard of it */
    RANK_RUNNING,
    RANK_ENDED, /* with an exit code */
    RANK_LOST   /* killed, or gone without a word */
} RankState;

typedef struct
{
    RankState state;
    bool gone; /* its process */
    pid_t pid;
    uint64_t start;
    char host[128];
    int code;           /* ENDED */
    int signal_number;  /* LOST: 0 when it is not known */
    int64_t gone_ns;    /* first seen gone; 0: not yet */
    int64_t at_ns;      /* ENDED, LOST: when */
    const char *detail; /* ENDED: its sentence, "" when there is none */
} LaunchRank;

typedef struct
{
    Arena *arena;
    const char *dir; /* the run folder */
    uint32_t n_ranks;
    LaunchRank *ranks;
    pid_t child; /* mpirun, or the one rank; 0 when it has ended */
    int child_status;
    int64_t failed_ns, killed_ns, done_ns; /* first failure seen, ranks killed, all ranks gone; 0: not (yet) */
    int signal_number;                     /* the first that was sent on; 0: none */
    int n_signals;
} LaunchWatch;

typedef struct
{
    int exit_code;
    int signal_number; /* not 0: the ranks died of a signal that the launcher sent on, and so should it */
    bool started;      /* some rank did */
    bool lost;         /* it ended because ranks were lost */
    uint32_t n_lost;
} LaunchOutcome;

/* The signals that the launcher waits for; they must be blocked. */
void launch_watch_signals(sigset_t *out_set);
/* Returns when the child and all ranks have ended; after a failure the ranks have LAUNCH_GRACE_S to do so themselves.
 */
void launch_watch(LaunchWatch *watch);
/* Says on stderr who failed and why, the cause last. */
LaunchOutcome launch_report(const LaunchWatch *watch);
/* "rank 2", "ranks 0, 1 and 3": those of which is[rank] holds. */
const char *launch_rank_list(Arena *arena, const bool *is, uint32_t n_ranks);
/* is[rank]: it was lost, not killed by the launcher. Returns how many. */
uint32_t launch_lost_ranks(const LaunchWatch *watch, bool *is);

#endif
