/* Byte-level BPE: words to bytes, bytes merged by rank (tokenizers/src/models/bpe).
 *
 * A vocabulary spells bytes as printable characters (GPT-2's encoder.py); here a word stays bytes, and only the table
 * of the 256 first symbols knows the spelling. The pairs of a word wait in a heap by (rank, place) and the symbols are
 * a linked list, so a word of n bytes takes O(n log n); a pair that no longer is what it was is found out when it
 * comes. */
#include "runtime/tokenizer_parts.h"

/* ---- spelling: '!'..'~', U+00A1..U+00AC and U+00AE..U+00FF are themselves, the others U+0100 and up in order */

static const uint16_t *spelling_create(Arena *arena)
{
    uint16_t *spelled = ARENA_ARRAY(arena, uint16_t, 256), next = 256;
    for (uint16_t byte = 0; byte < 256; byte++)
    {
        bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
        spelled[byte] = printable ? byte : next++;
    }
    return spelled;
}

/* The byte that a code point spells, or -1. */
static int32_t spelled_byte(const uint16_t *spelled, uint32_t c)
{
    if (c < 256)
        return spelled[c] == c ? (int32_t)c : -1;
    for (int32_t byte = 0; byte < 256; byte++)
        if (spelled[byte] == c)
            return byte;
    return -1;
}

/* At most 2 bytes each; spelled characters are all below U+0800. */
static uint32_t put_spelled(uint16_t c, uint8_t *out)
{
    if (c < 0x80)
    {
        out[0] = (uint8_t)c;
        return 1;
    }
    out[0] = (uint8_t)(0xC0 | c >> 6);
    out[1] = (uint8_t)(0x80 | (c & 0x3F));
    return 2;
}

bool bpe_spelling_bytes(const Tokenizer *tokenizer, const char *text, uint32_t len, uint8_t *out, uint32_t *out_len)
{
    uint32_t n = 0;
    for (uint32_t at = 0; at < len;)
    {
        int32_t byte = spelled_byte(tokenizer->bpe.spelled, utf8_next((const uint8_t *)text, &at));
        if (byte < 0)
            return false;
        out[n++] = (uint8_t)byte;
    }
    *out_len = n;
    return true;
}

/* ---- loading */

/* "left right", or ["left", "right"]. */
static Status split_merge(const Tokenizer *tokenizer, const json_t *item, size_t i, const char *parts[2],
                          size_t lens[2])
{
    if (json_is_array(item))
    {
        for (size_t k = 0; k < 2; k++)
        {
            parts[k] = json_string_value(json_array_get(item, k));
            lens[k] = json_string_length(json_array_get(item, k));
        }
        if (json_array_size(item) != 2 || !parts[0] || !parts[1])
            return tokenizer_bad(tokenizer, "model.merges[%zu] is not a pair of strings", i);
        return STATUS_OK;
    }
    const char *text = json_string_value(item);
    const char *space = text ? strchr(text, ' ') : NULL;
    if (!space || strchr(space + 1, ' '))
        return tokenizer_bad(tokenizer, "model.merges[%zu] is not two tokens with a space between them", i);
    parts[0] = text;
    lens[0] = (size_t)(space - text);
    parts[1] = space + 1;
    lens[1] = strlen(space + 1);
    return STATUS_OK;
}

static Status read_merge(Tokenizer *tokenizer, const char *const parts[2], const size_t lens[2], size_t i,
                         uint32_t rank, Arena *work)
{
    int32_t ids[3];
    char *merged = arena_alloc(work, lens[0] + lens[1] + 1);
    memcpy(merged, parts[0], lens[0]);
    memcpy(merged + lens[0], parts[1], lens[1]);
    const char *const tokens[3] = {parts[0], parts[1], merged};
    const size_t token_lens[3] = {lens[0], lens[1], lens[0] + lens[1]};
    for (int k = 0; k < 3; k++)
    {
        ids[k] = vocab_find(&tokenizer->vocab, tokens[k], token_lens[k]);
        if (ids[k] < 0)
            return tokenizer_bad(tokenizer, "model.merges[%zu]: '%.*s' is not in the vocabulary", i,
                                 (int)(token_lens[k] < 200 ? token_lens[k] : 200), tokens[k]);
    }
    merges_put(&tokenizer->bpe.merges, ids[0], ids[1], rank, ids[2]);
    return STATUS_OK;
}

Status bpe_finish(Tokenizer *tokenizer, const json_t *merges)
{
    BpeModel *model = &tokenizer->bpe;
    model->spelled = spelling_create(tokenizer->arena);
    for (int byte = 0; byte < 256; byte++)
    {
        uint8_t text[2];
        model->byte_ids[byte] = vocab_find(&tokenizer->vocab, text, put_spelled(model->spelled[byte], text));
    }
    if (!json_is_array(merges))
        return tokenizer_bad(tokenizer, "model.merges is not an array");
    if (json_array_size(merges) > INT32_MAX / 4)
        return tokenizer_bad(tokenizer, "model.merges: %zu are too many", json_array_size(merges));
    model->merges = merges_make(tokenizer->arena, json_array_size(merges));
    Arena *work = arena_create();
    Status status = STATUS_OK;
    uint32_t rank = 0;
    for (size_t i = 0; i < json_array_size(merges) && status == STATUS_OK; i++)
    {
        const json_t *item = json_array_get(merges, i);
        const char *parts[2];
        size_t lens[2];
        if (json_is_array(item) != json_is_array(json_array_get(merges, 0)))
            status = tokenizer_bad(tokenizer, "model.merges[%zu] is written otherwise than those before it", i);
        else if (json_is_string(item) && strncmp(json_string_value(item), "#version", 8) == 0)
            continue; /* the first line of a merges.txt */
        else
            status = split_merge(tokenizer, item, i, parts, lens);
        if (status == STATUS_OK)
            status = read_merge(tokenizer, parts, lens, i, rank++, work);
        if (arena_used_bytes(work) > 1 << 20)
            arena_reset(work);
    }
    arena_destroy(work);
    return status;
}

