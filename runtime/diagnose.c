/* Lines up what the ranks did: collectives by (communicator, number), sends with receives by (communicator, sender,
 * receiver, tag, number). Where they differ is a finding. The first one is named: programs that differ come before
 * ranks that are missing somewhere, since those are usually the consequence; then a rank that left no file, then one
 * that was not waiting itself, then the one that was missed earliest. */
#include "runtime/diagnose.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct
{
    const DiagnoseFile *file;
    const CommRecord *record;
} Event;

typedef enum
{
    FINDING_DIFFERS,    /* two ranks did different things where they should do the same */
    FINDING_NO_FILE,    /* a rank waits for one that left no file */
    FINDING_NOT_THERE,  /* ... for one that did not wait itself */
    FINDING_ALSO_WAITS, /* ... for one that waited for something else */
    FINDING_NONE
} FindingKind;

typedef struct
{
    FindingKind kind;
    int64_t at_us;
    const char *text;
} Finding;

typedef struct
{
    Arena *arena;
    const Diagnosis *diagnosis;
    Finding first;
    uint32_t n_findings;
} Search;

/* ---- what an operation is called */

static const char *record_text(Arena *arena, const CommRecord *record)
{
    char text[512];
    comm_record_describe(record, text, sizeof text);
    if (comm_kind_is_collective(record->kind))
        return arena_strdup(arena, text);
    return arena_printf(arena, "%s %s rank %" PRIu32, text, record->kind == COMM_KIND_SEND ? "to" : "from",
                        record->peer);
}

static const CommRecord *waiting_record(const DiagnoseFile *file)
{
    for (uint32_t i = 0; i < file->n_entries; i++)
        if (file->entries[i].seq == file->waiting)
            return &file->entries[i];
    return NULL;
}

static bool is_waiting_in(const Event *event)
{
    return event->record->end_us == 0 && event->record->seq == event->file->waiting;
}

/* ---- findings */

static void add_finding(Search *search, FindingKind kind, int64_t at_us, const char *text)
{
    search->n_findings++;
    Finding *first = &search->first;
    if (kind < first->kind || (kind == first->kind && at_us < first->at_us))
        *first = (Finding){kind, at_us, text};
}

/* A rank waits, in event, for something that `missing` has not done. */
static void add_missing(Search *search, const Event *event, uint32_t missing, const char *text)
{
    const DiagnoseFile *file = search->diagnosis->files[missing];
    Arena *arena = search->arena;
    if (!file)
    {
        add_finding(search, FINDING_NO_FILE, event->record->start_us,
                    arena_printf(arena, "%s; rank %" PRIu32 " left no file", text, missing));
        return;
    }
    const CommRecord *own = waiting_record(file);
    if (own)
        add_finding(search, FINDING_ALSO_WAITS, event->record->start_us,
                    arena_printf(arena, "%s; rank %" PRIu32 " was in: %s", text, missing, record_text(arena, own)));
    else
        add_finding(search, FINDING_NOT_THERE, event->record->start_us,
                    arena_printf(arena, "%s; rank %" PRIu32 " waited for nothing", text, missing));
}

/* ---- collectives */

static int by_collective(const void *a, const void *b)
{
    const Event *x = a, *y = b;
    int names = strcmp(x->record->comm, y->record->comm);
    if (names)
        return names;
    if (x->record->number != y->record->number)
        return x->record->number < y->record->number ? -1 : 1;
    return (x->file->rank > y->file->rank) - (x->file->rank < y->file->rank);
}

static bool is_same_collective(const CommRecord *a, const CommRecord *b)
{
    return a->kind == b->kind && a->tag == b->tag && a->size_bytes == b->size_bytes && a->peer == b->peer;
}

/* "ranks 0, 2 and 3" of those events that are the same as the first one. */
static void add_ranks(StrBuf *text, const Event *events, uint32_t n, const CommRecord *like)
{
    uint32_t n_like = 0, i_like = 0;
    for (uint32_t i = 0; i < n; i++)
        n_like += is_same_collective(events[i].record, like);
    strbuf_add(text, n_like == 1 ? "rank " : "ranks ");
    for (uint32_t i = 0; i < n; i++)
        if (is_same_collective(events[i].record, like))
        {
            strbuf_addf(text, "%s%" PRIu32,
                        i_like == 0            ? ""
                        : i_like + 1 == n_like ? " and "
                                               : ", ",
                        events[i].file->rank);
            i_like++;
        }
}

