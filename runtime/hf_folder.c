/* Order of events, each durable before the next: the files in PATH.tmp-PID; that folder takes the name, in exchange
 * with an earlier export; the earlier one goes. An export is known by a word in its model.safetensors. */
#include "runtime/hf_folder.h"

#include "runtime/durable_file.h"
#include "runtime/mapped_file.h"
#include "runtime/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef enum
{
    WRITTEN,
    TOKENIZER,
    BESIDE
} Role;

static const struct
{
    const char *name;
    Role role;
} files[] = {
#define HF_FILE(name, role) {name, role},
#include "runtime/hf_files.def"
#undef HF_FILE
};

enum
{
    N_FILES = sizeof files / sizeof *files
};

/* Beside "format", which transformers looks at. */
static const char *const mark = "written_by", *const marked = "ptc export";

/* ---- what is there already */

static bool is_export_file(const char *name)
{
    size_t i = 0;
    while (i < N_FILES && strcmp(files[i].name, name) != 0)
        i++;
    return i < N_FILES;
}

typedef enum
{
    PLACE_FREE,
    PLACE_EXPORT,
    PLACE_OTHER
} Place;

static Place place_of(Arena *arena, const char *path)
{
    struct stat info;
    Safetensors *file;
    if (lstat(path, &info) != 0 && errno == ENOENT)
        return PLACE_FREE;
    DIR *dir = S_ISDIR(info.st_mode) ? opendir(path) : NULL;
    if (!dir)
        return PLACE_OTHER;
    uint32_t n = 0;
    bool only_export = true;
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
        {
            n++;
            only_export = only_export && is_export_file(entry->d_name);
        }
    closedir(dir);
    if (n == 0)
        return PLACE_FREE;
    if (!only_export || safetensors_open(arena_printf(arena, "%s/model.safetensors", path), &file) != STATUS_OK)
        return PLACE_OTHER;
    const char *by = safetensors_metadata(file, mark);
    const Place place = by && strcmp(by, marked) == 0 ? PLACE_EXPORT : PLACE_OTHER;
    safetensors_close(file);
    return place;
}

static Status check_place(Arena *arena, const char *path, bool force, Place *out_place)
{
    const char *old = arena_printf(arena, "%s.old", path);
    *out_place = place_of(arena, path);
    status_clear();
    if (*out_place != PLACE_OTHER)
        return STATUS_OK;
    if (!force)
        return status_fail(STATUS_BAD_INPUT,
                           "'%s' holds something else than an export: choose another -o, or move that to '%s' with "
                           "--force",
                           path, old);
    return access(old, F_OK) == 0
               ? status_fail(STATUS_BAD_INPUT, "--force would move '%s' to '%s', which is there already", path, old)
               : STATUS_OK;
}

Status hf_folder_check(const char *path, bool force)
{
    Arena *arena = arena_create();
    Place place;
    Status status = check_place(arena, path, force, &place);
    arena_destroy(arena);
    return status;
}

/* ---- filling */

static Status copy_file(const char *from, const char *to)
{
    MappedFile mapped;
    TRY(mapped_file_open(from, &mapped));
    Status status = durable_file_put(to, mapped.data, mapped.size_bytes, NULL);
    mapped_file_close(&mapped);
    return status;
}

/* The files of that role in the folder `from`, those of them that are there. */
static Status copy_role(Arena *arena, Role role, const char *from, const char *to)
{
    for (size_t i = 0; i < N_FILES; i++)
    {
        const char *source = arena_printf(arena, "%s/%s", from, files[i].name);
        if (files[i].role == role && access(source, F_OK) == 0)
            TRY(copy_file(source, arena_printf(arena, "%s/%s", to, files[i].name)));
    }
    return STATUS_OK;
}

/* A tokenizer that is one file comes under the name that transformers looks for, with what describes it; whatever else
 * is beside it may be another vocabulary. */
