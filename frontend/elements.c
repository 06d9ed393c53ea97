/* The element table, and the check of a tree against it. A tree that passes has no unknown names left; what depends
 * on {expressions} is checked where it is used. */
#include "frontend/elements.h"

#include "base/strbuf.h"
#include "frontend/xml.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TOP    GROUP_TOP
#define LIB    GROUP_LIB
#define JOB    GROUP_JOB
#define FIELD  GROUP_FIELD
#define BODY   GROUP_BODY
#define ELSE   GROUP_ELSE
#define VALUE  GROUP_VALUE
#define OPEN   GROUP_OPEN
#define CONFIG GROUP_CONFIG
#define PARAMS GROUP_PARAMS

static const ElementInfo elements[EL_COUNT] = {
#define MEMBER(set)                       .groups = (set)
#define HOLDS(set)                        .holds = (set)
#define ELEMENT(id, text, member, has, d) [EL_##id] = {.name = text, member, has, .doc = d},
#define ATTRIBUTE(...)
#define VALUE_ATTRIBUTE(...)
#include "frontend/elements.def"
#undef ELEMENT
#undef ATTRIBUTE
#undef VALUE_ATTRIBUTE
};

#define NAME          .kind = KIND_NAME
#define NAMES         .kind = KIND_NAMES
#define INT           .kind = KIND_INT
#define FLOAT         .kind = KIND_FLOAT
#define SCALAR        .kind = KIND_SCALAR
#define BOOL          .kind = KIND_BOOL
#define CHOICE(list)  .kind = KIND_CHOICE, .choices = list
#define SHAPE         .kind = KIND_SHAPE
#define TEXT          .kind = KIND_TEXT
#define TEST          .kind = KIND_TEST
#define PATH          .kind = KIND_PATH
#define REQUIRED      .required = true
#define OPTIONAL      .required = false
#define ABSENT(value) .absent = value

static const AttrInfo attrs[] = {
#define ELEMENT(...)
#define ATTRIBUTE(id, key, type, need, text)   {.element = EL_##id, .name = #key, type, need, .doc = text},
#define VALUE_ATTRIBUTE(key, type, need, text) {.element = EL_NONE, .name = #key, type, need, .doc = text},
#include "frontend/elements.def"
#undef ELEMENT
#undef ATTRIBUTE
#undef VALUE_ATTRIBUTE
};

enum
{
    N_ATTRS = sizeof attrs / sizeof *attrs
};

const ElementInfo *element_info(ElementId id)
{
    return &elements[id];
}

ElementId element_by_name(const char *name)
{
    for (int id = 1; id < EL_COUNT; id++)
        if (strcmp(elements[id].name, name) == 0)
            return (ElementId)id;
    return EL_NONE;
}

const AttrInfo *element_attrs(uint32_t *out_n)
{
    *out_n = N_ATTRS;
    return attrs;
}

bool element_has(ElementId id, const AttrInfo *attr)
{
    return attr->element == id || (attr->element == EL_NONE && (elements[id].groups & GROUP_VALUE));
}

const AttrInfo *element_attr(ElementId id, const char *name)
{
    for (int i = 0; i < N_ATTRS; i++)
        if (element_has(id, &attrs[i]) && strcmp(attrs[i].name, name) == 0)
            return &attrs[i];
    return NULL;
}

/* ---- values */

bool text_is_name(const char *text)
{
    if (!isalpha((unsigned char)*text) && *text != '_')
        return false;
    for (const char *p = text; *p; p++)
        if (!isalnum((unsigned char)*p) && *p != '_')
            return false;
    return strcmp(text, "_") != 0;
}

/* A job's name may be a file's: "vit-fashion-mnist". */
static bool is_label(const char *text)
{
    for (const char *p = text; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("_-.", *p))
            return false;
    return *text != 0;
}

static bool is_int(const char *text)
{
    char *end;
    errno = 0;
    if (isspace((unsigned char)*text) || *text == '+')
        return false;
    strtoll(text, &end, 10);
    return end != text && *end == 0 && errno == 0;
}

static bool is_float(const char *text)
{
    char *end;
    if (!*text || strspn(text, "0123456789+-.eE") != strlen(text))
        return false;
    double value = strtod(text, &end);
    return *end == 0 && isfinite(value);
}

