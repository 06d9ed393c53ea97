/* A program in place of ptc's ranks: uses the rank's side of the launcher as ptc does, and for the rest does what the
 * test says in $FAKE, or in $FAKE_RESUMED when it was started with --resume. Orders are separated by ';', those of all
 * ranks are "*:", of one "2:". In order:
 *
 *   sleep:SECONDS   exit:CODE:TEXT   kill:SIGNAL   vanish (takes the process that waits for it along)
 *   diag:TEXT       to where diagnostics go
 *   save            waits for a signal, then leaves the file saved-RANK and ends with 75
 *   deaf:N          goes on after the first N signals
 *
 * Leaves pid-RANK, ready-RANK (it listens to signals) and, per start, a line with its arguments in ranks.log. Without a
 * launcher it prints what the environment says. */
#include "driver/launch.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t n_signals;

static void on_signal(int number)
{
    (void)number;
    n_signals++;
}

static void catch_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGUSR1};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
    {
        struct sigaction action = {.sa_handler = on_signal};
        sigaction(numbers[i], &action, NULL);
    }
}

static void leave(const char *name, uint32_t rank, long number)
{
    char path[64], text[32];
    snprintf(path, sizeof path, "%s-%u", name, rank);
    snprintf(text, sizeof text, "%ld\n", number);
    FILE *file = fopen(path, "w");
    if (!file || fputs(text, file) < 0 || fclose(file) != 0)
        exit(99);
}

static void log_start(const LaunchEnvironment *env, int argc, char **argv)
{
    char line[1024];
    size_t n = (size_t)snprintf(line, sizeof line, "rank %u of %u:", env->rank, env->size);
    for (int i = 1; i < argc && n < sizeof line - 2; i++)
        n += (size_t)snprintf(line + n, sizeof line - 1 - n, " %s", argv[i]);
    line[n] = '\n';
    int file = open("ranks.log", O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (file < 0 || write(file, line, n + 1) != (ssize_t)n + 1) /* one write: lines of ranks do not mix */
        exit(99);
    close(file);
}

_Noreturn static void end(int code, const char *detail)
{
    if (!launch_rank_ended(code, detail) && *detail)
        fprintf(stderr, "not noted: %s\n", detail);
    exit(code);
}

static void obey(const char *order, uint32_t rank)
{
    const char *value = strchr(order, ':');
    value = value ? value + 1 : "";
    if (strncmp(order, "sleep", 5) == 0)
        for (double left_s = strtod(value, NULL); left_s > 0; left_s -= 0.02)
            usleep(20000); /* a signal does not end it */
    else if (strncmp(order, "exit", 4) == 0)
    {
        const char *text = strchr(value, ':');
        end(atoi(value), text ? text + 1 : "");
    }
    else if (strncmp(order, "kill", 4) == 0)
        raise(atoi(value));
    else if (strcmp(order, "vanish") == 0)
    {
        kill(getppid(), SIGKILL);
        pause();
    }
    else if (strncmp(order, "diag", 4) == 0)
    {
        FILE *out = launch_open_diag();
        if (out)
            fprintf(out, "%s\n", value);
        launch_close_diag(out);
    }
    else if (strcmp(order, "save") == 0)
    {
        while (!n_signals)
            usleep(1000);
        usleep(1500000); /* longer than mpirun's own patience */
        leave("saved", rank, n_signals);
        end(status_exit_code(STATUS_INTERRUPTED), "stopped by a signal");
    }
    else if (strncmp(order, "deaf", 4) == 0)
    {
        while (n_signals < atoi(value))
            usleep(1000);
        signal(SIGTERM, SIG_DFL);
    }
    else
        exit(98);
}

int main(int argc, char **argv)
{
    LaunchEnvironment env;
    bool resumed = false;
    Status status = launch_rank_started();
    if (status == STATUS_OK)
        status = launch_environment(&env);
    if (status != STATUS_OK)
    {
        if (!launch_rank_ended(status_exit_code(status), status_detail()))
            fprintf(stderr, "%s\n", status_detail());
        return status_exit_code(status);
    }
    if (!getenv("PTC_LAUNCH_DIR"))
    {
        printf("rank %u of %u, local %u of %u, %s%s\n", env.rank, env.size, env.local_rank, env.local_size,
               env.variable ? env.variable : "nobody", env.is_rank ? "" : ", no rank");
        return 0;
    }
    for (int i = 1; i < argc; i++)
        resumed |= strcmp(argv[i], "--resume") == 0;
    catch_signals();
    log_start(&env, argc, argv);
    leave("pid", env.rank, getpid());
    leave("ready", env.rank, 0);
    const char *orders = getenv(resumed ? "FAKE_RESUMED" : "FAKE");
    char *text = strdup(orders ? orders : ""), *rest;
    for (char *order = strtok_r(text, ";", &rest); order; order = strtok_r(NULL, ";", &rest))
    {
        char *verb = strchr(order, ':');
        if (verb && (*order == '*' || strtoul(order, NULL, 10) == env.rank))
            obey(verb + 1, env.rank);
    }
    free(text);
    end(0, "");
}
