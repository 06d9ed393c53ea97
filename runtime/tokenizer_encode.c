/* Text to tokens: decoding, added tokens, the stages between them, places.
 *
 * The order is the library's (`extract_and_normalize`, added_vocabulary.rs): added tokens in the text as it is; between
 * them normalisation; added tokens in what is normalised; between those the splits and the model. */
#include "runtime/tokenizer_parts.h"

#include "base/bug.h"

#include <stdlib.h>
#include <xxhash.h>

/* ---- the scratch */

TokenizerScratch *tokenizer_scratch_create(const Tokenizer *tokenizer)
{
    const WordPieceModel *model = &tokenizer->wordpiece;
    TokenizerScratch *scratch = calloc(1, sizeof *scratch);
    CachedWord *cache = calloc(N_CACHED_WORDS, sizeof *cache); /* no arena: pages are touched as they are used */
    uint8_t *key = malloc((size_t)model->prefix_len + model->max_token_bytes + 1);
    if (!scratch || !cache || !key)
        base_out_of_memory(N_CACHED_WORDS * sizeof *cache);
    *scratch =
        (TokenizerScratch){tokenizer, .work = arena_create(), .results = arena_create(), .cache = cache, .key = key};
    if (model->prefix_len > 0)
        memcpy(key, model->prefix, model->prefix_len);
    return scratch;
}

void tokenizer_scratch_destroy(TokenizerScratch *scratch)
{
    if (!scratch)
        return;
    arena_destroy(scratch->work);
    arena_destroy(scratch->results);
    free(scratch->cache);
    free(scratch->key);
    free(scratch);
}

void tokenizer_scratch_reset(TokenizerScratch *scratch)
{
    arena_reset(scratch->results);
}

/* ---- places */

void text_spaces(const UnicodeClasses *classes, const uint8_t *bytes, uint32_t len, uint32_t *out_left,
                 uint32_t *out_right)
{
    enum
    {
        SPELLED_SPACE = 0x120
    };
    uint32_t n_left = 0, n_right = 0;
    for (uint32_t at = 0; at < len; n_left++)
    {
        uint32_t c = utf8_next(bytes, &at);
        if (c != SPELLED_SPACE && !(unicode_class(classes, c) & CLASS_SPACE))
            break;
    }
    for (uint32_t at = len; at > 0; n_right++)
    {
        uint32_t before = at = utf8_before(bytes, at);
        uint32_t c = utf8_next(bytes, &before);
        if (c != SPELLED_SPACE && !(unicode_class(classes, c) & CLASS_SPACE))
            break;
    }
    *out_left = n_left;
    *out_right = n_right;
}

/* The range without the characters for the spaces that the token begins and ends with (`process_offsets`,
 * byte_level.rs). A first space that add_prefix_space may have made is kept. */
static ByteRange trim(const TokenizerScratch *scratch, ByteRange range, uint32_t n_left, uint32_t n_right)
{
    const Text *original = &scratch->original;
    bool is_first = scratch->tokens.len == 0 || range.begin == 0;
    if (is_first && scratch->tokenizer->trim_keeps_prefix && n_left == 1)
        n_left = 0;
    for (; n_left > 0 && range.begin < range.end; n_left--)
        utf8_next(original->bytes, &range.begin);
    uint32_t end = range.end;
    while (n_right > 0 && end > 0)
    {
        end = utf8_before(original->bytes, end);
        n_right--;
    }
    if (n_right == 0) /* else more than the text has before it: the library leaves the end alone */
        range.end = end > range.begin ? end : range.begin;
    return range;
}

static void emit(TokenizerScratch *scratch, int32_t id, ByteRange range, uint32_t n_left, uint32_t n_right)
{
    if (n_left > 0 || n_right > 0)
        range = trim(scratch, range, n_left, n_right);
    vec_push(scratch->work, &scratch->tokens, (TextToken){id, range.begin, range.end});
}

/* ---- words */

static Status model_word(TokenizerScratch *scratch, Text word)
{
    scratch->pieces.len = 0;
    return scratch->tokenizer->model == MODEL_WORDPIECE ? wordpiece_word(scratch, word) : bpe_word(scratch, word);
}

