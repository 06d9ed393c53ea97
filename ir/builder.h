/* Builds ops with inferred and checked types. The one door through which passes and the frontend make ops.
 *
 * Two kinds of functions: ir_try_* says what is wrong in words (the frontend makes a diagnostic of it);
 * ir_build_* is for passes, where a mismatch is our BUG. */
#ifndef PTC_IR_BUILDER_H
#define PTC_IR_BUILDER_H

#include "ir/module.h"

typedef struct
{
    IrModule *m;
    IrFunc func;
    IrOp before; /* insertion point; 0 = end of func */
    Span span;   /* given to new ops, like unit and phase */
    uint32_t unit;
    IrPhase phase;
} IrBuilder;

/* At the end of func. */
IrBuilder ir_builder(IrModule *m, IrFunc func);
/* Before op, with op's span, unit and phase. */
IrBuilder ir_builder_before(IrModule *m, IrOp op);

/* Result types by the op's SHAPE rule. `given` is the result type for ops whose rule is given_* (const,
 * iota, reshape, broadcast, slice, cast, random, get, arg), NULL otherwise. out_types has room for IR_MAX_RESULTS. On
 * failure returns false and *out_why is a sentence in the arena ("operand 2 is f32[3x4], expected f32[3x5]"). */
bool ir_infer(Arena *arena, const IrModule *m, IrCode code, const IrValue *operands, uint32_t n_operands,
              const IrAttrs *attrs, const IrType *given, IrType *out_types, uint32_t *out_n_types,
              const char **out_why);

/* Returns the op, or 0 with *out_why set. */
IrOp ir_try_op(IrBuilder *b, IrCode code, const IrType *given, const IrValue *operands, uint32_t n_operands,
               const IrAttr *attrs, uint32_t n_attrs, const char **out_why);
/* First result (0 for ops without). */
IrValue ir_build_op(IrBuilder *b, IrCode code, const IrType *given, const IrValue *operands, uint32_t n_operands,
                    const IrAttr *attrs, uint32_t n_attrs);

/* Shorthands. */
IrValue ir_build1(IrBuilder *b, IrCode code, IrValue a);
IrValue ir_build2(IrBuilder *b, IrCode code, IrValue x, IrValue y);
IrValue ir_build3(IrBuilder *b, IrCode code, IrValue x, IrValue y, IrValue z);
IrValue ir_build_const(IrBuilder *b, IrType type, double value);
IrValue ir_build_cast(IrBuilder *b, IrValue a, DType dtype);
IrValue ir_build_get(IrBuilder *b, const char *global);
void ir_build_set(IrBuilder *b, const char *global, IrValue value);
IrValue ir_build_reshape(IrBuilder *b, IrValue a, IrType type);
IrValue ir_build_transpose(IrBuilder *b, IrValue a, const int64_t *perm);
/* dims[i]: result axis of operand axis i. */
IrValue ir_build_broadcast(IrBuilder *b, IrValue a, IrType type, const int64_t *dims);
IrValue ir_build_reduce(IrBuilder *b, IrCode code, IrValue a, const int64_t *axes, uint32_t n_axes);
/* Over the last axis. */
IrValue ir_build_reduce_last(IrBuilder *b, IrCode code, IrValue a);
/* The reduced value (last axis gone) spread over the last axis of `like` again. */
IrValue ir_build_spread_last(IrBuilder *b, IrValue a, const IrType *like);
/* Right-aligned broadcasting as in NumPy: an axis of 1 or a missing leading axis is stretched. Returns 0 when
 * the shapes do not fit. The value itself when it has that shape already. */
IrValue ir_build_stretch(IrBuilder *b, IrValue a, const IrType *to);
/* The common shape of right-aligned broadcasting; false when there is none. */
bool ir_type_stretch(const IrType *a, const IrType *b, IrType *out_type);
/* Clones op (any code) at the insertion point with other operands; keeps span, unit, attributes, result types;
 * phase from the builder. */
IrOp ir_build_clone(IrBuilder *b, IrOp op, const IrValue *operands);

#endif
