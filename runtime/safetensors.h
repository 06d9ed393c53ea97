/* safetensors files: u64 little-endian header length, a JSON header, then the tensors.
 *
 * The reader is strict: header of at most 100 MB, starting with '{', valid UTF-8 JSON without duplicate keys; known
 * dtypes; sizes that match the shapes, without overflow; offsets that tile the data exactly, no hole, no overlap, no
 * trailing bytes. Failures are STATUS_BAD_INPUT (STATUS_IO when the file cannot be read); the sentence names file and
 * tensor. Files are mapped, not read: a tensor costs memory only when it is touched. */
#ifndef PTC_RUNTIME_SAFETENSORS_H
#define PTC_RUNTIME_SAFETENSORS_H

#include "base/status.h"
#include "runtime/elem.h"

enum
{
    SAFETENSORS_MAX_HEADER_BYTES = 100 * 1000 * 1000
};

typedef struct Safetensors Safetensors;

/* The caller closes *out_file after success only. */
Status safetensors_open(const char *path, Safetensors **out_file);
/* The same from memory; bytes must outlive *out_file. name stands for the path in messages. */
Status safetensors_open_memory(const char *name, const void *bytes, size_t n_bytes, Safetensors **out_file);
void safetensors_close(Safetensors *file);

const char *safetensors_path(const Safetensors *file);
uint32_t safetensors_count(const Safetensors *file);
/* Tensors in the order of their data. All that it points to lives until close. Data written by others need not be
 * aligned: copy with memcpy. */
const NamedTensor *safetensors_tensor(const Safetensors *file, uint32_t i);
/* NULL when there is no tensor of that name. */
const NamedTensor *safetensors_find(const Safetensors *file, const char *name);
uint64_t safetensors_tensor_size_bytes(const NamedTensor *tensor);
/* The text under this key of __metadata__, or NULL. */
const char *safetensors_metadata(const Safetensors *file, const char *key);
/* Finds the tensor, refuses another dtype or shape than `expected` has (a sentence with both), copies its bytes to dst.
 * expected->data is ignored. */
Status safetensors_read(const Safetensors *file, const NamedTensor *expected, void *dst);

typedef struct
{
    const char *key;
    const char *value;
} SafetensorsMeta;

/* Writes a file that appears whole or not at all (durable_file.h). Data is stored by falling alignment, then in the
 * order given, and the header is padded to 8 bytes, so that every tensor is aligned. Duplicate or reserved names, names
 * that are not UTF-8 and impossible shapes are BUGs. out_digest: FILE_DIGEST_CHARS bytes or NULL. */
Status safetensors_write(const char *path, const NamedTensor *tensors, uint32_t n_tensors, const SafetensorsMeta *meta,
                         uint32_t n_meta, char *out_digest);

#endif
