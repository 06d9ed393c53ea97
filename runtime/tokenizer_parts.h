/* What the files of the tokenizer share: the opened tokenizer, text with its places, and the stages.
 *
 * A stage takes a Text, bytes of valid UTF-8 with the range of the original that each byte stands for, and hands
 * pieces to the next one; so offsets survive every change of length (`NormalizedString` in the library). */
#ifndef PTC_RUNTIME_TOKENIZER_PARTS_H
#define PTC_RUNTIME_TOKENIZER_PARTS_H

#include "runtime/tokenizer.h"

#include <jansson.h>
#include <string.h>

/* ---- Unicode: classes as the library sees them (tokenizer_unicode.def) */

enum
{
    CLASS_LETTER = 1 << 0,  /* \p{L} */
    CLASS_NUMBER = 1 << 1,  /* \p{N} */
    CLASS_SPACE = 1 << 2,   /* \s */
    CLASS_WORD = 1 << 3,    /* \w */
    CLASS_PUNCT = 1 << 4,   /* what BERT splits off */
    CLASS_DROPPED = 1 << 5, /* what BERT's clean_text drops: control and format characters, NUL, U+FFFD */
    CLASS_ACCENT = 1 << 6,  /* what BERT's strip_accents drops: Mn */
    CLASS_MARK = 1 << 7,    /* what the normaliser StripAccents drops: M */
    CLASS_NORM = 1 << 8,    /* has a decomposition or a class of combining */
    UNICODE_END = 0x110000,
    UNICODE_BLOCK = 256
};

typedef uint8_t UnicodeBlock[UNICODE_BLOCK];

typedef struct
{
    uint16_t blocks[UNICODE_END / UNICODE_BLOCK];
    UnicodeBlock *kinds;
    uint16_t flags[256]; /* by kind */
} UnicodeClasses;

const UnicodeClasses *unicode_classes_create(Arena *arena);

static inline uint32_t unicode_class(const UnicodeClasses *classes, uint32_t c)
{
    return classes->flags[classes->kinds[classes->blocks[c / UNICODE_BLOCK]][c % UNICODE_BLOCK]];
}

/* The code point at bytes, valid UTF-8; its length in bytes is added to *at. */
static inline uint32_t utf8_next(const uint8_t *bytes, uint32_t *at)
{
    const uint8_t *b = bytes + *at;
    if (b[0] < 0x80)
    {
        *at += 1;
        return b[0];
    }
    if (b[0] < 0xE0)
    {
        *at += 2;
        return (uint32_t)(b[0] & 0x1F) << 6 | (b[1] & 0x3F);
    }
    if (b[0] < 0xF0)
    {
        *at += 3;
        return (uint32_t)(b[0] & 0x0F) << 12 | (uint32_t)(b[1] & 0x3F) << 6 | (b[2] & 0x3F);
    }
    *at += 4;
    return (uint32_t)(b[0] & 0x07) << 18 | (uint32_t)(b[1] & 0x3F) << 12 | (uint32_t)(b[2] & 0x3F) << 6 | (b[3] & 0x3F);
}

/* Where the character before *at begins; *at > 0. */
static inline uint32_t utf8_before(const uint8_t *bytes, uint32_t at)
{
    do
        at--;
    while ((bytes[at] & 0xC0) == 0x80);
    return at;
}

/* The length of the valid sequence at bytes, or 0 and the length of its maximal invalid part in *out_bad. */
uint32_t utf8_check(const uint8_t *bytes, size_t n_bytes, uint32_t *out_bad);

/* How many characters bytes begin and end with that are white space or U+0120, a space as a vocabulary spells it. */
void text_spaces(const UnicodeClasses *classes, const uint8_t *bytes, uint32_t len, uint32_t *out_left,
                 uint32_t *out_right);

/* ---- text with places */

typedef struct
{
    uint32_t begin, end;
} ByteRange;

typedef struct
{
    const uint8_t *bytes;
    const ByteRange *at; /* per byte; of the decoded original */
    uint32_t len;
} Text;

static inline Text text_slice(Text text, uint32_t begin, uint32_t end)
{
    return (Text){text.bytes + begin, text.at + begin, end - begin};
}

typedef enum
{
    NORMALIZE_BERT,
    NORMALIZE_LOWERCASE,
    NORMALIZE_NFC,
    NORMALIZE_NFD,
    NORMALIZE_NFKC,
    NORMALIZE_NFKD,
    NORMALIZE_STRIP_ACCENTS
} NormalizerKind;

