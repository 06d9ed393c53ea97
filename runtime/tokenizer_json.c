/* tokenizer.json: its sections, and what they ask for that is not here.
 *
 * Fields are required and typed as the library's own reader has them (serde); fields that it does not know are passed
 * over, as there. `where` is the place in the file that a message names. */
#include "runtime/tokenizer_parts.h"

#include <stdarg.h>
#include <stdio.h>

enum
{
    MAX_PIECES = 1000,
    MAX_STEPS = 16 /* of normalisers or pre-tokenisers: each may make a text longer, and lengths are 32 bits */
};

typedef struct
{
    Tokenizer *tokenizer;
    VEC(Normalizer) normalizers;
    VEC(Split) splits;
    uint32_t n_steps; /* of the section at hand */
    bool has_byte_level;
    bool has_template;
} Reader;

#define BAD(reader, ...) tokenizer_bad((reader)->tokenizer, __VA_ARGS__)

__attribute__((format(printf, 2, 3))) static Status unsupported(const Reader *reader, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return status_fail(STATUS_UNSUPPORTED, "%s: %s", reader->tokenizer->path, text);
}

/* ---- fields */

static Status get_bool(const Reader *reader, const json_t *object, const char *where, const char *key, bool *out)
{
    const json_t *value = json_object_get(object, key);
    *out = false;
    if (!json_is_boolean(value))
        return BAD(reader, "%s.%s is not true or false", where, key);
    *out = json_is_true(value);
    return STATUS_OK;
}

/* The same, where null and nothing mean `otherwise`. */
static Status get_bool_or(const Reader *reader, const json_t *object, const char *where, const char *key,
                          bool otherwise, bool *out)
{
    const json_t *value = json_object_get(object, key);
    *out = otherwise;
    return !value || json_is_null(value) ? STATUS_OK : get_bool(reader, object, where, key, out);
}

static Status get_string(const Reader *reader, const json_t *object, const char *where, const char *key,
                         const char **out)
{
    *out = json_string_value(json_object_get(object, key));
    return *out ? STATUS_OK : BAD(reader, "%s.%s is not a string", where, key);
}

static Status to_int(const Reader *reader, const json_t *value, const char *where, const char *what, int32_t *out)
{
    *out = 0;
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > INT32_MAX)
        return BAD(reader, "%s: %s is not a number from 0 to 2^31 - 1", where, what);
    *out = (int32_t)json_integer_value(value);
    return STATUS_OK;
}

static Status get_int(const Reader *reader, const json_t *object, const char *where, const char *key, int32_t *out)
{
    return to_int(reader, json_object_get(object, key), where, key, out);
}

static Status get_array(const Reader *reader, const json_t *object, const char *where, const char *key,
                        const json_t **out)
{
    *out = json_object_get(object, key);
    return json_is_array(*out) ? STATUS_OK : BAD(reader, "%s.%s is not an array", where, key);
}

/* ---- a section that is one step or a sequence of them */

typedef Status (*ReadStep)(Reader *reader, const json_t *step, const char *where, const char *type);

static Status read_steps(Reader *reader, const json_t *step, const char *where, const char *list, ReadStep read)
{
    if (!json_is_object(step))
        return BAD(reader, "%s is not an object", where);
    const char *type;
    TRY(get_string(reader, step, where, "type", &type));
    if (strcmp(type, "Sequence") != 0)
    {
        if (reader->n_steps++ == MAX_STEPS)
            return unsupported(reader, "%s: more than %d steps are not supported", where, MAX_STEPS);
        return read(reader, step, where, type);
    }
    const json_t *steps;
    TRY(get_array(reader, step, where, list, &steps));
    for (size_t i = 0; i < json_array_size(steps); i++)
    {
        const char *place = arena_printf(reader->tokenizer->arena, "%.200s.%s[%zu]", where, list, i);
        TRY(read_steps(reader, json_array_get(steps, i), place, list, read));
    }
    return STATUS_OK;
}

static Status read_section(Reader *reader, const json_t *root, const char *name, const char *list, ReadStep read)
{
    const json_t *section = json_object_get(root, name);
    reader->n_steps = 0;
    return !section || json_is_null(section) ? STATUS_OK : read_steps(reader, section, name, list, read);
}

/* ---- normalizer */

