/* A rank's side of the launcher: which rank this is, and the records in the run folder (driver/launch.h). */
#include "driver/launch_record.h"

#include "driver/launch.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- the environment */

/* One way of telling a process its rank. */
typedef struct
{
    const char *rank, *size, *local_rank, *local_size;
} Source;

static const Source openmpi = {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
                               "OMPI_COMM_WORLD_LOCAL_SIZE"};
static const Source pmi = {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"};
static const Source slurm = {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", NULL};

static Status read_variable(const char *name, uint32_t least, uint32_t *out_number)
{
    const char *text = getenv(name);
    char *end;
    errno = 0;
    unsigned long number = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || number < least || number > INT32_MAX)
        return status_fail(STATUS_USAGE, "the environment variable %s is '%s', not a whole number from %u", name, text,
                           least);
    *out_number = (uint32_t)number;
    return STATUS_OK;
}

/* out->variable stays NULL when the source says nothing. */
static Status read_source(const Source *source, LaunchEnvironment *out)
{
    const char *names[] = {source->rank, source->size};
    *out = (LaunchEnvironment){.size = 1};
    if (!getenv(names[0]) && !getenv(names[1]))
        return STATUS_OK;
    for (int i = 0; i < 2; i++)
        if (!getenv(names[i]))
            return status_fail(STATUS_USAGE, "the environment variable %s is set, but %s is not", names[!i], names[i]);
    TRY(read_variable(source->rank, 0, &out->rank));
    TRY(read_variable(source->size, 1, &out->size));
    if (out->rank >= out->size)
        return status_fail(STATUS_USAGE, "%s=%u is not a rank of %s=%u", source->rank, out->rank, source->size,
                           out->size);
    if (getenv(source->local_rank))
        TRY(read_variable(source->local_rank, 0, &out->local_rank));
    if (source->local_size && getenv(source->local_size))
        TRY(read_variable(source->local_size, 1, &out->local_size));
    out->variable = source->rank;
    out->is_rank = out->size > 1;
    return STATUS_OK;
}

Status launch_environment(LaunchEnvironment *out_environment)
{
    LaunchEnvironment other;
    TRY(read_source(&openmpi, out_environment));
    TRY(read_source(&pmi, &other));
    if (!out_environment->variable)
        *out_environment = other;
    else if (other.variable && !getenv("SLURM_JOB_ID") &&
             (other.rank != out_environment->rank || other.size != out_environment->size))
        return status_fail(STATUS_USAGE,
                           "the environment says two things: rank %u of %u (%s) and rank %u of %u (%s); is this one "
                           "mpirun inside another?",
                           out_environment->rank, out_environment->size, out_environment->variable, other.rank,
                           other.size, other.variable);
    /* A batch script's shell has SLURM_PROCID and SLURM_NTASKS too, but is no step. */
    if (!out_environment->variable && (getenv("SLURM_STEP_ID") || getenv("PMIX_RANK")) && getenv(slurm.rank))
        TRY(read_source(&slurm, out_environment));
    return STATUS_OK;
}

/* ---- records */

static const char *run_folder(void)
{
    const char *dir = getenv(LAUNCH_DIR_VARIABLE);
    return dir && *dir ? dir : NULL;
}

void launch_record_path(char *path, const char *dir, uint32_t rank, const char *kind)
{
    snprintf(path, PATH_MAX, "%s/rank-%u.%s", dir, rank, kind);
}

int64_t launch_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

uint64_t launch_process_start(pid_t pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    FILE *file = fopen(path, "r");
    size_t n = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file)
        fclose(file);
    text[n] = 0;
    /* "PID (NAME) STATE ...": the name may hold anything; the start is field 22 */
    const char *field = strrchr(text, ')');
    if (!field || field[1] != ' ' || field[2] == 'Z' || field[2] == 'X')
        return 0;
    for (int i = 2; field && i < 22; i++)
        field = strchr(field + 1, ' ');
    return field ? strtoull(field, NULL, 10) : 0;
}

void launch_remove_folder(const char *dir)
{
    DIR *folder = opendir(dir);
    char path[PATH_MAX];
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        if (entry->d_name[0] != '.' && snprintf(path, sizeof path, "%s/%s", dir, entry->d_name) < (int)sizeof path)
            unlink(path);
    if (folder)
        closedir(folder);
    rmdir(dir);
}

/* A reader finds the whole record or none. */
static bool write_record(const char *dir, uint32_t rank, const char *kind, const char *head, const char *detail)
{
    char path[PATH_MAX], temporary[PATH_MAX];
    launch_record_path(path, dir, rank, kind);
    launch_record_path(temporary, dir, rank, "new");
    FILE *file = fopen(temporary, "w");
    if (!file)
        return false;
    fprintf(file, "%s\n%s", head, detail);
    bool failed = ferror(file) != 0;
    return fclose(file) == 0 && !failed && rename(temporary, path) == 0;
}

static bool write_end(const char *dir, uint32_t rank, const char *how, int code, const char *detail)
{
    char head[96];
    snprintf(head, sizeof head, "%s %d %lld", how, code, (long long)launch_now_ns());
    return write_record(dir, rank, "end", head, detail);
}

/* ---- the process that waits for a rank */

