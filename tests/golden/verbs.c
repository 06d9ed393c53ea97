/* The verbs of RUN lines. */
#include "golden.h"

#include "base/strbuf.h"
#include "ir/text.h"
#include "ir/verify.h"

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

const GoldenVerb golden_verbs[] = {{"roundtrip", run_roundtrip}, {"verify", run_verify}, {NULL, NULL}};
