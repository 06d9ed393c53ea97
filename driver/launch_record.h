/* The run folder that the launcher and its ranks share (driver/launch.h). In it, for rank N:
 *
 *   rank-N.pid    "PID START HOST": its process and when it started, in the kernel's ticks, since numbers come again
 *   rank-N.end    "exit CODE TIME" or "signal NUMBER TIME", then its sentence; TIME is CLOCK_MONOTONIC, nanoseconds
 *   rank-N.diag   diagnostics about the user's files, of ranks other than 0
 *   ended         there when all that will end has ended: the processes that wait for ranks may go
 *
 * Records appear by rename, so they are whole. */
#ifndef PTC_DRIVER_LAUNCH_RECORD_H
#define PTC_DRIVER_LAUNCH_RECORD_H

#include <stdint.h>
#include <sys/types.h>

#define LAUNCH_DIR_VARIABLE "PTC_LAUNCH_DIR"
#define LAUNCH_TTY_VARIABLE "PTC_LAUNCH_TTY" /* set: the launcher's stdout is a terminal */
#define LAUNCH_PID_VARIABLE "PTC_LAUNCH_PID" /* the launcher's process */
#define LAUNCH_ALL_ENDED    "ended"

enum
{
    LAUNCH_GRACE_S = 2 /* what a rank has to end by itself after another's failure, or the launcher's end */
};

/* path: PATH_MAX bytes. */
void launch_record_path(char *path, const char *dir, uint32_t rank, const char *kind);
int64_t launch_now_ns(void);
void launch_remove_folder(const char *dir);
/* When the process started; 0 when it is gone, or dead and not yet waited for. */
uint64_t launch_process_start(pid_t pid);

#endif
