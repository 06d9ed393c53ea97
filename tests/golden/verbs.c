/* The verbs of RUN lines. */
#include "golden.h"

#include "base/strbuf.h"
#include "codegen/codegen.h"
#include "ir/text.h"
#include "ir/verify.h"
#include "passes/manager.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *print(Arena *arena, const IrModule *m)
{
    StrBuf buf = strbuf_make(arena);
    ir_print_module(&buf, m);
    return strbuf_text(&buf);
}

/* The diagnostics as the command prints them. */
static const char *diag_text(Arena *arena, const Diag *diag)
{
    char *text = NULL;
    size_t n_bytes = 0;
    FILE *out = open_memstream(&text, &n_bytes);
    diag_print(diag, out, false);
    fclose(out);
    char *copy = arena_strndup(arena, text, n_bytes);
    free(text);
    return copy;
}

/* NULL with *out_errors set when the text is not read. */
static IrModule *parse(Arena *arena, const char *file, const char *text, const char **out_errors)
{
    Diag *diag = diag_create(arena);
    uint32_t number = diag_add_file(diag, file, text, strlen(text));
    IrModule *m = ir_parse_module(arena, diag, number, text, strlen(text));
    *out_errors = m ? NULL : diag_text(arena, diag);
    return m;
}

/* Prints what was parsed; says so when the printed text does not print the same again. */
static const char *run_roundtrip(const GoldenCase *test)
{
    const char *errors;
    IrModule *m = parse(test->arena, test->file, test->input, &errors);
    if (!m)
        return errors;
    const char *text = print(test->arena, m);
    IrModule *again = parse(test->arena, "printed", text, &errors);
    if (!again)
        return arena_printf(test->arena, "printed text is not read:\n%s", errors);
    if (strcmp(text, print(test->arena, again)) != 0)
        return arena_printf(test->arena, "printed again it differs:\n%s", print(test->arena, again));
    return text;
}

static const char *run_verify(const GoldenCase *test)
{
    const char *errors, *why;
    IrModule *m = parse(test->arena, test->file, test->input, &errors);
    if (!m)
        return errors;
    return ir_verify(test->arena, m, &why) ? "ok\n" : arena_printf(test->arena, "%s\n", why);
}

/* Reads "--passes=a,b --roundtrip-each"; NULL when a word is unknown. */
static const char *opt_passes(const GoldenCase *test, PassOptions *options)
{
    const char *passes = NULL;
    char *next = NULL;
    for (char *word = strtok_r(arena_strdup(test->arena, test->args), " ", &next); word;
         word = strtok_r(NULL, " ", &next))
    {
        if (strncmp(word, "--passes=", 9) == 0)
            passes = word + 9;
        else if (strcmp(word, "--roundtrip-each") == 0)
            options->roundtrip_each = true;
        else
            return NULL;
    }
    return passes;
}

/* As `ptc opt --verify-each` does; the module lives in an arena of its own, as the manager wants it. */
static const char *run_opt(const GoldenCase *test)
{
    PassOptions options = {.verify_each = true};
    const char *passes = opt_passes(test, &options), *errors, *why;
    if (!passes)
        return arena_printf(test->arena, "bad arguments '%s', expected --passes=LIST [--roundtrip-each]\n", test->args);
    Arena *arena = arena_create();
    IrModule *m = parse(arena, test->file, test->input, &errors);
    const char *output;
    if (!m)
        output = errors;
    else if (!ir_verify(arena, m, &why))
        output = arena_printf(arena, "%s\n", why);
    else
    {
        Diag *diag = diag_create(test->arena);
        for (uint32_t i = 0; i < m->files.len; i++)
            diag_add_file(diag, m->files.data[i], NULL, 0);
        Status status = pass_manager_run(&arena, &m, diag, passes, &options);
        output = status == STATUS_OK ? print(test->arena, m) : diag_text(test->arena, diag);
    }
    output = arena_strdup(test->arena, output);
    arena_destroy(arena);
    return output;
}

/* The kernels of the generated text, without the prelude before the first one and, for CUDA, with the launches. */
static const char *run_codegen(const GoldenCase *test)
{
    const char *errors;
    IrModule *m = parse(test->arena, test->file, test->input, &errors);
    if (!m)
        return errors;
    StrBuf text = strbuf_make(test->arena), out = strbuf_make(test->arena);
    const bool cuda = strcmp(test->args, "cuda") == 0;
    CodegenCudaTable table = {0};
    if (cuda)
        codegen_emit_cuda(&text, m, &table);
    else
        codegen_emit_c(&text, m);
    const char *first = arena_printf(test->arena, cuda ? "// %s\n" : "/* %s */\n", ir_func(m, 1)->name);
    strbuf_add(&out, strstr(strbuf_text(&text), first));
    for (uint32_t k = 0; k < table.n_kernels; k++)
        for (uint32_t l = 0; l < table.kernels[k].n_launches; l++)
        {
            const CodegenCudaLaunch *launch = &table.kernels[k].launch[l];
            strbuf_addf(&out, "launch %s: grid %u, block %u, shared memory %u, workspace %lld\n", launch->symbol,
                        launch->grid, launch->block, launch->smem_bytes, (long long)table.kernels[k].workspace_bytes);
        }
    return strbuf_text(&out);
}

const GoldenVerb golden_verbs[] = {
    {"roundtrip", run_roundtrip}, {"verify", run_verify}, {"ptc opt", run_opt}, {"codegen", run_codegen}, {NULL, NULL}};
