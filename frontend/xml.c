/* The tree builder on libxml2's SAX2 interface.
 *
 * Safety: no DOCTYPE (refused when its name is seen, so there are no entities to expand and nothing external to
 * load), no network, bounded depth, no XML_PARSE_HUGE, no XML_PARSE_NOENT. */
#include "frontend/xml.h"

#include <libxml/parser.h>
#include <libxml/parserInternals.h>
#include <libxml/xmlerror.h>
#include <string.h>

static const char XINCLUDE_NS[] = "http://www.w3.org/2001/XInclude";
static const char XINCLUDE_NS_OLD[] = "http://www.w3.org/2003/XInclude";
static const char SCHEMA_INSTANCE_NS[] = "http://www.w3.org/2001/XMLSchema-instance";

typedef struct
{
    Arena *arena;
    Diag *diag;
    const Source *source;
    xmlParserCtxtPtr parser;
    XmlElem *root;
    XmlElem *open[XML_MAX_DEPTH];
    XmlElem *last[XML_MAX_DEPTH]; /* last child of each open element */
    uint32_t depth;
    uint32_t tag_end; /* offset behind the last tag */
    bool failed;      /* an error was told: the rest is silence */
} Tree;

/* ---- places */

Span xml_elem_span(const XmlElem *e)
{
    return source_span(e->source, e->name_at, e->name_bytes);
}

Span xml_attr_name_span(const XmlAttr *attr)
{
    return source_span(attr->source, attr->name_at, (uint32_t)strlen(attr->name));
}

Span xml_attr_value_span(const XmlAttr *attr)
{
    return source_span(attr->source, attr->value_at, attr->value_bytes);
}

/* Bytes of raw text that make the one or more bytes of the resolved value that start here. */
static uint32_t raw_step(const char *raw, const char *end, uint32_t *out_value_bytes)
{
    *out_value_bytes = 1;
    if (*raw == '\r' && raw + 1 < end && raw[1] == '\n')
        return 2;
    const char *semicolon = *raw == '&' ? memchr(raw, ';', (size_t)(end - raw)) : NULL;
    if (!semicolon)
        return 1;
    if (raw[1] == '#')
    {
        long code = raw[2] == 'x' ? strtol(raw + 3, NULL, 16) : strtol(raw + 2, NULL, 10);
        *out_value_bytes = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    }
    return (uint32_t)(semicolon - raw) + 1;
}

Span xml_attr_span_at(const XmlAttr *attr, uint32_t offset, uint32_t n)
{
    const char *begin = attr->source->text + attr->value_at;
    const char *raw = begin, *end = begin + attr->value_bytes;
    uint32_t at = 0, step = 1, value_bytes = 1;
    while (raw < end && at < offset)
    {
        step = raw_step(raw, end, &value_bytes);
        raw += step;
        at += value_bytes;
    }
    const char *from = raw;
    while (raw < end && at < offset + n)
    {
        raw += raw_step(raw, end, &value_bytes);
        at += value_bytes;
    }
    return source_span(attr->source, attr->value_at + (uint32_t)(from - begin), (uint32_t)(raw - from));
}

const XmlAttr *xml_attr(const XmlElem *e, const char *name)
{
    for (uint32_t i = 0; i < e->n_attrs; i++)
        if (strcmp(e->attrs[i].name, name) == 0)
            return &e->attrs[i];
    return NULL;
}

/* ---- errors */

__attribute__((format(printf, 4, 5))) static void fail(Tree *tree, uint32_t offset, uint32_t n_bytes,
                                                       const char *format, ...)
{
    if (tree->failed)
        return;
    tree->failed = true;
    va_list args;
    va_start(args, format);
    const char *text = arena_vprintf(tree->arena, format, args);
    va_end(args);
    diag_error(tree->diag, source_span(tree->source, offset, n_bytes), "%s", text);
    xmlStopParser(tree->parser);
}

static uint32_t parser_offset(const Tree *tree)
{
    const xmlParserInput *input = tree->parser->input;
    if (!input)
        return 0;
    unsigned long offset = input->consumed + (unsigned long)(input->cur - input->base);
    return offset > tree->source->n_bytes ? tree->source->n_bytes : (uint32_t)offset;
}

/* libxml2's own words, but for the faults that people make. */
static void on_error(void *context, xmlErrorPtr error)
{
    xmlParserCtxtPtr parser = context;
    Tree *tree = parser->_private;
    if (tree->failed || error->level < XML_ERR_ERROR)
        return;
    uint32_t at = parser_offset(tree);
    const XmlElem *open = tree->depth ? tree->open[tree->depth - 1] : NULL;
    bool at_end = at >= tree->source->n_bytes;
    if (open && (error->code == XML_ERR_TAG_NAME_MISMATCH))
    {
        while (at > 0 && tree->source->text[at] != '<')
            at--;
        fail(tree, at, 2, "this tag does not close <%s>", open->name);
        Span span = xml_elem_span(open);
        diag_note(tree->diag, span, "which was opened here");
    }
    else if (open && at_end)
    {
        fail(tree, at, 1, "the file ends inside <%s>", open->name);
        diag_note(tree->diag, xml_elem_span(open), "which was opened here");
    }
    else
    {
        const char *message = error->message ? error->message : "not well-formed";
        size_t n = strcspn(message, "\n");
        fail(tree, at, 1, "not well-formed XML: %.*s", (int)n, message);
    }
}