static bool is_choice(const char *choices, const char *text)
{
    size_t n = strlen(text);
    for (const char *p = choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (n && strncmp(p, text, n) == 0 && (p[n] == '|' || p[n] == 0))
            return true;
    return false;
}

const char *attr_kind_fault(Arena *arena, const AttrInfo *attr, const char *text)
{
    switch (attr->kind)
    {
    case KIND_NAME:
        if (attr->element == EL_model)
            return is_label(text) ? NULL : "expected a name of letters, digits, '_', '-' and '.'";
        if (attr->element == EL_loss || attr->element == EL_repeat || attr->element == EL_metric)
            return text_is_name(text) || strcmp(text, "_") == 0 ? NULL : "expected a name of letters, digits and '_'";
        return text_is_name(text) ? NULL : "expected a name of letters, digits and '_'";
    case KIND_INT:
        return is_int(text) ? NULL : "expected a whole number";
    case KIND_FLOAT:
        return is_float(text) ? NULL : "expected a number";
    case KIND_SCALAR:
        return is_int(text) || (is_float(text) && *text != '+' && strpbrk(text, ".eE")) || strcmp(text, "true") == 0 ||
                       strcmp(text, "false") == 0
                   ? NULL
                   : "expected a number, 'true' or 'false'";
    case KIND_BOOL:
        return strcmp(text, "true") == 0 || strcmp(text, "false") == 0 ? NULL : "expected 'true' or 'false'";
    case KIND_CHOICE:
        return is_choice(attr->choices, text) ? NULL : arena_printf(arena, "expected one of %s", attr->choices);
    case KIND_NAMES:
    case KIND_SHAPE:
    case KIND_TEXT:
    case KIND_TEST:
    case KIND_PATH:
        return NULL;
    }
    return NULL;
}

/* ---- trees */

typedef struct
{
    Arena *arena;
    Diag *diag;
} Check;

static void suggest_attr(Check *x, const XmlElem *e, const char *word)
{
    const char *names[N_ATTRS];
    size_t n = 0;
    for (int i = 0; i < N_ATTRS; i++)
        if (element_has(e->id, &attrs[i]))
            names[n++] = attrs[i].name;
    diag_suggest(x->diag, str_nearest(word, names, n));
}

static void suggest_element(Check *x, uint32_t groups, const char *word)
{
    const char *names[EL_COUNT];
    size_t n = 0;
    for (int id = 1; id < EL_COUNT; id++)
        if (elements[id].groups & groups & ~(uint32_t)(GROUP_VALUE | GROUP_OPEN))
            names[n++] = elements[id].name;
    diag_suggest(x->diag, str_nearest(word, names, n));
}

static void suggest_choice(Check *x, const char *choices, const char *word)
{
    const char *names[16];
    size_t n = 0;
    for (const char *p = choices; n < 16; p = strchr(p, '|') + 1)
    {
        names[n++] = arena_strndup(x->arena, p, strcspn(p, "|"));
        if (!strchr(p, '|'))
            break;
    }
    diag_suggest(x->diag, str_nearest(word, names, n));
}

static void check_attrs(Check *x, const XmlElem *e)
{
    for (uint32_t i = 0; i < e->n_attrs && !diag_is_full(x->diag); i++)
    {
        const XmlAttr *attr = &e->attrs[i];
        const AttrInfo *info = element_attr(e->id, attr->name);
        if (!info)
        {
            if (elements[e->id].groups & GROUP_OPEN)
                continue;
            diag_error(x->diag, xml_attr_name_span(attr), "unknown attribute '%s' on <%s>", attr->name, e->name);
            suggest_attr(x, e, attr->name);
            continue;
        }
        const char *brace = strchr(attr->value, '{');
        if (brace && strchr(brace, '}'))
            continue; /* checked after substitution */
        const char *fault = attr_kind_fault(x->arena, info, attr->value);
        if (fault)
        {
            diag_error(x->diag, xml_attr_value_span(attr), "attribute '%s' is '%.60s': %s", attr->name, attr->value,
                       fault);
            if (info->kind == KIND_CHOICE)
                suggest_choice(x, info->choices, attr->value);
        }
    }
    for (int i = 0; i < N_ATTRS; i++)
        if (attrs[i].required && element_has(e->id, &attrs[i]) && !xml_attr(e, attrs[i].name))
            diag_error(x->diag, xml_elem_span(e), "attribute '%s' is missing on <%s>", attrs[i].name, e->name);
}

static void check_element(Check *x, XmlElem *e)
{
    check_attrs(x, e);
    uint32_t holds = elements[e->id].holds;
    for (XmlElem *child = e->first; child && !diag_is_full(x->diag); child = child->next)
    {
        child->id = element_by_name(child->name);
        if (child->id == EL_NONE)
        {
            diag_error(x->diag, xml_elem_span(child), "unknown element <%s>", child->name);
            suggest_element(x, holds, child->name);
        }
        else if (!(elements[child->id].groups & holds))
            diag_error(x->diag, xml_elem_span(child), "<%s> cannot stand in <%s>", child->name, e->name);
        else if (child->id == EL_else && child->next)
            diag_error(x->diag, xml_elem_span(child->next), "<else> must be the last in <if>");
        else
            check_element(x, child);
    }
}

bool elements_check(Arena *arena, Diag *diag, XmlElem *root, ElementId expected)
{
    Check x = {.arena = arena, .diag = diag};
    uint32_t before = diag_error_count(diag);
    root->id = element_by_name(root->name);
    if (root->id != expected)
        diag_error(diag, xml_elem_span(root), "expected <%s> as the root, found <%s>", elements[expected].name,
                   root->name);
    else
        check_element(&x, root);
    return diag_error_count(diag) == before;
}
