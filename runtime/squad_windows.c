/* Windows: contexts and questions as tokens, cut into rows as Hugging Face's run_qa does it (truncation of the second
 * text only, return_overflowing_tokens, stride). */
#include "base/bug.h"
#include "runtime/mapped_file.h"
#include "runtime/pool.h"
#include "runtime/squad_parts.h"

#include <stdatomic.h>
#include <string.h>

enum
{
    MAX_THREADS = 16
};

/* ---- tokens, in threads: a task is a context with its questions */

typedef struct
{
    SquadSet *set;
    TokenizerScratch *scratches[MAX_THREADS];
    const char **failures; /* of each context; NULL: none */
    atomic_bool failed;
} Encoding;

static Status encode_text(Encoding *encoding, int number, const char *text, uint32_t n_bytes, TokenSpan *out_tokens)
{
    TRY(tokenizer_encode(encoding->scratches[number], text, n_bytes, out_tokens));
    out_tokens->tokens = arena_memdup(encoding->set->token_arenas[number], out_tokens->tokens,
                                      out_tokens->n_tokens * sizeof *out_tokens->tokens);
    tokenizer_scratch_reset(encoding->scratches[number]);
    return STATUS_OK;
}

static Status encode_context(Encoding *encoding, int number, SquadContext *context)
{
    TRY(encode_text(encoding, number, context->text, context->n_bytes, &context->tokens));
    for (uint32_t i = 0; i < context->n_questions; i++)
    {
        SquadQuestion *q = &encoding->set->questions.data[context->first_question + i];
        TRY(encode_text(encoding, number, q->text, q->n_bytes, &q->tokens));
    }
    return STATUS_OK;
}

/* Tasks are begun in order, so one that is not begun yet lies behind the one that failed. */
static void encode_task(void *context, int64_t task, int number)
{
    Encoding *encoding = context;
    if (atomic_load(&encoding->failed))
        return;
    if (encode_context(encoding, number, &encoding->set->contexts.data[task]) == STATUS_OK)
        return;
    encoding->failures[task] = arena_strdup(encoding->set->token_arenas[number], status_detail());
    atomic_store(&encoding->failed, true);
}

static Status first_failure(const Encoding *encoding)
{
    const SquadSet *set = encoding->set;
    for (uint32_t i = 0; i < set->contexts.len; i++)
        if (encoding->failures[i])
            return status_fail(STATUS_BAD_INPUT, "%s: data[%u].paragraphs[%u]: %s", set->path,
                               set->contexts.data[i].article, set->contexts.data[i].paragraph, encoding->failures[i]);
    return STATUS_OK;
}

static Status encode(SquadSet *set, const Tokenizer *tokenizer)
{
    Encoding encoding = {.set = set, .failures = ARENA_ARRAY(set->arena, const char *, set->contexts.len)};
    int n_threads = pool_n_cores() < MAX_THREADS ? pool_n_cores() : MAX_THREADS;
    if ((uint32_t)n_threads > set->contexts.len)
        n_threads = (int)set->contexts.len;
    set->token_arenas = ARENA_ARRAY(set->arena, Arena *, n_threads);
    for (; set->n_token_arenas < (uint32_t)n_threads; set->n_token_arenas++)
    {
        set->token_arenas[set->n_token_arenas] = arena_create();
        encoding.scratches[set->n_token_arenas] = tokenizer_scratch_create(tokenizer);
    }
    Pool *pool;
    Status status = pool_create(n_threads, false, &pool);
    if (status == STATUS_OK)
    {
        pool_run(pool, set->contexts.len, encode_task, &encoding);
        pool_destroy(pool);
        status = first_failure(&encoding);
    }
    for (int i = 0; i < n_threads; i++)
        tokenizer_scratch_destroy(encoding.scratches[i]);
    return status;
}

/* ---- the row's special tokens */

static SquadGap gap_of(Arena *arena, const TokenizerRow *row, uint32_t begin, uint32_t end)
{
    const size_t size_bytes = (end - begin) * sizeof(int32_t);
    return (SquadGap){end - begin, arena_memdup(arena, row->ids + begin, size_bytes),
                      arena_memdup(arena, row->type_ids + begin, size_bytes)};
}

