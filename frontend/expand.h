/* Inside the expander: scopes, attributes after substitution, operands, results. A handler expand_<element> per row of
 * elements.def turns one element into ops at the builder. A value that could not be made is poison (IrValue 0): its
 * users say nothing more. */
#ifndef PTC_FRONTEND_EXPAND_H
#define PTC_FRONTEND_EXPAND_H

#include "frontend/frontend.h"
#include "frontend/xml.h"
#include "ir/builder.h"

typedef enum
{
    SYM_NUMBER, /* a whole number: a dimension, a parameter, a round's index */
    SYM_REAL,   /* a real number: a dimension, a parameter */
    SYM_TEXT,   /* a parameter that is no number; a dimension that is true or false */
    SYM_VALUE,  /* a tensor */
    SYM_INPUT   /* a tensor read from a global: once per unit, where it is first used there */
} SymbolKind;

typedef struct Symbol Symbol;
struct Symbol
{
    const char *name;
    SymbolKind kind;
    bool is_dim; /* NUMBER: an axis of that name must have this extent */
    int64_t number;
    double real;        /* REAL */
    const char *text;   /* TEXT, REAL */
    IrValue value;      /* VALUE; INPUT: the last one read */
    uint32_t unit;      /* INPUT: where that was */
    const char *global; /* INPUT */
    Span span;          /* of the definition */
    Symbol *next;
};

/* A body: of the model, of a block in use, of one round of a repeat. */
typedef struct Frame Frame;
struct Frame
{
    Frame *up;     /* where a name is looked for next; a block sees only the root's numbers */
    bool is_block; /* body of a <define> */
    Symbol **buckets;
    uint32_t n_buckets;
    const char *prefix;    /* of param names: "layers.0.attn." */
    const char *hf_prefix; /* of their names in pretrained weights: "encoder.layer.0.attention." */
    Frame *caller;         /* for the trail in messages; NULL at the root */
    Span site;             /* of the <use> or <repeat> */
    const char *block;     /* NULL: a repeat */
    int64_t round;
};

typedef struct
{
    const XmlElem *e;
    const char *name;
    bool active; /* being expanded: using it again is a recursion */
} Define;

typedef struct
{
    Arena *arena;
    Diag *diag;
    Job *job;
    IrModule *m;
    IrBuilder b;
    Frame *root;
    Frame *frame;
    bool has_prev;
    IrValue prev; /* the value of the element before; 0: poison */
    VEC(Define) defines;
    uint32_t n_units;
    bool in_unit;
    VEC(int64_t) layers; /* the first unit of each round of an outermost repeat that has units of its own */
    int64_t layers_end;  /* the first unit behind the last of them */
    bool in_layer;
    int64_t n_streams;
    uint32_t n_nested;           /* elements being expanded */
    uint64_t n_steps, max_steps; /* elements expanded and rounds begun */
    uint64_t max_ops;
    uint32_t n_params, n_inputs;
    bool with_outputs;     /* FrontendOptions */
    bool gave_up;          /* a limit was hit */
    bool sharing;          /* in a later round of a <repeat share>: a param that is there already is meant */
    struct json_t *config; /* the config.json that dims have their values from; NULL: none */
    Span weights_span;     /* of what names it; of labels= in <hf> */
    Span labels_span;
    VEC(HfValue) hf_values;
    VEC(const char *) outputs; /* names of <output> */
    Symbol mask, key, sample;  /* the inputs that losses and random ops read */
    const XmlElem *loss;
    VEC(JobMetric) metrics;
    VEC(uint64_t) told; /* hashes of errors told: one place says a thing once */
} Expander;

/* ---- errors: with the trail of blocks and rounds; suggestion may be NULL */
__attribute__((format(printf, 4, 5))) void expand_error(Expander *x, Span span, const char *suggestion,
                                                        const char *format, ...);

/* ---- scopes (scope.c) */
Frame *frame_open(Expander *x, Frame *up, bool is_block, const char *prefix, const char *hf_prefix);
/* hf_prefix of what is inside an element: its attribute hf, else own (NULL: no name) behind the current one. */
bool frame_hf_prefix(Expander *x, const XmlElem *e, const char *own, const char **out_prefix);
/* A value or a number (or text) in the frame's own body, not further. */
Symbol *frame_find_here(const Frame *frame, const char *name, bool values);
/* As the current body sees it; NULL when unknown. */
Symbol *frame_find(const Expander *x, const char *name, bool values);
/* Tells when the name is taken in this body and returns NULL then. */
Symbol *frame_add(Expander *x, const char *name, SymbolKind kind, Span span);
/* The extent that the current body gives to an axis name; false when it gives none. */
bool frame_dim(const Expander *x, const char *name, int64_t *out_extent);
/* The nearest visible name of values (or of numbers); NULL when none is near. */
const char *frame_nearest(Expander *x, const char *name, bool values);
/* A number or a text in the frame of x: which of them, the text says. Tells when the name is taken. */
bool frame_add_text(Expander *x, const char *name, const char *text, Span span);
/* The symbol's tensor at this point; 0 when poison. */
IrValue symbol_value(Expander *x, Symbol *symbol);

/* ---- attributes (attrs.c): after substitution and a check of the kind. False after an error. Absent attributes
 * have the table's default; without one *out_text is NULL. */
