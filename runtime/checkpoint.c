/* Reader of checkpoints: finds the newest good one, verifies every checksum before it hands anything out. */
#include "runtime/checkpoint.h"

#include "runtime/checkpoint_format.h"
#include "runtime/durable_file.h"
#include "runtime/mapped_file.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

struct Checkpoint
{
    Arena *arena; /* the object itself, its strings */
    const char *folder;
    CheckpointState state;
    char model_digest[FILE_DIGEST_CHARS]; /* of the files, as state.json has them */
    char optimizer_digest[FILE_DIGEST_CHARS];
    Safetensors *model;
    Safetensors *optimizer;
};

/* ---- the list of checkpoints */

bool checkpoint_step_of_name(const char *name, uint64_t *out_step)
{
    if (strncmp(name, "step-", 5) != 0 || name[5] < '0' || name[5] > '9')
        return false;
    char *end;
    errno = 0;
    uint64_t step = strtoull(name + 5, &end, 10);
    if (*end || errno)
        return false;
    char again[40]; /* only the one spelling that the writer has */
    snprintf(again, sizeof again, CHECKPOINT_STEP_PRINT, step);
    *out_step = step;
    return strcmp(name, again) == 0;
}

static int compare_steps(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

CheckpointList checkpoint_list(const char *checkpoints_folder)
{
    CheckpointList list = {0};
    DIR *dir = opendir(checkpoints_folder);
    if (!dir)
        return list;
    struct dirent *entry;
    uint64_t step;
    while ((entry = readdir(dir)) != NULL)
        if (checkpoint_step_of_name(entry->d_name, &step))
        {
            uint64_t *grown = realloc(list.steps, (list.n_steps + 1) * sizeof *grown);
            if (!grown)
                break;
            list.steps = grown;
            list.steps[list.n_steps++] = step;
        }
    closedir(dir);
    if (list.n_steps > 1)
        qsort(list.steps, list.n_steps, sizeof list.steps[0], compare_steps);
    return list;
}

/* The step that `latest` names; false when it is missing or damaged. */
static bool read_latest(Arena *arena, const char *checkpoints, uint64_t *out_step)
{
    FILE *in = fopen(arena_printf(arena, "%s/" CHECKPOINT_LATEST, checkpoints), "re");
    if (!in)
        return false;
    char name[64] = "";
    bool ok = fgets(name, sizeof name, in) != NULL;
    fclose(in);
    name[strcspn(name, "\n")] = 0;
    return ok && checkpoint_step_of_name(name, out_step);
}

/* ---- one checkpoint */

static bool get_u64(const json_t *object, const char *key, uint64_t *out_value)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out_value = (uint64_t)json_integer_value(value);
    return true;
}

static bool get_digest(const json_t *files, const char *name, char out_digest[FILE_DIGEST_CHARS])
{
    const char *digest = json_string_value(json_object_get(files, name));
    if (!digest || strlen(digest) != FILE_DIGEST_CHARS - 1)
        return false;
    memcpy(out_digest, digest, FILE_DIGEST_CHARS);
    return true;
}

static Status parse_fields(Checkpoint *checkpoint, const char *path, const json_t *inner)
{
    uint64_t version = 0;
    CheckpointState *state = &checkpoint->state;
    if (!get_u64(inner, "version", &version) || version != CHECKPOINT_VERSION)
        return status_fail(STATUS_BAD_INPUT, "%s: version %" PRIu64 "; this program reads version %d", path, version,
                           CHECKPOINT_VERSION);
    const char *seed = json_string_value(json_object_get(inner, "seed"));
    const char *model_digest = json_string_value(json_object_get(inner, "model_digest"));
    const json_t *files = json_object_get(inner, "files");
    const json_t *metrics = json_object_get(inner, "metrics");
    if (!get_u64(inner, "step", &state->step) || !get_u64(inner, "epoch", &state->epoch) ||
        !get_u64(inner, "consumed", &state->consumed) || !seed || !model_digest || !metrics ||
        !get_digest(files, CHECKPOINT_MODEL, checkpoint->model_digest) ||
        !get_digest(files, CHECKPOINT_OPTIMIZER, checkpoint->optimizer_digest))
        return status_fail(STATUS_BAD_INPUT, "%s: a field is missing or of the wrong type", path);
    state->seed = strtoull(seed, NULL, 10);
    state->model_digest = arena_strdup(checkpoint->arena, model_digest);
    char *metrics_text = json_dumps(metrics, CHECKPOINT_JSON_FLAGS);
    if (!metrics_text)
        return status_fail(STATUS_OUT_OF_MEMORY, "%s: no memory", path);
    state->metrics_json = arena_strdup(checkpoint->arena, metrics_text);
    free(metrics_text);
    return STATUS_OK;
}

static Status parse_state(Checkpoint *checkpoint, const char *path, const json_t *root)
{
    const json_t *inner = json_object_get(root, "state");
    const char *checksum = json_string_value(json_object_get(root, "checksum"));
    char *text = inner ? json_dumps(inner, CHECKPOINT_JSON_FLAGS) : NULL;
    char digest[FILE_DIGEST_CHARS] = "";
    if (text)
        file_digest_text(text, strlen(text), digest);
    free(text);
    if (!checksum || strcmp(checksum, digest) != 0)
        return status_fail(STATUS_BAD_INPUT, "%s: damaged: the checksum does not match", path);
    return parse_fields(checkpoint, path, inner);
}