static bool find_id(const SquadGap *gap, int32_t id, int32_t *out_at)
{
    for (uint32_t i = 0; id >= 0 && i < gap->n; i++)
        if (gap->ids[i] == id)
        {
            *out_at = (int32_t)i;
            return true;
        }
    return false;
}

/* From a row of one token each. */
static Status find_gaps(SquadSet *set, const Tokenizer *tokenizer)
{
    const TextToken token = {0};
    const TokenSpan one = {&token, 1};
    TokenizerScratch *scratch = tokenizer_scratch_create(tokenizer);
    TokenizerRow row;
    Status status = tokenizer_build(scratch, one, &one, 0, TRUNCATE_ONLY_SECOND, &row);
    const uint32_t question_at = row.first_at[0], context_at = row.first_at[1];
    if (status == STATUS_OK && question_at > context_at)
        status = status_fail(STATUS_UNSUPPORTED, "%s: the tokenizer puts the second text of a pair before the first",
                             set->path);
    if (status == STATUS_OK)
    {
        set->gaps[0] = gap_of(set->arena, &row, 0, question_at);
        set->gaps[1] = gap_of(set->arena, &row, question_at + 1, context_at);
        set->gaps[2] = gap_of(set->arena, &row, context_at + 1, row.n_ids);
        set->types[0] = row.type_ids[question_at];
        set->types[1] = row.type_ids[context_at];
        if (!find_id(&set->gaps[0], tokenizer_special(tokenizer, TOKENIZER_CLS), &set->cls_at))
            find_id(&set->gaps[0], tokenizer_special(tokenizer, TOKENIZER_BOS), &set->cls_at);
    }
    tokenizer_scratch_destroy(scratch);
    return status;
}

/* ---- windows */

static uint32_t context_at(const SquadSet *set, const SquadQuestion *q)
{
    return set->gaps[0].n + q->tokens.n_tokens + set->gaps[1].n;
}

/* The places of the first answer. Where a token begins or ends within the answer, the answer gets all of it. */
static void label(const SquadSet *set, const SquadQuestion *q, SquadWindow *w)
{
    const TextToken *tokens = set->contexts.data[q->context].tokens.tokens + w->first_token;
    const uint32_t begin = q->answers[0].begin, end = begin + q->answers[0].n_bytes, at = context_at(set, q);
    uint32_t first = 0, behind = w->n_tokens;
    w->first = w->last = set->cls_at;
    if (tokens[0].begin > begin || tokens[w->n_tokens - 1].end < end)
        return;
    while (first < w->n_tokens && tokens[first].begin <= begin)
        first++;
    while (behind > 0 && tokens[behind - 1].end >= end)
        behind--;
    w->first = (int32_t)(at + first - 1);
    w->last = (int32_t)(at + behind);
}

static Status cut_question(SquadSet *set, uint32_t number)
{
    const SquadQuestion *q = &set->questions.data[number];
    const uint32_t n_all = set->contexts.data[q->context].tokens.n_tokens,
                   n_around = context_at(set, q) + set->gaps[2].n;
    if (n_all == 0)
        return status_fail(STATUS_BAD_INPUT, "%s: %s: the context has no tokens", set->path,
                           squad_place(set, set->arena, number));
    const uint32_t room = set->length > n_around ? set->length - n_around : 0;
    if (room == 0 || (n_all > room && room <= set->stride))
        return status_fail(STATUS_BAD_INPUT,
                           "%s: %s: the question has %u tokens, which leave %u of %u to the context; windows that "
                           "overlap by %u need more",
                           set->path, squad_place(set, set->arena, number), q->tokens.n_tokens, room, set->length,
                           set->stride);
    for (uint32_t first = 0, end = 0; end < n_all; first += room - set->stride)
    {
        end = n_all - first < room ? n_all : first + room;
        SquadWindow window = {.question = number, .first_token = first, .n_tokens = end - first};
        label(set, q, &window);
        vec_push(set->arena, &set->windows, window);
    }
    return STATUS_OK;
}