typedef struct
{
    NormalizerKind kind;
    bool clean_text, chinese, strip_accents, lowercase; /* of NORMALIZE_BERT */
} Normalizer;

/* The normalised text, in the arena or the same when nothing changes. */
Text normalizer_run(const UnicodeClasses *classes, Arena *arena, const Normalizer *normalizer, Text text);

/* ---- hash tables (XXH3) */

typedef struct
{
    const char *text; /* NUL-terminated, but may hold NUL */
    uint32_t len;
    int32_t id;
} VocabEntry;

/* Spellings to ids; its size is given when it is made. */
typedef struct
{
    VocabEntry *entries;
    uint64_t *slots; /* the upper half of the hash, then the entry's number + 1; 0 is free */
    uint32_t n_entries, mask;
} Vocab;

Vocab vocab_make(Arena *arena, size_t n_max);
/* The entry of text; *out_new says whether it was added (with id -1; text is not copied). */
VocabEntry *vocab_put(Vocab *vocab, const char *text, size_t len, bool *out_new);
int32_t vocab_find(const Vocab *vocab, const void *text, size_t len);

typedef struct
{
    uint64_t pair; /* the left id above the right id */
    uint32_t rank;
    int32_t id; /* what they become; -1: a free slot */
} Merge;

typedef struct
{
    Merge *slots;
    uint32_t mask;
} MergeTable;

MergeTable merges_make(Arena *arena, size_t n_max);
/* A pair that comes again takes the later rank. */
void merges_put(MergeTable *merges, int32_t left, int32_t right, uint32_t rank, int32_t id);
const Merge *merges_find(const MergeTable *merges, int32_t left, int32_t right);

/* ---- added tokens */

typedef struct
{
    const char *text;
    uint32_t len;
    int32_t id;
    bool special, single_word, lstrip, rstrip, normalized;
    const uint8_t *pattern; /* what is searched: text, normalised if `normalized` */
    uint32_t pattern_len;
} AddedToken;

/* The tokens that are searched in one kind of text: by first byte, of equal ones the longest first. */
typedef struct
{
    const AddedToken **tokens;
    uint32_t n_tokens;
    uint32_t first[257]; /* tokens of byte b: first[b] .. first[b + 1] */
} AddedSet;

/* ---- pre-tokenisers */

typedef enum
{
    SPLIT_BERT,
    SPLIT_WHITESPACE,      /* \w+|[^\w\s]+ */
    SPLIT_WHITESPACE_ONLY, /* at \s+ */
    SPLIT_GPT2,
    SPLIT_LLAMA3,      /* and with max_digits 1 Qwen-2 */
    SPLIT_PREFIX_SPACE /* not a split: a space goes before what has none (ByteLevel) */
} SplitKind;

typedef struct
{
    SplitKind kind;
    uint32_t max_digits;
} Split;

/* The kind and max_digits of a known regular expression. */
bool split_by_regex(const char *regex, Split *out_split);
/* Feeds the words of text to the model. */
Status split_run(TokenizerScratch *scratch, const Split *splits, uint32_t n_splits, Text text);

/* ---- post-processor: a template per row */

typedef struct
{
    int32_t id; /* PIECE_FIRST, PIECE_SECOND or a special token's */
    int32_t type_id;
} Piece;

enum
{
    PIECE_FIRST = -1,
    PIECE_SECOND = -2
};

typedef struct
{
    const Piece *pieces;
    uint32_t n_pieces;
} Template;

/* ---- the tokenizer */

typedef enum
{
    MODEL_WORDPIECE,
    MODEL_BPE
} ModelKind;

typedef struct
{
    int32_t unk_id; /* -1: there is none */
    const char *unk_token;
    const char *prefix; /* of what continues a word */
    uint32_t prefix_len;
    uint32_t max_chars;       /* per word */
    uint32_t max_token_bytes; /* of the longest token, without prefix when it has one */
} WordPieceModel;

typedef struct
{
    int32_t unk_id; /* -1: a byte without a token is left out */
    bool fuse_unk, ignore_merges;
    int32_t byte_ids[256]; /* -1: no token */
    MergeTable merges;
    const uint16_t *spelled; /* the code point that a byte is written as (GPT-2, encoder.py) */
} BpeModel;

