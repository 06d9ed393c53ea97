/* Checkpoints: OUT/checkpoints/step-00000123/ with model.safetensors, optimizer.safetensors and state.json (the state
 * below and the XXH3-128 of both files), and OUT/checkpoints/latest, a file with the name of the newest.
 *
 * Layout-free: tensors have global names, so a checkpoint can be read on any number of ranks. Written to a folder
 * tmp-..., fsynced, renamed; then `latest` is replaced: a kill at any moment leaves the old checkpoint or the new one,
 * never a torn one. One process writes below an OUT at a time. */
#ifndef PTC_RUNTIME_CHECKPOINT_H
#define PTC_RUNTIME_CHECKPOINT_H

#include "base/status.h"
#include "base/strbuf.h"
#include "runtime/elem.h"
#include "runtime/safetensors.h"

enum
{
    CHECKPOINT_VERSION = 1,
    CHECKPOINT_KEEP_DEFAULT = 2
};

/* All that a run needs beside its tensors. Strings that checkpoint_state returns live until checkpoint_close. */
typedef struct
{
    uint64_t step;     /* optimizer steps done */
    uint64_t epoch;    /* sampler position: the next sample to train on */
    uint64_t consumed; /* samples of that epoch already used */
    uint64_t seed;
    const char *model_digest; /* names the model and job that this belongs to; "" or NULL when unknown */
    const char *metrics_json; /* a JSON object with whatever the trainer wants back; NULL = {} */
} CheckpointState;

typedef struct Checkpoint Checkpoint;

/* Writes state->step's checkpoint, then removes stale tmp folders, older checkpoints but the newest keep_last - 1 and
 * those of later steps (of a run that was abandoned by resuming earlier). keep_last >= 1. After a failure the
 * checkpoints that were there are still there. */
Status checkpoint_write(const char *out_dir, const CheckpointState *state, const NamedTensor *model, uint32_t n_model,
                        const NamedTensor *optimizer, uint32_t n_optimizer, uint32_t keep_last);

/* The newest good checkpoint below out_dir: the one `latest` names, else, with a sentence for each one skipped added to
 * warnings (NULL allowed), the others from the newest down. All checksums are verified. STATUS_OK with *out_checkpoint
 * = NULL when there is none at all; STATUS_BAD_INPUT when there are some and all are damaged. Never writes. */
Status checkpoint_open(const char *out_dir, StrBuf *warnings, Checkpoint **out_checkpoint);
/* Exactly this checkpoint folder (.../step-00000123); BAD_INPUT when it is damaged or not one. */
Status checkpoint_open_folder(const char *folder, Checkpoint **out_checkpoint);
void checkpoint_close(Checkpoint *checkpoint);

const CheckpointState *checkpoint_state(const Checkpoint *checkpoint);
const char *checkpoint_folder(const Checkpoint *checkpoint);
/* Read with safetensors_find, safetensors_read. */
const Safetensors *checkpoint_model(const Checkpoint *checkpoint);
const Safetensors *checkpoint_optimizer(const Checkpoint *checkpoint);

#endif
