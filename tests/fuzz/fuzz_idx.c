/* Any bytes as an IDX file: refused, or an array whose bytes are all there. */
#include "runtime/idx.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static volatile uint8_t read_sink; /* so that the reads are made */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    IdxArray array;
    if (idx_open_memory("fuzz.idx", data, size_bytes, &array) != STATUS_OK)
        return 0;
    uint64_t n_bytes = 0;
    if (!elem_tensor_size_bytes(array.elem, array.rank, array.dims, &n_bytes) || n_bytes != array.size_bytes)
        abort();
    for (uint64_t i = 0; i < n_bytes; i++)
        read_sink ^= array.data[i];
    idx_close(&array);
    return 0;
}
