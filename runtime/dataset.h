/* Dataset: a table of named fields with the same number of samples, read at random.
 *
 * A field comes from one source: a format (a row of formats.def) with its path, or with the description of synthetic
 * values. What several fields take from one file is read once (runtime/table.h). All reads after dataset_open are
 * thread-safe. Sample contents never depend on who asks or in which order. */
#ifndef PTC_RUNTIME_DATASET_H
#define PTC_RUNTIME_DATASET_H

#include "base/status.h"
#include "runtime/elem.h"
#include "runtime/image.h"
#include "runtime/squad.h"

typedef struct Dataset Dataset;

/* What the classes of a field of format `label` are called. */
typedef struct
{
    uint32_t n_labels;
    const char *const *names; /* of class 0, 1, ...; NULL when the labels are the numbers 0..n_labels-1 themselves */
} DatasetLabels;

/* Where one field comes from. Only read while dataset_open runs. */
typedef struct
{
    const char *field;  /* its name, unique in the data set */
    const char *format; /* a row of formats.def: "idx", "synthetic", "label", ... */
    const char *path;   /* file formats; NULL for synthetic. cifar: a `*` stands for several files */
    uint64_t n_samples; /* files: only the first so many are used; 0: all */
    /* synthetic: integers are uniform in low..high (both included), floats in [low, high). */
    Elem elem; /* f32, f64, i32, i16, i8, u8 */
    uint32_t rank;
    int64_t dims[TENSOR_MAX_RANK]; /* of one sample */
    uint64_t seed;
    double low;
    double high;
    /* cifar, images: of the part image; size, channels and type are those of dims and elem. */
    ImageTransform image;
    /* label, number, text, images: columns of a table. */
    const char *table;           /* "csv", "tsv", "jsonl", "txt"; NULL: as the file's name ends */
    const char *columns[2];      /* NULL: none; two are a pair of texts */
    int64_t n_classes;           /* label: how many there must be; text: ids must be below it. 0: not known */
    const DatasetLabels *labels; /* label: of the training split; NULL: this is it */
    /* text: dims is {length}; longer texts are cut (the longer one of a pair first), shorter ones padded. */
    const char *tokenizer; /* path for tokenizer_open */
    const char *part; /* "ids" i32: padded with the padding token; "mask" f32, i32 by elem: 1 for tokens, 0 for padding;
                       * "types" i32: 1 in the second text of a pair where the tokenizer says so; squad also "first" and
                       * "last" i32, dims {}: the places of the answer; packed: "ids",
                       * "targets", "mask", "documents" (dataset_packed.c);
                       * cifar, images: "image" f32, u8 [height, width] or [height, width, 1 or 3], "label" i32;
                       * cifar: "coarse" i32 */
    uint32_t stride;  /* squad: tokens that the windows of a text share */
} DatasetSource;

/* One field, lent by the data set. */
typedef struct
{
    const char *name;
    const char *path; /* for messages; "synthetic" when there is no file */
    Elem elem;
    uint32_t rank;                 /* of one sample; 0 = one number per sample */
    int64_t dims[TENSOR_MAX_RANK]; /* of one sample */
    uint64_t sample_elems;
    uint64_t sample_bytes;
} DatasetField;

/* BAD_INPUT: unknown format (with a suggestion), a bad file, fields that disagree about the number of samples, the same
 * name twice, no fields, no samples. */
Status dataset_open(const DatasetSource *sources, uint32_t n_sources, Dataset **out_dataset);
void dataset_close(Dataset *dataset);

uint64_t dataset_n_samples(const Dataset *dataset);
uint32_t dataset_n_fields(const Dataset *dataset);
const DatasetField *dataset_field(const Dataset *dataset, uint32_t field);
/* False when there is no field of that name. */
bool dataset_field_find(const Dataset *dataset, const char *name, uint32_t *out_field);

/* The classes of a field of format `label`, lent by the data set; NULL for other fields. */
const DatasetLabels *dataset_labels(const Dataset *dataset, uint32_t field);

/* The questions that the samples are windows of, lent by the data set; NULL without fields of format `squad`. */
const SquadSet *dataset_squad(const Dataset *dataset);

/* One pass over the samples. What a training pass changes about a sample is a function of (seed, epoch, sample). */
typedef struct
{
    uint64_t seed;
    uint64_t epoch;
    bool augment; /* false: every sample as it is, in every epoch */
} DatasetPass;

/* Whether a sample of some field costs much more than copying it: several threads are worth their while. */
bool dataset_is_costly(const Dataset *dataset);

/* Copies one sample's field (sample_bytes) to dst. sample < dataset_n_samples. BAD_INPUT, IO: the message names file
 * and sample. */
Status dataset_read(const Dataset *dataset, uint32_t field, uint64_t sample, const DatasetPass *pass, void *dst);
/* How many of the sample's elements along its first axis are no padding; all of them for formats that pad nothing. No
 * data is read or decoded. */
uint32_t dataset_length(const Dataset *dataset, uint32_t field, uint64_t sample);
/* Reads the whole field and refuses the first value outside low..high (both included), e.g. a label out of range. The
 * message names file, sample and value. Fields of elem_get_f64's types only (else BUG). */
Status dataset_check_range(const Dataset *dataset, uint32_t field, double low, double high);

/* Looks at every sample of the fields whose samples are files, without reading all of it: is it there, and of the right
 * kind and size? All cores; the first sample that fails is told. */
Status dataset_verify(const Dataset *dataset);

/* Of what the samples of a field are without augmentation: of all of them as they are read; where reading one is
 * costly, of when their files were last changed, and of the first few as they are read. */
Status dataset_digest(const Dataset *dataset, uint32_t field, uint64_t *out_digest);

/* Where samples of one field go: rows of sample_elems elements of type elem, which may be a wider type than the field's
 * (elem_converts; dataset_check_slot tells beforehand). */
typedef struct
{
    uint32_t field;
    Elem elem;
    void *data;
    uint32_t length; /* rows of so many elements, which is not below dataset_length; 0: of all. Formats that pad only */
} BatchSlot;

/* BAD_INPUT when the field cannot be given as elem x sample shape (rank, dims). */
Status dataset_check_slot(const Dataset *dataset, uint32_t field, Elem elem, uint32_t rank, const int64_t *dims);
/* Of one row. */
uint64_t dataset_row_bytes(const Dataset *dataset, const BatchSlot *slot);
/* Fills rows first..first+n-1 of the slot with the samples indices[first..first+n-1]. */
Status dataset_fill_rows(const Dataset *dataset, const DatasetPass *pass, const BatchSlot *slot,
                         const uint64_t *indices, uint32_t first, uint32_t n);

#endif
