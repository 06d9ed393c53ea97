/* Data format `cifar`: the binary version of CIFAR-10 and CIFAR-100 (Krizhevsky, "Learning multiple layers of features
 * from tiny images", 2009). A record is the label (CIFAR-100: the coarse one, then the fine one) and three planes of
 * 32 x 32 bytes. */
#include "runtime/dataset_images.h"

#include "runtime/mapped_file.h"

#include <glob.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum
{
    SIDE = 32,
    PLANE_BYTES = SIDE * SIDE,
    MAX_FILES = 1000,
    CHEAP_PIXELS = 64 * 64 /* of a result that a thread makes many of at once */
};

typedef enum
{
    PART_IMAGE,
    PART_LABEL,
    PART_COARSE
} CifarPart;

typedef struct
{
    MappedFile map;
    uint64_t end; /* samples in the files up to this one */
} CifarFile;

typedef struct
{
    CifarFile *files;
    uint32_t n_files;
    uint32_t n_labels; /* bytes before the planes */
    CifarPart part;
    ImageTransform transform;
} Cifar;

static uint32_t record_bytes(uint32_t n_labels)
{
    return n_labels + 3 * PLANE_BYTES;
}

/* ---- files */

/* Whether the file's labels can be those of a kind of record. */
static bool has_labels(const MappedFile *map, uint32_t n_labels)
{
    static const uint8_t limits[3][2] = {[1] = {10}, [2] = {20, 100}};
    if (map->size_bytes % record_bytes(n_labels) != 0)
        return false;
    for (size_t at = 0; at < map->size_bytes; at += record_bytes(n_labels))
        for (uint32_t i = 0; i < n_labels; i++)
            if (((const uint8_t *)map->data)[at + i] >= limits[n_labels][i])
                return false;
    return true;
}

static Status add_file(Cifar *cifar, const char *path)
{
    CifarFile *file = &cifar->files[cifar->n_files];
    TRY(mapped_file_open(path, &file->map));
    cifar->n_files++; /* from here on close_cifar closes it */
    if (file->map.size_bytes == 0)
        return status_fail(STATUS_BAD_INPUT, "%s: the file is empty", path);
    const uint32_t n_labels = has_labels(&file->map, 1) ? 1 : has_labels(&file->map, 2) ? 2 : 0;
    if (n_labels == 0)
        return status_fail(
            STATUS_BAD_INPUT,
            "%s: this is no binary file of CIFAR-10 or CIFAR-100: %zu bytes are not whole records with a "
            "label in 0..9 or a coarse one in 0..19 and a fine one in 0..99",
            path, file->map.size_bytes);
    if (cifar->n_labels && cifar->n_labels != n_labels)
        return status_fail(STATUS_BAD_INPUT, "%s: this file is of CIFAR-%d, the one before it is not", path,
                           n_labels == 1 ? 10 : 100);
    cifar->n_labels = n_labels;
    file->end = (cifar->n_files > 1 ? file[-1].end : 0) + file->map.size_bytes / record_bytes(n_labels);
    return STATUS_OK;
}

/* "data_batch_*.bin": all that there are, in order. */
static Status add_files(Cifar *cifar, const char *path)
{
    glob_t found = {0};
    const bool pattern = strchr(path, '*') && access(path, F_OK) != 0;
    if (pattern && (glob(path, 0, NULL, &found) != 0 || found.gl_pathc > MAX_FILES))
    {
        const bool many = found.gl_pathc > MAX_FILES;
        globfree(&found);
        return status_fail(STATUS_BAD_INPUT, "there %s '%s'", many ? "are too many files" : "is no file", path);
    }
    const size_t n = pattern ? found.gl_pathc : 1;
    Status status = STATUS_OK;
    cifar->files = calloc(n, sizeof *cifar->files);
    if (!cifar->files)
        status = status_fail(STATUS_OUT_OF_MEMORY, "no memory for %zu files", n);
    for (size_t i = 0; i < n && status == STATUS_OK; i++)
        status = add_file(cifar, pattern ? found.gl_pathv[i] : path);
    if (pattern && status != STATUS_OK)
        status = status_fail(status, "%s: %s", path, status_detail());
    globfree(&found);
    return status;
}

/* ---- reading */

static const uint8_t *record(const Cifar *cifar, uint64_t sample)
{
    const CifarFile *file = cifar->files;
    uint64_t first = 0;
    for (; sample >= file->end; file++)
        first = file->end;
    return (const uint8_t *)file->map.data + (sample - first) * record_bytes(cifar->n_labels);
}

