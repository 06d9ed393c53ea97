/* Data format `text`: one or two columns of a table as token ids, their mask, or their types; i32 or f32 [length].
 *
 * A text is encoded once for all fields that show a part of it, when the first of them is opened, in threads. Rows are
 * kept without padding, in chunks that are the threads' tasks; the padding is made when a sample is read. */
#include "base/bug.h"
#include "runtime/dataset_formats.h"
#include "runtime/pool.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum
{
    CHUNK_ROWS = 256,
    MAX_THREADS = 16,
    MAX_LENGTH = 1 << 20
};

/* CHUNK_ROWS rows, the last one fewer. */
typedef struct
{
    uint64_t first;              /* of all tokens */
    uint32_t at[CHUNK_ROWS + 1]; /* where the ids of each row begin */
    int32_t *ids;
    int32_t *types; /* NULL: all are 0 */
    Status status;  /* why row bad_row is not there, and those behind it */
    uint32_t bad_row;
    char *detail;
} TextChunk;

struct TextRows
{
    /* what it was made of */
    const Table *table; /* not to be read once all fields are open */
    const Tokenizer *tokenizer;
    uint32_t columns[2];
    bool pair;
    bool packed;
    uint32_t length; /* 0: no limit */
    uint64_t n_rows; /* in use */
    /* what became of it */
    int32_t pad_id, end_id; /* by packed */
    uint64_t n_chunks;
    TextChunk *chunks;
};

/* ---- encoding, in threads */

/* What one thread needs. */
typedef struct
{
    TokenizerScratch *scratch;
    int32_t *ids, *types; /* of the chunk so far */
    size_t cap;
} Worker;

typedef struct
{
    TextRows *rows;
    Worker workers[MAX_THREADS];
    atomic_bool failed;
} Encoding;

static bool reserve(Worker *worker, size_t n)
{
    if (n <= worker->cap)
        return true;
    const size_t cap = n + n / 2 + 4096;
    int32_t *ids = realloc(worker->ids, cap * sizeof *ids);
    worker->ids = ids ? ids : worker->ids;
    int32_t *types = ids ? realloc(worker->types, cap * sizeof *types) : NULL;
    worker->types = types ? types : worker->types;
    worker->cap = types ? cap : worker->cap;
    return types != NULL;
}

/* The tokens of a text and an end token behind them; nothing for an empty text. */
static Status encode_packed(const TextRows *rows, Worker *worker, uint64_t number, uint32_t n, uint32_t *out_n)
{
    TokenSpan span;
    const TableCell cell = table_cell(rows->table, number, rows->columns[0]);
    TRY(tokenizer_encode(worker->scratch, cell.text, cell.n_bytes, &span));
    if ((uint64_t)n + span.n_tokens >= INT32_MAX)
        return status_fail(STATUS_BAD_INPUT, "more than %d tokens in %d rows", INT32_MAX, CHUNK_ROWS);
    if (!reserve(worker, (size_t)n + span.n_tokens + 1))
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for tokens");
    for (uint32_t i = 0; i < span.n_tokens; i++)
        worker->ids[n + i] = span.tokens[i].id;
    if (span.n_tokens)
        worker->ids[n + span.n_tokens] = rows->end_id;
    *out_n = n + span.n_tokens + (span.n_tokens > 0);
    memset(worker->types + n, 0, (*out_n - n) * sizeof *worker->types);
    return STATUS_OK;
}

/* Adds the row's ids and types behind the n that are there. */
static Status encode_row(const TextRows *rows, Worker *worker, uint64_t number, uint32_t n, uint32_t *out_n)
{
    TokenSpan spans[2];
    TokenizerRow row;
    for (int i = 0; i < 1 + rows->pair; i++)
    {
        const TableCell cell = table_cell(rows->table, number, rows->columns[i]);
        TRY(tokenizer_encode(worker->scratch, cell.text, cell.n_bytes, &spans[i]));
    }
    TRY(tokenizer_build(worker->scratch, spans[0], rows->pair ? &spans[1] : NULL, rows->length, TRUNCATE_LONGEST_FIRST,
                        &row));
    ENSURE(row.n_ids <= rows->length);
    if (!reserve(worker, (size_t)n + row.n_ids))
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for tokens");
    if (row.n_ids)
    {
        memcpy(worker->ids + n, row.ids, row.n_ids * sizeof *row.ids);
        memcpy(worker->types + n, row.type_ids, row.n_ids * sizeof *row.type_ids);
    }
    *out_n = n + row.n_ids;
    return STATUS_OK;
}

