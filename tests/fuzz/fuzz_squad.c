/* Any bytes as a file of questions: refused, or windows with their labels within the row, and answers that can be
 * judged. */
#include "runtime/squad.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

enum
{
    LENGTH = 12,
    STRIDE = 3,
    MAX_WINDOWS = 1000 /* are looked at */
};

static Tokenizer *open_tokenizer(void)
{
    static const char vocab[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n##b\n.\nthe\n";
    static Tokenizer *tokenizer;
    if (!tokenizer && tokenizer_open_vocab("vocab", vocab, strlen(vocab), &tokenizer) != STATUS_OK)
        abort();
    return tokenizer;
}

static void look_at(const SquadSet *set)
{
    static double spans[MAX_WINDOWS * SQUAD_SPAN_SIZE];
    static const float scores[LENGTH] = {0, 1, 2, 3, 4, 5, 6, 7, 6, 5, 4, 3};
    const SquadSearch search = {5, 4};
    const uint64_t n = squad_n_windows(set) < MAX_WINDOWS ? squad_n_windows(set) : MAX_WINDOWS;
    for (uint64_t i = 0; i < n; i++)
    {
        int32_t ids[LENGTH], types[LENGTH], first, last;
        squad_row(set, i, LENGTH, 0, ids, types);
        squad_labels(set, i, &first, &last);
        if (squad_n_tokens(set, i) > LENGTH || first < 0 || first >= LENGTH || last < 0 || last >= LENGTH)
            abort();
        squad_best_span(set, i, scores, scores, LENGTH, &search, spans + i * SQUAD_SPAN_SIZE);
    }
    double exact_match, f1;
    if (squad_judge(set, spans, SQUAD_SPAN_SIZE, n, NULL, &exact_match, &f1) != STATUS_OK || exact_match > 1 || f1 > 1)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    SquadSet *set;
    if (squad_open_text("fuzz", (const char *)data, size_bytes, open_tokenizer(), LENGTH, STRIDE, &set) != STATUS_OK)
        return 0;
    if (squad_n_windows(set) == 0)
        abort();
    look_at(set);
    squad_close(set);
    return 0;
}
