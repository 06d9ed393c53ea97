/* Params and states that other ranks want, when one plan follows another. They move while no program is there: the one
 * before has given its memory back, the next one takes what it finds where it lies. Part after part, what has been sent
 * and is of no more use here goes before the next part comes. So a rank has at most what the copying itself wants,
 * which is known before anything moves. */
#ifndef PTC_DRIVER_MOVE_H
#define PTC_DRIVER_MOVE_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct Session Session;
typedef struct MovePlan MovePlan;

typedef struct
{
    const char *way;   /* "nccl": from device to device; "host": through pinned memory; "messages": of the host */
    double bytes;      /* of all ranks together */
    double peak_bytes; /* of params and states, on the rank that had most */
    double most_bytes; /* that one rank has got, */
    double most_s;     /* and the seconds of that which took longest */
} Moved;

/* Compares what the ranks have in s->tensors with what their compiled programs need. *out_short: "" where every device
 * has room for the way there and for the program, else a sentence about the one that lacks most; the same on all ranks.
 * Collective. */
Status move_plan(Session *s, MovePlan **out_plan, const char **out_short);
/* Then s->tensors has what the program needs, and nothing else. moved is added to. step: as for fault_in_transition.
 * Collective. */
Status move_tensors(Session *s, const MovePlan *plan, uint64_t step, Moved *moved);
void move_destroy(MovePlan *plan); /* NULL is allowed */

/* "12.0 MiB by NCCL" */
const char *moved_text(const Session *s, const Moved *moved);

#endif
