/* The pass manager: runs passes by name, checks their contracts, shows the IR between them.
 *
 * A pass is one function in passes/<name>.c: `bool pass_<name>(PassContext *ctx)`. It changes ctx->m, keeps no
 * statics, takes temporary memory from ctx->scratch (reset after it), and returns false only after reporting the
 * user's mistake to ctx->diag. Anything else that goes wrong is a BUG: the IR before the pass is then written to a
 * reproducer file with its RUN line.
 *
 * Between passes: gradients are `set` to output globals "grad:NAME" (param NAME) by autodiff; optimizer takes them
 * from there and removes those it used up. */
#ifndef PTC_PASSES_MANAGER_H
#define PTC_PASSES_MANAGER_H

#include "base/diag.h"
#include "base/status.h"
#include "ir/module.h"

typedef struct
{
    IrModule *m;
    Arena *scratch;
    Diag *diag; /* files registered in the order of m->files, so that op spans can be reported */
} PassContext;

typedef bool PassFn(PassContext *ctx);

typedef struct
{
    bool verify_each;           /* verifier after every pass */
    bool roundtrip_each;        /* print, free, parse again after every pass */
    const char *dump_dir;       /* NULL: none. Numbered files NN-pass.ptir, 00-input.ptir first */
    const char *dump_after;     /* comma-separated names to dump (to dump_dir, or stderr without); NULL: all */
    bool print_after_all;       /* to stderr */
    const char *reproducer_dir; /* where reproducers go; NULL: the current directory */
} PassOptions;

/* The whole pipeline from a frontend module to a planned one, as a comma-separated list. */
extern const char *const pass_pipeline_default;

/* Runs a comma-separated list of passes. *arena is the module's own arena: it is replaced together with *m when
 * roundtrip_each is on. diag: see PassContext. STATUS_BAD_INPUT: errors are in diag (unknown pass names too). */
Status pass_manager_run(Arena **arena, IrModule **m, Diag *diag, const char *passes, const PassOptions *options);

typedef struct
{
    const char *name;
    const char *summary;
    uint32_t needs, gives; /* bits of PassProperty */
    PassFn *run;
} PassInfo;
/* Row i of passes.def; NULL beyond the last. */
const PassInfo *pass_info(uint32_t i);

typedef enum
{
    PASS_PROPERTY_GRADS = 1,
    PASS_PROPERTY_UPDATES = 2,
    PASS_PROPERTY_LOWERED = 4,
    PASS_PROPERTY_FUSED = 8,
    PASS_PROPERTY_PLANNED = 16
} PassProperty;
/* NULL when m has all the properties; otherwise the name of the first that it lacks. */
const char *pass_property_missing(const IrModule *m, uint32_t properties);

/* The ops whose results plan_memory gives a place (attribute offsets). */
static inline bool plan_memory_has_buffers(IrCode code)
{
    return code == IR_call || code == IR_matmul || code == IR_recv || code == IR_all_reduce || code == IR_reduce;
}

#define PASS(name, summary, needs, gives) PassFn pass_##name;
#include "passes/passes.def"
#undef PASS

#endif
