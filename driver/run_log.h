/* What a run says of itself in metrics.jsonl besides its steps: events, from which driver/report.h makes a page.
 *
 *   run        at the start: the model, the command, what it trains with
 *   layout     at the start and behind a transition: the plan, and what its stages were predicted to take (lists: one
 *              number for each stage; seconds of one micro-batch, bytes); bytes planned
 *   resources  at every pause and at the end: bytes planned and real; counters of the cache, of all ranks
 *   end        how long it took
 *
 * Bytes of memory are those of rank 0; on several ranks a list has them of each.
 *
 * All write on rank 0 only, and nothing without --out. */
#ifndef PTC_DRIVER_RUN_LOG_H
#define PTC_DRIVER_RUN_LOG_H

#include "driver/session.h"

Status run_log_start(const Session *s, Trainer *trainer);
Status run_log_layout(const Session *s, Trainer *trainer, const SessionMemory *memory);
/* memory: with the peaks of the first steps of this layout. Collective. */
Status run_log_resources(const Session *s, Trainer *trainer, const SessionMemory *memory);
/* train_s: of all steps; data_s: of it, waiting for data. */
Status run_log_end(Trainer *trainer, double train_s, double data_s);

#endif
