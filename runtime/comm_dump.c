/* Writes the flight recorder as JSON. The file appears whole, but is not synced to disk: that can take many seconds on
 * a busy one, and a rank that has failed has to end. */
#include "runtime/comm_ops.h"
#include "runtime/durable_file.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Text from the user's files need not be UTF-8, which JSON wants. */
static json_t *text_json(const char *text)
{
    if (!text)
        return json_null();
    json_t *value = json_string(text);
    if (value)
        return value;
    char *plain = strdup(text);
    for (char *c = plain; c && *c; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    value = json_string(plain ? plain : "");
    free(plain);
    return value;
}

static json_t *count_json(uint64_t value, bool is_there)
{
    return is_there ? json_integer((json_int_t)value) : json_null();
}

static json_t *record_json(const CommRecord *r)
{
    return json_pack("{s:I, s:o, s:s, s:I, s:o, s:o, s:I, s:o, s:o, s:o, s:I, s:I, s:s}", "seq", (json_int_t)r->seq,
                     "comm", text_json(r->comm), "op", comm_kind_name(r->kind), "number", (json_int_t)r->number, "peer",
                     count_json(r->peer, r->peer != COMM_NO_RANK), "tag", count_json(r->tag, r->tag != COMM_NO_TAG),
                     "bytes", (json_int_t)r->size_bytes, "what", text_json(r->what), "step",
                     count_json((uint64_t)r->step, r->step >= 0), "micro_batch",
                     count_json((uint64_t)r->micro_batch, r->micro_batch >= 0), "start_us", (json_int_t)r->start_us,
                     "end_us", (json_int_t)r->end_us, "state", r->end_us ? "completed" : "started");
}

static int by_seq(const void *a, const void *b)
{
    const CommRecord *const *x = a, *const *y = b;
    return ((*x)->seq > (*y)->seq) - ((*x)->seq < (*y)->seq);
}

/* What the ring holds, and sums that started so long ago that it does not hold them any more; oldest first. */
static json_t *entries_json(const CommWorld *world)
{
    uint32_t n = 0, n_sums = 0;
    for (const Comm *comm = world->comms; comm; comm = comm->next)
        for (const CommSum *sum = comm->running; sum; sum = sum->next)
            n_sums++;
    const CommRecord **records = comm_alloc((COMM_RECORDS + n_sums) * sizeof *records);
    for (uint32_t i = 0; i < COMM_RECORDS; i++)
        if (world->recorder.ring[i].seq > 0)
            records[n++] = &world->recorder.ring[i];
    for (const Comm *comm = world->comms; comm; comm = comm->next)
        for (const CommSum *sum = comm->running; sum; sum = sum->next)
            if (world->recorder.ring[sum->record.seq % COMM_RECORDS].seq != sum->record.seq)
                records[n++] = &sum->record;
    qsort(records, n, sizeof *records, by_seq);
    json_t *entries = json_array();
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(entries, record_json(records[i]));
    free(records);
    return entries;
}

static json_t *comms_json(const CommWorld *world)
{
    json_t *comms = json_array();
    for (const Comm *comm = world->comms; comm; comm = comm->next)
    {
        json_t *ranks = json_array();
        for (uint32_t r = 0; r < comm->size; r++)
            json_array_append_new(ranks, json_integer(comm->ranks[r]));
        json_array_append_new(comms, json_pack("{s:o, s:o}", "name", text_json(comm->name), "ranks", ranks));
    }
    return comms;
}

static Status put_file(const char *path, const char *text)
{
    char temp[PATH_MAX + 32];
    snprintf(temp, sizeof temp, "%s.tmp-%ld", path, (long)getpid());
    FILE *file = fopen(temp, "we");
    bool failed = !file || fputs(text, file) < 0;
    failed = (file && fclose(file) != 0) || failed;
    if (!failed && rename(temp, path) == 0)
        return STATUS_OK;
    Status status = status_fail(STATUS_IO, "cannot write '%s': %s", path, strerror(errno));
    unlink(temp);
    return status;
}

Status comm_dump_write(const CommWorld *world, const char *reason)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    json_t *root =
        json_pack("{s:i, s:s, s:I, s:I, s:o, s:I, s:o, s:o, s:I, s:o, s:o, s:o}", "format", COMM_RECORD_FORMAT, "ptc",
                  PTC_VERSION, "rank", (json_int_t)world->rank, "size", (json_int_t)world->size, "host",
                  text_json(world->peers[world->rank].host), "pid", (json_int_t)world->peers[world->rank].pid, "status",
                  text_json(world->stopped_by_caller ? NULL : status_text(world->failure)), "reason", text_json(reason),
                  "time_us", (json_int_t)now.tv_sec * 1000000 + now.tv_nsec / 1000, "waiting",
                  count_json(world->waiting_seq, world->waiting_seq > 0), "comms", comms_json(world), "entries",
                  entries_json(world));
    char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    json_decref(root);
    char path[PATH_MAX];
    Status status = STATUS_OK;
    if (!text)
        status = status_fail(STATUS_OUT_OF_MEMORY, "no memory to write the last operations");
    else if (snprintf(path, sizeof path, "%s/rank-%u.json", world->dump_dir, world->rank) >= (int)sizeof path)
        status = status_fail(STATUS_BAD_INPUT, "path too long: '%s'", world->dump_dir);
    if (status == STATUS_OK)
        status = durable_folder_create(world->dump_dir);
    if (status == STATUS_OK)
        status = put_file(path, text);
    free(text);
    return status;
}