static void on_doctype(void *context, const xmlChar *name, const xmlChar *external, const xmlChar *system)
{
    (void)name, (void)external, (void)system;
    Tree *tree = ((xmlParserCtxtPtr)context)->_private;
    uint32_t at = parser_offset(tree);
    while (at > 0 && strncmp(tree->source->text + at, "<!DOCTYPE", 9) != 0)
        at--;
    fail(tree, at, 9, "a DOCTYPE is not allowed in a model");
}

static void on_text(void *context, const xmlChar *text, int n_bytes)
{
    Tree *tree = ((xmlParserCtxtPtr)context)->_private;
    bool blank = true;
    for (int i = 0; i < n_bytes; i++)
        blank = blank && strchr(" \t\r\n", text[i]) != NULL;
    if (blank || tree->failed || !tree->depth)
        return;
    /* the text is somewhere behind the last tag: step over what else may stand there */
    const char *from = tree->source->text + tree->tag_end, *at = from;
    for (;;)
    {
        at += strspn(at, " \t\r\n");
        const char *close = strncmp(at, "<!--", 4) == 0 ? "-->" : strncmp(at, "<?", 2) == 0 ? "?>" : NULL;
        const char *end = close ? strstr(at, close) : NULL;
        if (!end)
            break;
        at = end + strlen(close);
    }
    fail(tree, (uint32_t)(at - tree->source->text), 1, "text is not expected here: everything is in attributes");
}

/* ---- elements */

/* The value with entities resolved and white space made blanks, as XML 1.0, 3.3.3 asks. */
static const char *resolve(Arena *arena, const char *raw, uint32_t n_bytes)
{
    static const struct
    {
        const char *name;
        char c;
    } entities[] = {{"&lt;", '<'}, {"&gt;", '>'}, {"&amp;", '&'}, {"&quot;", '"'}, {"&apos;", '\''}};
    char *out = arena_alloc(arena, n_bytes + 1u), *to = out;
    const char *end = raw + n_bytes;
    while (raw < end)
    {
        uint32_t value_bytes;
        uint32_t step = raw_step(raw, end, &value_bytes);
        if (*raw == '&' && step > 1 && raw[1] == '#')
        {
            int code = (int)(raw[2] == 'x' ? strtol(raw + 3, NULL, 16) : strtol(raw + 2, NULL, 10));
            to += xmlCopyChar(0, (xmlChar *)to, code);
        }
        else if (*raw == '&' && step > 1)
        {
            for (size_t i = 0; i < sizeof entities / sizeof *entities; i++)
                if (strncmp(raw, entities[i].name, strlen(entities[i].name)) == 0)
                    *to++ = entities[i].c;
        }
        else
            *to++ = strchr("\t\r\n", *raw) ? ' ' : *raw;
        raw += step;
    }
    *to = 0;
    return out;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Reads the start tag at `at` ('<') again, with places. The tag is well-formed: libxml2 has just accepted it. */
static bool scan_tag(Tree *tree, uint32_t at, uint32_t end, XmlElem *e)
{
    const char *text = tree->source->text;
    VEC(XmlAttr) attrs = {0};
    uint32_t p = at + 1;
    e->name_at = p;
    while (p < end && !is_space(text[p]) && text[p] != '/' && text[p] != '>')
        p++;
    e->name_bytes = p - e->name_at;
    for (;;)
    {
        while (p < end && is_space(text[p]))
            p++;
        if (p >= end || text[p] == '/' || text[p] == '>')
            break;
        uint32_t name_at = p;
        while (p < end && !is_space(text[p]) && text[p] != '=')
            p++;
        uint32_t name_bytes = p - name_at;
        while (p < end && (is_space(text[p]) || text[p] == '='))
            p++;
        if (p >= end || (text[p] != '"' && text[p] != '\''))
            return false;
        const char *close = memchr(text + p + 1, text[p], end - p - 1);
        if (!close)
            return false;
        XmlAttr attr = {.name = arena_strndup(tree->arena, text + name_at, name_bytes),
                        .source = tree->source,
                        .name_at = name_at,
                        .value_at = p + 1,
                        .value_bytes = (uint32_t)(close - text) - p - 1};
        attr.value = resolve(tree->arena, text + attr.value_at, attr.value_bytes);
        p = (uint32_t)(close - text) + 1;
        bool is_namespace = strcmp(attr.name, "xmlns") == 0 || strncmp(attr.name, "xmlns:", 6) == 0;
        if (!is_namespace)
            vec_push(tree->arena, &attrs, attr);
    }
    e->attrs = attrs.data;
    e->n_attrs = attrs.len;
    return true;
}

/* Attributes of XML Schema instances (xsi:noNamespaceSchemaLocation) are for editors. */
static void drop_editor_attrs(XmlElem *e, int n_attrs, const xmlChar **attrs)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < e->n_attrs; i++)
    {
        const xmlChar *ns = (int)i < n_attrs ? attrs[i * 5 + 2] : NULL;
        if (!ns || strcmp((const char *)ns, SCHEMA_INSTANCE_NS) != 0)
            e->attrs[kept++] = e->attrs[i];
    }
    e->n_attrs = kept;
}

