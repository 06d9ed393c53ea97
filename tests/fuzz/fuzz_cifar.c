/* Any bytes as a file of CIFAR-10 or CIFAR-100, behind two bytes that say which part is read and how: refused, or
 * samples that can all be read, whose labels are in their range. */
#include "runtime/dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static const char *file_of(const uint8_t *data, size_t size_bytes)
{
    static int fd = -1;
    static char path[64];
    if (fd < 0)
    {
        fd = memfd_create("fuzz", 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data, size_bytes, 0) != (ssize_t)size_bytes)
        abort();
    return path;
}

static void read_samples(const Dataset *dataset, const DatasetPass *pass, int32_t n_classes)
{
    const uint64_t n = dataset_n_samples(dataset), size = dataset_field(dataset, 0)->sample_bytes;
    void *sample = malloc(size);
    for (uint64_t i = 0; i < n; i++)
    {
        int32_t label = 0;
        if (dataset_read(dataset, 0, i, pass, sample) != STATUS_OK)
            abort();
        if (n_classes)
            memcpy(&label, sample, sizeof label);
        if (label < 0 || label > n_classes)
            abort();
    }
    free(sample);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    static const char *const parts[] = {"image", "image", "label", "coarse"};
    if (size_bytes < 2)
        return 0;
    const int part = data[0] & 3;
    const DatasetSource source = {
        .field = "x",
        .format = "cifar",
        .part = parts[part],
        .path = file_of(data + 2, size_bytes - 2),
        .elem = part > 1 ? ELEM_I32 : ELEM_U8,
        .rank = part > 1 ? 0 : 3,
        .dims = {1 + data[1] % 40, 1 + data[1] / 8, 3},
        .image = {.crop = (ImageCrop)(data[0] >> 2 & 3), .pad = data[0] >> 4 & 3, .flip = true}};
    const DatasetPass pass = {.seed = data[1], .augment = data[0] >> 7};
    Dataset *dataset;
    if (dataset_open(&source, 1, &dataset) != STATUS_OK)
        return 0;
    read_samples(dataset, &pass, part > 1 ? 100 : 0);
    dataset_close(dataset);
    return 0;
}