static Status copy_tokenizer(Arena *arena, const char *path, const char *to)
{
    static const char *const described_by[] = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"};
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        return copy_role(arena, TOKENIZER, path, to);
    const size_t n = strlen(path);
    const bool is_json = n > 5 && strcmp(path + n - 5, ".json") == 0;
    TRY(copy_file(path, arena_printf(arena, "%s/%s", to, is_json ? "tokenizer.json" : "vocab.txt")));
    const char *slash = strrchr(path, '/');
    const char *folder = slash ? arena_strndup(arena, path, (size_t)(slash - path)) : ".";
    for (size_t i = 0; i < sizeof described_by / sizeof *described_by; i++)
    {
        const char *source = arena_printf(arena, "%s/%s", folder, described_by[i]);
        if (access(source, F_OK) == 0)
            TRY(copy_file(source, arena_printf(arena, "%s/%s", to, described_by[i])));
    }
    return STATUS_OK;
}

static Status fill(Arena *arena, const HfFolder *folder, const char *to)
{
    const SafetensorsMeta meta[] = {{"format", "pt"}, {mark, marked}};
    if (mkdir(to, 0777) != 0)
        return status_fail(STATUS_IO, "cannot make folder '%s': %s", to, strerror(errno));
    TRY(durable_file_put(arena_printf(arena, "%s/config.json", to), folder->config, strlen(folder->config), NULL));
    if (folder->tokenizer)
        TRY(copy_tokenizer(arena, folder->tokenizer, to));
    if (folder->weights)
        TRY(copy_role(arena, BESIDE, folder->weights, to));
    return safetensors_write(arena_printf(arena, "%s/model.safetensors", to), folder->tensors, folder->n_tensors, meta,
                             2, NULL);
}

/* ---- taking the place */

static void remove_export(Arena *arena, const char *path)
{
    for (size_t i = 0; i < N_FILES; i++)
        unlink(arena_printf(arena, "%s/%s", path, files[i].name));
    rmdir(path);
}

static Status move(const char *from, const char *to)
{
    return rename(from, to) == 0 ? STATUS_OK
                                 : status_fail(STATUS_IO, "cannot rename '%s' to '%s': %s", from, to, strerror(errno));
}

/* File systems that cannot exchange have a moment without either. */
static Status take_place(Arena *arena, const char *temp, const char *path, Place place)
{
    if (place == PLACE_OTHER)
        TRY(move(path, arena_printf(arena, "%s.old", path)));
    if (place != PLACE_EXPORT)
        return move(temp, path);
    if (renameat2(AT_FDCWD, temp, AT_FDCWD, path, RENAME_EXCHANGE) == 0)
    {
        remove_export(arena, temp);
        return STATUS_OK;
    }
    const char *old = arena_printf(arena, "%s.old-%d", path, (int)getpid());
    TRY(move(path, old));
    TRY(move(temp, path));
    remove_export(arena, old);
    return STATUS_OK;
}

static Status write_folder(Arena *arena, const char *path, const HfFolder *folder, bool force)
{
    Place place;
    TRY(check_place(arena, path, force, &place));
    const char *temp = arena_printf(arena, "%s.tmp-%d", path, (int)getpid());
    const char *slash = strrchr(path, '/');
    Status status = fill(arena, folder, temp);
    if (status == STATUS_OK)
        status = durable_folder_sync(temp);
    if (status == STATUS_OK)
        status = take_place(arena, temp, path, place);
    if (status != STATUS_OK)
        remove_export(arena, temp);
    return status == STATUS_OK
               ? durable_folder_sync(!slash          ? "."
                                     : slash == path ? "/"
                                                     : arena_strndup(arena, path, (size_t)(slash - path)))
               : status;
}

Status hf_folder_write(const char *path, const HfFolder *folder, bool force)
{
    Arena *arena = arena_create();
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    Status status = write_folder(arena, arena_strndup(arena, path, n), folder, force);
    arena_destroy(arena);
    return status;
}
