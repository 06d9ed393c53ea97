/* The kernel cache and the host compiler (see compile.h). An entry is KEY.so and KEY.sum (the XXH3-128 of the object);
 * both are written under other names and renamed, the sum last. */
#include "codegen/compile.h"

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
#include <xxhash.h>

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

static Status make_dirs(Arena *arena, const char *path)
{
    char *copy = arena_strdup(arena, path);
    for (char *c = copy + 1;; c++)
    {
        if (*c && *c != '/')
            continue;
        char end = *c;
        *c = 0;
        if (mkdir(copy, 0777) != 0 && errno != EEXIST)
            return status_fail(STATUS_IO, "cannot make the kernel cache's directory %s: %s", copy, strerror(errno));
        *c = end;
        if (!end)
            return STATUS_OK;
    }
}

static Status cache_dir(Arena *arena, const char **out_dir)
{
    const char *own = getenv("PTC_CACHE_DIR"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (own && *own)
        *out_dir = arena_strdup(arena, own);
    else if (xdg && *xdg)
        *out_dir = arena_printf(arena, "%s/ptc", xdg);
    else if (home && *home)
        *out_dir = arena_printf(arena, "%s/.cache/ptc", home);
    else
        return status_fail(STATUS_IO, "no place for the kernel cache: set PTC_CACHE_DIR");
    return make_dirs(arena, *out_dir);
}

/* NULL when the file cannot be read. */
static char *read_all(Arena *arena, const char *path, size_t *out_size)
{
    FILE *file = fopen(path, "rb");
    struct stat info;
    if (!file)
        return NULL;
    char *data = NULL;
    if (fstat(fileno(file), &info) == 0)
    {
        data = arena_alloc(arena, (size_t)info.st_size + 1);
        *out_size = fread(data, 1, (size_t)info.st_size, file);
        if (*out_size != (size_t)info.st_size)
            data = NULL;
    }
    fclose(file);
    return data;
}

static Status write_all(const char *path, const char *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    if (!file)
        return status_fail(STATUS_IO, "cannot write %s: %s", path, strerror(errno));
    bool ok = fwrite(data, 1, size, file) == size;
    ok &= fclose(file) == 0;
    return ok ? STATUS_OK : status_fail(STATUS_IO, "cannot write %s: %s", path, strerror(errno));
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

static const char *hash_text(Arena *arena, XXH128_hash_t h)
{
    return arena_printf(arena, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
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
    const char *path = arena_printf(arena, "%s/cc-%s", dir, hash_text(arena, XXH3_128bits(identity, strlen(identity))));
    size_t size;
    *out_text = read_all(arena, path, &size);
    if (*out_text && size)
        return STATUS_OK;
    const char *argv[] = {cc, "--version", NULL};
    const char *temporary = arena_printf(arena, "%s.%ld", path, (long)getpid());
    pid_t pid;
    int code;
    TRY(start(argv, temporary, &pid));
    TRY(wait_for(cc, pid, &code));
    *out_text = read_all(arena, temporary, &size);
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

/* True when the entry is there and whole. */
static bool entry_valid(Arena *arena, const char *so_path, const char *sum_path)
{
    size_t so_size, sum_size;
    const char *sum = read_all(arena, sum_path, &sum_size);
    if (!sum)
        return false;
    const char *so = read_all(arena, so_path, &so_size);
    if (so && strcmp(sum, hash_text(arena, XXH3_128bits(so, so_size))) == 0)
        return true;
    fprintf(stderr, "ptc: warning: the cached kernels %s are corrupt; compiling again\n", so_path);
    return false;
}

/* ---- compiling */

/* What all texts are compiled with. */
typedef struct
{
    const char *dir, *version, *cpu;
    const char *argv[N_FLAGS + MAX_EXTRA_FLAGS + 8];
    size_t n_args; /* so far: the files come behind */
} Compiler;

/* One text on its way; pid 0: it was in the cache. */
typedef struct
{
    const char *so_path, *sum_path, *c_path, *new_so, *new_sum, *log;
    pid_t pid;
    double start_s;
} Compilation;

static Status find_compiler(Arena *arena, Compiler *out)
{
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
    return STATUS_OK;
}

static const char *key_of(Arena *arena, const Compiler *compiler, const char *text)
{
    XXH3_state_t *state = XXH3_createState();
    XXH3_128bits_reset(state);
    for (size_t i = 0; i < compiler->n_args; i++)
        XXH3_128bits_update(state, compiler->argv[i], strlen(compiler->argv[i]) + 1);
    XXH3_128bits_update(state, compiler->version, strlen(compiler->version));
    XXH3_128bits_update(state, compiler->cpu, strlen(compiler->cpu));
    XXH3_128bits_update(state, text, strlen(text));
    const char *key = hash_text(arena, XXH3_128bits_digest(state));
    XXH3_freeState(state);
    return key;
}

static Status begin(Arena *arena, Compiler *compiler, const char *text, uint32_t number, Compilation *out)
{
    const char *key = key_of(arena, compiler, text), *dir = compiler->dir;
    const char *stem = arena_printf(arena, "%s/%s.%ld-%u", dir, key, (long)getpid(), number);
    *out = (Compilation){.so_path = arena_printf(arena, "%s/%s.so", dir, key),
                         .sum_path = arena_printf(arena, "%s/%s.sum", dir, key),
                         .c_path = arena_printf(arena, "%s.c", stem),
                         .new_so = arena_printf(arena, "%s.so", stem),
                         .new_sum = arena_printf(arena, "%s.sum", stem),
                         .log = arena_printf(arena, "%s.log", stem),
                         .start_s = now_s()};
    if (entry_valid(arena, out->so_path, out->sum_path))
        return STATUS_OK;
    TRY(write_all(out->c_path, text, strlen(text)));
    const char **files = compiler->argv + compiler->n_args;
    files[0] = "-o";
    files[1] = out->new_so;
    files[2] = out->c_path;
    files[3] = "-lm";
    files[4] = NULL;
    return start(compiler->argv, out->log, &out->pid);
}

static Status end(Arena *arena, const Compiler *compiler, const Compilation *c, CodegenObject *out)
{
    *out = (CodegenObject){.so_path = c->so_path, .cached = !c->pid};
    if (!c->pid)
        return STATUS_OK;
    int code;
    size_t so_size;
    TRY(wait_for(compiler->argv[0], c->pid, &code));
    if (code != 0)
        return status_fail(STATUS_COMPILER, "'%s' refused the generated kernels (%s); its messages are in %s",
                           compiler->argv[0], c->c_path, c->log);
    const char *so = read_all(arena, c->new_so, &so_size);
    if (!so)
        return status_fail(STATUS_IO, "cannot read %s", c->new_so);
    const char *sum = hash_text(arena, XXH3_128bits(so, so_size));
    TRY(write_all(c->new_sum, sum, strlen(sum)));
    if (rename(c->new_so, c->so_path) != 0 || rename(c->new_sum, c->sum_path) != 0)
        return status_fail(STATUS_IO, "cannot write %s: %s", c->so_path, strerror(errno));
    unlink(c->c_path);
    unlink(c->log);
    out->compile_s = now_s() - c->start_s;
    return STATUS_OK;
}

Status codegen_compile(Arena *arena, const char *text, CodegenObject *out_object)
{
    return codegen_compile_all(arena, &text, 1, 1, out_object);
}

Status codegen_compile_all(Arena *arena, const char *const *texts, uint32_t n, uint32_t n_parallel,
                           CodegenObject *out_objects)
{
    Compiler compiler = {0};
    TRY(find_compiler(arena, &compiler));
    Compilation *all = ARENA_ARRAY(arena, Compilation, n);
    Status status = STATUS_OK;
    uint32_t n_begun = 0;
    for (uint32_t i = 0; i < n; i++)
    {
        while (status == STATUS_OK && n_begun < n && n_begun < i + n_parallel)
        {
            status = begin(arena, &compiler, texts[n_begun], n_begun, &all[n_begun]);
            n_begun++;
        }
        int code;
        if (status == STATUS_OK)
            status = end(arena, &compiler, &all[i], &out_objects[i]);
        else if (i < n_begun && all[i].pid)
            (void)wait_for(compiler.argv[0], all[i].pid, &code); /* the failure before it is the one to tell */
    }
    return status;
}