static Status read_state(Checkpoint *checkpoint)
{
    const char *path = arena_printf(checkpoint->arena, "%s/" CHECKPOINT_STATE, checkpoint->folder);
    MappedFile file;
    TRY(mapped_file_open(path, &file));
    json_error_t error = {.text = "empty file"};
    json_t *root = file.data ? json_loadb(file.data, file.size_bytes, JSON_REJECT_DUPLICATES, &error) : NULL;
    mapped_file_close(&file);
    if (!root)
        return status_fail(STATUS_BAD_INPUT, "%s: damaged: %s", path, error.text);
    Status status = parse_state(checkpoint, path, root);
    json_decref(root);
    return status;
}

/* Verifies the file's checksum, then opens it. */
static Status open_tensors(const Checkpoint *checkpoint, const char *name, const char *digest, Safetensors **out_file)
{
    const char *path = arena_printf(checkpoint->arena, "%s/%s", checkpoint->folder, name);
    MappedFile file;
    TRY(mapped_file_open(path, &file));
    char found[FILE_DIGEST_CHARS];
    file_digest_text(file.data, file.size_bytes, found);
    mapped_file_close(&file);
    if (strcmp(found, digest) != 0)
        return status_fail(STATUS_BAD_INPUT, "%s: damaged: its checksum is %s, state.json has %s", path, found, digest);
    return safetensors_open(path, out_file);
}

static Status open_parts(Checkpoint *checkpoint)
{
    TRY(read_state(checkpoint));
    TRY(open_tensors(checkpoint, CHECKPOINT_MODEL, checkpoint->model_digest, &checkpoint->model));
    return open_tensors(checkpoint, CHECKPOINT_OPTIMIZER, checkpoint->optimizer_digest, &checkpoint->optimizer);
}

Status checkpoint_open_folder(const char *folder, Checkpoint **out_checkpoint)
{
    Arena *arena = arena_create();
    Checkpoint *checkpoint = ARENA_NEW(arena, Checkpoint);
    checkpoint->arena = arena;
    checkpoint->folder = arena_strdup(arena, folder);
    Status status = open_parts(checkpoint);
    if (status != STATUS_OK)
    {
        checkpoint_close(checkpoint);
        return status;
    }
    *out_checkpoint = checkpoint;
    return STATUS_OK;
}

void checkpoint_close(Checkpoint *checkpoint)
{
    if (!checkpoint)
        return;
    safetensors_close(checkpoint->model);
    safetensors_close(checkpoint->optimizer);
    arena_destroy(checkpoint->arena);
}

/* ---- the newest good one */

/* Moves the step that `latest` names to the end, where the search begins. */
static void put_latest_last(CheckpointList *list, uint64_t latest)
{
    for (uint32_t i = 0; i < list->n_steps; i++)
        if (list->steps[i] == latest)
        {
            memmove(list->steps + i, list->steps + i + 1, (list->n_steps - i - 1) * sizeof list->steps[0]);
            list->steps[list->n_steps - 1] = latest;
            return;
        }
}

Status checkpoint_open(const char *out_dir, StrBuf *warnings, Checkpoint **out_checkpoint)
{
    *out_checkpoint = NULL;
    Arena *arena = arena_create();
    const char *checkpoints = arena_printf(arena, "%s/" CHECKPOINT_FOLDER, out_dir);
    CheckpointList list = checkpoint_list(checkpoints);
    uint64_t latest;
    if (read_latest(arena, checkpoints, &latest))
        put_latest_last(&list, latest);

    Status status = STATUS_OK;
    for (uint32_t i = list.n_steps; i > 0 && !*out_checkpoint; i--)
    {
        const char *folder = arena_printf(arena, "%s/" CHECKPOINT_STEP_PRINT, checkpoints, list.steps[i - 1]);
        status = checkpoint_open_folder(folder, out_checkpoint);
        if (status == STATUS_OUT_OF_MEMORY)
            break;
        if (status != STATUS_OK && warnings)
            strbuf_addf(warnings, "checkpoint %s is skipped: %s\n", folder, status_detail());
    }
    if (status != STATUS_OK && status != STATUS_OUT_OF_MEMORY)
        status = status_fail(STATUS_BAD_INPUT, "no good checkpoint in '%s'; the last one tried: %s", checkpoints,
                             status_detail());
    free(list.steps);
    arena_destroy(arena);
    return status;
}

const CheckpointState *checkpoint_state(const Checkpoint *checkpoint)
{
    return &checkpoint->state;
}

const char *checkpoint_folder(const Checkpoint *checkpoint)
{
    return checkpoint->folder;
}

const Safetensors *checkpoint_model(const Checkpoint *checkpoint)
{
    return checkpoint->model;
}

const Safetensors *checkpoint_optimizer(const Checkpoint *checkpoint)
{
    return checkpoint->optimizer;
}
