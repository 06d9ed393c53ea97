/* From scores to answers (run_qa's postprocess_qa_predictions), and answers against the true ones (the official
 * evaluate-v1.1.py). */
#include "base/bug.h"
#include "base/strbuf.h"
#include "runtime/squad_parts.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <string.h>
#include <utf8proc.h>

/* ---- the best span of a window */

/* The places of the n greatest scores, greatest first; of equal ones the first place first. */
static uint32_t find_best(const float *scores, uint32_t n_scores, uint32_t n_best, uint32_t *out_places)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_scores; i++)
    {
        uint32_t at = n < n_best ? n++ : n_best;
        while (at > 0 && scores[i] > scores[out_places[at - 1]])
        {
            if (at < n_best)
                out_places[at] = out_places[at - 1];
            at--;
        }
        if (at < n_best)
            out_places[at] = i;
    }
    return n;
}

void squad_best_span(const SquadSet *set, uint64_t window, const float *first_scores, const float *last_scores,
                     uint32_t n_scores, const SquadSearch *search, double out_span[SQUAD_SPAN_SIZE])
{
    const SquadWindow *w = &set->windows.data[window];
    const SquadQuestion *q = &set->questions.data[w->question];
    const TextToken *tokens = set->contexts.data[q->context].tokens.tokens + w->first_token;
    const uint32_t begin = set->gaps[0].n + q->tokens.n_tokens + set->gaps[1].n, end = begin + w->n_tokens;
    uint32_t firsts[SQUAD_MAX_BEST], lasts[SQUAD_MAX_BEST];
    ENSURE(search->n_best <= SQUAD_MAX_BEST);
    const uint32_t n_firsts = find_best(first_scores, n_scores, search->n_best, firsts);
    const uint32_t n_lasts = find_best(last_scores, n_scores, search->n_best, lasts);
    for (int i = 0; i < SQUAD_SPAN_SIZE; i++)
        out_span[i] = 0;
    for (uint32_t i = 0; i < n_firsts; i++)
        for (uint32_t k = 0; k < n_lasts; k++)
        {
            const uint32_t first = firsts[i], last = lasts[k];
            if (first < begin || last >= end || last < first || last - first >= search->max_answer)
                continue;
            const float score = first_scores[first] + last_scores[last];
            if (out_span[SQUAD_N_VALID] == 0 || score > out_span[SQUAD_SCORE])
            {
                out_span[SQUAD_SCORE] = score;
                out_span[SQUAD_BEGIN] = tokens[first - begin].begin;
                out_span[SQUAD_END] = tokens[last - begin].end;
            }
            out_span[SQUAD_N_VALID] = fmin(2, out_span[SQUAD_N_VALID] + 1);
        }
}

/* ---- texts as the official script compares them */

static bool is_word(uint32_t c)
{
    const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) ||
           (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO);
}

static bool is_letter(uint32_t c)
{
    return is_word(c) && utf8proc_category((utf8proc_int32_t)c) <= UTF8PROC_CATEGORY_LO;
}

static void add_char(StrBuf *out, uint32_t c)
{
    utf8proc_uint8_t bytes[4];
    strbuf_add_bytes(out, (const char *)bytes, (size_t)utf8proc_encode_char((utf8proc_int32_t)c, bytes));
}

/* str.lower, without punctuation (ASCII). The last sigma of a word has a letter of its own. */
static void add_lower(StrBuf *out, const char *text, size_t n_bytes)
{
    enum
    {
        CAPITAL_I_DOT = 0x130,
        DOT_ABOVE = 0x307,
        CAPITAL_SIGMA = 0x3A3,
        FINAL_SIGMA = 0x3C2
    };
    uint32_t before = ' ';
    for (size_t at = 0; at < n_bytes;)
    {
        const uint32_t c = squad_next(text, n_bytes, &at);
        size_t behind = at;
        if (c < 128 && strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", (int)c) && c)
            continue;
        if (c == CAPITAL_I_DOT)
        {
            add_char(out, 'i');
            add_char(out, DOT_ABOVE);
        }
        else if (c == CAPITAL_SIGMA && is_letter(before) &&
                 !(at < n_bytes && is_letter(squad_next(text, n_bytes, &behind))))
            add_char(out, FINAL_SIGMA);
        else
            add_char(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
        before = c;
    }
}

static bool is_article(const char *text, size_t n_bytes)
{
    return (n_bytes == 1 && *text == 'a') || (n_bytes == 2 && memcmp(text, "an", 2) == 0) ||
           (n_bytes == 3 && memcmp(text, "the", 3) == 0);
}

/* Words of the normalised text, each behind a space, without articles. */
static StrBuf normalise(Arena *arena, const char *text, size_t n_bytes)
{
    StrBuf lower = strbuf_make(arena), out = strbuf_make(arena);
    add_lower(&lower, text, n_bytes);
    const char *all = strbuf_text(&lower);
    bool apart = true;
    for (size_t at = 0, end = 0; at < lower.len; at = end)
    {
        size_t next = at;
        const uint32_t c = squad_next(all, lower.len, &next);
        const bool word = is_word(c);
        for (end = next; word && next < lower.len && is_word(squad_next(all, lower.len, &next));)
            end = next;
        if (squad_is_space(c) || (word && is_article(all + at, end - at)))
        {
            apart = true;
            continue;
        }
        if (apart)
            strbuf_add(&out, " ");
        strbuf_add_bytes(&out, all + at, end - at);
        apart = false;
    }
    return out;
}

typedef struct
{
    const char *text;
    size_t n_bytes;
    bool used;
} Word;

static uint32_t split(Arena *arena, const StrBuf *text, Word **out_words)
{
    const char *at = strbuf_text(text);
    uint32_t n = 0;
    *out_words = ARENA_ARRAY(arena, Word, text->len / 2 + 1);
    while (*at)
    {
        at++; /* the space before a word */
        const size_t n_bytes = strcspn(at, " ");
        (*out_words)[n++] = (Word){.text = at, .n_bytes = n_bytes};
        at += n_bytes;
    }
    return n;
}

/* Words that both have, as often as both have them. */
static uint32_t count_common(const Word *words, uint32_t n_words, Word *others, uint32_t n_others)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_words; i++)
        for (uint32_t k = 0; k < n_others; k++)
            if (!others[k].used && others[k].n_bytes == words[i].n_bytes &&
                memcmp(others[k].text, words[i].text, words[i].n_bytes) == 0)
            {
                others[k].used = true;
                n++;
                break;
            }
    return n;
}

