/* Reads the files of flight recorders. Nothing in them is trusted: they may be of a crash. */
#include "runtime/diagnose.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum
{
    MAX_RANKS = 1 << 16,
    MAX_ENTRIES = 1 << 16
};

/* A JSON object with the name of its file, for messages. */
typedef struct
{
    Arena *arena;
    const char *path;
    const json_t *object;
    const char *what; /* "" or "entry 3: " */
} Reader;

static Status malformed(const Reader *in, const char *key, const char *wants)
{
    return status_fail(STATUS_BAD_INPUT, "%s: %s'%s' is not %s", in->path, in->what, key, wants);
}

static Status read_integer(const Reader *in, const char *key, int64_t least, int64_t most, int64_t *out_value)
{
    const json_t *value = json_object_get(in->object, key);
    if (!json_is_integer(value) || json_integer_value(value) < least || json_integer_value(value) > most)
        return malformed(in, key, most == INT64_MAX ? "a number of that kind" : "a number in its range");
    *out_value = json_integer_value(value);
    return STATUS_OK;
}

/* As read_integer; null stands for nothing. */
static Status read_optional(const Reader *in, const char *key, int64_t most, int64_t nothing, int64_t *out_value)
{
    if (json_is_null(json_object_get(in->object, key)))
    {
        *out_value = nothing;
        return STATUS_OK;
    }
    return read_integer(in, key, 0, most, out_value);
}

