/* The pass manager. The IR before each pass is kept as a clone, so that a failing pass leaves a reproducer. */
#include "passes/manager.h"

#include "base/bug.h"
#include "base/strbuf.h"
#include "ir/text.h"
#include "ir/verify.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *const pass_pipeline_default =
    "canonicalise,cse,dce,pack,make_eval,freeze,cache_prefix,micro_batch,autodiff,optimizer,precision,partition,"
    "replicate,decompose,canonicalise,cse,dce,epilogue,dce,recompute,dce,copies,fuse,"
    "schedule,plan_memory";

#define NEEDS(bits)      PROPERTIES(bits)
#define GIVES            NEEDS
#define PROPERTIES(bits) (0 | bits)
#define GRADS            PASS_PROPERTY_GRADS
#define UPDATES          PASS_PROPERTY_UPDATES
#define LOWERED          PASS_PROPERTY_LOWERED
#define FUSED            PASS_PROPERTY_FUSED
#define PLANNED          PASS_PROPERTY_PLANNED
static const PassInfo infos[] = {
#define PASS(name, summary, needs, gives) {#name, summary, needs, gives, pass_##name},
#include "passes/passes.def"
#undef PASS
};

enum
{
    N_PASSES = sizeof infos / sizeof infos[0],
    MAX_PASS_NAME = 64
};

const PassInfo *pass_info(uint32_t i)
{
    return i < N_PASSES ? &infos[i] : NULL;
}

static const PassInfo *find_pass(const char *name, size_t n_bytes)
{
    for (uint32_t i = 0; i < N_PASSES; i++)
        if (strlen(infos[i].name) == n_bytes && strncmp(infos[i].name, name, n_bytes) == 0)
            return &infos[i];
    return NULL;
}

static bool listed(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = list; at; at = strchr(at, ','), at = at ? at + 1 : NULL)
        if (strncmp(at, name, n) == 0 && (at[n] == ',' || at[n] == 0))
            return true;
    return false;
}

/* ---- showing the IR */

static const char *module_text(Arena *scratch, const IrModule *m)
{
    StrBuf buf = strbuf_make(scratch);
    ir_print_module(&buf, m);
    return strbuf_text(&buf);
}

static Status write_text(const char *path, const char *head, const char *text)
{
    FILE *out = fopen(path, "w");
    if (!out)
        return status_fail(STATUS_IO, "cannot write '%s': %s", path, strerror(errno));
    bool ok = fputs(head, out) >= 0 && fputs(text, out) >= 0;
    ok = fclose(out) == 0 && ok;
    return ok ? STATUS_OK : status_fail(STATUS_IO, "cannot write '%s': %s", path, strerror(errno));
}

static Status show(Arena *scratch, const IrModule *m, const PassOptions *options, uint32_t number, const char *name)
{
    bool wanted = !options->dump_after || listed(options->dump_after, name);
    if (options->print_after_all)
        fprintf(stderr, "// IR after %s\n%s", name, module_text(scratch, m));
    if (options->dump_dir && wanted)
    {
        if (mkdir(options->dump_dir, 0777) != 0 && errno != EEXIST)
            return status_fail(STATUS_IO, "cannot make folder '%s': %s", options->dump_dir, strerror(errno));
        const char *path = arena_printf(scratch, "%s/%02u-%s.ptir", options->dump_dir, number, name);
        return write_text(path, "", module_text(scratch, m));
    }
    if (options->dump_after && wanted && !options->dump_dir)
        fprintf(stderr, "// IR after %s\n%s", name, module_text(scratch, m));
    return STATUS_OK;
}

/* ---- when a pass is wrong */

typedef struct
{
    const PassInfo *pass;
    const IrModule *before;
    const char *dir;
    Arena *scratch;
} Reproducer;

