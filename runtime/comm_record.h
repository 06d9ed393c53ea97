/* The flight recorder: a ring of the last operations of this rank, kept always, written when something has failed.
 *
 * The file is one JSON object (docs: runtime/diagnose.h reads it):
 *   format, ptc, rank, size, host, pid, status, reason, time_us
 *   waiting   the seq of the entry that the rank was in when it failed, or null
 *   comms     [{name, ranks}]: the communicators, with the ranks of the world that are in them
 *   entries   oldest first: seq, comm, op, number, peer, tag, bytes, what, step, micro_batch, start_us, end_us, state
 * number counts from 1: collectives of the communicator, or messages of (communicator, sender, receiver, tag). It is
 * what ranks are compared by. peer (a rank of the world) and tag (of an all_reduce: the bucket) are null where there is
 * none. */
#ifndef PTC_RUNTIME_COMM_RECORD_H
#define PTC_RUNTIME_COMM_RECORD_H

#include "runtime/comm.h"

typedef enum
{
#define COMM_KIND(id, name, collective) COMM_KIND_##id,
#include "runtime/comm_kinds.def"
#undef COMM_KIND
    COMM_KIND_COUNT
} CommKind;

const char *comm_kind_name(CommKind kind);
bool comm_kind_is_collective(CommKind kind);
/* COMM_KIND_COUNT when there is none of that name. */
CommKind comm_kind_by_name(const char *name);

enum
{
    COMM_RECORDS = 256,
    COMM_RECORD_FORMAT = 1
};
#define COMM_NO_RANK UINT32_MAX
#define COMM_NO_TAG  UINT32_MAX

typedef struct
{
    uint64_t seq; /* from 1; 0: an empty entry */
    const char *comm;
    uint64_t number;
    CommKind kind;
    uint32_t peer; /* rank of the world, or COMM_NO_RANK */
    uint32_t tag;  /* or bucket, or COMM_NO_TAG */
    uint64_t size_bytes;
    const char *what; /* may be NULL */
    int64_t step;
    int32_t micro_batch;
    int64_t start_us, end_us; /* CLOCK_REALTIME; end_us is 0 until completed */
} CommRecord;

typedef struct
{
    CommRecord ring[COMM_RECORDS];
    uint64_t n; /* seq of the newest */
} CommRecorder;

/* Gives record its seq and start time and keeps a copy. */
void comm_recorder_start(CommRecorder *recorder, CommRecord *record);
/* Sets the end time, in the ring too unless it was overwritten. */
void comm_recorder_complete(CommRecorder *recorder, CommRecord *record);

/* "recv tag 12, 1048576 bytes, at matmul %14 loc(model.xml:12:3), step 8, micro-batch 2" */
void comm_record_describe(const CommRecord *record, char *out_text, size_t n_bytes);

#endif
