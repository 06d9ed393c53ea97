/* The `ptc` command: options, and what its subcommands share. The only folder that exits or prints. */
#ifndef PTC_DRIVER_DRIVER_H
#define PTC_DRIVER_DRIVER_H

#include "base/diag.h"
#include "base/status.h"
#include "passes/manager.h"

enum
{
    DRIVER_MAX_SETS = 64
};

typedef struct
{
    const char *operand; /* the one file; NULL when there is none */
    const char *sets[DRIVER_MAX_SETS];
    uint32_t n_sets;
    const char *device;
    const char *out_dir;
    const char *weights;
    const char *predictions;
    const char *emit, *arch;
    const char *output;
    const char *passes;
    PassOptions pass_options;
    int n_threads;
    uint32_t n_loader_threads; /* 0: not given */
    uint64_t stop_after;
    uint64_t n_synthetic; /* 0: not given */
    uint32_t n_steps, n_warmup;
    uint32_t n_ranks; /* -n; 0: not given. Of a rank: what launch_environment says */
    uint32_t max_restarts;
    uint32_t n_stages, n_replicas, n_micro; /* 0: not given */
    const char *schedule, *costs, *trace, *report;
    const char *init; /* NULL: strict */
    uint32_t shown_rank;
    bool plan_always; /* cmd_plan: also when there is nothing to plan */
    double comm_timeout_s;
    bool force;            /* export */
    bool may_lack_weights; /* cmd_plan: the folder that the model names may be missing */
    bool with_outputs;     /* cmd_predict: @eval sets the values of <output> */
    const char *cluster;   /* file; NULL: none */
    bool resume, profile, pin, json, deterministic, simulate;
    bool no_freeze, no_repipe, no_replicate, no_cache, no_graphs;
    const char **arguments; /* the command line again, every flag in full, for the ranks: without -n and the like */
    uint32_t n_arguments;
    int ranks_exit_code; /* of a job that the launcher ran; else 0 */
} Options;

/* Reads the flags of one command; prints what is wrong (USAGE), or the help (then *out_done is set). */
Status options_read(Arena *arena, int argc, char **argv, Options *out_options, bool *out_done);
void options_print_help(const char *command, FILE *out);

typedef Status CommandFn(Arena *arena, const Options *options);
#define COMMAND(name, function, ...) CommandFn function;
#include "driver/commands.def"
#undef COMMAND

/* Diagnostics to stderr, with colours on a terminal unless NO_COLOR is set. Ranks of a job find the same ones: they are
 * printed once. */
void driver_print_diag(const Diag *diag);
/* A rank of a job other than rank 0: says nothing of what all ranks have to say. */
bool driver_is_quiet_rank(void);
/* Whether a person watches stdout. isatty does not know: mpirun gives a rank a terminal of its own. */
bool driver_stdout_is_terminal(void);
/* Opens -o FILE (or stdout); driver_close_output reports a failed write. */
Status driver_open_output(const Options *options, FILE **out_file);
Status driver_close_output(const Options *options, FILE *file);
/* A whole file or "-" (stdin) into the arena. */
Status driver_read_file(Arena *arena, const char *path, const char **out_text, size_t *out_n_bytes);
double driver_now_s(void);

#endif