struct Tokenizer
{
    Arena *arena; /* the object itself and all below */
    const char *path;
    const UnicodeClasses *classes;
    uint32_t n_added;
    AddedToken *added;
    AddedSet raw, normalized;
    uint32_t n_normalizers;
    Normalizer *normalizers;
    uint32_t n_splits;
    Split *splits;
    ModelKind model;
    WordPieceModel wordpiece;
    BpeModel bpe;
    Vocab vocab;       /* the model's tokens */
    Vocab added_vocab; /* the added ones, of which the model may have some, too */
    uint32_t vocab_size;
    const VocabEntry **by_id;       /* NULL where an id has no token */
    const AddedToken **added_by_id; /* NULL where an id is not an added token */
    Template single, pair;
    bool trim_offsets, trim_keeps_prefix; /* trim_keeps_prefix: add_prefix_space of what trims */
    const uint16_t (*spaces)[2];          /* by id: spaces that a token begins and ends with; NULL without trimming */
    int32_t special[TOKENIZER_SPECIAL_COUNT];
};

/* A fresh object that knows its path and nothing else. */
Tokenizer *tokenizer_create(const char *path);
/* STATUS_BAD_INPUT and "PATH: ...". */
__attribute__((format(printf, 2, 3))) Status tokenizer_bad(const Tokenizer *tokenizer, const char *format, ...);
/* Once the model, its vocabulary (not empty), the stages and `added` are there: gives the added tokens that the model
 * lacks the next free ids, and makes all tables that follow. config: a tokenizer_config.json or NULL. */
Status tokenizer_finish(Tokenizer *tokenizer, const json_t *config);
/* [CLS] first [SEP], [CLS] first [SEP] second [SEP]; types 0 and 1. */
void tokenizer_bert_template(Tokenizer *tokenizer, int32_t cls, int32_t sep);

/* The sections of a file, to the end of tokenizer_finish. config: a tokenizer_config.json or NULL. */
Status tokenizer_read_json(Tokenizer *tokenizer, const void *bytes, size_t n_bytes, const json_t *config);
Status tokenizer_read_vocab(Tokenizer *tokenizer, const void *bytes, size_t n_bytes, const json_t *config);
/* The spelling of a special token in a tokenizer_config.json ("cls_token": "[CLS]" or {"content": "[CLS]"}), or NULL.
 */
const char *tokenizer_config_token(const json_t *config, const char *key);

/* Fill scratch->pieces. */
Status wordpiece_word(TokenizerScratch *scratch, Text word);
Status bpe_word(TokenizerScratch *scratch, Text word);
void wordpiece_finish(Tokenizer *tokenizer);
/* merges: the section's array. */
Status bpe_finish(Tokenizer *tokenizer, const json_t *merges);
/* The bytes of a byte-level spelling, at most len of them, to out; false when it is none. */
bool bpe_spelling_bytes(const Tokenizer *tokenizer, const char *text, uint32_t len, uint8_t *out, uint32_t *out_len);

/* ---- the scratch */

enum
{
    CACHED_WORD_BYTES = 22,
    CACHED_WORD_PIECES = 6,
    N_CACHED_WORDS = 8192
};

/* What a word became: direct-mapped by its hash. */
typedef struct
{
    uint64_t hash;
    uint8_t n_bytes; /* 0: free */
    uint8_t n_pieces;
    uint8_t bytes[CACHED_WORD_BYTES];
    uint8_t ends[CACHED_WORD_PIECES]; /* of each piece in the word */
    int32_t ids[CACHED_WORD_PIECES];
} CachedWord;

typedef struct
{
    int32_t id;
    uint32_t len; /* bytes; 0: merged into the one before */
    int32_t prev, next;
} BpeSymbol;

typedef struct
{
    uint32_t rank, at;
    int32_t id;
} BpeCandidate;

/* A token of a word: from the end of the one before it to end. */
typedef struct
{
    int32_t id;
    uint32_t end;
} WordPiece;

struct TokenizerScratch
{
    const Tokenizer *tokenizer;
    Arena *work;    /* of one call */
    Arena *results; /* until the reset */
    CachedWord *cache;
    Text original;         /* decoded */
    VEC(TextToken) tokens; /* in work, like the next three */
    VEC(WordPiece) pieces; /* of the word at hand */
    VEC(BpeSymbol) symbols;
    VEC(BpeCandidate) heap;
    uint8_t *key; /* wordpiece: a prefix and a piece of a word */
};

/* Feeds a word to the model, or to the cache. */
Status scratch_word(TokenizerScratch *scratch, Text word);
/* Adds a token to the word at hand. */
static inline void scratch_piece(TokenizerScratch *scratch, int32_t id, uint32_t end)
{
    vec_push(scratch->work, &scratch->pieces, (WordPiece){id, end});
}

#endif