bool attr_text(Expander *x, const XmlElem *e, const char *name, const char **out_text);
bool attr_int(Expander *x, const XmlElem *e, const char *name, int64_t low, int64_t high, int64_t *out_value);
bool attr_float(Expander *x, const XmlElem *e, const char *name, double low, double high, double *out_value);
bool attr_bool(Expander *x, const XmlElem *e, const char *name, bool *out_value);
/* A name; NULL when absent. */
bool attr_name(Expander *x, const XmlElem *e, const char *name, const char **out_name);
/* A shape as a type of dtype. `_` is allowed when like is not NULL, and means its extent. */
bool attr_shape(Expander *x, const XmlElem *e, const char *name, DType dtype, const IrType *like, IrType *out_type);
/* {expressions} in any text; attr tells the place, base is the text's offset in its value. */
bool substitute(Expander *x, const XmlAttr *attr, const char *text, uint32_t base, const char **out_text);
/* The place of n bytes from offset of the substituted text: the whole value when anything was substituted. */
Span attr_place(const XmlAttr *attr, uint32_t offset, uint32_t n);
/* The attribute's value, or the element when the attribute is absent. */
Span attr_or_elem_span(const XmlElem *e, const char *name);
/* A test= expression. */
bool attr_test(Expander *x, const XmlElem *e, const char *name, bool *out_holds);

/* ---- operands and results (expand.c) */
/* The values of in=; one too few, and the value before comes first. False after an error or with poison: the result
 * is poison then too (set by the caller through expand_result(x, e, 0)). */
bool expand_operands(Expander *x, const XmlElem *e, uint32_t min, uint32_t max, IrValue *out_values, uint32_t *out_n);
/* One value by an attribute's name; absent: the value before. */
bool expand_operand(Expander *x, const XmlElem *e, const char *attr, IrValue *out_value);
/* The named value; tells when it is unknown. */
bool expand_value(Expander *x, Span span, const char *name, IrValue *out_value);
/* The element's value is made: checks shape=, names it, and it is the value before from now on. 0 is poison. */
void expand_result(Expander *x, const XmlElem *e, IrValue value);
/* ir_try_op with the failure told at the element. 0 then. */
IrValue expand_op(Expander *x, const XmlElem *e, IrCode code, const IrType *given, const IrValue *operands, uint32_t n,
                  const IrAttr *attrs, uint32_t n_attrs);
/* One element; the elements of a body. Both in the current frame. */
void expand_element(Expander *x, const XmlElem *e);
void expand_body(Expander *x, const XmlElem *first);
/* Goes into a frame; the caller comes back with x->frame = what it was. */
void expand_enter(Expander *x, Frame *frame, Span site, const char *block, int64_t round);
/* The random operands of dropout: key and sample. */
void expand_random_operands(Expander *x, IrValue *out_key, IrValue *out_sample, int64_t *out_stream);
/* The first index of the largest along an axis, i32. */
IrValue expand_argmax(Expander *x, const XmlElem *e, IrValue value, int64_t axis);
const char *expand_shape_text(Arena *arena, const IrType *type);

/* ---- the job (job.c): called before the graph, in this order */
void job_dims(Expander *x, const XmlElem *root);
void job_cluster(Expander *x, const XmlElem *root);
/* Once the layers are known (freeze.c). */
void job_freeze(Expander *x, const XmlElem *root);
void job_cache(Expander *x, const XmlElem *root);
/* micro_batches: FrontendOptions. */
void job_train(Expander *x, const XmlElem *root, int64_t micro_batches);
void job_data(Expander *x, const XmlElem *root, int64_t length);
/* Buckets of lengths (job_buckets.c); length: FrontendOptions. The <dim> is given its value before anything is read. */
void job_override_length(Arena *arena, XmlElem *root, int64_t length);
void job_buckets(Expander *x, const XmlElem *data, int64_t length);
/* The attributes of a field whose part is an image (job_image.c); and once its input is known. */
void job_image(Expander *x, const XmlElem *e, DataField *field);
void job_image_check(Expander *x, const DataField *field);
/* The one child of that kind; NULL when there is none. */
const XmlElem *job_sole_child(Expander *x, const XmlElem *root, ElementId id);
/* The child of that kind that must be there once; NULL (and told) when there is none. */
const XmlElem *job_only_child(Expander *x, const XmlElem *root, ElementId id);
/* Once the params are known (groups.c): layers, <group>s. */
void job_groups(Expander *x, const XmlElem *root);
/* Once the inputs are known. */
void job_check(Expander *x, const XmlElem *root);
void job_synthetic(Expander *x, int64_t n_samples); /* job_synthetic.c; fields are checked */
/* --set: changes attribute values in the tree. */
void job_override(Arena *arena, Diag *diag, XmlElem *root, const FrontendOptions *options);

/* ---- outputs (outputs.c) */
/* The inputs that every job has. */
void outputs_prepare(Expander *x);
/* Sets the output `name`, which must be free. */
void outputs_set(Expander *x, const XmlElem *e, const char *name, IrValue value);
/* One value [b ...] by an attribute's name; absent: the value before. 0 after an error. */
IrValue outputs_operand(Expander *x, const XmlElem *e, const char *attr);
/* f32: the mask of the batch over the value's shape, times weight= if given; 0 after an error. */
IrValue outputs_weight(Expander *x, const XmlElem *e, IrValue value);
/* Sets NAME.sum and NAME.weight, f32[]. False after an error or with value 0. */
bool outputs_mean(Expander *x, const XmlElem *e, const char *name, IrValue value, IrValue *out_sum,
                  IrValue *out_weight);

/* ---- handlers */
#define ELEMENT(id, ...) void expand_##id(Expander *x, const XmlElem *e);
#define ATTRIBUTE(...)
#define VALUE_ATTRIBUTE(...)
#include "frontend/elements.def"
#undef ELEMENT
#undef ATTRIBUTE
#undef VALUE_ATTRIBUTE

#endif