static void on_start(void *context, const xmlChar *local, const xmlChar *prefix, const xmlChar *ns, int n_namespaces,
                     const xmlChar **namespaces, int n_attrs, int n_defaulted, const xmlChar **attrs)
{
    (void)prefix, (void)n_namespaces, (void)namespaces, (void)n_defaulted;
    Tree *tree = ((xmlParserCtxtPtr)context)->_private;
    if (tree->failed)
        return;
    /* '<' cannot stand in an attribute, so the tag starts at the nearest one behind us */
    uint32_t end = parser_offset(tree), at = end;
    while (at > 0 && tree->source->text[at] != '<')
        at--;
    XmlElem *e = ARENA_NEW(tree->arena, XmlElem);
    e->source = tree->source;
    e->name = arena_strdup(tree->arena, (const char *)local);
    if (!scan_tag(tree, at, end, e) || (int)e->n_attrs != n_attrs)
    {
        fail(tree, at, 1, "cannot read this tag");
        return;
    }
    drop_editor_attrs(e, n_attrs, attrs);
    bool is_xinclude =
        ns && (strcmp((const char *)ns, XINCLUDE_NS) == 0 || strcmp((const char *)ns, XINCLUDE_NS_OLD) == 0);
    if (is_xinclude)
        e->name = arena_printf(tree->arena, "xi:%s", e->name);
    else if (ns)
        fail(tree, e->name_at, e->name_bytes, "<%s> is in the namespace '%s': models use none", e->name,
             (const char *)ns);
    if (tree->depth == XML_MAX_DEPTH)
    {
        fail(tree, e->name_at, e->name_bytes, "elements are nested more than %d deep", XML_MAX_DEPTH);
        return;
    }
    if (!tree->depth)
        tree->root = e;
    else if (tree->last[tree->depth - 1])
        tree->last[tree->depth - 1]->next = e;
    else
        tree->open[tree->depth - 1]->first = e;
    if (tree->depth)
        tree->last[tree->depth - 1] = e;
    tree->open[tree->depth] = e;
    tree->last[tree->depth] = NULL;
    tree->depth++;
    const char *close = strchr(tree->source->text + end, '>');
    tree->tag_end = close ? (uint32_t)(close + 1 - tree->source->text) : end;
}

static void on_end(void *context, const xmlChar *local, const xmlChar *prefix, const xmlChar *ns)
{
    (void)local, (void)prefix, (void)ns;
    Tree *tree = ((xmlParserCtxtPtr)context)->_private;
    if (tree->failed)
        return;
    if (tree->depth)
        tree->depth--;
    tree->tag_end = parser_offset(tree);
}

XmlElem *xml_parse(Arena *arena, Diag *diag, const Source *source)
{
    Tree *tree = ARENA_NEW(arena, Tree);
    tree->arena = arena;
    tree->diag = diag;
    tree->source = source;
    xmlInitParser();
    xmlParserCtxtPtr parser = xmlCreateMemoryParserCtxt(source->text, (int)source->n_bytes);
    if (!parser)
    {
        diag_error(diag, source_span(source, 0, 1), "the XML parser cannot start");
        return NULL;
    }
    xmlCtxtUseOptions(parser, XML_PARSE_NONET);
    memset(parser->sax, 0, sizeof *parser->sax);
    parser->sax->initialized = XML_SAX2_MAGIC;
    parser->sax->startElementNs = on_start;
    parser->sax->endElementNs = on_end;
    parser->sax->characters = on_text;
    parser->sax->cdataBlock = on_text;
    parser->sax->internalSubset = on_doctype;
    parser->sax->serror = on_error;
    parser->_private = tree;
    tree->parser = parser;
    xmlParseDocument(parser);
    bool well_formed = parser->wellFormed;
    xmlDocPtr doc = parser->myDoc;
    parser->myDoc = NULL;
    xmlFreeParserCtxt(parser);
    if (doc)
        xmlFreeDoc(doc);
    if (!tree->failed && (!well_formed || !tree->root))
    {
        diag_error(diag, source_span(source, 0, 1), "not well-formed XML");
        return NULL;
    }
    return tree->failed ? NULL : tree->root;
}
