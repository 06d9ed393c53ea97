/* "We are wrong": a broken invariant of ptc itself. Never reachable from a user's input. */
#ifndef PTC_BASE_BUG_H
#define PTC_BASE_BUG_H

#include <stddef.h>

/* Prints file:line, the message and whatever the hook adds (the current pass, where the IR was
 * written), then aborts. */
#define BUG(...)     base_bug(__FILE__, __LINE__, __VA_ARGS__)
#define ENSURE(cond) ((cond) ? (void)0 : base_bug(__FILE__, __LINE__, "expected %s", #cond))

__attribute__((noreturn, format(printf, 3, 4))) void base_bug(const char *file, int line, const char *format, ...);

/* Called once by base_bug before it aborts, e.g. by the pass manager to save the IR. */
typedef void (*BaseBugHook)(void *context);
void base_bug_set_hook(BaseBugHook hook, void *context);

/* No memory left: a message, then the exit code of STATUS_OUT_OF_MEMORY. */
__attribute__((noreturn)) void base_out_of_memory(size_t size_bytes);

#endif
