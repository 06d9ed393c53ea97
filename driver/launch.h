/* Jobs of several ranks: the launcher (`ptc -n N`), which starts N copies of this program under mpirun on this host and
 * watches them, and the rank's side of it.
 *
 * Launcher and ranks share a run folder, $PTC_LAUNCH_DIR. In it a rank leaves how it came to life (rank-N.pid) and how
 * it ended (rank-N.end). A process can do the second only if it lives, so every rank is the child of a small process
 * that waits for it and notes the signal that killed it; that process stays until the launcher has seen all there is to
 * see, so that mpirun, whichever it is, learns of a failure only then and never kills the others in the middle of a
 * checkpoint. Ranks that mpirun or srun started without us have no such folder, and nothing here concerns them but
 * launch_environment.
 *
 * $PTC_MPIRUN names the mpirun to start (default: mpirun, then mpiexec, in $PATH); $PTC_LAUNCH_PROGRAM the program
 * that is started in place of this one (tests). */
#ifndef PTC_DRIVER_LAUNCH_H
#define PTC_DRIVER_LAUNCH_H

#include "base/arena.h"
#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* ---- which rank this process is */

typedef struct
{
    bool is_rank;         /* of a job of more than one */
    uint32_t rank, size;  /* 0 of 1 when nobody said anything */
    uint32_t local_rank;  /* on this host */
    uint32_t local_size;  /* 0: not said */
    const char *variable; /* the one that said so ("PMI_RANK"); NULL: nobody did */
} LaunchEnvironment;

/* From the environment of Open MPI, else of PMI (MPICH, Intel MPI), else of an srun step. USAGE, with the variables'
 * names, when a variable is no number, its other half is missing, or Open MPI and PMI contradict each other. Inside a
 * Slurm job they may: srun gives its variables to mpirun's daemons, whose ranks inherit them. */
Status launch_environment(LaunchEnvironment *out_environment);

/* ---- a rank's side; without $PTC_LAUNCH_DIR nothing is done */

/* Called first, while the process has one thread and no resources: returns in a child, while the process that mpirun
 * started waits for it. A fresh process must call it once. */
Status launch_rank_started(void);
/* Notes the end of this rank: its exit code and, when it failed, why. True: noted, so the launcher prints it, this
 * process does not. */
bool launch_rank_ended(int exit_code, const char *detail);
/* Where diagnostics of this process go, to be closed with launch_close_diag. stderr of rank 0; of others, a file in the
 * run folder, which the launcher prints when rank 0 did not find the same. Without a launcher, stderr of one rank on
 * every host, since hosts may have different files; NULL for the rest. */
FILE *launch_open_diag(void);
void launch_close_diag(FILE *file);

/* isatty(STDOUT_FILENO), but for a rank: of the launcher's stdout; false when mpirun was started without it. */
bool launch_stdout_is_terminal(void);

/* ---- the launcher */

typedef struct
{
    uint32_t n_ranks; /* at least 2 */
    uint32_t max_restarts;
    bool can_resume;              /* there are checkpoints to go on from */
    const char *const *arguments; /* of a rank, after the program's name */
    uint32_t n_arguments;
} LaunchJob;

enum
{
    LAUNCH_MAX_RANKS = 1024
};

/* Runs the job to its end, restarts included, and says on stderr what went wrong with whom. SIGINT, SIGTERM and SIGUSR1
 * go on to the ranks; if those then die instead of writing a checkpoint, this process dies by the signal too.
 * *out_exit_code: of the rank that failed first; 6 when it was lost; 0. Fails only if no rank could be started:
 * UNSUPPORTED without mpirun, IO. */
Status launch_ranks(Arena *arena, const LaunchJob *job, int *out_exit_code);

#endif
