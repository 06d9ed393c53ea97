/* Writer of checkpoints.
 *
 * Order of events, each one durable before the next: files in tmp-step-N; the folder takes its name; `latest` names it;
 * old folders go (renamed to tmp-... first, so that a half-removed one is never taken for a checkpoint). */
#include "runtime/checkpoint.h"

#include "base/bug.h"
#include "runtime/checkpoint_format.h"
#include "runtime/durable_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Removes a folder and the files in it (checkpoints have no folders inside). */
static Status remove_folder(Arena *arena, const char *folder)
{
    DIR *dir = opendir(folder);
    if (!dir)
        return status_fail(STATUS_IO, "cannot open '%s': %s", folder, strerror(errno));
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlink(arena_printf(arena, "%s/%s", folder, entry->d_name));
    closedir(dir);
    if (rmdir(folder) != 0)
        return status_fail(STATUS_IO, "cannot remove '%s': %s", folder, strerror(errno));
    return STATUS_OK;
}

/* What killed writers left: tmp-... folders and latest.tmp-... files. */
static Status remove_stale(Arena *arena, const char *checkpoints)
{
    DIR *dir = opendir(checkpoints);
    if (!dir)
        return status_fail(STATUS_IO, "cannot open '%s': %s", checkpoints, strerror(errno));
    Status status = STATUS_OK;
    struct dirent *entry;
    while (status == STATUS_OK && (entry = readdir(dir)) != NULL)
    {
        const char *path = arena_printf(arena, "%s/%s", checkpoints, entry->d_name);
        if (strncmp(entry->d_name, CHECKPOINT_TEMP, strlen(CHECKPOINT_TEMP)) == 0)
            status = remove_folder(arena, path);
        else if (strncmp(entry->d_name, CHECKPOINT_LATEST ".tmp-", strlen(CHECKPOINT_LATEST ".tmp-")) == 0)
            unlink(path);
    }
    closedir(dir);
    return status;
}

static Status remove_checkpoint(Arena *arena, const char *checkpoints, uint64_t step)
{
    const char *from = arena_printf(arena, "%s/" CHECKPOINT_STEP_PRINT, checkpoints, step);
    const char *to = arena_printf(arena, "%s/" CHECKPOINT_TEMP "old-%" PRIu64, checkpoints, step);
    if (rename(from, to) != 0)
        return status_fail(STATUS_IO, "cannot rename '%s': %s", from, strerror(errno));
    return remove_folder(arena, to);
}

/* Of the checkpoints that are not `step`: later ones go, and all earlier ones but the newest keep_last - 1. */
static Status remove_old(Arena *arena, const char *checkpoints, uint64_t step, uint32_t keep_last)
{
    CheckpointList list = checkpoint_list(checkpoints);
    uint32_t n_earlier = 0;
    while (n_earlier < list.n_steps && list.steps[n_earlier] < step)
        n_earlier++;
    uint32_t n_kept = n_earlier < keep_last - 1 ? n_earlier : keep_last - 1;
    Status status = STATUS_OK;
    for (uint32_t i = 0; i < list.n_steps && status == STATUS_OK; i++)
        if (i < n_earlier - n_kept || list.steps[i] > step)
            status = remove_checkpoint(arena, checkpoints, list.steps[i]);
    free(list.steps);
    return status;
}

static Status write_state(Arena *arena, const char *path, const CheckpointState *state, const char *model_digest,
                          const char *optimizer_digest)
{
    json_error_t error;
    json_t *metrics = json_loads(state->metrics_json ? state->metrics_json : "{}", 0, &error);
    ENSURE(metrics != NULL);
    json_t *inner = json_pack("{s:i, s:I, s:I, s:I, s:s, s:s, s:o, s:{s:s, s:s}}", "version", CHECKPOINT_VERSION,
                              "step", (json_int_t)state->step, "epoch", (json_int_t)state->epoch, "consumed",
                              (json_int_t)state->consumed, "seed", arena_printf(arena, "%" PRIu64, state->seed),
                              "model_digest", state->model_digest ? state->model_digest : "", "metrics", metrics,
                              "files", CHECKPOINT_MODEL, model_digest, CHECKPOINT_OPTIMIZER, optimizer_digest);
    char *text = inner ? json_dumps(inner, CHECKPOINT_JSON_FLAGS) : NULL;
    Status status = STATUS_OUT_OF_MEMORY;
    if (text)
    {
        char digest[FILE_DIGEST_CHARS];
        file_digest_text(text, strlen(text), digest);
        const char *whole = arena_printf(arena, "{\"checksum\":\"%s\",\"state\":%s}\n", digest, text);
        status = durable_file_put(path, whole, strlen(whole), NULL);
    }
    free(text);
    json_decref(inner);
    return status;
}

