/* What the files behind squad.h share. */
#ifndef PTC_RUNTIME_SQUAD_PARTS_H
#define PTC_RUNTIME_SQUAD_PARTS_H

#include "runtime/squad.h"

typedef struct
{
    const char *text;
    uint32_t n_bytes, begin; /* in the context */
} SquadAnswer;

typedef struct
{
    const char *id;
    const char *text; /* without the white space before it */
    uint32_t n_bytes;
    uint32_t context;
    uint32_t n_answers;
    const SquadAnswer *answers;
    TokenSpan tokens;
} SquadQuestion;

typedef struct
{
    const char *text;
    uint32_t n_bytes;
    uint32_t article, paragraph; /* in the file */
    uint32_t first_question, n_questions;
    TokenSpan tokens;
} SquadContext;

typedef struct
{
    uint32_t question;
    uint32_t first_token, n_tokens; /* of the context */
    int32_t first, last;            /* places of the answer in the row */
} SquadWindow;

/* Special tokens: before the question, between it and the context, behind that. */
typedef struct
{
    uint32_t n;
    const int32_t *ids, *types;
} SquadGap;

struct SquadSet
{
    Arena *arena;
    const char *path;
    VEC(SquadContext) contexts;
    VEC(SquadQuestion) questions;
    VEC(SquadWindow) windows;
    uint32_t length, stride;
    SquadGap gaps[3];
    int32_t types[2]; /* of the question's tokens, of the context's */
    int32_t cls_at;
    Arena **token_arenas; /* one for each thread that has encoded */
    uint32_t n_token_arenas;
};

/* Reads contexts and questions. */
Status squad_read(SquadSet *set, const char *text, size_t n_bytes);
/* Where in the file a question is, for messages: "data[0].paragraphs[2].qas[1]". */
const char *squad_place(const SquadSet *set, Arena *arena, uint32_t question);
/* Python's str.isspace. */
bool squad_is_space(uint32_t c);
/* The code point at `at` of valid UTF-8, which moves behind it. */
uint32_t squad_next(const char *text, size_t n_bytes, size_t *at);

#endif
