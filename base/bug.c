#include "base/bug.h"

#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static BaseBugHook bug_hook;
static void *bug_context;

void base_bug_set_hook(BaseBugHook hook, void *context)
{
    bug_hook = hook;
    bug_context = context;
}

void base_bug(const char *file, int line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "ptc: internal error at %s:%d: ", file, line);
    vfprintf(stderr, format, args);
    fputs("\n", stderr);
    va_end(args);
    BaseBugHook hook = bug_hook;
    bug_hook = NULL;
    if (hook)
        hook(bug_context);
    abort();
}

void base_out_of_memory(size_t size_bytes)
{
    fprintf(stderr, "ptc: error: out of memory (%zu bytes asked for)\n", size_bytes);
    _exit(status_exit_code(STATUS_OUT_OF_MEMORY));
}
