/* Reads flags by the tables options.def and commands.def, and prints help from them. */
#include "driver/driver.h"

#include "base/bug.h"
#include "base/strbuf.h"
#include "driver/launch.h"
#include "runtime/loader.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static const struct
{
    char letter;
    const char *name, *argument, *help;
} flags[] = {
#define OPTION(letter, name, argument, help) {letter, name, argument, help},
#include "driver/options.def"
#undef OPTION
};

static const struct
{
    const char *name;
    CommandFn *run;
    const char *operands, *help, *letters;
} commands[] = {
#define COMMAND(name, function, operands, help, letters) {#name, function, operands, help, letters},
#include "driver/commands.def"
#undef COMMAND
};

enum
{
    N_FLAGS = sizeof flags / sizeof flags[0],
    N_COMMANDS = sizeof commands / sizeof commands[0]
};

static size_t find_command(const char *name)
{
    size_t i = 0;
    while (i < N_COMMANDS && strcmp(commands[i].name, name) != 0)
        i++;
    return i;
}

static bool takes(size_t command, char letter)
{
    return strchr(commands[command].letters, letter) != NULL;
}

void options_print_help(const char *command, FILE *out)
{
    size_t only = command ? find_command(command) : N_COMMANDS;
    if (only < N_COMMANDS)
    {
        fprintf(out, "usage: ptc %s%s %s\n%s\n", commands[only].name, *commands[only].letters ? " [flags]" : "",
                commands[only].operands, commands[only].help);
        if (*commands[only].letters)
            fprintf(out, "\nflags:\n");
    }
    else
    {
        fprintf(out,
                "usage: ptc [COMMAND] [flags] FILE\nCompiles and runs Transformer training jobs written in XML.\n\n"
                "commands:\n");
        for (size_t i = 0; i < N_COMMANDS; i++)
            fprintf(out, "  %-8s %-14s %s\n", commands[i].name, commands[i].operands, commands[i].help);
        fprintf(out, "\n  ptc COMMAND --help   the flags of a command\n  ptc --version\n");
    }
    for (size_t i = 0; only < N_COMMANDS && i < N_FLAGS; i++)
    {
        char left[64];
        if (!takes(only, flags[i].letter))
            continue;
        snprintf(left, sizeof left, "--%s%s%s", flags[i].name, flags[i].argument ? "=" : "",
                 flags[i].argument ? flags[i].argument : "");
        fprintf(out, "  %-26s %s\n", left, flags[i].help);
    }
}

static Status read_number(const char *name, const char *text, uint64_t max, uint64_t *out_number)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || number > max)
        return status_fail(STATUS_USAGE, "--%s wants a whole number from 0 to %llu, not '%s'", name,
                           (unsigned long long)max, text);
    *out_number = number;
    return STATUS_OK;
}