static void emit_pieces(TokenizerScratch *scratch, Text word)
{
    const uint16_t(*spaces)[2] = scratch->tokenizer->spaces;
    uint32_t begin = 0;
    for (uint32_t i = 0; i < scratch->pieces.len; i++)
    {
        WordPiece piece = scratch->pieces.data[i];
        ByteRange range = {word.at[begin].begin, word.at[piece.end - 1].end};
        emit(scratch, piece.id, range, spaces ? spaces[piece.id][0] : 0, spaces ? spaces[piece.id][1] : 0);
        begin = piece.end;
    }
}

Status scratch_word(TokenizerScratch *scratch, Text word)
{
    if (word.len > CACHED_WORD_BYTES)
    {
        TRY(model_word(scratch, word));
        emit_pieces(scratch, word);
        return STATUS_OK;
    }
    uint64_t hash = XXH3_64bits(word.bytes, word.len);
    CachedWord *cached = &scratch->cache[hash % N_CACHED_WORDS];
    if (cached->hash == hash && cached->n_bytes == word.len && memcmp(cached->bytes, word.bytes, word.len) == 0)
    {
        scratch->pieces.len = 0;
        for (uint32_t i = 0; i < cached->n_pieces; i++)
            scratch_piece(scratch, cached->ids[i], cached->ends[i]);
    }
    else
    {
        TRY(model_word(scratch, word));
        if (scratch->pieces.len <= CACHED_WORD_PIECES)
        {
            cached->hash = hash;
            cached->n_bytes = (uint8_t)word.len;
            cached->n_pieces = (uint8_t)scratch->pieces.len;
            memcpy(cached->bytes, word.bytes, word.len);
            for (uint32_t i = 0; i < scratch->pieces.len; i++)
            {
                cached->ids[i] = scratch->pieces.data[i].id;
                cached->ends[i] = (uint8_t)scratch->pieces.data[i].end;
            }
        }
    }
    emit_pieces(scratch, word);
    return STATUS_OK;
}

/* ---- added tokens */

/* The longest token of the set at `at`, or NULL. */
static const AddedToken *added_at(const AddedSet *set, Text text, uint32_t at)
{
    uint8_t byte = text.bytes[at];
    for (uint32_t i = set->first[byte]; i < set->first[byte + 1]; i++)
    {
        const AddedToken *added = set->tokens[i];
        if (added->pattern_len <= text.len - at && memcmp(added->pattern, text.bytes + at, added->pattern_len) == 0)
            return added;
    }
    return NULL;
}

static bool has_class(const UnicodeClasses *classes, Text text, uint32_t at, uint32_t class)
{
    return unicode_class(classes, utf8_next(text.bytes, &at)) & class;
}

static bool is_single_word(const UnicodeClasses *classes, Text text, uint32_t begin, uint32_t end)
{
    return !(begin > 0 && has_class(classes, text, utf8_before(text.bytes, begin), CLASS_WORD)) &&
           !(end < text.len && has_class(classes, text, end, CLASS_WORD));
}

static void emit_added(TokenizerScratch *scratch, const AddedToken *added, Text text)
{
    uint32_t n_left = 0, n_right = 0;
    if (scratch->tokenizer->trim_offsets)
        text_spaces(scratch->tokenizer->classes, text.bytes, text.len, &n_left, &n_right);
    emit(scratch, added->id, (ByteRange){text.at[0].begin, text.at[text.len - 1].end}, n_left, n_right);
}

typedef Status (*Stage)(TokenizerScratch *scratch, Text text);

/* Emits the added tokens of a set in text, and gives what is between them to the next stage (`find_matches`). */
static Status split_added(TokenizerScratch *scratch, const AddedSet *set, Text text, Stage next)
{
    if (set->n_tokens == 0)
        return next(scratch, text);
    const UnicodeClasses *classes = scratch->tokenizer->classes;
    uint32_t done = 0;
    for (uint32_t at = 0; at < text.len;)
    {
        const AddedToken *added = added_at(set, text, at);
        if (!added)
        {
            at++;
            continue;
        }
        uint32_t begin = at, end = at + added->pattern_len;
        at = end;
        if (added->single_word && !is_single_word(classes, text, begin, end))
            continue;
        if (added->lstrip)
        {
            while (begin > done && has_class(classes, text, utf8_before(text.bytes, begin), CLASS_SPACE))
                begin = utf8_before(text.bytes, begin);
            begin = begin > done ? begin : done;
        }
        while (added->rstrip && end < text.len && has_class(classes, text, end, CLASS_SPACE))
            utf8_next(text.bytes, &end);
        if (done < begin)
            TRY(next(scratch, text_slice(text, done, begin)));
        emit_added(scratch, added, text_slice(text, begin, end));
        done = end;
    }
    return done < text.len ? next(scratch, text_slice(text, done, text.len)) : STATUS_OK;
}

