/* WordPiece: vocab.txt, and words to their longest known pieces from the left (tokenizers/src/models/wordpiece). */
#include "runtime/tokenizer_parts.h"

/* ---- vocab.txt */

/* Without the white space at the end of the line. */
static uint32_t trimmed_len(const UnicodeClasses *classes, const uint8_t *line, uint32_t len)
{
    while (len > 0)
    {
        uint32_t before = utf8_before(line, len), at = before;
        if (!(unicode_class(classes, utf8_next(line, &at)) & CLASS_SPACE))
            break;
        len = before;
    }
    return len;
}

static Status check_utf8(const Tokenizer *tokenizer, const uint8_t *bytes, size_t n_bytes)
{
    uint32_t line = 1, bad, len;
    for (size_t at = 0; at < n_bytes; at += len)
    {
        len = utf8_check(bytes + at, n_bytes - at, &bad);
        if (len == 0)
            return tokenizer_bad(tokenizer, "line %u: invalid UTF-8", line);
        line += bytes[at] == '\n';
    }
    return STATUS_OK;
}

/* A line per id; a spelling that comes again takes the later id, as in the library. */
static Status read_lines(Tokenizer *tokenizer, const char *bytes, size_t n_bytes)
{
    size_t n_lines = 1;
    for (size_t i = 0; i < n_bytes; i++)
        n_lines += bytes[i] == '\n';
    if (n_lines > INT32_MAX / 4)
        return tokenizer_bad(tokenizer, "%zu lines are too many for a vocabulary", n_lines);
    tokenizer->vocab = vocab_make(tokenizer->arena, n_lines);
    int32_t id = 0;
    for (size_t at = 0; at < n_bytes; id++)
    {
        const char *newline = memchr(bytes + at, '\n', n_bytes - at);
        size_t end = newline ? (size_t)(newline - bytes) : n_bytes;
        uint32_t len = trimmed_len(tokenizer->classes, (const uint8_t *)bytes + at, (uint32_t)(end - at));
        bool is_new;
        vocab_put(&tokenizer->vocab, arena_strndup(tokenizer->arena, bytes + at, len), len, &is_new)->id = id;
        at = end + 1;
    }
    return STATUS_OK;
}

