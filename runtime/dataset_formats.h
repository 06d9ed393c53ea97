/* What a data format gives to dataset.c. A new format is one row in formats.def and one opener. */
#ifndef PTC_RUNTIME_DATASET_FORMATS_H
#define PTC_RUNTIME_DATASET_FORMATS_H

#include "base/arena.h"
#include "runtime/dataset.h"
#include "runtime/squad.h"
#include "runtime/table.h"
#include "runtime/tokenizer.h"

/* What the fields of one data set share: one table per file, one row of tokens per text. It lives as long as the data
 * set. */
typedef struct
{
    const char *path;
    TableKind kind;
    Table *table;
} SharedTable;

typedef struct
{
    const char *path;
    Tokenizer *tokenizer;
} SharedTokenizer;

typedef struct TextRows TextRows;
typedef struct ImageFiles ImageFiles;

/* Windows of a file of questions, for all fields that show a part of them. */
typedef struct
{
    const char *path, *tokenizer;
    SquadSet *set;
} SharedSquad;

typedef struct
{
    Arena *arena;
    const DatasetSource *sources; /* of all fields; while they are opened */
    uint32_t n_sources;
    VEC(SharedTable) tables; /* while fields are opened, like the next */
    VEC(SharedTokenizer) tokenizers;
    VEC(TextRows *) texts;
    VEC(ImageFiles *) images;
    VEC(SharedSquad) squads;
} DatasetShared;

DatasetShared *dataset_shared_create(const DatasetSource *sources, uint32_t n_sources);
/* Gives back what only opening needs. */
void dataset_shared_opened(DatasetShared *shared);
void dataset_shared_destroy(DatasetShared *shared);
/* The table that the source is about, with the columns of all sources that are about it. */
Status dataset_shared_table(DatasetShared *shared, const DatasetSource *source, const Table **out_table);

typedef struct FieldReader FieldReader;
struct FieldReader
{
    DatasetField field; /* the opener sets elem, rank, dims; dataset.c sets the rest */
    uint64_t n_samples;
    void *state;
    const DatasetLabels *labels; /* NULL but for labels */
    const SquadSet *squad;       /* NULL but for windows of questions */
    bool costly;                 /* a sample is worth a task of its own */
    /* Copies a sample to dst; called from several threads at once. */
    Status (*read)(const FieldReader *reader, uint64_t sample, const DatasetPass *pass, void *dst);
    Status (*verify)(const FieldReader *reader, uint64_t sample); /* dataset_verify; NULL: opening has seen to it */
    /* Costly ones: a digest of the sample's file that changes when it is written to; NULL: dataset_digest reads it. */
    Status (*stamp)(const FieldReader *reader, uint64_t sample, uint64_t *out_stamp);
    void (*close)(FieldReader *reader); /* frees state */
    /* Formats that pad samples (of one axis): how many elements are no padding, and the first n of all. Else NULL. */
    uint32_t (*length)(const FieldReader *reader, uint64_t sample);
    void (*read_first)(const FieldReader *reader, uint64_t sample, uint32_t n, void *dst);
};

/* On failure *out_reader holds nothing to close. */
typedef Status DatasetOpener(const DatasetSource *source, DatasetShared *shared, FieldReader *out_reader);

/* ---- texts (dataset_text.c) */

/* The tokens of every row of the source's columns, encoded once for all who ask for the same: as a tokenizer's row of
 * at most dims[0] ids; or, packed, the bare tokens of all rows of the table, an end token behind each that has any. */
Status dataset_text_rows(DatasetShared *shared, const DatasetSource *source, bool packed, const TextRows **out_rows);
uint64_t dataset_text_n_tokens(const TextRows *rows);
/* n of all tokens from the first-th on. rows_of: instead of their ids the numbers of their rows, from 0 at the first.
 */
void dataset_text_copy(const TextRows *rows, uint64_t first, uint32_t n, bool rows_of, int32_t *dst);
/* Of part "mask": 1 for the first n, 0 for the rest. */
void dataset_text_mask(Elem elem, void *dst, uint32_t n, uint32_t length);
Status dataset_shared_tokenizer(DatasetShared *shared, const DatasetSource *source, const Tokenizer **out_tokenizer);
/* The padding token or, without one, the end token; BAD_INPUT without either. */
Status dataset_pad_id(const DatasetSource *source, const Tokenizer *tokenizer, int32_t *out_pad);
/* BAD_INPUT when there are more ids than the source has classes. */
Status dataset_check_vocabulary(const DatasetSource *source, const Tokenizer *tokenizer);
void dataset_text_destroy(TextRows *rows);

/* ---- columns of tables */

typedef union
{
    int32_t i32;
    float f32;
} DatasetValue;

/* A column of which a field takes one value a row. */
typedef struct
{
    const Table *table;
    uint32_t column;
    uint64_t n_used;
    DatasetValue *values; /* n_used, the reader's state: for the opener to fill, or to free when it fails */
} DatasetColumn;

/* How many rows are read: those that the limit leaves. */
uint64_t dataset_rows_used(const DatasetSource *source, const Table *table);
/* *out_reader is complete but for the values. */
Status dataset_open_column(const DatasetSource *source, DatasetShared *shared, Elem elem, DatasetColumn *out_column,
                           FieldReader *out_reader);

#define DATA_FORMAT(name, opener, needs_path, text) DatasetOpener opener;
#include "runtime/formats.def"
#undef DATA_FORMAT

#endif
