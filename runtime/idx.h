/* IDX files (the MNIST format): u8 zero, u8 zero, u8 element type, u8 rank, rank x big-endian u32 dimensions, then the
 * elements, big-endian. Plain or gzip (told by content, not by name; several gzip members are one file).
 *
 * The size in the header must be exactly the size of the data: truncated files and trailing bytes are refused, and
 * nothing is allocated on the word of a header alone. Failures are STATUS_BAD_INPUT (STATUS_IO when the file cannot be
 * read) with a sentence that names the file and the byte. */
#ifndef PTC_RUNTIME_IDX_H
#define PTC_RUNTIME_IDX_H

#include "base/status.h"
#include "runtime/elem.h"

typedef struct
{
    Elem elem; /* u8, i8, i16, i32, f32, f64 */
    uint32_t rank;
    int64_t dims[TENSOR_MAX_RANK]; /* each >= 1; dims[0] counts the samples */
    uint64_t size_bytes;
    const uint8_t *data; /* host byte order; need not be aligned */
    /* Private: what idx_close gives back. */
    void *owned;
    void *mapped;
    size_t mapped_bytes;
} IdxArray;

/* Plain files are mapped, not read. The caller closes *out_array after success only. */
Status idx_open(const char *path, IdxArray *out_array);
/* The same from memory; bytes must outlive *out_array. name stands for the path in messages. */
Status idx_open_memory(const char *name, const void *bytes, size_t n_bytes, IdxArray *out_array);
void idx_close(IdxArray *array);

#endif