static Status set_flag(Arena *arena, Options *o, size_t flag, const char *text)
{
    uint64_t number = 0;
    const char *name = flags[flag].name;
    switch (flags[flag].letter)
    {
    case 's':
    case 'S':
    case 'V':
        if (o->n_sets == DRIVER_MAX_SETS)
            return status_fail(STATUS_USAGE, "more than %d --set", DRIVER_MAX_SETS);
        o->sets[o->n_sets++] = flags[flag].letter == 's' ? text : arena_printf(arena, "train.%s=%s", name, text);
        break;
    case 'd':
        o->device = text;
        break;
    case 't':
        TRY(read_number(name, text, 256, &number));
        o->n_threads = (int)number;
        break;
    case 'L':
        TRY(read_number(name, text, LOADER_MAX_THREADS, &number));
        o->n_loader_threads = (uint32_t)number;
        break;
    case 'y':
        TRY(read_number(name, text, UINT32_MAX, &o->n_synthetic));
        if (o->n_synthetic == 0)
            return status_fail(STATUS_USAGE, "--synthetic wants at least 1 sample");
        break;
    case 'm':
        TRY(read_number(name, text, INT32_MAX, &o->stop_after));
        break;
    case 'o':
        o->out_dir = text;
        break;
    case 'w':
        o->weights = text;
        break;
    case 'q':
        o->predictions = text;
        break;
    case 'r':
        o->resume = true;
        break;
    case 'D':
        o->pass_options.dump_dir = text;
        break;
    case 'A':
        o->pass_options.dump_after = text;
        break;
    case 'P':
        o->pass_options.print_after_all = true;
        break;
    case 'v':
        o->pass_options.verify_each = true;
        break;
    case 'e':
        o->pass_options.roundtrip_each = true;
        break;
    case 'E':
        o->emit = text;
        break;
    case 'a':
        o->arch = text;
        break;
    case 'O':
        o->output = text;
        break;
    case 'Q':
        o->passes = text;
        break;
    case 'p':
        o->profile = true;
        break;
    case 'k':
        o->pin = true;
        break;
    case 'g':
        o->no_graphs = true;
        break;
    case 'n':
        TRY(read_number(name, text, LAUNCH_MAX_RANKS, &number));
        if (number == 0)
            return status_fail(STATUS_USAGE, "--ranks wants at least 1");
        o->n_ranks = (uint32_t)number;
        break;
    case 'M':
        TRY(read_number(name, text, 1000, &number));
        o->max_restarts = (uint32_t)number;
        break;
    case 'T':
        TRY(read_number(name, text, 1000000, &number));
        if (number == 0)
            return status_fail(STATUS_USAGE, "--comm-timeout wants at least 1");
        o->comm_timeout_s = (double)number;
        break;
    case 'I':
        if (strcmp(text, "strict") != 0 && strcmp(text, "partial") != 0)
            return status_fail(STATUS_USAGE, "--init wants strict or partial, not '%s'", text);
        o->init = text;
        break;
    case 'K':
        TRY(read_number(name, text, 64, &number));
        o->n_stages = (uint32_t)number;
        break;
    case 'R':
        TRY(read_number(name, text, LAUNCH_MAX_RANKS, &number));
        o->n_replicas = (uint32_t)number;
        break;
    case 'b':
        TRY(read_number(name, text, 4096, &number));
        o->n_micro = (uint32_t)number;
        break;
    case 'i':
        TRY(read_number(name, text, LAUNCH_MAX_RANKS - 1, &number));
        o->shown_rank = (uint32_t)number;
        break;
    case 'c':
        o->schedule = text;
        break;
    case 'x':
        o->deterministic = true;
        break;
    case 'N':
        o->no_cache = true;
        break;
    case 'Z':
        o->no_freeze = true;
        break;
    case 'Y':
        o->no_repipe = true;
        break;
    case 'X':
        o->no_replicate = true;
        break;
    case 'U':
        o->simulate = true;
        break;
    case 'G':
        o->cluster = text;
        break;
    case 'C':
        o->costs = text;
        break;
    case 'F':
        o->trace = text;
        break;
    case 'H':
        o->report = text;
        break;
    case 'B':
        TRY(read_number(name, text, 1000000, &number));
        o->n_steps = (uint32_t)number;
        break;
    case 'W':
        TRY(read_number(name, text, 1000000, &number));
        o->n_warmup = (uint32_t)number;
        break;
    case 'f':
        o->force = true;
        break;
    case 'j':
        o->json = true;
        break;
    default:
        BUG("flag --%s is not handled", name);
    }
    return STATUS_OK;
}

static Status unknown_flag(size_t command, const char *text)
{
    const char *names[N_FLAGS];
    char word[64];
    size_t n = 0;
    for (size_t i = 0; i < N_FLAGS; i++)
        if (takes(command, flags[i].letter))
            names[n++] = flags[i].name;
    const char *start = text + strspn(text, "-");
    snprintf(word, sizeof word, "%.*s", (int)strcspn(start, "="), start);
    const char *near = str_nearest(word, names, n);
    return status_fail(STATUS_USAGE, "ptc %s does not know '%s'%s%s%s", commands[command].name, text,
                       near ? "; did you mean --" : "", near ? near : "", near ? "?" : "");
}

static size_t find_flag(char letter)
{
    size_t i = 0;
    while (flags[i].letter != letter)
        i++;
    return i;
}

/* A rank's command line, in the launcher's words: what only the launcher reads is left out. */
static void keep_argument(Arena *arena, Options *o, size_t flag, const char *text)
{
    if (!strchr("nM", flags[flag].letter))
        o->arguments[o->n_arguments++] = text ? arena_printf(arena, "--%s=%s", flags[flag].name, text)
                                              : arena_printf(arena, "--%s", flags[flag].name);
}

