/* Questions on texts, SQuAD v1.1 (Rajpurkar et al., EMNLP 2016): a JSON file as windows of tokens for a model, and the
 * model's scores as answers, judged as the official script judges them.
 *
 * A sample is a window: special tokens, a question, a part of its context, as Hugging Face's run_qa makes them. A
 * context that is too long for one row has several windows, which overlap by `stride` tokens. Texts are UTF-8, places
 * in them are bytes. A SquadSet is not written to after it was opened. */
#ifndef PTC_RUNTIME_SQUAD_H
#define PTC_RUNTIME_SQUAD_H

#include "base/arena.h"
#include "base/status.h"
#include "runtime/tokenizer.h"

#include <stdbool.h>

typedef struct SquadSet SquadSet;

/* length: of a row. BAD_INPUT, with the file and line:column or the place in it: no JSON, no SQuAD v1.1 (a question
 * without answers, an id that is there twice), an empty context, an answer that is not where answer_start says, a
 * question that leaves no room for its context. tokenizer is only used during the call. */
Status squad_open(const char *path, const Tokenizer *tokenizer, uint32_t length, uint32_t stride, SquadSet **out_set);
/* The same of a file in memory; name stands for its path. */
Status squad_open_text(const char *name, const char *text, size_t n_bytes, const Tokenizer *tokenizer, uint32_t length,
                       uint32_t stride, SquadSet **out_set);
void squad_close(SquadSet *set); /* NULL is allowed */

uint64_t squad_n_windows(const SquadSet *set);
uint64_t squad_n_questions(const SquadSet *set);
uint32_t squad_length(const SquadSet *set);
uint32_t squad_stride(const SquadSet *set);
/* How many tokens of the row are no padding. */
uint32_t squad_n_tokens(const SquadSet *set, uint64_t window);
/* The first n of the row's ids, and types; ids are padded with pad, types with 0. NULL: not wanted. */
void squad_row(const SquadSet *set, uint64_t window, uint32_t n, int32_t pad, int32_t *ids, int32_t *types);
/* Where in the row the question's first answer begins and ends; both the place of [CLS] when the window does not have
 * all of it. */
void squad_labels(const SquadSet *set, uint64_t window, int32_t *out_first, int32_t *out_last);

/* ---- answers */

/* What the best span of a window is, in doubles so that ranks can add them up. */
enum
{
    SQUAD_SCORE, /* of its first and last token, added in f32 */
    SQUAD_BEGIN, /* bytes of the context */
    SQUAD_END,
    SQUAD_N_VALID, /* spans that were possible: 0, 1 or 2 for more */
    SQUAD_SPAN_SIZE
};

enum
{
    SQUAD_MAX_BEST = 1024
};

typedef struct
{
    uint32_t n_best;     /* so many best first and last tokens are combined; at most SQUAD_MAX_BEST */
    uint32_t max_answer; /* tokens */
} SquadSearch;

/* first_scores, last_scores: n_scores for the places of the row. Spans begin and end in the context. */
void squad_best_span(const SquadSet *set, uint64_t window, const float *first_scores, const float *last_scores,
                     uint32_t n_scores, const SquadSearch *search, double out_span[SQUAD_SPAN_SIZE]);

/* spans: of the first n_windows windows, stride numbers from one to the next. The answer to a question is the best span
 * of its windows, "empty" when there is none (run_qa). Exact match and F1 are means over the questions that have a
 * window among them, from 0 to 1. predictions: a JSON object of answers by id is written there; NULL: none. IO. */
Status squad_judge(const SquadSet *set, const double *spans, uint32_t stride, uint64_t n_windows,
                   const char *predictions, double *out_exact_match, double *out_f1);
/* Of two texts; the official script's numbers. */
void squad_compare(const char *prediction, size_t n_prediction, const char *truth, size_t n_truth,
                   double *out_exact_match, double *out_f1);

#endif
