/* Faults on purpose, for the tests of what a rank does when another fails. Nothing here happens unless the environment
 * variable PTC_FAULT says so: "KIND:RANK:STEP", one of
 *   sleep         rank RANK sleeps for ever before step STEP
 *   exit          it ends without a word (exit code 9)
 *   kill          it is killed by SIGKILL
 *   stop          it is stopped by SIGSTOP
 *   transition    it is killed while the others move tensors in the transition behind step STEP
 *   skip_reduce   from that step on it goes on with other numbers than the sum of its first bucket of gradients
 *   version       it says that it is of another version of ptc (STEP means nothing)
 *
 * A variable that says anything else is STATUS_USAGE. */
#ifndef PTC_RUNTIME_FAULT_H
#define PTC_RUNTIME_FAULT_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

/* Called by the trainer of a rank before each step. */
Status fault_at_step(uint32_t rank, uint64_t step);
/* Called in a transition, before this rank moves anything. */
void fault_in_transition(uint32_t rank, uint64_t step);
/* Called by the executor when a bucket is there: true when this rank is to spoil its sum. */
bool fault_skips_sum(uint32_t rank, uint64_t step);

/* Behind the version that this rank tells the others: "" without that fault. */
const char *fault_version(uint32_t rank);

#endif
