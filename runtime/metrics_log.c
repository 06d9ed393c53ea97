/* Writer of metrics.jsonl. Appends each row with one write; resuming rewrites the file once. */
#include "runtime/metrics_log.h"

#include "base/arena.h"
#include "base/strbuf.h"
#include "runtime/durable_file.h"
#include "runtime/mapped_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct MetricsLog
{
    char *path;
    Arena *arena; /* of the row being made */
    int fd;
};

static Status open_log(const char *path, MetricsLog **out_log)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0)
        return status_fail(STATUS_IO, "cannot open '%s': %s", path, strerror(errno));
    MetricsLog *log = malloc(sizeof *log);
    char *path_copy = strdup(path);
    if (!log || !path_copy)
    {
        free(log);
        free(path_copy);
        close(fd);
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory to open '%s'", path);
    }
    *log = (MetricsLog){.path = path_copy, .arena = arena_create(), .fd = fd};
    *out_log = log;
    return STATUS_OK;
}

static Status write_first_row(MetricsLog **log)
{
    const Metric schema = METRIC_U64("schema", METRICS_SCHEMA_VERSION);
    Status status = metrics_log_event(*log, 0, "start", &schema, 1);
    if (status != STATUS_OK)
        metrics_log_close(*log);
    return status;
}

Status metrics_log_create(const char *path, MetricsLog **out_log)
{
    if (unlink(path) != 0 && errno != ENOENT)
        return status_fail(STATUS_IO, "cannot replace '%s': %s", path, strerror(errno));
    TRY(open_log(path, out_log));
    return write_first_row(out_log);
}

void metrics_log_close(MetricsLog *log)
{
    if (!log)
        return;
    close(log->fd);
    arena_destroy(log->arena);
    free(log->path);
    free(log);
}

/* ---- resume */

typedef struct
{
    uint64_t step;
    const char *const *redone;
    uint32_t n_redone;
    size_t checkpoint_at; /* the last event "checkpoint" of the step; SIZE_MAX: there is none */
} Resume;

static bool is_redone(const Resume *resume, const char *event)
{
    for (uint32_t i = 0; event && i < resume->n_redone; i++)
        if (strcmp(event, resume->redone[i]) == 0)
            return true;
    return false;
}

/* The row at that place in the file. *out_keep: it is whole, of a step up to resume->step, and does not come again.
 * True when it is the event of a checkpoint at that step. */
static bool judge_row(const Resume *resume, const char *row, size_t n_bytes, size_t at, bool *out_keep)
{
    json_error_t error;
    json_t *object = json_loadb(row, n_bytes, 0, &error);
    const json_t *number = json_object_get(object, "step");
    const char *event = json_string_value(json_object_get(object, "event"));
    const bool known = json_is_integer(number) && json_integer_value(number) >= 0;
    const uint64_t step = known ? (uint64_t)json_integer_value(number) : 0;
    const bool behind = step == resume->step && at > resume->checkpoint_at;
    const bool checkpoint = known && step == resume->step && event && strcmp(event, "checkpoint") == 0;
    *out_keep = known && step <= resume->step && !(behind && is_redone(resume, event));
    json_decref(object);
    return checkpoint;
}

/* Copies the rows to keep to `out`; NULL: only looks for the checkpoint. *out_n_kept counts them. */
static Status walk_rows(const MappedFile *old, Resume *resume, DurableFile *out, uint64_t *out_n_kept)
{
    const char *at = old->data;
    const char *end = at + old->size_bytes;
    *out_n_kept = 0;
    while (at && at < end)
    {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        if (!newline)
            break; /* torn */
        const size_t n_bytes = (size_t)(newline + 1 - at), place = (size_t)(at - (const char *)old->data);
        bool keep;
        const bool checkpoint = judge_row(resume, at, n_bytes, place, &keep);
        if (!out && checkpoint)
            resume->checkpoint_at = place;
        if (out && keep)
        {
            TRY(durable_file_write(out, at, n_bytes));
            ++*out_n_kept;
        }
        at = newline + 1;
    }
    return STATUS_OK;
}

