#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char detail[2048];

Status status_fail(Status status, const char *format, ...)
{
    char text[sizeof detail]; /* the arguments may point into detail */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    snprintf(detail, sizeof detail, "%s", text);
    return status;
}

const char *status_detail(void)
{
    return detail;
}

void status_clear(void)
{
    detail[0] = 0;
}

const char *status_text(Status status)
{
    static const char *const texts[] = {
#define STATUS(code, exit_code, recovery, text) text,
#include "base/status.def"
#undef STATUS
    };
    return texts[status];
}

int status_exit_code(Status status)
{
    static const int codes[] = {
#define STATUS(code, exit_code, recovery, text) exit_code,
#include "base/status.def"
#undef STATUS
    };
    return codes[status];
}

StatusRecovery status_recovery(Status status)
{
    static const StatusRecovery recoveries[] = {
#define STATUS(code, exit_code, recovery, text) RECOVERY_##recovery,
#include "base/status.def"
#undef STATUS
    };
    return recoveries[status];
}
