/* The front of the tokenizer: opening a path, what follows from what was read, questions about the vocabulary. */
#include "runtime/tokenizer_parts.h"

#include "runtime/mapped_file.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum
{
    MAX_VOCAB = 1 << 24, /* ids are below it */
    MAX_SPELLINGS = 6
};

Tokenizer *tokenizer_create(const char *path)
{
    Arena *arena = arena_create();
    Tokenizer *tokenizer = ARENA_NEW(arena, Tokenizer);
    tokenizer->arena = arena;
    tokenizer->path = arena_strdup(arena, path);
    tokenizer->classes = unicode_classes_create(arena);
    for (int i = 0; i < TOKENIZER_SPECIAL_COUNT; i++)
        tokenizer->special[i] = -1;
    return tokenizer;
}

void tokenizer_close(Tokenizer *tokenizer)
{
    if (tokenizer)
        arena_destroy(tokenizer->arena);
}

Status tokenizer_bad(const Tokenizer *tokenizer, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return status_fail(STATUS_BAD_INPUT, "%s: %s", tokenizer->path, text);
}

/* ---- what follows from the sections */

void tokenizer_bert_template(Tokenizer *tokenizer, int32_t cls, int32_t sep)
{
    const Piece pieces[] = {{cls, 0}, {PIECE_FIRST, 0}, {sep, 0}, {PIECE_SECOND, 1}, {sep, 1}};
    const Piece *copy = arena_memdup(tokenizer->arena, pieces, sizeof pieces);
    tokenizer->single = (Template){copy, 3};
    tokenizer->pair = (Template){copy, 5};
}

/* An added token that the model lacks gets the next id after the model's (`add_tokens` in added_vocabulary.rs). */
static Status number_added(Tokenizer *tokenizer)
{
    tokenizer->added_vocab = vocab_make(tokenizer->arena, tokenizer->n_added);
    int32_t next = (int32_t)tokenizer->vocab.n_entries;
    for (uint32_t i = 0; i < tokenizer->n_added; i++)
    {
        AddedToken *added = &tokenizer->added[i];
        bool is_new;
        VocabEntry *entry = vocab_put(&tokenizer->added_vocab, added->text, added->len, &is_new);
        if (!is_new)
            return tokenizer_bad(tokenizer, "the added token '%s' comes twice", added->text);
        int32_t known = vocab_find(&tokenizer->vocab, added->text, added->len);
        int32_t id = known >= 0 ? known : next++;
        if (id != added->id)
            return tokenizer_bad(tokenizer, "the added token '%s' has id %d where the vocabulary makes it %d",
                                 added->text, (int)added->id, (int)id);
        entry->id = id;
    }
    return STATUS_OK;
}

static Status index_ids(Tokenizer *tokenizer)
{
    const Vocab *const vocabs[2] = {&tokenizer->vocab, &tokenizer->added_vocab};
    int32_t greatest = -1;
    for (int k = 0; k < 2; k++)
        for (uint32_t i = 0; i < vocabs[k]->n_entries; i++)
            if (vocabs[k]->entries[i].id > greatest)
                greatest = vocabs[k]->entries[i].id;
    if (greatest < 0)
        return tokenizer_bad(tokenizer, "an empty vocabulary");
    if (greatest >= MAX_VOCAB)
        return tokenizer_bad(tokenizer, "id %d is too great; ids below %d are supported", (int)greatest, MAX_VOCAB);
    tokenizer->vocab_size = (uint32_t)greatest + 1;
    tokenizer->by_id = ARENA_ARRAY(tokenizer->arena, const VocabEntry *, tokenizer->vocab_size);
    tokenizer->added_by_id = ARENA_ARRAY(tokenizer->arena, const AddedToken *, tokenizer->vocab_size);
    for (int k = 0; k < 2; k++)
        for (uint32_t i = 0; i < vocabs[k]->n_entries; i++)
        {
            const VocabEntry *entry = &vocabs[k]->entries[i], *other = tokenizer->by_id[entry->id];
            if (other && (other->len != entry->len || memcmp(other->text, entry->text, entry->len) != 0))
                return tokenizer_bad(tokenizer, "'%s' and '%s' both have id %d", other->text, entry->text,
                                     (int)entry->id);
            tokenizer->by_id[entry->id] = entry;
        }
    for (uint32_t i = 0; i < tokenizer->n_added; i++)
        tokenizer->added_by_id[tokenizer->added[i].id] = &tokenizer->added[i];
    return STATUS_OK;
}

