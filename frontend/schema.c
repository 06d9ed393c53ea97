/* Printing the schema, and validating with libxml2. */
#include "frontend/schema.h"

#include "frontend/elements.h"

#include <libxml/parser.h>
#include <libxml/xmlschemas.h>
#include <string.h>

static void add_escaped(StrBuf *buf, const char *text)
{
    for (const char *p = text; *p; p++)
        switch (*p)
        {
        case '<':
            strbuf_add(buf, "&lt;");
            break;
        case '>':
            strbuf_add(buf, "&gt;");
            break;
        case '&':
            strbuf_add(buf, "&amp;");
            break;
        case '"':
            strbuf_add(buf, "&quot;");
            break;
        default:
            strbuf_add_bytes(buf, p, 1);
        }
}

static void add_doc(StrBuf *buf, const char *indent, const char *doc)
{
    strbuf_addf(buf, "%s<xs:annotation><xs:documentation>", indent);
    add_escaped(buf, doc);
    strbuf_add(buf, "</xs:documentation></xs:annotation>\n");
}

/* Simple types: a literal of the kind, or anything with an {expression} in it. */
static void add_types(StrBuf *buf)
{
    static const struct
    {
        const char *name, *pattern;
    } types[] = {
        {"name", "[A-Za-z0-9_\\-.]+"},
        {"int", "-?[0-9]+"},
        {"float", "[+\\-]?([0-9]+\\.?[0-9]*|\\.[0-9]+)([eE][+\\-]?[0-9]+)?"},
        {"scalar", "true|false|[+\\-]?([0-9]+\\.?[0-9]*|\\.[0-9]+)([eE][+\\-]?[0-9]+)?"},
        {"bool", "true|false"},
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        strbuf_addf(buf,
                    "  <xs:simpleType name=\"%s\"><xs:restriction base=\"xs:string\"><xs:pattern "
                    "value=\"%s|.*\\{.*\\}.*\"/></xs:restriction></xs:simpleType>\n",
                    types[i].name, types[i].pattern);
}

static void add_attr(StrBuf *buf, const AttrInfo *attr)
{
    static const char *const types[] = {
        [KIND_NAME] = "name",      [KIND_NAMES] = "xs:string", [KIND_INT] = "int",        [KIND_FLOAT] = "float",
        [KIND_SCALAR] = "scalar",  [KIND_BOOL] = "bool",       [KIND_CHOICE] = NULL,      [KIND_SHAPE] = "xs:string",
        [KIND_TEXT] = "xs:string", [KIND_TEST] = "xs:string",  [KIND_PATH] = "xs:string",
    };
    strbuf_addf(buf, "      <xs:attribute name=\"%s\"%s", attr->name, attr->required ? " use=\"required\"" : "");
    if (attr->kind != KIND_CHOICE)
        strbuf_addf(buf, " type=\"%s\"", types[attr->kind]);
    strbuf_add(buf, ">\n");
    add_doc(buf, "        ", attr->doc);
    if (attr->kind == KIND_CHOICE)
        strbuf_addf(buf,
                    "        <xs:simpleType><xs:restriction base=\"xs:string\"><xs:pattern "
                    "value=\"%s|.*\\{.*\\}.*\"/></xs:restriction></xs:simpleType>\n",
                    attr->choices);
    strbuf_add(buf, "      </xs:attribute>\n");
}

static void add_element(StrBuf *buf, ElementId id)
{
    const ElementInfo *info = element_info(id);
    uint32_t n;
    const AttrInfo *attrs = element_attrs(&n);
    strbuf_addf(buf, "  <xs:element name=\"%s\">\n", info->name);
    add_doc(buf, "    ", info->doc);
    strbuf_add(buf, "    <xs:complexType>\n");
    if (info->holds)
        strbuf_add(buf, "      <xs:choice minOccurs=\"0\" maxOccurs=\"unbounded\">\n");
    for (int child = 1; child < EL_COUNT && info->holds; child++)
    {
        if (!(element_info((ElementId)child)->groups & info->holds))
            continue;
        if (child == EL_include)
            strbuf_add(buf, "        <xs:any namespace=\"http://www.w3.org/2001/XInclude "
                            "http://www.w3.org/2003/XInclude\" processContents=\"skip\"/>\n");
        else
            strbuf_addf(buf, "        <xs:element ref=\"%s\"/>\n", element_info((ElementId)child)->name);
    }
    if (info->holds)
        strbuf_add(buf, "      </xs:choice>\n");
    for (uint32_t i = 0; i < n; i++)
        if (element_has(id, &attrs[i]))
            add_attr(buf, &attrs[i]);
    if (info->groups & GROUP_OPEN)
        strbuf_add(buf, "      <xs:anyAttribute processContents=\"skip\"/>\n");
    strbuf_add(buf, "    </xs:complexType>\n  </xs:element>\n");
}

void frontend_schema_text(StrBuf *buf)
{
    strbuf_add(buf, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                    "<!-- The model language of ptc. Generated from frontend/elements.def by `ptc schema`. -->\n"
                    "<xs:schema xmlns:xs=\"http://www.w3.org/2001/XMLSchema\" elementFormDefault=\"qualified\">\n");
    add_types(buf);
    for (int id = 1; id < EL_COUNT; id++)
        if (id != EL_include)
            add_element(buf, (ElementId)id);
    strbuf_add(buf, "</xs:schema>\n");
}

/* ---- validation */

typedef struct
{
    Diag *diag;
    const Source *source;
    uint32_t n_errors;
} Validation;

static void on_error(void *context, xmlErrorPtr error)
{
    Validation *x = context;
    if (error->level < XML_ERR_ERROR)
        return;
    x->n_errors++;
    const char *message = error->message ? error->message : "not valid";
    Span span = {.file = x->source->file, .line = error->line > 0 ? (uint32_t)error->line : 1};
    diag_error(x->diag, span, "refused by the schema: %.*s", (int)strcspn(message, "\n"), message);
}

static void ignore(void *context, const char *message, ...)
{
    (void)context, (void)message;
}

bool schema_check(Arena *arena, Diag *diag, const Source *source)
{
    Validation x = {.diag = diag, .source = source};
    StrBuf text = strbuf_make(arena);
    frontend_schema_text(&text);
    xmlSchemaParserCtxtPtr parser = xmlSchemaNewMemParserCtxt(strbuf_text(&text), (int)text.len);
    xmlSchemaSetParserStructuredErrors(parser, on_error, &x);
    xmlSchemaPtr schema = xmlSchemaParse(parser);
    xmlDocPtr doc = xmlReadMemory(source->text, (int)source->n_bytes, NULL, NULL,
                                  XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    if (schema && doc)
    {
        xmlSchemaValidCtxtPtr valid = xmlSchemaNewValidCtxt(schema);
        xmlSchemaSetValidErrors(valid, ignore, ignore, NULL);
        xmlSchemaSetValidStructuredErrors(valid, on_error, &x);
        int rc = xmlSchemaValidateDoc(valid, doc);
        xmlSchemaFreeValidCtxt(valid);
        if (rc != 0 && x.n_errors == 0)
            diag_error(diag, (Span){.file = source->file, .line = 1}, "refused by the schema");
        x.n_errors += rc != 0;
    }
    else
    {
        diag_error(diag, (Span){.file = source->file, .line = 1}, "cannot be checked against the schema");
        x.n_errors++;
    }
    xmlFreeDoc(doc);
    xmlSchemaFree(schema);
    xmlSchemaFreeParserCtxt(parser);
    return x.n_errors == 0;
}
