/* What the writer and the reader of checkpoints agree on; included by nobody else.
 *
 * state.json: {"checksum": XXH3-128 of the compact text of "state", "state": {"version", "step", "epoch", "consumed",
 * "seed", "model_digest", "metrics", "files": {"model.safetensors": XXH3-128, ...}}}. 64-bit numbers that may pass 2^63
 * (the seed) are decimal strings. */
#ifndef PTC_RUNTIME_CHECKPOINT_FORMAT_H
#define PTC_RUNTIME_CHECKPOINT_FORMAT_H

#include <stdbool.h>
#include <stdint.h>

#define CHECKPOINT_FOLDER     "checkpoints"
#define CHECKPOINT_LATEST     "latest"
#define CHECKPOINT_STATE      "state.json"
#define CHECKPOINT_MODEL      "model.safetensors"
#define CHECKPOINT_OPTIMIZER  "optimizer.safetensors"
#define CHECKPOINT_TEMP       "tmp-"
#define CHECKPOINT_STEP_PRINT "step-%08" PRIu64

/* Sorted keys, no spaces: what the checksum is taken of. */
#define CHECKPOINT_JSON_FLAGS (JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17))

/* "step-00000123" -> 123; false for every other name. */
bool checkpoint_step_of_name(const char *name, uint64_t *out_step);

typedef struct
{
    uint64_t *steps; /* rising; free() */
    uint32_t n_steps;
} CheckpointList;

/* The step folders below OUT/checkpoints; none when that folder is missing. */
CheckpointList checkpoint_list(const char *checkpoints_folder);

#endif
