/* Loads a model and prints its diagnostics, or with --ir its IR: the program behind the error tests.
 * usage: frontend_check [--ir] [--lib DIR] [--max-ops N] [--set PATH=VALUE]... MODEL. Exit code 0, or 1 with errors. */
#include "frontend/frontend.h"
#include "ir/text.h"
#include "ir/verify.h"

#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    const char *path = NULL, *overrides[64];
    FrontendOptions options = {.overrides = overrides};
    bool print_ir = false;
    for (int i = 1; i < argc; i++)
    {
        if (strcmp(argv[i], "--ir") == 0)
            print_ir = true;
        else if (strcmp(argv[i], "--lib") == 0 && i + 1 < argc)
            options.lib_dir = argv[++i];
        else if (strcmp(argv[i], "--max-ops") == 0 && i + 1 < argc)
            options.max_ops = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--set") == 0 && i + 1 < argc && options.n_overrides < 64)
            overrides[options.n_overrides++] = argv[++i];
        else
            path = argv[i];
    }
    if (!path)
    {
        fprintf(stderr, "usage: frontend_check [--ir] [--lib DIR] [--max-ops N] [--set PATH=VALUE]... MODEL\n");
        return 2;
    }
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    Job *job = NULL;
    Status status = frontend_load(arena, diag, path, &options, &job);
    diag_print(diag, stderr, false);
    int code = status == STATUS_OK ? 0 : 1;
    const char *why;
    if (status == STATUS_OK && !ir_verify(arena, job->module, &why))
    {
        fprintf(stderr, "the module is wrong: %s\n", why);
        code = 3;
    }
    if (code == 0 && print_ir)
    {
        StrBuf buf = strbuf_make(arena);
        ir_print_module(&buf, job->module);
        fputs(strbuf_text(&buf), stdout);
    }
    arena_destroy(arena);
    return code;
}