/* One collective, of all ranks that recorded it. */
static void compare_collective(Search *search, const Event *events, uint32_t n)
{
    const CommRecord *first = events[0].record;
    const CommRecord *other = NULL;
    int64_t at_us = first->start_us;
    for (uint32_t i = 1; i < n; i++)
    {
        if (!other && !is_same_collective(events[i].record, first))
            other = events[i].record;
        if (events[i].record->start_us < at_us)
            at_us = events[i].record->start_us;
    }
    if (other)
    {
        StrBuf text = strbuf_make(search->arena);
        strbuf_addf(&text, "collective %" PRIu64 " of %s: ", first->number, first->comm);
        add_ranks(&text, events, n, first);
        strbuf_addf(&text, " started %s, ", record_text(search->arena, first));
        add_ranks(&text, events, n, other);
        strbuf_addf(&text, " %s", record_text(search->arena, other));
        add_finding(search, FINDING_DIFFERS, at_us, strbuf_text(&text));
        return;
    }
    const Event *waiter = NULL;
    for (uint32_t i = 0; i < n; i++)
        if (is_waiting_in(&events[i]) && (!waiter || events[i].record->start_us < waiter->record->start_us))
            waiter = &events[i];
    const DiagnoseComm *comm = NULL;
    for (uint32_t c = 0; waiter && c < waiter->file->n_comms && !comm; c++)
        if (strcmp(waiter->file->comms[c].name, first->comm) == 0)
            comm = &waiter->file->comms[c];
    for (uint32_t m = 0, i; comm && m < comm->n_ranks; m++)
    {
        for (i = 0; i < n && events[i].file->rank != comm->ranks[m]; i++)
            continue;
        if (i == n)
            add_missing(search, waiter, comm->ranks[m],
                        arena_printf(search->arena,
                                     "collective %" PRIu64 " of %s: rank %" PRIu32 " waits in %s, and rank %" PRIu32
                                     " has not started it",
                                     first->number, first->comm, waiter->file->rank, record_text(search->arena, first),
                                     comm->ranks[m]));
    }
}

/* ---- messages */

static uint32_t sender(const Event *event)
{
    return event->record->kind == COMM_KIND_SEND ? event->file->rank : event->record->peer;
}

static uint32_t receiver(const Event *event)
{
    return event->record->kind == COMM_KIND_SEND ? event->record->peer : event->file->rank;
}

/* Same channel and number: the send, then the receive. */
static int by_message(const void *a, const void *b)
{
    const Event *x = a, *y = b;
    int names = strcmp(x->record->comm, y->record->comm);
    if (names)
        return names;
    const uint64_t kx[] = {sender(x), receiver(x), x->record->tag, x->record->number, x->record->kind};
    const uint64_t ky[] = {sender(y), receiver(y), y->record->tag, y->record->number, y->record->kind};
    for (int i = 0; i < 5; i++)
        if (kx[i] != ky[i])
            return kx[i] < ky[i] ? -1 : 1;
    return 0;
}

static bool is_same_message(const Event *a, const Event *b)
{
    return strcmp(a->record->comm, b->record->comm) == 0 && sender(a) == sender(b) && receiver(a) == receiver(b) &&
           a->record->tag == b->record->tag && a->record->number == b->record->number;
}

static void compare_message(Search *search, const Event *a, const Event *b)
{
    if (a->record->size_bytes == b->record->size_bytes || a->record->kind == b->record->kind)
        return;
    const Event *recv = a->record->kind == COMM_KIND_RECV ? a : b, *send = recv == a ? b : a;
    add_finding(search, FINDING_DIFFERS,
                send->record->start_us < recv->record->start_us ? send->record->start_us : recv->record->start_us,
                arena_printf(search->arena,
                             "rank %" PRIu32 " receives %" PRIu64 " bytes from rank %" PRIu32 " with tag %" PRIu32
                             " (number %" PRIu64 "), which sent %" PRIu64,
                             receiver(recv), recv->record->size_bytes, sender(recv), recv->record->tag,
                             recv->record->number, send->record->size_bytes));
}

