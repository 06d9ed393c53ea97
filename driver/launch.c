/* The launcher: starts a job's ranks under mpirun, and again with fewer of them when some were lost (driver/launch.h).
 * What happens between a start and its end is launch_watch.c, what is said of it launch_report.c. */
#include "driver/launch.h"

#include "driver/launch_record.h"
#include "driver/launch_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- mpirun */

typedef struct
{
    const char *path;
    const char *flag; /* what it needs, or NULL */
} Mpirun;

/* The file that the shell would run for name, or NULL. */
static const char *find_program(Arena *arena, const char *name)
{
    if (strchr(name, '/'))
        return access(name, X_OK) == 0 ? name : NULL;
    const char *path = getenv("PATH");
    for (size_t n; path && *path; path += n + (path[n] == ':'))
    {
        n = strcspn(path, ":");
        const char *file = arena_printf(arena, "%.*s%s%s", (int)n, path, n ? "/" : "", name);
        if (access(file, X_OK) == 0)
            return file;
    }
    return NULL;
}

/* What `program --version` prints, as far as it fits. */
static void read_version(const char *program, char *text, size_t size)
{
    int ends[2];
    size_t len = 0;
    text[0] = 0;
    if (pipe2(ends, O_CLOEXEC) != 0)
        return;
    pid_t pid = fork();
    if (pid == 0)
    {
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        execl(program, program, "--version", (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    for (ssize_t n; pid > 0 && len + 1 < size && (n = read(ends[0], text + len, size - 1 - len)) > 0;)
        len += (size_t)n;
    text[len] = 0;
    close(ends[0]);
    if (pid > 0)
        waitpid(pid, NULL, 0);
}

static Status find_mpirun(Arena *arena, Mpirun *out_mpirun)
{
    const char *named = getenv("PTC_MPIRUN");
    char version[4096];
    *out_mpirun = (Mpirun){.path = find_program(arena, named ? named : "mpirun")};
    if (!out_mpirun->path && named)
        return status_fail(STATUS_UNSUPPORTED, "PTC_MPIRUN is '%s', which is no program", named);
    if (!out_mpirun->path)
        out_mpirun->path = find_program(arena, "mpiexec");
    if (!out_mpirun->path)
        return status_fail(STATUS_UNSUPPORTED,
                           "several ranks need MPI, and there is no mpirun in PATH: install openmpi-bin and "
                           "libopenmpi-dev (Debian), or name one in PTC_MPIRUN");
    read_version(out_mpirun->path, version, sizeof version);
    if (strstr(version, "HYDRA")) /* MPICH: it would kill all ranks when one closes its connection */
        out_mpirun->flag = "-disable-auto-cleanup";
    return STATUS_OK;
}

/* ---- a start */

/* In the child. The user's own settings stand; other MPIs do not read these. */
static void set_environment(const char *dir)
{
    char launcher[32];
    snprintf(launcher, sizeof launcher, "%ld", (long)getppid());
    setenv(LAUNCH_PID_VARIABLE, launcher, 1);
    setenv(LAUNCH_DIR_VARIABLE, dir, 1);
    if (isatty(STDOUT_FILENO)) /* mpirun gives every rank a terminal of its own */
        setenv(LAUNCH_TTY_VARIABLE, "1", 1);
    else
        unsetenv(LAUNCH_TTY_VARIABLE);
    setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 0);
    setenv("OMPI_MCA_hwloc_base_binding_policy", "none", 0); /* ranks place their threads themselves */
    setenv("OMPI_MCA_orte_execute_quiet", "1", 0);           /* what went wrong is ours to say */
    if (geteuid() == 0)
    {
        setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0);
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0);
    }
}

static Status start(char *const *argv, const char *dir, const sigset_t *mask, pid_t *out_pid)
{
    pid_t self = getpid();
    fflush(NULL);
    *out_pid = fork();
    if (*out_pid < 0)
        return status_fail(STATUS_OUT_OF_MEMORY, "cannot start a process: %s", strerror(errno));
    if (*out_pid > 0)
        return STATUS_OK;
    /* Not left behind when the launcher dies, and not reached by the terminal's ^C, which is for the launcher to pass
     * on; a background group cannot read the terminal either. */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    setpgid(0, 0);
    int null = open("/dev/null", O_RDONLY);
    if (null >= 0)
        dup2(null, STDIN_FILENO);
    set_environment(dir);
    sigprocmask(SIG_SETMASK, mask, NULL);
    if (getppid() == self)
        execv(argv[0], argv);
    _exit(127);
}

static Status make_folder(Arena *arena, const char **out_dir)
{
    const char *parent = getenv("TMPDIR");
    char *dir = arena_printf(arena, "%s/ptc-ranks-XXXXXX", parent && *parent ? parent : "/tmp");
    if (!mkdtemp(dir))
        return status_fail(STATUS_IO, "cannot make the folder '%s': %s", dir, strerror(errno));
    *out_dir = dir;
    return STATUS_OK;
}

/* Of a restart: a layout made for more ranks does not fit. */
static bool is_layout(const char *argument)
{
    return strncmp(argument, "--stages=", 9) == 0 || strncmp(argument, "--replicas=", 11) == 0;
}

