/* Programs for the next plan, made while the job trains: a transition to a plan that was guessed takes what is there,
 * and to another one finds at least the kernels that both have in the cache. A guess that is wrong costs only idle
 * time. */
#ifndef PTC_DRIVER_PREBUILD_H
#define PTC_DRIVER_PREBUILD_H

#include "runtime/trainer.h"

typedef struct Session Session;
typedef struct Prebuild Prebuild;

/* Starts a thread, which gives way to all others, for the plans that are likely after the next decision; NULL when
 * there are none. The session must not change until prebuild_wait. */
Prebuild *prebuild_start(const Session *s, const Trainer *trainer);
/* Between two steps: prepares contractions of the programs that are there, for a short time. Where the device measures
 * its algorithms, a transition then finds what it has measured. */
void prebuild_prepare(Prebuild *prebuild);
/* Waits for the plan under way, and gives up the rest. NULL is allowed, as below. */
void prebuild_wait(Prebuild *prebuild);
/* The session has its job for another plan, and nothing compiled. If that very program is there, it becomes the
 * session's, with its kernels, as if by session_compile and session_build_kernels; false: it is not there. */
bool prebuild_take(Prebuild *prebuild, Session *s);
void prebuild_destroy(Prebuild *prebuild);

#endif
