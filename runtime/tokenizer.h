/* Tokenizers: text to the ids of a vocabulary, as the Hugging Face library `tokenizers` does it.
 *
 * WordPiece (Schuster, Nakajima, "Japanese and Korean voice search", ICASSP 2012; BERT's vocab.txt or a tokenizer.json)
 * and byte-level BPE (Sennrich, Haddow, Birch, ACL 2016; Radford et al. 2019; a tokenizer.json of the GPT-2, RoBERTa,
 * Llama-3, Qwen-2 or ModernBERT kind). The stages and their order are those of the library (tokenizers/src/tokenizer):
 * added tokens, normaliser, added tokens that match normalised text, pre-tokeniser, model, post-processor. Ids and
 * offsets are the same to the last one (tests/data/tokenizer_parity.sh); what a file asks for and is not here is
 * refused by name, STATUS_UNSUPPORTED. The sections `truncation` and `padding` of a tokenizer.json are not read:
 * lengths are the caller's.
 *
 * Text is bytes. Invalid UTF-8 is read as Python's bytes.decode("utf-8", errors="replace") reads it: every maximal
 * invalid part is one U+FFFD, whose byte range is that part.
 *
 * Threads: a Tokenizer is never written to after it was opened and may be shared; a TokenizerScratch belongs to one
 * thread at a time. Nothing is allocated per token. */
#ifndef PTC_RUNTIME_TOKENIZER_H
#define PTC_RUNTIME_TOKENIZER_H

#include "base/arena.h"
#include "base/status.h"

#include <stdbool.h>

enum
{
    TOKENIZER_MAX_TEXT_BYTES = 16 * 1024 * 1024
};

typedef struct Tokenizer Tokenizer;
typedef struct TokenizerScratch TokenizerScratch;

/* The special tokens that a task asks for. */
typedef enum
{
    TOKENIZER_CLS,
    TOKENIZER_SEP,
    TOKENIZER_PAD,
    TOKENIZER_MASK,
    TOKENIZER_BOS,
    TOKENIZER_EOS,
    TOKENIZER_UNK,
    TOKENIZER_SPECIAL_COUNT
} TokenizerSpecial;

/* A token and the bytes [begin, end) of the text that it stands for. A token that holds only a part of a character has
 * the range of the whole character; begin == end where nothing but trimmed space is left (trim_offsets). */
typedef struct
{
    int32_t id;
    uint32_t begin, end;
} TextToken;

/* Some tokens in a row, all of a text or a window of it. */
typedef struct
{
    const TextToken *tokens;
    uint32_t n_tokens;
} TokenSpan;

/* What is cut when one or two texts with their special tokens are longer than allowed; always at the end. */
typedef enum
{
    TRUNCATE_LONGEST_FIRST, /* the longer of the two down to the other's length, then both */
    TRUNCATE_ONLY_FIRST,
    TRUNCATE_ONLY_SECOND
} TokenizerTruncation;

/* One row for the model. Text i (0 or 1) begins at position first_at[i] and has n_kept[i] tokens, the first ones of its
 * span; every other position holds a special token. */
typedef struct
{
    uint32_t n_ids;
    const int32_t *ids;
    const int32_t *type_ids;
    uint32_t first_at[2];
    uint32_t n_kept[2];
} TokenizerRow;

/* ---- open, close */

/* path: a vocab.txt (WordPiece with BERT's normaliser and template; do_lower_case, strip_accents,
 * tokenize_chinese_chars and the names of the special tokens from a tokenizer_config.json beside it, else the uncased
 * BERT's), a tokenizer.json, or a folder that holds one of them (tokenizer.json goes first). A file whose name ends in
 * ".json" is a tokenizer.json. BAD_INPUT: missing or malformed, with the file and line:column or the place in it.
 * UNSUPPORTED: names what is not supported. IO: reading failed. The caller closes *out_tokenizer. */
Status tokenizer_open(const char *path, Tokenizer **out_tokenizer);
/* A tokenizer.json in memory, copied. name stands for the path in messages. */
Status tokenizer_open_json(const char *name, const void *bytes, size_t n_bytes, Tokenizer **out_tokenizer);
/* A vocab.txt in memory, copied; as without a tokenizer_config.json. */
Status tokenizer_open_vocab(const char *name, const void *bytes, size_t n_bytes, Tokenizer **out_tokenizer);
/* NULL is allowed. */
void tokenizer_close(Tokenizer *tokenizer);

/* ---- the vocabulary */

/* One more than the greatest id. */
uint32_t tokenizer_vocab_size(const Tokenizer *tokenizer);
/* The id of a token as it is spelled in the file ("##ing", "\u0120the"), added tokens included, or -1. */
int32_t tokenizer_id(const Tokenizer *tokenizer, const char *text);
/* The spelling of an id, lent; NULL when there is none. */
const char *tokenizer_text(const Tokenizer *tokenizer, int32_t id);
/* The id or -1. The names come from a tokenizer_config.json beside the file; one that it does not give is the first
 * known spelling ("[CLS]", "<s>", ...) that is an added token; UNK falls back on the model's. */
int32_t tokenizer_special(const Tokenizer *tokenizer, TokenizerSpecial which);
/* Whether an id is an added token marked special. */
bool tokenizer_is_special(const Tokenizer *tokenizer, int32_t id);

/* ---- text to tokens */

/* A scratch serves only the tokenizer that it was made for, and must be destroyed before it. */
TokenizerScratch *tokenizer_scratch_create(const Tokenizer *tokenizer);
void tokenizer_scratch_destroy(TokenizerScratch *scratch);
/* Forgets all spans and rows that were lent; keeps the memory and the cache of words. */
void tokenizer_scratch_reset(TokenizerScratch *scratch);

/* Tokens of a text, without special tokens around it (those spelled in the text become their ids, as in the library).
 * *out_span is lent by the scratch until its reset. BAD_INPUT: a text of more than TOKENIZER_MAX_TEXT_BYTES, or a word
 * that needs an unknown token which the vocabulary lacks. */
Status tokenizer_encode(TokenizerScratch *scratch, const char *text, size_t n_bytes, TokenSpan *out_span);

/* ---- rows */

/* How many special tokens a row of one or of two texts has. */
uint32_t tokenizer_added(const Tokenizer *tokenizer, bool pair);
/* The post-processor's row of one text (second NULL) or two, of at most max_ids ids (0: no limit). *out_row is lent by
 * the scratch until its reset. BAD_INPUT as the library fails: the text to cut is missing or too short, or the special
 * tokens alone are too many. Windows with a stride are the caller's: pass the part of the second span that they show,
 * of at most max_ids - tokenizer_added(pair) - first.n_tokens. */
Status tokenizer_build(TokenizerScratch *scratch, TokenSpan first, const TokenSpan *second, uint32_t max_ids,
                       TokenizerTruncation truncation, TokenizerRow *out_row);

/* ---- back to text */

/* The text of ids, in the arena. Byte-level: exact, invalid UTF-8 replaced. WordPiece: words with spaces between them
 * and none before punctuation, as the library's decoder has it. Ids without a spelling are left out, special tokens
 * when skip_special says so. The text ends with a NUL and may hold others: *out_n_bytes (NULL is allowed) is its
 * length. */
const char *tokenizer_decode(const Tokenizer *tokenizer, Arena *arena, const int32_t *ids, size_t n_ids,
                             bool skip_special, size_t *out_n_bytes);

#endif
