/* SQuAD v1.1 JSON to contexts, questions and answers. */
#include "runtime/squad_parts.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

uint32_t squad_next(const char *text, size_t n_bytes, size_t *at)
{
    utf8proc_int32_t c;
    const utf8proc_ssize_t n =
        utf8proc_iterate((const utf8proc_uint8_t *)text + *at, (utf8proc_ssize_t)(n_bytes - *at), &c);
    *at += n > 0 ? (size_t)n : 1;
    return n > 0 ? (uint32_t)c : 0xFFFD;
}

bool squad_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/* Where the reader is; -1: not so deep. */
typedef struct
{
    SquadSet *set;
    int64_t at[4];
} Reader;

static const char *const levels[] = {"data", "paragraphs", "qas", "answers"};

static const char *place_text(Arena *arena, const int64_t at[4])
{
    const char *text = "";
    for (int i = 0; i < 4 && at[i] >= 0; i++)
        text = arena_printf(arena, "%s%s%s[%lld]", text, i ? "." : "", levels[i], (long long)at[i]);
    return text;
}

const char *squad_place(const SquadSet *set, Arena *arena, uint32_t question)
{
    const SquadQuestion *q = &set->questions.data[question];
    const SquadContext *context = &set->contexts.data[q->context];
    const int64_t at[4] = {context->article, context->paragraph, question - context->first_question, -1};
    return place_text(arena, at);
}

__attribute__((format(printf, 2, 3))) static Status bad(const Reader *r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const char *what = arena_vprintf(r->set->arena, format, args);
    va_end(args);
    const char *place = place_text(r->set->arena, r->at);
    return status_fail(STATUS_BAD_INPUT, "%s: %s%s%s", r->set->path, place, *place ? ": " : "", what);
}

static Status list_of(const Reader *r, const json_t *object, int level, const json_t **out_list)
{
    *out_list = json_object_get(object, levels[level]);
    if (json_is_array(*out_list))
        return STATUS_OK;
    return bad(r, "expected an object with a list '%s' (SQuAD v1.1)", levels[level]);
}

static Status text_of(const Reader *r, const json_t *object, const char *name, const char **out_text,
                      uint32_t *out_n_bytes)
{
    const json_t *value = json_object_get(object, name);
    if (!json_is_string(value))
        return bad(r, "expected an object with a text '%s' (SQuAD v1.1)", name);
    if (json_string_length(value) > TOKENIZER_MAX_TEXT_BYTES)
        return bad(r, "'%s' has %zu bytes; at most %d are supported", name, json_string_length(value),
                   TOKENIZER_MAX_TEXT_BYTES);
    *out_n_bytes = (uint32_t)json_string_length(value);
    *out_text = arena_strndup(r->set->arena, json_string_value(value), *out_n_bytes);
    return STATUS_OK;
}

static bool is_blank(const char *text, uint32_t n_bytes)
{
    for (size_t at = 0; at < n_bytes;)
        if (!squad_is_space(squad_next(text, n_bytes, &at)))
            return false;
    return true;
}

/* answer_start counts characters (code points). */
static Status read_answer(const Reader *r, const json_t *object, const SquadContext *context, SquadAnswer *answer)
{
    const json_t *start = json_object_get(object, "answer_start");
    size_t at = 0;
    TRY(text_of(r, object, "text", &answer->text, &answer->n_bytes));
    if (is_blank(answer->text, answer->n_bytes))
        return bad(r, "an empty answer");
    if (!json_is_integer(start))
        return bad(r, "expected a whole number 'answer_start'");
    for (json_int_t i = 0; i < json_integer_value(start) && at < context->n_bytes; i++)
        squad_next(context->text, context->n_bytes, &at);
    if (json_integer_value(start) < 0 || context->n_bytes - at < answer->n_bytes ||
        memcmp(context->text + at, answer->text, answer->n_bytes) != 0)
        return bad(r, "the context does not have '%.60s' at answer_start, character %lld", answer->text,
                   (long long)json_integer_value(start));
    answer->begin = (uint32_t)at;
    return STATUS_OK;
}

