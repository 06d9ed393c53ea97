/* Reading source files: nothing but regular files of bounded size that hold UTF-8 gets further. */
#include "frontend/source.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

const char *source_dir(Arena *arena, const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return ".";
    return slash == path ? "/" : arena_strndup(arena, path, (size_t)(slash - path));
}

const char *source_join(Arena *arena, const char *dir, const char *name)
{
    if (name[0] == '/' || strcmp(dir, ".") == 0)
        return arena_strdup(arena, name);
    return arena_printf(arena, strcmp(dir, "/") == 0 ? "%s%s" : "%s/%s", dir, name);
}

Span source_span(const Source *source, uint32_t offset, uint32_t n_bytes)
{
    uint32_t low = 0, high = source->n_lines;
    while (high - low > 1)
    {
        uint32_t middle = low + (high - low) / 2;
        if (source->lines[middle] <= offset)
            low = middle;
        else
            high = middle;
    }
    return (Span){
        .file = source->file, .line = low + 1, .col = offset - source->lines[low] + 1, .n_cols = n_bytes ? n_bytes : 1};
}

static void index_lines(Arena *arena, Source *source)
{
    VEC(uint32_t) lines = {0};
    vec_push(arena, &lines, 0);
    for (uint32_t i = 0; i < source->n_bytes; i++)
        if (source->text[i] == '\n')
            vec_push(arena, &lines, i + 1);
    source->lines = lines.data;
    source->n_lines = lines.len;
}

enum
{
    MAX_RUN_BYTES = 1 << 15
};

/* Length of the UTF-8 sequence at p (1..4), or 0 when it is not one (RFC 3629: no overlong forms, no surrogates). */
static uint32_t sequence_bytes(const unsigned char *p, size_t left)
{
    if (p[0] < 0x80)
        return 1;
    uint32_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || n > left)
        return 0;
    for (uint32_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

static bool is_name_of_utf8(const char *name, size_t n)
{
    static const char *const names[] = {"UTF-8", "UTF8"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == n && strncasecmp(names[i], name, n) == 0)
            return true;
    return false;
}

/* <?xml ... encoding="NAME" ?> must not name anything else, or libxml2 would convert and offsets would lie. */
static bool check_declaration(Diag *diag, const Source *source)
{
    const char *at = source->text;
    if (strncmp(at, "\xef\xbb\xbf", 3) == 0)
        at += 3;
    if (strncmp(at, "<?xml", 5) != 0)
        return true;
    const char *end = strstr(at, "?>");
    const char *key = strstr(at, "encoding");
    if (!end || !key || key > end)
        return true;
    const char *open = key + strlen("encoding");
    open += strspn(open, " \t\r\n=");
    const char *close = *open == '"' || *open == '\'' ? strchr(open + 1, *open) : NULL;
    if (!close || close > end || is_name_of_utf8(open + 1, (size_t)(close - open - 1)))
        return true;
    diag_error(diag, source_span(source, (uint32_t)(open + 1 - source->text), (uint32_t)(close - open - 1)),
               "encoding '%.*s' is not supported: save the file as UTF-8", (int)(close - open - 1), open + 1);
    return false;
}

/* A start tag holds no '<'. Bounding what is between two bounds the attributes of one, for which libxml2 takes
 * quadratic time. */
static bool check_runs(Diag *diag, const Source *source)
{
    uint32_t from = 0;
    for (uint32_t i = 0; i < source->n_bytes; i++)
    {
        if (source->text[i] == '<')
            from = i;
        if (i - from < MAX_RUN_BYTES)
            continue;
        diag_error(diag, source_span(source, from, 1), "more than %d bytes from here to the next '<'", MAX_RUN_BYTES);
        return false;
    }
    return true;
}

static bool check_encoding(Diag *diag, const Source *source)
{
    const unsigned char *bytes = (const unsigned char *)source->text;
    Span start = {.file = source->file, .line = 1};
    if (source->n_bytes == 0)
    {
        diag_error(diag, start, "the file is empty");
        return false;
    }
    bool utf16_mark = source->n_bytes >= 2 && ((bytes[0] == 0xff && bytes[1] == 0xfe) || //
                                               (bytes[0] == 0xfe && bytes[1] == 0xff));
    bool utf16_text = source->n_bytes >= 2 && (bytes[0] == 0) != (bytes[1] == 0);
    if (utf16_mark || utf16_text)
    {
        diag_error(diag, start, "the file is not UTF-8 (it looks like UTF-16): save it as UTF-8");
        return false;
    }
    for (uint32_t i = 0; i < source->n_bytes;)
    {
        uint32_t n = sequence_bytes(bytes + i, source->n_bytes - i);
        if (n == 0 || bytes[i] == 0)
        {
            diag_error(diag, source_span(source, i, 1), "byte 0x%02x is not UTF-8 text: save the file as UTF-8",
                       bytes[i]);
            return false;
        }
        i += n;
    }
    return check_declaration(diag, source) && check_runs(diag, source);
}

/* text: in the arena, NUL-terminated. */
static Source *make_source(Arena *arena, Diag *diag, const char *path, const char *text, size_t n_bytes)
{
    Source *source = ARENA_NEW(arena, Source);
    source->path = arena_strdup(arena, path);
    source->dir = source_dir(arena, path);
    source->text = text;
    source->n_bytes = (uint32_t)n_bytes;
    source->file = diag_add_file(diag, path, text, n_bytes);
    index_lines(arena, source);
    return check_encoding(diag, source) ? source : NULL;
}

Source *source_from_text(Arena *arena, Diag *diag, const char *path, const char *text, size_t n_bytes)
{
    return make_source(arena, diag, path, arena_strndup(arena, text, n_bytes), n_bytes);
}

/* Reads n bytes, fewer when the file became shorter; -1 on an error. */
static ssize_t read_all(int fd, char *to, size_t n)
{
    size_t got = 0;
    while (got < n)
    {
        ssize_t k = read(fd, to + got, n - got);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -1;
        if (k == 0)
            break;
        got += (size_t)k;
    }
    return (ssize_t)got;
}

Source *source_read(Arena *arena, Diag *diag, Span from, const char *path, uint64_t max_bytes)
{
    Source *source = NULL;
    struct stat info;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a FIFO must not block us */
    if (fd < 0 || fstat(fd, &info) != 0)
    {
        diag_error(diag, from, "cannot open '%s': %s", path, strerror(errno));
        goto out;
    }
    if (!S_ISREG(info.st_mode))
    {
        diag_error(diag, from, "cannot read '%s': it is not a file", path);
        goto out;
    }
    if ((uint64_t)info.st_size > max_bytes)
    {
        diag_error(diag, from, "'%s' has %lld bytes, more than the %llu that a model may have", path,
                   (long long)info.st_size, (unsigned long long)max_bytes);
        goto out;
    }
    char *text = arena_alloc(arena, (size_t)info.st_size + 1);
    ssize_t n_bytes = read_all(fd, text, (size_t)info.st_size);
    if (n_bytes < 0)
    {
        diag_error(diag, from, "cannot read '%s': %s", path, strerror(errno));
        goto out;
    }
    char real[PATH_MAX];
    source = make_source(arena, diag, path, text, (size_t)n_bytes);
    if (source)
        source->real = arena_strdup(arena, realpath(path, real) ? real : path);
out:
    if (fd >= 0)
        close(fd);
    return source;
}
