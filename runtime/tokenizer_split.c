/* Pre-tokenisers: text to the words that the model sees.
 *
 * The known regular expressions are matched by hand, alternative by alternative in their order, each as a backtracking
 * matcher finds it (Oniguruma in the library): greedy, and the first alternative that matches wins. A piece of a split
 * goes through the next split at once, so no list of pieces is kept. */
#include "runtime/tokenizer_parts.h"

bool split_by_regex(const char *regex, Split *out_split)
{
    static const struct
    {
        const char *regex;
        Split split;
    } known[] = {
        {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", {SPLIT_GPT2, 0}},
        {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
         "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
         {SPLIT_LLAMA3, 3}},
        {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
         "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
         {SPLIT_LLAMA3, 1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(regex, known[i].regex) == 0)
        {
            *out_split = known[i].split;
            return true;
        }
    return false;
}

/* A text and what its code points are. */
typedef struct
{
    const UnicodeClasses *classes;
    Text text;
} Subject;

enum
{
    CLASS_END = 1 << 30 /* of the place after the last character: none of the others */
};

/* The class at `at`, and where the next character begins. */
static inline uint32_t class_at(const Subject *subject, uint32_t at, uint32_t *out_next)
{
    *out_next = at;
    if (at >= subject->text.len)
        return CLASS_END;
    return unicode_class(subject->classes, utf8_next(subject->text.bytes, out_next));
}

/* Where the run of characters that have (or, when not wanted, lack) one of the classes ends. */
static uint32_t run_end(const Subject *subject, uint32_t at, uint32_t classes, bool wanted)
{
    for (;;)
    {
        uint32_t next, class = class_at(subject, at, &next);
        if (class == CLASS_END || ((class & classes) != 0) != wanted)
            return at;
        at = next;
    }
}

static inline uint8_t byte_at(const Subject *subject, uint32_t at)
{
    return at < subject->text.len ? subject->text.bytes[at] : 0;
}

/* 's|'t|'re|'ve|'m|'ll|'d, at an apostrophe: the end of the match, or at. In any case the long s (U+017F) is an s, too.
 */
static uint32_t match_contraction(const Subject *subject, uint32_t at, bool any_case)
{
    uint8_t fold = any_case ? 0x20 : 0;
    uint8_t first = byte_at(subject, at + 1), second = byte_at(subject, at + 2);
    if (any_case && first == 0xC5 && second == 0xBF)
        return at + 3;
    first |= fold;
    second |= fold;
    if (first == 's' || first == 't' || first == 'm' || first == 'd')
        return at + 2;
    if (((first == 'r' || first == 'v') && second == 'e') || (first == 'l' && second == 'l'))
        return at + 3;
    return at;
}

/* \s+(?!\S)|\s+ at a space: the run, without its last character when something follows and more than one is there. */
static uint32_t match_space(const Subject *subject, uint32_t at)
{
    uint32_t end = run_end(subject, at, CLASS_SPACE, true);
    if (end == subject->text.len)
        return end;
    uint32_t last = utf8_before(subject->text.bytes, end);
    return last > at ? last : end;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static uint32_t match_gpt2(const Subject *subject, uint32_t at)
{
    if (byte_at(subject, at) == '\'')
    {
        uint32_t end = match_contraction(subject, at, false);
        if (end > at)
            return end;
    }
    uint32_t begin = at + (byte_at(subject, at) == ' '), next;
    uint32_t class = class_at(subject, begin, &next);
    if (class == CLASS_END || class & CLASS_SPACE)
        return match_space(subject, at);
    if (class & (CLASS_LETTER | CLASS_NUMBER))
        return run_end(subject, next, class & (CLASS_LETTER | CLASS_NUMBER), true);
    return run_end(subject, next, CLASS_LETTER | CLASS_NUMBER | CLASS_SPACE, false);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 */
static uint32_t match_llama3(const Subject *subject, uint32_t at, uint32_t max_digits)
{
    uint8_t byte = byte_at(subject, at);
    if (byte == '\'')
    {
        uint32_t end = match_contraction(subject, at, true);
        if (end > at)
            return end;
    }
    uint32_t next, after, class = class_at(subject, at, &next);
    if (class & CLASS_LETTER)
        return run_end(subject, next, CLASS_LETTER, true);
    uint32_t second = class_at(subject, next, &after);
    if (!(class & CLASS_NUMBER) && byte != '\r' && byte != '\n' && second != CLASS_END && second & CLASS_LETTER)
        return run_end(subject, after, CLASS_LETTER, true);
    if (class & CLASS_NUMBER)
    {
        for (uint32_t n = 1; n < max_digits && second != CLASS_END && second & CLASS_NUMBER; n++)
        {
            next = after;
            second = class_at(subject, next, &after);
        }
        return next;
    }
    uint32_t begin = byte == ' ' ? next : at;
    uint32_t end = run_end(subject, begin, CLASS_LETTER | CLASS_NUMBER | CLASS_SPACE, false);
    if (end > begin)
    {
        while (byte_at(subject, end) == '\r' || byte_at(subject, end) == '\n')
            end++;
        return end;
    }
    end = run_end(subject, at, CLASS_SPACE, true);
    for (uint32_t last = end; last > at; last--)
        if (subject->text.bytes[last - 1] == '\r' || subject->text.bytes[last - 1] == '\n')
            return last;
    return match_space(subject, at);
}

static Status feed(TokenizerScratch *scratch, const Split *splits, uint32_t n_splits, Text text, uint32_t begin,
                   uint32_t end)
{
    if (begin == end)
        return STATUS_OK;
    Text piece = text_slice(text, begin, end);
    return n_splits == 0 ? scratch_word(scratch, piece) : split_run(scratch, splits, n_splits, piece);
}

/* The space has the place of the character that it goes before, as in the library. */
static Text prefix_space(Arena *arena, Text text)
{
    if (text.bytes[0] == ' ')
        return text;
    uint8_t *bytes = arena_alloc(arena, text.len + 1);
    ByteRange *at = ARENA_ARRAY(arena, ByteRange, text.len + 1);
    bytes[0] = ' ';
    at[0] = text.at[0];
    memcpy(bytes + 1, text.bytes, text.len);
    memcpy(at + 1, text.at, text.len * sizeof at[0]);
    return (Text){bytes, at, text.len + 1};
}

/* At spaces, which vanish; isolated: every character of that class is a piece of its own. */
static Status split_at_spaces(TokenizerScratch *scratch, const Subject *subject, const Split *rest, uint32_t n_rest,
                              uint32_t isolated)
{
    uint32_t begin = 0;
    for (uint32_t at = 0; at < subject->text.len;)
    {
        uint32_t here = at, class = class_at(subject, here, &at);
        if (!(class & (CLASS_SPACE | isolated)))
            continue;
        TRY(feed(scratch, rest, n_rest, subject->text, begin, here));
        if (!(class & CLASS_SPACE))
            TRY(feed(scratch, rest, n_rest, subject->text, here, at));
        begin = at;
    }
    return feed(scratch, rest, n_rest, subject->text, begin, subject->text.len);
}

/* \w+|[^\w\s]+, and what does not match vanishes. */
static Status split_words(TokenizerScratch *scratch, const Subject *subject, const Split *rest, uint32_t n_rest)
{
    for (uint32_t at = 0; at < subject->text.len;)
    {
        uint32_t next, class = class_at(subject, at, &next), end = next;
        if (class & CLASS_WORD)
            end = run_end(subject, next, CLASS_WORD, true);
        else if (!(class & CLASS_SPACE))
            end = run_end(subject, next, CLASS_WORD | CLASS_SPACE, false);
        if (class & CLASS_WORD || !(class & CLASS_SPACE))
            TRY(feed(scratch, rest, n_rest, subject->text, at, end));
        at = end;
    }
    return STATUS_OK;
}

Status split_run(TokenizerScratch *scratch, const Split *splits, uint32_t n_splits, Text text)
{
    if (text.len == 0)
        return STATUS_OK;
    if (n_splits == 0)
        return scratch_word(scratch, text);
    const Subject subject = {scratch->tokenizer->classes, text};
    const Split *rest = splits + 1;
    uint32_t n_rest = n_splits - 1;
    switch (splits->kind)
    {
    case SPLIT_BERT:
        return split_at_spaces(scratch, &subject, rest, n_rest, CLASS_PUNCT);
    case SPLIT_WHITESPACE:
        return split_words(scratch, &subject, rest, n_rest);
    case SPLIT_WHITESPACE_ONLY:
        return split_at_spaces(scratch, &subject, rest, n_rest, 0);
    case SPLIT_GPT2:
    case SPLIT_LLAMA3:
        for (uint32_t at = 0; at < text.len;)
        {
            uint32_t end =
                splits->kind == SPLIT_GPT2 ? match_gpt2(&subject, at) : match_llama3(&subject, at, splits->max_digits);
            TRY(feed(scratch, rest, n_rest, text, at, end));
            at = end;
        }
        return STATUS_OK;
    case SPLIT_PREFIX_SPACE:
        return split_run(scratch, rest, n_rest, prefix_space(scratch->work, text));
    }
    return STATUS_OK;
}