Status metrics_log_resume(const char *path, uint64_t step, const char *const *redone, uint32_t n_redone,
                          MetricsLog **out_log)
{
    if (access(path, F_OK) != 0 && errno == ENOENT)
        return metrics_log_create(path, out_log);
    MappedFile old;
    TRY(mapped_file_open(path, &old));
    DurableFile *out;
    uint64_t n_kept = 0;
    Resume resume = {.step = step, .redone = redone, .n_redone = n_redone, .checkpoint_at = SIZE_MAX};
    Status status = durable_file_create(path, &out);
    if (status == STATUS_OK)
    {
        walk_rows(&old, &resume, NULL, &n_kept);
        walk_rows(&old, &resume, out, &n_kept); /* commit reports the failure */
        status = durable_file_commit(out, NULL);
    }
    mapped_file_close(&old);
    TRY(status);
    TRY(open_log(path, out_log));
    return n_kept == 0 ? write_first_row(out_log) : STATUS_OK;
}

/* ---- rows */

static void add_text(StrBuf *row, const char *text)
{
    strbuf_add(row, "\"");
    for (const unsigned char *at = (const unsigned char *)text; *at; at++)
    {
        if (*at == '"' || *at == '\\')
            strbuf_addf(row, "\\%c", *at);
        else if (*at < 0x20 || *at == 0x7f)
            strbuf_addf(row, "\\u%04x", *at);
        else
            strbuf_add_bytes(row, (const char *)at, 1);
    }
    strbuf_add(row, "\"");
}

static void add_number(StrBuf *row, double number)
{
    if (isfinite(number))
        strbuf_add_f64(row, number);
    else
        strbuf_add(row, "null");
}

static void add_metric(StrBuf *row, const Metric *metric)
{
    strbuf_add(row, ",");
    add_text(row, metric->key);
    strbuf_add(row, ":");
    switch (metric->kind)
    {
    case METRIC_KIND_F64:
        add_number(row, metric->f64);
        break;
    case METRIC_KIND_F64S:
        for (uint32_t i = 0; i < metric->n; i++)
        {
            strbuf_add(row, i ? "," : "[");
            add_number(row, metric->f64s[i]);
        }
        strbuf_add(row, metric->n ? "]" : "[]");
        break;
    case METRIC_KIND_U64:
        strbuf_addf(row, "%" PRIu64, metric->u64);
        break;
    case METRIC_KIND_TEXT:
        add_text(row, metric->text);
        break;
    }
}

/* The row with its newline, in one write: nothing of it is in our memory when this returns. */
static Status append(MetricsLog *log, StrBuf *row)
{
    strbuf_add(row, "}\n");
    size_t done = 0;
    while (done < row->len)
    {
        ssize_t n = write(log->fd, row->data + done, row->len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return status_fail(STATUS_IO, "cannot write '%s': %s", log->path, strerror(errno));
        done += (size_t)n;
    }
    return STATUS_OK;
}

static StrBuf start_row(MetricsLog *log, const char *split, uint64_t step)
{
    arena_reset(log->arena);
    StrBuf row = strbuf_make(log->arena);
    strbuf_add(&row, "{\"split\":");
    add_text(&row, split);
    strbuf_addf(&row, ",\"step\":%" PRIu64, step);
    return row;
}

Status metrics_log_row(MetricsLog *log, const char *split, uint64_t step, const Metric *metrics, uint32_t n_metrics)
{
    StrBuf row = start_row(log, split, step);
    for (uint32_t i = 0; i < n_metrics; i++)
        add_metric(&row, &metrics[i]);
    return append(log, &row);
}

Status metrics_log_event(MetricsLog *log, uint64_t step, const char *event, const Metric *metrics, uint32_t n_metrics)
{
    StrBuf row = start_row(log, "event", step);
    const Metric name = METRIC_TEXT("event", event);
    add_metric(&row, &name);
    for (uint32_t i = 0; i < n_metrics; i++)
        add_metric(&row, &metrics[i]);
    return append(log, &row);
}
