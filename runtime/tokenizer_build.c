/* Rows for the model from tokens, and text from ids. */
#include "runtime/tokenizer_parts.h"

#include "base/strbuf.h"

/* ---- rows */

static const Template *row_template(const Tokenizer *tokenizer, bool pair)
{
    return pair ? &tokenizer->pair : &tokenizer->single;
}

uint32_t tokenizer_added(const Tokenizer *tokenizer, bool pair)
{
    const Template *template = row_template(tokenizer, pair);
    uint32_t n = 0;
    for (uint32_t i = 0; i < template->n_pieces; i++)
        n += template->pieces[i].id >= 0;
    return n;
}

/* The numbers of tokens that are kept of both, which together have more than max (`truncate_encodings`, truncation.rs).
 */
static void cut_longest(uint32_t n[2], uint32_t max)
{
    int shorter = n[0] > n[1], longer = !shorter;
    uint32_t a = n[shorter], b = a > max ? a : max - a > a ? max - a : a;
    if ((uint64_t)a + b > max)
    {
        a = max / 2;
        b = a + max % 2;
    }
    n[shorter] = a;
    n[longer] = b;
}

static Status cut(uint32_t n[2], bool pair, uint32_t max, TokenizerTruncation truncation)
{
    uint64_t total = (uint64_t)n[0] + n[1];
    if (total <= max)
        return STATUS_OK;
    if (max == 0)
        n[0] = n[1] = 0;
    else if (truncation == TRUNCATE_LONGEST_FIRST && pair)
        cut_longest(n, max);
    else if (truncation == TRUNCATE_LONGEST_FIRST)
        n[0] = max;
    else
    {
        int which = truncation == TRUNCATE_ONLY_SECOND;
        if (which == 1 && !pair)
            return status_fail(STATUS_BAD_INPUT, "only the second text may be cut, and there is none");
        if (n[which] <= total - max)
            return status_fail(STATUS_BAD_INPUT,
                               "only the %s text may be cut, and its %u tokens are too few: %llu of %llu do not fit",
                               which == 1 ? "second" : "first", n[which], (unsigned long long)(total - max),
                               (unsigned long long)total);
        n[which] -= (uint32_t)(total - max);
    }
    return STATUS_OK;
}

Status tokenizer_build(TokenizerScratch *scratch, TokenSpan first, const TokenSpan *second, uint32_t max_ids,
                       TokenizerTruncation truncation, TokenizerRow *out_row)
{
    const Tokenizer *tokenizer = scratch->tokenizer;
    const Template *template = row_template(tokenizer, second);
    uint32_t n_added = tokenizer_added(tokenizer, second);
    const TokenSpan spans[2] = {first, second ? *second : (TokenSpan){0}};
    uint32_t n[2] = {spans[0].n_tokens, spans[1].n_tokens};
    *out_row = (TokenizerRow){0};
    if (max_ids > 0)
    {
        if (max_ids < n_added)
            return status_fail(STATUS_BAD_INPUT, "at most %u ids are allowed, and the special tokens alone are %u",
                               max_ids, n_added);
        TRY(cut(n, second, max_ids - n_added, truncation));
    }
    size_t n_ids = (size_t)n_added + n[0] + n[1];
    if (n_ids > INT32_MAX)
        return status_fail(STATUS_BAD_INPUT, "%zu ids in a row are too many", n_ids);
    int32_t *ids = ARENA_ARRAY(scratch->results, int32_t, n_ids);
    int32_t *type_ids = ARENA_ARRAY(scratch->results, int32_t, n_ids);
    uint32_t at = 0;
    for (uint32_t i = 0; i < template->n_pieces; i++)
    {
        Piece piece = template->pieces[i];
        if (piece.id >= 0)
        {
            ids[at] = piece.id;
            type_ids[at++] = piece.type_id;
            continue;
        }
        int which = piece.id == PIECE_SECOND;
        out_row->first_at[which] = at;
        out_row->n_kept[which] = n[which];
        for (uint32_t k = 0; k < n[which]; k++, at++)
        {
            ids[at] = spans[which].tokens[k].id;
            type_ids[at] = piece.type_id;
        }
    }
    out_row->n_ids = at;
    out_row->ids = ids;
    out_row->type_ids = type_ids;
    return STATUS_OK;
}