/* Who must live for this rank to go on. */
typedef struct
{
    pid_t parent; /* what started this process: mpirun */
    pid_t launcher;
} Masters;

static bool launcher_lives(const Masters *masters)
{
    return kill(masters->launcher, 0) == 0 || errno == EPERM;
}

/* Waits for the child; -1: mpirun is gone before it, or the launcher for a while, whose folder is then removed. */
static int wait_for(const char *dir, pid_t child, const Masters *masters)
{
    int64_t alone_ns = 0;
    const struct timespec pause = {.tv_nsec = 500000000};
    sigset_t only_child;
    int status;
    sigemptyset(&only_child);
    sigaddset(&only_child, SIGCHLD);
    for (;;)
    {
        pid_t pid = waitpid(child, &status, WNOHANG);
        if (pid == child)
            return status;
        if (pid < 0 || getppid() != masters->parent)
            return -1;
        if (!alone_ns && !launcher_lives(masters))
        {
            alone_ns = launch_now_ns(); /* mpirun has got a SIGTERM of it; not every one ends the ranks then */
            launch_remove_folder(dir);
        }
        if (alone_ns && launch_now_ns() - alone_ns >= LAUNCH_GRACE_S * INT64_C(1000000000))
            return -1;
        sigtimedwait(&only_child, NULL, &pause);
    }
}

/* Signals are blocked: mpirun may send them to its processes' groups, and the rank is the one to answer. */
_Noreturn static void keep_watch(const char *dir, uint32_t rank, pid_t child, const Masters *masters)
{
    const struct timespec pause = {.tv_nsec = 20000000};
    char end[PATH_MAX], all_ended[PATH_MAX];
    launch_record_path(end, dir, rank, "end");
    snprintf(all_ended, sizeof all_ended, "%s/%s", dir, LAUNCH_ALL_ENDED);
    int status = wait_for(dir, child, masters);
    if (status == -1)
        kill(child, SIGKILL);
    else if (WIFSIGNALED(status))
        write_end(dir, rank, "signal", WTERMSIG(status), "");
    else if (access(end, F_OK) != 0)
        write_end(dir, rank, "exit", WEXITSTATUS(status), "");
    bool well = status != -1 && WIFEXITED(status) &&
                (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == status_exit_code(STATUS_INTERRUPTED));
    while (!well && getppid() == masters->parent && launcher_lives(masters) && access(all_ended, F_OK) != 0)
        nanosleep(&pause, NULL);
    if (!launcher_lives(masters))
        launch_remove_folder(dir);
    _exit(0);
}

static Status write_start(const char *dir, uint32_t rank)
{
    char head[256], host[128] = "";
    gethostname(host, sizeof host - 1);
    pid_t pid = getpid();
    snprintf(head, sizeof head, "%ld %llu %s", (long)pid, (unsigned long long)launch_process_start(pid), host);
    if (!write_record(dir, rank, "pid", head, ""))
        return status_fail(STATUS_IO, "rank %u cannot write into the launcher's folder '%s': %s", rank, dir,
                           strerror(errno));
    return STATUS_OK;
}

Status launch_rank_started(void)
{
    const char *dir = run_folder();
    LaunchEnvironment env;
    sigset_t all, before;
    if (!dir)
        return STATUS_OK;
    TRY(launch_environment(&env));
    const char *launcher = getenv(LAUNCH_PID_VARIABLE);
    Masters masters = {.parent = getppid(), .launcher = launcher ? (pid_t)atol(launcher) : 0};
    if (masters.launcher <= 1)
        return status_fail(STATUS_USAGE, "%s is set, but %s is not", LAUNCH_DIR_VARIABLE, LAUNCH_PID_VARIABLE);
    pid_t self = getpid();
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    signal(SIGCHLD, SIG_DFL); /* ignored, it would reap the child */
    pid_t child = fork();
    if (child > 0)
        keep_watch(dir, env.rank, child, &masters);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (child < 0)
        return status_fail(STATUS_OUT_OF_MEMORY, "cannot start a process: %s", strerror(errno));
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != self)
        _exit(status_exit_code(STATUS_PEER_LOST));
    return write_start(dir, env.rank);
}

bool launch_rank_ended(int exit_code, const char *detail)
{
    const char *dir = run_folder();
    LaunchEnvironment env;
    return dir && launch_environment(&env) == STATUS_OK && write_end(dir, env.rank, "exit", exit_code, detail);
}

FILE *launch_open_diag(void)
{
    const char *dir = run_folder();
    LaunchEnvironment env;
    if (launch_environment(&env) != STATUS_OK || env.rank == 0)
        return stderr;
    if (!dir)
        return env.local_rank == 0 ? stderr : NULL;
    char path[PATH_MAX];
    launch_record_path(path, dir, env.rank, "diag");
    FILE *file = fopen(path, "a");
    return file ? file : stderr;
}

void launch_close_diag(FILE *file)
{
    if (file && file != stderr)
        fclose(file);
}

bool launch_stdout_is_terminal(void)
{
    LaunchEnvironment env;
    if (launch_environment(&env) == STATUS_OK && env.is_rank)
        return run_folder() && getenv(LAUNCH_TTY_VARIABLE);
    return isatty(STDOUT_FILENO) != 0;
}
