/* Composites written as primitives. decompose and autodiff build from the same functions, so that CSE merges what the
 * backward pass computes again (means, logsumexp, dropout masks) with the forward's.
 *
 * All work in f32: bf16 operands are cast on entry; callers cast results back where the op's type asks for it. */
#ifndef PTC_PASSES_COMPOSITES_H
#define PTC_PASSES_COMPOSITES_H

#include "ir/builder.h"

/* Over the last axis, which goes away. */
IrValue composite_mean_last(IrBuilder *b, IrValue x);
IrValue composite_logsumexp_last(IrBuilder *b, IrValue x);

IrValue composite_softmax(IrBuilder *b, IrValue x);

/* x normalised over its last axis: (x - mean) * rstd, or x * rstd without centring (RMS norm). */
typedef struct
{
    IrValue rstd;       /* 1 / sqrt(variance + eps), the last axis gone */
    IrValue normalised; /* of x's shape */
} CompositeNorm;
CompositeNorm composite_norm(IrBuilder *b, IrValue x, double eps, bool centred);

/* 0 where dropped, 1 / (1 - p) elsewhere: f32 of the given shape. */
IrValue composite_dropout_factor(IrBuilder *b, const IrType *shape, IrValue key, IrValue sample, double p,
                                 int64_t stream);

/* bool of the logits' shape: class i is the label. All false for a label out of range. */
IrValue composite_is_label(IrBuilder *b, IrValue labels, const IrType *logits);
IrValue composite_cross_entropy(IrBuilder *b, IrValue logits, IrValue labels);

/* A vector over the last axis, repeated over the leading axes of like. */
IrValue composite_rows(IrBuilder *b, IrValue vector, const IrType *like);
/* The sum over all axes but the last. */
IrValue composite_sum_rows(IrBuilder *b, IrValue x);
/* The sum of all elements: a scalar. */
IrValue composite_sum_all(IrBuilder *b, IrValue x);

/* An attention op as einsum, add, select, softmax, dropout, einsum: the form whose bias can be differentiated.
 * out_values: the result and the logsumexp of the scores. */
void composite_attention(IrBuilder *b, IrOp attention, IrValue out_values[2]);

#endif