/* ---- decoding */

/* Valid UTF-8 of bytes, U+FFFD for every maximal invalid part. */
static void add_lossy(StrBuf *out, const uint8_t *bytes, size_t n_bytes)
{
    for (size_t at = 0; at < n_bytes;)
    {
        uint32_t bad, len = utf8_check(bytes + at, n_bytes - at, &bad);
        if (len)
            strbuf_add_bytes(out, (const char *)bytes + at, len);
        else
            strbuf_add(out, "\xEF\xBF\xBD");
        at += len ? len : bad;
    }
}

/* WordPiece: the library's `cleanup` of one token (decoders/wordpiece.rs). */
static void add_clean(StrBuf *out, const char *token)
{
    static const char *const replaced[][2] = {
        {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},    {" n't", "n't"},
        {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
    };
    enum
    {
        N_REPLACED = sizeof replaced / sizeof replaced[0]
    };
    Arena *arena = out->arena;
    for (int i = 0; i < N_REPLACED; i++)
    {
        size_t len = strlen(replaced[i][0]);
        StrBuf next = strbuf_make(arena);
        const char *found;
        for (; (found = strstr(token, replaced[i][0])) != NULL; token = found + len)
        {
            strbuf_add_bytes(&next, token, (size_t)(found - token));
            strbuf_add(&next, replaced[i][1]);
        }
        if (!next.data)
            continue;
        strbuf_add(&next, token);
        token = strbuf_text(&next);
    }
    strbuf_add(out, token);
}

static void add_wordpiece(const Tokenizer *tokenizer, StrBuf *out, const char *token, bool is_first)
{
    const WordPieceModel *model = &tokenizer->wordpiece;
    if (is_first)
        add_clean(out, token);
    else if (strncmp(token, model->prefix, model->prefix_len) == 0)
        add_clean(out, token + model->prefix_len);
    else
        add_clean(out, arena_printf(out->arena, " %s", token));
}

/* The text that stands for an id: of an added token what was searched for it, as in the library. NULL: none. */
static const char *decoded_token(const Tokenizer *tokenizer, Arena *arena, int32_t id)
{
    const char *token = tokenizer_text(tokenizer, id);
    const AddedToken *added = token ? tokenizer->added_by_id[id] : NULL;
    return added ? arena_strndup(arena, (const char *)added->pattern, added->pattern_len) : token;
}

static void add_byte_level(const Tokenizer *tokenizer, StrBuf *out, const char *token)
{
    uint32_t len = (uint32_t)strlen(token), n_bytes;
    uint8_t *bytes = arena_alloc(out->arena, len);
    if (bpe_spelling_bytes(tokenizer, token, len, bytes, &n_bytes))
        strbuf_add_bytes(out, (const char *)bytes, n_bytes);
    else
        strbuf_add_bytes(out, token, len);
}

const char *tokenizer_decode(const Tokenizer *tokenizer, Arena *arena, const int32_t *ids, size_t n_ids,
                             bool skip_special, size_t *out_n_bytes)
{
    StrBuf out = strbuf_make(arena), bytes = strbuf_make(arena);
    bool is_first = true;
    for (size_t i = 0; i < n_ids; i++)
    {
        const char *token = decoded_token(tokenizer, arena, ids[i]);
        if (!token || (skip_special && tokenizer_is_special(tokenizer, ids[i])))
            continue;
        if (tokenizer->model == MODEL_WORDPIECE)
            add_wordpiece(tokenizer, &out, token, is_first);
        else
            add_byte_level(tokenizer, &bytes, token);
        is_first = false;
    }
    if (tokenizer->model == MODEL_BPE)
        add_lossy(&out, (const uint8_t *)strbuf_text(&bytes), bytes.len);
    if (out_n_bytes)
        *out_n_bytes = out.len;
    return strbuf_text(&out);
}
