/* What the files of pass epilogue share: epilogue.c (bias, residual, activation) and epilogue_grad.c (what a training
 * step has besides). */
#ifndef PTC_PASSES_EPILOGUE_H
#define PTC_PASSES_EPILOGUE_H

#include "ir/builder.h"
#include "passes/manager.h"

typedef struct
{
    IrModule *m;
    IrFunc func;
    Arena *scratch;
    IrUses uses;
    IrValue *map; /* by old value: replaced by */
    uint32_t n_values;
} Epilogue;

/* epilogue.c. Values may be old ones or new ones. */
const IrOpData *epilogue_def(const Epilogue *e, IrValue value);
/* What stands for a value by now. */
IrValue epilogue_current(const Epilogue *e, IrValue value);
/* bf16 to f32. */
bool epilogue_is_widening(const Epilogue *e, const IrOpData *op);
/* f32 to bf16. */
bool epilogue_is_narrowing(const Epilogue *e, const IrOpData *op);
/* The matmul that gives value, through reshapes and the cast of a bf16 result to f32 that nobody else reads; value
 * itself may have any number of readers. 0 when there is none. */
IrOp epilogue_matmul_of(const Epilogue *e, IrValue value);
/* A [N] vector that value repeats along its leading axes; 0 when it is no such thing. */
IrValue epilogue_bias_of(const Epilogue *e, IrValue value, int64_t n);
/* A matmul whose result is the product, perhaps with a bias. */
bool epilogue_is_plain(const Epilogue *e, IrOp matmul);
/* A new matmul before an op: the old one's operands and attributes and more of them (operand 0: none). Its type is the
 * old one's. */
IrOp epilogue_build(Epilogue *e, IrOp before, IrOp matmul, const IrAttr *more, uint32_t n_more, IrValue operand);
/* Maps an old f32 value to the new result that it is, in its shape. */
void epilogue_map(Epilogue *e, IrBuilder *b, IrValue value, IrValue result);

/* epilogue_grad.c. y = act(x) of the forward pass, of which the backward pass reads x, too: the activation and its
 * gradient become parts of the matmuls before them. False where that saves nothing. */
bool epilogue_try_training(Epilogue *e, IrValue y, IrValue x, const char *act);
/* At the end: sums of rows of what a matmul reads become results of that matmul. */
void epilogue_take_sums(Epilogue *e);

#endif
