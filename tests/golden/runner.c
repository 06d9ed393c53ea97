/* golden FOLDER...: runs every *.ptir of the folders and compares with the expectation in the file. A mismatch prints
 * a unified diff and the command that rewrites the expectation (BLESS=1). Exit code 1 when any case failed or none
 * ran. */
#include "golden.h"

#include "base/strbuf.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char run_mark[] = "// RUN: ";
static const char output_mark[] = "// ----\n";
static const char case_mark[] = "// ====\n";

typedef struct
{
    const char *program; /* this one, for the BLESS command */
    bool bless;
    uint32_t n_passed, n_failed;
} Runner;

static char *read_file(Arena *arena, const char *path)
{
    FILE *in = fopen(path, "rb");
    if (!in)
        return NULL;
    StrBuf buf = strbuf_make(arena);
    char chunk[4096];
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, in)) > 0;)
        strbuf_add_bytes(&buf, chunk, n);
    fclose(in);
    return arena_strdup(arena, strbuf_text(&buf));
}

static bool write_file(const char *path, const char *text)
{
    FILE *out = fopen(path, "wb");
    if (!out)
        return false;
    bool ok = fputs(text, out) >= 0;
    return fclose(out) == 0 && ok;
}

/* Where `mark` begins a line of text; NULL when nowhere. */
static char *find_line(char *text, const char *mark)
{
    for (char *at = text; (at = strstr(at, mark)); at++)
        if (at == text || at[-1] == '\n')
            return at;
    return NULL;
}

static void print_diff(const char *expected, const char *got)
{
    char paths[2][32] = {"/tmp/golden-XXXXXX", "/tmp/golden-XXXXXX"};
    const char *const texts[2] = {expected, got};
    for (int i = 0; i < 2; i++)
    {
        int fd = mkstemp(paths[i]);
        if (fd < 0 || close(fd) != 0 || !write_file(paths[i], texts[i]))
        {
            printf("expected:\n%s\ngot:\n%s\n", expected, got);
            return;
        }
    }
    char command[160];
    snprintf(command, sizeof command, "diff -u --label expected --label got %s %s", paths[0], paths[1]);
    fflush(stdout);
    if (system(command) < 0)
        printf("cannot run diff\n");
    for (int i = 0; i < 2; i++)
        unlink(paths[i]);
}

static void verdict(Runner *runner, const char *name, uint32_t number, bool ok)
{
    printf("[ %s ] %s:%u\n", ok ? "      OK" : " FAILED ", name, number);
    if (ok)
        runner->n_passed++;
    else
        runner->n_failed++;
}

/* What the verb of the RUN line makes of the input; NULL with a message when there is no such verb. */
static const char *run_verb(const GoldenCase *base, const char *run_line)
{
    for (const GoldenVerb *verb = golden_verbs; verb->verb; verb++)
    {
        size_t n = strlen(verb->verb);
        if (strncmp(run_line, verb->verb, n) == 0 && (run_line[n] == 0 || run_line[n] == ' '))
        {
            GoldenCase test = *base;
            test.args = run_line[n] ? run_line + n + 1 : "";
            return verb->run(&test);
        }
    }
    printf("unknown verb in RUN line: %s\n", run_line);
    return NULL;
}

/* One case, its text ending before the next one's. Returns the case with the output that came. */
static const char *run_case(Runner *runner, Arena *arena, const char *path, char *text, uint32_t line, uint32_t number)
{
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    char *mark = find_line(text, output_mark);
    const char *run_line = strncmp(text, run_mark, strlen(run_mark)) == 0 ? text + strlen(run_mark) : NULL;
    if (!run_line || !mark)
    {
        printf("%s:%u: a case begins with '%s' and has a line '%.7s'\n", path, line, run_mark, output_mark);
        verdict(runner, name, number, false);
        return text;
    }
    StrBuf input = strbuf_make(arena);
    for (uint32_t i = 1; i < line; i++)
        strbuf_add(&input, "\n");
    strbuf_add_bytes(&input, text, (size_t)(mark - text));
    GoldenCase test = {.arena = arena, .file = name, .input = strbuf_text(&input)};
    const char *output = run_verb(&test, arena_strndup(arena, run_line, strcspn(run_line, "\n")));
    if (!output)
    {
        verdict(runner, name, number, false);
        return text;
    }
    const char *expected = mark + strlen(output_mark);
    bool same = strcmp(expected, output) == 0;
    if (!same && !runner->bless)
    {
        printf("%s:%u: %.*s\n", path, line, (int)strcspn(text, "\n"), text);
        print_diff(expected, output);
        printf("to accept: BLESS=1 %s %s\n", runner->program, path);
    }
    verdict(runner, name, number, same || runner->bless);
    return arena_printf(arena, "%.*s%s", (int)(expected - text), text, output);
}

static uint32_t count_lines(const char *text)
{
    uint32_t n = 0;
    while ((text = strchr(text, '\n')))
    {
        text++;
        n++;
    }
    return n;
}

static void run_file(Runner *runner, const char *path)
{
    Arena *arena = arena_create();
    char *text = read_file(arena, path);
    if (!text)
    {
        printf("cannot read '%s': %s\n", path, strerror(errno));
        verdict(runner, path, 0, false);
        arena_destroy(arena);
        return;
    }
    const char *before = arena_strdup(arena, text);
    StrBuf after = strbuf_make(arena);
    uint32_t line = 1, number = 1;
    for (char *at = text; at; number++)
    {
        char *next = find_line(at, case_mark);
        if (next)
            *next = 0;
        uint32_t n_lines = count_lines(at);
        if (runner->bless) /* places in messages are those of the file to be written */
            line = count_lines(strbuf_text(&after)) + 1;
        strbuf_add(&after, run_case(runner, arena, path, at, line, number));
        strbuf_add(&after, next ? case_mark : "");
        line += n_lines + 1;
        at = next ? next + strlen(case_mark) : NULL;
    }
    if (runner->bless && strcmp(before, strbuf_text(&after)) != 0)
        printf("%s %s\n", write_file(path, strbuf_text(&after)) ? "rewritten:" : "cannot write:", path);
    arena_destroy(arena);
}

static int is_golden(const struct dirent *entry)
{
    const char *dot = strrchr(entry->d_name, '.');
    return dot && strcmp(dot, ".ptir") == 0;
}

static void run_folder(Runner *runner, const char *folder)
{
    struct dirent **entries;
    int n = scandir(folder, &entries, is_golden, alphasort);
    if (n < 0)
    {
        run_file(runner, folder);
        return;
    }
    for (int i = 0; i < n; i++)
    {
        Arena *arena = arena_create();
        run_file(runner, arena_printf(arena, "%s/%s", folder, entries[i]->d_name));
        arena_destroy(arena);
        free(entries[i]);
    }
    free(entries);
}

int main(int argc, char **argv)
{
    const char *bless = getenv("BLESS");
    Runner runner = {.program = argv[0], .bless = bless && strcmp(bless, "1") == 0};
    for (int i = 1; i < argc; i++)
        run_folder(&runner, argv[i]);
    printf("[  PASSED  ] %u test(s).\n", runner.n_passed);
    if (runner.n_failed)
        printf("[  FAILED  ] %u test(s).\n", runner.n_failed);
    else if (runner.n_passed == 0)
        printf("no golden files found\n");
    return runner.n_failed || !runner.n_passed;
}