static Status read_image(const FieldReader *reader, uint64_t sample, const DatasetPass *pass, void *dst)
{
    const Cifar *cifar = reader->state;
    const uint8_t *planes = record(cifar, sample) + cifar->n_labels;
    uint8_t pixels[3 * PLANE_BYTES];
    for (int i = 0; i < PLANE_BYTES; i++)
        for (int c = 0; c < 3; c++)
            pixels[3 * i + c] = planes[c * PLANE_BYTES + i];
    const Image image = {.pixels = pixels, .width = SIDE, .height = SIDE, .channels = 3, .shrink = 1};
    const ImageDraw draw = dataset_image_draw(pass, sample);
    return image_transform(&cifar->transform, &image, &draw, dst);
}

static Status read_label(const FieldReader *reader, uint64_t sample, const DatasetPass *pass, void *dst)
{
    (void)pass;
    const Cifar *cifar = reader->state;
    const int32_t value = record(cifar, sample)[cifar->part == PART_COARSE ? 0 : cifar->n_labels - 1];
    memcpy(dst, &value, sizeof value);
    return STATUS_OK;
}

static void destroy(Cifar *cifar)
{
    for (uint32_t i = 0; i < cifar->n_files; i++)
        mapped_file_close(&cifar->files[i].map);
    free(cifar->files);
    free(cifar);
}

static void close_cifar(FieldReader *reader)
{
    destroy(reader->state);
}

/* ---- open */

static Status set_image(const DatasetSource *source, Cifar *cifar, FieldReader *out_reader)
{
    ImageAxis x, y;
    TRY(dataset_image_transform(source, &cifar->transform));
    const ImageTransform *t = &cifar->transform;
    if (t->channels != 3)
        return status_fail(STATUS_BAD_INPUT, "data field '%s' (%s): the images are height x width x 3", source->field,
                           source->path);
    Status status = image_plan(t, (ImageSize){SIDE, SIDE}, &(ImageDraw){0}, &x, &y);
    if (status != STATUS_OK)
        return status_fail(status, "%s: '%s': %s", source->path, source->field, status_detail());
    out_reader->costly = t->width * t->height > CHEAP_PIXELS;
    out_reader->read = read_image;
    out_reader->field = (DatasetField){.elem = source->elem, .rank = source->rank};
    memcpy(out_reader->field.dims, source->dims, source->rank * sizeof source->dims[0]);
    return STATUS_OK;
}

static Status set_label(const DatasetSource *source, const Cifar *cifar, FieldReader *out_reader)
{
    const int64_t n_classes = cifar->part == PART_COARSE ? 20 : cifar->n_labels == 1 ? 10 : 100;
    if (cifar->part == PART_COARSE && cifar->n_labels == 1)
        return status_fail(STATUS_BAD_INPUT, "%s: '%s': CIFAR-10 has no coarse labels", source->path, source->field);
    if (source->n_classes && source->n_classes != n_classes)
        return status_fail(STATUS_BAD_INPUT, "%s: the labels are of %" PRId64 " classes, but '%s' has %" PRId64,
                           source->path, n_classes, source->field, source->n_classes);
    out_reader->read = read_label;
    out_reader->field = (DatasetField){.elem = ELEM_I32};
    return STATUS_OK;
}

static bool part_by_name(const char *name, CifarPart *out_part)
{
    static const char *const names[] = {[PART_IMAGE] = "image", [PART_LABEL] = "label", [PART_COARSE] = "coarse"};
    for (int i = 0; name && i <= PART_COARSE; i++)
        if (strcmp(names[i], name) == 0)
        {
            *out_part = (CifarPart)i;
            return true;
        }
    return false;
}

Status dataset_open_cifar(const DatasetSource *source, DatasetShared *shared, FieldReader *out_reader)
{
    (void)shared;
    Cifar *cifar = calloc(1, sizeof *cifar);
    if (!cifar)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for data field '%s'", source->field);
    Status status = STATUS_OK;
    if (!part_by_name(source->part, &cifar->part))
        status =
            status_fail(STATUS_BAD_INPUT, "data field '%s' (%s): format 'cifar' has the parts image, label and coarse",
                        source->field, source->path);
    if (status == STATUS_OK)
        status = add_files(cifar, source->path);
    if (status == STATUS_OK)
    {
        *out_reader =
            (FieldReader){.n_samples = cifar->files[cifar->n_files - 1].end, .state = cifar, .close = close_cifar};
        status =
            cifar->part == PART_IMAGE ? set_image(source, cifar, out_reader) : set_label(source, cifar, out_reader);
    }
    if (status != STATUS_OK)
        destroy(cifar);
    return status;
}
