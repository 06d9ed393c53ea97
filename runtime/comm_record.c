/* The ring of records, and how an operation is told. */
#include "runtime/comm_record.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const struct
{
    const char *name;
    bool is_collective;
} KINDS[] = {
#define COMM_KIND(id, name, collective) {#name, collective},
#include "runtime/comm_kinds.def"
#undef COMM_KIND
};

const char *comm_kind_name(CommKind kind)
{
    return KINDS[kind].name;
}

bool comm_kind_is_collective(CommKind kind)
{
    return KINDS[kind].is_collective;
}

CommKind comm_kind_by_name(const char *name)
{
    int kind = 0;
    while (kind < COMM_KIND_COUNT && strcmp(KINDS[kind].name, name) != 0)
        kind++;
    return (CommKind)kind;
}

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

void comm_recorder_start(CommRecorder *recorder, CommRecord *record)
{
    record->seq = ++recorder->n;
    record->start_us = now_us();
    record->end_us = 0;
    recorder->ring[record->seq % COMM_RECORDS] = *record;
}

void comm_recorder_complete(CommRecorder *recorder, CommRecord *record)
{
    record->end_us = now_us();
    CommRecord *kept = &recorder->ring[record->seq % COMM_RECORDS];
    if (kept->seq == record->seq)
        kept->end_us = record->end_us;
}

void comm_record_describe(const CommRecord *record, char *out_text, size_t n_bytes)
{
    size_t at = 0;
#define ADD(...)                                                                                                       \
    do                                                                                                                 \
    {                                                                                                                  \
        if (at < n_bytes)                                                                                              \
            at += (size_t)snprintf(out_text + at, n_bytes - at, __VA_ARGS__);                                          \
    } while (0)
    ADD("%s", comm_kind_name(record->kind));
    if (record->tag != COMM_NO_TAG)
        ADD(" %s %" PRIu32, comm_kind_is_collective(record->kind) ? "bucket" : "tag", record->tag);
    if (strcmp(record->comm, "world") != 0)
        ADD(" in %s", record->comm);
    if (record->size_bytes > 0 || !comm_kind_is_collective(record->kind))
        ADD(", %" PRIu64 " bytes", record->size_bytes);
    if (record->what)
        ADD(", at %s", record->what);
    if (record->step >= 0)
        ADD(", step %" PRId64, record->step);
    if (record->micro_batch >= 0)
        ADD(", micro-batch %" PRId32, record->micro_batch);
#undef ADD
}