static Status read_question(Reader *r, const json_t *object)
{
    SquadSet *set = r->set;
    const SquadContext *context = &set->contexts.data[set->contexts.len - 1];
    SquadQuestion q = {.context = set->contexts.len - 1};
    uint32_t n_id;
    size_t skip = 0;
    const json_t *answers;
    TRY(text_of(r, object, "id", &q.id, &n_id));
    TRY(text_of(r, object, "question", &q.text, &q.n_bytes));
    for (size_t at = 0; at < q.n_bytes && squad_is_space(squad_next(q.text, q.n_bytes, &at));)
        skip = at;
    q.text += skip;
    q.n_bytes -= (uint32_t)skip;
    TRY(list_of(r, object, 3, &answers));
    if (json_array_size(answers) == 0)
        return bad(r, "the question '%s' has no answer: SQuAD v1.1 has one or more", q.id);
    q.n_answers = (uint32_t)json_array_size(answers);
    SquadAnswer *list = ARENA_ARRAY(set->arena, SquadAnswer, q.n_answers);
    for (uint32_t i = 0; i < q.n_answers; i++)
    {
        r->at[3] = i;
        TRY(read_answer(r, json_array_get(answers, i), context, &list[i]));
    }
    r->at[3] = -1;
    q.answers = list;
    vec_push(set->arena, &set->questions, q);
    return STATUS_OK;
}

static Status read_paragraph(Reader *r, const json_t *object)
{
    SquadSet *set = r->set;
    SquadContext context = {
        .article = (uint32_t)r->at[0], .paragraph = (uint32_t)r->at[1], .first_question = set->questions.len};
    const json_t *questions;
    TRY(text_of(r, object, "context", &context.text, &context.n_bytes));
    if (is_blank(context.text, context.n_bytes))
        return bad(r, "the context is empty");
    TRY(list_of(r, object, 2, &questions));
    context.n_questions = (uint32_t)json_array_size(questions);
    vec_push(set->arena, &set->contexts, context);
    for (uint32_t i = 0; i < context.n_questions; i++)
    {
        r->at[2] = i;
        TRY(read_question(r, json_array_get(questions, i)));
    }
    r->at[2] = -1;
    return STATUS_OK;
}

static int by_id(const void *a, const void *b)
{
    return strcmp((*(const SquadQuestion *const *)a)->id, (*(const SquadQuestion *const *)b)->id);
}

static Status check_ids(const Reader *r)
{
    const SquadSet *set = r->set;
    const SquadQuestion **sorted = ARENA_ARRAY(set->arena, const SquadQuestion *, set->questions.len);
    for (uint32_t i = 0; i < set->questions.len; i++)
        sorted[i] = &set->questions.data[i];
    if (set->questions.len)
        qsort(sorted, set->questions.len, sizeof *sorted, by_id);
    for (uint32_t i = 1; i < set->questions.len; i++)
        if (by_id(&sorted[i - 1], &sorted[i]) == 0)
            return bad(r, "the id '%s' is there twice", sorted[i]->id);
    return STATUS_OK;
}

static Status read_root(Reader *r, const json_t *root)
{
    const json_t *articles, *paragraphs;
    TRY(list_of(r, root, 0, &articles));
    for (size_t i = 0; i < json_array_size(articles); i++)
    {
        r->at[0] = (int64_t)i;
        TRY(list_of(r, json_array_get(articles, i), 1, &paragraphs));
        for (size_t k = 0; k < json_array_size(paragraphs); k++)
        {
            r->at[1] = (int64_t)k;
            TRY(read_paragraph(r, json_array_get(paragraphs, k)));
        }
        r->at[1] = -1;
    }
    r->at[0] = -1;
    if (r->set->questions.len == 0)
        return bad(r, "there are no questions");
    return check_ids(r);
}

Status squad_read(SquadSet *set, const char *text, size_t n_bytes)
{
    Reader reader = {.set = set, .at = {-1, -1, -1, -1}};
    json_error_t error;
    json_t *root = json_loadb(text ? text : "", n_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return status_fail(STATUS_BAD_INPUT, "%s:%d:%d: %s", set->path, error.line, error.column, error.text);
    Status status = read_root(&reader, root);
    json_decref(root);
    return status;
}