static void write_reproducer(void *context)
{
    const Reproducer *r = context;
    const char *path =
        arena_printf(r->scratch, "%s/ptc-reproducer-%s-%d.ptir", r->dir ? r->dir : ".", r->pass->name, (int)getpid());
    const char *run = arena_printf(r->scratch, "// RUN: ptc opt --passes=%s --verify-each\n", r->pass->name);
    if (write_text(path, run, module_text(r->scratch, r->before)) == STATUS_OK)
        fprintf(stderr, "ptc: in pass '%s'; the IR before it is in '%s'\n", r->pass->name, path);
    else
        fprintf(stderr, "ptc: in pass '%s'; %s\n", r->pass->name, status_detail());
}

/* ---- running */

static void roundtrip(Arena **arena, IrModule **m, Arena *scratch)
{
    const char *text = module_text(scratch, *m);
    Diag *diag = diag_create(scratch);
    uint32_t file = diag_add_file(diag, "(round trip)", text, strlen(text));
    Arena *fresh = arena_create();
    IrModule *again = ir_parse_module(fresh, diag, file, text, strlen(text));
    if (!again)
    {
        diag_print(diag, stderr, false);
        BUG("the printed IR does not parse");
    }
    if (strcmp(module_text(scratch, again), text) != 0)
        BUG("print(parse(t)) differs from t");
    arena_destroy(*arena);
    *arena = fresh;
    *m = again;
}

static bool run_pass(Arena **arena, IrModule **m, Diag *diag, const PassInfo *pass, const PassOptions *options,
                     Arena *scratch, Arena *spare)
{
    Reproducer reproducer = {
        .pass = pass, .before = ir_module_clone(spare, *m), .dir = options->reproducer_dir, .scratch = spare};
    base_bug_set_hook(write_reproducer, &reproducer);
    PassContext context = {.m = *m, .scratch = scratch, .diag = diag};
    bool ok = pass->run(&context);
    ENSURE(ok || diag_error_count(diag) > 0);
    const char *why;
    if (ok && options->verify_each && !ir_verify(scratch, *m, &why))
        BUG("pass '%s' broke the IR: %s", pass->name, why);
    const char *missing = ok ? pass_property_missing(*m, pass->gives) : NULL;
    if (missing)
        BUG("pass '%s' does not give %s", pass->name, missing);
    if (ok && options->roundtrip_each)
        roundtrip(arena, m, scratch);
    base_bug_set_hook(NULL, NULL);
    return ok;
}

static Status run_list(Arena **arena, IrModule **m, Diag *diag, const char *passes, const PassOptions *options,
                       Arena *scratch, Arena *spare)
{
    uint32_t number = 0;
    if (options->dump_dir || options->print_after_all)
        TRY(show(scratch, *m, options, number, "input"));
    for (const char *at = passes; at && *at; at = strchr(at, ','), at = at ? at + 1 : NULL)
    {
        size_t n = strcspn(at, ",");
        const PassInfo *pass = find_pass(at, n);
        if (!pass)
        {
            char name[MAX_PASS_NAME];
            const char *names[N_PASSES];
            for (uint32_t i = 0; i < N_PASSES; i++)
                names[i] = infos[i].name;
            snprintf(name, sizeof name, "%.*s", (int)n, at);
            const char *near = str_nearest(name, names, N_PASSES);
            diag_error(diag, (Span){0}, "no pass is named '%s'%s%s%s", name, near ? "; did you mean '" : "",
                       near ? near : "", near ? "'?" : "");
            return STATUS_BAD_INPUT;
        }
        const char *missing = pass_property_missing(*m, pass->needs);
        if (missing)
        {
            diag_error(diag, (Span){0}, "pass '%s' needs a module with the property %s", pass->name, missing);
            return STATUS_BAD_INPUT;
        }
        arena_reset(scratch);
        arena_reset(spare);
        if (!run_pass(arena, m, diag, pass, options, scratch, spare))
            return STATUS_BAD_INPUT;
        TRY(show(scratch, *m, options, ++number, pass->name));
    }
    return STATUS_OK;
}

Status pass_manager_run(Arena **arena, IrModule **m, Diag *diag, const char *passes, const PassOptions *options)
{
    Arena *scratch = arena_create();
    Arena *spare = arena_create();
    Status status = run_list(arena, m, diag, passes, options, scratch, spare);
    arena_destroy(scratch);
    arena_destroy(spare);
    return status;
}