/* What is searched for an added token: in normalised text its normalised spelling. */
static void make_pattern(Tokenizer *tokenizer, AddedToken *added)
{
    ByteRange *at = ARENA_ARRAY(tokenizer->arena, ByteRange, added->len);
    Text text = {(const uint8_t *)added->text, at, added->len};
    for (uint32_t i = 0; added->normalized && i < tokenizer->n_normalizers && text.len > 0; i++)
        text = normalizer_run(tokenizer->classes, tokenizer->arena, &tokenizer->normalizers[i], text);
    added->pattern = text.bytes;
    added->pattern_len = text.len;
}

static int compare_patterns(const void *a, const void *b)
{
    const AddedToken *x = *(const AddedToken *const *)a, *y = *(const AddedToken *const *)b;
    if (x->pattern[0] != y->pattern[0])
        return x->pattern[0] < y->pattern[0] ? -1 : 1;
    if (x->pattern_len != y->pattern_len)
        return x->pattern_len > y->pattern_len ? -1 : 1;
    return memcmp(x->pattern, y->pattern, x->pattern_len);
}

static Status make_set(Tokenizer *tokenizer, bool normalized, AddedSet *out_set)
{
    out_set->tokens = ARENA_ARRAY(tokenizer->arena, const AddedToken *, tokenizer->n_added);
    for (uint32_t i = 0; i < tokenizer->n_added; i++)
    {
        const AddedToken *added = &tokenizer->added[i];
        if (added->normalized != normalized)
            continue;
        if (added->pattern_len == 0)
            return tokenizer_bad(tokenizer, "nothing of the added token '%s' is left once it is normalised",
                                 added->text);
        out_set->tokens[out_set->n_tokens++] = added;
    }
    if (out_set->n_tokens > 1)
        qsort(out_set->tokens, out_set->n_tokens, sizeof(AddedToken *), compare_patterns);
    for (uint32_t i = 1; i < out_set->n_tokens; i++)
        if (compare_patterns(&out_set->tokens[i - 1], &out_set->tokens[i]) == 0)
            return tokenizer_bad(tokenizer, "the added tokens '%s' and '%s' are the same once they are normalised",
                                 out_set->tokens[i - 1]->text, out_set->tokens[i]->text);
    uint32_t i = 0;
    for (uint32_t byte = 0; byte <= 256; byte++)
    {
        while (i < out_set->n_tokens && out_set->tokens[i]->pattern[0] < byte)
            i++;
        out_set->first[byte] = i;
    }
    return STATUS_OK;
}

static Status check_template(const Tokenizer *tokenizer, const Template *template)
{
    for (uint32_t i = 0; i < template->n_pieces; i++)
    {
        int32_t id = template->pieces[i].id;
        if (id >= 0 && !tokenizer_text(tokenizer, id))
            return tokenizer_bad(tokenizer, "post_processor: no token has id %d", (int)id);
    }
    return STATUS_OK;
}

/* How many characters a token begins and ends with that are white space or a spelled space (`process_offsets`). */
static void count_spaces(Tokenizer *tokenizer)
{
    uint16_t(*spaces)[2] = arena_alloc(tokenizer->arena, sizeof(uint16_t[2]) * tokenizer->vocab_size);
    for (uint32_t id = 0; id < tokenizer->vocab_size; id++)
    {
        const VocabEntry *entry = tokenizer->by_id[id];
        uint32_t n_left = 0, n_right = 0;
        if (entry)
            text_spaces(tokenizer->classes, (const uint8_t *)entry->text, entry->len, &n_left, &n_right);
        spaces[id][0] = (uint16_t)(n_left < UINT16_MAX ? n_left : UINT16_MAX);
        spaces[id][1] = (uint16_t)(n_right < UINT16_MAX ? n_right : UINT16_MAX);
    }
    tokenizer->spaces = (const uint16_t(*)[2])spaces;
}