static Status keep_chunk(TextChunk *chunk, const Worker *worker, uint32_t n)
{
    bool typed = false;
    for (uint32_t i = 0; i < n && !typed; i++)
        typed = worker->types[i] != 0;
    chunk->ids = malloc(n ? n * sizeof *chunk->ids : 1);
    chunk->types = typed ? malloc(n * sizeof *chunk->types) : NULL;
    if (!chunk->ids || (typed && !chunk->types))
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for tokens");
    if (n)
        memcpy(chunk->ids, worker->ids, n * sizeof *chunk->ids);
    if (typed)
        memcpy(chunk->types, worker->types, n * sizeof *chunk->types);
    return STATUS_OK;
}

/* Chunks are begun in order, so one that is not begun yet lies behind the one that failed. */
static void encode_chunk(void *context, int64_t task, int number)
{
    Encoding *encoding = context;
    const TextRows *rows = encoding->rows;
    TextChunk *chunk = &rows->chunks[task];
    Worker *worker = &encoding->workers[number];
    if (atomic_load(&encoding->failed))
        return;
    if (!worker->scratch)
        worker->scratch = tokenizer_scratch_create(rows->tokenizer);
    const uint64_t first = (uint64_t)task * CHUNK_ROWS;
    const uint32_t n_rows = (uint32_t)(rows->n_rows - first < CHUNK_ROWS ? rows->n_rows - first : CHUNK_ROWS);
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_rows && chunk->status == STATUS_OK; i++)
    {
        chunk->bad_row = i;
        chunk->status =
            rows->packed ? encode_packed(rows, worker, first + i, n, &n) : encode_row(rows, worker, first + i, n, &n);
        chunk->at[i + 1] = n;
        tokenizer_scratch_reset(worker->scratch);
    }
    if (chunk->status == STATUS_OK)
        chunk->status = keep_chunk(chunk, worker, n);
    if (chunk->status != STATUS_OK)
    {
        chunk->detail = strdup(status_detail()); /* it is this thread's */
        atomic_store(&encoding->failed, true);
    }
}

/* The first row that failed, whichever thread was the first to see one. */
static Status first_failure(const TextRows *rows)
{
    for (uint64_t i = 0; i < rows->n_chunks; i++)
    {
        const TextChunk *chunk = &rows->chunks[i];
        if (chunk->status != STATUS_OK)
            return status_fail(chunk->status, "%s:%" PRIu64 ": %s", table_path(rows->table),
                               table_line(rows->table, i * CHUNK_ROWS + chunk->bad_row),
                               chunk->detail ? chunk->detail : "no memory");
    }
    return STATUS_OK;
}

static Status encode(TextRows *rows)
{
    Encoding *encoding = calloc(1, sizeof *encoding);
    rows->chunks = calloc(rows->n_chunks, sizeof *rows->chunks);
    if (!encoding || !rows->chunks)
    {
        free(encoding);
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for %" PRIu64 " texts", rows->n_rows);
    }
    encoding->rows = rows;
    int n_threads = pool_n_cores() < MAX_THREADS ? pool_n_cores() : MAX_THREADS;
    if ((uint64_t)n_threads > rows->n_chunks)
        n_threads = (int)rows->n_chunks;
    Pool *pool;
    Status status = pool_create(n_threads, false, &pool);
    if (status == STATUS_OK)
    {
        pool_run(pool, (int64_t)rows->n_chunks, encode_chunk, encoding);
        pool_destroy(pool);
        status = first_failure(rows);
    }
    for (uint64_t i = 1; i < rows->n_chunks && status == STATUS_OK; i++)
        rows->chunks[i].first = rows->chunks[i - 1].first + rows->chunks[i - 1].at[CHUNK_ROWS];
    for (int i = 0; i < MAX_THREADS; i++)
    {
        tokenizer_scratch_destroy(encoding->workers[i].scratch);
        free(encoding->workers[i].ids);
        free(encoding->workers[i].types);
    }
    free(encoding);
    return status;
}

void dataset_text_destroy(TextRows *rows)
{
    for (uint64_t i = 0; rows->chunks && i < rows->n_chunks; i++)
    {
        free(rows->chunks[i].ids);
        free(rows->chunks[i].types);
        free(rows->chunks[i].detail);
    }
    free(rows->chunks);
}

/* ---- what is shared */

