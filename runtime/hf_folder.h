/* A folder in the manner of Hugging Face, written: config.json, model.safetensors, the files of a tokenizer. It is
 * filled beside its place and appears there whole or not at all. */
#ifndef PTC_RUNTIME_HF_FOLDER_H
#define PTC_RUNTIME_HF_FOLDER_H

#include "base/arena.h"
#include "base/status.h"
#include "runtime/elem.h"

#include <stdbool.h>

typedef struct
{
    const char *config; /* text of config.json */
    const NamedTensor *tensors;
    uint32_t n_tensors;
    const char *tokenizer; /* a file or folder for tokenizer_open; the files beside it come along. NULL: none */
    const char *weights;   /* the folder that the weights were read from; NULL: none */
} HfFolder;

/* Whether an export may take the place of what is at path: nothing, an empty folder, an earlier export and nothing
 * else; with force anything, which is moved to PATH.old. BAD_INPUT otherwise. */
Status hf_folder_check(const char *path, bool force);

/* hf_folder_check, then the folder. After a failure what was at path is there still. */
Status hf_folder_write(const char *path, const HfFolder *folder, bool force);

#endif