static Status program_path(Arena *arena, const char **out_path)
{
    const char *other = getenv("PTC_LAUNCH_PROGRAM");
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (!other && n <= 0)
        return status_fail(STATUS_IO, "cannot find this program's own file: %s", strerror(errno));
    *out_path = other ? other : arena_strndup(arena, path, (size_t)n);
    return STATUS_OK;
}

/* mpirun FLAG -n N PROGRAM ARGUMENTS; a single rank needs no mpirun. */
static char *const *command_line(Arena *arena, const Mpirun *mpirun, const char *program, const LaunchJob *job,
                                 uint32_t n_ranks, bool restart)
{
    VEC(char *) line = {0};
    bool resume = restart;
    if (n_ranks > 1)
    {
        vec_push(arena, &line, arena_strdup(arena, mpirun->path));
        if (mpirun->flag)
            vec_push(arena, &line, arena_strdup(arena, mpirun->flag));
        vec_push(arena, &line, arena_strdup(arena, "-n"));
        vec_push(arena, &line, arena_printf(arena, "%u", n_ranks));
    }
    vec_push(arena, &line, arena_strdup(arena, program));
    for (uint32_t i = 0; i < job->n_arguments; i++)
    {
        const char *argument = job->arguments[i];
        if (restart && is_layout(argument))
            continue;
        resume = resume && strcmp(argument, "--resume") != 0;
        if (resume && i + 1 == job->n_arguments) /* the last one is the model */
            vec_push(arena, &line, arena_strdup(arena, "--resume"));
        vec_push(arena, &line, arena_strdup(arena, argument));
    }
    vec_push(arena, &line, NULL);
    return line.data;
}

static Status run_once(LaunchWatch *w, char *const *argv, const sigset_t *mask, LaunchOutcome *out_outcome)
{
    TRY(make_folder(w->arena, &w->dir));
    Status status = start(argv, w->dir, mask, &w->child);
    if (status == STATUS_OK)
    {
        launch_watch(w);
        *out_outcome = launch_report(w);
        if (!out_outcome->started && !out_outcome->signal_number)
            status = status_fail(
                STATUS_IO, "'%s' started no rank, its exit code is %d; '%s -n %u true' may say more", argv[0],
                WIFEXITED(w->child_status) ? WEXITSTATUS(w->child_status) : 128 + WTERMSIG(w->child_status), argv[0],
                w->n_ranks);
    }
    launch_remove_folder(w->dir);
    return status;
}

/* ---- the job */

static void say_restart(const LaunchWatch *w, const LaunchJob *job, uint32_t n_ranks, uint32_t restart)
{
    bool *is = ARENA_ARRAY(w->arena, bool, w->n_ranks);
    uint32_t n_lost = launch_lost_ranks(w, is);
    fprintf(stderr, "ptc: %s %s; going on with %u rank%s from the last checkpoint (restart %u of %u)\n",
            n_lost ? launch_rank_list(w->arena, is, w->n_ranks) : "a rank",
            n_lost > 1    ? "were lost"
            : n_lost == 1 ? "was lost"
                          : "did not answer",
            n_ranks, n_ranks == 1 ? "" : "s", restart, job->max_restarts);
    for (uint32_t i = 0; i < job->n_arguments; i++)
        if (is_layout(job->arguments[i]))
            fprintf(stderr, "ptc: note: %s was for %u ranks and is left out\n", job->arguments[i], w->n_ranks);
}

static Status run_job(Arena *arena, const LaunchJob *job, const sigset_t *mask, LaunchOutcome *out_outcome)
{
    const char *program;
    Mpirun mpirun;
    uint32_t n_ranks = job->n_ranks;
    TRY(find_mpirun(arena, &mpirun));
    TRY(program_path(arena, &program));
    for (uint32_t restart = 0;; restart++)
    {
        LaunchWatch w = {.arena = arena, .n_ranks = n_ranks, .ranks = ARENA_ARRAY(arena, LaunchRank, n_ranks)};
        char *const *line = command_line(arena, &mpirun, program, job, n_ranks, restart > 0);
        TRY(run_once(&w, line, mask, out_outcome));
        if (!out_outcome->lost || w.n_signals || restart == job->max_restarts || !job->can_resume)
            return STATUS_OK;
        n_ranks = out_outcome->n_lost < n_ranks ? n_ranks - out_outcome->n_lost : 1;
        say_restart(&w, job, n_ranks, restart + 1);
    }
}

Status launch_ranks(Arena *arena, const LaunchJob *job, int *out_exit_code)
{
    sigset_t signals, before;
    LaunchOutcome outcome = {0};
    signal(SIGCHLD, SIG_DFL); /* ignored, it would reap children before they are waited for */
    launch_watch_signals(&signals);
    sigprocmask(SIG_BLOCK, &signals, &before);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    Status status = run_job(arena, job, &before, &outcome);
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    if (outcome.signal_number)
    {
        signal(outcome.signal_number, SIG_DFL);
        raise(outcome.signal_number);
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    *out_exit_code = outcome.exit_code;
    return status;
}
