#include "base/diag.h"

#include "base/bug.h"
#include "base/strbuf.h"

#include <stdarg.h>
#include <string.h>

typedef enum
{
    ERROR,
    WARNING,
    NOTE
} Severity;

typedef struct
{
    Severity severity;
    Span span;
    const char *text;
    const char *suggestion;
} Message;

typedef struct
{
    const char *path;
    const char *text;
    size_t n_bytes;
} SourceFile;

struct Diag
{
    Arena *arena;
    VEC(SourceFile) files;
    VEC(Message) messages;
    uint32_t n_errors;
    bool last_dropped; /* the limit was reached: notes of what is not kept are not kept either */
};

Diag *diag_create(Arena *arena)
{
    Diag *diag = ARENA_NEW(arena, Diag);
    diag->arena = arena;
    return diag;
}

uint32_t diag_add_file(Diag *diag, const char *path, const char *text, size_t n_bytes)
{
    SourceFile file = {.path = arena_strdup(diag->arena, path), .text = text, .n_bytes = n_bytes};
    vec_push(diag->arena, &diag->files, file);
    return diag->files.len;
}

const char *diag_file_path(const Diag *diag, uint32_t file)
{
    ENSURE(file >= 1 && file <= diag->files.len);
    return diag->files.data[file - 1].path;
}

uint32_t diag_file_count(const Diag *diag)
{
    return diag->files.len;
}

static void add(Diag *diag, Severity severity, Span span, const char *format, va_list args)
{
    if (severity != NOTE)
        diag->last_dropped = diag->n_errors >= DIAG_LIMIT;
    if (severity == ERROR && !diag->last_dropped)
        diag->n_errors++;
    if (diag->last_dropped)
        return;
    Message message = {.severity = severity, .span = span, .text = arena_vprintf(diag->arena, format, args)};
    vec_push(diag->arena, &diag->messages, message);
}

void diag_error(Diag *diag, Span span, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    add(diag, ERROR, span, format, args);
    va_end(args);
}

void diag_warning(Diag *diag, Span span, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    add(diag, WARNING, span, format, args);
    va_end(args);
}

void diag_note(Diag *diag, Span span, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    add(diag, NOTE, span, format, args);
    va_end(args);
}

void diag_suggest(Diag *diag, const char *suggestion)
{
    if (suggestion && diag->messages.len && !diag->last_dropped)
        diag->messages.data[diag->messages.len - 1].suggestion = arena_strdup(diag->arena, suggestion);
}

uint32_t diag_error_count(const Diag *diag)
{
    return diag->n_errors;
}

bool diag_is_full(const Diag *diag)
{
    return diag->n_errors >= DIAG_LIMIT;
}

/* The line's text without its end of line; NULL when there is no such line. */
static const char *find_line(const SourceFile *file, uint32_t line, size_t *out_n_bytes)
{
    if (!file->text)
        return NULL;
    const char *at = file->text, *end = file->text + file->n_bytes;
    for (uint32_t i = 1; i < line; i++)
    {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        if (!newline)
            return NULL;
        at = newline + 1;
    }
    const char *newline = memchr(at, '\n', (size_t)(end - at));
    *out_n_bytes = (size_t)((newline ? newline : end) - at);
    if (*out_n_bytes && at[*out_n_bytes - 1] == '\r')
        (*out_n_bytes)--;
    return at;
}

enum
{
    MAX_LINE_SHOWN = 160
};

/* Control bytes must not reach the terminal; a tab is kept so that the caret line aligns. */
static void print_source(FILE *out, const char *text, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++)
    {
        unsigned char c = (unsigned char)text[i];
        fputc(c == '\t' || c >= 0x80 || (c >= 0x20 && c != 0x7f) ? c : '?', out);
    }
}

static void print_caret(const Diag *diag, const Message *message, FILE *out, bool colour)
{
    const Span *span = &message->span;
    size_t n_bytes = 0;
    const char *line = find_line(&diag->files.data[span->file - 1], span->line, &n_bytes);
    if (!line || span->col == 0 || span->col > n_bytes + 1)
        return;
    size_t first = 0; /* a window into a very long line */
    if (span->col > MAX_LINE_SHOWN / 2 && n_bytes > MAX_LINE_SHOWN)
        first = span->col - MAX_LINE_SHOWN / 2;
    while (first > 0 && first < n_bytes && ((unsigned char)line[first] & 0xc0) == 0x80)
        first--; /* not in the middle of a UTF-8 sequence */
    size_t shown = n_bytes - first < MAX_LINE_SHOWN ? n_bytes - first : MAX_LINE_SHOWN;
    while (first + shown < n_bytes && shown > 0 && ((unsigned char)line[first + shown] & 0xc0) == 0x80)
        shown--;
    fprintf(out, "%7u | ", span->line);
    print_source(out, line + first, shown);
    fputs("\n        | ", out);
    for (size_t i = first; i + 1 < span->col; i++)
        if (((unsigned char)line[i] & 0xc0) != 0x80)
            fputc(line[i] == '\t' ? '\t' : ' ', out);
    fputs(colour ? "\033[1;32m" : "", out);
    uint32_t width = span->n_cols ? span->n_cols : 1;
    for (uint32_t i = 0; i < width && (i == 0 || span->col - 1 + i < first + shown); i++)
        if (i == 0 || ((unsigned char)line[span->col - 1 + i] & 0xc0) != 0x80)
            fputc('^', out);
    fputs(colour ? "\033[0m" : "", out);
    if (message->suggestion)
        fprintf(out, " did you mean '%s'?", message->suggestion);
    fputc('\n', out);
}

void diag_print(const Diag *diag, FILE *out, bool colour)
{
    static const char *const names[] = {"error", "warning", "note"};
    static const char *const colours[] = {"\033[1;31m", "\033[1;35m", "\033[1;36m"};
    for (uint32_t i = 0; i < diag->messages.len; i++)
    {
        const Message *message = &diag->messages.data[i];
        const Span *span = &message->span;
        if (!span->file)
            fputs("ptc: ", out);
        else if (!span->line)
            fprintf(out, "%s: ", diag_file_path(diag, span->file));
        else if (!span->col)
            fprintf(out, "%s:%u: ", diag_file_path(diag, span->file), span->line);
        else
            fprintf(out, "%s:%u:%u: ", diag_file_path(diag, span->file), span->line, span->col);
        if (colour)
            fprintf(out, "%s%s:\033[0m %s\n", colours[message->severity], names[message->severity], message->text);
        else
            fprintf(out, "%s: %s\n", names[message->severity], message->text);
        if (span->file && span->line)
            print_caret(diag, message, out, colour);
    }
    if (diag->n_errors >= DIAG_LIMIT)
        fprintf(out, "ptc: too many errors, the rest is not shown\n");
}
