/* What a data format gives to dataset.c. A new format is one row in formats.def and one opener. */
#ifndef PTC_RUNTIME_DATASET_FORMATS_H
#define PTC_RUNTIME_DATASET_FORMATS_H

#include "runtime/dataset.h"

typedef struct FieldReader FieldReader;
struct FieldReader
{
    DatasetField field; /* the opener sets elem, rank, dims; dataset.c sets the rest */
    uint64_t n_samples;
    void *state;
    /* Copies sample i to dst; called from several threads at once. */
    Status (*read)(const FieldReader *reader, uint64_t sample, void *dst);
    void (*close)(FieldReader *reader); /* frees state */
};

/* On failure *out_reader holds nothing to close. */
typedef Status DatasetOpener(const DatasetSource *source, FieldReader *out_reader);

#define DATA_FORMAT(name, opener, needs_path, text) DatasetOpener opener;
#include "runtime/formats.def"
#undef DATA_FORMAT

#endif
