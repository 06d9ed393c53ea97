/* The IR: modules of globals and functions; functions of ops in order; values in SSA form.
 *
 * Handles are uint32_t ids (0 = none): printable, comparable, safe across growth. Everything lives in
 * the module's arena; nothing is freed before the module. Ops are in program order, which is a
 * topological order and, for ops with the EFFECT trait, the order of effects.
 *
 * A module holds
 *   files      paths of the XML files that spans refer to (span.file is index + 1)
 *   globals    named memory that outlives a function: params, optimizer state, inputs, outputs
 *   functions  kind STEP ("train", "eval": read and write globals with get/set), or
 *              kind KERNEL (arg ... output: what one fused kernel computes; run through `call`)
 *
 * Shapes are static. Elementwise ops want equal shapes: broadcasting is an op. */
#ifndef PTC_IR_MODULE_H
#define PTC_IR_MODULE_H

#include "base/arena.h"
#include "base/diag.h"

#include <stdbool.h>
#include <stdint.h>

enum
{
    IR_MAX_RANK = 8,
    IR_MAX_RESULTS = 64, /* of one op */
    IR_MANY = 1 << 16    /* "any number" in an operand or result count */
};
/* Elements of one tensor: small enough that sizes in bytes never overflow. */
#define IR_MAX_ELEMS ((int64_t)1 << 48)

typedef uint32_t IrValue;
typedef uint32_t IrOp;
typedef uint32_t IrFunc;
typedef uint32_t IrGlobal;

typedef enum
{
#define DTYPE(name, code, size_bytes, is_float) DT_##code,
#include "ir/dtypes.def"
#undef DTYPE
    DT_COUNT
} DType;

const char *dtype_name(DType dtype);
int64_t dtype_size_bytes(DType dtype);
bool dtype_is_float(DType dtype);
/* False when no dtype has that name. */
bool dtype_by_name(const char *name, DType *out_dtype);

/* ---- types */

typedef struct
{
    uint8_t dtype; /* DType */
    uint8_t rank;  /* 0..IR_MAX_RANK; a scalar has rank 0 */
    int64_t dims[IR_MAX_RANK];
} IrType;

IrType ir_type(DType dtype, int rank, const int64_t *dims);
IrType ir_type_scalar(DType dtype);
IrType ir_type_with_dtype(IrType type, DType dtype);
bool ir_type_equal(const IrType *a, const IrType *b);
bool ir_type_same_shape(const IrType *a, const IrType *b);
int64_t ir_type_n_elems(const IrType *type);
int64_t ir_type_size_bytes(const IrType *type);
/* "f32[3x4]", "i32[]" */
const char *ir_type_text(Arena *arena, const IrType *type);

/* ---- ops */

typedef enum
{
    IR_INVALID,
#define OP(name, ...) IR_##name,
#include "ir/ops.def"
#undef OP
    IR_CODE_COUNT
} IrCode;

typedef enum
{
    IR_TRAIT_EWISE = 1 << 0,
    IR_TRAIT_FLOAT = 1 << 1,
    IR_TRAIT_COMMUTES = 1 << 2,
    IR_TRAIT_VIEW = 1 << 3,
    IR_TRAIT_REDUCE = 1 << 4,
    IR_TRAIT_LEAF = 1 << 5,
    IR_TRAIT_EFFECT = 1 << 6,
    IR_TRAIT_COSTLY = 1 << 7,
    IR_TRAIT_TEMPLATE = 1 << 8,
    IR_TRAIT_LIBRARY = 1 << 9,
    IR_TRAIT_COMPOSITE = 1 << 10,
    IR_TRAIT_RANDOM = 1 << 11
} IrTrait;

typedef enum
{
    IR_KIND_INT,
    IR_KIND_FLOAT,
    IR_KIND_BOOL,
    IR_KIND_STR,
    IR_KIND_INTS
} IrAttrKind;

typedef enum
{
    IR_ATTR_NONE,
#define ATTR(key, kind) IR_ATTR_##key,
#include "ir/attrs.def"
#undef ATTR
    IR_ATTR_COUNT
} IrAttrKey;

typedef struct
{
    IrAttrKey key;
    uint32_t n;          /* INTS: count */
    int64_t i;           /* INT, BOOL */
    double f;            /* FLOAT */
    const char *s;       /* STR */
    const int64_t *ints; /* INTS */
} IrAttr;