static Status make(SquadSet *set, const char *text, size_t n_bytes, const Tokenizer *tokenizer)
{
    TRY(squad_read(set, text, n_bytes));
    TRY(find_gaps(set, tokenizer));
    TRY(encode(set, tokenizer));
    for (uint32_t i = 0; i < set->questions.len; i++)
        TRY(cut_question(set, i));
    return STATUS_OK;
}

Status squad_open_text(const char *name, const char *text, size_t n_bytes, const Tokenizer *tokenizer, uint32_t length,
                       uint32_t stride, SquadSet **out_set)
{
    Arena *arena = arena_create();
    SquadSet *set = ARENA_NEW(arena, SquadSet);
    *set = (SquadSet){.arena = arena, .path = arena_strdup(arena, name), .length = length, .stride = stride};
    Status status = make(set, text, n_bytes, tokenizer);
    if (status == STATUS_OK)
        *out_set = set;
    else
        squad_close(set);
    return status;
}

Status squad_open(const char *path, const Tokenizer *tokenizer, uint32_t length, uint32_t stride, SquadSet **out_set)
{
    MappedFile file;
    TRY(mapped_file_open(path, &file));
    Status status = squad_open_text(path, file.data, file.size_bytes, tokenizer, length, stride, out_set);
    mapped_file_close(&file);
    return status;
}

void squad_close(SquadSet *set)
{
    if (!set)
        return;
    for (uint32_t i = 0; i < set->n_token_arenas; i++)
        arena_destroy(set->token_arenas[i]);
    arena_destroy(set->arena); /* holds *set too */
}

/* ---- reading */

uint64_t squad_n_windows(const SquadSet *set)
{
    return set->windows.len;
}

uint64_t squad_n_questions(const SquadSet *set)
{
    return set->questions.len;
}

uint32_t squad_length(const SquadSet *set)
{
    return set->length;
}

uint32_t squad_stride(const SquadSet *set)
{
    return set->stride;
}

static const SquadWindow *window_at(const SquadSet *set, uint64_t window)
{
    ENSURE(window < set->windows.len);
    return &set->windows.data[window];
}

uint32_t squad_n_tokens(const SquadSet *set, uint64_t window)
{
    const SquadWindow *w = window_at(set, window);
    return context_at(set, &set->questions.data[w->question]) + w->n_tokens + set->gaps[2].n;
}

typedef struct
{
    int32_t *ids, *types;
    uint32_t at, n;
} RowWriter;

static void put(RowWriter *out, int32_t id, int32_t type)
{
    if (out->at == out->n)
        return;
    if (out->ids)
        out->ids[out->at] = id;
    if (out->types)
        out->types[out->at] = type;
    out->at++;
}

static void put_gap(RowWriter *out, const SquadGap *gap)
{
    for (uint32_t i = 0; i < gap->n; i++)
        put(out, gap->ids[i], gap->types[i]);
}

void squad_row(const SquadSet *set, uint64_t window, uint32_t n, int32_t pad, int32_t *ids, int32_t *types)
{
    const SquadWindow *w = window_at(set, window);
    const SquadQuestion *q = &set->questions.data[w->question];
    const TextToken *context = set->contexts.data[q->context].tokens.tokens + w->first_token;
    RowWriter out = {.ids = ids, .types = types, .n = n};
    put_gap(&out, &set->gaps[0]);
    for (uint32_t i = 0; i < q->tokens.n_tokens; i++)
        put(&out, q->tokens.tokens[i].id, set->types[0]);
    put_gap(&out, &set->gaps[1]);
    for (uint32_t i = 0; i < w->n_tokens; i++)
        put(&out, context[i].id, set->types[1]);
    put_gap(&out, &set->gaps[2]);
    while (out.at < n)
        put(&out, pad, 0);
}

void squad_labels(const SquadSet *set, uint64_t window, int32_t *out_first, int32_t *out_last)
{
    const SquadWindow *w = window_at(set, window);
    *out_first = w->first;
    *out_last = w->last;
}