const char *tokenizer_config_token(const json_t *config, const char *key)
{
    const json_t *value = json_object_get(config, key);
    return json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
}

static void find_specials(Tokenizer *tokenizer, const json_t *config)
{
    static const struct
    {
        const char *key, *spellings[MAX_SPELLINGS];
    } known[TOKENIZER_SPECIAL_COUNT] = {
        [TOKENIZER_CLS] = {"cls_token", {"[CLS]", "<s>", "<cls>"}},
        [TOKENIZER_SEP] = {"sep_token", {"[SEP]", "</s>", "<sep>"}},
        [TOKENIZER_PAD] = {"pad_token", {"[PAD]", "<pad>", "<|padding|>", "<|pad|>", "<|finetune_right_pad_id|>"}},
        [TOKENIZER_MASK] = {"mask_token", {"[MASK]", "<mask>"}},
        [TOKENIZER_BOS] = {"bos_token", {"<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "<|endoftext|>"}},
        [TOKENIZER_EOS] = {"eos_token", {"</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>"}},
        [TOKENIZER_UNK] = {"unk_token", {"[UNK]", "<unk>"}},
    };
    for (int i = 0; i < TOKENIZER_SPECIAL_COUNT; i++)
    {
        const char *given = tokenizer_config_token(config, known[i].key);
        if (given || json_object_get(config, known[i].key)) /* null means: none */
        {
            tokenizer->special[i] = given ? tokenizer_id(tokenizer, given) : -1;
            continue;
        }
        for (int k = 0; k < MAX_SPELLINGS && known[i].spellings[k] && tokenizer->special[i] < 0; k++)
            tokenizer->special[i] =
                vocab_find(&tokenizer->added_vocab, known[i].spellings[k], strlen(known[i].spellings[k]));
    }
    int32_t unk = tokenizer->model == MODEL_WORDPIECE ? tokenizer->wordpiece.unk_id : tokenizer->bpe.unk_id;
    if (tokenizer->special[TOKENIZER_UNK] < 0)
        tokenizer->special[TOKENIZER_UNK] = unk;
}

Status tokenizer_finish(Tokenizer *tokenizer, const json_t *config)
{
    if (tokenizer->model == MODEL_WORDPIECE)
        wordpiece_finish(tokenizer);
    TRY(number_added(tokenizer));
    TRY(index_ids(tokenizer));
    TRY(check_template(tokenizer, &tokenizer->single));
    TRY(check_template(tokenizer, &tokenizer->pair));
    for (uint32_t i = 0; i < tokenizer->n_added; i++)
        make_pattern(tokenizer, &tokenizer->added[i]);
    TRY(make_set(tokenizer, false, &tokenizer->raw));
    TRY(make_set(tokenizer, true, &tokenizer->normalized));
    if (tokenizer->trim_offsets)
        count_spaces(tokenizer);
    find_specials(tokenizer, config);
    return STATUS_OK;
}

/* ---- opening */

/* NULL where there is no tokenizer_config.json beside the file. */
static Status read_config(Arena *arena, const char *path, json_t **out_config)
{
    *out_config = NULL;
    const char *slash = strrchr(path, '/');
    const char *name = arena_printf(arena, "%.*stokenizer_config.json", slash ? (int)(slash - path + 1) : 0, path);
    struct stat info;
    if (stat(name, &info) != 0)
        return STATUS_OK;
    MappedFile file;
    TRY(mapped_file_open(name, &file));
    json_error_t error = {.line = 1};
    json_t *config = file.data ? json_loadb(file.data, file.size_bytes, JSON_REJECT_DUPLICATES, &error) : NULL;
    bool is_empty = !file.data;
    mapped_file_close(&file);
    if (!config)
        return status_fail(STATUS_BAD_INPUT, "%s:%d:%d: %s", name, error.line, error.column,
                           is_empty ? "an empty file" : error.text);
    if (!json_is_object(config))
    {
        json_decref(config);
        return status_fail(STATUS_BAD_INPUT, "%s: not a JSON object", name);
    }
    *out_config = config;
    return STATUS_OK;
}

static Status open_bytes(const char *name, const void *bytes, size_t n_bytes, bool is_json, const json_t *config,
                         Tokenizer **out_tokenizer)
{
    Tokenizer *tokenizer = tokenizer_create(name);
    Status status = is_json ? tokenizer_read_json(tokenizer, bytes, n_bytes, config)
                            : tokenizer_read_vocab(tokenizer, bytes, n_bytes, config);
    if (status != STATUS_OK)
        tokenizer_close(tokenizer);
    else
        *out_tokenizer = tokenizer;
    return status;
}

static Status open_file(Arena *arena, const char *path, bool is_json, Tokenizer **out_tokenizer)
{
    json_t *config;
    TRY(read_config(arena, path, &config));
    MappedFile file;
    Status status = mapped_file_open(path, &file);
    if (status == STATUS_OK)
    {
        status = open_bytes(path, file.data, file.size_bytes, is_json, config, out_tokenizer);
        mapped_file_close(&file);
    }
    json_decref(config);
    return status;
}

static Status open_path(Arena *arena, const char *path, Tokenizer **out_tokenizer)
{
    struct stat info;
    size_t len = strlen(path);
    if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode))
        return open_file(arena, path, len > 5 && strcmp(path + len - 5, ".json") == 0, out_tokenizer);
    const char *const names[2] = {"tokenizer.json", "vocab.txt"};
    for (int i = 0; i < 2; i++)
    {
        const char *file = arena_printf(arena, "%s/%s", path, names[i]);
        if (stat(file, &info) == 0)
            return open_file(arena, file, i == 0, out_tokenizer);
    }
    return status_fail(STATUS_BAD_INPUT, "%s: neither a tokenizer.json nor a vocab.txt is in this folder", path);
}