static Status read_flags(Arena *arena, size_t command, int argc, char **argv, Options *o, bool *out_help)
{
    struct option longs[N_FLAGS + 2] = {{"help", no_argument, NULL, 'h'}};
    int n = 1;
    for (size_t i = 0; i < N_FLAGS; i++)
        if (takes(command, flags[i].letter))
            longs[n++] =
                (struct option){flags[i].name, flags[i].argument ? required_argument : no_argument, NULL, 256 + (int)i};
    optind = 1;
    opterr = 0;
    int key;
    while ((key = getopt_long(argc, argv, ":hn:o:", longs, NULL)) != -1)
    {
        if (key == ':')
            return status_fail(STATUS_USAGE, "'%s' wants a value", argv[optind - 1]);
        if (key == '?')
            return unknown_flag(command, argv[optind - 1]);
        if ((key == 'o' && !takes(command, 'O')) || (key == 'n' && !takes(command, 'n')))
            return unknown_flag(command, key == 'o' ? "-o" : "-n");
        if (key == 'h')
        {
            *out_help = true;
            continue;
        }
        size_t flag = key < 256 ? find_flag(key == 'o' ? 'O' : 'n') : (size_t)key - 256;
        TRY(set_flag(arena, o, flag, optarg));
        keep_argument(arena, o, flag, optarg);
    }
    if (optind + 1 < argc)
        return status_fail(STATUS_USAGE, "one file at a time: '%s' and '%s'", argv[optind], argv[optind + 1]);
    if (optind < argc)
        o->operand = argv[optind];
    if (o->operand && !*commands[command].operands)
        return status_fail(STATUS_USAGE, "ptc %s takes no file", commands[command].name);
    if (!o->operand && commands[command].operands[0] && commands[command].operands[0] != '[' && !*out_help)
        return status_fail(STATUS_USAGE, "ptc %s wants a file: %s", commands[command].name, commands[command].operands);
    if (o->operand)
        o->arguments[o->n_arguments++] =
            o->operand[0] == '-' && o->operand[1] ? arena_printf(arena, "./%s", o->operand) : o->operand;
    return STATUS_OK;
}

/* Runs the command here, or starts the ranks that do. A command that waits for ranks has them; plan has a number only,
 * except to measure what a simulated job costs. */
static Status run_command(Arena *arena, size_t command, Options *o)
{
    LaunchEnvironment env;
    if (!(takes(command, 'T') || o->simulate) || o->emit)
        return commands[command].run(arena, o);
    TRY(launch_environment(&env));
    if (env.is_rank && o->n_ranks && o->n_ranks != env.size)
        return status_fail(STATUS_USAGE, "-n %u, but this is rank %u of %u (%s)", o->n_ranks, env.rank, env.size,
                           env.variable);
    if (env.is_rank || o->n_ranks <= 1)
        return commands[command].run(arena, o);
    if (env.variable && strncmp(env.variable, "SLURM", 5) != 0)
        return status_fail(STATUS_USAGE,
                           "-n %u starts mpirun itself, but mpirun started this process, as the only rank (%s): leave "
                           "out one of the two",
                           o->n_ranks, env.variable);
    if (strcmp(o->operand, "-") == 0)
        return status_fail(STATUS_USAGE, "several ranks cannot all read the model from standard input: give a file");
    LaunchJob job = {.n_ranks = o->n_ranks,
                     .max_restarts = o->max_restarts,
                     .can_resume = o->out_dir != NULL,
                     .arguments = o->arguments,
                     .n_arguments = o->n_arguments};
    return launch_ranks(arena, &job, &o->ranks_exit_code);
}

Status options_read(Arena *arena, int argc, char **argv, Options *out_options, bool *out_done)
{
    size_t command = argc > 1 ? find_command(argv[1]) : N_COMMANDS;
    bool named = command < N_COMMANDS, help = false;
    *out_options = (Options){.device = "cpu", .n_steps = 20, .n_warmup = 3, .comm_timeout_s = 300};
    out_options->arguments = ARENA_ARRAY(arena, const char *, argc + 1);
    if (named)
        out_options->arguments[out_options->n_arguments++] = commands[command].name;
    if (!named)
        command = find_command("run");
    TRY(read_flags(arena, command, argc - named, argv + named, out_options, &help));
    *out_done = help;
    if (help)
    {
        options_print_help(named ? commands[command].name : NULL, stdout);
        return STATUS_OK;
    }
    return run_command(arena, command, out_options);
}