Status dataset_shared_tokenizer(DatasetShared *shared, const DatasetSource *source, const Tokenizer **out_tokenizer)
{
    for (uint32_t i = 0; i < shared->tokenizers.len; i++)
        if (strcmp(shared->tokenizers.data[i].path, source->tokenizer) == 0)
        {
            *out_tokenizer = shared->tokenizers.data[i].tokenizer;
            return STATUS_OK;
        }
    SharedTokenizer entry = {.path = arena_strdup(shared->arena, source->tokenizer)};
    TRY(tokenizer_open(source->tokenizer, &entry.tokenizer));
    vec_push(shared->arena, &shared->tokenizers, entry);
    *out_tokenizer = entry.tokenizer;
    return STATUS_OK;
}

/* GPT-2 and its like have no padding token: what stands behind the end is masked, so the end token does. */
Status dataset_pad_id(const DatasetSource *source, const Tokenizer *tokenizer, int32_t *out_pad)
{
    *out_pad = tokenizer_special(tokenizer, TOKENIZER_PAD);
    if (*out_pad < 0)
        *out_pad = tokenizer_special(tokenizer, TOKENIZER_EOS);
    if (*out_pad < 0)
        return status_fail(STATUS_BAD_INPUT, "%s: the tokenizer of '%s' has neither a padding token nor an end token",
                           source->tokenizer, source->field);
    return STATUS_OK;
}

Status dataset_check_vocabulary(const DatasetSource *source, const Tokenizer *tokenizer)
{
    if (source->n_classes && tokenizer_vocab_size(tokenizer) > (uint64_t)source->n_classes)
        return status_fail(STATUS_BAD_INPUT, "%s: the tokenizer has %u ids, but '%s' has %" PRId64 " classes",
                           source->tokenizer, tokenizer_vocab_size(tokenizer), source->field, source->n_classes);
    return STATUS_OK;
}

static Status find_specials(const DatasetSource *source, TextRows *rows)
{
    if (!rows->packed)
        return dataset_pad_id(source, rows->tokenizer, &rows->pad_id);
    rows->end_id = tokenizer_special(rows->tokenizer, TOKENIZER_EOS);
    if (rows->end_id < 0)
        return status_fail(STATUS_BAD_INPUT, "%s: the tokenizer of '%s' has no end token to stand between texts",
                           source->tokenizer, source->field);
    return STATUS_OK;
}

static bool same_rows(const TextRows *a, const TextRows *b)
{
    return a->table == b->table && a->tokenizer == b->tokenizer && a->pair == b->pair &&
           a->columns[0] == b->columns[0] && a->columns[1] == b->columns[1] && a->length == b->length &&
           a->n_rows == b->n_rows && a->packed == b->packed;
}

Status dataset_text_rows(DatasetShared *shared, const DatasetSource *source, bool packed, const TextRows **out_rows)
{
    TextRows wanted = {
        .pair = source->columns[1] != NULL, .packed = packed, .length = packed ? 0 : (uint32_t)source->dims[0]};
    TRY(dataset_shared_table(shared, source, &wanted.table));
    for (int i = 0; i < 1 + wanted.pair; i++)
        TRY(table_column(wanted.table, source->columns[i], &wanted.columns[i]));
    TRY(dataset_shared_tokenizer(shared, source, &wanted.tokenizer));
    TRY(find_specials(source, &wanted));
    TRY(dataset_check_vocabulary(source, wanted.tokenizer));
    wanted.n_rows = packed ? table_n_rows(wanted.table) : dataset_rows_used(source, wanted.table);
    wanted.n_chunks = (wanted.n_rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    for (uint32_t i = 0; i < shared->texts.len; i++)
        if (same_rows(shared->texts.data[i], &wanted))
        {
            *out_rows = shared->texts.data[i];
            return STATUS_OK;
        }
    TextRows *rows = arena_memdup(shared->arena, &wanted, sizeof wanted);
    vec_push(shared->arena, &shared->texts, rows); /* from here on dataset_shared_destroy frees it */
    TRY(encode(rows));
    *out_rows = rows;
    return STATUS_OK;
}

/* ---- reading */

typedef enum
{
    PART_IDS,
    PART_MASK,
    PART_TYPES,
    PART_COUNT
} TextPart;

typedef struct
{
    const TextRows *rows;
    TextPart part;
} TextField;

void dataset_text_mask(Elem elem, void *dst, uint32_t n, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++)
        if (elem == ELEM_F32)
            ((float *)dst)[i] = i < n ? 1.0f : 0.0f;
        else
            ((int32_t *)dst)[i] = i < n;
}

uint64_t dataset_text_n_tokens(const TextRows *rows)
{
    const uint64_t n_rows = rows->n_rows;
    const TextChunk *last = &rows->chunks[rows->n_chunks - 1];
    return last->first + last->at[(n_rows - 1) % CHUNK_ROWS + 1];
}