static bool config_flag(const json_t *config, const char *key, bool otherwise)
{
    const json_t *value = json_object_get(config, key);
    return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

Status tokenizer_read_vocab(Tokenizer *tokenizer, const void *bytes, size_t n_bytes, const json_t *config)
{
    static const struct
    {
        const char *key, *token;
        bool needed;
    } specials[] = {
        {"unk_token", "[UNK]", true}, {"sep_token", "[SEP]", true},    {"pad_token", "[PAD]", false},
        {"cls_token", "[CLS]", true}, {"mask_token", "[MASK]", false},
    };
    enum
    {
        N_SPECIALS = sizeof specials / sizeof specials[0],
        UNK = 0,
        SEP = 1,
        CLS = 3
    };
    if (n_bytes == 0)
        return tokenizer_bad(tokenizer, "an empty vocabulary");
    TRY(check_utf8(tokenizer, bytes, n_bytes));
    TRY(read_lines(tokenizer, bytes, n_bytes));

    AddedToken *added = ARENA_ARRAY(tokenizer->arena, AddedToken, N_SPECIALS);
    const char *spelled[N_SPECIALS];
    tokenizer->added = added;
    for (int i = 0; i < N_SPECIALS; i++)
    {
        const char *given = tokenizer_config_token(config, specials[i].key);
        spelled[i] = arena_strdup(tokenizer->arena, given ? given : specials[i].token);
        int32_t id = vocab_find(&tokenizer->vocab, spelled[i], strlen(spelled[i]));
        if (id < 0 && specials[i].needed)
            return tokenizer_bad(tokenizer, "the vocabulary has no '%s'", spelled[i]);
        if (id >= 0)
            added[tokenizer->n_added++] =
                (AddedToken){.text = spelled[i], .len = (uint32_t)strlen(spelled[i]), .id = id, .special = true};
    }

    bool lowercase = config_flag(config, "do_lower_case", true);
    tokenizer->normalizers = ARENA_NEW(tokenizer->arena, Normalizer);
    tokenizer->n_normalizers = 1;
    tokenizer->normalizers[0] = (Normalizer){
        .kind = NORMALIZE_BERT,
        .clean_text = true,
        .chinese = config_flag(config, "tokenize_chinese_chars", true),
        .strip_accents = config_flag(config, "strip_accents", lowercase),
        .lowercase = lowercase,
    };
    tokenizer->splits = ARENA_NEW(tokenizer->arena, Split);
    tokenizer->n_splits = 1;
    tokenizer->splits[0] = (Split){.kind = SPLIT_BERT};
    tokenizer->model = MODEL_WORDPIECE;
    tokenizer->wordpiece =
        (WordPieceModel){.unk_token = spelled[UNK], .prefix = "##", .prefix_len = 2, .max_chars = 100};
    tokenizer_bert_template(tokenizer, vocab_find(&tokenizer->vocab, spelled[CLS], strlen(spelled[CLS])),
                            vocab_find(&tokenizer->vocab, spelled[SEP], strlen(spelled[SEP])));
    return tokenizer_finish(tokenizer, config);
}

/* ---- the model */

void wordpiece_finish(Tokenizer *tokenizer)
{
    WordPieceModel *model = &tokenizer->wordpiece;
    model->unk_id = vocab_find(&tokenizer->vocab, model->unk_token, strlen(model->unk_token));
    for (uint32_t i = 0; i < tokenizer->vocab.n_entries; i++)
        if (tokenizer->vocab.entries[i].len > model->max_token_bytes)
            model->max_token_bytes = tokenizer->vocab.entries[i].len;
}

static bool is_longer_than(Text word, uint32_t max_chars)
{
    if (word.len <= max_chars)
        return false;
    uint32_t n_chars = 0;
    for (uint32_t i = 0; i < word.len; i++)
        n_chars += (word.bytes[i] & 0xC0) != 0x80;
    return n_chars > max_chars;
}

static Status whole_unknown(TokenizerScratch *scratch, Text word)
{
    const WordPieceModel *model = &scratch->tokenizer->wordpiece;
    if (model->unk_id < 0)
        return tokenizer_bad(scratch->tokenizer, "a word is not in the vocabulary, and the unknown token '%s' neither",
                             model->unk_token);
    scratch->pieces.len = 0;
    scratch_piece(scratch, model->unk_id, word.len);
    return STATUS_OK;
}

/* The longest piece that begins at `begin`: its end and id; false when there is none. */
static bool longest_piece(TokenizerScratch *scratch, Text word, uint32_t begin, uint32_t *out_end, int32_t *out_id)
{
    const WordPieceModel *model = &scratch->tokenizer->wordpiece;
    uint32_t prefix_len = begin > 0 ? model->prefix_len : 0;
    if (model->max_token_bytes < prefix_len)
        return false;
    uint32_t longest = model->max_token_bytes - prefix_len;
    uint32_t end = word.len - begin > longest ? begin + longest : word.len;
    while (end > begin && end < word.len && (word.bytes[end] & 0xC0) == 0x80)
        end--;
    const uint8_t *key = word.bytes + begin;
    if (prefix_len > 0)
    {
        memcpy(scratch->key + prefix_len, word.bytes + begin, end - begin);
        key = scratch->key;
    }
    for (; end > begin; end = utf8_before(word.bytes, end))
    {
        *out_id = vocab_find(&scratch->tokenizer->vocab, key, prefix_len + (end - begin));
        *out_end = end;
        if (*out_id >= 0)
            return true;
    }
    return false;
}

Status wordpiece_word(TokenizerScratch *scratch, Text word)
{
    if (is_longer_than(word, scratch->tokenizer->wordpiece.max_chars))
        return whole_unknown(scratch, word);
    for (uint32_t begin = 0, end; begin < word.len; begin = end)
    {
        int32_t id;
        if (!longest_piece(scratch, word, begin, &end, &id))
            return whole_unknown(scratch, word);
        scratch_piece(scratch, id, end);
    }
    return STATUS_OK;
}