/* Control characters could rewrite the terminal. */
static const char *clean(Arena *arena, const char *text)
{
    char *copy = arena_strdup(arena, text);
    for (char *c = copy; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    return copy;
}

static Status read_text(const Reader *in, const char *key, bool may_be_null, const char **out_text)
{
    const json_t *value = json_object_get(in->object, key);
    *out_text = "";
    if (may_be_null && json_is_null(value))
        return STATUS_OK;
    if (!json_is_string(value))
        return malformed(in, key, "a text");
    *out_text = clean(in->arena, json_string_value(value));
    return STATUS_OK;
}

static Status read_comm(const Reader *in, uint32_t size, DiagnoseComm *out_comm)
{
    TRY(read_text(in, "name", false, &out_comm->name));
    const json_t *ranks = json_object_get(in->object, "ranks");
    if (!json_is_array(ranks) || json_array_size(ranks) > size)
        return malformed(in, "ranks", "a list of ranks");
    uint32_t n = (uint32_t)json_array_size(ranks), *copy = ARENA_ARRAY(in->arena, uint32_t, n);
    for (uint32_t i = 0; i < n; i++)
    {
        const json_t *rank = json_array_get(ranks, i);
        if (!json_is_integer(rank) || json_integer_value(rank) < 0 || json_integer_value(rank) >= size)
            return malformed(in, "ranks", "a list of ranks");
        copy[i] = (uint32_t)json_integer_value(rank);
    }
    out_comm->ranks = copy;
    out_comm->n_ranks = n;
    return STATUS_OK;
}

static Status read_entry(const Reader *in, uint32_t size, CommRecord *out_record)
{
    const char *kind, *state;
    int64_t seq, number, peer, tag, bytes, step, micro_batch;
    CommRecord *r = out_record;
    TRY(read_integer(in, "seq", 1, INT64_MAX, &seq));
    TRY(read_text(in, "comm", false, &r->comm));
    TRY(read_text(in, "op", false, &kind));
    TRY(read_integer(in, "number", 1, INT64_MAX, &number));
    TRY(read_optional(in, "peer", (int64_t)size - 1, COMM_NO_RANK, &peer));
    TRY(read_optional(in, "tag", UINT32_MAX - 1, COMM_NO_TAG, &tag));
    TRY(read_integer(in, "bytes", 0, INT64_MAX, &bytes));
    TRY(read_text(in, "what", true, &r->what));
    TRY(read_optional(in, "step", INT64_MAX, -1, &step));
    TRY(read_optional(in, "micro_batch", INT32_MAX, -1, &micro_batch));
    TRY(read_integer(in, "start_us", 0, INT64_MAX, &r->start_us));
    TRY(read_integer(in, "end_us", 0, INT64_MAX, &r->end_us));
    TRY(read_text(in, "state", false, &state));
    r->kind = comm_kind_by_name(kind);
    if (r->kind == COMM_KIND_COUNT)
        return malformed(in, "op", "an operation");
    bool is_completed = strcmp(state, "completed") == 0;
    if ((!is_completed && strcmp(state, "started") != 0) || is_completed != (r->end_us > 0))
        return malformed(in, "state", "its state");
    if (!comm_kind_is_collective(r->kind) && (peer == COMM_NO_RANK || tag == COMM_NO_TAG))
        return malformed(in, "peer", "there, or 'tag' is not");
    r->seq = (uint64_t)seq;
    r->number = (uint64_t)number;
    r->peer = (uint32_t)peer;
    r->tag = (uint32_t)tag;
    r->size_bytes = (uint64_t)bytes;
    r->step = step;
    r->micro_batch = (int32_t)micro_batch;
    if (!*r->what)
        r->what = NULL;
    return STATUS_OK;
}

/* An array of objects: how many; STATUS_BAD_INPUT when it is none. */
static Status read_array(const Reader *in, const char *key, const json_t **out_array, uint32_t *out_n)
{
    *out_array = json_object_get(in->object, key);
    if (!json_is_array(*out_array) || json_array_size(*out_array) > MAX_ENTRIES)
        return malformed(in, key, "a list");
    *out_n = (uint32_t)json_array_size(*out_array);
    return STATUS_OK;
}

static Status read_file(const Reader *in, DiagnoseFile *out_file)
{
    DiagnoseFile *f = out_file;
    const json_t *comms, *entries;
    int64_t format, rank, size, waiting;
    if (!json_is_object(in->object))
        return status_fail(STATUS_BAD_INPUT, "%s: not an object", in->path);
    TRY(read_integer(in, "format", COMM_RECORD_FORMAT, COMM_RECORD_FORMAT, &format));
    TRY(read_integer(in, "size", 1, MAX_RANKS, &size));
    TRY(read_integer(in, "rank", 0, size - 1, &rank));
    TRY(read_text(in, "host", false, &f->host));
    TRY(read_integer(in, "pid", 0, INT64_MAX, &f->pid));
    TRY(read_text(in, "status", true, &f->status));
    TRY(read_text(in, "reason", true, &f->reason));
    TRY(read_optional(in, "waiting", INT64_MAX, 0, &waiting));
    TRY(read_array(in, "comms", &comms, &f->n_comms));
    TRY(read_array(in, "entries", &entries, &f->n_entries));
    f->path = in->path;
    f->rank = (uint32_t)rank;
    f->size = (uint32_t)size;
    f->waiting = (uint64_t)waiting;
    DiagnoseComm *all_comms = ARENA_ARRAY(in->arena, DiagnoseComm, f->n_comms);
    for (uint32_t i = 0; i < f->n_comms; i++)
    {
        Reader part = {in->arena, in->path, json_array_get(comms, i),
                       arena_printf(in->arena, "communicator %" PRIu32 ": ", i + 1)};
        TRY(read_comm(&part, f->size, &all_comms[i]));
    }
    CommRecord *all_entries = ARENA_ARRAY(in->arena, CommRecord, f->n_entries);
    for (uint32_t i = 0; i < f->n_entries; i++)
    {
        Reader part = {in->arena, in->path, json_array_get(entries, i),
                       arena_printf(in->arena, "entry %" PRIu32 ": ", i + 1)};
        TRY(read_entry(&part, f->size, &all_entries[i]));
        if (i > 0 && all_entries[i].seq <= all_entries[i - 1].seq)
            return malformed(&part, "seq", "in order");
    }
    f->comms = all_comms;
    f->entries = all_entries;
    return STATUS_OK;
}

/* N of "rank-N.json", or -1. */
static long rank_of_name(const char *name)
{
    char *end;
    if (strncmp(name, "rank-", 5) != 0 || name[5] < '0' || name[5] > '9')
        return -1;
    long rank = strtol(name + 5, &end, 10);
    return strcmp(end, ".json") == 0 && rank < MAX_RANKS ? rank : -1;
}

typedef VEC(const DiagnoseFile *) FileList;

static Status read_named(Arena *arena, const char *folder, const char *name, FileList *files)
{
    const char *path = arena_printf(arena, "%s/%s", folder, name);
    json_error_t error;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return status_fail(STATUS_BAD_INPUT, "%s: %d:%d: %s", path, error.line, error.column, clean(arena, error.text));
    DiagnoseFile *file = ARENA_NEW(arena, DiagnoseFile);
    Reader reader = {arena, path, root, ""};
    Status status = read_file(&reader, file);
    json_decref(root);
    TRY(status);
    if ((long)file->rank != rank_of_name(name))
        return status_fail(STATUS_BAD_INPUT, "%s: says that it is of rank %" PRIu32, path, file->rank);
    vec_push(arena, files, file);
    return STATUS_OK;
}

Status diagnose_read(Arena *arena, const char *folder, Diagnosis *out_diagnosis)
{
    DIR *dir = opendir(folder);
    if (!dir)
        return status_fail(STATUS_BAD_INPUT, "cannot read folder '%s': %s", folder, strerror(errno));
    FileList files = {0};
    Status status = STATUS_OK;
    for (struct dirent *entry; status == STATUS_OK && (entry = readdir(dir));)
        if (rank_of_name(entry->d_name) >= 0)
            status = read_named(arena, folder, entry->d_name, &files);
    closedir(dir);
    TRY(status);
    if (files.len == 0)
        return status_fail(STATUS_BAD_INPUT, "no rank-N.json in folder '%s'", folder);
    const uint32_t size = files.data[0]->size;
    const DiagnoseFile **by_rank = ARENA_ARRAY(arena, const DiagnoseFile *, size);
    for (uint32_t i = 0; i < files.len; i++)
    {
        const DiagnoseFile *file = files.data[i];
        if (file->size != size)
            return status_fail(STATUS_BAD_INPUT, "%s: of a job of %" PRIu32 " ranks, but %s of one of %" PRIu32,
                               file->path, file->size, files.data[0]->path, size);
        if (by_rank[file->rank])
            return status_fail(STATUS_BAD_INPUT, "%s: rank %" PRIu32 " is also in %s", file->path, file->rank,
                               by_rank[file->rank]->path);
        by_rank[file->rank] = file;
    }
    *out_diagnosis = (Diagnosis){size, by_rank, files.len};
    return STATUS_OK;
}
