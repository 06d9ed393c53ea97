/* The host compiler in front of the kernel cache (see compile.h). */
#include "codegen/compile.h"

#include "codegen/cache.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static const char *const flags[] = {"-O2",
                                    "-march=native",
                                    "-fopenmp-simd",
                                    "-fno-math-errno",
                                    "-fno-trapping-math",
                                    "-fno-signed-zeros",
                                    "-ffp-contract=off",
                                    "-fPIC",
                                    "-shared",
                                    "-fvisibility=hidden",
                                    "-w"};
enum
{
    N_FLAGS = sizeof flags / sizeof *flags,
    MAX_EXTRA_FLAGS = 16
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Starts argv with both outputs in out_path. */
static Status start(const char *const *argv, const char *out_path, pid_t *out_pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out_path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
    int error = posix_spawnp(out_pid, argv[0], &actions, NULL, (char *const *)(uintptr_t)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (!error)
        return STATUS_OK;
    *out_pid = 0;
    return status_fail(STATUS_COMPILER, "cannot run the C compiler '%s': %s (install gcc or clang, or set PTC_CC)",
                       argv[0], strerror(error));
}

/* *out_code is the exit code. */
static Status wait_for(const char *name, pid_t pid, int *out_code)
{
    int state;
    while (waitpid(pid, &state, 0) < 0)
        if (errno != EINTR)
            return status_fail(STATUS_COMPILER, "waiting for '%s': %s", name, strerror(errno));
    *out_code = WIFEXITED(state) ? WEXITSTATUS(state) : 128;
    return STATUS_OK;
}

/* The first lines of "cc --version", kept per path of cache so that a warm start spawns nothing: they are in a file
 * named after the compiler's binary, its size and its time. */
static Status compiler_version(Arena *arena, const char *dir, const char *cc, const char **out_text)
{
    struct stat info = {0};
    const char *found = cc;
    if (!strchr(cc, '/'))
    {
        const char *path = getenv("PATH");
        for (const char *p = path ? path : "/usr/bin:/bin"; *p;)
        {
            size_t n = strcspn(p, ":");
            const char *candidate = arena_printf(arena, "%.*s/%s", (int)n, p, cc);
            if (access(candidate, X_OK) == 0)
            {
                found = candidate;
                break;
            }
            p += n + (p[n] == ':');
        }
    }
    if (stat(found, &info) != 0)
        return status_fail(STATUS_COMPILER, "cannot run the C compiler '%s': %s (install gcc or clang, or set PTC_CC)",
                           cc, strerror(errno));
    const char *identity =
        arena_printf(arena, "%s %lld %lld", found, (long long)info.st_size, (long long)info.st_mtime);
    const char *path = arena_printf(arena, "%s/cc-%s", dir, cache_key(arena, &identity, 1));
    size_t size;
    *out_text = cache_read(arena, path, &size);
    if (*out_text && size)
        return STATUS_OK;
    const char *argv[] = {cc, "--version", NULL};
    const char *temporary = arena_printf(arena, "%s.%ld", path, (long)getpid());
    pid_t pid;
    int code;
    TRY(start(argv, temporary, &pid));
    TRY(wait_for(cc, pid, &code));
    *out_text = cache_read(arena, temporary, &size);
    if (code != 0 || !*out_text || !size)
        return status_fail(STATUS_COMPILER, "'%s --version' fails; its output is in %s", cc, temporary);
    if (rename(temporary, path) != 0)
        return status_fail(STATUS_IO, "cannot write %s: %s", path, strerror(errno));
    return STATUS_OK;
}

/* What -march=native depends on. */
static const char *cpu_identity(Arena *arena)
{
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (!file)
        return "unknown";
    char line[8192];
    const char *model = "", *features = "";
    while (fgets(line, sizeof line, file) && !*features)
        if (strncmp(line, "model name", 10) == 0)
            model = arena_strdup(arena, line);
        else if (strncmp(line, "flags", 5) == 0 || strncmp(line, "Features", 8) == 0)
            features = arena_strdup(arena, line);
    fclose(file);
    return arena_printf(arena, "%s%s", model, features);
}

/* ---- compiling */

struct CodegenCompiler
{
    const char *dir, *version, *cpu;
    const char *argv[N_FLAGS + MAX_EXTRA_FLAGS + 8];
    size_t n_args; /* so far: the files come behind */
};

/* One text on its way; pid 0: it was in the cache. */
typedef struct
{
    CacheEntry entry;
    const char *c_path, *log;
    pid_t pid;
    double start_s;
} Compilation;

Status codegen_compiler_find(Arena *arena, CodegenCompiler **out_compiler)
{
    CodegenCompiler *out = ARENA_NEW(arena, CodegenCompiler);
    const char *cc = getenv("PTC_CC"), *extra = getenv("PTC_CFLAGS");
    if (!cc || !*cc)
        cc = "cc";
    TRY(cache_dir(arena, &out->dir));
    TRY(compiler_version(arena, out->dir, cc, &out->version));
    size_t n = 0;
    out->argv[n++] = cc;
    for (size_t i = 0; i < N_FLAGS; i++)
        out->argv[n++] = flags[i];
    if (!strstr(out->version, "clang"))
        out->argv[n++] = "-fvect-cost-model=unlimited";
    char *words = arena_strdup(arena, extra ? extra : "");
    for (char *word; n < N_FLAGS + MAX_EXTRA_FLAGS && (word = strsep(&words, " "));)
        if (*word)
            out->argv[n++] = word;
    out->n_args = n;
    out->cpu = cpu_identity(arena);
    *out_compiler = out;
    return STATUS_OK;
}

const char *codegen_compiler_dir(const CodegenCompiler *compiler)
{
    return compiler->dir;
}

const char *codegen_compiler_key(Arena *arena, const CodegenCompiler *compiler, const char *text)
{
    const char *texts[sizeof compiler->argv / sizeof *compiler->argv + 3];
    size_t n = 0;
    for (size_t i = 0; i < compiler->n_args; i++)
        texts[n++] = compiler->argv[i];
    texts[n++] = compiler->version;
    texts[n++] = compiler->cpu;
    texts[n++] = text;
    return cache_key(arena, texts, n);
}

static Status begin(Arena *arena, CodegenCompiler *compiler, const char *text, uint32_t number, Compilation *out)
{
    *out = (Compilation){
        .start_s = now_s(),
        .entry = cache_entry(arena, compiler->dir, codegen_compiler_key(arena, compiler, text), "so", number)};
    out->c_path = arena_printf(arena, "%s.c", out->entry.stem);
    out->log = arena_printf(arena, "%s.log", out->entry.stem);
    if (cache_entry_valid(arena, &out->entry))
        return STATUS_OK;
    TRY(cache_write(out->c_path, text, strlen(text)));
    const char **files = compiler->argv + compiler->n_args;
    files[0] = "-o";
    files[1] = out->entry.new_path;
    files[2] = out->c_path;
    files[3] = "-lm";
    files[4] = NULL;
    return start(compiler->argv, out->log, &out->pid);
}

static Status end(Arena *arena, const CodegenCompiler *compiler, const Compilation *c, CodegenObject *out)
{
    *out = (CodegenObject){.so_path = c->entry.path, .cached = !c->pid};
    if (!c->pid)
        return STATUS_OK;
    int code;
    TRY(wait_for(compiler->argv[0], c->pid, &code));
    if (code != 0)
        return status_fail(STATUS_COMPILER, "'%s' refused the generated kernels (%s); its messages are in %s",
                           compiler->argv[0], c->c_path, c->log);
    TRY(cache_entry_publish(arena, &c->entry));
    unlink(c->c_path);
    unlink(c->log);
    out->compile_s = now_s() - c->start_s;
    return STATUS_OK;
}

Status codegen_compile_all(Arena *arena, CodegenCompiler *compiler, const char *const *texts, uint32_t n,
                           uint32_t n_parallel, CodegenObject *out_objects)
{
    Compilation *all = ARENA_ARRAY(arena, Compilation, n);
    Status status = STATUS_OK;
    uint32_t n_begun = 0;
    for (uint32_t i = 0; i < n; i++)
    {
        while (status == STATUS_OK && n_begun < n && n_begun < i + n_parallel)
        {
            status = begin(arena, compiler, texts[n_begun], n_begun, &all[n_begun]);
            n_begun++;
        }
        int code;
        if (status == STATUS_OK)
            status = end(arena, compiler, &all[i], &out_objects[i]);
        else if (i < n_begun && all[i].pid)
            (void)wait_for(compiler->argv[0], all[i].pid, &code); /* the failure before it is the one to tell */
    }
    return status;
}

Status codegen_compile(Arena *arena, const char *text, CodegenObject *out_object)
{
    CodegenCompiler *compiler;
    TRY(codegen_compiler_find(arena, &compiler));
    return codegen_compile_all(arena, compiler, &text, 1, 1, out_object);
}
