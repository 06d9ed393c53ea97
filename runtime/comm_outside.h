/* Operations of a communicator whose bytes others move: devices by themselves (device_comm.h). The communicator puts
 * them into its ring buffer, counts them, waits for them with its deadline and finds the rank that is missing. Its
 * rules hold: a failure is final, and the other ranks hear of it. */
#ifndef PTC_RUNTIME_COMM_OUTSIDE_H
#define PTC_RUNTIME_COMM_OUTSIDE_H

#include "runtime/comm_record.h"

typedef struct
{
    Comm *comm;
    CommRecord record;
} CommOutside;

/* peer: a rank of comm (SEND, RECV), the root, or COMM_NO_RANK; tag: or the bucket, or COMM_NO_TAG. */
CommOutside comm_outside_start(Comm *comm, CommKind kind, uint32_t peer, uint32_t tag, uint64_t size_bytes);
void comm_outside_complete(CommOutside *operation);

/* Of the world: its peer; of a collective the rank that does not wait for others, as far as that can be told. */
uint32_t comm_outside_peer(const CommOutside *operation);

/* Whether what is waited for is there; else *out_now is the operation that it hangs on. An error ends the wait. */
typedef Status CommOutsideDone(void *context, bool *out_done, const CommOutside **out_now);
/* Asks until it is done. TIMEOUT and PEER_LOST as for every wait (comm.h), with that operation and its peer in the
 * detail; of a collective, the rank that does not wait for others is the missing one. comm: any of the world. */
Status comm_outside_wait(Comm *comm, CommOutsideDone *done, void *context);

#endif