/* The chunk that holds a token. */
static uint64_t chunk_of(const TextRows *rows, uint64_t token)
{
    uint64_t low = 0, high = rows->n_chunks;
    while (high - low > 1)
    {
        const uint64_t middle = low + (high - low) / 2;
        *(rows->chunks[middle].first <= token ? &low : &high) = middle;
    }
    return low;
}

void dataset_text_copy(const TextRows *rows, uint64_t first, uint32_t n, bool rows_of, int32_t *dst)
{
    uint64_t chunk = chunk_of(rows, first), row = 0, first_row = UINT64_MAX;
    for (uint32_t i = 0; i < n; i++)
    {
        while (chunk + 1 < rows->n_chunks && rows->chunks[chunk + 1].first <= first + i)
        {
            chunk++;
            row = 0;
        }
        const TextChunk *c = &rows->chunks[chunk];
        const uint32_t at = (uint32_t)(first + i - c->first);
        while (c->at[row + 1] <= at)
            row++;
        if (first_row == UINT64_MAX)
            first_row = chunk * CHUNK_ROWS + row;
        dst[i] = rows_of ? (int32_t)(chunk * CHUNK_ROWS + row - first_row) : c->ids[at];
    }
}

static uint32_t length_of_text(const FieldReader *reader, uint64_t sample)
{
    const TextRows *rows = ((const TextField *)reader->state)->rows;
    const uint32_t *at = &rows->chunks[sample / CHUNK_ROWS].at[sample % CHUNK_ROWS];
    return at[1] - at[0];
}

static void read_first_of_text(const FieldReader *reader, uint64_t sample, uint32_t length, void *dst)
{
    const TextField *field = reader->state;
    const TextRows *rows = field->rows;
    const TextChunk *chunk = &rows->chunks[sample / CHUNK_ROWS];
    const uint32_t at = chunk->at[sample % CHUNK_ROWS], n_tokens = length_of_text(reader, sample);
    const uint32_t n = n_tokens < length ? n_tokens : length;
    int32_t *out = dst;
    if (field->part == PART_MASK)
    {
        dataset_text_mask(reader->field.elem, dst, n, length);
        return;
    }
    const int32_t *values = field->part == PART_IDS ? chunk->ids : chunk->types;
    const int32_t pad = field->part == PART_IDS ? rows->pad_id : 0;
    if (values)
        memcpy(out, values + at, n * sizeof *out);
    for (uint32_t i = values ? n : 0; i < length; i++)
        out[i] = pad;
}

static Status read_text(const FieldReader *reader, uint64_t sample, const DatasetPass *pass, void *dst)
{
    (void)pass;
    read_first_of_text(reader, sample, ((const TextField *)reader->state)->rows->length, dst);
    return STATUS_OK;
}

static void close_text(FieldReader *reader)
{
    (void)reader; /* all is in what the fields share */
}

/* ---- open */

static bool part_by_name(const char *name, TextPart *out_part)
{
    static const char *const names[PART_COUNT] = {[PART_IDS] = "ids", [PART_MASK] = "mask", [PART_TYPES] = "types"};
    for (int i = 0; name && i < PART_COUNT; i++)
        if (strcmp(names[i], name) == 0)
        {
            *out_part = (TextPart)i;
            return true;
        }
    return false;
}

Status dataset_open_text(const DatasetSource *source, DatasetShared *shared, FieldReader *out_reader)
{
    TextField *field = ARENA_NEW(shared->arena, TextField);
    if (!source->columns[0] || !source->tokenizer || !part_by_name(source->part, &field->part))
        return status_fail(STATUS_BAD_INPUT,
                           "data field '%s' (%s): format 'text' needs columns, a tokenizer and a part: ids, mask or "
                           "types",
                           source->field, source->path);
    if (source->rank != 1 || source->dims[0] < 1 || source->dims[0] > MAX_LENGTH)
        return status_fail(STATUS_BAD_INPUT, "data field '%s' (%s): a text is one axis of 1 to %d tokens",
                           source->field, source->path, MAX_LENGTH);
    TRY(dataset_text_rows(shared, source, false, &field->rows));
    *out_reader =
        (FieldReader){.n_samples = table_n_rows(field->rows->table),
                      .state = field,
                      .read = read_text,
                      .length = length_of_text,
                      .read_first = read_first_of_text,
                      .close = close_text,
                      .field = {.elem = field->part == PART_MASK && source->elem == ELEM_F32 ? ELEM_F32 : ELEM_I32,
                                .rank = 1,
                                .dims = {source->dims[0]}}};
    return STATUS_OK;
}
