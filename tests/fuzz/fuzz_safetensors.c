/* Any bytes as a safetensors file: refused, or tensors that tile the data, each found by its name. */
#include "runtime/safetensors.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static volatile uint8_t read_sink; /* so that the reads are made */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    Safetensors *file;
    if (safetensors_open_memory("fuzz", data, size_bytes, &file) != STATUS_OK)
        return 0;
    const uint8_t *at = NULL;
    for (uint32_t i = 0; i < safetensors_count(file); i++)
    {
        const NamedTensor *tensor = safetensors_tensor(file, i);
        const uint8_t *begin = tensor->data;
        if ((at && begin != at) || safetensors_find(file, tensor->name) != tensor)
            abort();
        at = begin + safetensors_tensor_size_bytes(tensor);
        for (const uint8_t *byte = begin; byte < at; byte++)
            read_sink ^= *byte;
    }
    if (at && at != data + size_bytes)
        abort();
    safetensors_metadata(file, "format");
    safetensors_close(file);
    return 0;
}
