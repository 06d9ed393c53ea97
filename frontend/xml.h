/* The element tree of one file, with the place of every name and value.
 *
 * libxml2 judges what is well-formed; names, values and places come from our own scan of the start tag, because
 * libxml2 keeps no places of attributes. */
#ifndef PTC_FRONTEND_XML_H
#define PTC_FRONTEND_XML_H

#include "frontend/elements.h"
#include "frontend/source.h"

typedef struct XmlAttr XmlAttr;
struct XmlAttr
{
    const char *name;
    const char *value; /* entities and whitespace resolved */
    const Source *source;
    uint32_t name_at;  /* offset */
    uint32_t value_at; /* offset of the raw value, behind the quote */
    uint32_t value_bytes;
    const XmlAttr *replaced; /* what it was before --set; NULL: --set has not been here */
};

typedef struct XmlElem XmlElem;
struct XmlElem
{
    const char *name; /* without prefix; "xi:include" for an element of XInclude */
    ElementId id;     /* EL_NONE until elements_check has seen it */
    const Source *source;
    uint32_t name_at;
    uint32_t name_bytes;
    XmlAttr *attrs;
    uint32_t n_attrs;
    XmlElem *first, *next;
};

enum
{
    XML_MAX_DEPTH = 256
};

/* NULL after an error. */
XmlElem *xml_parse(Arena *arena, Diag *diag, const Source *source);

const XmlAttr *xml_attr(const XmlElem *e, const char *name); /* NULL when absent */
Span xml_elem_span(const XmlElem *e);                        /* the element's name */
Span xml_attr_name_span(const XmlAttr *attr);
Span xml_attr_value_span(const XmlAttr *attr);
/* Of n bytes of the resolved value from offset. */
Span xml_attr_span_at(const XmlAttr *attr, uint32_t offset, uint32_t n);

#endif