/* Attributes under construction; the strings and lists are copied when an op is made. */
IrAttr ir_attr_int(IrAttrKey key, int64_t value);
IrAttr ir_attr_float(IrAttrKey key, double value);
IrAttr ir_attr_bool(IrAttrKey key, bool value);
IrAttr ir_attr_str(IrAttrKey key, const char *value);
IrAttr ir_attr_ints(IrAttrKey key, const int64_t *values, uint32_t n);
IrAttrKind ir_attr_kind(IrAttrKey key);
const char *ir_attr_name(IrAttrKey key);
IrAttrKey ir_attr_by_name(const char *name); /* IR_ATTR_NONE when unknown */

/* A list of attributes, kept in key order so that text is canonical. */
typedef struct
{
    IrAttr *data;
    uint32_t len;
} IrAttrs;

const IrAttr *ir_attrs_find(const IrAttrs *attrs, IrAttrKey key); /* NULL when absent */
int64_t ir_attrs_int(const IrAttrs *attrs, IrAttrKey key, int64_t absent);
double ir_attrs_float(const IrAttrs *attrs, IrAttrKey key, double absent);
bool ir_attrs_bool(const IrAttrs *attrs, IrAttrKey key);       /* absent: false */
const char *ir_attrs_str(const IrAttrs *attrs, IrAttrKey key); /* absent: NULL */
bool ir_attrs_equal(const IrAttrs *a, const IrAttrs *b);
/* Copies into the arena, sorted by key; a false BOOL is dropped (absent means false). */
IrAttrs ir_attrs_copy(Arena *arena, const IrAttr *data, uint32_t n);
/* Adds or replaces one. */
void ir_attrs_put(Arena *arena, IrAttrs *attrs, IrAttr attr);
void ir_attrs_remove(IrAttrs *attrs, IrAttrKey key);

/* A row of ops.def, as data. */
typedef struct
{
    const char *name;
    uint32_t min_operands, max_operands;
    uint32_t n_results; /* IR_MANY: any */
    uint32_t traits;
    const IrAttrKey *required; /* ends with IR_ATTR_NONE */
    const IrAttrKey *optional; /* ends with IR_ATTR_NONE */
    const char *example_types; /* NULL: none */
    const char *example_attrs;
} IrOpInfo;

const IrOpInfo *ir_op_info(IrCode code);
IrCode ir_code_by_name(const char *name); /* IR_INVALID when unknown */
static inline bool ir_code_has(IrCode code, uint32_t traits)
{
    return (ir_op_info(code)->traits & traits) != 0;
}

/* Which part of a training step an op belongs to. Fusion never mixes OPTIMIZER with the others. */
typedef enum
{
    IR_PHASE_FORWARD,
    IR_PHASE_BACKWARD,
    IR_PHASE_OPTIMIZER
} IrPhase;

typedef struct
{
    IrCode code;
    uint32_t n_operands;
    uint32_t n_results;
    IrValue *operands;
    IrValue *results;
    IrAttrs attrs;
    Span span;     /* where in the XML; n_cols is not kept */
    uint32_t unit; /* pipeline unit, counts from 1; 0 = none */
    IrPhase phase;
    IrFunc func; /* 0 once removed */
    IrOp prev, next;
} IrOpData;

typedef struct
{
    IrType type;
    IrOp def;
    uint32_t result; /* which result of def */
} IrValueData;

typedef enum
{
    IR_FUNC_STEP,
    IR_FUNC_KERNEL
} IrFuncKind;

typedef struct
{
    IrFuncKind kind;
    const char *name;
    IrAttrs attrs;
    IrOp first, last; /* 0 when empty */
    bool removed;
} IrFuncData;

typedef enum
{
    IR_GLOBAL_PARAM,  /* a weight; persistent, in checkpoints */
    IR_GLOBAL_STATE,  /* optimizer state (attr of = its param); persistent, in checkpoints */
    IR_GLOBAL_INPUT,  /* filled by the runtime before a step: batch fields "batch.images", "batch.mask" f32[B],
                         "batch.sample" i32[B] (position in the global batch), scalars "lr" f32[], "step" i32[]
                         (counts from 1), "rng.key" i32[2] (seed, step) */
    IR_GLOBAL_OUTPUT, /* read by the runtime after a step: "loss", "loss.sum", "loss.weight",
                         those of metrics (metrics.def), "grad_norm" */
    IR_GLOBAL_COPY    /* a param in bf16 (attr of = the param): what sets the param sets it, too, and @refresh makes it
                         from a param that was written from outside; not in checkpoints. Several may lie side by
                         side in one without `of` (attrs within, at), which is read in their place */
} IrGlobalKind;

/* The step function that makes all copies. */
#define IR_REFRESH "refresh"

typedef struct
{
    IrGlobalKind kind;
    const char *name;
    IrType type;
    IrAttrs attrs;
    Span span;
} IrGlobalData;