/* ---- the stages */

static Status split_stage(TokenizerScratch *scratch, Text text)
{
    return split_run(scratch, scratch->tokenizer->splits, scratch->tokenizer->n_splits, text);
}

static Status normalize_stage(TokenizerScratch *scratch, Text text)
{
    const Tokenizer *tokenizer = scratch->tokenizer;
    for (uint32_t i = 0; i < tokenizer->n_normalizers && text.len > 0; i++)
        text = normalizer_run(tokenizer->classes, scratch->work, &tokenizer->normalizers[i], text);
    return text.len > 0 ? split_added(scratch, &tokenizer->normalized, text, split_stage) : STATUS_OK;
}

/* The text with U+FFFD for what is invalid. out_raw: per byte and for the end, where it is in the text as given; NULL
 * when all is valid. */
static Text decode(Arena *arena, const uint8_t *bytes, uint32_t n_bytes, const uint32_t **out_raw)
{
    static const uint8_t replacement[3] = {0xEF, 0xBF, 0xBD};
    uint32_t n_bad = 0, bad = 0, len;
    for (uint32_t at = 0; at < n_bytes; at += len)
    {
        len = utf8_check(bytes + at, n_bytes - at, &bad);
        if (len == 0)
        {
            n_bad++;
            len = bad;
        }
    }
    uint32_t cap = n_bytes + 3 * n_bad, n = 0;
    ByteRange *places = ARENA_ARRAY(arena, ByteRange, cap);
    uint8_t *decoded = n_bad ? arena_alloc(arena, cap) : NULL;
    uint32_t *raw = n_bad ? ARENA_ARRAY(arena, uint32_t, cap + 1) : NULL;
    for (uint32_t at = 0; at < n_bytes; at += len)
    {
        len = utf8_check(bytes + at, n_bytes - at, &bad);
        uint32_t width = len ? len : 3;
        for (uint32_t i = 0; i < width; i++)
        {
            places[n + i] = (ByteRange){n, n + width};
            if (n_bad)
            {
                decoded[n + i] = len ? bytes[at + i] : replacement[i];
                raw[n + i] = at;
            }
        }
        n += width;
        len = len ? len : bad;
    }
    if (n_bad)
        raw[n] = n_bytes;
    *out_raw = raw;
    return (Text){n_bad ? decoded : bytes, places, n};
}

Status tokenizer_encode(TokenizerScratch *scratch, const char *text, size_t n_bytes, TokenSpan *out_span)
{
    *out_span = (TokenSpan){0};
    if (n_bytes > TOKENIZER_MAX_TEXT_BYTES)
        return status_fail(STATUS_BAD_INPUT, "a text of %zu bytes; at most %d are supported", n_bytes,
                           TOKENIZER_MAX_TEXT_BYTES);
    if (n_bytes == 0)
        return STATUS_OK;
    arena_reset(scratch->work);
    memset(&scratch->tokens, 0, sizeof scratch->tokens);
    memset(&scratch->pieces, 0, sizeof scratch->pieces);
    memset(&scratch->symbols, 0, sizeof scratch->symbols);
    memset(&scratch->heap, 0, sizeof scratch->heap);
    const uint32_t *raw;
    scratch->original = decode(scratch->work, (const uint8_t *)text, (uint32_t)n_bytes, &raw);
    TRY(split_added(scratch, &scratch->tokenizer->raw, scratch->original, normalize_stage));
    for (uint32_t i = 0; raw && i < scratch->tokens.len; i++)
    {
        TextToken *token = &scratch->tokens.data[i];
        token->begin = raw[token->begin];
        token->end = raw[token->end];
    }
    *out_span = (TokenSpan){
        arena_memdup(scratch->results, scratch->tokens.data, scratch->tokens.len * sizeof(TextToken)),
        scratch->tokens.len,
    };
    return STATUS_OK;
}
