/* Kernels for the next plan, compiled while the job trains: a transition then finds them in the cache. A guess that is
 * wrong costs only idle time. */
#ifndef PTC_DRIVER_PREBUILD_H
#define PTC_DRIVER_PREBUILD_H

#include "runtime/trainer.h"

typedef struct Session Session;
typedef struct Prebuild Prebuild;

/* Starts a thread, which gives way to all others, for the plans that are likely after the next decision; NULL when
 * there are none. The session must not change until prebuild_finish. */
Prebuild *prebuild_start(const Session *s, const Trainer *trainer);
/* Waits for the plan under way, and gives up the rest. NULL is allowed. */
void prebuild_finish(Prebuild *prebuild);

#endif
