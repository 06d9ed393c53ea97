/* ptc: reads the command line, runs one subcommand, turns its status into a message and an exit code. */
#include "driver/driver.h"

#include "driver/launch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void driver_print_diag(const Diag *diag)
{
    const char *no_color = getenv("NO_COLOR");
    FILE *out = launch_open_diag();
    if (out)
        diag_print(diag, out, isatty(fileno(out)) && !(no_color && *no_color));
    launch_close_diag(out);
}

bool driver_is_quiet_rank(void)
{
    LaunchEnvironment env;
    return launch_environment(&env) == STATUS_OK && env.rank > 0;
}

bool driver_stdout_is_terminal(void)
{
    return launch_stdout_is_terminal();
}

double driver_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

Status driver_open_output(const Options *options, FILE **out_file)
{
    bool to_stdout = !options->output || strcmp(options->output, "-") == 0;
    *out_file = to_stdout ? stdout : fopen(options->output, "w");
    if (!*out_file)
        return status_fail(STATUS_IO, "cannot write '%s': %s", options->output, strerror(errno));
    return STATUS_OK;
}

Status driver_close_output(const Options *options, FILE *file)
{
    bool failed = fflush(file) != 0 || ferror(file);
    failed = (file != stdout && fclose(file) != 0) || failed;
    if (failed)
        return status_fail(STATUS_IO, "cannot write '%s': %s", options->output ? options->output : "standard output",
                           strerror(errno));
    return STATUS_OK;
}

Status driver_read_file(Arena *arena, const char *path, const char **out_text, size_t *out_n_bytes)
{
    bool from_stdin = strcmp(path, "-") == 0;
    FILE *file = from_stdin ? stdin : fopen(path, "rb");
    if (!file)
        return status_fail(STATUS_BAD_INPUT, "cannot read '%s': %s", path, strerror(errno));
    VEC(char) text = {0};
    char chunk[65536];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, file)) > 0)
        for (size_t i = 0; i < n; i++)
            vec_push(arena, &text, chunk[i]);
    bool failed = ferror(file) != 0;
    if (!from_stdin)
        fclose(file);
    if (failed)
        return status_fail(STATUS_BAD_INPUT, "cannot read '%s': %s", path, strerror(errno));
    vec_push(arena, &text, 0);
    *out_text = text.data;
    *out_n_bytes = text.len - 1;
    return STATUS_OK;
}

/* Diagnostics were printed already, then there is no detail. */
static void print_error(void)
{
    LaunchEnvironment env;
    char detail[2048];
    snprintf(detail, sizeof detail, "%s", status_detail()); /* reading the environment may leave one, too */
    if (!*detail)
        return;
    if (launch_environment(&env) == STATUS_OK && env.is_rank)
        fprintf(stderr, "ptc: error: rank %u: %s\n", env.rank, detail);
    else
        fprintf(stderr, "ptc: error: %s\n", detail);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--version") == 0)
    {
        printf("ptc %s\n", PTC_VERSION);
        return 0;
    }
    if (argc < 2)
    {
        options_print_help(NULL, stderr);
        return status_exit_code(STATUS_USAGE);
    }
    Options options = {0};
    bool done;
    Status status = launch_rank_started();
    Arena *arena = arena_create();
    if (status == STATUS_OK)
        status = options_read(arena, argc, argv, &options, &done);
    int exit_code = status == STATUS_OK ? options.ranks_exit_code : status_exit_code(status);
    fflush(stdout); /* before the launcher hears of the end */
    if (!launch_rank_ended(exit_code, status == STATUS_OK ? "" : status_detail()) && status != STATUS_OK)
        print_error();
    arena_destroy(arena);
    return exit_code;
}
