/* Watches the processes of one start of a job by their records and their pids, every 100 ms: passes signals on, and
 * ends what does not end by itself. mpirun is not asked: each one has its own opinion of when to kill whom. */
#include "driver/launch_watch.h"

#include "base/status.h"
#include "driver/launch_record.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const int64_t second_ns = 1000000000, tick_ns = 100000000;
static const int64_t mpirun_grace_s = 1;  /* between the last rank's end and mpirun's */
static const int64_t word_ns = 500000000; /* between a process's end and the record of it */

void launch_watch_signals(sigset_t *out_set)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGUSR1, SIGHUP, SIGQUIT, SIGCHLD};
    sigemptyset(out_set);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
    {
        struct sigaction action;
        sigaction(numbers[i], NULL, &action);
        bool quiet = numbers[i] == SIGHUP || numbers[i] == SIGQUIT; /* nohup means it */
        if (!quiet || action.sa_handler != SIG_IGN)
            sigaddset(out_set, numbers[i]);
    }
}

/* ---- records */

/* NULL when there is none. */
static const char *read_record(const LaunchWatch *w, uint32_t rank, const char *kind)
{
    char path[PATH_MAX], text[4096];
    launch_record_path(path, w->dir, rank, kind);
    FILE *file = fopen(path, "r");
    if (!file)
        return NULL;
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    return arena_strndup(w->arena, text, n);
}

static void read_start(const LaunchWatch *w, uint32_t rank)
{
    LaunchRank *r = &w->ranks[rank];
    const char *text = read_record(w, rank, "pid");
    long pid;
    unsigned long long start;
    if (text && sscanf(text, "%ld %llu %127[^\n]", &pid, &start, r->host) >= 2 && pid > 1)
    {
        r->pid = (pid_t)pid;
        r->start = start;
        r->state = RANK_RUNNING;
    }
}

static bool read_end(const LaunchWatch *w, uint32_t rank)
{
    LaunchRank *r = &w->ranks[rank];
    const char *text = read_record(w, rank, "end");
    char how[8];
    int code;
    long long at_ns;
    if (!text || sscanf(text, "%7s %d %lld", how, &code, &at_ns) != 3)
        return false;
    const char *detail = strchr(text, '\n');
    bool killed = strcmp(how, "signal") == 0;
    r->state = killed ? RANK_LOST : RANK_ENDED;
    *(killed ? &r->signal_number : &r->code) = code;
    r->at_ns = at_ns;
    r->detail = detail ? detail + 1 : "";
    return true;
}

/* What is new of one rank. */
static void look_at(LaunchWatch *w, uint32_t rank)
{
    LaunchRank *r = &w->ranks[rank];
    int64_t now_ns = launch_now_ns();
    if (r->state == RANK_ABSENT)
    {
        read_start(w, rank);
        if (r->state == RANK_ABSENT)
            return;
        if (w->killed_ns || w->signal_number) /* late for what the others got */
            kill(r->pid, w->killed_ns ? SIGKILL : w->signal_number);
    }
    if (r->gone)
        return;
    bool gone = launch_process_start(r->pid) != r->start; /* before its record is looked for */
    bool told = read_end(w, rank);
    if (gone && !r->gone_ns)
        r->gone_ns = now_ns;
    /* what a process says of its end is not the last word while it lives, or has just died */
    if (gone && now_ns - r->gone_ns >= (told ? tick_ns : word_ns))
    {
        r->gone = true;
        if (told)
            return;
        r->state = RANK_LOST;
        r->at_ns = r->gone_ns;
    }
}

/* ---- acting */

static bool is_failure(const LaunchRank *r)
{
    return r->state == RANK_LOST ||
           (r->state == RANK_ENDED && r->code != 0 && r->code != status_exit_code(STATUS_INTERRUPTED));
}

static void kill_ranks(LaunchWatch *w)
{
    w->killed_ns = launch_now_ns();
    for (uint32_t i = 0; i < w->n_ranks; i++)
        if (w->ranks[i].state != RANK_ABSENT && !w->ranks[i].gone)
            kill(w->ranks[i].pid, SIGKILL);
}

/* The first signal means a checkpoint, the second an end without one, the third is for what does not listen. */
static void pass_on(LaunchWatch *w, int number)
{
    bool heard = false;
    if (!w->signal_number)
        w->signal_number = number;
    for (uint32_t i = 0; i < w->n_ranks; i++)
        if (w->ranks[i].state != RANK_ABSENT && !w->ranks[i].gone)
            heard = kill(w->ranks[i].pid, number) == 0 || heard;
    if (!heard && w->child)
        kill(w->child, SIGTERM);
    if (++w->n_signals >= 3 && !w->killed_ns)
        kill_ranks(w);
}

/* As the nearest subreaper the launcher also inherits ranks whose mpirun was killed. */
static void reap(LaunchWatch *w)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        if (pid == w->child)
        {
            w->child = 0;
            w->child_status = status;
        }
}

static void let_go(const LaunchWatch *w)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", w->dir, LAUNCH_ALL_ENDED);
    int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (file >= 0)
        close(file);
}

static void look(LaunchWatch *w)
{
    uint32_t n_heard = 0, n_gone = 0;
    for (uint32_t i = 0; i < w->n_ranks; i++)
    {
        look_at(w, i);
        n_heard += w->ranks[i].state != RANK_ABSENT;
        n_gone += w->ranks[i].gone;
        if (!w->failed_ns && is_failure(&w->ranks[i]))
            w->failed_ns = launch_now_ns();
    }
    int64_t now_ns = launch_now_ns();
    bool orphans = !w->child && n_gone < n_heard;
    if (orphans && !w->failed_ns)
        w->failed_ns = now_ns - (LAUNCH_GRACE_S - 1) * second_ns; /* mpirun was the one to wait for them */
    if (w->failed_ns && !w->killed_ns && n_gone < w->n_ranks && now_ns - w->failed_ns >= LAUNCH_GRACE_S * second_ns)
        kill_ranks(w);
    if (!w->done_ns && n_gone == n_heard && (n_heard == w->n_ranks || w->killed_ns))
    {
        w->done_ns = now_ns;
        let_go(w);
    }
    if (w->done_ns && w->child && now_ns - w->done_ns >= mpirun_grace_s * second_ns)
        kill(w->child, SIGKILL);
}

static bool is_over(const LaunchWatch *w)
{
    for (uint32_t i = 0; i < w->n_ranks; i++)
        if (w->ranks[i].state != RANK_ABSENT && !w->ranks[i].gone)
            return false;
    return w->child == 0;
}

void launch_watch(LaunchWatch *w)
{
    sigset_t signals;
    launch_watch_signals(&signals);
    const struct timespec tick = {.tv_nsec = (long)tick_ns};
    while (!is_over(w))
    {
        int number = sigtimedwait(&signals, NULL, &tick);
        reap(w);
        look(w);
        if (number > 0 && number != SIGCHLD)
            pass_on(w, number);
    }
    look(w);
    let_go(w);
    reap(w);
}
