/* A tokenizer.json, a byte 0, a text: the file is refused, or the text becomes tokens with places in it, in order of
 * the text and the same from the cache; rows and decoding take them. Without the byte the file is also the text. */
#include "runtime/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static void check_text(const Tokenizer *tokenizer, const char *text, size_t n_bytes)
{
    TokenizerScratch *scratch = tokenizer_scratch_create(tokenizer);
    TokenSpan first, again;
    if (tokenizer_encode(scratch, text, n_bytes, &first) == STATUS_OK)
    {
        if (tokenizer_encode(scratch, text, n_bytes, &again) != STATUS_OK || again.n_tokens != first.n_tokens)
            abort();
        Arena *arena = arena_create();
        int32_t *ids = ARENA_ARRAY(arena, int32_t, first.n_tokens);
        for (uint32_t i = 0; i < first.n_tokens; i++)
        {
            TextToken token = first.tokens[i];
            if (token.begin > token.end || token.end > n_bytes || !tokenizer_text(tokenizer, token.id) ||
                memcmp(&token, &again.tokens[i], sizeof token) != 0)
                abort();
            ids[i] = token.id;
        }
        TokenizerRow row;
        uint32_t max_ids = tokenizer_added(tokenizer, true) + 5;
        if (tokenizer_build(scratch, first, &again, max_ids, TRUNCATE_LONGEST_FIRST, &row) != STATUS_OK ||
            row.n_ids > max_ids)
            abort();
        tokenizer_decode(tokenizer, arena, ids, first.n_tokens, true, NULL);
        arena_destroy(arena);
    }
    tokenizer_scratch_destroy(scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    const uint8_t *end = size_bytes ? memchr(data, 0, size_bytes) : NULL;
    size_t n_json = end ? (size_t)(end - data) : size_bytes;
    const char *text = (const char *)(end ? end + 1 : data);
    size_t n_text = end ? size_bytes - n_json - 1 : size_bytes;
    Tokenizer *tokenizer;
    Status status = tokenizer_open_json("fuzz", data, n_json, &tokenizer);
    if (status == STATUS_BAD_INPUT && n_json > 0 && data[0] != '{')
        status = tokenizer_open_vocab("fuzz", data, n_json, &tokenizer);
    if (status != STATUS_OK)
        return 0;
    check_text(tokenizer, text, n_text);
    tokenizer_close(tokenizer);
    return 0;
}