/* ---- a word */

static bool comes_before(BpeCandidate a, BpeCandidate b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void heap_push(TokenizerScratch *scratch, BpeCandidate candidate)
{
    vec_push(scratch->work, &scratch->heap, candidate);
    BpeCandidate *heap = scratch->heap.data;
    uint32_t at = scratch->heap.len - 1;
    while (at > 0 && comes_before(candidate, heap[(at - 1) / 2]))
    {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = candidate;
}

static BpeCandidate heap_pop(TokenizerScratch *scratch)
{
    BpeCandidate *heap = scratch->heap.data, top = heap[0], last = heap[--scratch->heap.len];
    uint32_t n = scratch->heap.len, at = 0;
    for (uint32_t child = 1; child < n; child = 2 * at + 1)
    {
        if (child + 1 < n && comes_before(heap[child + 1], heap[child]))
            child++;
        if (!comes_before(heap[child], last))
            break;
        heap[at] = heap[child];
        at = child;
    }
    if (n > 0)
        heap[at] = last;
    return top;
}

static void push_pair(TokenizerScratch *scratch, int32_t left)
{
    const BpeSymbol *symbols = scratch->symbols.data;
    int32_t right = left < 0 ? -1 : symbols[left].next;
    if (right < 0)
        return;
    const Merge *merge = merges_find(&scratch->tokenizer->bpe.merges, symbols[left].id, symbols[right].id);
    if (merge)
        heap_push(scratch, (BpeCandidate){merge->rank, (uint32_t)left, merge->id});
}

static void add_symbol(TokenizerScratch *scratch, int32_t id, uint32_t len)
{
    int32_t at = (int32_t)scratch->symbols.len;
    if (at > 0)
        scratch->symbols.data[at - 1].next = at;
    vec_push(scratch->work, &scratch->symbols, (BpeSymbol){id, len, at - 1, -1});
}

/* A byte without a token becomes the unknown one, fused with those before it if so asked, or nothing. */
static void add_bytes(TokenizerScratch *scratch, Text word)
{
    const BpeModel *model = &scratch->tokenizer->bpe;
    uint32_t n_unknown = 0;
    for (uint32_t i = 0; i < word.len; i++)
    {
        int32_t id = model->byte_ids[word.bytes[i]];
        if (id < 0)
        {
            if (model->unk_id >= 0 && n_unknown > 0 && !model->fuse_unk)
            {
                add_symbol(scratch, model->unk_id, n_unknown);
                n_unknown = 0;
            }
            n_unknown += model->unk_id >= 0;
            continue;
        }
        if (n_unknown > 0)
            add_symbol(scratch, model->unk_id, n_unknown);
        n_unknown = 0;
        add_symbol(scratch, id, 1);
    }
    if (n_unknown > 0)
        add_symbol(scratch, model->unk_id, n_unknown);
}

static void merge_all(TokenizerScratch *scratch)
{
    BpeSymbol *symbols = scratch->symbols.data;
    scratch->heap.len = 0;
    for (uint32_t i = 0; i < scratch->symbols.len; i++)
        push_pair(scratch, (int32_t)i);
    while (scratch->heap.len > 0)
    {
        BpeCandidate top = heap_pop(scratch);
        BpeSymbol *left = &symbols[top.at];
        if (left->len == 0 || left->next < 0)
            continue;
        BpeSymbol *right = &symbols[left->next];
        const Merge *merge = merges_find(&scratch->tokenizer->bpe.merges, left->id, right->id);
        if (!merge || merge->id != top.id)
            continue;
        left->id = top.id;
        left->len += right->len;
        left->next = right->next;
        right->len = 0;
        if (left->next >= 0)
            symbols[left->next].prev = (int32_t)top.at;
        push_pair(scratch, left->prev);
        push_pair(scratch, (int32_t)top.at);
    }
}

/* The whole word, if it is a token. */
static int32_t whole_word(TokenizerScratch *scratch, Text word)
{
    const BpeModel *model = &scratch->tokenizer->bpe;
    uint8_t *text = arena_alloc(scratch->work, (size_t)2 * word.len);
    uint32_t len = 0;
    for (uint32_t i = 0; i < word.len; i++)
        len += put_spelled(model->spelled[word.bytes[i]], text + len);
    return vocab_find(&scratch->tokenizer->vocab, text, len);
}

Status bpe_word(TokenizerScratch *scratch, Text word)
{
    int32_t whole = scratch->tokenizer->bpe.ignore_merges ? whole_word(scratch, word) : -1;
    if (whole >= 0)
    {
        scratch_piece(scratch, whole, word.len);
        return STATUS_OK;
    }
    scratch->symbols.len = 0;
    add_bytes(scratch, word);
    merge_all(scratch);
    uint32_t at = 0;
    for (uint32_t i = 0; i < scratch->symbols.len; i++)
    {
        const BpeSymbol *symbol = &scratch->symbols.data[i];
        if (symbol->len == 0)
            continue;
        at += symbol->len;
        scratch_piece(scratch, symbol->id, at);
    }
    return STATUS_OK;
}