/* A message of which only one side was recorded. */
static void lone_message(Search *search, const Event *event)
{
    const CommRecord *record = event->record;
    if (!is_waiting_in(event))
        return;
    bool is_send = record->kind == COMM_KIND_SEND;
    add_missing(search, event, record->peer,
                arena_printf(search->arena,
                             "rank %" PRIu32 " waits in %s (number %" PRIu64 "), which rank %" PRIu32 " has not %s",
                             event->file->rank, record_text(search->arena, record), record->number, record->peer,
                             is_send ? "received" : "sent"));
}

/* ---- the search */

typedef VEC(Event) EventList;

static Finding find_first(Arena *arena, const Diagnosis *diagnosis, uint32_t *out_n_findings)
{
    Search search = {arena, diagnosis, {FINDING_NONE, 0, NULL}, 0};
    EventList collectives = {0}, messages = {0};
    for (uint32_t r = 0; r < diagnosis->size; r++)
        for (uint32_t i = 0; diagnosis->files[r] && i < diagnosis->files[r]->n_entries; i++)
        {
            Event event = {diagnosis->files[r], &diagnosis->files[r]->entries[i]};
            if (comm_kind_is_collective(event.record->kind))
                vec_push(arena, &collectives, event);
            else
                vec_push(arena, &messages, event);
        }
    if (collectives.len > 0)
        qsort(collectives.data, collectives.len, sizeof(Event), by_collective);
    if (messages.len > 0)
        qsort(messages.data, messages.len, sizeof(Event), by_message);
    for (uint32_t i = 0, n; i < collectives.len; i += n)
    {
        const Event *first = &collectives.data[i];
        for (n = 1; i + n < collectives.len && first[n].record->number == first->record->number &&
                    strcmp(first[n].record->comm, first->record->comm) == 0;)
            n++;
        compare_collective(&search, first, n);
    }
    for (uint32_t i = 0; i < messages.len; i++)
    {
        const Event *event = &messages.data[i];
        if (i + 1 < messages.len && is_same_message(event, event + 1))
        {
            compare_message(&search, event, event + 1);
            i++;
        }
        else
            lone_message(&search, event);
    }
    *out_n_findings = search.n_findings;
    return search.first;
}

/* ---- the report */

static void add_rank(Arena *arena, StrBuf *report, const DiagnoseFile *file)
{
    const CommRecord *last = NULL, *waiting = waiting_record(file);
    uint32_t n_open = 0;
    for (uint32_t i = 0; i < file->n_entries; i++)
    {
        const CommRecord *r = &file->entries[i];
        if (r->end_us > 0 && (!last || r->end_us >= last->end_us))
            last = r;
        n_open += r->end_us == 0 && r != waiting;
    }
    strbuf_addf(report, "rank %" PRIu32 " (host %s, pid %" PRId64 ")\n", file->rank, file->host, file->pid);
    strbuf_addf(report, "  last done  %s\n", last ? record_text(arena, last) : "nothing");
    strbuf_addf(report, "  was in     %s\n", waiting ? record_text(arena, waiting) : "no operation");
    if (n_open > 0)
        strbuf_addf(report, "  under way  %" PRIu32 " sums\n", n_open);
    strbuf_addf(report, "  reason     %s%s%s\n", file->status, *file->status ? ": " : "", file->reason);
}

Status diagnose_folder(Arena *arena, const char *folder, StrBuf *out_report)
{
    Diagnosis diagnosis;
    TRY(diagnose_read(arena, folder, &diagnosis));
    strbuf_addf(out_report, "%" PRIu32 " of %" PRIu32 " ranks left a file\n\n", diagnosis.n_files, diagnosis.size);
    for (uint32_t r = 0; r < diagnosis.size; r++)
        if (diagnosis.files[r])
            add_rank(arena, out_report, diagnosis.files[r]);
        else
            strbuf_addf(out_report, "rank %" PRIu32 "\n  no file: it was ended from outside, or wrote elsewhere\n", r);
    uint32_t n_findings;
    Finding first = find_first(arena, &diagnosis, &n_findings);
    if (first.kind == FINDING_NONE)
        strbuf_add(out_report, "\nno divergence: as far as the files go, the ranks did the same\n");
    else
        strbuf_addf(out_report, "\nfirst divergence: %s\n", first.text);
    if (n_findings > 1)
        strbuf_addf(out_report, "(%" PRIu32 " more follow from it or happened later)\n", n_findings - 1);
    return STATUS_OK;
}