void squad_compare(const char *prediction, size_t n_prediction, const char *truth, size_t n_truth,
                   double *out_exact_match, double *out_f1)
{
    Arena *arena = arena_create();
    const StrBuf a = normalise(arena, prediction, n_prediction), b = normalise(arena, truth, n_truth);
    Word *words, *others;
    const uint32_t n_words = split(arena, &a, &words), n_others = split(arena, &b, &others);
    const uint32_t n_common = count_common(words, n_words, others, n_others);
    const double precision = n_words ? (double)n_common / n_words : 0,
                 recall = n_others ? (double)n_common / n_others : 0;
    *out_exact_match = strcmp(strbuf_text(&a), strbuf_text(&b)) == 0;
    *out_f1 = n_common ? 2 * precision * recall / (precision + recall) : 0;
    arena_destroy(arena);
}

/* ---- all questions */

typedef struct
{
    double span[SQUAD_SPAN_SIZE];
    bool seen;
} Answer;

static void collect(const SquadSet *set, const double *spans, uint32_t stride, uint64_t n_windows, Answer *answers)
{
    ENSURE(n_windows <= set->windows.len);
    for (uint64_t i = 0; i < n_windows; i++)
    {
        const double *span = spans + i * stride;
        Answer *answer = &answers[set->windows.data[i].question];
        const double n_before = answer->span[SQUAD_N_VALID];
        answer->seen = true;
        if (span[SQUAD_N_VALID] > 0 && (n_before == 0 || span[SQUAD_SCORE] > answer->span[SQUAD_SCORE]))
            memcpy(answer->span, span, sizeof answer->span);
        answer->span[SQUAD_N_VALID] = fmin(2, n_before + span[SQUAD_N_VALID]);
    }
}

static const char *answer_text(const SquadSet *set, uint32_t question, const Answer *answer, size_t *out_n_bytes)
{
    const double n_valid = answer->span[SQUAD_N_VALID];
    const size_t begin = (size_t)answer->span[SQUAD_BEGIN], end = (size_t)answer->span[SQUAD_END];
    *out_n_bytes = end > begin ? end - begin : 0;
    if (n_valid > 1 || (n_valid > 0 && *out_n_bytes > 0))
        return set->contexts.data[set->questions.data[question].context].text + begin;
    *out_n_bytes = strlen("empty");
    return "empty";
}

static Status write_predictions(const char *path, const json_t *object)
{
    if (json_dump_file(object, path, JSON_INDENT(1)) == 0)
        return STATUS_OK;
    return status_fail(STATUS_IO, "cannot write '%s': %s", path, strerror(errno));
}

Status squad_judge(const SquadSet *set, const double *spans, uint32_t stride, uint64_t n_windows,
                   const char *predictions, double *out_exact_match, double *out_f1)
{
    Arena *arena = arena_create();
    Answer *answers = ARENA_ARRAY(arena, Answer, set->questions.len);
    json_t *object = json_object();
    double matches = 0, f1 = 0, n = 0;
    collect(set, spans, stride, n_windows, answers);
    for (uint32_t i = 0; i < set->questions.len; i++)
    {
        const SquadQuestion *q = &set->questions.data[i];
        double best[2] = {0};
        size_t n_bytes;
        if (!answers[i].seen)
            continue;
        const char *text = answer_text(set, i, &answers[i], &n_bytes);
        for (uint32_t k = 0; k < q->n_answers; k++)
        {
            double match, both;
            squad_compare(text, n_bytes, q->answers[k].text, q->answers[k].n_bytes, &match, &both);
            best[0] = fmax(best[0], match);
            best[1] = fmax(best[1], both);
        }
        matches += best[0];
        f1 += best[1];
        n++;
        if (predictions && json_object_set_new(object, q->id, json_stringn(text, n_bytes)) != 0)
            BUG("the answer to '%s' is no UTF-8", q->id);
    }
    *out_exact_match = n > 0 ? matches / n : 0;
    *out_f1 = n > 0 ? f1 / n : 0;
    Status status = predictions ? write_predictions(predictions, object) : STATUS_OK;
    json_decref(object);
    arena_destroy(arena);
    return status;
}
