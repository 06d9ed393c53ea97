/* elements.def as data, and the check of an element tree against it. */
#ifndef PTC_FRONTEND_ELEMENTS_H
#define PTC_FRONTEND_ELEMENTS_H

#include "base/diag.h"

typedef enum
{
    EL_NONE,
#define ELEMENT(id, ...) EL_##id,
#define ATTRIBUTE(...)
#define VALUE_ATTRIBUTE(...)
#include "frontend/elements.def"
#undef ELEMENT
#undef ATTRIBUTE
#undef VALUE_ATTRIBUTE
    EL_COUNT
} ElementId;

typedef enum
{
    GROUP_TOP = 1 << 0,
    GROUP_LIB = 1 << 1,
    GROUP_JOB = 1 << 2,
    GROUP_FIELD = 1 << 3,
    GROUP_BODY = 1 << 4,
    GROUP_ELSE = 1 << 5,
    GROUP_VALUE = 1 << 6,
    GROUP_OPEN = 1 << 7,
    GROUP_CONFIG = 1 << 8,
    GROUP_PARAMS = 1 << 9
} ElementGroup;

typedef enum
{
    KIND_NAME,
    KIND_NAMES,
    KIND_INT,
    KIND_FLOAT,
    KIND_SCALAR,
    KIND_BOOL,
    KIND_CHOICE,
    KIND_SHAPE,
    KIND_TEXT,
    KIND_TEST,
    KIND_PATH
} AttrKind;

typedef struct
{
    ElementId element; /* EL_NONE: of every element of group VALUE */
    const char *name;
    AttrKind kind;
    const char *choices; /* CHOICE: "a|b" */
    bool required;
    const char *absent; /* the value when it is not given; NULL: none */
    const char *doc;
} AttrInfo;

typedef struct
{
    const char *name;
    uint32_t groups; /* it belongs to */
    uint32_t holds;  /* groups of its children */
    const char *doc;
} ElementInfo;

const ElementInfo *element_info(ElementId id);
ElementId element_by_name(const char *name); /* EL_NONE when unknown */
/* NULL when the element has no such attribute. */
const AttrInfo *element_attr(ElementId id, const char *name);
/* All rows, the common ones (element == EL_NONE) first. */
const AttrInfo *element_attrs(uint32_t *out_n);
/* Is the row an attribute of the element? */
bool element_has(ElementId id, const AttrInfo *attr);

/* NULL when the text (without {expressions}) is of the kind, else what was expected. */
const char *attr_kind_fault(Arena *arena, const AttrInfo *attr, const char *text);
bool text_is_name(const char *text);

/* Sets the ids of the tree below root and tells what is wrong: unknown elements, children where they may not be,
 * unknown and missing attributes, values that cannot be of their kind. root itself must be `expected`. */
struct XmlElem;
bool elements_check(Arena *arena, Diag *diag, struct XmlElem *root, ElementId expected);

#endif