static Status read_normalizer(Reader *reader, const json_t *step, const char *where, const char *type)
{
    static const struct
    {
        const char *type;
        NormalizerKind kind;
    } known[] = {
        {"BertNormalizer", NORMALIZE_BERT},
        {"Lowercase", NORMALIZE_LOWERCASE},
        {"NFC", NORMALIZE_NFC},
        {"NFD", NORMALIZE_NFD},
        {"NFKC", NORMALIZE_NFKC},
        {"NFKD", NORMALIZE_NFKD},
        {"StripAccents", NORMALIZE_STRIP_ACCENTS},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
    {
        if (strcmp(type, known[i].type) != 0)
            continue;
        Normalizer normalizer = {.kind = known[i].kind};
        if (normalizer.kind == NORMALIZE_BERT)
        {
            TRY(get_bool(reader, step, where, "clean_text", &normalizer.clean_text));
            TRY(get_bool(reader, step, where, "handle_chinese_chars", &normalizer.chinese));
            TRY(get_bool(reader, step, where, "lowercase", &normalizer.lowercase));
            TRY(get_bool_or(reader, step, where, "strip_accents", normalizer.lowercase, &normalizer.strip_accents));
        }
        vec_push(reader->tokenizer->arena, &reader->normalizers, normalizer);
        return STATUS_OK;
    }
    return unsupported(reader, "%s: the normaliser '%s' is not supported", where, type);
}

/* ---- pre_tokenizer */

static Status read_split(Reader *reader, const json_t *step, const char *where, Split *out_split)
{
    const json_t *pattern = json_object_get(step, "pattern");
    const char *regex = json_string_value(json_object_get(pattern, "Regex")), *behavior;
    bool invert;
    TRY(get_string(reader, step, where, "behavior", &behavior));
    TRY(get_bool(reader, step, where, "invert", &invert));
    if (!regex)
    {
        const char *text = json_string_value(json_object_get(pattern, "String"));
        return text ? unsupported(reader, "%s: a split at the text '%s' is not supported", where, text)
                    : BAD(reader, "%s.pattern has neither a Regex nor a String", where);
    }
    if (!split_by_regex(regex, out_split))
        return unsupported(reader,
                           "%s: the regular expression '%s' is not one of the known ones (GPT-2, Llama-3, Qwen-2)",
                           where, regex);
    /* the known ones match every character, so that nothing is left to be inverted or removed */
    if (!(strcmp(behavior, "Isolated") == 0 && !invert) && !(strcmp(behavior, "Removed") == 0 && invert))
        return unsupported(reader, "%s: the behaviour '%s'%s is not supported", where, behavior,
                           invert ? ", inverted," : "");
    return STATUS_OK;
}

static Status read_byte_level(Reader *reader, const json_t *step, const char *where)
{
    bool prefix, trim, regex;
    TRY(get_bool(reader, step, where, "add_prefix_space", &prefix));
    TRY(get_bool(reader, step, where, "trim_offsets", &trim)); /* required, and of the post-processor only */
    TRY(get_bool_or(reader, step, where, "use_regex", true, &regex));
    if (prefix)
        vec_push(reader->tokenizer->arena, &reader->splits, (Split){.kind = SPLIT_PREFIX_SPACE});
    if (regex)
        vec_push(reader->tokenizer->arena, &reader->splits, (Split){.kind = SPLIT_GPT2});
    reader->has_byte_level = true;
    return STATUS_OK;
}

static Status read_pre_tokenizer(Reader *reader, const json_t *step, const char *where, const char *type)
{
    Split split = {0};
    if (reader->has_byte_level)
        return unsupported(reader, "%s: the pre-tokeniser '%s' after ByteLevel is not supported", where, type);
    if (strcmp(type, "ByteLevel") == 0)
        return read_byte_level(reader, step, where);
    if (strcmp(type, "BertPreTokenizer") == 0)
        split.kind = SPLIT_BERT;
    else if (strcmp(type, "Whitespace") == 0)
        split.kind = SPLIT_WHITESPACE;
    else if (strcmp(type, "WhitespaceSplit") == 0)
        split.kind = SPLIT_WHITESPACE_ONLY;
    else if (strcmp(type, "Split") == 0)
        TRY(read_split(reader, step, where, &split));
    else
        return unsupported(reader, "%s: the pre-tokeniser '%s' is not supported", where, type);
    vec_push(reader->tokenizer->arena, &reader->splits, split);
    return STATUS_OK;
}

/* ---- post_processor */

/* ["[SEP]", 102] */
static Status get_pair(const Reader *reader, const json_t *object, const char *where, const char *key, int32_t *out_id)
{
    const json_t *pair = json_object_get(object, key);
    if (!json_is_array(pair) || json_array_size(pair) != 2 || !json_is_string(json_array_get(pair, 0)))
        return BAD(reader, "%s.%s is not a pair of a token and its id", where, key);
    return to_int(reader, json_array_get(pair, 1), where, key, out_id);
}

static Status set_trim(Reader *reader, const json_t *step, const char *where)
{
    bool trim, prefix;
    TRY(get_bool(reader, step, where, "trim_offsets", &trim));
    TRY(get_bool(reader, step, where, "add_prefix_space", &prefix));
    if (trim && (reader->has_template || reader->tokenizer->trim_offsets))
        return unsupported(reader, "%s: trimming offsets after another post-processor is not supported", where);
    if (trim)
        reader->tokenizer->trim_keeps_prefix = prefix;
    reader->tokenizer->trim_offsets |= trim;
    return STATUS_OK;
}

static Status read_roberta(Reader *reader, const json_t *step, const char *where)
{
    int32_t cls, sep;
    TRY(get_pair(reader, step, where, "sep", &sep));
    TRY(get_pair(reader, step, where, "cls", &cls));
    TRY(set_trim(reader, step, where));
    const Piece pieces[] = {{cls, 0}, {PIECE_FIRST, 0}, {sep, 0}, {sep, 0}, {PIECE_SECOND, 0}, {sep, 0}};
    const Piece *copy = arena_memdup(reader->tokenizer->arena, pieces, sizeof pieces);
    reader->tokenizer->single = (Template){copy, 3};
    reader->tokenizer->pair = (Template){copy, 6};
    return STATUS_OK;
}

typedef VEC(Piece) Pieces;

static Status add_special(Reader *reader, const json_t *specials, const char *name, const char *where, int32_t type_id,
                          Pieces *out)
{
    const json_t *ids = json_object_get(json_object_get(specials, name), "ids");
    if (!json_is_array(ids))
        return BAD(reader, "%s: special_tokens has no ids for '%s'", where, name);
    for (size_t i = 0; i < json_array_size(ids); i++)
    {
        Piece piece = {.type_id = type_id};
        TRY(to_int(reader, json_array_get(ids, i), where, name, &piece.id));
        if (out->len == MAX_PIECES)
            return unsupported(reader, "%s: a template of more than %d tokens is not supported", where, MAX_PIECES);
        vec_push(reader->tokenizer->arena, out, piece);
    }
    return STATUS_OK;
}

/* {"Sequence": {"id": "A", "type_id": 0}} or {"SpecialToken": {"id": "[CLS]", "type_id": 0}} */
static Status read_piece(Reader *reader, const json_t *specials, const json_t *item, const char *where, Pieces *out,
                         uint32_t n_uses[2])
{
    const json_t *sequence = json_object_get(item, "Sequence"), *special = json_object_get(item, "SpecialToken");
    const json_t *piece = sequence ? sequence : special;
    if (json_object_size(item) != 1 || !json_is_object(piece))
        return BAD(reader, "%s: a piece is neither a Sequence nor a SpecialToken", where);
    int32_t type_id;
    const char *id;
    TRY(get_int(reader, piece, where, "type_id", &type_id));
    TRY(get_string(reader, piece, where, "id", &id));
    if (special)
        return add_special(reader, specials, id, where, type_id, out);
    if (strcmp(id, "A") != 0 && strcmp(id, "B") != 0)
        return BAD(reader, "%s: the sequence '%s' is neither A nor B", where, id);
    n_uses[id[0] == 'B']++;
    vec_push(reader->tokenizer->arena, out, (Piece){id[0] == 'B' ? PIECE_SECOND : PIECE_FIRST, type_id});
    return STATUS_OK;
}

static Status read_template(Reader *reader, const json_t *step, const char *where, const char *key, bool pair,
                            Template *out_template)
{
    const char *place = arena_printf(reader->tokenizer->arena, "%s.%s", where, key);
    const json_t *items, *specials = json_object_get(step, "special_tokens");
    TRY(get_array(reader, step, where, key, &items));
    if (!json_is_object(specials))
        return BAD(reader, "%s.special_tokens is not an object", where);
    if (json_array_size(items) > MAX_PIECES)
        return unsupported(reader, "%s: a template of more than %d pieces is not supported", place, MAX_PIECES);
    Pieces pieces = {0};
    uint32_t n_uses[2] = {0};
    for (size_t i = 0; i < json_array_size(items); i++)
        TRY(read_piece(reader, specials, json_array_get(items, i), place, &pieces, n_uses));
    if (n_uses[0] != 1 || n_uses[1] != pair)
        return unsupported(reader, "%s: a template that does not have every text once is not supported", place);
    *out_template = (Template){pieces.data, pieces.len};
    return STATUS_OK;
}

static Status read_post_processor(Reader *reader, const json_t *step, const char *where, const char *type)
{
    Tokenizer *tokenizer = reader->tokenizer;
    if (strcmp(type, "ByteLevel") == 0)
        return set_trim(reader, step, where);
    if (reader->has_template)
        return unsupported(reader, "%s: the post-processor '%s' after another one is not supported", where, type);
    if (strcmp(type, "BertProcessing") == 0)
    {
        int32_t cls, sep;
        TRY(get_pair(reader, step, where, "sep", &sep));
        TRY(get_pair(reader, step, where, "cls", &cls));
        tokenizer_bert_template(tokenizer, cls, sep);
    }
    else if (strcmp(type, "RobertaProcessing") == 0)
        TRY(read_roberta(reader, step, where));
    else if (strcmp(type, "TemplateProcessing") == 0)
    {
        TRY(read_template(reader, step, where, "single", false, &tokenizer->single));
        TRY(read_template(reader, step, where, "pair", true, &tokenizer->pair));
    }
    else
        return unsupported(reader, "%s: the post-processor '%s' is not supported", where, type);
    reader->has_template = true;
    return STATUS_OK;
}

/* ---- added_tokens */

static Status read_added(Reader *reader, const json_t *root)
{
    Tokenizer *tokenizer = reader->tokenizer;
    const json_t *items = json_object_get(root, "added_tokens");
    if (!items || json_is_null(items))
        return STATUS_OK;
    TRY(get_array(reader, root, "the file", "added_tokens", &items));
    tokenizer->added = ARENA_ARRAY(tokenizer->arena, AddedToken, json_array_size(items));
    for (size_t i = 0; i < json_array_size(items); i++)
    {
        const json_t *item = json_array_get(items, i);
        AddedToken added = {0};
        char where[64];
        snprintf(where, sizeof where, "added_tokens[%zu]", i);
        TRY(get_string(reader, item, where, "content", &added.text));
        TRY(get_int(reader, item, where, "id", &added.id));
        TRY(get_bool(reader, item, where, "special", &added.special));
        TRY(get_bool(reader, item, where, "single_word", &added.single_word));
        TRY(get_bool(reader, item, where, "lstrip", &added.lstrip));
        TRY(get_bool(reader, item, where, "rstrip", &added.rstrip));
        TRY(get_bool(reader, item, where, "normalized", &added.normalized));
        added.len = (uint32_t)strlen(added.text);
        added.text = arena_strdup(tokenizer->arena, added.text);
        if (added.len > 0) /* the library passes over empty ones */
            tokenizer->added[tokenizer->n_added++] = added;
    }
    return STATUS_OK;
}

/* ---- model */

static Status read_vocab(Reader *reader, const json_t *model)
{
    Tokenizer *tokenizer = reader->tokenizer;
    json_t *vocab = json_object_get(model, "vocab");
    if (!json_is_object(vocab))
        return BAD(reader, "model.vocab is not an object");
    if (json_object_size(vocab) > INT32_MAX / 4)
        return BAD(reader, "model.vocab: %zu tokens are too many", json_object_size(vocab));
    tokenizer->vocab = vocab_make(tokenizer->arena, json_object_size(vocab));
    const char *key;
    const json_t *value;
    json_object_foreach(vocab, key, value)
    {
        int32_t id;
        bool is_new;
        TRY(to_int(reader, value, "model.vocab", key, &id));
        vocab_put(&tokenizer->vocab, arena_strdup(tokenizer->arena, key), strlen(key), &is_new)->id = id;
    }
    return STATUS_OK;
}

static Status read_wordpiece(Reader *reader, const json_t *model)
{
    Tokenizer *tokenizer = reader->tokenizer;
    WordPieceModel *wordpiece = &tokenizer->wordpiece;
    tokenizer->model = MODEL_WORDPIECE;
    int32_t max_chars;
    TRY(get_string(reader, model, "model", "unk_token", &wordpiece->unk_token));
    TRY(get_string(reader, model, "model", "continuing_subword_prefix", &wordpiece->prefix));
    TRY(get_int(reader, model, "model", "max_input_chars_per_word", &max_chars));
    wordpiece->unk_token = arena_strdup(tokenizer->arena, wordpiece->unk_token);
    wordpiece->prefix = arena_strdup(tokenizer->arena, wordpiece->prefix);
    wordpiece->prefix_len = (uint32_t)strlen(wordpiece->prefix);
    wordpiece->max_chars = (uint32_t)max_chars;
    if (reader->has_byte_level)
        return unsupported(reader, "model: WordPiece behind a ByteLevel pre-tokeniser is not supported");
    return read_vocab(reader, model);
}

static Status check_unset(const Reader *reader, const json_t *model, const char *key)
{
    const char *value = json_string_value(json_object_get(model, key));
    return value && *value ? unsupported(reader, "model: BPE with %s '%s' is not supported", key, value) : STATUS_OK;
}

static Status read_bpe(Reader *reader, const json_t *model)
{
    Tokenizer *tokenizer = reader->tokenizer;
    BpeModel *bpe = &tokenizer->bpe;
    tokenizer->model = MODEL_BPE;
    bool byte_fallback;
    TRY(get_bool_or(reader, model, "model", "fuse_unk", false, &bpe->fuse_unk));
    TRY(get_bool_or(reader, model, "model", "ignore_merges", false, &bpe->ignore_merges));
    TRY(get_bool_or(reader, model, "model", "byte_fallback", false, &byte_fallback));
    if (byte_fallback)
        return unsupported(reader, "model: BPE with byte_fallback is not supported");
    if (json_number_value(json_object_get(model, "dropout")) != 0)
        return unsupported(reader, "model: BPE with dropout is not supported");
    TRY(check_unset(reader, model, "continuing_subword_prefix"));
    TRY(check_unset(reader, model, "end_of_word_suffix"));
    if (!reader->has_byte_level)
        return unsupported(reader, "model: BPE without a ByteLevel pre-tokeniser is not supported");
    TRY(read_vocab(reader, model));
    TRY(bpe_finish(tokenizer, json_object_get(model, "merges")));

    const char *unk = json_string_value(json_object_get(model, "unk_token"));
    bpe->unk_id = unk ? vocab_find(&tokenizer->vocab, unk, strlen(unk)) : -1;
    for (int byte = 0; byte < 256 && unk && bpe->unk_id < 0; byte++)
        if (bpe->byte_ids[byte] < 0)
            return BAD(reader, "model: neither byte %d nor the unknown token '%s' is in the vocabulary", byte, unk);
    return STATUS_OK;
}

static Status read_model(Reader *reader, const json_t *root)
{
    const json_t *model = json_object_get(root, "model");
    if (!json_is_object(model))
        return BAD(reader, "model is not an object");
    const json_t *type = json_object_get(model, "type");
    if (type && !json_is_string(type))
        return BAD(reader, "model.type is not a string");
    /* old files do not say */
    const char *name = type                                                 ? json_string_value(type)
                       : json_object_get(model, "merges")                   ? "BPE"
                       : json_object_get(model, "max_input_chars_per_word") ? "WordPiece"
                                                                            : "";
    if (strcmp(name, "WordPiece") == 0)
        return read_wordpiece(reader, model);
    if (strcmp(name, "BPE") == 0)
        return read_bpe(reader, model);
    return unsupported(reader, "model: the type '%s' is not supported (WordPiece, BPE)", name);
}

/* ---- the file */

static Status read_root(Reader *reader, const json_t *root, const json_t *config)
{
    Tokenizer *tokenizer = reader->tokenizer;
    if (!json_is_object(root))
        return BAD(reader, "not a JSON object");
    const json_t *version = json_object_get(root, "version");
    if (version && (!json_is_string(version) || strcmp(json_string_value(version), "1.0") != 0))
        return unsupported(reader, "version: only \"1.0\" is supported");
    TRY(read_section(reader, root, "normalizer", "normalizers", read_normalizer));
    TRY(read_section(reader, root, "pre_tokenizer", "pretokenizers", read_pre_tokenizer));
    TRY(read_section(reader, root, "post_processor", "processors", read_post_processor));
    tokenizer->normalizers = reader->normalizers.data;
    tokenizer->n_normalizers = reader->normalizers.len;
    tokenizer->splits = reader->splits.data;
    tokenizer->n_splits = reader->splits.len;
    TRY(read_model(reader, root));
    TRY(read_added(reader, root));
    return tokenizer_finish(tokenizer, config);
}

Status tokenizer_read_json(Tokenizer *tokenizer, const void *bytes, size_t n_bytes, const json_t *config)
{
    static const Piece plain[] = {{PIECE_FIRST, 0}, {PIECE_SECOND, 1}};
    tokenizer->single = (Template){plain, 1};
    tokenizer->pair = (Template){plain, 2};
    if (n_bytes == 0)
        return tokenizer_bad(tokenizer, "an empty file");
    json_error_t error;
    json_t *root = json_loadb(bytes, n_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return status_fail(STATUS_BAD_INPUT, "%s:%d:%d: %s", tokenizer->path, error.line, error.column, error.text);
    Reader reader = {.tokenizer = tokenizer};
    Status status = read_root(&reader, root, config);
    json_decref(root);
    return status;
}
