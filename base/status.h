/* "The world failed" (a file, the compiler, a device, memory): a Status, propagated with TRY.
 *
 * The code says what the caller can do (a column of status.def); the detail, a sentence for the
 * user, is kept per thread by the last status_fail. A user's mistake that has a place in a source
 * file is a diagnostic (base/diag.h) instead; STATUS_BAD_INPUT then only says that there were some. */
#ifndef PTC_BASE_STATUS_H
#define PTC_BASE_STATUS_H

typedef enum
{
#define STATUS(code, exit_code, recovery, text) STATUS_##code,
#include "base/status.def"
#undef STATUS
    STATUS_COUNT
} Status;

typedef enum
{
    RECOVERY_NONE,
    RECOVERY_STOP,
    RECOVERY_RETRY,
    RECOVERY_RESTART,
    RECOVERY_REFORM
} StatusRecovery;

/* Records the detail for this thread and returns the status. */
__attribute__((format(printf, 2, 3))) Status status_fail(Status status, const char *format, ...);
/* The detail of the last status_fail on this thread; "" if there is none. */
const char *status_detail(void);
/* Forgets the detail: what follows is told elsewhere (diagnostics). */
void status_clear(void);
const char *status_text(Status status);
/* The documented exit code of the command (docs/cli.md). */
int status_exit_code(Status status);
StatusRecovery status_recovery(Status status);

#define TRY(expr)                                                                                                      \
    do                                                                                                                 \
    {                                                                                                                  \
        Status try_status_ = (expr);                                                                                   \
        if (try_status_ != STATUS_OK)                                                                                  \
            return try_status_;                                                                                        \
    } while (0)

#endif