/* Gives the folder its name. One of that name (from a run that was resumed earlier, or damaged) is exchanged with it in
 * one step where the file system can do that. */
static Status publish_folder(Arena *arena, const char *checkpoints, const char *temp, uint64_t step)
{
    const char *final = arena_printf(arena, "%s/" CHECKPOINT_STEP_PRINT, checkpoints, step);
    if (rename(temp, final) == 0)
        return durable_folder_sync(checkpoints);
    if (errno != EEXIST && errno != ENOTEMPTY)
        return status_fail(STATUS_IO, "cannot rename '%s' to '%s': %s", temp, final, strerror(errno));
    if (renameat2(AT_FDCWD, temp, AT_FDCWD, final, RENAME_EXCHANGE) == 0)
    {
        TRY(durable_folder_sync(checkpoints));
        return remove_folder(arena, temp); /* now the old one */
    }
    TRY(remove_checkpoint(arena, checkpoints, step));
    if (rename(temp, final) != 0)
        return status_fail(STATUS_IO, "cannot rename '%s' to '%s': %s", temp, final, strerror(errno));
    return durable_folder_sync(checkpoints);
}

static Status write_folder(Arena *arena, const char *folder, const CheckpointState *state, const NamedTensor *model,
                           uint32_t n_model, const NamedTensor *optimizer, uint32_t n_optimizer)
{
    if (mkdir(folder, 0777) != 0)
        return status_fail(STATUS_IO, "cannot create '%s': %s", folder, strerror(errno));
    const SafetensorsMeta meta[] = {{"format", "pt"}, {"step", arena_printf(arena, "%" PRIu64, state->step)}};
    char model_digest[FILE_DIGEST_CHARS], optimizer_digest[FILE_DIGEST_CHARS];
    TRY(safetensors_write(arena_printf(arena, "%s/" CHECKPOINT_MODEL, folder), model, n_model, meta, 2, model_digest));
    TRY(safetensors_write(arena_printf(arena, "%s/" CHECKPOINT_OPTIMIZER, folder), optimizer, n_optimizer, meta, 2,
                          optimizer_digest));
    TRY(write_state(arena, arena_printf(arena, "%s/" CHECKPOINT_STATE, folder), state, model_digest, optimizer_digest));
    return durable_folder_sync(folder);
}

static Status write_checkpoint(Arena *arena, const char *checkpoints, const CheckpointState *state,
                               const NamedTensor *model, uint32_t n_model, const NamedTensor *optimizer,
                               uint32_t n_optimizer, uint32_t keep_last)
{
    TRY(durable_folder_create(checkpoints));
    TRY(remove_stale(arena, checkpoints));
    const char *name = arena_printf(arena, CHECKPOINT_STEP_PRINT, state->step);
    const char *temp = arena_printf(arena, "%s/" CHECKPOINT_TEMP "%s", checkpoints, name);
    TRY(write_folder(arena, temp, state, model, n_model, optimizer, n_optimizer));
    TRY(publish_folder(arena, checkpoints, temp, state->step));
    const char *latest = arena_printf(arena, "%s\n", name);
    TRY(durable_file_put(arena_printf(arena, "%s/" CHECKPOINT_LATEST, checkpoints), latest, strlen(latest), NULL));
    return remove_old(arena, checkpoints, state->step, keep_last);
}

Status checkpoint_write(const char *out_dir, const CheckpointState *state, const NamedTensor *model, uint32_t n_model,
                        const NamedTensor *optimizer, uint32_t n_optimizer, uint32_t keep_last)
{
    ENSURE(keep_last >= 1);
    Arena *arena = arena_create();
    const char *checkpoints = arena_printf(arena, "%s/" CHECKPOINT_FOLDER, out_dir);
    Status status = write_checkpoint(arena, checkpoints, state, model, n_model, optimizer, n_optimizer, keep_last);
    arena_destroy(arena);
    return status;
}