Status tokenizer_open(const char *path, Tokenizer **out_tokenizer)
{
    Arena *arena = arena_create();
    Status status = open_path(arena, path, out_tokenizer);
    arena_destroy(arena);
    return status;
}

Status tokenizer_open_json(const char *name, const void *bytes, size_t n_bytes, Tokenizer **out_tokenizer)
{
    return open_bytes(name, bytes, n_bytes, true, NULL, out_tokenizer);
}

Status tokenizer_open_vocab(const char *name, const void *bytes, size_t n_bytes, Tokenizer **out_tokenizer)
{
    return open_bytes(name, bytes, n_bytes, false, NULL, out_tokenizer);
}

/* ---- questions */

uint32_t tokenizer_vocab_size(const Tokenizer *tokenizer)
{
    return tokenizer->vocab_size;
}

int32_t tokenizer_id(const Tokenizer *tokenizer, const char *text)
{
    int32_t id = vocab_find(&tokenizer->added_vocab, text, strlen(text));
    return id >= 0 ? id : vocab_find(&tokenizer->vocab, text, strlen(text));
}

const char *tokenizer_text(const Tokenizer *tokenizer, int32_t id)
{
    if (id < 0 || (uint32_t)id >= tokenizer->vocab_size || !tokenizer->by_id[id])
        return NULL;
    return tokenizer->by_id[id]->text;
}

int32_t tokenizer_special(const Tokenizer *tokenizer, TokenizerSpecial which)
{
    return tokenizer->special[which];
}

bool tokenizer_is_special(const Tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && (uint32_t)id < tokenizer->vocab_size && tokenizer->added_by_id[id] &&
           tokenizer->added_by_id[id]->special;
}