typedef struct
{
    Arena *arena;
    const char *name;
    VEC(const char *) files;
    VEC(IrGlobalData) globals; /* [0] unused: ids start at 1 */
    VEC(IrFuncData) funcs;     /* [0] unused */
    VEC(IrOpData) ops;         /* [0] unused */
    VEC(IrValueData) values;   /* [0] unused */
} IrModule;

/* An empty module in the arena. */
IrModule *ir_module_create(Arena *arena, const char *name);

/* Lent pointers: valid until the next creation of such an object. */
static inline IrOpData *ir_op(const IrModule *m, IrOp op)
{
    return &m->ops.data[op];
}
static inline IrValueData *ir_value(const IrModule *m, IrValue value)
{
    return &m->values.data[value];
}
static inline IrFuncData *ir_func(const IrModule *m, IrFunc func)
{
    return &m->funcs.data[func];
}
static inline IrGlobalData *ir_global(const IrModule *m, IrGlobal global)
{
    return &m->globals.data[global];
}
static inline const IrType *ir_value_type(const IrModule *m, IrValue value)
{
    return &m->values.data[value].type;
}
/* The code of the op that defines the value. */
static inline IrCode ir_value_code(const IrModule *m, IrValue value)
{
    return m->ops.data[m->values.data[value].def].code;
}

/* Names are unique per kind of object; adding one that exists is a BUG, so look first. Strings are copied. */
IrGlobal ir_global_add(IrModule *m, IrGlobalKind kind, const char *name, IrType type, const IrAttr *attrs,
                       uint32_t n_attrs, Span span);
IrGlobal ir_global_find(const IrModule *m, const char *name); /* 0 when absent */
/* Where a copy lies in the one that it is within, in elements. */
typedef struct
{
    IrGlobal whole;
    int64_t start;
    int64_t row, pitch; /* from one row of `row` elements to the next; pitch 0: it is one run */
} IrWindow;
/* False when the global is not within another. */
bool ir_global_window(const IrModule *m, IrGlobal global, IrWindow *out_window);
IrFunc ir_func_add(IrModule *m, IrFuncKind kind, const char *name);
IrFunc ir_func_find(const IrModule *m, const char *name); /* 0 when absent */
void ir_func_remove(IrModule *m, IrFunc func);

/* for (IrOp op = ir_func(m, f)->first; op; op = ir_op(m, op)->next) */
#define IR_FOR_OPS(m, func, op) for (IrOp op = ir_func((m), (func))->first; op; op = ir_op((m), op)->next)
#define IR_FOR_FUNCS(m, func)                                                                                          \
    for (IrFunc func = 1; func < (m)->funcs.len; func++)                                                               \
        if (!ir_func((m), func)->removed)

/* Makes an op with the given result types, before `before` (0: at the end of func). Nothing is checked
 * but counts: use ir/builder.h unless the types are known to be right (parser, clones). */
IrOp ir_op_insert(IrModule *m, IrFunc func, IrOp before, IrCode code, const IrValue *operands, uint32_t n_operands,
                  const IrType *result_types, uint32_t n_results, const IrAttr *attrs, uint32_t n_attrs);
/* Unlinks an op. Its results must have no users left (not checked here; the verifier finds it). */
void ir_op_remove(IrModule *m, IrOp op);
/* Moves an op before another of the same function (0: to the end). */
void ir_op_move(IrModule *m, IrOp op, IrOp before);
static inline IrValue ir_op_result(const IrModule *m, IrOp op, uint32_t i)
{
    return ir_op(m, op)->results[i];
}

/* In every op of func: operand v becomes map[v] when map[v] != 0 (followed transitively).
 * map has m->values.len entries (those beyond n_map count as 0). */
void ir_func_replace_values(IrModule *m, IrFunc func, const IrValue *map, uint32_t n_map);

/* Users of every value of func, as of now (a snapshot: rebuild after changes). */
typedef struct
{
    uint32_t n_values;
    uint32_t *first; /* n_values + 1 offsets into users */
    IrOp *users;     /* in program order; an op that uses a value twice is there twice */
} IrUses;
IrUses ir_uses_build(Arena *scratch, const IrModule *m, IrFunc func);
static inline uint32_t ir_uses_count(const IrUses *uses, IrValue value)
{
    return uses->first[value + 1] - uses->first[value];
}

/* A copy of the whole module in another arena (passes that must not touch the original). */
IrModule *ir_module_clone(Arena *arena, const IrModule *m);
/* A copy of one function under a new name, in the same module. */
IrFunc ir_func_clone(IrModule *m, IrFunc func, const char *name);
/* The same in another module, which must have the globals and functions that it names. */
IrFunc ir_func_copy(IrModule *to, const IrModule *from, IrFunc func, const char *name);

#endif
